//! Cross-entropy, row by row: of logits or probabilities, with a label or with values as the
//! target.

use super::loss::{LossSums, RowLoss};
use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{argmax, exponentials, largest, position};
use std::ops::Range;

/// Keras's bound on probabilities: they are clipped to it and to 1 minus it before their logarithm
/// is taken.
const CLIP: f64 = 1e-7;

/// Logits whose target is a label.
pub(super) struct LabelLogits(pub usize);

impl<T: Element> RowLoss<T> for LabelLogits {
    #[inline(always)]
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) {
        let terms = LabelTerms::new(simd, x, self.0, largest(simd, x));
        terms.add_to(sums, exponentials(simd, x, terms.max, |_, _| ()));
    }

    /// `d_x = (p - one_hot(label)) * scale`
    #[inline(always)]
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T) {
        let label = self.0;
        let terms = LabelTerms::new(simd, x, label, largest(simd, x));
        let (sum, tail) = store_exponentials(simd, d_x, x, terms.max);
        terms.add_to(sums, sum);
        let (share, scale) = (simd.splat(scale / sum), simd.splat(scale));
        map_exponentials(
            simd,
            d_x,
            tail,
            #[inline(always)]
            |e, at| {
                let p = simd.mul(e, share);
                if !at.contains(&label) {
                    return p;
                }
                let (before, up_to) = (label - at.start, label - at.start + 1);
                let p_minus_y = simd.select(simd.first_lanes(up_to), simd.sub(p, scale), p);
                simd.select(simd.first_lanes(before), p, p_minus_y)
            },
        );
    }
}

/// Logits whose targets are the values `y` (width,), smoothed.
pub(super) struct ValueLogits<'a, T> {
    pub y: &'a [T],
    pub smoothing: Smoothing,
}

impl<T: Element> RowLoss<T> for ValueLogits<'_, T> {
    #[inline(always)]
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) {
        let terms = ValueTerms::new(simd, x, self.y, self.smoothing, largest(simd, x));
        terms.add_to(sums, exponentials(simd, x, terms.max, |_, _| ()));
    }

    /// `d_x = (p * sum(y) - y) * scale`
    #[inline(always)]
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T) {
        let Self { y, smoothing } = *self;
        let terms = ValueTerms::new(simd, x, y, smoothing, largest(simd, x));
        let (sum, tail) = store_exponentials(simd, d_x, x, terms.max);
        terms.add_to(sums, sum);
        let (share, scale) = (simd.splat(terms.sum * scale / sum), simd.splat(-scale));
        map_exponentials(
            simd,
            d_x,
            tail,
            #[inline(always)]
            |e, at| {
                let y = smoothing.apply(simd, simd.load_up_to(&y[at]));
                simd.mul_add(y, scale, simd.mul(e, share))
            },
        );
    }
}

/// Writes `exp(x - max)` apart from the last elements, which fill no vector: to load what has just
/// been stored in part would wait for the store. Returns the sum of all and those.
#[inline(always)]
fn store_exponentials<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    max: T,
) -> (T, S::Vector) {
    let mut tail = simd.zero();
    let sum = exponentials(
        simd,
        x,
        max,
        #[inline(always)]
        |at, e| {
            if at.len() == S::LANES {
                simd.store(e, &mut out[at]);
            } else {
                tail = e;
            }
        },
    );
    (sum, tail)
}

/// Writes `f(e, range)` over what [`store_exponentials`] left.
#[inline(always)]
fn map_exponentials<T: Element, S: Simd<T>>(
    simd: S,
    row: &mut [T],
    tail: S::Vector,
    f: impl Fn(S::Vector, Range<usize>) -> S::Vector,
) {
    for_each_vector(
        simd,
        row.len(),
        #[inline(always)]
        |at| {
            let row = &mut row[at.clone()];
            let e = if row.len() == S::LANES { simd.load(row) } else { tail };
            simd.store_up_to(f(e, at), row);
        },
    );
}

/// What the cross-entropy of a label takes from a row of logits, besides the sum of exponentials:
/// `ln(sum) - (x[label] - max)`. The logarithm of `p[label]` itself would be that of 0 long before
/// it is large.
struct LabelTerms<T> {
    max: T,
    distance: T,
    correct: bool,
}

impl<T: Element> LabelTerms<T> {
    #[inline(always)]
    fn new<S: Simd<T>>(simd: S, x: &[T], label: usize, max: T) -> Self {
        Self { max, distance: x[label] - max, correct: position(simd, x, max) == label }
    }

    #[inline(always)]
    fn add_to(&self, sums: &mut LossSums, sum: T) {
        sums.add(sum.ln() - self.distance, self.correct);
    }
}

/// The same of a distribution `y`: `sum(y) * ln(sum) - sum of y * (x - max)`.
struct ValueTerms<T> {
    max: T,
    /// `sum(y)`
    sum: T,
    distance: T,
    correct: bool,
}

impl<T: Element> ValueTerms<T> {
    #[inline(always)]
    fn new<S: Simd<T>>(simd: S, x: &[T], y: &[T], smoothing: Smoothing, max: T) -> Self {
        let shift = simd.splat(max);
        let (mut sums, mut distances) = (simd.zero(), simd.zero());
        for_each_vector(
            simd,
            x.len(),
            #[inline(always)]
            |at| {
                let inside = simd.first_lanes(at.len());
                let y = smoothing.apply(simd, simd.load_up_to(&y[at.clone()]));
                let y = simd.select(inside, y, simd.zero());
                // What weighs nothing adds nothing, even at minus infinity.
                let distance = simd.mul(y, simd.sub(simd.load_up_to(&x[at]), shift));
                let distance = simd.select(simd.equal(y, simd.zero()), y, distance);
                sums = simd.add(sums, y);
                distances = simd.add(distances, distance);
            },
        );
        let correct = position(simd, x, max) == argmax(simd, y);
        Self { max, sum: simd.sum(sums), distance: simd.sum(distances), correct }
    }

    #[inline(always)]
    fn add_to(&self, sums: &mut LossSums, sum: T) {
        sums.add(self.sum * sum.ln() - self.distance, self.correct);
    }
}

/// `y * keep + share`
#[derive(Clone, Copy)]
pub(super) struct Smoothing {
    keep: f64,
    share: f64,
}

impl Smoothing {
    #[inline(always)]
    pub(super) fn new(label_smoothing: f64, width: usize) -> Self {
        Self { keep: 1.0 - label_smoothing, share: label_smoothing / width as f64 }
    }

    #[inline(always)]
    fn apply<T: Element, S: Simd<T>>(self, simd: S, y: S::Vector) -> S::Vector {
        let [keep, share] = simd.constants([self.keep, self.share]);
        simd.mul_add(y, keep, share)
    }

    #[inline(always)]
    fn apply_one<T: Element>(self, y: T) -> T {
        y * T::from_f64(self.keep) + T::from_f64(self.share)
    }
}

/// A clipped probability and the slope of its logarithm, which is 0 where it is clipped.
#[inline(always)]
fn clip<T: Element>(q: T) -> (T, T) {
    let (low, high) = (T::from_f64(CLIP), T::from_f64(1.0 - CLIP));
    if q < low {
        (low, T::zero())
    } else if q > high {
        (high, T::zero())
    } else {
        (q, T::one() / q)
    }
}

/// Probabilities, divided by their sum and clipped, whose target is a label.
pub(super) struct LabelProbabilities(pub usize);

impl LabelProbabilities {
    /// Adds the loss; returns its slope at `q = x[label] / sum`, `q` and the sum.
    #[inline(always)]
    fn add<T: Element, S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) -> (T, T, T) {
        let sum = row_sum(simd, x);
        let q = x[self.0] / sum;
        let (clipped, slope) = clip(q);
        sums.add(-clipped.ln(), argmax(simd, x) == self.0);
        (-slope, q, sum)
    }
}

impl<T: Element> RowLoss<T> for LabelProbabilities {
    #[inline(always)]
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) {
        self.add(simd, sums, x);
    }

    /// The gradient of `q[label]` is the slope, and `q` divides by a sum of all.
    #[inline(always)]
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T) {
        let (slope, q, sum) = self.add(simd, sums, x);
        d_x.fill(-(slope * q) / sum * scale);
        d_x[self.0] = slope * (T::one() - q) / sum * scale;
    }
}

/// Probabilities as above, whose targets are the values `y` (width,), smoothed.
pub(super) struct ValueProbabilities<'a, T> {
    pub y: &'a [T],
    pub smoothing: Smoothing,
}

impl<T: Element> ValueProbabilities<'_, T> {
    /// Adds the loss; returns the sum of `x`.
    #[inline(always)]
    fn add<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) -> T {
        let Self { y, smoothing } = *self;
        let sum = row_sum(simd, x);
        let loss = x
            .iter()
            .zip(y)
            .fold(T::zero(), |loss, (&x, &y)| loss - smoothing.apply_one(y) * clip(x / sum).0.ln());
        sums.add(loss, argmax(simd, x) == argmax(simd, y));
        sum
    }
}

impl<T: Element> RowLoss<T> for ValueProbabilities<'_, T> {
    #[inline(always)]
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) {
        self.add(simd, sums, x);
    }

    /// With `q = x / sum(x)` and `g` the loss's gradient at `q`,
    /// `d_x[k] = (g[k] - sum over j of g[j] * q[j]) / sum(x)`.
    #[inline(always)]
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T) {
        let Self { y, smoothing } = *self;
        let sum = self.add(simd, sums, x);
        let g = |x: T, y: T| -(smoothing.apply_one(y) * clip(x / sum).1);
        let mean = x.iter().zip(y).fold(T::zero(), |mean, (&x, &y)| mean + g(x, y) * (x / sum));
        for ((d_x, &x), &y) in d_x.iter_mut().zip(x).zip(y) {
            *d_x = (g(x, y) - mean) / sum * scale;
        }
    }
}

#[inline(always)]
fn row_sum<T: Element, S: Simd<T>>(simd: S, x: &[T]) -> T {
    let mut sums = simd.zero();
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| sums = simd.add(sums, simd.load_up_to(&x[at])),
    );
    simd.sum(sums)
}
