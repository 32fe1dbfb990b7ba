//! Rescaling behind other layers; at the front it is part of reading the images.

use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::step::{Backward, Forward, Step};

/// It has no weights.
#[derive(Clone, Debug)]
pub struct RescaleStep {
    /// The factor.
    pub scale: f64,
    /// The summand.
    pub offset: f64,
}

impl<T: Element> Step<T> for RescaleStep {
    fn forward(&self, pass: Forward<'_, T>) {
        run::rescale(pass.out, pass.x, T::from_f64(self.scale), T::from_f64(self.offset));
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        if let Some(d_x) = pass.d_x {
            run::rescale(d_x, pass.d_out, T::from_f64(self.scale), T::zero());
        }
    }
}
