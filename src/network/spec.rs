//! What a network is made of, as its user says it.

use crate::kernels::activation::Activation;
use crate::kernels::shape::Padding;

/// One layer: its name, for what is said about it, and what it does.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// As in `conv2d_1`.
    pub name: String,
    /// What it does.
    pub kind: LayerKind,
}

/// A pooling's windows.
#[derive(Clone, Copy, Debug)]
pub struct PoolSpec {
    /// (h, w)
    pub window: (usize, usize),
    /// (h, w)
    pub strides: (usize, usize),
    /// What happens at the borders.
    pub padding: Padding,
}

/// What a layer does. The meanings are those of Keras's layers.
#[derive(Clone, Copy, Debug)]
pub enum LayerKind {
    /// Convolution (h, w, c) -> (out_h, out_w, filters).
    Conv {
        /// Output channels.
        filters: usize,
        /// (h, w)
        window: (usize, usize),
        /// (h, w)
        strides: (usize, usize),
        /// What happens at the borders.
        padding: Padding,
        /// Whether a bias is added.
        use_bias: bool,
        /// What is applied to the sums.
        activation: Activation,
    },
    /// Maximum over windows.
    MaxPool(PoolSpec),
    /// Mean over windows.
    AveragePool(PoolSpec),
    /// Mean over the whole image: (h, w, c) -> (c,) or (1, 1, c).
    GlobalAveragePool {
        /// Whether the result keeps its two axes of size 1.
        keepdims: bool,
    },
    /// (a, b, ...) -> (a * b * ...,)
    Flatten,
    /// Fully connected: (inputs,) -> (units,).
    Dense {
        /// Outputs.
        units: usize,
        /// Whether a bias is added.
        use_bias: bool,
        /// What is applied to the sums.
        activation: Activation,
    },
    /// An activation on its own; softmax goes over the last axis.
    Activation(Activation),
    /// Zeroes elements in training, with this probability, and scales the others up.
    Dropout {
        /// From 0 to below 1.
        rate: f64,
    },
    /// Normalises each channel of the last axis by its mean and variance.
    BatchNorm {
        /// How much of the moving averages stays in each step.
        momentum: f64,
        /// Added to the variance.
        epsilon: f64,
        /// Whether there is a `beta` to add.
        center: bool,
        /// Whether there is a `gamma` to multiply with.
        scale: bool,
    },
    /// `x * scale + offset`
    Rescale {
        /// The factor.
        scale: f64,
        /// The summand.
        offset: f64,
    },
}
