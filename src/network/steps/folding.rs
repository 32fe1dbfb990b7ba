//! Batch normalisation as a part of the layer before it.

use crate::kernels::batch_norm::{inverse_deviation, scale_and_shift};
use crate::kernels::simd::Element;
use crate::network::layers::{Layer, Stored, Weight};
use crate::network::step::Model;

/// The weights of a layer of batch normalisation, and where they lie.
#[derive(Clone, Debug)]
pub struct Norm {
    gamma: Option<Weight>,
    beta: Option<Weight>,
    mean: Weight,
    variance: Weight,
    epsilon: f64,
}

impl Norm {
    /// The layer's, if it is one of batch normalisation.
    pub fn new(layer: &Layer, epsilon: f64) -> Option<Self> {
        Some(Self {
            gamma: layer.weight("gamma").cloned(),
            beta: layer.weight("beta").cloned(),
            mean: layer.weight("moving_mean")?.clone(),
            variance: layer.weight("moving_variance")?.clone(),
            epsilon,
        })
    }

    /// The factor and the summand of each channel, by the moving averages.
    pub fn scale_and_shift<T: Element>(
        &self,
        scale: &mut [T],
        shift: &mut [T],
        model: Model<'_, T>,
    ) {
        let param = |weight: &Option<Weight>| weight.as_ref().map(|w| &model.params[w.range()]);
        let mut inv = vec![T::zero(); scale.len()];
        inverse_deviation(&mut inv, &model.moving[self.variance.range()], self.epsilon);
        let (gamma, beta) = (param(&self.gamma), param(&self.beta));
        scale_and_shift(scale, shift, gamma, beta, &model.moving[self.mean.range()], &inv);
    }

    /// Kernel and bias (c_out,) in `folded` such that they give what the layer with `weights` and the
    /// normalisation behind it give.
    pub fn fold<T: Element>(
        &self,
        folded: &mut [T],
        weights: &[T],
        stored: Stored,
        c_out: usize,
        model: Model<'_, T>,
    ) {
        let (kernel, shift) = folded.split_at_mut(folded.len() - c_out);
        let (from, bias) = weights.split_at(kernel.len());
        let mut scale = vec![T::zero(); c_out];
        self.scale_and_shift(&mut scale, shift, model);
        for (c, &bias) in bias.iter().enumerate() {
            shift[c] = shift[c] + bias * scale[c];
        }
        let taps = kernel.len() / c_out;
        for (i, (to, &from)) in kernel.iter_mut().zip(from).enumerate() {
            let channel = match stored {
                Stored::AsIs => i % c_out,
                Stored::Transposed => i / taps,
            };
            *to = from * scale[channel];
        }
    }
}
