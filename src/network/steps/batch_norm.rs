//! Batch normalisation: by the batch's own statistics in training, by moving averages in inference.

use crate::kernels::batch_norm::{biased_variance, inverse_deviation, scales, update_moving};
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::layers::Weight;
use crate::network::step::{Backward, Batch, Forward, Model, Step};
use crate::network::steps::Norm;

/// In training. Its weights are gamma and beta, as far as it has them.
#[derive(Clone, Debug)]
pub struct BatchNormStep {
    /// Channels.
    pub c: usize,
    /// Elements of each channel in one image.
    pub pixels: usize,
    /// How much of the moving averages stays.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether there is a gamma.
    pub scale: bool,
    /// Whether there is a beta.
    pub center: bool,
    /// Whether ReLU is applied.
    pub relu: bool,
    /// Where the moving averages lie.
    pub mean: Weight,
    /// Where the moving averages lie.
    pub variance: Weight,
}

impl BatchNormStep {
    /// gamma and beta.
    fn split<'a, T: Element>(&self, weights: &'a [T]) -> (Option<&'a [T]>, Option<&'a [T]>) {
        let (gamma, beta) = weights.split_at(if self.scale { self.c } else { 0 });
        (self.scale.then_some(gamma), self.center.then_some(beta))
    }

    /// Elements of each channel in a chunk.
    fn rows<T>(&self, batch: &Batch<'_, T>, chunk: usize) -> usize {
        batch.chunks.images_of(chunk).len() * self.pixels
    }

    /// The batch's mean and biased variance.
    fn merge<T: Element>(&self, mean: &mut [T], variance: &mut [T], batch: &Batch<'_, T>) {
        mean.fill(T::zero());
        variance.fill(T::zero());
        let mut rows = 0;
        for (chunk, stats) in batch.stats.chunks_exact(2 * self.c).enumerate() {
            let (chunk_mean, chunk_m2) = stats.split_at(self.c);
            let chunk_rows = self.rows(batch, chunk);
            run::merge_stats(mean, variance, rows, chunk_mean, chunk_m2, chunk_rows);
            rows += chunk_rows;
        }
        biased_variance(variance, rows);
    }
}

impl<T: Element> Step<T> for BatchNormStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { x, out, saved, scratch, weights, batch, .. } = pass;
        let (mean, inv) = saved.split_at_mut(self.c);
        let scale = &mut scratch[..self.c];
        self.merge(mean, scale, &batch);
        inverse_deviation(inv, scale, self.epsilon);
        let (gamma, beta) = self.split(weights);
        scales(scale, gamma, inv);
        run::normalize(out, x, mean, scale, beta, self.relu);
    }

    /// `d_stats` has taken the gradient back through the ReLU.
    fn backward(&self, pass: Backward<'_, T>, weights: &[T]) {
        let Backward { d_x: Some(d_x), d_out, x, saved, scratch, batch, .. } = pass else { return };
        let (mean, inv) = saved.split_at(self.c);
        let sums = scratch;
        sums.fill(T::zero());
        for d_stats in batch.d_stats.chunks_exact(2 * self.c) {
            run::add_gradient(sums, d_stats);
        }
        let (sum_d, sum_d_xhat) = sums.split_at(self.c);
        let (gamma, _) = self.split(weights);
        let rows = batch.chunks.images * self.pixels;
        run::batch_norm_backward(d_x, d_out, x, mean, inv, gamma, sum_d, sum_d_xhat, rows);
    }

    fn saved_len(&self, _: usize) -> usize {
        2 * self.c
    }

    fn scratch_len(&self, _: usize) -> usize {
        2 * self.c
    }

    fn stats_len(&self) -> usize {
        2 * self.c
    }

    fn stats(&self, stats: &mut [T], x: &[T]) {
        let (mean, m2) = stats.split_at_mut(self.c);
        run::batch_stats(mean, m2, x);
    }

    fn d_stats(&self, d_stats: &mut [T], pass: Backward<'_, T>) {
        let Backward { d_weights, d_out, x, out, saved, .. } = pass;
        let (mean, inv) = saved.split_at(self.c);
        let relu_out = self.relu.then_some(out);
        let (sum_d, sum_d_xhat) = d_stats.split_at_mut(self.c);
        run::batch_norm_backward_sums(sum_d, sum_d_xhat, d_out, x, mean, inv, relu_out);
        let (d_gamma, d_beta) = d_weights.split_at_mut(if self.scale { self.c } else { 0 });
        if self.scale {
            d_gamma.copy_from_slice(sum_d_xhat);
        }
        if self.center {
            d_beta.copy_from_slice(sum_d);
        }
    }

    fn update_moving(&self, moving: &mut [T], batch: Batch<'_, T>, scratch: &mut [T]) {
        let (mean, variance) = scratch.split_at_mut(self.c);
        self.merge(mean, variance, &batch);
        for (weight, values) in [(&self.mean, mean), (&self.variance, variance)] {
            update_moving(&mut moving[weight.range()], values, self.momentum);
        }
    }
}

/// In inference: a mean, a factor and a summand for each channel.
#[derive(Clone, Debug)]
pub struct AffineStep {
    /// Channels.
    pub c: usize,
    /// Where the weights lie.
    pub norm: Norm,
    /// Whether ReLU is applied.
    pub relu: bool,
}

impl<T: Element> Step<T> for AffineStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { x, out, prepared, .. } = pass;
        let (mean, rest) = prepared.split_at(self.c);
        let (scale, beta) = rest.split_at(self.c);
        run::normalize(out, x, mean, scale, Some(beta), self.relu);
    }

    /// There is no way back through inference.
    fn backward(&self, _: Backward<'_, T>, _: &[T]) {}

    fn prepared_len(&self) -> usize {
        3 * self.c
    }

    fn prepare(&self, prepared: &mut [T], _: &[T], model: Model<'_, T>) {
        let (mean, rest) = prepared.split_at_mut(self.c);
        let (scale, beta) = rest.split_at_mut(self.c);
        self.norm.means_scales_and_betas(mean, scale, beta, model);
    }
}
