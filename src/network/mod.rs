//! Whole networks: parameters, buffers planned once, and loops of many steps for one call.

mod tutorial;

pub use tutorial::{Example, Score, TutorialNet};
