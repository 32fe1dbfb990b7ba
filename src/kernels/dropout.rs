//! Dropout: every element is kept with probability `1 - rate` and then divided by it, so that its mean
//! stays the same.
//!
//! A mask is a function of a seed and the position of its element alone, so that it is the same for
//! every number of threads and for every split of a batch.

use super::simd::{Element, Simd, for_each_vector};

/// 2^64 divided by the golden ratio, made odd: neighbouring multiples share few bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every output bit depends on every input bit (the finaliser of SplitMix64: Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014, with Stafford's constants).
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `mask[i] = 1 / (1 - rate)` with probability `1 - rate`, else 0.
///
/// `mask` (elements of one image,), `rate` from 0 to 1; `row` is the image's place in its batch.
#[inline(always)]
pub fn dropout_mask<T: Element>(mask: &mut [T], rate: f64, seed: u64, step: u64, row: u64) {
    assert!((0.0..=1.0).contains(&rate), "rate");
    if rate == 0.0 || rate == 1.0 {
        return mask.fill(T::from_f64(1.0 - rate));
    }
    let kept = T::from_f64(1.0 / (1.0 - rate));
    let limit = ((1.0 - rate) * 2f64.powi(32)) as u32;
    let key = mix(mix(mix(seed) ^ step) ^ row);
    let value = |bits: u32| if bits < limit { kept } else { T::zero() };
    for (i, pair) in mask.chunks_mut(2).enumerate() {
        let bits = mix(key.wrapping_add((i as u64).wrapping_mul(GOLDEN)));
        pair[0] = value(bits as u32);
        if let Some(second) = pair.get_mut(1) {
            *second = value((bits >> 32) as u32);
        }
    }
}

/// `x[i] = x[i] * mask[i]`
#[inline(always)]
pub fn multiply_in_place<T: Element, S: Simd<T>>(simd: S, x: &mut [T], mask: &[T]) {
    assert_eq!(x.len(), mask.len(), "length");
    for_each_vector(
        simd,
        x.len(),
        #[inline(always)]
        |at| {
            let (x, mask) = (&mut x[at.clone()], &mask[at]);
            simd.store_up_to(simd.mul(simd.load_up_to(x), simd.load_up_to(mask)), x);
        },
    );
}
