//! What the pooling windows see of the images.

use crate::kernels::shape::{ConvPoolShape, POOL};
use crate::kernels::simd::Element;

/// The image patches under the pooling windows, window by window through all images.
pub struct Patches<'a, T, const K: usize> {
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
    /// Windows below and beside each other.
    windows: (usize, usize),
    /// The next window, and where its patch begins.
    i: usize,
    j: usize,
    start: usize,
    /// How far it is from the end of a row of windows, and of an image, to the next.
    row_step: usize,
    image_step: usize,
}

impl<'a, T: Element, const K: usize> Patches<'a, T, K> {
    #[inline(always)]
    pub fn new(x: &'a [T], shape: &ConvPoolShape) -> Self {
        let (h, w, _) = shape.conv().windows().padded();
        let (out_h, out_w, _) = shape.pool().output();
        let (row_step, image_step) = (POOL * (w - out_w), (h - POOL * out_h) * w);
        Self { x, w, windows: (out_h, out_w), i: 0, j: 0, start: 0, row_step, image_step }
    }

    /// The next `W` patches.
    #[inline(always)]
    pub fn take<const W: usize>(&mut self) -> [Patch<'a, T, K, 1>; W] {
        let mut patches = [Patch { x: self.x, w: self.w }; W];
        for patch in &mut patches {
            *patch = self.take_beside();
        }
        patches
    }

    /// The next `W` patches as one. They lie beside each other: a row has that many windows more.
    #[inline(always)]
    pub fn take_beside<const W: usize>(&mut self) -> Patch<'a, T, K, W> {
        let patch = Patch::new(self.x, self.start, self.w);
        self.j += W;
        self.start += POOL * W;
        if self.j == self.windows.1 {
            self.j = 0;
            self.i += 1;
            self.start += self.row_step;
            if self.i == self.windows.0 {
                self.i = 0;
                self.start += self.image_step;
            }
        }
        patch
    }
}

/// Columns that `windows` pooling windows beside each other see through filters of side `k`.
pub const fn columns(k: usize, windows: usize) -> usize {
    POOL * windows + k - 1
}

/// The `K + 1` rows of pixels under `W` pooling windows beside each other.
#[derive(Clone, Copy)]
pub struct Patch<'a, T, const K: usize, const W: usize> {
    /// From the first one to the last one, `K * w + columns(K, W)` elements.
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
}

impl<'a, T: Element, const K: usize, const W: usize> Patch<'a, T, K, W> {
    /// The one that begins at `start`, of rows of `w` pixels.
    #[inline(always)]
    pub fn new(x: &'a [T], start: usize, w: usize) -> Self {
        Self { x: &x[start..start + K * w + columns(K, W)], w }
    }

    #[inline(always)]
    pub fn pixel(self, y: usize, x: usize) -> T {
        self.row(y)[x]
    }

    /// Two neighbours.
    #[inline(always)]
    pub fn pair(self, y: usize, x: usize) -> &'a [T] {
        &self.row(y)[x..x + 2]
    }

    /// All columns of a row.
    #[inline(always)]
    pub fn row(self, y: usize) -> &'a [T] {
        assert!(y <= K, "a row of the patch"); // at compile time, in an unrolled loop
        let start = y * self.w;
        // SAFETY: `new` cuts `K * w + columns(K, W)` elements out of the image.
        unsafe { self.x.get_unchecked(start..start + columns(K, W)) }
    }
}
