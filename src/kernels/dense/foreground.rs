//! Few outputs of inputs that are, but for some of their vectors, the same for all images and
//! pooling windows: the background's. With `b` the background in the place of every input,
//! `weights * x = weights * b + weights * (x - b)`, where the first product is one for all images,
//! and the second factor of the other is zero in the background.

use super::{HALF, OUTPUTS, check, part, part_mut};
use crate::kernels::foreground::{Foreground, MOST_IMAGES, MOST_WINDOWS, Windows, is_told_apart};
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::{Element, MAX_LANES, Simd};

/// Images that meet a weight at a time: so many sums for [`HALF`] the outputs fit into registers.
const IMAGES: usize = 4;

/// How windows lie in the inputs: two in a vector, or some vectors for each.
#[derive(Clone, Copy)]
struct Layout {
    in_pairs: bool,
    /// Vectors of a window or a pair.
    vectors: usize,
}

impl Layout {
    #[inline(always)]
    fn new<T: Element, S: Simd<T>>(_: S, channels: usize, inputs: usize) -> Self {
        let (in_pairs, vectors) = (2 * channels == S::LANES, (channels / S::LANES).max(1));
        assert!(in_pairs || vectors * S::LANES == channels, "whole windows or whole vectors");
        assert!(inputs.is_multiple_of(channels) && inputs / channels < MOST_WINDOWS, "windows");
        Self { in_pairs, vectors }
    }

    /// The windows, or the pairs of them.
    #[inline(always)]
    fn held(self, windows: Windows) -> Windows {
        if self.in_pairs { windows.pairs() } else { windows }
    }

    /// Where each image's part of `x`, of that length, begins. Panics if there is not so much, or
    /// if there are windows that images of so many do not have.
    #[inline(always)]
    fn starts<T: Element, S: Simd<T>>(
        self,
        _: S,
        windows: &[Windows],
        count: usize,
        len: usize,
    ) -> [usize; MOST_IMAGES] {
        let beside = if self.in_pairs { count % 2 } else { 0 };
        let mut starts = [0; MOST_IMAGES];
        let mut start = 0;
        assert!(windows.len() <= MOST_IMAGES, "at most {MOST_IMAGES} images");
        for (at, &windows) in starts.iter_mut().zip(windows) {
            assert!(windows.without(Windows::first(count + beside)).count() == 0, "windows");
            *at = start;
            start += self.held(windows).count() * self.vectors * S::LANES;
        }
        assert!(start <= len, "what is in the foreground");
        starts
    }
}

/// The background in as many lanes as its channels fill, and at least one vector.
#[derive(Clone, Copy)]
struct Tile<'a, T> {
    few: [T; MAX_LANES],
    many: &'a [T],
}

impl<'a, T: Element> Tile<'a, T> {
    #[inline(always)]
    fn new(background: &'a [T]) -> Self {
        let mut few = [T::zero(); MAX_LANES];
        for (n, lane) in few.iter_mut().enumerate() {
            *lane = background[n % background.len()];
        }
        Self { few, many: background }
    }

    /// From a channel on.
    #[inline(always)]
    fn load<S: Simd<T>>(&self, simd: S, channel: usize) -> S::Vector {
        if self.many.len() < S::LANES {
            simd.load(&self.few)
        } else {
            simd.load(&self.many[channel..])
        }
    }
}

/// Elements of the weights' sums over all windows, for so many channels.
pub fn sums_len(channels: usize, outputs: usize) -> usize {
    channels.max(MAX_LANES).saturating_mul(outputs)
}

/// As [`dense_forward`](super::dense_forward), where `x` is what is in the foreground, as
/// [`Foreground`] says. `sums`
/// ([`sums_len`],) keeps what the way back needs.
#[inline(always)]
pub fn dense_forward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    sums: &mut [T],
    x: &[T],
    weights: &[T],
    biases: Option<&[T]>,
    foreground: &Foreground<T>,
    shape: &DenseShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    check(out, x, weights, shape, n);
    let (inputs, outputs) = (shape.inputs(), shape.outputs());
    let (background, windows) = (&*foreground.background, &*foreground.windows);
    let channels = background.len();
    assert_eq!(sums.len(), sums_len(channels, outputs), "sums length");
    assert_eq!(windows.len(), n, "foreground length");
    let layout = Layout::new(simd, channels, inputs);
    let tile = Tile::new(background);
    let starts = layout.starts(simd, windows, inputs / channels, x.len());
    let shape = *shape;
    let mut forward = Forward { simd, out, x, weights, windows, starts, tile, layout, shape };
    for_output_blocks!(outputs, [HALF, 1], |o, O| { forward.background::<O>(sums, biases, o) });
    for_output_blocks!(outputs, [HALF, 1], |o, O| {
        for image in (0..n).step_by(IMAGES) {
            forward.images::<O>(image, o);
        }
    });
}

/// The arguments of [`dense_forward_foreground`], checked.
struct Forward<'a, T, S> {
    simd: S,
    /// (n, outputs)
    out: &'a mut [T],
    /// What is in the foreground.
    x: &'a [T],
    /// (outputs, inputs)
    weights: &'a [T],
    windows: &'a [Windows],
    /// Where each image's inputs begin.
    starts: [usize; MOST_IMAGES],
    tile: Tile<'a, T>,
    layout: Layout,
    shape: DenseShape,
}

impl<T: Element, S: Simd<T>> Forward<'_, T, S> {
    /// Sets the sums of `O` outputs' weights from `o`, and all images' outputs to what the
    /// background comes to.
    #[inline(always)]
    fn background<const O: usize>(&mut self, sums: &mut [T], biases: Option<&[T]>, o: usize) {
        let Self { simd, weights, layout, tile, .. } = *self;
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let len = sums.len() / outputs;
        let mut totals = [simd.zero(); O];
        for k in 0..layout.vectors {
            let mut of_weights = [simd.zero(); O];
            for i in (k * S::LANES..inputs).step_by(layout.vectors * S::LANES) {
                let lanes = S::LANES.min(inputs - i);
                for row in 0..O {
                    let w = &weights[(o + row) * inputs + i..][..lanes];
                    of_weights[row] = simd.add(of_weights[row], simd.load_up_to(w));
                }
            }
            let background = tile.load(simd, k * S::LANES);
            for row in 0..O {
                simd.store(of_weights[row], &mut sums[(o + row) * len + k * S::LANES..]);
                totals[row] = simd.mul_add(of_weights[row], background, totals[row]);
            }
        }
        for row in 0..O {
            let bias = biases.map_or(T::zero(), |biases| biases[o + row]);
            let total = bias + simd.sum(totals[row]);
            for out in self.out[o + row..].iter_mut().step_by(outputs) {
                *out = total;
            }
        }
    }

    /// Adds the foreground's to `O` outputs from `o` of the images from `image` on.
    #[inline(always)]
    fn images<const O: usize>(&mut self, image: usize, o: usize) {
        let Self { simd, layout, tile, .. } = *self;
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let weights = &self.weights[o * inputs..(o + O) * inputs];
        let end = self.windows.len().min(image + IMAGES);
        // Where fewer images are left, the others see nothing.
        let (mut held, mut starts) = ([Windows::default(); IMAGES], [0; IMAGES]);
        let mut any = Windows::default();
        for (n, &windows) in self.windows[image..end].iter().enumerate() {
            held[n] = layout.held(windows);
            starts[n] = self.starts[image + n];
            any = any.or(held[n]);
        }
        let full = Windows::first(inputs / S::LANES / layout.vectors);
        let images = Images { x: self.x, weights, held, inputs };
        let sums = simd.outlined(
            #[inline(always)]
            |simd| {
                let mut sums = [[simd.zero(); O]; IMAGES];
                for k in 0..layout.vectors {
                    let background = tile.load(simd, k * S::LANES);
                    let mut places = starts.map(|start| start + k * S::LANES);
                    any.and(full).for_each(
                        #[inline(always)]
                        |at| {
                            let start = (at * layout.vectors + k) * S::LANES;
                            // SAFETY: the vector ends at `inputs` at most, and `starts` checked
                            // that there is what the windows say.
                            unsafe {
                                let xs = images.take(simd, &mut places, at, layout, background);
                                images.add_products(simd, &mut sums, xs, start, S::LANES);
                            }
                        },
                    );
                    any.without(full).for_each(
                        #[inline(always)]
                        |at| {
                            // SAFETY: as above; a part of a vector is left.
                            unsafe {
                                let xs = images.take(simd, &mut places, at, layout, background);
                                let lanes = inputs % S::LANES;
                                images.add_products(simd, &mut sums, xs, at * S::LANES, lanes);
                            }
                        },
                    );
                }
                sums
            },
        );
        for (n, sums) in sums[..end - image].iter().enumerate() {
            let out = &mut self.out[(image + n) * outputs + o..][..O];
            for k in 0..O {
                out[k] = out[k] + simd.sum(sums[k]);
            }
        }
    }
}

/// [`IMAGES`] that meet the same weights.
struct Images<'a, T> {
    /// The foregrounds' inputs.
    x: &'a [T],
    /// (outputs, inputs)
    weights: &'a [T],
    /// Which windows, or pairs of them, are in the foregrounds.
    held: [Windows; IMAGES],
    inputs: usize,
}

impl<T: Element> Images<'_, T> {
    /// The next vector of inputs, without the background, of each image that has `at` in its
    /// foreground; zeros of the others.
    ///
    /// # Safety
    /// There is a vector at the places of those that have it; no place is behind the end of `x`.
    #[inline(always)]
    unsafe fn take<S: Simd<T>>(
        &self,
        simd: S,
        places: &mut [usize; IMAGES],
        at: usize,
        layout: Layout,
        background: S::Vector,
    ) -> [S::Vector; IMAGES] {
        let mut xs = [simd.zero(); IMAGES];
        for n in 0..IMAGES {
            let lanes = if self.held[n].has(at) { S::LANES } else { 0 };
            // SAFETY: the caller's promise.
            let x = simd.load_part(unsafe { part(self.x, places[n], lanes) });
            xs[n] = simd.select(simd.first_lanes(lanes), simd.sub(x, background), simd.zero());
            places[n] += lanes * layout.vectors;
        }
        xs
    }

    /// Adds the products of weights from `start` on.
    ///
    /// # Safety
    /// There are `O` rows of weights, of at least `start + lanes` each.
    #[inline(always)]
    unsafe fn add_products<S: Simd<T>, const O: usize>(
        &self,
        simd: S,
        sums: &mut [[S::Vector; O]; IMAGES],
        xs: [S::Vector; IMAGES],
        start: usize,
        lanes: usize,
    ) {
        for k in 0..O {
            // SAFETY: the caller's promise.
            let w = unsafe { part(self.weights, k * self.inputs + start, lanes) };
            let w = simd.load_up_to(w);
            for n in 0..IMAGES {
                sums[n][k] = simd.mul_add(w, xs[n], sums[n][k]);
            }
        }
    }
}

/// As [`dense_backward`](super::dense_backward), where `x` is what is in the foreground: so is `d_x`,
/// and the sums of the others are the background's gradient. `sums` is what
/// [`dense_forward_foreground`] kept.
#[inline(always)]
pub fn dense_backward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    d_weights: &mut [T],
    d_out: &[T],
    x: &[T],
    weights: &[T],
    sums: &[T],
    foreground: &mut Foreground<T>,
    shape: &DenseShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    let shape = *shape;
    Backward { simd, d_x, d_weights, weights, d_out, x, shape, n }.run(sums, foreground);
}

/// The arguments of [`dense_backward_foreground`].
struct Backward<'a, T, S> {
    simd: S,
    /// As long as `x`.
    d_x: &'a mut [T],
    /// (outputs, inputs)
    d_weights: &'a mut [T],
    /// (outputs, inputs)
    weights: &'a [T],
    /// (n, outputs)
    d_out: &'a [T],
    /// What is in the foreground.
    x: &'a [T],
    shape: DenseShape,
    n: usize,
}

impl<T: Element, S: Simd<T>> Backward<'_, T, S> {
    #[inline(always)]
    fn run(mut self, sums: &[T], foreground: &mut Foreground<T>) {
        check(self.d_out, self.x, self.d_weights, &self.shape, self.n);
        assert_eq!(self.d_x.len(), self.x.len(), "input gradient length");
        assert_eq!(self.weights.len(), self.d_weights.len(), "weights length");
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let channels = foreground.background.len();
        assert_eq!(sums.len(), sums_len(channels, outputs), "sums length");
        assert_eq!(foreground.windows.len(), self.n, "foreground length");
        let layout = Layout::new(self.simd, channels, inputs);
        let starts = layout.starts(self.simd, foreground.windows, inputs / channels, self.x.len());
        let mut images = [0; MOST_WINDOWS];
        for (image, windows) in foreground.windows.iter().enumerate() {
            layout.held(*windows).for_each(|at| images[at] |= 1 << image);
        }
        let tile = Tile::new(foreground.background);
        let groups = Groups { layout, images: &images, starts: &starts, tile };
        foreground.d_background.fill(T::zero());
        for_output_blocks!(outputs, [OUTPUTS, 1], |o, O| {
            self.outputs::<O>(&groups, sums, foreground.d_background, o)
        });
    }

    /// `O` outputs from `o`; the first set `d_x`, the others add to it.
    #[inline(always)]
    fn outputs<const O: usize>(
        &mut self,
        groups: &Groups<T>,
        sums: &[T],
        d_background: &mut [T],
        o: usize,
    ) {
        let Self { simd, shape, n, .. } = *self;
        let (inputs, outputs, layout) = (shape.inputs(), shape.outputs(), groups.layout);
        let len = sums.len() / outputs;
        // Of all images.
        let mut d = [T::zero(); O];
        for row in self.d_out[..n * outputs].chunks_exact(outputs) {
            for k in 0..O {
                d[k] = d[k] + row[o + k];
            }
        }
        for k in 0..layout.vectors {
            let channel = k * S::LANES;
            let background = groups.tile.load(simd, channel);
            let mut ds = [simd.zero(); O];
            let mut rest = simd.zero();
            for row in 0..O {
                ds[row] = simd.splat(d[row]);
                let sum = simd.load(&sums[(o + row) * len + channel..]);
                rest = simd.mul_add(ds[row], sum, rest);
            }
            let mut places = groups.starts.map(|start| start + channel);
            for (group, start) in (channel..inputs).step_by(layout.vectors * S::LANES).enumerate() {
                let images = groups.images[group];
                let step = Step { images, ds: &ds, background, o };
                // SAFETY: the inputs end at `inputs`, and there are so many images.
                let d_x = unsafe {
                    if start + S::LANES <= inputs {
                        self.step::<O>(&step, &mut places, layout, start, S::LANES)
                    } else {
                        self.step::<O>(&step, &mut places, layout, start, inputs - start)
                    }
                };
                rest = simd.sub(rest, d_x);
            }
            let mut lanes = [T::zero(); MAX_LANES];
            simd.store(rest, &mut lanes);
            let channels = d_background.len();
            for (lane, &rest) in lanes[..S::LANES].iter().enumerate() {
                let at = (channel + lane) % channels;
                d_background[at] = d_background[at] + rest;
            }
        }
    }

    /// The inputs `start..start + lanes`. Returns the sum of this part of the images' `d_x`.
    ///
    /// # Safety
    /// So many inputs, outputs and images exist, and [`run`](Self::run) checked the arrays.
    #[inline(always)]
    unsafe fn step<const O: usize>(
        &mut self,
        step: &Step<S::Vector, O>,
        places: &mut [usize; MOST_IMAGES],
        layout: Layout,
        start: usize,
        lanes: usize,
    ) -> S::Vector {
        let Self { simd, shape, .. } = *self;
        let &Step { mut images, ds, background, o } = step;
        let (inputs, outputs) = (shape.inputs(), shape.outputs());
        let (mut w, mut sums) = ([simd.zero(); O], [simd.zero(); O]);
        let mut total = simd.zero();
        // SAFETY: the caller's promise.
        unsafe {
            for k in 0..O {
                let at = (o + k) * inputs + start;
                w[k] = simd.load_up_to(part(self.weights, at, lanes));
                sums[k] = simd.mul(ds[k], background);
            }
            while images != 0 {
                let image = images.trailing_zeros() as usize;
                images &= images - 1;
                let place = places.get_unchecked_mut(image);
                let at = *place;
                *place = at + layout.vectors * S::LANES;
                let x = simd.sub(simd.load(part(self.x, at, S::LANES)), background);
                let d_out = part(self.d_out, image * outputs + o, O);
                // Two sums: one would take the latency of all products.
                let mut d_x = [simd.zero(); 2];
                for k in 0..O {
                    let d = simd.splat(d_out[k]);
                    sums[k] = simd.mul_add(d, x, sums[k]);
                    d_x[k % 2] = simd.mul_add(d, w[k], d_x[k % 2]);
                }
                let mut d_x = simd.add(d_x[0], d_x[1]);
                total = simd.add(total, d_x);
                if o > 0 {
                    d_x = simd.add(d_x, simd.load(part(self.d_x, at, S::LANES)));
                }
                simd.store(d_x, part_mut(self.d_x, at, S::LANES));
            }
            for k in 0..O {
                let at = (o + k) * inputs + start;
                simd.store_up_to(sums[k], part_mut(self.d_weights, at, lanes));
            }
        }
        total
    }
}

/// Which images have what in the foreground.
struct Groups<'a, T> {
    layout: Layout,
    /// A bit for each image, for each vector or, of windows of several vectors, each window.
    images: &'a [u64; MOST_WINDOWS],
    /// Where each image's inputs begin.
    starts: &'a [usize; MOST_IMAGES],
    tile: Tile<'a, T>,
}

/// What the inputs of a vector have.
struct Step<'a, V, const O: usize> {
    /// A bit for each.
    images: u64,
    /// The gradients of the outputs, summed over all images.
    ds: &'a [V; O],
    background: V,
    /// The first output.
    o: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::dense::{dense_backward, dense_forward};
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{assert_close, for_each_level, random};

    /// Some windows of each image: none of the first, and all of the last.
    fn foregrounds(n: usize, count: usize, in_pairs: bool) -> Vec<Windows> {
        let set = |image: usize| {
            let mut windows = Windows::default();
            for at in 0..count {
                if image + 1 == n || image > 0 && (at * 7 + image * 3) % 5 < 2 {
                    windows.add(at, 1);
                }
            }
            if in_pairs { windows.in_pairs() } else { windows }
        };
        (0..n).map(set).collect()
    }

    fn case(level: Level, c: usize, count: usize, outputs: usize, n: usize) {
        let shape = DenseShape::new(count * c, outputs).unwrap();
        let mut windows = foregrounds(n, count, 2 * c == MAX_LANES);
        let mut background: Vec<f32> = random(c, 7);
        let mut d_background = vec![<f32>::NAN; c];
        let weights: Vec<f32> = random(shape.weights_len(), 2);
        let biases: Vec<f32> = random(outputs, 3);
        let d_out: Vec<f32> = random(n * outputs, 4);

        let packed: Vec<f32> = random(n * count * c, 1);
        let mut x = background.repeat(n * count);
        let mut places = vec![]; // of windows that are packed
        let mut start = 0;
        for (image, windows) in windows.iter().enumerate() {
            windows.for_each(|at| {
                if at < count {
                    let to = (image * count + at) * c;
                    x[to..][..c].copy_from_slice(&packed[start..][..c]);
                    places.push((start, to));
                }
                start += c;
            });
        }
        let foreground = &mut Foreground {
            windows: &mut windows,
            background: &mut background,
            d_background: &mut d_background,
        };
        for biases in [Some(&biases[..]), None] {
            let mut sums = vec![<f32>::NAN; sums_len(c, outputs)];
            let mut out = vec![<f32>::NAN; n * outputs];
            let mut expected = out.clone();
            dispatch!(f32, level, simd => {
                dense_forward_foreground(
                    simd, &mut out, &mut sums, &packed, &weights, biases, foreground, &shape, n,
                );
                dense_forward(simd, &mut expected, &x, &weights, biases, &shape, n);
            });
            assert_close(&out, &expected, shape.inputs() + 1);

            let (mut d_x, mut expected_d_x) = (vec![<f32>::NAN; x.len()], vec![0.0; x.len()]);
            let mut d_weights = vec![<f32>::NAN; shape.weights_len()];
            let mut expected = d_weights.clone();
            dispatch!(f32, level, simd => {
                dense_backward_foreground(
                    simd, &mut d_x, &mut d_weights, &d_out, &packed, &weights, &sums,
                    foreground, &shape, n,
                );
                let d_x = Some(&mut expected_d_x[..]);
                dense_backward(simd, d_x, &mut expected, &d_out, &x, &weights, &shape, n);
            });
            let mut expected_rest = vec![0.0; c];
            for (at, d) in expected_d_x.iter().enumerate() {
                if !places.iter().any(|&(_, to)| to == at - at % c) {
                    expected_rest[at % c] += d;
                }
            }
            for &(from, to) in &places {
                assert_close(&d_x[from..][..c], &expected_d_x[to..][..c], outputs);
            }
            assert_close(foreground.d_background, &expected_rest, n * count * outputs);
            assert_close(&d_weights, &expected, n);
        }
    }

    #[test]
    fn equals_the_kernels_that_leave_nothing_out() {
        for_each_level(|level| {
            if !dispatch!(f32, level, simd => is_told_apart::<f32, _>(simd)) {
                return;
            }
            for outputs in [1, 4, 9, 10, 11, 23] {
                for (channels, count) in [(8, 1), (8, 6), (8, 169), (16, 35), (48, 4)] {
                    for n in [2, 3, 4, 9, 64] {
                        case(level, channels, count, outputs, n);
                    }
                }
            }
        });
    }
}
