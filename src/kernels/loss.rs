//! Losses of rows of predictions, their gradients, and how many rows were right.

use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{argmax, exponentials, largest, rows, rows_mut};
use std::ops::Range;

/// Keras's bound on probabilities: they are clipped to it and to 1 minus it before their logarithm is
/// taken.
const CLIP: f64 = 1e-7;

/// A loss as Keras defines it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `-ln p[label]`
    SparseCategoricalCrossentropy {
        /// Predictions are logits, and `p` is their softmax. If not, `p` is the predictions divided by
        /// their sum and clipped to between 1e-7 and 1 - 1e-7.
        from_logits: bool,
    },
    /// `- sum over k of y[k] * ln p[k]`
    CategoricalCrossentropy {
        /// As above.
        from_logits: bool,
        /// `y` is the targets times `1 - label_smoothing`, plus `label_smoothing / width`.
        label_smoothing: f64,
    },
    /// `mean over k of (x[k] - y[k])^2`
    MeanSquaredError,
}

/// What should have been predicted.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T> {
    /// Classes (n,), from 0 and below the width: for the sparse loss.
    Labels(&'a [i64]),
    /// (n, width): for the other losses.
    Values(&'a [T]),
}

/// Sums over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// The losses.
    pub loss: f64,
    /// The rows that have their first maximum where their target has it. A row of one number is never
    /// right under the mean squared error, and a row whose loss is NaN never is.
    pub correct: usize,
}

impl LossSums {
    #[inline(always)]
    fn add<T: Element>(&mut self, loss: T, correct: bool) {
        self.loss += loss.to_f64();
        self.correct += usize::from(correct && !loss.is_nan());
    }
}

/// Adds the rows' losses and right predictions to `sums`.
///
/// `x` (n, width): the predictions.
#[inline(always)]
pub fn loss_forward<T: Element, S: Simd<T>>(
    simd: S,
    sums: &mut LossSums,
    x: &[T],
    targets: Targets<T>,
    loss: Loss,
    width: usize,
) {
    check(x, targets, width);
    match (loss, targets) {
        (Loss::SparseCategoricalCrossentropy { from_logits: true }, Targets::Labels(labels)) => {
            for (x, &label) in rows(x, width).zip(labels) {
                let terms = LabelTerms::new(simd, x, label as usize, largest(simd, x));
                terms.add_to(sums, exponentials(simd, x, terms.max, |_, _| ()));
            }
        }
        (Loss::SparseCategoricalCrossentropy { from_logits: false }, Targets::Labels(labels)) => {
            for (x, &label) in rows(x, width).zip(labels) {
                label_of_probabilities(simd, sums, x, label as usize);
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: true, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for (x, y) in rows(x, width).zip(rows(y, width)) {
                let terms = ValueTerms::new(simd, x, y, &smoothing, largest(simd, x));
                terms.add_to(sums, exponentials(simd, x, terms.max, |_, _| ()));
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: false, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for (x, y) in rows(x, width).zip(rows(y, width)) {
                values_of_probabilities(simd, sums, x, y, &smoothing);
            }
        }
        (Loss::MeanSquaredError, Targets::Values(y)) => {
            for (x, y) in rows(x, width).zip(rows(y, width)) {
                squared_error(simd, sums, x, y);
            }
        }
        (loss, _) => mismatch(loss),
    }
}

/// [`loss_forward`], and in `d_x` the gradient of the rows' losses times `scale`.
///
/// `d_x` and `x` (n, width).
#[inline(always)]
pub fn loss_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    sums: &mut LossSums,
    x: &[T],
    targets: Targets<T>,
    loss: Loss,
    width: usize,
    scale: T,
) {
    assert_eq!(d_x.len(), x.len(), "length");
    check(x, targets, width);
    let both = rows_mut(d_x, width).zip(rows(x, width));
    match (loss, targets) {
        (Loss::SparseCategoricalCrossentropy { from_logits: true }, Targets::Labels(labels)) => {
            for ((d_x, x), &label) in both.zip(labels) {
                label_of_logits_backward(simd, d_x, sums, x, label as usize, scale);
            }
        }
        (Loss::SparseCategoricalCrossentropy { from_logits: false }, Targets::Labels(labels)) => {
            for ((d_x, x), &label) in both.zip(labels) {
                let label = label as usize;
                let (slope, q, sum) = label_of_probabilities(simd, sums, x, label);
                d_x.fill(-(slope * q) / sum * scale);
                d_x[label] = slope * (T::one() - q) / sum * scale;
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: true, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for ((d_x, x), y) in both.zip(rows(y, width)) {
                values_of_logits_backward(simd, d_x, sums, x, y, &smoothing, scale);
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: false, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for ((d_x, x), y) in both.zip(rows(y, width)) {
                let sum = values_of_probabilities(simd, sums, x, y, &smoothing);
                values_of_probabilities_backward(d_x, x, y, &smoothing, sum, scale);
            }
        }
        (Loss::MeanSquaredError, Targets::Values(y)) => {
            let factor = simd.splat(T::from_f64(2.0 / width as f64) * scale);
            for ((d_x, x), y) in both.zip(rows(y, width)) {
                squared_error(simd, sums, x, y);
                for_each_vector(
                    simd,
                    width,
                    #[inline(always)]
                    |at| {
                        let (x, y) = (simd.load_up_to(&x[at.clone()]), &y[at.clone()]);
                        let d = simd.sub(x, simd.load_up_to(y));
                        simd.store_up_to(simd.mul(d, factor), &mut d_x[at]);
                    },
                );
            }
        }
        (loss, _) => mismatch(loss),
    }
}

/// Adds a row of logits: `d_x = (p - one_hot(label)) * scale`
#[inline(always)]
fn label_of_logits_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    sums: &mut LossSums,
    x: &[T],
    label: usize,
    scale: T,
) {
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

/// Adds a row of logits: `d_x = (p * sum(y) - y) * scale`
#[inline(always)]
fn values_of_logits_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    sums: &mut LossSums,
    x: &[T],
    y: &[T],
    smoothing: &Smoothing,
    scale: T,
) {
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

/// Writes `exp(x - max)` apart from the last elements, which fill no vector: to load what has just been
/// stored in part would wait for the store. Returns the sum of all and those.
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
/// `ln(sum) - (x[label] - max)`. The logarithm of `p[label]` itself would be that of 0 long before it
/// is large.
struct LabelTerms<T> {
    max: T,
    distance: T,
    correct: bool,
}

impl<T: Element> LabelTerms<T> {
    #[inline(always)]
    fn new<S: Simd<T>>(simd: S, x: &[T], label: usize, max: T) -> Self {
        Self { max, distance: x[label] - max, correct: is_first_maximum(simd, x, label, max) }
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
    fn new<S: Simd<T>>(simd: S, x: &[T], y: &[T], smoothing: &Smoothing, max: T) -> Self {
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
        let correct = is_first_maximum(simd, x, argmax(simd, y), max);
        Self { max, sum: simd.sum(sums), distance: simd.sum(distances), correct }
    }

    #[inline(always)]
    fn add_to(&self, sums: &mut LossSums, sum: T) {
        sums.add(self.sum * sum.ln() - self.distance, self.correct);
    }
}

/// `y * keep + share`
struct Smoothing {
    keep: f64,
    share: f64,
}

impl Smoothing {
    #[inline(always)]
    fn new(label_smoothing: f64, width: usize) -> Self {
        Self { keep: 1.0 - label_smoothing, share: label_smoothing / width as f64 }
    }

    #[inline(always)]
    fn apply<T: Element, S: Simd<T>>(&self, simd: S, y: S::Vector) -> S::Vector {
        let [keep, share] = [self.keep, self.share].map(|x| simd.splat(T::from_f64(x)));
        simd.mul_add(y, keep, share)
    }

    #[inline(always)]
    fn apply_one<T: Element>(&self, y: T) -> T {
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

/// Adds a row of probabilities; returns the slope of the loss at `q = x[label] / sum`, `q` and the sum.
#[inline(always)]
fn label_of_probabilities<T: Element, S: Simd<T>>(
    simd: S,
    sums: &mut LossSums,
    x: &[T],
    label: usize,
) -> (T, T, T) {
    let sum = row_sum(simd, x);
    let q = x[label] / sum;
    let (clipped, slope) = clip(q);
    sums.add(-clipped.ln(), is_first_maximum(simd, x, label, largest(simd, x)));
    (-slope, q, sum)
}

/// Adds a row of probabilities; returns its sum.
#[inline(always)]
fn values_of_probabilities<T: Element, S: Simd<T>>(
    simd: S,
    sums: &mut LossSums,
    x: &[T],
    y: &[T],
    smoothing: &Smoothing,
) -> T {
    let sum = row_sum(simd, x);
    let loss = x
        .iter()
        .zip(y)
        .fold(T::zero(), |loss, (&x, &y)| loss - smoothing.apply_one(y) * clip(x / sum).0.ln());
    sums.add(loss, is_first_maximum(simd, x, argmax(simd, y), largest(simd, x)));
    sum
}

/// With `q = x / sum(x)` and `g` the loss's gradient at `q`:
/// `d_x[k] = (g[k] - sum over j of g[j] * q[j]) / sum(x)`
#[inline(always)]
fn values_of_probabilities_backward<T: Element>(
    d_x: &mut [T],
    x: &[T],
    y: &[T],
    smoothing: &Smoothing,
    sum: T,
    scale: T,
) {
    let g = |x: T, y: T| -(smoothing.apply_one(y) * clip(x / sum).1);
    let mean = x.iter().zip(y).fold(T::zero(), |mean, (&x, &y)| mean + g(x, y) * (x / sum));
    for ((d_x, &x), &y) in d_x.iter_mut().zip(x).zip(y) {
        *d_x = (g(x, y) - mean) / sum * scale;
    }
}

/// Adds a row of the mean squared error.
#[inline(always)]
fn squared_error<T: Element, S: Simd<T>>(simd: S, sums: &mut LossSums, x: &[T], y: &[T]) {
    let mut squares = simd.zero();
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let d = simd.sub(simd.load_up_to(&x[at.clone()]), simd.load_up_to(&y[at]));
            squares = simd.mul_add(d, d, squares);
        },
    );
    let correct = x.len() > 1 && argmax(simd, x) == argmax(simd, y);
    sums.add(simd.sum(squares) / T::from_f64(x.len() as f64), correct);
}

/// Whether `x[at]` is the first of the elements equal to `max`, the maximum.
#[inline(always)]
fn is_first_maximum<T: Element, S: Simd<T>>(simd: S, x: &[T], at: usize, max: T) -> bool {
    x[at] == max && largest(simd, &x[..at]) < max
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

#[cold]
fn mismatch(loss: Loss) -> ! {
    panic!("labels belong to the sparse loss and values to the others: {loss:?}");
}

#[inline(always)]
fn check<T>(x: &[T], targets: Targets<T>, width: usize) {
    match targets {
        Targets::Labels(labels) => assert_eq!(x.len(), labels.len() * width, "labels"),
        Targets::Values(y) => assert_eq!(x.len(), y.len(), "values"),
    }
}
