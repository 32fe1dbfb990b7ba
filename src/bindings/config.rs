//! What the build is, which instruction set it uses, and how many threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use numpy::{PyArray1, PyArrayMethods, dtype};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::turns::look_after_forks;
use crate::dispatch;
use crate::kernels::peak::{multiply_add_chains, operations_of_a_round};
use crate::kernels::simd;
use crate::network::cores;

/// Threads of a call that is worth more than one.
static THREADS: AtomicUsize = AtomicUsize::new(1);

/// Threads of a call that is worth more than one.
pub fn num_threads() -> usize {
    THREADS.load(Ordering::Relaxed)
}

/// Readies what would otherwise be made when it is first used, and under a lock, which some thread
/// may hold when the process forks; and NumPy's interface runs Python code for it, which may come
/// back to where it is being made.
fn warm_up(py: Python<'_>) -> PyResult<()> {
    let array = PyArray1::<f64>::zeros(py, 1, false);
    // With what keeps account of who reads and writes arrays.
    drop(array.try_readwrite().map_err(|error| PyValueError::new_err(error.to_string()))?);
    drop((dtype::<f32>(py), dtype::<u8>(py), dtype::<i64>(py)));
    simd::level();
    cores();
    Ok(())
}

/// Reads the environment and adds the module's constants.
pub fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if let Some(name) = std::env::var_os("CNNRS_SIMD").filter(|name| !name.is_empty()) {
        simd::select(&name.to_string_lossy())
            .map_err(|why| PyValueError::new_err(format!("CNNRS_SIMD: {why}")))?;
    }
    let threads = match std::env::var_os("CNNRS_NUM_THREADS").filter(|text| !text.is_empty()) {
        Some(text) => {
            let text = text.to_string_lossy();
            text.parse().ok().filter(|&threads| threads > 0).ok_or_else(|| {
                let why = format!("CNNRS_NUM_THREADS: expected an integer from 1, got {text:?}");
                PyValueError::new_err(why)
            })?
        }
        None => cores(),
    };
    THREADS.store(threads, Ordering::Relaxed);
    warm_up(module.py())?;
    look_after_forks(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })
}

/// The name of the instruction set in use.
#[pyfunction]
pub fn simd_level() -> &'static str {
    simd::level().name()
}

/// The names of the instruction sets of this machine, slowest first.
#[pyfunction]
pub fn simd_levels() -> Vec<&'static str> {
    simd::Level::available().into_iter().map(simd::Level::name).collect()
}

/// How many threads a call may use.
#[pyfunction]
pub fn get_num_threads() -> usize {
    num_threads()
}

/// Sets how many threads a call may use, at least 1.
#[pyfunction]
pub fn set_num_threads(n: usize) -> PyResult<()> {
    if n == 0 {
        return Err(PyValueError::new_err("n: expected at least 1 thread, got 0"));
    }
    THREADS.store(n, Ordering::Relaxed);
    Ok(())
}

/// Rounds between two looks at the clock: some 10 us.
const ROUNDS: usize = 10_000;

/// The most float32 operations a second that this core has done in `seconds` of fused multiply-adds
/// in registers, a product and a sum being two, in GFLOP/s.
#[pyfunction]
pub fn fma_peak(py: Python<'_>, seconds: f64) -> PyResult<f64> {
    if !seconds.is_finite() {
        let why = format!("seconds: expected a finite number, got {seconds}");
        return Err(PyValueError::new_err(why));
    }
    Ok(py.detach(|| {
        let level = simd::level();
        let operations = dispatch!(f32, level, simd => operations_of_a_round::<f32, _>(simd));
        let (begin, mut best) = (Instant::now(), f64::INFINITY);
        loop {
            let start = Instant::now();
            black_box(dispatch!(f32, level, simd => {
                multiply_add_chains::<f32, _>(simd, black_box(ROUNDS))
            }));
            best = best.min(start.elapsed().as_secs_f64());
            if begin.elapsed().as_secs_f64() >= seconds {
                return (operations * ROUNDS) as f64 / best / 1e9;
            }
        }
    }))
}
