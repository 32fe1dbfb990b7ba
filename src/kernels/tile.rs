//! The tile of all convolutions: the sums of some output pixels for some vectors of channels stay in
//! registers, while a walk over the taps loads each vector of the packed kernel once for all the
//! pixels, and one element of every pixel for all the vectors. The pixels may lie anywhere, so that
//! tiles cross rows and images. A block of the kernel stays in the L1 cache while all the pixels pass.

use super::pack::{block, packed_len};
use super::shape::ConvShape;
use super::simd::{Element, Simd};
use super::walk::{Pixels, Place, Walk};

/// Pixels and vectors of the tile that fills 32 registers.
const PIXELS: usize = 12;
const VECTORS: usize = 2;

/// Pixels of the tile for what is left, and of the one that fills 16 registers.
const FEW_PIXELS: usize = 4;

/// Vectors of the tiles for few pixels or one, which every vector of the kernel serves only once.
const MANY_VECTORS: usize = 4;
const MOST_VECTORS: usize = 8;

/// What is summed for one output element: `rows` runs of neighbouring elements of the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    pub rows: usize,
    pub run: usize,
    /// From one run to the next.
    pub step: usize,
}

impl Taps {
    #[inline(always)]
    pub fn of(shape: &ConvShape) -> Self {
        let (_, w, c_in) = shape.windows().padded();
        Self { rows: shape.window().0, run: shape.run(), step: w * c_in }
    }
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.rows * self.run
    }
    /// From the first element to behind the last.
    #[inline(always)]
    pub fn reach(&self) -> usize {
        self.rows.saturating_sub(1) * self.step + self.run
    }
}

/// Where the sums go.
pub(super) trait Sink<T: Element> {
    /// How many convolutions there are at each of the walk's places.
    const POSITIONS: usize;
    /// From the place to each of them, in the input.
    fn position(&self, n: usize) -> usize;
    fn c_out(&self) -> usize;
    /// Elements of the output.
    fn len(&self) -> usize;
    /// Takes the sums at all positions of some places, for `lanes` channels from `o`.
    ///
    /// # Safety
    /// Behind each of the places, the output has `o + lanes` elements.
    unsafe fn write<S: Simd<T>>(
        &mut self,
        simd: S,
        sums: &[S::Vector],
        places: &[Place],
        o: usize,
        lanes: usize,
    );
}

/// Convolves at all places of `pixels`: from `x` into the sink.
///
/// `packed` is a packed kernel (taps, c_out).
#[inline(always)]
pub(super) fn convolve<T: Element, S: Simd<T>, O: Sink<T>>(
    simd: S,
    sink: &mut O,
    x: &[T],
    packed: &[T],
    taps: Taps,
    pixels: &Pixels,
) {
    let c_out = sink.c_out();
    assert_eq!(packed.len(), packed_len::<T>(taps.count(), c_out), "packed kernel length");
    let Some(last) = pixels.last() else { return };
    for n in 0..O::POSITIONS {
        let end = last.from + sink.position(n) + taps.reach();
        assert!(end <= x.len(), "the last window ends inside the input");
    }
    assert!(last.to + c_out <= sink.len(), "the last place lies inside the output");

    let count = O::POSITIONS * pixels.count();
    let large = S::SUMS >= PIXELS * VECTORS;
    let mut o = 0;
    while o < c_out {
        let vectors = (c_out - o).div_ceil(S::LANES);
        // SAFETY: the assertions above, and there are at least as many vectors left as each
        // of these takes.
        let done = unsafe {
            if O::POSITIONS == 1 && count == 1 && vectors >= MOST_VECTORS {
                block_of_channels::<T, S, O, 1, 1, MOST_VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large && count <= 2 * FEW_PIXELS && vectors >= MANY_VECTORS {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, MANY_VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large && vectors >= VECTORS {
                block_of_channels::<T, S, O, PIXELS, FEW_PIXELS, VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if large {
                block_of_channels::<T, S, O, PIXELS, FEW_PIXELS, 1>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else if vectors >= VECTORS {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, VECTORS>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            } else {
                block_of_channels::<T, S, O, FEW_PIXELS, FEW_PIXELS, 1>(
                    simd, sink, x, packed, taps, pixels, o,
                )
            }
        };
        o += done * S::LANES;
    }
}

/// All places, for `V` vectors of channels from `o`: in tiles of `P` pixels and then of `FEW`.
/// Returns `V`.
///
/// # Safety
/// The assertions of [`convolve`], and `o` plus `V` vectors lie inside the packed channels.
#[inline(always)]
unsafe fn block_of_channels<
    T: Element,
    S: Simd<T>,
    O: Sink<T>,
    const P: usize,
    const FEW: usize,
    const V: usize,
>(
    simd: S,
    sink: &mut O,
    x: &[T],
    packed: &[T],
    taps: Taps,
    pixels: &Pixels,
    o: usize,
) -> usize {
    let channel = o / block::<T>() * block::<T>() * taps.count() + o % block::<T>();
    let weights = packed[channel..].as_ptr();
    let mut walk = pixels.walk();
    while walk.left() > 0 {
        // SAFETY: the caller's promise, and the walk's places lie before its last one.
        unsafe {
            if FEW < P && walk.left() * O::POSITIONS <= P - FEW {
                tile::<T, S, O, FEW, V>(simd, sink, x, weights, taps, &mut walk, o);
            } else {
                tile::<T, S, O, P, V>(simd, sink, x, weights, taps, &mut walk, o);
            }
        }
    }
    V
}

/// The next `P` pixels of the walk for `V` vectors of channels from `o`, whose weights begin at
/// `weights`.
///
/// # Safety
/// As for [`block_of_channels`].
#[inline(always)]
unsafe fn tile<T: Element, S: Simd<T>, O: Sink<T>, const P: usize, const V: usize>(
    simd: S,
    sink: &mut O,
    x: &[T],
    weights: *const T,
    taps: Taps,
    walk: &mut Walk,
    o: usize,
) {
    let mut places = [Place::default(); P];
    let places = &mut places[..P / O::POSITIONS];
    walk.take(places);
    let mut pixels = [x.as_ptr(); P];
    for p in 0..P {
        let pixel = places[p / O::POSITIONS].from + sink.position(p % O::POSITIONS);
        // SAFETY: the caller's promise.
        pixels[p] = unsafe { pixels[p].add(pixel) };
    }
    // SAFETY: the caller's promise.
    let sums = unsafe { sums::<T, S, P, V>(simd, &pixels, weights, taps) };
    for v in 0..V {
        let at = o + v * S::LANES;
        let left = sink.c_out() - at;
        // SAFETY: the caller's promise.
        unsafe {
            if v + 1 < V || left >= S::LANES {
                sink.write(simd, &sums[v], places, at, S::LANES);
            } else {
                sink.write(simd, &sums[v], places, at, left);
            }
        }
    }
}

/// `sums[v][p] = sum over the taps of pixels[p][tap] * weights[tap, v]`
///
/// # Safety
/// `taps.reach()` elements can be read from each of the pixels; `V` vectors of a packed kernel with
/// `taps` lie behind `weights`, which begins at a multiple of `V` vectors or of a block.
#[inline(always)]
unsafe fn sums<T: Element, S: Simd<T>, const P: usize, const V: usize>(
    simd: S,
    pixels: &[*const T; P],
    weights: *const T,
    taps: Taps,
) -> [[S::Vector; P]; V] {
    let block = block::<T>();
    let mut sums = [[simd.zero(); P]; V];
    let (mut at, mut tap) = (0, 0);
    for _ in 0..taps.rows {
        for _ in 0..taps.run {
            let mut w = [simd.zero(); V];
            for v in 0..V {
                let channel = v * S::LANES / block * block * taps.count() + v * S::LANES % block;
                // SAFETY: the caller's promise.
                w[v] = unsafe {
                    let weights = weights.add(tap + channel);
                    simd.load(std::slice::from_raw_parts(weights, S::LANES))
                };
            }
            for p in 0..P {
                // SAFETY: the caller's promise.
                let x = simd.splat(unsafe { *pixels[p].add(at) });
                for v in 0..V {
                    sums[v][p] = simd.mul_add(x, w[v], sums[v][p]);
                }
            }
            at += 1;
            tap += block;
        }
        at += taps.step - taps.run;
    }
    sums
}
