//! Fully connected layers.

use std::ops::Range;

use crate::kernels::conv_backward::input_scratch_len;
use crate::kernels::pack::{pack_input, pack_taps, packed_input_len, packed_len};
use crate::kernels::run;
use crate::kernels::shape::{ConvShape, DenseShape};
use crate::kernels::simd::Element;
use crate::network::layers::Stored;
use crate::network::step::{Backward, Forward, Model, Step};
use crate::network::steps::{Norm, RELU};

/// Its weights are the kernel and then, if there is one, the bias.
#[derive(Clone, Debug)]
pub struct DenseStep {
    /// Its sizes.
    pub shape: DenseShape,
    /// The same as a convolution of one pixel: how it is computed where it has many outputs.
    pub conv: ConvShape,
    /// Whether it has few outputs; the kernel is then stored (outputs, inputs).
    pub few: bool,
    /// Whether there is a bias.
    pub use_bias: bool,
    /// Whether ReLU is applied.
    pub relu: bool,
    /// Whether anybody needs the input's gradient.
    pub needs_d_x: bool,
    /// The normalisation that goes into kernel and bias.
    pub norm: Option<Norm>,
}

/// Where things lie in `prepared`.
struct Prepared {
    /// Kernel and bias with the normalisation in them.
    folded: Range<usize>,
    packed: Range<usize>,
    packed_input: Range<usize>,
}

impl DenseStep {
    fn prepared<T: Element>(&self) -> Prepared {
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let folded = if self.norm.is_some() { self.shape.weights_len() + outputs } else { 0 };
        let packed = if self.few { 0 } else { packed_len::<T>(inputs, outputs) };
        let wants_input = self.needs_d_x && !self.few;
        let packed_input = if wants_input { packed_input_len::<T>(&self.conv) } else { 0 };
        Prepared {
            folded: 0..folded,
            packed: folded..folded + packed,
            packed_input: folded + packed..folded + packed + packed_input,
        }
    }

    /// Kernel and bias.
    fn split<'a, T: Element>(&self, weights: &'a [T]) -> (&'a [T], Option<&'a [T]>) {
        let (kernel, bias) = weights.split_at(self.shape.weights_len());
        (kernel, (!bias.is_empty()).then_some(bias))
    }

    fn undo_relu<T: Element>(&self, d_out: &mut [T], out: &[T]) {
        if self.relu {
            let width = self.shape.outputs();
            run::activation_backward_in_place(d_out, out, RELU, width);
        }
    }
}

impl<T: Element> Step<T> for DenseStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, prepared, weights, .. } = pass;
        let at = self.prepared::<T>();
        let weights = if self.norm.is_some() { &prepared[at.folded] } else { weights };
        let (kernel, bias) = self.split(weights);
        let (relu, packed) = (self.relu, &prepared[at.packed]);
        if !self.few {
            return run::conv_forward(out, x, packed, bias, relu, &self.conv, n);
        }
        run::dense_forward(out, x, kernel, bias, &self.shape, n);
        if relu {
            let width = self.shape.outputs();
            run::activation_in_place(out, RELU, width);
        }
    }

    fn backward(&self, pass: Backward<'_, T>, weights: &[T]) {
        let Backward { n, d_x, d_weights, d_out, x, out, scratch, prepared, .. } = pass;
        let (kernel, _) = self.split(weights);
        let (d_kernel, d_bias) = d_weights.split_at_mut(self.shape.weights_len());
        self.undo_relu(d_out, out);
        if self.use_bias {
            run::sum_rows(d_bias, d_out);
        }
        if self.few {
            return run::dense_backward(d_x, d_kernel, d_out, x, kernel, &self.shape, n);
        }
        run::conv_backward_kernel(d_kernel, d_out, x, &self.conv, n);
        let Some(d_x) = d_x else { return };
        let packed = &prepared[self.prepared::<T>().packed_input];
        run::conv_backward_input(d_x, d_out, packed, scratch, &self.conv, n);
    }

    fn can_descend(&self) -> bool {
        self.few
    }

    fn backward_and_descend(&self, pass: Backward<'_, T>, weights: &mut [T], rate: T) {
        let Backward { n, d_x, d_weights, d_out, x, out, .. } = pass;
        let (kernel, bias) = weights.split_at_mut(self.shape.weights_len());
        let (_, d_bias) = d_weights.split_at_mut(self.shape.weights_len());
        self.undo_relu(d_out, out);
        if self.use_bias {
            run::sum_rows(d_bias, d_out);
            run::sgd(bias, d_bias, rate.to_f64());
        }
        run::dense_backward_sgd(d_x, kernel, d_out, x, rate, &self.shape, n);
    }

    fn scratch_len(&self, n: usize) -> usize {
        if self.needs_d_x && !self.few { input_scratch_len(&self.conv, n) } else { 0 }
    }

    fn prepared_len(&self) -> usize {
        self.prepared::<T>().packed_input.end
    }

    fn prepare(&self, prepared: &mut [T], weights: &[T], model: Model<'_, T>) {
        let at = self.prepared::<T>();
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let (folded, rest) = prepared.split_at_mut(at.packed.start);
        let (packed, packed_input) = rest.split_at_mut(at.packed.len());
        let weights = match &self.norm {
            Some(norm) => {
                let stored = if self.few { Stored::Transposed } else { Stored::AsIs };
                norm.fold(folded, weights, stored, outputs, model);
                folded
            }
            None => weights,
        };
        let (kernel, _) = self.split(weights);
        if !packed.is_empty() {
            pack_taps(packed, kernel, inputs, outputs);
        }
        if !packed_input.is_empty() {
            pack_input(packed_input, kernel, &self.conv);
        }
    }
}
