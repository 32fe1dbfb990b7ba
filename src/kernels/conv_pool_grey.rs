//! A convolution of images with one channel, the 2x2 max pooling behind it, bias and ReLU in one pass:
//! the four sums of a window stay in registers, and the full-size output is never written. On the way
//! back only the position that held the maximum has a gradient. With one input channel, multiplying by
//! the zeros at the other three is faster than skipping them.

use super::shape::{ConvPoolShape, POOL};
use super::simd::{Element, Simd, for_channels};

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

/// The image rows (of `w` pixels) below the pooled row `i`.
#[inline(always)]
fn rows<'a, T>(shape: &ConvPoolShape, x: &'a [T], i: usize, row: usize) -> &'a [T] {
    let (_, w, _) = shape.conv().windows().padded();
    &x[(POOL * i + row) * w..][..w]
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
    if let Some(bias) = bias {
        assert_eq!(bias.len(), shape.conv().c_out(), "bias length");
    }
    for_channels!(simd, T, S, shape.conv().c_out() => for_window!(shape, K => {
        forward_channels::<T, _, K>(simd, out, argmax, x, kernel, bias, relu, shape, n)
    }));
}

#[inline(always)]
fn forward_channels<T: Element, S: Simd<T>, const K: usize>(
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
    let (out_h, out_w, c_out) = shape.pool().output();
    for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let taps: [[S::Vector; K]; K] = std::array::from_fn(|y| {
            std::array::from_fn(|x| simd.load_up_to(&kernel[(y * K + x) * c_out..][o..end]))
        });
        let bias = bias.map_or(simd.zero(), |bias| simd.load_up_to(&bias[o..end]));
        let positions: [S::Vector; POSITIONS] =
            std::array::from_fn(|n| simd.splat(T::from_f64(n as f64)));
        for row in 0..n * out_h {
            let x = &x[row / out_h * shape.conv().padded_len()..];
            for j in 0..out_w {
                let mut sums = [simd.zero(); POSITIONS];
                for_each_product::<_, _, K>(
                    simd,
                    shape,
                    x,
                    (row % out_h, j),
                    #[inline(always)]
                    |pixel, n, y, x| sums[n] = simd.mul_add(pixel, taps[y][x], sums[n]),
                );
                let (mut max, mut at) = (sums[0], positions[0]);
                for n in 1..POSITIONS {
                    let larger = simd.greater_or_nan(sums[n], max);
                    max = simd.select(larger, sums[n], max);
                    at = simd.select(larger, positions[n], at);
                }
                max = simd.add(max, bias);
                if relu {
                    let alive = simd.greater_or_nan(max, simd.zero());
                    max = simd.select(alive, max, simd.zero());
                }
                let channels = (row * out_w + j) * c_out + o..(row * out_w + j) * c_out + end;
                simd.store_up_to(max, &mut out[channels.clone()]);
                simd.store_up_to(at, &mut argmax[channels]);
            }
        }
    }
}

/// Calls `visit(pixel, n, y, x)` for every pixel that the tap (y, x) meets at position `n` of the
/// window (i, j). Each pixel is broadcast once, for all the positions that it touches.
#[inline(always)]
fn for_each_product<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    shape: &ConvPoolShape,
    x: &[T],
    (i, j): (usize, usize),
    mut visit: impl FnMut(S::Vector, usize, usize, usize),
) {
    for y in 0..POOL + K - 1 {
        let pixels = &rows(shape, x, i, y)[POOL * j..][..POOL + K - 1];
        for x in 0..POOL + K - 1 {
            let pixel = simd.splat(pixels[x]);
            for n in 0..POSITIONS {
                let (dy, dx) = (n / POOL, n % POOL);
                if (dy..dy + K).contains(&y) && (dx..dx + K).contains(&x) {
                    visit(pixel, n, y - dy, x - dx);
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
    for_channels!(simd, T, S, shape.conv().c_out() => for_window!(shape, K => {
        backward_channels::<T, _, K>(simd, d_kernel, d_out, argmax, x, shape, n)
    }));
}

#[inline(always)]
fn backward_channels<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    let (out_h, out_w, c_out) = shape.pool().output();
    for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let mut sums = [[simd.zero(); K]; K];
        for row in 0..n * out_h {
            let x = &x[row / out_h * shape.conv().padded_len()..];
            for j in 0..out_w {
                let channels = (row * out_w + j) * c_out + o..(row * out_w + j) * c_out + end;
                let d = simd.load_up_to(&d_out[channels.clone()]);
                let at = simd.load_up_to(&argmax[channels]);
                let d: [S::Vector; POSITIONS] = std::array::from_fn(|n| {
                    let here = simd.equal(at, simd.splat(T::from_f64(n as f64)));
                    simd.select(here, d, simd.zero())
                });
                for_each_product::<_, _, K>(
                    simd,
                    shape,
                    x,
                    (row % out_h, j),
                    #[inline(always)]
                    |pixel, n, y, x| sums[y][x] = simd.mul_add(pixel, d[n], sums[y][x]),
                );
            }
        }
        for y in 0..K {
            for x in 0..K {
                simd.store_up_to(sums[y][x], &mut d_kernel[(y * K + x) * c_out..][o..end]);
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
