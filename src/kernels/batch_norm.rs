//! Batch normalisation of rows of channels:
//! `out = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with the mean and the (biased)
//! variance of each channel over the rows of a batch.
//!
//! A batch is worked on in chunks: each has its own sums, and these are merged in the order of the
//! chunks, so that nothing depends on the number of threads.

use super::activation::relu_gradient;
use super::simd::{Element, Simd, for_each_vector};
use std::ops::Range;

/// Elements of the blocks of rows that are walked channel by channel: a block of each of three
/// arrays stays in the L1 cache.
const BLOCK: usize = 2048;

/// Rows summed side by side, to cover the latency of an addition.
const ROWS: usize = 4;

/// `mean[c] = mean over rows of x[row, c]` and `m2[c] = sum over rows of (x[row, c] - mean[c])^2`,
/// of one chunk.
///
/// `mean` and `m2` (c,), `x` (rows, c).
#[inline(always)]
pub fn batch_stats<T: Element, S: Simd<T>>(simd: S, mean: &mut [T], m2: &mut [T], x: &[T]) {
    let c = check(mean.len(), x);
    assert_eq!(m2.len(), c, "m2 length");
    mean.fill(T::zero());
    m2.fill(T::zero());
    for_each_block(
        simd,
        x.len() / c,
        c,
        #[inline(always)]
        |rows, at| {
            let merge = Merge::new(simd, rows.start, rows.len());
            let count = simd.splat(T::from_f64(rows.len() as f64));
            let [sum] = sum_rows(
                simd,
                rows.clone(),
                #[inline(always)]
                |row, [sum]| [simd.add(sum, load(simd, x, c, row, &at))],
            );
            let block_mean = simd.div(sum, count);
            let [block_m2] = sum_rows(
                simd,
                rows,
                #[inline(always)]
                |row, [sum]| {
                    let d = simd.sub(load(simd, x, c, row, &at), block_mean);
                    [simd.mul_add(d, d, sum)]
                },
            );
            merge.add(simd, &mut mean[at.clone()], &mut m2[at], block_mean, block_m2);
        },
    );
}

/// Merges the statistics of `other_rows` further rows into those of `rows`.
///
/// All (c,).
#[inline(always)]
pub fn merge_stats<T: Element, S: Simd<T>>(
    simd: S,
    mean: &mut [T],
    m2: &mut [T],
    rows: usize,
    other_mean: &[T],
    other_m2: &[T],
    other_rows: usize,
) {
    let c = mean.len();
    assert_eq!([m2.len(), other_mean.len(), other_m2.len()], [c; 3], "channels");
    let merge = Merge::new(simd, rows, other_rows);
    for_each_vector(
        simd,
        c,
        #[inline(always)]
        |at| {
            let other_mean = simd.load_up_to(&other_mean[at.clone()]);
            let other_m2 = simd.load_up_to(&other_m2[at.clone()]);
            merge.add(simd, &mut mean[at.clone()], &mut m2[at], other_mean, other_m2);
        },
    );
}

/// Merges mean and squares of two sets of rows without forming sums that cancel (Chan, Golub and
/// LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979).
struct Merge<V> {
    /// The second set's part of all rows.
    share: V,
    /// What the square of the difference of the means weighs.
    weight: V,
}

impl<V: Copy> Merge<V> {
    #[inline(always)]
    fn new<T: Element, S: Simd<T, Vector = V>>(simd: S, rows: usize, other_rows: usize) -> Self {
        let share = other_rows as f64 / (rows + other_rows).max(1) as f64;
        let [share, weight] = [share, rows as f64 * share];
        Self { share: simd.splat(T::from_f64(share)), weight: simd.splat(T::from_f64(weight)) }
    }

    #[inline(always)]
    fn add<T: Element, S: Simd<T, Vector = V>>(
        &self,
        simd: S,
        mean: &mut [T],
        m2: &mut [T],
        other_mean: V,
        other_m2: V,
    ) {
        let old = simd.load_up_to(mean);
        let d = simd.sub(other_mean, old);
        let squares = simd.add(simd.load_up_to(m2), other_m2);
        simd.store_up_to(simd.mul_add(simd.mul(d, d), self.weight, squares), m2);
        simd.store_up_to(simd.mul_add(d, self.share, old), mean);
    }
}

/// `variance = m2 / rows`, in place.
#[inline(always)]
pub fn biased_variance<T: Element>(m2: &mut [T], rows: usize) {
    let rows = T::from_f64(rows.max(1) as f64);
    m2.iter_mut().for_each(|m2| *m2 = *m2 / rows);
}

/// `moving = moving * momentum + batch * (1 - momentum)`
#[inline(always)]
pub fn update_moving<T: Element>(moving: &mut [T], batch: &[T], momentum: f64) {
    assert_eq!(moving.len(), batch.len(), "channels");
    let (old, new) = (T::from_f64(momentum), T::from_f64(1.0 - momentum));
    for (moving, &batch) in moving.iter_mut().zip(batch) {
        *moving = *moving * old + batch * new;
    }
}

/// `inv = 1 / sqrt(variance + epsilon)`
#[inline(always)]
pub fn inverse_deviation<T: Element>(inv: &mut [T], variance: &[T], epsilon: f64) {
    assert_eq!(inv.len(), variance.len(), "channels");
    for (inv, &variance) in inv.iter_mut().zip(variance) {
        *inv = T::one() / (variance + T::from_f64(epsilon)).sqrt();
    }
}

/// `scale = gamma * inv`; no `gamma` is 1.
///
/// All (c,).
#[inline(always)]
pub fn scales<T: Element>(scale: &mut [T], gamma: Option<&[T]>, inv: &[T]) {
    assert_eq!(scale.len(), inv.len(), "channels");
    for (k, scale) in scale.iter_mut().enumerate() {
        *scale = gamma.map_or(T::one(), |gamma| gamma[k]) * inv[k];
    }
}

/// `out[row, c] = (x[row, c] - mean[c]) * scale[c] + beta[c]`, in this order: where the mean is
/// much larger than the deviation, `x * scale` would take all the digits. No `beta` is 0. Then,
/// if `relu` says so, ReLU of it.
///
/// `out` and `x` (rows, c), the others (c,).
#[inline(always)]
pub fn normalize<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    mean: &[T],
    scale: &[T],
    beta: Option<&[T]>,
    relu: bool,
) {
    let c = check(scale.len(), x);
    let least = simd.splat(if relu { T::zero() } else { T::neg_infinity() });
    assert_eq!(out.len(), x.len(), "length");
    assert_eq!([mean.len(), beta.map_or(c, <[T]>::len)], [c; 2], "channels");
    for_each_block(
        simd,
        x.len() / c,
        c,
        #[inline(always)]
        |rows, at| {
            let mean = simd.load_up_to(&mean[at.clone()]);
            let scale = simd.load_up_to(&scale[at.clone()]);
            let beta = match beta {
                Some(beta) => simd.load_up_to(&beta[at.clone()]),
                None => simd.zero(),
            };
            for row in rows {
                let centred = simd.sub(load(simd, x, c, row, &at), mean);
                let y = simd.max(least, simd.mul_add(centred, scale, beta));
                simd.store_up_to(y, &mut out[row * c..][at.clone()]);
            }
        },
    );
}

/// `sum_d[c] = sum over rows of d_out[row, c]` and, with `xhat = (x - mean) * inv`,
/// `sum_d_xhat[c] = sum over rows of d_out[row, c] * xhat[row, c]`, of one chunk. Over a whole
/// batch they are the gradients of beta and gamma.
///
/// With `relu_out`, the output of the ReLU that [`normalize`] was asked for, `d_out` is the gradient
/// of this output before, and that of the ReLU's input after.
///
/// `d_out`, `x` and `relu_out` (rows, c), the others (c,).
#[inline(always)]
pub fn batch_norm_backward_sums<T: Element, S: Simd<T>>(
    simd: S,
    sum_d: &mut [T],
    sum_d_xhat: &mut [T],
    d_out: &mut [T],
    x: &[T],
    mean: &[T],
    inv: &[T],
    relu_out: Option<&[T]>,
) {
    let c = check(mean.len(), x);
    assert_eq!([d_out.len(), relu_out.map_or(x.len(), <[T]>::len)], [x.len(); 2], "length");
    assert_eq!([sum_d.len(), sum_d_xhat.len(), inv.len()], [c; 3], "channels");
    sum_d.fill(T::zero());
    sum_d_xhat.fill(T::zero());
    for_each_block(
        simd,
        x.len() / c,
        c,
        #[inline(always)]
        |rows, at| {
            let mean = simd.load_up_to(&mean[at.clone()]);
            let inv = simd.load_up_to(&inv[at.clone()]);
            let sums = sum_rows(
                simd,
                rows,
                #[inline(always)]
                |row, [sum_d, sum_dx]| {
                    let mut d = load(simd, d_out, c, row, &at);
                    if let Some(out) = relu_out {
                        d = relu_gradient(simd, d, load(simd, out, c, row, &at));
                        simd.store_up_to(d, &mut d_out[row * c..][at.clone()]);
                    }
                    let x = simd.sub(load(simd, x, c, row, &at), mean);
                    [simd.add(sum_d, d), simd.mul_add(d, x, sum_dx)]
                },
            );
            let (sum_d, sum_d_xhat) = (&mut sum_d[at.clone()], &mut sum_d_xhat[at]);
            simd.store_up_to(simd.add(simd.load_up_to(sum_d), sums[0]), sum_d);
            let before = simd.load_up_to(sum_d_xhat);
            simd.store_up_to(simd.mul_add(sums[1], inv, before), sum_d_xhat);
        },
    );
}

/// `d_x = gamma * inv * (d_out - sum_d / rows - xhat * sum_d_xhat / rows)` with
/// `xhat = (x - mean) * inv`, where the sums are those of all chunks of the batch and `rows` counts
/// the batch's. No `gamma` is 1.
///
/// `d_x`, `d_out` and `x` (rows of this chunk, c), the others (c,).
#[inline(always)]
pub fn batch_norm_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    x: &[T],
    mean: &[T],
    inv: &[T],
    gamma: Option<&[T]>,
    sum_d: &[T],
    sum_d_xhat: &[T],
    rows: usize,
) {
    let c = check(mean.len(), x);
    assert_eq!([d_x.len(), d_out.len()], [x.len(); 2], "length");
    assert_eq!([inv.len(), sum_d.len(), sum_d_xhat.len()], [c; 3], "channels");
    let minus_share = simd.splat(T::from_f64(-1.0 / rows as f64));
    for_each_block(
        simd,
        x.len() / c,
        c,
        #[inline(always)]
        |rows, at| {
            let mean = simd.load_up_to(&mean[at.clone()]);
            let inv = simd.load_up_to(&inv[at.clone()]);
            let factor = match gamma {
                Some(gamma) => simd.mul(simd.load_up_to(&gamma[at.clone()]), inv),
                None => inv,
            };
            let minus_factor = simd.mul(factor, minus_share);
            let constant = simd.mul(minus_factor, simd.load_up_to(&sum_d[at.clone()]));
            let slope = simd.mul(minus_factor, simd.load_up_to(&sum_d_xhat[at.clone()]));
            let slope = simd.mul(slope, inv);
            for row in rows {
                let x = simd.sub(load(simd, x, c, row, &at), mean);
                let rest = simd.mul_add(x, slope, constant);
                let d = simd.mul_add(load(simd, d_out, c, row, &at), factor, rest);
                simd.store_up_to(d, &mut d_x[row * c..][at.clone()]);
            }
        },
    );
}

/// The number of channels of `x` (rows, c).
#[inline(always)]
fn check<T>(c: usize, x: &[T]) -> usize {
    assert!(c > 0 && x.len().is_multiple_of(c), "whole rows of at least one channel");
    c
}

/// Calls `visit(rows, channels)` for every vector of channels of every block of rows.
#[inline(always)]
fn for_each_block<T: Element, S: Simd<T>>(
    simd: S,
    rows: usize,
    c: usize,
    mut visit: impl FnMut(Range<usize>, Range<usize>),
) {
    let block = (BLOCK / c).max(ROWS);
    for start in (0..rows).step_by(block) {
        let end = rows.min(start + block);
        for_each_vector(
            simd,
            c,
            #[inline(always)]
            |at| visit(start..end, at),
        );
    }
}

/// `f(row, sums)` over all rows, where `f` adds a row to `N` sums: in a fixed order, of [`ROWS`]
/// rows side by side.
#[inline(always)]
fn sum_rows<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    rows: Range<usize>,
    mut f: impl FnMut(usize, [S::Vector; N]) -> [S::Vector; N],
) -> [S::Vector; N] {
    let mut sums = [[simd.zero(); N]; ROWS];
    let mut row = rows.start;
    while row + ROWS <= rows.end {
        for n in 0..ROWS {
            sums[n] = f(row + n, sums[n]);
        }
        row += ROWS;
    }
    while row < rows.end {
        sums[0] = f(row, sums[0]);
        row += 1;
    }
    for n in 1..ROWS {
        for i in 0..N {
            sums[0][i] = simd.add(sums[0][i], sums[n][i]);
        }
    }
    sums[0]
}

/// The channels `at` of a row of `x` (rows, c).
#[inline(always)]
fn load<T: Element, S: Simd<T>>(
    simd: S,
    x: &[T],
    c: usize,
    row: usize,
    at: &Range<usize>,
) -> S::Vector {
    simd.load_up_to(&x[row * c..][at.clone()])
}

#[cfg(test)]
mod tests;
