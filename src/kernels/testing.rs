//! What the kernels' tests share.

use super::simd::{Element, Level};

/// Runs `test` once for every instruction set of this machine.
pub fn for_each_level(test: impl Fn(Level)) {
    for level in Level::available() {
        test(level);
    }
}

/// Reproducible numbers in [-1, 1), from a linear congruential generator (Knuth's MMIX constants).
pub fn random<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        T::from_f64((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    })
    .skip(1)
    .take(len)
    .collect()
}

/// Equal for equal numbers, zeros of the same sign, and any two NaNs.
pub fn bits<T: Element>(x: &[T]) -> Vec<u64> {
    let bits = |x: &T| if x.is_nan() { u64::MAX } else { Element::to_f64(*x).to_bits() };
    x.iter().map(bits).collect()
}

/// Asserts that sums of `terms` products of numbers in [-1, 1) agree up to rounding: each of the
/// two orders of summation is off by at most `terms` roundings of a sum of at most `terms`.
pub fn assert_close<T: Element>(got: &[T], expected: &[T], terms: usize) {
    assert_eq!(got.len(), expected.len());
    let terms = terms.max(4) as f64;
    let tolerance = T::epsilon().to_f64() * terms * terms.sqrt();
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let (g, e) = (g.to_f64(), e.to_f64());
        let same = g.is_nan() && e.is_nan() || (g - e).abs() <= tolerance;
        assert!(same, "element {i}: got {g}, expected {e} +- {tolerance:e}");
    }
}
