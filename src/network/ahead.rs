//! Images that are on their way through the caches before they are read.

use crate::kernels::simd;

/// Bytes of an image that are asked for; the machine foresees the rest of a larger one by itself.
const MOST: usize = 1 << 13;

/// The images that a thread will probably read next, which lie anywhere in memory. They are asked
/// for bit by bit while the thread computes: the machine works on few requests at a time, and makes
/// it wait before it takes more.
pub struct Ahead<'a, X> {
    x: &'a [X],
    images: &'a [usize],
    /// Elements of an image, and those of them that are asked for.
    len: usize,
    part: usize,
    /// Elements that have been asked for, and those of one turn.
    done: usize,
    share: usize,
}

impl<'a, X> Ahead<'a, X> {
    /// For some images of `x`, each of `len` elements, which are asked for in so many turns.
    pub fn new(x: &'a [X], images: &'a [usize], len: usize, turns: usize) -> Self {
        let part = len.min(MOST / size_of::<X>());
        let share = (images.len() * part).div_ceil(turns.max(1));
        Self { x, images, len, part, done: 0, share }
    }

    /// Asks for some more.
    pub fn ask(&mut self) {
        let end = (self.done + self.share).min(self.images.len() * self.part);
        while self.done < end {
            let (image, at) = (self.images[self.done / self.part], self.done % self.part);
            let n = (self.part - at).min(end - self.done);
            simd::prefetch(&self.x[image * self.len + at..][..n]);
            self.done += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_asked_for_in_so_many_turns() {
        for (len, images, turns) in [(0, 2, 3), (1, 0, 1), (1, 3, 5), (7, 3, 2), (3000, 2, 4)] {
            let x = vec![0.0f64; 4 * len];
            let order = [3, 0, 2];
            let mut ahead = Ahead::new(&x, &order[..images], len, turns);
            for _ in 0..turns {
                ahead.ask();
            }
            let part = len.min(MOST / size_of::<f64>());
            assert_eq!(ahead.done, images * part, "{images} images of {len} in {turns} turns");
            ahead.ask();
            assert_eq!(ahead.done, images * part);
        }
    }
}
