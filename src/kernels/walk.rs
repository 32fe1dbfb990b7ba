//! Walks over the pixels of some images, in two arrays at once.

use std::array;

/// Where the pixels lie in an array: the first one, and the steps to the next image, row and
/// column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lattice {
    pub start: usize,
    pub steps: [usize; 3],
}

impl Lattice {
    /// The pixels of images (h, w, c) one behind the other, all of them.
    #[inline(always)]
    pub fn packed((h, w, c): (usize, usize, usize)) -> Self {
        Self { start: 0, steps: [h * w * c, w * c, c] }
    }
}

/// Where one pixel lies in each of the two arrays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub from: usize,
    pub to: usize,
}

/// Pixels in two arrays: (images, rows, columns) of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pixels {
    counts: [usize; 3],
    from: Lattice,
    to: Lattice,
}

impl Pixels {
    #[inline(always)]
    pub fn new(counts: [usize; 3], from: Lattice, to: Lattice) -> Self {
        let mut pixels = Self { counts, from, to };
        // Long rows are walked faster: those of a 1x1 kernel or of a dense layer become one.
        pixels.merge(1, 2);
        pixels.merge(0, 1);
        pixels.merge(1, 2);
        pixels
    }

    /// Makes the axis `outer` a part of `inner` where the steps allow it.
    #[inline(always)]
    fn merge(&mut self, outer: usize, inner: usize) {
        let count = self.counts[inner];
        let follows = |of: &Lattice| of.steps[outer] == count * of.steps[inner];
        if count == 1 {
            self.from.steps[inner] = self.from.steps[outer];
            self.to.steps[inner] = self.to.steps[outer];
        } else if !(follows(&self.from) && follows(&self.to)) {
            return;
        }
        self.counts[inner] = count * self.counts[outer];
        self.counts[outer] = 1;
    }

    /// How many images, rows and columns.
    #[inline(always)]
    pub fn counts(&self) -> [usize; 3] {
        self.counts
    }
    /// How many pixels.
    #[inline(always)]
    pub fn count(&self) -> usize {
        let [images, rows, columns] = self.counts;
        images * rows * columns
    }
    /// The steps to the next image, row and column.
    #[inline(always)]
    pub fn steps(&self) -> [Place; 3] {
        array::from_fn(|axis| Place { from: self.from.steps[axis], to: self.to.steps[axis] })
    }
    /// The first pixel.
    #[inline(always)]
    pub fn first(&self) -> Place {
        Place { from: self.from.start, to: self.to.start }
    }
    /// The largest place in either array, if there are pixels.
    #[inline(always)]
    pub fn last(&self) -> Option<Place> {
        let mut last = self.first();
        for (count, step) in self.counts.into_iter().zip(self.steps()) {
            let steps = count.checked_sub(1)?;
            last.from += steps * step.from;
            last.to += steps * step.to;
        }
        Some(last)
    }

    /// A walk along the rows, from the first pixel to the last.
    #[inline(always)]
    pub fn walk(&self) -> Walk {
        let first = self.first();
        Walk {
            pixels: *self,
            left: self.count(),
            image: 0,
            row: 0,
            column: 0,
            image_start: first,
            row_start: first,
            place: first,
        }
    }
}

impl Place {
    /// The place `n` steps on.
    #[inline(always)]
    fn plus(self, n: usize, step: Self) -> Self {
        Self { from: self.from + n * step.from, to: self.to + n * step.to }
    }
}

/// See [`Pixels::walk`].
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pixels: Pixels,
    left: usize,
    image: usize,
    row: usize,
    column: usize,
    image_start: Place,
    row_start: Place,
    place: Place,
}

impl Walk {
    /// How many pixels are left.
    #[inline(always)]
    pub fn left(&self) -> usize {
        self.left
    }

    /// Sets `places` to the next pixels; where fewer are left, to the last one again and again.
    /// Returns whether all of them lie in one row, beside each other.
    #[inline(always)]
    pub fn take(&mut self, places: &mut [Place]) -> bool {
        let [_, _, columns] = self.pixels.counts;
        let [_, _, step] = self.pixels.steps();
        let count = places.len();
        let start = self.place;
        let head = columns - self.column;
        self.left = self.left.saturating_sub(count);
        if count <= head {
            for (n, place) in places.iter_mut().enumerate() {
                *place = start.plus(n, step);
            }
            if count < head {
                self.column += count;
                self.place = start.plus(count, step);
            } else if self.has_next_row() {
                self.next_row();
            }
            return true;
        }
        if count - head < columns && self.has_next_row() {
            // A few comparisons cost less than branches that go another way in every row.
            self.next_row();
            for (n, place) in places.iter_mut().enumerate() {
                let (start, n) = if n < head { (start, n) } else { (self.row_start, n - head) };
                *place = start.plus(n, step);
            }
            self.column = count - head;
            self.place = self.row_start.plus(self.column, step);
        } else {
            for place in places {
                *place = self.place;
                self.advance();
            }
        }
        false
    }

    /// To the next pixel, if there is one.
    #[inline(always)]
    fn advance(&mut self) {
        let [_, _, columns] = self.pixels.counts;
        let [_, _, step] = self.pixels.steps();
        if self.column + 1 < columns {
            self.column += 1;
            self.place = self.place.plus(1, step);
        } else if self.has_next_row() {
            self.next_row();
        }
    }

    #[inline(always)]
    fn has_next_row(&self) -> bool {
        let [images, rows, _] = self.pixels.counts;
        self.row + 1 < rows || self.image + 1 < images
    }

    /// To the first pixel of the next row, which there is.
    #[inline(always)]
    fn next_row(&mut self) {
        let [_, rows, _] = self.pixels.counts;
        let [image_step, row_step, _] = self.pixels.steps();
        if self.row + 1 < rows {
            self.row += 1;
            self.row_start = self.row_start.plus(1, row_step);
        } else {
            (self.image, self.row) = (self.image + 1, 0);
            self.image_start = self.image_start.plus(1, image_step);
            self.row_start = self.image_start;
        }
        self.column = 0;
        self.place = self.row_start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places<const N: usize>(pixels: &Pixels) -> Vec<Place> {
        let mut walk = pixels.walk();
        let mut places = Vec::new();
        while walk.left() > 0 {
            let n = walk.left().min(N);
            let mut group = [Place::default(); N];
            let before = walk.clone();
            let beside = walk.take(&mut group);
            let [_, _, columns] = pixels.counts();
            assert_eq!(beside, before.column + N <= columns);
            assert!(group[n..].iter().all(|&place| place == group[n - 1]), "{group:?}");
            places.extend(&group[..n]);
        }
        places
    }

    #[test]
    fn a_walk_meets_every_pixel_in_order() {
        for counts in [[1, 1, 1], [2, 3, 4], [3, 1, 1], [1, 4, 1], [2, 1, 5], [2, 0, 3], [1, 2, 9]]
        {
            let [n, h, w] = counts;
            let shapes = [(h, w, 1), (h, w, 2), (h + 1, w, 3), (h, w + 2, 1), (h + 1, w + 1, 2)];
            for (from, to) in shapes.iter().flat_map(|a| shapes.map(|b| (*a, b))) {
                let lattices = [(3, from), (0, to)]
                    .map(|(start, of)| Lattice { start, ..Lattice::packed(of) });
                let at = |lattice: &Lattice, [i, y, x]: [usize; 3]| {
                    let [image, row, column] = lattice.steps;
                    lattice.start + i * image + y * row + x * column
                };
                let mut expected = Vec::new();
                for index in (0..n * h * w).map(|p| [p / (h * w), p / w % h, p % w]) {
                    expected
                        .push(Place { from: at(&lattices[0], index), to: at(&lattices[1], index) });
                }
                let pixels = Pixels::new(counts, lattices[0], lattices[1]);
                assert_eq!(pixels.last(), expected.last().copied());
                assert_eq!(places::<1>(&pixels), expected);
                assert_eq!(places::<4>(&pixels), expected);
                assert_eq!(places::<7>(&pixels), expected);
            }
        }
    }
}
