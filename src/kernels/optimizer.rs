//! Optimiser steps on flat slices of parameters, as Keras 3 defines them.

use super::simd::{Element, Simd, for_each_vector};

/// `x`, or 0 where it is subnormal. Without a gradient, a mean would become subnormal and stay so for
/// ever: nine tenths of the smallest number are rounded to that number. And Intel's processors take
/// over a hundred cycles for a product with one.
#[inline(always)]
fn normal_or_zero<T: Element, S: Simd<T>>(simd: S, x: S::Vector) -> S::Vector {
    let size = simd.max(x, simd.sub(simd.zero(), x));
    let subnormal = simd.greater(simd.splat(T::min_positive_value()), size);
    simd.select(subnormal, simd.zero(), x)
}

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
            let v = normal_or_zero(simd, simd.sub(decayed, step));
            simd.store_up_to(v, velocity);
            let change = if nesterov { simd.sub(simd.mul(momentum, v), step) } else { v };
            simd.store_up_to(simd.add(simd.load_up_to(params), change), params);
        },
    );
}

/// The settings of [`adam`], apart from its learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
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
/// `alpha = rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)`, where `t` counts the steps from 1. Before
/// it `params -= params * weight_decay * rate`.
#[inline(always)]
pub fn adam<T: Element, S: Simd<T>>(
    simd: S,
    params: &mut [T],
    m: &mut [T],
    v: &mut [T],
    grad: &[T],
    rate: f64,
    rule: &Adam,
    t: u64,
) {
    assert_eq!(params.len(), grad.len(), "gradient length");
    assert_eq!(params.len(), m.len(), "m length");
    assert_eq!(params.len(), v.len(), "v length");
    let Adam { beta_1, beta_2, epsilon, weight_decay } = *rule;
    let steps = t as f64;
    let alpha = rate * (1.0 - beta_2.powf(steps)).sqrt() / (1.0 - beta_1.powf(steps));
    // Where `v` has come to zero and there is no epsilon: no smaller one would be normal.
    let least = simd.splat(T::min_positive_value().sqrt());
    let [minus_alpha, new_1, new_2, epsilon, decay] =
        simd.constants([-alpha, 1.0 - beta_1, 1.0 - beta_2, epsilon, -(weight_decay * rate)]);
    for_each_vector(
        simd,
        params.len(),
        #[inline(always)]
        |at| {
            let (params, m) = (&mut params[at.clone()], &mut m[at.clone()]);
            let v = &mut v[at.clone()];
            let g = simd.load_up_to(&grad[at]);
            let (w, mean) = (simd.load_up_to(params), simd.load_up_to(m));
            let square = simd.load_up_to(v);
            let mean = simd.mul_add(simd.sub(g, mean), new_1, mean);
            let square = simd.mul_add(simd.sub(simd.mul(g, g), square), new_2, square);
            let (mean, square) = (normal_or_zero(simd, mean), normal_or_zero(simd, square));
            simd.store_up_to(mean, m);
            simd.store_up_to(square, v);
            let w = simd.mul_add(w, decay, w);
            // Divided first: `alpha * mean` may be subnormal for a hundred steps before the mean is.
            let root = simd.max(least, simd.sqrt(square));
            let change = simd.div(mean, simd.add(root, epsilon));
            simd.store_up_to(simd.mul_add(minus_alpha, change, w), params);
        },
    );
}

/// `average += (1 - momentum) * (params - average)`
#[inline(always)]
pub fn follow<T: Element, S: Simd<T>>(simd: S, average: &mut [T], params: &[T], momentum: f64) {
    assert_eq!(average.len(), params.len(), "average length");
    let new = simd.splat(T::from_f64(1.0 - momentum));
    for_each_vector(
        simd,
        params.len(),
        #[inline(always)]
        |at| {
            let (average, params) = (&mut average[at.clone()], &params[at]);
            let mean = simd.load_up_to(average);
            let difference = simd.sub(simd.load_up_to(params), mean);
            simd.store_up_to(simd.mul_add(difference, new, mean), average);
        },
    );
}

/// `sum += grad`
#[inline(always)]
pub fn add_gradient<T: Element, S: Simd<T>>(simd: S, sum: &mut [T], grad: &[T]) {
    assert_eq!(sum.len(), grad.len(), "gradient length");
    for_each_vector(
        simd,
        sum.len(),
        #[inline(always)]
        |at| {
            let (sum, grad) = (&mut sum[at.clone()], &grad[at]);
            simd.store_up_to(simd.add(simd.load_up_to(sum), simd.load_up_to(grad)), sum);
        },
    );
}

/// `out = sum over i < count of gradient(i)`, one after the other; or, if `in_pairs`, the sum of the
/// pairs' sums, `(gradient(0) + gradient(1)) + (gradient(2) + gradient(3)) + ...`, of which the last
/// may have but one.
///
/// `out` and every gradient of one length.
#[inline(always)]
pub fn sum_gradients<'a, T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    count: usize,
    in_pairs: bool,
    gradient: impl Fn(usize) -> &'a [T],
) {
    if count == 0 {
        out.fill(T::zero());
    }
    let mut first = 0;
    while first < count {
        let gradient = |i| gradient(first + i);
        // The first two are a pair whichever way.
        if (in_pairs || first == 0) && first + 2 <= count {
            add_sum::<T, S, 2>(simd, out, first == 0, gradient);
            first += 2;
        } else {
            add_sum::<T, S, 1>(simd, out, first == 0, gradient);
            first += 1;
        }
    }
}

/// Sets `out` to the sum of `N` gradients, or adds that to it.
#[inline(always)]
fn add_sum<'a, T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    out: &mut [T],
    set: bool,
    gradient: impl Fn(usize) -> &'a [T],
) {
    let gradients: [&[T]; N] = std::array::from_fn(gradient);
    gradients.iter().for_each(|grad| assert_eq!(grad.len(), out.len(), "gradient length"));
    for_each_vector(
        simd,
        out.len(),
        #[inline(always)]
        |at| {
            let mut sum = simd.load_up_to(&gradients[0][at.clone()]);
            for i in 1..N {
                sum = simd.add(sum, simd.load_up_to(&gradients[i][at.clone()]));
            }
            if !set {
                sum = simd.add(simd.load_up_to(&out[at.clone()]), sum);
            }
            simd.store_up_to(sum, &mut out[at]);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    const LENGTHS: [usize; 13] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 67];

    /// Steps of two parameter vectors: by the kernel, and by the formula element by element.
    struct Twin<T> {
        params: Vec<T>,
        slots: [Vec<T>; 2],
        expected: Vec<f64>,
        expected_slots: [Vec<f64>; 2],
    }

    impl<T: Element> Twin<T> {
        fn new(len: usize) -> Self {
            let params: Vec<T> = random(len, 1);
            let expected = params.iter().map(|&w| w.to_f64()).collect();
            let (slots, expected_slots) = (vec![T::zero(); len], vec![0.0; len]);
            Self {
                params,
                slots: [slots.clone(), slots],
                expected,
                expected_slots: [expected_slots.clone(), expected_slots],
            }
        }

        /// `formula(params, slots, gradient)` for every element, then compares.
        fn check(&mut self, grad: &[T], formula: impl Fn(&mut f64, [&mut f64; 2], f64)) {
            let [first, second] = &mut self.expected_slots;
            for (i, &g) in grad.iter().enumerate() {
                formula(&mut self.expected[i], [&mut first[i], &mut second[i]], g.to_f64());
            }
            let rounded = |x: &[f64]| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
            assert_close(&self.params, &rounded(&self.expected), 4);
            assert_close(&self.slots[0], &rounded(&self.expected_slots[0]), 4);
            assert_close(&self.slots[1], &rounded(&self.expected_slots[1]), 4);
        }
    }

    fn sgd_case<T: Element>(level: Level) {
        for len in LENGTHS {
            let mut twin = Twin::<T>::new(len);
            for step in 0..3 {
                let grad: Vec<T> = random(len, 10 + step);
                dispatch!(T, level, simd => sgd(simd, &mut twin.params, &grad, 0.1));
                twin.check(&grad, |w, _, g| *w -= 0.1 * g);
            }
        }
    }

    fn momentum_case<T: Element>(level: Level) {
        for (len, nesterov) in LENGTHS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
            let mut twin = Twin::<T>::new(len);
            for step in 0..4 {
                let grad: Vec<T> = random(len, 10 + step);
                let [velocity, _] = &mut twin.slots;
                dispatch!(T, level, simd => {
                    sgd_momentum(simd, &mut twin.params, velocity, &grad, 0.1, 0.9, nesterov)
                });
                twin.check(&grad, |w, [velocity, _], g| {
                    *velocity = 0.9 * *velocity - 0.1 * g;
                    *w += if nesterov { 0.9 * *velocity - 0.1 * g } else { *velocity };
                });
            }
        }
    }

    fn adam_case<T: Element>(level: Level) {
        for (len, weight_decay) in LENGTHS.into_iter().flat_map(|len| [(len, 0.0), (len, 0.1)]) {
            let mut twin = Twin::<T>::new(len);
            let (rate, beta_1, beta_2, epsilon) = (0.01, 0.9f64, 0.999f64, 1e-7);
            let rule = Adam { beta_1, beta_2, epsilon, weight_decay };
            for t in 1..5 {
                let grad: Vec<T> = random(len, 10 + t);
                let [m, v] = &mut twin.slots;
                dispatch!(T, level, simd => {
                    adam(simd, &mut twin.params, m, v, &grad, rate, &rule, t)
                });
                let t = t as i32;
                let alpha = rate * (1.0 - beta_2.powi(t)).sqrt() / (1.0 - beta_1.powi(t));
                twin.check(&grad, |w, [m, v], g| {
                    *m += (g - *m) * (1.0 - beta_1);
                    *v += (g * g - *v) * (1.0 - beta_2);
                    *w -= *w * weight_decay * rate;
                    *w -= alpha * *m / (v.sqrt() + epsilon);
                });
            }
        }
    }

    fn follow_case<T: Element>(level: Level) {
        for len in LENGTHS {
            let mut twin = Twin::<T>::new(len);
            for (step, momentum) in [0.0, 0.9, 1.0, 0.25].into_iter().enumerate() {
                let values: Vec<T> = random(len, 10 + step as u64);
                dispatch!(T, level, simd => follow(simd, &mut twin.params, &values, momentum));
                twin.check(&values, |mean, _, w| *mean += (1.0 - momentum) * (w - *mean));
            }
        }
    }

    fn add_case<T: Element>(level: Level) {
        for len in LENGTHS {
            let mut twin = Twin::<T>::new(len);
            let grad: Vec<T> = random(len, 10);
            dispatch!(T, level, simd => add_gradient(simd, &mut twin.params, &grad));
            twin.check(&grad, |sum, _, g| *sum += g);
        }
    }

    #[test]
    fn steps_are_their_formulas() {
        for_each_level(|level| {
            add_case::<f32>(level);
            add_case::<f64>(level);
            sgd_case::<f32>(level);
            sgd_case::<f64>(level);
            momentum_case::<f32>(level);
            momentum_case::<f64>(level);
            adam_case::<f32>(level);
            adam_case::<f64>(level);
            follow_case::<f32>(level);
            follow_case::<f64>(level);
        });
    }

    #[test]
    fn the_first_step_of_adam_is_the_rate() {
        let (mut params, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        let rule = Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 0.0, weight_decay: 0.0 };
        dispatch!(f64, Level::available()[0], simd => {
            adam(simd, &mut params, &mut m, &mut v, &[1e-6, -5.0], 0.1, &rule, 1)
        });
        assert_close(&params, &[0.9, 1.1], 4);
    }

    /// From 1, a velocity and the means of a gradient that is 0 from then on.
    fn fading_case<T: Element>(level: Level, steps: u64) {
        let rule = Adam { beta_1: 0.9, beta_2: 0.5, epsilon: 0.0, weight_decay: 0.0 };
        let [mut w, grad] = [[T::zero(); 3]; 2];
        let [mut velocity, mut m, mut v] = [[T::one(); 3]; 3];
        dispatch!(T, level, simd => for t in 1..=steps {
            sgd_momentum(simd, &mut w, &mut velocity, &grad, 0.1, 0.9, false);
            adam(simd, &mut w, &mut m, &mut v, &grad, 0.1, &rule, t);
            for x in [velocity, m, v].as_flattened() {
                assert!(x.is_normal() || x.is_zero(), "{x:?} after {t} steps");
            }
        });
        assert_eq!([velocity, m, v], [[T::zero(); 3]; 3]);
        assert!(w.iter().all(|w| w.is_finite()), "{w:?}");
    }

    #[test]
    fn what_fades_comes_to_zero() {
        for_each_level(|level| {
            fading_case::<f32>(level, 1000);
            fading_case::<f64>(level, 7000);
        });
    }

    #[test]
    fn nan_stays() {
        for_each_level(|level| {
            let (mut w, mut m, mut v) = ([1f32; 3], [0f32; 3], [0f32; 3]);
            let rule = Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, weight_decay: 0.0 };
            dispatch!(f32, level, simd => {
                adam(simd, &mut w, &mut m, &mut v, &[0.0, f32::NAN, 1.0], 0.1, &rule, 1)
            });
            assert_eq!(w.map(f32::is_nan), [false, true, false]);
            let (mut w, mut velocity) = ([1f32; 3], [0.0, f32::NAN, 1.0]);
            dispatch!(f32, level, simd => {
                sgd_momentum(simd, &mut w, &mut velocity, &[0.0; 3], 0.1, 0.9, true)
            });
            assert_eq!(w.map(f32::is_nan), [false, true, false]);
        });
    }

    fn sum_case<T: Element>(level: Level) {
        for count in 0..=20 {
            for len in LENGTHS {
                let gradients: Vec<Vec<T>> = (0..count).map(|n| random(len, n as u64)).collect();
                for together in [1, 2] {
                    let mut out = vec![T::nan(); len];
                    let gradient = |n: usize| &gradients[n][..];
                    dispatch!(T, level, simd => {
                        sum_gradients(simd, &mut out, count, together == 2, gradient)
                    });
                    let add = |a: T, b: T| a + b;
                    let some = |some: &[Vec<T>], i| some.iter().map(|grad| grad[i]).reduce(add);
                    let sum =
                        |i| gradients.chunks(together).filter_map(|pair| some(pair, i)).reduce(add);
                    let expected: Vec<T> = (0..len).map(|i| sum(i).unwrap_or_default()).collect();
                    assert_eq!(out, expected);
                }
            }
        }
    }

    #[test]
    fn sums_have_one_order_on_every_instruction_set() {
        for_each_level(sum_case::<f32>);
        for_each_level(sum_case::<f64>);
    }
}
