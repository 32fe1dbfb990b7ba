//! Where images differ from their background: pixels of one value that lie around what is shown, as
//! in pictures of digits. Behind a convolution and a pooling, every window that sees nothing else
//! has the same outputs. They are neither written nor read; the layers that share them go through
//! the others, and add what the background comes to in one piece.

use crate::kernels::simd::{Element, Simd};

/// Words of [`Windows`].
const WORDS: usize = 4;

/// Most pooling windows of an image.
pub const MOST_WINDOWS: usize = WORDS * u64::BITS as usize;

/// Most images at a time: each window has a word with a bit for each image that has it in its
/// foreground.
pub const MOST_IMAGES: usize = u64::BITS as usize;

/// Lanes of the shortest vectors that the kernels for a foreground are made for.
pub const LEAST_LANES: usize = 8;

/// Whether the kernels for a foreground are made for the instruction set and the type: for `f32` in
/// vectors that are not too short. For others, which is known at compile time and drops their code,
/// all of an image is in its foreground.
#[inline(always)]
pub fn is_told_apart<T: Element, S: Simd<T>>(_: S) -> bool {
    size_of::<T>() == size_of::<f32>() && S::LANES >= LEAST_LANES
}

/// Whether windows of so many channels are told apart two by two: those of both fill a vector.
#[inline(always)]
pub fn in_pairs<T: Element, S: Simd<T>>(simd: S, c_out: usize) -> bool {
    is_told_apart(simd) && 2 * c_out == S::LANES
}

/// Channels of the windows that are told apart together, of which `c_out` are one's: of one window,
/// or of two neighbours.
#[inline(always)]
pub fn channels_of_group<T: Element, S: Simd<T>>(simd: S, c_out: usize) -> usize {
    if in_pairs(simd, c_out) { 2 * c_out } else { c_out }
}

/// Bits of the first of two neighbours.
const FIRST_OF_TWO: u64 = u64::MAX / 3;

/// A set of an image's pooling windows, row by row, or of groups of them: a bit for each.
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

    /// Values of groups of so many channels, of which an image has `len` in all.
    #[inline(always)]
    pub fn values(&self, len: usize, channels: usize) -> usize {
        let rest = len % channels;
        let lacks = rest > 0 && self.has(len / channels);
        self.count() * channels - if lacks { channels - rest } else { 0 }
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
    pub fn among(self, other: Self) -> Self {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(other.0) {
            *word &= other;
        }
        Self(words)
    }

    /// They and their neighbours, of two by two.
    #[inline(always)]
    pub fn with_neighbours(self) -> Self {
        let mut words = self.0;
        for word in &mut words {
            *word |= (*word & FIRST_OF_TWO) << 1 | *word >> 1 & FIRST_OF_TWO;
        }
        Self(words)
    }

    /// Of two by two neighbours those of which the first is in it.
    #[inline(always)]
    pub fn pairs(self) -> Self {
        let mut words = [0; WORDS];
        for (at, word) in self.0.into_iter().enumerate() {
            // The bits of the first are moved together, two by two.
            let mut bits = word & FIRST_OF_TWO;
            bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
            bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
            bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
            bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
            bits = (bits | bits >> 16) & 0xffff_ffff;
            words[at / 2] |= bits << (at % 2 * 32);
        }
        Self(words)
    }

    /// A bit for each window from `start` to before `start + len`, at most 16.
    #[inline(always)]
    pub fn row(&self, start: usize, len: usize) -> u32 {
        let (word, shift) = (start / 64, start % 64);
        let mut bits = self.0[word] >> shift;
        if shift > 48 && word + 1 < WORDS {
            bits |= self.0[word + 1] << (64 - shift);
        }
        (bits & ((1 << len) - 1)) as u32
    }

    /// A bit for each window from `start` to before `start + len`, which divides 64 and `start`.
    #[inline(always)]
    pub fn part(&self, start: usize, len: usize) -> u64 {
        self.0[start / 64] >> (start % 64) & u64::MAX >> (64 - len)
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

    /// The same backwards.
    #[inline(always)]
    pub fn for_each_back(self, mut visit: impl FnMut(usize)) {
        for (at, mut word) in self.0.into_iter().enumerate().rev() {
            while word != 0 {
                let bit = word.ilog2() as usize;
                visit(at * 64 + bit);
                word ^= 1 << bit;
            }
        }
    }
}

/// For each window, a bit for each image, of at most [`MOST_IMAGES`], that has it.
#[inline(always)]
pub fn images_of(windows: &[Windows]) -> [u64; MOST_WINDOWS] {
    let mut images = [0; MOST_WINDOWS];
    for (image, windows) in windows.iter().take(MOST_IMAGES).enumerate() {
        for (at, word) in windows.0.into_iter().enumerate() {
            images[at * MOST_IMAGES + image] = word;
        }
    }
    for square in images.chunks_exact_mut(MOST_IMAGES) {
        transpose(square);
    }
    images
}

/// Swaps rows and columns of 64 words of as many bits: quarters across, then theirs, and so on.
#[inline(always)]
fn transpose(words: &mut [u64]) {
    let mut mask = u64::MAX;
    for half in [32, 16, 8, 4, 2, 1] {
        mask ^= mask << half; // the lower half of each 2 * half bits
        for words in words.chunks_exact_mut(2 * half) {
            let (upper, lower) = words.split_at_mut(half);
            for (upper, lower) in upper.iter_mut().zip(lower) {
                let swapped = (*upper >> half ^ *lower) & mask;
                *upper ^= swapped << half;
                *lower ^= swapped;
            }
        }
    }
}

/// What some images' windows see. Those that are told apart together are a group; the last one of an
/// image may lack a window. If not all groups are in the foreground, what there is of each that is
/// lies behind that of the group before, through all images.
#[derive(Debug)]
pub struct Foreground<'a, T> {
    /// The groups that see more than the background, for each image.
    pub groups: &'a mut [Windows],
    /// The outputs of the others, ([`channels_of_group`],).
    pub background: &'a mut [T],
    /// On the way back, the sums of the others' gradients, ([`channels_of_group`],).
    pub d_background: &'a mut [T],
}

impl<T: Element> Foreground<'_, T> {
    /// Has all of an image's `len` values in it, for each image.
    #[inline(always)]
    pub fn set_all(&mut self, len: usize) {
        self.groups.fill(Windows::first(len.div_ceil(self.background.len())));
        self.background.fill(T::zero());
    }

    /// Values in it, of those that images of `len` values have.
    #[inline(always)]
    pub fn len(&self, len: usize) -> usize {
        let channels = self.background.len();
        self.groups.iter().map(|groups| groups.values(len, channels)).sum()
    }

    /// It, unless all of an image's `len` values are in it, for each image: then nothing is packed.
    #[inline(always)]
    pub fn unless_all(self, len: usize) -> Option<Self> {
        let all = Windows::first(len.div_ceil(self.background.len()));
        self.groups.iter().any(|&groups| groups != all).then_some(self)
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
        let mut back = vec![];
        windows.for_each_back(|window| back.insert(0, window));
        assert_eq!(list, back);
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
        assert_eq!(listed(a.without(b)), [1]);
        assert_eq!(
            (set(&[3, 62, 63, 64]).part(32, 32), set(&[127]).part(64, 64)),
            (3 << 30, 1 << 63)
        );
    }

    #[test]
    fn windows_are_told_apart_two_by_two() {
        let windows = set(&[0, 7, 40, 62, 63, 65, 130, 168, 255]);
        let both = windows.with_neighbours();
        assert_eq!(
            listed(both),
            [0, 1, 6, 7, 40, 41, 62, 63, 64, 65, 130, 131, 168, 169, 254, 255]
        );
        assert_eq!(listed(both.pairs()), [0, 3, 20, 31, 32, 65, 84, 127]);
        assert_eq!(listed(both.among(Windows::first(169))).last(), Some(&168));
        // The last of 169 windows is alone.
        assert_eq!(both.pairs().values(170 * 8, 16), 8 * 16);
        assert_eq!(both.among(Windows::first(169)).pairs().values(169 * 8, 16), 7 * 16 - 8);
        for (start, len, bits) in [(62, 4, 0b1011), (60, 16, 0b10_1100), (240, 16, 1 << 15)] {
            assert_eq!(windows.row(start, len), bits);
        }
    }

    #[test]
    fn images_of_windows_are_windows_of_images() {
        let images: Vec<Windows> = (0..MOST_IMAGES).map(|n| set(&[n, 3 * n, 255 - n])).collect();
        let found = images_of(&images);
        for at in 0..MOST_WINDOWS {
            for (n, windows) in images.iter().enumerate() {
                assert_eq!(found[at] >> n & 1 == 1, windows.has(at));
            }
        }
    }
}
