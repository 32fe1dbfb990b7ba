"""Schedules that go down by powers, by fractions, in steps or along a line."""

from collections.abc import Sequence

import numpy as np

from cnnrs._checks import finite_at_least_0, flag, number
from cnnrs.optimizers.schedules._base import Decay, Formula, Rates


class _Staircase(Decay):
    """A decay by `decay_rate`, all the way or once every `decay_steps`."""

    _settings = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool,
        name: str | None,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, name)
        self.decay_rate = finite_at_least_0("decay_rate", decay_rate)
        self.staircase = flag("staircase", staircase)

    def _at(self, step: Rates) -> Rates:
        times = step / self.decay_steps
        return self._decayed(np.floor(times) if self.staircase else times)

    def _decayed(self, times: Rates) -> Rates:
        """The rates after so many times `decay_steps`."""
        raise NotImplementedError


class ExponentialDecay(_Staircase):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    Args:
        initial_learning_rate: at least 0.
        decay_steps: the steps after which the rate is `decay_rate` times as large; above 0.
        decay_rate: at least 0.
        staircase: whether `step / decay_steps` is rounded down, False by default.
        name: as in Keras; nothing depends on it.

    Raises:
        TypeError: if one is no number, or `staircase` neither True nor False.
        ValueError: if one is out of its range.

    Reference: `keras.optimizers.schedules.ExponentialDecay`.

    Example:
        >>> from cnnrs.optimizers.schedules import ExponentialDecay
        >>> ExponentialDecay(0.1, 100, 0.5)([0, 100, 200]).tolist()
        [0.1, 0.05, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "ExponentialDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def _decayed(self, times: Rates) -> Rates:
        return self.initial_learning_rate * np.power(self.decay_rate, times)


class InverseTimeDecay(_Staircase):
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

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def _decayed(self, times: Rates) -> Rates:
        return self.initial_learning_rate / (1 + self.decay_rate * times)


class PiecewiseConstantDecay(Formula):
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


class PolynomialDecay(Decay):
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
        TypeError: if one is no number, or `cycle` neither True nor False.
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
        super().__init__(initial_learning_rate, decay_steps, name)
        self.end_learning_rate = finite_at_least_0("end_learning_rate", end_learning_rate)
        self.power = finite_at_least_0("power", power)
        self.cycle = flag("cycle", cycle)

    def _at(self, step: Rates) -> Rates:
        if self.cycle:
            end = self.decay_steps * np.maximum(1, np.ceil(step / self.decay_steps))
        else:
            end = np.asarray(self.decay_steps)
        fraction = np.minimum(step, end) / end
        span = self.initial_learning_rate - self.end_learning_rate
        return span * np.power(1 - fraction, self.power) + self.end_learning_rate
