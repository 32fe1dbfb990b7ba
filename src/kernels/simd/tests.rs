use super::*;
use crate::dispatch;
use crate::kernels::testing::{for_each_level, random};

/// Numbers of every kind, as many as fill some vectors of any instruction set.
fn numbers<T: Element>(seed: u64) -> Vec<T> {
    let special = [0.0, -0.0, 1.0, -1.5, 2.5, 3.5, -0.5, 1e30, -1e-30];
    let mut numbers: Vec<T> = special.map(T::from_f64).to_vec();
    numbers.extend([T::infinity(), T::neg_infinity(), T::nan(), T::nan()]);
    numbers.extend(random::<T>(64, seed).iter().map(|&x| x * T::from_f64(100.0)));
    numbers.rotate_left(seed as usize);
    numbers.truncate(64);
    numbers
}

fn assert_same<T: Element>(name: &str, got: &[T], expected: &[T]) {
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(g == e || g.is_nan() && e.is_nan(), "{name} {i}: got {g:?}, expected {e:?}");
    }
}

/// Every operation, lane by lane.
#[inline(always)]
fn check<T: Element, S: Simd<T>>(simd: S) {
    let (a, b) = (numbers::<T>(0), numbers::<T>(5));
    for (a, b) in a.chunks_exact(S::LANES).zip(b.chunks_exact(S::LANES)) {
        let (x, y) = (simd.load(a), simd.load(b));
        let zip = |f: fn(T, T) -> T| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect::<Vec<T>>();
        let map = |f: fn(T) -> T| a.iter().map(|&a| f(a)).collect::<Vec<T>>();
        let stored = |v: S::Vector| {
            let mut out = vec![T::zero(); S::LANES];
            simd.store(v, &mut out);
            out
        };
        let flags = |mask| stored(simd.select(mask, simd.splat(T::one()), simd.zero()));
        let flag = |is: bool| if is { T::one() } else { T::zero() };

        assert_same("add", &stored(simd.add(x, y)), &zip(|a, b| a + b));
        assert_same("sub", &stored(simd.sub(x, y)), &zip(|a, b| a - b));
        assert_same("mul", &stored(simd.mul(x, y)), &zip(|a, b| a * b));
        assert_same("div", &stored(simd.div(x, y)), &zip(|a, b| a / b));
        assert_same("sqrt", &stored(simd.sqrt(x)), &map(T::sqrt));
        assert_same("round", &stored(simd.round(x)), &map(T::round_to_even));
        assert_same("floor", &stored(simd.floor(x)), &map(T::floor));
        let bound = T::from_f64(-1.0);
        let expected: Vec<T> =
            a.iter().map(|&a| if bound < a || a.is_nan() { a } else { bound }).collect();
        assert_same("max", &stored(simd.max(simd.splat(bound), x)), &expected);
        let expected: Vec<T> =
            a.iter().map(|&a| if bound > a || a.is_nan() { a } else { bound }).collect();
        assert_same("min", &stored(simd.min(simd.splat(bound), x)), &expected);

        let (mut greater, mut or_nan, mut equal) = (Vec::new(), Vec::new(), Vec::new());
        for (a, b) in a.iter().zip(b) {
            greater.push(flag(a > b));
            or_nan.push(flag(a > b || a.is_nan()));
            equal.push(flag(a == b));
        }
        assert_same("greater", &flags(simd.greater(x, y)), &greater);
        assert_same("greater_or_nan", &flags(simd.greater_or_nan(x, y)), &or_nan);
        assert_same("equal", &flags(simd.equal(x, y)), &equal);
        let bits = greater.iter().rev().fold(0, |bits, &g| 2 * bits + u32::from(g == T::one()));
        assert_eq!(simd.bits(simd.greater(x, y)), bits);

        for n in 0..S::LANES + 2 {
            let expected: Vec<T> = (0..S::LANES).map(|i| flag(i < n)).collect();
            assert_same("first_lanes", &flags(simd.first_lanes(n)), &expected);
            assert_eq!(simd.bits(simd.first_lanes(n)), (1 << n.min(S::LANES)) - 1);
        }
        for n in 0..S::LANES {
            let mut part: Vec<T> = stored(simd.load_part(&a[..n]));
            assert_same("load_part", &part[..n], &a[..n]);
            assert!(part[n..].iter().all(|&x| x == T::zero()));
            simd.store_part(x, &mut part[..n]);
            assert_same("store_part", &part[..n], &a[..n]);
            assert!(part[n..].iter().all(|&x| x == T::zero()));
        }
    }

    // Whole numbers, whose sum has no rounding.
    let whole: Vec<T> = (0..S::LANES).map(|i| T::from_f64((7 * i % 5) as f64 - 3.0)).collect();
    let v = simd.load(&whole);
    assert_eq!(simd.sum(v), whole.iter().fold(T::zero(), |sum, &x| sum + x));
    assert_eq!(simd.largest(v), whole.iter().fold(T::neg_infinity(), |max, &x| max.max(x)));

    let exponents = if size_of::<T>() == 4 { -151..129 } else { -1076..1026 };
    for k in exponents {
        let k = T::from_f64(f64::from(k));
        for v in [1.0, -1.3, 0.7103].map(T::from_f64) {
            let scaled = simd.scale_by_power(simd.splat(v), simd.splat(k));
            assert_eq!(simd.largest(scaled), v.scale_by_power(k), "{v:?} * 2^{k:?}");
        }
        let scaled = simd.scale_by_power(simd.splat(T::nan()), simd.splat(k));
        assert!(simd.sum(scaled).is_nan());
    }
}

fn check_level<T: Element>(level: Level) {
    dispatch!(T, level, simd => {
        check::<T, _>(simd);
        check::<T, _>(Simd::<T>::narrow(simd));
    });
}

#[test]
fn every_operation_is_that_of_its_lanes() {
    for_each_level(check_level::<f32>);
    for_each_level(check_level::<f64>);
}

#[test]
fn powers_reach_every_number() {
    assert_eq!(Element::scale_by_power(1.0f32, -149.0), f32::from_bits(1));
    assert_eq!(Element::scale_by_power(1.0f32, 127.0), 2f32.powi(127));
    assert_eq!(Element::scale_by_power(0.75f32, 128.0), 0.75 * 2f32.powi(127) * 2.0);
    assert_eq!(Element::scale_by_power(1.0f32, -151.0), 0.0);
    assert_eq!(Element::scale_by_power(1.0f64, -1074.0), f64::from_bits(1));
    assert_eq!(Element::scale_by_power(1.0f64, 1023.0), 2f64.powi(1023));
    assert_eq!(Element::scale_by_power(1.0f64, 1024.0), f64::INFINITY);
}

#[test]
fn vectors_cover_a_slice_once() {
    for_each_level(|level| {
        for len in 0..40 {
            dispatch!(f32, level, simd => {
                let mut next = 0;
                for_each_vector::<f32, _>(simd, len, |at| {
                    assert!(at.start == next && at.end > at.start);
                    next = at.end;
                });
                assert_eq!(next, len);
            });
        }
    });
}

/// As many as any vector holds.
const LEN: usize = MAX_LANES;

macro_rules! define_shuffles {
    ($name:ident, $t:ty) => {
        #[test]
        fn $name() {
            fn check<S: Simd<$t>>(simd: S) {
                let lanes = |v: S::Vector| {
                    let mut lanes = [0.0; LEN];
                    simd.store(v, &mut lanes);
                    lanes[..S::LANES].to_vec()
                };
                let (a, b): (Vec<$t>, Vec<$t>) = (random(LEN, 1), random(LEN, 2));
                let zipped = simd.zip(simd.load(&a), simd.load(&b));
                let turns: Vec<_> = a.iter().zip(&b).flat_map(|(&a, &b)| [a, b]).collect();
                assert_eq!(lanes(zipped[0]), turns[..S::LANES]);
                assert_eq!(lanes(zipped[1]), turns[S::LANES..2 * S::LANES]);
                let unzipped = simd.unzip(zipped[0], zipped[1]);
                assert_eq!(lanes(unzipped[0]), a[..S::LANES]);
                assert_eq!(lanes(unzipped[1]), b[..S::LANES]);
                assert_eq!(lanes(simd.splat_pair(&a)), a[..2].repeat(S::LANES / 2));

                let here = simd.equal(simd.load(&a), simd.splat(a[1]));
                assert_eq!(simd.bits(here), 2);
                let small: Vec<$t> = (0..LEN).map(|n| n as $t).collect();
                let reversed = simd.lane_names(|lane| S::LANES - 1 - lane);
                let picked = lanes(simd.pick(simd.load(&a), reversed));
                assert!(picked.iter().eq(a[..S::LANES].iter().rev()));
                for bits in [0, 1, 0b1010, 0b11_0110_1001, u32::MAX] {
                    let taken = (0..S::LANES).filter(|lane| bits >> lane & 1 == 1);
                    let taken: Vec<$t> = taken.map(|lane| a[lane]).collect();
                    let compressed = lanes(simd.compress(simd.load(&a), bits));
                    assert_eq!(compressed[..taken.len()], taken);
                }
                for (n, m) in (0..=S::LANES / 2).flat_map(|n| [(n, S::LANES / 2), (1, n)]) {
                    let halves = lanes(simd.load_halves(&a[..n], &b[..m]));
                    let (above, below) = halves.split_at(S::LANES / 2);
                    assert!(above[..n] == a[..n] && above[n..].iter().all(|&x| x == 0.0));
                    assert!(below[..m] == b[..m] && below[m..].iter().all(|&x| x == 0.0));
                }
                let mut indices = [99; LEN];
                simd.store_indices(simd.load(&small), &mut indices);
                for n in 0..LEN {
                    assert_eq!(indices[n], if n < S::LANES { n as u32 } else { 99 });
                }
            }
            for_each_level(|level| {
                dispatch!($t, level, simd => {
                    check(simd);
                    check(<_ as Simd<$t>>::narrow(simd));
                });
            });
        }
    };
}

define_shuffles!(lanes_of_f32, f32);
define_shuffles!(lanes_of_f64, f64);
