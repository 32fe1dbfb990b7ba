//! When what is deferred is settled.

use crate::kernels::simd::Element;
use crate::network::BuildError;
use crate::network::plan::Plan;
use crate::network::shared::Shared;

/// Steps of an epoch after which weights get what they lack, so that it stays small beside them, and
/// so that rounding does not add up in their sums.
const STEPS: u64 = 1024;

/// What nodes [defer](crate::network::step::Step::deferred_len) in a descent by one image after the
/// other.
///
/// When that is settled is a matter of rounding. So it depends on the step of the epoch alone: a
/// call that begins at another one goes on with what the last call has left. But weights that are
/// set between two steps, even to what they are, begin anew.
#[derive(Debug)]
pub struct Deferral<T> {
    /// What the plan's nodes have set up.
    pub deferred: Shared<T>,
    /// Whether it comes to the network's weights.
    current: bool,
}

impl<T: Element> Deferral<T> {
    /// For a plan.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(plan: &Plan<T>) -> Result<Self, BuildError> {
        Ok(Self { deferred: Shared::zeros(plan.deferred_len)?, current: false })
    }

    /// To be called when the network's weights have changed otherwise.
    pub fn weights_changed(&mut self) {
        self.current = false;
    }

    /// Begins a call, the first step of which has that number in its epoch. After a panic in it, the
    /// weights are those that were settled last.
    pub fn begin(&mut self, plan: &Plan<T>, params: &[T], step: u64) {
        if is_settled_before(step) || !self.current {
            plan.defer(self.deferred.get_mut(), params);
        }
        self.current = false; // until it is known how the call has ended
    }

    /// Settles within a call before the step with that number, if it is time.
    ///
    /// # Safety
    /// Nobody else reads or writes the parameters, or what is deferred, meanwhile.
    pub unsafe fn settle_before(&self, plan: &Plan<T>, params: &Shared<T>, step: u64) {
        if is_settled_before(step) {
            // SAFETY: the caller's promise.
            let (params, deferred) = unsafe {
                (params.write(0..params.len()), self.deferred.write(0..self.deferred.len()))
            };
            plan.settle(params, deferred);
            plan.defer(deferred, params);
        }
    }

    /// Ends a call: the network's weights get what they lack.
    pub fn end(&mut self, plan: &Plan<T>, params: &mut [T]) {
        plan.settle(params, self.deferred.get_mut());
        self.current = true;
    }
}

fn is_settled_before(step: u64) -> bool {
    step.is_multiple_of(STEPS)
}
