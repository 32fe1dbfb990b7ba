//! Small batches of a small network, divided by the rows of their images.
//!
//! Where a step is short, most of what a second thread could save goes into gradients that travel
//! from core to core, and parameters that travel back. But a network of one convolution and one
//! dense layer has nearly all of its parameters in the latter, and each of those meets one pooling
//! window. So here a thread takes the same rows of windows of all images, and their weights are its
//! own: only the sums of the dense layer travel, and the gradient of the convolution's few
//! parameters.

mod part;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use part::{NODES, Part, Place, cut};

use super::{Call, Examples, Outcome};
use crate::kernels::ahead::Ahead;
use crate::kernels::foreground::Windows;
use crate::kernels::loss::{Loss, LossSums};
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::clock::{Clock, Poll};
use crate::network::layers::Layers;
use crate::network::plan::{Block, Plan};
use crate::network::shared::Shared;
use crate::network::step::{Chunks, Descent, Random};
use crate::network::team::{self, Apart, Barrier, Broken};
use crate::network::{BuildError, Mode, parts};

/// How many bands there are, an upper and a lower one: threads that small batches have work for.
pub const BANDS: usize = 2;

/// The bands of a network.
#[derive(Debug)]
pub struct Bands<T> {
    parts: [Part; BANDS],
    /// All of them, once there was a batch.
    bands: Vec<Band<T>>,
    /// Of which there are none.
    stats: Shared<T>,
}

/// Some rows of windows, and what they need.
#[derive(Debug)]
struct Band<T> {
    plan: Plan<T>,
    place: Place,
    params: Shared<T>,
    /// Of all its parameters, but kept for those of the convolution; the others descend by themselves.
    gradient: Shared<T>,
    /// Of those of the convolution: room for the sum of all bands' gradients.
    sum: Shared<T>,
    arena: Shared<T>,
    windows: Shared<Windows>,
    /// (images, outputs): the sums of all bands.
    logits: Shared<T>,
}

impl<T: Element> Band<T> {
    /// For batches of at most so many images.
    fn new(part: &Part, images: usize) -> Result<Self, BuildError> {
        let plan = Plan::new(&part.layers, Mode::Training, Some(images), 1)?.of_part(part.seen);
        let zeros = || Shared::zeros(part.layers.params_len);
        Ok(Self {
            place: part.place.clone(),
            params: zeros()?,
            gradient: zeros()?,
            sum: Shared::zeros(part.place.shared.len())?,
            arena: Shared::zeros(plan.arena_len)?,
            windows: Shared::empty_sets(images)?,
            logits: Shared::zeros(images * plan.width)?,
            plan,
        })
    }

    /// Takes its parameters from those of the whole network.
    fn take(&mut self, params: &[T]) {
        for (whole, own) in &self.place.pieces {
            self.params.get_mut()[own.clone()].copy_from_slice(&params[whole.clone()]);
        }
    }

    /// Gives them back; those of the convolution are the same whichever band gives them.
    fn give(&mut self, params: &mut [T]) {
        for (whole, own) in &self.place.pieces {
            params[whole.clone()].copy_from_slice(&self.params.get_mut()[own.clone()]);
        }
    }
}

impl<T: Element> Bands<T> {
    /// Those of a network whose loss takes what comes of so many nodes; None if it cannot be cut.
    ///
    /// # Errors
    /// If a size overflows.
    pub fn new(layers: &Layers, end: usize) -> Result<Option<Self>, BuildError> {
        let Some(parts) = cut(&layers.layers, end)? else { return Ok(None) };
        Ok(Some(Self { parts, bands: vec![], stats: Shared::zeros(0)? }))
    }

    /// Provides for batches of so many images.
    fn make_room(&mut self, images: usize) -> Result<(), BuildError> {
        if self.bands.first().is_none_or(|band| band.plan.block < images) {
            let bands = self.parts.iter().map(|part| Band::new(part, images));
            self.bands = bands.collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Takes the call's steps of plain gradient descent.
    ///
    /// # Errors
    /// If there is not enough memory; then nothing has been learnt.
    pub fn run(
        &mut self,
        params: &mut [T],
        examples: Examples<'_, T>,
        call: Call<'_>,
        loss: Loss,
        threads: usize,
        poll: Poll<'_>,
    ) -> Result<Outcome, BuildError> {
        self.make_room(call.batch)?;
        let sums = Shared::empty_sums(call.rates.len())?;
        self.bands.iter_mut().for_each(|band| band.take(params));
        let (stopped, steps) = (AtomicBool::new(false), Apart::default());
        let job = Job { bands: self, examples, call, loss, sums, stopped, steps };
        team::run(threads, |worker, barrier| {
            let mut clock = Clock::new((worker == 0).then_some(poll));
            // It comes of a panic elsewhere, which `run` passes on.
            let _: Result<(), Broken> = job.work(worker, barrier, &mut clock);
        });
        let outcome = job.end();
        self.bands.iter_mut().for_each(|band| band.give(params));
        Ok(outcome)
    }
}

/// One call, as all its threads see it.
struct Job<'a, T> {
    bands: &'a Bands<T>,
    examples: Examples<'a, T>,
    call: Call<'a>,
    loss: Loss,
    /// (steps,)
    sums: Shared<LossSums>,
    stopped: AtomicBool,
    /// Steps that are whole, as the first thread counts them.
    steps: Apart<AtomicUsize>,
}

impl<'a, T: Element> Job<'a, T> {
    /// What came of the steps that are whole.
    fn end(mut self) -> Outcome {
        let sums = &self.sums.get_mut()[..self.steps.0.into_inner()];
        Outcome::new(sums, 1, self.stopped.into_inner())
    }

    /// What each thread does.
    fn work(&self, worker: usize, barrier: &Barrier, clock: &mut Clock<'_>) -> Result<(), Broken> {
        let own = || self.bands.bands.iter().skip(worker).step_by(barrier.threads());
        let nothing = Ahead::nothing();
        let batches = parts(self.call.order.len(), self.call.batch);
        for ((step, batch), &rate) in batches.enumerate().zip(self.call.rates) {
            let order = &self.call.order[batch.clone()];
            self.examples.expect_targets(order, self.bands.bands[0].plan.width);
            for band in own() {
                self.forward(band, order, &nothing);
            }
            barrier.wait(worker, false)?;
            self.loss(own(), step, batch.clone(), worker);
            for band in own() {
                self.backward(band, order, self.ahead(band, batch.end), rate);
            }
            let work = |band: &Band<T>| band.plan.work_of_training(order.len());
            let stop = barrier.wait(worker, clock.says_stop(own().map(work).sum()))?;
            own().for_each(|band| self.update(band, rate));
            if worker == 0 {
                self.steps.0.store(step + 1, Ordering::Relaxed);
            }
            if stop {
                self.stopped.store(true, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }

    /// A band's block of the images in this order.
    fn block<'b>(
        &'b self,
        band: &'b Band<T>,
        order: &'b [usize],
        ahead: &'b Ahead<'b>,
    ) -> Block<'b, T> {
        Block {
            arena: &band.arena,
            windows: &band.windows,
            n: order.len(),
            // Nothing here is random.
            random: Random { seed: 0, step: 0, row: 0, iteration: 0 },
            params: &band.params,
            prepared: &[],
            deferred: None,
            stats: &self.bands.stats,
            d_stats: &self.bands.stats,
            chunks: Chunks { images: order.len(), len: order.len() },
            chunk: 0,
            images: band.plan.in_place(self.examples.x, order),
            ahead,
        }
    }

    /// What a band reads next, those images that have places from `start` on in the order.
    fn ahead(&self, band: &Band<T>, start: usize) -> Ahead<'a> {
        let rest = &self.call.order[start..];
        let next = &rest[..rest.len().min(self.call.batch)];
        Ahead::new(self.examples.x, next, band.plan.cut, band.plan.input_len, NODES)
    }

    fn forward(&self, band: &Band<T>, order: &[usize], ahead: &Ahead<'_>) {
        let block = self.block(band, order, ahead);
        // SAFETY: the arena and the parameters are the band's, and the band is this thread's.
        unsafe {
            band.plan.read(&block, self.examples.x, order.iter().copied());
            band.plan.forward(&block, 0..NODES, &mut || false);
        }
    }

    /// The loss of a batch and its gradient, which is that of each band's sums: for a thread's bands.
    fn loss<'b>(
        &'b self,
        mut own: impl Iterator<Item = &'b Band<T>>,
        step: usize,
        batch: Range<usize>,
        worker: usize,
    ) {
        let (order, nothing) = (&self.call.order[batch.clone()], Ahead::nothing());
        let Some(first) = own.next() else { return };
        let block = self.block(first, order, &nothing);
        // SAFETY: these regions are this thread's, and what is borrowed is gone before the band
        // goes on.
        let (d_x, room) =
            unsafe { (first.plan.d_value(&block, NODES), first.plan.targets(&block)) };
        // SAFETY: as above.
        let x = unsafe { first.logits.write(0..d_x.len()) };
        x.fill(T::zero());
        for band in &self.bands.bands {
            let block = self.block(band, order, &nothing);
            // SAFETY: all bands have been run forward. Others may be on their way back, where they
            // only read this, and write it again behind the next meeting.
            run::add_gradient(x, unsafe { band.plan.value(&block, NODES) });
        }
        let mut unread = LossSums::default();
        let sums = if worker == 0 {
            // SAFETY: the first thread alone writes them.
            unsafe { &mut self.sums.write(step..step + 1)[0] }
        } else {
            &mut unread
        };
        let scale = T::from_f64(1.0 / order.len() as f64);
        let targets = self.examples.targets_of(self.call.order, batch, first.plan.width, room);
        run::loss_backward(d_x, sums, x, targets, self.loss, first.plan.width, scale);
        for band in own {
            let block = self.block(band, order, &nothing);
            // SAFETY: as above, of another band.
            unsafe { band.plan.d_value(&block, NODES) }.copy_from_slice(d_x);
        }
    }

    fn backward(&self, band: &Band<T>, order: &[usize], ahead: Ahead<'_>, rate: f64) {
        let block = self.block(band, order, &ahead);
        let descent = Descent { before: None, rate: T::from_f64(rate) };
        // SAFETY: all of this is the band's, and the band is this thread's; others read its
        // gradient behind the next meeting.
        unsafe {
            let gradient = band.gradient.write(0..band.gradient.len());
            band.plan.backward(&block, 0..NODES, gradient, None, Some(descent), &mut || false);
        }
    }

    /// Updates what all bands have alike, by the sum of their gradients.
    fn update(&self, band: &Band<T>, rate: f64) {
        // SAFETY: all bands have set their gradients, and nobody writes them before the next
        // meeting; the other arrays are this thread's.
        unsafe {
            let sum = band.sum.write(0..band.sum.len());
            sum.fill(T::zero());
            for band in &self.bands.bands {
                run::add_gradient(sum, band.gradient.read(band.place.shared.clone()));
            }
            run::sgd(band.params.write(band.place.shared.clone()), sum, rate);
        }
    }
}
