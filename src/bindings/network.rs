//! Networks: the user's description to a plan, arrays to slices, many steps without the
//! interpreter's lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::PyArray1;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::array::{Elements, filled};
use super::config::num_threads;
use super::examples::{Answers, Pixels, indices};
use super::spec;
use super::state::{Arrays, optimizer_copies, set_optimizer_state, set_weights, weight_copies};
use super::turns::{Turn, Turns};
use crate::kernels::simd::Element;
use crate::network::{self, BuildError, Call, Examples, LayerSpec, Poll};

/// Products, forward, below which a call keeps the interpreter's lock: it takes some 10 us, and
/// threads that make such calls in turn would wake each other more often than they work.
const WORK_WITHOUT_LOCK: usize = 500_000;

impl From<BuildError> for PyErr {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Shape(error) => error.into(),
            BuildError::Memory { .. } => PyMemoryError::new_err(error.to_string()),
        }
    }
}

/// A network of either element type.
enum Net {
    F32(network::Network<f32>),
    F64(network::Network<f64>),
}

/// Evaluates the expression with `$net` bound to the network of its own element type.
macro_rules! with {
    ($net:expr, $name:ident => $body:expr) => {
        match $net {
            Net::F32($name) => $body,
            Net::F64($name) => $body,
        }
    };
}

/// A compiled network: layers, weights, loss and optimiser. Its methods may be called from several
/// threads, and happen one after the other.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct Network {
    turns: Turns,
    /// Locked by the thread whose turn it is, and so never waited for.
    net: Mutex<Net>,
}

#[pymethods]
impl Network {
    /// A network of zeros. The input's shape is without the batch axis.
    #[new]
    fn new(
        input_shape: Vec<usize>,
        layers: Vec<(String, String, Bound<'_, PyDict>)>,
        dtype: &str,
    ) -> PyResult<Self> {
        let layer = |(kind, name, parameters): &(String, String, Bound<'_, PyDict>)| {
            Ok(LayerSpec { name: name.clone(), kind: spec::layer(kind, parameters)? })
        };
        let layers = layers.iter().map(layer).collect::<PyResult<Vec<_>>>()?;
        let net = match dtype {
            "float32" => Net::F32(network::Network::new(&input_shape, layers)?),
            "float64" => Net::F64(network::Network::new(&input_shape, layers)?),
            _ => {
                let why = format!("dtype: expected float32 or float64, got {dtype:?}");
                return Err(PyValueError::new_err(why));
            }
        };
        Ok(Self { turns: Turns::default(), net: Mutex::new(net) })
    }

    /// The output shape of every layer, without the batch axis.
    fn output_shapes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let net = self.lock(py)?;
        let layers = with!(&*net, net => &net.layers().layers);
        layers.iter().map(|layer| PyTuple::new(py, &layer.output)).collect()
    }

    /// For every layer, its weights in Keras's order: name, shape, and whether it is trained.
    fn weight_shapes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let net = self.lock(py)?;
        let layers = with!(&*net, net => &net.layers().layers);
        let all = PyList::empty(py);
        for layer in layers {
            let weights = PyList::empty(py);
            for weight in &layer.weights {
                let shape = PyTuple::new(py, &weight.shape)?;
                weights.append((weight.name, shape, weight.trainable))?;
            }
            all.append(weights)?;
        }
        Ok(all)
    }

    /// Copies of all weights, in Keras's order and layouts.
    fn get_weights<'py>(&self, py: Python<'py>) -> PyResult<Arrays<'py>> {
        with!(&mut *self.lock(py)?, net => weight_copies(py, net))
    }

    /// Sets what `get_weights` returns; if one does not fit, none is set.
    fn set_weights(&self, py: Python<'_>, weights: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        with!(&mut *self.lock(py)?, net => set_weights(net, &weights))
    }

    /// Chooses the loss and the optimiser, whose state starts anew.
    fn compile(
        &self,
        py: Python<'_>,
        loss: (String, Bound<'_, PyDict>),
        optimizer: (String, Bound<'_, PyDict>),
    ) -> PyResult<()> {
        let loss = spec::loss(&loss.0, &loss.1)?;
        let rule = spec::rule(&optimizer.0, &optimizer.1)?;
        let averaging = spec::averaging(&optimizer.1)?;
        Ok(with!(&mut *self.lock(py)?, net => net.compile(loss, rule, averaging))?)
    }

    /// Takes one step for every rate, on `batch_size` of the images `order` each. Returns the sum
    /// of the images' losses of each step, and how many images were predicted right, each in its
    /// own step. The arrays must not change meanwhile.
    fn train<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        order: &Bound<'py, PyAny>,
        batch_size: usize,
        rates: &Bound<'py, PyAny>,
        seed: u64,
        first_step: u64,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, usize)> {
        let order = Elements::<i64>::new("order", order)?;
        let rates = Elements::<f64>::new("rates", rates)?.to_vec();
        if batch_size == 0 {
            let why = "batch_size: expected at least 1, got 0";
            return Err(PyValueError::new_err(why));
        }
        let steps = order.len().div_ceil(batch_size);
        if rates.len() != steps {
            let why = format!("rates: expected one for each of {steps} steps, got {}", rates.len());
            return Err(PyValueError::new_err(why));
        }
        if let Some(rate) = rates.iter().find(|rate| !rate.is_finite()) {
            let why = format!("rates: expected finite learning rates, got {rate}");
            return Err(PyValueError::new_err(why));
        }
        with!(&mut *self.lock(py)?, net => {
            let pixels = Pixels::new(x, &net.layers().input)?;
            let order = indices(&order, pixels.images())?;
            let answers = answers(net, y, pixels.images(), order.iter().copied())?;
            let examples = Examples { x: pixels.source(), targets: answers.targets() };
            let (work, threads) = (net.work(order.len()), num_threads());
            let call =
                Call { order: &order, batch: batch_size, rates: &rates, seed, first_step, threads };
            let train = |poll: Poll<'_>| net.train(examples, call, poll);
            let outcome = interruptible(py, work, train)?;
            Ok((PyArray1::from_vec(py, outcome.losses), outcome.correct))
        })
    }

    /// The sum of all images' losses, and how many are predicted right.
    fn evaluate(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
    ) -> PyResult<(f64, usize)> {
        with!(&mut *self.lock(py)?, net => {
            let pixels = Pixels::new(x, &net.layers().input)?;
            let answers = answers(net, y, pixels.images(), 0..pixels.images())?;
            let examples = Examples { x: pixels.source(), targets: answers.targets() };
            let (images, threads) = (pixels.images(), num_threads());
            let work = net.work(images);
            let evaluate = |poll: Poll<'_>| net.evaluate(examples, images, threads, poll);
            let outcome = interruptible(py, work, evaluate)?;
            Ok((outcome.losses.iter().sum(), outcome.correct))
        })
    }

    /// The network's output for every image; as if in training, images are changed at random if
    /// this is the n-th `augmented` time.
    #[pyo3(signature = (x, augmented=None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        augmented: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        with!(&mut *self.lock(py)?, net => {
            let pixels = Pixels::new(x, &net.layers().input)?;
            let (images, threads) = (pixels.images(), num_threads());
            let work = net.work(images);
            let mut shape = vec![images];
            shape.extend(net.layers().output());
            let mut done = Ok(false);
            let fill = |out: &mut [_]| {
                // NumPy's new memory is whatever was there before; and the call may be interrupted.
                out.fill(Default::default());
                let x = pixels.source();
                done = interruptible(py, work, |poll| {
                    net.predict(out, x, images, augmented, threads, poll)
                });
            };
            // SAFETY: all elements are set before anything else.
            let out = unsafe { filled(py, &shape, fill) }?;
            done?;
            Ok(out.into_any())
        })
    }

    /// Puts the averages of the trained weights in their place, or the weights back there, which
    /// `train` and `set_weights` do first. Nothing happens if averages are not kept, or none yet.
    fn show_averages(&self, py: Python<'_>, shown: bool) -> PyResult<()> {
        with!(&mut *self.lock(py)?, net => net.show_averages(shown));
        Ok(())
    }

    /// Makes the trained weights their averages. Nothing happens if averages are not kept, or none
    /// yet.
    fn take_averages(&self, py: Python<'_>) -> PyResult<()> {
        with!(&mut *self.lock(py)?, net => net.take_averages());
        Ok(())
    }

    /// How many steps the optimiser has taken.
    fn steps(&self, py: Python<'_>) -> PyResult<u64> {
        let steps = with!(&mut *self.lock(py)?, net => net.optimizer().map(|it| it.steps));
        Ok(steps.unwrap_or(0))
    }

    /// What the optimiser remembers: the number of its steps (1,), then arrays of all parameters,
    /// as they are stored, the averages last; then, if there are averages, whether they stand in
    /// the weights' place, 0 or 1 (1,). Empty before `compile`.
    fn optimizer_state<'py>(&self, py: Python<'py>) -> PyResult<Arrays<'py>> {
        with!(&mut *self.lock(py)?, net => optimizer_copies(py, net))
    }

    /// What `get_weights` and `optimizer_state` return, after the same step.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<(Arrays<'py>, Arrays<'py>)> {
        with!(&mut *self.lock(py)?, net => {
            Ok((weight_copies(py, net)?, optimizer_copies(py, net)?))
        })
    }

    /// Sets what `optimizer_state` returns.
    fn set_optimizer_state(&self, py: Python<'_>, state: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        with!(&mut *self.lock(py)?, net => {
            set_optimizer_state(net.optimizer().ok_or_else(not_compiled)?, &state)
        })
    }
}

impl Network {
    /// Waits without the interpreter's lock. A panic cannot leave the network half-built, only
    /// half-trained, so poison is ignored.
    ///
    /// # Errors
    /// If it would wait for ever, or is interrupted.
    fn lock(&self, py: Python<'_>) -> PyResult<Locked<'_>> {
        let turn = self.turns.take(py)?;
        let net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Locked { net, _turn: turn })
    }
}

/// A network that nobody else uses now.
struct Locked<'a> {
    net: MutexGuard<'a, Net>,
    /// It ends when the network is no longer locked.
    _turn: Turn<'a>,
}

impl Deref for Locked<'_> {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.net
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Net {
        &mut self.net
    }
}

/// What should be said of the images, as the network's loss wants it.
fn answers<'py, T: Element + numpy::Element>(
    net: &network::Network<T>,
    y: &Bound<'py, PyAny>,
    images: usize,
    looked_at: impl Iterator<Item = usize> + Clone,
) -> PyResult<Answers<'py, T>> {
    let loss = net.loss().ok_or_else(not_compiled)?;
    Answers::new(loss, net.layers().output(), y, images, looked_at)
}

fn not_compiled() -> PyErr {
    PyRuntimeError::new_err("expected a call of compile first, got none")
}

/// Runs `call` of so many products, forward; what it polls is whether a signal has come. If it is
/// worth it, this is without the interpreter's lock.
fn interruptible<R: Send>(
    py: Python<'_>,
    work: usize,
    call: impl FnOnce(Poll<'_>) -> Result<R, BuildError> + Send,
) -> PyResult<R> {
    let signal = Mutex::new(None);
    let keeps_lock = work < WORK_WITHOUT_LOCK;
    let handles_signals = keeps_lock || is_main_thread(py)?;
    let poll = || {
        if !handles_signals {
            return false;
        }
        let Err(error) = Python::attach(|py| py.check_signals()) else { return false };
        *signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        true
    };
    let result = if keeps_lock { call(&poll) } else { py.detach(|| call(&poll)) };
    match signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// Whether signals are handled in this thread; in others, to ask for them would only be to wait for
/// the interpreter's lock.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import(intern!(py, "threading"))?;
    let this = threading.call_method0(intern!(py, "get_ident"))?;
    let main = threading.call_method0(intern!(py, "main_thread"))?;
    this.eq(main.getattr(intern!(py, "ident"))?)
}
