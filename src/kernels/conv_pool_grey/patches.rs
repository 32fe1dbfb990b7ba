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
    pub fn take<const W: usize>(&mut self) -> [Patch<'a, T, K>; W] {
        let mut patches = [Patch { x: self.x, w: self.w }; W];
        for patch in &mut patches {
            patch.x = &self.x[self.start..self.start + K * self.w + K + 1];
            self.j += 1;
            self.start += POOL;
            if self.j == self.windows.1 {
                self.j = 0;
                self.i += 1;
                self.start += self.row_step;
                if self.i == self.windows.0 {
                    self.i = 0;
                    self.start += self.image_step;
                }
            }
        }
        patches
    }
}

/// The `K + 1` rows of `K + 1` pixels under a pooling window.
#[derive(Clone, Copy)]
pub struct Patch<'a, T, const K: usize> {
    /// From the first one to the last one, `K * w + K + 1` elements.
    x: &'a [T],
    /// Pixels in a row.
    w: usize,
}

impl<'a, T: Element, const K: usize> Patch<'a, T, K> {
    #[inline(always)]
    pub fn pixel(self, y: usize, x: usize) -> T {
        assert!(y <= K && x <= K, "a pixel of the patch"); // at compile time, in an unrolled loop
        // SAFETY: `Patches::take` cuts `K * w + K + 1` elements out of the image.
        unsafe { *self.x.get_unchecked(y * self.w + x) }
    }

    /// Two neighbours.
    #[inline(always)]
    pub fn pair(self, y: usize, x: usize) -> &'a [T] {
        assert!(y <= K && x < K, "two pixels of the patch");
        // SAFETY: as above.
        unsafe { self.x.get_unchecked(y * self.w + x..y * self.w + x + 2) }
    }
}
