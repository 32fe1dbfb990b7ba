//! Activations that go with no other step.

use crate::kernels::activation::Activation;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::step::{Backward, Forward, Step};

/// It has no weights.
#[derive(Clone, Debug)]
pub struct ActivationStep {
    /// Which.
    pub activation: Activation,
    /// Elements along the last axis, over which softmax goes.
    pub width: usize,
}

impl<T: Element> Step<T> for ActivationStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let (activation, width) = (self.activation, self.width);
        pass.out.copy_from_slice(pass.x);
        run::activation_in_place(pass.out, activation, width);
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Some(d_x) = pass.d_x else { return };
        let (activation, width) = (self.activation, self.width);
        d_x.copy_from_slice(pass.d_out);
        run::activation_backward_in_place(d_x, pass.out, activation, width);
    }
}
