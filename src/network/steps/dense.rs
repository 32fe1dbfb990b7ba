//! Fully connected layers of few outputs; those of many are convolutions of one pixel.

use crate::kernels::dense::{Weights, deferred_len, sums_len};
use crate::kernels::foreground::Foreground;
use crate::kernels::run;
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::Element;
use crate::network::layers::Stored;
use crate::network::step::{Backward, Descent, Forward, Model, Step};
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
    /// Channels of the groups of windows in the input, if it may be set in their foreground only.
    pub channels: Option<usize>,
}

impl DenseStep {
    fn undo_relu<T: Element>(&self, d_out: &mut [T], out: &[T]) {
        if self.relu {
            run::relu_backward_in_place(d_out, out);
        }
    }

    /// The foreground, if that is not all of the input or if something is deferred.
    fn part<'a, T: Element>(
        &self,
        foreground: Option<Foreground<'a, T>>,
        defers: bool,
    ) -> Option<Foreground<'a, T>> {
        let foreground = self.channels.and(foreground)?;
        if defers { Some(foreground) } else { foreground.unless_all(self.shape.inputs()) }
    }
}

/// Sets a gradient by `set` or, by way of the scratch, adds to it.
fn set_or_add<T: Element>(
    d_weights: &mut [T],
    adds: bool,
    scratch: &mut [T],
    set: impl FnOnce(&mut [T]),
) {
    if adds {
        let scratch = &mut scratch[..d_weights.len()];
        set(scratch);
        run::add_gradient(d_weights, scratch);
    } else {
        set(d_weights);
    }
}

/// Takes a step of gradient descent, by a gradient that may be used up.
fn descend<T: Element>(weights: &mut [T], d_weights: &mut [T], by: Descent<'_, T>) {
    if let Some(before) = by.before {
        run::add_gradient(d_weights, before);
    }
    run::sgd(weights, d_weights, by.rate.to_f64());
}

impl<T: Element> Step<T> for DenseStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, saved, prepared, weights, foreground, deferred, ahead, .. } = pass;
        let weights = if self.norm.is_some() { prepared } else { weights };
        let (kernel, bias) = weights.split_at(self.shape.weights_len());
        let bias = (!bias.is_empty()).then_some(bias);
        match (self.part(foreground, deferred.is_some()), deferred) {
            (Some(part), Some(deferred)) => {
                run::dense_forward_deferred(out, x, deferred, bias, &part, &self.shape)
            }
            (Some(part), None) => run::dense_forward_foreground(
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
            (None, Some(_)) => unreachable!("what is deferred has a foreground"),
            (None, None) => run::dense_forward(out, x, kernel, bias, &self.shape, n),
        }
        if self.relu {
            run::relu_in_place(out);
        }
    }

    fn backward(&self, mut pass: Backward<'_, T>, weights: &[T]) {
        assert!(pass.deferred.is_none(), "a descent, if something is deferred");
        let shape = &self.shape;
        let kernel = &weights[..shape.weights_len()];
        self.undo_relu(pass.d_out, pass.out);
        let part = self.part(pass.foreground.take(), false);
        let Backward { n, d_x, d_weights, adds, d_out, x, saved, scratch, ahead, .. } = pass;
        let (d_kernel, d_bias) = d_weights.split_at_mut(kernel.len());
        if self.use_bias {
            set_or_add(d_bias, adds, scratch, |d_bias| run::sum_rows(d_bias, d_out));
        }
        match (part, d_x) {
            (Some(mut part), Some(d_x)) => {
                let kernel = Weights::Kept { weights: kernel, d_weights: d_kernel, adds };
                run::dense_backward_foreground(
                    d_x, kernel, d_out, x, saved, &mut part, ahead, shape, n,
                )
            }
            (_, d_x) => set_or_add(d_kernel, adds, scratch, |d_kernel| {
                run::dense_backward(d_x, d_kernel, d_out, x, kernel, shape, n)
            }),
        }
    }

    fn adds(&self) -> bool {
        self.channels.is_some() && run::is_told_apart::<T>()
    }

    fn descends(&self, chunks: usize) -> bool {
        chunks == 1 || Step::<T>::adds(self)
    }

    fn backward_and_descend(
        &self,
        mut pass: Backward<'_, T>,
        weights: &mut [T],
        by: Descent<'_, T>,
    ) {
        let (shape, at) = (&self.shape, self.shape.weights_len());
        self.undo_relu(pass.d_out, pass.out);
        let part = self.part(pass.foreground.take(), pass.deferred.is_some());
        let Backward { n, d_x, d_weights, adds, d_out, x, saved, scratch, deferred, ahead, .. } =
            pass;
        let ((kernel, bias), (d_kernel, d_bias)) =
            (weights.split_at_mut(at), d_weights.split_at_mut(at));
        let Descent { before, rate } = by;
        let by = |before| Descent { before, rate };
        let (before, before_bias) = before.map(|before| before.split_at(at)).unzip();
        if self.use_bias {
            set_or_add(d_bias, adds, scratch, |d_bias| run::sum_rows(d_bias, d_out));
            descend(bias, d_bias, by(before_bias));
        }
        match (part, d_x, deferred) {
            (Some(mut part), Some(d_x), Some(deferred)) => {
                run::dense_backward_deferred(d_x, deferred, d_out, x, rate, &mut part, shape);
            }
            (Some(mut part), Some(d_x), None) => {
                let sum = adds.then_some(&*d_kernel);
                let kernel = Weights::Descending { weights: kernel, sum, before, rate };
                run::dense_backward_foreground(
                    d_x, kernel, d_out, x, saved, &mut part, ahead, shape, n,
                );
            }
            (_, _, Some(_)) => unreachable!("a descent of what is deferred has a foreground"),
            (_, d_x, None) if !adds && before.is_none() => {
                run::dense_backward_sgd(d_x, kernel, d_out, x, rate, shape, n)
            }
            (_, d_x, None) => {
                set_or_add(d_kernel, adds, scratch, |d_kernel| {
                    run::dense_backward(d_x, d_kernel, d_out, x, kernel, shape, n);
                });
                descend(kernel, d_kernel, by(before));
            }
        }
    }

    fn deferred_len(&self) -> usize {
        let channels = self.channels.filter(|_| run::is_told_apart::<T>());
        channels.map_or(0, |channels| deferred_len(channels, &self.shape))
    }

    fn defer(&self, deferred: &mut [T], weights: &[T]) {
        if let (Some(channels), [_, ..]) = (self.channels, &*deferred) {
            run::defer(deferred, &weights[..self.shape.weights_len()], channels, &self.shape);
        }
    }

    fn settle(&self, weights: &mut [T], deferred: &[T]) {
        if let (Some(channels), [_, ..]) = (self.channels, deferred) {
            let kernel = &mut weights[..self.shape.weights_len()];
            run::settle(kernel, deferred, channels, &self.shape);
        }
    }

    fn scratch_len(&self, _n: usize) -> usize {
        // For `set_or_add`: the kernel's gradient is no shorter than the bias's.
        if Step::<T>::adds(self) { self.shape.weights_len() } else { 0 }
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
