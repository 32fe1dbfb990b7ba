//! Dropout: every element is kept with probability `1 - rate` and then divided by it, so that its
//! mean stays the same.
//!
//! A mask is a function of a seed and the position of its element alone, so that it is the same for
//! every number of threads and for every split of a batch.

use super::counter::{GOLDEN, bits};
use super::simd::{Element, Simd, for_each_vector};

/// Hashes worked on at once, which the compiler makes vectors of.
const HASHES: usize = 16;

/// Each hash serves two elements, one with either half of its bits.
const BLOCK: usize = 2 * HASHES;

/// `mask[i] = 1 / (1 - rate)` with probability `1 - rate`, else 0.
///
/// `mask` (elements of one image,), `rate` from 0 to 1; `key` is where the image's numbers begin.
#[inline(always)]
pub fn dropout_mask<T: Element>(mask: &mut [T], rate: f64, key: u64) {
    assert!((0.0..=1.0).contains(&rate), "rate");
    if rate == 0.0 || rate == 1.0 {
        return mask.fill(T::from_f64(1.0 - rate));
    }
    let kept = T::from_f64(1.0 / (1.0 - rate));
    let limit = ((1.0 - rate) * 2f64.powi(32)) as u32;
    let mut blocks = mask.chunks_exact_mut(BLOCK);
    let mut counter = key;
    for block in &mut blocks {
        fill_block(block, kept, limit, counter);
        counter = counter.wrapping_add(GOLDEN.wrapping_mul(HASHES as u64));
    }
    let rest = blocks.into_remainder();
    if !rest.is_empty() {
        let mut block = [T::zero(); BLOCK];
        fill_block(&mut block, kept, limit, counter);
        rest.copy_from_slice(&block[..rest.len()]);
    }
}

/// The masks of the hashes of `counter, counter + GOLDEN, ..`
#[inline(always)]
fn fill_block<T: Element>(block: &mut [T], kept: T, limit: u32, counter: u64) {
    let (low, high) = block.split_at_mut(HASHES);
    let value = |bits: u32| if bits < limit { kept } else { T::zero() };
    for i in 0..HASHES {
        let bits = bits(counter, i as u64);
        low[i] = value(bits as u32);
        high[i] = value((bits >> 32) as u32);
    }
}

/// `out[i] = x[i] * mask[i]`
#[inline(always)]
pub fn multiply<T: Element, S: Simd<T>>(simd: S, out: &mut [T], x: &[T], mask: &[T]) {
    assert_eq!([x.len(), mask.len()], [out.len(); 2], "length");
    for_each_vector(
        simd,
        out.len(),
        #[inline(always)]
        |at| {
            let (x, mask) = (simd.load_up_to(&x[at.clone()]), simd.load_up_to(&mask[at.clone()]));
            simd.store_up_to(simd.mul(x, mask), &mut out[at]);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::counter::key;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{for_each_level, random};

    fn mask(len: usize, rate: f64, seed: u64, step: u64, row: u64) -> Vec<f64> {
        let mut mask = vec![f64::NAN; len];
        dropout_mask(&mut mask, rate, key(seed, step, row));
        mask
    }

    /// The mean of the products of two masks' deviations in units of their variance: 0 +- 1 /
    /// sqrt(n) if they are independent.
    fn correlation(a: &[f64], b: &[f64], rate: f64) -> f64 {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - 1.0) * (b - 1.0)).sum();
        sum / (rate / (1.0 - rate)) / a.len() as f64
    }

    #[test]
    fn keeps_the_mean_at_every_rate() {
        for rate in [0.01, 0.1, 0.25, 0.5, 0.9] {
            let mask = mask(1 << 16, rate, 1, 2, 3);
            assert!(mask.iter().all(|&m| m == 0.0 || m == 1.0 / (1.0 - rate)));
            let mean = mask.iter().sum::<f64>() / mask.len() as f64;
            let deviation = (rate / (1.0 - rate) / mask.len() as f64).sqrt();
            assert!((mean - 1.0).abs() < 4.0 * deviation, "{rate}: {mean} +- {deviation}");
        }
        assert_eq!(mask(40, 0.0, 1, 2, 3), [1.0; 40]);
        assert_eq!(mask(40, 1.0, 1, 2, 3), [0.0; 40]);
    }

    #[test]
    fn seeds_steps_rows_and_neighbours_are_independent() {
        const LEN: usize = 1 << 12;
        for rate in [0.1, 0.5] {
            let mut masks = Vec::new();
            for seed in [0, 1, u64::MAX] {
                for step in [0, 1, 2, 1 << 32] {
                    masks.extend([0, 1, 2, 127].map(|row| mask(LEN, rate, seed, step, row)));
                }
            }
            let limit = 5.0 / (LEN as f64).sqrt();
            for (n, a) in masks.iter().enumerate() {
                for (m, b) in masks[..n].iter().enumerate() {
                    assert!(correlation(a, b, rate).abs() < limit, "masks {n} and {m}");
                }
                for lag in 1..2 * BLOCK {
                    let c = correlation(&a[lag..], &a[..LEN - lag], rate);
                    assert!(c.abs() < limit, "mask {n}, lag {lag}");
                }
            }
        }
    }

    #[test]
    fn every_element_changes_from_step_to_step() {
        let mut kept = [0; BLOCK + 3];
        for step in 0..4096 {
            for (kept, mask) in kept.iter_mut().zip(mask(BLOCK + 3, 0.5, 7, step, 0)) {
                *kept += usize::from(mask != 0.0);
            }
        }
        assert!(kept.iter().all(|kept| (1888..2208).contains(kept)), "{kept:?}"); // 5 deviations
    }

    #[test]
    fn a_mask_is_the_beginning_of_a_longer_one_on_every_instruction_set() {
        let whole = mask(3 * BLOCK, 0.3, 1, 2, 3);
        for_each_level(|level| {
            for len in [0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 95] {
                let mut mask = vec![f32::NAN; len];
                dispatch!(f32, level, simd => {
                    let _ = simd;
                    dropout_mask(&mut mask, 0.3, key(1, 2, 3));
                });
                let expected: Vec<f32> = whole[..len].iter().map(|&m| m as f32).collect();
                assert_eq!(mask, expected);
            }
        });
    }

    fn multiplies<T: Element>(level: Level) {
        for len in 0..35 {
            let (x, mask): (Vec<T>, Vec<T>) = (random(len, 1), random(len, 2));
            let mut out = vec![T::nan(); len];
            dispatch!(T, level, simd => multiply(simd, &mut out, &x, &mask));
            let expected: Vec<T> = x.iter().zip(&mask).map(|(&x, &m)| x * m).collect();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn multiplication_covers_every_element() {
        for_each_level(multiplies::<f32>);
        for_each_level(multiplies::<f64>);
    }
}
