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
pub fn checked_len(what: &str, sizes: &[usize]) -> Result<usize, ShapeError> {
    sizes
        .iter()
        .try_fold(1usize, |len, &size| len.checked_mul(size))
        .filter(|&len| len <= isize::MAX as usize / size_of::<f64>())
        .ok_or_else(|| {
            ShapeError(format!("{what} of shape {} is too large to address", tuple(sizes)))
        })
}

/// A shape as Python writes it.
pub fn tuple(shape: &[usize]) -> String {
    match shape {
        [size] => format!("({size},)"),
        _ => {
            let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
            format!("({})", sizes.join(", "))
        }
    }
}

/// What happens at the borders of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Windows lie inside the image; what none of them reaches is ignored.
    Valid,
    /// There are ceil(size / stride) windows; the missing pixels, of which the odd one goes below
    /// or right, are zeros to a convolution and absent to a pooling. TensorFlow's rule.
    Same,
}

/// One axis of an image seen through windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    size: usize,
    window: usize,
    stride: usize,
    /// Missing pixels before and after.
    before: usize,
    after: usize,
    windows: usize,
}

impl Axis {
    fn new(size: usize, window: usize, stride: usize, padding: Padding) -> Self {
        let windows = match padding {
            Padding::Valid if size < window => 0,
            Padding::Valid => (size - window) / stride + 1,
            Padding::Same => size.div_ceil(stride),
        };
        let missing = match padding {
            Padding::Valid => 0,
            // No overflow: the last window begins inside the image.
            Padding::Same => {
                (windows.saturating_sub(1) * stride).saturating_add(window).saturating_sub(size)
            }
        };
        let before = missing / 2;
        Self { size, window, stride, before, after: missing - before, windows }
    }
}

/// An image (h, w, c) seen through (kh, kw) windows, which walk in steps of (sh, sw).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowShape {
    y: Axis,
    x: Axis,
    c: usize,
}

impl WindowShape {
    /// Checks that windows and strides are at least 1 and that the padded image can be addressed.
    /// There may be no window at all.
    pub fn new(
        (h, w, c): (usize, usize, usize),
        (kh, kw): (usize, usize),
        (sh, sw): (usize, usize),
        padding: Padding,
    ) -> Result<Self, ShapeError> {
        if kh == 0 || kw == 0 || sh == 0 || sw == 0 {
            return Err(ShapeError(format!(
                "expected windows and strides of at least 1, got {kh}x{kw} windows in steps of \
                 {sh}x{sw}"
            )));
        }
        checked_len("an image", &[h, w, c])?;
        let (y, x) = (Axis::new(h, kh, sh, padding), Axis::new(w, kw, sw, padding));
        let padded = |axis: Axis| axis.size.saturating_add(axis.before).saturating_add(axis.after);
        checked_len("a padded image", &[padded(y), padded(x), c])?;
        Ok(Self { y, x, c })
    }

    /// (h, w, c)
    #[inline(always)]
    pub fn input(&self) -> (usize, usize, usize) {
        (self.y.size, self.x.size, self.c)
    }
    /// (h, w, c) with the missing pixels.
    #[inline(always)]
    pub fn padded(&self) -> (usize, usize, usize) {
        let padded = |axis: &Axis| axis.before + axis.size + axis.after;
        (padded(&self.y), padded(&self.x), self.c)
    }
    /// How many missing rows there are above and how many missing columns to the left.
    #[inline(always)]
    pub fn before(&self) -> (usize, usize) {
        (self.y.before, self.x.before)
    }
    /// Whether any pixel is missing.
    #[inline(always)]
    pub fn is_padded(&self) -> bool {
        self.padded() != self.input()
    }
    /// (kh, kw)
    #[inline(always)]
    pub fn window(&self) -> (usize, usize) {
        (self.y.window, self.x.window)
    }
    /// (sh, sw)
    #[inline(always)]
    pub fn strides(&self) -> (usize, usize) {
        (self.y.stride, self.x.stride)
    }
    /// How many windows below and beside each other.
    #[inline(always)]
    pub fn windows(&self) -> (usize, usize) {
        (self.y.windows, self.x.windows)
    }
    /// Elements of the input.
    #[inline(always)]
    pub fn input_len(&self) -> usize {
        self.y.size * self.x.size * self.c
    }
    /// Elements of the input with the missing pixels.
    #[inline(always)]
    pub fn padded_len(&self) -> usize {
        let (h, w, c) = self.padded();
        h * w * c
    }
}

/// A convolution (h, w, c_in) -> (out_h, out_w, c_out) with a kernel (kh, kw, c_in, c_out).
///
/// A padded image has contiguous runs of `kw * c_in` elements under each row of a window, which is
/// all that most kernels need to know of `kw` and `c_in`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    windows: WindowShape,
    c_out: usize,
}

impl ConvShape {
    /// Checks that there is at least one window, and channels on both sides.
    pub fn new(
        input: (usize, usize, usize),
        window: (usize, usize),
        strides: (usize, usize),
        padding: Padding,
        c_out: usize,
    ) -> Result<Self, ShapeError> {
        let windows = WindowShape::new(input, window, strides, padding)?;
        let ((h, w, c_in), (kh, kw)) = (input, window);
        if c_in == 0 || c_out == 0 {
            return Err(ShapeError(format!(
                "expected at least one input channel and one filter, got {c_in} and {c_out}"
            )));
        }
        let (out_h, out_w) = windows.windows();
        if out_h == 0 || out_w == 0 {
            return Err(ShapeError(format!(
                "expected an image of at least {kh}x{kw} pixels for a {kh}x{kw} kernel, got {h}x{w}"
            )));
        }
        checked_len("a convolution's kernel", &[kh, kw, c_in, c_out])?;
        checked_len("a convolution's output", &[out_h, out_w, c_out])?;
        Ok(Self { windows, c_out })
    }

    /// A convolution with stride 1 and no padding.
    pub fn valid(
        input: (usize, usize, usize),
        window: (usize, usize),
        c_out: usize,
    ) -> Result<Self, ShapeError> {
        Self::new(input, window, (1, 1), Padding::Valid, c_out)
    }

    /// A dense layer, as a convolution of one pixel.
    pub fn dense(inputs: usize, outputs: usize) -> Result<Self, ShapeError> {
        DenseShape::new(inputs, outputs)?; // whose errors name what the caller has
        Self::valid((1, 1, inputs), (1, 1), outputs)
    }

    /// The image and its windows.
    #[inline(always)]
    pub fn windows(&self) -> &WindowShape {
        &self.windows
    }
    /// (h, w, c_in)
    #[inline(always)]
    pub fn input(&self) -> (usize, usize, usize) {
        self.windows.input()
    }
    /// (kh, kw)
    #[inline(always)]
    pub fn window(&self) -> (usize, usize) {
        self.windows.window()
    }
    /// (sh, sw)
    #[inline(always)]
    pub fn strides(&self) -> (usize, usize) {
        self.windows.strides()
    }
    /// Filters, i.e. output channels.
    #[inline(always)]
    pub fn c_out(&self) -> usize {
        self.c_out
    }
    /// (out_h, out_w, c_out)
    #[inline(always)]
    pub fn output(&self) -> (usize, usize, usize) {
        let (h, w) = self.windows.windows();
        (h, w, self.c_out)
    }
    /// Elements of the input.
    #[inline(always)]
    pub fn input_len(&self) -> usize {
        self.windows.input_len()
    }
    /// Elements of the input with its padding.
    #[inline(always)]
    pub fn padded_len(&self) -> usize {
        self.windows.padded_len()
    }
    /// Elements of the kernel.
    #[inline(always)]
    pub fn kernel_len(&self) -> usize {
        self.taps() * self.c_out
    }
    /// Neighbouring elements of a padded image under one row of a window: kw * c_in.
    #[inline(always)]
    pub fn run(&self) -> usize {
        self.window().1 * self.windows.c
    }
    /// Products summed for one output element: kh * kw * c_in.
    #[inline(always)]
    pub fn taps(&self) -> usize {
        self.window().0 * self.run()
    }
    /// Elements of the output.
    #[inline(always)]
    pub fn output_len(&self) -> usize {
        let (h, w, c) = self.output();
        h * w * c
    }
}

/// The side of the pooling window that networks use most, which is also its stride.
pub const POOL: usize = 2;

/// Positions in that window.
pub const POSITIONS: usize = POOL * POOL;

/// Pooling: (h, w, c) -> (windows below each other, windows beside each other, c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    windows: WindowShape,
}

impl PoolShape {
    /// Checks that the input can be addressed. Without a whole window, the output is empty.
    pub fn new(
        input: (usize, usize, usize),
        window: (usize, usize),
        strides: (usize, usize),
        padding: Padding,
    ) -> Result<Self, ShapeError> {
        Ok(Self { windows: WindowShape::new(input, window, strides, padding)? })
    }

    /// Pooling over 2x2 windows with stride 2. An odd last row or column belongs to no window.
    pub fn halving(input: (usize, usize, usize)) -> Result<Self, ShapeError> {
        Self::new(input, (POOL, POOL), (POOL, POOL), Padding::Valid)
    }

    /// The image and its windows.
    #[inline(always)]
    pub fn windows(&self) -> &WindowShape {
        &self.windows
    }
    /// (h, w, c)
    #[inline(always)]
    pub fn input(&self) -> (usize, usize, usize) {
        self.windows.input()
    }
    /// (out_h, out_w, c)
    #[inline(always)]
    pub fn output(&self) -> (usize, usize, usize) {
        let (h, w) = self.windows.windows();
        (h, w, self.windows.c)
    }
    /// Elements of the input.
    #[inline(always)]
    pub fn input_len(&self) -> usize {
        self.windows.input_len()
    }
    /// Elements of the output.
    #[inline(always)]
    pub fn output_len(&self) -> usize {
        let (h, w, c) = self.output();
        h * w * c
    }
}

/// A convolution and the 2x2 max pooling of its output, with at least one pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvPoolShape {
    conv: ConvShape,
    pool: PoolShape,
}

impl ConvPoolShape {
    /// Pooling windows of an image.
    pub fn windows(&self) -> usize {
        let (h, w, _) = self.pool().output();
        h * w
    }

    /// Checks that the convolution's output holds a pooling window.
    pub fn new(conv: ConvShape) -> Result<Self, ShapeError> {
        let pool = PoolShape::halving(conv.output())?;
        if pool.output_len() == 0 {
            let (h, w, _) = conv.output();
            return Err(ShapeError(format!("expected at least 2x2 pixels to pool, got {h}x{w}")));
        }
        Ok(Self { conv, pool })
    }

    /// The convolution.
    #[inline(always)]
    pub fn conv(&self) -> &ConvShape {
        &self.conv
    }

    /// The pooling.
    #[inline(always)]
    pub fn pool(&self) -> &PoolShape {
        &self.pool
    }

    /// Checks what the kernels for `n` images trust: `out` (or its gradient) and `argmax` (n,
    /// pooled h, pooled w, c_out), `x` (or its gradient) (n, h, w, c_in) with its padding, and the
    /// kernel.
    pub fn check<T>(&self, out: &[T], argmax: &[T], x: &[T], kernel: &[T], n: usize) {
        assert_eq!(Some(out.len()), n.checked_mul(self.pool.output_len()), "output length");
        assert_eq!(argmax.len(), out.len(), "argmax length");
        assert_eq!(Some(x.len()), n.checked_mul(self.conv.padded_len()), "image length");
        assert_eq!(kernel.len(), self.conv.kernel_len(), "kernel length");
    }

    /// Whether offsets in an image with its padding are numbers of 32 bits.
    pub fn has_small_offsets(&self) -> bool {
        u32::try_from(self.conv.padded_len()).is_ok()
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
        let conv = ConvShape::valid((28, 27, 3), (3, 2), 8).unwrap();
        assert_eq!(conv.output(), (26, 26, 8));
        assert_eq!((conv.run(), conv.taps(), conv.kernel_len()), (6, 18, 144));
        let pool = PoolShape::halving((5, 4, 3)).unwrap();
        assert_eq!(pool.output(), (2, 2, 3));
        assert_eq!(PoolShape::halving((1, 4, 3)).unwrap().output_len(), 0);
    }

    /// (size, window, stride) to (windows, missing before, missing after), from TensorFlow's guide.
    #[test]
    fn same_padding_puts_the_odd_one_after() {
        for ((size, window, stride), expected) in [
            ((5, 3, 1), (5, 1, 1)),
            ((5, 2, 1), (5, 0, 1)),
            ((5, 3, 2), (3, 1, 1)),
            ((6, 3, 2), (3, 0, 1)),
            ((6, 2, 3), (2, 0, 0)),
            ((13, 6, 5), (3, 1, 2)),
            ((1, 7, 1), (1, 3, 3)),
        ] {
            let axis = Axis::new(size, window, stride, Padding::Same);
            assert_eq!((axis.windows, axis.before, axis.after), expected);
        }
    }

    #[test]
    fn refusals_name_the_sizes() {
        let small = ConvShape::valid((2, 9, 1), (3, 3), 8).unwrap_err().to_string();
        assert!(small.contains("at least 3x3") && small.contains("got 2x9"), "{small}");
        assert!(ConvShape::valid((9, 9, 1), (3, 3), 0).is_err());
        assert!(ConvShape::valid((9, 9, 1), (0, 3), 1).is_err());
        assert!(ConvShape::valid((usize::MAX, 9, 1), (3, 3), 1).is_err());
        let huge = (usize::MAX, 2);
        assert!(ConvShape::new((9, 9, 1), huge, (1, 1), Padding::Same, 1).is_err());
        assert!(PoolShape::halving((usize::MAX, 2, 2)).is_err());
        assert!(DenseShape::new(0, 10).is_err());
        assert!(DenseShape::new(usize::MAX, 2).is_err());
    }
}
