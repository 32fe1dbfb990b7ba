//! A convolution of images with one channel, the 2x2 max pooling behind it, bias and ReLU in one
//! pass: the four sums of a window stay in registers, and the full-size output is never written. On
//! the way back only the position that held the maximum has a gradient. With one input channel,
//! multiplying by the zeros at the other three is faster than skipping them.

use super::shape::ConvPoolShape;

/// Room for sums, [`SUMS`](super::simd::Simd::SUMS), from which on four or six windows at a time are
/// faster than one or two: with less of it the sums, or the taps, go to memory and back.
const SUMS_OF_MANY: usize = 24;

/// Whether these kernels are made for the shape: images with one channel, and filters of 3x3
/// or 5x5 in steps of 1.
pub fn supports(shape: &ConvPoolShape) -> bool {
    let conv = shape.conv();
    conv.input().2 == 1 && matches!(conv.window(), (3, 3) | (5, 5)) && conv.strides() == (1, 1)
}

/// `for_window!(shape, K => expression)`: evaluates the expression with the window's side as a
/// constant.
macro_rules! for_window {
    ($shape:expr, $k:ident => $body:expr) => {
        match $shape.conv().window() {
            (3, 3) => {
                const $k: usize = 3;
                $body
            }
            (5, 5) => {
                const $k: usize = 5;
                $body
            }
            (kh, kw) => panic!("expected a supported shape, got a {kh}x{kw} window"),
        }
    };
}

mod backward;
mod five;
mod foreground;
mod forward;
mod patches;
mod three;

pub use self::backward::grey_backward_kernel;
pub use self::foreground::{
    can_have_foreground, grey_backward_foreground, grey_forward_foreground,
};
pub use self::forward::grey_forward;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::ahead::Ahead;
    use crate::kernels::conv::tests::bits;
    use crate::kernels::reference::conv_pool as reference;
    use crate::kernels::shape::{ConvShape, POSITIONS, Padding};
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    fn grey_shape(
        (h, w): (usize, usize),
        k: usize,
        padding: Padding,
        filters: usize,
    ) -> ConvPoolShape {
        let conv = ConvShape::new((h, w, 1), (k, k), (1, 1), padding, filters).unwrap();
        ConvPoolShape::new(conv).unwrap()
    }

    macro_rules! define_case {
        ($case:ident, $t:ty) => {
        /// Returns the positions that were chosen.
        fn $case(level: Level, shape: ConvPoolShape, n: usize, x: Vec<$t>, with_bias: bool) -> Vec<$t> {
            let (conv, pooled) = (shape.conv(), n * shape.pool().output_len());
            let terms = conv.taps() + 1;
            let kernel: Vec<$t> = random(conv.kernel_len(), 2);
            let bias: Option<Vec<$t>> = with_bias.then(|| random(conv.c_out(), 4));
            let d_out: Vec<$t> = random(pooled, 3);

            let mut full = vec![<$t>::NAN; n * conv.output_len()];
            reference::conv(&mut full, &x, &kernel, conv, n);
            let maximum = |values: [$t; POSITIONS]| {
                let max = values.into_iter().fold(<$t>::NEG_INFINITY, <$t>::max);
                if values.iter().any(|v| v.is_nan()) { <$t>::NAN } else { max }
            };
            let expected: Vec<$t> = (0..pooled)
                .map(|p| [0, 1, 2, 3].map(|at| full[reference::unpooled_index(p, at, &shape)]))
                .map(maximum)
                .enumerate()
                .map(|(p, max)| max + bias.as_ref().map_or(0.0, |bias| bias[p % conv.c_out()]))
                .collect();
            let relu = |x: &$t| if *x < 0.0 { 0.0 } else { *x };
            let expected_relu: Vec<$t> = expected.iter().map(relu).collect();
            let mut argmax = vec![<$t>::NAN; pooled];
            for (relu, expected) in [(true, &expected_relu), (false, &expected)] {
                let [with, without] = [true, false].map(|wanted| {
                    let mut out = vec![<$t>::NAN; pooled];
                    let (at, bias) = (wanted.then_some(&mut argmax[..]), bias.as_deref());
                    dispatch!($t, level, simd => grey_forward(
                        simd, &mut out, at, &x, &kernel, bias, relu, &Ahead::nothing(), &shape, n,
                    ));
                    out
                });
                assert_close(&with, expected, terms);
                assert_eq!(bits(&with), bits(&without));
            }

            // The two orders of rounding may disagree on near ties, so the gradient is checked
            // against the positions that the kernel itself chose, and those against the values.
            for (p, &at) in argmax.iter().enumerate() {
                let chosen = full[reference::unpooled_index(p, at as usize, &shape)];
                let bias = bias.as_ref().map_or(0.0, |bias| bias[p % conv.c_out()]);
                assert_close(&[chosen + bias], &[expected[p]], terms);
            }
            let mut d_full = full;
            reference::unpool(&mut d_full, &d_out, &argmax, &shape);
            let mut d_kernel = vec![<$t>::NAN; conv.kernel_len()];
            let mut expected = d_kernel.clone();
            reference::conv_d_kernel(&mut expected, &d_full, &x, conv, n);
            dispatch!($t, level, simd => {
                grey_backward_kernel(
                    simd, &mut d_kernel, &d_out, &argmax, &x, &Ahead::nothing(), &shape, n,
                )
            });
            assert_close(&d_kernel, &expected, pooled / conv.c_out());
            argmax
        }};
    }

    // One function each: every `dispatch!` compiles its kernel anew.
    define_case!(case_f32, f32);
    define_case!(case_f64, f64);

    #[test]
    fn equals_reference_around_every_tile_edge() {
        let mut sizes = vec![(3, 4, 4), (3, 5, 5), (3, 6, 9), (3, 10, 7), (5, 6, 6), (5, 8, 9)];
        // Around one vector of windows beside each other, and two.
        sizes.extend([(5, 10, 14), (3, 4, 33), (3, 6, 36), (5, 9, 38), (3, 4, 67), (5, 6, 70)]);
        for_each_level(|level| {
            for filters in [1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 33] {
                for &(k, h, w) in &sizes {
                    for (n, padding) in [(1, Padding::Valid), (2, Padding::Same)] {
                        let shape = grey_shape((h, w), k, padding, filters);
                        let len = n * shape.conv().padded_len();
                        case_f32(level, shape, n, random(len, 1), n == 2);
                        case_f64(level, shape, n, random(len, 1), n == 1);
                    }
                }
            }
        });
    }

    #[test]
    fn the_first_of_equal_maxima_is_chosen() {
        for_each_level(|level| {
            for filters in [1, 5, 8, 16] {
                let shape = grey_shape((4, 4), 3, Padding::Valid, filters);
                for x in [0.5, 0.0, -0.0] {
                    let argmax = case_f32(level, shape, 1, vec![x; 16], false);
                    assert!(argmax.iter().all(|&at| at == 0.0));
                    let argmax = case_f64(level, shape, 1, vec![x.into(); 16], false);
                    assert!(argmax.iter().all(|&at| at == 0.0));
                }
            }
        });
    }

    #[test]
    fn a_nan_is_the_maximum() {
        for_each_level(|level| {
            for filters in [1, 5, 8, 16] {
                // Enough windows for the largest tile, and then one.
                for (side, last) in [(4, 15), (12, 143)] {
                    let shape = grey_shape((side, side), 3, Padding::Valid, filters);
                    let mut x = vec![1.0; side * side];
                    x[last] = f32::NAN; // seen by the last window's last position only
                    case_f64(level, shape, 1, x.iter().map(|&x| x.into()).collect(), true);
                    let mut argmax = case_f32(level, shape, 1, x, true);
                    let last = argmax.split_off(argmax.len() - filters);
                    assert!(last.iter().all(|&at| at == 3.0));
                    assert!(argmax.iter().all(|&at| at == 0.0));
                }
            }
        });
    }

    #[test]
    fn infinite_numbers_are_kept() {
        for_each_level(|level| {
            for filters in [1, 5, 8, 16] {
                let shape = grey_shape((12, 12), 3, Padding::Valid, filters);
                // The second one's sums overflow.
                for large in [f32::INFINITY, f32::MAX] {
                    let mut x = vec![0.0; 144];
                    x[143] = large; // seen by the last window's last position, and its last tap, only
                    let mut kernel = vec![0.0; 9 * filters];
                    kernel[8 * filters..].fill(2.0);
                    let (mut out, mut argmax) = (vec![0.0; 25 * filters], vec![0.0; 25 * filters]);
                    dispatch!(f32, level, simd => grey_forward(
                        simd, &mut out, Some(&mut argmax), &x, &kernel, None, true, &Ahead::nothing(),
                        &shape, 1,
                    ));
                    assert!(out[..24 * filters].iter().all(|&x| x == 0.0));
                    assert!(out[24 * filters..].iter().all(|&x| x == f32::INFINITY));
                    assert!(argmax[24 * filters..].iter().all(|&at| at == 3.0));
                }
            }
        });
    }

    #[test]
    fn other_shapes_are_not_supported() {
        let supports = |c_in, window, strides| {
            let conv = ConvShape::new((9, 9, c_in), window, strides, Padding::Same, 2).unwrap();
            supports(&ConvPoolShape::new(conv).unwrap())
        };
        assert!(supports(1, (3, 3), (1, 1)));
        assert!(supports(1, (5, 5), (1, 1)));
        assert!(!supports(1, (3, 5), (1, 1)));
        assert!(!supports(2, (3, 3), (1, 1)));
        assert!(!supports(1, (3, 3), (1, 2)));
    }
}
