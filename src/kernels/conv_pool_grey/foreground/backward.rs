//! The gradient of the kernel, from the foreground and what the background comes to.

use super::{can_have_foreground, check};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv_pool_grey::backward::add_picked;
use crate::kernels::conv_pool_grey::patches::Patch;
use crate::kernels::filtering::three::TAPS;
use crate::kernels::foreground::{
    Foreground, MOST_WINDOWS, channels_of_group, in_pairs, is_told_apart,
};
use crate::kernels::images::Images;
use crate::kernels::shape::{ConvPoolShape, POOL};
use crate::kernels::simd::{Element, Simd};

/// As [`grey_backward_kernel`](crate::kernels::conv_pool_grey::grey_backward_kernel), where `d_out` and `argmax` are those of
/// the foreground; and, if it is wanted, the bias's gradient.
#[inline(always)]
pub fn grey_backward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_bias: Option<&mut [T]>,
    d_out: &[T],
    argmax: &[T],
    foreground: &Foreground<T>,
    ahead: &Ahead,
    images: &Images<T>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    assert!(can_have_foreground(shape), "a shape with a foreground");
    check(d_out, argmax, images, d_kernel, shape, n);
    assert_eq!(foreground.groups.len(), n, "foreground length");
    let c_out = shape.conv().c_out();
    let channels = channels_of_group(simd, c_out);
    assert_eq!(foreground.background.len(), channels, "background length");
    assert_eq!(foreground.d_background.len(), channels, "background gradient length");
    let gradient = Gradient { d_out, argmax, foreground, ahead, images, shape };
    ahead.divide(n);
    let mut d_bias = d_bias;
    for o in (0..c_out).step_by(S::LANES) {
        gradient.channels(simd, d_kernel, d_bias.as_deref_mut(), o, relu);
    }
}

/// What comes from above, and what it meets.
struct Gradient<'a, T> {
    d_out: &'a [T],
    argmax: &'a [T],
    foreground: &'a Foreground<'a, T>,
    ahead: &'a Ahead<'a>,
    images: &'a Images<'a, T>,
    shape: &'a ConvPoolShape,
}

impl<T: Element> Gradient<'_, T> {
    /// The gradients of a vector of channels from `o` on, or of half a one.
    #[inline(always)]
    fn channels<S: Simd<T>>(
        &self,
        simd: S,
        d_kernel: &mut [T],
        d_bias: Option<&mut [T]>,
        o: usize,
        relu: bool,
    ) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let c_out = self.shape.conv().c_out();
        let background = simd.splat(self.images.get(0, h * w)[w + 1]);
        let in_pairs = in_pairs(simd, c_out);
        let (mut sums, mut total) = if in_pairs { self.pairs(simd) } else { self.windows(simd, o) };
        // All pixels under the other windows are the background's.
        let mut rest = simd.load(&self.foreground.d_background[o..]);
        if relu {
            let alive = simd.load(&self.foreground.background[o..]);
            rest = simd.select(simd.greater(alive, simd.zero()), rest, simd.zero());
        }
        total = simd.add(total, rest);
        for y in 0..TAPS {
            for x in 0..TAPS {
                sums[y][x] = simd.mul_add(background, rest, sums[y][x]);
            }
        }
        if in_pairs {
            let second = simd.lane_names(
                #[inline(always)]
                |lane| (lane + c_out).min(S::LANES - 1),
            );
            for sum in sums.as_flattened_mut().iter_mut().chain([&mut total]) {
                *sum = simd.add(*sum, simd.pick(*sum, second));
            }
        }
        let len = S::LANES.min(c_out);
        for y in 0..TAPS {
            for x in 0..TAPS {
                simd.store_up_to(sums[y][x], &mut d_kernel[(y * TAPS + x) * c_out + o..][..len]);
            }
        }
        if let Some(d_bias) = d_bias {
            simd.store_up_to(total, &mut d_bias[o..][..len]);
        }
    }

    /// Where each window's patch begins.
    #[inline(always)]
    fn starts(&self) -> [u16; MOST_WINDOWS] {
        let (_, w, _) = self.shape.conv().windows().padded();
        let (out_h, out_w, _) = self.shape.pool().output();
        let mut starts = [0; MOST_WINDOWS];
        for i in 0..out_h {
            for j in 0..out_w {
                starts[i * out_w + j] = (POOL * (i * w + j)) as u16;
            }
        }
        starts
    }

    /// The sums of the windows in the foreground: for each tap, and of the gradients alone.
    #[inline(always)]
    fn windows<S: Simd<T>>(&self, simd: S, o: usize) -> ([[S::Vector; TAPS]; TAPS], S::Vector) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let c_out = self.shape.conv().c_out();
        let starts = self.starts();
        let (mut sums, mut total) = ([[simd.zero(); TAPS]; TAPS], simd.zero());
        let mut channels = self.d_out.chunks_exact(c_out).zip(self.argmax.chunks_exact(c_out));
        for (image, windows) in self.foreground.groups.iter().enumerate() {
            self.ahead.ask();
            let x = self.images.get(image, h * w);
            windows.for_each(
                #[inline(always)]
                |window| {
                    let Some((d, at)) = channels.next() else { return };
                    let (d, at) = (simd.load(&d[o..]), simd.load(&at[o..]));
                    let patch = Patch::<T, TAPS, 1>::new(x, usize::from(starts[window]), w);
                    add_picked(simd, &mut sums, patch, at, d);
                    total = simd.add(total, d);
                },
            );
        }
        (sums, total)
    }

    /// The same of windows that are told apart two by two: each has half of the lanes.
    #[inline(always)]
    fn pairs<S: Simd<T>>(&self, simd: S) -> ([[S::Vector; TAPS]; TAPS], S::Vector) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let (out_h, out_w, c_out) = self.shape.pool().output();
        let (count, starts) = (out_h * out_w, self.starts());
        let (mut sums, mut total) = ([[simd.zero(); TAPS]; TAPS], simd.zero());
        let mut start = 0;
        for (image, pairs) in self.foreground.groups.iter().enumerate() {
            self.ahead.ask();
            let x = self.images.get(image, h * w);
            pairs.for_each(
                #[inline(always)]
                |pair| {
                    let alone = 2 * pair + 1 == count;
                    let [a, b] = [0, 1].map(|n| usize::from(starts[2 * pair + n]));
                    let end = start + if alone { c_out } else { 2 * c_out };
                    let d = simd.load_up_to(&self.d_out[start..end]);
                    let mut at = simd.load_up_to(&self.argmax[start..end]);
                    start = end;
                    total = simd.add(total, d);
                    if b == a + POOL {
                        add_in_two(simd, &mut sums, x, a, w, at, d);
                        return;
                    }
                    // They are not beside each other, or there is no second one: each takes its turn
                    // in a patch of two.
                    let first = simd.first_lanes(c_out);
                    let of_first = simd.select(first, d, simd.zero());
                    if alone {
                        at = simd.add(at, simd.splat(T::from_f64(POOL as f64)));
                        add_in_two(simd, &mut sums, x, a - POOL, w, at, of_first);
                    } else {
                        add_in_two(simd, &mut sums, x, a, w, at, of_first);
                        let of_second = simd.select(first, simd.zero(), d);
                        add_in_two(simd, &mut sums, x, b - POOL, w, at, of_second);
                    }
                },
            );
        }
        (sums, total)
    }
}

/// [`add_picked`] in the patch of two windows beside each other that begins at `start`.
#[inline(always)]
fn add_in_two<T: Element, S: Simd<T>>(
    simd: S,
    sums: &mut [[S::Vector; TAPS]; TAPS],
    x: &[T],
    start: usize,
    w: usize,
    at: S::Vector,
    d: S::Vector,
) {
    add_picked(simd, sums, Patch::<T, TAPS, 2>::new(x, start, w), at, d);
}
