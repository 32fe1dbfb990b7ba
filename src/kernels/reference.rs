//! The same operations as naive loops, as one would write them on a blackboard: what every fast
//! kernel is tested against.

use super::shape::{ConvShape, DenseShape, POOL, PoolShape};
use super::simd::Element;

/// Calls `visit(out, image, kernel)` with the three indices of every product of a convolution.
fn for_each_product(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let (_, w, c_in) = shape.input();
    let (kh, kw) = shape.window();
    let (out_h, out_w, c_out) = shape.output();
    for i in 0..out_h {
        for j in 0..out_w {
            for o in 0..c_out {
                for y in 0..kh {
                    for x in 0..kw {
                        for c in 0..c_in {
                            visit(
                                (i * out_w + j) * c_out + o,
                                ((i + y) * w + j + x) * c_in + c,
                                ((y * kw + x) * c_in + c) * c_out + o,
                            );
                        }
                    }
                }
            }
        }
    }
}

pub fn conv_forward<T: Element>(out: &mut [T], image: &[T], kernel: &[T], shape: &ConvShape) {
    out.fill(T::zero());
    for_each_product(shape, |o, i, k| out[o] = out[o] + image[i] * kernel[k]);
}

pub fn conv_backward_kernel<T: Element>(
    d_kernel: &mut [T],
    d_out: &[T],
    image: &[T],
    shape: &ConvShape,
) {
    d_kernel.fill(T::zero());
    for_each_product(shape, |o, i, k| d_kernel[k] = d_kernel[k] + image[i] * d_out[o]);
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
