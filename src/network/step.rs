//! What a plan is made of: operations on a block of images, forward and backward.

use std::fmt::Debug;
use std::ops::Range;

use crate::kernels::ahead::Ahead;
use crate::kernels::counter;
use crate::kernels::foreground::Foreground;
use crate::kernels::images::{Apart, Images};
use crate::kernels::simd::Element;

/// Where random numbers come from: the same numbers for the same image of the same step, whichever
/// thread asks.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// Of this stretch of training.
    pub seed: u64,
    /// Which training step or, of augmented inference, which time.
    pub step: u64,
    /// The place of the block's first image in the batch.
    pub row: u64,
    /// How many training steps the optimiser has taken before, in all stretches.
    pub iteration: u64,
}

impl Random {
    /// Where the numbers of the block's image `image` begin, in the layer with this salt: those of
    /// this stretch of training or, with a seed of its own, those of all.
    pub fn key(&self, salt: u64, seed: Option<u64>, image: usize) -> u64 {
        let row = self.row + image as u64;
        match seed {
            None => counter::key(self.seed ^ salt, self.step, row),
            Some(seed) => counter::key(counter::mix(seed) ^ salt, self.iteration, row),
        }
    }
}

/// How a batch is divided.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    /// Images in all.
    pub images: usize,
    /// Images in every chunk but the last.
    pub len: usize,
}

impl Chunks {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.images.div_ceil(self.len)
    }

    /// The images of chunk `at`.
    pub fn images_of(&self, at: usize) -> Range<usize> {
        at * self.len..self.images.min((at + 1) * self.len)
    }
}

/// What the chunks of a batch found out about it, for a step that normalises by the whole batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T> {
    /// (chunks, the step's `stats_len`)
    pub stats: &'a [T],
    /// (chunks, the step's `stats_len`) in `backward`, else empty: chunks are still writing them.
    pub d_stats: &'a [T],
    /// How the batch is divided into them.
    pub chunks: Chunks,
}

/// One step of plain gradient descent, by a gradient or the sum of two.
#[derive(Clone, Copy, Debug)]
pub struct Descent<'a, T> {
    /// The one that is added to the other.
    pub before: Option<&'a [T]>,
    /// The learning rate.
    pub rate: T,
}

impl<T: Copy> Descent<'_, T> {
    /// That of these parameters.
    pub fn of(&self, params: Range<usize>) -> Self {
        Self { before: self.before.map(|before| &before[params]), rate: self.rate }
    }
}

/// A forward pass over `n` images.
#[derive(Debug)]
pub struct Forward<'a, T> {
    /// Images.
    pub n: usize,
    /// (n, input); empty if they lie apart.
    pub x: &'a [T],
    /// The images where the caller has them, for a step that [takes](Step::takes_apart) them so.
    pub apart: Option<Apart<'a, T>>,
    /// (n, output), to be set.
    pub out: &'a mut [T],
    /// What the way back will need beside `x` and `out`: (`saved_len(n)`,).
    pub saved: &'a mut [T],
    /// (`scratch_len(n)`,) of anything.
    pub scratch: &'a mut [T],
    /// The step's parameters.
    pub weights: &'a [T],
    /// What `prepare` made of them.
    pub prepared: &'a [T],
    /// For this block.
    pub random: Random,
    /// Of the batch, for a step that has statistics.
    pub batch: Batch<'a, T>,
    /// Of this step's output or input, if there may be only what is in its foreground.
    pub foreground: Option<Foreground<'a, T>>,
    /// What [`defer`](Step::defer) has set and a descent has changed since, if something is deferred.
    pub deferred: Option<&'a [T]>,
    /// What is read next.
    pub ahead: &'a Ahead<'a>,
}

/// A backward pass over `n` images; what the forward pass had and left is still there.
#[derive(Debug)]
pub struct Backward<'a, T> {
    /// Images.
    pub n: usize,
    /// (n, input), to be set if anybody needs it.
    pub d_x: Option<&'a mut [T]>,
    /// The gradient of the parameters, to be set: the sum over the images.
    pub d_weights: &'a mut [T],
    /// Whether it is added to what is there instead, by a step that [can](Step::adds).
    pub adds: bool,
    /// (n, output); may be used up.
    pub d_out: &'a mut [T],
    /// (n, input); of images that lie apart, anything unless `forward` has gathered them.
    pub x: &'a [T],
    /// The images where the caller has them, if the forward pass had them so.
    pub apart: Option<Images<'a, T>>,
    /// (n, output)
    pub out: &'a [T],
    /// What `forward` saved.
    pub saved: &'a mut [T],
    /// (`scratch_len(n)`,) of anything.
    pub scratch: &'a mut [T],
    /// What `prepare` made of the parameters.
    pub prepared: &'a [T],
    /// Of the batch, for a step that has statistics.
    pub batch: Batch<'a, T>,
    /// As in the forward pass; what holds for a value holds for its gradient.
    pub foreground: Option<Foreground<'a, T>>,
    /// As in the forward pass; a descent changes it in place of the weights.
    pub deferred: Option<&'a mut [T]>,
    /// What is read next.
    pub ahead: &'a Ahead<'a>,
}

/// An operation and its gradient.
///
/// A step knows sizes only. Its parameters lie in `weights`, which several threads read at once and
/// which an optimiser changes between two batches.
pub trait Step<T: Element>: Debug + Send + Sync {
    /// Sets `out` and `saved`.
    fn forward(&self, pass: Forward<'_, T>);

    /// Sets `d_weights` and `d_x`.
    fn backward(&self, pass: Backward<'_, T>, weights: &[T]);

    /// Elements that `forward` leaves for `backward`.
    fn saved_len(&self, _n: usize) -> usize {
        0
    }

    /// Channels of the output, if it can be made of its foreground only.
    fn foreground_channels(&self) -> Option<usize> {
        None
    }

    /// Whether it may be given images that lie apart.
    fn takes_apart(&self) -> bool {
        false
    }

    /// Elements of workspace.
    fn scratch_len(&self, _n: usize) -> usize {
        0
    }

    /// Elements that are made of the parameters whenever they have changed.
    fn prepared_len(&self) -> usize {
        0
    }

    /// Makes them: from the step's own parameters, all parameters, and all moving averages.
    fn prepare(&self, _prepared: &mut [T], _weights: &[T], _model: Model<'_, T>) {}

    /// Whether it can add its parameters' gradient to another one, in the same walk over them.
    fn adds(&self) -> bool {
        false
    }

    /// Whether there is [`backward_and_descend`](Step::backward_and_descend) for a batch of so many
    /// chunks.
    fn descends(&self, _chunks: usize) -> bool {
        false
    }

    /// As `backward`, but the parameters descend in the same walk over them. Behind that there may be
    /// anything in the place of their gradient.
    fn backward_and_descend(
        &self,
        _pass: Backward<'_, T>,
        _weights: &mut [T],
        _by: Descent<'_, T>,
    ) {
    }

    /// Elements of a copy of the weights and of what is kept beside it from step to step, if a descent
    /// by one image at a time leaves out those that change alike, and defers what they lack.
    fn deferred_len(&self) -> usize {
        0
    }

    /// Sets that up for weights that lack nothing.
    fn defer(&self, _deferred: &mut [T], _weights: &[T]) {}

    /// Sets the weights to those of the copy with what they lack. A descent may go on from `deferred`.
    fn settle(&self, _weights: &mut [T], _deferred: &[T]) {}

    /// Elements of what a chunk says about the batch, in `stats` and again in `d_stats`. If there
    /// are any, all chunks meet before `forward` and before `backward`.
    fn stats_len(&self) -> usize {
        0
    }

    /// Sets a chunk's `stats`.
    fn stats(&self, _stats: &mut [T], _x: &[T]) {}

    /// Sets a chunk's `d_stats`, and the gradient of the parameters.
    fn d_stats(&self, _d_stats: &mut [T], _pass: Backward<'_, T>) {}

    /// Updates the moving averages with a batch's statistics; `scratch` is (`scratch_len(0)`,) of
    /// anything.
    fn update_moving(&self, _moving: &mut [T], _batch: Batch<'_, T>, _scratch: &mut [T]) {}
}

/// All that a network has learnt.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a, T> {
    /// Every parameter.
    pub params: &'a [T],
    /// Every moving average.
    pub moving: &'a [T],
}
