//! A network compiled for one mode: its steps, and where everything lies while they run.

mod builder;

use std::ops::Range;

use builder::Builder;

use crate::kernels::ahead::Ahead;
use crate::kernels::foreground::{Foreground, MOST_IMAGES, Windows};
use crate::kernels::images::{Apart, Cut, Images};
use crate::kernels::rescale::Source;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::layers::Layers;
use crate::network::shared::Shared;
use crate::network::stages::stages;
use crate::network::step::{Backward, Batch, Chunks, Descent, Forward, Model, Random, Step};
use crate::network::{BuildError, Mode};

/// A step, and where its things lie.
#[derive(Debug)]
struct Node<T> {
    step: Box<dyn Step<T>>,
    /// Elements of one image's output.
    out_len: usize,
    /// Among all parameters.
    params: Range<usize>,
    /// Among all that the plan prepares.
    prepared: Range<usize>,
    /// Among what all nodes have set up to defer something.
    deferred: Range<usize>,
    /// In the arena, for the most images.
    saved: Range<usize>,
    /// Where its chunks' statistics lie, if it has any.
    meeting: Option<Meeting>,
    needs_d_x: bool,
    /// If its output may be set in the foreground only, where the background lies in the arena.
    foreground: Option<usize>,
}

/// A step before which, on each way, all chunks of a batch meet.
#[derive(Clone, Copy, Debug)]
struct Meeting {
    /// Where the statistics of its chunks begin, if there are as many as there can be.
    start: usize,
    /// Elements for each chunk.
    len: usize,
}

/// The steps of a network, and a map of the arena in which a block of images goes through them.
#[derive(Debug)]
pub struct Plan<T> {
    nodes: Vec<Node<T>>,
    /// What is done to the images as they are read.
    scale: T,
    offset: T,
    /// Elements of an image, or of the part of it that the plan is for.
    pub input_len: usize,
    /// Where that lies.
    pub cut: Cut,
    /// Most images in a block.
    pub block: usize,
    /// Images in a block, at most, that a large batch is better off with.
    pub longest_block: usize,
    /// Where the input and the nodes' outputs begin.
    values: Vec<usize>,
    /// Where the gradients of values begin, those with even numbers and those with odd ones.
    d_values: [usize; 2],
    targets: usize,
    scratch: usize,
    /// Elements of one image's output.
    pub width: usize,
    /// Elements of an arena.
    pub arena_len: usize,
    /// Elements of what is made of the weights.
    pub prepared_len: usize,
    /// Elements of what nodes set up to defer something in a descent by one image after the other.
    pub deferred_len: usize,
    /// Elements of the statistics of one batch.
    pub stats_len: usize,
    /// Nodes before which chunks meet, in order.
    meetings: Vec<usize>,
    /// Products of one image's forward pass.
    pub work: usize,
    ends_in_softmax: bool,
}

/// A block of images on its way, and all that it needs.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a, T> {
    /// The plan's regions are the block's own.
    pub arena: &'a Shared<T>,
    /// The foregrounds of as many images as fit into a block.
    pub windows: &'a Shared<Windows>,
    /// Images.
    pub n: usize,
    /// For dropout and augmentation.
    pub random: Random,
    /// Parameters; nobody writes to them but the block itself, and only to descend.
    pub params: &'a Shared<T>,
    /// What was made of them.
    pub prepared: &'a [T],
    /// What nodes have set up to defer something, which is the block's own; for one image only.
    pub deferred: Option<&'a Shared<T>>,
    /// Statistics of all chunks, on the way forward and on the way back.
    pub stats: &'a Shared<T>,
    /// See `stats`.
    pub d_stats: &'a Shared<T>,
    /// What the batch is divided into.
    pub chunks: Chunks,
    /// Which of the chunks the block is of.
    pub chunk: usize,
    /// Its images where the caller has them, if they [stay](Plan::in_place) there.
    pub images: Option<Images<'a, T>>,
    /// What is read next, of which each node that is run asks for a share.
    pub ahead: &'a Ahead<'a>,
}

impl<T: Element> Plan<T> {
    /// Plans the steps; `block` is how many images a block must be able to hold, if that is fixed,
    /// and `max_chunks` how many chunks there may be.
    ///
    /// # Errors
    /// If a size overflows.
    pub fn new(
        layers: &Layers,
        mode: Mode,
        block: Option<usize>,
        max_chunks: usize,
    ) -> Result<Self, BuildError> {
        let mut builder = Builder::new(layers, mode);
        for stage in stages(&layers.layers, mode) {
            builder.stage(&stage)?;
        }
        Ok(builder.plan(block, max_chunks)?)
    }

    /// The same for a part of larger images.
    pub fn of_part(self, cut: Cut) -> Self {
        assert!(cut.start + self.input_len <= cut.image_len, "a part of an image");
        Self { cut, ..self }
    }

    fn is_of_whole_images(&self) -> bool {
        self.cut == Cut::whole(self.input_len)
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Products that a node takes for `n` images, on the average.
    pub fn work_of_node(&self, n: usize) -> usize {
        self.work.saturating_mul(n) / self.len().max(1)
    }

    /// Products of a training step of `n` images: the way back takes twice as many as the way
    /// forward.
    pub fn work_of_training(&self, n: usize) -> usize {
        self.work.saturating_mul(n).saturating_mul(3)
    }

    /// Whether the last step is a softmax, of which a loss may want the input.
    pub fn ends_in_softmax(&self) -> bool {
        self.ends_in_softmax
    }

    /// The stretches of nodes up to `end` between which chunks meet.
    pub fn stretches(&self, end: usize) -> Vec<Range<usize>> {
        let meetings = || self.meetings.iter().copied().filter(|&i| i < end);
        let starts = std::iter::once(0).chain(meetings());
        starts.zip(meetings().chain([end])).map(|(start, end)| start..end).collect()
    }

    /// Makes of the weights of node `i` what it wants prepared.
    pub fn prepare(&self, i: usize, prepared: &mut [T], model: Model<'_, T>) {
        let node = &self.nodes[i];
        node.step.prepare(prepared, &model.params[node.params.clone()], model);
    }

    /// Where in all that is prepared the part of node `i` lies.
    pub fn prepared(&self, i: usize) -> Range<usize> {
        self.nodes[i].prepared.clone()
    }

    /// Begins to defer what nodes can, with these parameters.
    pub fn defer(&self, deferred: &mut [T], params: &[T]) {
        for node in &self.nodes {
            node.step.defer(&mut deferred[node.deferred.clone()], &params[node.params.clone()]);
        }
    }

    /// Sets the parameters from which something is deferred to what they are with that. A descent may
    /// go on from `deferred`.
    pub fn settle(&self, params: &mut [T], deferred: &[T]) {
        for node in &self.nodes {
            let deferred = &deferred[node.deferred.clone()];
            node.step.settle(&mut params[node.params.clone()], deferred);
        }
    }

    /// Whether there are nodes that add their parameters' gradient to another one.
    pub fn adds(&self) -> bool {
        self.nodes.iter().any(|node| node.step.adds())
    }

    /// The parameters that [`backward`](Self::backward) changes itself if it is given a descent, of
    /// a batch of so many chunks.
    pub fn descended(&self, chunks: usize) -> Vec<Range<usize>> {
        let nodes = self.nodes.iter().filter(|node| node.step.descends(chunks));
        nodes.map(|node| node.params.clone()).collect()
    }

    /// Updates the moving averages with the statistics of a batch.
    ///
    /// # Safety
    /// Nobody else uses the arena's scratch meanwhile, or writes to the statistics.
    pub unsafe fn update_moving(
        &self,
        moving: &mut [T],
        stats: &Shared<T>,
        arena: &Shared<T>,
        chunks: Chunks,
    ) {
        for &i in &self.meetings {
            // SAFETY: the caller's promise; and it is gone before the next one is borrowed.
            let scratch = unsafe { arena.write(self.scratch(i, 0)) };
            self.nodes[i].step.update_moving(moving, self.batch(i, stats, chunks), scratch);
        }
    }

    /// Images of `x` that lie beside each other, if they are as the network wants them.
    pub fn beside<'a>(&self, x: Source<'a>, images: Range<usize>) -> Option<Images<'a, T>> {
        let all = x.unchanged(self.scale, self.offset).filter(|_| self.is_of_whole_images())?;
        let len = self.input_len;
        Some(Images::Beside(&all[images.start * len..images.end * len]))
    }

    /// A block's images of `x`, in that order, if they need not be read: those that lie beside each
    /// other or, if the first node takes such, apart.
    pub fn in_place<'a>(&self, x: Source<'a>, order: &'a [usize]) -> Option<Images<'a, T>> {
        let (&first, n) = (order.first()?, order.len());
        if self.is_of_whole_images() && order.iter().copied().eq(first..first + n) {
            return self.beside(x, first..first + n);
        }
        let node = self.nodes.first().filter(|node| node.step.takes_apart())?;
        if node.foreground.is_none() || !is_taken_together(n) {
            return None;
        }
        let all = x.unchanged(self.scale, self.offset)?;
        Some(Images::Apart { all, order, cut: self.cut })
    }

    /// Reads the block's images, which are `images` of `x`, unless they stay where they are.
    ///
    /// # Safety
    /// Nobody else uses the block's arena meanwhile.
    pub unsafe fn read(
        &self,
        block: &Block<'_, T>,
        x: Source<'_>,
        images: impl Iterator<Item = usize>,
    ) {
        if block.images.is_some() {
            return;
        }
        assert!(block.n <= self.block, "images of a block");
        // SAFETY: the value's region is the block's own; and the caller's promise.
        let room = unsafe { block.arena.write(self.value_range(block.n, 0)) };
        let len = self.input_len;
        for (out, image) in room.chunks_exact_mut(len).zip(images) {
            run::read(out, x, self.cut.of(image, len), self.scale, self.offset);
        }
    }

    /// The block's region for its targets.
    ///
    /// # Safety
    /// The slice is gone before the region is borrowed again.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn targets<'a>(&self, block: &Block<'a, T>) -> &'a mut [T] {
        let end = self.targets + block.n * self.width;
        // SAFETY: the region is the block's own; and the caller's promise.
        unsafe { block.arena.write(self.targets..end) }
    }

    /// The input (0), unless its images lie apart, or what a node before `i` has set.
    ///
    /// # Safety
    /// The slice is gone before the node is run again.
    pub unsafe fn value<'a>(&self, block: &Block<'a, T>, i: usize) -> &'a [T] {
        if let (0, Some(Images::Beside(x))) = (i, block.images) {
            return x;
        }
        // SAFETY: the value's region is the block's own; and the caller's promise.
        unsafe { block.arena.read(self.value_range(block.n, i)) }
    }

    /// The gradient of [`value`](Self::value), to be set before [`backward`](Self::backward).
    ///
    /// # Safety
    /// The slice is gone before the nodes are run again.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn d_value<'a>(&self, block: &Block<'a, T>, i: usize) -> &'a mut [T] {
        let start = self.d_values[i % 2];
        let len = self.value_range(block.n, i).len();
        // SAFETY: the region is the block's own; and the caller's promise.
        unsafe { block.arena.write(start..start + len) }
    }

    fn value_range(&self, n: usize, i: usize) -> Range<usize> {
        let len = if i == 0 { self.input_len } else { self.nodes[i - 1].out_len };
        self.values[i]..self.values[i] + n * len
    }

    /// Runs a stretch of nodes forward. If a node with statistics comes next, it is told the
    /// chunk's. Behind each node it leaves off if `stops` says so, and then returns `false`.
    ///
    /// # Safety
    /// Nobody else uses the block's arena meanwhile, or writes to parameters.
    pub unsafe fn forward(
        &self,
        block: &Block<'_, T>,
        nodes: Range<usize>,
        stops: &mut dyn FnMut() -> bool,
    ) -> bool {
        assert!(block.n <= self.block, "images of a block");
        for i in nodes.clone() {
            let (node, n) = (&self.nodes[i], block.n);
            let apart = images_apart(block, i).map(|images| {
                // SAFETY: nobody else has the input's region: the pass's `x` is empty.
                let room = unsafe { block.arena.write(self.value_range(n, 0)) };
                Apart { images, room }
            });
            block.ahead.begin();
            // SAFETY: the plan lays the regions of so many images one beside the other, a node's
            // input and its output too; and the caller's promise.
            node.step.forward(unsafe {
                Forward {
                    n,
                    x: if apart.is_some() { &[] } else { self.value(block, i) },
                    apart,
                    out: block.arena.write(self.value_range(n, i + 1)),
                    saved: block.arena.write(node.saved(n)),
                    scratch: block.arena.write(self.scratch(i, n)),
                    weights: block.params.read(node.params.clone()),
                    prepared: &block.prepared[node.prepared.clone()],
                    random: block.random,
                    batch: self.batch(i, block.stats, block.chunks),
                    foreground: self.foreground(block, i),
                    deferred: deferred(block, node).map(|deferred| &*deferred),
                    ahead: block.ahead,
                }
            });
            block.ahead.end();
            if stops() {
                return false;
            }
        }
        if let Some(Node { step, meeting: Some(meeting), .. }) = self.nodes.get(nodes.end) {
            let at = meeting.start + block.chunk * meeting.len;
            // SAFETY: this part is the chunk's own until all chunks have met.
            let stats = unsafe { block.stats.write(at..at + meeting.len) };
            // SAFETY: the input is set and nobody writes to it.
            step.stats(stats, unsafe { self.value(block, nodes.end) });
        }
        true
    }

    /// Runs a stretch of nodes backward; the gradient of the last one's output is set. `d_params`
    /// is the gradient of all parameters, of which the nodes set theirs. If a node with statistics
    /// comes next, it is told the chunk's.
    ///
    /// If there is a `sum`, of all parameters too, the gradient is added to that, and `d_params` is
    /// room; a plan with statistics has none. With a descent, of all parameters too, nodes that can
    /// do so take it, and leave anything in the place of their gradient. Behind each node it leaves
    /// off if `stops` says so.
    ///
    /// # Safety
    /// Nobody else uses the block's arena meanwhile, or writes to parameters; with a descent, nobody
    /// else reads them.
    pub unsafe fn backward(
        &self,
        block: &Block<'_, T>,
        nodes: Range<usize>,
        d_params: &mut [T],
        mut sum: Option<&mut [T]>,
        descent: Option<Descent<'_, T>>,
        stops: &mut dyn FnMut() -> bool,
    ) {
        assert!(block.n <= self.block, "images of a block");
        assert!(sum.is_none() || self.stats_len == 0, "a sum beside statistics");
        for i in nodes.clone().rev() {
            let node = &self.nodes[i];
            if !node.needs_d_x && node.params.is_empty() {
                return;
            }
            block.ahead.begin();
            let chunks = block.chunks.count();
            let adds = sum.is_some() && node.step.adds();
            let target = sum.as_deref_mut().filter(|_| adds).unwrap_or(&mut *d_params);
            // SAFETY: the pass is gone before the next one is made.
            let mut pass = unsafe { self.backward_pass(block, i, target) };
            pass.adds = adds;
            let all = self.stats_range(i, chunks);
            // SAFETY: all chunks have written theirs before they met, and this is after it.
            pass.batch.d_stats = unsafe { block.d_stats.read(all) };
            if let Some(descent) = descent.filter(|_| node.step.descends(chunks)) {
                // SAFETY: the caller's promise.
                let weights = unsafe { block.params.write(node.params.clone()) };
                node.step.backward_and_descend(pass, weights, descent.of(node.params.clone()));
            } else {
                // SAFETY: the caller's promise.
                let weights = unsafe { block.params.read(node.params.clone()) };
                node.step.backward(pass, weights);
            }
            if let Some(sum) = sum.as_deref_mut().filter(|_| !adds) {
                let params = node.params.clone();
                run::add_gradient(&mut sum[params.clone()], &d_params[params]);
            }
            block.ahead.end();
            if stops() {
                return;
            }
        }
        if let Some(i) = nodes.start.checked_sub(1)
            && let Node { step, meeting: Some(meeting), .. } = &self.nodes[i]
        {
            let at = meeting.start + block.chunk * meeting.len;
            // SAFETY: this part is the chunk's own until all chunks have met, and the pass does not
            // show it; and as above.
            unsafe {
                let d_stats = block.d_stats.write(at..at + meeting.len);
                step.d_stats(d_stats, self.backward_pass(block, i, d_params));
            }
        }
    }

    /// # Safety
    /// It is gone before another pass of the block is made.
    unsafe fn backward_pass<'a>(
        &self,
        block: &Block<'a, T>,
        i: usize,
        d_params: &'a mut [T],
    ) -> Backward<'a, T> {
        let (node, n) = (&self.nodes[i], block.n);
        // SAFETY: the plan lays the regions of so many images one beside the other, and the
        // gradients of neighbouring values into two of them; and the promise of `backward`.
        unsafe {
            Backward {
                n,
                d_x: node.needs_d_x.then(|| self.d_value(block, i)),
                d_weights: &mut d_params[node.params.clone()],
                adds: false,
                d_out: self.d_value(block, i + 1),
                x: self.value(block, i),
                apart: images_apart(block, i),
                out: self.value(block, i + 1),
                saved: block.arena.write(node.saved(n)),
                scratch: block.arena.write(self.scratch(i, n)),
                prepared: &block.prepared[node.prepared.clone()],
                batch: self.batch(i, block.stats, block.chunks),
                foreground: self.foreground(block, i),
                deferred: deferred(block, node),
                ahead: block.ahead,
            }
        }
    }

    /// That of the input or output of node `i`, if it has one.
    ///
    /// # Safety
    /// It is gone before another one of the block is made.
    unsafe fn foreground<'a>(&self, block: &Block<'a, T>, i: usize) -> Option<Foreground<'a, T>> {
        if !is_taken_together(block.n) && block.deferred.is_none() {
            return None;
        }
        let of = |node: &Node<T>| node.foreground.zip(node.step.foreground_channels());
        let before = i.checked_sub(1).and_then(|i| of(&self.nodes[i]));
        let (start, channels) = of(&self.nodes[i]).or(before)?;
        // SAFETY: these places are the block's own, one behind the other; and the caller's promise.
        unsafe {
            Some(Foreground {
                groups: block.windows.write(0..block.n),
                background: block.arena.write(start..start + channels),
                d_background: block.arena.write(start + channels..start + 2 * channels),
            })
        }
    }

    fn scratch(&self, i: usize, n: usize) -> Range<usize> {
        self.scratch..self.scratch + self.nodes[i].step.scratch_len(n)
    }

    /// What the chunks say on the way forward about the batch to node `i`.
    fn batch<'a>(&self, i: usize, stats: &'a Shared<T>, chunks: Chunks) -> Batch<'a, T> {
        let all = self.stats_range(i, chunks.count());
        // SAFETY: all chunks have written theirs before they met, and this is after it.
        let stats = unsafe { stats.read(all) };
        Batch { stats, d_stats: &[], chunks }
    }

    /// Where so many chunks' statistics for node `i` lie.
    fn stats_range(&self, i: usize, chunks: usize) -> Range<usize> {
        self.nodes[i]
            .meeting
            .map_or(0..0, |meeting| meeting.start..meeting.start + chunks * meeting.len)
    }
}

/// Whether the kernels for a foreground take so many images at a time. An image alone has none unless
/// something is deferred: else all weights are gone through for it anyway.
fn is_taken_together(n: usize) -> bool {
    (2..=MOST_IMAGES).contains(&n)
}

/// What a node has set up to defer something.
///
/// # Safety
/// It is gone before the node's next pass.
unsafe fn deferred<'a, T>(block: &Block<'a, T>, node: &Node<T>) -> Option<&'a mut [T]> {
    let deferred = block.deferred.filter(|_| !node.deferred.is_empty())?;
    // SAFETY: it is the block's own; and the caller's promise.
    Some(unsafe { deferred.write(node.deferred.clone()) })
}

/// The images that node `i` takes as they lie.
fn images_apart<'a, T: Copy>(block: &Block<'a, T>, i: usize) -> Option<Images<'a, T>> {
    block.images.filter(|images| i == 0 && matches!(images, Images::Apart { .. }))
}

impl<T: Element> Node<T> {
    fn saved(&self, n: usize) -> Range<usize> {
        self.saved.start..self.saved.start + self.step.saved_len(n)
    }
}
