//! Random patches painted over, in training; in inference there are none.

use crate::kernels::counter::{mix, uniform};
use crate::kernels::erase::{covered, erase};
use crate::kernels::simd::Element;
use crate::kernels::warp::ImageShape;
use crate::network::spec::EraseSpec;
use crate::network::step::{Backward, Forward, Step};
use crate::network::steps::warp::within;

/// It has no weights, and none stand before it, so that nobody asks for a gradient.
#[derive(Clone, Debug)]
pub struct EraseStep {
    /// What is drawn.
    pub spec: EraseSpec,
    /// Sizes of an image.
    pub shape: ImageShape,
    /// Which step of the network this is: each draws its own numbers.
    pub salt: u64,
}

impl<T: Element> Step<T> for EraseStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { x, out, random, .. } = pass;
        let EraseSpec { factor, scale, paint, value_range, seed } = self.spec;
        let ImageShape { h, w, c } = self.shape;
        out.copy_from_slice(x);
        for (n, out) in out.chunks_exact_mut(self.shape.image_len()).enumerate() {
            let key = random.key(self.salt, seed, n);
            if uniform(key, 0) >= within(factor, key, 1) {
                continue;
            }
            let side = |image: usize, n| {
                let len = image as f64 * within(scale, key, n).sqrt();
                covered(uniform(key, n + 1) * (image as f64 - len), len)
            };
            erase(out, side(h, 2), side(w, 4), paint, value_range, mix(key), (w, c));
        }
    }

    fn backward(&self, _: Backward<'_, T>, _: &[T]) {}
}
