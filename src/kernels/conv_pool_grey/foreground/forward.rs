//! The convolution and the maxima of windows that see more than the background of their image.

use super::{MOST_CONTRAST, MOST_EIGHTHS, ROWS, can_have_foreground, check};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv::maximum_named;
use crate::kernels::conv_pool_grey::forward::{Channels, sum_of_squares, unzip};
use crate::kernels::conv_pool_grey::three::{
    self, CHANNELS, COLUMNS, Kernel, Points, SPAN, WINDOWS,
};
use crate::kernels::dense::part_mut;
use crate::kernels::filtering::three::{POINTS, TAPS};
use crate::kernels::foreground::{
    Foreground, LEAST_LANES, MOST_IMAGES, MOST_WINDOWS, Windows, channels_of_group, in_pairs,
    is_told_apart,
};
use crate::kernels::images::Images;
use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Aligned, Element, Simd};

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
    assert_eq!(foreground.groups.len(), n, "foreground length");
    let channels = channels_of_group(simd, shape.conv().c_out());
    assert_eq!(foreground.background.len(), channels, "background length");
    assert!((1..=MOST_IMAGES).contains(&n), "1 to {MOST_IMAGES} images");
    let (h, w, _) = shape.conv().windows().padded();
    let (out_h, out_w, c_out) = shape.pool().output();
    let layer = Channels::new(kernel, bias, relu, c_out, true);
    let (count, squares) = (out_h * out_w, sum_of_squares(simd, kernel));
    let in_pairs = in_pairs(simd, c_out);
    let background = images.get(0, h * w)[w + 1];
    let pixels = T::from_f64((w * POOL * (out_h + 1)) as f64 / MOST_CONTRAST);
    let loudness = background * background * pixels;
    // Each window has pixels of its own, as many as it has positions.
    let least = POSITIONS * (count - MOST_EIGHTHS * count / 8);
    if count_equal(simd, images.get(0, h * w), background) < least {
        return false;
    }
    ahead.divide(2 * n * c_out.div_ceil(CHANNELS));
    let mut kernel = [[[T::zero(); CHANNELS]; TAPS]; POINTS];
    let mut points = Aligned([[[T::zero(); COLUMNS]; POINTS]; ROWS]);
    let mut places = [0; MOST_WINDOWS];
    for o in (0..c_out).step_by(CHANNELS) {
        let layer = layer.part(o, CHANNELS);
        three::set_kernel(simd, &mut kernel, &layer);
        let (points, places) = (&mut points.0, &mut places);
        let mut part = Part { kernel: &kernel, points, places, count: 0, layer: &layer, in_pairs };
        part.set_background(simd, background);
        part.store(simd, foreground.background, &mut argmax[..channels]);
        let (mut sum, mut seen, mut start) = (T::zero(), 0, 0);
        for (image, windows) in foreground.groups.iter_mut().enumerate() {
            let x = images.get(image, h * w);
            ahead.ask();
            let found = part.set_image(simd, x, background, shape);
            *windows = found.windows;
            sum = sum + found.squares;
            if loudness > found.squares {
                return false;
            }
            seen += part.count;
            let end = start + part.count * c_out;
            if 8 * seen > MOST_EIGHTHS * (image + 1) * count || end > out.len() {
                return false;
            }
            ahead.ask();
            images.expect(image + 1, h * w);
            part.store(simd, &mut out[start..end], &mut argmax[start..end]);
            start = end;
        }
        if !(sum * squares).is_finite() {
            return false;
        }
    }
    true
}

/// How many pixels are the background's.
#[inline(always)]
fn count_equal<T: Element, S: Simd<T>>(simd: S, x: &[T], background: T) -> usize {
    let background = simd.splat(background);
    let (vectors, rest) = x.split_at(x.len() - x.len() % S::LANES);
    let mut count = 0;
    for x in vectors.chunks_exact(S::LANES) {
        count += simd.bits(simd.equal(simd.load(x), background)).count_ones();
    }
    let same = simd.bits(simd.equal(simd.load_part(rest), background));
    (count + (same & ((1 << rest.len()) - 1)).count_ones()) as usize
}

/// Some channels, and what they need.
struct Part<'a, T> {
    kernel: &'a Kernel<[T; CHANNELS]>,
    /// Of an image's pixels, for each row of windows.
    points: &'a mut [Points<T>; ROWS],
    /// Where the points of some windows begin.
    places: &'a mut [u32; MOST_WINDOWS],
    /// How many of the places are set; there are points for those.
    count: usize,
    layer: &'a Channels<'a, T>,
    /// Whether windows are told apart two by two.
    in_pairs: bool,
}

/// Most vectors of a row of pixels.
const MOST_VECTORS: usize = COLUMNS / LEAST_LANES;

/// A row of pixels.
struct Row<V> {
    /// As many vectors as [`COLUMNS`] fill; then anything.
    pixels: [V; MOST_VECTORS],
    /// A bit for each pixel: whether it is the background's.
    same: u32,
}

/// The rows of pixels of an image.
#[derive(Clone, Copy)]
struct Rows<'a, T, V> {
    x: &'a [T],
    w: usize,
    background: V,
}

/// What an image has.
struct Found<T> {
    /// Groups of windows that see more than the background.
    windows: Windows,
    /// The sum of the squares of the pixels that windows see.
    squares: T,
}

impl<T: Element, V: Copy> Rows<'_, T, V> {
    /// Row `y`, up to [`COLUMNS`], which no window sees beyond. Pixels' squares are added to
    /// `squares`; behind the row's end there are zeros.
    #[inline(always)]
    fn get<S: Simd<T, Vector = V>>(&self, simd: S, y: usize, squares: &mut V) -> Row<V> {
        let mut rest = &self.x[y * self.w..][..self.w];
        let mut row = Row { pixels: [simd.zero(); MOST_VECTORS], same: 0 };
        for n in 0..COLUMNS / S::LANES {
            let pixels;
            (pixels, rest) = rest.split_at(rest.len().min(S::LANES));
            let pixels = simd.load_part(pixels);
            *squares = simd.mul_add(pixels, pixels, *squares);
            row.same |= simd.bits(simd.equal(pixels, self.background)) << (n * S::LANES);
            row.pixels[n] = pixels;
        }
        row
    }
}

/// A bit for each window that sees a column without a bit.
#[inline(always)]
fn windows_without(columns: u32) -> u32 {
    let pairs = columns & columns >> 1;
    // A window begins at every other column: theirs are moved together, two by two.
    let mut bits = !(pairs & pairs >> POOL) & 0x5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333;
    bits = (bits | bits >> 2) & 0x0f0f_0f0f;
    bits = (bits | bits >> 4) & 0x00ff_00ff;
    (bits | bits >> 8) & 0xffff
}

impl<T: Element> Part<'_, T> {
    /// Sets the points to those of an image, at which `x` begins, and the places to those of the
    /// windows that see more than the background, and of their groups.
    #[inline(always)]
    fn set_image<S: Simd<T>>(
        &mut self,
        simd: S,
        x: &[T],
        background: T,
        shape: &ConvPoolShape,
    ) -> Found<T> {
        let (_, w, _) = shape.conv().windows().padded();
        let (out_h, out_w, _) = shape.pool().output();
        let rows = Rows { x, w, background: simd.splat(background) };
        let mut squares = [simd.zero(); POOL];
        let mut same = [0; ROWS];
        // Two of four rows of pixels are under the next row of windows too.
        let mut above = [rows.get(simd, 0, &mut squares[0]), rows.get(simd, 1, &mut squares[1])];
        for (i, points) in self.points[..out_h].iter_mut().enumerate() {
            let y = POOL * (i + 1);
            let below =
                [rows.get(simd, y, &mut squares[0]), rows.get(simd, y + 1, &mut squares[1])];
            same[i] = above[0].same & above[1].same & below[0].same & below[1].same;
            for n in 0..COLUMNS / S::LANES {
                let [first, second, third, fourth] = [&above[0], &above[1], &below[0], &below[1]];
                let pixels = [first.pixels[n], second.pixels[n], third.pixels[n], fourth.pixels[n]];
                three::set_columns(simd, points, pixels, n * S::LANES);
            }
            above = below;
        }
        // All rows, be they used or not, fill a vector.
        let seen = same.map(
            #[inline(always)]
            |columns| windows_without(columns) & ((1 << out_w) - 1),
        );
        let mut windows = Windows::default();
        self.count = 0;
        for (i, &bits) in seen[..out_h].iter().enumerate() {
            windows.add(i * out_w, bits.into());
        }
        if self.in_pairs {
            windows = windows.with_neighbours().among(Windows::first(out_h * out_w));
        }
        for i in 0..out_h {
            self.add_places(simd, i, windows.row(i * out_w, out_w));
        }
        let windows = if self.in_pairs { windows.pairs() } else { windows };
        Found { windows, squares: simd.sum(simd.add(squares[0], squares[1])) }
    }

    /// Adds the places of the windows of row `i` that have a bit.
    #[inline(always)]
    fn add_places<S: Simd<T>>(&mut self, simd: S, i: usize, mut bits: u32) {
        let first = i * POINTS * COLUMNS;
        if S::LANES > WINDOWS {
            let places = simd.numbers(|lane| POOL * lane);
            let places = simd.add(places, simd.splat(T::from_f64(first as f64)));
            simd.store_indices(simd.compress(places, bits), &mut self.places[self.count..]);
            self.count += bits.count_ones() as usize;
        } else {
            while bits != 0 {
                self.places[self.count] = (first + POOL * bits.trailing_zeros() as usize) as u32;
                self.count += 1;
                bits &= bits - 1;
            }
        }
    }

    /// Sets the points of a window that sees the background alone, and its place, for each window of
    /// a group.
    #[inline(always)]
    fn set_background<S: Simd<T>>(&mut self, simd: S, background: T) {
        three::set_columns(simd, &mut self.points[0], [simd.splat(background); POINTS], 0);
        self.count = if self.in_pairs { 2 } else { 1 };
        self.places[..self.count].fill(0);
    }

    /// All points, and the places that are set.
    #[inline(always)]
    fn set(&self) -> (&[T], &[u32]) {
        (self.points.as_flattened().as_flattened(), &self.places[..self.count])
    }

    /// The outputs and the lanes of the maxima at the windows whose places are set.
    #[inline(always)]
    fn store<S: Simd<T>>(&self, simd: S, out: &mut [T], argmax: &mut [T]) {
        for o in (self.layer.o..self.layer.end).step_by(S::LANES) {
            let layer = self.layer.part(o, S::LANES);
            if layer.fit_in_pairs::<S>() {
                self.store_pairs(simd, out, argmax, &layer);
            } else {
                self.store_windows(simd, out, argmax, &layer);
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
        layer: &Channels<T>,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                let taps = three::load_kernel(simd, self.kernel, layer);
                let bias = layer.bias(simd);
                let outputs = Outputs::new(simd, layer);
                let (o, c_out) = (layer.o, layer.c_out);
                let (points, places) = self.set();
                let len = places.len() * c_out;
                assert_eq!(layer.end - o, S::LANES, "whole vectors");
                assert!(out.len() == len && argmax.len() == len, "a place for each window");
                for (n, &place) in places.iter().enumerate() {
                    let start = n * c_out + o;
                    // SAFETY: the place is one of those that are set; and there is a vector of
                    // channels for each.
                    unsafe {
                        let sums = three::window_sums(simd, &taps, points_at(points, place), bias);
                        let out = part_mut(out, start, S::LANES);
                        outputs.store(simd, sums, out, part_mut(argmax, start, S::LANES));
                    }
                }
            },
        );
    }

    /// The same for half a vector of channels, which two windows fill.
    #[inline(always)]
    fn store_pairs<S: Simd<T>>(
        &self,
        simd: S,
        out: &mut [T],
        argmax: &mut [T],
        layer: &Channels<T>,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                let taps = three::load_kernel(simd, self.kernel, layer);
                let bias = layer.pair_bias(simd);
                let outputs = Outputs::new(simd, layer);
                let (points, places) = self.set();
                let len = places.len() * layer.c_out;
                assert_eq!(2 * layer.c_out, S::LANES, "half a vector");
                assert!(out.len() == len && argmax.len() == len, "a place for each window");
                let (places, last) = places.as_chunks::<2>();
                let (mut out, mut argmax) =
                    (out.chunks_exact_mut(S::LANES), argmax.chunks_exact_mut(S::LANES));
                for ((&[a, b], out), argmax) in places.iter().zip(&mut out).zip(&mut argmax) {
                    // SAFETY: the places are of those that are set.
                    let (a, b) = unsafe { (points_at(points, a), points_at(points, b)) };
                    let a = three::pair_sums(simd, &taps, a, bias);
                    let b = three::pair_sums(simd, &taps, b, bias);
                    outputs.store(simd, unzip(simd, a, b), out, argmax);
                }
                if let &[last] = last {
                    // SAFETY: as above.
                    let points = unsafe { points_at(points, last) };
                    let sums = three::pair_sums(simd, &taps, points, bias);
                    let (out, argmax) = (out.into_remainder(), argmax.into_remainder());
                    outputs.store(simd, unzip(simd, sums, sums), out, argmax);
                }
            },
        );
    }
}

/// The points of the window at a place.
///
/// # Safety
/// It is one of [`Part::set`].
#[inline(always)]
unsafe fn points_at<T>(points: &[T], place: u32) -> &[T] {
    let place = place as usize;
    // SAFETY: the caller's promise.
    unsafe { points.get_unchecked(place..place + SPAN) }
}

/// What becomes of a vector of windows' sums.
struct Outputs<V> {
    /// What outputs are at least.
    floor: V,
    /// The lanes of the positions where the way back picks pixels: in a vector that holds a row of
    /// pixels and, in its second half, the one below. Of two windows, those of the second are beside
    /// those of the first.
    lanes: [V; POSITIONS],
}

impl<V: Copy> Outputs<V> {
    #[inline(always)]
    fn new<T: Element, S: Simd<T, Vector = V>>(simd: S, layer: &Channels<T>) -> Self {
        let window = simd.numbers(
            #[inline(always)]
            |lane| if lane < layer.c_out { 0 } else { POOL },
        );
        let half = S::LANES / 2;
        let mut lanes = [simd.zero(); POSITIONS];
        for (lanes, first) in lanes.iter_mut().zip([0, 1, half, half + 1]) {
            *lanes = simd.add(simd.splat(T::from_f64(T::FIRST_LANE + first as f64)), window);
        }
        Self { floor: layer.floor(simd), lanes }
    }

    /// The layer's output and the lane of the maximum, up to the end of the slices.
    #[inline(always)]
    fn store<T: Element, S: Simd<T, Vector = V>>(
        &self,
        simd: S,
        sums: [V; POSITIONS],
        out: &mut [T],
        argmax: &mut [T],
    ) {
        let (max, at) = maximum_named::<T, S, true>(simd, sums, self.lanes);
        simd.store_up_to(simd.max(self.floor, max), out);
        simd.store_up_to(at, argmax);
    }
}
