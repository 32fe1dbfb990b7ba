//! The tutorial's network, trained in chunks of steps without the interpreter's lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::ndarray::{Array1, Array2, Array4};
use numpy::{
    PyArray1, PyArray2, PyArray4, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3,
    PyReadonlyArray4, PyUntypedArrayMethods, ToPyArray,
};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

use super::array::expect_shape;
use crate::dispatch;
use crate::kernels::simd;
use crate::network::{self, Example};

/// The arrays of `get_weights`.
type Weights<'py> =
    (Bound<'py, PyArray4<f32>>, Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<f32>>);

/// The tutorial's network in `float32`: convolution, pooling, softmax; one image a training step.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct TutorialNet {
    net: Mutex<network::TutorialNet<f32>>,
}

#[pymethods]
impl TutorialNet {
    /// A network of zeros for images of (height, width) bytes.
    #[new]
    fn new(height: usize, width: usize, num_filters: usize, classes: usize) -> PyResult<Self> {
        let net = network::TutorialNet::new(height, width, num_filters, classes)?;
        Ok(Self { net: Mutex::new(net) })
    }

    /// Copies of the kernel (3, 3, 1, num_filters), the weights (inputs, classes) and the biases
    /// (classes,).
    fn get_weights<'py>(&self, py: Python<'py>) -> PyResult<Weights<'py>> {
        let (kernel, weights, biases) = py.detach(|| {
            let net = self.lock();
            let [kernel, weights, biases] = net.parameters().map(<[f32]>::to_vec);
            let (kh, kw) = net.conv_pool().conv().window();
            let dense = net.dense();
            (
                Array4::from_shape_vec((kh, kw, 1, net.conv_pool().conv().c_out()), kernel),
                Array2::from_shape_vec((dense.outputs(), dense.inputs()), weights),
                Array1::from_vec(biases),
            )
        });
        let shape_error = |error| PyValueError::new_err(format!("{error}"));
        Ok((
            kernel.map_err(shape_error)?.to_pyarray(py),
            weights.map_err(shape_error)?.t().to_pyarray(py),
            biases.to_pyarray(py),
        ))
    }

    /// Sets what `get_weights` returns.
    fn set_weights(
        &self,
        py: Python<'_>,
        kernel: PyReadonlyArray4<'_, f32>,
        weights: PyReadonlyArray2<'_, f32>,
        biases: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<()> {
        let (conv, dense) = py.detach(|| {
            let net = self.lock();
            (*net.conv_pool().conv(), *net.dense())
        });
        let (kh, kw) = conv.window();
        expect_shape("kernel", kernel.shape(), &[kh, kw, 1, conv.c_out()])?;
        expect_shape("weights", weights.shape(), &[dense.inputs(), dense.outputs()])?;
        expect_shape("biases", biases.shape(), &[dense.outputs()])?;
        let (kernel, weights, biases) = (kernel.as_array(), weights.as_array(), biases.as_array());
        py.detach(|| {
            let mut net = self.lock();
            let [k, w, b] = net.parameters_mut();
            k.iter_mut().zip(&kernel).for_each(|(to, &from)| *to = from);
            w.iter_mut().zip(weights.t()).for_each(|(to, &from)| *to = from);
            b.iter_mut().zip(&biases).for_each(|(to, &from)| *to = from);
        });
        Ok(())
    }

    /// One step of gradient descent on each of the images `order`, in turn. Returns the sum of
    /// their losses and how many were predicted right, each before its own step.
    fn train(
        &self,
        py: Python<'_>,
        images: PyReadonlyArray3<'_, u8>,
        labels: PyReadonlyArray1<'_, u8>,
        order: PyReadonlyArray1<'_, i64>,
        learn_rate: f32,
    ) -> PyResult<(f64, usize)> {
        let examples = self.examples(py, &images, &labels, &order)?;
        let images = images.as_slice()?;
        let score = py.detach(|| {
            let mut net = self.lock();
            dispatch!(simd::level(), simd => net.train(simd, images, &examples, learn_rate))
        });
        Ok((score.loss, score.correct))
    }

    /// The same sums over the images `order`, without learning from them.
    fn evaluate(
        &self,
        py: Python<'_>,
        images: PyReadonlyArray3<'_, u8>,
        labels: PyReadonlyArray1<'_, u8>,
        order: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<(f64, usize)> {
        let examples = self.examples(py, &images, &labels, &order)?;
        let images = images.as_slice()?;
        let score = py.detach(|| {
            let mut net = self.lock();
            dispatch!(simd::level(), simd => net.evaluate(simd, images, &examples))
        });
        Ok((score.loss, score.correct))
    }
}

impl TutorialNet {
    /// A panic cannot leave the network half-built, only half-trained, so poison is ignored.
    fn lock(&self) -> MutexGuard<'_, network::TutorialNet<f32>> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up every label of `order`, so that nothing can fail once the steps begin.
    fn examples(
        &self,
        py: Python<'_>,
        images: &PyReadonlyArray3<'_, u8>,
        labels: &PyReadonlyArray1<'_, u8>,
        order: &PyReadonlyArray1<'_, i64>,
    ) -> PyResult<Vec<Example>> {
        let (height, width, classes) = py.detach(|| {
            let net = self.lock();
            let (h, w, _) = net.conv_pool().conv().input();
            (h, w, net.dense().outputs())
        });
        let n = labels.len();
        expect_shape("images", images.shape(), &[n, height, width])?;
        let labels = labels.as_array();
        let example = |&index: &i64| {
            let image =
                usize::try_from(index).ok().filter(|&image| image < n).ok_or_else(|| {
                    PyIndexError::new_err(format!("order: expected indices below {n}, got {index}"))
                })?;
            let label = usize::from(labels[image]);
            if label >= classes {
                return Err(PyValueError::new_err(format!(
                    "labels: expected classes below {classes}, got {label} at index {image}"
                )));
            }
            Ok(Example { image, label })
        };
        order.as_array().iter().map(example).collect()
    }
}
