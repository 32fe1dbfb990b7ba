//! Max and average pooling of n images at once. What windows reach beyond the border is absent: it
//! is never the maximum, and does not count in a mean.

use super::shape::{POOL, PoolShape};
use super::simd::{Element, Simd, for_channels};
use std::ops::Range;

/// The part of a window that lies inside the image.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    /// The place of its first pixel in the whole window of kh * kw pixels, counted row by row.
    place: usize,
}

/// Calls `visit(first element of the output, first element of the image, window)` for each window of
/// each image, in the order of the output.
#[inline(always)]
fn for_each_window(shape: &PoolShape, n: usize, mut visit: impl FnMut(usize, usize, &Window)) {
    let (h, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let windows = shape.windows();
    let ((kh, kw), (sh, sw), (top, left)) = (windows.window(), windows.strides(), windows.before());
    let mut out = 0;
    for image in 0..n {
        for i in 0..out_h {
            let rows = (i * sh).saturating_sub(top)..(i * sh + kh - top).min(h);
            let above = top.saturating_sub(i * sh);
            for j in 0..out_w {
                let columns = (j * sw).saturating_sub(left)..(j * sw + kw - left).min(w);
                let place = above * kw + left.saturating_sub(j * sw);
                let window = Window { rows: rows.clone(), columns, place };
                visit(out, image * shape.input_len(), &window);
                out += c;
            }
        }
    }
}

/// Calls `visit(first element of the pixel, windows)` for each pixel of each image, in their order,
/// with an iterator over `(first element of the output, window's rows, window's columns, place in the window)` of the windows that see it.
#[inline(always)]
fn for_each_pixel(shape: &PoolShape, n: usize, mut visit: impl FnMut(usize, &Sight)) {
    let (h, w, c) = shape.input();
    let windows = shape.windows();
    let ((kh, kw), (sh, sw), (top, left)) = (windows.window(), windows.strides(), windows.before());
    let (out_h, out_w, _) = shape.output();
    let mut x = 0;
    for image in 0..n {
        let mut i = 0..0;
        for row in top..top + h {
            advance(&mut i, row, kh, sh, out_h);
            let mut j = 0..0;
            for column in left..left + w {
                advance(&mut j, column, kw, sw, out_w);
                let sight = Sight { image, i: i.clone(), j: j.clone(), row, column };
                visit(x, &sight);
                x += c;
            }
        }
    }
}

struct Sight {
    image: usize,
    /// The windows that see a pixel, below each other
    i: Range<usize>,
    /// and beside each other.
    j: Range<usize>,
    /// Where the pixel lies in the padded image.
    row: usize,
    column: usize,
}

/// From the windows that see the pixel before `at` along one axis to those that see `at`.
#[inline(always)]
fn advance(seen_by: &mut Range<usize>, at: usize, window: usize, stride: usize, windows: usize) {
    while seen_by.end < windows && seen_by.end * stride <= at {
        seen_by.end += 1;
    }
    while seen_by.start < seen_by.end && seen_by.start * stride + window <= at {
        seen_by.start += 1;
    }
}

/// The larger of two vectors' lanes; NaN where either is NaN.
#[inline(always)]
fn max_or_nan<T: Element, S: Simd<T>>(simd: S, max: S::Vector, x: S::Vector) -> S::Vector {
    simd.select(simd.greater_or_nan(x, max), x, max)
}

/// `out[n, i, j, c] = max of x[n, window of (i, j), c]`, NaN if one of them is.
///
/// `out` (n, out_h, out_w, c), `x` (n, h, w, c).
#[inline(always)]
pub fn max_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(out, x, shape, n);
    for_channels!(simd, T, S, shape.input().2 => max_windows(simd, out, None, x, shape, n));
}

/// The same, and in `argmax` the place of the first maximum in its window of kh * kw pixels, counted
/// row by row; of the last NaN, if there is one. Places must be exact in `T`: below 2^24 for `f32`.
///
/// `out` and `argmax` (n, out_h, out_w, c), `x` (n, h, w, c).
#[inline(always)]
pub fn max_pool_forward_argmax<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(out, x, shape, n);
    assert_eq!(argmax.len(), out.len(), "argmax length");
    for_channels!(simd, T, S, shape.input().2 => {
        max_windows(simd, out, Some(argmax), x, shape, n)
    });
}

#[inline(always)]
fn max_windows<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    mut argmax: Option<&mut [T]>,
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    let (_, w, c) = shape.input();
    let (_, kw) = shape.windows().window();
    for_each_window(shape, n, |o, image, window| {
        for k in (0..c).step_by(S::LANES) {
            let lanes = (c - k).min(S::LANES);
            let mut max = simd.splat(T::neg_infinity());
            let mut at = simd.splat(T::from_f64(window.place as f64));
            for (y, row) in window.rows.clone().enumerate() {
                for (x_, column) in window.columns.clone().enumerate() {
                    let v = simd.load_up_to(&x[image + (row * w + column) * c + k..][..lanes]);
                    let larger = simd.greater_or_nan(v, max);
                    max = simd.select(larger, v, max);
                    let place = T::from_f64((window.place + y * kw + x_) as f64);
                    at = simd.select(larger, simd.splat(place), at);
                }
            }
            simd.store_up_to(max, &mut out[o + k..][..lanes]);
            if let Some(argmax) = &mut argmax {
                simd.store_up_to(at, &mut argmax[o + k..][..lanes]);
            }
        }
    });
}

/// `d_x[p] = sum of d_out[window] over the windows whose maximum lies at p`, as
/// [`max_pool_forward_argmax`] found it.
///
/// `d_x` (n, h, w, c), `d_out` and `argmax` (n, out_h, out_w, c).
#[inline(always)]
pub fn max_pool_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    argmax: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(d_out, d_x, shape, n);
    assert_eq!(argmax.len(), d_out.len(), "argmax length");
    let (_, _, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let ((_, kw), (sh, sw)) = (shape.windows().window(), shape.windows().strides());
    for_channels!(simd, T, S, c => for_each_pixel(shape, n, |x, sight| {
        for k in (0..c).step_by(S::LANES) {
            let lanes = (c - k).min(S::LANES);
            let mut sum = simd.zero();
            for i in sight.i.clone() {
                for j in sight.j.clone() {
                    let o = ((sight.image * out_h + i) * out_w + j) * c + k;
                    let place = (sight.row - i * sh) * kw + sight.column - j * sw;
                    let here = simd.equal(
                        simd.load_up_to(&argmax[o..][..lanes]),
                        simd.splat(T::from_f64(place as f64)),
                    );
                    let d = simd.load_up_to(&d_out[o..][..lanes]);
                    sum = simd.add(sum, simd.select(here, d, simd.zero()));
                }
            }
            simd.store_up_to(sum, &mut d_x[x + k..][..lanes]);
        }
    }));
}

/// `out[n, i, j, c] = mean of x[n, window of (i, j), c]`
///
/// `out` (n, out_h, out_w, c), `x` (n, h, w, c).
#[inline(always)]
pub fn average_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(out, x, shape, n);
    let (_, w, c) = shape.input();
    for_channels!(simd, T, S, c => for_each_window(shape, n, |o, image, window| {
        let pixels = window.rows.len() * window.columns.len();
        let share = simd.splat(T::one() / T::from_f64(pixels as f64));
        for k in (0..c).step_by(S::LANES) {
            let lanes = (c - k).min(S::LANES);
            let mut sum = simd.zero();
            for row in window.rows.clone() {
                for column in window.columns.clone() {
                    let at = image + (row * w + column) * c + k;
                    sum = simd.add(sum, simd.load_up_to(&x[at..][..lanes]));
                }
            }
            simd.store_up_to(simd.mul(sum, share), &mut out[o + k..][..lanes]);
        }
    }));
}

/// `d_x[p] = sum of d_out[window] / pixels of the window, over the windows that see p`
///
/// `d_x` (n, h, w, c), `d_out` (n, out_h, out_w, c).
#[inline(always)]
pub fn average_pool_backward<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(d_out, d_x, shape, n);
    let (h, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let windows = shape.windows();
    let ((kh, kw), (sh, sw), (top, left)) = (windows.window(), windows.strides(), windows.before());
    for_channels!(simd, T, S, c => for_each_pixel(shape, n, |x, sight| {
        for k in (0..c).step_by(S::LANES) {
            let lanes = (c - k).min(S::LANES);
            let mut sum = simd.zero();
            for i in sight.i.clone() {
                let rows = (i * sh + kh - top).min(h) - (i * sh).saturating_sub(top);
                for j in sight.j.clone() {
                    let columns = (j * sw + kw - left).min(w) - (j * sw).saturating_sub(left);
                    let share = T::one() / T::from_f64((rows * columns) as f64);
                    let o = ((sight.image * out_h + i) * out_w + j) * c + k;
                    let d = simd.load_up_to(&d_out[o..][..lanes]);
                    sum = simd.mul_add(d, simd.splat(share), sum);
                }
            }
            simd.store_up_to(sum, &mut d_x[x + k..][..lanes]);
        }
    }));
}

fn check<T>(out: &[T], x: &[T], shape: &PoolShape, n: usize) {
    assert_eq!(out.len(), n * shape.output_len(), "output length");
    assert_eq!(x.len(), n * shape.input_len(), "input length");
}

/// `d_x[p] = d_out[window of p] if x[p] is its window's maximum, else 0`: as in the tutorial, *every*
/// position that equals the maximum gets the gradient. A window that holds a NaN passes none on.
///
/// Windows are 2x2 with stride 2. `d_x` and `x` (n, h, w, c), `d_out` (n, h / 2, w / 2, c).
#[inline(always)]
pub fn max_pool_backward_ties<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(d_out, x, shape, n);
    assert_eq!(d_x.len(), x.len(), "input gradient length");
    assert_eq!(Ok(*shape), PoolShape::halving(shape.input()), "2x2 windows");
    if d_out.is_empty() {
        d_x.fill(T::zero());
        return;
    }
    let images = d_x.chunks_exact_mut(shape.input_len()).zip(x.chunks_exact(shape.input_len()));
    for ((d_x, x), d_out) in images.zip(d_out.chunks_exact(shape.output_len())) {
        backward_ties(simd, d_x, d_out, x, shape);
    }
}

/// One image with at least one window.
#[inline(always)]
fn backward_ties<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &PoolShape,
) {
    let (_, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let (windows, last_row) = d_x.split_at_mut(POOL * out_h * w * c);
    last_row.fill(T::zero());
    let rows = windows.chunks_exact_mut(POOL * w * c).zip(x.chunks_exact(POOL * w * c));
    for ((d_rows, rows), d_out_row) in rows.zip(d_out.chunks_exact(out_w * c)) {
        let (upper, lower) = rows.split_at(w * c);
        let (d_upper, d_lower) = d_rows.split_at_mut(w * c);
        d_upper[POOL * out_w * c..].fill(T::zero());
        d_lower[POOL * out_w * c..].fill(T::zero());
        for (j, d_out) in d_out_row.chunks_exact(c).enumerate() {
            let at = POOL * j * c..POOL * (j + 1) * c;
            let (upper, lower) = (&upper[at.clone()], &lower[at.clone()]);
            let (d_upper, d_lower) = (&mut d_upper[at.clone()], &mut d_lower[at]);
            for k in (0..c).step_by(S::LANES) {
                let end = c.min(k + S::LANES);
                let window = Square::load(simd, upper, lower, k, c);
                let max = window.max(simd);
                let d = simd.load_up_to(&d_out[k..end]);
                let [d0, d1, d2, d3] =
                    window.0.map(|x| simd.select(simd.equal(x, max), d, simd.zero()));
                simd.store_up_to(d0, &mut d_upper[k..end]);
                simd.store_up_to(d1, &mut d_upper[c + k..c + end]);
                simd.store_up_to(d2, &mut d_lower[k..end]);
                simd.store_up_to(d3, &mut d_lower[c + k..c + end]);
            }
        }
    }
}

/// One vector of channels at the four positions of a window, row by row.
struct Square<V>([V; POOL * POOL]);

impl<V: Copy> Square<V> {
    /// Channels from `k`; `upper` and `lower` hold the window's two rows of two pixels of `c`.
    #[inline(always)]
    fn load<T: Element, S: Simd<T, Vector = V>>(
        simd: S,
        upper: &[T],
        lower: &[T],
        k: usize,
        c: usize,
    ) -> Self {
        let end = c.min(k + S::LANES);
        Self([
            simd.load_up_to(&upper[k..end]),
            simd.load_up_to(&upper[c + k..c + end]),
            simd.load_up_to(&lower[k..end]),
            simd.load_up_to(&lower[c + k..c + end]),
        ])
    }

    #[inline(always)]
    fn max<T: Element, S: Simd<T, Vector = V>>(&self, simd: S) -> V {
        let [a, b, c, d] = self.0;
        max_or_nan(simd, max_or_nan(simd, max_or_nan(simd, a, b), c), d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::shape::Padding;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    /// Few distinct values, so that many windows hold ties, and two NaNs.
    fn image<T: Element>(len: usize) -> Vec<T> {
        let mut x: Vec<T> = random(len, 1);
        x.iter_mut().for_each(|x| *x = T::from_f64((x.to_f64() * 2.0).round()));
        for at in [len / 3, len.saturating_sub(1)] {
            x.get_mut(at).into_iter().for_each(|x| *x = T::nan());
        }
        x
    }

    /// What `reference` makes of each of the n images' parts of the inputs.
    fn each<T: Element, const N: usize>(
        n: usize,
        len: usize,
        inputs: [&[T]; N],
        reference: impl Fn(&mut [T], [&[T]; N]),
    ) -> Vec<T> {
        let part = |x: &[T], image| image * x.len() / n..(image + 1) * x.len() / n;
        let mut out = vec![T::nan(); len];
        for image in 0..n {
            let at = part(&out, image);
            reference(&mut out[at], inputs.map(|x| &x[part(x, image)]));
        }
        out
    }

    fn check_all<T: Element>(level: Level, shape: PoolShape, n: usize) {
        let x: Vec<T> = image(n * shape.input_len());
        let d_out: Vec<T> = random(n * shape.output_len(), 2);
        let (mut out, mut d_x) = (vec![T::one(); d_out.len()], vec![T::one(); x.len()]);
        let (mut argmax, mut max, mut mean) = (out.clone(), out.clone(), out.clone());
        let mut d_mean = d_x.clone();
        dispatch!(T, level, simd => {
            max_pool_forward(simd, &mut max, &x, &shape, n);
            max_pool_forward_argmax(simd, &mut out, &mut argmax, &x, &shape, n);
            max_pool_backward(simd, &mut d_x, &d_out, &argmax, &shape, n);
            average_pool_forward(simd, &mut mean, &x, &shape, n);
            average_pool_backward(simd, &mut d_mean, &d_out, &shape, n);
        });

        let (kh, kw) = shape.windows().window();
        let terms = kh * kw;
        let expected = each(n, out.len(), [&x], |o, [x]| reference::max_pool_forward(o, x, &shape));
        assert_close(&out, &expected, 0);
        assert_close(&max, &expected, 0);
        let expected = each(n, out.len(), [&x], |o, [x]| reference::max_pool_argmax(o, x, &shape));
        assert_eq!(argmax, expected);
        let expected = each(n, x.len(), [&d_out, &argmax], |d_x, [d_out, argmax]| {
            reference::max_pool_backward(d_x, d_out, argmax, &shape)
        });
        assert_close(&d_x, &expected, terms);
        let expected =
            each(n, out.len(), [&x], |o, [x]| reference::average_pool_forward(o, x, &shape));
        assert_close(&mean, &expected, terms);
        let expected =
            each(n, x.len(), [&d_out], |d_x, [d]| reference::average_pool_backward(d_x, d, &shape));
        assert_close(&d_mean, &expected, terms);
    }

    fn check_ties<T: Element>(level: Level, shape: PoolShape, n: usize) {
        let x: Vec<T> = image(n * shape.input_len());
        let d_out: Vec<T> = random(n * shape.output_len(), 2);
        let mut d_x = vec![T::one(); x.len()];
        dispatch!(T, level, simd => {
            max_pool_backward_ties(simd, &mut d_x, &d_out, &x, &shape, n)
        });
        let expected = each(n, x.len(), [&d_out, &x], |d_x, [d_out, x]| {
            reference::max_pool_backward_ties(d_x, d_out, x, &shape)
        });
        assert_close(&d_x, &expected, 0);
    }

    #[test]
    fn equals_reference_for_windows_strides_paddings_and_channels() {
        for_each_level(|level| {
            for c in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64, 65] {
                for window in [(1, 1), (2, 2), (3, 3), (2, 3), (5, 1)] {
                    for strides in [(1, 1), (2, 2), (3, 3), (2, 1), (1, 3)] {
                        for padding in [Padding::Valid, Padding::Same] {
                            let shape = PoolShape::new((5, 6, c), window, strides, padding);
                            let shape = shape.unwrap();
                            check_all::<f32>(level, shape, 2);
                            check_all::<f64>(level, shape, 2);
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn equals_reference_for_images_of_any_size() {
        for_each_level(|level| {
            for (h, w) in [(0, 3), (1, 1), (1, 4), (2, 2), (3, 2), (2, 5), (5, 5), (6, 4), (9, 9)] {
                for window in [(2, 2), (3, 3), (h.max(1), w.max(1)), (20, 1)] {
                    for stride in [1, 2] {
                        for padding in [Padding::Valid, Padding::Same] {
                            for c in [1, 8, 17] {
                                let strides = (stride, stride);
                                let shape =
                                    PoolShape::new((h, w, c), window, strides, padding).unwrap();
                                check_all::<f32>(level, shape, 1);
                                check_all::<f64>(level, shape, 3);
                            }
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn every_tie_gets_the_gradient() {
        for_each_level(|level| {
            for c in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for (h, w) in [(0, 3), (1, 1), (1, 4), (2, 2), (3, 2), (2, 5), (5, 5), (6, 4)] {
                    let shape = PoolShape::halving((h, w, c)).unwrap();
                    check_ties::<f32>(level, shape, 1);
                    check_ties::<f64>(level, shape, 3);
                }
            }
        });
    }
}
