//! The loop that runs for one call of training, on all its threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::kernels::loss::{Loss, LossSums, Targets};
use crate::kernels::rescale::Source;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::ahead::Ahead;
use crate::network::clock::{Clock, Poll};
use crate::network::exchange::{Exchange, Shares, UPDATE};
use crate::network::layers::Layers;
use crate::network::optimizer::{Averaging, Optimizer, Rule};
use crate::network::plan::{Block, Chunks, Plan};
use crate::network::step::{Model, Random};
use crate::network::team::{self, Apart, Barrier, Broken, Shared};
use crate::network::{BuildError, Mode, parts};

/// Most chunks that a batch is divided into, each with a gradient of its own: enough for the threads
/// that a small network keeps busy.
const MAX_CHUNKS: usize = 16;

/// Chunks of a batch up to which they are made no longer for the sake of the weights, so that there are some
/// for several threads.
const CHUNKS_FOR_THREADS: usize = 4;

/// Bytes that the gradients of all chunks may take together.
const GRADIENT_BYTES: usize = 1 << 26;

/// Products of one step, forward, below which waking a second thread costs more than it saves: some
/// 30 us of work, forward and backward.
pub const WORK_FOR_THREADS: usize = 500_000;

/// Products of one step, forward, up to which nodes may descend by themselves: such a step cannot be
/// stopped, and so takes some milliseconds at most.
const WORK_OF_DESCENT: usize = 1 << 26;

/// Images and what should be said of them.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a, X, T> {
    /// (images, input)
    pub x: &'a [X],
    /// Values for all images, or labels for those that are looked at, in their order.
    pub targets: Targets<'a, T>,
}

/// What to train on, and how.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Which images, in turn; each below the number of images.
    pub order: &'a [usize],
    /// Images a step, at least 1; the last step takes what is left.
    pub batch: usize,
    /// The learning rate of each step.
    pub rates: &'a [f64],
    /// Of the random numbers.
    pub seed: u64,
    /// The number of the first step, for the random numbers.
    pub first_step: u64,
    /// At least 1.
    pub threads: usize,
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The sum of the images' losses, for each step; for an evaluation, one for all.
    pub losses: Vec<f64>,
    /// How many of the images were predicted right.
    pub correct: usize,
    /// Whether the call was stopped before its end; all steps up to then are whole.
    pub stopped: bool,
}

#[derive(Debug)]
pub struct Training<T> {
    plan: Plan<T>,
    /// As it is computed: from the logits, if the network ends in a softmax.
    loss: Loss,
    /// Nodes whose output the loss is computed from.
    end: usize,
    optimizer: Optimizer<T>,
    prepared: Shared<T>,
    stale: bool,
    max_chunks: usize,
    /// Images in a small batch's chunks.
    block: usize,
    exchange: Exchange<T>,
    stats: Shared<T>,
    d_stats: Shared<T>,
    arenas: Vec<Shared<T>>,
    /// For each arena, a gradient for all blocks of a chunk but the first.
    extra: Vec<Shared<T>>,
}

/// Where the loss begins, and which: a softmax in front of a cross-entropy is a part of it.
fn head<T: Element>(plan: &Plan<T>, loss: Loss) -> (usize, Loss) {
    let fused = match loss {
        Loss::SparseCategoricalCrossentropy { from_logits: false } => {
            Some(Loss::SparseCategoricalCrossentropy { from_logits: true })
        }
        Loss::CategoricalCrossentropy { from_logits: false, label_smoothing } => {
            Some(Loss::CategoricalCrossentropy { from_logits: true, label_smoothing })
        }
        _ => None,
    };
    match fused {
        Some(fused) if plan.ends_in_softmax() => (plan.len() - 1, fused),
        _ => (plan.len(), loss),
    }
}

pub fn prepare_all<T: Element>(plan: &Plan<T>, prepared: &mut [T], model: Model<'_, T>) {
    for i in 0..plan.len() {
        plan.prepare(i, &mut prepared[plan.prepared(i)], model);
    }
}

/// What is done with a chunk between two meetings.
#[derive(Clone, Debug)]
struct Phase {
    /// Whether the images are read.
    first: bool,
    forward: Range<usize>,
    /// Whether the loss follows.
    loss: bool,
    /// Empty as long as there is no loss.
    backward: Range<usize>,
}

impl<T: Element> Training<T> {
    /// For a loss, an optimiser's rule and, if averages are kept, how.
    ///
    /// # Errors
    /// If a size overflows, or if there is not enough memory.
    pub fn new(
        layers: &Layers,
        loss: Loss,
        rule: Rule,
        averaging: Option<Averaging>,
    ) -> Result<Self, BuildError> {
        let max_chunks =
            (GRADIENT_BYTES / size_of::<T>() / layers.params_len.max(1)).clamp(1, MAX_CHUNKS);
        let plan = Plan::new(layers, Mode::Training, None, max_chunks)?;
        let (end, loss) = head(&plan, loss);
        Ok(Self {
            loss,
            end,
            optimizer: Optimizer::new(rule, averaging, layers.params_len)?,
            prepared: Shared::zeros(plan.prepared_len)?,
            stale: true,
            max_chunks,
            block: plan.block,
            exchange: Exchange::new(layers.params_len)?,
            stats: Shared::zeros(plan.stats_len)?,
            d_stats: Shared::zeros(plan.stats_len)?,
            arenas: vec![],
            extra: vec![],
            plan,
        })
    }

    /// The loss as it is computed.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// Whether the loss is computed from what a last softmax takes.
    pub fn ends_before_softmax(&self) -> bool {
        self.end < self.plan.len()
    }

    /// The optimiser.
    pub fn optimizer(&mut self) -> &mut Optimizer<T> {
        &mut self.optimizer
    }

    /// To be called when weights have been written to.
    pub fn weights_changed(&mut self) {
        self.stale = true;
    }

    /// Takes the call's steps.
    ///
    /// # Errors
    /// If there is not enough memory; then nothing has been learnt.
    pub fn run<X: Source>(
        &mut self,
        layers: &Layers,
        params: &mut Shared<T>,
        moving: &mut Shared<T>,
        examples: Examples<'_, X, T>,
        call: Call<'_>,
        poll: Poll<'_>,
    ) -> Result<Outcome, BuildError> {
        let batch = call.batch.min(call.order.len());
        let chunks = self.make_room(layers, batch)?;
        let work = self.plan.work.saturating_mul(batch);
        let threads = if work < WORK_FOR_THREADS { 1 } else { call.threads.min(chunks.count()) };
        let most = self.most_chunks(batch);
        self.make_arenas(if self.meets() { most } else { threads })?;
        let extra = if chunks.len > self.plan.block { threads } else { 0 };
        self.make_extra(extra, layers.params_len)?;
        self.stale |= self.optimizer.show_averages(params.get_mut(), false);
        if self.stale {
            let model = Model { params: params.get_mut(), moving: moving.get_mut() };
            prepare_all(&self.plan, self.prepared.get_mut(), model);
        }
        // Until it is known how the call has ended, be it in a panic.
        self.stale = true;
        self.exchange.begin(params, most, threads)?;
        let phases = self.phases();
        let descended = self.plan.descended();
        let job = Job {
            training: self,
            params,
            moving,
            examples,
            call,
            phases: &phases,
            shares: Shares::new(layers.params_len, &[], threads),
            shares_beside_descent: Shares::new(layers.params_len, &descended, threads),
            next: Apart::default(),
            sums: std::array::from_fn(|_| Apart::default()),
            outcome: Apart(Mutex::new(Outcome {
                losses: Vec::with_capacity(call.rates.len()),
                ..Outcome::default()
            })),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            steps: Apart::default(),
        };
        team::run(threads, |worker, barrier| {
            let mut clock = Clock::new((worker == 0).then_some(poll));
            // A panic elsewhere is passed on where the threads are joined.
            let _: Result<(), Broken> = job.work(worker, barrier, &mut clock);
        });
        let mut outcome = job.outcome.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.stopped = job.stopped.into_inner();
        let steps = job.steps.0.into_inner();
        self.optimizer.steps += steps as u64;
        self.stale = outcome.stopped;
        Ok(outcome)
    }

    /// How a batch is divided: by its size, never by the number of threads.
    fn chunks(&self, images: usize) -> Chunks {
        let len = images.div_ceil(CHUNKS_FOR_THREADS).min(self.plan.longest_block);
        let len = len.max(self.block).max(images.div_ceil(self.max_chunks));
        Chunks { images, len, at: 0 }
    }

    /// How many chunks there are at most in batches of up to so many images. A smaller batch may have more
    /// than a larger one, whose chunks are longer.
    fn most_chunks(&self, images: usize) -> usize {
        images.div_ceil(self.block).min(self.max_chunks)
    }

    /// Whether each chunk keeps its arena for the whole step, because chunks meet within it.
    fn meets(&self) -> bool {
        self.plan.stats_len > 0
    }

    /// Provides for batches of that size.
    fn make_room(&mut self, layers: &Layers, batch: usize) -> Result<Chunks, BuildError> {
        let chunks = self.chunks(batch);
        let block = if self.meets() { chunks.len } else { chunks.len.min(self.plan.longest_block) };
        if self.plan.block < block {
            self.plan = Plan::new(layers, Mode::Training, Some(block), self.max_chunks)?;
            self.arenas.clear();
        }
        Ok(chunks)
    }

    fn make_arenas(&mut self, count: usize) -> Result<(), BuildError> {
        while self.arenas.len() < count {
            self.arenas.push(Shared::zeros(self.plan.arena_len)?);
        }
        Ok(())
    }

    fn make_extra(&mut self, count: usize, params_len: usize) -> Result<(), BuildError> {
        while self.extra.len() < count {
            self.extra.push(Shared::zeros(params_len)?);
        }
        Ok(())
    }

    fn phases(&self) -> Vec<Phase> {
        let stretches = self.plan.stretches(self.end);
        let mut phases: Vec<Phase> = stretches
            .iter()
            .enumerate()
            .map(|(i, stretch)| Phase {
                first: i == 0,
                forward: stretch.clone(),
                loss: false,
                backward: 0..0,
            })
            .collect();
        // On the way back, a node with statistics is the last of the next stretch.
        let turns: Vec<usize> = stretches.iter().skip(1).map(|stretch| stretch.start + 1).collect();
        let mut end = self.end;
        for (i, start) in turns.into_iter().rev().chain([0]).enumerate() {
            match phases.last_mut() {
                Some(last) if i == 0 => (last.loss, last.backward) = (true, start..end),
                _ => phases.push(Phase {
                    first: false,
                    forward: 0..0,
                    loss: false,
                    backward: start..end,
                }),
            }
            end = start;
        }
        phases
    }
}

/// One call of `train`, as all its threads see it.
struct Job<'a, X, T> {
    training: &'a Training<T>,
    params: &'a Shared<T>,
    moving: &'a Shared<T>,
    examples: Examples<'a, X, T>,
    call: Call<'a>,
    phases: &'a [Phase],
    shares: Shares,
    shares_beside_descent: Shares,
    /// Pieces of work that have been taken, but for each thread's first one.
    next: Apart<AtomicUsize>,
    /// Of each chunk of the step.
    sums: [Apart<Mutex<LossSums>>; MAX_CHUNKS],
    outcome: Apart<Mutex<Outcome>>,
    /// Whether somebody wants a stop.
    stop: AtomicBool,
    /// Whether all have agreed to stop.
    stopped: AtomicBool,
    /// Steps that are whole.
    steps: Apart<AtomicUsize>,
}

/// A step of the call.
#[derive(Clone, Copy)]
struct At {
    step: usize,
    /// Its first image in the order.
    start: usize,
    chunks: Chunks,
    /// At work.
    threads: usize,
    rate: f64,
    /// Whether nodes descend by themselves, because there is one block and nothing but descent.
    descends: bool,
}

impl<X: Source, T: Element> Job<'_, X, T> {
    /// What each thread does. All take the same turns.
    fn work(&self, worker: usize, barrier: &Barrier, clock: &mut Clock<'_>) -> Result<(), Broken> {
        let (plan, threads) = (&self.training.plan, barrier.threads());
        let mut room = [T::zero(); UPDATE];
        let batches = parts(self.call.order.len(), self.call.batch);
        for ((step, batch), &rate) in batches.enumerate().zip(self.call.rates) {
            let chunks = self.training.chunks(batch.len());
            let one_block = chunks.count() == 1 && chunks.len <= plan.block;
            let short = plan.work.saturating_mul(batch.len()) <= WORK_OF_DESCENT;
            let descends = one_block && short && self.training.optimizer.is_plain();
            let at = At { step, start: batch.start, chunks, threads, rate, descends };
            for (number, phase) in self.phases.iter().enumerate() {
                for chunk in self.turns(chunks.count(), worker, threads, self.training.meets()) {
                    if self.stop.load(Ordering::Relaxed) && !descends {
                        break;
                    }
                    let at = At { chunks: Chunks { at: chunk, ..chunks }, ..at };
                    self.chunk(worker, phase, at, clock);
                }
                let last = number + 1 == self.phases.len();
                barrier.wait(|| self.finish_phase(last, &at))?;
            }
            if self.stopped() {
                return Ok(());
            }
            self.update(&at, worker, threads, &mut room);
            barrier.wait(|| {
                self.next.0.store(0, Ordering::Relaxed);
                self.steps.0.fetch_add(1, Ordering::Relaxed);
                if self.stop.load(Ordering::Relaxed) {
                    self.stopped.store(true, Ordering::Relaxed);
                }
            })?;
            self.take_updates(&at, worker, threads);
            if self.stopped() {
                return Ok(());
            }
            if plan.prepared_len > 0 {
                self.prepare(worker, threads);
                barrier.wait(|| self.next.0.store(0, Ordering::Relaxed))?;
            }
        }
        Ok(())
    }

    /// A thread's pieces of `count`: the first one is its own; and then, if they are `fixed`, those that
    /// follow in turns, else those that nobody has taken yet.
    fn turns(
        &self,
        count: usize,
        worker: usize,
        threads: usize,
        fixed: bool,
    ) -> impl Iterator<Item = usize> {
        let own = (worker..if fixed { count } else { count.min(threads) }).step_by(threads);
        // With a thread for each piece, it costs nothing to find out that there are no more.
        let dealt = !fixed && threads < count;
        let next = move || threads + self.next.0.fetch_add(1, Ordering::Relaxed);
        own.chain(std::iter::from_fn(move || dealt.then(next).filter(|&next| next < count)))
    }

    /// The parameters that a thread computes with.
    fn params(&self, worker: usize) -> &Shared<T> {
        self.training.exchange.params(self.params, worker)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Done by one thread while the others wait.
    fn finish_phase(&self, last: bool, at: &At) {
        self.next.0.store(0, Ordering::Relaxed);
        if !last {
            return;
        }
        // A step whose nodes have descended is done.
        if self.stop.load(Ordering::Relaxed) && !at.descends {
            self.stopped.store(true, Ordering::Relaxed);
            return;
        }
        let mut outcome = self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loss = 0.0;
        for sums in &self.sums[..at.chunks.count()] {
            let sums = std::mem::take(&mut *sums.0.lock().unwrap_or_else(PoisonError::into_inner));
            loss += sums.loss;
            outcome.correct += sums.correct;
        }
        outcome.losses.push(loss);
    }

    /// Takes a chunk through a phase, or a part of it if there is a stop: then the step does not count.
    fn chunk(&self, worker: usize, phase: &Phase, at: At, clock: &mut Clock<'_>) {
        let Training { plan, exchange, .. } = self.training;
        let chunks = at.chunks;
        let first = chunks.at * chunks.len;
        let images = chunks.len.min(chunks.images - first);
        let arena = if self.training.meets() { chunks.at } else { worker };
        for (number, part) in parts(images, plan.block).enumerate() {
            let row = first + part.start;
            let block = Block {
                arena: &self.training.arenas[arena],
                n: part.len(),
                random: Random {
                    seed: self.call.seed,
                    step: self.call.first_step + at.step as u64,
                    row: row as u64,
                    iteration: self.training.optimizer.steps + at.step as u64,
                },
                params: self.params(worker),
                // SAFETY: it is written to between steps only.
                prepared: unsafe { self.training.prepared.read(0..plan.prepared_len) },
                stats: &self.training.stats,
                d_stats: &self.training.d_stats,
                chunk: chunks,
            };
            let order = &self.call.order[at.start + row..];
            let mut next: &[usize] = &[];
            if phase.first {
                for n in 0..block.n {
                    plan.read(&block, n, self.examples.x, order[n]);
                }
                let start = order.len().min(block.n * at.threads);
                next = &order[start..order.len().min(start + block.n)];
            }
            let turns = phase.forward.len() + phase.backward.len();
            let mut ahead = Ahead::new(self.examples.x, next, plan.input_len, turns);
            let mut stops = || {
                ahead.ask();
                if clock.says_stop(plan.work_of_node(block.n)) {
                    self.stop.store(true, Ordering::Relaxed);
                }
                self.stop.load(Ordering::Relaxed) && !at.descends
            };
            if !plan.forward(&block, phase.forward.clone(), &mut stops) {
                return;
            }
            if phase.loss {
                self.loss(&block, at.start + row, chunks);
            }
            if phase.loss || !phase.backward.is_empty() {
                // SAFETY: each chunk has its gradient and each worker its extra one.
                let gradient = unsafe { exchange.gradient(chunks.at) };
                let rate = at.descends.then(|| T::from_f64(at.rate));
                if number == 0 {
                    plan.backward(&block, phase.backward.clone(), gradient, rate, &mut stops);
                } else {
                    // SAFETY: as above.
                    let extra = unsafe { self.training.extra[worker].write(0..gradient.len()) };
                    plan.backward(&block, phase.backward.clone(), extra, rate, &mut stops);
                    gradient.iter_mut().zip(extra).for_each(|(sum, &mut d)| *sum = *sum + d);
                }
            }
            if self.stop.load(Ordering::Relaxed) && !at.descends {
                return;
            }
        }
    }

    /// The loss of a block and its gradient; `start` is its first image's place in the order.
    fn loss(&self, block: &Block<'_, T>, start: usize, chunks: Chunks) {
        let Training { plan, loss, end, .. } = self.training;
        let width = plan.width;
        let targets = match self.examples.targets {
            Targets::Labels(labels) => Targets::Labels(&labels[start..start + block.n]),
            Targets::Values(y) => {
                // SAFETY: gone before the block's next loss.
                let rows = unsafe { plan.targets(block) };
                for (row, &image) in rows.chunks_exact_mut(width).zip(&self.call.order[start..]) {
                    row.copy_from_slice(&y[image * width..][..width]);
                }
                Targets::Values(rows)
            }
        };
        // SAFETY: gone before the block goes on; a value and its gradient lie apart.
        let (x, d_x) = unsafe { (plan.value(block, *end), plan.d_value(block, *end)) };
        let scale = T::from_f64(1.0 / chunks.images as f64);
        let mut sums = self.sums[chunks.at].0.lock().unwrap_or_else(PoisonError::into_inner);
        run::loss_backward(d_x, &mut sums, x, targets, *loss, width, scale);
    }

    /// A thread's share of updating parameters and moving averages by what the chunks have found, with
    /// room for a part's gradient.
    fn update(&self, at: &At, worker: usize, threads: usize, room: &mut [T; UPDATE]) {
        let Training { plan, optimizer, exchange, stats, arenas, .. } = self.training;
        let step = optimizer.steps + at.step as u64 + 1;
        let chunks = at.chunks.count();
        if worker == threads - 1 {
            // SAFETY: this thread alone touches moving averages and, between two steps, an arena.
            unsafe {
                let moving = self.moving.write(0..self.moving.len());
                plan.update_moving(moving, stats, &arenas[0], at.chunks);
            }
        }
        let own = self.params(worker);
        for part in self.shares(at).own(worker, threads) {
            // SAFETY: the chunks have met, and this part of gradients and parameters is this thread's.
            unsafe {
                let gradient = exchange.sum(room, chunks, part);
                optimizer.update(own, part.clone(), gradient, at.rate, step);
                exchange.put(own, part, worker, chunks.max(threads));
            }
        }
    }

    /// Makes the parameters that others have updated a thread's own. Those that nodes have descended on
    /// stay with the first thread, which the others leave them to: if there are others, a step of one block
    /// is what is left of the images, and the call's last.
    fn take_updates(&self, at: &At, worker: usize, threads: usize) {
        let own = self.params(worker);
        for part in self.shares(at).others(worker, threads) {
            // SAFETY: the updates are over; the thread's parameters are its own, and so is its chunk's
            // gradient up to the next meeting.
            unsafe { self.training.exchange.take(own, part, worker) };
        }
    }

    /// Who updates what in a step.
    fn shares(&self, at: &At) -> &Shares {
        if at.descends { &self.shares_beside_descent } else { &self.shares }
    }

    /// Makes of the new weights what the nodes want prepared.
    fn prepare(&self, worker: usize, threads: usize) {
        let Training { plan, prepared, .. } = self.training;
        for i in self.turns(plan.len(), worker, threads, false) {
            // SAFETY: nobody writes weights now, and what node `i` wants is this piece of work's.
            unsafe {
                let params = self.params(worker).read(0..self.params.len());
                let moving = self.moving.read(0..self.moving.len());
                plan.prepare(i, prepared.write(plan.prepared(i)), Model { params, moving });
            }
        }
    }
}
