//! Pure arithmetic on slices: no Python, no threads, no allocation.
//!
//! Operations come as `op_forward` and the `op_backward_*` that are needed, outputs first,
//! gradients named `d_*` after the value they belong to. Images are channels-last. Shapes are
//! checked once, in the first line.

pub mod activation;
pub mod ahead;
pub mod batch_norm;
pub mod conv;
pub mod conv_backward;
pub mod conv_pool_grey;
pub mod conv_pool_sparse;
pub mod counter;
mod cross_entropy;
pub mod dense;
pub mod dropout;
pub mod elastic;
pub mod erase;
mod filtering;
pub mod foreground;
pub mod images;
pub mod loss;
pub mod optimizer;
pub mod pack;
pub mod peak;
pub mod pool;
#[cfg(test)]
mod reference;
pub mod rescale;
pub mod run;
pub mod shape;
pub mod simd;
pub mod softmax;
#[cfg(test)]
pub(crate) mod testing;
mod tile;
mod walk;
pub mod warp;
pub mod winograd;
pub mod winograd_backward;
