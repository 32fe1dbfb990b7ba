//! The gradients of a convolution behind a 2x2 max pooling, and perhaps ReLU: of the four positions
//! under a pooled element only the one that held the maximum has a gradient, and a dead unit has none.
//!
//! What is left are *events*: a pooled element whose gradient `d` is not zero, and the position of its
//! maximum. Each adds `d` times the image's patch at that position to the gradient of its filter, and
//! `d` times its filter to the image's gradient there. Skipping a zero drops what `0 * inf` and
//! `0 * NaN` would have added; a gradient that is NaN itself is not skipped.
//!
//! Filters are stored filter after filter, (c_out, kh, kw, c_in): the taps of one filter's row are
//! `kw * c_in` neighbours, as the pixels under them are. A patch is cut into blocks that fit into
//! registers, and each block is summed over many events before it is stored.

use super::shape::{ConvPoolShape, POOL};
use super::simd::{Element, Simd};

/// Positions in a pooling window.
const POSITIONS: usize = POOL * POOL;

/// Windows whose events are listed at a time: all of a small image's, and a list that stays in the
/// first-level cache.
const LISTED_WINDOWS: usize = 256;

/// Windows whose events are marked at a time, at 32 bytes each.
const MARKED_WINDOWS: usize = 128;

/// Channels whose events a word marks.
const MARKED_CHANNELS: usize = u64::BITS as usize;

/// Bytes of filter blocks that stay in the first-level cache (of 32 KB or more) beside the images.
const CACHED_FILTERS: usize = 24 << 10;

/// A pooled element that has a gradient.
#[derive(Clone, Copy, Debug, Default)]
struct Event<T> {
    /// Where the image's patch at its maximum begins.
    offset: u32,
    /// Its gradient.
    d: T,
}

/// Where the patches under the filters lie in a padded image, in elements.
struct Patches {
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
    fn new(shape: &ConvPoolShape) -> Self {
        let conv = shape.conv();
        let (_, wp, c_in) = conv.windows().padded();
        let (sh, sw) = conv.strides();
        let (down, right) = (sh * wp * c_in, sw * c_in);
        let (pooled_h, pooled_w, _) = shape.pool().output();
        let patches = Self {
            rows: conv.window().0,
            run: conv.run(),
            row_step: wp * c_in,
            windows: (pooled_h, pooled_w),
            window_steps: (POOL * down, POOL * right),
            positions: [0, right, down, down + right],
        };
        // The accesses without a check rest on these two.
        let last = patches.window(pooled_h * pooled_w - 1) + patches.positions[POSITIONS - 1];
        let end = last + (patches.rows - 1) * patches.row_step + patches.run;
        assert!(end <= conv.padded_len(), "patches inside the image");
        assert!(u32::try_from(end).is_ok(), "an image whose offsets fit into 32 bits");
        patches
    }

    /// Where the first position's patch of a window begins.
    #[inline(always)]
    fn window(&self, window: usize) -> usize {
        let (i, j) = (window / self.windows.1, window % self.windows.1);
        i * self.window_steps.0 + j * self.window_steps.1
    }

    /// Calls `visit` for blocks of at most `most` vectors that make up a patch.
    #[inline(always)]
    fn for_each_block(&self, lanes: usize, most: usize, mut visit: impl FnMut(Block)) {
        // As wide as can be, and equally wide, so that no block is small.
        let vectors = self.run.div_ceil(lanes);
        let vectors = vectors.div_ceil(vectors.div_ceil(most.min(MOST_VECTORS)));
        let most_rows = most / vectors;
        let mut row = 0;
        while row < self.rows {
            let fits = |&&rows: &&usize| rows <= most_rows.min(self.rows - row);
            let rows = *BLOCK_ROWS.iter().find(fits).unwrap_or(&1);
            for start in (0..self.run).step_by(vectors * lanes) {
                let len = (self.run - start).min(vectors * lanes);
                visit(Block {
                    rows,
                    vectors: len.div_ceil(lanes),
                    last: len - (len.div_ceil(lanes) - 1) * lanes,
                    tap: row * self.run + start,
                    pixel: row * self.row_step + start,
                });
            }
            row += rows;
        }
    }
}

/// Rows and vectors of a patch, few enough for registers.
struct Block {
    /// One of [`BLOCK_ROWS`].
    rows: usize,
    /// Vectors in each row, at most [`MOST_VECTORS`].
    vectors: usize,
    /// Elements of the last vector in each row.
    last: usize,
    /// Where it begins in a filter, and in a patch.
    tap: usize,
    pixel: usize,
}

/// The numbers of rows that [`with_block!`] knows.
const BLOCK_ROWS: [usize; 4] = [5, 3, 2, 1];

/// The most vectors beside each other that [`with_block!`] knows.
const MOST_VECTORS: usize = 8;

/// Evaluates the expression with a block's rows and vectors as constants.
macro_rules! with_block {
    ($block:expr, $rows:ident, $vectors:ident => $body:expr) => {
        with_block!(@rows $block, $rows, $vectors, $body, 1 2 3 5)
    };
    (@rows $block:expr, $rows:ident, $vectors:ident, $body:expr, $($r:literal)*) => {
        match $block.rows {
            $($r => {
                const $rows: usize = $r;
                with_block!(@vectors $block, $vectors, $body, 1 2 3 4 5 6 7 8)
            })*
            rows => unreachable!("a block of {rows} rows"),
        }
    };
    (@vectors $block:expr, $vectors:ident, $body:expr, $($v:literal)*) => {
        match $block.vectors {
            $($v => {
                const $vectors: usize = $v;
                $body
            })*
            vectors => unreachable!("a block of {vectors} vectors"),
        }
    };
}

/// The most vectors in a block: what the registers hold beside one operand or two.
#[inline(always)]
const fn most_vectors<T: Element, S: Simd<T>>() -> usize {
    if S::SUMS >= 24 { 25 } else { 12 }
}

/// `d_filters[o, y, x, c] = sum over images and windows of image[p + (y, x), c] * d_out[i, j, o]`, where
/// `p` is the position of the window's maximum in channel `o`.
///
/// `d_filters` (c_out, kh, kw, c_in), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, padded
/// h, padded w, c_in).
#[inline(always)]
pub fn sparse_backward_kernel<T: Element, S: Simd<T>>(
    simd: S,
    d_filters: &mut [T],
    d_out: &[T],
    argmax: &[T],
    x: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    check(d_out, argmax, x, d_filters, shape, n);
    let patches = Patches::new(shape);
    let (taps, c_out) = (shape.conv().taps(), shape.conv().c_out());
    let windows = patches.windows.0 * patches.windows.1;
    if n == 0 {
        d_filters.fill(T::zero());
    }
    let mut starts = [0; LISTED_WINDOWS];
    let mut list = [Event::default(); LISTED_WINDOWS];
    for image in 0..n {
        let x = &x[image * shape.conv().padded_len()..][..shape.conv().padded_len()];
        for first in (0..windows).step_by(LISTED_WINDOWS) {
            let listed = LISTED_WINDOWS.min(windows - first);
            for (window, start) in starts[..listed].iter_mut().enumerate() {
                *start = patches.window(first + window) as u32;
            }
            let pooled =
                (image * windows + first) * c_out..(image * windows + first + listed) * c_out;
            let (d_out, argmax) = (&d_out[pooled.clone()], &argmax[pooled]);
            let is_first = image == 0 && first == 0;
            for (o, d_filter) in d_filters.chunks_exact_mut(taps).enumerate() {
                let events =
                    list_events(&mut list, &starts[..listed], d_out, argmax, &patches, o, c_out);
                patches.for_each_block(
                    S::LANES,
                    most_vectors::<T, S>(),
                    #[inline(always)]
                    |block| {
                        with_block!(block, R, V => add_patches::<T, S, R, V>(
                            simd, d_filter, x, events, &patches, &block, is_first,
                        ));
                    },
                );
            }
        }
    }
}

/// The events of channel `o`. `starts` (windows,), `d_out` and `argmax` (windows, c_out).
#[inline(always)]
fn list_events<'a, T: Element>(
    list: &'a mut [Event<T>; LISTED_WINDOWS],
    starts: &[u32],
    d_out: &[T],
    argmax: &[T],
    patches: &Patches,
    o: usize,
    c_out: usize,
) -> &'a [Event<T>] {
    let mut events = 0;
    for (window, start) in starts.iter().enumerate() {
        let at = window * c_out + o;
        let position = argmax[at].small_index() % POSITIONS;
        // Every window's event is written, and kept if the next one is written behind it.
        list[events] = Event { offset: start + patches.positions[position] as u32, d: d_out[at] };
        events += usize::from(d_out[at] != T::zero());
    }
    &list[..events]
}

/// Adds the events' gradients times their patches to one block of their filter's gradient, or sets
/// it if `is_first`.
#[inline(always)]
fn add_patches<T: Element, S: Simd<T>, const R: usize, const V: usize>(
    simd: S,
    d_filter: &mut [T],
    x: &[T],
    events: &[Event<T>],
    patches: &Patches,
    block: &Block,
    is_first: bool,
) {
    if R * V > most_vectors::<T, S>() {
        unreachable!("a block of {R} x {V} vectors");
    }
    let len = |v| if v + 1 < V { S::LANES } else { block.last };
    let mut sums = [[simd.zero(); V]; R];
    if !is_first {
        for r in 0..R {
            for v in 0..V {
                let tap = block.tap + r * patches.run + v * S::LANES;
                sums[r][v] = simd.load_up_to(&d_filter[tap..tap + len(v)]);
            }
        }
    }
    for event in events {
        let d = simd.splat(event.d);
        let pixel = event.offset as usize + block.pixel;
        for r in 0..R {
            for v in 0..V {
                let pixel = pixel + r * patches.row_step + v * S::LANES;
                // SAFETY: an event's offset is at most that of the last window's last position, and
                // the patch there ends inside the image, as `Patches::new` asserts.
                let pixels = unsafe { x.get_unchecked(pixel..pixel + len(v)) };
                sums[r][v] = simd.mul_add(d, simd.load_up_to(pixels), sums[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            let tap = block.tap + r * patches.run + v * S::LANES;
            simd.store_up_to(sums[r][v], &mut d_filter[tap..tap + len(v)]);
        }
    }
}

/// `d_x[p, c] = sum over windows and channels o of filters[o, y, x, c] * d_out[i, j, o]` for the taps
/// (y, x) that meet the pixel `p` from the position of the window's maximum in channel `o`.
///
/// `d_x` (n, padded h, padded w, c_in), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `filters`
/// (c_out, kh, kw, c_in).
#[inline(always)]
pub fn sparse_backward_input<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    argmax: &[T],
    filters: &[T],
    shape: &ConvPoolShape,
    n: usize,
) {
    check(d_out, argmax, d_x, filters, shape, n);
    let patches = Patches::new(shape);
    let (taps, c_out) = (shape.conv().taps(), shape.conv().c_out());
    let windows = patches.windows.0 * patches.windows.1;
    let cached = CACHED_FILTERS / (c_out.min(MARKED_CHANNELS) * S::LANES * size_of::<T>());
    let most = most_vectors::<T, S>().min(cached).max(1);
    let mut marks = [[0; POSITIONS]; MARKED_WINDOWS];
    d_x.fill(T::zero());
    for image in 0..n {
        let d_x = &mut d_x[image * shape.conv().padded_len()..][..shape.conv().padded_len()];
        let pooled = image * windows * c_out..(image + 1) * windows * c_out;
        let (d_out, argmax) = (&d_out[pooled.clone()], &argmax[pooled]);
        for o in (0..c_out).step_by(MARKED_CHANNELS) {
            let channels = o..c_out.min(o + MARKED_CHANNELS);
            let filters = &filters[o * taps..channels.end * taps];
            for first in (0..windows).step_by(MARKED_WINDOWS) {
                let marked = MARKED_WINDOWS.min(windows - first);
                for (window, marks) in marks[..marked].iter_mut().enumerate() {
                    let at = (first + window) * c_out;
                    let channels = at + channels.start..at + channels.end;
                    *marks = mark_events(simd, &d_out[channels.clone()], &argmax[channels]);
                }
                patches.for_each_block(S::LANES, most, #[inline(always)] |block| {
                    for (window, marks) in marks[..marked].iter().enumerate() {
                        let window = first + window;
                        let start = patches.window(window) + block.pixel;
                        let d_out = &d_out[window * c_out..][channels.clone()];
                        for (&marks, position) in marks.iter().zip(patches.positions) {
                            if marks != 0 {
                                with_block!(block, R, V => add_filters::<T, S, R, V>(
                                    simd, &mut d_x[start + position..], d_out, marks, filters, &patches, &block, taps,
                                ));
                            }
                        }
                    }
                });
            }
        }
    }
}

/// For each position, a bit for each of at most 64 channels that has its maximum there and a gradient.
///
/// `d_out` and `argmax` (channels,)
#[inline(always)]
fn mark_events<T: Element, S: Simd<T>>(simd: S, d_out: &[T], argmax: &[T]) -> [u64; POSITIONS] {
    let mut marks = [0; POSITIONS];
    for o in (0..d_out.len()).step_by(S::LANES) {
        let end = d_out.len().min(o + S::LANES);
        // Lanes beyond the last channel are zero, hence dead.
        let d = simd.load_up_to(&d_out[o..end]);
        let at = simd.load_up_to(&argmax[o..end]);
        let live = !simd.bits(simd.equal(d, simd.zero()));
        for (n, marks) in marks.iter_mut().enumerate() {
            let here = simd.bits(simd.equal(at, simd.splat(T::from_f64(n as f64))));
            *marks |= u64::from(here & live) << o;
        }
    }
    marks
}

/// Adds one block of the marked channels' filters times their gradients to `d_x`, which starts at
/// the block's first pixel.
#[inline(always)]
fn add_filters<T: Element, S: Simd<T>, const R: usize, const V: usize>(
    simd: S,
    d_x: &mut [T],
    d_out: &[T],
    mut marks: u64,
    filters: &[T],
    patches: &Patches,
    block: &Block,
    taps: usize,
) {
    if R * V > most_vectors::<T, S>() {
        unreachable!("a block of {R} x {V} vectors");
    }
    let len = |v| if v + 1 < V { S::LANES } else { block.last };
    let mut sums = [[simd.zero(); V]; R];
    while marks != 0 {
        let o = marks.trailing_zeros() as usize;
        marks &= marks - 1;
        let d = simd.splat(d_out[o]);
        let tap = o * taps + block.tap;
        for r in 0..R {
            for v in 0..V {
                let tap = tap + r * patches.run + v * S::LANES;
                let taps = &filters[tap..tap + len(v)];
                sums[r][v] = simd.mul_add(d, simd.load_up_to(taps), sums[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            let pixel = r * patches.row_step + v * S::LANES;
            let pixels = &mut d_x[pixel..pixel + len(v)];
            simd.store_up_to(simd.add(simd.load_up_to(pixels), sums[r][v]), pixels);
        }
    }
}

fn check<T>(out: &[T], argmax: &[T], x: &[T], filters: &[T], shape: &ConvPoolShape, n: usize) {
    assert_eq!(out.len(), n * shape.pool().output_len(), "output length");
    assert_eq!(argmax.len(), n * shape.pool().output_len(), "argmax length");
    assert_eq!(x.len(), n * shape.conv().padded_len(), "image length");
    assert_eq!(filters.len(), shape.conv().kernel_len(), "filters length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference::conv_pool as reference;
    use crate::kernels::shape::{ConvShape, Padding};
    use crate::kernels::testing::{assert_close, for_each_level, random};

    /// (a, b) -> (b, a)
    fn transposed<T: Element>(x: &[T], b: usize) -> Vec<T> {
        let a = x.len() / b;
        (0..x.len()).map(|i| x[i % a * b + i / a]).collect()
    }

    /// How many of the gradients are zero.
    #[derive(Clone, Copy)]
    enum Dead {
        All,
        Some,
        None,
    }

    macro_rules! define_case {
        ($case:ident, $t:ty) => {fn $case(shape: ConvPoolShape, n: usize, dead: Dead) {
            let conv = shape.conv();
            let x: Vec<$t> = random(n * conv.padded_len(), 1);
            let kernel: Vec<$t> = random(conv.kernel_len(), 2);
            let mut d_out: Vec<$t> = random(n * shape.pool().output_len(), 3);
            match dead {
                Dead::All => d_out.fill(0.0),
                Dead::Some => d_out.iter_mut().for_each(|d| *d = d.max(0.0)),
                Dead::None => {}
            }
            let argmax: Vec<$t> = random(d_out.len(), 4);
            let argmax: Vec<$t> = argmax.iter().map(|at| (at * 2.0 + 2.0).floor()).collect();

            let mut d_full = vec![0.0; n * conv.output_len()];
            reference::unpool(&mut d_full, &d_out, &argmax, &shape);
            let mut d_kernel = vec![<$t>::NAN; conv.kernel_len()];
            reference::conv_d_kernel(&mut d_kernel, &d_full, &x, conv, n);
            let mut expected = vec![<$t>::NAN; x.len()];
            reference::conv_d_x(&mut expected, &d_full, &kernel, conv, n);

            let filters = transposed(&kernel, conv.c_out());
            for_each_level(|level| {
                let mut d_filters = vec![<$t>::NAN; conv.kernel_len()];
                dispatch!($t, level, simd => {
                    sparse_backward_kernel(simd, &mut d_filters, &d_out, &argmax, &x, &shape, n)
                });
                let windows = d_out.len() / conv.c_out();
                assert_close(&d_filters, &transposed(&d_kernel, conv.c_out()), windows);

                let mut d_x = vec![<$t>::NAN; x.len()];
                dispatch!($t, level, simd => {
                    sparse_backward_input(simd, &mut d_x, &d_out, &argmax, &filters, &shape, n)
                });
                assert_close(&d_x, &expected, conv.c_out() * conv.taps() / conv.input().2);
            });
        }};
    }

    // One function each: every `dispatch!` compiles its kernel anew.
    define_case!(case_f32, f32);
    define_case!(case_f64, f64);

    fn shape(
        input: (usize, usize, usize),
        window: (usize, usize),
        strides: (usize, usize),
        padding: Padding,
        c_out: usize,
    ) -> ConvPoolShape {
        let conv = ConvShape::new(input, window, strides, padding, c_out).unwrap();
        ConvPoolShape::new(conv).unwrap()
    }

    #[test]
    fn equals_reference_around_every_block_edge() {
        for c_in in [1, 2, 3, 5, 8, 16, 17, 32, 33] {
            for window in [(1, 1), (2, 3), (3, 3), (4, 2), (5, 5)] {
                let shape = shape((6, 7, c_in), window, (1, 1), Padding::Valid, 3);
                case_f32(shape, 1, Dead::Some);
                case_f64(shape, 1, Dead::Some);
            }
        }
    }

    #[test]
    fn equals_reference_for_any_number_of_filters() {
        for c_out in [1, 3, 8, 17, 64, 65, 130] {
            for n in [1, 2, 3] {
                let shape = shape((5, 6, 7), (3, 3), (1, 1), Padding::Same, c_out);
                case_f32(shape, n, Dead::Some);
                case_f64(shape, n, Dead::Some);
            }
        }
    }

    #[test]
    fn equals_reference_for_any_stride_and_padding() {
        for strides in [(1, 1), (2, 2), (1, 2), (3, 1)] {
            for padding in [Padding::Valid, Padding::Same] {
                for window in [(1, 1), (2, 3), (3, 3), (4, 4), (5, 5)] {
                    let shape = shape((11, 12, 2), window, strides, padding, 5);
                    case_f32(shape, 2, Dead::Some);
                    case_f64(shape, 2, Dead::Some);
                }
            }
        }
    }

    #[test]
    fn equals_reference_for_more_windows_than_are_listed() {
        let shape = shape((40, 38, 1), (3, 2), (1, 1), Padding::Valid, 2);
        assert!(shape.pool().output_len() > 2 * LISTED_WINDOWS);
        case_f32(shape, 2, Dead::Some);
        case_f64(shape, 2, Dead::None);
    }

    #[test]
    fn all_or_none_may_be_dead() {
        let shape = shape((8, 9, 16), (3, 3), (1, 1), Padding::Valid, 9);
        for dead in [Dead::All, Dead::None] {
            case_f32(shape, 2, dead);
            case_f64(shape, 2, dead);
        }
    }

    #[test]
    fn no_image_has_no_gradient() {
        let shape = shape((4, 4, 1), (3, 3), (1, 1), Padding::Valid, 2);
        for_each_level(|level| {
            let mut d_filters = [f32::NAN; 18];
            dispatch!(f32, level, simd => {
                sparse_backward_kernel(simd, &mut d_filters, &[], &[], &[], &shape, 0)
            });
            assert_eq!(d_filters, [0.0; 18]);
        });
    }

    #[test]
    fn a_gradient_of_nan_is_not_skipped() {
        let shape = shape((4, 4, 1), (3, 3), (1, 1), Padding::Valid, 2);
        for_each_level(|level| {
            let (mut d_filters, mut d_x) = ([0.0f32; 18], [0.0; 16]);
            let (d_out, argmax) = ([0.0, f32::NAN], [0.0, 3.0]);
            dispatch!(f32, level, simd => {
                sparse_backward_kernel(simd, &mut d_filters, &d_out, &argmax, &[1.0; 16], &shape, 1);
                sparse_backward_input(simd, &mut d_x, &d_out, &argmax, &[1.0; 18], &shape, 1);
            });
            assert!(d_filters[..9].iter().all(|&d| d == 0.0));
            assert!(d_filters[9..].iter().all(|d| d.is_nan()));
            for (pixel, d) in d_x.iter().enumerate() {
                assert_eq!(d.is_nan(), pixel / 4 >= 1 && pixel % 4 >= 1);
            }
        });
    }
}
