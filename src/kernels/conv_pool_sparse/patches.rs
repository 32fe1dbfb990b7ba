//! Where the patches lie that filters see, and how they are cut into blocks that fit into
//! registers.

use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Element, Simd};

/// The length of equal pieces, of at most `most` each and with none much smaller, that make up
/// `len`.
#[inline(always)]
pub fn evenly(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most))
}

/// Where the patches under the filters lie in a padded image, in elements.
pub struct Patches {
    /// Rows of a patch, neighbouring elements in each, and the distance between rows.
    rows: usize,
    run: usize,
    row_step: usize,
    /// Pooling windows below and beside each other, and the distances between them.
    windows: (usize, usize),
    window_steps: (usize, usize),
    /// A window's positions, from its first one.
    positions: [usize; POSITIONS],
}

impl Patches {
    #[inline(always)]
    pub fn new(shape: &ConvPoolShape) -> Self {
        let conv = shape.conv();
        let (_, wp, c_in) = conv.windows().padded();
        let (sh, sw) = conv.strides();
        let (down, right) = (sh * wp * c_in, sw * c_in);
        let (pooled_h, pooled_w, _) = shape.pool().output();
        assert!(shape.has_small_offsets(), "an image whose offsets fit into 32 bits");
        Self {
            rows: conv.window().0,
            run: conv.run(),
            row_step: wp * c_in,
            windows: (pooled_h, pooled_w),
            window_steps: (POOL * down, POOL * right),
            positions: [0, right, down, down + right],
        }
    }

    /// Neighbouring elements in each row of a patch.
    #[inline(always)]
    pub fn run(&self) -> usize {
        self.run
    }

    /// How many pooling windows there are.
    #[inline(always)]
    pub fn windows(&self) -> usize {
        self.windows.0 * self.windows.1
    }

    /// Where the patch at each position of a window begins.
    #[inline(always)]
    pub fn starts(&self, window: usize) -> [u32; POSITIONS] {
        let (i, j) = (window / self.windows.1, window % self.windows.1);
        let start = i * self.window_steps.0 + j * self.window_steps.1;
        self.positions.map(|position| (start + position) as u32)
    }

    /// Whether the two positions in a column of a window lie one row of a patch apart.
    #[inline(always)]
    pub fn overlap(&self) -> bool {
        self.positions[POOL] == self.row_step
    }

    /// Calls `visit` for the blocks of vectors of `lanes` elements that make up a patch: at most
    /// `most` with those of `more` further rows, and at most `cached` without.
    #[inline(always)]
    pub fn for_each_block(
        &self,
        lanes: usize,
        (most, more, cached): (usize, usize, usize),
        mut visit: impl FnMut(Block),
    ) {
        // As wide as can be, then as high; but further rows are worth it for several rows only.
        let rows = if more > 0 { self.rows.min(SOME_ROWS) + more } else { 1 };
        let widest = (most / rows).min(cached).clamp(1, MOST_VECTORS);
        let vectors = evenly(self.run.div_ceil(lanes), widest);
        let most_rows = (most / vectors - more).min(cached / vectors);
        let mut row = 0;
        while row < self.rows {
            let fits = |&&rows: &&usize| rows <= most_rows.min(self.rows - row);
            let rows = *BLOCK_ROWS.iter().find(fits).unwrap_or(&1);
            let mut start = 0;
            while start < self.run {
                let len = (self.run - start).min(vectors * lanes);
                let vectors = len.div_ceil(lanes);
                visit(Block {
                    rows,
                    vectors,
                    last: len - (vectors - 1) * lanes,
                    tap: row * self.run + start,
                    tap_step: self.run,
                    pixel: row * self.row_step + start,
                    pixel_step: self.row_step,
                });
                start += len;
            }
            row += rows;
        }
    }
}

/// Rows and vectors of a patch, few enough for registers.
#[derive(Clone, Copy)]
pub struct Block {
    /// One of [`BLOCK_ROWS`].
    pub rows: usize,
    /// Vectors in each row, at most [`MOST_VECTORS`].
    pub vectors: usize,
    /// Elements of the last vector in each row.
    last: usize,
    /// Where it begins in a filter, and the distance between rows there.
    pub tap: usize,
    pub tap_step: usize,
    /// The same in a patch of the image.
    pub pixel: usize,
    pub pixel_step: usize,
}

/// The numbers of rows that [`with_block!`] knows.
const BLOCK_ROWS: [usize; 4] = [5, 3, 2, 1];

/// Rows that blocks with further rows have, if the patch does.
const SOME_ROWS: usize = 3;

/// The most vectors beside each other that [`with_block!`] knows.
const MOST_VECTORS: usize = 8;

/// `with_block!(simd, block, R, V => expression)`: evaluates the expression with the block's rows
/// and vectors as constants, in a function of its own.
macro_rules! with_block {
    ($simd:ident, $block:expr, $rows:ident, $vectors:ident => $body:expr) => {
        with_block!(@rows $simd, $block, $rows, $vectors, $body, 1 2 3 5)
    };
    (@rows $simd:ident, $block:expr, $rows:ident, $vectors:ident, $body:expr, $($r:literal)*) => {
        match $block.rows {
            $($r => {
                const $rows: usize = $r;
                with_block!(@vectors $simd, $block, $vectors, $body, 1 2 3 4 5 6 7 8)
            })*
            rows => unreachable!("a block of {rows} rows"),
        }
    };
    (@vectors $simd:ident, $block:expr, $vectors:ident, $body:expr, $($v:literal)*) => {
        match $block.vectors {
            $($v => {
                const $vectors: usize = $v;
                $simd.outlined(
                    #[inline(always)]
                    |$simd| $body,
                )
            })*
            vectors => unreachable!("a block of {vectors} vectors"),
        }
    };
}
pub(super) use with_block;

/// The most vectors in a block: what the registers hold beside an operand or two. Plain loops are
/// not worth many block sizes.
#[inline(always)]
pub const fn most_vectors<T: Element, S: Simd<T>>() -> usize {
    match S::SUMS {
        24.. => 25,
        _ if S::MASKED_LOADS => 12,
        _ => 4,
    }
}

/// The `R` rows of `V` vectors of a block in memory, in a filter, in the image or in their
/// gradients.
#[derive(Clone, Copy)]
pub struct Tile<const R: usize, const V: usize> {
    /// Elements from row to row.
    step: usize,
    /// Elements of the last vector in each row.
    last: usize,
}

impl<const R: usize, const V: usize> Tile<R, V> {
    /// `R` and `V` are the block's.
    #[inline(always)]
    pub fn new(block: &Block, step: usize) -> Self {
        Self { step, last: block.last }
    }

    /// Elements from its first one to its last one.
    #[inline(always)]
    fn span<T: Element, S: Simd<T>>(self) -> usize {
        (R - 1) * self.step + (V - 1) * S::LANES + self.last
    }

    /// Where its vector `v` of row `r` lies, inside the span.
    #[inline(always)]
    fn place<T: Element, S: Simd<T>>(self, r: usize, v: usize) -> std::ops::Range<usize> {
        let at = r * self.step + v * S::LANES;
        at..at + if v + 1 < V { S::LANES } else { self.last }
    }

    /// Writes the tile to the `start` of `out`.
    #[inline(always)]
    pub fn store<T: Element, S: Simd<T>>(
        self,
        simd: S,
        tile: &[[S::Vector; V]; R],
        out: &mut [T],
        start: usize,
    ) {
        self.update(
            simd,
            out,
            start,
            #[inline(always)]
            |r, v, _| tile[r][v],
        );
    }

    /// Adds the tile to the one at the `start` of `out`.
    #[inline(always)]
    pub fn add<T: Element, S: Simd<T>>(
        self,
        simd: S,
        tile: &[[S::Vector; V]; R],
        out: &mut [T],
        start: usize,
    ) {
        self.update(
            simd,
            out,
            start,
            #[inline(always)]
            |r, v, out| simd.add(simd.load_up_to(out), tile[r][v]),
        );
    }

    /// Replaces every vector of the tile at the `start` of `out` by `new(r, v, old elements)`.
    #[inline(always)]
    fn update<T: Element, S: Simd<T>>(
        self,
        simd: S,
        out: &mut [T],
        start: usize,
        new: impl Fn(usize, usize, &[T]) -> S::Vector,
    ) {
        let out = &mut out[start..start + self.span::<T, S>()];
        // One branch for all rows.
        if self.last == S::LANES {
            Self { last: S::LANES, ..self }.update_unchecked(simd, out, new);
        } else {
            self.update_unchecked(simd, out, new);
        }
    }

    #[inline(always)]
    fn update_unchecked<T: Element, S: Simd<T>>(
        self,
        simd: S,
        out: &mut [T],
        new: impl Fn(usize, usize, &[T]) -> S::Vector,
    ) {
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the place is inside the span, and so in `out`.
                let out = unsafe { out.get_unchecked_mut(self.place::<T, S>(r, v)) };
                simd.store_up_to(new(r, v, out), out);
            }
        }
    }
}

/// A slice to load tiles from.
pub struct Source<'a, T, const R: usize, const V: usize> {
    tile: Tile<R, V>,
    x: &'a [T],
    /// Where the last tile begins.
    last: usize,
}

impl<'a, T: Element, const R: usize, const V: usize> Source<'a, T, R, V> {
    #[inline(always)]
    pub fn new<S: Simd<T>>(_: S, tile: Tile<R, V>, x: &'a [T]) -> Self {
        let span = tile.span::<T, S>();
        assert!(span <= x.len(), "a tile inside the slice");
        Self { tile, x, last: x.len() - span }
    }

    /// The tiles that begin at the first element and every `step` further on, in whole vectors
    /// behind each other, if they fit into `out`.
    #[inline(always)]
    pub fn packed<'b, S: Simd<T>>(
        &self,
        simd: S,
        out: &'b mut [T],
        step: usize,
    ) -> Option<Source<'b, T, R, V>> {
        let tiles = self.last / step + 1;
        let len = R * V * S::LANES;
        if tiles * len > out.len() {
            return None;
        }
        let out = &mut out[..tiles * len];
        for (n, out) in out.chunks_exact_mut(len).enumerate() {
            self.for_each(
                simd,
                n * step,
                #[inline(always)]
                |r, v, x| simd.store(x, &mut out[(r * V + v) * S::LANES..]),
            );
        }
        Some(Source::new(simd, Tile { step: V * S::LANES, last: S::LANES }, out))
    }

    /// The tile that begins at `start`.
    #[inline(always)]
    pub fn load<S: Simd<T>>(&self, simd: S, start: usize) -> [[S::Vector; V]; R] {
        let mut tile = [[simd.zero(); V]; R];
        self.for_each(
            simd,
            start,
            #[inline(always)]
            |r, v, x| tile[r][v] = x,
        );
        tile
    }

    /// `sums += d * tile` with the tile that begins at `start`.
    #[inline(always)]
    pub fn add_product<S: Simd<T>>(
        &self,
        simd: S,
        sums: &mut [[S::Vector; V]; R],
        d: T,
        start: usize,
    ) {
        let d = simd.splat(d);
        self.for_each(
            simd,
            start,
            #[inline(always)]
            |r, v, x| sums[r][v] = simd.mul_add(d, x, sums[r][v]),
        );
    }

    /// As [`add_product`](Self::add_product), one row further down: the last row goes to `below`.
    #[inline(always)]
    pub fn add_product_below<S: Simd<T>>(
        &self,
        simd: S,
        sums: &mut [[S::Vector; V]; R],
        below: &mut [S::Vector; V],
        d: T,
        start: usize,
    ) {
        let d = simd.splat(d);
        self.for_each(
            simd,
            start,
            #[inline(always)]
            |r, v, x| {
                let sum = if r + 1 < R { &mut sums[r + 1][v] } else { &mut below[v] };
                *sum = simd.mul_add(d, x, *sum);
            },
        );
    }

    /// Calls `visit(r, v, vector)` for the vectors of the tile that begins at `start`.
    #[inline(always)]
    fn for_each<S: Simd<T>>(
        &self,
        simd: S,
        start: usize,
        mut visit: impl FnMut(usize, usize, S::Vector),
    ) {
        assert!(start <= self.last, "a tile inside the slice");
        let mut row = start;
        for r in 0..R {
            for v in 0..V {
                let place = self.tile.place::<T, S>(0, v);
                // SAFETY: row `r` of the span, which fits behind `last`, and so is in `x`.
                let x = unsafe { self.x.get_unchecked(row + place.start..row + place.end) };
                let x = match v + 1 < V {
                    true => simd.load(x),
                    // A masked load of a whole vector costs no more, and needs no branch.
                    false if S::MASKED_LOADS => simd.load_part(x),
                    false => simd.load_up_to(x),
                };
                visit(r, v, x);
            }
            row += self.tile.step;
        }
    }
}
