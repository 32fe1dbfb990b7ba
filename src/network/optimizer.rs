//! How parameters follow their gradients.

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

/// A rule and what it remembers.
#[derive(Debug)]
pub struct Optimizer<T> {
    rule: Rule,
    /// Steps taken.
    pub steps: u64,
    /// Arrays of the parameters' length.
    slots: Vec<Shared<T>>,
}

impl<T: Element> Optimizer<T> {
    /// A rule that has seen nothing yet, for so many parameters.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(rule: Rule, params_len: usize) -> Result<Self, BuildError> {
        let count = match rule {
            Rule::Sgd { momentum: 0.0, .. } => 0,
            Rule::Sgd { .. } => 1,
            Rule::Adam { .. } => 2,
        };
        let slots = (0..count).map(|_| Shared::zeros(params_len)).collect::<Result<_, _>>()?;
        Ok(Self { rule, steps: 0, slots })
    }

    /// Whether an update is `parameter -= rate * gradient` and nothing else.
    pub fn is_plain(&self) -> bool {
        self.slots.is_empty()
    }

    /// What it remembers, one array of the parameters' length after the other.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [T]> {
        self.slots.iter_mut().map(Shared::get_mut)
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
        let (params, slots) = unsafe {
            let slot = |i: usize| self.slots.get(i).map(|slot| slot.write(part.clone()));
            (params.write(part.clone()), [slot(0), slot(1)])
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
    }
}
