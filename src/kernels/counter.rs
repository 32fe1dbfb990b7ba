//! Random numbers without a state: each is a function of a key and a counter, so that they are the
//! same for every number of threads and for every split of a batch.

/// 2^64 divided by the golden ratio, made odd: neighbouring multiples share few bits.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every output bit depends on every input bit (the finaliser of SplitMix64: Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014, with Stafford's constants).
#[inline(always)]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Where the numbers of one image begin; `row` is its place in its batch.
#[inline(always)]
pub fn key(seed: u64, step: u64, row: u64) -> u64 {
    let mut key = 0;
    for part in [seed, step, row] {
        key = mix(GOLDEN.wrapping_add(key) ^ part);
    }
    key
}

/// The 64 bits of number `n` of a key.
#[inline(always)]
pub fn bits(key: u64, n: u64) -> u64 {
    mix(key.wrapping_add(GOLDEN.wrapping_mul(n)))
}

/// Number `n` of a key, evenly from 0 to below 1.
#[inline(always)]
pub fn uniform(key: u64, n: u64) -> f64 {
    (bits(key, n) >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers `2 n` and `2 n + 1` of a key, of a normal distribution (G. Box and M. Muller, 1958).
pub fn normals(key: u64, n: u64) -> [f64; 2] {
    let radius = (-2.0 * (1.0 - uniform(key, 2 * n)).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * uniform(key, 2 * n + 1)).sin_cos();
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 1 << 16;

    /// Mean, variance, and the mean of the fourth power of the deviation in units of the variance's
    /// square.
    fn moments(values: &[f64]) -> [f64; 3] {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let power = |p| values.iter().map(|x| (x - mean).powi(p)).sum::<f64>() / n;
        [mean, power(2), power(4) / power(2).powi(2)]
    }

    #[test]
    fn uniform_numbers_are_even() {
        let values: Vec<f64> = (0..COUNT).map(|n| uniform(key(1, 2, 3), n)).collect();
        assert!(values.iter().all(|x| (0.0..1.0).contains(x)));
        let [mean, variance, fourth] = moments(&values);
        assert!((mean - 0.5).abs() < 5e-3 && (variance - 1.0 / 12.0).abs() < 2e-3);
        assert!((fourth - 1.8).abs() < 0.03, "{fourth}");
        let product: f64 = values.windows(2).map(|x| (x[0] - 0.5) * (x[1] - 0.5)).sum();
        assert!((12.0 * product / COUNT as f64).abs() < 5.0 / (COUNT as f64).sqrt());
    }

    #[test]
    fn normal_numbers_are_normal_and_independent() {
        let pairs: Vec<[f64; 2]> = (0..COUNT).map(|n| normals(key(1, 2, 3), n)).collect();
        let [mean, variance, fourth] = moments(pairs.as_flattened());
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((fourth - 3.0).abs() < 0.1, "{fourth}");
        let product: f64 = pairs.iter().map(|[a, b]| a * b).sum();
        assert!((product / COUNT as f64).abs() < 5.0 / (COUNT as f64).sqrt());
    }

    #[test]
    fn keys_differ_by_each_part() {
        let mut keys = vec![];
        for seed in [0, 1, u64::MAX] {
            for step in [0, 1, 1 << 32] {
                keys.extend([0, 1, 2].map(|row| key(seed, step, row)));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 27);
    }
}
