//! The tile of all convolutions: the sums of some output pixels for some vectors of channels stay
//! in registers, while a walk over the taps loads each vector of the packed kernel once for all the
//! pixels, and one element of every pixel for all the vectors. The pixels may lie anywhere, so that
//! tiles cross rows and images. A block of the kernel stays in the L1 cache while all the pixels
//! pass.

use super::pack::{block, packed_len};
use super::shape::ConvShape;
use super::simd::{Element, Simd, unrolled};
use super::walk::{Pixels, Place, Walk};

/// Pixels and vectors of the tile that fills 32 registers.
const PIXELS: usize = 12;
const VECTORS: usize = 2;

/// Pixels of the tile for what is left, and of the one that fills 16 registers.
const FEW_PIXELS: usize = 4;

/// Pixels of the tile of one vector that fills 16 registers.
const SOME_PIXELS: usize = 8;

/// Vectors of the tiles for few pixels or one, which every vector of the kernel serves only once.
const MANY_VECTORS: usize = 4;
const MOST_VECTORS: usize = 8;

/// Runs whose loops are unrolled: those of 3x3 and 5x5 kernels on one channel, the first layer of
/// most networks, where the loops would cost as much as the few products.
const SHORT_RUN: usize = 3;
const LONGER_RUN: usize = 5;

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
    /// There are `SIDE` rows of `SIDE` convolutions at each of the walk's places.
    const SIDE: usize;
    /// How many that makes.
    const POSITIONS: usize = Self::SIDE * Self::SIDE;
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

    let mut job = Job { sink, x, packed, taps, pixels, o: 0 };
    // SAFETY: the assertions above.
    unsafe {
        match taps.run {
            // (With a pooling behind it, such a layer of one channel in steps of 1 has kernels of its
            // own, and others are rare.)
            SHORT_RUN if O::POSITIONS == 1 => job.run::<S, SHORT_RUN>(simd),
            LONGER_RUN if O::POSITIONS == 1 => job.run::<S, LONGER_RUN>(simd),
            _ => job.run::<S, 0>(simd),
        }
    }
}

/// See [`convolve`].
struct Job<'a, T, O> {
    sink: &'a mut O,
    x: &'a [T],
    packed: &'a [T],
    taps: Taps,
    pixels: &'a Pixels,
    /// The channels that are done.
    o: usize,
}

impl<T: Element, O: Sink<T>> Job<'_, T, O> {
    /// All channels; `RUN` is that of the taps if it is to be unrolled, else 0.
    ///
    /// # Safety
    /// The assertions of [`convolve`].
    #[inline(always)]
    unsafe fn run<S: Simd<T>, const RUN: usize>(&mut self, simd: S) {
        let pixels = O::POSITIONS * self.pixels.count();
        let large = S::SUMS >= PIXELS * VECTORS;
        while self.o < self.sink.c_out() {
            let vectors = (self.sink.c_out() - self.o).div_ceil(S::LANES);
            // SAFETY: the caller's promise, and there are as many vectors left as each takes.
            unsafe {
                if O::POSITIONS == 1 && pixels == 1 && vectors >= MOST_VECTORS {
                    self.block::<S, 1, 1, MOST_VECTORS, 0>(simd);
                } else if large && pixels <= 2 * FEW_PIXELS && vectors >= MANY_VECTORS {
                    self.block::<S, FEW_PIXELS, FEW_PIXELS, MANY_VECTORS, 0>(simd);
                } else if large && vectors >= VECTORS {
                    self.block::<S, PIXELS, FEW_PIXELS, VECTORS, RUN>(simd);
                } else if large {
                    self.block::<S, PIXELS, FEW_PIXELS, 1, RUN>(simd);
                } else if vectors >= VECTORS {
                    self.block::<S, FEW_PIXELS, FEW_PIXELS, VECTORS, RUN>(simd);
                } else {
                    self.block::<S, SOME_PIXELS, FEW_PIXELS, 1, RUN>(simd);
                }
            }
        }
    }

    /// All places for the next `V` vectors of channels: tiles of `P` pixels, then of `FEW`.
    ///
    /// # Safety
    /// The assertions of [`convolve`], and there are so many vectors left.
    #[inline(always)]
    unsafe fn block<
        S: Simd<T>,
        const P: usize,
        const FEW: usize,
        const V: usize,
        const RUN: usize,
    >(
        &mut self,
        simd: S,
    ) {
        simd.outlined(
            #[inline(always)]
            |simd| {
                if RUN > 0 {
                    self.taps.run = RUN;
                }
                let mut walk = self.pixels.walk();
                while walk.left() > 0 {
                    // With one vector, the small tile takes as long as the large one for want of
                    // sums.
                    let few = if V > 1 { P - FEW } else { FEW };
                    // SAFETY: the caller's promise, and the walk's places are all of the pixels.
                    unsafe {
                        if FEW < P && walk.left() * O::POSITIONS <= few {
                            self.tile::<S, FEW, V, RUN>(simd, &mut walk);
                        } else {
                            self.tile::<S, P, V, RUN>(simd, &mut walk);
                        }
                    }
                }
            },
        );
        self.o += V * S::LANES;
    }

    /// The next `P` pixels of the walk for the next `V` vectors of channels.
    ///
    /// # Safety
    /// As for [`block`](Self::block), and the walk is that of the pixels.
    #[inline(always)]
    unsafe fn tile<S: Simd<T>, const P: usize, const V: usize, const RUN: usize>(
        &mut self,
        simd: S,
        walk: &mut Walk,
    ) {
        let mut places = [Place::default(); P];
        let places = &mut places[..P / O::POSITIONS];
        let beside = walk.take(places);
        let mut pixels = [self.x.as_ptr(); P];
        for p in 0..P {
            let pixel = places[p / O::POSITIONS].from + self.sink.position(p % O::POSITIONS);
            // SAFETY: the caller's promise.
            pixels[p] = unsafe { pixels[p].add(pixel) };
        }
        let block = block::<T>();
        let weights = &self.packed[self.o / block * block * self.taps.count() + self.o % block..];
        // SAFETY: the caller's promise; neighbours are the same pixels.
        let sums = unsafe {
            if RUN > 0 && P * V <= PIXELS && beside && self.pixels.steps()[2].from == 1 {
                // The unrolled loop loads each element once for all the pixels that share it, for
                // which a small tile has registers left.
                for p in 1..P {
                    pixels[p] = pixels[0].add(p);
                }
                sums::<T, S, P, V>(simd, &pixels, weights.as_ptr(), self.taps)
            } else {
                sums::<T, S, P, V>(simd, &pixels, weights.as_ptr(), self.taps)
            }
        };
        unrolled!(V, N => {
            let o = self.o + N * S::LANES;
            let left = self.sink.c_out() - o;
            // SAFETY: the caller's promise.
            unsafe {
                if N + 1 < V || left >= S::LANES {
                    self.sink.write(simd, &sums[N], places, o, S::LANES);
                } else {
                    self.sink.write(simd, &sums[N], places, o, left);
                }
            }
        });
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
    const { assert!(block::<T>().is_multiple_of(S::LANES), "vectors lie in one block each") };
    let block = block::<T>();
    let mut sums = [[simd.zero(); P]; V];
    let (mut row, mut tap) = (0, 0);
    for _ in 0..taps.rows {
        for at in row..row + taps.run {
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
            tap += block;
        }
        row += taps.step;
    }
    sums
}
