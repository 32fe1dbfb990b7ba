//! The tutorial's layers, one image at a time, in `float64`. Each call is alone from its checks to
//! its last write, so that concurrent calls on one layer happen in some order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyTuple;

use super::array::{Input, Order, expect_shape, filled, kind, read, sizes, write, zeros};
use crate::kernels::pack::packed_len;
use crate::kernels::run;
use crate::kernels::shape::{ConvShape, DenseShape, PoolShape};

type Array = PyArrayDyn<f64>;

/// A side of the tutorial's kernels, and how many taps that makes.
const K: usize = 3;
const TAPS: usize = K * K;

/// What a call holds once its arguments are converted: with the interpreter's lock, or without one.
///
/// Whoever holds it keeps that lock and runs no Python code, for results or errors either. In such
/// code a finaliser could call a layer and wait for itself, and a fork could leave a child to wait
/// for a thread that it does not have.
fn alone(py: Python<'_>) -> MutexGuard<'static, ()> {
    static CALLS: Mutex<()> = Mutex::new(());
    CALLS.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
}

/// Refuses what is no `float64` array before a call is alone: to say what it is runs Python code.
fn expect_float64(name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if value.cast::<Array>().is_err() {
        read(name, value, Order::C)?;
    }
    Ok(())
}

/// A learning rate.
fn rate(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.extract().map_err(|error: PyErr| {
        if !error.is_instance_of::<PyTypeError>(value.py()) {
            return error; // raised by the value's own code
        }
        let got = value.repr().map_or_else(|_| kind(value), |repr| repr.to_string());
        PyTypeError::new_err(format!("learn_rate: expected a real number, got {got}"))
    })
}

fn conv_shape(image: &[usize], filters: &[usize]) -> PyResult<ConvShape> {
    let [h, w] = sizes("input", "(h, w)", image)?;
    let [n, _, _] = sizes("filters", "(num_filters, 3, 3)", filters)?;
    expect_shape("filters", filters, &[n, K, K])?;
    Ok(ConvShape::valid((h, w, 1), (K, K), n)?)
}

/// image (h, w), filters (num_filters, 3, 3) -> (h - 2, w - 2, num_filters)
#[pyfunction]
pub fn conv3x3_forward<'py>(
    py: Python<'py>,
    image: &Bound<'py, PyAny>,
    filters: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, Array>> {
    let image = Input::new("input", image)?;
    expect_float64("filters", filters)?;
    let _alone = alone(py);
    let filters = read("filters", filters, Order::C)?;
    let shape = conv_shape(image.shape()?, filters.shape())?;
    let (image, filters) = (image.elements()?, filters.as_slice()?);

    let (h, w, n) = shape.output();
    let mut packed = zeros(packed_len::<f64>(TAPS, n))?;
    run::pack_filters(&mut packed, filters, TAPS, n);
    let fill = |out: &mut [f64]| {
        run::conv_forward(out, image, &packed, None, false, &shape, 1);
    };
    // SAFETY: the kernel checks the lengths and writes its whole output.
    unsafe { filled(py, &[h, w, n], fill) }
}

/// d_L_d_out (h - 2, w - 2, num_filters), image (h, w): filters -= learn_rate * gradient
#[pyfunction]
pub fn conv3x3_backprop(
    d_out: &Bound<'_, PyAny>,
    image: &Bound<'_, PyAny>,
    filters: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = rate)] learn_rate: f64,
) -> PyResult<()> {
    let (d_out, image) = (Input::new("d_L_d_out", d_out)?, Input::new("input", image)?);
    expect_float64("filters", filters)?;
    let _alone = alone(d_out.py());
    let mut filters = write("filters", filters, Order::C)?;
    let shape = conv_shape(image.shape()?, filters.shape())?;
    let (h, w, n) = shape.output();
    expect_shape("d_L_d_out", d_out.shape()?, &[h, w, n])?;
    // The filters are written only when all else has been read.
    let (d_out, image) = (d_out.elements()?, image.elements()?);
    let mut d_kernel = zeros(shape.kernel_len())?;
    let mut d_filters = zeros(shape.kernel_len())?;
    run::conv_backward_kernel(&mut d_kernel, d_out, image, &shape, 1);
    // (taps, filters) to (filters, taps)
    for (i, d_filter) in d_filters.iter_mut().enumerate() {
        *d_filter = d_kernel[i % TAPS * n + i / TAPS];
    }
    run::sgd(filters.as_slice_mut()?, &d_filters, learn_rate);
    Ok(())
}

fn pool_shape(input: &[usize]) -> PyResult<PoolShape> {
    let [h, w, c] = sizes("input", "(h, w, channels)", input)?;
    Ok(PoolShape::halving((h, w, c))?)
}

/// input (h, w, c) -> (h // 2, w // 2, c)
#[pyfunction]
pub fn max_pool2_forward<'py>(
    py: Python<'py>,
    input: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, Array>> {
    let input = Input::new("input", input)?;
    let _alone = alone(py);
    let shape = pool_shape(input.shape()?)?;
    let x = input.elements()?;
    let (h, w, c) = shape.output();
    let fill = |out: &mut [f64]| {
        run::max_pool_forward(out, x, &shape, 1);
    };
    // SAFETY: the kernel checks the lengths and writes its whole output.
    unsafe { filled(py, &[h, w, c], fill) }
}

/// d_L_d_out (h // 2, w // 2, c), input (h, w, c) -> (h, w, c)
#[pyfunction]
pub fn max_pool2_backprop<'py>(
    py: Python<'py>,
    d_out: &Bound<'py, PyAny>,
    input: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, Array>> {
    let (d_out, input) = (Input::new("d_L_d_out", d_out)?, Input::new("input", input)?);
    let _alone = alone(py);
    let shape = pool_shape(input.shape()?)?;
    let (h, w, c) = shape.output();
    expect_shape("d_L_d_out", d_out.shape()?, &[h, w, c])?;
    let (d_out, x) = (d_out.elements()?, input.elements()?);
    let fill = |d_x: &mut [f64]| {
        run::max_pool_backward_ties(d_x, d_out, x, &shape, 1);
    };
    // SAFETY: the kernel checks the lengths and writes its whole output.
    unsafe { filled(py, input.shape()?, fill) }
}

fn dense_shape(input_len: usize, weights: &[usize], biases: &[usize]) -> PyResult<DenseShape> {
    let [inputs, nodes] = sizes("weights", "(input_len, nodes)", weights)?;
    expect_shape("input, flattened", &[input_len], &[inputs])?;
    expect_shape("biases", biases, &[nodes])?;
    Ok(DenseShape::new(inputs, nodes)?)
}

/// One row; `p` and `totals` (nodes,).
fn softmax(p: &mut [f64], totals: &[f64]) {
    run::softmax_forward(p, totals, totals.len());
}

/// What `softmax_forward` returns: out (nodes,), the input flattened (input_len,), the input's
/// shape, totals (nodes,).
type SoftmaxForward<'py> =
    (Bound<'py, Array>, Bound<'py, Array>, Bound<'py, PyTuple>, Bound<'py, Array>);

/// input of any shape, weights (input_len, nodes) in Fortran order, biases (nodes,)
#[pyfunction]
pub fn softmax_forward<'py>(
    py: Python<'py>,
    input: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    biases: &Bound<'py, PyAny>,
) -> PyResult<SoftmaxForward<'py>> {
    let input = Input::new("input", input)?;
    expect_float64("weights", weights)?;
    expect_float64("biases", biases)?;
    let (out, flat, input_shape, totals) = {
        let _alone = alone(py);
        let weights = read("weights", weights, Order::Fortran)?;
        let biases = read("biases", biases, Order::C)?;
        let x = input.elements()?;
        let shape = dense_shape(x.len(), weights.shape(), biases.shape())?;
        let (weights, biases) = (weights.as_slice()?, biases.as_slice()?);

        let input_shape = input.shape()?.to_vec();
        let nodes = [shape.outputs()];
        let fill = |totals: &mut [f64]| {
            run::dense_forward(totals, x, weights, Some(biases), &shape, 1);
        };
        // SAFETY: the kernel checks the lengths and writes its whole output.
        let totals = unsafe { filled(py, &nodes, fill) }?;
        let t = read("totals", &totals, Order::C)?;
        let t = t.as_slice()?;
        // SAFETY: as above.
        let out = unsafe { filled(py, &nodes, |out| softmax(out, t)) }?;
        // SAFETY: copying writes it all.
        let flat = unsafe { filled(py, &[x.len()], |flat| flat.copy_from_slice(x)) }?;
        (out, flat, input_shape, totals.clone())
    };
    // A tuple is the garbage collector's: to make one may run any finaliser.
    Ok((out, flat, PyTuple::new(py, input_shape)?, totals))
}

/// d_L_d_out (nodes,), input (input_len,), totals (nodes,) -> the input's gradient (input_len,);
/// weights and biases -= learn_rate * gradient
#[pyfunction]
pub fn softmax_backprop<'py>(
    py: Python<'py>,
    d_out: &Bound<'py, PyAny>,
    input: &Bound<'py, PyAny>,
    totals: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    biases: &Bound<'py, PyAny>,
    #[pyo3(from_py_with = rate)] learn_rate: f64,
) -> PyResult<Bound<'py, Array>> {
    let (d_out, input) = (Input::new("d_L_d_out", d_out)?, Input::new("input", input)?);
    let totals = Input::new("totals", totals)?;
    expect_float64("weights", weights)?;
    expect_float64("biases", biases)?;
    let _alone = alone(py);
    let mut weights = write("weights", weights, Order::Fortran)?;
    let mut biases = write("biases", biases, Order::C)?;
    let x = input.elements_apart_from(&[
        weights.as_slice()?.as_ptr_range(),
        biases.as_slice()?.as_ptr_range(),
    ])?;
    let shape = dense_shape(x.len(), weights.shape(), biases.shape())?;
    expect_shape("d_L_d_out", d_out.shape()?, &[shape.outputs()])?;
    expect_shape("totals", totals.shape()?, &[shape.outputs()])?;

    let (mut p, mut d_totals) = (zeros(shape.outputs())?, zeros(shape.outputs())?);
    softmax(&mut p, totals.elements()?);
    let d_p = d_out.elements()?;
    run::softmax_backward(&mut d_totals, d_p, &p, shape.outputs());
    let weights = weights.as_slice_mut()?;
    let fill = |d_x: &mut [f64]| {
        run::dense_backward_sgd(Some(d_x), weights, &d_totals, &x, learn_rate, &shape, 1);
    };
    // SAFETY: the kernel checks the lengths and writes its whole output.
    let d_x = unsafe { filled(py, &[shape.inputs()], fill) }?;
    run::sgd(biases.as_slice_mut()?, &d_totals, learn_rate);
    Ok(d_x)
}
