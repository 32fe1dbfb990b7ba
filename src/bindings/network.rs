//! The tutorial's network, trained in chunks of steps without the interpreter's lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{
    PyArrayDyn, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyIndexError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::array::{expect_shape, filled};
use crate::dispatch;
use crate::kernels::simd;
use crate::network::{self, BuildError, Example};

type Array<'py> = Bound<'py, PyArrayDyn<f32>>;

impl From<BuildError> for PyErr {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Shape(error) => error.into(),
            BuildError::Memory { .. } => PyMemoryError::new_err(error.to_string()),
        }
    }
}

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
    fn get_weights<'py>(&self, py: Python<'py>) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
        let net = self.lock(py);
        let [kernel, weights, biases] = net.parameters();
        let [of_kernel, of_weights, of_biases] = keras_shapes(&net);
        Ok((
            filled(py, &of_kernel, |copy| copy.copy_from_slice(kernel))?,
            filled(py, &of_weights, |copy| {
                for (input, copy) in copy.chunks_exact_mut(net.dense().outputs()).enumerate() {
                    let rows = weights.chunks_exact(net.dense().inputs());
                    copy.iter_mut().zip(rows).for_each(|(to, row)| *to = row[input]);
                }
            })?,
            filled(py, &of_biases, |copy| copy.copy_from_slice(biases))?,
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
        let mut net = self.lock(py);
        let [of_kernel, of_weights, of_biases] = keras_shapes(&net);
        expect_shape("kernel", kernel.shape(), &of_kernel)?;
        expect_shape("weights", weights.shape(), &of_weights)?;
        expect_shape("biases", biases.shape(), &of_biases)?;
        let [k, w, b] = net.parameters_mut();
        k.iter_mut().zip(kernel.as_array()).for_each(|(to, &from)| *to = from);
        w.iter_mut().zip(weights.as_array().t()).for_each(|(to, &from)| *to = from);
        b.iter_mut().zip(biases.as_array()).for_each(|(to, &from)| *to = from);
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
        let mut net = self.lock(py);
        let examples = examples(&net, &images, &labels, &order)?;
        let (net, images) = (&mut *net, image_bytes(&images)?);
        let score = py.detach(
            || dispatch!(simd::level(), simd => net.train(simd, images, &examples, learn_rate)),
        );
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
        let mut net = self.lock(py);
        let examples = examples(&net, &images, &labels, &order)?;
        let (net, images) = (&mut *net, image_bytes(&images)?);
        let score =
            py.detach(|| dispatch!(simd::level(), simd => net.evaluate(simd, images, &examples)));
        Ok((score.loss, score.correct))
    }
}

impl TutorialNet {
    /// Waits without the interpreter's lock. A panic cannot leave the network half-built, only
    /// half-trained, so poison is ignored.
    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, network::TutorialNet<f32>> {
        self.net.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }
}

/// kernel (3, 3, 1, num_filters), weights (inputs, classes), biases (classes,)
fn keras_shapes(net: &network::TutorialNet<f32>) -> [Vec<usize>; 3] {
    let (conv, dense) = (net.conv_pool().conv(), net.dense());
    let (kh, kw) = conv.window();
    [vec![kh, kw, 1, conv.c_out()], vec![dense.inputs(), dense.outputs()], vec![dense.outputs()]]
}

/// The images' bytes in C order; `as_slice` alone would take Fortran order too.
fn image_bytes<'a>(images: &'a PyReadonlyArray3<'_, u8>) -> PyResult<&'a [u8]> {
    if !images.is_c_contiguous() {
        return Err(PyValueError::new_err("images: expected a C-contiguous array, got another"));
    }
    Ok(images.as_slice()?)
}

/// Looks up every label of `order`, so that nothing can fail once the steps begin.
fn examples(
    net: &network::TutorialNet<f32>,
    images: &PyReadonlyArray3<'_, u8>,
    labels: &PyReadonlyArray1<'_, u8>,
    order: &PyReadonlyArray1<'_, i64>,
) -> PyResult<Vec<Example>> {
    let (height, width, _) = net.conv_pool().conv().input();
    let classes = net.dense().outputs();
    let n = labels.len();
    expect_shape("images", images.shape(), &[n, height, width])?;
    let labels = labels.as_array();
    let example = |&index: &i64| {
        let image = usize::try_from(index).ok().filter(|&image| image < n).ok_or_else(|| {
            PyIndexError::new_err(format!(
                "order: expected indices from 0 to below {n}, got {index}"
            ))
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
