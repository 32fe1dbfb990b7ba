//! Who is at work on a network, so that nobody waits for what never comes: a signal handler for the
//! call that it interrupts, or a forked process for a thread that it has not inherited.

use std::cell::Cell;
use std::process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A thread's process and its number there, or 0 for nobody.
#[derive(Default)]
pub struct Holder(AtomicU64);

/// While it lives, this thread is the holder.
pub struct Held<'a>(&'a Holder);

impl Holder {
    /// # Errors
    /// If this thread is at work already, or another process's thread was when this one was forked.
    pub fn check(&self) -> PyResult<()> {
        let (holder, this) = (self.0.load(Ordering::Relaxed), this_thread());
        let why = if holder == this {
            "expected a network that is not at work, got one at work in this thread: a signal handler \
             cannot use what it interrupts"
        } else if holder != 0 && holder >> 32 != this >> 32 {
            "expected a network that is not at work, got one at work in the process that this one was \
             forked from; copy the model before the fork"
        } else {
            return Ok(());
        };
        Err(PyRuntimeError::new_err(why))
    }

    /// Makes this thread the holder.
    pub fn hold(&self) -> Held<'_> {
        self.0.store(this_thread(), Ordering::Relaxed);
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

/// The process in the high half, the thread's number in the low one; never 0.
fn this_thread() -> u64 {
    static THREADS: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    u64::from(process::id()) << 32 | u64::from(NUMBER.get())
}
