//! Dropout, in training; in inference there is none.

use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::step::{Backward, Forward, Step};

/// It has no weights; what it saves is the mask.
#[derive(Clone, Debug)]
pub struct DropoutStep {
    /// The probability of a zero.
    pub rate: f64,
    /// Of numbers that are the layer's own; without it, they are the training's.
    pub seed: Option<u64>,
    /// Elements of an image.
    pub len: usize,
    /// Which step of the network this is: each draws its own numbers.
    pub salt: u64,
}

impl<T: Element> Step<T> for DropoutStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { x, out, saved: mask, random, .. } = pass;
        for (image, mask) in mask.chunks_exact_mut(self.len).enumerate() {
            run::dropout_mask(mask, self.rate, random.key(self.salt, self.seed, image));
        }
        run::multiply(out, x, mask);
    }

    fn backward(&self, pass: Backward<'_, T>, _: &[T]) {
        let Backward { d_x: Some(d_x), d_out, saved: mask, .. } = pass else { return };
        run::multiply(d_x, d_out, mask);
    }

    fn saved_len(&self, n: usize) -> usize {
        n * self.len
    }
}
