//! The convolution and the maxima.

use super::patches::{Patch, Patches};
use super::{SUMS_OF_MANY, five, three};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv::{Maxima, maximum};
use crate::kernels::shape::{ConvPoolShape, POOL, POSITIONS};
use crate::kernels::simd::{Element, Simd};

/// `out[i, j, o] = relu(max over the window of (i, j) of conv(x, kernel)[.., .., o] + bias[o])`,
/// and in `argmax`, if it is wanted, the position (0 to 3, row by row) of the first maximum; a NaN
/// counts as the maximum, and ReLU keeps it. Of sums that are equal but for rounding, in some cases
/// with the bias, another one may be taken for the first; how sums are rounded depends on the
/// instruction set, and on whether all numbers of the call are finite.
///
/// `out` and `argmax` (n, pooled h, pooled w, c_out), `x` (n, h, w) with its padding, `kernel` (k,
/// k, 1, c_out), `bias` (c_out,); for shapes that are [supported](super::supports).
#[inline(always)]
pub fn grey_forward<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    argmax: Option<&mut [T]>,
    x: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
    relu: bool,
    ahead: &Ahead,
    shape: &ConvPoolShape,
    n: usize,
) {
    assert!(super::supports(shape), "a supported shape");
    shape.check(out, argmax.as_deref().unwrap_or(out), x, kernel, n);
    let mut maxima = Maxima::new(out, argmax);
    let c_out = shape.conv().c_out();
    let finite = products_are_finite(simd, x, kernel);
    let layer = Channels::new(kernel, bias, relu, c_out, finite);
    for_window!(shape, K => {
        if finite && three::pays(simd, K) {
            return three::forward(simd, &mut maxima, x, &layer, ahead, shape);
        }
        for o in (0..c_out).step_by(S::LANES) {
            let layer = layer.part(o, S::LANES);
            let in_pairs = layer.fit_in_pairs::<S>();
            let patches = Patches::<T, K>::new(x, shape);
            if finite && five::pays(simd, K, in_pairs) {
                five::forward(simd, &mut maxima, x, &layer, shape, in_pairs);
            } else if in_pairs {
                forward_pairs(simd, &mut maxima, patches, &layer);
            } else {
                forward_vectors(simd, &mut maxima, patches, &layer);
            }
        }
    });
}

/// The first of `windows` that tiles may not take, and single windows do. Tiles do not look for NaN,
/// so they need finite sums. Where filtering serves there are no tiles, which is known at compile
/// time and drops their code.
#[inline(always)]
fn end_of_tiles<T: Element, S: Simd<T>>(
    simd: S,
    layer: &Channels<T>,
    windows: usize,
    k: usize,
    in_pairs: bool,
) -> usize {
    let filtered = three::pays(simd, k) || five::pays(simd, k, in_pairs);
    if layer.finite && !filtered { windows } else { 0 }
}

#[inline(always)]
fn forward_vectors<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    maxima: &mut Maxima<T>,
    mut patches: Patches<T, K>,
    layer: &Channels<T>,
) {
    let (taps, bias) = (layer.taps(simd), layer.bias(simd));
    let windows = maxima.len() / layer.c_out;
    let tiled = end_of_tiles(simd, layer, windows, K, false);
    let mut window = 0;
    // As many windows at a time as there are registers for. With few registers, one is faster: the
    // taps stay in the others.
    while S::SUMS >= SUMS_OF_MANY && window + 4 <= tiled {
        let sums = window_sums::<T, S, K, 4>(simd, &mut patches, &taps);
        layer.store_windows::<S, 4, true>(simd, maxima, sums, Some(bias), window);
        window += 4;
    }
    while S::SUMS < SUMS_OF_MANY && window < tiled {
        let sums = window_sums(simd, &mut patches, &taps);
        layer.store_windows::<S, 1, true>(simd, maxima, sums, Some(bias), window);
        window += 1;
    }
    while window < windows {
        let sums = window_sums(simd, &mut patches, &taps);
        layer.store_windows::<S, 1, false>(simd, maxima, sums, Some(bias), window);
        window += 1;
    }
}

/// The convolution at the four positions of the next `W` windows.
#[inline(always)]
fn window_sums<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    patches: &mut Patches<T, K>,
    taps: &[[S::Vector; K]; K],
) -> [[S::Vector; POSITIONS]; W] {
    let patches = patches.take::<W>();
    let mut sums = [[simd.zero(); POSITIONS]; W];
    for y in 0..POOL + K - 1 {
        for x in 0..K {
            for window in 0..W {
                for dx in 0..POOL {
                    let pixel = simd.splat(patches[window].pixel(y, x + dx));
                    for dy in 0..POOL {
                        if (dy..dy + K).contains(&y) {
                            let sum = &mut sums[window][POOL * dy + dx];
                            *sum = simd.mul_add(pixel, taps[y - dy][x], *sum);
                        }
                    }
                }
            }
        }
    }
    sums
}

/// For half a vector of channels at most: each has two neighbouring lanes, one for each column of a
/// pooling window. A pair of neighbouring pixels fills a vector in one load, and meets both
/// columns.
#[inline(always)]
fn forward_pairs<T: Element, S: Simd<T>, const K: usize>(
    simd: S,
    maxima: &mut Maxima<T>,
    mut patches: Patches<T, K>,
    layer: &Channels<T>,
) {
    let (taps, pairs) = (layer.pair_taps(simd), layer.pairs(simd));
    let windows = maxima.len() / layer.c_out;
    let tiled = end_of_tiles(simd, layer, windows, K, true);
    let mut window = 0;
    while window + 4 <= tiled {
        let sums = pair_sums::<T, S, K, 4>(simd, &mut patches, &taps);
        layer.store_pairs(simd, maxima, sums, &pairs, window);
        window += 4;
    }
    while window < windows {
        let [sums] = pair_sums(simd, &mut patches, &taps);
        layer.store_pair::<S, false>(simd, maxima, sums, &pairs, window);
        window += 1;
    }
}

/// The convolution in both rows of the next `W` windows.
#[inline(always)]
fn pair_sums<T: Element, S: Simd<T>, const K: usize, const W: usize>(
    simd: S,
    patches: &mut Patches<T, K>,
    taps: &[[S::Vector; K]; K],
) -> [[S::Vector; POOL]; W] {
    let patches = patches.take::<W>();
    let mut sums = [[simd.zero(); POOL]; W];
    pair_row::<T, S, K, W, 0, 1>(simd, &mut sums, &patches, taps, 0);
    for y in 1..K {
        pair_row::<T, S, K, W, 0, 2>(simd, &mut sums, &patches, taps, y);
    }
    pair_row::<T, S, K, W, 1, 2>(simd, &mut sums, &patches, taps, K);
    sums
}

/// What row `y` of the pixels adds to rows `FROM..TO` of the windows.
#[inline(always)]
fn pair_row<
    T: Element,
    S: Simd<T>,
    const K: usize,
    const W: usize,
    const FROM: usize,
    const TO: usize,
>(
    simd: S,
    sums: &mut [[S::Vector; POOL]; W],
    patches: &[Patch<'_, T, K, 1>; W],
    taps: &[[S::Vector; K]; K],
    y: usize,
) {
    for x in 0..K {
        for window in 0..W {
            let pair = simd.splat_pair(patches[window].pair(y, x));
            for dy in FROM..TO {
                let sum = &mut sums[window][dy];
                *sum = simd.mul_add(pair, taps[y - dy][x], *sum);
            }
        }
    }
}

/// The four positions of two windows, each with half a vector of channels, from the windows' rows.
#[inline(always)]
pub fn unzip<T: Element, S: Simd<T>>(
    simd: S,
    a: [S::Vector; POOL],
    b: [S::Vector; POOL],
) -> [S::Vector; POSITIONS] {
    let (upper, lower) = (simd.unzip(a[0], b[0]), simd.unzip(a[1], b[1]));
    [upper[0], upper[1], lower[0], lower[1]]
}

/// A vector from `start` on, with zeros beyond the end.
#[inline(always)]
fn load_within<T: Element, S: Simd<T>>(simd: S, x: &[T], start: usize) -> S::Vector {
    match x.get(start..start + S::LANES) {
        Some(x) => simd.load(x),
        None => simd.load_part(x.get(start..).unwrap_or_default()),
    }
}

/// A vector of columns from `start` on, in `P` rows of pixels that are `w` apart.
#[inline(always)]
pub fn load_columns<T: Element, S: Simd<T>, const P: usize>(
    simd: S,
    x: &[T],
    w: usize,
    start: usize,
) -> [S::Vector; P] {
    let mut pixels = [simd.zero(); P];
    for y in 0..P {
        pixels[y] = load_within(simd, x, y * w + start);
    }
    pixels
}

/// Writes the points of a vector of columns, from `start` on.
#[inline(always)]
pub fn store_columns<T: Element, S: Simd<T>, const P: usize, const N: usize>(
    simd: S,
    points: &mut [[T; N]; P],
    columns: [S::Vector; P],
    start: usize,
) {
    for point in 0..P {
        simd.store(columns[point], &mut points[point][start..]);
    }
}

/// What is the same for all pairs of windows that share a vector, each with half of it.
pub struct Pairs<V> {
    /// The bias of both, unless their sums have it.
    pub bias: Option<V>,
    /// Of few channels, those of the two windows are one vector in memory: where its lanes come
    /// from. Else where those of the second window do.
    pub behind: V,
}

/// Some of the layer's channels.
#[derive(Clone, Copy)]
pub struct Channels<'a, T> {
    kernel: &'a [T],
    bias: Option<&'a [T]>,
    relu: bool,
    /// The first channel, and the one behind the last.
    pub o: usize,
    pub end: usize,
    pub c_out: usize,
    /// Whether all sums are known to be finite.
    finite: bool,
}

impl<'a, T: Element> Channels<'a, T> {
    /// All of them.
    #[inline(always)]
    pub fn new(
        kernel: &'a [T],
        bias: Option<&'a [T]>,
        relu: bool,
        c_out: usize,
        finite: bool,
    ) -> Self {
        if let Some(bias) = bias {
            assert_eq!(bias.len(), c_out, "bias length");
        }
        Self { kernel, bias, relu, o: 0, end: c_out, c_out, finite }
    }

    /// At most `len` of them, from `o` on.
    #[inline(always)]
    pub fn part(self, o: usize, len: usize) -> Self {
        Self { o, end: self.end.min(o + len), ..self }
    }

    /// The kernel's taps, for at most a vector of channels.
    #[inline(always)]
    pub fn taps<S: Simd<T>, const K: usize>(&self, simd: S) -> [[S::Vector; K]; K] {
        let mut taps = [[simd.zero(); K]; K];
        for y in 0..K {
            for x in 0..K {
                let channels = &self.kernel[(y * K + x) * self.c_out..][self.o..self.end];
                taps[y][x] = simd.load_up_to(channels);
            }
        }
        taps
    }

    /// The bias of at most a vector of channels.
    #[inline(always)]
    pub fn bias<S: Simd<T>>(&self, simd: S) -> S::Vector {
        match self.bias {
            Some(bias) => simd.load_up_to(&bias[self.o..self.end]),
            None => simd.zero(),
        }
    }

    /// Whether they fill half a vector at most, and so do with two lanes each. Half a short vector
    /// holds a channel or two, which is not worth code of their own.
    #[inline(always)]
    pub fn fit_in_pairs<S: Simd<T>>(&self) -> bool {
        S::LANES > 4 && self.end - self.o <= S::LANES / 2
    }

    /// As [`taps`](Self::taps), in two neighbouring lanes each.
    #[inline(always)]
    pub fn pair_taps<S: Simd<T>, const K: usize>(&self, simd: S) -> [[S::Vector; K]; K] {
        let mut taps = self.taps(simd);
        for y in 0..K {
            for x in 0..K {
                taps[y][x] = simd.zip(taps[y][x], taps[y][x])[0];
            }
        }
        taps
    }

    /// As [`bias`](Self::bias), in two neighbouring lanes each.
    #[inline(always)]
    pub fn pair_bias<S: Simd<T>>(&self, simd: S) -> S::Vector {
        let bias = self.bias(simd);
        simd.zip(bias, bias)[0]
    }

    /// What is the same for all pairs of windows.
    #[inline(always)]
    pub fn pairs<S: Simd<T>>(&self, simd: S) -> Pairs<S::Vector> {
        let bias = self.pair_bias(simd);
        let start = if self.c_out < S::LANES / 2 { self.c_out } else { 0 };
        let behind = simd.lane_names(
            #[inline(always)]
            |lane| if lane < start { lane } else { (lane - start + S::LANES / 2) % S::LANES },
        );
        Pairs { bias: Some(simd.unzip(bias, bias)[0]), behind }
    }

    /// The layer's output and the places of the maxima, from the convolution at the four positions
    /// of the windows, and the bias, unless that is in the sums.
    #[inline(always)]
    fn pooled<S: Simd<T>, const FINITE: bool>(
        &self,
        simd: S,
        sums: [S::Vector; POSITIONS],
        bias: Option<S::Vector>,
    ) -> (S::Vector, S::Vector) {
        let (max, at) = maximum::<T, S, FINITE>(simd, sums);
        let max = bias.map_or(max, |bias| simd.add(max, bias));
        (self.rectified(simd, max), at)
    }

    /// The output from the maximum with its bias.
    #[inline(always)]
    fn rectified<S: Simd<T>>(&self, simd: S, max: S::Vector) -> S::Vector {
        if self.relu { simd.max(simd.zero(), max) } else { max }
    }

    /// What an output is at least: [`rectified`](Self::rectified) for loops in which a branch would
    /// cost registers.
    #[inline(always)]
    pub fn floor<S: Simd<T>>(&self, simd: S) -> S::Vector {
        simd.splat(if self.relu { T::zero() } else { T::neg_infinity() })
    }

    /// [`pooled`](Self::pooled), written.
    #[inline(always)]
    fn store_pooled<S: Simd<T>, const FINITE: bool>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        sums: [S::Vector; POSITIONS],
        bias: Option<S::Vector>,
        window: usize,
        windows: usize,
    ) {
        let (max, at) = self.pooled::<S, FINITE>(simd, sums, bias);
        self.store(simd, maxima, max, at, window, windows);
    }

    /// As [`store_pooled`](Self::store_pooled) for windows from `window` on, one at a time.
    #[inline(always)]
    pub fn store_windows<S: Simd<T>, const W: usize, const FINITE: bool>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        sums: [[S::Vector; POSITIONS]; W],
        bias: Option<S::Vector>,
        window: usize,
    ) {
        for n in 0..W {
            self.store_pooled::<S, FINITE>(simd, maxima, sums[n], bias, window + n, 1);
        }
    }

    /// As [`store_pooled`](Self::store_pooled) for windows from `window` on, whose rows have both
    /// columns.
    #[inline(always)]
    pub fn store_pairs<S: Simd<T>, const W: usize>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        sums: [[S::Vector; POOL]; W],
        pairs: &Pairs<S::Vector>,
        window: usize,
    ) {
        // (Written twice, because the faster case needs all registers.)
        if self.c_out == S::LANES / 2 {
            for n in 0..W / 2 {
                let (sums, window) = (unzip(simd, sums[2 * n], sums[2 * n + 1]), window + 2 * n);
                self.store_pooled::<S, true>(simd, maxima, sums, pairs.bias, window, 2);
            }
        } else {
            for n in 0..W / 2 {
                let (sums, window) = (unzip(simd, sums[2 * n], sums[2 * n + 1]), window + 2 * n);
                self.store_apart(simd, maxima, sums, pairs, window);
            }
        }
    }

    #[inline(always)]
    fn store_apart<S: Simd<T>>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        sums: [S::Vector; POSITIONS],
        pairs: &Pairs<S::Vector>,
        window: usize,
    ) {
        let (max, at) = self.pooled::<S, true>(simd, sums, pairs.bias);
        let behind = (simd.pick(max, pairs.behind), simd.pick(at, pairs.behind));
        if self.c_out < S::LANES / 2 {
            self.store(simd, maxima, behind.0, behind.1, window, 2);
        } else {
            self.store(simd, maxima, max, at, window, 1);
            self.store(simd, maxima, behind.0, behind.1, window + 1, 1);
        }
    }

    /// As [`store_pairs`](Self::store_pairs) for one window.
    #[inline(always)]
    pub fn store_pair<S: Simd<T>, const FINITE: bool>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        sums: [S::Vector; POOL],
        pairs: &Pairs<S::Vector>,
        window: usize,
    ) {
        let sums = unzip(simd, sums, sums);
        self.store_pooled::<S, FINITE>(simd, maxima, sums, pairs.bias, window, 1);
    }

    /// Writes them, for one window or several behind each other.
    #[inline(always)]
    fn store<S: Simd<T>>(
        &self,
        simd: S,
        maxima: &mut Maxima<T>,
        max: S::Vector,
        at: S::Vector,
        window: usize,
        windows: usize,
    ) {
        let start = window * self.c_out;
        let channels = start + self.o..start + self.end + (windows - 1) * self.c_out;
        maxima.store(simd, max, at, channels);
    }
}

/// Whether no sum of products of elements of `x` with elements of `kernel` can be infinite or NaN:
/// by Cauchy and Schwarz, its square is at most the product of the sums of their squares.
#[inline(always)]
pub fn products_are_finite<T: Element, S: Simd<T>>(simd: S, x: &[T], kernel: &[T]) -> bool {
    (sum_of_squares(simd, x) * sum_of_squares(simd, kernel)).is_finite()
}

/// In as many sums as cover two fused multiply-adds a cycle at a latency of four.
#[inline(always)]
pub fn sum_of_squares<T: Element, S: Simd<T>>(simd: S, x: &[T]) -> T {
    const SUMS: usize = 8;
    let mut sums = [simd.zero(); SUMS];
    let groups = x.chunks_exact(SUMS * S::LANES);
    for v in groups.remainder().chunks(S::LANES) {
        let v = simd.load_up_to(v);
        sums[0] = simd.mul_add(v, v, sums[0]);
    }
    for group in groups {
        for n in 0..SUMS {
            let v = simd.load(&group[n * S::LANES..]);
            sums[n] = simd.mul_add(v, v, sums[n]);
        }
    }
    let mut sum = sums[0];
    for n in 1..SUMS {
        sum = simd.add(sum, sums[n]);
    }
    simd.sum(sum)
}
