//! Images of any type to numbers of the network's.

use super::simd::Element;

/// What images may be made of.
pub trait Source: Copy + Send + Sync {
    /// The nearest number of type `T`.
    fn to<T: Element>(self) -> T;
}

impl Source for u8 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_f64(f64::from(self))
    }
}

impl Source for f32 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_f64(f64::from(self))
    }
}

impl Source for f64 {
    #[inline(always)]
    fn to<T: Element>(self) -> T {
        T::from_f64(self)
    }
}

/// `out[i] = x[i] * scale + offset`; the number itself if the scale is 1 and the offset 0.
#[inline(always)]
pub fn rescale<T: Element, X: Source>(out: &mut [T], x: &[X], scale: T, offset: T) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_ends_of_the_range() {
        let mut out = [f64::NAN; 3];
        rescale(&mut out, &[0u8, 51, 255], 1.0 / 255.0, -0.5);
        assert_eq!(out, [-0.5, -0.3, 0.5]);
    }
}
