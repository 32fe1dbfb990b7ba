//! Fully connected layers of few outputs; those of many are convolutions of one pixel.

use crate::kernels::dense::{Weights, sums_len};
use crate::kernels::foreground::Foreground;
use crate::kernels::run;
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::Element;
use crate::network::layers::Stored;
use crate::network::step::{Backward, Forward, Model, Step, Turn};
use crate::network::steps::Norm;

/// Its weights are the kernel, stored (outputs, inputs), and then, if there is one, the bias.
#[derive(Clone, Debug)]
pub struct DenseStep {
    /// Its sizes.
    pub shape: DenseShape,
    /// Whether there is a bias.
    pub use_bias: bool,
    /// Whether ReLU is applied.
    pub relu: bool,
    /// The normalisation that goes into kernel and bias, and then makes both of what is prepared.
    pub norm: Option<Norm>,
    /// Channels of the pooling windows in the input, if it may be set in their foreground only.
    pub channels: Option<usize>,
}

impl DenseStep {
    fn undo_relu<T: Element>(&self, d_out: &mut [T], out: &[T]) {
        if self.relu {
            run::relu_backward_in_place(d_out, out);
        }
    }

    /// The foreground, if that is not all of the input.
    fn part<'a, T: Element>(
        &self,
        foreground: Option<Foreground<'a, T>>,
    ) -> Option<Foreground<'a, T>> {
        foreground?.unless_all(self.shape.inputs() / self.channels?)
    }
}

/// Adds what `set` makes of the weights, their gradient, to that of the chunks before, by way of the
/// scratch; and at the last turn descends.
fn descend<T: Element>(
    weights: &mut [T],
    d_weights: &mut [T],
    scratch: &mut [T],
    turn: Turn<T>,
    set: impl FnOnce(&mut [T], &[T]),
) {
    if turn.first {
        set(d_weights, weights);
    } else {
        let scratch = &mut scratch[..d_weights.len()];
        set(scratch, weights);
        run::add_gradient(d_weights, scratch);
    }
    if turn.last {
        run::sgd(weights, d_weights, turn.rate.to_f64());
    }
}

impl<T: Element> Step<T> for DenseStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, saved, prepared, weights, foreground, ahead, .. } = pass;
        let weights = if self.norm.is_some() { prepared } else { weights };
        let (kernel, bias) = weights.split_at(self.shape.weights_len());
        let bias = (!bias.is_empty()).then_some(bias);
        match self.part(foreground) {
            Some(part) => run::dense_forward_foreground(
                out,
                saved,
                x,
                kernel,
                bias,
                &part,
                ahead,
                &self.shape,
                n,
            ),
            None => run::dense_forward(out, x, kernel, bias, &self.shape, n),
        }
        if self.relu {
            run::relu_in_place(out);
        }
    }

    fn backward(&self, mut pass: Backward<'_, T>, weights: &[T]) {
        let shape = &self.shape;
        let kernel = &weights[..shape.weights_len()];
        self.undo_relu(pass.d_out, pass.out);
        let part = self.part(pass.foreground.take());
        let Backward { n, d_x, d_weights, d_out, x, saved, ahead, .. } = pass;
        let (d_kernel, d_bias) = d_weights.split_at_mut(kernel.len());
        if self.use_bias {
            run::sum_rows(d_bias, d_out);
        }
        match (part, d_x) {
            (Some(mut part), Some(d_x)) => {
                let kernel = Weights::Kept { weights: kernel, d_weights: d_kernel, adds: false };
                run::dense_backward_foreground(
                    d_x, kernel, d_out, x, saved, &mut part, ahead, shape, n,
                )
            }
            (_, d_x) => run::dense_backward(d_x, d_kernel, d_out, x, kernel, shape, n),
        }
    }

    fn descends(&self, chunks: usize) -> bool {
        chunks == 1 || self.channels.is_some() && run::is_told_apart::<T>()
    }

    fn backward_and_descend(&self, mut pass: Backward<'_, T>, weights: &mut [T], turn: Turn<T>) {
        let (shape, at) = (&self.shape, self.shape.weights_len());
        let part = self.part(pass.foreground.take());
        self.undo_relu(pass.d_out, pass.out);
        let Backward { n, d_x, d_weights, d_out, x, saved, scratch, ahead, .. } = pass;
        let ((kernel, bias), (d_kernel, d_bias)) =
            (weights.split_at_mut(at), d_weights.split_at_mut(at));
        let Turn { first, last, rate } = turn;
        if self.use_bias {
            descend(bias, d_bias, scratch, turn, |d_bias, _| run::sum_rows(d_bias, d_out));
        }
        match (part, d_x) {
            (Some(mut part), Some(d_x)) => {
                let kernel = if last {
                    let before = (!first).then_some(&*d_kernel);
                    Weights::Descending { weights: kernel, before, rate }
                } else {
                    Weights::Kept { weights: kernel, d_weights: d_kernel, adds: !first }
                };
                run::dense_backward_foreground(
                    d_x, kernel, d_out, x, saved, &mut part, ahead, shape, n,
                );
            }
            (_, d_x) if first && last => {
                run::dense_backward_sgd(d_x, kernel, d_out, x, rate, shape, n)
            }
            (_, d_x) => descend(kernel, d_kernel, scratch, turn, |d_kernel, kernel| {
                run::dense_backward(d_x, d_kernel, d_out, x, kernel, shape, n);
            }),
        }
    }

    fn scratch_len(&self, _n: usize) -> usize {
        // For `descend`: the kernel's gradient is no shorter than the bias's.
        if Step::<T>::descends(self, 2) { self.shape.weights_len() } else { 0 }
    }

    fn saved_len(&self, _n: usize) -> usize {
        self.channels.map_or(0, |channels| sums_len(channels, self.shape.outputs()))
    }

    fn prepared_len(&self) -> usize {
        let folded = self.shape.weights_len() + self.shape.outputs();
        if self.norm.is_some() { folded } else { 0 }
    }

    fn prepare(&self, prepared: &mut [T], weights: &[T], model: Model<'_, T>) {
        if let Some(norm) = &self.norm {
            norm.fold(prepared, weights, Stored::Transposed, self.shape.outputs(), model);
        }
    }
}
