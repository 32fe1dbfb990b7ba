//! Forward with 5x5 filters by minimal filtering down the columns, F(2, 5): the two sums below each
//! other in a pooling window take 6 products for each column of the filter, in place of 10.

use std::ops::Range;

use super::SUMS_OF_MANY;
use super::forward::{Channels, Pairs, load_columns, store_columns};
use super::patches::columns;
use crate::kernels::conv::Maxima;
use crate::kernels::filtering::five::{POINTS, TAPS, add_point, kernel_points, pixel_points};
use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Element, MAX_LANES, Simd};

/// Windows beside each other whose points are kept at a time.
const WINDOWS: usize = MAX_LANES;

/// The columns of pixels that they see, and what fills the last vector.
const COLUMNS: usize = columns(TAPS, WINDOWS).next_multiple_of(MAX_LANES);

/// The points of each column of pixels.
type Points<T> = [[T; COLUMNS]; POINTS];

/// The points of each column of a filter, in as many lanes as there are channels.
type Kernel<V> = [[V; TAPS]; POINTS];

/// Whether this is the faster way for filters of side `k`. Where few channels fill half a short
/// vector, what follows the sums takes longer than the products saved.
#[inline(always)]
pub fn pays<T: Element, S: Simd<T>>(_: S, k: usize, in_pairs: bool) -> bool {
    k == TAPS && (S::BROADCASTS || !in_pairs)
}

/// As [`grey_forward`](super::grey_forward) for at most a vector of channels, or half of one
/// `in_pairs`, where all sums of products are known to be finite, as
/// [`products_are_finite`](super::forward::products_are_finite) says. Those of points are finite
/// then too: their factors are at most 10 and 31/24 times as large.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(
    simd: S,
    maxima: &mut Maxima<T>,
    x: &[T],
    layer: &Channels<T>,
    shape: &ConvPoolShape,
    in_pairs: bool,
) {
    let (h, w, _) = shape.conv().windows().padded();
    let (out_h, out_w, _) = shape.pool().output();
    let taps = if in_pairs { layer.pair_taps(simd) } else { layer.taps(simd) };
    let (bias, pairs) = (layer.bias(simd), layer.pairs(simd));
    let filters = Filters { kernel: at_points(simd, taps), bias, pairs, layer };
    let mut points = [[T::zero(); COLUMNS]; POINTS];
    for (image, x) in x.chunks_exact(h * w).enumerate() {
        for j in (0..out_w).step_by(WINDOWS) {
            for i in 0..out_h {
                set_points(simd, &mut points, &x[POOL * (i * w + j)..], w);
                let first = (image * out_h + i) * out_w + j;
                let windows = first..first + WINDOWS.min(out_w - j);
                if in_pairs {
                    filters.store_pairs(simd, maxima, &points, windows);
                } else {
                    filters.store_windows(simd, maxima, &points, windows);
                }
            }
        }
    }
}

/// The points of the filters' columns.
#[inline(always)]
fn at_points<T: Element, S: Simd<T>>(
    simd: S,
    taps: [[S::Vector; TAPS]; TAPS],
) -> Kernel<S::Vector> {
    let mut kernel = [[simd.zero(); TAPS]; POINTS];
    for x in 0..TAPS {
        let mut column = [simd.zero(); TAPS];
        for y in 0..TAPS {
            column[y] = taps[y][x];
        }
        let points = kernel_points(simd, column);
        for point in 0..POINTS {
            kernel[point][x] = points[point];
        }
    }
    kernel
}

/// Sets the points of the pixels under some windows beside each other; `x` begins at the first one,
/// and its rows are `w` pixels apart. Columns beyond the row hold anything: none of them is used.
#[inline(always)]
fn set_points<T: Element, S: Simd<T>>(simd: S, points: &mut Points<T>, x: &[T], w: usize) {
    for start in (0..COLUMNS.min(w)).step_by(S::LANES) {
        let pixels = load_columns(simd, x, w, start);
        store_columns(simd, points, pixel_points(simd, pixels), start);
    }
}

/// A vector of filters.
struct Filters<'a, T, V> {
    kernel: Kernel<V>,
    bias: V,
    pairs: Pairs<V>,
    layer: &'a Channels<'a, T>,
}

impl<T: Element, V: Copy> Filters<'_, T, V> {
    /// The layer's outputs and the places of the maxima. In a function of its own, where the sums
    /// stay in registers: as many as there are.
    #[inline(always)]
    fn store_windows<S: Simd<T, Vector = V>>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        points: &Points<T>,
        windows: Range<usize>,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                let mut n = 0;
                while S::SUMS >= SUMS_OF_MANY && n + 4 <= windows.len() {
                    self.store::<S, 4>(simd, maxima, points, n, windows.start);
                    n += 4;
                }
                while n + 2 <= windows.len() {
                    self.store::<S, 2>(simd, maxima, points, n, windows.start);
                    n += 2;
                }
                if n < windows.len() {
                    self.store::<S, 1>(simd, maxima, points, n, windows.start);
                }
            },
        );
    }

    /// As [`store_windows`](Self::store_windows), where each channel has two neighbouring lanes,
    /// one for each column of a window.
    #[inline(always)]
    fn store_pairs<S: Simd<T, Vector = V>>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        points: &Points<T>,
        windows: Range<usize>,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                let (layer, first) = (self.layer, windows.start);
                let mut n = 0;
                while S::SUMS >= SUMS_OF_MANY && n + 6 <= windows.len() {
                    let sums = self.sums::<S, 6, 1>(simd, points, n);
                    layer.store_pairs(simd, maxima, rows(simd, sums), &self.pairs, first + n);
                    n += 6;
                }
                while n + 2 <= windows.len() {
                    let sums = self.sums::<S, 2, 1>(simd, points, n);
                    layer.store_pairs(simd, maxima, rows(simd, sums), &self.pairs, first + n);
                    n += 2;
                }
                if n < windows.len() {
                    let [[sums]] = self.sums::<S, 1, 1>(simd, points, n);
                    layer.store_pair::<S, true>(simd, maxima, sums, &self.pairs, first + n);
                }
            },
        );
    }

    /// Windows `n..n + W` of a row, whose first one is `first`.
    #[inline(always)]
    fn store<S: Simd<T, Vector = V>, const W: usize>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        points: &Points<T>,
        n: usize,
        first: usize,
    ) {
        let sums = self.sums::<S, W, POOL>(simd, points, n);
        let mut positions = [[simd.zero(); POSITIONS]; W];
        for window in 0..W {
            let [left, right] = sums[window];
            positions[window] = [left[0], right[0], left[1], right[1]];
        }
        let layer = self.layer;
        layer.store_windows::<S, W, true>(simd, maxima, positions, Some(self.bias), first + n);
    }

    /// The convolution in both rows of `W` windows from `first` on, for both columns in a vector
    /// (`C` = 1) or each in one of its own.
    #[inline(always)]
    fn sums<S: Simd<T, Vector = V>, const W: usize, const C: usize>(
        &self,
        simd: S,
        points: &Points<T>,
        first: usize,
    ) -> [[[V; POOL]; C]; W] {
        let mut sums = [[[simd.zero(); POOL]; C]; W];
        for point in 0..POINTS {
            let pixels = &points[point][POOL * first..][..columns(TAPS, W)];
            for window in 0..W {
                for column in 0..C {
                    let at = POOL * window + column;
                    let mut product = simd.zero();
                    for x in 0..TAPS {
                        let pixel = if C == 1 {
                            simd.splat_pair(&pixels[at + x..])
                        } else {
                            simd.splat(pixels[at + x])
                        };
                        product = if x == 0 {
                            simd.mul(self.kernel[point][x], pixel)
                        } else {
                            simd.mul_add(self.kernel[point][x], pixel, product)
                        };
                    }
                    add_point(simd, &mut sums[window][column], point, product);
                }
            }
        }
        sums
    }
}

/// The rows of windows whose columns share a vector.
#[inline(always)]
fn rows<T: Element, S: Simd<T>, const W: usize>(
    simd: S,
    sums: [[[S::Vector; POOL]; 1]; W],
) -> [[S::Vector; POOL]; W] {
    let mut rows = [[simd.zero(); POOL]; W];
    for window in 0..W {
        [rows[window]] = sums[window];
    }
    rows
}
