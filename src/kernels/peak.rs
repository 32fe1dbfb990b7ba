//! How fast this core can multiply and add at all: what every kernel is measured against.

use super::simd::{Element, Simd};

/// Chains of sums: with it, all units are busy at a latency of up to six cycles.
const CHAINS: usize = 12;

/// `rounds` times a fused multiply-add on each of the chains, all in registers. Returns a sum that
/// depends on every one of them.
#[inline(always)]
pub fn multiply_add_chains<T: Element, S: Simd<T>>(simd: S, rounds: usize) -> T {
    let factor = simd.splat(T::from_f64(0.999));
    let summand = simd.splat(T::from_f64(1e-3));
    let mut sums = [simd.zero(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = simd.mul_add(*sum, factor, summand);
        }
    }
    sums.iter().fold(T::zero(), |total, &sum| total + simd.sum(sum))
}

/// Products and sums of one round.
#[inline(always)]
pub fn operations_of_a_round<T: Element, S: Simd<T>>(_: S) -> usize {
    2 * CHAINS * S::LANES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::testing::for_each_level;

    #[test]
    fn every_lane_of_every_chain_counts() {
        for_each_level(|level| {
            dispatch!(f64, level, simd => {
                let lanes = operations_of_a_round::<f64, _>(simd) / (2 * CHAINS);
                assert!((multiply_add_chains::<f64, _>(simd, 1) - 1e-3 * (lanes * CHAINS) as f64).abs() < 1e-12);
            });
        });
    }
}
