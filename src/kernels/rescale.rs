//! Bytes to numbers.

use super::simd::Element;

/// `out[i] = x[i] * scale + offset`
#[inline(always)]
pub fn rescale<T: Element>(out: &mut [T], x: &[u8], scale: T, offset: T) {
    assert_eq!(out.len(), x.len(), "length");
    for (out, &x) in out.iter_mut().zip(x) {
        *out = T::from_f64(f64::from(x)) * scale + offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_ends_of_the_range() {
        let mut out = [f64::NAN; 3];
        rescale(&mut out, &[0, 51, 255], 1.0 / 255.0, -0.5);
        assert_eq!(out, [-0.5, -0.3, 0.5]);
    }
}
