//! The gradients of a convolution: of its kernel, of its bias, and of its input.

use super::conv::{Plain, window_steps};
use super::dense::{part, part_mut};
use super::pack::{Phase, packed_input_len, packed_len, surround};
use super::shape::ConvShape;
use super::simd::{Element, Simd, for_channels, unrolled};
use super::tile::{Taps, convolve};
use super::walk::{Lattice, Pixels, Place};

/// Taps and vectors of the tile that fills 32 registers.
const TILE_TAPS: usize = 12;
const VECTORS: usize = 2;

/// Taps of the tile for what is left, and of the one that fills 16 registers.
const FEW_TAPS: usize = 4;

/// Taps of the tile of one vector that fills 16 registers.
const SOME_TAPS: usize = 8;

/// The side of the window whose taps make one tile: a 3x3 kernel on one channel, the first layer of
/// most networks.
const SIDE: usize = 3;

/// `d_kernel[y, x, c, o] = sum over images, i, j of x[sh * i + y, sw * j + x, c] * d_out[i, j, o]`
///
/// `d_kernel` (kh, kw, c_in, c_out), `d_out` (n, out_h, out_w, c_out), `x` (n, padded h, padded w,
/// c_in).
#[inline(always)]
pub fn conv_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &ConvShape,
    n: usize,
) {
    backward_kernel(simd, d_kernel, d_out, x, shape, n, false);
}

/// [`conv_backward_kernel`], which sets `d_kernel`, or adds to it.
#[inline(always)]
pub(super) fn backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &ConvShape,
    n: usize,
    adds: bool,
) {
    assert_eq!(d_kernel.len(), shape.kernel_len(), "kernel gradient length");
    assert_eq!(Some(d_out.len()), n.checked_mul(shape.output_len()), "output gradient length");
    assert_eq!(Some(x.len()), n.checked_mul(shape.padded_len()), "input length");
    let (out_h, out_w, c_out) = shape.output();
    let taps = Taps::of(shape);
    let pixels = Pixels::new(
        [n, out_h, out_w],
        Lattice { start: 0, steps: window_steps(shape) },
        Lattice::packed(shape.output()),
    );
    let Some(last) = pixels.last() else {
        if !adds {
            d_kernel.fill(T::zero());
        }
        return;
    };
    assert!(last.from + taps.reach() <= x.len(), "the last window ends inside the input");
    assert!(last.to + c_out <= d_out.len(), "the last pixel lies inside the output");
    let block = Block { d_kernel, d_out, x, taps, pixels, c_out, adds, o: 0 };
    simd.outlined(
        #[inline(always)]
        |simd| {
            // SAFETY: the two assertions above.
            for_channels!(simd, T, S, c_out => unsafe { backward_blocks(simd, block) });
        },
    );
}

/// The gradient of the kernel.
struct Block<'a, T> {
    d_kernel: &'a mut [T],
    d_out: &'a [T],
    x: &'a [T],
    taps: Taps,
    /// From the input's windows to the output.
    pixels: Pixels,
    c_out: usize,
    /// Whether the sums are added to what is there.
    adds: bool,
    /// The first of the channels that are left.
    o: usize,
}

/// # Safety
/// As for [`Block::run`].
#[inline(always)]
unsafe fn backward_blocks<T: Element, S: Simd<T>>(simd: S, mut block: Block<T>) {
    let large = S::SUMS >= TILE_TAPS * VECTORS;
    let side = (block.taps.rows, block.taps.run) == (SIDE, SIDE);
    // SAFETY: the caller's promise.
    unsafe {
        match (large, side) {
            (true, true) => block.run::<S, { SIDE * SIDE }, VECTORS>(simd),
            (true, false) => block.run::<S, TILE_TAPS, VECTORS>(simd),
            (false, true) => {}
            (false, false) => block.run::<S, FEW_TAPS, VECTORS>(simd),
        }
        match (large, side) {
            (_, true) => block.run::<S, { SIDE * SIDE }, 1>(simd),
            (true, false) => block.run::<S, TILE_TAPS, 1>(simd),
            (false, false) => block.run::<S, SOME_TAPS, 1>(simd),
        }
    }
}

impl<T: Element> Block<'_, T> {
    /// The next channels, `V` vectors at once as long as more than `V - 1` are left: `E` taps and
    /// then `FEW_TAPS`. Of some taps all channels before the next taps, so that a large gradient,
    /// which no cache holds, is written row by row.
    ///
    /// # Safety
    /// At each of the pixels, `taps` lie inside `x`, and `c_out` elements inside `d_out`.
    #[inline(always)]
    unsafe fn run<S: Simd<T>, const E: usize, const V: usize>(&mut self, simd: S) {
        let left = (self.c_out - self.o).saturating_sub((V - 1) * S::LANES);
        if left == 0 {
            return;
        }
        let (first, vectors) = (self.o, V * S::LANES);
        let end = first + left.next_multiple_of(vectors);
        simd.outlined(
            #[inline(always)]
            |simd| {
                let Taps { rows, run, step } = self.taps;
                if E == SIDE * SIDE {
                    let mut taps = [Place::default(); E];
                    for (e, tap) in taps.iter_mut().enumerate() {
                        *tap = Place { from: e / SIDE * step + e % SIDE, to: e * self.c_out };
                    }
                    for o in (first..end).step_by(vectors) {
                        // SAFETY: the caller's promise, and so many vectors are left.
                        unsafe { self.tile::<S, E, V>(simd, &taps, o) };
                    }
                    return;
                }
                let taps = Pixels::new(
                    [1, rows, run],
                    Lattice { start: 0, steps: [0, step, 1] },
                    Lattice::packed((rows, run, self.c_out)),
                );
                let mut walk = taps.walk();
                // With one vector, the small tile takes as long as the large one for want of sums.
                let few = if V > 1 { E - FEW_TAPS } else { FEW_TAPS };
                while walk.left() > 0 {
                    if FEW_TAPS < E && walk.left() <= few {
                        let mut taps = [Place::default(); FEW_TAPS];
                        walk.take(&mut taps);
                        for o in (first..end).step_by(vectors) {
                            // SAFETY: as above, and the walk is over the taps.
                            unsafe { self.tile::<S, FEW_TAPS, V>(simd, &taps, o) };
                        }
                    } else {
                        let mut taps = [Place::default(); E];
                        walk.take(&mut taps);
                        for o in (first..end).step_by(vectors) {
                            // SAFETY: as above.
                            unsafe { self.tile::<S, E, V>(simd, &taps, o) };
                        }
                    }
                }
            },
        );
        self.o = end.min(self.c_out);
    }

    /// The gradient of some taps, from their places in a window to those in the kernel, for `V`
    /// vectors from `o`.
    ///
    /// # Safety
    /// As for [`run`](Self::run), and more than `V - 1` vectors are left.
    #[inline(always)]
    unsafe fn tile<S: Simd<T>, const E: usize, const V: usize>(
        &mut self,
        simd: S,
        taps: &[Place; E],
        o: usize,
    ) {
        let last = self.c_out - o - (V - 1) * S::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            if last >= S::LANES {
                self.lanes::<S, E, V>(simd, taps, o, S::LANES);
            } else {
                self.lanes::<S, E, V>(simd, taps, o, last);
            }
        }
    }

    /// The same for all lanes of the vectors but the last, which has the first `last` only.
    ///
    /// # Safety
    /// As for [`run`](Self::run), and there are so many channels.
    #[inline(always)]
    unsafe fn lanes<S: Simd<T>, const E: usize, const V: usize>(
        &mut self,
        simd: S,
        taps: &[Place; E],
        o: usize,
        last: usize,
    ) {
        // SAFETY: the caller's promise.
        let mut sums = unsafe { self.sums::<S, E, V>(simd, taps, o, last) };
        unrolled!(V, N => {
            let lanes = if N + 1 < V { S::LANES } else { last };
            let at = |e: usize| taps[e].to + o + N * S::LANES;
            if self.adds {
                // All before the first store, since the last tap may be there several times.
                for e in 0..E {
                    // SAFETY: the caller's promise.
                    let d_kernel = unsafe { part(self.d_kernel, at(e), lanes) };
                    sums[N][e] = simd.add(simd.load_up_to(d_kernel), sums[N][e]);
                }
            }
            for e in 0..E {
                // SAFETY: as above.
                let d_kernel = unsafe { part_mut(self.d_kernel, at(e), lanes) };
                simd.store_up_to(sums[N][e], d_kernel);
            }
        });
    }

    /// `sums[v][e] = sum over the pixels of x[pixel, e] * d_out[pixel, v]`
    ///
    /// # Safety
    /// As for [`lanes`](Self::lanes).
    #[inline(always)]
    unsafe fn sums<S: Simd<T>, const E: usize, const V: usize>(
        &self,
        simd: S,
        taps: &[Place; E],
        o: usize,
        last: usize,
    ) -> [[S::Vector; E]; V] {
        let [images, rows, columns] = self.pixels.counts();
        let [image_step, row_step, step] = self.pixels.steps();
        let first = self.pixels.first();
        let mut sums = [[simd.zero(); E]; V];
        for image in 0..images {
            for row in 0..rows {
                let mut x = first.from + image * image_step.from + row * row_step.from;
                let mut d = first.to + image * image_step.to + row * row_step.to + o;
                for _ in 0..columns {
                    let mut d_out = [simd.zero(); V];
                    for v in 0..V {
                        let lanes = if v + 1 < V { S::LANES } else { last };
                        let at = d + v * S::LANES;
                        // SAFETY: the caller's promise.
                        let d = unsafe { self.d_out.get_unchecked(at..at + lanes) };
                        d_out[v] = simd.load_up_to(d);
                    }
                    for e in 0..E {
                        // SAFETY: the caller's promise.
                        let x = simd.splat(unsafe { *self.x.get_unchecked(x + taps[e].from) });
                        for v in 0..V {
                            sums[v][e] = simd.mul_add(x, d_out[v], sums[v][e]);
                        }
                    }
                    x += step.from;
                    d += step.to;
                }
            }
        }
        sums
    }
}

/// Rows that [`sum_rows`] adds up side by side, and vectors of each: together they cover two
/// additions a cycle at a latency of four.
const ROWS: usize = 4;
const ROW_VECTORS: usize = 2;

/// Fewest groups of rows that [`sum_rows`] adds up before the next ones begin anew.
const SHORTEST_RUN: usize = 64;

/// `out[c] = sum over rows of x[row, c]`: the gradient of a bias.
///
/// `out` (c,), `x` (rows, c).
#[inline(always)]
pub fn sum_rows<T: Element, S: Simd<T>>(simd: S, out: &mut [T], x: &[T]) {
    let c = out.len();
    if c == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(c), "whole rows");
    for_channels!(simd, T, S, c => sum_blocks(simd, out, x));
}

#[inline(always)]
fn sum_blocks<T: Element, S: Simd<T>>(simd: S, out: &mut [T], x: &[T]) {
    let c = out.len();
    let mut o = 0;
    while o + ROW_VECTORS * S::LANES <= c {
        sum_columns::<T, S, ROW_VECTORS>(simd, out, x, o, S::LANES);
        o += ROW_VECTORS * S::LANES;
    }
    while o < c {
        sum_columns::<T, S, 1>(simd, out, x, o, S::LANES.min(c - o));
        o += S::LANES;
    }
}

/// The sums of `V` vectors of `lanes` columns from column `o`. Of many rows they are sums of sums,
/// of about as many rows each as there are sums: rounding errors grow with the additions in a row.
#[inline(always)]
fn sum_columns<T: Element, S: Simd<T>, const V: usize>(
    simd: S,
    out: &mut [T],
    x: &[T],
    o: usize,
    lanes: usize,
) {
    let c = out.len();
    let groups = x.len() / (ROWS * c);
    let mut totals = [simd.zero(); V];
    for run in x.chunks(groups.isqrt().max(SHORTEST_RUN) * ROWS * c) {
        let mut sums = [[simd.zero(); V]; ROWS];
        let groups = run.chunks_exact(ROWS * c);
        let rest = groups.remainder();
        for group in groups {
            for r in 0..ROWS {
                for v in 0..V {
                    let x = &group[r * c + o + v * S::LANES..][..lanes];
                    sums[r][v] = simd.add(sums[r][v], simd.load_up_to(x));
                }
            }
        }
        for (r, row) in rest.chunks_exact(c).enumerate() {
            for v in 0..V {
                let x = &row[o + v * S::LANES..][..lanes];
                sums[r][v] = simd.add(sums[r][v], simd.load_up_to(x));
            }
        }
        for v in 0..V {
            let (a, b) = (simd.add(sums[0][v], sums[1][v]), simd.add(sums[2][v], sums[3][v]));
            totals[v] = simd.add(totals[v], simd.add(a, b));
        }
    }
    for v in 0..V {
        simd.store_up_to(totals[v], &mut out[o + v * S::LANES..][..lanes]);
    }
}

/// (rows, columns, c_out) of the output's gradient with the zeros that the input's gradient needs,
/// and how many of them lie above and to the left.
#[inline(always)]
fn padded_gradient(shape: &ConvShape) -> ((usize, usize, usize), (usize, usize)) {
    let ((h, w, _), (kh, kw), (sh, sw)) = (shape.input(), shape.window(), shape.strides());
    let before = shape.windows().before();
    let (above, left) = (kh.div_ceil(sh) - 1, kw.div_ceil(sw) - 1);
    let rows = (before.0 + h - 1) / sh + 1 + above;
    let columns = (before.1 + w - 1) / sw + 1 + left;
    ((rows, columns, shape.c_out()), (above, left))
}

/// Elements of the scratch that [`conv_backward_input`] wants for `n` images.
#[inline(always)]
pub fn input_scratch_len(shape: &ConvShape, n: usize) -> usize {
    let ((h, w, c), _) = padded_gradient(shape);
    if (h, w, c) == shape.output() { 0 } else { n.saturating_mul(h * w * c) }
}

/// `d_x[r, s, c] = sum over i, j, o of d_out[i, j, o] * kernel[y, x, c, o]`, where `(y, x)` is the
/// tap under which window `(i, j)` sees the pixel `(r, s)`, for each of `n` images.
///
/// Infinite weights make NaN at the borders, where they meet zeros instead of nothing.
///
/// `d_x` (n, h, w, c_in) without padding, `d_out` (n, out_h, out_w, c_out), `packed` the kernel
/// from [`pack_input`](super::pack::pack_input), `scratch` ([`input_scratch_len`],).
#[inline(always)]
pub fn conv_backward_input<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    packed: &[T],
    scratch: &mut [T],
    shape: &ConvShape,
    n: usize,
) {
    assert_eq!(Some(d_x.len()), n.checked_mul(shape.input_len()), "input gradient length");
    assert_eq!(Some(d_out.len()), n.checked_mul(shape.output_len()), "output gradient length");
    assert_eq!(packed.len(), packed_input_len::<T>(shape), "packed kernel length");
    assert_eq!(scratch.len(), input_scratch_len(shape, n), "scratch length");
    let ((kh, kw), (sh, sw)) = (shape.window(), shape.strides());
    let (h, w, c_in) = shape.input();
    let before = shape.windows().before();
    let (outer, missing) = padded_gradient(shape);
    let d_out = if scratch.is_empty() {
        d_out
    } else {
        surround(scratch, d_out, outer, shape.output(), missing);
        &*scratch
    };
    if sh > kh || sw > kw {
        d_x.fill(T::zero()); // between the windows
    }
    let d_steps = Lattice::packed(outer).steps;
    let x_steps = Lattice::packed((h, w, c_in)).steps;
    let mut packed = packed;
    for py in 0..sh.min(kh) {
        let rows = Axis::new(py, (h, before.0), (kh, sh), missing.0);
        for px in 0..sw.min(kw) {
            let columns = Axis::new(px, (w, before.1), (kw, sw), missing.1);
            let taps =
                Taps { rows: rows.taps, run: columns.taps * shape.c_out(), step: d_steps[1] };
            let (kernel, rest) = packed.split_at(packed_len::<T>(taps.count(), c_in));
            packed = rest;
            let pixels = Pixels::new(
                [n, rows.count, columns.count],
                Lattice {
                    start: rows.from * d_steps[1] + columns.from * d_steps[2],
                    steps: d_steps,
                },
                Lattice {
                    start: rows.to * x_steps[1] + columns.to * x_steps[2],
                    steps: [x_steps[0], sh * x_steps[1], sw * x_steps[2]],
                },
            );
            let mut sink = Plain { out: &mut *d_x, finish: None, c_out: c_in };
            for_channels!(simd, T, S, c_in => {
                convolve(simd, &mut sink, d_out, kernel, taps, &pixels)
            });
        }
    }
}

/// The input pixels of one phase along one axis.
struct Axis {
    /// How many pixels.
    count: usize,
    /// The first element of the padded gradient that the first pixel sees.
    from: usize,
    /// The first pixel, in the input without padding.
    to: usize,
    /// How many elements each pixel sees.
    taps: usize,
}

impl Axis {
    #[inline(always)]
    fn new(
        phase: usize,
        (size, before): (usize, usize),
        (window, stride): (usize, usize),
        missing: usize,
    ) -> Self {
        let taps = Phase::new(phase, window, stride).taps;
        // Pixels q * stride + phase of the padded input, from `first` up to `end`.
        let first = before.saturating_sub(phase).div_ceil(stride);
        let end = (before + size).saturating_sub(phase).div_ceil(stride);
        Self {
            count: end.saturating_sub(first),
            from: first + missing + 1 - taps,
            to: (first * stride + phase).saturating_sub(before),
            taps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::conv::tests::cases;
    use crate::kernels::pack::pad;
    use crate::kernels::reference;
    use crate::kernels::run;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    fn equals_reference<T: Element>() {
        for (shape, n) in cases() {
            let x: Vec<T> = random(n * shape.input_len(), 1);
            let kernel: Vec<T> = random(shape.kernel_len(), 2);
            let d_out: Vec<T> = random(n * shape.output_len(), 3);
            let mut padded = vec![T::nan(); n * shape.padded_len()];
            pad(&mut padded, &x, shape.windows(), n);
            let mut packed = vec![T::nan(); packed_input_len::<T>(&shape)];
            run::pack_input(&mut packed, &kernel, &shape);
            let mut expected_kernel = vec![T::nan(); kernel.len()];
            let mut expected_x = vec![T::nan(); x.len()];
            reference::conv_backward_kernel(&mut expected_kernel, &d_out, &x, &shape);
            reference::conv_backward_input(&mut expected_x, &d_out, &kernel, &shape);

            for_each_level(|level| {
                let mut d_kernel = vec![T::nan(); kernel.len()];
                let mut d_x = vec![T::nan(); x.len()];
                let mut scratch = vec![T::nan(); input_scratch_len(&shape, n)];
                dispatch!(T, level, simd => {
                    conv_backward_kernel(simd, &mut d_kernel, &d_out, &padded, &shape, n);
                    conv_backward_input(simd, &mut d_x, &d_out, &packed, &mut scratch, &shape, n)
                });
                assert_close(&d_kernel, &expected_kernel, d_out.len() / shape.c_out());
                assert_close(&d_x, &expected_x, shape.taps() / shape.input().2 * shape.c_out());
            });
        }
    }

    #[test]
    fn equals_reference_f32() {
        equals_reference::<f32>();
    }

    #[test]
    fn equals_reference_f64() {
        equals_reference::<f64>();
    }

    #[test]
    fn rows_are_summed() {
        for_each_level(|level| {
            for c in [1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 65] {
                for rows in [0, 1, 3, 4, 5, 9] {
                    let x: Vec<f32> = random(rows * c, 1);
                    let mut out = vec![f32::NAN; c];
                    let mut expected = vec![0.0; c];
                    for (i, x) in x.iter().enumerate() {
                        expected[i % c] += x;
                    }
                    dispatch!(f32, level, simd => sum_rows(simd, &mut out, &x));
                    assert_close(&out, &expected, rows);
                }
            }
        });
    }

    /// Added one after the other, these lose three digits.
    #[test]
    fn sums_of_many_rows_are_as_exact() {
        let x = vec![0.1f32; 1_000_000];
        let expected = f64::from(x[0]) * x.len() as f64;
        for_each_level(|level| {
            let mut out = [f32::NAN];
            dispatch!(f32, level, simd => sum_rows(simd, &mut out, &x));
            let error = (f64::from(out[0]) / expected - 1.0).abs();
            assert!(error < 3e-5, "got {}, expected {expected}", out[0]);
        });
    }

    #[test]
    fn no_images_have_no_gradient() {
        for_each_level(|level| {
            let shape = ConvShape::valid((3, 3, 1), (3, 3), 8).unwrap();
            let mut d_kernel = [f32::NAN; 72];
            dispatch!(f32, level, simd => {
                conv_backward_kernel(simd, &mut d_kernel, &[], &[], &shape, 0)
            });
            assert_eq!(d_kernel, [0.0; 72]);
        });
    }
}
