//! Smooth random displacements of pixels, for elastic distortions (P. Simard, D. Steinkraus and J.
//! Platt, "Best practices for convolutional neural networks applied to visual document analysis",
//! 2003).
//!
//! There, an even random number from -1 to 1 for each pixel is blurred by a Gaussian of standard
//! deviation `sigma` and multiplied by `alpha`. Here, cubic B-splines stand in for the Gaussian:
//! those whose knots are `sqrt(3) * sigma` apart have the same standard deviation, and one random
//! number for each knot is enough. They are scaled for the same mean square.

use super::counter::{bits, uniform};
use super::simd::{Element, Simd, for_each_vector};

/// Knots that a pixel's displacement depends on, along each axis.
const TAPS: usize = 4;

/// The integral of the square of a cubic B-spline.
const SPLINE_ENERGY: f64 = 151.0 / 315.0;

/// How strong and how smooth displacements are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elastic {
    /// The factor.
    pub alpha: f64,
    /// The standard deviation of the blur, in pixels.
    pub sigma: f64,
}

impl Elastic {
    /// Pixels between two knots.
    fn spacing(&self) -> f64 {
        3f64.sqrt() * self.sigma
    }

    /// Knots that so many pixels need, wherever the first one is.
    fn knots(&self, len: usize) -> usize {
        ((len - 1) as f64 / self.spacing() + 1.0) as usize + TAPS
    }

    /// The largest number of a knot, for the variance of blurred numbers: `1 / 3`, times the energy
    /// `1 / (4 pi sigma^2)` of the Gaussian.
    fn amplitude(&self) -> f64 {
        self.alpha / (2.0 * std::f64::consts::PI.sqrt() * self.sigma * SPLINE_ENERGY)
    }

    /// Elements of workspace that [`displacements`] of (h, w) pixels need.
    pub fn scratch_len(&self, h: usize, w: usize) -> usize {
        2 * self.knots(h).saturating_mul(self.knots(w) + w)
    }
}

/// The four splines at `at` from 0 to 1 behind the second of their knots.
#[inline(always)]
fn splines(at: f64) -> [f64; TAPS] {
    let before = 1.0 - at;
    [
        before * before * before / 6.0,
        2.0 / 3.0 - at * at * (2.0 - at) / 2.0,
        2.0 / 3.0 - before * before * (2.0 - before) / 2.0,
        at * at * at / 6.0,
    ]
}

/// The splines at pixel `n`, and the first of their knots.
#[inline(always)]
fn splines_of(n: usize, spacing: f64, phase: f64) -> (usize, [f64; TAPS]) {
    let at = n as f64 / spacing + phase;
    (at as usize, splines(at - at.floor()))
}

/// `out` (2, h, w): how much further down, and to the right, each pixel is read; `key` is the
/// image's.
#[inline(always)]
pub fn displacements<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    scratch: &mut [T],
    key: u64,
    elastic: Elastic,
    h: usize,
    w: usize,
) {
    assert_eq!(out.len(), 2 * h * w, "out");
    let (spacing, scale) = (elastic.spacing(), elastic.amplitude() / 2f64.powi(31));
    let (rows, columns) = (elastic.knots(h), elastic.knots(w));
    let (knots, scratch) = scratch.split_at_mut(2 * rows * columns);
    let lines = &mut scratch[..2 * rows * w];
    let (down, right) = knots.split_at_mut(rows * columns);
    for (n, (down, right)) in down.iter_mut().zip(right).enumerate() {
        let bits = bits(key, 2 + n as u64);
        *down = T::from_f64(scale * f64::from(bits as i32));
        *right = T::from_f64(scale * f64::from((bits >> 32) as i32));
    }
    // Where the knots lie is random, too, so that no pixel is nearer to them than others.
    let phases = [uniform(key, 0), uniform(key, 1)];
    for x in 0..w {
        let (first, splines) = splines_of(x, spacing, phases[1]);
        let [a, b, c, d] = splines;
        let [a, b, c, d] = [T::from_f64(a), T::from_f64(b), T::from_f64(c), T::from_f64(d)];
        for (line, knots) in lines.chunks_exact_mut(w).zip(knots.chunks_exact(columns)) {
            let knots = &knots[first..first + TAPS];
            line[x] = (a * knots[0] + b * knots[1]) + (c * knots[2] + d * knots[3]);
        }
    }
    for y in 0..h {
        let (first, splines) = splines_of(y, spacing, phases[0]);
        let weights = simd.constants(splines);
        for axis in 0..2 {
            let lines = &lines[(axis * rows + first) * w..][..TAPS * w];
            let out = &mut out[(axis * h + y) * w..][..w];
            for_each_vector(
                simd,
                w,
                #[inline(always)]
                |at| {
                    let mut sum = simd.zero();
                    for tap in 0..TAPS {
                        let line = simd.load_up_to(&lines[tap * w..][..w][at.clone()]);
                        sum = simd.mul_add(weights[tap], line, sum);
                    }
                    simd.store_up_to(sum, &mut out[at]);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::counter;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::for_each_level;

    fn field<T: Element>(level: Level, key: u64, elastic: Elastic, h: usize, w: usize) -> Vec<T> {
        let mut out = vec![T::nan(); 2 * h * w];
        let mut scratch = vec![T::nan(); elastic.scratch_len(h, w)];
        dispatch!(T, level, simd => displacements(
            simd, &mut out, &mut scratch, key, elastic, h, w,
        ));
        out
    }

    /// The sum over all knots of their numbers times the splines around them.
    fn expected(key: u64, elastic: Elastic, h: usize, w: usize) -> Vec<f64> {
        let spacing = 3f64.sqrt() * elastic.sigma;
        let spline = |distance: f64| match distance.abs() {
            d if d < 1.0 => 2.0 / 3.0 - d * d + d * d * d / 2.0,
            d if d < 2.0 => (2.0 - d).powi(3) / 6.0,
            _ => 0.0,
        };
        let knots = |len: usize| ((len - 1) as f64 / spacing + 1.0).floor() as usize + 4;
        let at = |n: usize, i: u64| n as f64 / spacing + uniform(key, i) + 1.0;
        let mut out = vec![];
        for axis in 0..2 {
            for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                let mut sum = 0.0;
                for row in 0..knots(h) {
                    for column in 0..knots(w) {
                        let number = bits(key, (2 + row * knots(w) + column) as u64);
                        let number = f64::from((number >> (32 * axis)) as i32) / 2f64.powi(31);
                        let weight =
                            spline(at(y, 0) - row as f64) * spline(at(x, 1) - column as f64);
                        sum += number * weight;
                    }
                }
                let energy = 4.0 * std::f64::consts::PI * elastic.sigma.powi(2);
                out.push(sum * elastic.alpha / energy.sqrt() / (151.0 / 315.0));
            }
        }
        out
    }

    fn case<T: Element>(level: Level, tolerance: f64) {
        for (h, w) in [(1, 1), (1, 9), (6, 1), (5, 16), (17, 15), (9, 33)] {
            for sigma in [0.5, 1.3, 4.0, 60.0] {
                let elastic = Elastic { alpha: 5.0 * sigma, sigma };
                let key = counter::key(1, 2, (h * w) as u64);
                let got: Vec<T> = field(level, key, elastic, h, w);
                for (&g, e) in got.iter().zip(expected(key, elastic, h, w)) {
                    assert!((g.to_f64() - e).abs() < tolerance, "{h} {w} {elastic:?}: {g:?} {e}");
                }
            }
        }
    }

    #[test]
    fn displacements_are_sums_of_splines() {
        for_each_level(|level| {
            case::<f32>(level, 1e-5);
            case::<f64>(level, 1e-12);
        });
    }

    #[test]
    fn displacements_are_as_large_as_those_of_a_blur() {
        let (h, w) = (20, 24);
        let elastic = Elastic { alpha: 34.0, sigma: 4.0 };
        let mut squares = vec![0.0; 2 * h * w];
        let (images, mut sum) = (2000, 0.0);
        for row in 0..images {
            let level = Level::available().pop().unwrap();
            let field: Vec<f64> = field(level, counter::key(1, 2, row), elastic, h, w);
            squares.iter_mut().zip(&field).for_each(|(sum, d)| *sum += d * d);
            sum += field.iter().sum::<f64>() / field.len() as f64;
        }
        let energy = 1.0 / (4.0 * std::f64::consts::PI * 16.0);
        let variance = 34.0 * 34.0 / 3.0 * energy;
        let mean = sum / images as f64;
        assert!(mean.abs() < 0.05 * variance.sqrt(), "{mean}");
        for square in &squares {
            let ratio = square / images as f64 / variance;
            assert!((ratio - 1.0).abs() < 0.2, "{ratio}"); // everywhere, at the borders as well
        }
        let all = squares.iter().sum::<f64>() / (squares.len() * images as usize) as f64;
        assert!((all / variance - 1.0).abs() < 0.03, "{all} {variance}");
    }
}
