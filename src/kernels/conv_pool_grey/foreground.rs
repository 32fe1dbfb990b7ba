//! Of images with a background, the windows that see more than that.

mod backward;
mod forward;

pub use self::backward::grey_backward_foreground;
pub use self::forward::grey_forward_foreground;

use crate::kernels::conv_pool_grey::three::WINDOWS;
use crate::kernels::filtering::three::TAPS;
use crate::kernels::images::Images;
use crate::kernels::shape::ConvPoolShape;
use crate::kernels::simd::MAX_LANES;

/// Most rows of windows, and [`WINDOWS`] beside each other, whose points are kept for an image at a
/// time.
const ROWS: usize = 16;

/// Eighths of the windows up to which it pays to leave the others out: of the first image, of the
/// first two, and so on.
const MOST_EIGHTHS: usize = 7;

/// How many times the mean of an image's squares that of the background may be: the sums of both are
/// subtracted from each other, and must not be much larger than what is left.
const MOST_CONTRAST: f64 = 16.0;

/// Whether a shape's windows can be told apart: the points of an image's pixels fit where they are
/// kept, and a window's channels fill half a vector or whole ones.
pub fn can_have_foreground(shape: &ConvPoolShape) -> bool {
    let (out_h, out_w, c_out) = shape.pool().output();
    super::supports(shape)
        && shape.conv().window() == (TAPS, TAPS)
        && out_h <= ROWS
        && out_w <= WINDOWS
        && out_h * out_w > 1
        && (2 * c_out == MAX_LANES || c_out.is_multiple_of(MAX_LANES))
}

/// As [`ConvPoolShape::check`], but of images that may lie anywhere; each has the right length, or
/// [`Images::get`] panics.
fn check<T: Copy>(
    out: &[T],
    argmax: &[T],
    images: &Images<T>,
    kernel: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    assert_eq!(images.count(shape.conv().padded_len()), n, "number of images");
    assert_eq!(Some(out.len()), n.checked_mul(shape.pool().output_len()), "output length");
    assert_eq!(argmax.len(), out.len(), "argmax length");
    assert_eq!(kernel.len(), shape.conv().kernel_len(), "kernel length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::ahead::Ahead;
    use crate::kernels::conv::tests::bits;
    use crate::kernels::conv_pool_grey::{grey_backward_kernel, grey_forward};
    use crate::kernels::foreground::{Foreground, Windows, channels_of_group, is_told_apart};
    use crate::kernels::images::Cut;
    use crate::kernels::shape::{ConvShape, Padding};
    use crate::kernels::simd::{Element, Level, Simd};
    use crate::kernels::testing::{assert_close, for_each_level, random};

    fn grey_shape((h, w): (usize, usize), padding: Padding, filters: usize) -> ConvPoolShape {
        let conv = ConvShape::new((h, w, 1), (3, 3), (1, 1), padding, filters).unwrap();
        ConvPoolShape::new(conv).unwrap()
    }

    /// Images of the background, but for a box in each that is somewhere else, and has a hole.
    fn images(shape: &ConvPoolShape, n: usize, background: f32) -> Vec<f32> {
        let (h, w, _) = shape.conv().windows().padded();
        let values: Vec<f32> = random(n * h * w, 1);
        let inside = |image: usize, at: usize| {
            let (y, x) = (at / w, at % w);
            let (top, left) = ((image * 5) % h, (image * 3) % w);
            let near = |at: usize, start: usize, len: usize| (start..start + len).contains(&at);
            let hole = near(y, top + 2, 4) && near(x, left + 1, 5);
            near(y, top, h / 2) && near(x, left, w / 2) && !hole
        };
        let pixel = |at| {
            let (image, at) = (at / (h * w), at % (h * w));
            if inside(image, at) && at != w + 1 { values[image * h * w + at] } else { background }
        };
        (0..n * h * w).map(pixel).collect()
    }

    /// What is packed, for all of images with `len` values; `rest` is that of the other groups.
    fn unpacked<T: Element>(packed: &[T], groups: &[Windows], rest: &[T], len: usize) -> Vec<T> {
        let c = rest.len();
        let image: Vec<T> = rest.iter().copied().cycle().take(len).collect();
        let mut full = image.repeat(groups.len());
        let mut start = 0;
        for (image, groups) in full.chunks_exact_mut(len).zip(groups) {
            groups.for_each(|at| {
                let group = &mut image[at * c..];
                let part = c.min(group.len());
                group[..part].copy_from_slice(&packed[start..][..part]);
                start += part;
            });
        }
        full
    }

    fn lanes<S: Simd<f32>>(_: S) -> usize {
        S::LANES
    }

    /// Returns whether there was a foreground.
    fn case(
        level: Level,
        shape: ConvPoolShape,
        n: usize,
        x: &[f32],
        (relu, with_bias): (bool, bool),
    ) -> bool {
        let (conv, count) = (shape.conv(), shape.windows());
        let (c, len) = (conv.c_out(), n * shape.pool().output_len());
        let kernel: Vec<f32> = random(conv.kernel_len(), 2);
        let bias: Option<Vec<f32>> = with_bias.then(|| random(c, 4));
        let bias = bias.as_deref();
        // Beside each other or, in other cases, in the opposite order.
        let image_len = x.len() / n;
        let backwards: Vec<f32> = x.chunks_exact(image_len).rev().flatten().copied().collect();
        let order: Vec<usize> = (0..n).rev().collect();
        let images = &if relu {
            Images::Apart { all: &backwards, order: &order, cut: Cut::whole(image_len) }
        } else {
            Images::Beside(x)
        };
        let mut groups = vec![Windows::default(); n];
        let channels = dispatch!(f32, level, simd => channels_of_group::<f32, _>(simd, c));
        let mut background = vec![f32::NAN; channels];
        let mut d_background = background.clone();
        let (mut out, mut argmax) = (vec![<f32>::NAN; len], vec![<f32>::NAN; len]);
        let mut foreground = Foreground {
            groups: &mut groups,
            background: &mut background,
            d_background: &mut d_background,
        };
        let pays = dispatch!(f32, level, simd => grey_forward_foreground(
            simd, &mut out, &mut argmax, &mut foreground, &Ahead::nothing(), images, &kernel, bias,
            relu, &shape, n,
        ));
        if !pays {
            return false;
        }
        let (mut all, mut all_at) = (out.clone(), argmax.clone());
        dispatch!(f32, level, simd => grey_forward(
            simd, &mut all, Some(&mut all_at), x, &kernel, bias, relu, &Ahead::nothing(), &shape, n,
        ));
        let rest = foreground.background.to_vec();
        let len_of_image = count * c;
        assert_eq!(bits(&unpacked(&out, foreground.groups, &rest, len_of_image)), bits(&all));
        // The positions are the lanes of two rows of pixels, named as they are picked.
        // Of two windows in a vector, those of the second are two beside them.
        let half = dispatch!(f32, level, simd => lanes(simd)) / 2;
        let lanes = [0, 1, half, half + 1];
        let second = |at: usize| if at % len_of_image % channels >= c { 2 } else { 0 };
        let name = |(at, &place): (usize, &f32)| {
            <f32>::FIRST_LANE as f32 + (lanes[place as usize] + second(at)) as f32
        };
        let named: Vec<f32> = all_at.iter().enumerate().map(name).collect();
        let first: Vec<f32> = vec![0.0; channels].iter().enumerate().map(name).collect();
        let places = unpacked(&argmax, foreground.groups, &first, len_of_image);
        assert_eq!(bits(&places), bits(&named));

        // Gradients are packed in the same way.
        let in_it = foreground.len(len_of_image);
        let mut d_out: Vec<f32> = random(len, 3);
        let d_rest: Vec<f32> = random(channels, 5);
        let mut d_all = unpacked(&d_out, foreground.groups, &d_rest, len_of_image);
        for (channel, (sum, d)) in foreground.d_background.iter_mut().zip(&d_rest).enumerate() {
            let all = (channel..len_of_image).step_by(channels).enumerate();
            let others = |groups: &Windows| all.clone().filter(|&(at, _)| !groups.has(at)).count();
            *sum = foreground.groups.iter().map(others).sum::<usize>() as f32 * d;
        }
        if relu {
            for (d, &out) in d_all.iter_mut().zip(&all) {
                *d = if out > 0.0 { *d } else { 0.0 };
            }
            for (d, &out) in d_out[..in_it].iter_mut().zip(&out) {
                *d = if out > 0.0 { *d } else { 0.0 };
            }
        }
        let mut d_kernel = vec![<f32>::NAN; conv.kernel_len()];
        let mut d_bias = vec![<f32>::NAN; c];
        // In f64: many equal numbers are rounded to one side.
        let exact = |v: &[f32]| v.iter().map(|v| v.to_f64()).collect::<Vec<f64>>();
        let rounded = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let (d_all, all_at, exact_x) = (exact(&d_all), exact(&all_at), exact(x));
        let mut expected = vec![f64::NAN; conv.kernel_len()];
        let mut expected_bias = vec![0.0; c];
        for row in d_all.chunks_exact(c) {
            for (sum, d) in expected_bias.iter_mut().zip(row) {
                *sum += d;
            }
        }
        dispatch!(f32, level, simd => {
            grey_backward_foreground(
                simd, &mut d_kernel, Some(&mut d_bias), &d_out, &argmax, &foreground,
                &Ahead::nothing(), images, relu, &shape, n,
            );
        });
        dispatch!(f64, level, simd => grey_backward_kernel(
            simd, &mut expected, &d_all, &all_at, &exact_x, &Ahead::nothing(), &shape, n,
        ));
        assert_close(&d_kernel, &rounded(&expected), n * count);
        assert_close(&d_bias, &rounded(&expected_bias), n * count);
        true
    }

    #[test]
    fn equals_the_kernels_that_leave_nothing_out() {
        for_each_level(|level| {
            let told = dispatch!(f32, level, simd => is_told_apart::<f32, _>(simd));
            for filters in [8, 16, 32, 48] {
                for size in
                    [(4, 14), (6, 16), (13, 7), (28, 28), (33, 33), (12, 4), (31, 16), (34, 9)]
                {
                    for (n, padding) in
                        [(2, Padding::Valid), (5, Padding::Same), (64, Padding::Valid)]
                    {
                        let shape = grey_shape(size, padding, filters);
                        if !can_have_foreground(&shape) {
                            continue;
                        }
                        for (background, relu, with_bias) in [
                            (0.0, false, true),
                            (-0.5, true, true),
                            (0.25, false, false),
                            (0.5, true, false),
                        ] {
                            let x = images(&shape, n, background);
                            let pays = case(level, shape, n, &x, (relu, with_bias));
                            // In small images, the boxes leave too little of the background.
                            assert!(if size.0 < 28 { told || !pays } else { told == pays });
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn what_would_not_pay_or_not_be_right_is_left_to_the_others() {
        for_each_level(|level| {
            let shape = grey_shape((28, 28), Padding::Valid, 8);
            let len = 3 * shape.conv().padded_len();
            assert!(!case(level, shape, 3, &random(len, 1), (false, false)));
            // One of them would drown in what the background comes to.
            let mut loud = images(&shape, 3, 1e3);
            loud[len / 3..2 * len / 3].copy_from_slice(&random::<f32>(len / 3, 1));
            assert!(!case(level, shape, 3, &loud, (false, false)));
            for wrong in [f32::NAN, f32::INFINITY, f32::MAX] {
                for at in [29, 400, len - 1] {
                    let mut x = images(&shape, 3, 0.0);
                    x[at] = wrong;
                    assert!(!case(level, shape, 3, &x, (false, false)), "{wrong} at {at}");
                }
            }
        });
    }

    #[test]
    fn shapes_that_fit_no_vector_have_none() {
        let has = |size, padding, filters| can_have_foreground(&grey_shape(size, padding, filters));
        assert!(has((28, 28), Padding::Valid, 8));
        assert!(has((28, 28), Padding::Same, 64));
        assert!(!has((28, 28), Padding::Valid, 4));
        assert!(!has((28, 28), Padding::Valid, 24));
        assert!(!has((28, 34), Padding::Valid, 8));
        assert!(!has((36, 28), Padding::Valid, 8));
    }
}
