//! What a network is made of, as its user says it.

use crate::kernels::activation::Activation;
use crate::kernels::elastic::Elastic;
use crate::kernels::erase::Paint;
use crate::kernels::shape::Padding;
use crate::kernels::warp::{FillMode, Interpolation};

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

/// The least and the largest of what is drawn evenly for each image.
pub type Bounds = (f64, f64);

/// Random maps of an image's coordinates. The image is zoomed and mirrored, then sheared, then
/// rotated, all about its centre, then moved; displacements are added to where its pixels are then
/// read.
#[derive(Clone, Copy, Debug)]
pub struct WarpSpec {
    /// Counterclockwise, in full turns.
    pub rotation: Bounds,
    /// Down and to the right, in heights and widths.
    pub translation: [Bounds; 2],
    /// How many heights and widths of the image are seen, less 1; None is the height's number.
    pub zoom: (Bounds, Option<Bounds>),
    /// Columns that a row is read further to the right than the one above.
    pub shear: Bounds,
    /// Whether every other image is mirrored, upside down and left to right.
    pub flip: [bool; 2],
    /// Smooth displacements.
    pub elastic: Option<Elastic>,
    /// What is outside.
    pub fill: FillMode,
    /// What is between pixels.
    pub interpolation: Interpolation,
    /// Of numbers that are the layer's own; without it, they are the training's.
    pub seed: Option<u64>,
}

impl WarpSpec {
    /// Whether no image is ever changed.
    pub fn is_identity(&self) -> bool {
        let Self { rotation, translation: [down, right], zoom: (h, w), shear, flip, .. } = *self;
        let all = [rotation, down, right, h, w.unwrap_or(h), shear];
        all == [(0.0, 0.0); 6]
            && flip == [false; 2]
            && self.elastic.is_none_or(|elastic| elastic.alpha == 0.0)
    }
}

/// Random patches that are painted over.
#[derive(Clone, Copy, Debug)]
pub struct EraseSpec {
    /// The probability, itself drawn for each image, that it is done.
    pub factor: Bounds,
    /// The square of the patch's height in heights of the image, and that of its width in widths.
    pub scale: Bounds,
    /// What with.
    pub paint: Paint,
    /// To which paint is clipped.
    pub value_range: Bounds,
    /// As of [`WarpSpec`].
    pub seed: Option<u64>,
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
        /// As of [`WarpSpec`].
        seed: Option<u64>,
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
    /// Maps of coordinates, in training.
    Warp(WarpSpec),
    /// Patches painted over, in training.
    Erase(EraseSpec),
}

impl LayerKind {
    /// Whether it changes images at random in training, and no gradient goes through it.
    pub fn augments(&self) -> bool {
        matches!(self, Self::Warp(_) | Self::Erase(_))
    }

    /// Whether it draws random numbers in training: each such layer its own, by its place among
    /// them, whatever else there is.
    pub fn draws(&self) -> bool {
        matches!(self, Self::Dropout { .. }) || self.augments()
    }
}
