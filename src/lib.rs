//! Kernels and networks of `cnnrs`. Dependencies go down only: Python -> `bindings` -> `network` ->
//! `kernels`.

#[cfg(feature = "python")]
mod bindings;
pub mod kernels;
pub mod network;

/// The Python module `cnnrs._core`. As with NumPy itself, whoever writes to an array while a call
/// reads it gets a mixture; everything else is safe without the interpreter's lock.
#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::bindings::{
        config::{fma_peak, get_num_threads, set_num_threads, simd_level, simd_levels},
        layers::{
            conv3x3_backprop, conv3x3_forward, max_pool2_backprop, max_pool2_forward,
            softmax_backprop, softmax_forward,
        },
        network::Network,
    };

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::bindings::config::init(module)
    }
}
