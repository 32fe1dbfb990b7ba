//! What threads tell each other in a step of training: gradients, and then new parameters.

use std::ops::Range;

use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::layers::ALIGNMENT;
use crate::network::shared::Shared;
use crate::network::{BuildError, parts};

/// Most parameters that are updated in one go.
pub const UPDATE: usize = 4096;

/// Bytes of parameters up to which each thread has its own. Those of larger networks, and their
/// gradients, do not stay in the second-level cache until they are written again: so they are
/// shared. In a network of few products for each parameter, not much else comes between: up to here
/// it pays, on a machine with 2 MB of that cache.
const COPIED: usize = 1 << 17;
const COPIED_OF_FEW_PRODUCTS: usize = 1 << 19;

/// Gradients begin at multiples of so many elements, and so at cache lines, whatever the type.
const LINES: usize = 2 * ALIGNMENT;

/// Gradients of chunks, and the parameters as each thread sees them.
///
/// A core soon has what another one has written. But to write what others have read too, it waits
/// for each cache line until they have given it up: 8 ns a line between neighbouring cores of a Zen
/// 4 and 30 to 40 between distant ones, while a step of the tutorial's network takes 45 us and
/// writes 1,700 lines. So between the threads of a small network each line goes from writer to
/// writer. A thread writes its chunks' gradients; whoever updates a part of the parameters reads
/// that part of all gradients and puts the new parameters in its place; from there, each thread
/// takes them to parameters of its own, and the next gradient is written over them.
#[derive(Debug)]
pub struct Exchange<T> {
    /// Parameters.
    len: usize,
    /// Whether each thread has its own.
    copied: bool,
    /// (gradients, [`stride`](Self::stride))
    gradients: Shared<T>,
    /// The parameters of each thread but the first, if they are copied.
    copies: Vec<Shared<T>>,
}

impl<T: Element> Exchange<T> {
    /// Of so many parameters, of a network of few products for each of them or of more.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(len: usize, few_products: bool) -> Result<Self, BuildError> {
        let most = if few_products { COPIED_OF_FEW_PRODUCTS } else { COPIED };
        let copied = len.saturating_mul(size_of::<T>()) <= most;
        Ok(Self { len, copied, gradients: Shared::zeros(0)?, copies: vec![] })
    }

    /// Provides for so many steps of at most so many gradients, one for each thread at least, and
    /// lets each thread see these parameters. One step makes no use of copies.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn begin(
        &mut self,
        params: &mut Shared<T>,
        gradients: usize,
        threads: usize,
        steps: usize,
    ) -> Result<(), BuildError> {
        let copied = self.copied && steps > 1;
        let len = gradients * self.stride();
        if self.gradients.len() < len {
            self.gradients = Shared::zeros(len)?;
        }
        self.copies.truncate(if copied { threads - 1 } else { 0 });
        while copied && self.copies.len() + 1 < threads {
            self.copies.push(Shared::zeros(self.len)?);
        }
        for copy in &mut self.copies {
            copy.get_mut().copy_from_slice(params.get_mut());
        }
        Ok(())
    }

    /// The parameters that a thread computes with and updates; the first one's are `params`.
    pub fn params<'a>(&'a self, params: &'a Shared<T>, worker: usize) -> &'a Shared<T> {
        worker.checked_sub(1).and_then(|i| self.copies.get(i)).unwrap_or(params)
    }

    /// Where a part of a gradient lies.
    fn part(&self, gradient: usize, part: &Range<usize>) -> Range<usize> {
        let start = gradient * self.stride();
        start + part.start..start + part.end
    }

    /// Elements from one gradient to the next one.
    fn stride(&self) -> usize {
        self.len.next_multiple_of(LINES)
    }

    /// A gradient, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes it while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn gradient(&self, number: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.gradients.write(self.part(number, &(0..self.len))) }
    }

    /// The sum of a part of the first `count` gradients, one after the other or pair after pair; at
    /// most [`UPDATE`] elements, for which there is room in `sum`.
    ///
    /// # Safety
    /// Nobody writes that part of the gradients while the slice lives.
    pub unsafe fn sum<'a>(
        &'a self,
        sum: &'a mut [T; UPDATE],
        count: usize,
        in_pairs: bool,
        part: &Range<usize>,
    ) -> &'a [T] {
        // SAFETY: the caller's promise.
        let gradient = |number| unsafe { self.gradients.read(self.part(number, part)) };
        if count == 1 {
            return gradient(0);
        }
        let sum = &mut sum[..part.len()];
        run::sum_gradients(sum, count, in_pairs, gradient);
        sum
    }

    /// Puts a part of a thread's own parameters, which it has updated, in the place of that part of
    /// the first `count` gradients: one for each other thread at least, and all that have been
    /// read.
    ///
    /// # Safety
    /// Nobody else reads or writes that part of the gradients or of the thread's parameters
    /// meanwhile.
    pub unsafe fn put(&self, own: &Shared<T>, part: &Range<usize>, worker: usize, count: usize) {
        if self.copies.is_empty() {
            return;
        }
        for number in (0..count).filter(|&number| number != worker) {
            // SAFETY: the caller's promise.
            unsafe {
                let new = own.read(part.clone());
                self.gradients.write(self.part(number, part)).copy_from_slice(new);
            }
        }
    }

    /// Takes, to a thread's own parameters, a part that another one has put in the place of the
    /// thread's first gradient, whose number is the thread's.
    ///
    /// # Safety
    /// Nobody else reads or writes that part of that gradient or of the thread's parameters
    /// meanwhile.
    pub unsafe fn take(&self, own: &Shared<T>, part: &Range<usize>, worker: usize) {
        if self.copies.is_empty() {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let new = self.gradients.read(self.part(worker, part));
            own.write(part.clone()).copy_from_slice(new);
        }
    }
}

/// Who updates which parameters.
#[derive(Debug)]
pub struct Shares(Vec<Range<usize>>);

impl Shares {
    /// All of `len` parameters but those left out, in parts that are updated in one go: for each
    /// thread the same number, and if all parameters are there, nearly the same length.
    pub fn new(len: usize, left_out: &[Range<usize>], threads: usize) -> Self {
        let rounds = len.div_ceil(threads * UPDATE).max(1);
        let size = len.div_ceil(rounds * threads).max(1).next_multiple_of(ALIGNMENT);
        let mut kept = vec![];
        let mut start = 0;
        for out in left_out {
            kept.push(start..out.start);
            start = out.end;
        }
        kept.push(start..len);
        let split = |range: Range<usize>| {
            let place = move |part: Range<usize>| range.start + part.start..range.start + part.end;
            parts(range.len(), size).map(place)
        };
        Self(kept.into_iter().flat_map(split).collect())
    }

    fn at(&self, worker: usize, threads: usize) -> Range<usize> {
        self.0.len() * worker / threads..self.0.len() * (worker + 1) / threads
    }

    /// The parts of a thread of `threads`.
    pub fn own(&self, worker: usize, threads: usize) -> &[Range<usize>] {
        &self.0[self.at(worker, threads)]
    }

    /// The parts of all other ones.
    pub fn others(&self, worker: usize, threads: usize) -> impl Iterator<Item = &Range<usize>> {
        let own = self.at(worker, threads);
        self.0[..own.start].iter().chain(&self.0[own.end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_everything_once() {
        for len in [0, 1, 15, 16, 100, UPDATE - 1, UPDATE, UPDATE + 1, 5 * UPDATE + 3] {
            for left_out in
                [vec![], vec![0..len / 4, len / 3..len / 2], vec![len / 3..len / 2, len / 2..len]]
            {
                for threads in 1..5 {
                    let shares = Shares::new(len, &left_out, threads);
                    let mut times = vec![0; len];
                    left_out.iter().for_each(|out| times[out.clone()].fill(threads));
                    for worker in 0..threads {
                        let own = shares.own(worker, threads);
                        assert!(own.iter().all(|part| part.len() <= UPDATE));
                        for part in own.iter().chain(shares.others(worker, threads)) {
                            times[part.clone()].iter_mut().for_each(|n| *n += 1);
                        }
                    }
                    assert!(times.iter().all(|&n| n == threads), "{len} {left_out:?} {threads}");
                }
            }
        }
    }

    /// What threads see after each has written its chunk's gradient and updated a third of `len`
    /// parameters by the sum; and how many sets of parameters there are.
    fn updated(len: usize, few_products: bool) -> (Vec<Vec<f64>>, usize) {
        let (chunks, threads) = (4, 3);
        let mut params = Shared::zeros(len).unwrap();
        params.get_mut().fill(0.5);
        let mut exchange = Exchange::<f64>::new(len, few_products).unwrap();
        exchange.begin(&mut params, chunks, threads, 2).unwrap();
        let shares = Shares::new(len, &[], threads);
        let mut room = [0.0; UPDATE];
        // SAFETY: one thread does everything, and no slice is in use when the next one is made.
        unsafe {
            for chunk in 0..chunks {
                exchange.gradient(chunk).fill((1 << chunk) as f64);
            }
            for worker in 0..threads {
                let own = exchange.params(&params, worker);
                for part in shares.own(worker, threads) {
                    let sum = exchange.sum(&mut room, chunks, true, part);
                    own.write(part.clone()).iter_mut().zip(sum).for_each(|(w, d)| *w -= d);
                    exchange.put(own, part, worker, chunks);
                }
            }
            for worker in 0..threads {
                let others = shares.others(worker, threads);
                let own = exchange.params(&params, worker);
                others.for_each(|part| exchange.take(own, part, worker));
            }
            let all = |worker| exchange.params(&params, worker).read(0..len).to_vec();
            ((0..threads).map(all).collect(), exchange.copies.len() + 1)
        }
    }

    #[test]
    fn every_thread_sees_every_update() {
        for (few_products, copied) in [(false, COPIED), (true, COPIED_OF_FEW_PRODUCTS)] {
            let few = copied / size_of::<f64>();
            for (len, sets) in [(1, 3), (100, 3), (few, 3), (few + 1, 1)] {
                let (seen, counted) = updated(len, few_products);
                assert_eq!(counted, sets, "{len}");
                for params in seen {
                    assert!(params.iter().all(|&w| w == 0.5 - 15.0), "{len}");
                }
            }
        }
    }

    #[test]
    fn parameters_are_seen_anew_at_each_beginning() {
        let mut params = Shared::zeros(3).unwrap();
        let mut exchange = Exchange::<f32>::new(3, false).unwrap();
        for (threads, steps, value) in [(3, 2, 1.0), (1, 2, 2.0), (2, 1, 3.0), (2, 9, 4.0)] {
            params.get_mut().fill(value);
            exchange.begin(&mut params, threads, threads, steps).unwrap();
            for worker in 0..threads {
                // SAFETY: nobody writes.
                assert_eq!(unsafe { exchange.params(&params, worker).read(0..3) }, [value; 3]);
            }
        }
    }
}
