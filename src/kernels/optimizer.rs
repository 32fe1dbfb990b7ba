//! Optimiser steps on flat slices of parameters, as Keras 3 defines them.

use super::simd::{Element, Simd, for_each_vector};

/// `params -= rate * grad`
#[inline(always)]
pub fn sgd<T: Element, S: Simd<T>>(simd: S, params: &mut [T], grad: &[T], rate: f64) {
    assert_eq!(params.len(), grad.len(), "gradient length");
    let step = simd.splat(T::from_f64(-rate));
    for_each_vector(
        simd,
        params.len(),
        #[inline(always)]
        |at| {
            let (params, grad) = (&mut params[at.clone()], &grad[at]);
            let w = simd.load_up_to(params);
            simd.store_up_to(simd.mul_add(step, simd.load_up_to(grad), w), params);
        },
    );
}

/// `velocity = momentum * velocity - rate * grad`, then `params += velocity`, or with Nesterov's
/// look ahead `params += momentum * velocity - rate * grad`.
#[inline(always)]
pub fn sgd_momentum<T: Element, S: Simd<T>>(
    simd: S,
    params: &mut [T],
    velocity: &mut [T],
    grad: &[T],
    rate: f64,
    momentum: f64,
    nesterov: bool,
) {
    assert_eq!(params.len(), grad.len(), "gradient length");
    assert_eq!(params.len(), velocity.len(), "velocity length");
    let (rate, momentum) = (simd.splat(T::from_f64(rate)), simd.splat(T::from_f64(momentum)));
    for_each_vector(
        simd,
        params.len(),
        #[inline(always)]
        |at| {
            let params = &mut params[at.clone()];
            let velocity = &mut velocity[at.clone()];
            let step = simd.mul(rate, simd.load_up_to(&grad[at]));
            let decayed = simd.mul(momentum, simd.load_up_to(velocity));
            let v = simd.sub(decayed, step);
            simd.store_up_to(v, velocity);
            let change = if nesterov { simd.sub(simd.mul(momentum, v), step) } else { v };
            simd.store_up_to(simd.add(simd.load_up_to(params), change), params);
        },
    );
}

/// The settings of [`adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub rate: f64,
    /// How much of the mean gradient `m` a step keeps.
    pub beta_1: f64,
    /// How much of the mean squared gradient `v` a step keeps.
    pub beta_2: f64,
    /// Keeps the quotient finite where `v` is 0.
    pub epsilon: f64,
    /// How much of `rate * params` a step takes away first: AdamW's.
    pub weight_decay: f64,
}

/// `m += (grad - m) * (1 - beta_1)`, `v += (grad^2 - v) * (1 - beta_2)`,
/// `params -= alpha * m / (sqrt(v) + epsilon)` with
/// `alpha = rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)`, where `t` counts the steps from 1. Before it
/// `params -= params * weight_decay * rate`.
#[inline(always)]
pub fn adam<T: Element, S: Simd<T>>(
    simd: S,
    params: &mut [T],
    m: &mut [T],
    v: &mut [T],
    grad: &[T],
    adam: &Adam,
    t: u64,
) {
    assert_eq!(params.len(), grad.len(), "gradient length");
    assert_eq!(params.len(), m.len(), "m length");
    assert_eq!(params.len(), v.len(), "v length");
    let Adam { rate, beta_1, beta_2, epsilon, weight_decay } = *adam;
    let steps = t as f64;
    let alpha = rate * (1.0 - beta_2.powf(steps)).sqrt() / (1.0 - beta_1.powf(steps));
    let [alpha, new_1, new_2, epsilon, decay] =
        [alpha, 1.0 - beta_1, 1.0 - beta_2, epsilon, -(weight_decay * rate)]
            .map(|x| simd.splat(T::from_f64(x)));
    for_each_vector(
        simd,
        params.len(),
        #[inline(always)]
        |at| {
            let (params, m) = (&mut params[at.clone()], &mut m[at.clone()]);
            let v = &mut v[at.clone()];
            let g = simd.load_up_to(&grad[at]);
            let [w, mean, square] = [&*params, &*m, &*v].map(
                #[inline(always)]
                |x| simd.load_up_to(x),
            );
            let mean = simd.mul_add(simd.sub(g, mean), new_1, mean);
            let square = simd.mul_add(simd.sub(simd.mul(g, g), square), new_2, square);
            simd.store_up_to(mean, m);
            simd.store_up_to(square, v);
            let w = simd.mul_add(w, decay, w);
            let change = simd.div(simd.mul(alpha, mean), simd.add(simd.sqrt(square), epsilon));
            simd.store_up_to(simd.sub(w, change), params);
        },
    );
}

/// `out = sum over i < count of chunk(i)`, in an order that depends on the count only: trees of eight,
/// four, two and one, one after the other.
///
/// `out` and every chunk of one length.
#[inline(always)]
pub fn sum_gradients<'a, T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    count: usize,
    chunk: impl Fn(usize) -> &'a [T],
) {
    if count == 0 {
        out.fill(T::zero());
    }
    let mut first = 0;
    macro_rules! trees {
        ($n:literal) => {
            while count - first >= $n {
                add_tree::<T, S, $n>(simd, out, first == 0, |i| chunk(first + i));
                first += $n;
            }
        };
    }
    trees!(8);
    trees!(4);
    trees!(2);
    trees!(1);
}

/// Sets `out` to the sum of `N` chunks, or adds it; neighbours first.
#[inline(always)]
fn add_tree<'a, T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    out: &mut [T],
    set: bool,
    chunk: impl Fn(usize) -> &'a [T],
) {
    let chunks: [&[T]; N] = std::array::from_fn(chunk);
    chunks.iter().for_each(|chunk| assert_eq!(chunk.len(), out.len(), "gradient length"));
    for_each_vector(
        simd,
        out.len(),
        #[inline(always)]
        |at| {
            let mut sums = chunks.map(
                #[inline(always)]
                |chunk| simd.load_up_to(&chunk[at.clone()]),
            );
            let mut step = 1;
            while step < N {
                for i in (0..N).step_by(2 * step) {
                    sums[i] = simd.add(sums[i], sums[i + step]);
                }
                step *= 2;
            }
            let out = &mut out[at];
            let sum = if set { sums[0] } else { simd.add(simd.load_up_to(out), sums[0]) };
            simd.store_up_to(sum, out);
        },
    );
}
