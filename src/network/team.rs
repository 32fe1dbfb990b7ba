//! Threads that work through the same program side by side, meeting at barriers.
//!
//! They spin while they wait: a training step is often shorter than what the operating system needs
//! to wake a thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::network::helpers;
use crate::network::processors::{Processor, cores, leave};

/// How often a waiting thread looks before it goes to sleep: some tens of microseconds, longer than
/// the phases of a small network take and much shorter than a time slice.
const SPINS: usize = 2_000;

/// A value that shares no cache line with others: one thread's writing would make the other threads
/// fetch these again. Twice the line, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<V>(pub V);

/// Where threads wait for each other, and agree on whether to stop.
///
/// Each says in a place of its own that it has come, and reads the places of all others: a cache
/// line on its way from core to core takes 100 ns, and of two threads only one waits for one.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    spins: usize,
    /// What each thread said at its last two meetings: see [`word`]. All have left the one before
    /// them, or it could not have come to the last one.
    said: Box<[Apart<[AtomicUsize; 2]>]>,
    broken: AtomicBool,
    /// How many sleep, or are about to.
    sleeping: AtomicUsize,
    /// Held between a last look and falling asleep.
    falling_asleep: Mutex<()>,
    wake: Condvar,
}

/// What a thread says at its meeting `number`, counted from 1.
fn word(number: usize, stop: bool) -> usize {
    number << 1 | usize::from(stop)
}

/// A thread of the team has panicked, and will not come any more.
#[derive(Debug)]
pub struct Broken;

impl Barrier {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            spins: if threads <= cores() { SPINS } else { 0 },
            said: (0..threads).map(|_| Apart::default()).collect(),
            broken: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            falling_asleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// How many threads meet.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Waits until all have come, and says to each of them whether any wants to stop.
    pub fn wait(&self, worker: usize, stop: bool) -> Result<bool, Broken> {
        if self.threads == 1 {
            return Ok(stop);
        }
        let number = self.last_meeting(worker) + 1;
        let said = || self.said.iter().map(|said| &said.0[number % 2]);
        let all_have_come = || said().all(|said| said.load(Ordering::SeqCst) >> 1 == number);
        // Whoever is about to sleep counts itself before its last look at these words, and all
        // threads see all four in the same order: so the last one to come sees that somebody
        // sleeps, or that one sees that all have come.
        self.said[worker].0[number % 2].store(word(number, stop), Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 && all_have_come() {
            self.wake_all();
        }
        self.wait_until(|| all_have_come() || self.broken.load(Ordering::Acquire));
        if self.broken.load(Ordering::Acquire) {
            return Err(Broken);
        }
        Ok(said().any(|said| said.load(Ordering::Relaxed) == word(number, true)))
    }

    /// The number of a thread's last meeting.
    fn last_meeting(&self, worker: usize) -> usize {
        let [even, odd] = &self.said[worker].0;
        (even.load(Ordering::Relaxed) >> 1).max(odd.load(Ordering::Relaxed) >> 1)
    }

    fn wait_until(&self, over: impl Fn() -> bool) {
        for _ in 0..=self.spins {
            if over() {
                return;
            }
            std::hint::spin_loop();
        }
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let mut awake = self.lock();
        while !over() {
            awake = self.wake.wait(awake).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.falling_asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None of them is between its last look and its sleep.
    fn wake_all(&self) {
        drop(self.lock());
        self.wake.notify_all();
    }
}

/// Dropped by a panic, it sends the others home instead of letting them wait.
struct Guard<'a>(&'a Barrier);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
            self.0.wake_all();
        }
    }
}

/// Runs `work(0, barrier)` on this thread and the same for 1, 2, ... beside it, on as many threads
/// as wanted or, if the system has no more, on fewer.
pub fn run(wanted: usize, work: impl Fn(usize, &Barrier) + Sync) {
    let caller = (wanted > 1).then(Processor::current);
    let barrier = OnceLock::new();
    helpers::run(wanted, &|worker, threads| {
        if worker > 0 {
            caller.map(leave);
        }
        let barrier = barrier.get_or_init(|| Barrier::new(threads));
        let _guard = Guard(barrier);
        work(worker, barrier);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_a_barrier_before_all_have_come() {
        for threads in [1, 2, 3, 7] {
            let count = AtomicUsize::new(0);
            run(threads, |worker, barrier| {
                for round in 1..=50 {
                    count.fetch_add(1, Ordering::Relaxed);
                    barrier.wait(worker, false).unwrap();
                    assert_eq!(count.load(Ordering::Relaxed), round * threads);
                    barrier.wait(worker, false).unwrap();
                }
            });
            assert_eq!(count.into_inner(), 50 * threads);
        }
    }

    #[test]
    fn all_are_told_at_the_same_meetings_that_one_wants_to_stop() {
        for threads in [1, 2, 3, 7] {
            run(threads, |worker, barrier| {
                for round in 0..500 {
                    // Two threads at most, and at some meetings none.
                    let who = [round % (threads + 1), round % (2 * threads)];
                    let stop = barrier.wait(worker, who.contains(&worker)).unwrap();
                    assert_eq!(stop, who.iter().any(|&who| who < threads), "{threads} {round}");
                }
            });
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
                if barrier.wait(worker, false).is_err() {
                    sent_home.fetch_add(1, Ordering::Relaxed);
                }
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(sent_home.load(Ordering::Relaxed), 2);
    }
}
