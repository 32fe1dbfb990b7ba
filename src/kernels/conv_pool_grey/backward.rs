//! The gradient of the kernel.

use super::patches::{Patch, Patches};
use super::{POSITIONS, check};
use crate::kernels::shape::{ConvPoolShape, POOL};
use crate::kernels::simd::{Element, Simd};
use std::ops::Range;

/// `d_kernel[y, x, 0, o] = sum over images and windows of image[p + (y, x)] * d_out[i, j, o]`, where `p`
/// is the position of the window's maximum. `d_out` is the gradient before ReLU.
///
/// `d_kernel` (k, k, 1, c_out), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, h, w) with its
/// padding; for shapes that are [supported](super::supports).
#[inline(always)]
pub fn grey_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    check(d_out, argmax, x, d_kernel, shape, n);
    let c_out = shape.conv().c_out();
    for_window!(shape, K => for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let patches = Patches::<T, K>::new(x, shape);
        let sums = if end - o <= S::LANES / 2 {
            backward_pairs(simd, d_out, argmax, patches, o..end, c_out)
        } else {
            backward_vectors(simd, d_out, argmax, patches, o..end, c_out)
        };
        for y in 0..K {
            for x in 0..K {
                simd.store_up_to(sums[y][x], &mut d_kernel[(y * K + x) * c_out..][o..end]);
            }
        }
    });
}

#[inline(always)]
fn backward_vectors<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_out: &[T],
    argmax: &[T],
    mut patches: Patches<T, K>,
    channels: Range<usize>,
    c_out: usize,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    for (d_out, argmax) in d_out.chunks_exact(c_out).zip(argmax.chunks_exact(c_out)) {
        let [patch] = patches.take::<1>();
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
    patch: Patch<T, K>,
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

/// For half a vector of channels at most, each with two neighbouring lanes as in `forward_pairs`: what the
/// two columns of the windows contribute is summed apart.
#[inline(always)]
fn backward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_out: &[T],
    argmax: &[T],
    mut patches: Patches<T, K>,
    channels: Range<usize>,
    c_out: usize,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    let mut window = 0;
    let windows = d_out.len() / c_out;
    // Two windows whose channels together are one vector in memory, if there are registers for both.
    while K == 3 && c_out == S::LANES / 2 && window + 2 <= windows {
        let (d, at) = (simd.load(&d_out[window * c_out..]), simd.load(&argmax[window * c_out..]));
        let (d, at) = (simd.zip(d, d), simd.zip(at, at));
        let d = [row_gradients(simd, d[0], at[0]), row_gradients(simd, d[1], at[1])];
        add_pairs(simd, &mut sums, &mut patches, &d);
        window += 2;
    }
    while window < windows {
        let channels = window * c_out + channels.start..window * c_out + channels.end;
        let (d, at) =
            (simd.load_up_to(&d_out[channels.clone()]), simd.load_up_to(&argmax[channels]));
        let d = [row_gradients(simd, simd.zip(d, d)[0], simd.zip(at, at)[0])];
        add_pairs(simd, &mut sums, &mut patches, &d);
        window += 1;
    }
    for y in 0..K {
        for x in 0..K {
            let [left, right] = simd.unzip(sums[y][x], sums[y][x]);
            sums[y][x] = simd.add(left, right);
        }
    }
    sums
}

/// The gradients `d` where a row of the window has its maximum, for both rows.
#[inline(always)]
fn row_gradients<T: Element, S: Simd<T>>(
    simd: S,
    d: S::Vector,
    at: S::Vector,
) -> [S::Vector; POOL] {
    let mut rows = [d; POOL];
    for dy in 0..POOL {
        let (left, right) = (POOL * dy, POOL * dy + 1);
        let here = simd.splat_pair(&[T::from_f64(left as f64), T::from_f64(right as f64)]);
        rows[dy] = simd.select(simd.equal(at, here), d, simd.zero());
    }
    rows
}

/// Adds the products of the next windows' pixels and their gradients `d` (windows, rows).
#[inline(always)]
fn add_pairs<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    patches: &mut Patches<T, K>,
    d: &[[S::Vector; POOL]; W],
) {
    let patches = patches.take::<W>();
    for y in 0..POOL + K - 1 {
        for x in 0..K {
            for window in 0..W {
                let pair = simd.splat_pair(patches[window].pair(y, x));
                for dy in 0..POOL {
                    if (dy..dy + K).contains(&y) {
                        let sum = &mut sums[y - dy][x];
                        *sum = simd.mul_add(pair, d[window][dy], *sum);
                    }
                }
            }
        }
    }
}
