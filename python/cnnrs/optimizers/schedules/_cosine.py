"""Schedules that go down along half a cosine: once, again and again, or after going up."""

import math

import numpy as np

from cnnrs._checks import between, choice, finite_above_0, finite_at_least_0, integer, number
from cnnrs.optimizers.schedules._base import Decay, Formula, Rates


class CosineDecay(Decay):
    """From `initial_learning_rate` down to `alpha` times as much, along half a cosine.

    `initial * (alpha + (1 - alpha) * (1 + cos(pi * min(step, decay_steps) / decay_steps)) / 2)`.
    With a `warmup_target`, the rate first goes from `initial_learning_rate` to it, in a straight
    line and `warmup_steps` steps, and then decays from it.

    Args:
        initial_learning_rate: at least 0.
        decay_steps: the steps of the decay, without those of the warm-up; above 0.
        alpha: the rate at the end as a share of that at the beginning of the decay; at least 0,
            0 by default.
        name: as in Keras; nothing depends on it.
        warmup_target: at least 0; None (default) for no warm-up.
        warmup_steps: at least 0, 0 by default.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.CosineDecay`; I. Loshchilov and F. Hutter, 2017.

    Example:
        >>> from cnnrs.optimizers.schedules import CosineDecay
        >>> schedule = CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=10)
        >>> schedule([0, 5, 10, 60, 110]).round(3).tolist()
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    _settings = (
        "initial_learning_rate",
        "decay_steps",
        "alpha",
        "warmup_target",
        "warmup_steps",
    )

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str | None = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, name)
        self.alpha = finite_at_least_0("alpha", alpha)
        self.warmup_target = (
            None if warmup_target is None else finite_at_least_0("warmup_target", warmup_target)
        )
        self.warmup_steps = finite_at_least_0("warmup_steps", warmup_steps)

    def _at(self, step: Rates) -> Rates:
        if self.warmup_target is None:
            return self._decayed(self.initial_learning_rate, step)
        decayed = self._decayed(self.warmup_target, np.maximum(step - self.warmup_steps, 0))
        if self.warmup_steps == 0:
            return decayed
        rise = self.warmup_target - self.initial_learning_rate
        warming = self.initial_learning_rate + rise * (step / self.warmup_steps)
        return np.where(step < self.warmup_steps, warming, decayed)

    def _decayed(self, start: float, step: Rates) -> Rates:
        fraction = np.minimum(step, self.decay_steps) / self.decay_steps
        return start * ((1 - self.alpha) * _half_cosine(fraction) + self.alpha)


class CosineDecayRestarts(Formula):
    """A cosine's way down, again and again.

    Period i, counted from 0, has `first_decay_steps * t_mul ** i` steps, in which with x from 0 to
    1 the rate is `initial * (alpha + (1 - alpha) * m_mul ** i * (1 + cos(pi * x)) / 2)`.

    Args:
        initial_learning_rate: at least 0.
        first_decay_steps: the steps of the first period; above 0.
        t_mul: how many times longer a period is than the one before; at least 1, 2 by default.
        m_mul: how many times higher it begins; at least 0, 1 by default.
        alpha: the lowest rate as a share of `initial_learning_rate`; at least 0, 0 by default.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.CosineDecayRestarts`; I. Loshchilov and F. Hutter, 2017.

    Example:
        >>> from cnnrs.optimizers.schedules import CosineDecayRestarts
        >>> CosineDecayRestarts(0.1, 10)([0, 5, 10, 20, 30]).round(3).tolist()
        [0.1, 0.05, 0.1, 0.05, 0.1]
    """

    _settings = ("initial_learning_rate", "first_decay_steps", "t_mul", "m_mul", "alpha")

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str | None = "SGDRDecay",
    ) -> None:
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.first_decay_steps = finite_above_0("first_decay_steps", first_decay_steps)
        self.t_mul = number(
            "t_mul", t_mul, "a finite number of at least 1", lambda value: 1 <= value < math.inf
        )
        self.m_mul = finite_at_least_0("m_mul", m_mul)
        self.alpha = finite_at_least_0("alpha", alpha)

    def _at(self, step: Rates) -> Rates:
        periods = step / self.first_decay_steps  # in lengths of the first
        if self.t_mul == 1:
            done = np.floor(periods)
            fraction = periods - done
        else:
            done = np.floor(np.log1p(periods * (self.t_mul - 1)) / math.log(self.t_mul))
            # The logarithms' rounding may be off by one where a period begins.
            done = np.where(self._before(done) > periods, done - 1, done)
            done = np.where(self._before(done + 1) <= periods, done + 1, done)
            fraction = (periods - self._before(done)) / np.power(self.t_mul, done)
        height = np.power(self.m_mul, done) * _half_cosine(fraction)
        return self.initial_learning_rate * ((1 - self.alpha) * height + self.alpha)

    def _before(self, period: Rates) -> Rates:
        """Where a period begins, in lengths of the first."""
        return (np.power(self.t_mul, period) - 1) / (self.t_mul - 1)


class OneCycle(Formula):
    """Once up and once down: from `max / div_factor` to `max`, then far below where it began.

    The highest rate is that of step `pct_start * steps - 1`, the lowest, `max / div_factor /
    final_div_factor`, that of step `steps - 1` and of all later ones. Momentum stays as it is.

    Args:
        max_learning_rate: at least 0.
        steps: how many steps the cycle has, at least 1: epochs times steps an epoch.
        pct_start: the share of the steps on the way up; from 0 to 1, 0.3 by default.
        anneal_strategy: `"cos"` (default) for half a cosine up and half a cosine down, or
            `"linear"`.
        div_factor: above 0, 25 by default.
        final_div_factor: above 0, 10000 by default.
        name: nothing depends on it.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range, or the strategy is another.

    Reference: `torch.optim.lr_scheduler.OneCycleLR`; L. Smith and N. Topin, 2018.

    Example:
        >>> from cnnrs.optimizers.schedules import OneCycle
        >>> OneCycle(0.25, steps=100, pct_start=0.4)([0, 39, 99]).round(6).tolist()
        [0.01, 0.25, 1e-06]
    """

    _settings = (
        "max_learning_rate",
        "steps",
        "pct_start",
        "anneal_strategy",
        "div_factor",
        "final_div_factor",
    )

    def __init__(
        self,
        max_learning_rate: float,
        steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        name: str | None = "OneCycle",
    ) -> None:
        super().__init__(name)
        self.max_learning_rate = finite_at_least_0("max_learning_rate", max_learning_rate)
        self.steps = integer("steps", steps)
        self.pct_start = between("pct_start", pct_start, 0, 1)
        self.anneal_strategy = choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.div_factor = finite_above_0("div_factor", div_factor)
        self.final_div_factor = finite_above_0("final_div_factor", final_div_factor)

    def _at(self, step: Rates) -> Rates:
        top, end = self.pct_start * self.steps - 1, self.steps - 1
        highest = self.max_learning_rate
        first = highest / self.div_factor
        step = np.minimum(step, end)
        up = self._annealed(first, highest, step / top) if top > 0 else step
        down = (
            self._annealed(highest, first / self.final_div_factor, (step - top) / (end - top))
            if end > top
            else np.full_like(step, highest)
        )
        return np.where(step < top, up, down)

    def _annealed(self, start: float, end: float, fraction: Rates) -> Rates:
        left = _half_cosine(fraction) if self.anneal_strategy == "cos" else 1 - fraction
        return end + (start - end) * left


def _half_cosine(fraction: Rates) -> Rates:
    """From 1 to 0 as the fraction goes from 0 to 1."""
    return (1 + np.cos(math.pi * fraction)) / 2
