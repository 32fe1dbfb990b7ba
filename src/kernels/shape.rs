//! The sizes of each operation: checked when made, then trusted.

use std::fmt;

/// Why sizes do not fit together; the text names what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError(String);

impl ShapeError {
    /// An error with that text.
    pub fn new(why: String) -> Self {
        Self(why)
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShapeError {}

/// The product of `sizes`, if an array of so many elements can be addressed.
fn checked_len(what: &str, sizes: &[usize]) -> Result<usize, ShapeError> {
    sizes
        .iter()
        .try_fold(1usize, |len, &size| len.checked_mul(size))
        .filter(|&len| len <= isize::MAX as usize / size_of::<f64>())
        .ok_or_else(|| ShapeError(format!("{what} of shape {sizes:?} is too large to address")))
}

/// A convolution with stride 1 and no padding: (h, w, c_in) -> (h - kh + 1, w - kw + 1, c_out),
/// with a kernel stored (kh, kw, c_in, c_out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    h: usize,
    w: usize,
    c_in: usize,
    kh: usize,
    kw: usize,
    c_out: usize,
}

impl ConvShape {
    /// Checks that the kernel fits into the image and that there are channels on both sides.
    pub fn new(
        (h, w, c_in): (usize, usize, usize),
        (kh, kw): (usize, usize),
        c_out: usize,
    ) -> Result<Self, ShapeError> {
        if kh == 0 || kw == 0 || h < kh || w < kw {
            return Err(ShapeError(format!(
                "expected an image of at least {kh}x{kw} pixels for a {kh}x{kw} kernel, got {h}x{w}"
            )));
        }
        if c_in == 0 || c_out == 0 {
            return Err(ShapeError(format!(
                "expected at least one input channel and one filter, got {c_in} and {c_out}"
            )));
        }
        checked_len("an image", &[h, w, c_in])?;
        checked_len("a convolution's kernel", &[kh, kw, c_in, c_out])?;
        checked_len("a convolution's output", &[h - kh + 1, w - kw + 1, c_out])?;
        Ok(Self { h, w, c_in, kh, kw, c_out })
    }

    /// The same shape with its window and input channels as compile-time constants, where they are
    /// worth it: inlined code then unrolls the loops over the taps.
    #[inline(always)]
    pub fn with_constant_window(&self) -> Option<Self> {
        let constant = Self { c_in: 1, kh: 3, kw: 3, ..*self };
        (constant == *self).then_some(constant)
    }

    /// (h, w, c_in)
    #[inline(always)]
    pub fn input(&self) -> (usize, usize, usize) {
        (self.h, self.w, self.c_in)
    }
    /// (kh, kw)
    #[inline(always)]
    pub fn window(&self) -> (usize, usize) {
        (self.kh, self.kw)
    }
    /// Filters, i.e. output channels.
    #[inline(always)]
    pub fn c_out(&self) -> usize {
        self.c_out
    }
    /// (h - kh + 1, w - kw + 1, c_out)
    #[inline(always)]
    pub fn output(&self) -> (usize, usize, usize) {
        (self.h - self.kh + 1, self.w - self.kw + 1, self.c_out)
    }
    /// Elements of the input.
    #[inline(always)]
    pub fn input_len(&self) -> usize {
        self.h * self.w * self.c_in
    }
    /// Elements of the kernel.
    #[inline(always)]
    pub fn kernel_len(&self) -> usize {
        self.taps() * self.c_out
    }
    /// Products summed for one output element: kh * kw * c_in.
    #[inline(always)]
    pub fn taps(&self) -> usize {
        self.kh * self.kw * self.c_in
    }
    /// Elements of the output.
    #[inline(always)]
    pub fn output_len(&self) -> usize {
        let (h, w, c) = self.output();
        h * w * c
    }
}

/// The side of a pooling window, which is also its stride.
pub const POOL: usize = 2;

/// Pooling over 2x2 windows with stride 2: (h, w, c) -> (h / 2, w / 2, c). An odd last row or
/// column belongs to no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    h: usize,
    w: usize,
    c: usize,
}

impl PoolShape {
    /// Checks that the input can be addressed. Without a whole window, the output is empty.
    pub fn new((h, w, c): (usize, usize, usize)) -> Result<Self, ShapeError> {
        checked_len("a pooling input", &[h, w, c])?;
        Ok(Self { h, w, c })
    }

    /// (h, w, c)
    #[inline(always)]
    pub fn input(&self) -> (usize, usize, usize) {
        (self.h, self.w, self.c)
    }
    /// (h / 2, w / 2, c)
    #[inline(always)]
    pub fn output(&self) -> (usize, usize, usize) {
        (self.h / POOL, self.w / POOL, self.c)
    }
    /// Elements of the input.
    #[inline(always)]
    pub fn input_len(&self) -> usize {
        self.h * self.w * self.c
    }
    /// Elements of the output.
    #[inline(always)]
    pub fn output_len(&self) -> usize {
        let (h, w, c) = self.output();
        h * w * c
    }
}

/// A fully connected layer: (inputs,) -> (outputs,), with weights stored (outputs, inputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseShape {
    inputs: usize,
    outputs: usize,
}

impl DenseShape {
    /// Checks that neither side is empty.
    pub fn new(inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        if inputs == 0 || outputs == 0 {
            return Err(ShapeError(format!(
                "expected at least one input and one node, got {inputs} and {outputs}"
            )));
        }
        checked_len("a weight matrix", &[inputs, outputs])?;
        Ok(Self { inputs, outputs })
    }

    /// Elements of the input.
    #[inline(always)]
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Elements of the output.
    #[inline(always)]
    pub fn outputs(&self) -> usize {
        self.outputs
    }
    /// Elements of the weight matrix.
    #[inline(always)]
    pub fn weights_len(&self) -> usize {
        self.inputs * self.outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes() {
        let conv = ConvShape::new((28, 27, 3), (3, 2), 8).unwrap();
        assert_eq!(conv.output(), (26, 26, 8));
        assert_eq!((conv.taps(), conv.kernel_len()), (18, 144));
        let pool = PoolShape::new((5, 4, 3)).unwrap();
        assert_eq!(pool.output(), (2, 2, 3));
    }

    #[test]
    fn refusals_name_the_sizes() {
        let small = ConvShape::new((2, 9, 1), (3, 3), 8).unwrap_err().to_string();
        assert!(small.contains("at least 3x3") && small.contains("got 2x9"), "{small}");
        assert!(ConvShape::new((9, 9, 1), (3, 3), 0).is_err());
        assert!(ConvShape::new((usize::MAX, 9, 1), (3, 3), 1).is_err());
        assert!(PoolShape::new((usize::MAX, 2, 2)).is_err());
        assert!(DenseShape::new(0, 10).is_err());
        assert!(DenseShape::new(usize::MAX, 2).is_err());
    }
}
