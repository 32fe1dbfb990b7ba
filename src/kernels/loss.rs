//! Losses of rows of predictions, their gradients, and how many rows were right.

use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{argmax, exponential_sum, exponentials_in_place, largest, rows, rows_mut};

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
                let terms = LabelTerms::new(x, label, largest(simd, x));
                terms.add_to(sums, exponential_sum(simd, x, terms.max));
            }
        }
        (Loss::SparseCategoricalCrossentropy { from_logits: false }, Targets::Labels(labels)) => {
            for (x, &label) in rows(x, width).zip(labels) {
                label_of_probabilities(simd, sums, x, label);
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: true, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for (x, y) in rows(x, width).zip(rows(y, width)) {
                let terms = ValueTerms::new(simd, x, y, &smoothing, largest(simd, x));
                terms.add_to(sums, exponential_sum(simd, x, terms.max));
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
    d_x.copy_from_slice(x);
    loss_backward_in_place(simd, d_x, sums, targets, loss, width, scale);
}

/// [`loss_backward`] from `x` to `d_x` in `x`.
#[inline(always)]
pub fn loss_backward_in_place<T: Element, S: Simd<T>>(
    simd: S,
    x: &mut [T],
    sums: &mut LossSums,
    targets: Targets<T>,
    loss: Loss,
    width: usize,
    scale: T,
) {
    check(x, targets, width);
    match (loss, targets) {
        (Loss::SparseCategoricalCrossentropy { from_logits: true }, Targets::Labels(labels)) => {
            for (x, &label) in rows_mut(x, width).zip(labels) {
                let terms = LabelTerms::new(x, label, largest(simd, x));
                let sum = exponentials_in_place(simd, x, terms.max);
                terms.add_to(sums, sum);
                multiply_row(simd, x, scale / sum);
                x[label as usize] = x[label as usize] - scale;
            }
        }
        (Loss::SparseCategoricalCrossentropy { from_logits: false }, Targets::Labels(labels)) => {
            for (x, &label) in rows_mut(x, width).zip(labels) {
                let (slope, q, sum) = label_of_probabilities(simd, sums, x, label);
                x.fill(-(slope * q) / sum * scale);
                x[label as usize] = slope * (T::one() - q) / sum * scale;
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: true, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for (x, y) in rows_mut(x, width).zip(rows(y, width)) {
                let terms = ValueTerms::new(simd, x, y, &smoothing, largest(simd, x));
                let sum = exponentials_in_place(simd, x, terms.max);
                terms.add_to(sums, sum);
                let (share, scale) = (simd.splat(terms.sum * scale / sum), simd.splat(-scale));
                for_each_vector(
                    simd,
                    width,
                    #[inline(always)]
                    |at| {
                        let x = &mut x[at.clone()];
                        let y = smoothing.apply(simd, simd.load_up_to(&y[at]));
                        let p = simd.mul(simd.load_up_to(x), share);
                        simd.store_up_to(simd.mul_add(y, scale, p), x);
                    },
                );
            }
        }
        (
            Loss::CategoricalCrossentropy { from_logits: false, label_smoothing },
            Targets::Values(y),
        ) => {
            let smoothing = Smoothing::new(label_smoothing, width);
            for (x, y) in rows_mut(x, width).zip(rows(y, width)) {
                let sum = values_of_probabilities(simd, sums, x, y, &smoothing);
                values_of_probabilities_backward(x, y, &smoothing, sum, scale);
            }
        }
        (Loss::MeanSquaredError, Targets::Values(y)) => {
            let factor = simd.splat(T::from_f64(2.0 / width as f64) * scale);
            for (x, y) in rows_mut(x, width).zip(rows(y, width)) {
                squared_error(simd, sums, x, y);
                for_each_vector(
                    simd,
                    width,
                    #[inline(always)]
                    |at| {
                        let (x, y) = (&mut x[at.clone()], simd.load_up_to(&y[at]));
                        let d = simd.sub(simd.load_up_to(x), y);
                        simd.store_up_to(simd.mul(d, factor), x);
                    },
                );
            }
        }
        (loss, _) => mismatch(loss),
    }
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
    fn new(x: &[T], label: i64, max: T) -> Self {
        let label = label as usize;
        Self { max, distance: x[label] - max, correct: is_first_maximum(x, label, max) }
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
        let correct = is_first_maximum(x, argmax(y), max);
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
    label: i64,
) -> (T, T, T) {
    let label = label as usize;
    let sum = row_sum(simd, x);
    let q = x[label] / sum;
    let (clipped, slope) = clip(q);
    sums.add(-clipped.ln(), is_first_maximum(x, label, largest(simd, x)));
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
    sums.add(loss, is_first_maximum(x, argmax(y), largest(simd, x)));
    sum
}

/// With `q = x / sum(x)` and `g` the loss's gradient at `q`:
/// `d_x[k] = (g[k] - sum over j of g[j] * q[j]) / sum(x)`
#[inline(always)]
fn values_of_probabilities_backward<T: Element>(
    x: &mut [T],
    y: &[T],
    smoothing: &Smoothing,
    sum: T,
    scale: T,
) {
    let g = |x: T, y: T| -(smoothing.apply_one(y) * clip(x / sum).1);
    let mean = x.iter().zip(y).fold(T::zero(), |mean, (&x, &y)| mean + g(x, y) * (x / sum));
    for (x, &y) in x.iter_mut().zip(y) {
        *x = (g(*x, y) - mean) / sum * scale;
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
    let correct = x.len() > 1 && argmax(x) == argmax(y);
    sums.add(simd.sum(squares) / T::from_f64(x.len() as f64), correct);
}

/// Whether `x[at]` is the first of the elements equal to `max`, the maximum.
#[inline(always)]
fn is_first_maximum<T: Element>(x: &[T], at: usize, max: T) -> bool {
    x[at] == max && x[..at].iter().all(|&x| x != max)
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

#[inline(always)]
fn multiply_row<T: Element, S: Simd<T>>(simd: S, x: &mut [T], factor: T) {
    let factor = simd.splat(factor);
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let x = &mut x[at];
            simd.store_up_to(simd.mul(simd.load_up_to(x), factor), x);
        },
    );
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
