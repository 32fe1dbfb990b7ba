//! Images and what should be said of them, checked.

use numpy::PyArrayDyn;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::array::{Elements, expect_shape, kind};
use crate::kernels::loss::{Loss, Targets};
use crate::kernels::rescale::Source;
use crate::kernels::shape::tuple;
use crate::kernels::simd::Element;

/// Images of any type that networks read.
pub enum Pixels<'py> {
    U8(Elements<'py, u8>),
    F32(Elements<'py, f32>),
    F64(Elements<'py, f64>),
}

impl<'py> Pixels<'py> {
    /// Images (n, *shape).
    pub fn new(x: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Self> {
        let pixels = if x.cast::<PyArrayDyn<u8>>().is_ok() {
            Self::U8(Elements::new("x", x)?)
        } else if x.cast::<PyArrayDyn<f32>>().is_ok() {
            Self::F32(Elements::new("x", x)?)
        } else if x.cast::<PyArrayDyn<f64>>().is_ok() {
            Self::F64(Elements::new("x", x)?)
        } else {
            return Err(PyTypeError::new_err(format!(
                "x: expected an array of uint8, float32 or float64, got {}",
                kind(x)
            )));
        };
        let got = pixels.shape();
        if got.len() != shape.len() + 1 || &got[1..] != shape {
            let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
            return Err(PyValueError::new_err(format!(
                "x: expected shape (n, {}), got {}",
                sizes.join(", "),
                tuple(got)
            )));
        }
        Ok(pixels)
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::U8(array) => array.shape(),
            Self::F32(array) => array.shape(),
            Self::F64(array) => array.shape(),
        }
    }

    pub fn images(&self) -> usize {
        self.shape()[0]
    }

    pub fn source(&self) -> Source<'_> {
        match self {
            Self::U8(array) => Source::U8(array),
            Self::F32(array) => Source::F32(array),
            Self::F64(array) => Source::F64(array),
        }
    }
}

/// What should be said of the images, as the loss wants it.
pub enum Answers<'py, T: numpy::Element> {
    /// Of the images that are looked at, in their order. They are copies, since what they are of
    /// may change after it has been checked.
    Labels(Vec<i64>),
    Values(Elements<'py, T>),
}

impl<'py, T: Element + numpy::Element> Answers<'py, T> {
    /// For this loss of outputs of that shape, and for so many images, of which some are
    /// `looked_at`.
    pub fn new(
        loss: Loss,
        output: &[usize],
        y: &Bound<'py, PyAny>,
        images: usize,
        looked_at: impl Iterator<Item = usize> + Clone,
    ) -> PyResult<Self> {
        match loss {
            Loss::SparseCategoricalCrossentropy { .. } => {
                let labels = Elements::<i64>::new("y", y)?;
                expect_shape("y", labels.shape(), &[images])?;
                let classes = output.iter().product();
                taken(&labels, looked_at, classes).map(Self::Labels)
            }
            _ => {
                let values = Elements::<T>::new("y", y)?;
                let mut expected = vec![images];
                expected.extend(output);
                expect_shape("y", values.shape(), &expected)?;
                Ok(Self::Values(values))
            }
        }
    }

    pub fn targets(&self) -> Targets<'_, T> {
        match self {
            Self::Labels(labels) => Targets::Labels(labels),
            Self::Values(values) => Targets::Values(values),
        }
    }
}

/// The labels of the images that are looked at, if they are all classes.
fn taken(
    labels: &[i64],
    looked_at: impl Iterator<Item = usize> + Clone,
    classes: usize,
) -> PyResult<Vec<i64>> {
    let is_class = |&label: &i64| usize::try_from(label).is_ok_and(|label| label < classes);
    let taken: Vec<i64> = looked_at.clone().map(|at| labels[at]).collect();
    match taken.iter().zip(looked_at).find(|(label, _)| !is_class(label)) {
        None => Ok(taken),
        Some((label, at)) => Err(PyValueError::new_err(format!(
            "y: expected classes from 0 to below {classes}, got {label} at index {at}"
        ))),
    }
}

/// Checked indices of images.
pub fn indices(order: &[i64], images: usize) -> PyResult<Vec<usize>> {
    let index = |&index: &i64| usize::try_from(index).unwrap_or(usize::MAX);
    let indices: Vec<usize> = order.iter().map(index).collect();
    match indices.iter().zip(order).find(|&(&index, _)| index >= images) {
        None => Ok(indices),
        Some((_, index)) => Err(PyIndexError::new_err(format!(
            "order: expected indices from 0 to below {images}, got {index}"
        ))),
    }
}
