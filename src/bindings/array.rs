//! Arguments that are arrays.

use std::borrow::Cow;
use std::ffi::c_int;
use std::ops::{Deref, Range};

use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::{
    PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyReadwriteArrayDyn,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

use crate::kernels::shape::{ShapeError, tuple};
use crate::kernels::simd::Element;
use crate::network::BuildError;

impl From<ShapeError> for PyErr {
    fn from(error: ShapeError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// An argument as a C-contiguous `float64` array: itself, or a converted copy where it is another
/// kind of array or a nested sequence of numbers.
///
/// Converting may run Python code, and with it other calls on the same layer or changes of an array
/// that was fine before. So a call converts its arguments first, and then looks at what they are.
pub struct Input<'py> {
    name: &'static str,
    array: Bound<'py, PyAny>,
}

impl<'py> Input<'py> {
    /// # Errors
    /// `TypeError` if the argument does not hold real numbers.
    pub fn new(name: &'static str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = match as_float64(value) {
            Some(_) => value.clone(),
            None => converted(name, value)?,
        };
        Ok(Self { name, array })
    }

    /// The interpreter, as long as the argument is there.
    pub fn py(&self) -> Python<'py> {
        self.array.py()
    }

    fn array(&self) -> PyResult<&Bound<'py, PyArrayDyn<f64>>> {
        as_float64(&self.array).ok_or_else(|| {
            let name = self.name;
            PyValueError::new_err(format!("{name}: the array was changed during the call"))
        })
    }

    /// The array's shape; like the elements, for as long as no Python code runs.
    pub fn shape(&self) -> PyResult<&[usize]> {
        Ok(self.array()?.shape())
    }

    /// The elements, for a call that writes to new arrays only.
    pub fn elements(&self) -> PyResult<&[f64]> {
        // SAFETY: callers are alone, and none runs Python code or writes to an array that was there
        // before while it holds these elements.
        Ok(unsafe { self.array()?.as_slice() }?)
    }

    /// The elements, or a copy of them where they overlap memory that the call will write to.
    pub fn elements_apart_from(&self, written: &[Range<*const f64>]) -> PyResult<Cow<'_, [f64]>> {
        let elements = self.elements()?;
        let own = elements.as_ptr_range();
        let overlaps = |other: &Range<_>| own.start < other.end && other.start < own.end;
        if !written.iter().any(overlaps) {
            return Ok(Cow::Borrowed(elements));
        }
        let mut copy = zeros(elements.len())?;
        copy.copy_from_slice(elements);
        Ok(Cow::Owned(copy))
    }
}

/// The array that `value` is, if kernels can read it as it is.
fn as_float64<'a, 'py>(value: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyArrayDyn<f64>>> {
    let array = value.cast::<PyArrayDyn<f64>>().ok()?;
    (array.is_c_contiguous() && array.is_aligned()).then_some(array)
}

/// A fresh C-contiguous `float64` copy.
fn converted<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let array = numpy.call_method1(intern!(py, "asarray"), (value,)).map_err(|error| {
        // As of rows that are not equally long.
        if !error.is_instance_of::<PyValueError>(py) {
            return error;
        }
        let why = error.value(py);
        PyValueError::new_err(format!("{name}: expected an array of real numbers, got none: {why}"))
    })?;
    let dtype = array.getattr(intern!(py, "dtype"))?;
    let code: char = dtype.getattr(intern!(py, "kind"))?.extract()?;
    if !"biuf".contains(code) {
        let of = if value.is(&array) { String::new() } else { format!(" of dtype {dtype}") };
        let got = kind(value);
        let why = format!("{name}: expected an array of real numbers, got {got}{of}");
        return Err(PyTypeError::new_err(why));
    }
    array.call_method1(intern!(py, "astype"), (intern!(py, "float64"), intern!(py, "C")))
}

/// The order in which a parameter's elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Last index fastest.
    C,
    /// First index fastest.
    Fortran,
}

/// A layer's parameter, to be updated in place.
///
/// # Errors
/// `TypeError` or `ValueError` if it is not a writeable `float64` array in that order.
pub fn write<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    order: Order,
) -> PyResult<PyReadwriteArrayDyn<'py, f64>> {
    let array = parameter(name, value, order)?;
    array.try_readwrite().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

/// A layer's parameter, to be read.
///
/// # Errors
/// `TypeError` or `ValueError` if it is not a `float64` array in that order.
pub fn read<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    order: Order,
) -> PyResult<PyReadonlyArrayDyn<'py, f64>> {
    let array = parameter(name, value, order)?;
    array.try_readonly().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

fn parameter<'a, 'py>(
    name: &str,
    value: &'a Bound<'py, PyAny>,
    order: Order,
) -> PyResult<&'a Bound<'py, PyArrayDyn<f64>>> {
    let array = value.cast::<PyArrayDyn<f64>>().map_err(|_| {
        PyTypeError::new_err(format!("{name}: expected a float64 array, got {}", kind(value)))
    })?;
    let in_order = match order {
        Order::C => array.is_c_contiguous(),
        Order::Fortran => array.is_fortran_contiguous(),
    };
    if !in_order {
        return Err(PyValueError::new_err(format!(
            "{name}: expected an array contiguous in {order:?} order, got strides {:?}",
            array.strides(),
        )));
    }
    if !array.is_aligned() {
        let why = format!("{name}: expected an aligned array, got one that is not");
        return Err(PyValueError::new_err(why));
    }
    Ok(array)
}

/// A new C-contiguous array of that shape.
///
/// # Errors
/// `MemoryError` if there is not enough memory.
///
/// # Safety
/// `fill` writes every element, and reads none before it has written it: zeroing them first would
/// cost as much as some kernels do.
pub unsafe fn filled<'py, T: Element + numpy::Element>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut [T]),
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let mut sizes: Vec<npy_intp> = shape.iter().map(|&size| size as npy_intp).collect();
    // SAFETY: `sizes` holds as many sizes as are announced, and NumPy takes over the reference to
    // the element type that `into_dtype_ptr` gives up. It returns an array of T, or null with an
    // exception set. Such an array is no object of the garbage collector's, so no Python code runs.
    let array = unsafe {
        let dtype = T::get_dtype(py).into_dtype_ptr();
        let ndim = sizes.len() as c_int;
        let array = PY_ARRAY_API.PyArray_Empty(py, ndim, sizes.as_mut_ptr(), dtype, 0);
        Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked::<PyArrayDyn<T>>()
    };
    // SAFETY: nobody else has seen the array. Its memory comes from foreign code, so to the compiler
    // it holds numbers already, if arbitrary ones: any bits are a float.
    fill(unsafe { array.as_slice_mut() }?);
    Ok(array)
}

/// The elements of an argument, in C order, as they lay when it was looked at: whoever gives its
/// array another shape or element type meanwhile changes neither how many they are nor what they
/// are taken for.
pub struct Elements<'py, T> {
    shape: Vec<usize>,
    first: *const T,
    /// Keeps the memory.
    _array: Bound<'py, PyArrayDyn<T>>,
}

impl<'py, T: numpy::Element> Elements<'py, T> {
    /// Those of an array of exactly that element type, or of a copy if it lies otherwise.
    ///
    /// # Errors
    /// `TypeError` if it is no array of that type.
    pub fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let expect = |value: &Bound<'py, PyAny>| {
            value.cast::<PyArrayDyn<T>>().cloned().map_err(|_| {
                let (expected, got) = (T::get_dtype(py), kind(value));
                PyTypeError::new_err(format!("{name}: expected an array of {expected}, got {got}"))
            })
        };
        let lies_well =
            |array: &Bound<'py, PyArrayDyn<T>>| array.is_c_contiguous() && array.is_aligned();
        let mut array = expect(value)?;
        if !lies_well(&array) {
            array = expect(&array.call_method1(intern!(py, "copy"), (intern!(py, "C"),))?)?;
        }
        if !lies_well(&array) {
            let why = format!("{name}: expected a copy in C order from its method, got another");
            return Err(PyValueError::new_err(why));
        }
        Ok(Self { shape: array.shape().to_vec(), first: array.data(), _array: array })
    }

    /// The sizes of all axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

impl<T> Deref for Elements<'_, T> {
    type Target = [T];

    /// As with NumPy itself, whoever writes to them while they are read gets a mixture.
    fn deref(&self) -> &[T] {
        let len = self.shape.iter().product();
        // SAFETY: so many elements lay there, in C order and aligned, as `new` has seen. NumPy does
        // not free the memory of an array that others refer to, unless somebody insists with
        // `resize(refcheck=False)` or `__setstate__`, which nobody's reading survives.
        unsafe { std::slice::from_raw_parts(self.first, len) }
    }
}

/// Zeros to work in.
///
/// # Errors
/// `MemoryError` if there is not enough memory.
pub fn zeros(len: usize) -> PyResult<Vec<f64>> {
    let mut zeros = vec![];
    let bytes = len.saturating_mul(size_of::<f64>());
    zeros.try_reserve_exact(len).map_err(|_| BuildError::Memory { bytes })?;
    zeros.resize(len, 0.0);
    Ok(zeros)
}

/// What a value is, for an error's text.
pub fn kind(value: &Bound<'_, PyAny>) -> String {
    let name = value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    match value.cast::<PyUntypedArray>() {
        Ok(array) => {
            format!("{name} of dtype {} and shape {}", array.dtype(), tuple(array.shape()))
        }
        Err(_) => name,
    }
}

/// A `ValueError` that names both shapes, unless they are equal.
pub fn expect_shape(name: &str, got: &[usize], expected: &[usize]) -> PyResult<()> {
    if got == expected {
        return Ok(());
    }
    let (expected, got) = (tuple(expected), tuple(got));
    Err(PyValueError::new_err(format!("{name}: expected shape {expected}, got {got}")))
}

/// The sizes of an array of `N` dimensions, `layout` being their names.
pub fn sizes<const N: usize>(name: &str, layout: &str, got: &[usize]) -> PyResult<[usize; N]> {
    got.try_into().map_err(|_| {
        let got = tuple(got);
        PyValueError::new_err(format!("{name}: expected an array of shape {layout}, got {got}"))
    })
}
