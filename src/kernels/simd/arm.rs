//! NEON.

use super::Simd;
use super::sealed::InstructionSet;
use std::arch::aarch64::*;

/// 128-bit vectors; part of every 64-bit Arm processor.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl InstructionSet for Neon {}

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// Runs `f`: NEON is in every target's base features.
    #[inline(always)]
    pub fn call<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }

    /// Runs `f` in a function of its own.
    #[inline(never)]
    fn outline<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }
}

/// `n` elements from `p`, then zeros.
///
/// # Safety
/// `p` is good for `n` reads, and `n` is at most `N`.
#[inline(always)]
unsafe fn padded<T: Copy + Default, const N: usize>(p: *const T, n: usize) -> [T; N] {
    let mut lanes = [T::default(); N];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n) };
    lanes
}

/// `v * 2^k` in two factors, because `2^k` alone may be too large or too small.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn scale_f32x4(v: float32x4_t, k: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let half = vrndmq_f32(vmulq_f32(k, vdupq_n_f32(0.5)));
        let v = vmulq_f32(v, power_f32x4(half));
        vmulq_f32(v, power_f32x4(vsubq_f32(k, half)))
    }
}

/// `2^k` for the exponents `k` of normal numbers.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn power_f32x4(k: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        // The sum with 2^23 holds the biased exponent in its last bits.
        let biased = vaddq_f32(k, vdupq_n_f32((1u32 << 23) as f32 + 127.0));
        vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(biased)))
    }
}

/// `v * 2^k` in two factors, because `2^k` alone may be too large or too small.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn scale_f64x2(v: float64x2_t, k: float64x2_t) -> float64x2_t {
    // SAFETY: the caller's promise.
    unsafe {
        let half = vrndmq_f64(vmulq_f64(k, vdupq_n_f64(0.5)));
        let v = vmulq_f64(v, power_f64x2(half));
        vmulq_f64(v, power_f64x2(vsubq_f64(k, half)))
    }
}

/// `2^k` for the exponents `k` of normal numbers.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn power_f64x2(k: float64x2_t) -> float64x2_t {
    // SAFETY: the caller's promise.
    unsafe {
        // The sum with 2^52 holds the biased exponent in its last bits.
        let biased = vaddq_f64(k, vdupq_n_f64((1u64 << 52) as f64 + 1023.0));
        vreinterpretq_f64_u64(vshlq_n_u64::<52>(vreinterpretq_u64_f64(biased)))
    }
}

impl_simd! {
    Neon, Neon, f32, 4, 24, float32x4_t, uint32x4_t,
    broadcasts: false,
    splat: vdupq_n_f32, load: vld1q_f32, store: vst1q_f32,
    add: vaddq_f32, sub: vsubq_f32, mul: vmulq_f32, div: vdivq_f32,
    mul_add: |a, b, c| vfmaq_f32(c, a, b),
    sqrt: vsqrtq_f32, min: vminq_f32, max: vmaxq_f32, round: vrndnq_f32,
    floor: vrndmq_f32,
    scale_by_power: scale_f32x4,
    load_part: |p, n| vld1q_f32(padded::<f32, 4>(p, n).as_ptr()),
    store_part: |p, n, v| {
        let mut lanes = [0.0; 4];
        vst1q_f32(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
    },
    greater: vcgtq_f32,
    greater_or_nan: |a, b| vorrq_u32(vcgtq_f32(a, b), vmvnq_u32(vceqq_f32(a, a))),
    equal: vceqq_f32,
    select: |m, a, b| vbslq_f32(m, a, b),
    splat_pair: |p| vcombine_f32(vld1_f32(p), vld1_f32(p)),
    zip: |a, b| [vzip1q_f32(a, b), vzip2q_f32(a, b)],
    unzip: |a, b| [vuzp1q_f32(a, b), vuzp2q_f32(a, b)],
    store_indices: |p, v| vst1q_u32(p, vcvtq_u32_f32(v)),
    bits: |m| vaddvq_u32(vandq_u32(m, vld1q_u32([1, 2, 4, 8].as_ptr()))),
    first_lanes: |n| vcltq_u32(vld1q_u32([0, 1, 2, 3].as_ptr()), vdupq_n_u32(n as u32)),
    sum: vaddvq_f32, largest: vmaxvq_f32,
}

impl_simd! {
    Neon, Neon, f64, 2, 24, float64x2_t, uint64x2_t,
    broadcasts: false,
    splat: vdupq_n_f64, load: vld1q_f64, store: vst1q_f64,
    add: vaddq_f64, sub: vsubq_f64, mul: vmulq_f64, div: vdivq_f64,
    mul_add: |a, b, c| vfmaq_f64(c, a, b),
    sqrt: vsqrtq_f64, min: vminq_f64, max: vmaxq_f64, round: vrndnq_f64,
    floor: vrndmq_f64,
    scale_by_power: scale_f64x2,
    load_part: |p, n| vld1q_f64(padded::<f64, 2>(p, n).as_ptr()),
    store_part: |p, n, v| {
        let mut lanes = [0.0; 2];
        vst1q_f64(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
    },
    greater: vcgtq_f64,
    greater_or_nan: |a, b| {
        let number = vreinterpretq_u32_u64(vceqq_f64(a, a));
        vorrq_u64(vcgtq_f64(a, b), vreinterpretq_u64_u32(vmvnq_u32(number)))
    },
    equal: vceqq_f64,
    select: |m, a, b| vbslq_f64(m, a, b),
    splat_pair: |p| vld1q_f64(p),
    zip: |a, b| [vzip1q_f64(a, b), vzip2q_f64(a, b)],
    unzip: |a, b| [vuzp1q_f64(a, b), vuzp2q_f64(a, b)],
    store_indices: |p, v| vst1_u32(p, vmovn_u64(vcvtq_u64_f64(v))),
    bits: |m| vaddvq_u64(vandq_u64(m, vld1q_u64([1, 2].as_ptr()))) as u32,
    first_lanes: |n| vcltq_u64(vld1q_u64([0, 1].as_ptr()), vdupq_n_u64(n as u64)),
    sum: vaddvq_f64, largest: vmaxvq_f64,
}
