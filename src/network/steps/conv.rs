//! Convolution with what goes with it: bias, 2x2 max pooling, ReLU.

use std::ops::Range;

use crate::kernels::conv_backward::input_scratch_len;
use crate::kernels::pack::{crop, pack_taps, packed_input_len, packed_len, pad};
use crate::kernels::run;
use crate::kernels::shape::{ConvPoolShape, ConvShape};
use crate::kernels::simd::Element;
use crate::kernels::winograd;
use crate::kernels::winograd_backward::{self, gradient_shape, winograd_backward_input};
use crate::network::layers::Stored;
use crate::network::step::{Backward, Forward, Model, Step};
use crate::network::steps::{Norm, RELU};

/// Its weights are the kernel and then, if there is one, the bias.
#[derive(Clone, Debug)]
pub struct ConvStep {
    /// The convolution.
    pub shape: ConvShape,
    /// The pooling of its output, of which the full size is then never written.
    pub pool: Option<ConvPoolShape>,
    /// Whether the kernels for one channel serve.
    pub grey: bool,
    /// Whether there is a bias.
    pub use_bias: bool,
    /// Whether ReLU is applied.
    pub relu: bool,
    /// The layout of the kernel.
    pub stored: Stored,
    /// Whether there is a way back.
    pub trains: bool,
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
    /// The packed kernel at Winograd's points.
    points: Range<usize>,
    packed_input: Range<usize>,
    /// That one at Winograd's points.
    input_points: Range<usize>,
}

impl ConvStep {
    fn prepared<T: Element>(&self) -> Prepared {
        let (taps, c_out) = (self.shape.taps(), self.shape.c_out());
        let folded = if self.norm.is_some() { self.shape.kernel_len() + c_out } else { 0 };
        let packed = if self.grey { 0 } else { packed_len::<T>(taps, c_out) };
        let packed_input =
            if self.has_dense_gradient() { packed_input_len::<T>(&self.shape) } else { 0 };
        let input_points = self.gradient_shape().map_or(0, |it| winograd::packed_len::<T>(&it));
        let points = if self.is_winograd() { winograd::packed_len::<T>(&self.shape) } else { 0 };
        let mut end = 0;
        let mut next = |len| {
            end += len;
            end - len..end
        };
        Prepared {
            folded: next(folded),
            packed: next(packed),
            points: next(points),
            packed_input: next(packed_input),
            input_points: next(input_points),
        }
    }

    fn is_winograd(&self) -> bool {
        !self.grey && winograd::supports(&self.shape)
    }

    /// Whether the input's gradient is made from those of all outputs, and not from maxima's alone:
    /// it wants a kernel packed for it.
    fn has_dense_gradient(&self) -> bool {
        self.needs_d_x && self.pool.is_none()
    }

    /// The convolution that makes the input's gradient, if Winograd's way is the faster one.
    fn gradient_shape(&self) -> Option<ConvShape> {
        if self.has_dense_gradient() { gradient_shape(&self.shape) } else { None }
    }

    /// Kernel and bias.
    fn split<'a, T: Element>(&self, weights: &'a [T]) -> (&'a [T], Option<&'a [T]>) {
        let (kernel, bias) = weights.split_at(self.shape.kernel_len());
        (kernel, (!bias.is_empty()).then_some(bias))
    }

    /// Elements of a padded copy of `n` images.
    fn padded_len(&self, n: usize) -> usize {
        let windows = self.shape.windows();
        if windows.is_padded() { n.saturating_mul(self.shape.padded_len()) } else { 0 }
    }

    /// What the kernel's gradient wants by Winograd's way, if that is the faster one.
    fn kernel_scratch_len<T>(&self, n: usize) -> Option<usize> {
        let is_dense = self.trains && self.pool.is_none();
        if is_dense { winograd::gradient_scratch_len::<T>(&self.shape, n) } else { None }
    }

    /// What the input's gradient wants.
    fn input_scratch_len<T>(&self, n: usize) -> usize {
        match self.gradient_shape() {
            _ if !self.needs_d_x => 0,
            _ if self.pool.is_some() => self.padded_len(n),
            Some(gradient) => winograd_backward::scratch_len::<T>(&gradient, n),
            None => input_scratch_len(&self.shape, n),
        }
    }

    fn argmax_len(&self, n: usize) -> usize {
        self.pool.map_or(0, |pool| n * pool.pool().output_len())
    }
}

impl<T: Element> Step<T> for ConvStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, out, saved, scratch, prepared, weights, .. } = pass;
        let at = self.prepared::<T>();
        let weights = if self.norm.is_some() { &prepared[at.folded] } else { weights };
        let (kernel, bias) = self.split(weights);
        let (argmax, padded) = saved.split_at_mut(self.argmax_len(n));
        let x = if padded.is_empty() {
            x
        } else {
            pad(padded, x, self.shape.windows(), n);
            padded
        };
        let relu = self.relu;
        if self.is_winograd() {
            let scratch = &mut scratch[..winograd::scratch_len::<T>(&self.shape, n)];
            let (points, shape) = (&prepared[at.points], &self.shape);
            match &self.pool {
                Some(shape) => run::winograd_pool_forward(
                    out, argmax, x, points, bias, relu, scratch, shape, n,
                ),
                None => run::winograd_forward(out, x, points, bias, relu, scratch, shape, n),
            }
            return;
        }
        let packed = &prepared[at.packed];
        match &self.pool {
            Some(shape) if self.grey => {
                run::grey_forward(out, argmax, x, kernel, bias, relu, shape, n)
            }
            Some(shape) => run::conv_pool_forward(out, argmax, x, packed, bias, relu, shape, n),
            None => run::conv_forward(out, x, packed, bias, relu, &self.shape, n),
        }
    }

    fn backward(&self, pass: Backward<'_, T>, weights: &[T]) {
        let Backward { n, d_x, d_weights, d_out, x, out, saved, scratch, prepared, .. } = pass;
        let (kernel, _) = self.split(weights);
        let (argmax, padded) = saved.split_at(self.argmax_len(n));
        let x = if padded.is_empty() { x } else { padded };
        let (d_kernel, d_bias) = d_weights.split_at_mut(self.shape.kernel_len());
        if self.relu {
            let width = self.shape.c_out();
            run::activation_backward_in_place(d_out, out, RELU, width);
        }
        if self.use_bias {
            run::sum_rows(d_bias, d_out);
        }
        match &self.pool {
            Some(shape) if self.grey => {
                run::grey_backward_kernel(d_kernel, d_out, argmax, x, shape, n)
            }
            Some(shape) => {
                let d_padded = &mut scratch[..self.input_scratch_len::<T>(n)];
                run::sparse_backward_kernel(d_kernel, d_out, argmax, x, shape, n);
                let Some(d_x) = d_x else { return };
                if d_padded.is_empty() {
                    run::sparse_backward_input(d_x, d_out, argmax, kernel, shape, n);
                } else {
                    run::sparse_backward_input(d_padded, d_out, argmax, kernel, shape, n);
                    crop(d_x, d_padded, self.shape.windows(), n);
                }
            }
            None => {
                match self.kernel_scratch_len::<T>(n) {
                    Some(len) => {
                        let scratch = &mut scratch[..len];
                        run::winograd_backward_kernel(d_kernel, d_out, x, scratch, &self.shape, n);
                    }
                    None => run::conv_backward_kernel(d_kernel, d_out, x, &self.shape, n),
                }
                let Some(d_x) = d_x else { return };
                let at = self.prepared::<T>();
                let scratch = &mut scratch[..self.input_scratch_len::<T>(n)];
                match self.gradient_shape() {
                    Some(gradient) => {
                        let (points, shapes) =
                            (&prepared[at.input_points], (&self.shape, &gradient));
                        winograd_backward_input(d_x, d_out, points, scratch, shapes, n);
                    }
                    None => {
                        let packed = &prepared[at.packed_input];
                        run::conv_backward_input(d_x, d_out, packed, scratch, &self.shape, n);
                    }
                }
            }
        }
    }

    fn saved_len(&self, n: usize) -> usize {
        self.argmax_len(n).saturating_add(self.padded_len(n))
    }

    fn scratch_len(&self, n: usize) -> usize {
        let points =
            if self.is_winograd() { winograd::scratch_len::<T>(&self.shape, n) } else { 0 };
        let kernel = self.kernel_scratch_len::<T>(n).unwrap_or(0);
        points.max(kernel).max(self.input_scratch_len::<T>(n))
    }

    fn prepared_len(&self) -> usize {
        self.prepared::<T>().input_points.end
    }

    fn prepare(&self, prepared: &mut [T], weights: &[T], model: Model<'_, T>) {
        let at = self.prepared::<T>();
        let (taps, c_out) = (self.shape.taps(), self.shape.c_out());
        let (folded, rest) = prepared.split_at_mut(at.packed.start);
        let (packed, rest) = rest.split_at_mut(at.packed.len());
        let (points, rest) = rest.split_at_mut(at.points.len());
        let (packed_input, input_points) = rest.split_at_mut(at.packed_input.len());
        let weights = match &self.norm {
            Some(norm) => {
                norm.fold(folded, weights, self.stored, c_out, model);
                folded
            }
            None => weights,
        };
        let (kernel, _) = self.split(weights);
        if !packed.is_empty() {
            match self.stored {
                Stored::AsIs => pack_taps(packed, kernel, taps, c_out),
                Stored::Transposed => run::pack_filters(packed, kernel, taps, c_out),
            }
        }
        if !points.is_empty() {
            run::winograd_pack(points, packed, &self.shape);
        }
        if !packed_input.is_empty() {
            run::pack_input(packed_input, kernel, &self.shape);
        }
        if let Some(gradient) = self.gradient_shape() {
            run::winograd_pack(input_points, packed_input, &gradient);
        }
    }
}
