//! Kernels and networks of `cnnrs`. Dependencies go down only: Python -> `bindings` -> `network` ->
//! `kernels`.

#[cfg(feature = "python")]
mod bindings;
pub mod kernels;
pub mod network;

/// The Python module `cnnrs._core`. It relies on the interpreter's lock while it reads arrays that
/// Python can reach.
#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use crate::bindings::{
        config::{simd_level, simd_levels},
        layers::{
            conv3x3_backprop, conv3x3_forward, max_pool2_backprop, max_pool2_forward,
            softmax_backprop, softmax_forward,
        },
        network::TutorialNet,
    };

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::bindings::config::init(module)
    }
}
