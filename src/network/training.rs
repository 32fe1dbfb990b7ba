//! Training: what it needs, how a batch is divided, and a call of many steps.

mod bands;
mod deferral;
mod job;

use std::ops::Range;

use bands::{BANDS, Bands};
use deferral::Deferral;
use job::Job;

use crate::kernels::foreground::{MOST_IMAGES, Windows};
use crate::kernels::loss::{Loss, LossSums, Targets};
use crate::kernels::rescale::Source;
use crate::kernels::simd::{Element, LINE, prefetch_near};
use crate::network::clock::{Clock, Poll};
use crate::network::exchange::Exchange;
use crate::network::helpers;
use crate::network::layers::Layers;
use crate::network::optimizer::{Averaging, Optimizer, Rule};
use crate::network::plan::Plan;
use crate::network::shared::Shared;
use crate::network::step::{Chunks, Model};
use crate::network::team::{self, Broken};
use crate::network::{BuildError, Mode};

/// Most chunks that a batch is divided into, each with a gradient of its own: enough for the
/// threads that a small network keeps busy.
const MAX_CHUNKS: usize = 16;

/// Chunks of a batch up to which they are made no longer for the sake of the weights, so that there
/// are some for several threads.
const CHUNKS_FOR_THREADS: usize = 4;

/// The same for networks of so few products for each parameter, perceptrons, that writing and
/// adding up four gradients takes half as long as they do. One and two threads are better
/// off with fewer; others have nothing to do then.
const FEW_CHUNKS: usize = 2;
const FEW_PRODUCTS: usize = 4;

/// Images in a chunk of such a network, at least, if the weights, in bytes, stay in the second-level
/// cache: one thread takes 32 images faster than two take 16 each and then one another's gradients.
const MANY_IMAGES: usize = 32;
const WEIGHTS_IN_CACHE: usize = 1 << 20;

/// Bytes that the gradients of all chunks may take together, and those of [`CHUNKS_FOR_THREADS`].
const GRADIENT_BYTES: usize = 1 << 26;
const GRADIENT_BYTES_FOR_THREADS: usize = 1 << 30;

/// Products of one step, forward, below which waking a second thread costs more than it saves: some
/// 30 us of work, forward and backward.
const WORK_FOR_THREADS: usize = 500_000;

/// Blocks of images up to which a batch may be divided by rows of windows. Four would be work for
/// more threads than there are bands, but by rows one and two take less time for them by a
/// twentieth. One takes more for eight.
const BLOCKS_OF_BANDS: usize = 4;

/// Products of one step, forward, from which on such a batch is divided by rows of windows. One
/// thread takes a tenth longer for the smallest of them, and no longer from 24 images on; two take two
/// thirds of the time.
const WORK_FOR_BANDS: usize = 1_000_000;

/// Products of one step, forward, up to which nodes may descend by themselves: such a step cannot
/// be stopped, and so takes some milliseconds at most.
const WORK_OF_DESCENT: usize = 1 << 26;

/// Cache lines of an image's values that are asked for: those of some tens of classes. The machine
/// foresees the rest by itself.
const LINES_OF_TARGETS: usize = 4;

/// Images and what should be said of them.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a, T> {
    /// (images, input)
    pub x: Source<'a>,
    /// Values for all images, or labels for those that are looked at, in their order.
    pub targets: Targets<'a, T>,
}

impl<'a, T: Element> Examples<'a, T> {
    /// Asks for the values of these images, of `width` each, because they are read soon.
    fn expect_targets(&self, order: &[usize], width: usize) {
        if let Targets::Values(y) = self.targets {
            for &image in order {
                let row = &y[image * width..][..width];
                // Wherever in a line it begins.
                let lines = (size_of_val(row) + LINE - 1).div_ceil(LINE).min(LINES_OF_TARGETS);
                prefetch_near(row.as_ptr().cast(), lines);
            }
        }
    }

    /// Of those images that have these places in the order. Values of `width` are brought together
    /// in the room, which they fill.
    fn targets_of<'b>(
        &self,
        order: &[usize],
        places: Range<usize>,
        width: usize,
        room: &'b mut [T],
    ) -> Targets<'b, T>
    where
        'a: 'b,
    {
        match self.targets {
            Targets::Labels(labels) => Targets::Labels(&labels[places]),
            Targets::Values(y) => {
                for (row, &image) in room.chunks_exact_mut(width).zip(&order[places]) {
                    row.copy_from_slice(&y[image * width..][..width]);
                }
                Targets::Values(room)
            }
        }
    }
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
    /// The number of the first step in its epoch: for the random numbers, and for when what is
    /// deferred is settled.
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

impl Outcome {
    /// Of some steps with so many sums each.
    fn new(sums: &[LossSums], each: usize, stopped: bool) -> Self {
        let loss = |step: &[LossSums]| step.iter().map(|sums| sums.loss).sum();
        Self {
            losses: sums.chunks(each).map(loss).collect(),
            correct: sums.iter().map(|sums| sums.correct).sum(),
            stopped,
        }
    }
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
    /// Chunks up to which there are some for several threads.
    chunks_for_threads: usize,
    /// Images in a small batch's chunks.
    block: usize,
    exchange: Exchange<T>,
    stats: Shared<T>,
    d_stats: Shared<T>,
    arenas: Vec<Shared<T>>,
    /// For each arena, the foregrounds of a block's images.
    windows: Vec<Shared<Windows>>,
    /// For each thread, if gradients are added up, room for the one that is added.
    extra: Vec<Shared<T>>,
    /// For batches of one image, once there was one, if something can be deferred.
    deferral: Option<Deferral<T>>,
    /// For small batches, if the network can be divided by rows of windows.
    bands: Option<Bands<T>>,
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

/// Most chunks, by the bytes of a gradient.
fn max_chunks(bytes: usize) -> usize {
    let bytes = bytes.max(1);
    let for_threads = (GRADIENT_BYTES_FOR_THREADS / bytes).min(CHUNKS_FOR_THREADS);
    (GRADIENT_BYTES / bytes).min(MAX_CHUNKS).max(for_threads).max(1)
}

pub fn prepare_all<T: Element>(plan: &Plan<T>, prepared: &mut [T], model: Model<'_, T>) {
    for i in 0..plan.len() {
        plan.prepare(i, &mut prepared[plan.prepared(i)], model);
    }
}

/// What is done with a chunk between two meetings.
#[derive(Clone, Debug)]
struct Phase {
    /// Whether the images come in.
    first: bool,
    /// A stretch of nodes that may be empty: the way to the statistics of the first node.
    forward: Option<Range<usize>>,
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
        let bytes = layers.params_len.saturating_mul(size_of::<T>());
        let max_chunks = max_chunks(bytes);
        let plan = Plan::new(layers, Mode::Training, None, max_chunks)?;
        let few_products = plan.work < FEW_PRODUCTS * layers.params_len;
        let in_cache = few_products && bytes <= WEIGHTS_IN_CACHE;
        let (end, loss) = head(&plan, loss);
        Ok(Self {
            loss,
            end,
            optimizer: Optimizer::new(rule, averaging, layers.params_len)?,
            prepared: Shared::zeros(plan.prepared_len)?,
            stale: true,
            max_chunks,
            chunks_for_threads: if few_products { FEW_CHUNKS } else { CHUNKS_FOR_THREADS },
            block: if in_cache { plan.block.max(MANY_IMAGES) } else { plan.block },
            exchange: Exchange::new(layers.params_len, few_products)?,
            stats: Shared::zeros(plan.stats_len)?,
            d_stats: Shared::zeros(plan.stats_len)?,
            arenas: vec![],
            windows: vec![],
            extra: vec![],
            deferral: None,
            bands: Bands::new(layers, end)?,
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
        self.deferral.iter_mut().for_each(Deferral::weights_changed);
    }

    /// Takes the call's steps.
    ///
    /// # Errors
    /// If there is not enough memory; then nothing has been learnt.
    pub fn run(
        &mut self,
        layers: &Layers,
        params: &mut Shared<T>,
        moving: &mut Shared<T>,
        examples: Examples<'_, T>,
        call: Call<'_>,
        poll: Poll<'_>,
    ) -> Result<Outcome, BuildError> {
        // That of the call, also for a last step of fewer images: wherever an epoch is cut into calls,
        // its steps are the same.
        let by_rows = self.divides_by_rows(call.batch).then(|| self.threads(call, BANDS));
        if let (Some(threads), Some(bands)) = (by_rows, &mut self.bands) {
            let outcome = bands.run(params.get_mut(), examples, call, self.loss, threads, poll)?;
            self.optimizer.steps += outcome.losses.len() as u64;
            self.weights_changed();
            return Ok(outcome);
        }
        let batch = call.batch.min(call.order.len());
        let rest = call.order.len() % batch.max(1);
        let longest = self.make_room(layers, [batch, rest])?;
        let threads = self.threads(call, self.chunks(batch).count());
        let most = self.most_chunks(batch);
        self.make_arenas(if self.meets() { most } else { threads })?;
        let adds_up = longest > self.plan.block || self.adds_pairs() && most > 1;
        self.make_extra(if adds_up { threads } else { 0 }, layers.params_len)?;
        let defers = self.defers(call.batch);
        if defers && self.deferral.is_none() {
            self.deferral = Some(Deferral::new(&self.plan)?);
        }
        self.stale |= self.optimizer.show_averages(params.get_mut(), false);
        if self.stale {
            let model = Model { params: params.get_mut(), moving: moving.get_mut() };
            prepare_all(&self.plan, self.prepared.get_mut(), model);
        }
        // Until it is known how the call has ended, be it in a panic.
        self.stale = true;
        self.exchange.begin(params, most, threads, call.rates.len())?;
        match &mut self.deferral {
            Some(deferral) if defers => {
                deferral.begin(&self.plan, params.get_mut(), call.first_step)
            }
            Some(deferral) => deferral.weights_changed(),
            None => {}
        }
        let phases = self.phases();
        let deferral = self.deferral.as_ref().filter(|_| defers);
        let job = Job::new(self, params, moving, deferral, examples, call, &phases, threads)?;
        team::run(threads, |worker, barrier| {
            let mut clock = Clock::new((worker == 0).then_some(poll));
            // It comes of a panic elsewhere, which `run` passes on.
            let _: Result<(), Broken> = job.work(worker, barrier, &mut clock);
        });
        let outcome = job.end();
        if let Some(deferral) = self.deferral.as_mut().filter(|_| defers) {
            deferral.end(&self.plan, params.get_mut());
        }
        self.optimizer.steps += outcome.losses.len() as u64;
        self.stale = outcome.stopped;
        Ok(outcome)
    }

    /// How many threads pay for a call that has work for so many.
    fn threads(&self, call: Call<'_>, most: usize) -> usize {
        let images = call.order.len();
        if self.plan.work.saturating_mul(call.batch.min(images)) < WORK_FOR_THREADS {
            return 1;
        }
        call.threads.min(most).min(helpers::most_that_pay(self.plan.work_of_training(images)))
    }

    /// Whether batches of that size are divided by rows of windows.
    pub fn divides_by_rows(&self, batch: usize) -> bool {
        self.bands.is_some()
            && self.optimizer.is_plain()
            && batch <= MOST_IMAGES
            && batch <= BLOCKS_OF_BANDS * self.block
            && (WORK_FOR_BANDS..=WORK_OF_DESCENT).contains(&self.plan.work.saturating_mul(batch))
    }

    /// Whether something is deferred in batches of that size, because nodes descend by themselves, and
    /// by one image after the other.
    fn defers(&self, batch: usize) -> bool {
        batch == 1
            && self.plan.deferred_len > 0
            && self.optimizer.is_plain()
            && self.plan.work <= WORK_OF_DESCENT
            && !self.meets()
    }

    /// How a batch is divided: by its size, never by the number of threads.
    fn chunks(&self, images: usize) -> Chunks {
        let len = images.div_ceil(self.chunks_for_threads).min(self.plan.longest_block);
        let len = len.max(self.block).max(images.div_ceil(self.max_chunks));
        let count = self.even(images.div_ceil(len));
        Chunks { images, len: images.div_ceil(count.max(1)) }
    }

    /// How many chunks there are at most in batches of up to so many images. A smaller batch may
    /// have more than a larger one, whose chunks are longer.
    fn most_chunks(&self, images: usize) -> usize {
        self.even(images.div_ceil(self.block))
    }

    /// So many chunks or one more, and all as long: two threads take three chunks, or a long one and
    /// a short one, in the time of four or of two long ones.
    fn even(&self, count: usize) -> usize {
        if count > 1 { count.next_multiple_of(2).min(self.max_chunks) } else { count }
    }

    /// Whether a thread that takes both chunks of a pair adds up their gradients itself.
    fn adds_pairs(&self) -> bool {
        self.plan.adds() && !self.meets()
    }

    /// Whether each chunk keeps its arena for the whole step, because chunks meet within it.
    fn meets(&self) -> bool {
        self.plan.stats_len > 0
    }

    /// Provides for batches of these sizes; returns how many images their longest chunk has. That may
    /// be one of a smaller batch, if that is divided into fewer.
    fn make_room(&mut self, layers: &Layers, batches: [usize; 2]) -> Result<usize, BuildError> {
        let [one, other] = batches.map(|images| self.chunks(images).len);
        let longest = one.max(other);
        let block = if self.meets() { longest } else { longest.min(self.plan.longest_block) };
        if self.plan.block < block {
            self.plan = Plan::new(layers, Mode::Training, Some(block), self.max_chunks)?;
            self.arenas.clear();
            self.windows.clear();
        }
        Ok(longest)
    }

    fn make_arenas(&mut self, count: usize) -> Result<(), BuildError> {
        while self.windows.len() < count {
            self.windows.push(Shared::empty_sets(self.plan.block)?);
        }
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

    /// What nodes descend on by themselves in steps of so many chunks.
    fn descended(&self, chunks: usize) -> Vec<Range<usize>> {
        if self.optimizer.is_plain() { self.plan.descended(chunks) } else { vec![] }
    }

    /// A thread's gradient beside those that are exchanged; empty if there is none.
    ///
    /// # Safety
    /// Nobody else reads or writes it while the slice lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn extra(&self, worker: usize) -> &mut [T] {
        match self.extra.get(worker) {
            // SAFETY: the caller's promise.
            Some(extra) => unsafe { extra.write(0..extra.len()) },
            None => &mut [],
        }
    }

    fn phases(&self) -> Vec<Phase> {
        let stretches = self.plan.stretches(self.end);
        let mut phases: Vec<Phase> = stretches
            .iter()
            .enumerate()
            .map(|(i, stretch)| Phase {
                first: i == 0,
                forward: Some(stretch.clone()),
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
                    forward: None,
                    loss: false,
                    backward: start..end,
                }),
            }
            end = start;
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::Activation;
    use crate::kernels::shape::Padding;
    use crate::network::spec::{LayerKind, LayerSpec};

    const NORM: LayerKind =
        LayerKind::BatchNorm { momentum: 0.9, epsilon: 1e-3, center: true, scale: true };
    const DENSE: LayerKind =
        LayerKind::Dense { units: 3, use_bias: true, activation: Activation::Linear };

    fn training(input: &[usize], kinds: &[LayerKind]) -> Training<f32> {
        let named = |&kind: &LayerKind| LayerSpec { name: "layer".to_owned(), kind };
        let layers = Layers::new(input, kinds.iter().map(named).collect()).unwrap();
        let rule = Rule::Sgd { momentum: 0.0, nesterov: false };
        Training::new(&layers, Loss::MeanSquaredError, rule, None).unwrap()
    }

    #[test]
    fn chunks_are_as_many_as_their_gradients_may_take() {
        let mb = 1 << 20;
        let bytes = [0, 4 * mb, 8 * mb, 17 * mb, 256 * mb, 400 * mb, 2000 * mb];
        assert_eq!(bytes.map(max_chunks), [16, 16, 8, 4, 4, 2, 1]);
    }

    #[test]
    fn two_threads_have_half_of_the_images_each() {
        let conv = LayerKind::Conv {
            filters: 16,
            window: (3, 3),
            strides: (1, 1),
            padding: Padding::Same,
            use_bias: true,
            activation: Activation::Linear,
        };
        for side in [16, 40, 200] {
            let training = training(&[side, side, 1], &[conv]);
            assert!(training.block > 1);
            for images in 1..=40 * training.block {
                let chunks = training.chunks(images);
                let count = chunks.count();
                assert_eq!(count == 1, images <= training.block, "{images}");
                assert!(count <= training.most_chunks(images));
                assert_eq!((0..count).map(|at| chunks.images_of(at).len()).sum::<usize>(), images);
                if count > 1 {
                    // But for whole images in each chunk.
                    let most = images.div_ceil(2) + count;
                    assert!(count.div_ceil(2) * chunks.len <= most, "{chunks:?}");
                }
            }
        }
    }

    #[test]
    fn phases_pass_each_node_once_on_each_way_and_stop_once_before_each_statistic() {
        for kinds in [
            vec![DENSE],
            vec![NORM, DENSE],
            vec![DENSE, NORM],
            vec![NORM, DENSE, NORM, NORM, DENSE, NORM],
        ] {
            let phases = training(&[4], &kinds).phases();
            let forward = || phases.iter().filter_map(|phase| phase.forward.clone());
            let backward = phases.iter().flat_map(|phase| phase.backward.clone().rev());
            let nodes: Vec<usize> = (0..kinds.len()).collect();
            assert_eq!(forward().flatten().collect::<Vec<_>>(), nodes);
            assert_eq!(
                backward.collect::<Vec<_>>(),
                nodes.iter().rev().copied().collect::<Vec<_>>()
            );
            let norms =
                nodes.iter().copied().filter(|&i| matches!(kinds[i], LayerKind::BatchNorm { .. }));
            let stops: Vec<usize> = forward().map(|stretch| stretch.end).collect();
            assert_eq!(stops, norms.chain([nodes.len()]).collect::<Vec<_>>());
            assert_eq!(phases.iter().filter(|phase| phase.loss).count(), 1);
        }
    }
}
