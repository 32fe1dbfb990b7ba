//! Fully connected layers with few outputs. Weights are stored (outputs, inputs), so that vectors run
//! along the inputs: the usual head has ten outputs, which fill no vector well, and many inputs.

use super::shape::DenseShape;
use super::simd::{Element, Simd};

/// Outputs handled in one walk over the inputs: ten classes are the commonest head, and ten sums
/// cover two fused multiply-adds a cycle at a latency of four.
const OUTPUTS: usize = 10;

/// The next smaller walk, for what is left of [`OUTPUTS`].
const FEW_OUTPUTS: usize = 4;

/// Evaluates `$body` for blocks of `$n` outputs from `$first`, the largest constant `$n` first.
macro_rules! for_output_blocks {
    ($outputs:expr, |$first:ident, $n:ident| $body:expr) => {{
        let outputs: usize = $outputs;
        let mut $first = 0;
        while $first + OUTPUTS <= outputs {
            const $n: usize = OUTPUTS;
            $body;
            $first += OUTPUTS;
        }
        while $first + FEW_OUTPUTS <= outputs {
            const $n: usize = FEW_OUTPUTS;
            $body;
            $first += FEW_OUTPUTS;
        }
        while $first < outputs {
            const $n: usize = 1;
            $body;
            $first += 1;
        }
    }};
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
    let inputs = shape.inputs();
    for_output_blocks!(shape.outputs(), |o, O| {
        for (out, x) in out.chunks_exact_mut(shape.outputs()).zip(x.chunks_exact(inputs)) {
            let sums = forward_tile::<T, S, O>(simd, x, &weights[o * inputs..]);
            for (k, sum) in sums.into_iter().enumerate() {
                out[o + k] = biases.map_or(sum, |biases| biases[o + k] + sum);
            }
        }
    });
}

/// The products of one image with `O` rows of weights.
#[inline(always)]
fn forward_tile<T: Element, S: Simd<T>, const O: usize>(simd: S, x: &[T], weights: &[T]) -> [T; O] {
    let rows: [&[T]; O] = std::array::from_fn(|o| &weights[o * x.len()..][..x.len()]);
    let mut sums = [simd.zero(); O];
    for i in (0..x.len()).step_by(S::LANES) {
        let end = x.len().min(i + S::LANES);
        let x = simd.load_up_to(&x[i..end]);
        for o in 0..O {
            sums[o] = simd.mul_add(simd.load_up_to(&rows[o][i..end]), x, sums[o]);
        }
    }
    sums.map(
        #[inline(always)]
        |sum| simd.sum(sum),
    )
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
    check(d_out, x, weights, shape, n);
    assert_eq!(d_weights.len(), shape.weights_len(), "weights gradient length");
    let inputs = shape.inputs();
    if let Some(d_x) = d_x {
        assert_eq!(d_x.len(), n * inputs, "input gradient length");
        d_x.fill(T::zero());
        for (d_x, d_out) in d_x.chunks_exact_mut(inputs).zip(d_out.chunks_exact(shape.outputs())) {
            for (row, &d) in weights.chunks_exact(inputs).zip(d_out) {
                add_scaled(simd, d_x, d, row);
            }
        }
    }
    d_weights.fill(T::zero());
    for (x, d_out) in x.chunks_exact(inputs).zip(d_out.chunks_exact(shape.outputs())) {
        for (row, &d) in d_weights.chunks_exact_mut(inputs).zip(d_out) {
            add_scaled(simd, row, d, x);
        }
    }
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
    check(d_out, x, weights, shape, n);
    let inputs = shape.inputs();
    if let Some(d_x) = d_x {
        assert_eq!(d_x.len(), n * inputs, "input gradient length");
        d_x.fill(T::zero());
        for (d_x, d_out) in d_x.chunks_exact_mut(inputs).zip(d_out.chunks_exact(shape.outputs())) {
            for (row, &d) in weights.chunks_exact(inputs).zip(d_out) {
                add_scaled(simd, d_x, d, row);
            }
        }
    }
    for (x, d_out) in x.chunks_exact(inputs).zip(d_out.chunks_exact(shape.outputs())) {
        for (row, &d) in weights.chunks_exact_mut(inputs).zip(d_out) {
            add_scaled(simd, row, -(rate * d), x);
        }
    }
}

/// `out += scale * x`
#[inline(always)]
fn add_scaled<T: Element, S: Simd<T>>(simd: S, out: &mut [T], scale: T, x: &[T]) {
    let scale = simd.splat(scale);
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let sum = simd.mul_add(scale, simd.load_up_to(x), simd.load_up_to(out));
        simd.store_up_to(sum, out);
    }
}

fn check<T>(out: &[T], x: &[T], weights: &[T], shape: &DenseShape, n: usize) {
    assert_eq!(out.len(), n * shape.outputs(), "output length");
    assert_eq!(x.len(), n * shape.inputs(), "input length");
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
