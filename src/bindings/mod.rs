//! Python's arrays to slices and back, bad input to exceptions. No arithmetic.

mod array;
pub mod config;
mod examples;
pub mod layers;
pub mod network;
mod spec;
mod state;
mod turns;
