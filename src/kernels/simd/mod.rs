//! Vectors of `f32` and `f64` on the instruction set that the machine has.
//!
//! A kernel is written once, generic over `S: Simd<T>`, and every function below it is
//! `#[inline(always)]`. [`dispatch!`](crate::dispatch) calls it once for each instruction set,
//! inside a function that has the set's target features, so that all of it is compiled for that
//! set. This module holds the only `cfg(target_arch)`, `#[target_feature]` and intrinsics of the
//! crate.
//!
//! Why not a crate: `rten-simd` has no `f64`, and `pulp` no half-width vectors beside the full
//! ones.

use std::ops::Range;

/// Lanes of the longest vector.
pub const MAX_LANES: usize = 16;

/// What only the instruction sets of this module are, since kernels trust their `LANES`.
mod sealed {
    pub trait InstructionSet {}
}

/// Operations on vectors of `LANES` elements. A value of the type is the proof that the machine has
/// the instruction set.
pub trait Simd<T: Element>: Copy + sealed::InstructionSet {
    /// One vector register.
    type Vector: Copy;
    /// One truth value per lane.
    type Mask: Copy;
    /// The same instruction set with vectors half as wide where it has them: eight `f32` waste half
    /// of an AVX-512 register.
    type Narrow: Simd<T>;
    /// Elements in a vector.
    const LANES: usize;
    /// How many vectors a tile of sums may hold in registers with some left for its operands.
    const SUMS: usize;
    /// Whether [`load_part`](Simd::load_part) is one instruction, as [`load`](Simd::load) is.
    const MASKED_LOADS: bool;
    /// Whether a product takes an element from memory in all lanes, with no instruction to spread
    /// it.
    const BROADCASTS: bool;

    /// The proof for [`Simd::Narrow`].
    fn narrow(self) -> Self::Narrow;
    /// Runs `f` in a function of its own: the compiler finds registers for a tile's sums more
    /// reliably where nothing else is inlined around it.
    fn outlined<R>(self, f: impl FnOnce(Self) -> R) -> R;
    /// `x` in every lane.
    fn splat(self, x: T) -> Self::Vector;
    /// The first two elements in turns. Panics if there are fewer.
    fn splat_pair(self, x: &[T]) -> Self::Vector;
    /// The first `LANES` elements. Panics if there are fewer.
    fn load(self, x: &[T]) -> Self::Vector;
    /// All of `x`, at most `LANES` elements, then zeros.
    fn load_part(self, x: &[T]) -> Self::Vector;
    /// Writes the first `LANES` elements. Panics if there are fewer.
    fn store(self, v: Self::Vector, out: &mut [T]);
    /// Writes the first `out.len()` lanes, at most `LANES`.
    fn store_part(self, v: Self::Vector, out: &mut [T]);
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a / b`
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The square root.
    fn sqrt(self, v: Self::Vector) -> Self::Vector;
    /// The smaller, but `b` where `b` is NaN. Where `a` is NaN, either: a bound comes first.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger, but `b` where `b` is NaN. Where `a` is NaN, either: a bound comes first.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The nearest integer, of two the even one.
    fn round(self, v: Self::Vector) -> Self::Vector;
    /// The nearest integer that is not larger.
    fn floor(self, v: Self::Vector) -> Self::Vector;
    /// `v * 2^k` for integers `k` of at most twice the exponents of normal numbers, rounded once.
    fn scale_by_power(self, v: Self::Vector, k: Self::Vector) -> Self::Vector;
    /// `a > b`
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// `a > b`, or `a` is NaN: the comparison under which a maximum keeps NaN.
    fn greater_or_nan(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// `a == b`
    fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// `a` where the mask is set, else `b`.
    fn select(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The lanes of `a` and `b` in turns: (a0, b0, a1, b1, ...), first and second half.
    fn zip(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2];
    /// The even lanes of `a` and those of `b` behind each other, and the odd ones: undoes `zip`.
    fn unzip(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2];
    /// Writes all lanes, which hold small natural numbers, as integers; of others it makes
    /// anything. Panics if there are fewer than `LANES`.
    fn store_indices(self, v: Self::Vector, out: &mut [u32]);
    /// The mask's lanes as bits, the first one lowest.
    fn bits(self, mask: Self::Mask) -> u32;
    /// The first `n` lanes, at most `LANES`.
    fn first_lanes(self, n: usize) -> Self::Mask;
    /// The sum of all lanes, in a fixed order.
    fn sum(self, v: Self::Vector) -> T;
    /// The largest of all lanes; any of them if one is NaN.
    fn largest(self, v: Self::Vector) -> T;

    /// The elements of `above` in the first half of the lanes and those of `below` in the second,
    /// at most that many; zeros where there are fewer.
    #[inline(always)]
    fn load_halves(self, above: &[T], below: &[T]) -> Self::Vector {
        let mut lanes = [T::zero(); MAX_LANES];
        lanes[..above.len()].copy_from_slice(above);
        lanes[Self::LANES / 2..][..below.len()].copy_from_slice(below);
        self.load(&lanes)
    }

    /// For each lane the lane of `v` that `at` names, as [`lane_names`](Simd::lane_names) does.
    #[inline(always)]
    fn pick(self, v: Self::Vector, at: Self::Vector) -> Self::Vector {
        let (mut lanes, mut indices) = ([T::zero(); MAX_LANES], [0; MAX_LANES]);
        self.store(v, &mut lanes);
        let at = self.sub(at, self.splat(T::from_f64(T::FIRST_LANE)));
        self.store_indices(at, &mut indices);
        let mut picked = [T::zero(); MAX_LANES];
        for n in 0..Self::LANES {
            picked[n] = lanes[indices[n] as usize];
        }
        self.load(&picked)
    }

    /// The lanes of `v` that have a bit, the first one's lowest, one behind the other; then
    /// anything.
    #[inline(always)]
    fn compress(self, v: Self::Vector, bits: u32) -> Self::Vector {
        let (mut lanes, mut taken, mut n) = ([T::zero(); MAX_LANES], [T::zero(); MAX_LANES], 0);
        self.store(v, &mut lanes);
        for lane in 0..Self::LANES {
            taken[n] = lanes[lane];
            n += (bits >> lane & 1) as usize;
        }
        self.load(&taken)
    }

    /// `0` in every lane.
    #[inline(always)]
    fn zero(self) -> Self::Vector {
        self.splat(T::zero())
    }

    /// [`splat`](Simd::splat) of several constants. (Closures that the array's own `map` calls may
    /// stay calls.)
    #[inline(always)]
    fn constants<const N: usize>(self, x: [f64; N]) -> [Self::Vector; N] {
        let mut vectors = [self.zero(); N];
        for n in 0..N {
            vectors[n] = self.splat(T::from_f64(x[n]));
        }
        vectors
    }

    /// A natural number for each lane.
    #[inline(always)]
    fn numbers(self, number: impl Fn(usize) -> usize) -> Self::Vector {
        let mut lanes = [T::zero(); MAX_LANES];
        for n in 0..Self::LANES {
            lanes[n] = T::from_f64(number(n) as f64);
        }
        self.load(&lanes)
    }

    /// A lane for each lane, by its number and [`Element::FIRST_LANE`].
    #[inline(always)]
    fn lane_names(self, number: impl Fn(usize) -> usize) -> Self::Vector {
        let first = self.splat(T::from_f64(T::FIRST_LANE));
        self.add(self.numbers(number), first)
    }

    /// [`load`](Simd::load) for a full vector, else [`load_part`](Simd::load_part).
    #[inline(always)]
    fn load_up_to(self, x: &[T]) -> Self::Vector {
        if x.len() >= Self::LANES { self.load(x) } else { self.load_part(x) }
    }

    /// [`store`](Simd::store) for a full vector, else [`store_part`](Simd::store_part).
    #[inline(always)]
    fn store_up_to(self, v: Self::Vector, out: &mut [T]) {
        if out.len() >= Self::LANES { self.store(v, out) } else { self.store_part(v, out) }
    }
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// What begins at a cache line: a vector that crosses one takes twice as long to write or to read.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Aligned<A>(pub A);

/// Asks for so many cache lines from `p` on, wherever that is, to be in the second-level cache
/// soon, where the instruction set can: the first one is in use.
#[inline(always)]
pub fn prefetch(p: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        x86::prefetch(p.wrapping_add(line * LINE));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, lines);
}

/// As [`prefetch`], but for the first-level cache, since the lines are read next.
#[inline(always)]
pub fn prefetch_near(p: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        x86::prefetch_near(p.wrapping_add(line * LINE));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, lines);
}

/// How this thread rounds, whether it takes subnormal numbers for zeros, and the like: what another
/// thread needs to have in common with it to come to the same bits.
pub fn float_mode() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        /// Bits that say what has happened so far.
        const EVENTS: u32 = 0x3f;
        let mut mode = 0_u32;
        // SAFETY: every x86-64 has this instruction, and it writes these four bytes.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack, preserves_flags))
        };
        u64::from(mode & !EVENTS)
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mode: u64;
        // SAFETY: it reads a register that every process may read.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags))
        };
        mode
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    0
}

/// Calls `visit` for the range of each vector in a slice of `len` elements. All but the last have a
/// length that the compiler knows.
#[inline(always)]
pub fn for_each_vector<T: Element, S: Simd<T>>(
    _: S,
    len: usize,
    mut visit: impl FnMut(Range<usize>),
) {
    let mut start = 0;
    while start + S::LANES <= len {
        visit(start..start + S::LANES);
        start += S::LANES;
    }
    if start < len {
        visit(start..len);
    }
}

/// Implements [`Simd`] for one instruction set and element type from its intrinsics.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! impl_simd {
    (
        $token:ident, $narrow:ident, $t:ty, $lanes:literal, $sums:literal, $vector:ty, $mask:ty,
        broadcasts: $broadcasts:literal,
        splat: $splat:path, load: $load:path, store: $store:path,
        add: $add:path, sub: $sub:path, mul: $mul:path, div: $div:path,
        mul_add: |$fa:ident, $fb:ident, $fc:ident| $mul_add:expr,
        sqrt: $sqrt:path, min: $min:path, max: $max:path, round: $round:path, floor: $floor:path,
        scale_by_power: $scale_by_power:path,
        load_part: |$lp:ident, $ln:ident| $load_part:expr,
        store_part: |$sp:ident, $sn:ident, $sv:ident| $store_part:expr,
        greater: $greater:path,
        greater_or_nan: |$ga:ident, $gb:ident| $greater_or_nan:expr,
        equal: $equal:path,
        select: |$cm:ident, $ca:ident, $cb:ident| $select:expr,
        splat_pair: |$pp:ident| $splat_pair:expr,
        zip: |$za:ident, $zb:ident| $zip:expr,
        unzip: |$ua:ident, $ub:ident| $unzip:expr,
        store_indices: |$ip:ident, $iv:ident| $store_indices:expr,
        bits: |$bm:ident| $bits:expr,
        first_lanes: |$n:ident| $first_lanes:expr,
        sum: $sum:path, largest: $largest:path,
        $(compress: |$cv:ident, $cbits:ident| $compress:expr,)?
        $(load_halves: |$hp:ident, $hn:ident, $hq:ident, $hm:ident| $load_halves:expr,
        pick: |$kv:ident, $kat:ident| $pick:expr $(,)?)?
    ) => {
        // SAFETY (of every block below): a `$token` comes from its `detect` alone, or as `narrow`
        // from one that does, so the machine has the features; and each access through a pointer is
        // inside the slice whose length was checked on the line before, or masked out.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Simd<$t> for $token {
            type Vector = $vector;
            type Mask = $mask;
            type Narrow = $narrow;
            const LANES: usize = $lanes;
            const SUMS: usize = $sums;
            const MASKED_LOADS: bool = cfg!(target_arch = "x86_64");
            const BROADCASTS: bool = $broadcasts;

            #[inline(always)]
            fn narrow(self) -> $narrow {
                $narrow(self.0)
            }
            #[inline(always)]
            fn outlined<R>(self, f: impl FnOnce(Self) -> R) -> R {
                self.outline(f)
            }
            #[inline(always)]
            fn splat(self, x: $t) -> $vector {
                unsafe { $splat(x) }
            }
            #[inline(always)]
            fn splat_pair(self, x: &[$t]) -> $vector {
                let $pp = x[..2].as_ptr();
                unsafe { $splat_pair }
            }
            #[inline(always)]
            fn load(self, x: &[$t]) -> $vector {
                let x = &x[..$lanes];
                unsafe { $load(x.as_ptr()) }
            }
            #[inline(always)]
            fn load_part(self, x: &[$t]) -> $vector {
                let ($lp, $ln) = (x.as_ptr(), x.len().min($lanes));
                unsafe { $load_part }
            }
            #[inline(always)]
            fn store(self, v: $vector, out: &mut [$t]) {
                let out = &mut out[..$lanes];
                unsafe { $store(out.as_mut_ptr(), v) }
            }
            #[inline(always)]
            fn store_part(self, $sv: $vector, out: &mut [$t]) {
                let ($sp, $sn) = (out.as_mut_ptr(), out.len().min($lanes));
                unsafe { $store_part }
            }
            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                unsafe { $sub(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                unsafe { $mul(a, b) }
            }
            #[inline(always)]
            fn div(self, a: $vector, b: $vector) -> $vector {
                unsafe { $div(a, b) }
            }
            #[inline(always)]
            fn min(self, a: $vector, b: $vector) -> $vector {
                unsafe { $min(a, b) }
            }
            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                unsafe { $max(a, b) }
            }
            #[inline(always)]
            fn sqrt(self, v: $vector) -> $vector {
                unsafe { $sqrt(v) }
            }
            #[inline(always)]
            fn round(self, v: $vector) -> $vector {
                unsafe { $round(v) }
            }
            #[inline(always)]
            fn floor(self, v: $vector) -> $vector {
                unsafe { $floor(v) }
            }
            #[inline(always)]
            fn scale_by_power(self, v: $vector, k: $vector) -> $vector {
                unsafe { $scale_by_power(v, k) }
            }
            #[inline(always)]
            fn mul_add(self, $fa: $vector, $fb: $vector, $fc: $vector) -> $vector {
                unsafe { $mul_add }
            }
            #[inline(always)]
            fn greater(self, a: $vector, b: $vector) -> $mask {
                unsafe { $greater(a, b) }
            }
            #[inline(always)]
            fn greater_or_nan(self, $ga: $vector, $gb: $vector) -> $mask {
                unsafe { $greater_or_nan }
            }
            #[inline(always)]
            fn equal(self, a: $vector, b: $vector) -> $mask {
                unsafe { $equal(a, b) }
            }
            #[inline(always)]
            fn select(self, $cm: $mask, $ca: $vector, $cb: $vector) -> $vector {
                unsafe { $select }
            }
            #[inline(always)]
            fn zip(self, $za: $vector, $zb: $vector) -> [$vector; 2] {
                unsafe { $zip }
            }
            #[inline(always)]
            fn unzip(self, $ua: $vector, $ub: $vector) -> [$vector; 2] {
                unsafe { $unzip }
            }
            #[inline(always)]
            fn store_indices(self, $iv: $vector, out: &mut [u32]) {
                let $ip = out[..$lanes].as_mut_ptr();
                unsafe { $store_indices }
            }
            #[inline(always)]
            #[allow(unused_unsafe)] // where a mask is a number
            fn bits(self, $bm: $mask) -> u32 {
                unsafe { $bits }
            }
            #[inline(always)]
            fn first_lanes(self, $n: usize) -> $mask {
                let $n = $n.min($lanes);
                #[allow(unused_unsafe)] // a mask register's bits are plain arithmetic
                unsafe {
                    $first_lanes
                }
            }
            #[inline(always)]
            fn sum(self, v: $vector) -> $t {
                unsafe { $sum(v) }
            }
            #[inline(always)]
            fn largest(self, v: $vector) -> $t {
                unsafe { $largest(v) }
            }
            $(
                #[inline(always)]
                fn load_halves(self, above: &[$t], below: &[$t]) -> $vector {
                    let ($hp, $hn) = (above.as_ptr(), above.len().min($lanes / 2));
                    let ($hq, $hm) = (below.as_ptr(), below.len().min($lanes / 2));
                    unsafe { $load_halves }
                }
                #[inline(always)]
                fn pick(self, $kv: $vector, $kat: $vector) -> $vector {
                    unsafe { $pick }
                }
            )?
            $(
                #[inline(always)]
                fn compress(self, $cv: $vector, $cbits: u32) -> $vector {
                    unsafe { $compress }
                }
            )?
        }
    };
}

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

mod element;
mod level;
pub mod math;
mod scalar;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "aarch64")]
pub use arm::Neon;
pub use element::Element;
pub use level::{Level, level, select};
pub use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// `for_channels!(simd, T, S, channels => expression)`: evaluates the expression with `simd` as it
/// is or, where one narrow vector holds all the channels, narrow.
macro_rules! for_channels {
    ($simd:ident, $t:ty, $s:ty, $channels:expr => $body:expr) => {{
        const fn narrow<T: Element, S: Simd<T>>() -> usize {
            if S::Narrow::LANES < S::LANES { S::Narrow::LANES } else { 0 }
        }
        if $channels <= narrow::<$t, $s>() {
            let $simd = $simd.narrow();
            $body
        } else {
            $body
        }
    }};
}
pub(crate) use for_channels;

/// `unrolled!(n, i => statement)`: the statement for each `i` below the constant `n`, which is 8 at
/// most. Where the compiler would leave a loop, arrays of vectors that it indexes stay in memory,
/// and are cleared, read and written there, around the loops before it too.
macro_rules! unrolled {
    ($n:expr, $i:ident => $body:expr) => {{
        const { assert!($n <= 8, "there are eight statements below") };
        $crate::kernels::simd::unrolled!(@each $n, $i => $body, 0 1 2 3 4 5 6 7);
    }};
    (@each $n:expr, $i:ident => $body:expr, $($at:literal)+) => {
        $(
            if $at < $n {
                const $i: usize = $at;
                $body;
            }
        )+
    };
}
pub(crate) use unrolled;

/// `dispatch!(T, level, simd => expression)`: evaluates the expression compiled for the level's
/// instruction set, with `simd` bound to its [`Simd<T>`](crate::kernels::simd::Simd) token.
#[macro_export]
macro_rules! dispatch {
    ($t:ty, $level:expr, $simd:ident => $body:expr) => {
        match $level {
            $crate::kernels::simd::Level::Scalar($simd) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::simd::Level::Neon(token) => token.call(
                #[inline(always)]
                |token| {
                    let $simd = <$t as $crate::kernels::simd::Element>::Neon::from(token);
                    $body
                },
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::simd::Level::Avx2(token) => token.call(
                #[inline(always)]
                |token| {
                    let $simd = <$t as $crate::kernels::simd::Element>::Avx2::from(token);
                    $body
                },
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::simd::Level::Avx512(token) => token.call(
                #[inline(always)]
                |token| {
                    let $simd = <$t as $crate::kernels::simd::Element>::Avx512::from(token);
                    $body
                },
            ),
        }
    };
}
