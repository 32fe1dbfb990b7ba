//! Descriptions of layers, losses and optimisers: dictionaries to the network's own types.

use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::kernels::activation::Activation;
use crate::kernels::elastic::Elastic;
use crate::kernels::erase::Paint;
use crate::kernels::loss::Loss;
use crate::kernels::shape::Padding;
use crate::kernels::warp::{FillMode, Interpolation};
use crate::network::{Averaging, Bounds, EraseSpec, LayerKind, PoolSpec, Rule, WarpSpec};

/// The parameter of that name.
fn get<'py, T: for<'a> FromPyObject<'a, 'py>>(
    parameters: &Bound<'py, PyDict>,
    name: &str,
) -> PyResult<T> {
    let value = parameters.get_item(name)?.ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
    value.extract().map_err(|error: T::Error| {
        let error: PyErr = error.into();
        PyValueError::new_err(format!("{name}: {error}"))
    })
}

fn unknown(what: &str, name: &str) -> PyErr {
    PyValueError::new_err(format!("expected a known {what}, got {name:?}"))
}

fn activation(parameters: &Bound<'_, PyDict>) -> PyResult<Activation> {
    let name: String = get(parameters, "activation")?;
    Activation::from_name(&name).ok_or_else(|| unknown("activation", &name))
}

fn padding(parameters: &Bound<'_, PyDict>) -> PyResult<Padding> {
    let name: String = get(parameters, "padding")?;
    match name.as_str() {
        "valid" => Ok(Padding::Valid),
        "same" => Ok(Padding::Same),
        _ => Err(unknown("padding", &name)),
    }
}

fn pool(p: &Bound<'_, PyDict>) -> PyResult<PoolSpec> {
    Ok(PoolSpec { window: get(p, "pool_size")?, strides: get(p, "strides")?, padding: padding(p)? })
}

fn fill_mode(p: &Bound<'_, PyDict>) -> PyResult<FillMode> {
    let name: String = get(p, "fill_mode")?;
    match name.as_str() {
        "constant" => Ok(FillMode::Constant(get(p, "fill_value")?)),
        "nearest" => Ok(FillMode::Nearest),
        "reflect" => Ok(FillMode::Reflect),
        "wrap" => Ok(FillMode::Wrap),
        _ => Err(unknown("fill_mode", &name)),
    }
}

fn interpolation(p: &Bound<'_, PyDict>) -> PyResult<Interpolation> {
    let name: String = get(p, "interpolation")?;
    match name.as_str() {
        "nearest" => Ok(Interpolation::Nearest),
        "bilinear" => Ok(Interpolation::Bilinear),
        _ => Err(unknown("interpolation", &name)),
    }
}

/// A map of coordinates that changes nothing.
fn still(seed: Option<u64>) -> WarpSpec {
    let none = (0.0, 0.0);
    WarpSpec {
        rotation: none,
        translation: [none; 2],
        zoom: (none, None),
        shear: none,
        flip: [false; 2],
        elastic: None,
        fill: FillMode::Nearest,
        interpolation: Interpolation::Nearest,
        seed,
    }
}

/// What most maps of coordinates have.
fn warp(p: &Bound<'_, PyDict>) -> PyResult<WarpSpec> {
    let (fill, interpolation) = (fill_mode(p)?, interpolation(p)?);
    Ok(WarpSpec { fill, interpolation, ..still(get(p, "seed")?) })
}

/// A number, several, or noise as large as the largest value.
fn paint(p: &Bound<'_, PyDict>, value_range: Bounds) -> PyResult<Paint> {
    if let Ok(colour) = get(p, "fill_value") {
        return Ok(Paint::Colour(colour));
    }
    let value: Option<f64> = get(p, "fill_value")?;
    Ok(value.map_or(Paint::Noise(value_range.1), Paint::Grey))
}

/// A layer by the name of its kind.
pub fn layer(kind: &str, p: &Bound<'_, PyDict>) -> PyResult<LayerKind> {
    Ok(match kind {
        "conv2d" => LayerKind::Conv {
            filters: get(p, "filters")?,
            window: get(p, "kernel_size")?,
            strides: get(p, "strides")?,
            padding: padding(p)?,
            use_bias: get(p, "use_bias")?,
            activation: activation(p)?,
        },
        "max_pooling2d" => LayerKind::MaxPool(pool(p)?),
        "average_pooling2d" => LayerKind::AveragePool(pool(p)?),
        "global_average_pooling2d" => {
            LayerKind::GlobalAveragePool { keepdims: get(p, "keepdims")? }
        }
        "flatten" => LayerKind::Flatten,
        "dense" => LayerKind::Dense {
            units: get(p, "units")?,
            use_bias: get(p, "use_bias")?,
            activation: activation(p)?,
        },
        "activation" => LayerKind::Activation(activation(p)?),
        "relu" => LayerKind::Activation(Activation::Relu {
            negative_slope: get(p, "negative_slope")?,
            max_value: get(p, "max_value")?,
        }),
        "dropout" => LayerKind::Dropout { rate: get(p, "rate")?, seed: get(p, "seed")? },
        "batch_normalization" => LayerKind::BatchNorm {
            momentum: get(p, "momentum")?,
            epsilon: get(p, "epsilon")?,
            center: get(p, "center")?,
            scale: get(p, "scale")?,
        },
        "rescaling" => LayerKind::Rescale { scale: get(p, "scale")?, offset: get(p, "offset")? },
        "random_translation" => LayerKind::Warp(WarpSpec {
            translation: [get(p, "height_factor")?, get(p, "width_factor")?],
            ..warp(p)?
        }),
        "random_flip" => {
            let mode: String = get(p, "mode")?;
            let flip = match mode.as_str() {
                "vertical" => [true, false],
                "horizontal" => [false, true],
                "horizontal_and_vertical" => [true, true],
                _ => return Err(unknown("mode", &mode)),
            };
            LayerKind::Warp(WarpSpec { flip, ..still(get(p, "seed")?) })
        }
        "random_rotation" => LayerKind::Warp(WarpSpec { rotation: get(p, "factor")?, ..warp(p)? }),
        "random_zoom" => LayerKind::Warp(WarpSpec {
            zoom: (get(p, "height_factor")?, get(p, "width_factor")?),
            ..warp(p)?
        }),
        "random_affine" => {
            let translation: Bounds = get(p, "translation")?;
            LayerKind::Warp(WarpSpec {
                rotation: get(p, "rotation")?,
                translation: [translation; 2],
                zoom: (get(p, "zoom")?, None),
                shear: get(p, "shear")?,
                ..warp(p)?
            })
        }
        "random_elastic" => {
            let elastic = Elastic { alpha: get(p, "alpha")?, sigma: get(p, "sigma")? };
            LayerKind::Warp(WarpSpec { elastic: Some(elastic), ..warp(p)? })
        }
        "random_erasing" => {
            let value_range = get(p, "value_range")?;
            LayerKind::Erase(EraseSpec {
                factor: get(p, "factor")?,
                scale: get(p, "scale")?,
                paint: paint(p, value_range)?,
                value_range,
                seed: get(p, "seed")?,
            })
        }
        _ => return Err(unknown("kind of layer", kind)),
    })
}

/// A loss by its name.
pub fn loss(name: &str, p: &Bound<'_, PyDict>) -> PyResult<Loss> {
    Ok(match name {
        "sparse_categorical_crossentropy" => {
            Loss::SparseCategoricalCrossentropy { from_logits: get(p, "from_logits")? }
        }
        "categorical_crossentropy" => Loss::CategoricalCrossentropy {
            from_logits: get(p, "from_logits")?,
            label_smoothing: get(p, "label_smoothing")?,
        },
        "mean_squared_error" => Loss::MeanSquaredError,
        _ => return Err(unknown("loss", name)),
    })
}

/// How an optimiser keeps averages, if it does.
pub fn averaging(p: &Bound<'_, PyDict>) -> PyResult<Option<Averaging>> {
    Ok(match get(p, "use_ema")? {
        true => Some(Averaging {
            momentum: get(p, "ema_momentum")?,
            overwrite_frequency: get(p, "ema_overwrite_frequency")?,
        }),
        false => None,
    })
}

/// An optimiser's rule by its name.
pub fn rule(name: &str, p: &Bound<'_, PyDict>) -> PyResult<Rule> {
    Ok(match name {
        "sgd" => Rule::Sgd { momentum: get(p, "momentum")?, nesterov: get(p, "nesterov")? },
        "adam" => Rule::Adam {
            beta_1: get(p, "beta_1")?,
            beta_2: get(p, "beta_2")?,
            epsilon: get(p, "epsilon")?,
            weight_decay: get(p, "weight_decay")?,
        },
        _ => return Err(unknown("optimiser", name)),
    })
}
