//! The same operations as naive loops, as one would write them on a blackboard: what every fast
//! kernel is tested against.

use super::shape::{ConvShape, DenseShape, POOL, PoolShape};
use super::simd::Element;

/// Calls `visit(out, x, kernel)` with the three indices of every product of a convolution of `n`
/// images, none of them padded.
fn for_each_product(shape: &ConvShape, n: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let (h, w, c_in) = shape.input();
    let ((kh, kw), (sh, sw)) = (shape.window(), shape.strides());
    let (above, left) = shape.windows().before();
    let (out_h, out_w, c_out) = shape.output();
    for image in 0..n {
        for (i, j) in (0..out_h).flat_map(|i| (0..out_w).map(move |j| (i, j))) {
            for (y, x) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                let (Some(row), Some(column)) =
                    ((sh * i + y).checked_sub(above), (sw * j + x).checked_sub(left))
                else {
                    continue;
                };
                if row >= h || column >= w {
                    continue;
                }
                for (c, o) in (0..c_in).flat_map(|c| (0..c_out).map(move |o| (c, o))) {
                    visit(
                        ((image * out_h + i) * out_w + j) * c_out + o,
                        ((image * h + row) * w + column) * c_in + c,
                        ((y * kw + x) * c_in + c) * c_out + o,
                    );
                }
            }
        }
    }
}

/// `out` (n, out_h, out_w, c_out), `x` (n, h, w, c_in) without padding, `kernel` (kh, kw, c_in, c_out).
pub fn conv_forward<T: Element>(out: &mut [T], x: &[T], kernel: &[T], shape: &ConvShape) {
    out.fill(T::zero());
    let n = x.len() / shape.input_len();
    for_each_product(shape, n, |o, i, k| out[o] = out[o] + x[i] * kernel[k]);
}

/// Shapes as for [`conv_forward`].
pub fn conv_backward_kernel<T: Element>(
    d_kernel: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &ConvShape,
) {
    d_kernel.fill(T::zero());
    let n = x.len() / shape.input_len();
    for_each_product(shape, n, |o, i, k| d_kernel[k] = d_kernel[k] + x[i] * d_out[o]);
}

/// Shapes as for [`conv_forward`].
pub fn conv_backward_input<T: Element>(
    d_x: &mut [T],
    d_out: &[T],
    kernel: &[T],
    shape: &ConvShape,
) {
    d_x.fill(T::zero());
    let n = d_x.len() / shape.input_len();
    for_each_product(shape, n, |o, i, k| d_x[i] = d_x[i] + d_out[o] * kernel[k]);
}

/// The four input indices of every pooling window, in the order in which they are compared.
pub fn pool_windows(shape: &PoolShape) -> Vec<[usize; POOL * POOL]> {
    let (_, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let mut windows = Vec::new();
    for i in 0..out_h {
        for j in 0..out_w {
            for k in 0..c {
                windows.push(std::array::from_fn(|n| {
                    ((POOL * i + n / POOL) * w + POOL * j + n % POOL) * c + k
                }));
            }
        }
    }
    windows
}

pub fn max_pool_forward<T: Element>(out: &mut [T], x: &[T], shape: &PoolShape) {
    for (out, window) in out.iter_mut().zip(pool_windows(shape)) {
        let values = window.map(|at| x[at]);
        *out = if values.iter().any(|v| v.is_nan()) {
            T::nan()
        } else {
            values.iter().fold(T::neg_infinity(), |max, &v| max.max(v))
        };
    }
}

pub fn max_pool_backward_ties<T: Element>(d_x: &mut [T], d_out: &[T], x: &[T], shape: &PoolShape) {
    let mut max = vec![T::zero(); shape.output_len()];
    max_pool_forward(&mut max, x, shape);
    d_x.fill(T::zero());
    for ((window, max), &d) in pool_windows(shape).into_iter().zip(max).zip(d_out) {
        for at in window {
            if x[at] == max {
                d_x[at] = d;
            }
        }
    }
}

pub fn dense_forward<T: Element>(
    out: &mut [T],
    x: &[T],
    weights: &[T],
    biases: &[T],
    shape: &DenseShape,
) {
    for (o, row) in weights.chunks_exact(shape.inputs()).enumerate() {
        out[o] = row.iter().zip(x).fold(biases[o], |sum, (&w, &x)| sum + w * x);
    }
}

pub fn dense_backward_input<T: Element>(
    d_x: &mut [T],
    d_out: &[T],
    weights: &[T],
    shape: &DenseShape,
) {
    d_x.fill(T::zero());
    for (o, row) in weights.chunks_exact(shape.inputs()).enumerate() {
        for (d_x, &w) in d_x.iter_mut().zip(row) {
            *d_x = *d_x + d_out[o] * w;
        }
    }
}
