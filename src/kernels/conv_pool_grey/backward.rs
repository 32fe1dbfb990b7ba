//! The gradient of the kernel.

use std::ops::Range;

use super::patches::{Patch, Patches, columns};
use crate::kernels::ahead::Ahead;
use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Element, Simd};

/// `d_kernel[y, x, 0, o] = sum over images and windows of image[p + (y, x)] * d_out[i, j, o]`,
/// where `p` is the position of the window's maximum. `d_out` is the gradient before ReLU.
///
/// `d_kernel` (k, k, 1, c_out), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, h, w)
/// with its padding; for shapes that are [supported](super::supports).
#[inline(always)]
pub fn grey_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    ahead: &Ahead,
    shape: &ConvPoolShape,
    n: usize,
) {
    assert!(super::supports(shape), "a supported shape");
    shape.check(d_out, argmax, x, d_kernel, n);
    let c_out = shape.conv().c_out();
    let (_, windows, _) = shape.pool().output();
    let gradient = Gradient { d_out, argmax, c_out, windows, ahead };
    ahead.divide(d_out.len() / (windows * c_out));
    for_window!(shape, K => for o in (0..c_out).step_by(S::LANES) {
        // Half a vector of channels takes half the time.
        if c_out - o <= <S::Narrow as Simd<T>>::LANES && fit::<T, S::Narrow>(K, 1) {
            set_channels::<T, S::Narrow, K>(simd.narrow(), d_kernel, &gradient, x, shape, o);
        } else {
            set_channels::<T, S, K>(simd, d_kernel, &gradient, x, shape, o);
        }
    });
}

/// Whether a vector holds two rows of what so many windows beside each other see.
#[inline(always)]
fn fit<T: Element, S: Simd<T>>(k: usize, windows: usize) -> bool {
    columns(k, windows) <= S::LANES / 2
}

/// A vector of channels, from `o` on.
#[inline(always)]
fn set_channels<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_kernel: &mut [T],
    gradient: &Gradient<T>,
    x: &[T],
    shape: &ConvPoolShape,
    o: usize,
) {
    let c_out = gradient.c_out;
    let channels = o..c_out.min(o + S::LANES);
    let patches = Patches::<T, K>::new(x, shape);
    // Where `grey_backward_kernel` takes half a vector instead, this drops the code.
    let not_halved = !fit::<T, S::Narrow>(K, 1);
    let sums = if not_halved && fit::<T, S>(K, 2) && 2 * c_out <= S::LANES {
        pick_two(simd, gradient, patches)
    } else if fit::<T, S>(K, 1) {
        pick(simd, gradient, patches, channels.clone())
    } else {
        select(simd, gradient, patches, channels.clone())
    };
    for y in 0..K {
        for x in 0..K {
            let d_kernel = &mut d_kernel[(y * K + x) * c_out..][channels.clone()];
            simd.store_up_to(sums[y][x], d_kernel);
        }
    }
}

/// What comes from above.
struct Gradient<'a, T> {
    d_out: &'a [T],
    argmax: &'a [T],
    c_out: usize,
    /// Windows in a row.
    windows: usize,
    ahead: &'a Ahead<'a>,
}

/// For vectors that hold two rows of a patch: each lane picks the pixel that its maximum met, so
/// that a tap takes one product for all four positions.
#[inline(always)]
fn pick<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    gradient: &Gradient<T>,
    mut patches: Patches<T, K>,
    channels: Range<usize>,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    let windows = |x| <[T]>::chunks_exact(x, gradient.c_out);
    for (d_out, argmax) in windows(gradient.d_out).zip(windows(gradient.argmax)) {
        let d = simd.load_up_to(&d_out[channels.clone()]);
        let at = in_rows(simd, simd.load_up_to(&argmax[channels.clone()]));
        add_picked(simd, &mut sums, patches.take_beside::<1>(), at, d);
    }
    sums
}

/// As [`pick`], for two windows beside each other in a vector: that of the second one's channels
/// lies behind the first one's, as in memory. At most half a vector of channels.
#[inline(always)]
fn pick_two<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    gradient: &Gradient<T>,
    mut patches: Patches<T, K>,
) -> [[S::Vector; K]; K] {
    let &Gradient { d_out, argmax, c_out, windows, ahead } = gradient;
    let second = simd.numbers(|lane| if lane < c_out { 0 } else { POOL });
    let mut sums = [[simd.zero(); K]; K];
    let rows = |x| <[T]>::chunks_exact(x, windows * c_out);
    for (d_out, argmax) in rows(d_out).zip(rows(argmax)) {
        ahead.ask();
        let pairs = |x| <[T]>::chunks(x, 2 * c_out);
        for (d_out, argmax) in pairs(d_out).zip(pairs(argmax)) {
            let (d, at) = (simd.load_up_to(d_out), simd.load_up_to(argmax));
            let at = simd.add(in_rows(simd, at), second);
            if d_out.len() > c_out {
                add_picked(simd, &mut sums, patches.take_beside::<2>(), at, d);
            } else {
                add_picked(simd, &mut sums, patches.take_beside::<1>(), at, d);
            }
        }
    }
    let second = simd.lane_names(|lane| (lane + c_out).min(S::LANES - 1));
    for y in 0..K {
        for x in 0..K {
            sums[y][x] = simd.add(sums[y][x], simd.pick(sums[y][x], second));
        }
    }
    sums
}

/// The lanes of a window's positions in a vector that holds a row of pixels and, in its second half,
/// the one below.
#[inline(always)]
pub fn in_rows<T: Element, S: Simd<T>>(simd: S, at: S::Vector) -> S::Vector {
    let [last_above, first, down] =
        simd.constants([(POOL - 1) as f64, T::FIRST_LANE, (S::LANES / 2 - POOL) as f64]);
    let lane = simd.add(at, first);
    simd.select(simd.greater(at, last_above), simd.add(lane, down), lane)
}

/// Adds the products of the gradients `d` and the pixels that their positions meet, whose lanes `at`
/// are those of [`in_rows`].
#[inline(always)]
pub fn add_picked<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    patch: Patch<T, K, W>,
    at: S::Vector,
    d: S::Vector,
) {
    for y in 0..K {
        let rows = simd.load_halves(patch.row(y), patch.row(y + 1));
        for x in 0..K {
            let at = if x == 0 { at } else { simd.add(at, simd.splat(T::from_f64(x as f64))) };
            let pixels = simd.pick(rows, at);
            sums[y][x] = simd.mul_add(pixels, d, sums[y][x]);
        }
    }
}

/// For short vectors: every pixel meets the gradients of all positions. Multiplying by the zeros at
/// three of them is faster than skipping them.
#[inline(always)]
fn select<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    gradient: &Gradient<T>,
    mut patches: Patches<T, K>,
    channels: Range<usize>,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    let windows = |x| <[T]>::chunks_exact(x, gradient.c_out);
    for (d_out, argmax) in windows(gradient.d_out).zip(windows(gradient.argmax)) {
        let patch = patches.take_beside::<1>();
        let at = simd.load_up_to(&argmax[channels.clone()]);
        let mut d = [simd.load_up_to(&d_out[channels.clone()]); POSITIONS];
        for n in 0..POSITIONS {
            let here = simd.equal(at, simd.splat(T::from_f64(n as f64)));
            d[n] = simd.select(here, d[n], simd.zero());
        }
        // One by one, since the sums are registers only if no loop chooses among them.
        add_row::<T, S, K, 0>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 1>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 2>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 3>(simd, &mut sums, patch, &d);
        if K == 5 {
            add_row::<T, S, K, 4>(simd, &mut sums, patch, &d);
            add_row::<T, S, K, 5>(simd, &mut sums, patch, &d);
        }
    }
    sums
}

/// Adds the products of the pixels in row `Y` and the gradients `d` at the positions. Each pixel is
/// broadcast once, for all the positions that it meets.
#[inline(always)]
fn add_row<T: Element, S: Simd<T>, const K: usize, const Y: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    patch: Patch<T, K, 1>,
    d: &[S::Vector; POSITIONS],
) {
    for x in 0..POOL + K - 1 {
        let pixel = simd.splat(patch.pixel(Y, x));
        for n in 0..POSITIONS {
            let (dy, dx) = (n / POOL, n % POOL);
            if (dy..dy + K).contains(&Y) && (dx..dx + K).contains(&x) {
                let sum = &mut sums[Y - dy][x - dx];
                *sum = simd.mul_add(pixel, d[n], *sum);
            }
        }
    }
}
