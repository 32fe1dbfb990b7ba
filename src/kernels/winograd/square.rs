//! F(2x2, 3x3): a tile of 2x2 outputs takes 16 products for each pair of channels in place of 36.
//!
//! A tile's 4x4 pixels become 16 points, each of which meets the kernel at the same point, summed
//! over the input channels; the sums become the tile's outputs. The products at one point of many
//! tiles are one product of matrices.

use std::ops::Range;

use super::{Output, SIDE, Tile};
use crate::kernels::conv;
use crate::kernels::filtering::three::{self, TAPS, kernel_points, outputs, pixel_points};
use crate::kernels::pack::{block, packed_len as matrix_len};
use crate::kernels::shape::ConvShape;
use crate::kernels::simd::{Element, Simd, for_each_vector};
use crate::kernels::tile::{Taps, convolve};
use crate::kernels::walk::{Lattice, Pixels};

pub mod gradient;

/// Pixels of a tile, in either direction, and points.
const PATCH: usize = three::POINTS;

/// Points of a tile.
const POINTS: usize = PATCH * PATCH;

/// Most tiles that go from one stage to the next together: enough that each kernel at a point, once
/// it is in the L1 cache, serves some full tiles of sums.
const MOST_TILES: usize = 48;

/// Fewest, if there are so many: those of one full tile of sums.
const FEWEST_TILES: usize = 12;

/// Bytes of the points of the tiles that go together, so that they stay in the L2 cache.
const BYTES: usize = 1 << 18;

/// From one point to the next in the packed kernel. Where the stride of 16 stores were a power of
/// two, they would all meet in one set of the cache.
fn point_len<T>(shape: &ConvShape) -> usize {
    let (_, _, c_in) = shape.input();
    matrix_len::<T>(c_in, shape.c_out()) + block::<T>()
}

/// Elements of a kernel packed by [`pack`].
pub fn packed_len<T>(shape: &ConvShape) -> usize {
    POINTS * point_len::<T>(shape)
}

/// Tiles that go together, of `tiles`.
fn group<T>(shape: &ConvShape, tiles: usize) -> usize {
    let (_, _, c_in) = shape.input();
    let fitting = BYTES / (POINTS * (c_in + shape.c_out()) * size_of::<T>());
    let fitting = (fitting / FEWEST_TILES * FEWEST_TILES).clamp(FEWEST_TILES, MOST_TILES);
    fitting.min(tiles)
}

/// Elements of workspace for `n` images.
pub fn scratch_len<T>(shape: &ConvShape, n: usize) -> usize {
    let (out_h, out_w, c_out) = shape.output();
    let (_, _, c_in) = shape.input();
    let tiles = n.saturating_mul(out_h.div_ceil(SIDE)).saturating_mul(out_w.div_ceil(SIDE));
    let group = group::<T>(shape, tiles);
    POINTS * (step::<T>(group, c_in) + step::<T>(group, c_out))
}

/// See [`winograd_pack`](super::winograd_pack); at each point, the result is packed as (c_in,
/// c_out).
#[inline(always)]
pub fn pack<T: Element, S: Simd<T>>(simd: S, packed: &mut [T], kernel: &[T], shape: &ConvShape) {
    let (_, _, c_in) = shape.input();
    let taps = shape.taps();
    let (point_len, block) = (point_len::<T>(shape), block::<T>());
    let half = simd.splat(T::from_f64(0.5));
    for (b, kernel) in kernel.chunks_exact((taps * block).max(1)).enumerate() {
        for c in 0..c_in {
            for lanes in (0..block).step_by(S::LANES) {
                let mut columns = [[simd.zero(); PATCH]; TAPS];
                for x in 0..TAPS {
                    let mut taps = [simd.zero(); TAPS];
                    for y in 0..TAPS {
                        taps[y] = simd.load(&kernel[((y * TAPS + x) * c_in + c) * block + lanes..]);
                    }
                    columns[x] = kernel_points(simd, taps, half);
                }
                for y in 0..PATCH {
                    let points =
                        kernel_points(simd, [columns[0][y], columns[1][y], columns[2][y]], half);
                    for x in 0..PATCH {
                        let at = (y * PATCH + x) * point_len + (b * c_in + c) * block + lanes;
                        simd.store(points[x], &mut packed[at..]);
                    }
                }
            }
        }
    }
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
    counts: [usize; 3],
) {
    let [n, rows, columns] = counts;
    let (_, _, c_in) = shape.input();
    let c_out = shape.c_out();
    let tiles = n * rows * columns;
    let group = group::<T>(shape, tiles);
    let (before, after) = scratch.split_at_mut(POINTS * step::<T>(group, c_in));
    let mut before = Points { x: before, tiles: group, channels: c_in };
    let mut after =
        Points { x: &mut after[..POINTS * step::<T>(group, c_out)], tiles: group, channels: c_out };
    let mut next = Tile { number: 0, image: 0, i: 0, j: 0 };
    let mut places = [next; MOST_TILES];
    for start in (0..tiles).step_by(group.max(1)) {
        let places = &mut places[..group.min(tiles - start)];
        for place in &mut *places {
            *place = next;
            next = next.following(rows, columns);
        }
        products(simd, &mut before, &mut after, x, packed, shape, places);
        for_each_vector(
            simd,
            c_out,
            #[inline(always)]
            |channels| {
                let mut write = output.writer(simd, channels.start, channels.len());
                for (t, &place) in places.iter().enumerate() {
                    write(place, after.sums(simd, t, &channels));
                }
            },
        );
    }
}

/// The products of some tiles at all points. A function of its own: all that becomes of them shares
/// it.
#[inline(always)]
fn products<T: Element, S: Simd<T>>(
    simd: S,
    before: &mut Points<T>,
    after: &mut Points<T>,
    x: &[T],
    packed: &[T],
    shape: &ConvShape,
    places: &[Tile],
) {
    simd.outlined(
        #[inline(always)]
        |simd| {
            before.set_all(simd, x, shape, places);
            let (tiles, c_in, c_out) = (places.len(), before.channels, after.channels);
            for (point, packed) in packed.chunks_exact(point_len::<T>(shape)).enumerate() {
                let packed = &packed[..matrix_len::<T>(c_in, c_out)];
                multiply(simd, after.at(point), before.at(point), packed, [tiles, c_in, c_out]);
            }
        },
    );
}

/// From one point of some tiles to the next; never a power of two, as for the kernel.
fn step<T>(tiles: usize, channels: usize) -> usize {
    (tiles * channels).next_multiple_of(2 * block::<T>()) + block::<T>()
}

/// All points of some tiles: (points, tiles, channels), with a step from point to point.
struct Points<'a, T> {
    x: &'a mut [T],
    tiles: usize,
    channels: usize,
}

impl<T: Element> Points<'_, T> {
    /// All tiles at one point.
    #[inline(always)]
    fn at(&mut self, point: usize) -> &mut [T] {
        let step = step::<T>(self.tiles, self.channels);
        &mut self.x[point * step..][..self.tiles * self.channels]
    }

    /// Where a vector of `channels` of tile `t` lies at the first point.
    #[inline(always)]
    fn place(&self, t: usize, channels: &Range<usize>) -> Range<usize> {
        assert!(t < self.tiles && channels.end <= self.channels, "a tile and its channels");
        assert_eq!(self.x.len(), POINTS * step::<T>(self.tiles, self.channels), "all points");
        t * self.channels + channels.start..t * self.channels + channels.end
    }

    /// Sets the first tiles, those at `places`, from the padded images `x`.
    #[inline(always)]
    fn set_all<S: Simd<T>>(&mut self, simd: S, x: &[T], shape: &ConvShape, places: &[Tile]) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                for (t, &place) in places.iter().enumerate() {
                    self.set(simd, t, x, shape, place);
                }
            },
        );
    }

    /// Sets tile `t` from the padded images `x`. Of pixels beyond the image, which no output that
    /// is kept depends on, the nearest ones take the place.
    #[inline(always)]
    fn set<S: Simd<T>>(&mut self, simd: S, t: usize, x: &[T], shape: &ConvShape, tile: Tile) {
        let (h, w, c) = shape.windows().padded();
        let step = step::<T>(self.tiles, c);
        let (mut rows, mut columns) = ([0; PATCH], [0; PATCH]);
        for at in 0..PATCH {
            rows[at] = (tile.image * h + (SIDE * tile.i + at).min(h - 1)) * w * c;
            columns[at] = (SIDE * tile.j + at).min(w - 1) * c;
        }
        assert!(rows[PATCH - 1] + columns[PATCH - 1] + c <= x.len(), "a patch inside the images");
        for_each_vector(
            simd,
            c,
            #[inline(always)]
            |channels| {
                let first = self.place(t, &channels);
                let mut points = [[simd.zero(); PATCH]; PATCH];
                for column in 0..PATCH {
                    let mut d = [simd.zero(); PATCH];
                    for y in 0..PATCH {
                        let pixel = rows[y] + columns[column];
                        // SAFETY: the last row and column are the largest, and the assertion above.
                        let x = unsafe {
                            x.get_unchecked(pixel + channels.start..pixel + channels.end)
                        };
                        d[y] = simd.load_up_to(x);
                    }
                    points[column] = pixel_points(simd, d);
                }
                let [a, b, c, d] = points;
                for y in 0..PATCH {
                    let points = pixel_points(simd, [a[y], b[y], c[y], d[y]]);
                    for column in 0..PATCH {
                        let at = (y * PATCH + column) * step;
                        // SAFETY: `place` says that it is a tile, and that there are all points.
                        let out =
                            unsafe { self.x.get_unchecked_mut(at + first.start..at + first.end) };
                        simd.store_up_to(points[column], out);
                    }
                }
            },
        );
    }

    /// The outputs of tile `t` for a vector of channels.
    #[inline(always)]
    fn sums<S: Simd<T>>(
        &self,
        simd: S,
        t: usize,
        channels: &Range<usize>,
    ) -> [[S::Vector; SIDE]; SIDE] {
        let (first, step) = (self.place(t, channels), step::<T>(self.tiles, self.channels));
        let mut columns = [[simd.zero(); SIDE]; PATCH];
        for column in 0..PATCH {
            let mut m = [simd.zero(); PATCH];
            for y in 0..PATCH {
                let at = (y * PATCH + column) * step;
                // SAFETY: `place` says that it is a tile, and that there are all points.
                let x = unsafe { self.x.get_unchecked(at + first.start..at + first.end) };
                m[y] = simd.load_up_to(x);
            }
            columns[column] = outputs(simd, m);
        }
        let [a, b, c, d] = columns;
        let mut sums = [[simd.zero(); SIDE]; SIDE];
        for y in 0..SIDE {
            sums[y] = outputs(simd, [a[y], b[y], c[y], d[y]]);
        }
        sums
    }
}

/// `out[t, o] = sum over c of x[t, c] * packed[c, o]` for the first of the tiles.
#[inline(always)]
fn multiply<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    packed: &[T],
    [tiles, c_in, c_out]: [usize; 3],
) {
    let along = |c| Lattice { start: 0, steps: [tiles * c, tiles * c, c] };
    let pixels = Pixels::new([1, 1, tiles], along(c_in), along(c_out));
    let taps = Taps { rows: 1, run: c_in, step: c_in };
    let mut sink = conv::Plain { out, finish: None, c_out };
    convolve(simd, &mut sink, x, packed, taps, &pixels);
}
