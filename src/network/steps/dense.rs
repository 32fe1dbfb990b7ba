//! Fully connected layers of few outputs; those of many are convolutions of one pixel.

use crate::kernels::run;
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::Element;
use crate::network::layers::Stored;
use crate::network::step::{Backward, Forward, Model, Step};
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
}

impl DenseStep {
    fn undo_relu<T: Element>(&self, d_out: &mut [T], out: &[T]) {
        if self.relu {
            run::relu_backward_in_place(d_out, out);
        }
    }
}

impl<T: Element> Step<T> for DenseStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, prepared, weights, .. } = pass;
        let weights = if self.norm.is_some() { prepared } else { weights };
        let (kernel, bias) = weights.split_at(self.shape.weights_len());
        let bias = (!bias.is_empty()).then_some(bias);
        run::dense_forward(out, x, kernel, bias, &self.shape, n);
        if self.relu {
            run::relu_in_place(out);
        }
    }

    fn backward(&self, pass: Backward<'_, T>, weights: &[T]) {
        let Backward { n, d_x, d_weights, d_out, x, out, .. } = pass;
        let kernel = &weights[..self.shape.weights_len()];
        let (d_kernel, d_bias) = d_weights.split_at_mut(kernel.len());
        self.undo_relu(d_out, out);
        if self.use_bias {
            run::sum_rows(d_bias, d_out);
        }
        run::dense_backward(d_x, d_kernel, d_out, x, kernel, &self.shape, n);
    }

    fn can_descend(&self) -> bool {
        true
    }

    fn backward_and_descend(&self, pass: Backward<'_, T>, weights: &mut [T], rate: T) {
        let Backward { n, d_x, d_weights, d_out, x, out, .. } = pass;
        let (kernel, bias) = weights.split_at_mut(self.shape.weights_len());
        self.undo_relu(d_out, out);
        if self.use_bias {
            let d_bias = &mut d_weights[kernel.len()..];
            run::sum_rows(d_bias, d_out);
            run::sgd(bias, d_bias, rate.to_f64());
        }
        run::dense_backward_sgd(d_x, kernel, d_out, x, rate, &self.shape, n);
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
