//! Batch normalisation of rows of channels: `out = gamma * (x - mean) / sqrt(variance + epsilon) + beta`,
//! with the mean and the (biased) variance of each channel over the rows of a batch.
//!
//! A batch is worked on in chunks: each has its own sums, and these are merged in the order of the
//! chunks, so that nothing depends on the number of threads.

use super::simd::{Element, Simd};

/// `mean[c] = mean over rows of x[row, c]` and `m2[c] = sum over rows of (x[row, c] - mean[c])^2`, of one
/// chunk.
///
/// `mean` and `m2` (c,), `x` (rows, c).
#[inline(always)]
pub fn batch_stats<T: Element, S: Simd<T>>(_simd: S, mean: &mut [T], m2: &mut [T], x: &[T]) {
    let c = check(mean.len(), x);
    assert_eq!(m2.len(), c, "m2 length");
    mean.fill(T::zero());
    m2.fill(T::zero());
    for row in x.chunks_exact(c) {
        for k in 0..c {
            mean[k] = mean[k] + row[k];
        }
    }
    let rows = T::from_f64((x.len() / c).max(1) as f64);
    mean.iter_mut().for_each(|mean| *mean = *mean / rows);
    for row in x.chunks_exact(c) {
        for k in 0..c {
            let d = row[k] - mean[k];
            m2[k] = m2[k] + d * d;
        }
    }
}

/// Merges the statistics of `other_rows` further rows into those of `rows` (Chan, Golub and LeVeque,
/// 1979).
///
/// All (c,).
#[inline(always)]
pub fn merge_stats<T: Element>(
    mean: &mut [T],
    m2: &mut [T],
    rows: usize,
    other_mean: &[T],
    other_m2: &[T],
    other_rows: usize,
) {
    let c = mean.len();
    assert_eq!([m2.len(), other_mean.len(), other_m2.len()], [c; 3], "channels");
    let all = (rows + other_rows).max(1) as f64;
    let share = T::from_f64(other_rows as f64 / all);
    let weight = T::from_f64(rows as f64 * (other_rows as f64 / all));
    for k in 0..c {
        let d = other_mean[k] - mean[k];
        mean[k] = mean[k] + d * share;
        m2[k] = m2[k] + other_m2[k] + d * d * weight;
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

/// What [`normalize`] takes: `scale = gamma * inv`, `shift = beta - mean * scale`; no `gamma` is 1 and
/// no `beta` 0.
///
/// All (c,).
#[inline(always)]
pub fn scale_and_shift<T: Element>(
    scale: &mut [T],
    shift: &mut [T],
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    mean: &[T],
    inv: &[T],
) {
    let c = scale.len();
    assert_eq!([shift.len(), mean.len(), inv.len()], [c; 3], "channels");
    for k in 0..c {
        scale[k] = gamma.map_or(T::one(), |gamma| gamma[k]) * inv[k];
        shift[k] = beta.map_or(T::zero(), |beta| beta[k]) - mean[k] * scale[k];
    }
}

/// `out[row, c] = x[row, c] * scale[c] + shift[c]`
///
/// `out` and `x` (rows, c), `scale` and `shift` (c,).
#[inline(always)]
pub fn normalize<T: Element, S: Simd<T>>(
    _simd: S,
    out: &mut [T],
    x: &[T],
    scale: &[T],
    shift: &[T],
) {
    let c = check(scale.len(), x);
    assert_eq!(out.len(), x.len(), "length");
    assert_eq!(shift.len(), c, "channels");
    for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for k in 0..c {
            out[k] = x[k] * scale[k] + shift[k];
        }
    }
}

/// `sum_d[c] = sum over rows of d_out[row, c]` and, with `xhat = (x - mean) * inv`,
/// `sum_d_xhat[c] = sum over rows of d_out[row, c] * xhat[row, c]`, of one chunk. Over a whole batch they
/// are the gradients of beta and gamma.
///
/// `d_out` and `x` (rows, c), the others (c,).
#[inline(always)]
pub fn batch_norm_backward_sums<T: Element, S: Simd<T>>(
    _simd: S,
    sum_d: &mut [T],
    sum_d_xhat: &mut [T],
    d_out: &[T],
    x: &[T],
    mean: &[T],
    inv: &[T],
) {
    let c = check(mean.len(), x);
    assert_eq!(d_out.len(), x.len(), "length");
    assert_eq!([sum_d.len(), sum_d_xhat.len(), inv.len()], [c; 3], "channels");
    sum_d.fill(T::zero());
    sum_d_xhat.fill(T::zero());
    for (d, x) in d_out.chunks_exact(c).zip(x.chunks_exact(c)) {
        for k in 0..c {
            sum_d[k] = sum_d[k] + d[k];
            sum_d_xhat[k] = sum_d_xhat[k] + d[k] * ((x[k] - mean[k]) * inv[k]);
        }
    }
}

/// `d_x = gamma * inv * (d_out - sum_d / rows - xhat * sum_d_xhat / rows)` with
/// `xhat = (x - mean) * inv`, where the sums are those of all chunks of the batch and `rows` counts the
/// batch's. No `gamma` is 1.
///
/// `d_x`, `d_out` and `x` (rows of this chunk, c), the others (c,).
#[inline(always)]
pub fn batch_norm_backward<T: Element, S: Simd<T>>(
    _simd: S,
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
    let share = T::from_f64(1.0 / rows as f64);
    for ((d_x, d), x) in d_x.chunks_exact_mut(c).zip(d_out.chunks_exact(c)).zip(x.chunks_exact(c)) {
        for k in 0..c {
            let factor = gamma.map_or(T::one(), |gamma| gamma[k]) * inv[k];
            let xhat = (x[k] - mean[k]) * inv[k];
            d_x[k] = factor * (d[k] - sum_d[k] * share - xhat * (sum_d_xhat[k] * share));
        }
    }
}

/// The number of channels of `x` (rows, c).
#[inline(always)]
fn check<T>(c: usize, x: &[T]) -> usize {
    assert!(c > 0 && x.len().is_multiple_of(c), "whole rows of at least one channel");
    c
}
