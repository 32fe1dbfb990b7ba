//! Python's arrays to slices and back, bad input to exceptions. No arithmetic.

mod array;
pub mod config;
pub mod layers;
pub mod network;
mod spec;
mod turns;
