//! Softmax, its Jacobian, and its cross-entropy loss.

use super::simd::Element;

/// `p[k] = exp(t[k]) / sum over n of exp(t[n])`, computed from `t - max(t)`, so that no exponential
/// overflows.
///
/// `p` and `totals` (nodes,).
#[inline(always)]
pub fn softmax_forward<T: Element>(p: &mut [T], totals: &[T]) {
    assert_eq!(p.len(), totals.len(), "nodes");
    let (_, sum) = exponentials(p, totals);
    p.iter_mut().for_each(|p| *p = *p / sum);
}

/// `d_totals[k] = p[k] * (d_p[k] - sum over n of d_p[n] * p[n])`: the whole Jacobian.
///
/// `d_totals`, `d_p` and `p` (nodes,).
#[inline(always)]
pub fn softmax_backward<T: Element>(d_totals: &mut [T], d_p: &[T], p: &[T]) {
    assert_eq!(d_totals.len(), d_p.len(), "nodes");
    assert_eq!(d_totals.len(), p.len(), "nodes");
    let mean = d_p.iter().zip(p).fold(T::zero(), |sum, (&d, &p)| sum + d * p);
    for ((d_total, &d), &p) in d_totals.iter_mut().zip(d_p).zip(p) {
        *d_total = p * (d - mean);
    }
}

/// The loss `-ln p[label]` of the softmax of `totals` and, in `d_totals`, its gradient
/// `p - one_hot(label)`.
///
/// `d_totals` and `totals` (nodes,), `label` below nodes.
#[inline(always)]
pub fn softmax_cross_entropy<T: Element>(d_totals: &mut [T], totals: &[T], label: usize) -> T {
    assert_eq!(d_totals.len(), totals.len(), "nodes");
    let (max, sum) = exponentials(d_totals, totals);
    d_totals.iter_mut().for_each(|d| *d = *d / sum);
    d_totals[label] = d_totals[label] - T::one();
    // Not from p[label], which rounds to 0 long before its logarithm is large.
    sum.ln() - (totals[label] - max)
}

/// Writes `exp(totals - max)`; returns the maximum and the sum of what was written.
#[inline(always)]
fn exponentials<T: Element>(out: &mut [T], totals: &[T]) -> (T, T) {
    let max = totals.iter().fold(T::neg_infinity(), |max, &t| max.max(t));
    let mut sum = T::zero();
    for (out, &t) in out.iter_mut().zip(totals) {
        *out = (t - max).exp();
        sum = sum + *out;
    }
    (max, sum)
}

/// The index of the first maximum: the predicted class.
#[inline(always)]
pub fn argmax<T: Element>(x: &[T]) -> usize {
    (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    fn softmax(totals: &[f64]) -> Vec<f64> {
        let mut p = vec![f64::NAN; totals.len()];
        softmax_forward(&mut p, totals);
        p
    }

    #[test]
    fn forward_is_the_definition_and_does_not_overflow() {
        let totals: Vec<f64> = random(10, 1);
        let sum: f64 = totals.iter().map(|t| t.exp()).sum();
        let expected: Vec<f64> = totals.iter().map(|t| t.exp() / sum).collect();
        assert_close(&softmax(&totals), &expected, 10);
        assert_eq!(softmax(&[1e300, -1e300, 1e300]), [0.5, 0.0, 0.5]);
        assert!(softmax(&[f64::NAN, 1.0]).iter().all(|p| p.is_nan()));
        assert!(softmax(&[f64::INFINITY, 1.0]).iter().any(|p| p.is_nan()));
    }

    #[test]
    fn backward_is_the_central_difference() {
        let (totals, d_p): (Vec<f64>, Vec<f64>) = (random(7, 1), random(7, 2));
        let mut d_totals = vec![f64::NAN; 7];
        softmax_backward(&mut d_totals, &d_p, &softmax(&totals));
        let loss = |t: &[f64]| -> f64 { softmax(t).iter().zip(&d_p).map(|(p, d)| p * d).sum() };
        for k in 0..7 {
            let h = 1e-6;
            let (mut above, mut below) = (totals.clone(), totals.clone());
            above[k] += h;
            below[k] -= h;
            let slope = (loss(&above) - loss(&below)) / (2.0 * h);
            assert!((slope - d_totals[k]).abs() < 1e-9, "{slope} {}", d_totals[k]);
        }
    }

    #[test]
    fn cross_entropy_is_softmax_and_logarithm() {
        let totals: Vec<f64> = random(10, 1);
        let p = softmax(&totals);
        let mut d_totals = vec![f64::NAN; 10];
        let loss = softmax_cross_entropy(&mut d_totals, &totals, 3);
        let mut d_p = vec![0.0; 10];
        d_p[3] = -1.0 / p[3];
        let mut expected = vec![f64::NAN; 10];
        softmax_backward(&mut expected, &d_p, &p);
        assert_close(&d_totals, &expected, 10);
        assert_close(&[loss], &[-p[3].ln()], 10);
        assert_eq!(softmax_cross_entropy(&mut [0.0; 2], &[0.0, 1e6], 0), 1e6);
    }

    #[test]
    fn argmax_takes_the_first() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    }
}
