//! Forward with 3x3 filters by minimal filtering, F(2x2, 3x3): the four sums of a pooling window
//! take one product for each of its pixels, 16 in place of 36.

use super::forward::{Channels, load_within};
use crate::kernels::conv::Maxima;
use crate::kernels::filtering::three::{POINTS, TAPS, kernel_points, pixel_points};
use crate::kernels::shape::{ConvPoolShape, POOL};
use crate::kernels::simd::{Aligned, Element, MAX_LANES, Simd};

/// Channels whose points are kept at a time.
pub const CHANNELS: usize = 32;

/// Elements from the first of a window's points to the last, where a window has a lane.
pub const SPAN: usize = (POINTS * POINTS - 1) * MAX_LANES + 1;

/// What there is at each point, column by column.
pub type Points<V> = [[V; POINTS]; POINTS];

/// Whether this is the faster way for filters of side `k`. Where each of a window's points has to
/// be spread over the lanes by an instruction of its own, that takes as long as the products saved.
#[inline(always)]
pub fn pays<T: Element, S: Simd<T>>(_: S, k: usize) -> bool {
    S::BROADCASTS && k == TAPS
}

/// As [`grey_forward`](super::grey_forward), where all sums of products are known to be finite, as
/// [`products_are_finite`](super::forward::products_are_finite) says. Those of points are finite
/// then too: their factors are at most 4 and 9/4 times as large.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(
    simd: S,
    maxima: &mut Maxima<T>,
    x: &[T],
    layer: &Channels<T>,
    shape: &ConvPoolShape,
) {
    let (h, w, _) = shape.conv().windows().padded();
    let (out_h, out_w, c_out) = shape.pool().output();
    let mut kernel = [[[T::zero(); CHANNELS]; POINTS]; POINTS];
    for o in (0..c_out).step_by(CHANNELS) {
        let layer = layer.part(o, CHANNELS);
        set_kernel(simd, &mut kernel, &layer);
        for (image, x) in x.chunks_exact(h * w).enumerate() {
            for j in (0..out_w).step_by(S::LANES) {
                let windows = S::LANES.min(out_w - j);
                for_each_row(
                    simd,
                    &x[POOL * j..],
                    w,
                    out_h,
                    #[inline(always)]
                    |i, pixels| {
                        let first = ((image * out_h + i) * out_w + j) * c_out;
                        let maxima = maxima.part(first..first + windows * c_out);
                        store_channels(simd, maxima, &kernel, pixels, &layer);
                    },
                );
            }
        }
    }
}

/// Calls `store` with the number of each row of windows, and the points of the pixels under as many
/// of them as there are lanes; `x` begins at the first window, and its rows are `w` pixels apart.
#[inline(always)]
fn for_each_row<T: Element, S: Simd<T>>(
    simd: S,
    x: &[T],
    w: usize,
    rows: usize,
    mut store: impl FnMut(usize, &Points<[T; MAX_LANES]>),
) {
    let mut points = Aligned([[[T::zero(); MAX_LANES]; POINTS]; POINTS]);
    // Two of four rows of pixels are under the next row of windows too.
    let mut above = [row_points(simd, x, 0), row_points(simd, x, w)];
    for i in 0..rows {
        let y = POOL * (i + 1);
        let below = [row_points(simd, x, y * w), row_points(simd, x, (y + 1) * w)];
        set_pixels(simd, &mut points.0, above, below);
        above = below;
        store(i, &points.0);
    }
}

/// Sets the points of the kernel.
#[inline(always)]
pub fn set_kernel<T: Element, S: Simd<T>>(
    simd: S,
    points: &mut Points<[T; CHANNELS]>,
    layer: &Channels<T>,
) {
    let half = simd.splat(T::from_f64(0.5));
    for o in (layer.o..layer.end).step_by(S::LANES) {
        let taps: [[_; TAPS]; TAPS] = layer.part(o, S::LANES).taps(simd);
        let mut rows = [[simd.zero(); POINTS]; TAPS];
        for y in 0..TAPS {
            rows[y] = kernel_points(simd, taps[y], half);
        }
        for x in 0..POINTS {
            let column = kernel_points(simd, [rows[0][x], rows[1][x], rows[2][x]], half);
            for y in 0..POINTS {
                simd.store(column[y], &mut points[x][y][o - layer.o..]);
            }
        }
    }
}

/// The points of a row of pixels from `start` on, with a window in each lane. Lanes beyond the row
/// hold anything, beyond the image zeros: none of them is used.
#[inline(always)]
fn row_points<T: Element, S: Simd<T>>(simd: S, x: &[T], start: usize) -> [S::Vector; POINTS] {
    let [first, second] = pairs(simd, x, start);
    let [third, fourth] = pairs(simd, x, start + POOL);
    pixel_points(simd, [first, second, third, fourth])
}

/// Pairs of pixels from `start` on: the first ones, and the second ones.
#[inline(always)]
fn pairs<T: Element, S: Simd<T>>(simd: S, x: &[T], start: usize) -> [S::Vector; POOL] {
    let near = load_within(simd, x, start);
    simd.unzip(near, load_within(simd, x, start + S::LANES))
}

/// Sets the points of the pixels under a row of windows, from those of the rows of pixels.
#[inline(always)]
pub fn set_pixels<T: Element, S: Simd<T>>(
    simd: S,
    points: &mut Points<[T; MAX_LANES]>,
    above: [[S::Vector; POINTS]; POOL],
    below: [[S::Vector; POINTS]; POOL],
) {
    for x in 0..POINTS {
        let column = [above[0][x], above[1][x], below[0][x], below[1][x]];
        let column = pixel_points(simd, column);
        for y in 0..POINTS {
            simd.store(column[y], &mut points[x][y]);
        }
    }
}

/// The layer's outputs and the places of the maxima for windows beside each other.
#[inline(always)]
fn store_channels<T: Element, S: Simd<T>>(
    simd: S,
    mut maxima: Maxima<T>,
    kernel: &Points<[T; CHANNELS]>,
    pixels: &Points<[T; MAX_LANES]>,
    layer: &Channels<T>,
) {
    for o in (layer.o..layer.end).step_by(S::LANES) {
        let layer = layer.part(o, S::LANES);
        let maxima = maxima.part(0..maxima.len());
        // Half a vector of channels takes half the time, if there are such vectors.
        if layer.end - o <= <S::Narrow as Simd<T>>::LANES {
            store_windows(simd.narrow(), maxima, kernel, pixels, &layer);
        } else {
            store_windows(simd, maxima, kernel, pixels, &layer);
        }
    }
}

/// As [`store_channels`], for a vector of channels.
#[inline(always)]
fn store_windows<T: Element, S: Simd<T>>(
    simd: S,
    maxima: Maxima<T>,
    kernel: &Points<[T; CHANNELS]>,
    pixels: &Points<[T; MAX_LANES]>,
    layer: &Channels<T>,
) {
    // The positions take so long that the loop is compiled once without them.
    match maxima.argmax {
        Some(argmax) => store_some::<T, S, true>(simd, maxima.out, argmax, kernel, pixels, layer),
        None => store_some::<T, S, false>(simd, maxima.out, &mut [], kernel, pixels, layer),
    }
}

/// As [`store_windows`], in a function of its own, where the kernel's points stay in registers.
#[inline(always)]
fn store_some<T: Element, S: Simd<T>, const ARGMAX: bool>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    kernel: &Points<[T; CHANNELS]>,
    pixels: &Points<[T; MAX_LANES]>,
    layer: &Channels<T>,
) {
    simd.outlined(
        #[inline(always)]
        |simd| {
            let taps = load_kernel(simd, kernel, layer);
            let bias = layer.bias(simd);
            let c_out = layer.c_out;
            let pixels = pixels.as_flattened().as_flattened();
            for (n, out) in out.chunks_exact_mut(c_out).take(MAX_LANES).enumerate() {
                let (max, at) = Window { taps: &taps, pixels: &pixels[n..] }.maximum(simd, bias);
                simd.store_up_to(layer.rectified(simd, max), &mut out[layer.o..layer.end]);
                if ARGMAX {
                    simd.store_up_to(at, &mut argmax[n * c_out..][layer.o..layer.end]);
                }
            }
        },
    );
}

/// The kernel's points for a vector of channels.
#[inline(always)]
pub fn load_kernel<T: Element, S: Simd<T>>(
    simd: S,
    kernel: &Points<[T; CHANNELS]>,
    layer: &Channels<T>,
) -> Points<S::Vector> {
    let mut taps = [[simd.zero(); POINTS]; POINTS];
    for x in 0..POINTS {
        for y in 0..POINTS {
            taps[x][y] = simd.load(&kernel[x][y][layer.o % CHANNELS..]);
        }
    }
    taps
}

/// The four sums of a pooling window. Those of a row are `left` or `right`, and something that both
/// have in common: they compare without it.
#[derive(Clone, Copy)]
pub struct Sums<V> {
    left: [V; POOL],
    right: [V; POOL],
    /// The larger one of each row.
    rows: [V; POOL],
}

impl<V: Copy> Sums<V> {
    /// Where all are the same.
    #[inline(always)]
    pub fn same(sum: V) -> Self {
        Self { left: [sum; POOL], right: [sum; POOL], rows: [sum; POOL] }
    }

    /// The maximum, and what the first position that has it is called, row by row.
    #[inline(always)]
    pub fn maximum<T: Element, S: Simd<T, Vector = V>>(
        &self,
        simd: S,
        names: &[f64; POOL * POOL],
    ) -> (V, V) {
        let Self { left, right, rows: [upper, lower] } = *self;
        let names = simd.constants(*names);
        let in_upper = simd.select(simd.greater(right[0], left[0]), names[1], names[0]);
        let in_lower = simd.select(simd.greater(right[1], left[1]), names[3], names[2]);
        let at = simd.select(simd.greater(lower, upper), in_lower, in_upper);
        (simd.max(lower, upper), at)
    }
}

/// A pooling window, which meets a vector of channels.
pub struct Window<'a, T, V> {
    /// The kernel's points.
    pub taps: &'a Points<V>,
    /// Those of its pixels, column by column, [`MAX_LANES`] apart: [`SPAN`] elements.
    pub pixels: &'a [T],
}

impl<T: Element, V: Copy> Window<'_, T, V> {
    /// Its maximum with the bias, and the first position that has it.
    #[inline(always)]
    pub fn maximum<S: Simd<T, Vector = V>>(&self, simd: S, bias: V) -> (V, V) {
        self.sums(simd, bias).maximum(simd, &[0.0, 1.0, 2.0, 3.0])
    }

    /// Its sums with the bias.
    #[inline(always)]
    pub fn sums<S: Simd<T, Vector = V>>(&self, simd: S, bias: V) -> Sums<V> {
        // The outputs of a row are `b + (a + c)` and `b + (d - c)`.
        let (c, a) = (self.column(simd, 2, None), self.column(simd, 0, None));
        let left = [simd.add(a[0], c[0]), simd.add(a[1], c[1])];
        let d = self.column(simd, 3, None);
        let right = [simd.sub(d[0], c[0]), simd.sub(d[1], c[1])];
        let b = self.column(simd, 1, Some(bias));
        let upper = simd.add(b[0], simd.max(right[0], left[0]));
        let lower = simd.add(b[1], simd.max(right[1], left[1]));
        Sums { left, right, rows: [upper, lower] }
    }

    /// What the products in column `x` of the points, and `start`, come to in both rows of outputs.
    #[inline(always)]
    fn column<S: Simd<T, Vector = V>>(&self, simd: S, x: usize, start: Option<V>) -> [V; POOL] {
        let (g, mut d) = (self.taps[x], [simd.zero(); POINTS]);
        for y in 0..POINTS {
            d[y] = simd.splat(self.pixels[(x * POINTS + y) * MAX_LANES]);
        }
        let second = match start {
            Some(start) => simd.mul_add(g[1], d[1], start),
            None => simd.mul(g[1], d[1]),
        };
        let third = simd.mul(g[2], d[2]);
        [
            simd.mul_add(g[0], d[0], simd.add(second, third)),
            simd.mul_add(g[3], d[3], simd.sub(second, third)),
        ]
    }
}
