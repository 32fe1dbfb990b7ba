//! AVX2 and AVX-512.

use super::Simd;
use super::sealed::InstructionSet;
use std::arch::x86_64::*;

/// Rounds to the nearest integer, of two to the even one.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
/// Down, without an exception.
const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;

/// 256-bit vectors with fused multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// 512-bit vectors.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// AVX-512's masks and 32 registers on 256-bit vectors.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Narrow(());

impl InstructionSet for Avx2 {}
impl InstructionSet for Avx512 {}
impl InstructionSet for Avx512Narrow {}

/// See [`prefetch`](super::prefetch).
#[inline(always)]
pub(super) fn prefetch(p: *const u8) {
    // SAFETY: SSE is in every target's base features, and the instruction never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
}

/// See [`prefetch_near`](super::prefetch_near).
#[inline(always)]
pub(super) fn prefetch_near(p: *const u8) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
}

/// `call` and `outline` of one instruction set.
macro_rules! impl_calls {
    ($token:ident, $features:literal) => {
        impl $token {
            /// Runs `f` compiled for this instruction set.
            #[inline(always)]
            pub fn call<R>(self, f: impl FnOnce(Self) -> R) -> R {
                #[target_feature(enable = $features)]
                fn with_features<R>(token: $token, f: impl FnOnce($token) -> R) -> R {
                    f(token)
                }
                // SAFETY: `self` exists, so `detect` found these features.
                unsafe { with_features(self, f) }
            }

            /// The same in a function of its own.
            #[inline(always)]
            fn outline<R>(self, f: impl FnOnce(Self) -> R) -> R {
                #[inline(never)]
                #[target_feature(enable = $features)]
                fn with_features<R>(token: $token, f: impl FnOnce($token) -> R) -> R {
                    f(token)
                }
                // SAFETY: as above.
                unsafe { with_features(self, f) }
            }
        }
    };
}

impl_calls!(Avx2, "avx2,fma");
impl_calls!(Avx512, "avx2,fma,bmi1,bmi2,popcnt,avx512f,avx512vl,avx512dq,avx512bw");
impl_calls!(Avx512Narrow, "avx2,fma,bmi1,bmi2,popcnt,avx512f,avx512vl,avx512dq,avx512bw");

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        found.then_some(Self(()))
    }
}

/// The low `n` bits set; `n` is at most 16.
#[inline(always)]
fn low_bits(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// All bits set in the first `n` of eight 32-bit lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn first_lanes_32(n: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
    }
}

/// All bits set in the first `n` of four 64-bit lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn first_lanes_64(n: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let lane = _mm256_setr_epi64x(0, 1, 2, 3);
        _mm256_cmpgt_epi64(_mm256_set1_epi64x(n as i64), lane)
    }
}

/// `n` elements from `p`, at most 4, then zeros.
///
/// # Safety
/// The machine has AVX2, and `p` is good for `n` reads.
#[inline(always)]
unsafe fn load_f32x4(p: *const f32, n: usize) -> __m128 {
    // SAFETY: the caller's promise; further elements are not touched.
    unsafe {
        match n {
            4 => _mm_loadu_ps(p),
            _ => _mm_maskload_ps(p, _mm256_castsi256_si128(first_lanes_32(n))),
        }
    }
}

/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn sum_f32x8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn sum_f64x4(v: __m256d) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
        _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
    }
}

/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn largest_f32x8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn largest_f64x4(v: __m256d) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
        _mm_cvtsd_f64(_mm_max_sd(v, _mm_unpackhi_pd(v, v)))
    }
}

/// `v * 2^k` in two factors, because `2^k` alone may be too large or too small.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn scale_f32x8(v: __m256, k: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let half = _mm256_floor_ps(_mm256_mul_ps(k, _mm256_set1_ps(0.5)));
        let v = _mm256_mul_ps(v, power_f32x8(half));
        _mm256_mul_ps(v, power_f32x8(_mm256_sub_ps(k, half)))
    }
}

/// `2^k` for the exponents `k` of normal numbers.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn power_f32x8(k: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        // The sum with 2^23 holds the biased exponent in its last bits.
        let biased = _mm256_add_ps(k, _mm256_set1_ps((1u32 << 23) as f32 + 127.0));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(biased)))
    }
}

/// `v * 2^k` in two factors, because `2^k` alone may be too large or too small.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn scale_f64x4(v: __m256d, k: __m256d) -> __m256d {
    // SAFETY: the caller's promise.
    unsafe {
        let half = _mm256_floor_pd(_mm256_mul_pd(k, _mm256_set1_pd(0.5)));
        let v = _mm256_mul_pd(v, power_f64x4(half));
        _mm256_mul_pd(v, power_f64x4(_mm256_sub_pd(k, half)))
    }
}

/// `2^k` for the exponents `k` of normal numbers.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn power_f64x4(k: __m256d) -> __m256d {
    // SAFETY: the caller's promise.
    unsafe {
        // The sum with 2^52 holds the biased exponent in its last bits.
        let biased = _mm256_add_pd(k, _mm256_set1_pd((1u64 << 52) as f64 + 1023.0));
        _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(biased)))
    }
}

impl_simd! {
    Avx2, Avx2, f32, 8, 8, __m256, __m256,
    broadcasts: false,
    splat: _mm256_set1_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    add: _mm256_add_ps, sub: _mm256_sub_ps, mul: _mm256_mul_ps, div: _mm256_div_ps,
    mul_add: |a, b, c| _mm256_fmadd_ps(a, b, c),
    sqrt: _mm256_sqrt_ps, min: _mm256_min_ps, max: _mm256_max_ps,
    round: _mm256_round_ps::<NEAREST>, floor: _mm256_floor_ps,
    scale_by_power: scale_f32x8,
    load_part: |p, n| _mm256_maskload_ps(p, first_lanes_32(n)),
    store_part: |p, n, v| _mm256_maskstore_ps(p, first_lanes_32(n), v),
    greater: _mm256_cmp_ps::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm256_or_ps(
        _mm256_cmp_ps::<_CMP_GT_OQ>(a, b), _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)),
    equal: _mm256_cmp_ps::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm256_blendv_ps(b, a, m),
    splat_pair: |p| _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned())),
    zip: |a, b| {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
    },
    unzip: |a, b| {
        let low = _mm256_permute2f128_ps::<0x20>(a, b);
        let high = _mm256_permute2f128_ps::<0x31>(a, b);
        [
            _mm256_shuffle_ps::<0b10_00_10_00>(low, high),
            _mm256_shuffle_ps::<0b11_01_11_01>(low, high),
        ]
    },
    store_indices: |p, v| _mm256_storeu_si256(p.cast(), _mm256_cvttps_epi32(v)),
    bits: |m| _mm256_movemask_ps(m) as u32,
    first_lanes: |n| _mm256_castsi256_ps(first_lanes_32(n)),
    sum: sum_f32x8, largest: largest_f32x8,
    load_halves: |p, n, q, m| _mm256_insertf128_ps::<1>(
        _mm256_castps128_ps256(load_f32x4(p, n)), load_f32x4(q, m)),
    pick: |v, at| _mm256_permutevar8x32_ps(v, _mm256_castps_si256(at)),
}

impl_simd! {
    Avx2, Avx2, f64, 4, 8, __m256d, __m256d,
    broadcasts: false,
    splat: _mm256_set1_pd, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    add: _mm256_add_pd, sub: _mm256_sub_pd, mul: _mm256_mul_pd, div: _mm256_div_pd,
    mul_add: |a, b, c| _mm256_fmadd_pd(a, b, c),
    sqrt: _mm256_sqrt_pd, min: _mm256_min_pd, max: _mm256_max_pd,
    round: _mm256_round_pd::<NEAREST>, floor: _mm256_floor_pd,
    scale_by_power: scale_f64x4,
    load_part: |p, n| _mm256_maskload_pd(p, first_lanes_64(n)),
    store_part: |p, n, v| _mm256_maskstore_pd(p, first_lanes_64(n), v),
    greater: _mm256_cmp_pd::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm256_or_pd(
        _mm256_cmp_pd::<_CMP_GT_OQ>(a, b), _mm256_cmp_pd::<_CMP_UNORD_Q>(a, a)),
    equal: _mm256_cmp_pd::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm256_blendv_pd(b, a, m),
    splat_pair: |p| _mm256_broadcast_pd(&p.cast::<__m128d>().read_unaligned()),
    zip: |a, b| {
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        [_mm256_permute2f128_pd::<0x20>(low, high), _mm256_permute2f128_pd::<0x31>(low, high)]
    },
    unzip: |a, b| {
        let low = _mm256_permute2f128_pd::<0x20>(a, b);
        let high = _mm256_permute2f128_pd::<0x31>(a, b);
        [_mm256_unpacklo_pd(low, high), _mm256_unpackhi_pd(low, high)]
    },
    store_indices: |p, v| _mm_storeu_si128(p.cast(), _mm256_cvttpd_epi32(v)),
    bits: |m| _mm256_movemask_pd(m) as u32,
    first_lanes: |n| _mm256_castsi256_pd(first_lanes_64(n)),
    sum: sum_f64x4, largest: largest_f64x4,
}

impl_simd! {
    Avx512Narrow, Avx512Narrow, f32, 8, 24, __m256, __mmask8,
    broadcasts: true,
    splat: _mm256_set1_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    add: _mm256_add_ps, sub: _mm256_sub_ps, mul: _mm256_mul_ps, div: _mm256_div_ps,
    mul_add: |a, b, c| _mm256_fmadd_ps(a, b, c),
    sqrt: _mm256_sqrt_ps, min: _mm256_min_ps, max: _mm256_max_ps,
    round: _mm256_round_ps::<NEAREST>, floor: _mm256_floor_ps,
    scale_by_power: _mm256_scalef_ps,
    load_part: |p, n| _mm256_maskz_loadu_ps(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm256_mask_storeu_ps(p, low_bits(n) as u8, v),
    greater: _mm256_cmp_ps_mask::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm256_cmp_ps_mask::<_CMP_GT_OQ>(a, b)
        | _mm256_cmp_ps_mask::<_CMP_UNORD_Q>(a, a),
    equal: _mm256_cmp_ps_mask::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm256_mask_blend_ps(m, b, a),
    splat_pair: |p| _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned())),
    zip: |a, b| {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
    },
    unzip: |a, b| {
        let low = _mm256_permute2f128_ps::<0x20>(a, b);
        let high = _mm256_permute2f128_ps::<0x31>(a, b);
        [
            _mm256_shuffle_ps::<0b10_00_10_00>(low, high),
            _mm256_shuffle_ps::<0b11_01_11_01>(low, high),
        ]
    },
    store_indices: |p, v| _mm256_storeu_si256(p.cast(), _mm256_cvttps_epi32(v)),
    bits: |m| u32::from(m),
    first_lanes: |n| low_bits(n) as u8,
    sum: sum_f32x8, largest: largest_f32x8,
    load_halves: |p, n, q, m| _mm256_insertf128_ps::<1>(
        _mm256_castps128_ps256(_mm_maskz_loadu_ps(low_bits(n) as u8, p)),
        _mm_maskz_loadu_ps(low_bits(m) as u8, q)),
    pick: |v, at| _mm256_permutevar8x32_ps(v, _mm256_castps_si256(at)),
}

impl_simd! {
    Avx512Narrow, Avx512Narrow, f64, 4, 24, __m256d, __mmask8,
    broadcasts: true,
    splat: _mm256_set1_pd, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    add: _mm256_add_pd, sub: _mm256_sub_pd, mul: _mm256_mul_pd, div: _mm256_div_pd,
    mul_add: |a, b, c| _mm256_fmadd_pd(a, b, c),
    sqrt: _mm256_sqrt_pd, min: _mm256_min_pd, max: _mm256_max_pd,
    round: _mm256_round_pd::<NEAREST>, floor: _mm256_floor_pd,
    scale_by_power: _mm256_scalef_pd,
    load_part: |p, n| _mm256_maskz_loadu_pd(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm256_mask_storeu_pd(p, low_bits(n) as u8, v),
    greater: _mm256_cmp_pd_mask::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm256_cmp_pd_mask::<_CMP_GT_OQ>(a, b)
        | _mm256_cmp_pd_mask::<_CMP_UNORD_Q>(a, a),
    equal: _mm256_cmp_pd_mask::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm256_mask_blend_pd(m, b, a),
    splat_pair: |p| _mm256_broadcast_pd(&p.cast::<__m128d>().read_unaligned()),
    zip: |a, b| {
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        [_mm256_permute2f128_pd::<0x20>(low, high), _mm256_permute2f128_pd::<0x31>(low, high)]
    },
    unzip: |a, b| {
        let low = _mm256_permute2f128_pd::<0x20>(a, b);
        let high = _mm256_permute2f128_pd::<0x31>(a, b);
        [_mm256_unpacklo_pd(low, high), _mm256_unpackhi_pd(low, high)]
    },
    store_indices: |p, v| _mm_storeu_si128(p.cast(), _mm256_cvttpd_epi32(v)),
    bits: |m| u32::from(m),
    first_lanes: |n| low_bits(n) as u8,
    sum: sum_f64x4, largest: largest_f64x4,
}

impl_simd! {
    Avx512, Avx512Narrow, f32, 16, 24, __m512, __mmask16,
    broadcasts: true,
    splat: _mm512_set1_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
    add: _mm512_add_ps, sub: _mm512_sub_ps, mul: _mm512_mul_ps, div: _mm512_div_ps,
    mul_add: |a, b, c| _mm512_fmadd_ps(a, b, c),
    sqrt: _mm512_sqrt_ps, min: _mm512_min_ps, max: _mm512_max_ps,
    round: _mm512_roundscale_ps::<NEAREST>, floor: _mm512_roundscale_ps::<DOWN>,
    scale_by_power: _mm512_scalef_ps,
    load_part: |p, n| _mm512_maskz_loadu_ps(low_bits(n), p),
    store_part: |p, n, v| _mm512_mask_storeu_ps(p, low_bits(n), v),
    greater: _mm512_cmp_ps_mask::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)
        | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a),
    equal: _mm512_cmp_ps_mask::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm512_mask_blend_ps(m, b, a),
    splat_pair: |p| _mm512_castpd_ps(_mm512_set1_pd(p.cast::<f64>().read_unaligned())),
    zip: |a, b| {
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
    },
    unzip: |a, b| {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        [_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)]
    },
    store_indices: |p, v| _mm512_storeu_si512(p.cast(), _mm512_cvttps_epi32(v)),
    bits: |m| u32::from(m),
    first_lanes: |n| low_bits(n),
    sum: _mm512_reduce_add_ps, largest: _mm512_reduce_max_ps,
    compress: |v, bits| _mm512_maskz_compress_ps(bits as u16, v),
    load_halves: |p, n, q, m| _mm512_mask_loadu_ps(
        _mm512_maskz_loadu_ps(low_bits(n), p), low_bits(m) << 8, q.wrapping_sub(8)),
    pick: |v, at| _mm512_permutexvar_ps(_mm512_castps_si512(at), v),
}

impl_simd! {
    Avx512, Avx512Narrow, f64, 8, 24, __m512d, __mmask8,
    broadcasts: true,
    splat: _mm512_set1_pd, load: _mm512_loadu_pd, store: _mm512_storeu_pd,
    add: _mm512_add_pd, sub: _mm512_sub_pd, mul: _mm512_mul_pd, div: _mm512_div_pd,
    mul_add: |a, b, c| _mm512_fmadd_pd(a, b, c),
    sqrt: _mm512_sqrt_pd, min: _mm512_min_pd, max: _mm512_max_pd,
    round: _mm512_roundscale_pd::<NEAREST>, floor: _mm512_roundscale_pd::<DOWN>,
    scale_by_power: _mm512_scalef_pd,
    load_part: |p, n| _mm512_maskz_loadu_pd(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm512_mask_storeu_pd(p, low_bits(n) as u8, v),
    greater: _mm512_cmp_pd_mask::<_CMP_GT_OQ>,
    greater_or_nan: |a, b| _mm512_cmp_pd_mask::<_CMP_GT_OQ>(a, b)
        | _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(a, a),
    equal: _mm512_cmp_pd_mask::<_CMP_EQ_OQ>,
    select: |m, a, b| _mm512_mask_blend_pd(m, b, a),
    splat_pair: |p| _mm512_broadcast_f64x2(_mm_loadu_pd(p)),
    zip: |a, b| {
        let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        let high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
        [_mm512_permutex2var_pd(a, low, b), _mm512_permutex2var_pd(a, high, b)]
    },
    unzip: |a, b| {
        let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        let odd = _mm512_add_epi64(even, _mm512_set1_epi64(1));
        [_mm512_permutex2var_pd(a, even, b), _mm512_permutex2var_pd(a, odd, b)]
    },
    store_indices: |p, v| _mm256_storeu_si256(p.cast(), _mm512_cvttpd_epi32(v)),
    bits: |m| u32::from(m),
    first_lanes: |n| low_bits(n) as u8,
    sum: _mm512_reduce_add_pd, largest: _mm512_reduce_max_pd,
    compress: |v, bits| _mm512_maskz_compress_pd(bits as u8, v),
    load_halves: |p, n, q, m| _mm512_mask_loadu_pd(
        _mm512_maskz_loadu_pd(low_bits(n) as u8, p), (low_bits(m) << 4) as u8, q.wrapping_sub(4)),
    pick: |v, at| _mm512_permutexvar_pd(_mm512_castpd_si512(at), v),
}
