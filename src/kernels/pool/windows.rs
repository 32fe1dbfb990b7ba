//! The walks of pooling: over windows, and over pixels with the windows that see them.

use crate::kernels::shape::{POOL, PoolShape};
use crate::kernels::simd::{Element, Simd};
use std::ops::Range;

/// One axis of the image and its windows.
#[derive(Clone, Copy)]
pub struct Axis {
    pub size: usize,
    pub window: usize,
    pub stride: usize,
    /// Missing pixels before the image.
    pub before: usize,
    pub windows: usize,
    /// Whether pixels may be missing.
    pub padded: bool,
}

impl Axis {
    /// The vertical and the horizontal one.
    #[inline(always)]
    pub fn both(shape: &PoolShape) -> [Self; 2] {
        let windows = shape.windows();
        let padded = windows.is_padded();
        let ((h, w, _), (kh, kw)) = (windows.input(), windows.window());
        let ((sh, sw), (top, left)) = (windows.strides(), windows.before());
        let (out_h, out_w) = windows.windows();
        [
            Self { size: h, window: kh, stride: sh, before: top, windows: out_h, padded },
            Self { size: w, window: kw, stride: sw, before: left, windows: out_w, padded },
        ]
    }

    /// The same axis with compile-time constants, if it is halved: inlined code then unrolls its
    /// loops.
    #[inline(always)]
    pub fn halved(self) -> Self {
        Self { window: POOL, stride: POOL, before: 0, padded: false, ..self }
    }

    /// What window `i` sees: its first pixel, how many, and how many are missing before them.
    #[inline(always)]
    pub fn seen(&self, i: usize) -> (usize, usize, usize) {
        let start = i * self.stride;
        if !self.padded {
            return (start, self.window, 0);
        }
        let missing = self.before.saturating_sub(start);
        let first = start + missing - self.before;
        (first, (self.window - missing).min(self.size - first), missing)
    }

    /// From the windows that see the pixel before `at` to those that see `at`.
    #[inline(always)]
    pub fn advance(&self, windows: &mut Range<usize>, at: usize) {
        let at = at + self.before;
        while windows.end < self.windows && windows.end * self.stride <= at {
            windows.end += 1;
        }
        while windows.start < windows.end && windows.start * self.stride + self.window <= at {
            windows.start += 1;
        }
    }
}

/// Whether windows are 2x2 in steps of 2 inside the image.
#[inline(always)]
fn is_halving(shape: &PoolShape) -> bool {
    let (windows, two) = (shape.windows(), (POOL, POOL));
    windows.window() == two && windows.strides() == two && !windows.is_padded()
}

/// Whether a pixel may be seen by several windows.
pub fn overlap(shape: &PoolShape) -> bool {
    let ((kh, kw), (sh, sw)) = (shape.windows().window(), shape.windows().strides());
    sh < kh || sw < kw
}

/// Sets the pixels of n images that none of their windows sees, which do not overlap, to 0.
pub fn clear_unseen<T: Element>(x: &mut [T], shape: &PoolShape, n: usize) {
    let ((h, w, c), (kh, kw)) = (shape.input(), shape.windows().window());
    let ((sh, sw), (out_h, out_w)) = (shape.windows().strides(), shape.windows().windows());
    let (rows, columns) = (h.min(out_h * sh), w.min(out_w * sw));
    if (kh, kw) != (sh, sw) {
        x.fill(T::zero());
    } else if (rows, columns) != (h, w) {
        for image in 0..n {
            let image = &mut x[image * shape.input_len()..][..shape.input_len()];
            image[rows * w * c..].fill(T::zero());
            for row in 0..rows {
                image[(row * w + columns) * c..(row + 1) * w * c].fill(T::zero());
            }
        }
    }
}

/// A vector of channels of one window. Its indices are inside arrays of the shape's sizes.
pub struct Window {
    /// The first channel's element of the output, and how many channels.
    pub out: usize,
    pub lanes: usize,
    /// The first channel's element of the first pixel that exists.
    pub x: usize,
    /// From a pixel to the one below, and to the one beside.
    pub down: usize,
    pub right: usize,
    /// The pixels that exist, at least one.
    pub rows: usize,
    pub columns: usize,
    /// The place of the first of them in the whole window, counted row by row.
    pub place: usize,
}

impl Window {
    /// The first channel's element of one of the pixels that exist.
    #[inline(always)]
    pub fn at(&self, row: usize, column: usize) -> usize {
        self.x + row * self.down + column * self.right
    }
}

/// Calls `visit` for each window of n images, in the order of the output.
#[inline(always)]
#[allow(clippy::redundant_closure)] // a call through `&mut visit` would not be inlined
pub fn for_each_window<T: Element, S: Simd<T>>(
    simd: S,
    shape: &PoolShape,
    n: usize,
    mut visit: impl FnMut(Window),
) {
    let [y, x] = Axis::both(shape);
    if is_halving(shape) {
        let halved = [y.halved(), x.halved()];
        walk_windows(
            simd,
            shape,
            n,
            halved,
            #[inline(always)]
            |window| visit(window),
        );
    } else {
        walk_windows(
            simd,
            shape,
            n,
            [y, x],
            #[inline(always)]
            |window| visit(window),
        );
    }
}

#[inline(always)]
fn walk_windows<T: Element, S: Simd<T>>(
    _: S,
    shape: &PoolShape,
    n: usize,
    [y, x]: [Axis; 2],
    mut visit: impl FnMut(Window),
) {
    let (_, w, c) = shape.input();
    let full = c - c % S::LANES;
    let mut out = 0;
    for image in 0..n {
        for i in 0..y.windows {
            let (row, rows, above) = y.seen(i);
            for j in 0..x.windows {
                let (column, columns, left) = x.seen(j);
                let first = image * shape.input_len() + (row * w + column) * c;
                let place = above * x.window + left;
                let (lanes, down, right) = (S::LANES, w * c, c);
                let window = Window { out, lanes, x: first, down, right, rows, columns, place };
                for k in (0..full).step_by(S::LANES) {
                    visit(Window { out: out + k, x: first + k, ..window });
                }
                if full < c {
                    let (out, x) = (out + full, first + full);
                    visit(Window { out, lanes: c - full, x, ..window });
                }
                out += c;
            }
        }
    }
}

/// A vector of channels of one pixel. Its indices are inside arrays of the shape's sizes.
pub struct Pixel<'a> {
    /// The first channel's element of the pixel, and how many channels.
    pub x: usize,
    pub lanes: usize,
    /// Where the pixel lies in the padded image.
    pub row: usize,
    pub column: usize,
    /// The windows that see it, below and beside each other.
    pub i: &'a Range<usize>,
    pub j: &'a Range<usize>,
    /// The first channel's element of the image's first output.
    pub out: usize,
}

/// Calls `visit` for each pixel of n images, in their order.
#[inline(always)]
pub fn for_each_pixel<T: Element, S: Simd<T>>(
    _: S,
    shape: &PoolShape,
    n: usize,
    mut visit: impl FnMut(Pixel),
) {
    let [y, x] = Axis::both(shape);
    let (h, w, c) = shape.input();
    let full = c - c % S::LANES;
    let mut first = 0;
    for image in 0..n {
        let out = image * shape.output_len();
        let mut i = 0..0;
        for row in 0..h {
            y.advance(&mut i, row);
            let mut j = 0..0;
            for column in 0..w {
                x.advance(&mut j, column);
                let (row, column) = (row + y.before, column + x.before);
                let pixel = Pixel { x: first, lanes: S::LANES, row, column, i: &i, j: &j, out };
                for k in (0..full).step_by(S::LANES) {
                    visit(Pixel { x: first + k, out: out + k, ..pixel });
                }
                if full < c {
                    let (x, out) = (first + full, out + full);
                    visit(Pixel { x, lanes: c - full, out, ..pixel });
                }
                first += c;
            }
        }
    }
}
