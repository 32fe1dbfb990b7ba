//! Whole networks: a list of layers becomes a plan of fused steps, buffers are laid out once, and
//! one call runs many steps of training on as many threads as wanted.

mod clock;
mod exchange;
mod helpers;
mod layers;
mod model;
mod optimizer;
mod plan;
mod processors;
mod shared;
mod spec;
mod stages;
mod step;
mod steps;
mod team;
#[cfg(test)]
mod tests;
mod training;

use std::fmt;
use std::ops::Range;

use crate::kernels::shape::ShapeError;

pub use clock::Poll;
pub use helpers::dismiss as dismiss_helpers;
pub use layers::{Layer, Layers, Weight};
pub use model::Network;
pub use optimizer::{Averaging, Optimizer, Rule};
pub use processors::cores;
pub use spec::{Bounds, EraseSpec, LayerKind, LayerSpec, PoolSpec, WarpSpec};
pub use training::{Call, Examples, Outcome};

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, with dropout and the batch's own statistics, and backward.
    Training,
    /// Forward only, with moving averages.
    Inference,
    /// As inference, of images that are augmented as in training.
    AugmentedInference,
}

/// Why a network cannot be built.
#[derive(Debug)]
pub enum BuildError {
    /// The sizes do not fit together.
    Shape(ShapeError),
    /// There is not enough memory for a buffer.
    Memory {
        /// How large it would be.
        bytes: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Memory { bytes } => write!(f, "no memory for a buffer of {bytes} bytes"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<ShapeError> for BuildError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

/// `0..len` in parts of at most `size`.
fn parts(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
}
