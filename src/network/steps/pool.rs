//! Pooling that goes with no convolution.

use crate::kernels::run;
use crate::kernels::shape::PoolShape;
use crate::kernels::simd::Element;
use crate::network::step::{Backward, Forward, Step};

/// Maximum over windows; the gradient goes to the first maximum.
#[derive(Clone, Debug)]
pub struct MaxPoolStep {
    /// Its sizes.
    pub shape: PoolShape,
}

impl<T: Element> Step<T> for MaxPoolStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, saved: argmax, .. } = pass;
        run::max_pool_forward_argmax(out, argmax, x, &self.shape, n);
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Backward { n, d_x: Some(d_x), d_out, saved: argmax, .. } = pass else { return };
        run::max_pool_backward(d_x, d_out, argmax, &self.shape, n);
    }

    fn saved_len(&self, n: usize) -> usize {
        n * self.shape.output_len()
    }
}

/// Mean over windows.
#[derive(Clone, Debug)]
pub struct AveragePoolStep {
    /// Its sizes.
    pub shape: PoolShape,
}

impl<T: Element> Step<T> for AveragePoolStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, .. } = pass;
        run::average_pool_forward(out, x, &self.shape, n);
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Backward { n, d_x: Some(d_x), d_out, .. } = pass else { return };
        run::average_pool_backward(d_x, d_out, &self.shape, n);
    }
}
