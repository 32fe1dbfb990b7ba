//! Whose turn it is with a network. Nobody waits for what never comes: a signal handler for the
//! call that it interrupts, or a forked process for a thread that it has not inherited.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::network::dismiss_helpers;

/// How long a thread waits before it looks whether a signal has come.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long it sleeps before it looks whether its turn has come. It is woken when a turn ends,
/// unless that happens just before it falls asleep.
const SLEEP: Duration = Duration::from_millis(5);

/// The same where it cannot be woken.
const NAP: Duration = Duration::from_micros(100);

/// Turns, one after the other.
#[derive(Default)]
pub struct Turns {
    /// The thread whose turn it is, or 0. This is the lock itself: what a forked process inherits
    /// is either nobody's or says whose it was.
    thread: AtomicU64,
    /// How many may be asleep: to wake nobody takes a call of the system too.
    asleep: AtomicU32,
    ended: Condvar,
    /// Of those who wait. A forked process may inherit it locked, so nobody insists on it.
    waiting: Mutex<()>,
}

/// It is this thread's turn as long as this lives.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn, without the interpreter's lock.
    ///
    /// # Errors
    /// If it would never come, or if a signal's handler raises meanwhile.
    pub fn take(&self, py: Python<'_>) -> PyResult<Turn<'_>> {
        let this = this_thread();
        loop {
            if self.begin(this) {
                return Ok(Turn(self));
            }
            self.check(this)?;
            // It begins without that lock: a thread that takes turn after turn may keep it between
            // two of them.
            if py.detach(|| self.begin_soon(this)) {
                return Ok(Turn(self));
            }
            py.check_signals()?;
        }
    }

    fn begin(&self, this: u64) -> bool {
        self.thread.compare_exchange(0, this, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Waits for a turn, but not for long; returns whether it has begun.
    fn begin_soon(&self, this: u64) -> bool {
        let start = Instant::now();
        while !self.begin(this) {
            if start.elapsed() > PATIENCE {
                return false;
            }
            let Ok(waiting) = self.waiting.try_lock() else {
                thread::sleep(NAP);
                continue;
            };
            self.asleep.fetch_add(1, Ordering::Relaxed);
            drop(self.ended.wait_timeout(waiting, SLEEP));
            self.asleep.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    fn check(&self, this: u64) -> PyResult<()> {
        let thread = self.thread.load(Ordering::Relaxed);
        let why = if thread == this {
            "expected a network that is not at work, got one at work in this thread: a signal \
             handler cannot use what it interrupts"
        } else if thread != 0 && thread >> 32 != this >> 32 {
            "expected a network that is not at work, got one at work in the process that this one \
             was forked from; copy the model before the fork"
        } else {
            return Ok(());
        };
        Err(PyRuntimeError::new_err(why))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, Ordering::Release);
        if self.0.asleep.load(Ordering::Relaxed) > 0 {
            self.0.ended.notify_one();
        }
    }
}

/// How many forks led to this process: its number costs a call of the system to ask for, which
/// takes half a microsecond on some machines.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Counts forks from now on, where there are any, and sends the helpers of a thread home before it
/// forks: Python warns of a process that has threads.
///
/// # Errors
/// If Python does not let it.
pub fn look_after_forks(py: Python<'_>) -> PyResult<()> {
    let os = py.import("os")?;
    let register = match os.getattr("register_at_fork") {
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => return Ok(()), // Windows
        register => register?,
    };
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(dismiss, py)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(count_fork, py)?)?;
    register.call((), Some(&hooks)).map(drop)
}

#[pyfunction]
fn dismiss(py: Python<'_>) {
    py.detach(dismiss_helpers);
}

#[pyfunction]
fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The process in the high half, the thread's number in the low one; never 0.
fn this_thread() -> u64 {
    static THREADS: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    u64::from(FORKS.load(Ordering::Relaxed)) << 32 | u64::from(NUMBER.get())
}
