//! Activation functions. Their gradients are functions of their outputs, so that inputs need not be
//! kept.

use super::simd::math::{exp, expm1_not_positive, ln_1p_unit};
use super::simd::{Element, Simd, for_each_vector};
use super::softmax::{softmax_backward_in_place, softmax_in_place};

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
    out.copy_from_slice(x);
    activation_in_place(simd, out, activation, width);
}

/// `x = f(x)`; see [`Activation`].
///
/// `x` (n, .., width).
#[inline(always)]
pub fn activation_in_place<T: Element, S: Simd<T>>(
    simd: S,
    x: &mut [T],
    activation: Activation,
    width: usize,
) {
    let [zero, one] = [T::zero(), T::one()].map(|x| simd.splat(x));
    macro_rules! map {
        (|$x:ident| $f:expr) => {
            map_in_place(
                simd,
                x,
                #[inline(always)]
                |$x| $f,
            )
        };
    }
    match activation {
        Activation::Linear => {}
        Activation::Relu { negative_slope, max_value } => {
            let max = simd.splat(max_value.map_or(T::infinity(), T::from_f64));
            let slope = simd.splat(T::from_f64(negative_slope));
            if negative_slope == 0.0 {
                map!(|x| simd.min(max, simd.max(zero, x)));
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
        Activation::Softmax => softmax_in_place(simd, x, width),
    }
}

/// `d_x = d_out * f'(x)`; see [`activation_backward_in_place`].
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
    assert_eq!(d_x.len(), d_out.len(), "length");
    d_x.copy_from_slice(d_out);
    activation_backward_in_place(simd, d_x, out, activation, width);
}

/// `d = d * f'(x)`, from `out = f(x)`: `d` is the output's gradient before and the input's after. At
/// a corner of `f` the gradient is that of the lower side.
///
/// `d` and `out` (n, .., width).
#[inline(always)]
pub fn activation_backward_in_place<T: Element, S: Simd<T>>(
    simd: S,
    d: &mut [T],
    out: &[T],
    activation: Activation,
    width: usize,
) {
    assert_eq!(d.len(), out.len(), "length");
    let [zero, one] = [T::zero(), T::one()].map(|x| simd.splat(x));
    macro_rules! zip {
        (|$d:ident, $out:ident| $f:expr) => {
            zip_in_place(
                simd,
                d,
                out,
                #[inline(always)]
                |$d, $out| $f,
            )
        };
    }
    match activation {
        Activation::Linear => {}
        Activation::Relu { negative_slope, max_value } => {
            let slope = simd.splat(T::from_f64(negative_slope));
            if negative_slope == 0.0 {
                zip!(|d, out| simd.select(simd.greater_or_nan(out, zero), d, zero));
            } else {
                zip!(|d, out| {
                    simd.select(simd.greater_or_nan(out, zero), d, simd.mul(d, slope))
                });
            }
            if let Some(max) = max_value {
                let max = simd.splat(T::from_f64(max));
                zip!(|d, out| simd.select(simd.equal(out, max), zero, d));
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
        Activation::Softmax => softmax_backward_in_place(simd, d, out, width),
    }
}

/// `x = f(x)`
#[inline(always)]
fn map_in_place<T: Element, S: Simd<T>>(simd: S, x: &mut [T], f: impl Fn(S::Vector) -> S::Vector) {
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let x = &mut x[at];
            simd.store_up_to(f(simd.load_up_to(x)), x);
        },
    );
}

/// `x = f(x, y)`
#[inline(always)]
fn zip_in_place<T: Element, S: Simd<T>>(
    simd: S,
    x: &mut [T],
    y: &[T],
    f: impl Fn(S::Vector, S::Vector) -> S::Vector,
) {
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let (x, y) = (&mut x[at.clone()], &y[at]);
            simd.store_up_to(f(simd.load_up_to(x), simd.load_up_to(y)), x);
        },
    );
}
