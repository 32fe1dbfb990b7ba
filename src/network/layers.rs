//! Layers with their sizes: which shapes go in and out, and which weights there are.

use std::ops::{Range, RangeInclusive};

use crate::kernels::elastic::Elastic;
use crate::kernels::erase::Paint;
use crate::kernels::shape::{ConvShape, Padding, PoolShape, ShapeError, checked_len, tuple};
use crate::network::Mode;
use crate::network::spec::{Bounds, EraseSpec, LayerKind, LayerSpec, PoolSpec, WarpSpec};
use crate::network::stages::stages;

/// Elements to which a layer's weights are aligned: a cache line of the smallest type.
pub const ALIGNMENT: usize = 16;

/// A number from 0 to 1.
fn share(name: &str, value: f64) -> Result<(), ShapeError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(ShapeError::new(format!("expected a {name} from 0 to 1, got {value}")))
}

/// What is drawn from `least` to `most`, both within these.
fn bounds(
    name: &str,
    (least, most): Bounds,
    within: RangeInclusive<f64>,
) -> Result<(), ShapeError> {
    if within.contains(&least) && within.contains(&most) && least <= most {
        return Ok(());
    }
    Err(ShapeError::new(format!(
        "expected a {name} from {} to {}, the smaller first, got ({least}, {most})",
        within.start(),
        within.end()
    )))
}

fn check_warp(warp: &WarpSpec) -> Result<(), ShapeError> {
    let WarpSpec { rotation, translation: [down, right], zoom: (h, w), shear, .. } = *warp;
    for (name, range) in
        [("rotation", rotation), ("translation", down), ("translation", right), ("shear", shear)]
    {
        bounds(name, range, -1.0..=1.0)?;
    }
    for zoom in [h, w.unwrap_or(h)] {
        bounds("zoom", zoom, -1.0..=1.0)?;
        if zoom.0 == -1.0 {
            return Err(ShapeError::new("expected a zoom above -1, got -1".to_owned()));
        }
    }
    if let Some(Elastic { alpha, sigma }) = warp.elastic {
        // Coordinates stay numbers that can be told apart, and there is one knot a pixel at most.
        bounds("alpha", (alpha, alpha), 0.0..=1e4)?;
        bounds("sigma", (sigma, sigma), 0.5..=1e4)?;
    }
    Ok(())
}

fn check_erase(erase: &EraseSpec, channels: usize) -> Result<(), ShapeError> {
    bounds("factor", erase.factor, 0.0..=1.0)?;
    bounds("scale", erase.scale, 0.0..=1.0)?;
    if matches!(erase.paint, Paint::Colour(_)) && channels != 3 {
        return Err(ShapeError::new(format!(
            "expected images of 3 channels for a fill_value of 3 numbers, got {channels}"
        )));
    }
    Ok(())
}

/// The axes of an image.
fn image(shape: &[usize]) -> Result<(usize, usize, usize), ShapeError> {
    match *shape {
        [h, w, c] => Ok((h, w, c)),
        _ => Err(ShapeError::new(format!(
            "expected images (height, width, channels), got shape {}",
            tuple(shape)
        ))),
    }
}

/// One array of a layer's weights, as its user sees it.
#[derive(Clone, Debug)]
pub struct Weight {
    /// As in `kernel`.
    pub name: &'static str,
    /// In Keras's layout.
    pub shape: Vec<usize>,
    /// Whether it is a parameter; else it is a moving average.
    pub trainable: bool,
    /// Where it starts among the parameters, or among the moving averages.
    pub start: usize,
    /// How it is stored there.
    pub stored: Stored,
}

impl Weight {
    /// Elements.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where it lies among the parameters, or among the moving averages.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.size()
    }

    /// The last axis, and the product of all others.
    fn matrix(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (self.size() / columns.max(1), columns)
    }

    /// From the layout as stored to Keras's.
    pub fn export<T: Copy>(&self, out: &mut [T], stored: &[T]) {
        let (rows, columns) = self.matrix();
        match self.stored {
            Stored::AsIs => out.copy_from_slice(stored),
            Stored::Transposed => transpose(out, stored, columns, rows),
        }
    }

    /// From Keras's layout to the one that is stored.
    pub fn import<T: Copy>(&self, stored: &mut [T], from: &[T]) {
        let (rows, columns) = self.matrix();
        match self.stored {
            Stored::AsIs => stored.copy_from_slice(from),
            Stored::Transposed => transpose(stored, from, rows, columns),
        }
    }
}

/// `out` (columns, rows) from `x` (rows, columns).
fn transpose<T: Copy>(out: &mut [T], x: &[T], rows: usize, columns: usize) {
    for (c, out) in out.chunks_exact_mut(rows).enumerate() {
        out.iter_mut().zip(x[c..].iter().step_by(columns)).for_each(|(out, &x)| *out = x);
    }
}

/// The layout in which a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Keras's.
    AsIs,
    /// With the last axis first, as (outputs, inputs) or (filters, taps).
    Transposed,
}

/// A layer whose sizes fit.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As its user said it.
    pub spec: LayerSpec,
    /// Without the batch axis.
    pub input: Vec<usize>,
    /// Without the batch axis.
    pub output: Vec<usize>,
    /// In Keras's order.
    pub weights: Vec<Weight>,
    /// The convolution's sizes, if it is one.
    pub conv: Option<ConvShape>,
    /// The pooling's sizes, if it is one.
    pub pool: Option<PoolShape>,
}

impl Layer {
    /// The weight of that name.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.iter().find(|weight| weight.name == name)
    }

    /// Where the layer's parameters lie; they are neighbours.
    pub fn params(&self) -> Range<usize> {
        let ranges = self.weights.iter().filter(|weight| weight.trainable).map(Weight::range);
        ranges.reduce(|all, next| all.start..next.end).unwrap_or(0..0)
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }
}

/// The layers of a network with their sizes, and how many weights they have.
#[derive(Clone, Debug)]
pub struct Layers {
    /// Without the batch axis.
    pub input: Vec<usize>,
    /// In the order of computation.
    pub layers: Vec<Layer>,
    /// Elements of all parameters.
    pub params_len: usize,
    /// Elements of all moving averages.
    pub moving_len: usize,
}

impl Layers {
    /// Follows the input's shape through the layers.
    ///
    /// # Errors
    /// With the name of the first layer that does not fit.
    pub fn new(input: &[usize], specs: Vec<LayerSpec>) -> Result<Self, ShapeError> {
        if input.is_empty() || input.contains(&0) {
            return Err(ShapeError::new(format!(
                "expected an input of at least one axis, none of size 0, got {}",
                tuple(input)
            )));
        }
        checked_len("an input", input)?;
        let mut layers =
            Self { input: input.to_vec(), layers: vec![], params_len: 0, moving_len: 0 };
        let mut shape = input.to_vec();
        for spec in specs {
            let named = |error| ShapeError::new(format!("{}: {error}", spec.name));
            let layer = layers.layer(&shape, &spec).map_err(named)?;
            shape.clone_from(&layer.output);
            layers.layers.push(layer);
        }
        layers.choose_storage();
        Ok(layers)
    }

    /// The output's shape without the batch axis.
    pub fn output(&self) -> &[usize] {
        self.layers.last().map_or(&self.input, |layer| &layer.output)
    }

    fn layer(&mut self, input: &[usize], spec: &LayerSpec) -> Result<Layer, ShapeError> {
        let mut layer = Layer {
            spec: spec.clone(),
            input: input.to_vec(),
            output: input.to_vec(),
            weights: vec![],
            conv: None,
            pool: None,
        };
        match spec.kind {
            LayerKind::Conv { filters, window, strides, padding, use_bias, .. } => {
                let (h, w, c) = image(input)?;
                let shape = ConvShape::new((h, w, c), window, strides, padding, filters)?;
                let (out_h, out_w, _) = shape.output();
                layer.output = vec![out_h, out_w, filters];
                layer.conv = Some(shape);
                self.weight(&mut layer, "kernel", vec![window.0, window.1, c, filters], true)?;
                if use_bias {
                    self.weight(&mut layer, "bias", vec![filters], true)?;
                }
            }
            LayerKind::MaxPool(pool) | LayerKind::AveragePool(pool) => {
                let PoolSpec { window: (kh, kw), strides, padding } = pool;
                let (h, w, c) = image(input)?;
                let shape = PoolShape::new((h, w, c), (kh, kw), strides, padding)?;
                if shape.output_len() == 0 {
                    return Err(ShapeError::new(format!(
                        "expected an image of at least {kh}x{kw} pixels for {kh}x{kw} windows, got \
                         {h}x{w}"
                    )));
                }
                let (out_h, out_w, _) = shape.output();
                layer.output = vec![out_h, out_w, c];
                layer.pool = Some(shape);
            }
            LayerKind::GlobalAveragePool { keepdims } => {
                let (h, w, c) = image(input)?;
                layer.output = if keepdims { vec![1, 1, c] } else { vec![c] };
                layer.pool = Some(PoolShape::new((h, w, c), (h, w), (h, w), Padding::Valid)?);
            }
            LayerKind::Flatten => layer.output = vec![layer.input_len()],
            LayerKind::Dense { units, use_bias, .. } => {
                let &[inputs] = input else {
                    return Err(ShapeError::new(format!(
                        "expected one axis of inputs, got shape {}; a Flatten layer before it makes \
                         one of them all",
                        tuple(input)
                    )));
                };
                ConvShape::dense(inputs, units)?;
                layer.output = vec![units];
                self.weight(&mut layer, "kernel", vec![inputs, units], true)?;
                if use_bias {
                    self.weight(&mut layer, "bias", vec![units], true)?;
                }
            }
            LayerKind::BatchNorm { momentum, epsilon, center, scale } => {
                share("momentum", momentum)?;
                if !(epsilon > 0.0 && epsilon.is_finite()) {
                    return Err(ShapeError::new(format!(
                        "expected a finite epsilon above 0, got {epsilon}"
                    )));
                }
                let channels = *input.last().unwrap_or(&1);
                if scale {
                    self.weight(&mut layer, "gamma", vec![channels], true)?;
                }
                if center {
                    self.weight(&mut layer, "beta", vec![channels], true)?;
                }
                self.weight(&mut layer, "moving_mean", vec![channels], false)?;
                self.weight(&mut layer, "moving_variance", vec![channels], false)?;
            }
            LayerKind::Dropout { rate, .. } => {
                share("rate", rate)?;
                if rate == 1.0 {
                    return Err(ShapeError::new("expected a rate below 1, got 1".to_owned()));
                }
            }
            LayerKind::Warp(warp) => {
                image(input)?;
                check_warp(&warp)?;
            }
            LayerKind::Erase(erase) => {
                let (.., channels) = image(input)?;
                check_erase(&erase, channels)?;
            }
            LayerKind::Activation(_) | LayerKind::Rescale { .. } => {}
        }
        let weighty = self.layers.iter().find(|layer| !layer.weights.is_empty());
        if let (true, Some(before)) = (spec.kind.augments(), weighty) {
            return Err(ShapeError::new(format!(
                "expected a place before all layers with weights, because no gradient goes through \
                 random augmentation, got one behind {}",
                before.spec.name
            )));
        }
        Ok(layer)
    }

    fn weight(
        &mut self,
        layer: &mut Layer,
        name: &'static str,
        shape: Vec<usize>,
        trainable: bool,
    ) -> Result<(), ShapeError> {
        let total = if trainable { &mut self.params_len } else { &mut self.moving_len };
        let len = checked_len("an array of weights", &shape)?;
        let first = layer.weights.iter().all(|weight| weight.trainable != trainable);
        let start = if first { total.next_multiple_of(ALIGNMENT) } else { *total };
        *total = start + len;
        checked_len("all weights", &[*total])?;
        layer.weights.push(Weight { name, shape, trainable, start, stored: Stored::AsIs });
        Ok(())
    }

    /// Each kernel in the layout in which its gradient is computed.
    fn choose_storage(&mut self) {
        for stage in stages(&self.layers, Mode::Training) {
            if stage.wants_transposed_kernel()
                && let Some(kernel) = self.layers[stage.layer].weights.first_mut()
            {
                kernel.stored = Stored::Transposed;
            }
        }
    }
}
