//! Fully connected layers. Weights are stored (outputs, inputs), so that vectors run along the
//! inputs: the usual head has ten outputs, which fill no vector well, and many inputs.

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

/// `out[o] = biases[o] + sum over i of weights[o, i] * x[i]`
///
/// `out` and `biases` (outputs,), `x` (inputs,), `weights` (outputs, inputs).
#[inline(always)]
pub fn dense_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    weights: &[T],
    biases: &[T],
    shape: &DenseShape,
) {
    check(out, x, weights, biases, shape);
    for_output_blocks!(shape.outputs(), |o, N| {
        forward_tile::<T, S, N>(
            simd,
            &mut out[o..o + N],
            x,
            &weights[o * shape.inputs()..],
            &biases[o..o + N],
        )
    });
}

#[inline(always)]
fn forward_tile<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    out: &mut [T],
    x: &[T],
    weights: &[T],
    biases: &[T],
) {
    let rows: [&[T]; N] = std::array::from_fn(|n| &weights[n * x.len()..][..x.len()]);
    let mut sums = [simd.zero(); N];
    for i in (0..x.len()).step_by(S::LANES) {
        let end = x.len().min(i + S::LANES);
        let x = simd.load_up_to(&x[i..end]);
        for n in 0..N {
            sums[n] = simd.mul_add(simd.load_up_to(&rows[n][i..end]), x, sums[n]);
        }
    }
    for n in 0..N {
        out[n] = biases[n] + simd.sum(sums[n]);
    }
}

/// One step of gradient descent and the input's gradient, in one walk over the weights:
/// `d_x[i] = sum over o of weights[o, i] * d_out[o]`, then `weights[o, i] -= rate * d_out[o] * x[i]`
/// and `biases[o] -= rate * d_out[o]`.
///
/// `d_x` and `x` (inputs,), `d_out` and `biases` (outputs,), `weights` (outputs, inputs).
#[inline(always)]
pub fn dense_backward_sgd<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    weights: &mut [T],
    biases: &mut [T],
    d_out: &[T],
    x: &[T],
    rate: T,
    shape: &DenseShape,
) {
    check(d_out, x, weights, biases, shape);
    assert_eq!(d_x.len(), shape.inputs(), "input gradient length");
    for (bias, &d) in biases.iter_mut().zip(d_out) {
        *bias = *bias - rate * d;
    }
    for_output_blocks!(shape.outputs(), |o, N| {
        let weights = &mut weights[o * shape.inputs()..][..N * shape.inputs()];
        backward_tile::<T, S, N>(simd, d_x, weights, &d_out[o..o + N], x, rate, o == 0)
    });
}

/// `N` outputs; the first of them set `d_x`, the others add to it.
#[inline(always)]
fn backward_tile<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    d_x: &mut [T],
    weights: &mut [T],
    d_out: &[T],
    x: &[T],
    rate: T,
    first: bool,
) {
    let d: [S::Vector; N] = std::array::from_fn(|n| simd.splat(d_out[n]));
    let step: [S::Vector; N] = std::array::from_fn(|n| simd.splat(-(rate * d_out[n])));
    for i in (0..x.len()).step_by(S::LANES) {
        let end = x.len().min(i + S::LANES);
        let xs = simd.load_up_to(&x[i..end]);
        let mut sum = if first { simd.zero() } else { simd.load_up_to(&d_x[i..end]) };
        for n in 0..N {
            let weights = &mut weights[n * x.len()..][i..end];
            let w = simd.load_up_to(weights);
            sum = simd.mul_add(w, d[n], sum);
            simd.store_up_to(simd.mul_add(step[n], xs, w), weights);
        }
        simd.store_up_to(sum, &mut d_x[i..end]);
    }
}

fn check<T>(out: &[T], x: &[T], weights: &[T], biases: &[T], shape: &DenseShape) {
    assert_eq!(out.len(), shape.outputs(), "output length");
    assert_eq!(x.len(), shape.inputs(), "input length");
    assert_eq!(weights.len(), shape.weights_len(), "weights length");
    assert_eq!(biases.len(), shape.outputs(), "biases length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    macro_rules! case {
        ($t:ty, $level:expr, $shape:expr) => {{
            let shape: DenseShape = $shape;
            let x: Vec<$t> = random(shape.inputs(), 1);
            let mut weights: Vec<$t> = random(shape.weights_len(), 2);
            let mut biases: Vec<$t> = random(shape.outputs(), 3);
            let d_out: Vec<$t> = random(shape.outputs(), 4);

            let mut out = vec![<$t>::NAN; shape.outputs()];
            let mut expected = out.clone();
            dispatch!($t, $level, simd => {
                dense_forward(simd, &mut out, &x, &weights, &biases, &shape)
            });
            reference::dense_forward(&mut expected, &x, &weights, &biases, &shape);
            assert_close(&out, &expected, shape.inputs() + 1);

            let rate = 0.25;
            let mut d_x = vec![<$t>::NAN; shape.inputs()];
            let mut expected = d_x.clone();
            reference::dense_backward_input(&mut expected, &d_out, &weights, &shape);
            let stepped: Vec<$t> = (0..shape.weights_len())
                .map(|n| weights[n] - rate * d_out[n / shape.inputs()] * x[n % shape.inputs()])
                .collect();
            let stepped_biases: Vec<$t> =
                biases.iter().zip(&d_out).map(|(b, d)| b - rate * d).collect();
            dispatch!($t, $level, simd => {
                dense_backward_sgd(
                    simd, &mut d_x, &mut weights, &mut biases, &d_out, &x, rate, &shape,
                )
            });
            assert_close(&d_x, &expected, shape.outputs());
            assert_close(&weights, &stepped, 2);
            assert_close(&biases, &stepped_biases, 2);
        }};
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for outputs in [1, 2, 3, 4, 5, 9, 10, 11, 14, 15, 20, 25] {
                for inputs in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100] {
                    let shape = DenseShape::new(inputs, outputs).unwrap();
                    case!(f32, level, shape);
                    case!(f64, level, shape);
                }
            }
        });
    }
}
