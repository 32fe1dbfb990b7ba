//! Activation functions. Their gradients are functions of their outputs, so that inputs need not be
//! kept.

use super::simd::math::{exp, expm1_not_positive, ln_1p_unit};
use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{softmax_backward, softmax_forward};

/// Keras's slope of `leaky_relu`.
const LEAKY_SLOPE: f64 = 0.2;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x`
    Linear,
    /// `x` above 0, else `negative_slope * x`, and at most `max_value`.
    Relu {
        /// The slope below 0.
        negative_slope: f64,
        /// The largest output.
        max_value: Option<f64>,
    },
    /// `x` above 0, else `e^x - 1`.
    Elu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`
    Softplus,
    /// `e^x`
    Exponential,
    /// `e^x / sum of e^x` over the last axis.
    Softmax,
}

impl Activation {
    /// The activation of that name in Keras.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "linear" => Self::Linear,
            "relu" => Self::Relu { negative_slope: 0.0, max_value: None },
            "leaky_relu" => Self::Relu { negative_slope: LEAKY_SLOPE, max_value: None },
            "elu" => Self::Elu,
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "softplus" => Self::Softplus,
            "exponential" => Self::Exponential,
            "softmax" => Self::Softmax,
            _ => return None,
        })
    }
}

/// `out = f(x)`; see [`Activation`].
///
/// `out` and `x` (n, .., width).
#[inline(always)]
pub fn activation_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    activation: Activation,
    width: usize,
) {
    assert_eq!(out.len(), x.len(), "length");
    let [zero, one] = simd.constants([0.0, 1.0]);
    macro_rules! map {
        (|$x:ident| $f:expr) => {
            map(
                simd,
                out,
                Some(x),
                #[inline(always)]
                |$x| $f,
            )
        };
    }
    match activation {
        Activation::Linear => map!(|x| x),
        Activation::Relu { negative_slope, max_value } => {
            let max = simd.splat(max_value.map_or(T::infinity(), T::from_f64));
            let slope = simd.splat(T::from_f64(negative_slope));
            if negative_slope == 0.0 {
                map!(|x| simd.min(max, relu(simd, x)));
            } else {
                map!(|x| {
                    let positive = simd.greater_or_nan(x, zero);
                    simd.min(max, simd.select(positive, x, simd.mul(x, slope)))
                });
            }
        }
        Activation::Elu => map!(|x| {
            let below = expm1_not_positive(simd, simd.min(zero, x));
            simd.select(simd.greater(x, zero), x, below)
        }),
        Activation::Sigmoid => map!(|x| {
            let e = exp(simd, simd.min(x, simd.sub(zero, x)));
            simd.div(simd.select(simd.greater(zero, x), e, one), simd.add(one, e))
        }),
        Activation::Tanh => map!(|x| {
            // With a = |x|: tanh(a) = (1 - e^-2a) / (1 + e^-2a)
            let minus_a = simd.min(x, simd.sub(zero, x));
            let e = expm1_not_positive(simd, simd.add(minus_a, minus_a));
            let minus_tanh = simd.div(e, simd.add(e, simd.add(one, one)));
            simd.select(simd.greater(x, zero), simd.sub(zero, minus_tanh), minus_tanh)
        }),
        Activation::Softplus => map!(|x| {
            let e = exp(simd, simd.min(x, simd.sub(zero, x)));
            simd.add(simd.max(zero, x), ln_1p_unit(simd, e))
        }),
        Activation::Exponential => map!(|x| exp(simd, x)),
        Activation::Softmax => softmax_forward(simd, out, x, width),
    }
}

/// ReLU from `x` to `x`.
#[inline(always)]
pub fn relu_in_place<T: Element, S: Simd<T>>(simd: S, x: &mut [T]) {
    map(
        simd,
        x,
        None,
        #[inline(always)]
        |x| relu(simd, x),
    );
}

/// `d_x = d_out * f'(x)`, from `out = f(x)`. At a corner of `f` the gradient is that of the lower
/// side.
///
/// `d_x`, `d_out` and `out` (n, .., width).
#[inline(always)]
pub fn activation_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    out: &[T],
    activation: Activation,
    width: usize,
) {
    assert_eq!([d_x.len(), d_out.len()], [out.len(); 2], "length");
    let [zero, one] = simd.constants([0.0, 1.0]);
    macro_rules! zip {
        (|$d:ident, $out:ident| $f:expr) => {
            zip(
                simd,
                d_x,
                Some(d_out),
                out,
                #[inline(always)]
                |$d, $out| $f,
            )
        };
    }
    match activation {
        Activation::Linear => zip!(|d, _out| d),
        Activation::Relu { negative_slope: 0.0, max_value: None } => {
            zip!(|d, out| relu_gradient(simd, d, out))
        }
        Activation::Relu { negative_slope, max_value } => {
            // NaN equals no output.
            let max = simd.splat(max_value.map_or(T::nan(), T::from_f64));
            let slope = simd.splat(T::from_f64(negative_slope));
            if negative_slope == 0.0 {
                zip!(|d, out| {
                    simd.select(simd.equal(out, max), zero, relu_gradient(simd, d, out))
                });
            } else {
                zip!(|d, out| {
                    let d = simd.select(simd.greater_or_nan(out, zero), d, simd.mul(d, slope));
                    simd.select(simd.equal(out, max), zero, d)
                });
            }
        }
        Activation::Elu => {
            zip!(|d, out| { simd.select(simd.greater(out, zero), d, simd.mul_add(d, out, d)) })
        }
        Activation::Sigmoid => zip!(|d, out| simd.mul(d, simd.mul(out, simd.sub(one, out)))),
        Activation::Tanh => {
            zip!(|d, out| { simd.mul(d, simd.mul(simd.sub(one, out), simd.add(one, out))) })
        }
        Activation::Softplus => zip!(|d, out| {
            let minus_slope = expm1_not_positive(simd, simd.sub(zero, out));
            simd.sub(zero, simd.mul(d, minus_slope))
        }),
        Activation::Exponential => zip!(|d, out| simd.mul(d, out)),
        Activation::Softmax => softmax_backward(simd, d_x, d_out, out, width),
    }
}

/// ReLU's [`activation_backward`] from `d` to `d`.
#[inline(always)]
pub fn relu_backward_in_place<T: Element, S: Simd<T>>(simd: S, d: &mut [T], out: &[T]) {
    assert_eq!(d.len(), out.len(), "length");
    zip(
        simd,
        d,
        None,
        out,
        #[inline(always)]
        |d, out| relu_gradient(simd, d, out),
    );
}

/// `max(0, x)`; NaN stays.
#[inline(always)]
pub(super) fn relu<T: Element, S: Simd<T>>(simd: S, x: S::Vector) -> S::Vector {
    simd.max(simd.zero(), x)
}

/// ReLU's gradient: `d` where `out`, ReLU's output, is above 0 or NaN.
#[inline(always)]
pub(super) fn relu_gradient<T: Element, S: Simd<T>>(
    simd: S,
    d: S::Vector,
    out: S::Vector,
) -> S::Vector {
    simd.select(simd.greater_or_nan(out, simd.zero()), d, simd.zero())
}

/// `out = f(x)`, or `out = f(out)`
#[inline(always)]
fn map<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: Option<&[T]>,
    f: impl Fn(S::Vector) -> S::Vector,
) {
    for_each_vector(
        simd,
        out.len(),
        #[inline(always)]
        |at| {
            let x = simd.load_up_to(&x.unwrap_or(out)[at.clone()]);
            simd.store_up_to(f(x), &mut out[at]);
        },
    );
}

/// `out = f(x, y)`, or `out = f(out, y)`
#[inline(always)]
fn zip<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: Option<&[T]>,
    y: &[T],
    f: impl Fn(S::Vector, S::Vector) -> S::Vector,
) {
    for_each_vector(
        simd,
        out.len(),
        #[inline(always)]
        |at| {
            let x = simd.load_up_to(&x.unwrap_or(out)[at.clone()]);
            simd.store_up_to(f(x, simd.load_up_to(&y[at.clone()])), &mut out[at]);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{bits, for_each_level, random};

    const RELU: Activation = Activation::Relu { negative_slope: 0.0, max_value: None };
    const RELU_6: Activation = Activation::Relu { negative_slope: 0.0, max_value: Some(6.0) };
    const LEAKY: Activation = Activation::Relu { negative_slope: 0.2, max_value: None };
    const LEAKY_1: Activation = Activation::Relu { negative_slope: 0.1, max_value: Some(1.0) };

    const ELEMENTWISE: [Activation; 10] = [
        Activation::Linear,
        RELU,
        RELU_6,
        LEAKY,
        LEAKY_1,
        Activation::Elu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softplus,
        Activation::Exponential,
    ];

    fn forward<T: Element>(level: Level, x: &[T], activation: Activation, width: usize) -> Vec<T> {
        let (mut out, mut in_place) = (vec![T::nan(); x.len()], x.to_vec());
        dispatch!(T, level, simd => {
            activation_forward(simd, &mut out, x, activation, width);
            relu_in_place(simd, &mut in_place);
        });
        if activation == RELU {
            assert_eq!(bits(&out), bits(&in_place));
        }
        out
    }

    fn backward<T: Element>(
        level: Level,
        d_out: &[T],
        out: &[T],
        activation: Activation,
        width: usize,
    ) -> Vec<T> {
        let (mut d_x, mut d) = (vec![T::nan(); out.len()], d_out.to_vec());
        dispatch!(T, level, simd => {
            activation_backward(simd, &mut d_x, d_out, out, activation, width);
            relu_backward_in_place(simd, &mut d, out);
        });
        if activation == RELU {
            assert_eq!(bits(&d_x), bits(&d));
        }
        d_x
    }

    /// As one would write it.
    fn reference(x: f64, activation: Activation) -> f64 {
        match activation {
            Activation::Linear => x,
            Activation::Relu { negative_slope, max_value } => {
                let y = if x > 0.0 { x } else { negative_slope * x };
                max_value.map_or(y, |max| y.min(max))
            }
            Activation::Elu => {
                if x > 0.0 {
                    x
                } else {
                    x.exp_m1()
                }
            }
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Softplus if x > 30.0 => x + (-x).exp(),
            Activation::Softplus => x.exp().ln_1p(),
            Activation::Exponential => x.exp(),
            Activation::Softmax => unreachable!("not elementwise"),
        }
    }

    fn forward_case<T: Element>(level: Level, activation: Activation) {
        let sizes = (-16..=6).map(|k| 2f64.powi(k));
        let x: Vec<T> = sizes
            .flat_map(|size| random::<f64>(50, 1).into_iter().map(move |x| x * size))
            .map(T::from_f64)
            .collect();
        for (&x, &y) in x.iter().zip(&forward(level, &x, activation, 1)) {
            let expected = reference(x.to_f64(), activation);
            let error = (y.to_f64() - expected).abs();
            assert!(
                error <= 3.0 * T::epsilon().to_f64() * expected.abs(),
                "{activation:?} of {x:?}: got {y:?}, expected {expected:e}"
            );
        }
        // Each element alone gives the same, wherever in a vector it lies.
        for len in (0..20).chain([31, 32, 33]) {
            let x: Vec<T> = random(len, 2);
            let alone: Vec<T> =
                x.iter().flat_map(|x| forward(level, &[*x], activation, 1)).collect();
            assert_eq!(forward(level, &x, activation, 1), alone);
            let d_out: Vec<T> = random(len, 3);
            let d_alone: Vec<T> = d_out
                .iter()
                .zip(&alone)
                .flat_map(|(d, out)| backward(level, &[*d], &[*out], activation, 1))
                .collect();
            assert_eq!(backward(level, &d_out, &alone, activation, 1), d_alone);
        }
    }

    #[test]
    fn outputs_are_the_formulas() {
        for_each_level(|level| {
            for activation in ELEMENTWISE {
                forward_case::<f32>(level, activation);
                forward_case::<f64>(level, activation);
            }
        });
    }

    #[test]
    fn gradients_are_central_differences() {
        for_each_level(|level| {
            for activation in ELEMENTWISE {
                let x: Vec<f64> = random::<f64>(100, 1).iter().map(|x| x * 8.0).collect();
                let d_out: Vec<f64> = random(100, 2);
                let out = forward(level, &x, activation, 1);
                let d_x = backward(level, &d_out, &out, activation, 1);
                let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
                let d_x_32 = backward(level, &narrow(&d_out), &narrow(&out), activation, 1);
                for i in 0..x.len() {
                    let f = |x| reference(x, activation);
                    let slope = (f(x[i] + 1e-6) - f(x[i] - 1e-6)) / 2e-6;
                    let expected = d_out[i] * slope;
                    let size = 1.0 + f(x[i]).abs();
                    assert!((d_x[i] - expected).abs() < 1e-9 * size, "{activation:?} {}", x[i]);
                    assert!((f64::from(d_x_32[i]) - expected).abs() < 1e-6 * size);
                }
            }
        });
    }

    /// The output at minus infinity, a large negative number, a large number and infinity.
    fn limits(activation: Activation) -> [f64; 4] {
        const INF: f64 = f64::INFINITY;
        match activation {
            Activation::Linear => [-INF, -1e4, 1e4, INF],
            RELU => [0.0, 0.0, 1e4, INF],
            RELU_6 => [0.0, 0.0, 6.0, 6.0],
            LEAKY => [-INF, -2e3, 1e4, INF],
            LEAKY_1 => [-INF, -1e3, 1.0, 1.0],
            Activation::Elu => [-1.0, -1.0, 1e4, INF],
            Activation::Sigmoid => [0.0, 0.0, 1.0, 1.0],
            Activation::Tanh => [-1.0, -1.0, 1.0, 1.0],
            Activation::Softplus => [0.0, 0.0, 1e4, INF],
            Activation::Exponential => [0.0, 0.0, INF, INF],
            other => unreachable!("{other:?}"),
        }
    }

    fn extremes_case<T: Element>(level: Level) {
        let x = [f64::NEG_INFINITY, -1e4, 1e4, f64::INFINITY, f64::NAN].map(T::from_f64);
        for activation in ELEMENTWISE {
            let out = forward(level, &x, activation, 1);
            let expected = limits(activation).map(T::from_f64);
            for (out, expected) in out.iter().zip(expected) {
                let close = (*out - expected).abs() <= T::epsilon() * expected.abs();
                assert!(*out == expected || close, "{activation:?}: {out:?} {expected:?}");
            }
            assert!(out[4].is_nan(), "{activation:?}");
            let d_x = backward(level, &[T::one(); 5], &out, activation, 1);
            let flat = matches!(activation, Activation::Sigmoid | Activation::Tanh);
            if flat {
                assert_eq!(d_x[..4], [T::zero(); 4], "{activation:?}");
            }
            // A ReLU lets the gradient through where it let NaN through.
            match activation {
                Activation::Linear | Activation::Relu { .. } => assert_eq!(d_x[4], T::one()),
                _ => assert!(d_x[4].is_nan(), "{activation:?}"),
            }
            assert!(
                backward(level, &[T::nan()], &[T::one()], activation, 1)[0].is_nan()
                    || activation == LEAKY_1
            );
        }
    }

    #[test]
    fn extremes_have_their_limits_and_nan_stays() {
        for_each_level(extremes_case::<f32>);
        for_each_level(extremes_case::<f64>);
    }

    #[test]
    fn corners_have_the_gradient_of_the_flatter_side() {
        for_each_level(|level| {
            let d = |activation, out: f64| backward(level, &[2.0], &[out], activation, 1)[0];
            assert_eq!([d(RELU, 0.0), d(RELU, -0.0), d(RELU, 1e-300)], [0.0, 0.0, 2.0]);
            assert_eq!([d(RELU_6, 6.0), d(RELU_6, 5.0), d(RELU_6, 0.0)], [0.0, 2.0, 0.0]);
            assert_eq!([d(LEAKY, 0.0), d(LEAKY, -1.0), d(LEAKY, 1.0)], [0.4, 0.4, 2.0]);
            assert_eq!(d(LEAKY_1, 1.0), 0.0);
            assert_eq!(d(Activation::Elu, 0.0), 2.0);
        });
    }

    #[test]
    fn softmax_runs_over_the_last_axis() {
        for_each_level(|level| {
            let x: Vec<f64> = random(6, 1);
            let out = forward(level, &x, Activation::Softmax, 3);
            for (x, out) in x.chunks(3).zip(out.chunks(3)) {
                assert_eq!(forward(level, x, Activation::Softmax, 3), out);
                assert!((out.iter().sum::<f64>() - 1.0).abs() < 1e-15);
            }
            assert!(forward::<f64>(level, &[], Activation::Softmax, 0).is_empty());
        });
    }

    #[test]
    fn names_are_those_of_keras() {
        assert_eq!(Activation::from_name("relu"), Some(RELU));
        assert_eq!(Activation::from_name("leaky_relu"), Some(LEAKY));
        let plain = ["linear", "elu", "sigmoid", "tanh", "softplus", "exponential", "softmax"];
        for name in plain {
            let activation = Activation::from_name(name).unwrap();
            assert_eq!(format!("{activation:?}").to_lowercase(), name);
        }
        assert_eq!(Activation::from_name("swish"), None);
    }
}
