//! Batch normalisation as a part of the layer before it.

use crate::kernels::batch_norm::{inverse_deviation, scales};
use crate::kernels::simd::Element;
use crate::network::layers::{Layer, Stored, Weight};
use crate::network::step::Model;

/// The weights of a layer of batch normalisation, and where they lie.
#[derive(Clone, Debug)]
pub struct Norm {
    gamma: Option<Weight>,
    beta: Option<Weight>,
    /// The moving average of the means.
    pub mean: Weight,
    /// That of the variances.
    pub variance: Weight,
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

    /// The mean, the factor and the summand of each channel, by the moving averages.
    pub fn means_scales_and_betas<T: Element>(
        &self,
        mean: &mut [T],
        scale: &mut [T],
        beta: &mut [T],
        model: Model<'_, T>,
    ) {
        mean.copy_from_slice(&model.moving[self.mean.range()]);
        let mut inv = vec![T::zero(); scale.len()];
        inverse_deviation(&mut inv, &model.moving[self.variance.range()], self.epsilon);
        scales(scale, self.gamma.as_ref().map(|gamma| &model.params[gamma.range()]), &inv);
        match &self.beta {
            Some(weight) => beta.copy_from_slice(&model.params[weight.range()]),
            None => beta.fill(T::zero()),
        }
    }

    /// Kernel and bias (c_out,) in `folded` such that they give what the layer with `weights` and
    /// the normalisation behind it give.
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
        let (mut mean, mut scale) = (vec![T::zero(); c_out], vec![T::zero(); c_out]);
        self.means_scales_and_betas(&mut mean, &mut scale, shift, model);
        for (c, shift) in shift.iter_mut().enumerate() {
            let bias = bias.get(c).copied().unwrap_or_default();
            *shift = *shift + (bias - mean[c]) * scale[c];
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
