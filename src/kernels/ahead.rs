//! Images that are on their way through the caches before they are read.

use std::cell::Cell;

use crate::kernels::images::Cut;
use crate::kernels::rescale::Source;
use crate::kernels::simd::{self, LINE};

/// Lines of an image that are asked for; the machine foresees the rest of a larger one by itself.
const MOST: usize = 128;

/// The images that a thread will probably read next, which lie anywhere in memory. They are asked
/// for while it computes: a share in each kernel and, in a kernel that takes turns, a few lines at
/// a time. The machine works on some ten requests at once, and more of them make it wait.
#[derive(Debug)]
pub struct Ahead<'a> {
    /// The first image's part; nothing is read through it.
    x: *const u8,
    images: &'a [usize],
    /// Bytes from one image to the next one, and lines of each that are asked for.
    step: usize,
    lines: usize,
    /// Lines of all images in a kernel's share.
    share: usize,
    /// The next image and line to be asked for.
    image: Cell<usize>,
    line: Cell<usize>,
    /// Lines that the share has left, and those of a turn.
    left: Cell<usize>,
    turn: Cell<usize>,
}

impl<'a> Ahead<'a> {
    /// For `len` elements of some images of `x`, which are asked for in so many shares.
    pub fn new(x: Source<'a>, images: &'a [usize], cut: Cut, len: usize, shares: usize) -> Self {
        let zero = || Cell::new(0);
        let size = x.element_size();
        let (step, lines) = (cut.image_len * size, (len * size).div_ceil(LINE).min(MOST));
        let share = (images.len() * lines).div_ceil(shares.max(1));
        let (image, line, left, turn) = (zero(), zero(), zero(), zero());
        let x = x.address().wrapping_add(cut.start * size);
        Self { x, images, step, lines, share, image, line, left, turn }
    }

    /// For no images.
    pub fn nothing() -> Self {
        Self::new(Source::U8(&[]), &[], Cut::whole(0), 0, 0)
    }

    /// Begins the share of a kernel.
    pub fn begin(&self) {
        self.left.set(self.share);
        self.turn.set(0);
    }

    /// Divides what is left of the share into so many turns.
    #[inline(always)]
    pub fn divide(&self, turns: usize) {
        self.turn.set(self.left.get().div_ceil(turns.max(1)));
    }

    /// Asks for the lines of a turn.
    #[inline(always)]
    pub fn ask(&self) {
        self.ask_for(self.turn.get());
    }

    /// Asks for what is left of the share.
    pub fn end(&self) {
        self.ask_for(self.left.get());
    }

    #[inline(always)]
    fn ask_for(&self, lines: usize) {
        let mut lines = lines.min(self.left.get());
        if lines == 0 {
            return;
        }
        self.left.set(self.left.get() - lines);
        let (mut image, mut line) = (self.image.get(), self.line.get());
        while lines > 0 {
            let Some(at) = self.images.get(image) else { break };
            let some = lines.min(self.lines - line);
            simd::prefetch(self.x.wrapping_add(at * self.step + line * LINE), some);
            (lines, line) = (lines - some, line + some);
            if line == self.lines {
                (image, line) = (image + 1, 0);
            }
        }
        self.image.set(image);
        self.line.set(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_asked_for_in_so_many_shares() {
        for (len, images, shares) in [(0, 2, 3), (1, 0, 1), (1, 3, 5), (7, 3, 2), (3000, 2, 4)] {
            let x = vec![0.0f64; 4 * len];
            let order = [3, 0, 2];
            let (x, cut) = (Source::F64(&x), Cut::whole(len));
            let ahead = Ahead::new(x, &order[..images], cut, len, shares);
            let mut turns = 0;
            for _ in 0..shares {
                ahead.begin();
                ahead.divide(3);
                ahead.ask();
                ahead.ask();
                turns += ahead.share - ahead.left.get();
                ahead.end();
                assert_eq!(ahead.left.get(), 0);
            }
            let lines = images * (8 * len).div_ceil(LINE).min(MOST);
            assert!(shares * ahead.share >= lines && turns <= shares * ahead.share);
            if lines > 0 {
                assert_eq!((ahead.image.get(), ahead.line.get()), (images, 0));
            }
            ahead.begin();
            ahead.end();
        }
    }
}
