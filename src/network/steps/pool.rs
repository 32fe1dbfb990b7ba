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
    /// Whether anybody needs the input's gradient.
    pub needs_d_x: bool,
}

impl<T: Element> Step<T> for MaxPoolStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, saved: argmax, .. } = pass;
        if self.needs_d_x {
            run::max_pool_forward_argmax(out, argmax, x, &self.shape, n);
        } else {
            run::max_pool_forward(out, x, &self.shape, n);
        }
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Backward { n, d_x: Some(d_x), d_out, saved: argmax, .. } = pass else { return };
        run::max_pool_backward(d_x, d_out, argmax, &self.shape, n);
    }

    fn saved_len(&self, n: usize) -> usize {
        if self.needs_d_x { n * self.shape.output_len() } else { 0 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::step::{Batch, Chunks, Random};

    #[test]
    fn places_of_maxima_are_kept_for_a_gradient_only() {
        let shape = PoolShape::halving((5, 6, 2)).unwrap();
        for (needs_d_x, places) in [(true, 3 * shape.output_len()), (false, 0)] {
            let step = MaxPoolStep { shape, needs_d_x };
            assert_eq!(Step::<f32>::saved_len(&step, 3), places);
            let x: Vec<f32> = (0..180).map(|i| (i * 7 % 31) as f32).collect();
            let (mut out, mut saved) = (vec![f32::NAN; 36], vec![f32::NAN; places]);
            step.forward(Forward {
                n: 3,
                x: &x,
                apart: None,
                out: &mut out,
                saved: &mut saved,
                scratch: &mut [],
                weights: &[],
                prepared: &[],
                random: Random { seed: 0, step: 0, row: 0, iteration: 0 },
                batch: Batch { stats: &[], d_stats: &[], chunks: Chunks { images: 3, len: 3 } },
                foreground: None,
                deferred: None,
                ahead: &crate::kernels::ahead::Ahead::nothing(),
            });
            let mut expected = out.clone();
            run::max_pool_forward(&mut expected, &x, &shape, 3);
            assert_eq!(out, expected);
        }
    }
}
