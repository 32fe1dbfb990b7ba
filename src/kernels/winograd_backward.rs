//! The gradient of the input of a convolution in steps of 1: it is such a convolution itself, of
//! the output's gradient surrounded by zeros, so that [`winograd`] serves.

use super::pack::surround;
use super::run;
use super::shape::ConvShape;
use super::simd::Element;
use super::winograd;

/// The convolution from the surrounded gradient of the output to that of the input, if this is the
/// faster way. Its kernel is that from [`pack_input`](super::pack::pack_input).
pub fn gradient_shape(shape: &ConvShape) -> Option<ConvShape> {
    let ((h, w, c_in), (kh, kw)) = (shape.input(), shape.window());
    // With so much around it, each pixel of the input is seen by all the windows that it was in.
    let surrounded = (h.checked_add(kh - 1)?, w.checked_add(kw - 1)?, shape.c_out());
    let gradient = ConvShape::valid(surrounded, (kh, kw), c_in).ok()?;
    (shape.strides() == (1, 1) && winograd::supports(&gradient)).then_some(gradient)
}

/// Elements of workspace for `n` images.
pub fn scratch_len<T>(gradient: &ConvShape, n: usize) -> usize {
    n.saturating_mul(gradient.input_len()).saturating_add(winograd::scratch_len::<T>(gradient, n))
}

/// As [`conv_backward_input`](super::conv_backward::conv_backward_input), with a kernel from
/// [`winograd_pack`](super::winograd::winograd_pack) and [`scratch_len`] elements of workspace.
///
/// `d_x` (n, h, w, c_in) without padding, `d_out` (n, out_h, out_w, c_out), `gradient` the
/// [`gradient_shape`] of `shape`.
pub fn winograd_backward_input<T: Element>(
    d_x: &mut [T],
    d_out: &[T],
    packed: &[T],
    scratch: &mut [T],
    (shape, gradient): (&ConvShape, &ConvShape),
    n: usize,
) {
    assert_eq!(Some(d_out.len()), n.checked_mul(shape.output_len()), "output gradient length");
    assert_eq!(scratch.len(), scratch_len::<T>(gradient, n), "scratch length");
    let (surrounded, scratch) = scratch.split_at_mut(n * gradient.input_len());
    let ((above, left), (kh, kw)) = (shape.windows().before(), shape.window());
    let missing = (kh - 1 - above, kw - 1 - left);
    surround(surrounded, d_out, gradient.input(), shape.output(), missing);
    run::winograd_forward(d_x, surrounded, packed, None, false, scratch, gradient, n);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::pack::packed_input_len;
    use crate::kernels::reference;
    use crate::kernels::testing::{assert_close, random};
    use crate::kernels::winograd::tests::{growth, shapes};

    fn equals_reference<T: Element>() {
        let mut supported = 0;
        for (shape, n) in shapes() {
            let Some(gradient) = gradient_shape(&shape) else { continue };
            supported += 1;
            let kernel: Vec<T> = random(shape.kernel_len(), 1);
            let d_out: Vec<T> = random(n * shape.output_len(), 2);
            let mut expected = vec![T::nan(); n * shape.input_len()];
            reference::conv_backward_input(&mut expected, &d_out, &kernel, &shape);

            let mut taps = vec![T::nan(); packed_input_len::<T>(&shape)];
            run::pack_input(&mut taps, &kernel, &shape);
            let mut packed = vec![T::nan(); winograd::packed_len::<T>(&gradient)];
            run::winograd_pack(&mut packed, &taps, &gradient);
            let mut scratch = vec![T::nan(); scratch_len::<T>(&gradient, n)];
            let mut d_x = vec![T::nan(); expected.len()];
            let shapes = (&shape, &gradient);
            winograd_backward_input(&mut d_x, &d_out, &packed, &mut scratch, shapes, n);
            assert_close(&d_x, &expected, growth(&gradient) * gradient.taps());
        }
        assert!(supported > 20);
    }

    #[test]
    fn equals_reference_f32() {
        equals_reference::<f32>();
    }

    #[test]
    fn equals_reference_f64() {
        equals_reference::<f64>();
    }

    #[test]
    fn other_shapes_have_none() {
        let shape = |window, channels| ConvShape::valid((9, 9, channels), window, 32).unwrap();
        assert!(gradient_shape(&shape((3, 3), 32)).is_some());
        assert!(gradient_shape(&shape((3, 3), 1)).is_none());
        assert!(gradient_shape(&shape((5, 5), 32)).is_some());
        assert!(gradient_shape(&shape((4, 4), 32)).is_none());
    }
}
