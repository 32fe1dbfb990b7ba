//! Plain gradient descent by one image after the other, in which a step touches only the weights
//! that its image's foreground meets.
//!
//! A step adds `-rate * d_out * x` to the weights. With `b` the background in the place of every
//! input, that is `-rate * d_out * (x - b)`, zero in the background, and `-rate * d_out * b`, alike
//! for all groups: the latter is deferred. It is added up in one group, the shift, which the
//! weights lack. The sums of the weights over all groups, which the background meets, are kept up
//! to date beside it.
//!
//! The weights are a copy, in the order in which they are gone through: (groups, vectors of a group,
//! outputs, lanes), with zeros for a window that the last group lacks. So those that a vector of
//! inputs meets lie one behind the other, and none across two cache lines. In front of them lie the
//! sums and the shift, a group each.

use std::ops::Range;

use super::Layout;
use crate::kernels::dense::{OUTPUTS, part, part_mut};
use crate::kernels::foreground::{Foreground, Windows, is_told_apart};
use crate::kernels::shape::DenseShape;
use crate::kernels::simd::{Element, Simd};

/// Elements of the copy, the sums and the shift, for groups of so many channels.
pub fn deferred_len(channels: usize, shape: &DenseShape) -> usize {
    let groups = shape.inputs().div_ceil(channels) + 2;
    groups.saturating_mul(channels).saturating_mul(shape.outputs())
}

/// Begins with these weights (outputs, inputs), which lack nothing yet. `deferred`
/// ([`deferred_len`],) is set.
#[inline(always)]
pub fn defer<T: Element, S: Simd<T>>(
    simd: S,
    deferred: &mut [T],
    weights: &[T],
    channels: usize,
    shape: &DenseShape,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    let parts = Parts::of_mut(deferred, channels, shape);
    parts.sums.fill(T::zero());
    parts.shift.fill(T::zero());
    for_each_vector::<T, S>(
        channels,
        shape,
        #[inline(always)]
        |at, place, in_group| {
            let w = simd.load_up_to(&weights[at]);
            simd.store(w, &mut parts.weights[place..]);
            let sum = &mut parts.sums[in_group..];
            simd.store(simd.add(simd.load(sum), w), sum);
        },
    );
}

/// Sets the weights (outputs, inputs) to those of the copy with what they lack. `deferred` stays as it
/// is: a descent may go on from there.
#[inline(always)]
pub fn settle<T: Element, S: Simd<T>>(
    simd: S,
    weights: &mut [T],
    deferred: &[T],
    channels: usize,
    shape: &DenseShape,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    let parts = Parts::of(deferred, channels, shape);
    for_each_vector::<T, S>(
        channels,
        shape,
        #[inline(always)]
        |at, place, in_group| {
            let shift = simd.load(&parts.shift[in_group..]);
            simd.store_up_to(simd.add(simd.load(&parts.weights[place..]), shift), &mut weights[at]);
        },
    );
}

/// Visits all weights, vector by vector: which they are among (outputs, inputs), where they begin in
/// the copy, and where in a group of it.
#[inline(always)]
fn for_each_vector<T: Element, S: Simd<T>>(
    channels: usize,
    shape: &DenseShape,
    mut visit: impl FnMut(Range<usize>, usize, usize),
) {
    assert!(channels.is_multiple_of(S::LANES), "whole vectors");
    let (inputs, outputs) = (shape.inputs(), shape.outputs());
    for start in (0..inputs).step_by(S::LANES) {
        let first_in_group = start % channels * outputs;
        for output in 0..outputs {
            let end = inputs.min(start + S::LANES);
            let in_row = output * inputs;
            let in_vector = output * S::LANES;
            visit(
                in_row + start..in_row + end,
                start * outputs + in_vector,
                first_in_group + in_vector,
            );
        }
    }
}

/// The sums, the shift and the copy: each (groups, vectors of a group, outputs, lanes), of one group
/// or of all.
struct Parts<S> {
    sums: S,
    shift: S,
    weights: S,
}

impl<'a, T> Parts<&'a [T]> {
    /// Those of `deferred`; panics if it has more or fewer elements.
    #[inline(always)]
    fn of(deferred: &'a [T], channels: usize, shape: &DenseShape) -> Self {
        let (sums, rest) = deferred.split_at(group_len(deferred, channels, shape));
        let (shift, weights) = rest.split_at(sums.len());
        Self { sums, shift, weights }
    }
}

impl<'a, T> Parts<&'a mut [T]> {
    /// The same, to be changed.
    #[inline(always)]
    fn of_mut(deferred: &'a mut [T], channels: usize, shape: &DenseShape) -> Self {
        let (sums, rest) = deferred.split_at_mut(group_len(deferred, channels, shape));
        let (shift, weights) = rest.split_at_mut(sums.len());
        Self { sums, shift, weights }
    }
}

/// Elements of a group in `deferred`, the length of which is checked.
#[inline(always)]
fn group_len<T>(deferred: &[T], channels: usize, shape: &DenseShape) -> usize {
    assert_eq!(deferred.len(), deferred_len(channels, shape), "deferred length");
    channels * shape.outputs()
}

/// As [`dense_forward`](crate::kernels::dense::dense_forward) for one image, where `x` is what is in
/// the foreground, with the weights that [`defer`] has copied.
#[inline(always)]
pub fn dense_forward_deferred<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    deferred: &[T],
    biases: Option<&[T]>,
    foreground: &Foreground<T>,
    shape: &DenseShape,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    check(out, x, shape);
    let parts = Parts::of(deferred, foreground.background.len(), shape);
    let walk = Walk::new(simd, x, &*foreground.groups, &*foreground.background, shape);
    for_output_blocks!(shape.outputs(), [OUTPUTS, 1], |o, O| {
        let totals = walk.totals::<S, O>(simd, &parts, o);
        for row in 0..O {
            let bias = biases.map_or(T::zero(), |biases| biases[o + row]);
            out[o + row] = bias + simd.sum(totals[row]);
        }
    });
}

/// One step of gradient descent of that copy, and the input's gradient in the foreground, as
/// [`dense_backward_sgd`](crate::kernels::dense::dense_backward_sgd) for one image; and, in the
/// foreground's `d_background`, the sum of the input's gradient over the other groups.
#[inline(always)]
pub fn dense_backward_deferred<T: Element, S: Simd<T>>(
    simd: S,
    d_x: &mut [T],
    deferred: &mut [T],
    d_out: &[T],
    x: &[T],
    rate: T,
    foreground: &mut Foreground<T>,
    shape: &DenseShape,
) {
    assert!(is_told_apart::<T, S>(simd), "an instruction set with a foreground");
    check(d_out, x, shape);
    let Foreground { groups, background, d_background } = foreground;
    let mut parts = Parts::of_mut(deferred, background.len(), shape);
    let walk = Walk::new(simd, x, groups, background, shape);
    assert_eq!(d_x.len(), x.len(), "input gradient length");
    assert_eq!(d_background.len(), background.len(), "background gradient length");
    d_background.fill(T::zero());
    let mut descent = Descent { d_x, d_out, rate, d_background };
    for_output_blocks!(shape.outputs(), [OUTPUTS, 1], |o, O| {
        walk.descend::<S, O>(simd, &mut parts, &mut descent, o);
    });
}

fn check<T>(out: &[T], x: &[T], shape: &DenseShape) {
    assert_eq!(out.len(), shape.outputs(), "output length");
    assert_eq!(x.len(), shape.inputs(), "input length");
}

/// An image's foreground, checked.
struct Walk<'a, T> {
    /// What is in it.
    x: &'a [T],
    layout: Layout<'a, T>,
    outputs: usize,
}

/// What a step of descent has and sets, checked.
struct Descent<'a, T> {
    /// As long as `x`.
    d_x: &'a mut [T],
    /// (outputs,)
    d_out: &'a [T],
    rate: T,
    /// (channels,)
    d_background: &'a mut [T],
}

/// Some inputs of a group that fill a vector, or begin one.
#[derive(Clone, Copy)]
struct Inputs {
    /// Where they lie in the foreground.
    place: usize,
    /// Where the weights begin that they meet.
    weights: usize,
    len: usize,
}

impl<'a, T: Element> Walk<'a, T> {
    /// Panics if there is not so much in `x`.
    #[inline(always)]
    fn new<S: Simd<T>>(
        simd: S,
        x: &'a [T],
        groups: &'a [Windows],
        background: &'a [T],
        shape: &DenseShape,
    ) -> Self {
        assert_eq!(groups.len(), 1, "one image");
        let layout = Layout::new(simd, groups, background, shape, x.len());
        Self { x, layout, outputs: shape.outputs() }
    }

    /// Visits vector `k` of each group in the foreground, in order or `BACK`wards.
    #[inline(always)]
    fn for_each<S: Simd<T>, const BACK: bool>(
        &self,
        simd: S,
        k: usize,
        mut visit: impl FnMut(Inputs),
    ) {
        let groups = self.layout.groups[0];
        if BACK {
            let mut nth = groups.count();
            groups.for_each_back(
                #[inline(always)]
                |group| {
                    nth -= 1;
                    visit(self.inputs(simd, k, group, nth));
                },
            );
        } else {
            let mut nth = 0;
            groups.for_each(
                #[inline(always)]
                |group| {
                    visit(self.inputs(simd, k, group, nth));
                    nth += 1;
                },
            );
        }
    }

    /// Vector `k` of a group, the `nth` in the foreground. The last group may lack a window.
    #[inline(always)]
    fn inputs<S: Simd<T>>(&self, _: S, k: usize, group: usize, nth: usize) -> Inputs {
        let Layout { vectors, count, rest, .. } = self.layout;
        let at = |group| (group * vectors + k) * S::LANES;
        let len = if group < count { S::LANES } else { rest };
        Inputs { place: at(nth), weights: at(group) * self.outputs, len }
    }

    /// How inputs differ from the background; there are zeros behind them.
    ///
    /// # Safety
    /// [`for_each`](Self::for_each) has said where they are.
    #[inline(always)]
    unsafe fn contrast<S: Simd<T>>(&self, simd: S, background: S::Vector, at: Inputs) -> S::Vector {
        // SAFETY: `Layout` checked that there is what the groups say.
        let x = simd.sub(simd.load_up_to(unsafe { part(self.x, at.place, at.len) }), background);
        if at.len < S::LANES { simd.select(simd.first_lanes(at.len), x, simd.zero()) } else { x }
    }

    /// For `O` outputs from `o`, what adds up to them over the lanes.
    #[inline(always)]
    fn totals<S: Simd<T>, const O: usize>(
        &self,
        simd: S,
        parts: &Parts<&[T]>,
        o: usize,
    ) -> [S::Vector; O] {
        let mut totals = [simd.zero(); O];
        for k in 0..self.layout.vectors {
            let background = simd.load(&self.layout.background[k * S::LANES..]);
            let mut contrasts = simd.zero();
            self.for_each::<S, false>(
                simd,
                k,
                #[inline(always)]
                |at| {
                    // SAFETY: `for_each` says so, and there are `O` outputs' weights.
                    unsafe {
                        let x = self.contrast(simd, background, at);
                        contrasts = simd.add(contrasts, x);
                        let w = part(parts.weights, at.weights + o * S::LANES, O * S::LANES);
                        for row in 0..O {
                            let w = simd.load(part(w, row * S::LANES, S::LANES));
                            totals[row] = simd.mul_add(x, w, totals[row]);
                        }
                    }
                },
            );
            for row in 0..O {
                let at = (k * self.outputs + o + row) * S::LANES;
                totals[row] = simd.mul_add(contrasts, simd.load(&parts.shift[at..]), totals[row]);
                totals[row] = simd.mul_add(background, simd.load(&parts.sums[at..]), totals[row]);
            }
        }
        totals
    }

    /// `O` outputs from `o`; the first set `d_x`, the others add to it.
    #[inline(always)]
    fn descend<S: Simd<T>, const O: usize>(
        &self,
        simd: S,
        parts: &mut Parts<&mut [T]>,
        descent: &mut Descent<T>,
        o: usize,
    ) {
        let Descent { d_x, d_out, rate, d_background } = descent;
        let Layout { vectors, count, rest, .. } = self.layout;
        let scale = simd.splat(-*rate);
        let mut d = [simd.zero(); O];
        for row in 0..O {
            d[row] = simd.splat(d_out[o + row]);
        }
        for k in 0..vectors {
            let background = simd.load(&self.layout.background[k * S::LANES..]);
            let d_background = &mut d_background[k * S::LANES..];
            let (mut total, mut of_shift) = (simd.load(d_background), simd.zero());
            let first = (k * self.outputs + o) * S::LANES;
            let (sums, shift) = (&mut parts.sums[first..], &mut parts.shift[first..]);
            for row in 0..O {
                let at = row * S::LANES;
                total = simd.mul_add(d[row], simd.load(&sums[at..]), total);
                of_shift = simd.mul_add(d[row], simd.load(&shift[at..]), of_shift);
            }
            let (mut contrasts, mut d_seen) = (simd.zero(), simd.zero());
            // The forward pass left the last weights in the cache, and its next walk finds the first
            // ones there.
            self.for_each::<S, true>(
                simd,
                k,
                #[inline(always)]
                |at| {
                    // SAFETY: `for_each` says so, there are `O` outputs' weights, and `d_x` is as
                    // long as `x`.
                    unsafe {
                        let x = self.contrast(simd, background, at);
                        contrasts = simd.add(contrasts, x);
                        let x = simd.mul(x, scale);
                        let weights = at.weights + o * S::LANES;
                        let weights = part_mut(parts.weights, weights, O * S::LANES);
                        let d_x = part_mut(d_x, at.place, at.len);
                        // Two sums: one would take the latency of all products.
                        let mut sum = [of_shift, simd.zero()];
                        if o > 0 {
                            sum[1] = simd.load_up_to(d_x);
                        }
                        for row in 0..O {
                            let w = part_mut(weights, row * S::LANES, S::LANES);
                            let old = simd.load(w);
                            sum[row % 2] = simd.mul_add(d[row], old, sum[row % 2]);
                            simd.store(simd.mul_add(d[row], x, old), w);
                        }
                        let mut sum = simd.add(sum[0], sum[1]);
                        if at.len < S::LANES {
                            sum = simd.select(simd.first_lanes(at.len), sum, simd.zero());
                        }
                        simd.store_up_to(sum, d_x);
                        d_seen = simd.add(d_seen, sum);
                    }
                },
            );
            if o + O == self.outputs {
                // All groups' gradient less that of the foreground, which is complete now.
                total = simd.sub(total, d_seen);
            }
            simd.store(total, d_background);
            // Of a group that lacks a window, there is one less in the lanes of that.
            let groups = simd.numbers(
                #[inline(always)]
                |lane| count + usize::from(lane < rest),
            );
            let all = simd.mul(simd.mul_add(groups, background, contrasts), scale);
            let background = simd.mul(background, scale);
            for row in 0..O {
                let (sum, shift) = (&mut sums[row * S::LANES..], &mut shift[row * S::LANES..]);
                simd.store(simd.mul_add(d[row], all, simd.load(sum)), sum);
                simd.store(simd.mul_add(d[row], background, simd.load(shift)), shift);
            }
        }
    }
}
