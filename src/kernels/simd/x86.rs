//! AVX2 and AVX-512.

use super::Simd;
use std::arch::x86_64::*;

/// 256-bit vectors with fused multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// 512-bit vectors.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// AVX-512's masks and 32 registers on 256-bit vectors.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Narrow(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        found.then_some(Self(()))
    }
}

/// Implements `call` for one instruction set.
macro_rules! impl_call {
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
        }
    };
}

impl_call!(Avx2, "avx2,fma");
impl_call!(Avx512, "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw");
impl_call!(Avx512Narrow, "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw");

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

impl_simd! {
    Avx2, Avx2, f32, 8, 8, __m256, __m256,
    splat: _mm256_set1_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    add: _mm256_add_ps, mul: _mm256_mul_ps, mul_add: |a, b, c| _mm256_fmadd_ps(a, b, c),
    load_part: |p, n| _mm256_maskload_ps(p, first_lanes_32(n)),
    store_part: |p, n, v| _mm256_maskstore_ps(p, first_lanes_32(n), v),
    greater_or_nan: |a, b| _mm256_or_ps(
        _mm256_cmp_ps::<_CMP_GT_OQ>(a, b), _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)),
    equal: |a, b| _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| sum_f32x8(v),
}

impl_simd! {
    Avx2, Avx2, f64, 4, 8, __m256d, __m256d,
    splat: _mm256_set1_pd, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    add: _mm256_add_pd, mul: _mm256_mul_pd, mul_add: |a, b, c| _mm256_fmadd_pd(a, b, c),
    load_part: |p, n| _mm256_maskload_pd(p, first_lanes_64(n)),
    store_part: |p, n, v| _mm256_maskstore_pd(p, first_lanes_64(n), v),
    greater_or_nan: |a, b| _mm256_or_pd(
        _mm256_cmp_pd::<_CMP_GT_OQ>(a, b), _mm256_cmp_pd::<_CMP_UNORD_Q>(a, a)),
    equal: |a, b| _mm256_cmp_pd::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| sum_f64x4(v),
}

impl_simd! {
    Avx512Narrow, Avx512Narrow, f32, 8, 24, __m256, __mmask8,
    splat: _mm256_set1_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    add: _mm256_add_ps, mul: _mm256_mul_ps, mul_add: |a, b, c| _mm256_fmadd_ps(a, b, c),
    load_part: |p, n| _mm256_maskz_loadu_ps(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm256_mask_storeu_ps(p, low_bits(n) as u8, v),
    greater_or_nan: |a, b| _mm256_cmp_ps_mask::<_CMP_GT_OQ>(a, b)
        | _mm256_cmp_ps_mask::<_CMP_UNORD_Q>(a, a),
    equal: |a, b| _mm256_cmp_ps_mask::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| sum_f32x8(v),
}

impl_simd! {
    Avx512Narrow, Avx512Narrow, f64, 4, 24, __m256d, __mmask8,
    splat: _mm256_set1_pd, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    add: _mm256_add_pd, mul: _mm256_mul_pd, mul_add: |a, b, c| _mm256_fmadd_pd(a, b, c),
    load_part: |p, n| _mm256_maskz_loadu_pd(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm256_mask_storeu_pd(p, low_bits(n) as u8, v),
    greater_or_nan: |a, b| _mm256_cmp_pd_mask::<_CMP_GT_OQ>(a, b)
        | _mm256_cmp_pd_mask::<_CMP_UNORD_Q>(a, a),
    equal: |a, b| _mm256_cmp_pd_mask::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| sum_f64x4(v),
}

impl_simd! {
    Avx512, Avx512Narrow, f32, 16, 24, __m512, __mmask16,
    splat: _mm512_set1_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
    add: _mm512_add_ps, mul: _mm512_mul_ps, mul_add: |a, b, c| _mm512_fmadd_ps(a, b, c),
    load_part: |p, n| _mm512_maskz_loadu_ps(low_bits(n), p),
    store_part: |p, n, v| _mm512_mask_storeu_ps(p, low_bits(n), v),
    greater_or_nan: |a, b| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)
        | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a),
    equal: |a, b| _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| _mm512_reduce_add_ps(v),
}

impl_simd! {
    Avx512, Avx512Narrow, f64, 8, 24, __m512d, __mmask8,
    splat: _mm512_set1_pd, load: _mm512_loadu_pd, store: _mm512_storeu_pd,
    add: _mm512_add_pd, mul: _mm512_mul_pd, mul_add: |a, b, c| _mm512_fmadd_pd(a, b, c),
    load_part: |p, n| _mm512_maskz_loadu_pd(low_bits(n) as u8, p),
    store_part: |p, n, v| _mm512_mask_storeu_pd(p, low_bits(n) as u8, v),
    greater_or_nan: |a, b| _mm512_cmp_pd_mask::<_CMP_GT_OQ>(a, b)
        | _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(a, a),
    equal: |a, b| _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(a, b),
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
    sum: |v| _mm512_reduce_add_pd(v),
}
