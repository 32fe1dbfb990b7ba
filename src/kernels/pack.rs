//! Layouts that the convolutions want: images with their missing pixels, kernels with the output
//! channels in blocks.
//!
//! A packed kernel is (blocks of output channels, taps, channels of a block), the last block filled
//! up with zeros. The convolution of one block reads one contiguous piece, and every vector it
//! loads is full.

use super::shape::{ConvShape, WindowShape};
use super::simd::{Element, MAX_LANES, Simd};

/// Channels of a block: those of a cache line, which is the widest vector there is.
pub const fn block<T>() -> usize {
    64 / size_of::<T>()
}

/// Elements of a packed kernel (taps, c_out).
#[inline(always)]
pub fn packed_len<T>(taps: usize, c_out: usize) -> usize {
    c_out.next_multiple_of(block::<T>()) * taps
}

/// Packs a kernel stored (taps, c_out), i.e. (kh, kw, c_in, c_out).
#[inline(always)]
pub fn pack_taps<T: Element>(packed: &mut [T], kernel: &[T], taps: usize, c_out: usize) {
    assert_eq!(packed.len(), packed_len::<T>(taps, c_out), "packed length");
    assert_eq!(kernel.len(), taps * c_out, "kernel length");
    let block = block::<T>();
    for (b, packed) in packed.chunks_exact_mut(taps * block).enumerate() {
        let channels = block.min(c_out - b * block);
        for (packed, kernel) in packed.chunks_exact_mut(block).zip(kernel.chunks_exact(c_out)) {
            let kernel = &kernel[b * block..][..channels];
            if channels == block {
                packed.copy_from_slice(kernel);
            } else {
                packed[..channels].copy_from_slice(kernel);
                packed[channels..].fill(T::zero());
            }
        }
    }
}

/// Packs a kernel stored (c_out, taps).
#[inline(always)]
pub fn pack_filters<T: Element, S: Simd<T>>(
    simd: S,
    packed: &mut [T],
    filters: &[T],
    taps: usize,
    c_out: usize,
) {
    assert_eq!(packed.len(), packed_len::<T>(taps, c_out), "packed length");
    assert_eq!(filters.len(), taps * c_out, "filters' length");
    let block = block::<T>();
    let blocks = packed.chunks_exact_mut(taps * block).zip(filters.chunks(taps * block));
    for (packed, filters) in blocks {
        transpose(simd, packed, filters, taps);
    }
}

/// One block of a packed kernel: `out[j, i] = x[i, j]`, where `out` (columns, channels of a block)
/// is filled up with zeros and `x` is (rows, columns).
#[inline(always)]
fn transpose<T: Element, S: Simd<T>>(simd: S, out: &mut [T], x: &[T], columns: usize) {
    let block = block::<T>();
    let rows = x.len() / columns;
    for (square, out) in out.chunks_mut(S::LANES * block).enumerate() {
        let left = square * S::LANES;
        let right = columns.min(left + S::LANES);
        for top in (0..block).step_by(S::LANES) {
            let mut lines = [simd.zero(); MAX_LANES];
            for i in top..rows.min(top + S::LANES) {
                lines[i - top] = simd.load_up_to(&x[i * columns..][left..right]);
            }
            let lines = transposed(simd, lines);
            for (out, line) in out.chunks_exact_mut(block).zip(lines) {
                simd.store(line, &mut out[top..]);
            }
        }
    }
}

/// The square of the first `LANES` vectors, with its columns for its rows. To put all even lanes
/// before all odd ones is to turn the bits of a lane's number by one place; after as many turns as
/// a lane's number has bits, row and column have changed places.
#[inline(always)]
fn transposed<T: Element, S: Simd<T>>(
    simd: S,
    mut lines: [S::Vector; MAX_LANES],
) -> [S::Vector; MAX_LANES] {
    for _ in 0..S::LANES.ilog2() {
        let before = lines;
        for i in 0..S::LANES / 2 {
            [lines[i], lines[i + S::LANES / 2]] = simd.unzip(before[2 * i], before[2 * i + 1]);
        }
    }
    lines
}

/// How the taps of one axis meet the input pixels of one phase: those whose number leaves the
/// remainder `phase` when it is divided by the stride.
///
/// Input pixel `stride * q + phase` belongs to tap `phase + stride * t` of window `q - t`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// The first tap.
    pub first: usize,
    /// How many taps.
    pub taps: usize,
}

impl Phase {
    #[inline(always)]
    pub fn new(phase: usize, window: usize, stride: usize) -> Self {
        Self { first: phase, taps: window.saturating_sub(phase).div_ceil(stride) }
    }
}

/// Elements of the kernel packed for the input's gradient; see [`pack_input`].
#[inline(always)]
pub fn packed_input_len<T>(shape: &ConvShape) -> usize {
    // Every tap belongs to one phase.
    let (kh, kw) = shape.window();
    let (_, _, c_in) = shape.input();
    packed_len::<T>(kh * kw * shape.c_out(), c_in)
}

/// Packs `kernel` (kh, kw, c_in, c_out) for the gradient of the input.
///
/// The input pixels of one phase (their row and column modulo the strides) see the output's
/// gradient through every sh-th row and sw-th column of the kernel, flipped, as a convolution with
/// stride 1 from c_out to c_in channels. One packed kernel for each phase follows the other, row by
/// row.
#[inline(always)]
pub fn pack_input<T: Element, S: Simd<T>>(
    simd: S,
    packed: &mut [T],
    kernel: &[T],
    shape: &ConvShape,
) {
    assert_eq!(packed.len(), packed_input_len::<T>(shape), "packed length");
    assert_eq!(kernel.len(), shape.kernel_len(), "kernel length");
    let ((kh, kw), (sh, sw)) = (shape.window(), shape.strides());
    let (_, _, c_in) = shape.input();
    let c_out = shape.c_out();
    let block = block::<T>();
    let mut packed = packed.chunks_exact_mut(c_out * block);
    for py in 0..sh.min(kh) {
        let rows = Phase::new(py, kh, sh);
        for px in 0..sw.min(kw) {
            let columns = Phase::new(px, kw, sw);
            for c in (0..c_in).step_by(block) {
                let channels = block.min(c_in - c);
                for y in (0..rows.taps).rev().map(|t| rows.first + sh * t) {
                    for x in (0..columns.taps).rev().map(|t| columns.first + sw * t) {
                        // The kernel at one tap is (c_in, c_out).
                        let kernel = &kernel[((y * kw + x) * c_in + c) * c_out..];
                        if let Some(packed) = packed.next() {
                            transpose(simd, packed, &kernel[..channels * c_out], c_out);
                        }
                    }
                }
            }
        }
    }
}

/// Surrounds `n` images with their missing pixels, which are zeros.
///
/// `padded` (n, padded h, padded w, c), `x` (n, h, w, c).
#[inline(always)]
pub fn pad<T: Element>(padded: &mut [T], x: &[T], windows: &WindowShape, n: usize) {
    assert_eq!(Some(padded.len()), n.checked_mul(windows.padded_len()), "padded length");
    assert_eq!(Some(x.len()), n.checked_mul(windows.input_len()), "input length");
    surround(padded, x, windows.padded(), windows.input(), windows.before());
}

/// Puts images (h, w, c) into zeros (outer h, outer w, c), `above` and `left` pixels from their
/// corner.
#[inline(always)]
pub(super) fn surround<T: Element>(
    outer: &mut [T],
    x: &[T],
    (outer_h, outer_w, _): (usize, usize, usize),
    (h, w, c): (usize, usize, usize),
    (above, left): (usize, usize),
) {
    if h * w * c == 0 {
        outer.fill(T::zero());
        return;
    }
    let row = outer_w * c;
    for (outer, x) in outer.chunks_exact_mut(outer_h * row).zip(x.chunks_exact(h * w * c)) {
        let (top, rest) = outer.split_at_mut(above * row);
        let (rows, bottom) = rest.split_at_mut(h * row);
        top.fill(T::zero());
        for (outer, x) in rows.chunks_exact_mut(row).zip(x.chunks_exact(w * c)) {
            outer[..left * c].fill(T::zero());
            outer[left * c..][..w * c].copy_from_slice(x);
            outer[(left + w) * c..].fill(T::zero());
        }
        bottom.fill(T::zero());
    }
}

/// Takes the missing pixels away again.
///
/// `x` (n, h, w, c), `padded` (n, padded h, padded w, c).
#[inline(always)]
pub fn crop<T: Element>(x: &mut [T], padded: &[T], windows: &WindowShape, n: usize) {
    assert_eq!(Some(x.len()), n.checked_mul(windows.input_len()), "input length");
    assert_eq!(Some(padded.len()), n.checked_mul(windows.padded_len()), "padded length");
    let (h, w, c) = windows.input();
    let (_, padded_w, _) = windows.padded();
    let (above, left) = windows.before();
    if x.is_empty() {
        return;
    }
    let images = x.chunks_exact_mut(h * w * c).zip(padded.chunks_exact(windows.padded_len()));
    for (x, padded) in images {
        let padded = &padded[above * padded_w * c..];
        for (x, padded) in x.chunks_exact_mut(w * c).zip(padded.chunks_exact(padded_w * c)) {
            x.copy_from_slice(&padded[left * c..][..w * c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::shape::Padding;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{for_each_level, random};

    #[test]
    fn packed_kernels_are_blocks_of_channels() {
        fn case<T: Element>(level: Level, taps: usize, c_out: usize) {
            let kernel: Vec<T> = random(taps * c_out, 1);
            let mut packed = vec![T::nan(); packed_len::<T>(taps, c_out)];
            pack_taps(&mut packed, &kernel, taps, c_out);
            let block = block::<T>();
            for (i, &got) in packed.iter().enumerate() {
                let (o, tap) = (i / (taps * block) * block + i % block, i / block % taps);
                assert_eq!(got, if o < c_out { kernel[tap * c_out + o] } else { T::zero() });
            }
            let mut filters = vec![T::zero(); kernel.len()];
            for (i, filter) in filters.iter_mut().enumerate() {
                *filter = kernel[i % taps * c_out + i / taps];
            }
            let mut again = vec![T::nan(); packed.len()];
            dispatch!(T, level, simd => pack_filters(simd, &mut again, &filters, taps, c_out));
            assert_eq!(again, packed, "{level:?}, {taps} taps, {c_out} channels");
        }
        for_each_level(|level| {
            for taps in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for c_out in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                    case::<f32>(level, taps, c_out);
                    case::<f64>(level, taps, c_out);
                }
            }
        });
    }

    #[test]
    fn cropping_undoes_padding() {
        for (input, window, stride) in
            [((3, 4, 2), (3, 3), (1, 1)), ((5, 2, 1), (2, 5), (3, 1)), ((1, 1, 3), (1, 1), (1, 1))]
        {
            let windows = WindowShape::new(input, window, stride, Padding::Same).unwrap();
            let x: Vec<f64> = random(2 * windows.input_len(), 1);
            let mut padded = vec![f64::NAN; 2 * windows.padded_len()];
            pad(&mut padded, &x, &windows, 2);
            let zeros = padded.len() - x.len();
            assert_eq!(padded.iter().filter(|&&x| x == 0.0).count(), zeros);
            let mut again = vec![f64::NAN; x.len()];
            crop(&mut again, &padded, &windows, 2);
            assert_eq!(again, x);
        }
    }
}
