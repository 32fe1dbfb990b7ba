//! Softmax over rows, and its Jacobian.

use super::simd::math::exp;
use super::simd::{Element, Simd, for_each_vector};
use std::ops::Range;

/// `p[i, k] = exp(x[i, k]) / sum over j of exp(x[i, j])`, computed from `x - max(x)`, so that no
/// exponential overflows.
///
/// `p` and `x` (n, width).
#[inline(always)]
pub fn softmax_forward<T: Element, S: Simd<T>>(simd: S, p: &mut [T], x: &[T], width: usize) {
    assert_eq!(p.len(), x.len(), "length");
    for (p, x) in rows_mut(p, width).zip(rows(x, width)) {
        let max = simd.splat(largest(simd, x));
        let mut sums = simd.zero();
        for_each_vector(
            simd,
            width,
            #[inline(always)]
            |at| {
                let e = exponential(simd, &x[at.clone()], max);
                simd.store_up_to(e, &mut p[at]);
                sums = simd.add(sums, e);
            },
        );
        let share = simd.splat(T::one() / simd.sum(sums));
        for_each_vector(
            simd,
            width,
            #[inline(always)]
            |at| {
                let p = &mut p[at];
                simd.store_up_to(simd.mul(simd.load_up_to(p), share), p);
            },
        );
    }
}

/// `d_x[i, k] = p[i, k] * (d_p[i, k] - sum over j of d_p[i, j] * p[i, j])`: the whole Jacobian.
///
/// `d_x`, `d_p` and `p` (n, width).
#[inline(always)]
pub fn softmax_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_p: &[T],
    p: &[T],
    width: usize,
) {
    assert_eq!([d_x.len(), d_p.len()], [p.len(); 2], "length");
    for ((d_x, d_p), p) in rows_mut(d_x, width).zip(rows(d_p, width)).zip(rows(p, width)) {
        let mut sums = simd.zero();
        for_each_vector(
            simd,
            width,
            #[inline(always)]
            |at| {
                let d_p = simd.load_up_to(&d_p[at.clone()]);
                sums = simd.mul_add(d_p, simd.load_up_to(&p[at]), sums);
            },
        );
        let mean = simd.splat(simd.sum(sums));
        for_each_vector(
            simd,
            width,
            #[inline(always)]
            |at| {
                let d_p = simd.load_up_to(&d_p[at.clone()]);
                let d = simd.mul(simd.load_up_to(&p[at.clone()]), simd.sub(d_p, mean));
                simd.store_up_to(d, &mut d_x[at]);
            },
        );
    }
}

/// The rows of `x` (n, width); none if the width is 0.
#[inline(always)]
pub(super) fn rows<T>(x: &[T], width: usize) -> impl Iterator<Item = &[T]> {
    assert!(x.len().is_multiple_of(width.max(1)), "whole rows");
    x.chunks_exact(width.max(1))
}

/// The rows of `x` (n, width); none if the width is 0.
#[inline(always)]
pub(super) fn rows_mut<T>(x: &mut [T], width: usize) -> impl Iterator<Item = &mut [T]> {
    assert!(x.len().is_multiple_of(width.max(1)), "whole rows");
    x.chunks_exact_mut(width.max(1))
}

/// Calls `visit(range, exp(x - max))` for every vector of a row; returns the sum of them, NaN if
/// the row holds NaN.
#[inline(always)]
pub(super) fn exponentials<T: Element, S: Simd<T>>(
    simd: S,
    x: &[T],
    max: T,
    mut visit: impl FnMut(Range<usize>, S::Vector),
) -> T {
    let max = simd.splat(max);
    let mut sums = simd.zero();
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let e = exponential(simd, &x[at.clone()], max);
            visit(at, e);
            sums = simd.add(sums, e);
        },
    );
    simd.sum(sums)
}

/// `exp(x - max)` of up to a vector, then zeros.
#[inline(always)]
fn exponential<T: Element, S: Simd<T>>(simd: S, x: &[T], max: S::Vector) -> S::Vector {
    if x.len() >= S::LANES {
        return exp(simd, simd.sub(simd.load(x), max));
    }
    // Not from minus infinity: arithmetic that underflows is slow.
    let e = exp(simd, simd.sub(load_part_or(simd, x, max), max));
    simd.select(simd.first_lanes(x.len()), e, simd.zero())
}

/// The largest element; any number if one is NaN.
#[inline(always)]
pub(super) fn largest<T: Element, S: Simd<T>>(simd: S, x: &[T]) -> T {
    let mut max = simd.splat(T::neg_infinity());
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let whole = at.len() == S::LANES;
            let x = if whole { simd.load(&x[at]) } else { load_part_or(simd, &x[at], max) };
            max = simd.max(max, x);
        },
    );
    simd.largest(max)
}

/// [`Simd::load_part`] with `other` where there is no element.
#[inline(always)]
fn load_part_or<T: Element, S: Simd<T>>(simd: S, x: &[T], other: S::Vector) -> S::Vector {
    simd.select(simd.first_lanes(x.len()), simd.load_part(x), other)
}

/// The index of the first maximum: the predicted class. Of no use if `x` holds NaN.
#[inline(always)]
pub fn argmax<T: Element, S: Simd<T>>(simd: S, x: &[T]) -> usize {
    position(simd, x, largest(simd, x)).min(x.len().saturating_sub(1))
}

/// The index of the first element equal to `value`; the length of `x`, or some more, if none is.
#[inline(always)]
pub(super) fn position<T: Element, S: Simd<T>>(simd: S, x: &[T], value: T) -> usize {
    let value = simd.splat(value);
    for start in (0..x.len()).step_by(S::LANES) {
        let equal = simd.bits(simd.equal(simd.load_up_to(&x[start..]), value));
        if equal != 0 {
            return start + equal.trailing_zeros() as usize;
        }
    }
    x.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    const WIDTHS: [usize; 15] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 33, 100];

    fn forward<T: Element>(level: Level, x: &[T], width: usize) -> Vec<T> {
        let mut p = vec![T::nan(); x.len()];
        dispatch!(T, level, simd => softmax_forward(simd, &mut p, x, width));
        p
    }

    fn backward<T: Element>(level: Level, d_p: &[T], p: &[T], width: usize) -> Vec<T> {
        let mut d_x = vec![T::nan(); p.len()];
        dispatch!(T, level, simd => softmax_backward(simd, &mut d_x, d_p, p, width));
        d_x
    }

    /// One row, as one would write it.
    fn reference(x: &[f64]) -> Vec<f64> {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect()
    }

    fn case<T: Element>(level: Level, n: usize, width: usize) {
        let x: Vec<T> = random::<T>(n * width, 1).iter().map(|&x| x * T::from_f64(5.0)).collect();
        let d_p: Vec<T> = random(n * width, 2);
        let p = forward(level, &x, width);
        let d_x = backward(level, &d_p, &p, width);
        let rows = x.chunks(width.max(1)).zip(d_p.chunks(width.max(1)));
        let (mut expected, mut d_expected) = (Vec::new(), Vec::new());
        for (x, d_p) in rows {
            let p = reference(&x.iter().map(|&x| x.to_f64()).collect::<Vec<f64>>());
            let mean: f64 = p.iter().zip(d_p).map(|(p, &d)| p * d.to_f64()).sum();
            let d = p.iter().zip(d_p).map(|(p, &d)| p * (d.to_f64() - mean));
            d_expected.extend(d.map(T::from_f64));
            expected.extend(p.into_iter().map(T::from_f64));
        }
        assert_close(&p, &expected, 4);
        assert_close(&d_x, &d_expected, 4);
    }

    #[test]
    fn equals_reference_around_every_vector_edge() {
        for_each_level(|level| {
            for (n, width) in WIDTHS.into_iter().flat_map(|width| [(0, width), (3, width)]) {
                case::<f32>(level, n, width);
                case::<f64>(level, n, width);
            }
        });
    }

    #[test]
    fn does_not_overflow_and_keeps_nan() {
        for_each_level(|level| {
            assert_eq!(forward(level, &[1e300, -1e300, 1e300], 3), [0.5, 0.0, 0.5]);
            assert_eq!(forward(level, &[-1e30f32, -2e30], 2), [1.0, 0.0]);
            assert_eq!(forward(level, &[f32::NEG_INFINITY, 3.0], 2), [0.0, 1.0]);
            assert!(forward(level, &[f64::INFINITY, 1.0], 2).iter().any(|p| p.is_nan()));
            for width in WIDTHS {
                for at in 0..width {
                    let mut x: Vec<f32> = random(2 * width, 1);
                    x[at] = f32::NAN;
                    let p = forward(level, &x, width);
                    assert!(p[..width].iter().all(|p| p.is_nan()));
                    assert!(p[width..].iter().all(|p| !p.is_nan()));
                }
            }
        });
    }

    #[test]
    fn backward_is_the_central_difference() {
        for_each_level(|level| {
            let (x, d_p): (Vec<f64>, Vec<f64>) = (random(7, 1), random(7, 2));
            let d_x = backward(level, &d_p, &forward(level, &x, 7), 7);
            let loss =
                |x: &[f64]| -> f64 { reference(x).iter().zip(&d_p).map(|(p, d)| p * d).sum() };
            for k in 0..7 {
                let h = 1e-6;
                let (mut above, mut below) = (x.clone(), x.clone());
                above[k] += h;
                below[k] -= h;
                let slope = (loss(&above) - loss(&below)) / (2.0 * h);
                assert!((slope - d_x[k]).abs() < 1e-9, "{slope} {}", d_x[k]);
            }
        });
    }

    #[test]
    fn argmax_takes_the_first() {
        for_each_level(|level| {
            let argmax = |x: &[f32]| dispatch!(f32, level, simd => argmax(simd, x));
            assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
            for width in 1..40 {
                for at in 0..width {
                    let mut x = vec![-1e30; width];
                    x[at] = -1e29;
                    assert_eq!(argmax(&x), at);
                }
            }
        });
    }
}
