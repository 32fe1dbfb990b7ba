//! Where images differ from their background: pixels of one value that lie around what is shown, as
//! in pictures of digits. Behind a convolution and a pooling, every window that sees nothing else
//! has the same outputs. They are neither written nor read; the layers that share them go through
//! the others, and add what the background comes to in one piece.

use crate::kernels::simd::{Element, MAX_LANES, Simd};

/// Words of [`Windows`].
const WORDS: usize = 4;

/// Most pooling windows of an image.
pub const MOST_WINDOWS: usize = WORDS * u64::BITS as usize;

/// Most images at a time: each vector has a word with a bit for each image that has it in its
/// foreground.
pub const MOST_IMAGES: usize = u64::BITS as usize;

/// Whether the kernels for a foreground are made for the instruction set and the type: for those of
/// the longest vectors. For others, which is known at compile time and drops their code, all of an
/// image is in its foreground.
#[inline(always)]
pub fn is_told_apart<T: Element, S: Simd<T>>(_: S) -> bool {
    S::BROADCASTS && S::LANES == MAX_LANES
}

/// A set of an image's pooling windows, or of vectors that hold them: a bit for each, row by row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(32))] // so that some begin at a cache line
pub struct Windows([u64; WORDS]);

impl Windows {
    /// The first `n`, at most [`MOST_WINDOWS`].
    #[inline(always)]
    pub fn first(n: usize) -> Self {
        let mut words = [0; WORDS];
        for (at, word) in words.iter_mut().enumerate() {
            let bits = n.saturating_sub(at * 64).min(64);
            *word = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        }
        Self(words)
    }

    /// Adds the windows of some bits, at most 16 of them, the first one at `start`.
    #[inline(always)]
    pub fn add(&mut self, start: usize, bits: u64) {
        let (word, shift) = (start / 64, start % 64);
        self.0[word] |= bits << shift;
        if shift > 48 && word + 1 < WORDS {
            self.0[word + 1] |= bits >> (64 - shift);
        }
    }

    /// Whether window `at` is one of them.
    #[inline(always)]
    pub fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// How many they are.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Those of either.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(other.0) {
            *word |= other;
        }
        Self(words)
    }

    /// Those of `self` that are not among `other`.
    #[inline(always)]
    pub fn without(self, other: Self) -> Self {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(other.0) {
            *word &= !other;
        }
        Self(words)
    }

    /// Those of `self` that are among `other`.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(other.0) {
            *word &= other;
        }
        Self(words)
    }

    /// These and their neighbours: the first and second are in a pair, and so on.
    #[inline(always)]
    pub fn in_pairs(self) -> Self {
        let mut words = self.0;
        for word in &mut words {
            *word |= *word >> 1 & EVEN | (*word & EVEN) << 1;
        }
        Self(words)
    }

    /// The pairs that hold them, numbered in the same order.
    #[inline(always)]
    pub fn pairs(self) -> Self {
        let mut words = [0; WORDS];
        for (at, word) in self.0.into_iter().enumerate() {
            words[at / 2] |= even_bits(word | word >> 1) << (32 * (at % 2));
        }
        Self(words)
    }

    /// Calls `visit` for each of them, in order.
    #[inline(always)]
    pub fn for_each(self, mut visit: impl FnMut(usize)) {
        for (at, mut word) in self.0.into_iter().enumerate() {
            while word != 0 {
                visit(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }
}

/// The bits with even numbers.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// Those, moved together into the lower half.
#[inline(always)]
fn even_bits(bits: u64) -> u64 {
    let mut bits = bits & EVEN;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits
}

/// What some images' windows see. If that is not all in the foreground, what there is of each
/// window in the foreground lies behind that of the window before, through all images.
#[derive(Debug)]
pub struct Foreground<'a, T> {
    /// Those that see more than the background, for each image. Where a vector holds two, both or
    /// none: with an odd number of windows, the last one's neighbour is not of the image, and
    /// anything.
    pub windows: &'a mut [Windows],
    /// The outputs of the others, (channels,).
    pub background: &'a mut [T],
    /// On the way back, the sums of the others' gradients, (channels,).
    pub d_background: &'a mut [T],
}

impl<T: Element> Foreground<'_, T> {
    /// Has all of an image's `count` windows in it, for each image.
    #[inline(always)]
    pub fn set_all(&mut self, count: usize) {
        self.windows.fill(Windows::first(count));
        self.background.fill(T::zero());
    }

    /// Windows in it.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.windows.iter().map(Windows::count).sum()
    }

    /// It, unless all of an image's `count` windows are in it, for each image: then nothing is
    /// packed.
    #[inline(always)]
    pub fn unless_all(self, count: usize) -> Option<Self> {
        let all = Windows::first(count);
        self.windows.iter().any(|&windows| windows != all).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(windows: &[usize]) -> Windows {
        let mut set = Windows::default();
        for &window in windows {
            set.add(window, 1);
        }
        set
    }

    fn listed(windows: Windows) -> Vec<usize> {
        let mut list = vec![];
        windows.for_each(|window| list.push(window));
        list
    }

    #[test]
    fn a_set_lists_what_was_added() {
        for n in [0, 1, 63, 64, 65, 169, 255, 256] {
            assert_eq!(listed(Windows::first(n)), (0..n).collect::<Vec<_>>());
            assert_eq!(Windows::first(n).count(), n);
        }
        for start in [0, 3, 47, 48, 49, 60, 63, 64, 120, 240] {
            let mut windows = set(&[start]);
            windows.add(start, 0b1010_0000_0000_0001);
            assert_eq!(listed(windows), [start, start + 13, start + 15]);
            assert!(windows.has(start + 13) && !windows.has(start + 14));
        }
        let (a, b) = (set(&[1, 70]), set(&[70, 200]));
        assert_eq!(listed(a.or(b)), [1, 70, 200]);
        assert_eq!(listed(a.and(b)), [70]);
    }

    #[test]
    fn pairs_hold_neighbours() {
        let windows = set(&[2, 17, 63, 64, 130, 255]);
        assert_eq!(listed(windows.pairs()), [1, 8, 31, 32, 65, 127]);
        let both = [2, 3, 16, 17, 62, 63, 64, 65, 130, 131, 254, 255];
        assert_eq!(listed(windows.in_pairs()), both);
    }
}
