//! The steps: one file for each kind.

mod activation;
mod batch_norm;
mod conv;
mod dense;
mod dropout;
mod erase;
mod folding;
mod pool;
mod rescale;
mod warp;

pub use activation::ActivationStep;
pub use batch_norm::{AffineStep, BatchNormStep};
pub use conv::{Conv, ConvStep, Gradients, Pooling};
pub use dense::DenseStep;
pub use dropout::DropoutStep;
pub use erase::EraseStep;
pub use folding::Norm;
pub use pool::{AveragePoolStep, MaxPoolStep};
pub use rescale::RescaleStep;
pub use warp::WarpStep;

use crate::kernels::activation::Activation;

/// The activation that goes with other steps.
pub const RELU: Activation = Activation::Relu { negative_slope: 0.0, max_value: None };
