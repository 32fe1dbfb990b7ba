//! Weights, and what an optimiser remembers, to arrays and back.

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::array::{Elements, expect_shape, filled};
use crate::kernels::simd::Element;
use crate::network::{Layer, Network, Optimizer, Weight};

/// Steps that an optimiser may have taken, with room to count on: more than there ever are.
const MOST_STEPS: u64 = 1 << 62;

/// Arrays of the network's type, or of integers.
pub type Arrays<'py> = Vec<Bound<'py, PyAny>>;

/// See `Network.get_weights`.
pub fn weight_copies<'py, T: Element + numpy::Element>(
    py: Python<'py>,
    net: &mut Network<T>,
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

/// See `Network.optimizer_state`.
pub fn optimizer_copies<'py, T: Element + numpy::Element>(
    py: Python<'py>,
    net: &mut Network<T>,
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
fn weights<T: Element>(net: &Network<T>) -> Vec<(String, Weight)> {
    let layers = net.layers().layers.iter();
    let named = |layer: &Layer, weight: &Weight| {
        (format!("{}.{}", layer.spec.name, weight.name), weight.clone())
    };
    layers.flat_map(|layer| layer.weights.iter().map(move |w| named(layer, w))).collect()
}

pub fn set_weights<T: Element + numpy::Element>(
    net: &mut Network<T>,
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

/// See `Network.set_optimizer_state`.
pub fn set_optimizer_state<T: Element + numpy::Element>(
    optimizer: &mut Optimizer<T>,
    state: &[Bound<'_, PyAny>],
) -> PyResult<()> {
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
}
