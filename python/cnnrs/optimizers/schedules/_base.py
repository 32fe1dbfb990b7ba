"""What all learning rate schedules are, and the rates of many steps at a time."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import finite_above_0, finite_at_least_0
from cnnrs._settings import call_of

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

    _settings: ClassVar[tuple[str, ...]] = ()  # the arguments of a class of this package

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


class Formula(LearningRateSchedule):
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
        return call_of(self, self._settings)


class Decay(Formula):
    """A schedule that begins at `initial_learning_rate` and takes `decay_steps` steps."""

    def __init__(self, initial_learning_rate: float, decay_steps: float, name: str | None) -> None:
        super().__init__(name)
        self.initial_learning_rate = finite_at_least_0(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = finite_above_0("decay_steps", decay_steps)


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
    if isinstance(learning_rate, Formula) and type(learning_rate).__call__ is Formula.__call__:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
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
        if np.ndim(rate) == 0 and not isinstance(rate, str | bytes):
            return float(rate)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(
        f"learning_rate: expected a schedule that returns a number for each step, "
        f"got {rate!r} at step {step}"
    )
