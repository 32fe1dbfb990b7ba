//! Whole networks: parameters, buffers planned once, and loops of many steps for one call.

mod tutorial;

use std::collections::TryReserveError;
use std::fmt;

use crate::kernels::shape::ShapeError;
use crate::kernels::simd::Element;

pub use tutorial::{Example, Score, TutorialNet};

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

/// A buffer of zeros, where `vec!` would end the process for want of memory.
fn zeros<T: Element>(len: usize) -> Result<Vec<T>, BuildError> {
    let mut buffer = Vec::new();
    let memory =
        |_: TryReserveError| BuildError::Memory { bytes: len.saturating_mul(size_of::<T>()) };
    buffer.try_reserve_exact(len).map_err(memory)?;
    buffer.resize(len, T::zero());
    Ok(buffer)
}
