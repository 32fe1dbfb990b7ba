//! F(2, 5) down the columns, for kernels with five rows: two outputs below each other take 6
//! products for each tap of a row and each pair of channels, in place of 10. Across the columns it
//! is a convolution as ever, so that few channels are enough to fill vectors and runs.
//!
//! Six rows of pixels become six rows of points, each of which meets the kernel's rows at the same
//! point; the sums become two rows of outputs. The points are 0, 1, -1, 2, -2 and infinity.

use std::ops::Range;

use super::{Output, SIDE, Tile};
use crate::kernels::conv;
use crate::kernels::filtering::five::{POINTS, TAPS, kernel_points, outputs, pixel_points};
use crate::kernels::pack::{block, packed_len as matrix_len};
use crate::kernels::shape::ConvShape;
use crate::kernels::simd::{Element, Simd, for_each_vector};
use crate::kernels::tile::{Taps, convolve};
use crate::kernels::walk::{Lattice, Pixels};

/// Outputs of a row of points, from which on no further strips go together: some tiles of sums, so
/// that each vector of the kernel serves often.
const OUTPUTS: usize = 96;

/// Bytes of the points of the strips that go together, so that they stay in the L2 cache.
const BYTES: usize = 1 << 18;

/// From one point to the next in the packed kernel. Where the stride of the stores were a power of
/// two, they would all meet in one set of the cache.
fn point_len<T>(shape: &ConvShape) -> usize {
    matrix_len::<T>(shape.run(), shape.c_out()) + block::<T>()
}

/// Elements of a kernel packed by [`pack`].
pub fn packed_len<T>(shape: &ConvShape) -> usize {
    POINTS * point_len::<T>(shape)
}

/// See [`winograd_pack`](super::winograd_pack); at each point, the result is packed as (kw c_in,
/// c_out).
#[inline(always)]
pub fn pack<T: Element, S: Simd<T>>(simd: S, packed: &mut [T], kernel: &[T], shape: &ConvShape) {
    let (run, point_len, block) = (shape.run(), point_len::<T>(shape), block::<T>());
    for (b, kernel) in kernel.chunks_exact((TAPS * run * block).max(1)).enumerate() {
        for at in 0..run {
            for lanes in (0..block).step_by(S::LANES) {
                let mut taps = [simd.zero(); TAPS];
                for y in 0..TAPS {
                    taps[y] = simd.load(&kernel[(y * run + at) * block + lanes..]);
                }
                let points = kernel_points(simd, taps);
                for point in 0..POINTS {
                    let to = point * point_len + (b * run + at) * block + lanes;
                    simd.store(points[point], &mut packed[to..]);
                }
            }
        }
    }
}

/// Two rows of outputs and the rows of pixels that they depend on: what a strip needs.
#[derive(Clone, Copy, Debug)]
struct Strip {
    /// Elements of a row of points, which has the pixels' length and channels.
    before: usize,
    /// Elements of a row of sums.
    after: usize,
    /// Strips that go together.
    group: usize,
}

impl Strip {
    /// For `strips` strips, of which so many outputs beside each other are wanted.
    fn new<T>(shape: &ConvShape, strips: usize, outputs: usize) -> Self {
        let (_, w, c_in) = shape.windows().padded();
        let (_, out_w, c_out) = shape.output();
        let (before, after) = (w * c_in, out_w * c_out);
        let points = (POINTS * size_of::<T>()).saturating_mul(before.saturating_add(after));
        let fitting = BYTES / points;
        let group = fitting.min(OUTPUTS.div_ceil(out_w)).max(1).min(strips);
        Self { before, after: outputs * c_out, group }
    }

    /// From one point to the next of all the rows of some length; never a power of two, as for the
    /// kernel.
    fn step<T>(&self, row: usize) -> usize {
        (self.group * row).next_multiple_of(2 * block::<T>()) + block::<T>()
    }
}

/// Elements of workspace for `n` images.
pub fn scratch_len<T>(shape: &ConvShape, n: usize) -> usize {
    let (out_h, out_w, _) = shape.output();
    let strip = Strip::new::<T>(shape, n.saturating_mul(out_h.div_ceil(SIDE)), out_w);
    let len = strip.step::<T>(strip.before).saturating_add(strip.step::<T>(strip.after));
    len.saturating_mul(POINTS)
}

/// All tiles: `counts` are images, and tiles below and beside each other.
#[inline(always)]
pub fn run<T: Element, S: Simd<T>, O: Output<T>>(
    simd: S,
    output: &mut O,
    x: &[T],
    packed: &[T],
    scratch: &mut [T],
    shape: &ConvShape,
    [n, rows, columns]: [usize; 3],
) {
    let (_, out_w, c_out) = shape.output();
    let (strips, outputs) = (n * rows, out_w.min(SIDE * columns));
    let strip = Strip::new::<T>(shape, strips, outputs);
    let (before_step, after_step) = (strip.step::<T>(strip.before), strip.step::<T>(strip.after));
    let (before, after) = scratch.split_at_mut(POINTS * before_step);
    let after = &mut after[..POINTS * after_step];
    for first in (0..strips).step_by(strip.group.max(1)) {
        let group = strip.group.min(strips - first);
        products(simd, (before, after), x, packed, shape, &strip, rows, first..first + group);
        let sums = Sums { x: after, step: after_step, outputs, c_out };
        for_each_vector(
            simd,
            c_out,
            #[inline(always)]
            |channels| {
                let mut write = output.writer(simd, channels.start, channels.len());
                for s in 0..group {
                    let number = first + s;
                    let (image, i) = (number / rows, number % rows);
                    for j in 0..columns {
                        let tile = Tile { number: number * columns + j, image, i, j };
                        write(tile, sums.outputs(simd, s, j, &channels));
                    }
                }
            },
        );
    }
}

/// The sums of some strips at all points: (points, strips, outputs, c_out), with a step from point
/// to point.
struct Sums<'a, T> {
    x: &'a [T],
    step: usize,
    outputs: usize,
    c_out: usize,
}

impl<T: Element> Sums<'_, T> {
    /// The outputs of tile `j` of strip `s` for a vector of channels. Beside the image, its last
    /// column will do.
    #[inline(always)]
    fn outputs<S: Simd<T>>(
        &self,
        simd: S,
        s: usize,
        j: usize,
        channels: &Range<usize>,
    ) -> [[S::Vector; SIDE]; SIDE] {
        let row = self.outputs * self.c_out;
        assert!(channels.end <= self.c_out, "channels of an output");
        assert!((POINTS - 1) * self.step + (s + 1) * row <= self.x.len(), "all points of a strip");
        let mut sums = [[simd.zero(); SIDE]; SIDE];
        for column in 0..SIDE {
            let output = (SIDE * j + column).min(self.outputs - 1);
            let first = s * row + output * self.c_out;
            let mut points = [simd.zero(); POINTS];
            for point in 0..POINTS {
                let at = first + point * self.step;
                // SAFETY: the output is one of the row's, and the assertions above.
                let sum = unsafe { self.x.get_unchecked(at + channels.start..at + channels.end) };
                points[point] = simd.load_up_to(sum);
            }
            [sums[0][column], sums[1][column]] = outputs(simd, points);
        }
        sums
    }
}

/// The products of some strips, which are numbered through all images, at all points. A function of
/// its own: all that becomes of them shares it.
#[inline(always)]
fn products<T: Element, S: Simd<T>>(
    simd: S,
    (before, after): (&mut [T], &mut [T]),
    x: &[T],
    packed: &[T],
    shape: &ConvShape,
    strip: &Strip,
    rows: usize,
    strips: Range<usize>,
) {
    simd.outlined(
        #[inline(always)]
        |simd| {
            let ((h, w, c_in), c_out) = (shape.windows().padded(), shape.c_out());
            let (before_step, after_step) =
                (strip.step::<T>(strip.before), strip.step::<T>(strip.after));
            for (s, number) in strips.clone().enumerate() {
                let (image, i) = (number / rows, number % rows);
                let row = |y: usize| {
                    // Below the image, where no output that is kept depends on it, its last row
                    // will do.
                    &x[(image * h + (SIDE * i + y).min(h - 1)) * w * c_in..][..strip.before]
                };
                let pixels = [row(0), row(1), row(2), row(3), row(4), row(5)];
                set(simd, &mut before[s * strip.before..], before_step, pixels);
            }
            let taps = Taps { rows: 1, run: shape.run(), step: 0 };
            let lattice = |row, pixel| Lattice { start: 0, steps: [0, row, pixel] };
            let (from, to) = (lattice(strip.before, c_in), lattice(strip.after, c_out));
            let pixels = Pixels::new([1, strips.len(), strip.after / c_out], from, to);
            for (point, packed) in packed.chunks_exact(point_len::<T>(shape)).enumerate() {
                let packed = &packed[..matrix_len::<T>(taps.run, c_out)];
                let before = &before[point * before_step..][..strips.len() * strip.before];
                let out = &mut after[point * after_step..][..strips.len() * strip.after];
                let mut sink = conv::Plain { out, finish: None, c_out };
                convolve(simd, &mut sink, before, packed, taps, &pixels);
            }
        },
    );
}

/// Sets the points of a strip, `step` elements apart, from its rows of pixels.
#[inline(always)]
fn set<T: Element, S: Simd<T>>(simd: S, out: &mut [T], step: usize, rows: [&[T]; POINTS]) {
    let len = rows[0].len();
    assert!((POINTS - 1) * step + len <= out.len(), "all points");
    for_each_vector(
        simd,
        len,
        #[inline(always)]
        |part| {
            let mut pixels = [simd.zero(); POINTS];
            for y in 0..POINTS {
                pixels[y] = simd.load_up_to(&rows[y][part.clone()]);
            }
            let points = pixel_points(simd, pixels);
            for point in 0..POINTS {
                let start = point * step;
                // SAFETY: the part lies in a row of `len`, and the assertion above.
                let out = unsafe { out.get_unchecked_mut(start + part.start..start + part.end) };
                simd.store_up_to(points[point], out);
            }
        },
    );
}
