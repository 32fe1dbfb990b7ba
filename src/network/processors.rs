//! The processors that threads run on.
//!
//! Linux starts or wakes a thread on its caller's processor if it finds none idle, and in a virtual
//! machine it does not take one for idle that the host has put to rest. The two then share a
//! processor for some milliseconds, beside an idle one, and are slower together than the caller would
//! be alone.

use std::sync::OnceLock;

/// Processors of this process, looked up once: that reads files, and takes longer than a small
/// network's prediction.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

pub use system::{Allowed, Processor, leave};

#[cfg(target_os = "linux")]
mod system {
    use super::cores;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// Where a thread runs.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Processor(usize);

    impl Processor {
        /// This thread's, now.
        pub fn current() -> Self {
            Self(sched_getcpu())
        }
    }

    /// The processors that a thread may run on, if the system tells.
    #[derive(PartialEq, Eq)]
    pub struct Allowed(Option<CpuSet>);

    impl Allowed {
        /// This thread's, now.
        pub fn current() -> Self {
            Self(sched_getaffinity(None).ok())
        }

        /// How many they are.
        pub fn count(&self) -> usize {
            self.0.map_or_else(cores, |set| set.count() as usize)
        }
    }

    /// Moves this thread to another processor if it is on this one, and says whether it did. The
    /// thread may come back: what the system allows it stays as it was.
    pub fn leave(processor: Processor) -> bool {
        if Processor::current() != processor {
            return false;
        }
        let Ok(allowed) = sched_getaffinity(None) else { return false };
        let mut others = allowed;
        others.unset(processor.0);
        // The system refuses a set without processors.
        let left = sched_setaffinity(None, &others).is_ok();
        // This fails only if they have all been taken away since, and others given.
        left && sched_setaffinity(None, &allowed).is_ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_leaves_a_processor_if_there_is_another() {
            let allowed = sched_getaffinity(None).unwrap();
            // The system, too, may move it between two lines.
            let leaves = || (0..1000).any(|_| leave(Processor::current()));
            assert_eq!(leaves(), allowed.count() > 1);
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);

            let mut one = CpuSet::new();
            one.set(sched_getcpu());
            sched_setaffinity(None, &one).unwrap();
            assert!(!leaves());
            assert_eq!(sched_getaffinity(None).unwrap(), one);
            sched_setaffinity(None, &allowed).unwrap();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::cores;

    /// Where a thread runs: other systems are left to choose.
    #[derive(Clone, Copy)]
    pub struct Processor;

    impl Processor {
        /// This thread's, now.
        pub fn current() -> Self {
            Self
        }
    }

    /// The processors that a thread may run on: all.
    #[derive(PartialEq, Eq)]
    pub struct Allowed;

    impl Allowed {
        /// This thread's, now.
        pub fn current() -> Self {
            Self
        }

        /// How many they are.
        pub fn count(&self) -> usize {
            cores()
        }
    }

    /// Would move this thread to another processor if it is on this one, but does not.
    pub fn leave(_: Processor) -> bool {
        false
    }
}
