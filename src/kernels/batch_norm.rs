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
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::activation::{relu_backward_in_place, relu_in_place};
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{bits, for_each_level, random};

    const EPSILON: f64 = 1e-3;

    /// Agreement up to the rounding of sums of numbers of a size of about 1.
    fn assert_near<T: Element>(got: &[T], expected: &[f64], rows: usize) {
        assert_eq!(got.len(), expected.len());
        let tolerance = T::epsilon().to_f64() * 32.0 * (rows.max(1) as f64).sqrt();
        for (i, (g, &e)) in got.iter().zip(expected).enumerate() {
            let error = (Element::to_f64(*g) - e).abs();
            assert!(error <= tolerance * e.abs().max(1.0), "element {i}: got {g:?}, expected {e}");
        }
    }

    /// Mean and squares of each channel, as one would write them.
    fn reference_stats(x: &[f64], c: usize) -> (Vec<f64>, Vec<f64>) {
        let rows = x.len() / c;
        let of_channel = |k: usize| (0..rows).map(move |row| x[row * c + k]);
        let mean: Vec<f64> =
            (0..c).map(|k| of_channel(k).sum::<f64>() / rows.max(1) as f64).collect();
        let m2 =
            (0..c).map(|k| of_channel(k).map(|x| (x - mean[k]).powi(2)).sum::<f64>()).collect();
        (mean, m2)
    }

    fn reference_forward(x: &[f64], gamma: &[f64], beta: &[f64], epsilon: f64) -> Vec<f64> {
        let c = gamma.len();
        let (mean, m2) = reference_stats(x, c);
        let rows = (x.len() / c) as f64;
        let out = |(i, x): (usize, &f64)| {
            let k = i % c;
            gamma[k] * (x - mean[k]) / (m2[k] / rows + epsilon).sqrt() + beta[k]
        };
        x.iter().enumerate().map(out).collect()
    }

    /// Everything that a layer does in training, in chunks of the given numbers of rows.
    struct Pass<T> {
        mean: Vec<T>,
        variance: Vec<T>,
        out: Vec<T>,
        d_x: Vec<T>,
        d_gamma: Vec<T>,
        d_beta: Vec<T>,
    }

    fn pass<T: Element>(
        level: Level,
        x: &[T],
        d_out: &[T],
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        c: usize,
        chunks: &[usize],
    ) -> Pass<T> {
        let (rows, mut d_out) = (x.len() / c, d_out.to_vec());
        let mut start = 0;
        let ranges: Vec<Range<usize>> = chunks
            .iter()
            .map(|n| {
                start += n * c;
                start - n * c..start
            })
            .collect();
        assert_eq!(start, x.len());
        let zeros = || vec![T::zero(); c];
        let nan = || vec![T::nan(); c];
        dispatch!(T, level, simd => {
            let (mut mean, mut m2, mut merged) = (zeros(), zeros(), 0);
            for (range, &rows) in ranges.iter().zip(chunks) {
                let (mut chunk_mean, mut chunk_m2) = (nan(), nan());
                batch_stats(simd, &mut chunk_mean, &mut chunk_m2, &x[range.clone()]);
                merge_stats(simd, &mut mean, &mut m2, merged, &chunk_mean, &chunk_m2, rows);
                merged += rows;
            }
            biased_variance(&mut m2, rows);
            let variance = m2;
            let (mut inv, mut scale) = (nan(), nan());
            inverse_deviation(&mut inv, &variance, EPSILON);
            scales(&mut scale, gamma, &inv);
            let mut out = vec![T::nan(); x.len()];
            let mut d_x = out.clone();
            let (mut d_beta, mut d_gamma) = (zeros(), zeros());
            for range in &ranges {
                let range = range.clone();
                let out = &mut out[range.clone()];
                normalize(simd, out, &x[range.clone()], &mean, &scale, beta, false);
                let (mut sum_d, mut sum_d_xhat) = (nan(), nan());
                let (x, d_out) = (&x[range.clone()], &mut d_out[range]);
                batch_norm_backward_sums(
                    simd, &mut sum_d, &mut sum_d_xhat, d_out, x, &mean, &inv, None,
                );
                for k in 0..c {
                    d_beta[k] = d_beta[k] + sum_d[k];
                    d_gamma[k] = d_gamma[k] + sum_d_xhat[k];
                }
            }
            for range in &ranges {
                batch_norm_backward(
                    simd, &mut d_x[range.clone()], &d_out[range.clone()], &x[range.clone()],
                    &mean, &inv, gamma, &d_beta, &d_gamma, rows,
                );
            }
            Pass { mean, variance, out, d_x, d_gamma, d_beta }
        })
    }

    fn to_f64<T: Element>(x: &[T]) -> Vec<f64> {
        x.iter().map(|&x| x.to_f64()).collect()
    }

    fn forward_case<T: Element>(level: Level, c: usize, chunks: &[usize]) {
        let rows: usize = chunks.iter().sum();
        let x: Vec<T> = random(rows * c, 1);
        let d_out: Vec<T> = random(rows * c, 2);
        let (gamma, beta): (Vec<T>, Vec<T>) = (random(c, 3), random(c, 4));
        let got = pass(level, &x, &d_out, Some(&gamma), Some(&beta), c, chunks);
        let (mean, m2) = reference_stats(&to_f64(&x), c);
        let variance: Vec<f64> = m2.iter().map(|m2| m2 / rows.max(1) as f64).collect();
        assert_near(&got.mean, &mean, rows);
        assert_near(&got.variance, &variance, rows);
        let expected = reference_forward(&to_f64(&x), &to_f64(&gamma), &to_f64(&beta), EPSILON);
        assert_near(&got.out, &expected, rows);
        // The whole batch in one chunk, in f64.
        let all = pass(
            level,
            &to_f64(&x),
            &to_f64(&d_out),
            Some(&to_f64(&gamma)),
            Some(&to_f64(&beta)),
            c,
            &[rows],
        );
        assert_near(&got.d_x, &all.d_x, rows);
        assert_near(&got.d_gamma, &all.d_gamma, rows);
        assert_near(&got.d_beta, &all.d_beta, rows);
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for c in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for chunks in [&[1][..], &[2, 1], &[4, 0, 5], &[9, 9, 8], &[700]] {
                    forward_case::<f32>(level, c, chunks);
                    forward_case::<f64>(level, c, chunks);
                }
            }
            forward_case::<f32>(level, BLOCK / 4 + 1, &[ROWS + 1, 2 * ROWS]);
        });
    }

    #[test]
    fn backward_is_the_central_difference() {
        for_each_level(|level| {
            let (c, chunks) = (3, [4, 3]);
            let x: Vec<f64> = random(7 * c, 1);
            let d_out: Vec<f64> = random(7 * c, 2);
            let gammas: [Vec<f64>; 2] = [random(c, 3), vec![1.0; c]];
            let betas: [Vec<f64>; 2] = [random(c, 4), vec![0.0; c]];
            for (gamma, beta, given) in
                [(&gammas[0], &betas[0], true), (&gammas[1], &betas[1], false)]
            {
                let got = pass(
                    level,
                    &x,
                    &d_out,
                    given.then_some(&gamma[..]),
                    given.then_some(&beta[..]),
                    c,
                    &chunks,
                );
                let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                    let out = reference_forward(x, gamma, beta, EPSILON);
                    out.iter().zip(&d_out).map(|(out, d)| out * d).sum()
                };
                let slope = |values: &[f64], i: usize, loss: &dyn Fn(&[f64]) -> f64| {
                    let (mut above, mut below) = (values.to_vec(), values.to_vec());
                    above[i] += 1e-6;
                    below[i] -= 1e-6;
                    (loss(&above) - loss(&below)) / 2e-6
                };
                for i in 0..x.len() {
                    let expected = slope(&x, i, &|x| loss(x, gamma, beta));
                    assert!((got.d_x[i] - expected).abs() < 1e-8, "{} {expected}", got.d_x[i]);
                }
                for k in 0..c {
                    let expected = slope(gamma, k, &|gamma| loss(&x, gamma, beta));
                    assert!((got.d_gamma[k] - expected).abs() < 1e-8);
                    let expected = slope(beta, k, &|beta| loss(&x, gamma, beta));
                    assert!((got.d_beta[k] - expected).abs() < 1e-8);
                }
            }
        });
    }

    /// The squares of numbers around 10,000 would leave no digit of a variance of 1/3 in f32.
    #[test]
    fn a_large_mean_costs_no_digits_of_the_variance() {
        for_each_level(|level| {
            let x: Vec<f32> = random::<f32>(3000, 1).iter().map(|x| x + 10_000.0).collect();
            let (mut mean, mut m2) = ([0.0], [0.0]);
            dispatch!(f32, level, simd => batch_stats(simd, &mut mean, &mut m2, &x));
            let (_, expected) = reference_stats(&to_f64(&x), 1);
            assert!((f64::from(m2[0]) / expected[0] - 1.0).abs() < 1e-4, "{m2:?} {expected:?}");
        });
    }

    #[test]
    fn a_constant_channel_becomes_beta() {
        for_each_level(|level| {
            let x = vec![1234.5f32; 100]; // whose sums have no rounding
            let got = pass(level, &x, &x, Some(&[3.0]), Some(&[0.25]), 1, &[60, 40]);
            assert!(got.out.iter().all(|&out| out == 0.25), "{:?}", got.out);
        });
    }

    #[test]
    fn nan_spoils_its_channel_only() {
        for_each_level(|level| {
            let mut x: Vec<f32> = random(20 * 3, 1);
            x[7 * 3 + 1] = f32::NAN;
            let got = pass(level, &x, &random(20 * 3, 2), None, None, 3, &[10, 10]);
            for (i, (out, d)) in got.out.iter().zip(&got.d_x).enumerate() {
                assert_eq!((out.is_nan(), d.is_nan()), (i % 3 == 1, i % 3 == 1));
            }
        });
    }

    /// Numbers of which half normalise to below 0, among them some to zeros, infinities and NaN.
    fn relu_case<T: Element>(level: Level, rows: usize, c: usize) {
        let special = [T::zero(), T::infinity(), T::neg_infinity(), T::nan(), -T::zero()];
        let mut x: Vec<T> = random(rows * c, 1);
        x.iter_mut().step_by(3).zip(special.iter().cycle()).for_each(|(x, &it)| *x = it);
        let d_out: Vec<T> = random(rows * c, 2);
        let (zeros, inv): (Vec<T>, Vec<T>) = (vec![T::zero(); c], vec![T::one(); c]);
        let scale: Vec<T> = random(c, 3);
        for beta in [None, Some(&zeros[..]), Some(&scale[..])] {
            let (mut out, mut fused) = (vec![T::nan(); x.len()], vec![T::nan(); x.len()]);
            let (mut d, mut d_fused) = (d_out.clone(), d_out.clone());
            let (mut sums, mut sums_fused) = (vec![T::nan(); 2 * c], vec![T::nan(); 2 * c]);
            dispatch!(T, level, simd => {
                normalize(simd, &mut out, &x, &zeros, &scale, beta, false);
                relu_in_place(simd, &mut out);
                normalize(simd, &mut fused, &x, &zeros, &scale, beta, true);
                relu_backward_in_place(simd, &mut d, &out);
                let (sum_d, sum_dx) = sums.split_at_mut(c);
                batch_norm_backward_sums(simd, sum_d, sum_dx, &mut d, &x, &zeros, &inv, None);
                let (sum_d, sum_dx) = sums_fused.split_at_mut(c);
                batch_norm_backward_sums(
                    simd, sum_d, sum_dx, &mut d_fused, &x, &zeros, &inv, Some(&fused),
                );
            });
            let all = [(&fused, &out), (&d_fused, &d), (&sums_fused, &sums)];
            for (got, expected) in all.map(|(got, expected)| (bits(got), bits(expected))) {
                assert_eq!(got, expected, "{rows} rows of {c}");
            }
        }
    }

    #[test]
    fn relu_behind_it_is_bit_by_bit_that_of_its_own() {
        for_each_level(|level| {
            for (rows, c) in [(1, 1), (7, 3), (5, 16), (ROWS + 3, 17), (BLOCK / 8 + 5, 9)] {
                relu_case::<f32>(level, rows, c);
                relu_case::<f64>(level, rows, c);
            }
        });
    }

    #[test]
    fn moving_averages_move() {
        let mut moving = [1.0f64, 2.0];
        update_moving(&mut moving, &[2.0, f64::NAN], 0.75);
        assert_eq!(moving[0], 1.25);
        assert!(moving[1].is_nan());
    }
}
