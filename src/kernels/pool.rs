//! Max and average pooling of n images at once. What a window reaches beyond the border is absent:
//! it is never the maximum, and does not count in a mean. Vectors run along the channels.
//!
//! Closures that compute are marked to be inlined, lest they be compiled without the instruction
//! set.

use super::dense::{part, part_mut};
use super::shape::PoolShape;
use super::simd::{Element, Simd, for_channels};
use windows::{Axis, Pixel, Window, clear_unseen, for_each_pixel, for_each_window, overlap};

mod windows;

/// Fewest terms that [`sum_in_stretches`] adds up before the next ones begin anew.
const SHORTEST_STRETCH: usize = 128;

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
    for_channels!(simd, T, S, shape.input().2 => {
        max_forward::<T, _, false>(simd, out, &mut [], x, shape, n)
    });
}

/// The same, and in `argmax` the place of the first maximum in its window of kh * kw pixels,
/// counted row by row; of the last NaN, if there is one. Places must be exact in `T`: below 2^24
/// for `f32`.
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
    assert_eq!(argmax.len(), out.len(), "argmax length");
    for_channels!(simd, T, S, shape.input().2 => {
        max_forward::<T, _, true>(simd, out, argmax, x, shape, n)
    });
}

/// `ARGMAX`: whether it is wanted; else `argmax` is empty.
#[inline(always)]
fn max_forward<T: Element, S: Simd<T>, const ARGMAX: bool>(
    simd: S,
    out: &mut [T],
    argmax: &mut [T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    check(out, x, shape, n);
    let (_, kw) = shape.windows().window();
    let one = simd.splat(T::one());
    for_each_window(
        simd,
        shape,
        n,
        #[inline(always)]
        |window: Window| {
            // SAFETY: a window's indices are inside the arrays, whose lengths were checked.
            unsafe {
                let mut max = simd.load_up_to(part(x, window.x, window.lanes));
                let mut max_place = simd.splat(place(window.place));
                for row in 0..window.rows {
                    let mut here = simd.splat(place(window.place + row * kw));
                    for column in 0..window.columns {
                        let at = window.at(row, column);
                        let v = simd.load_up_to(part(x, at, window.lanes));
                        let larger = simd.greater_or_nan(v, max);
                        max = simd.select(larger, v, max);
                        if ARGMAX {
                            max_place = simd.select(larger, here, max_place);
                            here = simd.add(here, one);
                        }
                    }
                }
                simd.store_up_to(max, part_mut(out, window.out, window.lanes));
                if ARGMAX {
                    simd.store_up_to(max_place, part_mut(argmax, window.out, window.lanes));
                }
            }
        },
    );
}

/// A place in a window as `argmax` stores it.
#[inline(always)]
fn place<T: Element>(place: usize) -> T {
    T::from_f64(place as f64)
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
    for_channels!(simd, T, S, shape.input().2 => if overlap(shape) {
        max_gather(simd, d_x, d_out, argmax, shape, n)
    } else {
        max_scatter(simd, d_x, d_out, argmax, shape, n)
    });
}

#[inline(always)]
fn max_scatter<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    argmax: &[T],
    shape: &PoolShape,
    n: usize,
) {
    let (_, kw) = shape.windows().window();
    clear_unseen(d_x, shape, n);
    for_each_window(
        simd,
        shape,
        n,
        #[inline(always)]
        |window: Window| {
            // SAFETY: a window's indices are inside the arrays, whose lengths were checked.
            unsafe {
                let d = simd.load_up_to(part(d_out, window.out, window.lanes));
                let max_place = simd.load_up_to(part(argmax, window.out, window.lanes));
                for row in 0..window.rows {
                    for column in 0..window.columns {
                        let here = simd.splat(place(window.place + row * kw + column));
                        let d = simd.select(simd.equal(max_place, here), d, simd.zero());
                        let at = window.at(row, column);
                        simd.store_up_to(d, part_mut(d_x, at, window.lanes));
                    }
                }
            }
        },
    );
}

/// Each pixel gathers what its windows give it, and is written once.
#[inline(always)]
fn max_gather<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    argmax: &[T],
    shape: &PoolShape,
    n: usize,
) {
    let (_, out_w, c) = shape.output();
    let ((_, kw), (sh, sw)) = (shape.windows().window(), shape.windows().strides());
    for_each_pixel(
        simd,
        shape,
        n,
        #[inline(always)]
        |pixel: Pixel| {
            let mut sum = simd.zero();
            for i in pixel.i.clone() {
                for j in pixel.j.clone() {
                    let o = pixel.out + (i * out_w + j) * c;
                    let here = place((pixel.row - i * sh) * kw + pixel.column - j * sw);
                    // SAFETY: the windows exist, and the arrays' lengths were checked.
                    unsafe {
                        let d = simd.load_up_to(part(d_out, o, pixel.lanes));
                        let at = simd.load_up_to(part(argmax, o, pixel.lanes));
                        let here = simd.equal(at, simd.splat(here));
                        sum = simd.add(sum, simd.select(here, d, simd.zero()));
                    }
                }
            }
            // SAFETY: a pixel's indices are inside the array, whose length was checked.
            simd.store_up_to(sum, unsafe { part_mut(d_x, pixel.x, pixel.lanes) });
        },
    );
}

/// `d_x[p] = d_out[window of p] if x[p] is its window's maximum, else 0`: as in the tutorial,
/// *every* position that equals the maximum gets the gradient. A window that holds a NaN passes
/// none on.
///
/// Windows may not overlap. `d_x` and `x` (n, h, w, c), `d_out` (n, out_h, out_w, c).
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
    assert!(!overlap(shape), "windows do not overlap");
    for_channels!(simd, T, S, shape.input().2 => ties_scatter(simd, d_x, d_out, x, shape, n));
}

#[inline(always)]
fn ties_scatter<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    clear_unseen(d_x, shape, n);
    for_each_window(
        simd,
        shape,
        n,
        #[inline(always)]
        |window: Window| {
            // SAFETY: a window's indices are inside the arrays, whose lengths were checked.
            unsafe {
                let mut max = simd.load_up_to(part(x, window.x, window.lanes));
                for row in 0..window.rows {
                    for column in 0..window.columns {
                        let v = simd.load_up_to(part(x, window.at(row, column), window.lanes));
                        max = simd.select(simd.greater_or_nan(v, max), v, max);
                    }
                }
                let d = simd.load_up_to(part(d_out, window.out, window.lanes));
                for row in 0..window.rows {
                    for column in 0..window.columns {
                        let at = window.at(row, column);
                        let v = simd.load_up_to(part(x, at, window.lanes));
                        let d = simd.select(simd.equal(v, max), d, simd.zero());
                        simd.store_up_to(d, part_mut(d_x, at, window.lanes));
                    }
                }
            }
        },
    );
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
    for_channels!(simd, T, S, shape.input().2 => average_forward(simd, out, x, shape, n));
}

#[inline(always)]
fn average_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    shape: &PoolShape,
    n: usize,
) {
    for_each_window(
        simd,
        shape,
        n,
        #[inline(always)]
        |window: Window| {
            // SAFETY: a window's indices are inside the arrays, whose lengths were checked.
            unsafe {
                let sum = sum_in_stretches(
                    simd,
                    window.rows,
                    #[inline(always)]
                    |row| {
                        sum_in_stretches(
                            simd,
                            window.columns,
                            #[inline(always)]
                            |column| {
                                let at = window.at(row, column);
                                simd.load_up_to(part(x, at, window.lanes))
                            },
                        )
                    },
                );
                let mean = simd.mul(sum, simd.splat(share(window.rows, window.columns)));
                simd.store_up_to(mean, part_mut(out, window.out, window.lanes));
            }
        },
    );
}

/// `sum of term(i) over i < count`; of many terms a sum of sums, of about as many terms each as
/// there are sums, because rounding errors grow with the additions in a row.
#[inline(always)]
fn sum_in_stretches<T: Element, S: Simd<T>>(
    simd: S,
    count: usize,
    term: impl Fn(usize) -> S::Vector,
) -> S::Vector {
    // Almost all windows are small, and a root would take longer than their sum.
    let stretch = if count <= SHORTEST_STRETCH { count } else { count.isqrt() };
    let stretch = stretch.max(SHORTEST_STRETCH);
    let mut sum = simd.zero();
    for start in (0..count).step_by(stretch) {
        let mut part = simd.zero();
        for i in start..count.min(start + stretch) {
            part = simd.add(part, term(i));
        }
        sum = simd.add(sum, part);
    }
    sum
}

/// What one pixel counts in the mean of a window.
#[inline(always)]
fn share<T: Element>(rows: usize, columns: usize) -> T {
    T::from_f64(1.0 / (rows as f64 * columns as f64))
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
    for_channels!(simd, T, S, shape.input().2 => if overlap(shape) {
        average_gather(simd, d_x, d_out, shape, n)
    } else {
        average_scatter(simd, d_x, d_out, shape, n)
    });
}

#[inline(always)]
fn average_scatter<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    shape: &PoolShape,
    n: usize,
) {
    clear_unseen(d_x, shape, n);
    for_each_window(
        simd,
        shape,
        n,
        #[inline(always)]
        |window: Window| {
            // SAFETY: a window's indices are inside the arrays, whose lengths were checked.
            unsafe {
                let d = simd.load_up_to(part(d_out, window.out, window.lanes));
                let d = simd.mul(d, simd.splat(share(window.rows, window.columns)));
                for row in 0..window.rows {
                    for column in 0..window.columns {
                        let at = window.at(row, column);
                        simd.store_up_to(d, part_mut(d_x, at, window.lanes));
                    }
                }
            }
        },
    );
}

/// Each pixel gathers what its windows give it, and is written once.
#[inline(always)]
fn average_gather<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    shape: &PoolShape,
    n: usize,
) {
    let (_, out_w, c) = shape.output();
    let [y, x] = Axis::both(shape);
    let whole = simd.splat(share(y.window, x.window));
    for_each_pixel(
        simd,
        shape,
        n,
        #[inline(always)]
        |pixel: Pixel| {
            let mut sum = simd.zero();
            for i in pixel.i.clone() {
                let (_, rows, _) = y.seen(i);
                for j in pixel.j.clone() {
                    let (_, columns, _) = x.seen(j);
                    let is_whole = (rows, columns) == (y.window, x.window);
                    let share = if is_whole { whole } else { simd.splat(share(rows, columns)) };
                    let o = pixel.out + (i * out_w + j) * c;
                    // SAFETY: the windows exist, and the arrays' lengths were checked.
                    let d = simd.load_up_to(unsafe { part(d_out, o, pixel.lanes) });
                    sum = simd.mul_add(d, share, sum);
                }
            }
            // SAFETY: a pixel's indices are inside the array, whose length was checked.
            simd.store_up_to(sum, unsafe { part_mut(d_x, pixel.x, pixel.lanes) });
        },
    );
}

fn check<T>(out: &[T], x: &[T], shape: &PoolShape, n: usize) {
    assert_eq!(Some(out.len()), n.checked_mul(shape.output_len()), "output length");
    assert_eq!(Some(x.len()), n.checked_mul(shape.input_len()), "input length");
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

    /// Added one after the other, these lose three digits.
    #[test]
    fn means_of_many_pixels_are_as_exact() {
        for (h, w) in [(1, 300_000), (600, 500), (300_000, 1)] {
            let shape = PoolShape::new((h, w, 1), (h, w), (h, w), Padding::Valid).unwrap();
            let x = vec![0.1f32; h * w];
            for_each_level(|level| {
                let mut mean = [f32::NAN];
                dispatch!(f32, level, simd => {
                    average_pool_forward(simd, &mut mean, &x, &shape, 1)
                });
                let error = (f64::from(mean[0]) / f64::from(x[0]) - 1.0).abs();
                assert!(error < 3e-5, "{h}x{w}: got {}", mean[0]);
            });
        }
    }

    #[test]
    fn every_tie_gets_the_gradient() {
        for_each_level(|level| {
            for c in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for input in [(0, 3), (1, 1), (1, 4), (2, 2), (3, 2), (2, 5), (5, 5), (6, 4)] {
                    let input = (input.0, input.1, c);
                    check_ties::<f32>(level, PoolShape::halving(input).unwrap(), 1);
                    check_ties::<f64>(level, PoolShape::halving(input).unwrap(), 3);
                    let shape = PoolShape::new(input, (2, 3), (3, 3), Padding::Same).unwrap();
                    check_ties::<f32>(level, shape, 2);
                }
            }
        });
    }
}
