//! Fully connected layers with few outputs. Weights are stored (outputs, inputs), so that vectors
//! run along the inputs: the usual head has ten outputs, which fill no vector well, and many
//! inputs.
//!
//! Vectors live in arrays that loops fill: `array::from_fn` may not be inlined, and then its
//! closure is compiled without the instruction set.

/// Evaluates `$body` for blocks of `$n` outputs from `$first`, taking the first of the sizes as
/// long as there are so many left, then the next.
macro_rules! for_output_blocks {
    ($outputs:expr, [$($size:expr),+], |$first:ident, $n:ident| $body:expr) => {{
        let outputs: usize = $outputs;
        let mut $first = 0;
        $(
            while outputs - $first >= $size {
                const $n: usize = $size;
                $body;
                $first += $size;
            }
        )+
    }};
}

mod foreground;

pub use self::foreground::{
    Weights, defer, deferred_len, dense_backward_deferred, dense_backward_foreground,
    dense_forward_deferred, dense_forward_foreground, settle, sums_len,
};

use super::shape::DenseShape;
use super::simd::{Element, Simd, unrolled};

/// Outputs of the commonest head, handled in one walk over the inputs where registers allow. Ten
/// sums cover two fused multiply-adds a cycle at a latency of four.
const OUTPUTS: usize = 10;

/// Half of them, for twice the images or half the registers.
const HALF: usize = OUTPUTS / 2;

/// Outputs of the next smaller walk, for what is left of [`OUTPUTS`].
const FEW_OUTPUTS: usize = 4;

/// Vectors of inputs that one image's walk handles at once: two stores to one row then follow each
/// other, which helps where they cross cache lines.
const UNROLL: usize = 2;

/// Whether [`OUTPUTS`] times two vectors fit into registers beside their operands.
#[inline(always)]
const fn has_many_registers<T: Element, S: Simd<T>>() -> bool {
    2 * OUTPUTS <= S::SUMS
}

/// `out[n, o] = biases[o] + sum over i of weights[o, i] * x[n, i]`; without biases they are 0.
///
/// `out` (n, outputs), `x` (n, inputs), `weights` (outputs, inputs), `biases` (outputs,).
#[inline(always)]
pub fn dense_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    weights: &[T],
    biases: Option<&[T]>,
    shape: &DenseShape,
    n: usize,
) {
    check(out, x, weights, shape, n);
    if let Some(biases) = biases {
        assert_eq!(biases.len(), shape.outputs(), "biases length");
    }
    let mut forward = Forward { simd, out, x, weights, biases, shape: *shape };
    let fours = if has_many_registers::<T, S>() { n - n % 4 } else { 0 };
    let twos = fours.max(n - n % 2);
    // The rows of a block stay in the cache for all images.
    for_output_blocks!(shape.outputs(), [HALF, 1], |o, O| {
        if has_many_registers::<T, S>() {
            for image in (0..fours).step_by(4) {
                forward.tile::<4, O>(image, o);
            }
        }
        for image in (fours..twos).step_by(2) {
            forward.tile::<2, O>(image, o);
        }
    });
    if twos < n {
        for_output_blocks!(shape.outputs(), [OUTPUTS, FEW_OUTPUTS, 1], |o, O| {
            forward.tile::<1, O>(twos, o)
        });
    }
}

/// The arguments of [`dense_forward`], checked.
struct Forward<'a, T, S> {
    simd: S,
    out: &'a mut [T],
    x: &'a [T],
    weights: &'a [T],
    biases: Option<&'a [T]>,
    shape: DenseShape,
}

impl<T: Element, S: Simd<T>> Forward<'_, T, S> {
    /// `O` outputs from `o` of `N` images from `image`. An output is the same sum in the same order
    /// in tiles of any size.
    #[inline(always)]
    fn tile<const N: usize, const O: usize>(&mut self, image: usize, o: usize) {
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let x = &self.x[image * inputs..(image + N) * inputs];
        let weights = &self.weights[o * inputs..(o + O) * inputs];
        let mut sums = [[self.simd.zero(); O]; N];
        let full = inputs - inputs % S::LANES;
        for i in (0..full).step_by(S::LANES) {
            // SAFETY: `full` is a multiple of the lanes, and at most `inputs`.
            unsafe { add_products(self.simd, &mut sums, x, weights, inputs, i, S::LANES) };
        }
        if full < inputs {
            // SAFETY: the rows end at `inputs`.
            unsafe { add_products(self.simd, &mut sums, x, weights, inputs, full, inputs - full) };
        }
        unrolled!(N, I => {
            let out = &mut self.out[(image + I) * outputs + o..][..O];
            for k in 0..O {
                let bias = self.biases.map_or(T::zero(), |biases| biases[o + k]);
                out[k] = bias + self.simd.sum(sums[I][k]);
            }
        });
    }
}

/// `sums[n][o] += x[n] * weights[o]` for the inputs `i..i + lanes`.
///
/// # Safety
/// `x` has `N` and `weights` `O` rows of so many inputs.
#[inline(always)]
unsafe fn add_products<T: Element, S: Simd<T>, const N: usize, const O: usize>(
    simd: S,
    sums: &mut [[S::Vector; O]; N],
    x: &[T],
    weights: &[T],
    inputs: usize,
    i: usize,
    lanes: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut xs = [simd.zero(); N];
        for n in 0..N {
            xs[n] = simd.load_up_to(part(x, n * inputs + i, lanes));
        }
        for o in 0..O {
            let w = simd.load_up_to(part(weights, o * inputs + i, lanes));
            for n in 0..N {
                sums[n][o] = simd.mul_add(w, xs[n], sums[n][o]);
            }
        }
    }
}

/// `d_x[n, i] = sum over o of d_out[n, o] * weights[o, i]` and
/// `d_weights[o, i] = sum over n of d_out[n, o] * x[n, i]`, in one walk over the weights. The first
/// layer of a network needs no `d_x`.
///
/// `d_x` and `x` (n, inputs), `d_weights` and `weights` (outputs, inputs), `d_out` (n, outputs).
#[inline(always)]
pub fn dense_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: Option<&mut [T]>,
    d_weights: &mut [T],
    d_out: &[T],
    x: &[T],
    weights: &[T],
    shape: &DenseShape,
    n: usize,
) {
    let with_d_x = d_x.is_some();
    let d_x = d_x.unwrap_or_default();
    let (target, scale, shape) = (d_weights, T::one(), *shape);
    let walk = Backward { simd, d_x, target, weights, d_out, x, scale, shape, n };
    if with_d_x { walk.run::<true, false>() } else { walk.run::<false, false>() }
}

/// One step of gradient descent and the input's gradient, in one walk over the weights:
/// `d_x[n, i] = sum over o of d_out[n, o] * weights[o, i]`, then
/// `weights[o, i] -= rate * sum over n of d_out[n, o] * x[n, i]`.
///
/// `d_x` and `x` (n, inputs), `weights` (outputs, inputs), `d_out` (n, outputs).
#[inline(always)]
pub fn dense_backward_sgd<T: Element, S: Simd<T>>(
    simd: S,
    d_x: Option<&mut [T]>,
    weights: &mut [T],
    d_out: &[T],
    x: &[T],
    rate: T,
    shape: &DenseShape,
    n: usize,
) {
    let with_d_x = d_x.is_some();
    let d_x = d_x.unwrap_or_default();
    let (target, scale, shape) = (weights, -rate, *shape);
    let walk = Backward { simd, d_x, target, weights: &[], d_out, x, scale, shape, n };
    if with_d_x { walk.run::<true, true>() } else { walk.run::<false, true>() }
}

/// The walk over the weights of both backward passes. `D_X`: whether the input's gradient is
/// wanted. `SGD`: whether the target is the weights, to which the scaled gradient is added; else it
/// is set to the gradient. `O`: how many outputs are handled at once, from `o`; the first set
/// `d_x`, the others add to it.
struct Backward<'a, T, S> {
    simd: S,
    /// (n, inputs) or, if it is not wanted, empty.
    d_x: &'a mut [T],
    /// (outputs, inputs)
    target: &'a mut [T],
    /// (outputs, inputs) or, if they are the target, empty.
    weights: &'a [T],
    /// (n, outputs)
    d_out: &'a [T],
    /// (n, inputs)
    x: &'a [T],
    /// What the gradient is multiplied by before it is added to the weights.
    scale: T,
    shape: DenseShape,
    n: usize,
}

impl<T: Element, S: Simd<T>> Backward<'_, T, S> {
    #[inline(always)]
    fn run<const D_X: bool, const SGD: bool>(mut self) {
        let outputs = self.shape.outputs();
        check(self.d_out, self.x, self.target, &self.shape, self.n);
        assert_eq!(self.d_x.len(), if D_X { self.x.len() } else { 0 }, "input gradient length");
        assert_eq!(self.weights.len(), if SGD { 0 } else { self.target.len() }, "weights length");
        if D_X && self.n == 1 {
            for_output_blocks!(outputs, [OUTPUTS, FEW_OUTPUTS, 1], |o, O| {
                self.one_image::<SGD, O>(o)
            });
        } else if has_many_registers::<T, S>() {
            for_output_blocks!(outputs, [OUTPUTS, FEW_OUTPUTS, 1], |o, O| {
                self.images::<D_X, SGD, O>(o)
            });
        } else {
            for_output_blocks!(outputs, [HALF, 1], |o, O| self.images::<D_X, SGD, O>(o));
        }
    }

    /// One image, with its gradient.
    #[inline(always)]
    fn one_image<const SGD: bool, const O: usize>(&mut self, o: usize) {
        let inputs = self.shape.inputs();
        let block = UNROLL * S::LANES;
        let full = inputs - inputs % block;
        let d_out = &self.d_out[o..o + O];
        let mut d = [self.simd.zero(); O];
        for k in 0..O {
            d[k] = self.simd.splat(d_out[k]);
        }
        // Backwards: the forward pass left the last weights in the cache, and its next walk finds
        // the first ones there.
        for i in (full..inputs).step_by(S::LANES) {
            // SAFETY: the inputs end at `inputs`.
            unsafe { self.one_image_step::<SGD, O, 1>(&d, o, i, S::LANES.min(inputs - i)) };
        }
        for i in (0..full).step_by(block).rev() {
            // SAFETY: `full` is a multiple of the block, and at most `inputs`.
            unsafe { self.one_image_step::<SGD, O, UNROLL>(&d, o, i, S::LANES) };
        }
    }

    /// `U` vectors of inputs from `i`, each of `lanes`.
    ///
    /// # Safety
    /// So many inputs and outputs exist, and [`run`](Self::run) checked the arrays.
    #[inline(always)]
    unsafe fn one_image_step<const SGD: bool, const O: usize, const U: usize>(
        &mut self,
        d: &[S::Vector; O],
        o: usize,
        i: usize,
        lanes: usize,
    ) {
        let Self { simd, shape, .. } = *self;
        let scale = simd.splat(self.scale);
        let (mut x, mut sums) = ([simd.zero(); U], [simd.zero(); U]);
        // SAFETY: the caller's promise.
        unsafe {
            for u in 0..U {
                let at = i + u * S::LANES;
                x[u] = simd.load_up_to(part(self.x, at, lanes));
                if SGD {
                    x[u] = simd.mul(x[u], scale);
                }
                if o > 0 {
                    sums[u] = simd.load_up_to(part(self.d_x, at, lanes));
                }
            }
            for k in 0..O {
                for u in 0..U {
                    let at = (o + k) * shape.inputs() + i + u * S::LANES;
                    let weights = if SGD { &*self.target } else { self.weights };
                    let w = simd.load_up_to(part(weights, at, lanes));
                    sums[u] = simd.mul_add(w, d[k], sums[u]);
                    let sum = if SGD { simd.mul_add(d[k], x[u], w) } else { simd.mul(d[k], x[u]) };
                    simd.store_up_to(sum, part_mut(self.target, at, lanes));
                }
            }
            for u in 0..U {
                simd.store_up_to(sums[u], part_mut(self.d_x, i + u * S::LANES, lanes));
            }
        }
    }

    /// All images. Weights and the sums of their gradients stay in registers while the images pass.
    #[inline(always)]
    fn images<const D_X: bool, const SGD: bool, const O: usize>(&mut self, o: usize) {
        let inputs = self.shape.inputs();
        let full = inputs - inputs % S::LANES;
        for i in (0..full).step_by(S::LANES) {
            // SAFETY: `full` is a multiple of the lanes, and at most `inputs`.
            unsafe { self.images_step::<D_X, SGD, O>(o, i, S::LANES) };
        }
        if full < inputs {
            // SAFETY: the inputs end at `inputs`.
            unsafe { self.images_step::<D_X, SGD, O>(o, full, inputs - full) };
        }
    }

    /// The inputs `i..i + lanes`.
    ///
    /// # Safety
    /// So many inputs and outputs exist, and [`run`](Self::run) checked the arrays.
    #[inline(always)]
    unsafe fn images_step<const D_X: bool, const SGD: bool, const O: usize>(
        &mut self,
        o: usize,
        i: usize,
        lanes: usize,
    ) {
        let Self { simd, shape, .. } = *self;
        let (inputs, outputs) = (shape.inputs(), shape.outputs());
        let scale = simd.splat(self.scale);
        let (mut w, mut sums) = ([simd.zero(); O], [simd.zero(); O]);
        // SAFETY: the caller's promise.
        unsafe {
            for k in 0..O {
                let at = (o + k) * inputs + i;
                if SGD {
                    w[k] = simd.load_up_to(part(self.target, at, lanes));
                    sums[k] = w[k];
                } else if D_X {
                    w[k] = simd.load_up_to(part(self.weights, at, lanes));
                }
            }
            for n in 0..self.n {
                let at = n * inputs + i;
                let mut x = simd.load_up_to(part(self.x, at, lanes));
                if SGD {
                    x = simd.mul(x, scale);
                }
                let mut d_x = simd.zero();
                if D_X && o > 0 {
                    d_x = simd.load_up_to(part(self.d_x, at, lanes));
                }
                let d_out = part(self.d_out, n * outputs + o, O);
                for k in 0..O {
                    let d = simd.splat(d_out[k]);
                    sums[k] = simd.mul_add(d, x, sums[k]);
                    if D_X {
                        d_x = simd.mul_add(d, w[k], d_x);
                    }
                }
                if D_X {
                    simd.store_up_to(d_x, part_mut(self.d_x, at, lanes));
                }
            }
            for k in 0..O {
                let at = (o + k) * inputs + i;
                simd.store_up_to(sums[k], part_mut(self.target, at, lanes));
            }
        }
    }
}

/// `x[at..at + len]`
///
/// # Safety
/// `x` has so many elements.
#[inline(always)]
pub(super) unsafe fn part<T>(x: &[T], at: usize, len: usize) -> &[T] {
    // SAFETY: the caller's promise.
    unsafe { x.get_unchecked(at..at + len) }
}

/// `x[at..at + len]`
///
/// # Safety
/// `x` has so many elements.
#[inline(always)]
pub(super) unsafe fn part_mut<T>(x: &mut [T], at: usize, len: usize) -> &mut [T] {
    // SAFETY: the caller's promise.
    unsafe { x.get_unchecked_mut(at..at + len) }
}

fn check<T>(out: &[T], x: &[T], weights: &[T], shape: &DenseShape, n: usize) {
    assert_eq!(Some(out.len()), n.checked_mul(shape.outputs()), "output length");
    assert_eq!(Some(x.len()), n.checked_mul(shape.inputs()), "input length");
    assert_eq!(weights.len(), shape.weights_len(), "weights length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    macro_rules! case {
        ($t:ty, $level:expr, $shape:expr, $n:expr) => {{
            let (shape, n): (DenseShape, usize) = ($shape, $n);
            let x: Vec<$t> = random(n * shape.inputs(), 1);
            let weights: Vec<$t> = random(shape.weights_len(), 2);
            let biases: Vec<$t> = random(shape.outputs(), 3);
            let d_out: Vec<$t> = random(n * shape.outputs(), 4);

            for biases in [Some(&biases[..]), None] {
                let mut out = vec![<$t>::NAN; n * shape.outputs()];
                let mut expected = out.clone();
                dispatch!($t, $level, simd => {
                    dense_forward(simd, &mut out, &x, &weights, biases, &shape, n)
                });
                reference::dense_forward(&mut expected, &x, &weights, biases, &shape);
                assert_close(&out, &expected, shape.inputs() + 1);
            }

            let mut expected_d_x = vec![<$t>::NAN; n * shape.inputs()];
            reference::dense_backward_input(&mut expected_d_x, &d_out, &weights, &shape);
            let mut gradient = vec![<$t>::NAN; shape.weights_len()];
            reference::dense_backward_weights(&mut gradient, &d_out, &x, &shape);
            let rate = 0.25;
            let stepped: Vec<$t> =
                weights.iter().zip(&gradient).map(|(w, d)| w - rate * d).collect();

            for with_d_x in [true, false] {
                let mut d_x = vec![<$t>::NAN; n * shape.inputs()];
                let mut d_weights = vec![<$t>::NAN; shape.weights_len()];
                dispatch!($t, $level, simd => {
                    let d_x = with_d_x.then_some(&mut d_x[..]);
                    dense_backward(simd, d_x, &mut d_weights, &d_out, &x, &weights, &shape, n)
                });
                assert_close(&d_weights, &gradient, n);
                if with_d_x {
                    assert_close(&d_x, &expected_d_x, shape.outputs());
                }

                let mut d_x = vec![<$t>::NAN; n * shape.inputs()];
                let mut weights = weights.clone();
                dispatch!($t, $level, simd => {
                    let d_x = with_d_x.then_some(&mut d_x[..]);
                    dense_backward_sgd(simd, d_x, &mut weights, &d_out, &x, rate, &shape, n)
                });
                assert_close(&weights, &stepped, n + 1);
                if with_d_x {
                    assert_close(&d_x, &expected_d_x, shape.outputs());
                }
            }
        }};
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for outputs in 1..=33 {
                for inputs in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100] {
                    for n in [1, 2, 3, 5, 8] {
                        let shape = DenseShape::new(inputs, outputs).unwrap();
                        case!(f32, level, shape, n);
                        case!(f64, level, shape, n);
                    }
                }
            }
        });
    }
}
