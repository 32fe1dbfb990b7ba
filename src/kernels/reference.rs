//! The same operations as naive loops, as one would write them on a blackboard: what every fast
//! kernel is tested against.

use super::shape::{ConvPoolShape, ConvShape, DenseShape, POOL, PoolShape};
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

/// A convolution whose output is pooled over 2x2 windows: any strides, `n` images with their padding,
/// and the kernel (kh, kw, c_in, c_out).
pub mod conv_pool {
    use super::{ConvPoolShape, ConvShape, Element, POOL};

    /// Calls `visit(out, x, kernel)` with the three indices of every product.
    fn for_each_product(shape: &ConvShape, n: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let (hp, wp, c_in) = shape.windows().padded();
        let ((kh, kw), (sh, sw)) = (shape.window(), shape.strides());
        let (out_h, out_w, c_out) = shape.output();
        for pixel in 0..n * out_h * out_w {
            let (image, i, j) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
            for tap in 0..kh * kw * c_in {
                let (y, x, c) = (tap / (kw * c_in), tap / c_in % kw, tap % c_in);
                let x = ((image * hp + sh * i + y) * wp + sw * j + x) * c_in + c;
                for o in 0..c_out {
                    visit(pixel * c_out + o, x, tap * c_out + o);
                }
            }
        }
    }

    pub fn conv<T: Element>(out: &mut [T], x: &[T], kernel: &[T], shape: &ConvShape, n: usize) {
        out.fill(T::zero());
        for_each_product(shape, n, |o, x_at, k| out[o] = out[o] + x[x_at] * kernel[k]);
    }

    pub fn conv_d_kernel<T: Element>(
        d_kernel: &mut [T],
        d_out: &[T],
        x: &[T],
        shape: &ConvShape,
        n: usize,
    ) {
        d_kernel.fill(T::zero());
        for_each_product(shape, n, |o, x_at, k| d_kernel[k] = d_kernel[k] + x[x_at] * d_out[o]);
    }

    pub fn conv_d_x<T: Element>(
        d_x: &mut [T],
        d_out: &[T],
        kernel: &[T],
        shape: &ConvShape,
        n: usize,
    ) {
        d_x.fill(T::zero());
        for_each_product(shape, n, |o, x_at, k| d_x[x_at] = d_x[x_at] + kernel[k] * d_out[o]);
    }

    /// Where the position `at` of the pooled element `pooled` lies in the convolution's output.
    pub fn unpooled_index(pooled: usize, at: usize, shape: &ConvPoolShape) -> usize {
        let (_, w, c) = shape.conv().output();
        let (pooled_h, pooled_w, _) = shape.pool().output();
        let (window, o) = (pooled / c, pooled % c);
        let (image, i, j) =
            (window / (pooled_h * pooled_w), window / pooled_w % pooled_h, window % pooled_w);
        let row = image * shape.conv().output().0 + POOL * i + at / POOL;
        (row * w + POOL * j + at % POOL) * c + o
    }

    /// The gradient of the convolution's output: `d_out` at the maxima, elsewhere 0.
    pub fn unpool<T: Element>(d_full: &mut [T], d_out: &[T], argmax: &[T], shape: &ConvPoolShape) {
        d_full.fill(T::zero());
        for (pooled, (&d, &at)) in d_out.iter().zip(argmax).enumerate() {
            d_full[unpooled_index(pooled, Element::to_f64(at) as usize, shape)] = d;
        }
    }
}
