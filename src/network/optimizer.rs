//! How parameters follow their gradients.

use std::num::NonZeroU64;
use std::ops::Range;

use crate::kernels::optimizer::Adam;
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::network::BuildError;
use crate::network::team::Shared;

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

/// A rule and what it remembers.
#[derive(Debug)]
pub struct Optimizer<T> {
    rule: Rule,
    /// Steps taken.
    pub steps: u64,
    /// Arrays of the parameters' length.
    slots: Vec<Shared<T>>,
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
        let count = match rule {
            Rule::Sgd { momentum: 0.0, .. } => 0,
            Rule::Sgd { .. } => 1,
            Rule::Adam { .. } => 2,
        };
        let slots = (0..count).map(|_| Shared::zeros(params_len)).collect::<Result<_, _>>()?;
        let averages = match averaging {
            Some(averaging) => {
                Some(Averages { averaging, values: Shared::zeros(params_len)?, shown: false })
            }
            None => None,
        };
        Ok(Self { rule, steps: 0, slots, averages })
    }

    /// Whether an update is `parameter -= rate * gradient` and nothing else.
    pub fn is_plain(&self) -> bool {
        self.slots.is_empty() && self.averages.is_none()
    }

    /// What it remembers, one array of the parameters' length after the other, averages last.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [T]> {
        let averages = self.averages.as_mut().map(|averages| &mut averages.values);
        self.slots.iter_mut().chain(averages).map(Shared::get_mut)
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
        // SAFETY: the caller's promise.
        let (params, slots, average) = unsafe {
            let slot = |i: usize| self.slots.get(i).map(|slot| slot.write(part.clone()));
            let average =
                self.averages.as_ref().map(|it| (it.averaging, it.values.write(part.clone())));
            (params.write(part.clone()), [slot(0), slot(1)], average)
        };
        match (self.rule, slots) {
            (Rule::Sgd { momentum, nesterov }, [Some(velocity), _]) => {
                run::sgd_momentum(params, velocity, grad, rate, momentum, nesterov);
            }
            (Rule::Adam { beta_1, beta_2, epsilon, weight_decay }, [Some(m), Some(v)]) => {
                let rule = Adam { rate, beta_1, beta_2, epsilon, weight_decay };
                run::adam(params, m, v, grad, &rule, step);
            }
            _ => run::sgd(params, grad, rate),
        }
        if let Some((averaging, average)) = average {
            let momentum = if step == 1 { 0.0 } else { averaging.momentum };
            run::follow(average, params, momentum);
            if averaging.overwrite_frequency.is_some_and(|every| step % every == 0) {
                params.copy_from_slice(average);
            }
        }
    }
}
