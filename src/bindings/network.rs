//! The tutorial's network, trained in chunks of steps without the interpreter's lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyIndexError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::array::{contiguous, expect_shape, filled, sizes};
use crate::dispatch;
use crate::kernels::simd;
use crate::network::{self, BuildError, Example, Score};

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
        let transposed = |copy: &mut [f32]| {
            for (input, copy) in copy.chunks_exact_mut(net.dense().outputs()).enumerate() {
                let rows = weights.chunks_exact(net.dense().inputs());
                copy.iter_mut().zip(rows).for_each(|(to, row)| *to = row[input]);
            }
        };
        // SAFETY: each of the three writes its whole array: there are as many rows of weights as
        // outputs, and the copies would panic at another length.
        unsafe {
            Ok((
                filled(py, &of_kernel, |copy| copy.copy_from_slice(kernel))?,
                filled(py, &of_weights, transposed)?,
                filled(py, &of_biases, |copy| copy.copy_from_slice(biases))?,
            ))
        }
    }

    /// Sets what `get_weights` returns.
    fn set_weights(
        &self,
        py: Python<'_>,
        kernel: &Bound<'_, PyAny>,
        weights: &Bound<'_, PyAny>,
        biases: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let kernel = contiguous::<f32>("kernel", kernel)?.try_readonly()?;
        let weights = contiguous::<f32>("weights", weights)?.try_readonly()?;
        let biases = contiguous::<f32>("biases", biases)?.try_readonly()?;
        let mut net = self.lock(py);
        let [of_kernel, of_weights, of_biases] = keras_shapes(&net);
        expect_shape("kernel", kernel.shape(), &of_kernel)?;
        expect_shape("weights", weights.shape(), &of_weights)?;
        expect_shape("biases", biases.shape(), &of_biases)?;
        let inputs = net.dense().inputs();
        let [k, w, b] = net.parameters_mut();
        k.copy_from_slice(kernel.as_slice()?);
        b.copy_from_slice(biases.as_slice()?);
        for (input, from) in weights.as_slice()?.chunks_exact(b.len()).enumerate() {
            w.chunks_exact_mut(inputs).zip(from).for_each(|(row, &from)| row[input] = from);
        }
        Ok(())
    }

    /// One step of gradient descent on each of the images `order`, in turn. Returns the sum of
    /// their losses and how many were predicted right, each before its own step. The images must
    /// not change meanwhile.
    fn train(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        labels: &Bound<'_, PyAny>,
        order: &Bound<'_, PyAny>,
        learn_rate: f32,
    ) -> PyResult<(f64, usize)> {
        if !learn_rate.is_finite() {
            let why = format!("learn_rate: expected a finite float32, got {learn_rate}");
            return Err(PyValueError::new_err(why));
        }
        self.run(py, images, labels, order, |net, images, examples| {
            dispatch!(f32, simd::level(), simd => net.train(simd, images, examples, learn_rate))
        })
    }

    /// The same sums over the images `order`, without learning from them.
    fn evaluate(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        labels: &Bound<'_, PyAny>,
        order: &Bound<'_, PyAny>,
    ) -> PyResult<(f64, usize)> {
        self.run(py, images, labels, order, |net, images, examples| {
            dispatch!(f32, simd::level(), simd => net.evaluate(simd, images, examples))
        })
    }
}

type Net = network::TutorialNet<f32>;

impl TutorialNet {
    /// Checks everything, so that nothing can fail once the steps begin, and then runs them without
    /// the interpreter's lock. Labels and order are copied; the images are too many, and a Python
    /// thread that writes to them meanwhile gets the pixels mixed that it mixes.
    fn run(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        labels: &Bound<'_, PyAny>,
        order: &Bound<'_, PyAny>,
        steps: impl FnOnce(&mut Net, &[u8], &[Example]) -> Score + Send,
    ) -> PyResult<(f64, usize)> {
        let images = contiguous::<u8>("images", images)?.try_readonly()?;
        let labels = contiguous::<u8>("labels", labels)?.try_readonly()?;
        let order = contiguous::<i64>("order", order)?.try_readonly()?;
        let mut net = self.lock(py);
        let (height, width, _) = net.conv_pool().conv().input();
        let [n] = sizes("labels", "(n,)", labels.shape())?;
        let [_] = sizes("order", "(steps,)", order.shape())?;
        expect_shape("images", images.shape(), &[n, height, width])?;
        let examples = examples(labels.as_slice()?, order.as_slice()?, net.dense().outputs())?;
        let (net, images) = (&mut *net, images.as_slice()?);
        let score = py.detach(|| steps(net, images, &examples));
        Ok((score.loss, score.correct))
    }

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

/// The label of each image of `order`.
fn examples(labels: &[u8], order: &[i64], classes: usize) -> PyResult<Vec<Example>> {
    let n = labels.len();
    let example = |&index: &i64| {
        let image = usize::try_from(index).ok().filter(|&image| image < n).ok_or_else(|| {
            let why = format!("order: expected indices from 0 to below {n}, got {index}");
            PyIndexError::new_err(why)
        })?;
        let label = usize::from(labels[image]);
        if label >= classes {
            return Err(PyValueError::new_err(format!(
                "labels: expected classes below {classes}, got {label} at index {image}"
            )));
        }
        Ok(Example { image, label })
    };
    order.iter().map(example).collect()
}
