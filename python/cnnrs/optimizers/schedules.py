"""Learning rates that change from step to step, with Keras's names and meanings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import (
    between,
    choice,
    finite_above_0,
    finite_at_least_0,
    integer,
    number,
    one_of,
)

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "OneCycle",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]

Rates: TypeAlias = npt.NDArray[np.float64]


class LearningRateSchedule:
    """The base of learning rate schedules: called with a step, one returns its learning rate.

    Steps are counted from 0 since the model was compiled. Rates are asked for many steps at a
    time, ahead of the training, so a rate must follow from the step alone.

    Reference: `keras.optimizers.schedules.LearningRateSchedule`.

    Example:
        >>> from cnnrs.optimizers import SGD
        >>> from cnnrs.optimizers.schedules import LearningRateSchedule
        >>> class Halving(LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.1 * 0.5 ** (step // 1000)
        >>> [Halving()(step) for step in (0, 999, 1000)]
        [0.1, 0.1, 0.05]
        >>> optimizer = SGD(Halving())
    """

    _settings: ClassVar[tuple[str, ...]] = ()  # the arguments of a class of this module

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step.

        Args:
            step: int, from 0.

        Returns:
            A finite number of at least 0.
        """
        raise NotImplementedError(
            f"{type(self).__name__}: expected a subclass with __call__(self, step), got none"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule.

        Reference: `keras.optimizers.schedules.LearningRateSchedule.get_config`.

        Example:
            >>> from cnnrs.optimizers.schedules import CosineDecay
            >>> CosineDecay(0.1, 500).get_config()["decay_steps"]
            500.0
        """
        if not self._settings:
            raise NotImplementedError(
                f"{type(self).__name__}: expected a subclass with get_config(self), got none"
            )
        return {name: getattr(self, name) for name in (*self._settings, "name")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a schedule from what `get_config` returned.

        Reference: `keras.optimizers.schedules.LearningRateSchedule.from_config`.

        Example:
            >>> from cnnrs.optimizers.schedules import CosineDecay
            >>> CosineDecay.from_config(CosineDecay(0.1, 500).get_config())(500)
            0.0
        """
        return cls(**config)


class _Formula(LearningRateSchedule):
    """A schedule whose formula takes many steps at once."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __call__(self, step: npt.ArrayLike) -> Any:
        """Return the learning rates of steps.

        Args:
            step: an int from 0, or an array of them.

        Returns:
            A float, or for an array float64 of its shape.
        """
        rates = self._at(np.asarray(step, np.float64))
        return rates if rates.ndim else float(rates)

    def _at(self, step: Rates) -> Rates:
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)
        return f"{type(self).__name__}({settings})"


class ExponentialDecay(_Formula):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    Args:
        initial_learning_rate: at least 0.
        decay_steps: the steps after which the rate is `decay_rate` times as large; above 0.
        decay_rate: at least 0.
        staircase: whether `step / decay_steps` is rounded down, False by default.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.ExponentialDecay`.

    Example:
        >>> from cnnrs.optimizers.schedules import ExponentialDecay
        >>> ExponentialDecay(0.1, 100, 0.5)([0, 100, 200]).tolist()
        [0.1, 0.05, 0.025]
    """

    _settings = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "ExponentialDecay",
    ) -> None:
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = finite_above_0("decay_steps", decay_steps)
        self.decay_rate = finite_at_least_0("decay_rate", decay_rate)
        self.staircase = bool(staircase)

    def _at(self, step: Rates) -> Rates:
        times = step / self.decay_steps
        if self.staircase:
            times = np.floor(times)
        return self.initial_learning_rate * np.power(self.decay_rate, times)


class InverseTimeDecay(_Formula):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    Args:
        initial_learning_rate: at least 0.
        decay_steps: above 0.
        decay_rate: at least 0.
        staircase: whether `step / decay_steps` is rounded down, False by default.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.InverseTimeDecay`.

    Example:
        >>> from cnnrs.optimizers.schedules import InverseTimeDecay
        >>> InverseTimeDecay(0.1, 100, 1)([0, 100, 300]).tolist()
        [0.1, 0.05, 0.025]
    """

    _settings = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "InverseTimeDecay",
    ) -> None:
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = finite_above_0("decay_steps", decay_steps)
        self.decay_rate = finite_at_least_0("decay_rate", decay_rate)
        self.staircase = bool(staircase)

    def _at(self, step: Rates) -> Rates:
        times = step / self.decay_steps
        if self.staircase:
            times = np.floor(times)
        return self.initial_learning_rate / (1 + self.decay_rate * times)


class PiecewiseConstantDecay(_Formula):
    """`values[0]` up to and with step `boundaries[0]`, then `values[1]`, and so on.

    Args:
        boundaries: the last steps of all values but the last, each above the one before.
        values: learning rates of at least 0, one more than boundaries.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if there is something else than numbers.
        ValueError: if boundaries do not grow, or the number of values is another.

    Reference: `keras.optimizers.schedules.PiecewiseConstantDecay`.

    Example:
        >>> from cnnrs.optimizers.schedules import PiecewiseConstantDecay
        >>> PiecewiseConstantDecay([100, 200], [0.1, 0.01, 0.001])([0, 100, 101, 201]).tolist()
        [0.1, 0.1, 0.01, 0.001]
    """

    _settings = ("boundaries", "values")

    def __init__(
        self,
        boundaries: Sequence[float],
        values: Sequence[float],
        name: str | None = "PiecewiseConstant",
    ) -> None:
        super().__init__(name)
        self.boundaries = [number(f"boundaries[{n}]", it) for n, it in enumerate(boundaries)]
        self.values = [finite_at_least_0(f"values[{n}]", it) for n, it in enumerate(values)]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected {len(self.boundaries) + 1}, one more than boundaries, "
                f"got {len(self.values)}"
            )
        if any(
            low >= high for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)
        ):
            raise ValueError(
                f"boundaries: expected each above the one before, got {self.boundaries}"
            )

    def _at(self, step: Rates) -> Rates:
        return np.array(self.values)[np.searchsorted(self.boundaries, step)]


class PolynomialDecay(_Formula):
    """`end + (initial - end) * (1 - min(step, decay_steps) / decay_steps) ** power`.

    With `cycle`, the first multiple of `decay_steps` that is at least `step` takes its place.

    Args:
        initial_learning_rate: at least 0.
        decay_steps: the steps until the end; above 0.
        end_learning_rate: at least 0, 0.0001 by default.
        power: at least 0, 1 by default: a straight line.
        cycle: whether the rate goes up again after the end, False by default.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.PolynomialDecay`.

    Example:
        >>> from cnnrs.optimizers.schedules import PolynomialDecay
        >>> PolynomialDecay(1.0, 100, end_learning_rate=0.5)([0, 50, 100, 200]).tolist()
        [1.0, 0.75, 0.5, 0.5]
    """

    _settings = ("initial_learning_rate", "decay_steps", "end_learning_rate", "power", "cycle")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str | None = "PolynomialDecay",
    ) -> None:
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = finite_above_0("decay_steps", decay_steps)
        self.end_learning_rate = finite_at_least_0("end_learning_rate", end_learning_rate)
        self.power = finite_at_least_0("power", power)
        self.cycle = bool(cycle)

    def _at(self, step: Rates) -> Rates:
        if self.cycle:
            end = self.decay_steps * np.maximum(1, np.ceil(step / self.decay_steps))
        else:
            end = np.asarray(self.decay_steps)
        fraction = np.minimum(step, end) / end
        span = self.initial_learning_rate - self.end_learning_rate
        return span * np.power(1 - fraction, self.power) + self.end_learning_rate


class CosineDecay(_Formula):
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
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = finite_above_0("decay_steps", decay_steps)
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


class CosineDecayRestarts(_Formula):
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


class OneCycle(_Formula):
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


BY_NAME: Mapping[str, type[LearningRateSchedule]] = {
    kind.__name__: kind
    for kind in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        OneCycle,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}


def serialize(learning_rate: Any) -> Any:
    """Describe a schedule by plain values.

    Args:
        learning_rate: a schedule; or a number, a function or a schedule of the user's own class.

    Returns:
        `{"class_name": ..., "config": ...}`; what is no schedule of this module stays itself.

    Reference: `keras.optimizers.schedules.serialize`.

    Example:
        >>> from cnnrs.optimizers import schedules
        >>> schedules.serialize(schedules.PiecewiseConstantDecay([9], [0.1, 0.01]))["class_name"]
        'PiecewiseConstantDecay'
    """
    if BY_NAME.get(type(learning_rate).__name__) is type(learning_rate):
        return {"class_name": type(learning_rate).__name__, "config": learning_rate.get_config()}
    return learning_rate


def deserialize(config: Mapping[str, Any]) -> LearningRateSchedule:
    """Make a schedule from what `serialize` returned, or Keras's function of that name.

    Args:
        config: `{"class_name": ..., "config": ...}`.

    Raises:
        ValueError: if there is no such class, or its arguments are others.

    Reference: `keras.optimizers.schedules.deserialize`.

    Example:
        >>> from cnnrs.optimizers import schedules
        >>> config = {"initial_learning_rate": 0.1, "decay_steps": 500}
        >>> schedules.deserialize({"class_name": "CosineDecay", "config": config})(0)
        0.1
    """
    kind = BY_NAME.get(config.get("class_name", ""))
    if kind is None:
        raise ValueError(
            f"learning_rate: expected a class_name of {one_of(list(BY_NAME))}, got {config!r}"
        )
    try:
        return kind.from_config(config.get("config", {}))
    except TypeError as error:
        raise ValueError(
            f"learning_rate: expected the arguments of {kind.__name__}: {error}"
        ) from error


def rates_of(learning_rate: float | Callable[[int], float], first: int, count: int) -> Rates:
    """The learning rates of `count` steps from step `first` on.

    Args:
        learning_rate: a number, a schedule, or a function from step to rate.

    Returns:
        float64 array (count,).

    Raises:
        ValueError: if one is not finite or below 0.
        TypeError: if one is no number.
    """
    if not callable(learning_rate):
        return np.full(count, learning_rate, np.float64)
    # A subclass may be called with single steps only.
    if isinstance(learning_rate, _Formula) and type(learning_rate).__call__ is _Formula.__call__:
        rates = learning_rate._at(np.arange(first, first + count, dtype=np.float64))
    else:
        steps = range(first, first + count)
        rates = np.fromiter(
            (_number(learning_rate(step), step) for step in steps), np.float64, count
        )
    fits = (rates >= 0) & (rates < np.inf)
    if not fits.all():
        wrong = int(fits.argmin())
        raise ValueError(
            f"learning_rate: expected a schedule of finite numbers of at least 0, "
            f"got {rates[wrong]} at step {first + wrong}"
        )
    return rates


def _number(rate: Any, step: int) -> float:
    try:
        if np.ndim(rate) == 0:
            return float(rate)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"learning_rate: expected a schedule that returns a number for each step, "
        f"got {rate!r} at step {step}"
    )


def _half_cosine(fraction: Rates) -> Rates:
    """From 1 to 0 as the fraction goes from 0 to 1."""
    return (1 + np.cos(math.pi * fraction)) / 2
