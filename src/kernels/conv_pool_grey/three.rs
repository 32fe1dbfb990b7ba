//! Forward with 3x3 filters by minimal filtering down the columns, F(2, 3): the two sums below
//! each other in a pooling window take 4 products for each column of the filter, in place of 6.
//! Filtering along the rows as well would take two thirds of the products, but more time: twice as
//! many points of pixels to write, and more sums of products than there are products.

use super::forward::{Channels, Pairs, load_columns, store_columns};
use super::patches::columns;
use crate::kernels::ahead::Ahead;
use crate::kernels::conv::Maxima;
use crate::kernels::filtering::three::{POINTS, TAPS, kernel_points, pixel_points};
use crate::kernels::foreground::is_told_apart;
use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Aligned, Element, MAX_LANES, Simd};

/// Channels whose points are kept at a time.
pub const CHANNELS: usize = 32;

/// Windows beside each other whose points are kept at a time, of which the columns of pixels fill
/// whole vectors.
pub const WINDOWS: usize = MAX_LANES - 1;

/// Columns of pixels that they see.
pub const COLUMNS: usize = columns(TAPS, WINDOWS);

/// Elements from the first of a window's points to the last.
pub const SPAN: usize = (POINTS - 1) * COLUMNS + columns(TAPS, 1);

/// The points of each column of pixels.
pub type Points<T> = [[T; COLUMNS]; POINTS];

/// The points of each column of a filter, in as many lanes as there are channels; in two for each
/// channel, one for each column of a window, if they [fit](Channels::fit_in_pairs).
pub type Kernel<V> = [[V; TAPS]; POINTS];

/// Whether this is the way for filters of side `k`. With few registers, and none to spare for points
/// that are spread over the lanes, that takes as long as the products saved; but where windows of the
/// background are left out, sums have to be the same bits as where they are not.
#[inline(always)]
pub fn pays<T: Element, S: Simd<T>>(simd: S, k: usize) -> bool {
    k == TAPS && (S::BROADCASTS || is_told_apart(simd))
}

/// As [`grey_forward`](super::grey_forward), where all sums of products are known to be finite, as
/// [`products_are_finite`](super::forward::products_are_finite) says. Those of points are finite
/// then too: their factors are at most 2 and 3/2 times as large.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(
    simd: S,
    maxima: &mut Maxima<T>,
    x: &[T],
    layer: &Channels<T>,
    ahead: &Ahead,
    shape: &ConvPoolShape,
) {
    let (h, w, _) = shape.conv().windows().padded();
    let (out_h, out_w, c_out) = shape.pool().output();
    let rows = x.len() / (h * w) * out_h;
    ahead.divide(rows * out_w.div_ceil(WINDOWS) * c_out.div_ceil(CHANNELS));
    let mut kernel = [[[T::zero(); CHANNELS]; TAPS]; POINTS];
    let mut points = Aligned([[T::zero(); COLUMNS]; POINTS]);
    for o in (0..c_out).step_by(CHANNELS) {
        let layer = layer.part(o, CHANNELS);
        set_kernel(simd, &mut kernel, &layer);
        for (image, x) in x.chunks_exact(h * w).enumerate() {
            for j in (0..out_w).step_by(WINDOWS) {
                let windows = WINDOWS.min(out_w - j);
                for i in 0..out_h {
                    ahead.ask();
                    set_points(simd, &mut points.0, &x[POOL * (i * w + j)..], w, windows);
                    let first = ((image * out_h + i) * out_w + j) * c_out;
                    let maxima = maxima.part(first..first + windows * c_out);
                    store_channels(simd, maxima, &kernel, &points.0, &layer);
                }
            }
        }
    }
}

/// Sets the points of the kernel.
#[inline(always)]
pub fn set_kernel<T: Element, S: Simd<T>>(
    simd: S,
    kernel: &mut Kernel<[T; CHANNELS]>,
    layer: &Channels<T>,
) {
    let half = simd.splat(T::from_f64(0.5));
    for o in (layer.o..layer.end).step_by(S::LANES) {
        let part = layer.part(o, S::LANES);
        let in_pairs = part.fit_in_pairs::<S>();
        let taps: [[_; TAPS]; TAPS] = if in_pairs { part.pair_taps(simd) } else { part.taps(simd) };
        for x in 0..TAPS {
            let column = kernel_points(simd, [taps[0][x], taps[1][x], taps[2][x]], half);
            for point in 0..POINTS {
                simd.store(column[point], &mut kernel[point][x][o - layer.o..]);
            }
        }
    }
}

/// The kernel's points for a vector of channels, of a part that begins at a multiple of
/// [`CHANNELS`].
#[inline(always)]
pub fn load_kernel<T: Element, S: Simd<T>>(
    simd: S,
    kernel: &Kernel<[T; CHANNELS]>,
    layer: &Channels<T>,
) -> Kernel<S::Vector> {
    let mut taps = [[simd.zero(); TAPS]; POINTS];
    for point in 0..POINTS {
        for x in 0..TAPS {
            taps[point][x] = simd.load(&kernel[point][x][layer.o % CHANNELS..]);
        }
    }
    taps
}

/// Sets the points of the pixels under some windows beside each other; `x` begins at the first one,
/// and its rows are `w` pixels apart. Columns beyond the row hold anything: none of them is used.
#[inline(always)]
fn set_points<T: Element, S: Simd<T>>(
    simd: S,
    points: &mut Points<T>,
    x: &[T],
    w: usize,
    windows: usize,
) {
    for start in (0..columns(TAPS, windows)).step_by(S::LANES) {
        set_columns(simd, points, load_columns(simd, x, w, start), start);
    }
}

/// As [`set_points`], for a vector of columns from `start` on.
#[inline(always)]
pub fn set_columns<T: Element, S: Simd<T>>(
    simd: S,
    points: &mut Points<T>,
    pixels: [S::Vector; POINTS],
    start: usize,
) {
    store_columns(simd, points, pixel_points(simd, pixels), start);
}

/// The layer's outputs and the places of the maxima for windows beside each other.
#[inline(always)]
fn store_channels<T: Element, S: Simd<T>>(
    simd: S,
    mut maxima: Maxima<T>,
    kernel: &Kernel<[T; CHANNELS]>,
    points: &Points<T>,
    layer: &Channels<T>,
) {
    for o in (layer.o..layer.end).step_by(S::LANES) {
        let layer = layer.part(o, S::LANES);
        let Maxima { out, argmax } = maxima.part(0..maxima.len());
        // The positions take so long that the loop is compiled once without them.
        match argmax {
            Some(argmax) => {
                store_windows::<T, S, true>(simd, out, argmax, kernel, points, &layer);
            }
            None => store_windows::<T, S, false>(simd, out, &mut [], kernel, points, &layer),
        }
    }
}

/// As [`store_channels`], for a vector of channels, in a function of its own, where the kernel's
/// points stay in registers.
#[inline(always)]
fn store_windows<T: Element, S: Simd<T>, const ARGMAX: bool>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    kernel: &Kernel<[T; CHANNELS]>,
    points: &Points<T>,
    layer: &Channels<T>,
) {
    simd.outlined(
        #[inline(always)]
        |simd| {
            let windows = WINDOWS.min(out.len() / layer.c_out); // whose points there are
            let maxima = &mut Maxima::new(out, ARGMAX.then_some(argmax));
            let taps = load_kernel(simd, kernel, layer);
            let points = points.as_flattened();
            if layer.fit_in_pairs::<S>() {
                let bias = layer.pair_bias(simd);
                let pairs = Pairs { bias: None, ..layer.pairs(simd) };
                let mut n = 0;
                while n + 2 <= windows {
                    let sums = [
                        pair_sums(simd, &taps, &points[POOL * n..], bias),
                        pair_sums(simd, &taps, &points[POOL * (n + 1)..], bias),
                    ];
                    layer.store_pairs(simd, maxima, sums, &pairs, n);
                    n += 2;
                }
                if n < windows {
                    let sums = pair_sums(simd, &taps, &points[POOL * n..], bias);
                    layer.store_pair::<S, true>(simd, maxima, sums, &pairs, n);
                }
            } else {
                let bias = layer.bias(simd);
                for n in 0..windows {
                    let sums = window_sums(simd, &taps, &points[POOL * n..], bias);
                    layer.store_windows::<S, 1, true>(simd, maxima, [sums], None, n);
                }
            }
        },
    );
}

/// The convolution at the four positions of a window, at whose points `points` begins, with the
/// bias.
#[inline(always)]
pub fn window_sums<T: Element, S: Simd<T>>(
    simd: S,
    taps: &Kernel<S::Vector>,
    points: &[T],
    bias: S::Vector,
) -> [S::Vector; POSITIONS] {
    let [upper, lower] = sums::<T, S, POOL>(simd, taps, points, bias);
    [upper[0], upper[1], lower[0], lower[1]]
}

/// The same in both rows of a window, whose columns have neighbouring lanes.
#[inline(always)]
pub fn pair_sums<T: Element, S: Simd<T>>(
    simd: S,
    taps: &Kernel<S::Vector>,
    points: &[T],
    bias: S::Vector,
) -> [S::Vector; POOL] {
    let [[upper], [lower]] = sums::<T, S, 1>(simd, taps, points, bias);
    [upper, lower]
}

/// Of each row of a window, both columns in a vector (`C` = 1) or each in one of its own.
#[inline(always)]
fn sums<T: Element, S: Simd<T>, const C: usize>(
    simd: S,
    taps: &Kernel<S::Vector>,
    points: &[T],
    bias: S::Vector,
) -> [[S::Vector; C]; POOL] {
    let points = &points[..SPAN];
    // Below each other, they are `a + (b + c)` and `d + (b - c)`: `filtering::three::outputs`, but
    // in chains of products. With the bias in `b`, it costs nothing.
    let b = products::<T, S, C>(simd, taps, points, 1, Some([bias; C]));
    let c = products::<T, S, C>(simd, taps, points, 2, None);
    let (mut upper, mut lower) = (b, b);
    for column in 0..C {
        upper[column] = simd.add(b[column], c[column]);
        lower[column] = simd.sub(b[column], c[column]);
    }
    [products(simd, taps, points, 0, Some(upper)), products(simd, taps, points, 3, Some(lower))]
}

/// What the products at a point come to, and `start`.
#[inline(always)]
fn products<T: Element, S: Simd<T>, const C: usize>(
    simd: S,
    taps: &Kernel<S::Vector>,
    points: &[T],
    point: usize,
    start: Option<[S::Vector; C]>,
) -> [S::Vector; C] {
    let from_nothing = start.is_none();
    let mut sums = start.unwrap_or([simd.zero(); C]);
    for x in 0..TAPS {
        for column in 0..C {
            let at = point * COLUMNS + x + column;
            let pixel =
                if C == 1 { simd.splat_pair(&points[at..]) } else { simd.splat(points[at]) };
            sums[column] = if x == 0 && from_nothing {
                simd.mul(taps[point][x], pixel)
            } else {
                simd.mul_add(taps[point][x], pixel, sums[column])
            };
        }
    }
    sums
}
