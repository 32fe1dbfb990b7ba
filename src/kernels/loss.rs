//! Losses of rows of predictions, their gradients, and how many rows were right.

use super::cross_entropy::{
    LabelLogits, LabelProbabilities, Smoothing, ValueLogits, ValueProbabilities,
};
use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{argmax, rows, rows_mut};

/// A loss as Keras defines it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `-ln p[label]`
    SparseCategoricalCrossentropy {
        /// Predictions are logits, and `p` is their softmax. If not, `p` is the predictions divided
        /// by their sum and clipped to between 1e-7 and 1 - 1e-7.
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
    /// The rows that have their first maximum where their target has it. A row of one number is
    /// never right under the mean squared error, and a row whose loss is NaN never is.
    pub correct: usize,
}

impl LossSums {
    #[inline(always)]
    pub(super) fn add<T: Element>(&mut self, loss: T, correct: bool) {
        self.loss += loss.to_f64();
        self.correct += usize::from(correct && !loss.is_nan());
    }
}

/// A row's loss, once its target is known.
pub(super) trait RowLoss<T: Element> {
    /// Adds the loss of the predictions `x` (width,).
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]);

    /// The same, and in `d_x` (width,) its gradient times `scale`.
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T);
}

/// The mean squared error to the values (width,).
struct SquaredError<'a, T>(&'a [T]);

impl<T: Element> RowLoss<T> for SquaredError<'_, T> {
    #[inline(always)]
    fn forward<S: Simd<T>>(&self, simd: S, sums: &mut LossSums, x: &[T]) {
        let y = self.0;
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

    /// `d_x = (x - y) * 2 / width * scale`
    #[inline(always)]
    fn backward<S: Simd<T>>(&self, simd: S, d_x: &mut [T], sums: &mut LossSums, x: &[T], scale: T) {
        self.forward(simd, sums, x);
        let y = self.0;
        let factor = simd.splat(T::from_f64(2.0 / x.len() as f64) * scale);
        for_each_vector(
            simd,
            x.len(),
            #[inline(always)]
            |at| {
                let (x, y) = (simd.load_up_to(&x[at.clone()]), simd.load_up_to(&y[at.clone()]));
                simd.store_up_to(simd.mul(simd.sub(x, y), factor), &mut d_x[at]);
            },
        );
    }
}

/// Evaluates the expression with `$rows` bound to the [`RowLoss`] of each row in turn.
macro_rules! with_rows {
    ($loss:expr, $targets:expr, $width:expr, $rows:ident => $body:expr) => {
        match ($loss, $targets) {
            (Loss::SparseCategoricalCrossentropy { from_logits }, Targets::Labels(labels)) => {
                let labels = labels.iter().map(|&label| label as usize);
                if from_logits {
                    let $rows = labels.map(LabelLogits);
                    $body
                } else {
                    let $rows = labels.map(LabelProbabilities);
                    $body
                }
            }
            (
                Loss::CategoricalCrossentropy { from_logits, label_smoothing },
                Targets::Values(y),
            ) => {
                let (y, smoothing) = (rows(y, $width), Smoothing::new(label_smoothing, $width));
                if from_logits {
                    let $rows = y.map(|y| ValueLogits { y, smoothing });
                    $body
                } else {
                    let $rows = y.map(|y| ValueProbabilities { y, smoothing });
                    $body
                }
            }
            (Loss::MeanSquaredError, Targets::Values(y)) => {
                let $rows = rows(y, $width).map(SquaredError);
                $body
            }
            (loss, _) => mismatch(loss),
        }
    };
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
    with_rows!(loss, targets, width, losses => {
        for (x, loss) in rows(x, width).zip(losses) {
            loss.forward(simd, sums, x);
        }
    });
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
    with_rows!(loss, targets, width, losses => {
        for ((d_x, x), loss) in rows_mut(d_x, width).zip(rows(x, width)).zip(losses) {
            loss.backward(simd, d_x, sums, x, scale);
        }
    });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{for_each_level, random};

    const ROWS: usize = 3;
    const WIDTHS: [usize; 13] = [1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 33];

    const fn sparse(from_logits: bool) -> Loss {
        Loss::SparseCategoricalCrossentropy { from_logits }
    }
    const fn dense(from_logits: bool, label_smoothing: f64) -> Loss {
        Loss::CategoricalCrossentropy { from_logits, label_smoothing }
    }
    const DENSE: [Loss; 5] = [
        dense(true, 0.0),
        dense(true, 0.1),
        dense(false, 0.0),
        dense(false, 0.1),
        Loss::MeanSquaredError,
    ];

    /// The sums of `loss_forward`, which `loss_backward` must agree with, and the gradient.
    fn run<T: Element>(
        level: Level,
        loss: Loss,
        x: &[T],
        targets: Targets<T>,
        width: usize,
        scale: f64,
    ) -> (LossSums, Vec<T>) {
        let scale = T::from_f64(scale);
        let (mut forward, mut backward) = (LossSums::default(), LossSums::default());
        let mut d_x = vec![T::nan(); x.len()];
        dispatch!(T, level, simd => {
            loss_forward(simd, &mut forward, x, targets, loss, width);
            loss_backward(simd, &mut d_x, &mut backward, x, targets, loss, width, scale);
        });
        assert_eq!(forward.correct, backward.correct);
        assert_eq!(forward.loss.to_bits(), backward.loss.to_bits());
        (forward, d_x)
    }

    /// One row as one would write it; a label is a distribution.
    fn reference(loss: Loss, x: &[f64], y: &[f64]) -> f64 {
        let (from_logits, smoothing) = match loss {
            Loss::SparseCategoricalCrossentropy { from_logits } => (from_logits, 0.0),
            Loss::CategoricalCrossentropy { from_logits, label_smoothing } => {
                (from_logits, label_smoothing)
            }
            Loss::MeanSquaredError => {
                let squares: f64 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum();
                return squares / x.len() as f64;
            }
        };
        let p: Vec<f64> = if from_logits {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            x.iter().map(|x| x.exp() / sum).collect()
        } else {
            let sum: f64 = x.iter().sum();
            x.iter().map(|x| (x / sum).clamp(1e-7, 1.0 - 1e-7)).collect()
        };
        let y = y.iter().map(|y| y * (1.0 - smoothing) + smoothing / x.len() as f64);
        -y.zip(p).map(|(y, p)| y * p.ln()).sum::<f64>()
    }

    fn first_maximum(x: &[f64]) -> usize {
        (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
    }

    /// Predictions in which probabilities, if that is what they are, are clipped here and there.
    fn predictions<T: Element>(loss: Loss, width: usize) -> Vec<T> {
        let mut x: Vec<T> = random(ROWS * width, width as u64);
        if matches!(loss, Loss::SparseCategoricalCrossentropy { from_logits: false })
            || matches!(loss, Loss::CategoricalCrossentropy { from_logits: false, .. })
        {
            x.iter_mut().for_each(|x| *x = x.abs() + T::from_f64(0.1));
            x.iter_mut().skip(2).step_by(7).for_each(|x| *x = T::from_f64(-0.001));
        }
        x
    }

    fn check<T: Element>(level: Level, loss: Loss, width: usize, targets: Targets<T>, y: &[f64]) {
        let x: Vec<T> = predictions(loss, width);
        let (sums, d_x) = run(level, loss, &x, targets, width, 0.25);
        let x: Vec<f64> = x.iter().map(|&x| x.to_f64()).collect();
        let rows = || x.chunks(width).zip(y.chunks(width));
        let expected: f64 = rows().map(|(x, y)| reference(loss, x, y)).sum();
        let size = T::epsilon().to_f64() * (ROWS * width) as f64;
        let close = (sums.loss - expected).abs() <= size * expected.abs().max(1.0);
        assert!(close, "{loss:?} {width}: got {}, expected {expected}", sums.loss);
        let right = rows().filter(|(x, y)| first_maximum(x) == first_maximum(y)).count();
        let counted = loss != Loss::MeanSquaredError || width > 1;
        assert_eq!(sums.correct, if counted { right } else { 0 });

        for (n, (row, y)) in rows().enumerate() {
            let slopes: Vec<f64> = (0..width)
                .map(|k| {
                    let (mut above, mut below) = (row.to_vec(), row.to_vec());
                    above[k] += 1e-6;
                    below[k] -= 1e-6;
                    0.25 * (reference(loss, &above, y) - reference(loss, &below, y)) / 2e-6
                })
                .collect();
            let largest = slopes.iter().fold(1.0, |max: f64, s| max.max(s.abs()));
            for (k, slope) in slopes.iter().enumerate() {
                let d = d_x[n * width + k].to_f64();
                let close = (d - slope).abs() <= (size + 1e-8) * largest;
                assert!(close, "{loss:?} {width} {n} {k}: got {d}, expected {slope}");
            }
        }
    }

    fn sparse_case<T: Element>(level: Level, width: usize) {
        let labels: [i64; ROWS] = std::array::from_fn(|n| ((5 * n + 2) % width) as i64);
        let mut y = vec![0.0; ROWS * width];
        for (row, &label) in y.chunks_mut(width).zip(&labels) {
            row[label as usize] = 1.0;
        }
        for from_logits in [true, false] {
            check::<T>(level, sparse(from_logits), width, Targets::Labels(&labels), &y);
        }
    }

    fn dense_case<T: Element>(level: Level, width: usize) {
        for loss in DENSE {
            let targets: Vec<T> =
                random::<T>(ROWS * width, 9).iter().map(|&y| y.max(T::zero())).collect();
            let y: Vec<f64> = targets.iter().map(|&y| y.to_f64()).collect();
            check::<T>(level, loss, width, Targets::Values(&targets), &y);
        }
    }

    #[test]
    fn losses_and_gradients_are_those_of_the_definition() {
        for_each_level(|level| {
            for width in WIDTHS {
                sparse_case::<f32>(level, width);
                sparse_case::<f64>(level, width);
                dense_case::<f32>(level, width);
                dense_case::<f64>(level, width);
            }
        });
    }

    #[test]
    fn sums_go_on_and_no_rows_add_nothing() {
        for_each_level(|level| {
            let start = LossSums { loss: 2.0, correct: 5 };
            let mut sums = start;
            dispatch!(f32, level, simd => {
                loss_forward(simd, &mut sums, &[0f32; 0], Targets::Labels(&[]), sparse(true), 10);
                assert_eq!(sums, start);
                loss_forward(simd, &mut sums, &[1.0, 1.0], Targets::Labels(&[0]), sparse(true), 2);
            });
            assert_eq!(sums.correct, 6);
            assert!((sums.loss - 2.0 - 2f64.ln()).abs() < 1e-6);
        });
    }

    #[test]
    fn the_first_of_equal_maxima_is_the_prediction() {
        for_each_level(|level| {
            for width in 2..40 {
                for at in 1..width {
                    let mut x = vec![-3f32; width];
                    (x[at - 1], x[at]) = (1.0, 1.0);
                    let correct = |label: usize| {
                        let labels = [label as i64];
                        run(level, sparse(true), &x, Targets::Labels(&labels), width, 1.0).0.correct
                    };
                    assert_eq!([correct(at - 1), correct(at)], [1, 0], "{width} {at}");
                }
            }
        });
    }

    #[test]
    fn a_nan_is_a_nan_and_wrong_in_its_row_alone() {
        for_each_level(|level| {
            for (width, at) in [(2, 0), (2, 1), (10, 0), (10, 9), (17, 16), (33, 5)] {
                let mut x: Vec<f32> = random(2 * width, 1);
                x.iter_mut().for_each(|x| *x += 2.0);
                x[at] = f32::NAN;
                // Whatever the first row should have been.
                for label in 0..width {
                    let labels = [label as i64, argmax_of(&x[width..]) as i64];
                    let mut y = vec![0.0; 2 * width];
                    y[label] = 1.0;
                    y[width + labels[1] as usize] = 1.0;
                    let cases = DENSE.map(|loss| (loss, Targets::Values(&y[..])));
                    let sparse = [true, false].map(|l| (sparse(l), Targets::Labels(&labels)));
                    for (loss, targets) in cases.into_iter().chain(sparse) {
                        let (sums, d_x) = run(level, loss, &x, targets, width, 1.0);
                        assert!(sums.loss.is_nan() && sums.correct == 1, "{loss:?} {width} {at}");
                        assert!(d_x[at].is_nan() && d_x[width..].iter().all(|d| d.is_finite()));
                    }
                }
            }
        });
    }

    fn argmax_of(x: &[f32]) -> usize {
        first_maximum(&x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>())
    }

    #[test]
    fn large_logits_do_not_overflow() {
        for_each_level(|level| {
            let labels = Targets::Labels(&[0]);
            let (sums, d_x) = run(level, sparse(true), &[0.0, 1e6], labels, 2, 1.0);
            assert_eq!((sums.loss, d_x), (1e6, vec![-1.0, 1.0]));
            let y = Targets::Values(&[0.0, 1.0]);
            let (sums, d_x) = run(level, dense(true, 0.0), &[f64::NEG_INFINITY, 3.0], y, 2, 1.0);
            assert_eq!((sums.loss, sums.correct, d_x), (0.0, 1, vec![0.0, 0.0]));
        });
    }

    #[test]
    fn certain_probabilities_are_clipped() {
        for_each_level(|level| {
            for (label, expected) in [(0, 1e-7), (1, -(1e-7f64.ln()))] {
                let labels = [label];
                let labels = Targets::Labels(&labels);
                let (sums, d_x) = run(level, sparse(false), &[2.0, 0.0], labels, 2, 1.0);
                assert!((sums.loss - expected).abs() < 1e-12, "{}", sums.loss);
                assert_eq!(d_x, [0.0; 2]);
            }
        });
    }

    #[test]
    #[should_panic(expected = "values to the others")]
    fn refuses_labels_where_values_belong() {
        let level = Level::available()[0];
        run(level, Loss::MeanSquaredError, &[0.0; 2], Targets::Labels(&[0]), 2, 1.0);
    }
}
