//! Exponentials and logarithms of whole vectors.
//!
//! `e^x = 2^n * e^r` with the integer `n` nearest to `x / ln 2`, so that `|r| <= ln(2) / 2`, where
//! a few terms of the exponential series are exact to the last bit. The remainder
//! `r = x - n * ln 2` is taken with `ln 2` in two parts: `n` times the first is exact.

use super::{Element, Simd};

/// What the functions need to know of a type.
pub trait Constants: Sized + 'static {
    /// `1 / ln 2`
    const LOG2_E: Self;
    /// `ln 2`
    const LN_2: Self;
    /// The first bits of `ln 2`, so few that a product with any exponent is exact.
    const LN_2_HIGH: Self;
    /// `ln 2 - LN_2_HIGH`
    const LN_2_LOW: Self;
    /// At and below it `e^x` rounds to 0.
    const EXP_MIN: Self;
    /// At and above it `e^x` rounds to infinity.
    const EXP_MAX: Self;
    /// `1 / 2!, 1 / 3!, ..`: enough for remainders up to `ln(2) / 2`.
    const EXP_SERIES: &'static [Self];
    /// `2 / 3, 2 / 5, ..`: enough for `s` up to 0.172 in `2 atanh(s) = 2 s + 2 s^3 / 3 + ..`.
    const ATANH_SERIES: &'static [Self];
}

impl Constants for f32 {
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN_2: Self = std::f32::consts::LN_2;
    const LN_2_HIGH: Self = 22713.0 / 32768.0; // 15 bits, and 8 for n
    const LN_2_LOW: Self = (std::f64::consts::LN_2 - 22713.0 / 32768.0) as Self;
    const EXP_MIN: Self = -104.0;
    const EXP_MAX: Self = 89.0;
    const EXP_SERIES: &'static [Self] =
        &[1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    const ATANH_SERIES: &'static [Self] = &[2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0];
}

impl Constants for f64 {
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN_2: Self = std::f64::consts::LN_2;
    const LN_2_HIGH: Self = 3048493539143.0 / 4398046511104.0; // 42 bits, and 11 for n
    const LN_2_LOW: Self = 5.497_923_018_708_371e-14;
    const EXP_MIN: Self = -746.0;
    const EXP_MAX: Self = 710.0;
    const EXP_SERIES: &'static [Self] = &[
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
        1.0 / 40320.0,
        1.0 / 362880.0,
        1.0 / 3628800.0,
        1.0 / 39916800.0,
        1.0 / 479001600.0,
        1.0 / 6227020800.0,
    ];
    const ATANH_SERIES: &'static [Self] = &[
        2.0 / 3.0,
        2.0 / 5.0,
        2.0 / 7.0,
        2.0 / 9.0,
        2.0 / 11.0,
        2.0 / 13.0,
        2.0 / 15.0,
        2.0 / 17.0,
        2.0 / 19.0,
    ];
}

/// `e^x`; NaN is kept.
#[inline(always)]
pub fn exp<T: Element, S: Simd<T>>(simd: S, x: S::Vector) -> S::Vector {
    let (n, expm1) = reduced_expm1(simd, x);
    simd.scale_by_power(simd.add(simd.splat(T::one()), expm1), n)
}

/// `e^x - 1` for `x <= 0`, with all its digits near 0; NaN is kept.
#[inline(always)]
pub fn expm1_not_positive<T: Element, S: Simd<T>>(simd: S, x: S::Vector) -> S::Vector {
    let (n, expm1) = reduced_expm1(simd, x);
    let power = simd.scale_by_power(simd.splat(T::one()), n);
    simd.mul_add(power, expm1, simd.sub(power, simd.splat(T::one())))
}

/// `n` and `e^r - 1` of `e^x = 2^n * e^r`.
#[inline(always)]
fn reduced_expm1<T: Element, S: Simd<T>>(simd: S, x: S::Vector) -> (S::Vector, S::Vector) {
    let x = simd.min(simd.splat(T::EXP_MAX), simd.max(simd.splat(T::EXP_MIN), x));
    let n = simd.round(simd.mul(x, simd.splat(T::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-T::LN_2_HIGH), x);
    let r = simd.mul_add(n, simd.splat(-T::LN_2_LOW), r);
    (n, simd.mul_add(simd.mul(r, r), series(simd, T::EXP_SERIES, r), r))
}

/// `ln(1 + z)` for `z` from 0 to 1, with all its digits near 0; NaN is kept.
///
/// `ln((1 + s) / (1 - s)) = 2 atanh(s)`, and `s` is at most 0.172 if `1 + z` is halved above
/// `sqrt(2)`.
#[inline(always)]
pub fn ln_1p_unit<T: Element, S: Simd<T>>(simd: S, z: S::Vector) -> S::Vector {
    let [one, two, three] = simd.constants([1.0, 2.0, 3.0]);
    let halved = simd.greater(z, simd.splat(T::from_f64(std::f64::consts::SQRT_2 - 1.0)));
    let s = simd.div(
        simd.select(halved, simd.sub(z, one), z),
        simd.add(z, simd.select(halved, three, two)),
    );
    let square = simd.mul(s, s);
    let tail = simd.mul(simd.mul(square, s), series(simd, T::ATANH_SERIES, square));
    let ln = simd.mul_add(two, s, tail);
    simd.add(ln, simd.select(halved, simd.splat(T::LN_2), simd.zero()))
}

/// `coefficients[0] + coefficients[1] * x + ..`
#[inline(always)]
fn series<T: Element, S: Simd<T>>(simd: S, coefficients: &[T], x: S::Vector) -> S::Vector {
    let mut sum = simd.zero();
    for &coefficient in coefficients.iter().rev() {
        sum = simd.mul_add(sum, x, simd.splat(coefficient));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::{Level, for_each_vector};
    use crate::kernels::testing::for_each_level;

    /// Evaluates a vector function on a slice.
    macro_rules! map {
        ($t:ty, $level:expr, $f:ident, $x:expr) => {{
            let x: &[$t] = $x;
            let mut out = vec![<$t>::nan(); x.len()];
            dispatch!($t, $level, simd => for_each_vector::<$t, _>(
                simd,
                x.len(),
                #[inline(always)]
                |at| {
                    simd.store_up_to($f(simd, simd.load_up_to(&x[at.clone()])), &mut out[at]);
                },
            ));
            out
        }};
    }

    /// Asserts that every result is off by at most `ulps` units in the last place.
    fn assert_accurate<T: Element>(x: &[T], got: &[T], ulps: f64, f: impl Fn(f64) -> f64) {
        for (&x, &g) in x.iter().zip(got) {
            let expected = f(x.to_f64());
            let (g, rounded) = (g.to_f64(), T::from_f64(expected).to_f64());
            // A unit is between half of epsilon and epsilon of the number, or the smallest number.
            let unit = expected.abs().max(T::min_positive_value().to_f64()) * T::epsilon().to_f64();
            let close = g == rounded || (g - expected).abs() <= ulps * unit;
            assert!(close || g.is_nan() && x.is_nan(), "{x:?}: got {g:e}, expected {expected:e}");
        }
    }

    /// A fine grid from `from` to `to`, and magnitudes from very small to the larger of them.
    fn arguments<T: Element>(from: f64, to: f64) -> Vec<T> {
        let grid = (0..=40_000).map(|i| from + (to - from) * f64::from(i) / 40_000.0);
        let small = (0..4000).map(|i| 2f64.powf(-f64::from(i) / 100.0));
        let both = small.flat_map(|x| [from * x, to * x]);
        grid.chain(both).map(T::from_f64).collect()
    }

    fn exp_case<T: Element>(level: Level, from: f64, to: f64) {
        let x: Vec<T> = arguments(from, to);
        assert_accurate(&x, &map!(T, level, exp, &x), 1.5, f64::exp);
        let limits = [T::neg_infinity(), T::infinity(), T::max_value(), T::min_value(), T::nan()];
        let limits = map!(T, level, exp, &limits);
        assert_eq!(limits[..4], [T::zero(), T::infinity(), T::infinity(), T::zero()]);
        assert!(limits[4].is_nan());
        assert_eq!(map!(T, level, exp, &[T::zero(), -T::zero()]), [T::one(); 2]);
    }

    fn expm1_case<T: Element>(level: Level, from: f64) {
        let x: Vec<T> = arguments(from, 0.0);
        assert_accurate(&x, &map!(T, level, expm1_not_positive, &x), 1.5, f64::exp_m1);
        let limits = map!(T, level, expm1_not_positive, &[T::neg_infinity(), T::nan()]);
        assert!(limits[0] == -T::one() && limits[1].is_nan());
    }

    fn ln_1p_case<T: Element>(level: Level) {
        let x: Vec<T> = arguments(0.0, 1.0);
        assert_accurate(&x, &map!(T, level, ln_1p_unit, &x), 2.5, f64::ln_1p);
        assert!(map!(T, level, ln_1p_unit, &[T::nan()])[0].is_nan());
    }

    #[test]
    fn exp_is_accurate_from_zero_to_infinity() {
        for_each_level(|level| {
            exp_case::<f32>(level, -106.0, 90.0);
            exp_case::<f64>(level, -748.0, 712.0);
        });
    }

    #[test]
    fn expm1_is_accurate_at_and_below_zero() {
        for_each_level(|level| {
            expm1_case::<f32>(level, -20.0);
            expm1_case::<f64>(level, -45.0);
        });
    }

    #[test]
    fn ln_1p_is_accurate_up_to_one() {
        for_each_level(ln_1p_case::<f32>);
        for_each_level(ln_1p_case::<f64>);
    }
}
