//! What each thread does in a call of training.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::deferral::Deferral;
use super::{Call, Examples, Outcome, Phase, Training, WORK_OF_DESCENT};
use crate::kernels::ahead::Ahead;
use crate::kernels::loss::LossSums;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::clock::Clock;
use crate::network::exchange::{Shares, UPDATE};
use crate::network::plan::Block;
use crate::network::shared::Shared;
use crate::network::step::{Chunks, Descent, Model, Random};
use crate::network::team::{Apart, Barrier, Broken};
use crate::network::{BuildError, parts};

/// One call of `train`, as all its threads see it.
pub struct Job<'a, T> {
    training: &'a Training<T>,
    params: &'a Shared<T>,
    moving: &'a Shared<T>,
    /// If something is deferred.
    deferral: Option<&'a Deferral<T>>,
    examples: Examples<'a, T>,
    call: Call<'a>,
    phases: &'a [Phase],
    shares: Shares,
    /// Beside what descends by itself with one chunk, and with several; none if nothing does.
    shares_beside_descent: [Option<Shares>; 2],
    /// How often threads have asked for a piece of work beside their first ones.
    asked: Apart<AtomicUsize>,
    /// (steps, [`chunks`](Self::chunks))
    sums: Shared<LossSums>,
    /// Most chunks of a step.
    chunks: usize,
    /// Whether somebody wants a stop.
    stop: AtomicBool,
    /// Whether all have agreed to stop.
    stopped: AtomicBool,
    /// Steps that are whole, as the first thread counts them.
    steps: Apart<AtomicUsize>,
}

/// A step of the call. Its gradient is the sum of what pairs of chunks come to, whether a thread
/// takes both of a pair and adds them up in the place of one gradient, or each is on its own until
/// all have met.
struct At {
    step: usize,
    /// Its first image in the order.
    start: usize,
    chunks: Chunks,
    /// Chunks of a thread's turn: two, a pair, or one.
    together: usize,
    /// At work.
    threads: usize,
    rate: f64,
    /// Whether nodes descend by themselves, because one thread takes one block after the other and
    /// there is nothing but descent.
    descends: bool,
}

/// Chunks of the thread that takes most of `count`, so many together.
fn most(count: usize, together: usize, threads: usize) -> usize {
    let (full, rest) = (count / together, count % together);
    let uneven = !full.is_multiple_of(threads); // then the rest is for one that has less
    together * full.div_ceil(threads) + if uneven { 0 } else { rest }
}

impl At {
    /// How many turns there are for all threads.
    fn turns(&self) -> usize {
        self.chunks.count().div_ceil(self.together)
    }

    /// How many gradients there are when all have met: one for each turn or, where nodes descend, the
    /// last one's and the sum of the others.
    fn gradients(&self) -> usize {
        if self.descends { self.turns().min(2) } else { self.turns() }
    }

    /// The chunks of a turn.
    fn chunks_of(&self, turn: usize) -> Range<usize> {
        let start = turn * self.together;
        start..self.chunks.count().min(start + self.together)
    }

    /// The turn that a chunk belongs to, and whether it is the first and the last one of that.
    fn turn_of(&self, chunk: usize) -> (usize, bool, bool) {
        let turn = chunk / self.together;
        let chunks = self.chunks_of(turn);
        (turn, chunk == chunks.start, chunk + 1 == chunks.end)
    }
}

impl<'a, T: Element> Job<'a, T> {
    /// For so many threads.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(
        training: &'a Training<T>,
        params: &'a Shared<T>,
        moving: &'a Shared<T>,
        deferral: Option<&'a Deferral<T>>,
        examples: Examples<'a, T>,
        call: Call<'a>,
        phases: &'a [Phase],
        threads: usize,
    ) -> Result<Self, BuildError> {
        assert!(deferral.is_none() || threads == 1, "one thread, where something is deferred");
        let shares = |left_out: &[Range<usize>]| Shares::new(params.len(), left_out, threads);
        let beside = |chunks| {
            let descended = training.descended(chunks);
            (!descended.is_empty()).then(|| shares(&descended))
        };
        let chunks = training.most_chunks(call.batch.min(call.order.len()));
        Ok(Self {
            training,
            params,
            moving,
            deferral,
            examples,
            call,
            phases,
            shares: shares(&[]),
            shares_beside_descent: [1, 2].map(beside),
            asked: Apart::default(),
            sums: Shared::empty_sums(call.rates.len() * chunks)?,
            chunks,
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            steps: Apart::default(),
        })
    }

    /// What came of the steps that are whole.
    pub fn end(mut self) -> Outcome {
        let steps = self.steps.0.into_inner();
        let sums = &self.sums.get_mut()[..steps * self.chunks];
        Outcome::new(sums, self.chunks, self.stopped.into_inner())
    }

    /// What each thread does. All take the same turns.
    pub fn work(
        &self,
        worker: usize,
        barrier: &Barrier,
        clock: &mut Clock<'_>,
    ) -> Result<(), Broken> {
        let (plan, threads) = (&self.training.plan, barrier.threads());
        let mut room = [T::zero(); UPDATE];
        let mut asked = 0;
        let batches = parts(self.call.order.len(), self.call.batch);
        for ((step, batch), &rate) in batches.enumerate().zip(self.call.rates) {
            let at = self.at(step, batch, threads, rate);
            assert!(self.deferral.is_none() || at.descends, "a descent, if something is deferred");
            if let Some(deferral) = self.deferral.filter(|_| step > 0) {
                // SAFETY: `new` has checked that this is the only thread, and between two steps it has
                // borrowed neither.
                unsafe { deferral.settle_before(plan, self.params, self.step_of_epoch(step)) };
            }
            for phase in self.phases {
                let fixed = self.training.meets();
                for turn in self.turns(at.turns(), worker, threads, fixed, &mut asked) {
                    for chunk in at.chunks_of(turn) {
                        if self.stops(&at) {
                            break;
                        }
                        self.chunk(worker, phase, &at, chunk, clock);
                    }
                }
                if self.all_stop(barrier, worker, self.stops(&at))? {
                    return Ok(());
                }
            }
            self.update(&at, worker, &mut room);
            let stop = self.all_stop(barrier, worker, self.stop.load(Ordering::Relaxed))?;
            self.take_updates(&at, worker);
            if worker == 0 {
                self.steps.0.store(step + 1, Ordering::Relaxed);
            }
            if stop {
                return Ok(());
            }
            if plan.prepared_len > 0 {
                self.prepare(worker, threads, &mut asked);
                barrier.wait(worker, false)?;
            }
        }
        Ok(())
    }

    /// The number in its epoch of a step of the call.
    fn step_of_epoch(&self, step: usize) -> u64 {
        self.call.first_step.wrapping_add(step as u64)
    }

    /// How a step is taken whose images have these places in the order.
    fn at(&self, step: usize, batch: Range<usize>, threads: usize, rate: f64) -> At {
        let plan = &self.training.plan;
        let chunks = self.training.chunks(batch.len());
        let (count, of_one_block) = (chunks.count(), chunks.len <= plan.block);
        let adds_pairs = self.training.adds_pairs() && of_one_block;
        let takes_pairs = adds_pairs && most(count, 2, threads) == most(count, 1, threads);
        let in_turn = of_one_block && (count == 1 || threads == 1 && takes_pairs);
        let short = plan.work.saturating_mul(batch.len()) <= WORK_OF_DESCENT;
        let descends = in_turn && short && self.beside_descent(chunks).is_some();
        let together = if takes_pairs { 2 } else { 1 };
        At { step, start: batch.start, chunks, together, threads, rate, descends }
    }

    /// Waits for the other threads; whether any of them wants to stop, and so all do.
    fn all_stop(&self, barrier: &Barrier, worker: usize, stop: bool) -> Result<bool, Broken> {
        let stop = barrier.wait(worker, stop)?;
        if stop {
            self.stopped.store(true, Ordering::Relaxed);
        }
        Ok(stop)
    }

    /// A thread's pieces of `count`: the first one is its own; and then, if they are `fixed`, those
    /// that follow in turns, else those that nobody has taken yet. Threads have `asked` so often
    /// before.
    fn turns(
        &self,
        count: usize,
        worker: usize,
        threads: usize,
        fixed: bool,
        asked: &mut usize,
    ) -> impl Iterator<Item = usize> {
        let own = (worker..if fixed { count } else { count.min(threads) }).step_by(threads);
        // With a thread for each piece, it costs nothing to find out that there are no more.
        let deals = !fixed && threads < count;
        let before = *asked;
        if deals {
            // For all pieces but the first ones, and each thread once in vain.
            *asked += count;
        }
        let next = move || threads + self.asked.0.fetch_add(1, Ordering::Relaxed) - before;
        own.chain(std::iter::from_fn(move || deals.then(next).filter(|&next| next < count)))
    }

    /// The parameters that a thread computes with.
    fn params(&self, worker: usize) -> &Shared<T> {
        self.training.exchange.params(self.params, worker)
    }

    /// Whether to stop within a step: not where nodes have descended already.
    fn stops(&self, at: &At) -> bool {
        self.stop.load(Ordering::Relaxed) && !at.descends
    }

    /// Takes a chunk through a phase, or a part of it if there is a stop: then the step does not
    /// count.
    fn chunk(&self, worker: usize, phase: &Phase, at: &At, chunk: usize, clock: &mut Clock<'_>) {
        let plan = &self.training.plan;
        let images = at.chunks.images_of(chunk);
        let arena = if self.training.meets() { chunk } else { worker };
        for (number, part) in parts(images.len(), plan.block).enumerate() {
            let (row, n) = (images.start + part.start, part.len());
            let order = &self.call.order[at.start + row..];
            let ahead = self.ahead(phase, at, chunk, order, n);
            if phase.first {
                self.examples.expect_targets(&order[..n], plan.width);
            }
            let images = plan.in_place(self.examples.x, &order[..n]);
            let block = Block {
                arena: &self.training.arenas[arena],
                windows: &self.training.windows[arena],
                n,
                random: Random {
                    seed: self.call.seed,
                    step: self.step_of_epoch(at.step),
                    row: row as u64,
                    iteration: self.training.optimizer.steps + at.step as u64,
                },
                params: self.params(worker),
                // SAFETY: it is written to between steps only.
                prepared: unsafe { self.training.prepared.read(0..plan.prepared_len) },
                deferred: self.deferral.map(|deferral| &deferral.deferred),
                stats: &self.training.stats,
                d_stats: &self.training.d_stats,
                chunks: at.chunks,
                chunk,
                images,
                ahead: &ahead,
            };
            if phase.first {
                // SAFETY: the arena is the worker's or, where chunks meet, the chunk's own.
                unsafe { plan.read(&block, self.examples.x, order[..n].iter().copied()) };
            }
            let mut stops = || {
                if clock.says_stop(plan.work_of_node(block.n)) {
                    self.stop.store(true, Ordering::Relaxed);
                }
                self.stops(at)
            };
            if let Some(nodes) = &phase.forward
                // SAFETY: as above.
                && !unsafe { plan.forward(&block, nodes.clone(), &mut stops) }
            {
                return;
            }
            if phase.loss {
                self.loss(&block, at, row);
            }
            if phase.loss || !phase.backward.is_empty() {
                self.backward(worker, phase, at, &block, number == 0, &mut stops);
            }
            if self.stops(at) {
                return;
            }
        }
    }

    /// Takes a block of a chunk backward, the first one or another.
    fn backward(
        &self,
        worker: usize,
        phase: &Phase,
        at: &At,
        block: &Block<'_, T>,
        first_block: bool,
        stops: &mut dyn FnMut() -> bool,
    ) {
        let Training { plan, exchange, .. } = self.training;
        let (turn, first, _) = at.turn_of(block.chunk);
        let place = turn.min(at.gradients() - 1);
        // SAFETY: the chunks of a turn are one thread's, and so are those of all turns if several
        // have one place; and each worker has its room.
        let (gradient, room) = unsafe { (exchange.gradient(place), self.training.extra(worker)) };
        let before = (at.descends && place > 0).then(|| {
            // SAFETY: this is another place, and all are one thread's.
            let before = unsafe { exchange.gradient(0) };
            if first && place < turn {
                run::add_gradient(before, gradient); // the last turn's
            }
            &*before
        });
        let (d_params, sum) =
            if first && first_block { (gradient, None) } else { (room, Some(gradient)) };
        let last = block.chunk + 1 == at.chunks.count();
        let descent = Descent { before, rate: T::from_f64(at.rate) };
        let descent = (at.descends && last).then_some(descent);
        let nodes = phase.backward.clone();
        // SAFETY: as above; chunks that descend are of one block and, as `in_turn` says, one
        // thread's, so that nobody else reads parameters meanwhile.
        unsafe { plan.backward(block, nodes, d_params, sum, descent, stops) };
    }

    /// What a thread reads next, behind the `n` images of `order` that it has of a chunk now; each
    /// node of the phase asks for a share. The images come in in a step's first phase.
    fn ahead(
        &self,
        phase: &Phase,
        at: &At,
        chunk: usize,
        order: &'a [usize],
        n: usize,
    ) -> Ahead<'a> {
        let (.., last) = at.turn_of(chunk);
        // Behind its turn, each of the other threads takes one.
        let others = if last { (at.threads - 1) * at.together } else { 0 };
        let start = order.len().min(n * (1 + others));
        let end = if phase.first { order.len().min(start + n) } else { start };
        let nodes = phase.forward.as_ref().map_or(0, Range::len) + phase.backward.len();
        let plan = &self.training.plan;
        Ahead::new(self.examples.x, &order[start..end], plan.cut, plan.input_len, nodes)
    }

    /// The loss of a block and its gradient; `row` is its first image's place in the batch.
    fn loss(&self, block: &Block<'_, T>, at: &At, row: usize) {
        let start = at.start + row;
        let Training { plan, loss, end, .. } = self.training;
        // SAFETY: gone before the block's next loss.
        let room = unsafe { plan.targets(block) };
        let places = start..start + block.n;
        let targets = self.examples.targets_of(self.call.order, places, plan.width, room);
        // SAFETY: gone before the block goes on; a value and its gradient lie apart.
        let (x, d_x) = unsafe { (plan.value(block, *end), plan.d_value(block, *end)) };
        let scale = T::from_f64(1.0 / block.chunks.images as f64);
        let sums = at.step * self.chunks + block.chunk;
        // SAFETY: these are of this chunk, which is one thread's.
        let sums = unsafe { &mut self.sums.write(sums..sums + 1)[0] };
        run::loss_backward(d_x, sums, x, targets, *loss, plan.width, scale);
    }

    /// A thread's share of updating parameters and moving averages by what the chunks have found,
    /// with room for a part's gradient.
    fn update(&self, at: &At, worker: usize, room: &mut [T; UPDATE]) {
        let threads = at.threads;
        let Training { plan, optimizer, exchange, stats, arenas, .. } = self.training;
        let step = optimizer.steps + at.step as u64 + 1;
        let (gradients, in_pairs) = (at.gradients(), at.together == 1); // else they are pairs' sums
        if worker == threads - 1 {
            // SAFETY: this thread alone touches moving averages and, between two steps, an arena.
            unsafe {
                let moving = self.moving.write(0..self.moving.len());
                plan.update_moving(moving, stats, &arenas[0], at.chunks);
            }
        }
        let own = self.params(worker);
        for part in self.shares(at).own(worker, threads) {
            // SAFETY: the chunks have met, and this part of gradients and parameters is this
            // thread's.
            unsafe {
                let gradient = exchange.sum(room, gradients, in_pairs, part);
                optimizer.update(own, part.clone(), gradient, at.rate, step);
                exchange.put(own, part, worker, gradients.max(threads));
            }
        }
    }

    /// Makes the parameters that others have updated a thread's own. Those that nodes have
    /// descended on stay with the first thread, which the others leave them to: if there are
    /// others, a step of one block is what is left of the images, and the call's last.
    fn take_updates(&self, at: &At, worker: usize) {
        let own = self.params(worker);
        for part in self.shares(at).others(worker, at.threads) {
            // SAFETY: the updates are over; the thread's parameters are its own, and so is the
            // gradient of its number up to the next meeting.
            unsafe { self.training.exchange.take(own, part, worker) };
        }
    }

    /// Who updates what in a step.
    fn shares(&self, at: &At) -> &Shares {
        let beside = self.beside_descent(at.chunks).filter(|_| at.descends);
        beside.unwrap_or(&self.shares)
    }

    fn beside_descent(&self, chunks: Chunks) -> Option<&Shares> {
        self.shares_beside_descent[usize::from(chunks.count() > 1)].as_ref()
    }

    /// Makes of the new weights what the nodes want prepared.
    fn prepare(&self, worker: usize, threads: usize, asked: &mut usize) {
        let Training { plan, prepared, .. } = self.training;
        for i in self.turns(plan.len(), worker, threads, false, asked) {
            // SAFETY: nobody writes weights now, and what node `i` wants is this piece of work's.
            unsafe {
                let params = self.params(worker).read(0..self.params.len());
                let moving = self.moving.read(0..self.moving.len());
                plan.prepare(i, prepared.write(plan.prepared(i)), Model { params, moving });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_all_chunks_in_their_order() {
        for count in 1..=16 {
            for together in [1, 2] {
                let chunks = Chunks { images: 3 * count, len: 3 };
                let (step, start, threads, rate, descends) = (0, 0, 1, 0.1, false);
                let at = At { step, start, chunks, together, threads, rate, descends };
                let all: Vec<usize> = (0..at.turns()).flat_map(|turn| at.chunks_of(turn)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
                for chunk in 0..count {
                    let (turn, first, last) = at.turn_of(chunk);
                    let chunks = at.chunks_of(turn);
                    assert_eq!((first, last), (chunks.start == chunk, chunks.end == chunk + 1));
                }
            }
        }
    }

    #[test]
    fn the_busiest_thread_is_known() {
        for count in 1..=16 {
            for threads in 1..=count {
                for together in [1, 2] {
                    // Turn after turn, to the thread that has least.
                    let mut taken = vec![0; threads];
                    for start in (0..count).step_by(together) {
                        let least = taken.iter_mut().min().unwrap();
                        *least += together.min(count - start);
                    }
                    let found = most(count, together, threads);
                    assert_eq!(taken.iter().max(), Some(&found), "{count} {together} {threads}");
                }
            }
        }
    }
}
