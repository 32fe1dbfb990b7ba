//! No vector instructions.

use super::sealed::InstructionSet;
use super::{Element, Simd};

/// Plain loops over four elements: every machine, and what the compiler makes of it. What takes many
/// instructions for each lane is a function of its own: inlined everywhere, it would make a good part
/// of the library's size, and not be faster.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

const SCALAR_LANES: usize = 4;

impl InstructionSet for Scalar {}

impl<T: Element> Simd<T> for Scalar {
    type Vector = [T; SCALAR_LANES];
    type Mask = [bool; SCALAR_LANES];
    type Narrow = Self;
    const LANES: usize = SCALAR_LANES;
    const MASKED_LOADS: bool = false;
    const BROADCASTS: bool = false;
    const SUMS: usize = 8;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }
    #[inline(never)]
    fn outlined<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }
    #[inline(always)]
    fn splat(self, x: T) -> Self::Vector {
        [x; SCALAR_LANES]
    }
    #[inline(always)]
    fn load(self, x: &[T]) -> Self::Vector {
        std::array::from_fn(|i| x[i])
    }
    #[inline(never)]
    fn load_part(self, x: &[T]) -> Self::Vector {
        std::array::from_fn(|i| x.get(i).copied().unwrap_or_default())
    }
    #[inline(always)]
    fn store(self, v: Self::Vector, out: &mut [T]) {
        out[..SCALAR_LANES].copy_from_slice(&v);
    }
    #[inline(never)]
    fn store_part(self, v: Self::Vector, out: &mut [T]) {
        out.copy_from_slice(&v[..out.len()]);
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] * b[i])
    }
    /// Rounded twice: without the instruction, a fused product is a slow library call.
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn sqrt(self, v: Self::Vector) -> Self::Vector {
        v.map(T::sqrt)
    }
    #[inline(always)]
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(never)]
    fn round(self, v: Self::Vector) -> Self::Vector {
        v.map(T::round_to_even)
    }
    #[inline(never)]
    fn floor(self, v: Self::Vector) -> Self::Vector {
        v.map(T::floor)
    }
    #[inline(never)]
    fn scale_by_power(self, v: Self::Vector, k: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| v[i].scale_by_power(k[i]))
    }
    #[inline(always)]
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
        std::array::from_fn(|i| a[i] > b[i])
    }
    #[inline(always)]
    fn greater_or_nan(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
        std::array::from_fn(|i| a[i] > b[i] || a[i].is_nan())
    }
    #[inline(always)]
    fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
        std::array::from_fn(|i| a[i] == b[i])
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn splat_pair(self, x: &[T]) -> Self::Vector {
        [x[0], x[1], x[0], x[1]]
    }
    #[inline(always)]
    fn zip(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2] {
        [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
    }
    #[inline(always)]
    fn unzip(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2] {
        [[a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]]
    }
    #[inline(always)]
    fn store_indices(self, v: Self::Vector, out: &mut [u32]) {
        out[..SCALAR_LANES].copy_from_slice(&v.map(|x| x.to_f64() as u32));
    }
    #[inline(always)]
    fn bits(self, mask: Self::Mask) -> u32 {
        mask.iter().rev().fold(0, |bits, &set| bits << 1 | u32::from(set))
    }
    #[inline(always)]
    fn first_lanes(self, n: usize) -> Self::Mask {
        std::array::from_fn(|i| i < n)
    }
    #[inline(never)]
    fn sum(self, v: Self::Vector) -> T {
        (v[0] + v[1]) + (v[2] + v[3])
    }
    #[inline(always)]
    fn largest(self, v: Self::Vector) -> T {
        v[0].max(v[1]).max(v[2].max(v[3]))
    }
}
