"""How gradients change weights, with Keras's names.

An optimizer object is a description: momenta and the like live in the compiled network of the model
that it was given to. Only `learning_rate` may be assigned later; it counts from the next step.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import number, one_of
from cnnrs.optimizers import schedules
from cnnrs.optimizers.schedules import LearningRateSchedule

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "get", "schedules"]

LearningRate: TypeAlias = float | LearningRateSchedule | Callable[[int], float]


class Optimizer:
    """The base of all optimizers.

    An optimizer is a class with `_kind`, the compiled network's name for it, `_settings`, the
    attributes that the compiled network takes, and `_arguments`, those that are arguments too.

    Reference: `keras.optimizers.Optimizer`.

    Example:
        >>> from cnnrs.optimizers import SGD, Optimizer
        >>> isinstance(SGD(), Optimizer)
        True
    """

    _kind: ClassVar[str]
    _settings: ClassVar[tuple[str, ...]]
    _arguments: ClassVar[tuple[str, ...]]

    def __init__(
        self, learning_rate: LearningRate, default: float, lr: LearningRate | None
    ) -> None:
        if lr is not None and learning_rate != default:
            raise ValueError(
                f"lr: expected learning_rate or its old name, got both: learning_rate="
                f"{learning_rate!r}, lr={lr!r}"
            )
        self.learning_rate = learning_rate if lr is None else lr

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate: a number, a schedule, or a function from the step to the rate.

        May be assigned at any time, as callbacks do.
        """
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        if not callable(value):
            value = number(
                "learning_rate",
                value,
                "a finite number of at least 0",
                lambda rate: 0 <= rate < float("inf"),
            )
        self._learning_rate = value

    @property
    def lr(self) -> LearningRate:
        """The learning rate, by its old name."""
        return self._learning_rate

    @lr.setter
    def lr(self, value: LearningRate) -> None:
        self.learning_rate = value

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer.

        Returns:
            A dict for `from_config`: of plain values, unless the learning rate is a function or a
            schedule.

        Reference: `keras.optimizers.Optimizer.get_config`.

        Example:
            >>> from cnnrs.optimizers import SGD
            >>> SGD(0.1, momentum=0.9).get_config()
            {'learning_rate': 0.1, 'momentum': 0.9, 'nesterov': False}
        """
        arguments = {key: getattr(self, key) for key in self._arguments}
        return {"learning_rate": self.learning_rate, **arguments}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an optimizer from what `get_config` returned.

        Reference: `keras.optimizers.Optimizer.from_config`.

        Example:
            >>> from cnnrs.optimizers import SGD
            >>> SGD.from_config(SGD(0.1, momentum=0.9).get_config())
            SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
        """
        return cls(**config)

    def _rates(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """The learning rates of `count` steps."""
        rate = self._learning_rate
        if isinstance(rate, LearningRateSchedule):
            rates = np.asarray(rate(np.arange(first, first + count, dtype=np.int64)), np.float64)
        elif callable(rate):
            rates = np.array([rate(step) for step in range(first, first + count)], np.float64)
        else:
            return np.full(count, rate)
        if rates.shape not in ((), (count,)):
            raise ValueError(
                f"learning_rate: expected a schedule that returns one rate for each of {count} "
                f"steps, got an array of shape {rates.shape}"
            )
        if not ((rates >= 0) & (rates < np.inf)).all():
            wrong = rates[~((rates >= 0) & (rates < np.inf))].ravel()[0]
            raise ValueError(
                f"learning_rate: expected a schedule of finite numbers of at least 0, got {wrong}"
            )
        return np.full(count, rates)

    def _compiled(self) -> tuple[str, dict[str, Any]]:
        """The optimizer as the compiled network takes it, without the learning rate."""
        return self._kind, {key: getattr(self, key) for key in self._settings}

    def __repr__(self) -> str:
        settings = {"learning_rate": self.learning_rate, **self._compiled()[1]}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


class SGD(Optimizer):
    """Gradient descent: `w -= learning_rate * g`.

    With momentum m, `v = m * v - learning_rate * g` and `w += v`, or for Nesterov's
    `w += m * v - learning_rate * g`.

    Args:
        learning_rate: 0.01 by default; a number, a schedule, or a function from step to rate.
        momentum: from 0 (default) to 1.
        nesterov: whether momentum is Nesterov's, False by default.
        lr: `learning_rate`, by its old name.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range, or the learning rate is given twice.

    Reference: `keras.optimizers.SGD`.

    Example:
        >>> from cnnrs.optimizers import SGD
        >>> SGD(0.1, momentum=0.9)
        SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
        >>> SGD(lr=0.005).learning_rate
        0.005
    """

    _kind = "sgd"
    _settings = ("momentum", "nesterov")
    _arguments = _settings

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        lr: LearningRate | None = None,
    ) -> None:
        super().__init__(learning_rate, 0.01, lr)
        self.momentum = number(
            "momentum", momentum, "a number from 0 to 1", lambda value: 0 <= value <= 1
        )
        self.nesterov = bool(nesterov)


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.

    `m = beta_1 * m + (1 - beta_1) * g`, `v = beta_2 * v + (1 - beta_2) * g ** 2`, and at step t
    `w -= learning_rate * sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t) * m / (sqrt(v) + epsilon)`.

    Args:
        learning_rate: 0.001 by default; a number, a schedule, or a function from step to rate.
        beta_1: from 0 to below 1, 0.9 by default.
        beta_2: from 0 to below 1, 0.999 by default.
        epsilon: at least 0, 1e-7 by default.
        lr: `learning_rate`, by its old name.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range, or the learning rate is given twice.

    Reference: `keras.optimizers.Adam`; D. Kingma and J. Ba, 2014.

    Example:
        >>> from cnnrs.optimizers import Adam
        >>> Adam().learning_rate
        0.001
    """

    _kind = "adam"
    _settings = ("beta_1", "beta_2", "epsilon", "weight_decay")
    _arguments: ClassVar[tuple[str, ...]] = ("beta_1", "beta_2", "epsilon")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        lr: LearningRate | None = None,
    ) -> None:
        super().__init__(learning_rate, 0.001, lr)
        self.beta_1 = _beta("beta_1", beta_1)
        self.beta_2 = _beta("beta_2", beta_2)
        self.epsilon = _at_least_0("epsilon", epsilon)
        self.weight_decay = 0.0


class AdamW(Adam):
    """Adam, with all weights made smaller at every step: `w -= learning_rate * weight_decay * w`.

    Args:
        learning_rate: 0.001 by default; a number, a schedule, or a function from step to rate.
        weight_decay: at least 0, 0.004 by default.
        beta_1: from 0 to below 1, 0.9 by default.
        beta_2: from 0 to below 1, 0.999 by default.
        epsilon: at least 0, 1e-7 by default.
        lr: `learning_rate`, by its old name.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of its range, or the learning rate is given twice.

    Reference: `keras.optimizers.AdamW`; I. Loshchilov and F. Hutter, 2019.

    Example:
        >>> from cnnrs.optimizers import AdamW
        >>> AdamW(weight_decay=0.01).weight_decay
        0.01
    """

    _arguments = ("weight_decay", "beta_1", "beta_2", "epsilon")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        lr: LearningRate | None = None,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, lr=lr)
        self.weight_decay = _at_least_0("weight_decay", weight_decay)


BY_NAME: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get(identifier: str | Optimizer) -> Optimizer:
    """Find an optimizer.

    Args:
        identifier: `"sgd"`, `"adam"` or `"adamw"`, in capitals or not, or an optimizer.

    Returns:
        The optimizer, with default arguments if it was a name.

    Raises:
        ValueError: if there is no such optimizer.
        TypeError: if it is something else.

    Reference: `keras.optimizers.get`.

    Example:
        >>> from cnnrs import optimizers
        >>> optimizers.get("adam").learning_rate
        0.001
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str):
        if identifier.lower() in BY_NAME:
            return BY_NAME[identifier.lower()]()
        raise ValueError(f"optimizer: expected {one_of(list(BY_NAME))}, got {identifier!r}")
    raise TypeError(
        f"optimizer: expected a name or a cnnrs.optimizers.Optimizer, got {identifier!r}"
    )


def _beta(name: str, value: float) -> float:
    return number(name, value, "a number from 0 to below 1", lambda beta: 0 <= beta < 1)


def _at_least_0(name: str, value: float) -> float:
    return number(name, value, "a number of at least 0", lambda number: number >= 0)
