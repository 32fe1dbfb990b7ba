//! Networks: the user's description to a plan, arrays to slices, many steps without the
//! interpreter's lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray1, PyArrayDyn};
use pyo3::exceptions::{PyIndexError, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::array::{Elements, expect_shape, filled, kind};
use super::config::num_threads;
use super::spec;
use super::turns::{Turn, Turns};
use crate::kernels::loss::{Loss, Targets};
use crate::kernels::shape::tuple;
use crate::kernels::simd::Element;
use crate::network::{self, BuildError, Call, Examples, LayerSpec, Poll, Weight};

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

/// Evaluates the expression with `$x` bound to the slice of the images' own type.
macro_rules! with_slice {
    ($pixels:expr, $x:ident => $body:expr) => {
        match &$pixels {
            Pixels::U8(elements) => {
                let $x = &elements[..];
                $body
            }
            Pixels::F32(elements) => {
                let $x = &elements[..];
                $body
            }
            Pixels::F64(elements) => {
                let $x = &elements[..];
                $body
            }
        }
    };
}

/// Steps that an optimiser may have taken, with room to count on: more than there ever are.
const MOST_STEPS: u64 = 1 << 62;

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
        rates: Vec<f64>,
        seed: u64,
        first_step: u64,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, usize)> {
        let order = Elements::<i64>::new("order", order)?;
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
            let answers = Answers::new(net, y, pixels.images(), order.iter().copied())?;
            let targets = answers.targets();
            let threads = num_threads();
            let call =
                Call { order: &order, batch: batch_size, rates: &rates, seed, first_step, threads };
            let outcome = with_slice!(pixels, x => {
                interruptible(py, net.work(order.len()), |poll| net.train(Examples { x, targets }, call, poll))
            })?;
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
            let answers = Answers::new(net, y, pixels.images(), 0..pixels.images())?;
            let targets = answers.targets();
            let (images, threads) = (pixels.images(), num_threads());
            let outcome = with_slice!(pixels, x => {
                interruptible(py, net.work(images), |poll| {
                    net.evaluate(Examples { x, targets }, images, threads, poll)
                })
            })?;
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
            let mut shape = vec![images];
            shape.extend(net.layers().output());
            let mut done = Ok(false);
            let fill = |out: &mut [_]| {
                // NumPy's new memory is whatever was there before; and the call may be interrupted.
                out.fill(Default::default());
                done = with_slice!(pixels, x => {
                    interruptible(py, net.work(images), |poll| net.predict(out, x, images, augmented, threads, poll))
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
            let optimizer = net.optimizer().ok_or_else(not_compiled)?;
            let slots = optimizer.slots().count();
            let expected = 1 + slots + usize::from(optimizer.shown().is_some());
            if state.len() != expected {
                let why = format!("state: expected {expected} arrays, got {}", state.len());
                return Err(PyValueError::new_err(why));
            }
            let number = |array| {
                let array = Elements::<i64>::new("state", array)?;
                expect_shape("state", array.shape(), &[1])?;
                PyResult::Ok(array[0])
            };
            let given = number(&state[0])?;
            let steps = u64::try_from(given).ok().filter(|&steps| steps <= MOST_STEPS);
            let steps = steps.ok_or_else(|| {
                let why = format!("state: expected from 0 to {MOST_STEPS} steps, got {given}");
                PyValueError::new_err(why)
            })?;
            let mut arrays = vec![];
            for (slot, array) in optimizer.slots().zip(&state[1..]) {
                let array = Elements::new("state", array)?;
                expect_shape("state", array.shape(), &[slot.len()])?;
                arrays.push(array);
            }
            let is_shown = match state.get(1 + slots).map(number).transpose()? {
                None | Some(0) => false,
                Some(1) => true,
                Some(other) => {
                    let why = format!("state: expected 0 or 1 at its end, got {other}");
                    return Err(PyValueError::new_err(why));
                }
            };
            if is_shown && steps == 0 {
                let why = "state: expected averages in the weights' place after a step, got 0 steps";
                return Err(PyValueError::new_err(why));
            }
            if let Some(shown) = optimizer.shown() {
                *shown = is_shown;
            }
            for (slot, array) in optimizer.slots().zip(&arrays) {
                slot.copy_from_slice(array);
            }
            optimizer.steps = steps;
            Ok(())
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

/// Arrays of the network's type, or of integers.
type Arrays<'py> = Vec<Bound<'py, PyAny>>;

/// See [`Network::get_weights`].
fn weight_copies<'py, T: Element + numpy::Element>(
    py: Python<'py>,
    net: &mut network::Network<T>,
) -> PyResult<Arrays<'py>> {
    let weights = weights(net);
    let copy = |(_, weight): &(String, Weight)| {
        let stored = net.weight(weight);
        // SAFETY: as many elements are written as there are.
        let array = unsafe { filled(py, &weight.shape, |copy| weight.export(copy, stored)) };
        Ok(array?.into_any())
    };
    weights.iter().map(copy).collect()
}

/// See [`Network::optimizer_state`].
fn optimizer_copies<'py, T: Element + numpy::Element>(
    py: Python<'py>,
    net: &mut network::Network<T>,
) -> PyResult<Arrays<'py>> {
    let Some(optimizer) = net.optimizer() else { return Ok(vec![]) };
    let mut state = vec![PyArray1::from_slice(py, &[optimizer.steps as i64]).into_any()];
    for slot in optimizer.slots() {
        // SAFETY: as many elements are written as there are.
        let copy = unsafe { filled(py, &[slot.len()], |copy| copy.copy_from_slice(slot)) };
        state.push(copy?.into_any());
    }
    if let Some(&mut shown) = optimizer.shown() {
        state.push(PyArray1::from_slice(py, &[i64::from(shown)]).into_any());
    }
    Ok(state)
}

/// All weights, each with its name in full.
fn weights<T: Element>(net: &network::Network<T>) -> Vec<(String, Weight)> {
    let layers = net.layers().layers.iter();
    let named = |layer: &network::Layer, weight: &Weight| {
        (format!("{}.{}", layer.spec.name, weight.name), weight.clone())
    };
    layers.flat_map(|layer| layer.weights.iter().map(move |w| named(layer, w))).collect()
}

fn set_weights<T: Element + numpy::Element>(
    net: &mut network::Network<T>,
    given: &[Bound<'_, PyAny>],
) -> PyResult<()> {
    let weights = weights(net);
    if given.len() != weights.len() {
        let why = format!("weights: expected {} arrays, got {}", weights.len(), given.len());
        return Err(PyValueError::new_err(why));
    }
    let mut arrays = vec![];
    for ((name, weight), array) in weights.iter().zip(given) {
        let array = Elements::<T>::new(name, array)?;
        expect_shape(name, array.shape(), &weight.shape)?;
        arrays.push(array);
    }
    net.show_averages(false);
    for ((_, weight), array) in weights.iter().zip(&arrays) {
        weight.import(net.weight(weight), array);
    }
    net.weights_changed();
    Ok(())
}

/// Images of any type that networks read.
enum Pixels<'py> {
    U8(Elements<'py, u8>),
    F32(Elements<'py, f32>),
    F64(Elements<'py, f64>),
}

impl<'py> Pixels<'py> {
    /// Images (n, *shape).
    fn new(x: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Self> {
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

    fn images(&self) -> usize {
        self.shape()[0]
    }
}

/// What should be said of the images, as the loss wants it.
enum Answers<'py, T: numpy::Element> {
    /// Of the images that are looked at, in their order. They are copies, since what they are of
    /// may change after it has been checked.
    Labels(Vec<i64>),
    Values(Elements<'py, T>),
}

impl<'py, T: Element + numpy::Element> Answers<'py, T> {
    /// For so many images, of which some are `looked_at`.
    fn new(
        net: &network::Network<T>,
        y: &Bound<'py, PyAny>,
        images: usize,
        looked_at: impl Iterator<Item = usize>,
    ) -> PyResult<Self> {
        let output = net.layers().output();
        match net.loss().ok_or_else(not_compiled)? {
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

    fn targets(&self) -> Targets<'_, T> {
        match self {
            Self::Labels(labels) => Targets::Labels(labels),
            Self::Values(values) => Targets::Values(values),
        }
    }
}

/// The labels of the images that are looked at, if they are all classes.
fn taken(
    labels: &[i64],
    looked_at: impl Iterator<Item = usize>,
    classes: usize,
) -> PyResult<Vec<i64>> {
    let label = |at: usize| {
        let label = labels[at];
        if usize::try_from(label).is_ok_and(|label| label < classes) {
            return Ok(label);
        }
        Err(PyValueError::new_err(format!(
            "y: expected classes from 0 to below {classes}, got {label} at index {at}"
        )))
    };
    looked_at.map(label).collect()
}

fn not_compiled() -> PyErr {
    PyRuntimeError::new_err("expected a call of compile first, got none")
}

/// Checked indices of images.
fn indices(order: &[i64], images: usize) -> PyResult<Vec<usize>> {
    let index = |&index: &i64| {
        usize::try_from(index).ok().filter(|&image| image < images).ok_or_else(|| {
            let why = format!("order: expected indices from 0 to below {images}, got {index}");
            PyIndexError::new_err(why)
        })
    };
    order.iter().map(index).collect()
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
