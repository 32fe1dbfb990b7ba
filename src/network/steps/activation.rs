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
        run::activation_forward(pass.out, pass.x, self.activation, self.width);
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Some(d_x) = pass.d_x else { return };
        run::activation_backward(d_x, pass.d_out, pass.out, self.activation, self.width);
    }
}
