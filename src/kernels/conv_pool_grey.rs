//! A convolution of images with one channel, the 2x2 max pooling behind it, bias and ReLU in one pass:
//! the four sums of a window stay in registers, and the full-size output is never written. On the way
//! back only the position that held the maximum has a gradient. With one input channel, multiplying by
//! the zeros at the other three is faster than skipping them.

use super::shape::{ConvPoolShape, POOL};
use super::simd::{Element, Simd};
use std::ops::Range;

/// Positions in a pooling window.
const POSITIONS: usize = POOL * POOL;

/// Windows whose sums fill the registers of a processor with 32 of them.
const WIDE: usize = 4;

/// Whether the kernels of this file are made for the shape: images with one channel, and filters of 3x3
/// or 5x5 in steps of 1.
pub fn supports(shape: &ConvPoolShape) -> bool {
    let conv = shape.conv();
    conv.input().2 == 1 && matches!(conv.window(), (3, 3) | (5, 5)) && conv.strides() == (1, 1)
}

/// `for_window!(shape, K => expression)`: evaluates the expression with the window's side as a constant.
macro_rules! for_window {
    ($shape:expr, $k:ident => $body:expr) => {
        match $shape.conv().window() {
            (3, 3) => {
                const $k: usize = 3;
                $body
            }
            (5, 5) => {
                const $k: usize = 5;
                $body
            }
            (kh, kw) => panic!("expected a supported shape, got a {kh}x{kw} window"),
        }
    };
}

/// `out[i, j, o] = relu(max over the window of (i, j) of conv(x, kernel)[.., .., o] + bias[o])`, and in
/// `argmax` the position (0 to 3, row by row) of the first maximum; a NaN counts as the maximum, and
/// ReLU keeps it.
///
/// `out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, h, w) with its padding, `kernel` (k, k, 1,
/// c_out), `bias` (c_out,); for shapes that are [supported](supports).
#[inline(always)]
pub fn grey_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) {
    check(out, argmax, x, kernel, shape, n);
    let c_out = shape.conv().c_out();
    if let Some(bias) = bias {
        assert_eq!(bias.len(), c_out, "bias length");
    }
    for_window!(shape, K => for o in (0..c_out).step_by(S::LANES) {
        let layer = Channels { kernel, bias, relu, o, end: c_out.min(o + S::LANES), c_out };
        let patches = Patches::<T, K>::new(x, shape);
        if layer.end - o <= S::LANES / 2 {
            forward_pairs(simd, out, argmax, patches, &layer);
        } else {
            forward_vectors(simd, out, argmax, patches, &layer);
        }
    });
}

#[inline(always)]
fn forward_vectors<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    mut patches: Patches<T, K>,
    layer: &Channels<T>,
) {
    let (taps, bias) = (layer.taps(simd), layer.bias(simd));
    let windows = out.len() / layer.c_out;
    let mut window = 0;
    while S::SUMS >= 24 && window + WIDE <= windows {
        let sums = window_sums::<T, S, K, WIDE>(simd, &mut patches, &taps);
        for n in 0..WIDE {
            layer.store_pooled(simd, out, argmax, sums[n], bias, window + n, 1);
        }
        window += WIDE;
    }
    while window < windows {
        let [sums] = window_sums(simd, &mut patches, &taps);
        layer.store_pooled(simd, out, argmax, sums, bias, window, 1);
        window += 1;
    }
}

/// The convolution at the four positions of the next `W` windows.
#[inline(always)]
fn window_sums<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    patches: &mut Patches<T, K>,
    taps: &[[S::Vector; K]; K],
) -> [[S::Vector; POSITIONS]; W] {
    let patches = patches.take::<W>();
    let mut sums = [[simd.zero(); POSITIONS]; W];
    for y in 0..POOL + K - 1 {
        for x in 0..K {
            for window in 0..W {
                for dx in 0..POOL {
                    let pixel = simd.splat(patches[window].pixel(y, x + dx));
                    for dy in 0..POOL {
                        if (dy..dy + K).contains(&y) {
                            let sum = &mut sums[window][POOL * dy + dx];
                            *sum = simd.mul_add(pixel, taps[y - dy][x], *sum);
                        }
                    }
                }
            }
        }
    }
    sums
}

/// For half a vector of channels at most: each has two neighbouring lanes, one for each column of a
/// pooling window. A pair of neighbouring pixels fills a vector in one load, and meets both columns.
#[inline(always)]
fn forward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    mut patches: Patches<T, K>,
    layer: &Channels<T>,
) {
    let mut taps: [[S::Vector; K]; K] = layer.taps(simd);
    for y in 0..K {
        for x in 0..K {
            taps[y][x] = simd.zip(taps[y][x], taps[y][x])[0];
        }
    }
    let bias = layer.bias(simd);
    let bias = unzip(simd, [simd.zip(bias, bias)[0]; POOL], [simd.zip(bias, bias)[0]; POOL])[0];
    let windows = out.len() / layer.c_out;
    let mut window = 0;
    while S::SUMS >= 24 && window + WIDE <= windows {
        let sums = pair_sums::<T, S, K, WIDE>(simd, &mut patches, &taps);
        // The channels of two windows may be one vector in memory.
        if layer.c_out == S::LANES / 2 {
            for n in [0, 2] {
                let sums = unzip(simd, sums[n], sums[n + 1]);
                layer.store_pooled(simd, out, argmax, sums, bias, window + n, 2);
            }
        } else {
            for n in 0..WIDE {
                let sums = unzip(simd, sums[n], sums[n]);
                layer.store_pooled(simd, out, argmax, sums, bias, window + n, 1);
            }
        }
        window += WIDE;
    }
    while window < windows {
        let [sums] = pair_sums(simd, &mut patches, &taps);
        layer.store_pooled(simd, out, argmax, unzip(simd, sums, sums), bias, window, 1);
        window += 1;
    }
}

/// The convolution in both rows of the next `W` windows.
#[inline(always)]
fn pair_sums<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    patches: &mut Patches<T, K>,
    taps: &[[S::Vector; K]; K],
) -> [[S::Vector; POOL]; W] {
    let patches = patches.take::<W>();
    let mut sums = [[simd.zero(); POOL]; W];
    for y in 0..POOL + K - 1 {
        for x in 0..K {
            for window in 0..W {
                let pair = simd.splat_pair(patches[window].pair(y, x));
                for dy in 0..POOL {
                    if (dy..dy + K).contains(&y) {
                        let sum = &mut sums[window][dy];
                        *sum = simd.mul_add(pair, taps[y - dy][x], *sum);
                    }
                }
            }
        }
    }
    sums
}

/// The four positions of two windows, each with half a vector of channels, from the windows' rows.
#[inline(always)]
fn unzip<T: Element, S: Simd<T>>(
    simd: S,
    a: [S::Vector; POOL],
    b: [S::Vector; POOL],
) -> [S::Vector; POSITIONS] {
    let (upper, lower) = (simd.unzip(a[0], b[0]), simd.unzip(a[1], b[1]));
    [upper[0], upper[1], lower[0], lower[1]]
}

/// At most a vector of the layer's channels.
struct Channels<'a, T> {
    kernel: &'a [T],
    bias: Option<&'a [T]>,
    relu: bool,
    /// The first channel, and the one behind the last.
    o: usize,
    end: usize,
    c_out: usize,
}

impl<T: Element> Channels<'_, T> {
    #[inline(always)]
    fn taps<S: Simd<T>, const K: usize>(&self, simd: S) -> [[S::Vector; K]; K] {
        let mut taps = [[simd.zero(); K]; K];
        for y in 0..K {
            for x in 0..K {
                let channels = &self.kernel[(y * K + x) * self.c_out..][self.o..self.end];
                taps[y][x] = simd.load_up_to(channels);
            }
        }
        taps
    }

    #[inline(always)]
    fn bias<S: Simd<T>>(&self, simd: S) -> S::Vector {
        match self.bias {
            Some(bias) => simd.load_up_to(&bias[self.o..self.end]),
            None => simd.zero(),
        }
    }

    /// Writes the layer's output and the places of the maxima, from the convolution at the four
    /// positions of one window or of several `windows` behind each other.
    #[inline(always)]
    fn store_pooled<S: Simd<T>>(
        &self,
        simd: S,
        out: &mut [T],
        argmax: &mut [T],
        sums: [S::Vector; POSITIONS],
        bias: S::Vector,
        window: usize,
        windows: usize,
    ) {
        let mut values = [(simd.zero(), simd.zero()); POSITIONS];
        for n in 0..POSITIONS {
            values[n] = (sums[n], simd.splat(T::from_f64(n as f64)));
        }
        let upper = larger(simd, values[0], values[1]);
        let lower = larger(simd, values[2], values[3]);
        let (mut max, at) = larger(simd, upper, lower);
        max = simd.add(max, bias);
        if self.relu {
            let alive = simd.greater_or_nan(max, simd.zero());
            max = simd.select(alive, max, simd.zero());
        }
        let start = window * self.c_out;
        let channels = start + self.o..start + self.end + (windows - 1) * self.c_out;
        simd.store_up_to(max, &mut out[channels.clone()]);
        simd.store_up_to(at, &mut argmax[channels]);
    }
}

/// The larger of two values, of equal ones the first, with what comes with it. NaN is the largest.
#[inline(always)]
fn larger<T: Element, S: Simd<T>>(
    simd: S,
    a: (S::Vector, S::Vector),
    b: (S::Vector, S::Vector),
) -> (S::Vector, S::Vector) {
    let later = simd.greater_or_nan(b.0, a.0);
    (simd.select(later, b.0, a.0), simd.select(later, b.1, a.1))
}

/// The image patches under the pooling windows, window by window through all images.
struct Patches<'a, T, const K: usize> {
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
    /// Windows below and beside each other.
    windows: (usize, usize),
    /// The next window, and where its patch begins.
    i: usize,
    j: usize,
    start: usize,
    /// How far it is from the end of a row of windows, and of an image, to the next.
    row_step: usize,
    image_step: usize,
}

impl<'a, T: Element, const K: usize> Patches<'a, T, K> {
    #[inline(always)]
    fn new(x: &'a [T], shape: &ConvPoolShape) -> Self {
        let (h, w, _) = shape.conv().windows().padded();
        let (out_h, out_w, _) = shape.pool().output();
        let (row_step, image_step) = (POOL * (w - out_w), (h - POOL * out_h) * w);
        Self { x, w, windows: (out_h, out_w), i: 0, j: 0, start: 0, row_step, image_step }
    }

    /// The next `W` patches.
    #[inline(always)]
    fn take<const W: usize>(&mut self) -> [Patch<'a, T, K>; W] {
        let mut patches = [Patch { x: self.x, w: self.w }; W];
        for patch in &mut patches {
            patch.x = &self.x[self.start..self.start + K * self.w + K + 1];
            self.j += 1;
            self.start += POOL;
            if self.j == self.windows.1 {
                self.j = 0;
                self.i += 1;
                self.start += self.row_step;
                if self.i == self.windows.0 {
                    self.i = 0;
                    self.start += self.image_step;
                }
            }
        }
        patches
    }
}

/// The `K + 1` rows of `K + 1` pixels under a pooling window.
#[derive(Clone, Copy)]
struct Patch<'a, T, const K: usize> {
    /// From the first one to the last one, `K * w + K + 1` elements.
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
}

impl<'a, T: Element, const K: usize> Patch<'a, T, K> {
    #[inline(always)]
    fn pixel(self, y: usize, x: usize) -> T {
        debug_assert!(y <= K && x <= K);
        // SAFETY: `Patches::take` cuts so many elements out of the image, and the callers' loops end at `K`.
        unsafe { *self.x.get_unchecked(y * self.w + x) }
    }

    /// Two neighbours.
    #[inline(always)]
    fn pair(self, y: usize, x: usize) -> &'a [T] {
        debug_assert!(y <= K && x < K);
        // SAFETY: as above.
        unsafe { self.x.get_unchecked(y * self.w + x..y * self.w + x + 2) }
    }
}

/// `d_kernel[y, x, 0, o] = sum over images and windows of image[p + (y, x)] * d_out[i, j, o]`, where `p`
/// is the position of the window's maximum. `d_out` is the gradient before ReLU.
///
/// `d_kernel` (k, k, 1, c_out), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, h, w) with its
/// padding; for shapes that are [supported](supports).
#[inline(always)]
pub fn grey_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    check(d_out, argmax, x, d_kernel, shape, n);
    let c_out = shape.conv().c_out();
    for_window!(shape, K => for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let patches = Patches::<T, K>::new(x, shape);
        let sums = if end - o <= S::LANES / 2 {
            backward_pairs(simd, d_out, argmax, patches, o..end, c_out)
        } else {
            backward_vectors(simd, d_out, argmax, patches, o..end, c_out)
        };
        for y in 0..K {
            for x in 0..K {
                simd.store_up_to(sums[y][x], &mut d_kernel[(y * K + x) * c_out..][o..end]);
            }
        }
    });
}

#[inline(always)]
fn backward_vectors<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_out: &[T],
    argmax: &[T],
    mut patches: Patches<T, K>,
    channels: Range<usize>,
    c_out: usize,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    for (d_out, argmax) in d_out.chunks_exact(c_out).zip(argmax.chunks_exact(c_out)) {
        let [patch] = patches.take::<1>();
        let at = simd.load_up_to(&argmax[channels.clone()]);
        let mut d = [simd.load_up_to(&d_out[channels.clone()]); POSITIONS];
        for n in 0..POSITIONS {
            let here = simd.equal(at, simd.splat(T::from_f64(n as f64)));
            d[n] = simd.select(here, d[n], simd.zero());
        }
        // One by one, since the sums are registers only if no loop chooses among them.
        add_row::<T, S, K, 0>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 1>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 2>(simd, &mut sums, patch, &d);
        add_row::<T, S, K, 3>(simd, &mut sums, patch, &d);
        if K == 5 {
            add_row::<T, S, K, 4>(simd, &mut sums, patch, &d);
            add_row::<T, S, K, 5>(simd, &mut sums, patch, &d);
        }
    }
    sums
}

/// Adds the products of the pixels in row `Y` and the gradients `d` at the positions. Each pixel is
/// broadcast once, for all the positions that it meets.
#[inline(always)]
fn add_row<T: Element, S: Simd<T>, const K: usize, const Y: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    patch: Patch<T, K>,
    d: &[S::Vector; POSITIONS],
) {
    for x in 0..POOL + K - 1 {
        let pixel = simd.splat(patch.pixel(Y, x));
        for n in 0..POSITIONS {
            let (dy, dx) = (n / POOL, n % POOL);
            if (dy..dy + K).contains(&Y) && (dx..dx + K).contains(&x) {
                let sum = &mut sums[Y - dy][x - dx];
                *sum = simd.mul_add(pixel, d[n], *sum);
            }
        }
    }
}

/// The layout of [`forward_pairs`]: what the two columns of the windows contribute is summed in
/// neighbouring lanes.
#[inline(always)]
fn backward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_out: &[T],
    argmax: &[T],
    mut patches: Patches<T, K>,
    channels: Range<usize>,
    c_out: usize,
) -> [[S::Vector; K]; K] {
    let mut sums = [[simd.zero(); K]; K];
    let mut window = 0;
    let windows = d_out.len() / c_out;
    // Two windows whose channels together are one vector in memory, if there are registers for both.
    while K == 3 && c_out == S::LANES / 2 && window + 2 <= windows {
        let (d, at) = (simd.load(&d_out[window * c_out..]), simd.load(&argmax[window * c_out..]));
        let (d, at) = (simd.zip(d, d), simd.zip(at, at));
        let d = [row_gradients(simd, d[0], at[0]), row_gradients(simd, d[1], at[1])];
        add_pairs(simd, &mut sums, &mut patches, &d);
        window += 2;
    }
    while window < windows {
        let channels = window * c_out + channels.start..window * c_out + channels.end;
        let (d, at) =
            (simd.load_up_to(&d_out[channels.clone()]), simd.load_up_to(&argmax[channels]));
        let d = [row_gradients(simd, simd.zip(d, d)[0], simd.zip(at, at)[0])];
        add_pairs(simd, &mut sums, &mut patches, &d);
        window += 1;
    }
    for y in 0..K {
        for x in 0..K {
            let [left, right] = simd.unzip(sums[y][x], sums[y][x]);
            sums[y][x] = simd.add(left, right);
        }
    }
    sums
}

/// The gradients `d` where a row of the window has its maximum, for both rows.
#[inline(always)]
fn row_gradients<T: Element, S: Simd<T>>(
    simd: S,
    d: S::Vector,
    at: S::Vector,
) -> [S::Vector; POOL] {
    let mut rows = [d; POOL];
    for dy in 0..POOL {
        let (left, right) = (POOL * dy, POOL * dy + 1);
        let here = simd.splat_pair(&[T::from_f64(left as f64), T::from_f64(right as f64)]);
        rows[dy] = simd.select(simd.equal(at, here), d, simd.zero());
    }
    rows
}

/// Adds the products of the next windows' pixels and their gradients `d` (windows, rows).
#[inline(always)]
fn add_pairs<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    patches: &mut Patches<T, K>,
    d: &[[S::Vector; POOL]; W],
) {
    let patches = patches.take::<W>();
    for y in 0..POOL + K - 1 {
        for x in 0..K {
            for window in 0..W {
                let pair = simd.splat_pair(patches[window].pair(y, x));
                for dy in 0..POOL {
                    if (dy..dy + K).contains(&y) {
                        let sum = &mut sums[y - dy][x];
                        *sum = simd.mul_add(pair, d[window][dy], *sum);
                    }
                }
            }
        }
    }
}

fn check<T>(out: &[T], argmax: &[T], x: &[T], kernel: &[T], shape: &ConvPoolShape, n: usize) {
    assert!(supports(shape), "a supported shape");
    assert_eq!(out.len(), n * shape.pool().output_len(), "output length");
    assert_eq!(argmax.len(), n * shape.pool().output_len(), "argmax length");
    assert_eq!(x.len(), n * shape.conv().padded_len(), "image length");
    assert_eq!(kernel.len(), shape.conv().kernel_len(), "kernel length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference::conv_pool as reference;
    use crate::kernels::shape::{ConvShape, Padding};
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    fn grey_shape(
        (h, w): (usize, usize),
        k: usize,
        padding: Padding,
        filters: usize,
    ) -> ConvPoolShape {
        let conv = ConvShape::new((h, w, 1), (k, k), (1, 1), padding, filters).unwrap();
        ConvPoolShape::new(conv).unwrap()
    }

    macro_rules! define_case {
        ($case:ident, $t:ty) => {
        /// Returns the positions that were chosen.
        fn $case(level: Level, shape: ConvPoolShape, n: usize, x: Vec<$t>, with_bias: bool) -> Vec<$t> {
            let (conv, pooled) = (shape.conv(), n * shape.pool().output_len());
            let terms = conv.taps() + 1;
            let kernel: Vec<$t> = random(conv.kernel_len(), 2);
            let bias: Option<Vec<$t>> = with_bias.then(|| random(conv.c_out(), 4));
            let d_out: Vec<$t> = random(pooled, 3);

            let mut full = vec![<$t>::NAN; n * conv.output_len()];
            reference::conv(&mut full, &x, &kernel, conv, n);
            let maximum = |values: [$t; POSITIONS]| {
                let max = values.into_iter().fold(<$t>::NEG_INFINITY, <$t>::max);
                if values.iter().any(|v| v.is_nan()) { <$t>::NAN } else { max }
            };
            let expected: Vec<$t> = (0..pooled)
                .map(|p| [0, 1, 2, 3].map(|at| full[reference::unpooled_index(p, at, &shape)]))
                .map(maximum)
                .enumerate()
                .map(|(p, max)| max + bias.as_ref().map_or(0.0, |bias| bias[p % conv.c_out()]))
                .collect();
            let relu = |x: &$t| if *x < 0.0 { 0.0 } else { *x };
            let expected_relu: Vec<$t> = expected.iter().map(relu).collect();
            let mut argmax = vec![<$t>::NAN; pooled];
            for (relu, expected) in [(true, &expected_relu), (false, &expected)] {
                let mut out = vec![<$t>::NAN; pooled];
                dispatch!($t, level, simd => grey_forward(
                    simd, &mut out, &mut argmax, &x, &kernel, bias.as_deref(), relu, &shape, n,
                ));
                assert_close(&out, expected, terms);
            }

            // The two orders of rounding may disagree on near ties, so the gradient is checked
            // against the positions that the kernel itself chose, and those against the values.
            for (p, &at) in argmax.iter().enumerate() {
                let chosen = full[reference::unpooled_index(p, at as usize, &shape)];
                let bias = bias.as_ref().map_or(0.0, |bias| bias[p % conv.c_out()]);
                assert_close(&[chosen + bias], &[expected[p]], terms);
            }
            let mut d_full = full;
            reference::unpool(&mut d_full, &d_out, &argmax, &shape);
            let mut d_kernel = vec![<$t>::NAN; conv.kernel_len()];
            let mut expected = d_kernel.clone();
            reference::conv_d_kernel(&mut expected, &d_full, &x, conv, n);
            dispatch!($t, level, simd => {
                grey_backward_kernel(simd, &mut d_kernel, &d_out, &argmax, &x, &shape, n)
            });
            assert_close(&d_kernel, &expected, pooled / conv.c_out());
            argmax
        }};
    }

    // One function each: every `dispatch!` compiles its kernel anew.
    define_case!(case_f32, f32);
    define_case!(case_f64, f64);

    #[test]
    fn equals_reference_around_every_tile_edge() {
        let sizes = [(3, 4, 4), (3, 5, 5), (3, 6, 9), (3, 10, 7), (5, 6, 6), (5, 8, 9)];
        for_each_level(|level| {
            for filters in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for (k, h, w) in sizes {
                    for (n, padding) in [(1, Padding::Valid), (2, Padding::Same)] {
                        let shape = grey_shape((h, w), k, padding, filters);
                        let len = n * shape.conv().padded_len();
                        case_f32(level, shape, n, random(len, 1), n == 2);
                        case_f64(level, shape, n, random(len, 1), n == 1);
                    }
                }
            }
        });
    }

    #[test]
    fn the_first_of_equal_maxima_is_chosen() {
        for_each_level(|level| {
            for filters in [1, 5, 8, 16] {
                let shape = grey_shape((4, 4), 3, Padding::Valid, filters);
                let argmax = case_f32(level, shape, 1, vec![0.5; 16], false);
                assert!(argmax.iter().all(|&at| at == 0.0));
            }
        });
    }

    #[test]
    fn a_nan_is_the_maximum() {
        for_each_level(|level| {
            for filters in [1, 5, 8, 16] {
                let shape = grey_shape((4, 4), 3, Padding::Valid, filters);
                let mut x = vec![1.0; 16];
                x[15] = f32::NAN; // seen by the window's last position only
                let argmax = case_f32(level, shape, 1, x, true);
                assert!(argmax.iter().all(|&at| at == 3.0));
            }
        });
    }

    #[test]
    fn other_shapes_are_not_supported() {
        let supports = |c_in, window, strides| {
            let conv = ConvShape::new((9, 9, c_in), window, strides, Padding::Same, 2).unwrap();
            supports(&ConvPoolShape::new(conv).unwrap())
        };
        assert!(supports(1, (3, 3), (1, 1)));
        assert!(supports(1, (5, 5), (1, 1)));
        assert!(!supports(1, (3, 5), (1, 1)));
        assert!(!supports(2, (3, 3), (1, 1)));
        assert!(!supports(1, (3, 3), (1, 2)));
    }
}
