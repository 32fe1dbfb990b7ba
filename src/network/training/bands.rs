//! Small batches of a small network, divided by the rows of their images.
//!
//! Where a step is short, most of what a second thread could save goes into gradients that travel
//! from core to core, and parameters that travel back. But a network of one convolution and one
//! dense layer has nearly all of its parameters in the latter, and each of those meets one pooling
//! window. So here a thread takes the same rows of windows of all images, and their weights are its
//! own: only the sums of the dense layer travel, and the gradient of the convolution's few
//! parameters.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Call, Examples, Outcome};
use crate::kernels::ahead::Ahead;
use crate::kernels::conv_pool_grey::can_have_foreground;
use crate::kernels::foreground::Windows;
use crate::kernels::images::Cut;
use crate::kernels::loss::{Loss, LossSums};
use crate::kernels::run;
use crate::kernels::shape::{ConvPoolShape, POOL, ShapeError};
use crate::kernels::simd::Element;
use crate::network::clock::{Clock, Poll};
use crate::network::layers::{Layer, Layers};
use crate::network::plan::{Block, Plan};
use crate::network::shared::Shared;
use crate::network::spec::LayerKind;
use crate::network::stages::{Operation, Stage, stages};
use crate::network::step::{Chunks, Random, Turn};
use crate::network::steps::Pooling;
use crate::network::team::{self, Apart, Barrier, Broken};
use crate::network::{BuildError, Mode, parts};

/// How many bands there are, an upper and a lower one: threads that small batches have work for.
pub const BANDS: usize = 2;

/// Nodes of such a network up to the loss.
const NODES: usize = 2;

/// The bands of a network.
#[derive(Debug)]
pub struct Bands<T> {
    parts: [Part; BANDS],
    /// All of them, once there was a batch.
    bands: Vec<Band<T>>,
    /// Of which there are none.
    stats: Shared<T>,
}

/// What a band is of a network.
#[derive(Debug)]
struct Part {
    /// Its layers, a network of their own.
    layers: Layers,
    /// The rows of an image that they see.
    seen: Cut,
    place: Place,
}

/// Where a band's parameters lie.
#[derive(Clone, Debug)]
struct Place {
    /// Among those of the whole network, and among its own.
    pieces: Vec<(Range<usize>, Range<usize>)>,
    /// The convolution's among its own; all bands have them alike.
    shared: Range<usize>,
}

/// Some rows of windows, and what they need.
#[derive(Debug)]
struct Band<T> {
    plan: Plan<T>,
    place: Place,
    params: Shared<T>,
    /// Of all its parameters, but set for those of the convolution; the others descend by themselves.
    gradient: Shared<T>,
    /// As long: room for the dense bias's gradient, and then for the sum of all bands' gradients.
    sum: Shared<T>,
    arena: Shared<T>,
    windows: Shared<Windows>,
    /// (images, outputs): the sums of all bands.
    logits: Shared<T>,
}

/// A network that can be cut into bands.
struct Divisible<'a> {
    layers: &'a [Layer],
    conv: usize,
    dense: usize,
    shape: ConvPoolShape,
}

impl<'a> Divisible<'a> {
    /// None for a network of other layers than those, up to the node that the loss takes, or of too
    /// few rows of windows.
    fn new(layers: &'a [Layer], end: usize) -> Option<Self> {
        let stages = stages(layers, Mode::Training);
        let rescales =
            |stage: &&Stage| matches!(layers[stage.layer].spec.kind, LayerKind::Rescale { .. });
        let mut stages = stages.iter().skip_while(rescales);
        let (conv, dense) = (stages.next()?, stages.next()?);
        let (
            &Operation::Conv { norm: None, pooling: Pooling::MaxOfGrey(shape), .. },
            Operation::Dense { norm: None, relu: false, few: true },
        ) = (&conv.operation, &dense.operation)
        else {
            return None;
        };
        let (rows, ..) = shape.pool().output();
        let padded = shape.conv().windows().is_padded();
        let fits = end == NODES && can_have_foreground(&shape) && !padded && rows >= BANDS;
        fits.then_some(Self { layers, conv: conv.layer, dense: dense.layer, shape })
    }

    /// The upper band, which has the middle row of an odd number of rows, or the lower one.
    fn part(&self, band: usize) -> Result<Part, ShapeError> {
        let conv = self.shape.conv();
        let ((h, w, _), (rows, columns, c)) = (conv.input(), self.shape.pool().output());
        let first = |band: usize| (rows * band).div_ceil(BANDS);
        let rows = first(band)..first(band + 1);
        // The last one has what is left of an image below its windows.
        let end = if band + 1 < BANDS { POOL * rows.end + conv.window().0 - 1 } else { h };
        let seen = POOL * rows.start..end;
        let spec = |layer: &Layer| {
            let mut spec = layer.spec.clone();
            if let LayerKind::Dense { use_bias, .. } = &mut spec.kind {
                *use_bias &= band == 0; // one band adds it
            }
            spec
        };
        let own = Layers::new(&[seen.len(), w, 1], self.layers.iter().map(spec).collect())?;
        let shared = own.layers[self.conv].params();
        let mut pieces = vec![(self.layers[self.conv].params(), shared.clone())];
        let dense = |name| {
            Some((self.layers[self.dense].weight(name)?, own.layers[self.dense].weight(name)?))
        };
        if let Some((whole, part)) = dense("kernel") {
            // Stored (outputs, inputs), the inputs row by row of windows.
            let (all, some) = (whole.shape[0], part.shape[0]);
            for output in 0..part.size() / some {
                let from = whole.start + output * all + rows.start * columns * c;
                let to = part.start + output * some;
                pieces.push((from..from + some, to..to + some));
            }
        }
        if let Some((whole, part)) = dense("bias") {
            pieces.push((whole.range(), part.range()));
        }
        let seen = Cut { image_len: h * w, start: seen.start * w };
        Ok(Part { layers: own, seen, place: Place { pieces, shared } })
    }
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
            sum: zeros()?,
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
        let Some(divisible) = Divisible::new(&layers.layers, end) else { return Ok(None) };
        let parts = [divisible.part(0)?, divisible.part(1)?];
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
        let turn = Turn { first: true, last: true, rate: T::from_f64(rate) };
        // SAFETY: all of this is the band's, and the band is this thread's; others read its
        // gradient behind the next meeting.
        unsafe {
            let gradient = band.gradient.write(0..band.gradient.len());
            let sum = band.sum.write(0..band.sum.len());
            band.plan.backward(&block, 0..NODES, gradient, Some((turn, sum)), &mut || false);
        }
    }

    /// Updates what all bands have alike, by the sum of their gradients.
    fn update(&self, band: &Band<T>, rate: f64) {
        // SAFETY: all bands have set their gradients, and nobody writes them before the next
        // meeting; the other arrays are this thread's.
        unsafe {
            let sum = band.sum.write(band.place.shared.clone());
            sum.fill(T::zero());
            for band in &self.bands.bands {
                run::add_gradient(sum, band.gradient.read(band.place.shared.clone()));
            }
            run::sgd(band.params.write(band.place.shared.clone()), sum, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::Activation;
    use crate::kernels::shape::Padding;
    use crate::network::spec::{LayerSpec, PoolSpec};

    const RELU: Activation = Activation::Relu { negative_slope: 0.0, max_value: None };

    fn conv(window: (usize, usize), padding: Padding, filters: usize) -> LayerKind {
        let (strides, activation) = ((1, 1), Activation::Linear);
        LayerKind::Conv { filters, window, strides, padding, use_bias: true, activation }
    }

    fn halving() -> LayerKind {
        let (side, padding) = ((2, 2), Padding::Valid);
        LayerKind::MaxPool(PoolSpec { window: side, strides: side, padding })
    }

    fn dense(use_bias: bool, activation: Activation) -> LayerKind {
        LayerKind::Dense { units: 3, use_bias, activation }
    }

    fn layers(h: usize, w: usize, kinds: &[LayerKind]) -> Layers {
        let named = |kind: &LayerKind| LayerSpec { name: "layer".to_owned(), kind: *kind };
        Layers::new(&[h, w, 1], kinds.iter().map(named).collect()).unwrap()
    }

    #[test]
    fn bands_have_every_parameter_of_the_dense_layer_once() {
        for (h, w, use_bias) in [(28, 28, true), (7, 9, true), (6, 4, false), (13, 33, true)] {
            let kinds = [
                LayerKind::Rescale { scale: 2.0, offset: 1.0 },
                conv((3, 3), Padding::Valid, 8),
                halving(),
                LayerKind::Flatten,
                dense(use_bias, Activation::Linear),
            ];
            let layers = layers(h, w, &kinds);
            let bands = Bands::<f32>::new(&layers, NODES).unwrap().unwrap();
            let mut times = vec![0; layers.params_len];
            let mut rows = 0;
            for part in &bands.parts {
                let mut own_times = vec![0; part.layers.params_len];
                for (whole, own) in &part.place.pieces {
                    assert_eq!(whole.len(), own.len());
                    times[whole.clone()].iter_mut().for_each(|times| *times += 1);
                    own_times[own.clone()].iter_mut().for_each(|times| *times += 1);
                }
                let own = |layer: &Layer| layer.params();
                for params in part.layers.layers.iter().map(own) {
                    assert!(own_times[params].iter().all(|&times| times == 1));
                }
                // They see the images from their first row of windows on.
                assert_eq!(part.seen, Cut { image_len: h * w, start: 2 * rows * w });
                rows += part.layers.layers[2].output[0];
            }
            assert_eq!(rows, (h - 2) / 2);
            let [conv, dense] = [1, 4].map(|at| layers.layers[at].params());
            assert!(times[conv].iter().all(|&times| times == BANDS));
            assert!(times[dense].iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn only_sums_over_windows_can_be_cut() {
        let can_be_cut = |h, end, kinds: &[LayerKind]| {
            Bands::<f32>::new(&layers(h, 12, kinds), end).unwrap().is_some()
        };
        let (first, flatten) = (conv((3, 3), Padding::Valid, 8), LayerKind::Flatten);
        let (linear, softmax) = (Activation::Linear, Activation::Softmax);
        let relu = LayerKind::Activation(RELU);
        let dropout = LayerKind::Dropout { rate: 0.5, seed: None };
        let norm = LayerKind::BatchNorm { momentum: 0.9, epsilon: 1e-3, center: true, scale: true };
        let many = LayerKind::Dense { units: 32, use_bias: true, activation: linear };
        assert!(can_be_cut(12, 2, &[first, halving(), flatten, dense(true, softmax)]));
        assert!(can_be_cut(12, 2, &[first, halving(), relu, flatten, dense(true, linear)]));
        assert!(can_be_cut(6, 2, &[first, halving(), flatten, dense(true, linear)]));
        // One row of windows.
        assert!(!can_be_cut(5, 2, &[first, halving(), flatten, dense(true, linear)]));
        // A loss behind more than the sums.
        assert!(!can_be_cut(12, 3, &[first, halving(), flatten, dense(true, softmax)]));
        assert!(!can_be_cut(12, 2, &[first, halving(), flatten, dense(true, RELU)]));
        // Others than a grey convolution, its maxima, and few outputs.
        for kinds in [
            vec![conv((3, 3), Padding::Same, 8), halving(), flatten, dense(true, linear)],
            vec![conv((5, 5), Padding::Valid, 8), halving(), flatten, dense(true, linear)],
            vec![conv((3, 3), Padding::Valid, 7), halving(), flatten, dense(true, linear)],
            vec![first, flatten, dense(true, linear)],
            vec![first, halving(), dropout, flatten, dense(true, linear)],
            vec![first, halving(), flatten],
            vec![first, halving(), norm, flatten, dense(true, linear)],
            vec![first, halving(), flatten, many],
            vec![flatten, dense(true, linear), dense(true, linear)],
        ] {
            assert!(!can_be_cut(12, 2, &kinds), "{kinds:?}");
        }
    }
}
