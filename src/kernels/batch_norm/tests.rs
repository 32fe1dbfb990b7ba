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
    let mean: Vec<f64> = (0..c).map(|k| of_channel(k).sum::<f64>() / rows.max(1) as f64).collect();
    let m2 = (0..c).map(|k| of_channel(k).map(|x| (x - mean[k]).powi(2)).sum::<f64>()).collect();
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
        for (gamma, beta, given) in [(&gammas[0], &betas[0], true), (&gammas[1], &betas[1], false)]
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
