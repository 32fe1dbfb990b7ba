//! How parameters follow their gradients.

use std::num::NonZeroU64;
use std::ops::Range;

use crate::kernels::optimizer::Adam;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::BuildError;
use crate::network::shared::Shared;

/// A rule for updates, with Keras's formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Gradient descent.
    Sgd {
        /// How much of the last update is in the next.
        momentum: f64,
        /// Whether the gradient is taken as if the momentum had acted already.
        nesterov: bool,
    },
    /// Adam and, with a weight decay, AdamW.
    Adam {
        /// Decay of the mean.
        beta_1: f64,
        /// Decay of the mean square.
        beta_2: f64,
        /// Added to the root of the mean square.
        epsilon: f64,
        /// How much of a parameter goes in each step, times the learning rate.
        weight_decay: f64,
    },
}

/// How the averages of all parameters over the steps are kept, as Keras does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Averaging {
    /// How much of the averages a step keeps, from 0 to 1; the first keeps nothing.
    pub momentum: f64,
    /// After how many steps, again and again, parameters become their averages.
    pub overwrite_frequency: Option<NonZeroU64>,
}

/// Averages of all parameters.
#[derive(Debug)]
struct Averages<T> {
    averaging: Averaging,
    /// The averages; the parameters, as long as the averages stand in their place.
    values: Shared<T>,
    shown: bool,
}

/// A rule and the arrays of the parameters' length that it needs.
#[derive(Debug)]
enum State<T> {
    Sgd,
    Momentum { momentum: f64, nesterov: bool, velocity: Shared<T> },
    Adam { rule: Adam, m: Shared<T>, v: Shared<T> },
}

/// A rule and what it remembers.
#[derive(Debug)]
pub struct Optimizer<T> {
    /// Steps taken.
    pub steps: u64,
    state: State<T>,
    averages: Option<Averages<T>>,
}

impl<T: Element> Optimizer<T> {
    /// A rule that has seen nothing yet, for so many parameters.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(
        rule: Rule,
        averaging: Option<Averaging>,
        params_len: usize,
    ) -> Result<Self, BuildError> {
        let slot = || Shared::zeros(params_len);
        let state = match rule {
            Rule::Sgd { momentum: 0.0, .. } => State::Sgd,
            Rule::Sgd { momentum, nesterov } => {
                State::Momentum { momentum, nesterov, velocity: slot()? }
            }
            Rule::Adam { beta_1, beta_2, epsilon, weight_decay } => {
                let rule = Adam { beta_1, beta_2, epsilon, weight_decay };
                State::Adam { rule, m: slot()?, v: slot()? }
            }
        };
        let averages = match averaging {
            Some(averaging) => Some(Averages { averaging, values: slot()?, shown: false }),
            None => None,
        };
        Ok(Self { steps: 0, state, averages })
    }

    /// Whether an update is `parameter -= rate * gradient` and nothing else.
    pub fn is_plain(&self) -> bool {
        matches!(self.state, State::Sgd) && self.averages.is_none()
    }

    /// What it remembers, one array of the parameters' length after the other, averages last.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [T]> {
        let [first, second] = match &mut self.state {
            State::Sgd => [None, None],
            State::Momentum { velocity, .. } => [Some(velocity), None],
            State::Adam { m, v, .. } => [Some(m), Some(v)],
        };
        let averages = self.averages.as_mut().map(|averages| &mut averages.values);
        [first, second, averages].into_iter().flatten().map(Shared::get_mut)
    }

    /// Whether averages stand in the parameters' place, and the parameters in theirs; None without
    /// averages.
    pub fn shown(&mut self) -> Option<&mut bool> {
        self.averages.as_mut().map(|averages| &mut averages.shown)
    }

    /// Puts averages in the parameters' place or back, unless they are there or there are none yet.
    /// Returns whether parameters have changed.
    pub fn show_averages(&mut self, params: &mut [T], shown: bool) -> bool {
        let Some(averages) = &mut self.averages else { return false };
        if averages.shown == shown || self.steps == 0 {
            return false;
        }
        params.swap_with_slice(averages.values.get_mut());
        averages.shown = shown;
        true
    }

    /// Makes the parameters their averages, if there are any yet. Returns whether that was so.
    pub fn take_averages(&mut self, params: &mut [T]) -> bool {
        self.show_averages(params, false);
        let Some(averages) = &mut self.averages else { return false };
        if self.steps == 0 {
            return false;
        }
        params.copy_from_slice(averages.values.get_mut());
        true
    }

    /// Updates a part of the parameters by its gradient, as a part of step `step`, counted from 1.
    ///
    /// # Safety
    /// Nobody else reads or writes that part, here or in `params`.
    pub unsafe fn update(
        &self,
        params: &Shared<T>,
        part: Range<usize>,
        grad: &[T],
        rate: f64,
        step: u64,
    ) {
        // SAFETY: the caller's promise, of arrays that all differ.
        let own = |array| unsafe { Shared::write(array, part.clone()) };
        let params = own(params);
        match &self.state {
            State::Sgd => run::sgd(params, grad, rate),
            State::Momentum { momentum, nesterov, velocity } => {
                run::sgd_momentum(params, own(velocity), grad, rate, *momentum, *nesterov);
            }
            State::Adam { rule, m, v } => {
                run::adam(params, own(m), own(v), grad, rate, rule, step);
            }
        }
        if let Some(Averages { averaging, values, .. }) = &self.averages {
            let average = own(values);
            let momentum = if step == 1 { 0.0 } else { averaging.momentum };
            run::follow(average, params, momentum);
            if averaging.overwrite_frequency.is_some_and(|every| step % every == 0) {
                params.copy_from_slice(average);
            }
        }
    }
}
