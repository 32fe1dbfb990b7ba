//! The gradient of the kernel, from the foreground and what the background comes to.

use super::can_have_foreground;
use crate::kernels::ahead::Ahead;
use crate::kernels::conv_pool_grey::backward::add_picked;
use crate::kernels::conv_pool_grey::patches::Patch;
use crate::kernels::filtering::three::TAPS;
use crate::kernels::foreground::{Foreground, MOST_WINDOWS, Windows, is_told_apart};
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
    x: &[T],
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    assert!(can_have_foreground(shape), "a shape with a foreground");
    shape.check(d_out, argmax, x, d_kernel, n);
    assert_eq!(foreground.windows.len(), n, "foreground length");
    let c_out = shape.conv().c_out();
    assert_eq!(foreground.background.len(), c_out, "background length");
    assert_eq!(foreground.d_background.len(), c_out, "background gradient length");
    let (_, w, _) = shape.conv().windows().padded();
    let background = simd.splat(x[w + 1]);
    let gradient = Gradient { d_out, argmax, foreground, ahead, x, shape };
    ahead.divide(n);
    let mut d_bias = d_bias;
    for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let (mut sums, mut total) = if 2 * c_out == S::LANES {
            gradient.of_pairs(simd)
        } else {
            gradient.of_windows(simd, o, end)
        };
        // All pixels under the other windows are the background's.
        let mut rest = simd.load_up_to(&foreground.d_background[o..end]);
        if relu {
            let alive = simd.load_up_to(&foreground.background[o..end]);
            rest = simd.select(simd.greater(alive, simd.zero()), rest, simd.zero());
        }
        for y in 0..TAPS {
            for x in 0..TAPS {
                sums[y][x] = simd.mul_add(background, rest, sums[y][x]);
                simd.store_up_to(sums[y][x], &mut d_kernel[(y * TAPS + x) * c_out..][o..end]);
            }
        }
        if let Some(d_bias) = &mut d_bias {
            total = simd.add(total, rest);
            simd.store_up_to(total, &mut d_bias[o..end]);
        }
    }
}

/// What comes from above, and what it meets.
struct Gradient<'a, T> {
    d_out: &'a [T],
    argmax: &'a [T],
    foreground: &'a Foreground<'a, T>,
    ahead: &'a Ahead<'a>,
    x: &'a [T],
    shape: &'a ConvPoolShape,
}

/// Sums for each tap.
type Taps<V> = [[V; TAPS]; TAPS];

impl<T: Element> Gradient<'_, T> {
    /// Where each window's patch begins, and which are the last ones of their rows.
    #[inline(always)]
    fn patches(&self) -> ([u16; MOST_WINDOWS], Windows) {
        let (_, w, _) = self.shape.conv().windows().padded();
        let (out_h, out_w, _) = self.shape.pool().output();
        let (mut starts, mut ends) = ([0; MOST_WINDOWS], Windows::default());
        for i in 0..out_h {
            for j in 0..out_w {
                starts[i * out_w + j] = (POOL * (i * w + j)) as u16;
            }
            ends.add(i * out_w + out_w - 1, 1);
        }
        (starts, ends)
    }

    /// For half a vector of channels: of two windows at a time, if they are neighbours.
    #[inline(always)]
    fn of_pairs<S: Simd<T>>(&self, simd: S) -> (Taps<S::Vector>, S::Vector) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let (starts, ends) = self.patches();
        let half = S::LANES / 2;
        let beside = simd.numbers(|lane| if lane < half { 0 } else { POOL });
        let (mut sums, mut total) = ([[simd.zero(); TAPS]; TAPS], simd.zero());
        let mut place = 0;
        for (image, windows) in self.foreground.windows.iter().enumerate() {
            self.ahead.ask();
            let x = &self.x[image * h * w..(image + 1) * h * w];
            windows.for_each_pair(
                &ends,
                #[inline(always)]
                |window, two| {
                    let end = place + if two { S::LANES } else { half };
                    // A window alone has no gradients in the second half.
                    let d = simd.load_part(&self.d_out[place..end]);
                    let at = simd.load_part(&self.argmax[place..end]);
                    place = end;
                    total = simd.add(total, d);
                    let start = usize::from(starts[window]);
                    if ends.has(window) {
                        let patch = Patch::<T, TAPS, 1>::new(x, start, w);
                        add_picked(simd, &mut sums, patch, at, d);
                    } else {
                        let patch = Patch::<T, TAPS, 2>::new(x, start, w);
                        add_picked(simd, &mut sums, patch, simd.add(at, beside), d);
                    }
                },
            );
        }
        let behind = simd.lane_names(|lane| (lane + half).min(S::LANES - 1));
        for y in 0..TAPS {
            for x in 0..TAPS {
                sums[y][x] = simd.add(sums[y][x], simd.pick(sums[y][x], behind));
            }
        }
        (sums, simd.add(total, simd.pick(total, behind)))
    }

    /// Of one window at a time, for channels `o..end`.
    #[inline(always)]
    fn of_windows<S: Simd<T>>(
        &self,
        simd: S,
        o: usize,
        end: usize,
    ) -> (Taps<S::Vector>, S::Vector) {
        let (h, w, _) = self.shape.conv().windows().padded();
        let (starts, _) = self.patches();
        let (mut sums, mut total) = ([[simd.zero(); TAPS]; TAPS], simd.zero());
        let c_out = self.shape.conv().c_out();
        let mut channels = self.d_out.chunks_exact(c_out).zip(self.argmax.chunks_exact(c_out));
        for (image, windows) in self.foreground.windows.iter().enumerate() {
            self.ahead.ask();
            let x = &self.x[image * h * w..(image + 1) * h * w];
            windows.for_each(
                #[inline(always)]
                |window| {
                    let Some((d, at)) = channels.next() else { return };
                    let d = simd.load_up_to(&d[o..end]);
                    let at = simd.load_up_to(&at[o..end]);
                    let patch = Patch::<T, TAPS, 1>::new(x, usize::from(starts[window]), w);
                    add_picked(simd, &mut sums, patch, at, d);
                    total = simd.add(total, d);
                },
            );
        }
        (sums, total)
    }
}
