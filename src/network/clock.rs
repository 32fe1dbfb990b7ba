//! When to ask whether a call shall stop.

use std::time::{Duration, Instant};

/// Products between two looks at the clock.
const WORK_BETWEEN_LOOKS: usize = 1 << 22;

/// The time between two polls.
const POLL: Duration = Duration::from_millis(50);

/// Whether to stop: asked on the calling thread, every now and then.
pub type Poll<'a> = &'a (dyn Fn() -> bool + Sync);

/// When it is time to ask whether to stop.
pub struct Clock<'a> {
    poll: Option<Poll<'a>>,
    last: Instant,
    /// Products since the last look.
    work: usize,
}

impl<'a> Clock<'a> {
    /// For a thread that may poll, or one that may not.
    pub fn new(poll: Option<Poll<'a>>) -> Self {
        Self { poll, last: Instant::now(), work: 0 }
    }

    /// Whether to stop, after so much more work.
    pub fn says_stop(&mut self, work: usize) -> bool {
        let Some(poll) = self.poll else { return false };
        self.work = self.work.saturating_add(work);
        if self.work < WORK_BETWEEN_LOOKS {
            return false;
        }
        self.work = 0;
        if self.last.elapsed() < POLL {
            return false;
        }
        self.last = Instant::now();
        poll()
    }
}
