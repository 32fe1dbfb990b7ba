//! Convolution in steps of 1, alone or with the 2x2 max pooling behind it, by Winograd's minimal
//! filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): of 3x3
//! kernels in both directions, of kernels with five rows down the columns.
//!
//! Sums and differences of neighbouring pixels come before the products. Hence an infinite pixel
//! may make its whole tile NaN, and outputs that would be equal may differ by rounding.

use super::conv::{self, Finish, maximum};
use super::pack;
use super::shape::{ConvPoolShape, ConvShape, POOL};
use super::simd::{Element, Simd};

mod rows;
mod square;

/// Outputs of a tile, in either direction.
const SIDE: usize = 2;

/// The ways that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Square,
    Rows,
}

impl Way {
    /// The one that is made for the shape, if there is one.
    fn of(shape: &ConvShape) -> Option<Self> {
        match (shape.window(), shape.strides()) {
            ((3, 3), (1, 1)) => Some(Self::Square),
            ((5, _), (1, 1)) => Some(Self::Rows),
            _ => None,
        }
    }

    /// Whether the products saved outweigh the sums before and after them.
    fn pays(self, shape: &ConvShape) -> bool {
        let ((_, _, c_in), c_out) = (shape.input(), shape.c_out());
        match self {
            Self::Square => {
                c_in.saturating_mul(c_out) / c_in.saturating_add(c_out) >= FEWEST_CHANNELS
            }
            Self::Rows => shape.run() >= SHORTEST_RUN,
        }
    }
}

/// Fewest channels for the first way, if both sides have twice as many.
const FEWEST_CHANNELS: usize = 8;

/// Fewest taps in a row of the kernel, for the second.
const SHORTEST_RUN: usize = 24;

/// Whether this is the faster way: the shape is right, and there are channels enough.
pub fn supports(shape: &ConvShape) -> bool {
    Way::of(shape).is_some_and(|way| way.pays(shape))
}

/// `for_way!(shape, way => expression)`: evaluates the expression with the module of the shape's
/// way.
macro_rules! for_way {
    ($shape:expr, $way:ident => $body:expr) => {
        match Way::of($shape) {
            Some(Way::Square) => {
                use square as $way;
                $body
            }
            Some(Way::Rows) => {
                use rows as $way;
                $body
            }
            None => panic!("expected a supported shape, got {:?}", $shape),
        }
    };
}

/// Elements of a kernel packed by [`winograd_pack`].
pub fn packed_len<T>(shape: &ConvShape) -> usize {
    for_way!(shape, way => way::packed_len::<T>(shape))
}

/// Elements of workspace for `n` images.
pub fn scratch_len<T>(shape: &ConvShape, n: usize) -> usize {
    for_way!(shape, way => way::scratch_len::<T>(shape, n))
}

/// Takes a kernel (kh, kw, c_in, c_out), packed as by [`pack_taps`](super::pack::pack_taps), to the
/// points.
#[inline(always)]
pub fn winograd_pack<T: Element, S: Simd<T>>(
    simd: S,
    packed: &mut [T],
    kernel: &[T],
    shape: &ConvShape,
) {
    assert_eq!(packed.len(), packed_len::<T>(shape), "packed length");
    let len = pack::packed_len::<T>(shape.taps(), shape.c_out());
    assert_eq!(kernel.len(), len, "packed kernel length");
    for_way!(shape, way => way::pack(simd, packed, kernel, shape));
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
    let mut output = EachOutput { out, finish, shape };
    let tiles = [n, out_h.div_ceil(SIDE), out_w.div_ceil(SIDE)];
    run(simd, &mut output, x, packed, scratch, shape, tiles);
}

/// As [`conv_pool_forward`](super::conv::conv_pool_forward), with a kernel from [`winograd_pack`]
/// and [`scratch_len`] elements of workspace.
#[inline(always)]
pub fn winograd_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: Option<&mut [T]>,
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
    let (out_h, out_w, c_out) = shape.pool().output();
    let maxima = conv::Maxima::new(out, argmax);
    let mut output = Maxima { maxima, finish: Finish { bias, relu }, c_out };
    run(simd, &mut output, x, packed, scratch, shape.conv(), [n, out_h, out_w]);
}

/// Elements of workspace for the kernel's gradient, or none if this is not the faster way for `n`
/// images.
pub fn gradient_scratch_len<T>(shape: &ConvShape, n: usize) -> Option<usize> {
    let (out_h, out_w, _) = shape.output();
    let tiles = n.saturating_mul(out_h.div_ceil(SIDE)).saturating_mul(out_w.div_ceil(SIDE));
    let pays = Way::of(shape) == Some(Way::Square)
        && supports(shape)
        && tiles >= square::gradient::FEWEST_TILES;
    pays.then(|| square::gradient::scratch_len::<T>(shape))
}

/// As [`conv_backward_kernel`](super::conv_backward::conv_backward_kernel), with
/// [`gradient_scratch_len`] elements of workspace.
#[inline(always)]
pub fn winograd_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    x: &[T],
    scratch: &mut [T],
    shape: &ConvShape,
    n: usize,
) {
    assert_eq!(d_kernel.len(), shape.kernel_len(), "kernel gradient length");
    assert_eq!(Some(d_out.len()), n.checked_mul(shape.output_len()), "output gradient length");
    assert_eq!(Some(x.len()), n.checked_mul(shape.padded_len()), "input length");
    assert_eq!(Some(scratch.len()), gradient_scratch_len::<T>(shape, n), "scratch length");
    let (out_h, out_w, _) = shape.output();
    let tiles = [n, out_h.div_ceil(SIDE), out_w.div_ceil(SIDE)];
    square::gradient::run(simd, d_kernel, d_out, x, scratch, shape, tiles);
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
struct EachOutput<'a, T> {
    out: &'a mut [T],
    finish: Finish<'a, T>,
    shape: &'a ConvShape,
}

impl<T: Element> Output<T> for EachOutput<'_, T> {
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
struct Maxima<'a, T> {
    maxima: conv::Maxima<'a, T>,
    finish: Finish<'a, T>,
    c_out: usize,
}

impl<T: Element> Output<T> for Maxima<'_, T> {
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
            let (max, at) = maximum::<T, S, false>(simd, [a, b, c, d]);
            let start = tile.number * self.c_out + o;
            self.maxima.store(simd, finish(max), at, start..start + lanes);
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
    let [n, ..] = counts;
    assert_eq!(Some(x.len()), n.checked_mul(shape.padded_len()), "input length");
    assert_eq!(packed.len(), packed_len::<T>(shape), "packed kernel length");
    assert_eq!(scratch.len(), scratch_len::<T>(shape, n), "scratch length");
    for_way!(shape, way => way::run(simd, output, x, packed, scratch, shape, counts));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::conv::tests::{bits, pooled, with_ties};
    use crate::kernels::pack::{pack_taps, pad};
    use crate::kernels::reference;
    use crate::kernels::shape::Padding;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    /// The gradients of kernels whose tiles are enough.
    fn gradients_equal_reference<T: Element>() {
        let mut supported = 0;
        for (shape, n) in shapes() {
            let rows = shape.output().0;
            let n = n.max(square::gradient::FEWEST_TILES.div_ceil(rows));
            let Some(scratch_len) = gradient_scratch_len::<T>(&shape, n) else { continue };
            supported += 1;
            let x: Vec<T> = random(n * shape.input_len(), 1);
            let d_out: Vec<T> = random(n * shape.output_len(), 2);
            let mut padded = vec![T::nan(); n * shape.padded_len()];
            pad(&mut padded, &x, shape.windows(), n);
            let mut expected = vec![T::nan(); shape.kernel_len()];
            reference::conv_backward_kernel(&mut expected, &d_out, &x, &shape);
            for_each_level(|level| {
                let mut d_kernel = vec![T::nan(); expected.len()];
                let mut scratch = vec![T::nan(); scratch_len];
                dispatch!(T, level, simd => {
                    winograd_backward_kernel(
                        simd, &mut d_kernel, &d_out, &padded, &mut scratch, &shape, n,
                    )
                });
                let terms = d_out.len() / shape.c_out();
                assert_close(&d_kernel, &expected, growth(&shape) * terms);
            });
        }
        assert!(supported > 15, "{supported}");
    }

    #[test]
    fn gradients_equal_reference_f32() {
        gradients_equal_reference::<f32>();
    }

    #[test]
    fn gradients_equal_reference_f64() {
        gradients_equal_reference::<f64>();
    }

    /// How much larger rounding may be than that of the direct sum. Sums and differences come
    /// first: of the square way, factors are up to 4 and 9/4 times as large, and nine sums of them
    /// are added; of the other way, the six products' factors come to 60 where the direct sum has
    /// five.
    pub fn growth(shape: &ConvShape) -> usize {
        match Way::of(shape) {
            Some(Way::Square) => 4,
            Some(Way::Rows) => 12,
            None => panic!("expected a supported shape, got {shape:?}"),
        }
    }

    /// Numbers of channels around every vector's and block's, of tiles around every group's, and
    /// both kinds of leftover.
    pub fn shapes() -> Vec<(ConvShape, usize)> {
        let sizes = [(3, 3), (4, 4), (4, 7), (6, 5), (9, 8), (13, 13), (18, 17)];
        let channels = [(1, 1), (3, 17), (8, 16), (12, 31), (16, 32), (17, 33), (33, 65), (64, 8)];
        let mut shapes = vec![];
        for (i, (h, w)) in sizes.into_iter().enumerate() {
            for (j, (c_in, c_out)) in channels.into_iter().enumerate() {
                let padding = if (i + j) % 2 == 0 { Padding::Valid } else { Padding::Same };
                let n = [1, 3][(i + j / 2) % 2];
                for (kh, kw) in [(3, 3), (5, [1, 2, 3, 5][j % 4])] {
                    let input = (h.max(kh), w.max(kw), c_in);
                    let shape = ConvShape::new(input, (kh, kw), (1, 1), padding, c_out).unwrap();
                    shapes.push((shape, n));
                }
            }
        }
        shapes.push((ConvShape::valid((5, 5, 200), (3, 3), 300).unwrap(), 4));
        shapes.push((ConvShape::valid((9, 7, 120), (5, 5), 150).unwrap(), 4));
        // Many strips go together, and the pooling drops a column.
        shapes.push((ConvShape::valid((7, 7, 5), (5, 5), 7).unwrap(), 60));
        shapes
    }

    fn equals_reference<T: Element>() {
        for (shape, n) in shapes() {
            let (c_out, terms) = (shape.c_out(), growth(&shape) * shape.taps());
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
                let (maxima, positions) = pooled(&plain, &shape);
                let mut pool = |at: Option<&mut [T]>, x: &[T]| {
                    let (mut max, scratch) = (vec![T::nan(); maxima.len()], &mut scratch);
                    dispatch!(T, level, simd => {
                        winograd_pool_forward(
                            simd, &mut max, at, x, &packed, None, false, scratch, &shape, n,
                        )
                    });
                    max
                };
                let mut at = vec![T::nan(); maxima.len()];
                assert_eq!(pool(Some(&mut at), &padded), maxima);
                assert_eq!(at, positions);
                for x in [&padded, &with_ties(&padded)] {
                    assert_eq!(bits(&pool(None, x)), bits(&pool(Some(&mut at), x)));
                }
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
        for window in [(3, 3), (5, 5)] {
            independent(ConvShape::valid((9, 7, 16), window, 32).unwrap(), 7);
        }
    }

    fn independent(shape: ConvShape, n: usize) {
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
    fn sizes_do_not_overflow() {
        let shape = ConvShape::valid((5, 1 << 27, 8), (5, 5), 1 << 32).unwrap();
        assert!(scratch_len::<f64>(&shape, 1) > 1 << 59);
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
        assert!(supports((5, 5), (1, 1), 6, 16));
        assert!(supports((5, 1), (1, 1), 24, 1));
        assert!(!supports((5, 5), (1, 1), 4, 64));
        assert!(!supports((5, 5), (2, 1), 32, 64));
        assert!(!supports((4, 4), (1, 1), 32, 64));
    }
}
