//! From stages of layers to a plan: each stage's step, and a place in the arena for all it needs.

use std::ops::Range;

use super::{Meeting, Node, Plan};
use crate::kernels::activation::Activation;
use crate::kernels::images::Cut;
use crate::kernels::shape::{ConvShape, DenseShape, PoolShape, ShapeError, checked_len};
use crate::kernels::simd::Element;
use crate::kernels::warp::ImageShape;
use crate::network::Mode;
use crate::network::layers::{ALIGNMENT, Layer, Layers, Stored};
use crate::network::spec::LayerKind;
use crate::network::stages::{Operation, Stage};
use crate::network::step::Step;
use crate::network::steps::{
    ActivationStep, AffineStep, AveragePoolStep, BatchNormStep, Conv, ConvStep, DenseStep,
    DropoutStep, EraseStep, Gradients, MaxPoolStep, Norm, Pooling, RescaleStep, WarpStep,
};

/// Images in a block: enough to use each weight several times once it is in a register, and few
/// enough that their values stay in the second-level cache.
const BLOCK: usize = 8;

/// Products of a block's forward pass from which on it holds fewer images.
const MUCH_WORK: usize = 1 << 25;

/// Products of a block's forward pass below which it holds more images: so few that the gradient,
/// which each chunk has for itself, would cost more to write and to add up than to compute.
const LITTLE_WORK: usize = 1 << 20;

/// Products that take as long as reading one number through a map of coordinates.
const WARP_WORK: usize = 20;

/// Most images in a block of little work.
const LARGE_BLOCK: usize = 32;

/// Products of a block's forward pass for each parameter, below which the weights would cost more
/// to stream through the caches than they are used for: those of a training also stream as copies
/// made of them, and their gradient, which each chunk has for itself, is written and added up.
const PRODUCTS_IN_INFERENCE: usize = 100;
const PRODUCTS_IN_TRAINING: usize = 400;

/// Most images in a block, and in one of a large batch, for the sake of such weights. In a smaller
/// batch, longer blocks would leave threads without one.
const BLOCK_FOR_WEIGHTS: usize = 16;
const LONGEST_BLOCK: usize = 64;

/// Images in a block, and at most in one of a large batch, by the products of one image and the
/// parameters.
fn blocks(work: usize, params: usize, mode: Mode) -> (usize, usize) {
    let work = work.max(1);
    let products = match mode {
        Mode::Training => PRODUCTS_IN_TRAINING,
        Mode::Inference | Mode::AugmentedInference => PRODUCTS_IN_INFERENCE,
    };
    let for_weights = (products.saturating_mul(params) / work).clamp(1, LONGEST_BLOCK);
    let for_weights = for_weights.next_power_of_two();
    let block = (MUCH_WORK / work).clamp(1, BLOCK).max((LITTLE_WORK / work).min(LARGE_BLOCK));
    let block = block.max(for_weights.min(BLOCK_FOR_WEIGHTS));
    (block, block.max(for_weights))
}

/// A map that grows.
#[derive(Default)]
struct Map {
    len: usize,
}

impl Map {
    /// The start of so many elements more.
    fn reserve(&mut self, len: usize) -> Result<usize, ShapeError> {
        let start = self.len;
        let end = len.checked_next_multiple_of(ALIGNMENT).and_then(|len| start.checked_add(len));
        self.len = end.unwrap_or(usize::MAX);
        checked_len("all values of a step", &[self.len])?;
        Ok(start)
    }
}

/// Collects nodes, then lays out the arena.
pub(super) struct Builder<'a, T> {
    layers: &'a Layers,
    mode: Mode,
    nodes: Vec<Node<T>>,
    scale: f64,
    offset: f64,
    prepared: Map,
    deferred: Map,
    work: usize,
    ends_in_softmax: bool,
}

impl<'a, T: Element> Builder<'a, T> {
    pub(super) fn new(layers: &'a Layers, mode: Mode) -> Self {
        Self {
            layers,
            mode,
            nodes: vec![],
            scale: 1.0,
            offset: 0.0,
            prepared: Map::default(),
            deferred: Map::default(),
            work: 0,
            ends_in_softmax: false,
        }
    }

    /// Adds what the stage does.
    pub(super) fn stage(&mut self, stage: &Stage) -> Result<(), ShapeError> {
        let layer = &self.layers.layers[stage.layer];
        let out_len = self.layers.layers[stage.last].output_len();
        let width = *layer.output.last().unwrap_or(&1);
        let Some(step) = self.step(stage, out_len, width)? else { return Ok(()) };
        self.push(step, out_len, layer.params())?;
        if !matches!(stage.activation, Activation::Linear) {
            let step = Box::new(ActivationStep { activation: stage.activation, width });
            self.push(step, out_len, 0..0)?;
        }
        // One over all outputs; that over the channels of an image is another.
        let softmax = |activation| activation == Activation::Softmax && width == out_len;
        self.ends_in_softmax = softmax(stage.activation)
            || matches!(layer.spec.kind, LayerKind::Activation(activation) if softmax(activation));
        Ok(())
    }

    /// The stage's step, or none if nothing is left to do; `width` is the size of the output's last
    /// axis.
    fn step(
        &mut self,
        stage: &Stage,
        out_len: usize,
        width: usize,
    ) -> Result<Option<Box<dyn Step<T>>>, ShapeError> {
        let layer = &self.layers.layers[stage.layer];
        let draws = |layer: &&Layer| layer.spec.kind.draws();
        let salt = self.layers.layers[..stage.layer].iter().filter(draws).count() as u64;
        Ok(Some(match layer.spec.kind {
            LayerKind::Conv { use_bias, .. } => self.conv(stage, layer, use_bias)?,
            LayerKind::Dense { units, use_bias, .. } => {
                self.dense(stage, layer, units, use_bias)?
            }
            LayerKind::Flatten => return Ok(None),
            LayerKind::Rescale { scale, offset } if self.nodes.is_empty() => {
                self.offset = self.offset * scale + offset;
                self.scale *= scale;
                return Ok(None);
            }
            LayerKind::Rescale { scale, offset } => Box::new(RescaleStep { scale, offset }),
            LayerKind::MaxPool(_) => {
                Box::new(MaxPoolStep { shape: max_pool::<T>(layer)?, needs_d_x: self.needs_d_x() })
            }
            LayerKind::AveragePool(_) | LayerKind::GlobalAveragePool { .. } => {
                Box::new(AveragePoolStep { shape: pool(layer)? })
            }
            LayerKind::Activation(activation) => Box::new(ActivationStep { activation, width }),
            LayerKind::Dropout { rate, seed } => {
                Box::new(DropoutStep { rate, seed, len: out_len, salt })
            }
            LayerKind::Warp(spec) => {
                self.work = self.work.saturating_add(WARP_WORK.saturating_mul(out_len));
                Box::new(WarpStep { spec, shape: bordered::<T>(layer)?, salt })
            }
            LayerKind::Erase(spec) => Box::new(EraseStep { spec, shape: image(layer)?, salt }),
            LayerKind::BatchNorm { momentum, epsilon, center, scale } => {
                let norm = norm(layer)?;
                let relu = matches!(stage.operation, Operation::Norm { relu: true });
                if self.trains() {
                    let (pixels, Norm { mean, variance, .. }) = (out_len / width, norm);
                    Box::new(BatchNormStep {
                        c: width,
                        pixels,
                        momentum,
                        epsilon,
                        scale,
                        center,
                        relu,
                        mean,
                        variance,
                    })
                } else {
                    Box::new(AffineStep { c: width, norm, relu })
                }
            }
        }))
    }

    fn conv(
        &mut self,
        stage: &Stage,
        layer: &Layer,
        use_bias: bool,
    ) -> Result<Box<dyn Step<T>>, ShapeError> {
        let (&Operation::Conv { norm, pooling, relu }, Some(shape)) =
            (&stage.operation, layer.conv)
        else {
            return Err(ShapeError::new("expected a convolution".to_owned()));
        };
        let (stored, gradients, norm) = (stored(layer), self.gradients(), self.norm(norm)?);
        let conv = Conv { shape, pooling, use_bias, relu, stored, norm, gradients };
        self.work = self.work.saturating_add(conv.products());
        Ok(Box::new(ConvStep::new(conv)))
    }

    fn dense(
        &mut self,
        stage: &Stage,
        layer: &Layer,
        units: usize,
        use_bias: bool,
    ) -> Result<Box<dyn Step<T>>, ShapeError> {
        let Operation::Dense { norm, relu, few } = stage.operation else {
            return Err(ShapeError::new("expected a dense layer".to_owned()));
        };
        let norm = self.norm(norm)?;
        let shape = DenseShape::new(layer.input_len(), units)?;
        self.work = self.work.saturating_add(shape.weights_len());
        if few {
            let channels = self.foreground();
            return Ok(Box::new(DenseStep { shape, use_bias, relu, norm, channels }));
        }
        let shape = ConvShape::dense(layer.input_len(), units)?;
        let (pooling, stored, gradients) = (Pooling::None, stored(layer), self.gradients());
        let conv = Conv { shape, pooling, use_bias, relu, stored, norm, gradients };
        Ok(Box::new(ConvStep::new(conv)))
    }

    /// The channels of the step that comes next, if its input may be set in the foreground only:
    /// then the step before is told so.
    fn foreground(&mut self) -> Option<usize> {
        let trains = self.trains();
        let node = self.nodes.last_mut().filter(|_| trains)?;
        let channels = node.step.foreground_channels()?;
        node.foreground = Some(0);
        Some(channels)
    }

    /// The layer of batch normalisation with that number, if there is one.
    fn norm(&self, index: Option<usize>) -> Result<Option<Norm>, ShapeError> {
        index.map(|index| norm(&self.layers.layers[index])).transpose()
    }

    fn trains(&self) -> bool {
        self.mode == Mode::Training
    }

    /// Whether there are parameters to be trained before the step that comes next.
    fn needs_d_x(&self) -> bool {
        self.trains() && self.nodes.iter().any(|node| !node.params.is_empty())
    }

    /// What the way back through the step that comes next makes.
    fn gradients(&self) -> Gradients {
        match (self.trains(), self.needs_d_x()) {
            (false, _) => Gradients::None,
            (true, false) => Gradients::Weights,
            (true, true) => Gradients::WeightsAndInput,
        }
    }

    fn push(
        &mut self,
        step: Box<dyn Step<T>>,
        out_len: usize,
        params: Range<usize>,
    ) -> Result<(), ShapeError> {
        let len = step.prepared_len();
        let start = self.prepared.reserve(len)?;
        let needs_d_x = self.needs_d_x();
        self.work = self.work.saturating_add(out_len);
        let prepared = start..start + len;
        let len = if self.trains() { step.deferred_len() } else { 0 };
        let start = self.deferred.reserve(len)?;
        let deferred = start..start + len;
        let node = Node {
            step,
            out_len,
            params,
            prepared,
            deferred,
            saved: 0..0,
            meeting: None,
            needs_d_x,
            foreground: None,
        };
        self.nodes.push(node);
        Ok(())
    }

    /// Lays out the arena.
    pub(super) fn plan(
        mut self,
        fixed: Option<usize>,
        max_chunks: usize,
    ) -> Result<Plan<T>, ShapeError> {
        let (block, longest_block) = blocks(self.work, self.layers.params_len, self.mode);
        let block = fixed.unwrap_or(block);
        let input_len: usize = self.layers.input.iter().product();
        let lens: Vec<usize> =
            std::iter::once(input_len).chain(self.nodes.iter().map(|node| node.out_len)).collect();
        let mut largest = 0;
        for &len in &lens {
            largest = largest.max(checked_len("the values of a block of images", &[block, len])?);
        }
        let mut arena = Map::default();
        let mut values = vec![];
        let mut d_values = [0; 2];
        if self.trains() {
            for &len in &lens {
                values.push(arena.reserve(block * len)?);
            }
            d_values = [arena.reserve(largest)?, arena.reserve(largest)?];
        } else {
            let slots = [arena.reserve(largest)?, arena.reserve(largest)?];
            values.extend((0..lens.len()).map(|i| slots[i % 2]));
        }
        let mut stats = Map::default();
        let mut meetings = vec![];
        let mut scratch_len = 0;
        let mut saved = 0..0;
        for (i, node) in self.nodes.iter_mut().enumerate() {
            scratch_len = scratch_len.max(node.step.scratch_len(block));
            let len = node.step.saved_len(block);
            // In inference, nothing is kept for a way back.
            if self.mode == Mode::Training || len > saved.len() {
                let start = arena.reserve(len)?;
                saved = start..start + len;
            }
            node.saved = saved.clone();
            if let (Some(start), Some(channels)) =
                (&mut node.foreground, node.step.foreground_channels())
            {
                *start = arena.reserve(checked_len("a background", &[2, channels])?)?;
            }
            let len = node.step.stats_len();
            if len > 0 {
                let all = checked_len("the statistics of a batch", &[max_chunks, len])?;
                node.meeting = Some(Meeting { start: stats.reserve(all)?, len });
                meetings.push(i);
            }
        }
        let width: usize = self.layers.output().iter().product();
        let targets = arena.reserve(checked_len("a block of targets", &[block, width])?)?;
        let scratch = arena.reserve(scratch_len)?;
        Ok(Plan {
            scale: T::from_f64(self.scale),
            offset: T::from_f64(self.offset),
            input_len,
            cut: Cut::whole(input_len),
            width,
            block,
            longest_block,
            values,
            d_values,
            targets,
            scratch,
            arena_len: arena.len,
            prepared_len: self.prepared.len,
            deferred_len: self.deferred.len,
            stats_len: stats.len,
            meetings,
            work: self.work,
            ends_in_softmax: self.ends_in_softmax,
            nodes: self.nodes,
        })
    }
}

fn pool(layer: &Layer) -> Result<PoolShape, ShapeError> {
    layer.pool.ok_or_else(|| ShapeError::new("expected a pooling".to_owned()))
}

fn image(layer: &Layer) -> Result<ImageShape, ShapeError> {
    match layer.input[..] {
        [h, w, c] => Ok(ImageShape { h, w, c }),
        _ => Err(ShapeError::new("expected images".to_owned())),
    }
}

/// Of images whose pixels' places, with a border, are numbers of type `T` and of 31 bits.
fn bordered<T: Element>(layer: &Layer) -> Result<ImageShape, ShapeError> {
    let shape = image(layer)?;
    let most = most_natural::<T>().min(f64::from(i32::MAX));
    if shape.bordered_pixels() as f64 > most {
        return Err(ShapeError::new(format!(
            "{}: expected images of at most {most} pixels with a border, got {}",
            layer.spec.name,
            shape.bordered_pixels()
        )));
    }
    Ok(shape)
}

/// The largest number of type `T` below which every natural number is one.
fn most_natural<T: Element>() -> f64 {
    2.0 / T::epsilon().to_f64()
}

/// With windows whose places are numbers of type `T`.
fn max_pool<T: Element>(layer: &Layer) -> Result<PoolShape, ShapeError> {
    let shape = pool(layer)?;
    let (h, w) = shape.windows().window();
    let most = most_natural::<T>();
    if (h as f64) * (w as f64) > most {
        return Err(ShapeError::new(format!(
            "pool_size: expected at most {most} pixels in a window, got ({h}, {w})"
        )));
    }
    Ok(shape)
}

/// How the layer's kernel is stored.
fn stored(layer: &Layer) -> Stored {
    layer.weights.first().map_or(Stored::AsIs, |weight| weight.stored)
}

/// The weights of a layer of batch normalisation.
fn norm(layer: &Layer) -> Result<Norm, ShapeError> {
    match layer.spec.kind {
        LayerKind::BatchNorm { epsilon, .. } => Norm::new(layer, epsilon),
        _ => None,
    }
    .ok_or_else(|| ShapeError::new("expected a batch normalisation".to_owned()))
}
