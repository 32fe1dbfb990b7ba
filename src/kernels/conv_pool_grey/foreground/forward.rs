//! The convolution and the maxima of windows that see more than the background of their image.

use super::{MOST_CONTRAST, MOST_EIGHTHS, ROWS, can_have_foreground, check};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv_pool_grey::forward::{Channels, sum_of_squares};
use crate::kernels::conv_pool_grey::square::{self, CHANNELS, Points, SPAN, Sums, Window};
use crate::kernels::dense::part_mut;
use crate::kernels::filtering::three::{POINTS, pixel_points};
use crate::kernels::foreground::{Foreground, MOST_IMAGES, MOST_WINDOWS, Windows, is_told_apart};
use crate::kernels::images::Images;
use crate::kernels::shape::{ConvPoolShape, POOL};
use crate::kernels::simd::{Aligned, Element, MAX_LANES, Simd};

/// As [`grey_forward`](crate::kernels::conv_pool_grey::grey_forward), but sets `out` and `argmax`
/// in the foreground only, as [`Foreground`] says, and the background. What is the background, the
/// pixel behind the first row and column of the first image says. The maxima's positions in `argmax`
/// are lanes that [`pick`](Simd::pick) takes. Where that would not pay, where the background is too
/// large, or where a product may be infinite or NaN, it returns `false`, and what it has set is of
/// no use.
#[inline(always)]
pub fn grey_forward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    foreground: &mut Foreground<T>,
    ahead: &Ahead,
    images: &Images<T>,
    kernel: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) -> bool {
    if !is_told_apart::<T, S>(simd) {
        return false;
    }
    assert!(can_have_foreground(shape), "a shape with a foreground");
    check(out, argmax, images, kernel, shape, n);
    assert_eq!(foreground.windows.len(), n, "foreground length");
    assert_eq!(foreground.background.len(), shape.conv().c_out(), "background length");
    assert!((2..=MOST_IMAGES).contains(&n), "2 to {MOST_IMAGES} images");
    let (h, w, _) = shape.conv().windows().padded();
    let (out_h, out_w, c_out) = shape.pool().output();
    let layer = Channels::new(kernel, bias, relu, c_out, true);
    let (count, squares) = (out_h * out_w, sum_of_squares(simd, kernel));
    let background = images.get(0, h * w)[w + 1];
    let pixels = T::from_f64((w * POOL * (out_h + 1)) as f64 / MOST_CONTRAST);
    let loudness = background * background * pixels;
    let mut places = [0; MOST_WINDOWS];
    for i in 0..out_h {
        for j in 0..out_w {
            places[i * out_w + j] = (i * POINTS * POINTS * MAX_LANES + j) as u16;
        }
    }
    ahead.divide(2 * n * c_out.div_ceil(CHANNELS));
    let mut kernel = [[[T::zero(); CHANNELS]; POINTS]; POINTS];
    let mut points = Aligned([[[[T::zero(); MAX_LANES]; POINTS]; POINTS]; ROWS]);
    for o in (0..c_out).step_by(CHANNELS) {
        let layer = layer.part(o, CHANNELS);
        square::set_kernel(simd, &mut kernel, &layer);
        let mut part =
            Part { kernel: &kernel, points: &mut points.0, places: &places, layer: &layer };
        part.set_background(simd, background);
        part.store(simd, foreground.background, &mut argmax[..c_out], Windows::first(1));
        let (mut sum, mut seen, mut start) = (T::zero(), 0, 0);
        for (image, windows) in foreground.windows.iter_mut().enumerate() {
            let x = images.get(image, h * w);
            ahead.ask();
            let seen_in_it = part.set_image(simd, x, background, shape);
            *windows = seen_in_it.windows;
            sum = sum + seen_in_it.squares;
            if loudness > seen_in_it.squares {
                return false;
            }
            seen += windows.count();
            let end = start + windows.count() * c_out;
            if 8 * seen > MOST_EIGHTHS * (image + 1) * count || end > out.len() {
                return false;
            }
            ahead.ask();
            images.expect(image + 1, h * w);
            part.store(simd, &mut out[start..end], &mut argmax[start..end], *windows);
            start = end;
        }
        if !(sum * squares).is_finite() {
            return false;
        }
    }
    true
}

/// Some channels, and what they need.
struct Part<'a, T> {
    kernel: &'a Points<[T; CHANNELS]>,
    /// Of an image's pixels, for each row of windows.
    points: &'a mut [Points<[T; MAX_LANES]>; ROWS],
    /// Where those of each window begin.
    places: &'a [u16; MOST_WINDOWS],
    layer: &'a Channels<'a, T>,
}

/// A row of pixels.
struct Row<V> {
    /// Its points, with a window in each lane.
    points: [V; POINTS],
    /// A bit for each window: whether it sees more than the background here.
    seen: u64,
}

/// The rows of pixels of an image.
#[derive(Clone, Copy)]
struct Rows<'a, T, V> {
    x: &'a [T],
    w: usize,
    background: V,
    /// For each lane, the next one.
    next: V,
}

/// What an image has.
struct Seen<T> {
    /// Windows that see more than the background.
    windows: Windows,
    /// The sum of the pixels' squares.
    squares: T,
}

impl<T: Element, V: Copy> Rows<'_, T, V> {
    /// Row `y`, whose pixels' squares are added to `squares`. The lanes of windows that it does not
    /// have hold anything.
    #[inline(always)]
    fn get<S: Simd<T, Vector = V>>(&self, simd: S, y: usize, squares: &mut V) -> Row<V> {
        let row = &self.x[y * self.w..][..self.w];
        let (near, far) = row.split_at(self.w.min(S::LANES));
        let (near, far) = (simd.load_part(near), simd.load_part(far));
        *squares = simd.mul_add(near, near, *squares);
        *squares = simd.mul_add(far, far, *squares);
        let [first, second] = simd.unzip(near, far);
        let same = |v| simd.bits(simd.equal(v, self.background));
        let pairs = u64::from(!(same(first) & same(second)));
        // The windows are fewer than lanes, so that each sees two pairs of columns that are there.
        let (third, fourth) = (simd.pick(first, self.next), simd.pick(second, self.next));
        Row { points: pixel_points(simd, [first, second, third, fourth]), seen: pairs | pairs >> 1 }
    }
}

impl<T: Element> Part<'_, T> {
    /// Sets the points to those of an image, at which `x` begins.
    #[inline(always)]
    fn set_image<S: Simd<T>>(
        &mut self,
        simd: S,
        x: &[T],
        background: T,
        shape: &ConvPoolShape,
    ) -> Seen<T> {
        let (_, w, _) = shape.conv().windows().padded();
        let (out_h, out_w, _) = shape.pool().output();
        let next = simd.lane_names(|lane| (lane + 1).min(S::LANES - 1));
        let rows = Rows { x, w, background: simd.splat(background), next };
        let mut squares = [simd.zero(); POOL];
        let mut windows = Windows::default();
        // Two of four rows of pixels are under the next row of windows too.
        let mut above = [rows.get(simd, 0, &mut squares[0]), rows.get(simd, 1, &mut squares[1])];
        for (i, points) in self.points[..out_h].iter_mut().enumerate() {
            let y = POOL * (i + 1);
            let below =
                [rows.get(simd, y, &mut squares[0]), rows.get(simd, y + 1, &mut squares[1])];
            let seen = above[0].seen | above[1].seen | below[0].seen | below[1].seen;
            windows.add(i * out_w, seen & ((1 << out_w) - 1));
            let both = |rows: &[Row<S::Vector>; POOL]| [rows[0].points, rows[1].points];
            square::set_pixels(simd, points, both(&above), both(&below));
            above = below;
        }
        Seen { windows, squares: simd.sum(simd.add(squares[0], squares[1])) }
    }

    /// Sets those of the first window to the background's.
    #[inline(always)]
    fn set_background<S: Simd<T>>(&mut self, simd: S, background: T) {
        let rows = [pixel_points(simd, [simd.splat(background); POINTS]); POOL];
        square::set_pixels(simd, &mut self.points[0], rows, rows);
    }

    /// The outputs and the places of the maxima at some windows.
    #[inline(always)]
    fn store<S: Simd<T>>(&self, simd: S, out: &mut [T], argmax: &mut [T], windows: Windows) {
        for o in (self.layer.o..self.layer.end).step_by(S::LANES) {
            let layer = self.layer.part(o, S::LANES);
            if layer.end - o <= <S::Narrow as Simd<T>>::LANES {
                self.store_windows(simd.narrow(), out, argmax, windows, &layer);
            } else {
                self.store_windows(simd, out, argmax, windows, &layer);
            }
        }
    }

    /// As [`store`](Self::store), for a vector of channels, in a function of its own, where the
    /// kernel's points stay in registers.
    #[inline(always)]
    fn store_windows<S: Simd<T>>(
        &self,
        simd: S,
        out: &mut [T],
        argmax: &mut [T],
        windows: Windows,
        layer: &Channels<T>,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                let taps = square::load_kernel(simd, self.kernel, layer);
                let (bias, floor) = (layer.bias(simd), layer.floor(simd));
                let points = self.points.as_flattened().as_flattened().as_flattened();
                let (o, c_out) = (layer.o, layer.c_out);
                let len = windows.count() * c_out;
                assert_eq!(layer.end - o, S::LANES, "whole vectors");
                assert!(out.len() == len && argmax.len() == len, "a place for each window");
                if len == 0 {
                    return;
                }
                // What a window comes to is stored at the beginning of the next one's turn: at the
                // end of its own, the registers do not hold all of the kernel's points.
                let (mut sums, mut start, mut step) = (Sums::same(bias), o, 0);
                windows.for_each(
                    #[inline(always)]
                    |at| {
                        // SAFETY: the points of each window are in the buffer: `places` are made
                        // such, and 0 for a window that is none. There is a place for each, and
                        // for what stands for the one before the first.
                        unsafe {
                            let place = usize::from(*self.places.get_unchecked(at));
                            let pixels = points.get_unchecked(place..place + SPAN);
                            store_maximum(simd, &sums, floor, out, argmax, start);
                            sums = Window { taps: &taps, pixels }.sums(simd, bias);
                        }
                        start += step;
                        step = c_out;
                    },
                );
                // SAFETY: there is a place for each window.
                unsafe { store_maximum(simd, &sums, floor, out, argmax, start) };
            },
        );
    }
}

/// The layer's output, at least `floor`, from the sums of a window, and the lane of the maximum where
/// the way back picks pixels: in a vector that holds a row of pixels and, in its second half, the one
/// below.
///
/// # Safety
/// There is a vector of outputs and one of lanes from `start` on.
#[inline(always)]
unsafe fn store_maximum<T: Element, S: Simd<T>>(
    simd: S,
    sums: &Sums<S::Vector>,
    floor: S::Vector,
    out: &mut [T],
    argmax: &mut [T],
    start: usize,
) {
    let lane = |n: usize| T::FIRST_LANE + n as f64;
    let lanes = [lane(0), lane(1), lane(S::LANES / 2), lane(S::LANES / 2 + 1)];
    let (max, at) = sums.maximum(simd, &lanes);
    // SAFETY: the caller's promise.
    unsafe {
        simd.store(simd.max(floor, max), part_mut(out, start, S::LANES));
        simd.store(at, part_mut(argmax, start, S::LANES));
    }
}
