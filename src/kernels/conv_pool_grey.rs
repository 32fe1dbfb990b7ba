//! A convolution of images with one channel, the 2x2 max pooling behind it, bias and ReLU in one pass:
//! the four sums of a window stay in registers, and the full-size output is never written. On the way
//! back only the position that held the maximum has a gradient. With one input channel, multiplying by
//! the zeros at the other three is faster than skipping them.

use super::shape::{ConvPoolShape, POOL};
use super::simd::{Element, Simd};

/// Positions in a pooling window.
const POSITIONS: usize = POOL * POOL;

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
        if layer.end - o <= S::LANES / 2 {
            forward_pairs::<T, S, K>(simd, out, argmax, x, &layer, shape, n);
        } else {
            forward_vectors::<T, S, K>(simd, out, argmax, x, &layer, shape, n);
        }
    });
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
    /// The kernel, tap by tap.
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
        self.bias.map_or(simd.zero(), |bias| simd.load_up_to(&bias[self.o..self.end]))
    }

    /// The layer's output and the place of the maximum, from the convolution at the four positions.
    #[inline(always)]
    fn pooled<S: Simd<T>>(
        &self,
        simd: S,
        sums: [S::Vector; POSITIONS],
        bias: S::Vector,
    ) -> (S::Vector, S::Vector) {
        // Row by row: the processor waits for two comparisons one after the other, not for three.
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
        (max, at)
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

/// The pixels under one row of pooling windows.
#[derive(Clone, Copy)]
struct Pixels<'a, T> {
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
}

impl<'a, T: Element> Pixels<'a, T> {
    /// Those of row `row` of all images' pooled rows.
    #[inline(always)]
    fn new(x: &'a [T], shape: &ConvPoolShape, row: usize) -> Self {
        let (_, w, _) = shape.conv().windows().padded();
        let (out_h, out_w, _) = shape.pool().output();
        let (k, _) = shape.conv().window();
        let (image, i) = (row / out_h, row % out_h);
        let x = &x[image * shape.conv().padded_len() + POOL * i * w..][..(POOL + k - 1) * w];
        assert!(POOL * out_w + k - 1 <= w, "windows inside a row");
        Self { x, w }
    }

    /// `len` pixels from column `j` of row `y`.
    ///
    /// # Safety
    /// `y` is below `k + 1`, and `j + len` at most `2 * pooled w + k - 1`.
    #[inline(always)]
    unsafe fn get(self, y: usize, j: usize, len: usize) -> &'a [T] {
        // SAFETY: there are so many rows and columns, as `new` asserts.
        unsafe { self.x.get_unchecked(y * self.w + j..y * self.w + j + len) }
    }
}

#[inline(always)]
fn forward_vectors<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    layer: &Channels<T>,
    shape: &ConvPoolShape,
    n: usize,
) {
    let (out_h, out_w, c_out) = shape.pool().output();
    let taps: [[S::Vector; K]; K] = layer.taps(simd);
    let bias = layer.bias(simd);
    for row in 0..n * out_h {
        let pixels = Pixels::new(x, shape, row);
        for j in 0..out_w {
            let mut sums = [simd.zero(); POSITIONS];
            for_each_product::<_, _, K>(
                simd,
                pixels,
                j,
                #[inline(always)]
                |pixel, n, y, x| sums[n] = simd.mul_add(pixel, taps[y][x], sums[n]),
            );
            let (max, at) = layer.pooled(simd, sums, bias);
            let window = (row * out_w + j) * c_out;
            let channels = window + layer.o..window + layer.end;
            simd.store_up_to(max, &mut out[channels.clone()]);
            simd.store_up_to(at, &mut argmax[channels]);
        }
    }
}

/// Calls `visit(pixel, n, y, x)` for every pixel that the tap (y, x) meets at position `n` of the
/// window `j`. Each pixel is broadcast once, for all the positions that it touches.
#[inline(always)]
fn for_each_product<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    pixels: Pixels<T>,
    j: usize,
    mut visit: impl FnMut(S::Vector, usize, usize, usize),
) {
    for y in 0..POOL + K - 1 {
        for x in 0..POOL + K - 1 {
            // SAFETY: `j` is a window.
            let pixel = simd.splat(unsafe { pixels.get(y, POOL * j + x, 1) }[0]);
            for n in 0..POSITIONS {
                let (dy, dx) = (n / POOL, n % POOL);
                if (dy..dy + K).contains(&y) && (dx..dx + K).contains(&x) {
                    visit(pixel, n, y - dy, x - dx);
                }
            }
        }
    }
}

/// For half a vector of channels at most: each has two neighbouring lanes, one for each column of a
/// pooling window. A pair of neighbouring pixels fills a vector in one load, and meets both columns.
#[inline(always)]
fn forward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    layer: &Channels<T>,
    shape: &ConvPoolShape,
    n: usize,
) {
    let (out_h, out_w, c_out) = shape.pool().output();
    let mut taps: [[S::Vector; K]; K] = layer.taps(simd);
    for tap in taps.as_flattened_mut() {
        *tap = simd.zip(*tap, *tap)[0];
    }
    let bias = layer.bias(simd);
    let pair = simd.zip(bias, bias)[0];
    let bias = simd.unzip(pair, pair)[0];
    for row in 0..n * out_h {
        let pixels = Pixels::new(x, shape, row);
        let mut j = 0;
        while j < out_w {
            let window = (row * out_w + j) * c_out;
            // Two windows whose channels together are one vector in memory.
            if c_out == S::LANES / 2 && j + 2 <= out_w {
                let sums = pair_sums::<T, S, K, 2>(simd, pixels, j, &taps);
                let (max, at) = layer.pooled(simd, sums, bias);
                simd.store(max, &mut out[window..]);
                simd.store(at, &mut argmax[window..]);
                j += 2;
            } else {
                let sums = pair_sums::<T, S, K, 1>(simd, pixels, j, &taps);
                let (max, at) = layer.pooled(simd, sums, bias);
                let channels = window + layer.o..window + layer.end;
                simd.store_up_to(max, &mut out[channels.clone()]);
                simd.store_up_to(at, &mut argmax[channels]);
                j += 1;
            }
        }
    }
}

/// The convolution at the four positions of `W` windows from `j` on, half a vector of channels for each.
#[inline(always)]
fn pair_sums<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    pixels: Pixels<T>,
    j: usize,
    taps: &[[S::Vector; K]; K],
) -> [S::Vector; POSITIONS] {
    let mut sums = [[simd.zero(); POOL]; W];
    for_each_pair::<_, _, K, W>(
        simd,
        pixels,
        j,
        #[inline(always)]
        |pair, window, dy, y, x| {
            sums[window][dy] = simd.mul_add(pair, taps[y][x], sums[window][dy]);
        },
    );
    let upper = simd.unzip(sums[0][0], sums[W - 1][0]);
    let lower = simd.unzip(sums[0][1], sums[W - 1][1]);
    [upper[0], upper[1], lower[0], lower[1]]
}

/// Calls `visit(pair, window, dy, y, x)` for every pair of neighbouring pixels that the tap (y, x) meets
/// in the row `dy` of one of the `W` windows from `j` on.
#[inline(always)]
fn for_each_pair<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    pixels: Pixels<T>,
    j: usize,
    mut visit: impl FnMut(S::Vector, usize, usize, usize, usize),
) {
    for y in 0..POOL + K - 1 {
        for x in 0..POOL * (W - 1) + K {
            // SAFETY: the `W` windows exist, and the last one's patch ends at `2 * W + K - 1`.
            let pair = simd.splat_pair(unsafe { pixels.get(y, POOL * j + x, 2) });
            for window in 0..W {
                for dy in 0..POOL {
                    let first = POOL * window;
                    if (dy..dy + K).contains(&y) && (first..first + K).contains(&x) {
                        visit(pair, window, dy, y - dy, x - first);
                    }
                }
            }
        }
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
        let sums: [[S::Vector; K]; K] = if end - o <= S::LANES / 2 {
            backward_pairs(simd, d_out, argmax, x, shape, n, o, end)
        } else {
            backward_vectors(simd, d_out, argmax, x, shape, n, o, end)
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
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
    o: usize,
    end: usize,
) -> [[S::Vector; K]; K] {
    let (out_h, out_w, c_out) = shape.pool().output();
    let mut sums = [[simd.zero(); K]; K];
    for row in 0..n * out_h {
        let pixels = Pixels::new(x, shape, row);
        for j in 0..out_w {
            let window = (row * out_w + j) * c_out;
            let d = simd.load_up_to(&d_out[window + o..window + end]);
            let at = simd.load_up_to(&argmax[window + o..window + end]);
            let mut at_position = [simd.zero(); POSITIONS];
            for n in 0..POSITIONS {
                let here = simd.equal(at, simd.splat(T::from_f64(n as f64)));
                at_position[n] = simd.select(here, d, simd.zero());
            }
            for_each_product::<_, _, K>(
                simd,
                pixels,
                j,
                #[inline(always)]
                |pixel, n, y, x| sums[y][x] = simd.mul_add(pixel, at_position[n], sums[y][x]),
            );
        }
    }
    sums
}

/// The layout of [`forward_pairs`]: what the two columns of the windows contribute is summed in
/// neighbouring lanes.
#[inline(always)]
fn backward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
    o: usize,
    end: usize,
) -> [[S::Vector; K]; K] {
    let (out_h, out_w, c_out) = shape.pool().output();
    let mut sums = [[simd.zero(); K]; K];
    for row in 0..n * out_h {
        let pixels = Pixels::new(x, shape, row);
        let mut j = 0;
        while j < out_w {
            let window = (row * out_w + j) * c_out;
            if c_out == S::LANES / 2 && j + 2 <= out_w {
                let (d, at) = (simd.load(&d_out[window..]), simd.load(&argmax[window..]));
                let (d, at) = (simd.zip(d, d), simd.zip(at, at));
                let d = [row_gradients(simd, d[0], at[0]), row_gradients(simd, d[1], at[1])];
                add_pairs(simd, &mut sums, pixels, j, &d);
                j += 2;
            } else {
                let d = simd.load_up_to(&d_out[window + o..window + end]);
                let at = simd.load_up_to(&argmax[window + o..window + end]);
                let d = [row_gradients(simd, simd.zip(d, d)[0], simd.zip(at, at)[0])];
                add_pairs(simd, &mut sums, pixels, j, &d);
                j += 1;
            }
        }
    }
    for sum in sums.as_flattened_mut() {
        let [left, right] = simd.unzip(*sum, *sum);
        *sum = simd.add(left, right);
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
    let mut rows = [simd.zero(); POOL];
    for dy in 0..POOL {
        let positions = [POOL * dy, POOL * dy + 1];
        let here =
            simd.splat_pair(&[T::from_f64(positions[0] as f64), T::from_f64(positions[1] as f64)]);
        rows[dy] = simd.select(simd.equal(at, here), d, simd.zero());
    }
    rows
}

/// Adds the products of the gradients `d` (windows, rows) and the pixels of the windows from `j` on.
#[inline(always)]
fn add_pairs<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    sums: &mut [[S::Vector; K]; K],
    pixels: Pixels<T>,
    j: usize,
    d: &[[S::Vector; POOL]; W],
) {
    for_each_pair::<_, _, K, W>(
        simd,
        pixels,
        j,
        #[inline(always)]
        |pair, window, dy, y, x| sums[y][x] = simd.mul_add(pair, d[window][dy], sums[y][x]),
    );
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
