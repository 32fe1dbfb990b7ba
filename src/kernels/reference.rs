//! The same operations as naive loops, as one would write them on a blackboard: what every fast
//! kernel is tested against.

use super::shape::{ConvPoolShape, ConvShape, DenseShape, POOL, PoolShape};
use super::simd::Element;
use super::warp::{Affine, FillMode, ImageShape};

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

/// `out` (n, out_h, out_w, c_out), `x` (n, h, w, c_in) without padding, `kernel` (kh, kw, c_in,
/// c_out).
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

/// For every element of the output, the pixels of its window that exist: their place in the whole
/// window, counted row by row, and their index in the input.
pub fn windows(shape: &PoolShape) -> Vec<Vec<(usize, usize)>> {
    let (h, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    let windows = shape.windows();
    let ((kh, kw), (sh, sw), (top, left)) = (windows.window(), windows.strides(), windows.before());
    let mut all = Vec::new();
    for i in 0..out_h {
        for j in 0..out_w {
            for k in 0..c {
                let mut window = Vec::new();
                for y in 0..kh {
                    for x in 0..kw {
                        let (row, column) = (i * sh + y, j * sw + x);
                        if (top..top + h).contains(&row) && (left..left + w).contains(&column) {
                            let at = ((row - top) * w + column - left) * c + k;
                            window.push((y * kw + x, at));
                        }
                    }
                }
                all.push(window);
            }
        }
    }
    all
}

/// The four input indices of every 2x2 window, in the order in which they are compared.
pub fn pool_windows(shape: &PoolShape) -> Vec<[usize; POOL * POOL]> {
    windows(shape).iter().map(|window| std::array::from_fn(|n| window[n].1)).collect()
}

pub fn max_pool_forward<T: Element>(out: &mut [T], x: &[T], shape: &PoolShape) {
    for (out, window) in out.iter_mut().zip(windows(shape)) {
        *out = if window.iter().any(|&(_, at)| x[at].is_nan()) {
            T::nan()
        } else {
            window.iter().fold(T::neg_infinity(), |max, &(_, at)| max.max(x[at]))
        };
    }
}

/// The place of the first maximum in each window; of the last NaN, if there is one.
pub fn max_pool_argmax<T: Element>(argmax: &mut [T], x: &[T], shape: &PoolShape) {
    for (argmax, window) in argmax.iter_mut().zip(windows(shape)) {
        let (mut place, mut best) = window[0];
        for (p, at) in window {
            if x[at] > x[best] || x[at].is_nan() {
                (place, best) = (p, at);
            }
        }
        *argmax = T::from_f64(place as f64);
    }
}

pub fn max_pool_backward<T: Element>(d_x: &mut [T], d_out: &[T], argmax: &[T], shape: &PoolShape) {
    d_x.fill(T::zero());
    for ((window, &argmax), &d) in windows(shape).iter().zip(argmax).zip(d_out) {
        for &(place, at) in window {
            if T::from_f64(place as f64) == argmax {
                d_x[at] = d_x[at] + d;
            }
        }
    }
}

pub fn max_pool_backward_ties<T: Element>(d_x: &mut [T], d_out: &[T], x: &[T], shape: &PoolShape) {
    let mut max = vec![T::zero(); shape.output_len()];
    max_pool_forward(&mut max, x, shape);
    d_x.fill(T::zero());
    for ((window, max), &d) in windows(shape).into_iter().zip(max).zip(d_out) {
        for (_, at) in window {
            if x[at] == max {
                d_x[at] = d_x[at] + d;
            }
        }
    }
}

pub fn average_pool_forward<T: Element>(out: &mut [T], x: &[T], shape: &PoolShape) {
    for (out, window) in out.iter_mut().zip(windows(shape)) {
        let sum = window.iter().fold(T::zero(), |sum, &(_, at)| sum + x[at]);
        *out = sum / T::from_f64(window.len() as f64);
    }
}

pub fn average_pool_backward<T: Element>(d_x: &mut [T], d_out: &[T], shape: &PoolShape) {
    d_x.fill(T::zero());
    for (window, &d) in windows(shape).iter().zip(d_out) {
        for &(_, at) in window {
            d_x[at] = d_x[at] + d / T::from_f64(window.len() as f64);
        }
    }
}

/// For any number of images.
pub fn dense_forward<T: Element>(
    out: &mut [T],
    x: &[T],
    weights: &[T],
    biases: Option<&[T]>,
    shape: &DenseShape,
) {
    for (out, x) in out.chunks_exact_mut(shape.outputs()).zip(x.chunks_exact(shape.inputs())) {
        for (o, row) in weights.chunks_exact(shape.inputs()).enumerate() {
            let bias = biases.map_or(T::zero(), |biases| biases[o]);
            out[o] = row.iter().zip(x).fold(bias, |sum, (&w, &x)| sum + w * x);
        }
    }
}

/// For any number of images.
pub fn dense_backward_input<T: Element>(
    d_x: &mut [T],
    d_out: &[T],
    weights: &[T],
    shape: &DenseShape,
) {
    d_x.fill(T::zero());
    for (d_x, d_out) in
        d_x.chunks_exact_mut(shape.inputs()).zip(d_out.chunks_exact(shape.outputs()))
    {
        for (row, &d) in weights.chunks_exact(shape.inputs()).zip(d_out) {
            for (d_x, &w) in d_x.iter_mut().zip(row) {
                *d_x = *d_x + d * w;
            }
        }
    }
}

/// The sum over any number of images.
pub fn dense_backward_weights<T: Element>(
    d_weights: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &DenseShape,
) {
    d_weights.fill(T::zero());
    for (x, d_out) in x.chunks_exact(shape.inputs()).zip(d_out.chunks_exact(shape.outputs())) {
        for (row, &d) in d_weights.chunks_exact_mut(shape.inputs()).zip(d_out) {
            for (d_w, &x) in row.iter_mut().zip(x) {
                *d_w = *d_w + d * x;
            }
        }
    }
}

/// A convolution whose output is pooled over 2x2 windows: any strides, `n` images with their
/// padding, and the kernel (kh, kw, c_in, c_out).
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

/// The pixel at an integer coordinate of an axis of `len`, if it is not the constant.
fn outside(at: i64, len: usize, fill: FillMode) -> Option<usize> {
    let len = len as i64;
    let at = match fill {
        FillMode::Constant(_) => return (0..len).contains(&at).then_some(at as usize),
        FillMode::Nearest => at.clamp(0, len - 1),
        FillMode::Reflect => match at.rem_euclid(2 * len) {
            at if at < len => at,
            at => 2 * len - 1 - at,
        },
        FillMode::Wrap => at.rem_euclid(len),
    };
    Some(at as usize)
}

/// Bilinear, from the endless image that the fill mode makes of `x`.
pub fn warp<T: Element>(
    x: &[T],
    map: &Affine,
    shift: Option<[&[T]; 2]>,
    fill: FillMode,
    shape: &ImageShape,
) -> Vec<f64> {
    let &ImageShape { h, w, c } = shape;
    let constant = if let FillMode::Constant(value) = fill { value } else { f64::NAN };
    let mut out = vec![];
    for y in 0..h {
        for x_ in 0..w {
            let at = |m: [f64; 3]| m[0] * x_ as f64 + m[1] * y as f64 + m[2];
            let moved = |axis: usize| shift.map_or(0.0, |shift| shift[axis][y * w + x_].to_f64());
            let (row, column) = (at(map.0[1]) + moved(0), at(map.0[0]) + moved(1));
            for channel in 0..c {
                let pixel = |row: i64, column: i64| {
                    let at = outside(row, h, fill).zip(outside(column, w, fill));
                    at.map_or(constant, |(row, column)| {
                        x[(row * w + column) * c + channel].to_f64()
                    })
                };
                let (top, left) = (row.floor(), column.floor());
                let mut sum = 0.0;
                for (dy, weight_y) in [(0, 1.0 - (row - top)), (1, row - top)] {
                    for (dx, weight_x) in [(0, 1.0 - (column - left)), (1, column - left)] {
                        sum += weight_y * weight_x * pixel(top as i64 + dy, left as i64 + dx);
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}
