//! Threads that help the one that calls, and stay with it for its next call.
//!
//! In a virtual machine it takes 100 us to start a thread and to end it, and 50 to wake one, which is
//! as long as a prediction of some images. So a helper looks out for its next task for a while before
//! it sleeps. It is one caller's alone: two networks may train at once.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::kernels::simd::float_mode;
use crate::network::processors::Allowed;

/// How long a thread looks out for another one's word before it goes to sleep: longer than Python
/// takes between two epochs, and too short for anybody to notice.
const PATIENCE: Duration = Duration::from_micros(500);

/// How often it looks before it offers its processor to other threads: some microseconds.
const LOOKS: usize = 50;

/// Products of a call for each thread, at least, if helpers are awake: some 15 us of work. A task
/// comes and goes in a microsecond.
const WORK_BESIDE_AWAKE: usize = 1_000_000;

/// The same if they sleep, or are yet to be started: 75 us.
const WORK_BESIDE_ASLEEP: usize = 4_000_000;

thread_local! {
    static HELPERS: Cell<Option<Helpers>> = const { Cell::new(None) };
    /// When this thread last had work for helpers, were they awake.
    static LAST_WORK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What is to be done, by a thread of that number.
type Task<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// The helpers of a thread: those with the numbers 1, 2, ...
struct Helpers {
    origin: Origin,
    all: Vec<Helper>,
}

/// What helpers have of their caller from when they were started, at least on Linux.
#[derive(PartialEq, Eq)]
struct Origin {
    /// It may have been forked since.
    process: u32,
    allowed: Allowed,
    float_mode: u64,
}

/// A thread with a desk.
struct Helper {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

/// Where an order lies.
struct Desk {
    /// One of the constants below.
    state: AtomicU8,
    order: Mutex<Option<Order>>,
}

/// A task,
struct Order {
    task: Task<'static>,
    /// who has given it,
    caller: Thread,
    /// and how long to look out for the next one.
    patience: Duration,
}

/// There is nothing to do.
const FREE: u8 = 0;
/// There is a task.
const TASK: u8 = 1;
/// It has been done.
const DONE: u8 = 2;
/// It has panicked.
const FAILED: u8 = 3;
/// There will be no more tasks.
const CLOSED: u8 = 4;

/// A helper's task, which is over once this is dropped.
struct Errand<'a> {
    desk: &'a Desk,
    patience: Duration,
}

/// How many threads at most pay for a call of so many products, which is about to come.
pub fn most_that_pay(work: usize) -> usize {
    let beside_awake = work / WORK_BESIDE_AWAKE;
    if beside_awake <= 1 {
        return 1;
    }
    // If they sleep all the same, it pays to wake them for the calls that follow.
    let last = LAST_WORK.replace(Some(Instant::now()));
    let awake = last.is_some_and(|last| last.elapsed() < PATIENCE);
    // More than there are processors are never awake.
    let most = || beside_awake.min(Allowed::current().count());
    if awake { most() } else { (work / WORK_BESIDE_ASLEEP).max(1) }
}

/// Runs `work(0, threads)` on this thread and `work(1, threads)`, ... beside it, on as many threads
/// as wanted or, if the system has no more, on fewer. Panics if `work` does on any of them.
pub fn run(wanted: usize, work: &(dyn Fn(usize, usize) + Sync)) {
    if wanted <= 1 {
        return work(0, 1);
    }
    // Out of their place meanwhile: if `work` came here, it would get others.
    let mut helpers = HELPERS.take().unwrap_or_else(Helpers::none);
    helpers.provide(wanted - 1);
    helpers.run(wanted, work);
    HELPERS.set(Some(helpers));
    LAST_WORK.set(Some(Instant::now()));
}

/// Sends this thread's helpers home: a process that is about to fork had better not have any.
pub fn dismiss() {
    let Some(mut helpers) = HELPERS.take() else { return };
    if helpers.are_here() {
        helpers.all.iter().for_each(Helper::close);
        for helper in helpers.all.drain(..) {
            // It would be a panic's, and tasks' panics are caught.
            let _: std::thread::Result<()> = helper.thread.join();
        }
    }
    LAST_WORK.set(None);
}

impl Origin {
    fn current() -> Self {
        Self { process: std::process::id(), allowed: Allowed::current(), float_mode: float_mode() }
    }
}

impl Helpers {
    fn none() -> Self {
        Self { origin: Origin::current(), all: vec![] }
    }

    /// Whether they are threads of this process.
    fn are_here(&self) -> bool {
        self.origin.process == std::process::id()
    }

    /// Sees that there are so many, unless the system has no more threads.
    fn provide(&mut self, count: usize) {
        if self.origin != Origin::current() {
            *self = Self::none();
        }
        while self.all.len() < count {
            let Ok(helper) = Helper::start(self.all.len() + 1) else { break };
            self.all.push(helper);
        }
    }

    fn run(&self, wanted: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = &self.all[..self.all.len().min(wanted - 1)];
        let threads = helpers.len() + 1;
        // With fewer processors, those who look out keep others from their work.
        let patience =
            if threads <= self.origin.allowed.count() { PATIENCE } else { Duration::ZERO };
        let task = |number| work(number, threads);
        let errands: Vec<_> = helpers.iter().map(|helper| helper.send(&task, patience)).collect();
        // One that the system has put behind this thread leaves now instead of when this one waits.
        std::thread::yield_now();
        task(0);
        let well: Vec<bool> = errands.into_iter().map(|errand| errand.wait() == DONE).collect();
        assert!(!well.contains(&false), "a helper has panicked");
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        if self.are_here() {
            self.all.iter().for_each(Helper::close);
        } else {
            std::mem::forget(std::mem::take(&mut self.all));
        }
    }
}

impl Helper {
    fn start(number: usize) -> io::Result<Self> {
        let desk = Arc::new(Desk { state: AtomicU8::new(FREE), order: Mutex::new(None) });
        let own = Arc::clone(&desk);
        let help = move || {
            let mut patience = PATIENCE;
            while let Some(next) = own.help(number, patience) {
                patience = next;
            }
        };
        let thread = std::thread::Builder::new().name(format!("cnnrs-{number}")).spawn(help)?;
        Ok(Self { desk, thread })
    }

    fn send<'a>(&'a self, task: Task<'a>, patience: Duration) -> Errand<'a> {
        // SAFETY: the thread has done with it when the errand, which is in the borrow, is dropped;
        // and `Helpers::run`, which alone comes here, drops all of its errands.
        let task = unsafe { std::mem::transmute::<Task<'a>, Task<'static>>(task) };
        self.desk.put(Some(Order { task, caller: std::thread::current(), patience }));
        self.say(TASK);
        Errand { desk: &self.desk, patience }
    }

    fn close(&self) {
        self.say(CLOSED);
    }

    fn say(&self, state: u8) {
        self.desk.state.store(state, Ordering::Release);
        self.thread.thread().unpark();
    }
}

impl Desk {
    /// What a helper does: waits for a task and does it. How patiently to wait for the next one, if
    /// there may be one.
    fn help(&self, number: usize, patience: Duration) -> Option<Duration> {
        if self.wait_for([TASK, CLOSED], patience) == CLOSED {
            return None;
        }
        let Order { task, caller, patience } = self.put(None)?;
        let done = catch_unwind(AssertUnwindSafe(|| task(number)));
        self.state.store(if done.is_ok() { DONE } else { FAILED }, Ordering::Release);
        caller.unpark();
        Some(patience)
    }

    /// Puts an order there, or none; what lay there before.
    fn put(&self, order: Option<Order>) -> Option<Order> {
        std::mem::replace(&mut self.order.lock().unwrap_or_else(PoisonError::into_inner), order)
    }

    /// Waits for one of these states, awake at first and then asleep.
    fn wait_for(&self, states: [u8; 2], patience: Duration) -> u8 {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                let state = self.state.load(Ordering::Acquire);
                if states.contains(&state) {
                    return state;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() < patience {
                std::thread::yield_now();
            } else {
                std::thread::park();
            }
        }
    }
}

impl Errand<'_> {
    /// Waits until it is over, and says how.
    fn wait(self) -> u8 {
        self.desk.wait_for([DONE, FAILED], self.patience)
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        self.desk.wait_for([DONE, FAILED], self.patience);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc::{RecvError, SyncSender, sync_channel};
    use std::thread::ThreadId;

    use super::*;

    /// The threads of a run.
    fn threads(wanted: usize) -> Vec<ThreadId> {
        let ids = Mutex::new(vec![]);
        run(wanted, &|number, threads| {
            assert_eq!(threads, wanted);
            ids.lock().unwrap().push((number, std::thread::current().id()));
        });
        let mut ids = ids.into_inner().unwrap();
        ids.sort_by_key(|&(number, _)| number);
        assert!(ids.iter().map(|&(number, _)| number).eq(0..wanted));
        ids.into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn helpers_stay_with_their_caller() {
        let first = threads(3);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
        assert_eq!(first[0], std::thread::current().id());
        assert_eq!(threads(1), first[..1]);
        assert_eq!(threads(2), first[..2]);
        assert_eq!(threads(4)[..3], first);

        let others = std::thread::spawn(|| threads(3)).join().unwrap();
        assert!(others.iter().all(|other| !first.contains(other)));
        // And within a run, the helpers are away.
        run(2, &|number, _| {
            if number == 0 {
                assert!(threads(3)[1..].iter().all(|other| !first.contains(other)));
            }
        });
    }

    #[test]
    fn dismissed_helpers_are_replaced() {
        let first = threads(3);
        dismiss();
        let second = threads(3);
        assert!(second[1..].iter().all(|thread| !first.contains(thread)));
        assert_eq!(threads(3), second);
    }

    #[test]
    fn helpers_end_with_their_caller() {
        thread_local! {
            static HELD: Cell<Option<SyncSender<()>>> = const { Cell::new(None) };
        }
        let (held, ended) = sync_channel(1);
        std::thread::spawn(move || {
            run(3, &|number, _| HELD.set((number > 0).then(|| held.clone())));
        });
        assert_eq!(ended.recv(), Err(RecvError));
    }

    #[test]
    fn a_panic_is_the_callers_once_all_have_done() {
        for who in 0..3 {
            let done = Mutex::new(0);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                run(3, &|number, _| {
                    if number == who {
                        panic!("as intended");
                    }
                    *done.lock().unwrap() += 1;
                });
            }));
            assert!(panicked.is_err());
            assert_eq!(done.into_inner().unwrap(), 2);
            threads(3);
        }
    }

    #[test]
    fn helpers_who_sleep_are_woken() {
        let first = threads(3);
        std::thread::sleep(4 * PATIENCE);
        assert_eq!(threads(3), first);
    }

    #[test]
    fn small_calls_pay_for_threads_if_they_follow_each_other() {
        let work = 3 * WORK_BESIDE_AWAKE;
        std::thread::spawn(move || {
            assert_eq!(most_that_pay(work), 1);
            // The system may halt this thread between two lines.
            let most = Allowed::current().count().min(3);
            assert!((0..1000).any(|_| most_that_pay(work) == most));
            assert_eq!(most_that_pay(0), 1);
            run(2, &|_, _| ());
            dismiss();
            assert_eq!(most_that_pay(work), 1);
        })
        .join()
        .unwrap();
    }
}
