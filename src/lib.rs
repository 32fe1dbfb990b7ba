//! Kernels and networks of `cnnrs`. Arrays go down only: Python -> `bindings` -> `network` ->
//! `kernels`.

pub mod kernels;
pub mod network;
