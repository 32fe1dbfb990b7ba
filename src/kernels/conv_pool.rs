//! A 3x3 convolution of one channel and the 2x2 max pooling behind it in one pass: the four sums of
//! a window stay in registers, and the full-size output is never written. On the way back only the
//! position that held the maximum has a gradient.

use super::shape::{ConvPoolShape, POOL};
use super::simd::{Element, Simd, for_channels};

/// The side of the kernel.
const K: usize = 3;

/// The side of the image patch that one pooling window sees.
const PATCH: usize = POOL + K - 1;

/// Positions in a pooling window.
const POSITIONS: usize = POOL * POOL;

/// The image rows (of `w` pixels) below the pooled row `i`.
#[inline(always)]
fn rows<'a, T>(shape: &ConvPoolShape, image: &'a [T], i: usize) -> [&'a [T]; PATCH] {
    let (_, w, _) = shape.conv().input();
    std::array::from_fn(|y| &image[(POOL * i + y) * w..][..w])
}

/// `out[i, j, o] = max over the window of (i, j) of conv(image, kernel)[.., .., o]`, and in `argmax`
/// the position (0 to 3, row by row) of the first maximum; a NaN counts as the maximum.
///
/// `out` and `argmax` ((h - 2) / 2, (w - 2) / 2, c_out), `image` (h, w), `kernel` (3, 3, 1, c_out).
#[inline(always)]
pub fn conv_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvPoolShape,
) {
    for_channels!(simd, T, S, shape.conv().c_out() => {
        forward_channels(simd, out, argmax, image, kernel, shape)
    });
}

#[inline(always)]
fn forward_channels<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvPoolShape,
) {
    check(out, argmax, image, kernel, shape);
    let (out_h, out_w, c_out) = shape.pool().output();
    for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let taps: [[S::Vector; K]; K] = std::array::from_fn(|y| {
            std::array::from_fn(|x| simd.load_up_to(&kernel[(y * K + x) * c_out..][o..end]))
        });
        let positions: [S::Vector; POSITIONS] =
            std::array::from_fn(|n| simd.splat(T::from_f64(n as f64)));
        for i in 0..out_h {
            let rows = rows(shape, image, i);
            for j in 0..out_w {
                let sums = window_sums(simd, &patch(&rows, j), &taps);
                let (mut max, mut at) = (sums[0], positions[0]);
                for n in 1..POSITIONS {
                    let larger = simd.greater_or_nan(sums[n], max);
                    max = simd.select(larger, sums[n], max);
                    at = simd.select(larger, positions[n], at);
                }
                let channels = (i * out_w + j) * c_out + o..(i * out_w + j) * c_out + end;
                simd.store_up_to(max, &mut out[channels.clone()]);
                simd.store_up_to(at, &mut argmax[channels]);
            }
        }
    }
}

/// The pixels under pooled column `j`.
#[inline(always)]
fn patch<T: Element>(rows: &[&[T]; PATCH], j: usize) -> [[T; PATCH]; PATCH] {
    std::array::from_fn(|y| {
        let pixels = &rows[y][POOL * j..][..PATCH];
        std::array::from_fn(|x| pixels[x])
    })
}

/// The convolution at the four positions of a window.
#[inline(always)]
fn window_sums<T: Element, S: Simd<T>>(
    simd: S,
    patch: &[[T; PATCH]; PATCH],
    taps: &[[S::Vector; K]; K],
) -> [S::Vector; POSITIONS] {
    let mut sums = [simd.zero(); POSITIONS];
    for_each_product(
        simd,
        patch,
        #[inline(always)]
        |pixel, n, y, x| sums[n] = simd.mul_add(pixel, taps[y][x], sums[n]),
    );
    sums
}

/// Calls `visit(pixel, n, y, x)` for every pixel that the tap (y, x) meets at position `n` of the
/// window. Each pixel is broadcast once, for all the positions that it touches.
#[inline(always)]
fn for_each_product<T: Element, S: Simd<T>>(
    simd: S,
    patch: &[[T; PATCH]; PATCH],
    mut visit: impl FnMut(S::Vector, usize, usize, usize),
) {
    for y in 0..PATCH {
        for x in 0..PATCH {
            let pixel = simd.splat(patch[y][x]);
            for n in 0..POSITIONS {
                let (dy, dx) = (n / POOL, n % POOL);
                if (dy..dy + K).contains(&y) && (dx..dx + K).contains(&x) {
                    visit(pixel, n, y - dy, x - dx);
                }
            }
        }
    }
}

/// `d_kernel[y, x, 0, o] = sum over windows of image[p + (y, x)] * d_out[i, j, o]`, where `p` is the
/// position of the window's maximum.
///
/// `d_kernel` (3, 3, 1, c_out), `d_out` and `argmax` ((h - 2) / 2, (w - 2) / 2, c_out), `image` (h, w).
#[inline(always)]
pub fn conv_pool_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    image: &[T],
    shape: &ConvPoolShape,
) {
    for_channels!(simd, T, S, shape.conv().c_out() => {
        backward_channels(simd, d_kernel, d_out, argmax, image, shape)
    });
}

#[inline(always)]
fn backward_channels<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    argmax: &[T],
    image: &[T],
    shape: &ConvPoolShape,
) {
    check(d_out, argmax, image, d_kernel, shape);
    let (out_h, out_w, c_out) = shape.pool().output();
    for o in (0..c_out).step_by(S::LANES) {
        let end = c_out.min(o + S::LANES);
        let mut sums = [[simd.zero(); K]; K];
        for i in 0..out_h {
            let rows = rows(shape, image, i);
            for j in 0..out_w {
                let channels = (i * out_w + j) * c_out + o..(i * out_w + j) * c_out + end;
                let d = simd.load_up_to(&d_out[channels.clone()]);
                let at = simd.load_up_to(&argmax[channels]);
                let d: [S::Vector; POSITIONS] = std::array::from_fn(|n| {
                    let here = simd.equal(at, simd.splat(T::from_f64(n as f64)));
                    simd.select(here, d, simd.zero())
                });
                for_each_product(
                    simd,
                    &patch(&rows, j),
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

fn check<T>(out: &[T], argmax: &[T], image: &[T], kernel: &[T], shape: &ConvPoolShape) {
    assert_eq!(out.len(), shape.pool().output_len(), "output length");
    assert_eq!(argmax.len(), shape.pool().output_len(), "argmax length");
    assert_eq!(image.len(), shape.conv().input_len(), "image length");
    assert_eq!(kernel.len(), shape.conv().kernel_len(), "kernel length");
    assert_eq!((shape.conv().window(), shape.conv().input().2), ((K, K), 1), "window and channels");
    assert_eq!((shape.conv().strides(), shape.conv().windows().is_padded()), ((1, 1), false));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::shape::ConvShape;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    fn net_shape(h: usize, w: usize, filters: usize) -> ConvPoolShape {
        ConvPoolShape::new(ConvShape::valid((h, w, 1), (K, K), filters).unwrap()).unwrap()
    }

    macro_rules! case {
        ($t:ty, $level:expr, $shape:expr, $image:expr) => {{
            let shape: ConvPoolShape = $shape;
            let image: Vec<$t> = $image;
            let kernel: Vec<$t> = random(shape.conv().kernel_len(), 2);
            let d_out: Vec<$t> = random(shape.pool().output_len(), 3);

            let mut full = vec![<$t>::NAN; shape.conv().output_len()];
            reference::conv_forward(&mut full, &image, &kernel, shape.conv());
            let mut expected = vec![<$t>::NAN; shape.pool().output_len()];
            reference::max_pool_forward(&mut expected, &full, shape.pool());
            let (mut out, mut argmax) = (expected.clone(), expected.clone());
            dispatch!($t, $level, simd => {
                conv_pool_forward(simd, &mut out, &mut argmax, &image, &kernel, &shape)
            });
            assert_close(&out, &expected, 9);

            // The two orders of rounding may disagree on near ties, so the gradient is checked
            // against the positions that the kernel itself chose, and those against the values.
            let mut d_full = vec![0.0; shape.conv().output_len()];
            let windows = reference::pool_windows(shape.pool());
            for (n, window) in windows.iter().enumerate() {
                let at = window[argmax[n] as usize];
                assert_close(&[full[at]], &[expected[n]], 9);
                d_full[at] = d_out[n];
            }
            let mut d_kernel = vec![<$t>::NAN; shape.conv().kernel_len()];
            let mut expected = d_kernel.clone();
            reference::conv_backward_kernel(&mut expected, &d_full, &image, shape.conv());
            dispatch!($t, $level, simd => {
                conv_pool_backward_kernel(simd, &mut d_kernel, &d_out, &argmax, &image, &shape)
            });
            assert_close(&d_kernel, &expected, windows.len());
            argmax
        }};
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for filters in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for (h, w) in [(4, 4), (5, 5), (4, 6), (6, 9), (10, 7)] {
                    let shape = net_shape(h, w, filters);
                    case!(f32, level, shape, random(h * w, 1));
                    case!(f64, level, shape, random(h * w, 1));
                }
            }
        });
    }

    #[test]
    fn the_first_of_equal_maxima_is_chosen() {
        for_each_level(|level| {
            let shape = net_shape(4, 4, 5);
            let argmax = case!(f32, level, shape, vec![0.5; 16]);
            assert_eq!(argmax, [0.0; 5]);
        });
    }

    #[test]
    fn a_nan_is_the_maximum() {
        for_each_level(|level| {
            let shape = net_shape(4, 4, 1);
            let mut image = vec![1.0; 16];
            image[15] = f64::NAN; // seen by the window's last position only
            let argmax = case!(f64, level, shape, image);
            assert_eq!(argmax, [3.0]);
        });
    }
}
