//! Threads that work through the same program side by side, meeting at barriers.
//!
//! There is no pool that outlives a call: threads are scoped to it, so a process may fork between
//! calls, and two networks may train at once. Waking up is a matter of spinning: a training step is
//! often shorter than what the operating system needs to wake a thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::network::processors::{Processor, cores, leave};

/// How often a waiting thread looks before it goes to sleep: some tens of microseconds, longer than
/// the phases of a small network take and much shorter than a time slice.
const SPINS: usize = 2_000;

/// Products of a call for each thread, at least: some 75 us of work. A thread takes up to 100 us to
/// begin where the host first has to wake a virtual processor, and each takes its parent some time.
const WORK_OF_A_THREAD: usize = 4_000_000;

/// A value that shares no cache line with others: one thread's writing would make the other threads
/// fetch these again. Twice the line, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<V>(pub V);

/// Where threads wait for each other. Between two meetings one of them alone may act.
#[derive(Debug)]
pub struct Barrier {
    /// 0 until it is known how many threads there are.
    threads: AtomicUsize,
    spins: usize,
    arrived: Apart<AtomicUsize>,
    generation: Apart<AtomicUsize>,
    broken: AtomicBool,
    /// How many sleep; `generation` changes with the lock held.
    sleeping: Mutex<usize>,
    wake: Condvar,
}

/// How many threads at most pay for a call of so many products.
pub fn most_threads(work: usize) -> usize {
    (work / WORK_OF_A_THREAD).max(1)
}

/// A thread of the team has panicked, and will not come any more.
#[derive(Debug)]
pub struct Broken;

impl Barrier {
    /// For at most so many threads.
    fn new(at_most: usize) -> Self {
        Self {
            threads: AtomicUsize::new(0),
            spins: if at_most <= cores() { SPINS } else { 0 },
            arrived: Apart::default(),
            generation: Apart::default(),
            broken: AtomicBool::new(false),
            sleeping: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// How many threads meet, once they work.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// Waits until all have come. The last one runs `alone` before any of them goes on.
    pub fn wait(&self, alone: impl FnOnce()) -> Result<(), Broken> {
        let threads = self.threads();
        if threads == 1 {
            alone();
            return Ok(());
        }
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            alone();
            let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.generation.0.store(generation.wrapping_add(1), Ordering::Release);
            if *sleeping > 0 {
                self.wake.notify_all();
            }
            return Ok(());
        }
        let waits = || {
            self.generation.0.load(Ordering::Acquire) == generation
                && !self.broken.load(Ordering::Acquire)
        };
        for _ in 0..self.spins {
            if !waits() {
                break;
            }
            std::hint::spin_loop();
        }
        if waits() {
            let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            *sleeping += 1;
            while waits() {
                sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
            }
            *sleeping -= 1;
        }
        if self.broken.load(Ordering::Acquire) { Err(Broken) } else { Ok(()) }
    }
}

/// Dropped by a panic, it sends the others home instead of letting them wait.
struct Guard<'a>(&'a Barrier);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _sleeping = self.0.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.broken.store(true, Ordering::Release);
            self.0.wake.notify_all();
        }
    }
}

/// Runs `work(0, barrier)` on this thread and the same for 1, 2, ... beside it, on as many threads
/// as wanted or, if the system has no more, on fewer.
pub fn run(wanted: usize, work: impl Fn(usize, &Barrier) + Sync) {
    let barrier = Barrier::new(wanted);
    if wanted <= 1 {
        barrier.threads.store(1, Ordering::Relaxed);
        return work(0, &barrier);
    }
    let guarded = |worker| {
        let _guard = Guard(&barrier);
        work(worker, &barrier);
    };
    std::thread::scope(|scope| {
        let mut threads = 1;
        while threads < wanted {
            let thread = std::thread::Builder::new().name(format!("cnnrs-{threads}"));
            let (barrier, guarded, worker) = (&barrier, &guarded, threads);
            let parent = Processor::current();
            let beside = move || {
                leave(parent);
                while barrier.threads.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
                guarded(worker);
            };
            if thread.spawn_scoped(scope, beside).is_err() {
                break;
            }
            // If it has been put behind this one, it leaves now instead of when this one waits.
            std::thread::yield_now();
            threads += 1;
        }
        barrier.threads.store(threads, Ordering::Release);
        guarded(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_a_barrier_before_all_have_come() {
        for threads in [1, 2, 3, 7] {
            let (count, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
            run(threads, |_, barrier| {
                for round in 1..=50 {
                    count.fetch_add(1, Ordering::Relaxed);
                    let alone = || {
                        assert_eq!(count.load(Ordering::Relaxed), round * threads);
                        met.fetch_add(1, Ordering::Relaxed);
                    };
                    barrier.wait(alone).unwrap();
                    assert_eq!(met.load(Ordering::Relaxed), round);
                    barrier.wait(|| {}).unwrap();
                }
            });
            assert_eq!(met.load(Ordering::Relaxed), 50);
        }
    }

    #[test]
    fn a_panic_sends_the_others_home() {
        let sent_home = AtomicUsize::new(0);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(3, |worker, barrier| {
                if worker == 1 {
                    panic!("as intended");
                }
                if barrier.wait(|| {}).is_err() {
                    sent_home.fetch_add(1, Ordering::Relaxed);
                }
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(sent_home.load(Ordering::Relaxed), 2);
    }
}
