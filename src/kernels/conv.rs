//! Convolution (cross-correlation, as everywhere in deep learning), stride 1, no padding.

use super::shape::ConvShape;
use super::simd::{Element, Simd, for_channels};

/// Output columns that share each kernel vector: with it, eight accumulators cover two fused
/// multiply-adds a cycle at a latency of four.
const COLUMNS: usize = 8;

/// Columns of the next smaller tile, for what is left of a row.
const FEW_COLUMNS: usize = 2;

/// The side of the block of taps whose gradients are summed in registers in one walk over the
/// output: a whole 3x3 kernel of one channel.
const BLOCK: usize = 3;

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
    check(out, image, kernel, shape);
    for_channels!(simd, T, S, shape.c_out() => match shape.with_constant_window() {
        Some(shape) => forward_rows(simd, out, image, kernel, &shape),
        None => forward_rows(simd, out, image, kernel, shape),
    });
}

#[inline(always)]
fn forward_rows<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
) {
    let (_, w, c_in) = shape.input();
    let (_, out_w, c_out) = shape.output();
    for (i, out_row) in out.chunks_exact_mut(out_w * c_out).enumerate() {
        let image = &image[i * w * c_in..];
        let mut o = 0;
        while o + S::LANES <= c_out {
            forward_row(simd, out_row, image, kernel, shape, o, S::LANES);
            o += S::LANES;
        }
        if o < c_out {
            forward_row(simd, out_row, image, kernel, shape, o, c_out - o);
        }
    }
}

/// One output row of the channels `o..o + lanes`; `image` starts at the row's first input row.
#[inline(always)]
fn forward_row<T: Element, S: Simd<T>>(
    simd: S,
    out_row: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
    o: usize,
    lanes: usize,
) {
    let (_, out_w, _) = shape.output();
    let mut j = 0;
    while j + COLUMNS <= out_w {
        forward_tile::<T, S, COLUMNS>(simd, out_row, image, kernel, shape, j, o, lanes);
        j += COLUMNS;
    }
    while j + FEW_COLUMNS <= out_w {
        forward_tile::<T, S, FEW_COLUMNS>(simd, out_row, image, kernel, shape, j, o, lanes);
        j += FEW_COLUMNS;
    }
    if j < out_w {
        forward_tile::<T, S, 1>(simd, out_row, image, kernel, shape, j, o, lanes);
    }
}

/// `N` columns from `j`.
#[inline(always)]
fn forward_tile<T: Element, S: Simd<T>, const N: usize>(
    simd: S,
    out_row: &mut [T],
    image: &[T],
    kernel: &[T],
    shape: &ConvShape,
    j: usize,
    o: usize,
    lanes: usize,
) {
    let (_, w, c_in) = shape.input();
    let (kh, kw) = shape.window();
    let c_out = shape.c_out();

    let mut sums = [simd.zero(); N];
    for y in 0..kh {
        // One kernel row covers kw * c_in neighbouring elements of the image.
        let pixels = &image[(y * w + j) * c_in..][..(N - 1 + kw) * c_in];
        for x in 0..kw * c_in {
            let tap = (y * kw * c_in + x) * c_out + o;
            let tap = simd.load_up_to(&kernel[tap..tap + lanes]);
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
    check(d_out, image, d_kernel, shape);
    for_channels!(simd, T, S, shape.c_out() => match shape.with_constant_window() {
        Some(shape) => backward_taps(simd, d_kernel, d_out, image, &shape),
        None => backward_taps(simd, d_kernel, d_out, image, shape),
    });
}

#[inline(always)]
fn backward_taps<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
) {
    let mut o = 0;
    while o + S::LANES <= shape.c_out() {
        backward_blocks(simd, d_kernel, d_out, image, shape, o, S::LANES);
        o += S::LANES;
    }
    if o < shape.c_out() {
        backward_blocks(simd, d_kernel, d_out, image, shape, o, shape.c_out() - o);
    }
}

/// The gradients of all taps for the channels `o..o + lanes`.
#[inline(always)]
fn backward_blocks<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
    o: usize,
    lanes: usize,
) {
    let (_, _, c_in) = shape.input();
    let (kh, kw) = shape.window();
    let mut y = 0;
    while y < kh {
        let rows = if y + BLOCK <= kh { BLOCK } else { 1 };
        let mut x = 0;
        while x < kw * c_in {
            let run = if x + BLOCK <= kw * c_in { BLOCK } else { 1 };
            let at = Taps { y, x, o, lanes };
            match (rows == BLOCK, run == BLOCK) {
                (true, true) => {
                    backward_tile::<T, S, BLOCK, BLOCK>(simd, d_kernel, d_out, image, shape, at)
                }
                (true, false) => {
                    backward_tile::<T, S, BLOCK, 1>(simd, d_kernel, d_out, image, shape, at)
                }
                (false, true) => {
                    backward_tile::<T, S, 1, BLOCK>(simd, d_kernel, d_out, image, shape, at)
                }
                (false, false) => {
                    backward_tile::<T, S, 1, 1>(simd, d_kernel, d_out, image, shape, at)
                }
            }
            x += run;
        }
        y += rows;
    }
}

/// The first tap of a block, its first channel, and how many channels.
struct Taps {
    y: usize,
    /// Counted along a kernel row of kw * c_in elements.
    x: usize,
    o: usize,
    lanes: usize,
}

/// The gradients of `Y` kernel rows by `X` elements.
#[inline(always)]
fn backward_tile<T: Element, S: Simd<T>, const Y: usize, const X: usize>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
    at: Taps,
) {
    let (_, w, c_in) = shape.input();
    let (_, kw) = shape.window();
    let (_, out_w, c_out) = shape.output();

    let mut sums = [[simd.zero(); X]; Y];
    for (i, d_row) in d_out.chunks_exact(out_w * c_out).enumerate() {
        let rows: [&[T]; Y] =
            std::array::from_fn(|y| &image[(i + at.y + y) * w * c_in..][..w * c_in]);
        for (j, d_pixel) in d_row.chunks_exact(c_out).enumerate() {
            let d = simd.load_up_to(&d_pixel[at.o..at.o + at.lanes]);
            for y in 0..Y {
                let pixels = &rows[y][j * c_in + at.x..][..X];
                for x in 0..X {
                    sums[y][x] = simd.mul_add(simd.splat(pixels[x]), d, sums[y][x]);
                }
            }
        }
    }
    for y in 0..Y {
        for x in 0..X {
            let tap = ((at.y + y) * kw * c_in + at.x + x) * c_out + at.o;
            simd.store_up_to(sums[y][x], &mut d_kernel[tap..tap + at.lanes]);
        }
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
            dispatch!($t, $level, simd => conv_forward(simd, &mut out, &image, &kernel, &shape));
            reference::conv_forward(&mut expected, &image, &kernel, &shape);
            assert_close(&out, &expected, shape.taps());

            let mut d_kernel = vec![<$t>::NAN; shape.kernel_len()];
            let mut expected = d_kernel.clone();
            dispatch!($t, $level, simd => {
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
                    for (window, c_in) in
                        [((3, 3), 1), ((1, 1), 2), ((2, 3), 3), ((3, 1), 5), ((4, 2), 2)]
                    {
                        let shape = ConvShape::valid((4, width, c_in), window, c_out).unwrap();
                        case!(f32, level, shape);
                        case!(f64, level, shape);
                    }
                }
            }
        });
    }
}
