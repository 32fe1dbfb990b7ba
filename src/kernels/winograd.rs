//! Convolution with 3x3 kernels in steps of 1, alone or with the 2x2 max pooling behind it, by
//! Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015): a tile of 2x2 outputs takes 16 products for each pair of channels in place of 36.
//!
//! A tile's 4x4 pixels become 16 points, each of which meets the kernel at the same point, summed over
//! the input channels; the sums become the tile's outputs. The products at one point of many tiles
//! are one product of matrices.
//!
//! Sums and differences of neighbouring pixels come before the products. Hence an infinite pixel may
//! make its whole tile NaN, and outputs that would be equal may differ by rounding.

use std::ops::Range;

use super::conv::{self, Finish, maximum};
use super::pack::{self, block};
use super::shape::{ConvPoolShape, ConvShape, POOL};
use super::simd::{Element, Simd, for_each_vector};
use super::tile::{Taps, convolve};
use super::walk::{Lattice, Pixels};

/// Outputs of a tile, in either direction.
const SIDE: usize = 2;

/// Pixels of a tile, in either direction.
const PATCH: usize = 4;

/// Taps of a kernel, in either direction.
const TAPS: usize = 3;

/// Points of a tile.
const POINTS: usize = PATCH * PATCH;

/// Most tiles that go from one stage to the next together: enough that each kernel at a point, once
/// it is in the L1 cache, serves some full tiles of sums.
const MOST_TILES: usize = 48;

/// Fewest, if there are so many: those of one full tile of sums.
const FEWEST_TILES: usize = 12;

/// Bytes of the points of the tiles that go together, so that they stay in the L2 cache.
const BYTES: usize = 1 << 18;

/// Whether this is the faster way: the shape is right, and there are channels enough that the products
/// saved outweigh the sums before and after them.
pub fn supports(shape: &ConvShape) -> bool {
    let (_, _, c_in) = shape.input();
    let c_out = shape.c_out();
    shape.window() == (TAPS, TAPS)
        && shape.strides() == (1, 1)
        && c_in.saturating_mul(c_out) / (c_in + c_out).max(1) >= FEWEST_CHANNELS
}

/// Fewest channels, if both sides have twice as many.
const FEWEST_CHANNELS: usize = 8;

/// From one point to the next in the packed kernel. Where the stride of 16 stores were a power of
/// two, they would all meet in one set of the cache.
fn point_len<T>(shape: &ConvShape) -> usize {
    let (_, _, c_in) = shape.input();
    pack::packed_len::<T>(c_in, shape.c_out()) + block::<T>()
}

/// Elements of a kernel packed by [`winograd_pack`].
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

/// Takes a kernel (3, 3, c_in, c_out) to the points. `kernel` is packed as by
/// [`pack_taps`](super::pack::pack_taps); at each point, so is the result, (c_in, c_out).
#[inline(always)]
pub fn winograd_pack<T: Element, S: Simd<T>>(
    simd: S,
    packed: &mut [T],
    kernel: &[T],
    shape: &ConvShape,
) {
    assert_eq!(packed.len(), packed_len::<T>(shape), "packed length");
    let (_, _, c_in) = shape.input();
    let (taps, c_out) = (shape.taps(), shape.c_out());
    assert_eq!(kernel.len(), pack::packed_len::<T>(taps, c_out), "packed kernel length");
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

/// As [`conv_forward`](super::conv::conv_forward), with a kernel from [`winograd_pack`] and
/// [`scratch_len`] elements of workspace.
#[inline(always)]
pub fn winograd_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    packed: &[T],
    bias: Option<&[T]>,
    relu: bool,
    scratch: &mut [T],
    shape: &ConvShape,
    n: usize,
) {
    assert_eq!(Some(out.len()), n.checked_mul(shape.output_len()), "output length");
    let (out_h, out_w, _) = shape.output();
    let finish = Finish { bias, relu };
    let mut output = Plain { out, finish, shape };
    let tiles = [n, out_h.div_ceil(SIDE), out_w.div_ceil(SIDE)];
    run(simd, &mut output, x, packed, scratch, shape, tiles);
}

/// As [`conv_pool_forward`](super::conv::conv_pool_forward), with a kernel from [`winograd_pack`] and
/// [`scratch_len`] elements of workspace.
#[inline(always)]
pub fn winograd_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    packed: &[T],
    bias: Option<&[T]>,
    relu: bool,
    scratch: &mut [T],
    shape: &ConvPoolShape,
    n: usize,
) {
    const { assert!(SIDE == POOL, "a tile is a pooling window") };
    assert_eq!(Some(out.len()), n.checked_mul(shape.pool().output_len()), "output length");
    assert_eq!(argmax.len(), out.len(), "argmax length");
    let (out_h, out_w, c_out) = shape.pool().output();
    let mut output = Pooled { out, argmax, finish: Finish { bias, relu }, c_out };
    run(simd, &mut output, x, packed, scratch, shape.conv(), [n, out_h, out_w]);
}

/// A tile, and its number among all.
#[derive(Clone, Copy, Debug)]
struct Tile {
    number: usize,
    image: usize,
    i: usize,
    j: usize,
}

impl Tile {
    /// The next one, where there are so many below and beside each other.
    #[inline(always)]
    fn following(mut self, rows: usize, columns: usize) -> Self {
        self.number += 1;
        self.j += 1;
        if self.j == columns {
            (self.j, self.i) = (0, self.i + 1);
        }
        if self.i == rows {
            (self.i, self.image) = (0, self.image + 1);
        }
        self
    }
}

/// What becomes of the outputs.
trait Output<T: Element> {
    /// What to do with the outputs of `lanes` channels from `o`.
    fn writer<S: Simd<T>>(
        &mut self,
        simd: S,
        o: usize,
        lanes: usize,
    ) -> impl FnMut(Tile, [[S::Vector; SIDE]; SIDE]);
}

/// Each for itself.
struct Plain<'a, T> {
    out: &'a mut [T],
    finish: Finish<'a, T>,
    shape: &'a ConvShape,
}

impl<T: Element> Output<T> for Plain<'_, T> {
    #[inline(always)]
    fn writer<S: Simd<T>>(
        &mut self,
        simd: S,
        o: usize,
        lanes: usize,
    ) -> impl FnMut(Tile, [[S::Vector; SIDE]; SIDE]) {
        let (out_h, out_w, c_out) = self.shape.output();
        let finish = self.finish.channels(simd, o, lanes);
        #[inline(always)]
        move |tile, sums| {
            for y in 0..SIDE.min(out_h - SIDE * tile.i) {
                let row = (tile.image * out_h + SIDE * tile.i + y) * out_w + SIDE * tile.j;
                for x in 0..SIDE.min(out_w - SIDE * tile.j) {
                    let out = &mut self.out[(row + x) * c_out + o..][..lanes];
                    simd.store_up_to(finish(sums[y][x]), out);
                }
            }
        }
    }
}

/// Their maximum, which is that of a pooling window.
struct Pooled<'a, T> {
    out: &'a mut [T],
    argmax: &'a mut [T],
    finish: Finish<'a, T>,
    c_out: usize,
}

impl<T: Element> Output<T> for Pooled<'_, T> {
    #[inline(always)]
    fn writer<S: Simd<T>>(
        &mut self,
        simd: S,
        o: usize,
        lanes: usize,
    ) -> impl FnMut(Tile, [[S::Vector; SIDE]; SIDE]) {
        let finish = self.finish.channels(simd, o, lanes);
        #[inline(always)]
        move |tile, [[a, b], [c, d]]| {
            let (max, at) = maximum(simd, &[a, b, c, d]);
            let start = tile.number * self.c_out + o;
            simd.store_up_to(finish(max), &mut self.out[start..start + lanes]);
            simd.store_up_to(at, &mut self.argmax[start..start + lanes]);
        }
    }
}

/// All tiles: `counts` are images, and tiles below and beside each other.
#[inline(always)]
fn run<T: Element, S: Simd<T>, O: Output<T>>(
    simd: S,
    output: &mut O,
    x: &[T],
    packed: &[T],
    scratch: &mut [T],
    shape: &ConvShape,
    counts: [usize; 3],
) {
    let [n, rows, columns] = counts;
    assert_eq!(Some(x.len()), n.checked_mul(shape.padded_len()), "input length");
    assert_eq!(packed.len(), packed_len::<T>(shape), "packed kernel length");
    assert_eq!(scratch.len(), scratch_len::<T>(shape, n), "scratch length");
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
        for (t, place) in places.iter_mut().enumerate() {
            *place = next;
            before.set(simd, t, x, shape, next);
            next = next.following(rows, columns);
        }
        for (point, packed) in packed.chunks_exact(point_len::<T>(shape)).enumerate() {
            let packed = &packed[..pack::packed_len::<T>(c_in, c_out)];
            multiply(simd, after.at(point), before.at(point), packed, [places.len(), c_in, c_out]);
        }
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

    /// Sets tile `t` from the padded images `x`. Of pixels beyond the image, which no output that is
    /// kept depends on, the nearest ones take the place.
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

/// The points of some pixels in a row, or in a column.
#[inline(always)]
fn pixel_points<T: Element, S: Simd<T>>(simd: S, d: [S::Vector; PATCH]) -> [S::Vector; PATCH] {
    [simd.sub(d[0], d[2]), simd.add(d[1], d[2]), simd.sub(d[2], d[1]), simd.sub(d[1], d[3])]
}

/// Those of some taps.
#[inline(always)]
fn kernel_points<T: Element, S: Simd<T>>(
    simd: S,
    g: [S::Vector; TAPS],
    half: S::Vector,
) -> [S::Vector; PATCH] {
    let ends = simd.add(g[0], g[2]);
    let (sum, difference) = (simd.add(ends, g[1]), simd.sub(ends, g[1]));
    [g[0], simd.mul(sum, half), simd.mul(difference, half), g[2]]
}

/// The outputs from the products at the points.
#[inline(always)]
fn outputs<T: Element, S: Simd<T>>(simd: S, m: [S::Vector; PATCH]) -> [S::Vector; SIDE] {
    [simd.add(simd.add(m[0], m[1]), m[2]), simd.sub(simd.sub(m[1], m[2]), m[3])]
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::pack::{pack_taps, pad};
    use crate::kernels::reference;
    use crate::kernels::shape::Padding;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    /// Sums and differences come first: the products' factors are up to 4 and 9/4 times as large, and
    /// nine sums of them are added.
    pub const GROWTH: usize = 4;

    /// Numbers of channels around every vector's and block's, of tiles around every group's, and both
    /// kinds of leftover.
    pub fn shapes() -> Vec<(ConvShape, usize)> {
        let sizes = [(3, 3), (4, 4), (4, 7), (6, 5), (9, 8), (13, 13), (18, 17)];
        let channels = [(1, 1), (3, 17), (8, 16), (12, 31), (16, 32), (17, 33), (33, 65), (64, 8)];
        let mut shapes = vec![];
        for (i, (h, w)) in sizes.into_iter().enumerate() {
            for (j, (c_in, c_out)) in channels.into_iter().enumerate() {
                let padding = if (i + j) % 2 == 0 { Padding::Valid } else { Padding::Same };
                let shape = ConvShape::new((h, w, c_in), (3, 3), (1, 1), padding, c_out).unwrap();
                shapes.push((shape, [1, 3][(i + j / 2) % 2]));
            }
        }
        shapes.push((ConvShape::valid((5, 5, 200), (3, 3), 300).unwrap(), 4));
        shapes
    }

    fn equals_reference<T: Element>() {
        for (shape, n) in shapes() {
            let (c_out, terms) = (shape.c_out(), GROWTH * shape.taps());
            let x: Vec<T> = random(n * shape.input_len(), 1);
            let kernel: Vec<T> = random(shape.kernel_len(), 2);
            let bias: Vec<T> = random(c_out, 3);
            let mut padded = vec![T::nan(); n * shape.padded_len()];
            pad(&mut padded, &x, shape.windows(), n);
            let mut taps = vec![T::nan(); pack::packed_len::<T>(shape.taps(), c_out)];
            pack_taps(&mut taps, &kernel, shape.taps(), c_out);
            let mut expected = vec![T::nan(); n * shape.output_len()];
            reference::conv_forward(&mut expected, &x, &kernel, &shape);
            let finish = |(i, &x): (usize, &T)| (x + bias[i % c_out]).max(T::zero());
            let expected_relu: Vec<T> = expected.iter().enumerate().map(finish).collect();

            for_each_level(|level| {
                let mut packed = vec![T::nan(); packed_len::<T>(&shape)];
                let mut scratch = vec![T::nan(); scratch_len::<T>(&shape, n)];
                let mut plain = vec![T::nan(); expected.len()];
                let mut out = plain.clone();
                dispatch!(T, level, simd => {
                    winograd_pack(simd, &mut packed, &taps, &shape);
                    let scratch = &mut scratch;
                    winograd_forward(simd, &mut plain, &padded, &packed, None, false, scratch, &shape, n);
                    let bias = Some(&bias[..]);
                    winograd_forward(simd, &mut out, &padded, &packed, bias, true, scratch, &shape, n);
                });
                assert_close(&plain, &expected, terms);
                assert_close(&out, &expected_relu, terms);

                let Ok(shape) = ConvPoolShape::new(shape) else { return };
                let mut max = vec![T::nan(); n * shape.pool().output_len()];
                let mut at = max.clone();
                dispatch!(T, level, simd => {
                    winograd_pool_forward(
                        simd, &mut max, &mut at, &padded, &packed, None, false, &mut scratch, &shape, n,
                    )
                });
                let (maxima, positions) = conv::tests::pooled(&plain, &shape);
                assert_eq!(max, maxima);
                assert_eq!(at, positions);
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
    fn an_image_does_not_depend_on_those_beside_it() {
        let shape = ConvShape::valid((9, 7, 16), (3, 3), 32).unwrap();
        let n = 7;
        let x: Vec<f32> = random(n * shape.input_len(), 1);
        let taps: Vec<f32> = random(pack::packed_len::<f32>(shape.taps(), 32), 2);
        for_each_level(|level| {
            let mut packed = vec![f32::NAN; packed_len::<f32>(&shape)];
            let mut together = vec![f32::NAN; n * shape.output_len()];
            let mut alone = together.clone();
            dispatch!(f32, level, simd => {
                winograd_pack(simd, &mut packed, &taps, &shape);
                let mut scratch = vec![f32::NAN; scratch_len::<f32>(&shape, n)];
                winograd_forward(
                    simd, &mut together, &x, &packed, None, false, &mut scratch, &shape, n,
                );
                let images = x.chunks_exact(shape.input_len());
                for (out, x) in alone.chunks_exact_mut(shape.output_len()).zip(images) {
                    let mut scratch = vec![f32::NAN; scratch_len::<f32>(&shape, 1)];
                    winograd_forward(simd, out, x, &packed, None, false, &mut scratch, &shape, 1);
                }
            });
            assert_eq!(together, alone);
        });
    }

    #[test]
    fn other_shapes_are_not_supported() {
        let supports = |window, strides, c_in, c_out| {
            let shape = ConvShape::new((9, 9, c_in), window, strides, Padding::Same, c_out);
            supports(&shape.unwrap())
        };
        assert!(supports((3, 3), (1, 1), 32, 64));
        assert!(supports((3, 3), (1, 1), 16, 16));
        assert!(!supports((3, 3), (1, 1), 1, 64));
        assert!(!supports((3, 3), (1, 2), 32, 64));
        assert!(!supports((5, 5), (1, 1), 32, 64));
    }
}
