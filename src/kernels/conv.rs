//! Convolution (cross-correlation, as everywhere in deep learning), alone or with the 2x2 max pooling
//! behind it.
//!
//! One tile does it all: the sums of some output pixels for some vectors of channels stay in
//! registers, while a walk over the taps loads each vector of the packed kernel once for all the
//! pixels, and one element of every pixel for all the vectors. The pixels may lie anywhere, so that
//! tiles cross rows and images. A block of the kernel stays in the L1 cache while all the pixels pass.

use super::pack::{block, packed_len};
use super::shape::{ConvPoolShape, ConvShape, POOL};
use super::simd::{Element, Simd, for_channels};
use super::walk::{Lattice, Pixels, Place, Walk};

/// Pixels and vectors of the tile that fills 32 registers.
const PIXELS: usize = 12;
const VECTORS: usize = 2;

/// Pixels of the tile for what is left, and of the one that fills 16 registers.
const FEW_PIXELS: usize = 4;

/// Vectors of the tiles for few pixels or one, which every vector of the kernel serves only once.
const MANY_VECTORS: usize = 4;
const MOST_VECTORS: usize = 8;

/// Positions in a pooling window.
const POSITIONS: usize = POOL * POOL;

/// `out[i, j, o] = bias[o] + sum over y, x, c of x[sh * i + y, sw * j + x, c] * kernel[y, x, c, o]`
/// for each of `n` images; with `relu`, negative sums become 0.
///
/// `out` (n, out_h, out_w, c_out), `x` (n, padded h, padded w, c_in), `packed` the kernel
/// (kh, kw, c_in, c_out) from [`pack_taps`](super::pack::pack_taps), `bias` (c_out,).
#[inline(always)]
pub fn conv_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    packed: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvShape,
    n: usize,
) {
    assert_eq!(Some(out.len()), n.checked_mul(shape.output_len()), "output length");
    assert_eq!(Some(x.len()), n.checked_mul(shape.padded_len()), "input length");
    let (out_h, out_w, c_out) = shape.output();
    let pixels = Pixels::new(
        [n, out_h, out_w],
        Lattice { start: 0, steps: window_steps(shape) },
        Lattice::packed(shape.output()),
    );
    let mut sink = Plain { out, finish: Finish { bias, relu }, c_out };
    for_channels!(simd, T, S, c_out => match shape.with_constant_window() {
        Some(shape) => convolve(simd, &mut sink, x, packed, Taps::of(&shape), &pixels),
        None => convolve(simd, &mut sink, x, packed, Taps::of(shape), &pixels),
    });
}

/// A convolution and the 2x2 max pooling of its output, whose positions outside the pooling windows
/// are not computed: `out[i, j, o]` is the maximum over the window of `i, j` of
/// [`conv_forward`]'s, and `argmax[i, j, o]` the position (0 to 3, row by row) of the first maximum.
/// A NaN counts as the maximum, the last of several.
///
/// `out` and `argmax` (n, pooled h, pooled w, c_out), the others as for [`conv_forward`].
#[inline(always)]
pub fn conv_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    packed: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) {
    let (conv, pool) = (shape.conv(), shape.pool());
    assert_eq!(Some(out.len()), n.checked_mul(pool.output_len()), "output length");
    assert_eq!(argmax.len(), out.len(), "argmax length");
    assert_eq!(Some(x.len()), n.checked_mul(conv.padded_len()), "input length");
    let (out_h, out_w, c_out) = pool.output();
    let [image, row, column] = window_steps(conv);
    let pixels = Pixels::new(
        [n, out_h, out_w],
        Lattice { start: 0, steps: [image, POOL * row, POOL * column] },
        Lattice::packed(pool.output()),
    );
    let positions = [0, column, row, row + column];
    let mut sink = Pooled { out, argmax, finish: Finish { bias, relu }, c_out, positions };
    for_channels!(simd, T, S, c_out => match conv.with_constant_window() {
        Some(conv) => convolve(simd, &mut sink, x, packed, Taps::of(&conv), &pixels),
        None => convolve(simd, &mut sink, x, packed, Taps::of(conv), &pixels),
    });
}

/// From one image of the padded input to the next, and from one window to the next one below and
/// beside it.
#[inline(always)]
pub(super) fn window_steps(shape: &ConvShape) -> [usize; 3] {
    let (sh, sw) = shape.strides();
    let [image, row, column] = Lattice::packed(shape.windows().padded()).steps;
    [image, sh * row, sw * column]
}

/// What is summed for one output element: `rows` runs of neighbouring elements of the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    pub rows: usize,
    pub run: usize,
    /// From one run to the next.
    pub step: usize,
}

impl Taps {
    #[inline(always)]
    pub fn of(shape: &ConvShape) -> Self {
        let (_, w, c_in) = shape.windows().padded();
        Self { rows: shape.window().0, run: shape.run(), step: w * c_in }
    }
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.rows * self.run
    }
    /// From the first element to behind the last.
    #[inline(always)]
    pub fn reach(&self) -> usize {
        self.rows.saturating_sub(1) * self.step + self.run
    }
}

/// What happens to each sum on its way to the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish<'a, T> {
    /// (c_out,)
    pub bias: Option<&'a [T]>,
    pub relu: bool,
}

impl<T: Element> Finish<'_, T> {
    /// For the channels from `o`, as many of a vector as there are.
    #[inline(always)]
    fn apply<S: Simd<T>>(&self, simd: S, sum: S::Vector, o: usize) -> S::Vector {
        let sum = match self.bias {
            Some(bias) => simd.add(sum, simd.load_up_to(&bias[o..])),
            None => sum,
        };
        if self.relu {
            simd.select(simd.greater_or_nan(sum, simd.zero()), sum, simd.zero())
        } else {
            sum
        }
    }
}

/// Where the sums go.
pub(super) trait Sink<T: Element> {
    /// How many convolutions there are at each of the walk's places.
    const POSITIONS: usize;
    /// From the place to each of them, in the input.
    fn position(&self, n: usize) -> usize;
    fn c_out(&self) -> usize;
    /// Takes the sums at some places, for a vector of channels from `o`.
    fn write<S: Simd<T>>(&mut self, simd: S, sums: &[S::Vector], place: usize, o: usize);
}

/// Each sum for itself.
pub(super) struct Plain<'a, T> {
    pub out: &'a mut [T],
    pub finish: Finish<'a, T>,
    pub c_out: usize,
}

impl<T: Element> Sink<T> for Plain<'_, T> {
    const POSITIONS: usize = 1;

    #[inline(always)]
    fn position(&self, _: usize) -> usize {
        0
    }
    #[inline(always)]
    fn c_out(&self) -> usize {
        self.c_out
    }
    #[inline(always)]
    fn write<S: Simd<T>>(&mut self, simd: S, sums: &[S::Vector], place: usize, o: usize) {
        let end = self.c_out.min(o + S::LANES);
        simd.store_up_to(self.finish.apply(simd, sums[0], o), &mut self.out[place..][o..end]);
    }
}

/// The maximum of each pooling window.
struct Pooled<'a, T> {
    out: &'a mut [T],
    argmax: &'a mut [T],
    finish: Finish<'a, T>,
    c_out: usize,
    positions: [usize; POSITIONS],
}

impl<T: Element> Sink<T> for Pooled<'_, T> {
    const POSITIONS: usize = POSITIONS;

    #[inline(always)]
    fn position(&self, n: usize) -> usize {
        self.positions[n]
    }
    #[inline(always)]
    fn c_out(&self) -> usize {
        self.c_out
    }
    #[inline(always)]
    fn write<S: Simd<T>>(&mut self, simd: S, sums: &[S::Vector], place: usize, o: usize) {
        let (mut max, mut at) = (sums[0], simd.zero());
        for n in 1..POSITIONS {
            let larger = simd.greater_or_nan(sums[n], max);
            max = simd.select(larger, sums[n], max);
            at = simd.select(larger, simd.splat(T::from_f64(n as f64)), at);
        }
        let end = self.c_out.min(o + S::LANES);
        simd.store_up_to(self.finish.apply(simd, max, o), &mut self.out[place..][o..end]);
        simd.store_up_to(at, &mut self.argmax[place..][o..end]);
    }
}

/// Convolves at all places of `pixels`: from `x` into the sink.
///
/// `packed` is a packed kernel (taps, c_out).
#[inline(always)]
pub(super) fn convolve<T: Element, S: Simd<T>, O: Sink<T>>(
    simd: S,
    sink: &mut O,
    x: &[T],
    packed: &[T],
    taps: Taps,
    pixels: &Pixels,
) {
    let c_out = sink.c_out();
    assert_eq!(packed.len(), packed_len::<T>(taps.count(), c_out), "packed kernel length");
    let Some(last) = pixels.last() else { return };
    let reach = last.from + sink.position(O::POSITIONS - 1) + taps.reach();
    assert!(reach <= x.len(), "the last window ends inside the input");

    let count = O::POSITIONS * pixels.count();
    let large = S::SUMS >= PIXELS * VECTORS;
    let mut o = 0;
    while o < c_out {
        let vectors = (c_out - o).div_ceil(S::LANES);
        // SAFETY: the two assertions above, and there are at least as many vectors left as each
        // of these takes.
        let done = unsafe {
            if O::POSITIONS == 1 && count == 1 && vectors >= MOST_VECTORS {
                block_of_channels::<T, S, O, 1, 1, MOST_VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large && count <= 2 * FEW_PIXELS && vectors >= MANY_VECTORS {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, MANY_VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large && vectors >= VECTORS {
                block_of_channels::<T, S, O, PIXELS, FEW_PIXELS, VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large {
                block_of_channels::<T, S, O, PIXELS, FEW_PIXELS, 1>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if vectors >= VECTORS {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, 1>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            }
        };
        o += done * S::LANES;
    }
}

/// All places, for `V` vectors of channels from `o`: in tiles of `P` pixels and then of `FEW`.
/// Returns `V`.
///
/// # Safety
/// The assertions of [`convolve`], and `o` plus `V` vectors lie inside the packed channels.
#[inline(always)]
unsafe fn block_of_channels<
    T: Element,
    S: Simd<T>,
    O: Sink<T>,
    const P: usize,
    const FEW: usize,
    const V: usize,
>(
    simd: S,
    sink: &mut O,
    x: &[T],
    packed: &[T],
    taps: Taps,
    pixels: &Pixels,
    o: usize,
) -> usize {
    let channel = o / block::<T>() * block::<T>() * taps.count() + o % block::<T>();
    let weights = packed[channel..].as_ptr();
    let mut walk = pixels.walk();
    while walk.left() > 0 {
        // SAFETY: the caller's promise, and the walk's places lie before its last one.
        unsafe {
            if FEW < P && walk.left() * O::POSITIONS <= P - FEW {
                tile::<T, S, O, FEW, V>(simd, sink, x, weights, taps, &mut walk, o);
            } else {
                tile::<T, S, O, P, V>(simd, sink, x, weights, taps, &mut walk, o);
            }
        }
    }
    V
}

/// The next `P` pixels of the walk for `V` vectors of channels from `o`, whose weights begin at
/// `weights`.
///
/// # Safety
/// As for [`block_of_channels`].
#[inline(always)]
unsafe fn tile<T: Element, S: Simd<T>, O: Sink<T>, const P: usize, const V: usize>(
    simd: S,
    sink: &mut O,
    x: &[T],
    weights: *const T,
    taps: Taps,
    walk: &mut Walk,
    o: usize,
) {
    let mut places = [Place::default(); P];
    let places = &mut places[..P / O::POSITIONS];
    walk.take(places);
    let pixels: [usize; P] =
        std::array::from_fn(|p| places[p / O::POSITIONS].from + sink.position(p % O::POSITIONS));
    // SAFETY: the caller's promise.
    let sums = unsafe { sums::<T, S, P, V>(simd, x, &pixels, weights, taps) };
    for v in 0..V {
        let sums: [S::Vector; P] = std::array::from_fn(|p| sums[p][v]);
        for (place, sums) in places.iter().zip(sums.chunks_exact(O::POSITIONS)) {
            sink.write(simd, sums, place.to, o + v * S::LANES);
        }
    }
}

/// `sums[p][v] = sum over the taps of x[pixels[p] + tap] * weights[tap, v]`
///
/// # Safety
/// For each pixel, `taps.reach()` elements lie in `x`; `V` vectors of a packed kernel with `taps`
/// lie behind `weights`, which begins at a multiple of `V` vectors or of a block.
#[inline(always)]
unsafe fn sums<T: Element, S: Simd<T>, const P: usize, const V: usize>(
    simd: S,
    x: &[T],
    pixels: &[usize; P],
    weights: *const T,
    taps: Taps,
) -> [[S::Vector; V]; P] {
    let block = block::<T>();
    let channel: [usize; V] =
        std::array::from_fn(|v| v * S::LANES / block * block * taps.count() + v * S::LANES % block);
    // SAFETY: the caller's promise.
    let pixels = pixels.map(|p| unsafe { x.as_ptr().add(p) });
    let mut sums = [[simd.zero(); V]; P];
    let (mut at, mut tap) = (0, 0);
    for _ in 0..taps.rows {
        for _ in 0..taps.run {
            // SAFETY: the caller's promise.
            unsafe {
                let weights: [S::Vector; V] = std::array::from_fn(|v| {
                    let weights = weights.add(tap + channel[v]);
                    simd.load(std::slice::from_raw_parts(weights, S::LANES))
                });
                for p in 0..P {
                    let x = simd.splat(*pixels[p].add(at));
                    for v in 0..V {
                        sums[p][v] = simd.mul_add(x, weights[v], sums[p][v]);
                    }
                }
            }
            at += 1;
            tap += block;
        }
        at += taps.step - taps.run;
    }
    sums
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::pack::{pack_taps, pad};
    use crate::kernels::reference;
    use crate::kernels::shape::Padding;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    const CHANNELS: [usize; 16] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65];

    /// Convolutions and numbers of images: every count of channels on either side with every kernel,
    /// stride and padding, and numbers of pixels around every tile's.
    pub fn cases() -> Vec<(ConvShape, usize)> {
        let mut cases = Vec::new();
        let mut sizes = (1..).flat_map(|n| [(5 + n % 4, 5 + n * 5 % 7), (1, 1 + n % 15)]);
        for (i, c_out) in CHANNELS.into_iter().enumerate() {
            for (j, window) in [(1, 1), (2, 3), (3, 3), (5, 5), (3, 1)].into_iter().enumerate() {
                for (k, strides) in [(1, 1), (2, 2), (2, 3), (3, 1)].into_iter().enumerate() {
                    for padding in [Padding::Valid, Padding::Same] {
                        let c_in = CHANNELS[(3 * i + 5 * j + 7 * k) % CHANNELS.len()];
                        let (h, w) = sizes.next().unwrap();
                        let shape = ConvShape::new((h, w, c_in), window, strides, padding, c_out);
                        cases.extend(shape.map(|shape| (shape, 1 + (i + j + k) % 3)));
                    }
                }
            }
        }
        for c_out in [1, 8, 16, 24, 32] {
            for w in 3..=30 {
                cases.push((ConvShape::valid((3, w, 1), (3, 3), c_out).unwrap(), 1));
                cases.push((ConvShape::valid((w, 4, 2), (2, 3), c_out).unwrap(), 2));
            }
        }
        for n in 1..=13 {
            cases.push((ConvShape::dense(20, 64).unwrap(), n));
            cases.push((ConvShape::dense(7, 200).unwrap(), n));
        }
        cases
    }

    /// The kernel (taps, c_out), packed.
    fn packed<T: Element>(kernel: &[T], shape: &ConvShape) -> Vec<T> {
        let mut packed = vec![T::nan(); packed_len::<T>(shape.taps(), shape.c_out())];
        pack_taps(&mut packed, kernel, shape.taps(), shape.c_out());
        packed
    }

    /// What pooling makes of the convolution's output: maxima and the positions of the first of them.
    fn pooled<T: Element>(full: &[T], shape: &ConvPoolShape) -> (Vec<T>, Vec<T>) {
        let windows = reference::pool_windows(shape.pool());
        let images = full.chunks_exact(shape.conv().output_len());
        images
            .flat_map(|image| windows.iter().map(|window| window.map(|at| image[at])))
            .map(|values| {
                let max = values.into_iter().fold(T::neg_infinity(), T::max);
                let at = values.into_iter().position(|x| x == max).unwrap();
                (max, T::from_f64(at as f64))
            })
            .unzip()
    }

    fn equals_reference<T: Element>() {
        for (shape, n) in cases() {
            let c_out = shape.c_out();
            let x: Vec<T> = random(n * shape.input_len(), 1);
            let kernel: Vec<T> = random(shape.kernel_len(), 2);
            let bias: Vec<T> = random(c_out, 3);
            let mut padded = vec![T::nan(); n * shape.padded_len()];
            pad(&mut padded, &x, shape.windows(), n);
            let packed = packed(&kernel, &shape);
            let mut expected = vec![T::nan(); n * shape.output_len()];
            reference::conv_forward(&mut expected, &x, &kernel, &shape);

            for_each_level(|level| {
                let mut plain = vec![T::nan(); expected.len()];
                let mut out = plain.clone();
                dispatch!(T, level, simd => {
                    conv_forward(simd, &mut plain, &padded, &packed, None, false, &shape, n);
                    conv_forward(simd, &mut out, &padded, &packed, Some(&bias), true, &shape, n)
                });
                assert_close(&plain, &expected, shape.taps());
                let finish = |(i, &x): (usize, &T)| (x + bias[i % c_out]).max(T::zero());
                assert_eq!(out, plain.iter().enumerate().map(finish).collect::<Vec<T>>());

                let Ok(shape) = ConvPoolShape::new(shape) else { return };
                let (maxima, positions) = pooled(&plain, &shape);
                let mut out = vec![T::nan(); maxima.len()];
                let mut at = out.clone();
                dispatch!(T, level, simd => {
                    let bias = Some(&bias[..]);
                    conv_pool_forward(
                        simd, &mut out, &mut at, &padded, &packed, bias, true, &shape, n,
                    )
                });
                assert_eq!(out, maxima.iter().enumerate().map(finish).collect::<Vec<T>>());
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
    fn the_first_of_equal_maxima_is_chosen_and_nan_is_kept() {
        for_each_level(|level| {
            // A 1x1 kernel of ones leaves the image as it is: two windows, beside each other.
            let nan = f32::NAN;
            for (image, out, at) in [
                ([1.0, 1.0, -2.0, -1.0, 1.0, 1.0, -1.0, -1.0], [1.0, 0.0], [0.0, 1.0]),
                ([0.0, 2.0, 3.0, nan, 2.0, 1.0, 4.0, 5.0], [2.0, nan], [1.0, 1.0]),
                ([0.0, 1.0, 3.0, 3.0, 2.0, 2.0, 4.0, nan], [2.0, nan], [2.0, 3.0]),
            ] {
                let shape = ConvShape::valid((2, 4, 1), (1, 1), 1).unwrap();
                let shape = ConvPoolShape::new(shape).unwrap();
                let packed = packed(&[1.0], shape.conv());
                let (mut max, mut argmax) = ([nan; 2], [nan; 2]);
                dispatch!(f32, level, simd => {
                    conv_pool_forward(
                        simd, &mut max, &mut argmax, &image, &packed, None, true, &shape, 1,
                    )
                });
                assert_eq!(max.map(f32::to_bits), out.map(f32::to_bits));
                assert_eq!(argmax, at);
            }
        });
    }

    #[test]
    fn nothing_is_done_for_no_images() {
        for_each_level(|level| {
            let shape = ConvShape::valid((3, 3, 1), (3, 3), 8).unwrap();
            let packed = packed::<f32>(&[1.0; 72], &shape);
            dispatch!(f32, level, simd => {
                conv_forward(simd, &mut [], &[], &packed, None, false, &shape, 0)
            });
        });
    }
}
