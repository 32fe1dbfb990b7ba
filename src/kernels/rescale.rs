//! Images of any type to numbers of the network's.

use std::any::TypeId;

use super::simd::Element;

/// What an element of images may be.
pub trait Number: Copy + Send + Sync + 'static {
    /// The nearest number of type `T`.
    fn to<T: Element>(self) -> T;
}

impl Number for u8 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_u8(self)
    }
}

impl Number for f32 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_f64(f64::from(self))
    }
}

impl Number for f64 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_f64(self)
    }
}

/// `out[i] = x[i] * scale + offset`; the number itself if the scale is 1 and the offset 0.
#[inline(always)]
pub fn rescale<T: Element, X: Number>(out: &mut [T], x: &[X], scale: T, offset: T) {
    assert_eq!(out.len(), x.len(), "length");
    if scale == T::one() && offset == T::zero() {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x.to();
        }
    } else {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x.to::<T>() * scale + offset;
        }
    }
}

/// Images of whichever type the caller has.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Bytes.
    U8(&'a [u8]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl<'a> Source<'a> {
    /// Bytes of an element.
    pub fn element_size(&self) -> usize {
        match self {
            Self::U8(_) => size_of::<u8>(),
            Self::F32(_) => size_of::<f32>(),
            Self::F64(_) => size_of::<f64>(),
        }
    }

    /// Where the first element lies.
    pub fn address(&self) -> *const u8 {
        match self {
            Self::U8(x) => x.as_ptr(),
            Self::F32(x) => x.as_ptr().cast(),
            Self::F64(x) => x.as_ptr().cast(),
        }
    }

    /// The elements themselves, if that is what [`rescale`] would make of them.
    pub fn unchanged<T: Element>(self, scale: T, offset: T) -> Option<&'a [T]> {
        if scale != T::one() || offset != T::zero() {
            return None;
        }
        match self {
            Self::U8(_) => None,
            Self::F32(x) => same_type(x),
            Self::F64(x) => same_type(x),
        }
    }
}

/// `x`, if its type is `T`.
fn same_type<X: Number, T: Element>(x: &[X]) -> Option<&[T]> {
    if TypeId::of::<X>() != TypeId::of::<T>() {
        return None;
    }
    // SAFETY: the types are the same, as their `TypeId`s say.
    Some(unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{for_each_level, random};

    #[test]
    fn maps_the_ends_of_the_range() {
        let mut out = [f64::NAN; 3];
        rescale(&mut out, &[0u8, 51, 255], 1.0 / 255.0, -0.5);
        assert_eq!(out, [-0.5, -0.3, 0.5]);
    }

    #[test]
    fn only_numbers_of_the_type_stay_as_they_are() {
        let (floats, doubles) = ([1.0f32, 2.0], [1.0f64, 2.0]);
        let (x, wide) = (Source::F32(&floats), Source::F64(&doubles));
        assert_eq!(x.unchanged(1.0f32, 0.0), Some(&floats[..]));
        assert_eq!(wide.unchanged(1.0f64, 0.0), Some(&doubles[..]));
        assert_eq!(x.unchanged(1.0f64, 0.0), None);
        assert_eq!(wide.unchanged(1.0f32, 0.0), None);
        assert_eq!(Source::U8(&[1, 2]).unchanged(1.0f32, 0.0), None);
        assert_eq!(x.unchanged(0.5f32, 0.0), None);
        assert_eq!(x.unchanged(1.0f32, 0.5), None);
    }

    fn case<T: Element, X: Number>(level: Level, x: &[X], to_f64: impl Fn(X) -> f64) {
        let value = |x| T::from_f64(to_f64(x));
        for len in (0..x.len()).filter(|len| *len < 40 || len + 1 == x.len()) {
            let x = &x[..len];
            for (scale, offset) in [(1.0 / 255.0, -0.5), (2.0, 0.0), (1.0, 3.0)] {
                let (scale, offset) = (T::from_f64(scale), T::from_f64(offset));
                let mut out = vec![T::nan(); len];
                dispatch!(T, level, simd => {
                    let _ = simd;
                    rescale(&mut out, x, scale, offset);
                });
                let expected: Vec<T> = x.iter().map(|&x| value(x) * scale + offset).collect();
                assert_eq!(out, expected);
            }
            let mut out = vec![T::nan(); len];
            dispatch!(T, level, simd => {
                let _ = simd;
                rescale(&mut out, x, T::one(), T::zero());
            });
            for (out, &x) in out.iter().zip(x) {
                let value = value(x);
                let same_sign = out.is_sign_negative() == value.is_sign_negative();
                assert!(*out == value && same_sign || out.is_nan() && value.is_nan());
            }
        }
    }

    #[test]
    fn is_the_formula_for_every_type() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut numbers: Vec<f64> = random(300, 1);
        numbers[1] = -0.0;
        let floats: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
        for_each_level(|level| {
            case::<f32, _>(level, &bytes, f64::from);
            case::<f64, _>(level, &bytes, f64::from);
            case::<f32, _>(level, &floats, f64::from);
            case::<f64, _>(level, &floats, f64::from);
            case::<f32, _>(level, &numbers, |x| x);
            case::<f64, _>(level, &numbers, |x| x);
        });
    }

    #[test]
    fn keeps_nan_and_infinity() {
        let mut out = [0f32; 3];
        rescale(&mut out, &[f64::NAN, f64::INFINITY, 1e300], 1.0, 0.0);
        assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2] == f32::INFINITY);
    }
}
