//! Few outputs of inputs that are, but for some pooling windows, the same for all images and
//! windows: the background's. With `b` the background in the place of every input,
//! `weights * x = weights * b + weights * (x - b)`, where the first product is one for all images,
//! and the second factor of the other is zero in the background.

mod deferred;

pub use self::deferred::{
    defer, deferred_len, dense_backward_deferred, dense_forward_deferred, settle,
};

use super::{OUTPUTS, check, part, part_mut};
use crate::kernels::ahead::Ahead;
use crate::kernels::foreground::{
    Foreground, MOST_IMAGES, MOST_WINDOWS, Windows, images_of, is_told_apart,
};
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::{Element, MAX_LANES, Simd};

/// Inputs whose weights are gone through at a time: one image after the other meets them, and those
/// of [`OUTPUTS`] stay in the first-level cache.
const BLOCK: usize = 32 * MAX_LANES;

/// Elements of the weights' sums over all groups, for so many channels.
pub fn sums_len(channels: usize, outputs: usize) -> usize {
    channels.saturating_mul(outputs)
}

/// As [`dense_forward`](super::dense_forward), where `x` is what is in the foreground, as
/// [`Foreground`] says. `sums` ([`sums_len`],) keeps what the way back needs.
#[inline(always)]
pub fn dense_forward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    sums: &mut [T],
    x: &[T],
    weights: &[T],
    biases: Option<&[T]>,
    foreground: &Foreground<T>,
    ahead: &Ahead,
    shape: &DenseShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    check(out, x, weights, shape, n);
    let (groups, background, shape) = (&*foreground.groups, &*foreground.background, *shape);
    assert_eq!(groups.len(), n, "foreground length");
    assert_eq!(sums.len(), sums_len(background.len(), shape.outputs()), "sums length");
    let layout = Layout::new(simd, groups, background, &shape, x.len());
    Forward { simd, out, x, weights, layout, ahead, shape }.run(sums, biases);
}

/// Weights (outputs, inputs), and what becomes of their gradient.
#[derive(Debug)]
pub enum Weights<'a, T> {
    /// They stay.
    Kept {
        /// The weights.
        weights: &'a [T],
        /// What is set to their gradient.
        d_weights: &'a mut [T],
        /// Whether that is added instead.
        adds: bool,
    },
    /// They take a step of gradient descent.
    Descending {
        /// The weights.
        weights: &'a mut [T],
        /// A gradient that is to be added to this one.
        sum: Option<&'a [T]>,
        /// One that is to be added to that.
        before: Option<&'a [T]>,
        /// The learning rate.
        rate: T,
    },
}

/// As [`dense_backward`](super::dense_backward), where `x` is what is in the foreground: so is `d_x`,
/// and the sums of the others are the background's gradient. `sums` is what
/// [`dense_forward_foreground`] kept.
#[inline(always)]
pub fn dense_backward_foreground<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    weights: Weights<T>,
    d_out: &[T],
    x: &[T],
    sums: &[T],
    foreground: &mut Foreground<T>,
    ahead: &Ahead,
    shape: &DenseShape,
    n: usize,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    weights.check(d_out, x, shape, n);
    assert_eq!(d_x.len(), x.len(), "input gradient length");
    let (groups, background, shape) = (&*foreground.groups, &*foreground.background, *shape);
    assert_eq!(groups.len(), n, "foreground length");
    assert_eq!(sums.len(), sums_len(background.len(), shape.outputs()), "sums length");
    let d_background = &mut *foreground.d_background;
    let layout = Layout::new(simd, groups, background, &shape, x.len());
    Backward { simd, d_x, d_out, x, layout, ahead, shape }.run(weights, sums, d_background);
}

/// How the foreground lies in the inputs.
struct Layout<'a, T> {
    groups: &'a [Windows],
    /// The inputs that are not in it: (channels,), some whole vectors.
    background: &'a [T],
    /// Vectors of a group.
    vectors: usize,
    /// Whole groups of an image.
    count: usize,
    /// Inputs of the last group if it lacks a window, and then less than a vector; else 0.
    rest: usize,
    /// Where each image's inputs begin.
    starts: [usize; MOST_IMAGES],
}

impl<'a, T: Element> Layout<'a, T> {
    /// Panics if there is not so much in `x`, which has that length, or if there are groups that
    /// images of that shape do not have.
    #[inline(always)]
    fn new<S: Simd<T>>(
        _: S,
        groups: &'a [Windows],
        background: &'a [T],
        shape: &DenseShape,
        len: usize,
    ) -> Self {
        let (channels, inputs) = (background.len(), shape.inputs());
        assert!(channels > 0 && channels.is_multiple_of(S::LANES), "whole vectors");
        let (count, rest) = (inputs / channels, inputs % channels);
        assert!(rest == 0 || channels == S::LANES, "whole groups, or one vector for each");
        let all = inputs.div_ceil(channels);
        assert!(all <= MOST_WINDOWS, "at most {MOST_WINDOWS} groups");
        assert!(groups.len() <= MOST_IMAGES, "at most {MOST_IMAGES} images");
        let (mut starts, mut start) = ([0; MOST_IMAGES], 0);
        for (at, groups) in starts.iter_mut().zip(groups) {
            assert_eq!(groups.without(Windows::first(all)).count(), 0, "groups beyond");
            *at = start;
            start += groups.values(inputs, channels);
        }
        assert!(start <= len, "what is in the foreground");
        Self { groups, background, vectors: channels / S::LANES, count, rest, starts }
    }
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
    layout: Layout<'a, T>,
    ahead: &'a Ahead<'a>,
    shape: DenseShape,
}

impl<T: Element, S: Simd<T>> Forward<'_, T, S> {
    #[inline(always)]
    fn run(mut self, sums: &mut [T], biases: Option<&[T]>) {
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        self.ahead.divide(self.layout.groups.len() * inputs.div_ceil(BLOCK));
        for_output_blocks!(outputs, [OUTPUTS, 1], |o, O| { self.outputs::<O>(sums, biases, o) });
    }

    /// Sets `O` outputs from `o`, and the sums of their weights.
    #[inline(always)]
    fn outputs<const O: usize>(&mut self, sums: &mut [T], biases: Option<&[T]>, o: usize) {
        let Self { simd, weights, .. } = *self;
        let Layout { background, vectors, count, rest, starts, .. } = self.layout;
        let (inputs, outputs) = (self.shape.inputs(), self.shape.outputs());
        let block = BLOCK / S::LANES;
        let mut totals = [simd.zero(); O];
        for row in 0..O {
            let bias = biases.map_or(T::zero(), |biases| biases[o + row]);
            self.out[o + row..].iter_mut().step_by(outputs).for_each(|out| *out = bias);
        }
        for k in 0..vectors {
            let channel = k * S::LANES;
            let mut places = starts.map(|start| start + channel);
            let mut of_weights = [simd.zero(); O];
            for first in (0..count).step_by(block) {
                let groups = first..count.min(first + block);
                for row in 0..O {
                    let start = (o + row) * inputs + groups.start * vectors * S::LANES + channel;
                    of_weights[row] = simd.add(
                        of_weights[row],
                        sum_of(simd, &weights[start..], groups.len(), vectors),
                    );
                }
                self.block::<O>(&mut places, first, channel, o);
            }
            if rest > 0 {
                let mut last = [simd.zero(); O];
                for row in 0..O {
                    let start = (o + row) * inputs + count * S::LANES;
                    last[row] = simd.load_part(&weights[start..start + rest]);
                    of_weights[row] = simd.add(of_weights[row], last[row]);
                }
                self.last::<O>(&places, &last, o);
            }
            let background = simd.load(&background[channel..]);
            for row in 0..O {
                simd.store(of_weights[row], &mut sums[(o + row) * vectors * S::LANES + channel..]);
                totals[row] = simd.mul_add(of_weights[row], background, totals[row]);
            }
        }
        for row in 0..O {
            let total = simd.sum(totals[row]);
            self.out[o + row..].iter_mut().step_by(outputs).for_each(|out| *out = *out + total);
        }
    }

    /// Adds what the weights of the last group come to in the foreground, if it is less than a
    /// vector: then these have zeros behind it.
    #[inline(always)]
    fn last<const O: usize>(
        &mut self,
        places: &[usize; MOST_IMAGES],
        weights: &[S::Vector; O],
        o: usize,
    ) {
        let Self { simd, x, ref layout, .. } = *self;
        let background = simd.load(layout.background);
        let out = self.out.chunks_exact_mut(self.shape.outputs());
        for ((out, &place), groups) in out.zip(places).zip(layout.groups) {
            if groups.has(layout.count) {
                let x = simd.sub(simd.load_part(&x[place..place + layout.rest]), background);
                for (out, &w) in out[o..o + O].iter_mut().zip(weights) {
                    *out = *out + simd.sum(simd.mul(x, w));
                }
            }
        }
    }

    /// Adds what a block of weights, those of the groups from `first` on, comes to in the
    /// foreground; the inputs that they meet are at `places`, which go on to the next block.
    #[inline(always)]
    fn block<const O: usize>(
        &mut self,
        places: &mut [usize; MOST_IMAGES],
        first: usize,
        channel: usize,
        o: usize,
    ) {
        let Self { x, ahead, ref layout, .. } = *self;
        let out = self.out.chunks_exact_mut(self.shape.outputs());
        let inputs = self.shape.inputs();
        let step = layout.vectors * S::LANES;
        let weights = &self.weights[o * inputs + first * step + channel..];
        let whole = Windows::first(layout.count).part(first, BLOCK / S::LANES);
        self.simd.outlined(
            #[inline(always)]
            |simd| {
                let background = simd.load(&layout.background[channel..]);
                for ((out, place), groups) in out.zip(places).zip(layout.groups) {
                    ahead.ask();
                    let mut sums = [simd.zero(); O];
                    let mut held = groups.part(first, BLOCK / S::LANES) & whole;
                    while held != 0 {
                        let start = held.trailing_zeros() as usize * step;
                        held &= held - 1;
                        // SAFETY: `Layout` checked that there is what the groups say, and a bit
                        // is that of a group of the block.
                        unsafe {
                            let x = simd.load(part(x, *place, S::LANES));
                            let x = simd.sub(x, background);
                            for row in 0..O {
                                let w = part(weights, row * inputs + start, S::LANES);
                                sums[row] = simd.mul_add(x, simd.load(w), sums[row]);
                            }
                        }
                        *place += layout.vectors * S::LANES;
                    }
                    for (out, sum) in out[o..o + O].iter_mut().zip(sums) {
                        *out = *out + simd.sum(sum);
                    }
                }
            },
        );
    }
}

/// The sum of `n` vectors of weights that are `vectors` apart.
#[inline(always)]
fn sum_of<T: Element, S: Simd<T>>(simd: S, weights: &[T], n: usize, vectors: usize) -> S::Vector {
    /// As many sums as cover the latency of an addition.
    const SUMS: usize = 8;
    let mut sums = [simd.zero(); SUMS];
    let step = vectors * S::LANES;
    for first in (0..n).step_by(SUMS) {
        for k in 0..SUMS.min(n - first) {
            let w = simd.load(&weights[(first + k) * step..]);
            sums[k] = simd.add(sums[k], w);
        }
    }
    let mut sum = sums[0];
    for k in 1..SUMS {
        sum = simd.add(sum, sums[k]);
    }
    sum
}

impl<T: Element> Weights<'_, T> {
    #[inline(always)]
    fn check(&self, d_out: &[T], x: &[T], shape: &DenseShape, n: usize) {
        check(d_out, x, self.values(), shape, n);
        let gradients = match self {
            Self::Kept { d_weights, .. } => [Some(&**d_weights), None],
            Self::Descending { sum, before, .. } => [*sum, *before],
        };
        for gradient in gradients.into_iter().flatten() {
            assert_eq!(gradient.len(), self.values().len(), "gradient length");
        }
    }

    /// The same, where a loop may keep in registers what it says: no store changes a local value.
    #[inline(always)]
    fn local(&mut self) -> Weights<'_, T> {
        match self {
            Self::Kept { weights, d_weights, adds } => {
                Weights::Kept { weights, d_weights, adds: *adds }
            }
            Self::Descending { weights, sum, before, rate } => {
                Weights::Descending { weights, sum: *sum, before: *before, rate: *rate }
            }
        }
    }

    #[inline(always)]
    fn values(&self) -> &[T] {
        match self {
            Self::Kept { weights, .. } => weights,
            Self::Descending { weights, .. } => weights,
        }
    }

    /// Does with the gradient `d` of the weights `w`, the `len` ones from `at` on, what is to be done.
    ///
    /// # Safety
    /// There are weights up to `at + len`, and [`check`](Self::check) has passed.
    #[inline(always)]
    unsafe fn update<S: Simd<T>>(
        &mut self,
        simd: S,
        at: usize,
        len: usize,
        w: S::Vector,
        d: S::Vector,
    ) {
        // SAFETY: the caller's promise: `check` compared the lengths.
        unsafe {
            match self {
                Self::Kept { d_weights, adds, .. } => {
                    let target = part_mut(d_weights, at, len);
                    let d = if *adds { simd.add(simd.load_up_to(target), d) } else { d };
                    simd.store_up_to(d, target);
                }
                Self::Descending { weights, sum, before, rate } => {
                    let add = |gradient: Option<&[T]>, d| match gradient {
                        Some(gradient) => simd.add(simd.load_up_to(part(gradient, at, len)), d),
                        None => d,
                    };
                    let new = simd.mul_add(simd.splat(-*rate), add(*before, add(*sum, d)), w);
                    simd.store_up_to(new, part_mut(weights, at, len));
                }
            }
        }
    }
}

/// The arguments of [`dense_backward_foreground`], checked.
struct Backward<'a, T, S> {
    simd: S,
    /// As long as `x`.
    d_x: &'a mut [T],
    /// (n, outputs)
    d_out: &'a [T],
    /// What is in the foreground.
    x: &'a [T],
    layout: Layout<'a, T>,
    ahead: &'a Ahead<'a>,
    shape: DenseShape,
}

impl<T: Element, S: Simd<T>> Backward<'_, T, S> {
    #[inline(always)]
    fn run(mut self, mut weights: Weights<'_, T>, sums: &[T], d_background: &mut [T]) {
        self.ahead.divide(self.layout.count * self.layout.vectors);
        let images = images_of(self.layout.groups);
        d_background.fill(T::zero());
        for_output_blocks!(self.shape.outputs(), [OUTPUTS, 1], |o, O| {
            if o == 0 {
                self.outputs::<O, true>(&images, &mut weights, sums, d_background, o)
            } else {
                self.outputs::<O, false>(&images, &mut weights, sums, d_background, o)
            }
        });
    }

    /// `O` outputs from `o`; the first set `d_x`, the others add to it.
    #[inline(always)]
    fn outputs<const O: usize, const FIRST: bool>(
        &mut self,
        images: &[u64; MOST_WINDOWS],
        weights: &mut Weights<'_, T>,
        sums: &[T],
        d_background: &mut [T],
        o: usize,
    ) {
        let Self { simd, .. } = *self;
        let (outputs, channels) = (self.shape.outputs(), self.layout.background.len());
        // Of all images.
        let mut d = [T::zero(); O];
        for row in self.d_out[..self.layout.groups.len() * outputs].chunks_exact(outputs) {
            for k in 0..O {
                d[k] = d[k] + row[o + k];
            }
        }
        for channel in (0..channels).step_by(S::LANES) {
            let mut ds = [simd.zero(); O];
            let rest = &mut d_background[channel..];
            let mut total = simd.load(rest);
            for row in 0..O {
                ds[row] = simd.splat(d[row]);
                let sum = simd.load(&sums[(o + row) * channels + channel..]);
                total = simd.mul_add(ds[row], sum, total);
            }
            let d_x = self.groups::<O, FIRST>(images, weights, &ds, channel, o);
            if o + O == outputs {
                total = simd.sub(total, d_x);
            }
            simd.store(total, rest);
        }
    }

    /// A vector of channels from `channel` on. Returns the sum of the images' `d_x` as far as it
    /// has come.
    #[inline(always)]
    fn groups<const O: usize, const FIRST: bool>(
        &mut self,
        images: &[u64; MOST_WINDOWS],
        weights: &mut Weights<'_, T>,
        ds: &[S::Vector; O],
        channel: usize,
        o: usize,
    ) -> S::Vector {
        let mut places = self.layout.starts.map(|start| start + channel);
        self.simd.outlined(
            #[inline(always)]
            |simd| {
                let background = simd.load(&self.layout.background[channel..]);
                let mut total = simd.zero();
                let mut weights = weights.local();
                let (count, rest) = (self.layout.count, self.layout.rest);
                let (places, weights) = (&mut places, &mut weights);
                for (group, &images) in images[..count].iter().enumerate() {
                    self.ahead.ask();
                    let at = (group * self.layout.background.len() + channel, S::LANES);
                    // SAFETY: there are so many groups and channels.
                    let d_x = unsafe {
                        self.step::<O, FIRST>(images, places, weights, ds, background, at, o)
                    };
                    total = simd.add(total, d_x);
                }
                if rest > 0 {
                    let at = (count * S::LANES, rest);
                    // SAFETY: the last group has so many inputs.
                    let d_x = unsafe {
                        self.step::<O, FIRST>(images[count], places, weights, ds, background, at, o)
                    };
                    total = simd.add(total, d_x);
                }
                total
            },
        )
    }

    /// The `len` inputs from `start` on, at most a vector, of some images. Returns the sum of their
    /// `d_x`.
    ///
    /// # Safety
    /// There are so many inputs, outputs and images.
    #[inline(always)]
    unsafe fn step<const O: usize, const FIRST: bool>(
        &mut self,
        mut images: u64,
        places: &mut [usize; MOST_IMAGES],
        weights: &mut Weights<'_, T>,
        ds: &[S::Vector; O],
        background: S::Vector,
        (start, len): (usize, usize),
        o: usize,
    ) -> S::Vector {
        let Self { simd, shape, .. } = *self;
        let (inputs, outputs) = (shape.inputs(), shape.outputs());
        let (mut w, mut sums) = ([simd.zero(); O], [simd.zero(); O]);
        let mut total = simd.zero();
        // SAFETY: the caller's promise; `Layout` checked that there is what the groups say, and
        // `dense_backward_foreground` the arrays.
        unsafe {
            for k in 0..O {
                w[k] = simd.load_up_to(part(weights.values(), (o + k) * inputs + start, len));
                sums[k] = simd.mul(ds[k], background);
            }
            while images != 0 {
                let image = images.trailing_zeros() as usize;
                images &= images - 1;
                let place = places.get_unchecked_mut(image);
                let at = *place;
                *place = at + self.layout.vectors * S::LANES;
                let x = simd.sub(simd.load_up_to(part(self.x, at, len)), background);
                let d_out = part(self.d_out, image * outputs + o, O);
                // Two sums: one would take the latency of all products.
                let mut d_x = [simd.zero(); 2];
                if !FIRST {
                    d_x[0] = simd.load_up_to(part(self.d_x, at, len));
                }
                for k in 0..O {
                    let d = simd.splat(d_out[k]);
                    sums[k] = simd.mul_add(d, x, sums[k]);
                    d_x[k % 2] = simd.mul_add(d, w[k], d_x[k % 2]);
                }
                let d_x = simd.add(d_x[0], d_x[1]);
                simd.store_up_to(d_x, part_mut(self.d_x, at, len));
                total = simd.add(total, d_x);
            }
            for k in 0..O {
                weights.update(simd, (o + k) * inputs + start, len, w[k], sums[k]);
            }
        }
        total
    }
}

#[cfg(test)]
mod tests;
