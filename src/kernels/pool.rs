//! Max pooling over 2x2 windows.

use super::shape::{POOL, PoolShape};
use super::simd::{Element, Simd};

/// The larger of two vectors' lanes; NaN where either is NaN.
#[inline(always)]
fn max_or_nan<T: Element, S: Simd<T>>(simd: S, max: S::Vector, x: S::Vector) -> S::Vector {
    simd.select(simd.greater_or_nan(x, max), x, max)
}

/// `out[i, j, c] = max of x[2i..2i+2, 2j..2j+2, c]`, NaN if one of them is.
///
/// `out` (h / 2, w / 2, c), `x` (h, w, c).
#[inline(always)]
pub fn max_pool_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    shape: &PoolShape,
) {
    assert_eq!(out.len(), shape.output_len(), "output length");
    assert_eq!(x.len(), shape.input_len(), "input length");
    let (_, w, c) = shape.input();
    let (_, out_w, _) = shape.output();
    if out.is_empty() {
        return;
    }
    for (out_row, rows) in out.chunks_exact_mut(out_w * c).zip(x.chunks_exact(POOL * w * c)) {
        let (upper, lower) = rows.split_at(w * c);
        for (j, out) in out_row.chunks_exact_mut(c).enumerate() {
            let (upper, lower) =
                (&upper[POOL * j * c..][..POOL * c], &lower[POOL * j * c..][..POOL * c]);
            for k in (0..c).step_by(S::LANES) {
                let window = Window::load(simd, upper, lower, k, c);
                let end = c.min(k + S::LANES);
                simd.store_up_to(window.max(simd), &mut out[k..end]);
            }
        }
    }
}

/// `d_x[p] = d_out[window of p] if x[p] is its window's maximum, else 0`: as in the tutorial, *every*
/// position that equals the maximum gets the gradient. A window that holds a NaN passes none on.
///
/// `d_x` (h, w, c), `d_out` (h / 2, w / 2, c), `x` (h, w, c).
#[inline(always)]
pub fn max_pool_backward_ties<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    x: &[T],
    shape: &PoolShape,
) {
    assert_eq!(d_x.len(), shape.input_len(), "input gradient length");
    assert_eq!(d_out.len(), shape.output_len(), "output gradient length");
    assert_eq!(x.len(), shape.input_len(), "input length");
    let (_, w, c) = shape.input();
    let (out_h, out_w, _) = shape.output();
    if d_out.is_empty() {
        d_x.fill(T::zero());
        return;
    }
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
                let window = Window::load(simd, upper, lower, k, c);
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
struct Window<V>([V; POOL * POOL]);

impl<V: Copy> Window<V> {
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
    use crate::kernels::testing::{assert_close, for_each_level, random};

    macro_rules! case {
        ($t:ty, $level:expr, $shape:expr) => {{
            let shape: PoolShape = $shape;
            // Few distinct values, so that many windows hold ties, and a NaN.
            let mut x: Vec<$t> = random(shape.input_len(), 1);
            x.iter_mut().for_each(|x| *x = (*x * 2.0).round());
            if let Some(x) = x.last_mut() {
                *x = <$t>::NAN;
            }
            let d_out: Vec<$t> = random(shape.output_len(), 2);

            let mut out = vec![7.0; shape.output_len()];
            let mut expected = out.clone();
            dispatch!($t, $level, simd => max_pool_forward(simd, &mut out, &x, &shape));
            reference::max_pool_forward(&mut expected, &x, &shape);
            assert_close(&out, &expected, 0);

            let mut d_x = vec![7.0; shape.input_len()];
            let mut expected = d_x.clone();
            dispatch!($t, $level, simd => max_pool_backward_ties(simd, &mut d_x, &d_out, &x, &shape));
            reference::max_pool_backward_ties(&mut expected, &d_out, &x, &shape);
            assert_close(&d_x, &expected, 0);
        }};
    }

    #[test]
    fn equals_reference_around_every_tile_edge() {
        for_each_level(|level| {
            for c in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] {
                for (h, w) in [(0, 3), (1, 1), (1, 4), (2, 2), (3, 2), (2, 5), (5, 5), (6, 4)] {
                    let shape = PoolShape::halving((h, w, c)).unwrap();
                    case!(f32, level, shape);
                    case!(f64, level, shape);
                }
            }
        });
    }
}
