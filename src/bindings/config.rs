//! What the build is and which instruction set it uses.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::kernels::simd;

/// Reads the environment and adds the module's constants.
pub fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if let Some(name) = std::env::var_os("CNNRS_SIMD").filter(|name| !name.is_empty()) {
        simd::select(&name.to_string_lossy())
            .map_err(|why| PyValueError::new_err(format!("CNNRS_SIMD: {why}")))?;
    }
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
