//! The gradient of the kernel, from the foreground and what the background comes to.

use super::{can_have_foreground, check};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv_pool_grey::backward::add_picked;
use crate::kernels::conv_pool_grey::patches::Patch;
use crate::kernels::filtering::three::TAPS;
use crate::kernels::foreground::{Foreground, MOST_WINDOWS, is_told_apart};
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
    assert_eq!(foreground.windows.len(), n, "foreground length");
    let c_out = shape.conv().c_out();
    assert_eq!(foreground.background.len(), c_out, "background length");
    assert_eq!(foreground.d_background.len(), c_out, "background gradient length");
    let gradient = Gradient { d_out, argmax, foreground, ahead, images, shape };
    ahead.divide(n);
    let mut d_bias = d_bias;
    for o in (0..c_out).step_by(S::LANES) {
        let d_bias = d_bias.as_deref_mut();
        // Half a vector of channels takes half the time.
        let half = <S::Narrow as Simd<T>>::LANES;
        if half < S::LANES && c_out - o <= half {
            gradient.channels(simd.narrow(), d_kernel, d_bias, o, relu);
        } else {
            gradient.channels(simd, d_kernel, d_bias, o, relu);
        }
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
    /// The gradients of a vector of channels from `o` on.
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
        let (mut sums, mut total) = self.windows(simd, o);
        // All pixels under the other windows are the background's.
        let mut rest = simd.load(&self.foreground.d_background[o..]);
        if relu {
            let alive = simd.load(&self.foreground.background[o..]);
            rest = simd.select(simd.greater(alive, simd.zero()), rest, simd.zero());
        }
        for y in 0..TAPS {
            for x in 0..TAPS {
                sums[y][x] = simd.mul_add(background, rest, sums[y][x]);
                simd.store(sums[y][x], &mut d_kernel[(y * TAPS + x) * c_out + o..]);
            }
        }
        if let Some(d_bias) = d_bias {
            total = simd.add(total, rest);
            simd.store(total, &mut d_bias[o..]);
        }
    }

    /// The sums of the windows in the foreground: for each tap, and of the gradients alone.
    #[inline(always)]
    fn windows<S: Simd<T>>(&self, simd: S, o: usize) -> ([[S::Vector; TAPS]; TAPS], S::Vector) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let (out_h, out_w, _) = self.shape.pool().output();
        let c_out = self.shape.conv().c_out();
        // Where each window's patch begins.
        let mut starts = [0; MOST_WINDOWS];
        for i in 0..out_h {
            for j in 0..out_w {
                starts[i * out_w + j] = (POOL * (i * w + j)) as u16;
            }
        }
        let (mut sums, mut total) = ([[simd.zero(); TAPS]; TAPS], simd.zero());
        let mut channels = self.d_out.chunks_exact(c_out).zip(self.argmax.chunks_exact(c_out));
        for (image, windows) in self.foreground.windows.iter().enumerate() {
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
}
