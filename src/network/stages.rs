//! Which layers are computed in one go.

use crate::kernels::activation::Activation;
use crate::kernels::conv_pool_grey;
use crate::kernels::shape::{ConvPoolShape, ConvShape, PoolShape};
use crate::network::Mode;
use crate::network::layers::Layer;
use crate::network::spec::LayerKind;
use crate::network::steps::{Pooling, RELU};

/// From so many outputs on, a dense layer's vectors run along the outputs, as those of a
/// convolution do; below, along the inputs, which are many more.
const MANY_UNITS: usize = 32;

/// Layers that are computed in one go.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The layer that gives it its name and its weights.
    pub layer: usize,
    /// The last of the layers.
    pub last: usize,
    /// What it does.
    pub operation: Operation,
    /// What is left to be applied to the result.
    pub activation: Activation,
}

/// What a stage does.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there is one for each layer, while a plan is made
pub enum Operation {
    /// Convolution, and what goes with it.
    Conv {
        /// The layer of batch normalisation that goes into the kernel.
        norm: Option<usize>,
        /// The 2x2 max pooling behind it.
        pooling: Pooling,
        /// ReLU, before or after the pooling: they commute.
        relu: bool,
    },
    /// Fully connected.
    Dense {
        /// The layer of batch normalisation that goes into the kernel.
        norm: Option<usize>,
        /// ReLU behind it.
        relu: bool,
        /// Whether its vectors run along the inputs.
        few: bool,
    },
    /// Batch normalisation that goes into no kernel.
    Norm {
        /// ReLU behind it.
        relu: bool,
    },
    /// What the layer says, and nothing else.
    Other,
}

impl Stage {
    /// Whether the kernel's gradient is computed with the outputs first.
    pub fn wants_transposed_kernel(&self) -> bool {
        match self.operation {
            Operation::Conv { pooling, .. } => matches!(pooling, Pooling::Max(_)),
            Operation::Dense { few, .. } => few,
            Operation::Norm { .. } | Operation::Other => false,
        }
    }
}

/// The layers in stages. Those that only say how arrays are seen, or that do nothing in this mode,
/// are left out.
pub fn stages(layers: &[Layer], mode: Mode) -> Vec<Stage> {
    let mut stages = vec![];
    let mut trained = false;
    let mut rest = Rest { layers, next: 0, mode };
    while rest.next < layers.len() {
        let layer = rest.next;
        rest.next += 1;
        let (operation, activation) = match layers[layer].spec.kind {
            LayerKind::Conv { activation, .. } => {
                let norm = rest.take_norm(activation);
                let mut relu = rest.take_relu(activation);
                let left = if relu { Activation::Linear } else { activation };
                let pool = match (left, layers[layer].conv) {
                    (Activation::Linear, Some(conv)) => rest.take_pool(conv),
                    _ => None,
                };
                relu = relu || pool.is_some() && rest.take_relu(Activation::Linear);
                let pooling = match pool {
                    None => Pooling::None,
                    // Nobody needs the gradient of what comes before the first weights.
                    Some(shape) if !trained && conv_pool_grey::supports(&shape) => {
                        Pooling::MaxOfGrey(shape)
                    }
                    Some(shape) => Pooling::Max(shape),
                };
                (Operation::Conv { norm, pooling, relu }, left)
            }
            LayerKind::Dense { units, activation, .. } => {
                let norm = rest.take_norm(activation);
                let relu = rest.take_relu(activation);
                let left = if relu { Activation::Linear } else { activation };
                (Operation::Dense { norm, relu, few: units < MANY_UNITS }, left)
            }
            LayerKind::BatchNorm { .. } => {
                let relu = rest.take_relu(Activation::Linear);
                (Operation::Norm { relu }, Activation::Linear)
            }
            LayerKind::Flatten | LayerKind::Activation(Activation::Linear) => continue,
            LayerKind::Dropout { rate, .. } if rate == 0.0 || mode != Mode::Training => continue,
            kind if kind.augments() && mode == Mode::Inference => continue,
            LayerKind::Warp(warp) if warp.is_identity() => continue,
            _ => (Operation::Other, Activation::Linear),
        };
        trained |= !layers[layer].params().is_empty();
        stages.push(Stage { layer, last: rest.next - 1, operation, activation });
    }
    stages
}

/// The layers that are not in a stage yet.
struct Rest<'a> {
    layers: &'a [Layer],
    next: usize,
    mode: Mode,
}

impl Rest<'_> {
    fn kind(&self) -> Option<LayerKind> {
        self.layers.get(self.next).map(|layer| layer.spec.kind)
    }

    /// In inference, a normalisation is a factor and a summand for each channel.
    fn take_norm(&mut self, activation: Activation) -> Option<usize> {
        let folds = self.mode != Mode::Training && matches!(activation, Activation::Linear);
        let norm = matches!(self.kind(), Some(LayerKind::BatchNorm { .. }));
        (folds && norm).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Whether the layer's own activation is ReLU or, where it has none, the next layer is.
    fn take_relu(&mut self, activation: Activation) -> bool {
        match (activation, self.kind()) {
            (Activation::Linear, Some(LayerKind::Activation(next))) if is_relu(next) => {
                self.next += 1;
                true
            }
            _ => is_relu(activation),
        }
    }

    /// The next layer, if it halves the image by its maxima.
    fn take_pool(&mut self, conv: ConvShape) -> Option<ConvPoolShape> {
        let Some(LayerKind::MaxPool(_)) = self.kind() else { return None };
        let fused = ConvPoolShape::new(conv).ok().filter(ConvPoolShape::has_small_offsets)?;
        let wanted = self.layers[self.next].pool?;
        (halves(&wanted) && wanted.output() == fused.pool().output()).then(|| {
            self.next += 1;
            fused
        })
    }
}

fn is_relu(activation: Activation) -> bool {
    activation == RELU
}

fn halves(pool: &PoolShape) -> bool {
    (pool.windows().window(), pool.windows().strides()) == ((2, 2), (2, 2))
}
