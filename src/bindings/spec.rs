//! Descriptions of layers, losses and optimisers: dictionaries to the network's own types.

use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::kernels::activation::Activation;
use crate::kernels::loss::Loss;
use crate::kernels::shape::Padding;
use crate::network::{Averaging, LayerKind, PoolSpec, Rule};

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
        "dropout" => LayerKind::Dropout { rate: get(p, "rate")? },
        "batch_normalization" => LayerKind::BatchNorm {
            momentum: get(p, "momentum")?,
            epsilon: get(p, "epsilon")?,
            center: get(p, "center")?,
            scale: get(p, "scale")?,
        },
        "rescaling" => LayerKind::Rescale { scale: get(p, "scale")?, offset: get(p, "offset")? },
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
