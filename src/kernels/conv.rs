//! Convolution (cross-correlation, as everywhere in deep learning), stride 1, no padding.

use super::shape::ConvShape;
use super::simd::{Element, Simd};

/// Output columns that share each kernel vector: with it, eight accumulators cover two fused
/// multiply-adds a cycle at a latency of four.
const COLUMNS: usize = 8;

/// Taps whose gradients are summed in registers in one walk over the output: a whole 3x3 kernel of
/// one channel.
const TAPS: usize = 9;

/// `out[i, j, o] = sum over y, x, c of image[i + y, j + x, c] * kernel[y, x, c, o]`
///
/// `out` (h - kh + 1, w - kw + 1, c_out), `image` (h, w, c_in), `kernel` (kh, kw, c_in, c_out).
#[inline(always)]
pub fn conv_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
) {
    if shape.c_out() <= S::Narrow::LANES {
        forward_rows(simd.narrow(), out, image, kernel, shape);
    } else {
        forward_rows(simd, out, image, kernel, shape);
    }
}

#[inline(always)]
fn forward_rows<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
) {
    check(out, image, kernel, shape);
    let (_, w, c_in) = shape.input();
    let (_, out_w, c_out) = shape.output();
    for (i, out_row) in out.chunks_exact_mut(out_w * c_out).enumerate() {
        let image = &image[i * w * c_in..];
        for o in (0..c_out).step_by(S::LANES) {
            let mut j = 0;
            while j + COLUMNS <= out_w {
                forward_tile::<T, S, COLUMNS>(simd, out_row, image, kernel, shape, j, o);
                j += COLUMNS;
            }
            while j < out_w {
                forward_tile::<T, S, 1>(simd, out_row, image, kernel, shape, j, o);
                j += 1;
            }
        }
    }
}

/// `N` columns from `j` and one vector of channels from `o` of one output row; `image` starts at the
/// row's first input row.
#[inline(always)]
fn forward_tile<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    out_row: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
    j: usize,
    o: usize,
) {
    let (_, w, c_in) = shape.input();
    let (kh, kw) = shape.window();
    let c_out = shape.c_out();
    let lanes = S::LANES.min(c_out - o);

    let mut sums = [simd.zero(); N];
    for y in 0..kh {
        // One kernel row covers kw * c_in neighbouring elements of the image.
        let pixels = &image[(y * w + j) * c_in..][..(N - 1 + kw) * c_in];
        let row = &kernel[y * kw * c_in * c_out..][..kw * c_in * c_out];
        for (x, taps) in row.chunks_exact(c_out).enumerate() {
            let tap = simd.load_up_to(&taps[o..o + lanes]);
            for n in 0..N {
                sums[n] = simd.mul_add(simd.splat(pixels[n * c_in + x]), tap, sums[n]);
            }
        }
    }
    for n in 0..N {
        let at = (j + n) * c_out + o;
        simd.store_up_to(sums[n], &mut out_row[at..at + lanes]);
    }
}

/// `d_kernel[y, x, c, o] = sum over i, j of image[i + y, j + x, c] * d_out[i, j, o]`
///
/// `d_kernel` (kh, kw, c_in, c_out), `d_out` (h - kh + 1, w - kw + 1, c_out), `image` (h, w, c_in).
#[inline(always)]
pub fn conv_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
) {
    if shape.c_out() <= S::Narrow::LANES {
        backward_kernel_taps(simd.narrow(), d_kernel, d_out, image, shape);
    } else {
        backward_kernel_taps(simd, d_kernel, d_out, image, shape);
    }
}

#[inline(always)]
fn backward_kernel_taps<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
) {
    check(d_out, image, d_kernel, shape);
    let c_out = shape.c_out();
    for (group, d_taps) in d_kernel.chunks_mut(TAPS * c_out).enumerate() {
        for o in (0..c_out).step_by(S::LANES) {
            if d_taps.len() == TAPS * c_out {
                backward_tile::<T, S, TAPS>(simd, d_taps, d_out, image, shape, group * TAPS, o);
            } else {
                for (tap, d_tap) in d_taps.chunks_exact_mut(c_out).enumerate() {
                    let tap = group * TAPS + tap;
                    backward_tile::<T, S, 1>(simd, d_tap, d_out, image, shape, tap, o);
                }
            }
        }
    }
}

/// The gradients of `N` taps from number `tap` and one vector of channels from `o`.
#[inline(always)]
fn backward_tile<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    d_taps: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
    tap: usize,
    o: usize,
) {
    let (_, w, c_in) = shape.input();
    let (_, kw) = shape.window();
    let (_, out_w, c_out) = shape.output();
    let lanes = S::LANES.min(c_out - o);

    // Where each tap's pixel lies, counted from the window's first.
    let offsets: [usize; N] = std::array::from_fn(|n| {
        let (y, rest) = ((tap + n) / (kw * c_in), (tap + n) % (kw * c_in));
        y * w * c_in + rest
    });
    let reach = offsets[N - 1] + 1;

    let mut sums = [simd.zero(); N];
    for (i, d_row) in d_out.chunks_exact(out_w * c_out).enumerate() {
        for (j, d_pixel) in d_row.chunks_exact(c_out).enumerate() {
            let d = simd.load_up_to(&d_pixel[o..o + lanes]);
            let pixels = &image[(i * w + j) * c_in..][..reach];
            for n in 0..N {
                sums[n] = simd.mul_add(simd.splat(pixels[offsets[n]]), d, sums[n]);
            }
        }
    }
    for n in 0..N {
        simd.store_up_to(sums[n], &mut d_taps[n * c_out + o..][..lanes]);
    }
}

fn check<T>(out: &[T], image: &[T], kernel: &[T], shape: &ConvShape) {
    assert_eq!(out.len(), shape.output_len(), "output length");
    assert_eq!(image.len(), shape.input_len(), "image length");
    assert_eq!(kernel.len(), shape.kernel_len(), "kernel length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    macro_rules! case {
        ($t:ty, $level:expr, $shape:expr) => {{
            let shape: ConvShape = $shape;
            let image: Vec<$t> = random(shape.input_len(), 1);
            let kernel: Vec<$t> = random(shape.kernel_len(), 2);
            let d_out: Vec<$t> = random(shape.output_len(), 3);

            let mut out = vec![<$t>::NAN; shape.output_len()];
            let mut expected = out.clone();
            dispatch!($level, simd => conv_forward(simd, &mut out, &image, &kernel, &shape));
            reference::conv_forward(&mut expected, &image, &kernel, &shape);
            assert_close(&out, &expected, shape.taps());

            let mut d_kernel = vec![<$t>::NAN; shape.kernel_len()];
            let mut expected = d_kernel.clone();
            dispatch!($level, simd => {
                conv_backward_kernel(simd, &mut d_kernel, &d_out, &image, &shape)
            });
            reference::conv_backward_kernel(&mut expected, &d_out, &image, &shape);
            assert_close(&d_kernel, &expected, shape.output_len() / shape.c_out());
        }};
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for c_out in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for width in [3, 4, 9, 10, 11, 18, 19] {
                    for (window, c_in) in [((3, 3), 1), ((1, 1), 2), ((2, 3), 3), ((3, 1), 5)] {
                        let shape = ConvShape::new((4, width, c_in), window, c_out).unwrap();
                        case!(f32, level, shape);
                        case!(f64, level, shape);
                    }
                }
            }
        });
    }
}
