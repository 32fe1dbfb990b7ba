//! A network with its weights, and what can be done with it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::kernels::ahead::Ahead;
use crate::kernels::loss::{Loss, LossSums, Targets};
use crate::kernels::rescale::Source;
use crate::kernels::run;
use crate::kernels::shape::{ShapeError, tuple};
use crate::kernels::simd::Element;
use crate::network::clock::{Clock, Poll};
use crate::network::helpers;
use crate::network::layers::{Layers, Weight};
use crate::network::optimizer::{Averaging, Optimizer, Rule};
use crate::network::plan::{Block, Plan};
use crate::network::shared::Shared;
use crate::network::spec::LayerSpec;
use crate::network::step::{Chunks, Model, Random};
use crate::network::team;
use crate::network::training::{Call, Examples, Outcome, Training, prepare_all};
use crate::network::{BuildError, Mode, parts};

/// A network: layers, weights and, once it is compiled, a loss and an optimiser.
#[derive(Debug)]
pub struct Network<T> {
    layers: Layers,
    params: Shared<T>,
    moving: Shared<T>,
    inference: Inference<T>,
    /// Made when it is first wanted.
    augmented: Option<Inference<T>>,
    training: Option<Training<T>>,
}

/// What is needed to run a network forward.
#[derive(Debug)]
struct Inference<T> {
    plan: Plan<T>,
    prepared: Shared<T>,
    /// Whether `prepared` is of older weights.
    stale: bool,
    arenas: Vec<Shared<T>>,
}

/// Images, and how they are run forward.
struct Pass<'a> {
    /// (images, input)
    x: Source<'a>,
    images: usize,
    /// How many of the plan's nodes are run.
    end: usize,
    /// Of the random numbers.
    time: u64,
    threads: usize,
    poll: Poll<'a>,
}

impl<T: Element> Inference<T> {
    fn new(layers: &Layers, mode: Mode) -> Result<Self, BuildError> {
        let plan = Plan::new(layers, mode, None, 1)?;
        let prepared = Shared::zeros(plan.prepared_len)?;
        Ok(Self { plan, prepared, stale: true, arenas: vec![] })
    }

    /// Runs all images forward in blocks, and hands to `visit` what came of each: its images, their
    /// values, and the next of `outs`. Returns whether it was stopped.
    fn run<R: Send>(
        &mut self,
        (params, moving): (&mut Shared<T>, &mut Shared<T>),
        pass: Pass<'_>,
        outs: impl Iterator<Item = R> + Send,
        visit: impl Fn(Range<usize>, &[T], R) + Sync,
    ) -> Result<bool, BuildError> {
        let Pass { x, images, end, time, threads, poll } = pass;
        let Self { plan, prepared, stale, arenas } = self;
        if *stale {
            let model = Model { params: params.get_mut(), moving: moving.get_mut() };
            prepare_all(plan, prepared.get_mut(), model);
            *stale = false;
        }
        let blocks = images.div_ceil(plan.block);
        let work = plan.work.saturating_mul(images);
        let threads = threads.min(blocks).min(helpers::most_that_pay(work)).max(1);
        while arenas.len() < threads {
            arenas.push(Shared::zeros(plan.arena_len)?);
        }
        let (none, no_windows) = (Shared::zeros(0)?, Shared::empty_sets(0)?);
        let stop = AtomicBool::new(false);
        let blocks = Mutex::new(parts(images, plan.block).zip(outs));
        team::run(threads, |worker, _| {
            let mut clock = Clock::new((worker == 0).then_some(poll));
            while !stop.load(Ordering::Relaxed) {
                let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, out)) = next else { break };
                let block = Block {
                    arena: &arenas[worker],
                    windows: &no_windows,
                    n: at.len(),
                    random: Random { seed: 0, step: time, row: at.start as u64, iteration: time },
                    params,
                    // SAFETY: nobody writes to it in this call.
                    prepared: unsafe { prepared.read(0..prepared.len()) },
                    deferred: None,
                    stats: &none,
                    d_stats: &none,
                    chunks: Chunks { images: at.len(), len: at.len() },
                    chunk: 0,
                    images: plan.beside(x, at.clone()),
                    ahead: &Ahead::nothing(),
                };
                // SAFETY: the arena is the worker's.
                unsafe { plan.read(&block, x, at.clone()) };
                let mut stops = || {
                    if clock.says_stop(plan.work_of_node(block.n)) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    stop.load(Ordering::Relaxed)
                };
                // SAFETY: as above.
                if unsafe { plan.forward(&block, 0..end, &mut stops) } {
                    // SAFETY: the block has been run, and is not run again before this is over.
                    visit(at, unsafe { plan.value(&block, end) }, out);
                }
            }
        });
        Ok(stop.into_inner())
    }
}

impl<T: Element> Network<T> {
    /// A network of zeros.
    ///
    /// # Errors
    /// If layers do not fit, with the name of the first such, or if there is not enough memory.
    pub fn new(input: &[usize], specs: Vec<LayerSpec>) -> Result<Self, BuildError> {
        let layers = Layers::new(input, specs)?;
        Ok(Self {
            params: Shared::zeros(layers.params_len)?,
            moving: Shared::zeros(layers.moving_len)?,
            inference: Inference::new(&layers, Mode::Inference)?,
            augmented: None,
            training: None,
            layers,
        })
    }

    /// The layers with their sizes.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Products of so many images' way forward.
    pub fn work(&self, images: usize) -> usize {
        self.inference.plan.work.saturating_mul(images)
    }

    /// The loss, once there is one.
    pub fn loss(&self) -> Option<Loss> {
        self.training.as_ref().map(|training| training.loss())
    }

    /// The optimiser, once there is one.
    pub fn optimizer(&mut self) -> Option<&mut Optimizer<T>> {
        self.training.as_mut().map(Training::optimizer)
    }

    /// Whether a training divides batches of that size by the rows of their images.
    #[cfg(test)]
    pub fn divides_by_rows(&self, batch: usize) -> bool {
        self.training.as_ref().is_some_and(|training| training.divides_by_rows(batch))
    }

    /// The weight's elements, as they are stored.
    pub fn weight(&mut self, weight: &Weight) -> &mut [T] {
        let all = if weight.trainable { &mut self.params } else { &mut self.moving };
        &mut all.get_mut()[weight.range()]
    }

    /// To be called when weights have been written to.
    pub fn weights_changed(&mut self) {
        self.forget_prepared();
        if let Some(training) = &mut self.training {
            training.weights_changed();
        }
    }

    /// To be called when inference would be by older weights.
    fn forget_prepared(&mut self) {
        self.inference.stale = true;
        if let Some(augmented) = &mut self.augmented {
            augmented.stale = true;
        }
    }

    /// Puts the averages of the trained weights in their place, or the weights back there. Nothing
    /// happens without averages. Training puts weights back first.
    pub fn show_averages(&mut self, shown: bool) {
        let Self { params, training: Some(training), .. } = self else { return };
        if training.optimizer().show_averages(params.get_mut(), shown) {
            self.weights_changed();
        }
    }

    /// Makes the trained weights their averages. Nothing happens without averages.
    pub fn take_averages(&mut self) {
        let Self { params, training: Some(training), .. } = self else { return };
        if training.optimizer().take_averages(params.get_mut()) {
            self.weights_changed();
        }
    }

    /// Chooses loss and optimiser, which forgets what it knew, and whether averages are kept.
    ///
    /// # Errors
    /// If the loss does not fit the output, or if there is not enough memory.
    pub fn compile(
        &mut self,
        loss: Loss,
        rule: Rule,
        averaging: Option<Averaging>,
    ) -> Result<(), BuildError> {
        let output = self.layers.output();
        let classes = !matches!(loss, Loss::MeanSquaredError);
        if classes && (output.len() != 1 || output[0] < 2) {
            return Err(BuildError::Shape(ShapeError::new(format!(
                "loss: expected an output of one axis and two classes or more for a cross-entropy, \
                 got shape {}",
                tuple(output)
            ))));
        }
        let training = Training::new(&self.layers, loss, rule, averaging)?;
        self.show_averages(false); // The old optimiser alone has the weights in whose place they are.
        self.training = Some(training);
        Ok(())
    }

    /// Trains. Without a loss and an optimiser, nothing happens.
    ///
    /// # Errors
    /// If there is not enough memory; then nothing has been learnt.
    pub fn train(
        &mut self,
        examples: Examples<'_, T>,
        call: Call<'_>,
        poll: Poll<'_>,
    ) -> Result<Outcome, BuildError> {
        if call.order.is_empty() {
            return Ok(Outcome::default());
        }
        self.forget_prepared();
        let Self { layers, params, moving, training: Some(training), .. } = self else {
            return Ok(Outcome::default());
        };
        training.run(layers, params, moving, examples, call, poll)
    }

    /// The losses and right predictions of all images, by a loss that fits the targets.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn evaluate(
        &mut self,
        examples: Examples<'_, T>,
        images: usize,
        threads: usize,
        poll: Poll<'_>,
    ) -> Result<Outcome, BuildError> {
        let Some(training) = &self.training else { return Ok(Outcome::default()) };
        let loss = training.loss();
        let softmax = training.ends_before_softmax();
        let plan = &self.inference.plan;
        let (end, width) = (plan.len() - usize::from(softmax), plan.width);
        let mut sums = vec![LossSums::default(); images.div_ceil(plan.block)];
        let stopped = self.inference.run(
            (&mut self.params, &mut self.moving),
            Pass { x: examples.x, images, end, time: 0, threads, poll },
            sums.iter_mut(),
            |at, x, sums| {
                let targets = match examples.targets {
                    Targets::Labels(labels) => Targets::Labels(&labels[at]),
                    Targets::Values(y) => Targets::Values(&y[at.start * width..at.end * width]),
                };
                run::loss_forward(sums, x, targets, loss, width);
            },
        )?;
        let loss = sums.iter().map(|sums| sums.loss).sum();
        let correct = sums.iter().map(|sums| sums.correct).sum();
        Ok(Outcome { losses: vec![loss], correct, stopped })
    }

    /// What the network says of each image: `out` (images, output). With `augmented`, images are
    /// changed at random as in training, each time otherwise. Returns whether it was stopped.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn predict(
        &mut self,
        out: &mut [T],
        x: Source<'_>,
        images: usize,
        augmented: Option<u64>,
        threads: usize,
        poll: Poll<'_>,
    ) -> Result<bool, BuildError> {
        let mut inference = &mut self.inference;
        if augmented.is_some() {
            if self.augmented.is_none() {
                self.augmented = Some(Inference::new(&self.layers, Mode::AugmentedInference)?);
            }
            inference = self.augmented.as_mut().unwrap_or(inference);
        }
        let weights = (&mut self.params, &mut self.moving);
        let (end, len) = (inference.plan.len(), inference.plan.block * inference.plan.width);
        let pass = Pass { x, images, end, time: augmented.unwrap_or(0), threads, poll };
        let outs = out.chunks_mut(len);
        inference.run(weights, pass, outs, |_, value, out| out.copy_from_slice(value))
    }
}
