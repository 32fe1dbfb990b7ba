//! Convolution (cross-correlation, as everywhere in deep learning), alone or with the 2x2 max
//! pooling behind it.

use std::ops::Range;

use super::shape::{ConvPoolShape, ConvShape, POOL, POSITIONS};
use super::simd::{Element, Simd, for_channels};
use super::tile::{Sink, Taps, convolve};
use super::walk::{Lattice, Pixels, Place};

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
    let mut sink = Plain { out, finish: Some(Finish { bias, relu }), c_out };
    for_channels!(simd, T, S, c_out => {
        convolve(simd, &mut sink, x, packed, Taps::of(shape), &pixels)
    });
}

/// A convolution and the 2x2 max pooling of its output, whose positions outside the pooling windows
/// are not computed: `out[i, j, o]` is the maximum over the window of `i, j` of [`conv_forward`]'s,
/// and `argmax[i, j, o]`, if it is wanted, the position (0 to 3, row by row) of the first maximum. A
/// NaN counts as the maximum, the last of several.
///
/// `out` and `argmax` (n, pooled h, pooled w, c_out), the others as for [`conv_forward`].
#[inline(always)]
pub fn conv_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: Option<&mut [T]>,
    x: &[T],
    packed: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) {
    let (conv, pool) = (shape.conv(), shape.pool());
    assert_eq!(Some(out.len()), n.checked_mul(pool.output_len()), "output length");
    assert_eq!(Some(x.len()), n.checked_mul(conv.padded_len()), "input length");
    let (out_h, out_w, c_out) = pool.output();
    let [image, row, column] = window_steps(conv);
    let pixels = Pixels::new(
        [n, out_h, out_w],
        Lattice { start: 0, steps: [image, POOL * row, POOL * column] },
        Lattice::packed(pool.output()),
    );
    let positions = [0, column, row, row + column];
    let maxima = Maxima::new(out, argmax);
    let mut sink = Pooled { maxima, finish: Finish { bias, relu }, c_out, positions };
    for_channels!(simd, T, S, c_out => {
        convolve(simd, &mut sink, x, packed, Taps::of(conv), &pixels)
    });
}

/// From one image of the padded input to the next, and from one window to the next one below and
/// beside it. Where strides are so large that a step overflows, there is no next one.
#[inline(always)]
pub(super) fn window_steps(shape: &ConvShape) -> [usize; 3] {
    let (sh, sw) = shape.strides();
    let [image, row, column] = Lattice::packed(shape.windows().padded()).steps;
    [image, sh.wrapping_mul(row), sw.wrapping_mul(column)]
}

/// What happens to each sum on its way to the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish<'a, T> {
    /// (c_out,)
    pub bias: Option<&'a [T]>,
    pub relu: bool,
}

impl<T: Element> Finish<'_, T> {
    /// What to do with the sums of `lanes` channels from `o`.
    #[inline(always)]
    pub fn channels<S: Simd<T>>(
        &self,
        simd: S,
        o: usize,
        lanes: usize,
    ) -> impl Fn(S::Vector) -> S::Vector + use<T, S> {
        let bias = match self.bias {
            Some(bias) => simd.load_up_to(&bias[o..o + lanes]),
            None => simd.zero(),
        };
        // A branch for each sum would cost more than the maximum.
        let least = simd.splat(if self.relu { T::zero() } else { T::neg_infinity() });
        #[inline(always)]
        move |sum| simd.max(least, simd.add(sum, bias))
    }
}

/// Each sum for itself.
pub(super) struct Plain<'a, T> {
    pub out: &'a mut [T],
    /// None: the sums as they are.
    pub finish: Option<Finish<'a, T>>,
    pub c_out: usize,
}

impl<T: Element> Sink<T> for Plain<'_, T> {
    const SIDE: usize = 1;

    #[inline(always)]
    fn position(&self, _: usize) -> usize {
        0
    }
    #[inline(always)]
    fn c_out(&self) -> usize {
        self.c_out
    }
    #[inline(always)]
    fn len(&self) -> usize {
        self.out.len()
    }
    #[inline(always)]
    unsafe fn write<S: Simd<T>>(
        &mut self,
        simd: S,
        sums: &[S::Vector],
        places: &[Place],
        o: usize,
        lanes: usize,
    ) {
        match self.finish {
            Some(finish) => {
                let finish = finish.channels(simd, o, lanes);
                for (place, &sum) in places.iter().zip(sums) {
                    // SAFETY: the caller's promise.
                    unsafe { store(simd, finish(sum), self.out, place.to + o, lanes) };
                }
            }
            None => {
                for (place, &sum) in places.iter().zip(sums) {
                    // SAFETY: the caller's promise.
                    unsafe { store(simd, sum, self.out, place.to + o, lanes) };
                }
            }
        }
    }
}

/// The maximum of each pooling window.
struct Pooled<'a, T> {
    maxima: Maxima<'a, T>,
    finish: Finish<'a, T>,
    c_out: usize,
    positions: [usize; POSITIONS],
}

impl<T: Element> Sink<T> for Pooled<'_, T> {
    const SIDE: usize = POOL;

    #[inline(always)]
    fn position(&self, n: usize) -> usize {
        self.positions[n]
    }
    #[inline(always)]
    fn c_out(&self) -> usize {
        self.c_out
    }
    #[inline(always)]
    fn len(&self) -> usize {
        self.maxima.out.len()
    }
    #[inline(always)]
    unsafe fn write<S: Simd<T>>(
        &mut self,
        simd: S,
        sums: &[S::Vector],
        places: &[Place],
        o: usize,
        lanes: usize,
    ) {
        let finish = self.finish.channels(simd, o, lanes);
        for (place, sums) in places.iter().zip(sums.chunks_exact(POSITIONS)) {
            let (max, at) = maximum::<T, S, false>(simd, [sums[0], sums[1], sums[2], sums[3]]);
            // SAFETY: the caller's promise, and positions are as many as maxima.
            unsafe { self.maxima.store_unchecked(simd, finish(max), at, place.to + o, lanes) };
        }
    }
}

/// Where the maxima of pooling windows go, and their positions if those are wanted.
pub(super) struct Maxima<'a, T> {
    pub out: &'a mut [T],
    /// As long as `out`.
    pub argmax: Option<&'a mut [T]>,
}

impl<'a, T: Element> Maxima<'a, T> {
    #[inline(always)]
    pub fn new(out: &'a mut [T], argmax: Option<&'a mut [T]>) -> Self {
        if let Some(argmax) = &argmax {
            assert_eq!(argmax.len(), out.len(), "argmax length");
        }
        Self { out, argmax }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Some of them.
    #[inline(always)]
    pub fn part(&mut self, range: Range<usize>) -> Maxima<'_, T> {
        let argmax = self.argmax.as_deref_mut();
        Maxima { out: &mut self.out[range.clone()], argmax: argmax.map(|at| &mut at[range]) }
    }

    /// Writes the first elements of the vectors to `range`, of at most as many elements.
    #[inline(always)]
    pub fn store<S: Simd<T>>(
        &mut self,
        simd: S,
        max: S::Vector,
        at: S::Vector,
        range: Range<usize>,
    ) {
        simd.store_up_to(max, &mut self.out[range.clone()]);
        if let Some(argmax) = &mut self.argmax {
            simd.store_up_to(at, &mut argmax[range]);
        }
    }

    /// Writes the first `lanes` elements of the vectors.
    ///
    /// # Safety
    /// There are `start + lanes` maxima.
    #[inline(always)]
    unsafe fn store_unchecked<S: Simd<T>>(
        &mut self,
        simd: S,
        max: S::Vector,
        at: S::Vector,
        start: usize,
        lanes: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { store(simd, max, self.out, start, lanes) };
        if let Some(argmax) = &mut self.argmax {
            // SAFETY: as above.
            unsafe { store(simd, at, argmax, start, lanes) };
        }
    }
}

/// The maximum over the positions of a window, and the first position that has it. A NaN counts as
/// the maximum, the last of several; to look for it takes more comparisons, which are left out where
/// all values are `FINITE`.
#[inline(always)]
pub(super) fn maximum<T: Element, S: Simd<T>, const FINITE: bool>(
    simd: S,
    values: [S::Vector; POSITIONS],
) -> (S::Vector, S::Vector) {
    maximum_named::<T, S, FINITE>(simd, values, simd.constants([0.0, 1.0, 2.0, 3.0]))
}

/// As [`maximum`], where the positions have names.
#[inline(always)]
pub(super) fn maximum_named<T: Element, S: Simd<T>, const FINITE: bool>(
    simd: S,
    [a, b, c, d]: [S::Vector; POSITIONS],
    [first, second, third, fourth]: [S::Vector; POSITIONS],
) -> (S::Vector, S::Vector) {
    let upper = larger::<T, S, FINITE>(simd, (a, first), (b, second));
    let lower = larger::<T, S, FINITE>(simd, (c, third), (d, fourth));
    larger::<T, S, FINITE>(simd, upper, lower)
}

/// The larger of two values, of equal ones the first, with what comes with it. NaN is the largest.
#[inline(always)]
fn larger<T: Element, S: Simd<T>, const FINITE: bool>(
    simd: S,
    a: (S::Vector, S::Vector),
    b: (S::Vector, S::Vector),
) -> (S::Vector, S::Vector) {
    let later = if FINITE { simd.greater(b.0, a.0) } else { simd.greater_or_nan(b.0, a.0) };
    let max = if FINITE { simd.max(b.0, a.0) } else { simd.select(later, b.0, a.0) };
    (max, simd.select(later, b.1, a.1))
}

/// Writes the first `lanes` elements of `v`.
///
/// # Safety
/// `out` reaches that far.
#[inline(always)]
unsafe fn store<T: Element, S: Simd<T>>(
    simd: S,
    v: S::Vector,
    out: &mut [T],
    at: usize,
    lanes: usize,
) {
    debug_assert!(at + lanes <= out.len());
    // SAFETY: the caller's promise.
    simd.store_up_to(v, unsafe { out.get_unchecked_mut(at..at + lanes) });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::pack::{pack_taps, packed_len, pad};
    use crate::kernels::reference;
    use crate::kernels::shape::Padding;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    const CHANNELS: [usize; 16] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65];

    /// Convolutions and numbers of images: every count of channels on either side with every
    /// kernel, stride and padding, and numbers of pixels around every tile's.
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
        for (h, w) in (5..=8).flat_map(|h| (5..=19).map(move |w| (h, w))) {
            for c_out in [3, 8, 16, 32] {
                cases.push((ConvShape::valid((h, w, 1), (3, 3), c_out).unwrap(), 1 + w % 2));
                cases.push((ConvShape::valid((h, w, 1), (5, 5), c_out).unwrap(), 1 + h % 2));
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

    /// What pooling makes of the convolution's output: maxima and the positions of the first of
    /// them.
    pub fn pooled<T: Element>(full: &[T], shape: &ConvPoolShape) -> (Vec<T>, Vec<T>) {
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

    /// Few distinct values in their place, so that many windows hold ties, and two NaNs.
    pub fn with_ties<T: Element>(x: &[T]) -> Vec<T> {
        let mut x: Vec<T> = x.iter().map(|x| x.round()).collect();
        for at in [x.len() / 3, x.len().saturating_sub(1)] {
            x.get_mut(at).into_iter().for_each(|x| *x = T::nan());
        }
        x
    }

    /// They tell NaN and negative zeros from others.
    pub fn bits<T: Element>(x: &[T]) -> Vec<u64> {
        x.iter().map(|&x| x.to_f64().to_bits()).collect()
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
                let pool = |at: Option<&mut [T]>, x: &[T]| {
                    let mut out = vec![T::nan(); maxima.len()];
                    dispatch!(T, level, simd => {
                        let bias = Some(&bias[..]);
                        conv_pool_forward(simd, &mut out, at, x, &packed, bias, true, &shape, n)
                    });
                    out
                };
                let mut at = vec![T::nan(); maxima.len()];
                let out = pool(Some(&mut at), &padded);
                assert_eq!(out, maxima.iter().enumerate().map(finish).collect::<Vec<T>>());
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
    fn the_first_of_equal_maxima_is_chosen_and_nan_is_kept() {
        for_each_level(|level| {
            // A 1x1 kernel of ones leaves the image as it is: two windows, beside each other.
            let nan = f32::NAN;
            for (image, out, at) in [
                ([1.0, 1.0, -2.0, -1.0, 1.0, 1.0, -1.0, -1.0], [1.0, 0.0], [0.0, 1.0]),
                ([0.0, 2.0, 3.0, nan, 2.0, 1.0, 4.0, 5.0], [2.0, nan], [1.0, 1.0]),
                ([0.0, 1.0, 3.0, 3.0, 2.0, 2.0, 4.0, nan], [2.0, nan], [2.0, 3.0]),
                ([nan, nan, 1.0, nan, 0.0, 1.0, nan, 2.0], [nan, nan], [1.0, 2.0]),
            ] {
                let shape = ConvShape::valid((2, 4, 1), (1, 1), 1).unwrap();
                let shape = ConvPoolShape::new(shape).unwrap();
                let packed = packed(&[1.0], shape.conv());
                let (mut max, mut argmax) = ([nan; 2], [nan; 2]);
                dispatch!(f32, level, simd => {
                    conv_pool_forward(
                        simd, &mut max, Some(&mut argmax), &image, &packed, None, true, &shape, 1,
                    )
                });
                assert_eq!(max.map(f32::to_bits), out.map(f32::to_bits));
                assert_eq!(argmax, at);

                let mut full = [0.0; 8];
                dispatch!(f32, level, simd => {
                    conv_forward(simd, &mut full, &image, &packed, None, true, shape.conv(), 1)
                });
                let relu = image.map(|x| if x < 0.0 { 0.0 } else { x });
                assert_eq!(full.map(f32::to_bits), relu.map(f32::to_bits));
            }
        });
    }

    #[test]
    fn a_stride_may_be_larger_than_any_image() {
        let x: Vec<f32> = random(2 * 8 * 8, 1);
        for_each_level(|level| {
            let [near, far] = [8, usize::MAX / 2].map(|stride| {
                let padding = Padding::Valid;
                let shape =
                    ConvShape::new((8, 8, 1), (3, 3), (stride, stride), padding, 8).unwrap();
                let packed = packed::<f32>(&random::<f32>(72, 2), &shape);
                let mut out = vec![f32::NAN; 2 * shape.output_len()];
                dispatch!(f32, level, simd => {
                    conv_forward(simd, &mut out, &x, &packed, None, false, &shape, 2)
                });
                out
            });
            assert_eq!(bits(&near), bits(&far));
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
