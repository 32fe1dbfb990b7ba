//! The numbers that kernels compute with.

use std::fmt::Debug;

use num_traits::Float;

#[cfg(target_arch = "aarch64")]
use super::Neon;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{Simd, math};
use crate::kernels::rescale::Number;

/// The element type of a kernel: `f32` or `f64`.
pub trait Element:
    Number + Float + math::Constants + Debug + Default + Send + Sync + 'static
{
    /// Its vectors on each instruction set, reached from the set's token by
    /// [`dispatch!`](crate::dispatch).
    #[cfg(target_arch = "aarch64")]
    type Neon: Simd<Self> + From<Neon>;
    /// AVX2's.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Simd<Self> + From<Avx2>;
    /// AVX-512's.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Simd<Self> + From<Avx512>;

    /// The number from which on whole numbers differ in their lowest bits as natural ones do: how
    /// [`Simd::pick`] counts lanes.
    const FIRST_LANE: f64;

    /// The nearest value of this type.
    fn from_f64(x: f64) -> Self;
    /// The same value of this type; by way of `f64` it would take twice as long.
    fn from_u8(x: u8) -> Self;
    /// The same value as `f64`.
    fn to_f64(self) -> f64;
    /// The nearest integer, of two the even one.
    fn round_to_even(self) -> Self;
    /// `self * 2^k` for an integer `k` of at most twice the exponents of normal numbers, rounded
    /// once.
    fn scale_by_power(self, k: Self) -> Self;
}

impl Element for f32 {
    const FIRST_LANE: f64 = (1u64 << 23) as f64;

    #[cfg(target_arch = "aarch64")]
    type Neon = Neon;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Avx512;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn from_u8(x: u8) -> Self {
        Self::from(x)
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn round_to_even(self) -> Self {
        self.round_ties_even()
    }
    #[inline(always)]
    fn scale_by_power(self, k: Self) -> Self {
        // Two factors, because 2^k alone may be too large or too small.
        let power = |k: Self| Self::from_bits(((k as i32 + 127) as u32) << 23);
        let half = (k * 0.5).floor();
        self * power(half) * power(k - half)
    }
}

impl Element for f64 {
    const FIRST_LANE: f64 = (1u64 << 52) as f64;

    #[cfg(target_arch = "aarch64")]
    type Neon = Neon;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Avx512;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn from_u8(x: u8) -> Self {
        Self::from(x)
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn round_to_even(self) -> Self {
        self.round_ties_even()
    }
    #[inline(always)]
    fn scale_by_power(self, k: Self) -> Self {
        // Two factors, because 2^k alone may be too large or too small.
        let power = |k: Self| Self::from_bits(((k as i32 + 1023) as u64) << 52);
        let half = (k * 0.5).floor();
        self * power(half) * power(k - half)
    }
}
