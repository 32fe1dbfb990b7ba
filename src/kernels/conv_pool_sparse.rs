//! The gradients of a convolution behind a 2x2 max pooling, and perhaps ReLU: of the four positions
//! under a pooled element only the one that held the maximum has a gradient, and a dead unit has
//! none.
//!
//! What is left are *events*: a pooled element whose gradient `d` is not zero, and the position of
//! its maximum. Each adds `d` times the image's patch at that position to the gradient of its
//! filter, and `d` times its filter to the image's gradient there. Skipping a zero drops what
//! `0 * inf` and `0 * NaN` would have added; a gradient that is NaN itself is not skipped.
//!
//! Filters are stored filter after filter, (c_out, kh, kw, c_in): the taps of one filter's row are
//! `kw * c_in` neighbours, as the pixels under them are. A patch is cut into blocks that fit into
//! registers, and each block is summed over many events before it is stored.

mod patches;

use self::patches::{Block, Patches, Source, Tile, evenly, most_vectors, with_block};
use super::shape::{ConvPoolShape, POOL, POSITIONS};
use super::simd::{Aligned, Element, Simd};

/// Windows whose events are listed at a time: many events for each load and store of the sums.
const LISTED_WINDOWS: usize = 64;

/// Channels whose events are looked up together: a cache line of `f32`.
const LISTED_CHANNELS: usize = 16;

/// Windows whose events are marked at a time: many of them for each load of the filters.
const MARKED_WINDOWS: usize = 128;

/// Channels whose events are marked in one word.
const MARKED_CHANNELS: usize = u64::BITS as usize;

/// Bytes of filters that stay in the first-level cache (of 32 KB or more) beside the images.
const CACHED_FILTERS: usize = 26 << 10;

/// Room for the filters of a block.
type Packed<T> = Aligned<[T; PACKED]>;

/// Elements: a little more than [`CACHED_FILTERS`], as the last vectors of rows may be half empty.
const PACKED: usize = 8192;

/// In place of the offset of an element without a gradient.
const DEAD: u32 = u32::MAX;

/// A pooled element that has a gradient.
#[derive(Clone, Copy, Debug, Default)]
struct Event<T> {
    /// Where the image's patch at its maximum begins.
    offset: u32,
    /// Its gradient.
    d: T,
}

/// `d_filters[o, y, x, c] = sum over images and windows of image[p + (y, x), c] * d_out[i, j, o]`,
/// where `p` is the position of the window's maximum in channel `o`.
///
/// `d_filters` (c_out, kh, kw, c_in), `d_out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n,
/// padded h, padded w, c_in). Half as fast where `x` does not begin at a multiple of 64 bytes.
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
    shape.check(d_out, argmax, x, d_filters, n);
    if n == 0 {
        d_filters.fill(T::zero());
    }
    let patches = Patches::new(shape);
    let (windows, image_len) = (patches.windows(), shape.conv().padded_len());
    let (taps, c_out) = (shape.conv().taps(), shape.conv().c_out());

    let mut starts = [[0; POSITIONS]; LISTED_WINDOWS];
    let mut offsets = [[0; LISTED_CHANNELS]; LISTED_WINDOWS];
    let mut lists = [[Event::default(); LISTED_WINDOWS]; LISTED_CHANNELS];
    let mut lens = [0; LISTED_CHANNELS];
    let most = evenly(windows, LISTED_WINDOWS);
    for first in (0..windows).step_by(most) {
        let listed = most.min(windows - first);
        for window in 0..listed {
            starts[window] = patches.starts(first + window);
        }
        for image in 0..n {
            let x = &x[image * image_len..][..image_len];
            let is_first = image == 0 && first == 0;
            for o in (0..c_out).step_by(LISTED_CHANNELS) {
                let channels = LISTED_CHANNELS.min(c_out - o);
                let pooled = (image * windows + first) * c_out + o;
                let (d_out, argmax) = (&d_out[pooled..], &argmax[pooled..]);
                for window in 0..listed {
                    let pooled = window * c_out..window * c_out + channels;
                    let (d_out, argmax) = (&d_out[pooled.clone()], &argmax[pooled]);
                    look_up(simd, &mut offsets[window], d_out, argmax, &starts[window]);
                }
                // All lists before all sums: done in turns, neither overlaps with the other.
                for channel in 0..channels {
                    let d_out = &d_out[channel..];
                    lens[channel] =
                        list_events(&mut lists[channel], &offsets[..listed], channel, d_out, c_out);
                }
                let d_filters = &mut d_filters[o * taps..][..channels * taps];
                let (lists, lens) = (&lists[..channels], &lens[..channels]);
                patches.for_each_block(
                    S::LANES,
                    (most_vectors::<T, S>(), 0, usize::MAX),
                    #[inline(always)]
                    |block| {
                        with_block!(simd, block, R, V => add_patches::<T, _, R, V>(
                            simd, d_filters, lists, lens, x, &block, taps, is_first,
                        ));
                    },
                );
            }
        }
    }
}

/// Sets `offsets[o]` to where the image's patch at the maximum begins, or to [`DEAD`].
///
/// `d_out` and `argmax` (channels,), of a window whose patches begin at `starts`.
#[inline(always)]
fn look_up<T: Element, S: Simd<T>>(
    simd: S,
    offsets: &mut [u32; LISTED_CHANNELS],
    d_out: &[T],
    argmax: &[T],
    starts: &[u32; POSITIONS],
) {
    for o in (0..d_out.len()).step_by(S::LANES) {
        let end = d_out.len().min(o + S::LANES);
        let is_dead = simd.equal(simd.load_up_to(&d_out[o..end]), simd.zero());
        let at = simd.load_up_to(&argmax[o..end]);
        let at = simd.select(is_dead, simd.splat(T::from_f64(POSITIONS as f64)), at);
        simd.store_indices(at, &mut offsets[o..]);
    }
    let (right, down) = (starts[1] - starts[0], starts[2] - starts[0]);
    for offset in offsets {
        let (is_dead, dy, dx) = (*offset >> 2 & 1, *offset >> 1 & 1, *offset & 1);
        *offset = (starts[0] + dy * down + dx * right) | (is_dead * DEAD);
    }
}

/// Lists the events of one channel and returns how many there are.
///
/// `offsets` (windows, channels), `d_out` (windows, c_out) from the channel on.
#[inline(always)]
fn list_events<T: Element>(
    list: &mut [Event<T>; LISTED_WINDOWS],
    offsets: &[[u32; LISTED_CHANNELS]],
    channel: usize,
    d_out: &[T],
    c_out: usize,
) -> usize {
    assert!(offsets.len() <= LISTED_WINDOWS && (offsets.len() - 1) * c_out < d_out.len());
    let mut events = 0;
    for window in 0..offsets.len() {
        let offset = offsets[window][channel];
        // SAFETY: there are no more events than windows, and the last window's gradient lies in
        // `d_out`; both are asserted.
        unsafe {
            // Every window's event is written, and kept if the next one is written behind it.
            *list.get_unchecked_mut(events) =
                Event { offset, d: *d_out.get_unchecked(window * c_out) };
        }
        events += usize::from(offset != DEAD);
    }
    events
}

/// Adds the events' gradients times their patches to one block of their filters' gradients, or sets
/// it if `is_first`.
///
/// `d_filters` (channels, taps), `lists` (channels, windows) with `lens` (channels,) events each,
/// `x` (padded h, padded w, c_in).
#[inline(always)]
fn add_patches<T: Element, S: Simd<T>, const R: usize, const V: usize>(
    simd: S,
    d_filters: &mut [T],
    lists: &[[Event<T>; LISTED_WINDOWS]],
    lens: &[usize],
    x: &[T],
    block: &Block,
    taps: usize,
    is_first: bool,
) {
    if R * V > most_vectors::<T, S>() {
        unreachable!("blocks are smaller"); // and this code is not compiled
    }
    let filter = Tile::<R, V>::new(block, block.tap_step);
    let pixels = Tile::<R, V>::new(block, block.pixel_step);
    let pixels = Source::new(simd, pixels, &x[block.pixel..]);
    for (d_filter, (list, &len)) in d_filters.chunks_exact_mut(taps).zip(lists.iter().zip(lens)) {
        let mut sums = match is_first {
            true => [[simd.zero(); V]; R],
            false => Source::new(simd, filter, d_filter).load(simd, block.tap),
        };
        for event in &list[..len] {
            pixels.add_product(simd, &mut sums, event.d, event.offset as usize);
        }
        filter.store(simd, &sums, d_filter, block.tap);
    }
}

/// `d_x[p, c] = sum over windows and channels o of filters[o, y, x, c] * d_out[i, j, o]` for the
/// taps (y, x) that meet the pixel `p` from the position of the window's maximum in channel `o`.
///
/// `d_x` (n, padded h, padded w, c_in), `d_out` and `argmax` (n, pooled h, pooled w, c_out),
/// `filters` (c_out, kh, kw, c_in).
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
    shape.check(d_out, argmax, d_x, filters, n);
    let patches = Patches::new(shape);
    let (windows, image_len) = (patches.windows(), shape.conv().padded_len());
    let (taps, c_out) = (shape.conv().taps(), shape.conv().c_out());
    // Vectors per patch row over bytes per patch row of all filters.
    let (vectors, bytes) = (patches.run().div_ceil(S::LANES), patches.run() * size_of::<T>());
    let cached = CACHED_FILTERS * vectors / (c_out.min(MARKED_CHANNELS) * bytes);
    let limits = (most_vectors::<T, S>(), 1, cached);
    let overlap = patches.overlap();

    // Where rows are no whole vectors, most loads would straddle two lines of the cache.
    let straddle = !patches.run().is_multiple_of(S::LANES);
    let mut packed = straddle.then(|| Aligned([T::zero(); PACKED]));
    let mut starts = [[0; POSITIONS]; MARKED_WINDOWS];
    let mut marks = [[0; POSITIONS]; MARKED_WINDOWS];
    let most = evenly(windows, MARKED_WINDOWS);
    for first in (0..windows).step_by(most) {
        let marked = most.min(windows - first);
        for window in 0..marked {
            starts[window] = patches.starts(first + window);
        }
        for image in 0..n {
            let d_x = &mut d_x[image * image_len..][..image_len];
            if first == 0 {
                d_x.fill(T::zero());
            }
            for o in (0..c_out).step_by(MARKED_CHANNELS) {
                let channels = MARKED_CHANNELS.min(c_out - o);
                let pooled = (image * windows + first) * c_out + o;
                let (d_out, argmax) = (&d_out[pooled..], &argmax[pooled..]);
                for window in 0..marked {
                    let pooled = window * c_out..window * c_out + channels;
                    marks[window] = mark_events(simd, &d_out[pooled.clone()], &argmax[pooled]);
                }
                let filters = &filters[o * taps..][..channels * taps];
                let (starts, marks) = (&starts[..marked], &marks[..marked]);
                patches.for_each_block(
                    S::LANES,
                    limits,
                    #[inline(always)]
                    |block| {
                        let (block, packed) = (&block, packed.as_mut());
                        with_block!(simd, block, R, V => add_filters::<T, _, R, V>(
                            simd, d_x, starts, marks, d_out, filters, block, taps, c_out, overlap,
                            packed,
                        ));
                    },
                );
            }
        }
    }
}

/// For each position, a bit for each of at most 64 channels that has its maximum there and a
/// gradient.
///
/// `d_out` and `argmax` (channels,)
#[inline(always)]
fn mark_events<T: Element, S: Simd<T>>(simd: S, d_out: &[T], argmax: &[T]) -> [u64; POSITIONS] {
    let mut marks = [0; POSITIONS];
    for o in (0..d_out.len()).step_by(S::LANES) {
        let end = d_out.len().min(o + S::LANES);
        // Lanes beyond the last channel are zero, hence dead.
        let live = !simd.bits(simd.equal(simd.load_up_to(&d_out[o..end]), simd.zero()));
        let at = simd.load_up_to(&argmax[o..end]);
        for (position, marks) in marks.iter_mut().enumerate() {
            let here = simd.bits(simd.equal(at, simd.splat(T::from_f64(position as f64))));
            *marks |= u64::from(here & live) << o;
        }
    }
    marks
}

/// Adds one block of the marked channels' filters times their gradients to `d_x`. If the two
/// positions of a column lie one row of a patch apart (`overlap`), their sums share registers.
///
/// `d_x` (padded h, padded w, c_in), `starts` and `marks` (windows, positions), `d_out` (windows,
/// c_out) from the first channel on, `filters` (channels, taps), `packed` of anything, if they
/// shall be copied there.
#[inline(always)]
fn add_filters<T: Element, S: Simd<T>, const R: usize, const V: usize>(
    simd: S,
    d_x: &mut [T],
    starts: &[[u32; POSITIONS]],
    marks: &[[u64; POSITIONS]],
    d_out: &[T],
    filters: &[T],
    block: &Block,
    taps: usize,
    c_out: usize,
    overlap: bool,
    packed: Option<&mut Packed<T>>,
) {
    if (R + 1) * V > most_vectors::<T, S>() {
        unreachable!("blocks are smaller"); // and this code is not compiled
    }
    let filter = Tile::<R, V>::new(block, block.tap_step);
    let filters = Source::new(simd, filter, &filters[block.tap..]);
    let copied = match packed {
        Some(packed) => filters.packed(simd, &mut packed.0, taps),
        None => None,
    };
    let (filters, taps) = match copied {
        Some(filters) => (filters, R * V * S::LANES),
        None => (filters, taps),
    };
    let pixels = Tile::<R, V>::new(block, block.pixel_step);
    let row = Tile::<1, V>::new(block, block.pixel_step);
    let events = |mut marks: u64| {
        std::iter::from_fn(
            #[inline(always)]
            move || {
                let o = marks.trailing_zeros() as usize;
                let is_one = marks != 0;
                marks &= marks.wrapping_sub(1);
                is_one.then_some(o)
            },
        )
    };
    for (window, (starts, marks)) in starts.iter().zip(marks).enumerate() {
        let d_out = &d_out[window * c_out..];
        for n in 0..POSITIONS {
            let (upper, lower) = match (overlap, n) {
                (true, 0 | 1) => (marks[n], marks[n + POOL]),
                (true, _) => break,
                (false, _) => (marks[n], 0),
            };
            if upper | lower == 0 {
                continue;
            }
            let (mut sums, mut below) = ([[simd.zero(); V]; R], [simd.zero(); V]);
            for o in events(upper) {
                filters.add_product(simd, &mut sums, d_out[o], o * taps);
            }
            for o in events(lower) {
                filters.add_product_below(simd, &mut sums, &mut below, d_out[o], o * taps);
            }
            let start = starts[n] as usize + block.pixel;
            pixels.add(simd, &sums, d_x, start);
            if lower != 0 {
                row.add(simd, &[below], d_x, start + R * block.pixel_step);
            }
        }
    }
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
        for c_in in [1, 2, 3, 5, 8, 16, 17, 32, 33, 47] {
            for window in [(1, 1), (2, 3), (3, 1), (3, 3), (4, 2), (4, 4), (5, 5), (7, 3)] {
                for c_out in [1, 3, 8] {
                    let shape = shape((8, 7, c_in), window, (1, 1), Padding::Valid, c_out);
                    case_f32(shape, 1, Dead::Some);
                    case_f64(shape, 1, Dead::Some);
                }
            }
        }
    }

    #[test]
    fn equals_reference_for_any_number_of_filters() {
        for c_out in [1, 3, 8, 15, 16, 17, 63, 64, 65, 130] {
            for c_in in [1, 7, 32] {
                for n in [1, 2, 3] {
                    let shape = shape((5, 6, c_in), (3, 3), (1, 1), Padding::Same, c_out);
                    case_f32(shape, n, Dead::Some);
                    case_f64(shape, n, Dead::Some);
                }
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
