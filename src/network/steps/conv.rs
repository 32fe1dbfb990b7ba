//! Convolution with what goes with it: bias, 2x2 max pooling, ReLU.

use std::ops::Range;

use crate::kernels::conv_backward::input_scratch_len;
use crate::kernels::conv_pool_grey::can_have_foreground;
use crate::kernels::images::Images;
use crate::kernels::pack::{crop, pack_taps, packed_input_len, packed_len, pad};
use crate::kernels::run;
use crate::kernels::shape::{ConvPoolShape, ConvShape};
use crate::kernels::simd::Element;
use crate::kernels::winograd;
use crate::kernels::winograd_backward::{self, gradient_shape, winograd_backward_input};
use crate::network::layers::Stored;
use crate::network::step::{Backward, Forward, Model, Step};
use crate::network::steps::Norm;

/// A convolution, and what is wanted of it.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Its sizes.
    pub shape: ConvShape,
    /// The pooling of its output, of which the full size is then never written.
    pub pooling: Pooling,
    /// Whether there is a bias.
    pub use_bias: bool,
    /// Whether ReLU is applied.
    pub relu: bool,
    /// The layout of the kernel.
    pub stored: Stored,
    /// The normalisation that goes into kernel and bias.
    pub norm: Option<Norm>,
    /// What the way back makes.
    pub gradients: Gradients,
}

/// What follows a convolution.
#[derive(Clone, Copy, Debug)]
pub enum Pooling {
    /// Nothing.
    None,
    /// 2x2 max pooling.
    Max(ConvPoolShape),
    /// The same, of images of one channel, whose gradient nobody needs.
    MaxOfGrey(ConvPoolShape),
}

/// What a way back makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradients {
    /// There is no way back.
    None,
    /// The gradients of kernel and bias.
    Weights,
    /// These and the input's.
    WeightsAndInput,
}

/// How the output is made.
#[derive(Clone, Copy, Debug)]
enum Output {
    /// By the kernels for one channel, from the weights as they are stored.
    Grey(ConvPoolShape),
    /// Tap by tap, from a packed kernel.
    Taps(Option<ConvPoolShape>),
    /// From that kernel at Winograd's points.
    Winograd(Option<ConvPoolShape>),
}

/// How the input's gradient is made.
#[derive(Clone, Copy, Debug)]
enum InputGradient {
    /// From the gradients of the maxima alone, with the weights as they are stored.
    Maxima(ConvPoolShape),
    /// From those of all outputs, with a kernel packed for it.
    All,
    /// By such a convolution, with that kernel at Winograd's points.
    Winograd(ConvShape),
}

/// The step of a [`Conv`]. Its weights are the kernel and then, if there is one, the bias.
#[derive(Clone, Debug)]
pub struct ConvStep {
    conv: Conv,
    output: Output,
    /// If it is wanted.
    d_x: Option<InputGradient>,
}

/// Where things lie in `prepared`.
struct Prepared {
    /// Kernel and bias with the normalisation in them.
    folded: Range<usize>,
    /// The kernel for the output.
    output: Packed,
    /// The kernel for the input's gradient.
    d_x: Packed,
}

/// Where a packed kernel lies, and that kernel at Winograd's points.
struct Packed {
    taps: Range<usize>,
    points: Range<usize>,
}

impl Conv {
    /// Products of one image's forward pass.
    pub fn products(&self) -> usize {
        let outputs = match self.pooling.shape() {
            Some(shape) => 4 * shape.pool().output_len(),
            None => self.shape.output_len(),
        };
        self.shape.taps().saturating_mul(outputs)
    }
}

impl Pooling {
    /// The convolution with its pooling, if there is one.
    fn shape(self) -> Option<ConvPoolShape> {
        match self {
            Self::None => None,
            Self::Max(shape) | Self::MaxOfGrey(shape) => Some(shape),
        }
    }
}

impl ConvStep {
    /// Chooses the faster ways.
    pub fn new(conv: Conv) -> Self {
        let output = match conv.pooling {
            Pooling::MaxOfGrey(shape) => Output::Grey(shape),
            pooling if winograd::supports(&conv.shape) => Output::Winograd(pooling.shape()),
            pooling => Output::Taps(pooling.shape()),
        };
        let wanted = conv.gradients == Gradients::WeightsAndInput;
        let d_x = wanted.then(|| match conv.pooling.shape() {
            Some(shape) => InputGradient::Maxima(shape),
            None => gradient_shape(&conv.shape).map_or(InputGradient::All, InputGradient::Winograd),
        });
        Self { conv, output, d_x }
    }

    fn prepared<T: Element>(&self) -> Prepared {
        let shape = &self.conv.shape;
        let folded = if self.conv.norm.is_some() { shape.kernel_len() + shape.c_out() } else { 0 };
        let taps = packed_len::<T>(shape.taps(), shape.c_out());
        let (taps, points) = match self.output {
            Output::Grey(_) => (0, 0),
            Output::Taps(_) => (taps, 0),
            Output::Winograd(_) => (taps, winograd::packed_len::<T>(shape)),
        };
        let d_x_taps = packed_input_len::<T>(shape);
        let (d_x_taps, d_x_points) = match &self.d_x {
            None | Some(InputGradient::Maxima(_)) => (0, 0),
            Some(InputGradient::All) => (d_x_taps, 0),
            Some(InputGradient::Winograd(it)) => (d_x_taps, winograd::packed_len::<T>(it)),
        };
        let mut end = 0;
        let mut next = |len| {
            end += len;
            end - len..end
        };
        Prepared {
            folded: next(folded),
            output: Packed { taps: next(taps), points: next(points) },
            d_x: Packed { taps: next(d_x_taps), points: next(d_x_points) },
        }
    }

    /// Kernel and bias.
    fn split<'a, T: Element>(&self, weights: &'a [T]) -> (&'a [T], Option<&'a [T]>) {
        let (kernel, bias) = weights.split_at(self.conv.shape.kernel_len());
        (kernel, (!bias.is_empty()).then_some(bias))
    }

    /// Elements of the positions of maxima, which only a way back asks for.
    fn argmax_len(&self, n: usize) -> usize {
        match (self.conv.gradients, self.conv.pooling.shape()) {
            (Gradients::None, _) | (_, None) => 0,
            (_, Some(shape)) => n * shape.pool().output_len(),
        }
    }

    /// Elements of a padded copy of `n` images.
    fn padded_len(&self, n: usize) -> usize {
        let shape = &self.conv.shape;
        if shape.windows().is_padded() { n.saturating_mul(shape.padded_len()) } else { 0 }
    }

    /// What the output wants.
    fn output_scratch_len<T>(&self, n: usize) -> usize {
        match self.output {
            Output::Grey(_) | Output::Taps(_) => 0,
            Output::Winograd(_) => winograd::scratch_len::<T>(&self.conv.shape, n),
        }
    }

    /// What the kernel's gradient wants by Winograd's way, if that is the faster one.
    fn kernel_scratch_len<T>(&self, n: usize) -> Option<usize> {
        match (self.conv.gradients, self.conv.pooling) {
            (Gradients::Weights | Gradients::WeightsAndInput, Pooling::None) => {
                winograd::gradient_scratch_len::<T>(&self.conv.shape, n)
            }
            _ => None,
        }
    }

    /// What the input's gradient wants.
    fn input_scratch_len<T>(&self, n: usize) -> usize {
        match &self.d_x {
            None => 0,
            Some(InputGradient::Maxima(_)) => self.padded_len(n),
            Some(InputGradient::All) => input_scratch_len(&self.conv.shape, n),
            Some(InputGradient::Winograd(it)) => winograd_backward::scratch_len::<T>(it, n),
        }
    }
}

impl<T: Element> Step<T> for ConvStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { n, x, apart, out, saved, scratch, prepared, weights, ahead, .. } = pass;
        let (shape, relu, at) = (&self.conv.shape, self.conv.relu, self.prepared::<T>());
        let weights = if self.conv.norm.is_some() { &prepared[at.folded] } else { weights };
        let (kernel, bias) = self.split(weights);
        let (argmax, padded) = saved.split_at_mut(self.argmax_len(n));
        let mut argmax = (self.conv.gradients != Gradients::None).then_some(argmax);
        let mut x = x;
        if !padded.is_empty() {
            pad(padded, x, shape.windows(), n);
            x = padded;
        }
        let (taps, points) = (&prepared[at.output.taps], &prepared[at.output.points]);
        let scratch = &mut scratch[..self.output_scratch_len::<T>(n)];
        match &self.output {
            Output::Grey(shape) => {
                if let (Some(argmax), Some(mut foreground)) = (&mut argmax, pass.foreground) {
                    let images = &apart.as_ref().map_or(Images::Beside(x), |apart| apart.images);
                    let foreground = &mut foreground;
                    if run::grey_forward_foreground(
                        out, argmax, foreground, ahead, images, kernel, bias, relu, shape, n,
                    ) {
                        return;
                    }
                    foreground.set_all(shape.pool().output_len());
                }
                if let Some(apart) = apart {
                    x = apart.gather(n);
                }
                run::grey_forward(out, argmax, x, kernel, bias, relu, ahead, shape, n);
            }
            Output::Taps(Some(shape)) => {
                run::conv_pool_forward(out, argmax, x, taps, bias, relu, shape, n)
            }
            Output::Taps(None) => run::conv_forward(out, x, taps, bias, relu, shape, n),
            Output::Winograd(Some(shape)) => {
                run::winograd_pool_forward(out, argmax, x, points, bias, relu, scratch, shape, n)
            }
            Output::Winograd(None) => {
                run::winograd_forward(out, x, points, bias, relu, scratch, shape, n)
            }
        }
    }

    fn backward(&self, pass: Backward<'_, T>, weights: &[T]) {
        let Backward { n, d_x, d_weights, d_out, x, out, saved, scratch, prepared, .. } = pass;
        let (shape, relu) = (&self.conv.shape, self.conv.relu);
        let (kernel, _) = self.split(weights);
        let (argmax, padded) = saved.split_at(self.argmax_len(n));
        let x = if padded.is_empty() { x } else { padded };
        let (d_kernel, d_bias) = d_weights.split_at_mut(shape.kernel_len());
        if let (Pooling::MaxOfGrey(shape), Some(foreground)) = (&self.conv.pooling, pass.foreground)
            && let Some(part) = foreground.unless_all(shape.pool().output_len())
        {
            let len = part.len(shape.pool().output_len());
            if relu {
                run::relu_backward_in_place(&mut d_out[..len], &out[..len]);
            }
            let d_bias = self.conv.use_bias.then_some(d_bias);
            let images = &pass.apart.unwrap_or(Images::Beside(x));
            run::grey_backward_foreground(
                d_kernel, d_bias, d_out, argmax, &part, pass.ahead, images, relu, shape, n,
            );
            return;
        }
        if relu {
            run::relu_backward_in_place(d_out, out);
        }
        if self.conv.use_bias {
            run::sum_rows(d_bias, d_out);
        }
        match (&self.conv.pooling, self.kernel_scratch_len::<T>(n)) {
            (Pooling::MaxOfGrey(shape), _) => {
                run::grey_backward_kernel(d_kernel, d_out, argmax, x, pass.ahead, shape, n)
            }
            (Pooling::Max(shape), _) => {
                run::sparse_backward_kernel(d_kernel, d_out, argmax, x, shape, n)
            }
            (Pooling::None, Some(len)) => {
                run::winograd_backward_kernel(d_kernel, d_out, x, &mut scratch[..len], shape, n)
            }
            (Pooling::None, None) => run::conv_backward_kernel(d_kernel, d_out, x, shape, n),
        }
        let (Some(d_x), Some(way)) = (d_x, &self.d_x) else { return };
        let at = self.prepared::<T>().d_x;
        let scratch = &mut scratch[..self.input_scratch_len::<T>(n)];
        match way {
            InputGradient::Maxima(shape) if scratch.is_empty() => {
                run::sparse_backward_input(d_x, d_out, argmax, kernel, shape, n)
            }
            InputGradient::Maxima(pooled) => {
                run::sparse_backward_input(scratch, d_out, argmax, kernel, pooled, n);
                crop(d_x, scratch, shape.windows(), n);
            }
            InputGradient::All => {
                run::conv_backward_input(d_x, d_out, &prepared[at.taps], scratch, shape, n)
            }
            InputGradient::Winograd(gradient) => {
                let (points, shapes) = (&prepared[at.points], (shape, gradient));
                winograd_backward_input(d_x, d_out, points, scratch, shapes, n)
            }
        }
    }

    fn saved_len(&self, n: usize) -> usize {
        self.argmax_len(n).saturating_add(self.padded_len(n))
    }

    fn foreground_channels(&self) -> Option<usize> {
        match &self.conv.pooling {
            Pooling::MaxOfGrey(shape) if can_have_foreground(shape) => {
                Some(run::channels_of_group::<T>(shape.conv().c_out()))
            }
            _ => None,
        }
    }

    fn takes_apart(&self) -> bool {
        let padded = self.conv.shape.windows().is_padded();
        Step::<T>::foreground_channels(self).is_some() && !padded
    }

    fn scratch_len(&self, n: usize) -> usize {
        let kernel = self.kernel_scratch_len::<T>(n).unwrap_or(0);
        self.output_scratch_len::<T>(n).max(kernel).max(self.input_scratch_len::<T>(n))
    }

    fn prepared_len(&self) -> usize {
        self.prepared::<T>().d_x.points.end
    }

    fn prepare(&self, prepared: &mut [T], weights: &[T], model: Model<'_, T>) {
        let shape = &self.conv.shape;
        let (taps, c_out) = (shape.taps(), shape.c_out());
        let at = self.prepared::<T>();
        let (folded, rest) = prepared.split_at_mut(at.folded.len());
        let (packed, rest) = rest.split_at_mut(at.output.taps.len());
        let (points, rest) = rest.split_at_mut(at.output.points.len());
        let (d_x_packed, d_x_points) = rest.split_at_mut(at.d_x.taps.len());
        let weights = match &self.conv.norm {
            Some(norm) => {
                norm.fold(folded, weights, self.conv.stored, c_out, model);
                folded
            }
            None => weights,
        };
        let (kernel, _) = self.split(weights);
        if !packed.is_empty() {
            match self.conv.stored {
                Stored::AsIs => pack_taps(packed, kernel, taps, c_out),
                Stored::Transposed => run::pack_filters(packed, kernel, taps, c_out),
            }
        }
        if let Output::Winograd(_) = self.output {
            run::winograd_pack(points, packed, shape);
        }
        if !d_x_packed.is_empty() {
            run::pack_input(d_x_packed, kernel, shape);
        }
        if let Some(InputGradient::Winograd(gradient)) = &self.d_x {
            run::winograd_pack(d_x_points, d_x_packed, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_maxima_are_kept_for_a_way_back_only() {
        let shape = ConvShape::valid((8, 8, 1), (3, 3), 4).unwrap();
        let pooled = ConvPoolShape::new(shape).unwrap();
        for pooling in [Pooling::Max(pooled), Pooling::MaxOfGrey(pooled)] {
            let saved_len = |gradients| {
                let (use_bias, relu, stored, norm) = (false, false, Stored::AsIs, None);
                let conv = Conv { shape, pooling, use_bias, relu, stored, norm, gradients };
                Step::<f32>::saved_len(&ConvStep::new(conv), 3)
            };
            assert_eq!(saved_len(Gradients::None), 0);
            assert_eq!(saved_len(Gradients::Weights), 3 * pooled.pool().output_len());
        }
    }
}
