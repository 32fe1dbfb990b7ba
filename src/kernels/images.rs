//! Where images lie.

use std::ops::Range;

use super::simd::{LINE, prefetch_near};

/// Images of one length: one behind the other, or anywhere in an array.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a, T> {
    /// (n, elements of an image)
    Beside(&'a [T]),
    /// Some of many, or a part of each.
    Apart {
        /// (any number, elements of a whole image)
        all: &'a [T],
        /// Which of them, in turn.
        order: &'a [usize],
        /// Which part.
        cut: Cut,
    },
}

/// Where a part of each image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Elements of a whole image.
    pub image_len: usize,
    /// Its first element in the image.
    pub start: usize,
}

impl Cut {
    /// All of images of so many elements.
    pub fn whole(image_len: usize) -> Self {
        Self { image_len, start: 0 }
    }

    /// `len` elements of image `n`, among those of all images.
    #[inline(always)]
    pub fn of(self, n: usize, len: usize) -> Range<usize> {
        let start = n * self.image_len + self.start;
        start..start + len
    }
}

impl<'a, T: Copy> Images<'a, T> {
    /// How many they are, of `len` elements each.
    pub fn count(&self, len: usize) -> usize {
        match self {
            Self::Beside(x) => x.len().checked_div(len).unwrap_or(0),
            Self::Apart { order, .. } => order.len(),
        }
    }

    /// Image `n`, of `len` elements.
    #[inline(always)]
    pub fn get(&self, n: usize, len: usize) -> &'a [T] {
        match self {
            Self::Beside(x) => &x[n * len..][..len],
            Self::Apart { all, order, cut } => &all[cut.of(order[n], len)],
        }
    }

    /// Asks for image `n`, if there is one, because it is read next.
    #[inline(always)]
    pub fn expect(&self, n: usize, len: usize) {
        if n < self.count(len) {
            let image = self.get(n, len);
            prefetch_near(image.as_ptr().cast(), size_of_val(image).div_ceil(LINE));
        }
    }
}

/// Images that do not lie beside each other, and room where they may.
#[derive(Debug)]
pub struct Apart<'a, T> {
    /// The images.
    pub images: Images<'a, T>,
    /// (n, elements of an image)
    pub room: &'a mut [T],
}

impl<'a, T: Copy> Apart<'a, T> {
    /// Copies `n` images into the room, which they fill.
    pub fn gather(self, n: usize) -> &'a [T] {
        let len = self.room.len() / n.max(1);
        for at in 0..n {
            self.room[at * len..][..len].copy_from_slice(self.images.get(at, len));
        }
        self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_where_they_lie() {
        let all: Vec<usize> = (0..12).collect();
        let apart = Images::Apart { all: &all, order: &[3, 0, 2], cut: Cut::whole(3) };
        let cut = Images::Apart { all: &all, order: &[1, 2], cut: Cut { image_len: 4, start: 1 } };
        assert_eq!((cut.count(2), cut.get(0, 2), cut.get(1, 2)), (2, &all[5..7], &all[9..11]));
        assert_eq!((Images::Beside(&all).count(3), apart.count(3)), (4, 3));
        assert_eq!((Images::Beside(&all).get(1, 3), apart.get(2, 3)), (&all[3..6], &all[6..9]));
        let mut room = [99; 9];
        let gathered = Apart { images: apart, room: &mut room }.gather(3);
        assert_eq!(gathered, [9, 10, 11, 0, 1, 2, 6, 7, 8]);
    }
}
