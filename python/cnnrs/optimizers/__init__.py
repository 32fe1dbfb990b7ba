"""How gradients change weights, with Keras's names.

An optimizer object is a description: momenta and the like live in the compiled network of the model
that it was given to. Only `learning_rate` may be assigned later; it counts from the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import (
    at_least_0,
    between,
    finite_at_least_0,
    flag,
    from_0_below_1,
    integer,
    one_of,
    takes,
)
from cnnrs._settings import Settled, call_of
from cnnrs.optimizers import schedules
from cnnrs.optimizers.schedules import LearningRateSchedule
from cnnrs.optimizers.schedules._base import rates_of

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "get", "schedules"]

LearningRate: TypeAlias = float | LearningRateSchedule | Callable[[int], float]

AVERAGING = ("use_ema", "ema_momentum", "ema_overwrite_frequency")


class Optimizer(Settled):
    """The base of all optimizers.

    With `use_ema=True`, averages of all trained weights are kept: the first step sets them to the
    weights, each later one is followed by `average += (1 - ema_momentum) * (w - average)`. They are
    steadier than the weights and often better. As `fit` ends, the weights become their averages;
    until then, the callback `SwapEMAWeights` judges by them. The moving statistics of
    `BatchNormalization` are averages by themselves, and stay as they are.

    An optimizer is a class with `_kind`, the compiled network's name for it, `_settings`, the
    attributes that the compiled network takes, and `_arguments`, those that are arguments too.

    Reference: `keras.optimizers.Optimizer`.

    Example:
        >>> from cnnrs.optimizers import SGD, Optimizer
        >>> isinstance(SGD(), Optimizer)
        True
    """

    _compiled_methods = ("update_step", "apply_gradients", "apply", "build")
    _kind: ClassVar[str]
    _arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        learning_rate: LearningRate,
        default: float,
        lr: LearningRate | None,
        use_ema: bool,
        ema_momentum: float,
        ema_overwrite_frequency: int | None,
    ) -> None:
        if lr is not None and learning_rate != default:
            raise ValueError(
                f"lr: expected learning_rate or its old name, got both: learning_rate="
                f"{learning_rate!r}, lr={lr!r}"
            )
        self.learning_rate = learning_rate if lr is None else lr
        self.use_ema = flag("use_ema", use_ema)
        self.ema_momentum = between("ema_momentum", ema_momentum, 0, 1)
        self.ema_overwrite_frequency = (
            None
            if ema_overwrite_frequency is None
            else integer("ema_overwrite_frequency", ema_overwrite_frequency)
        )

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate: a number, a schedule, or a function from the step to the rate.

        May be assigned at any time, as callbacks do; also as `schedules.serialize` describes it. A
        schedule stays one where Keras has the number of the moment: called with how many steps were
        taken, it returns that.
        """
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: LearningRate | Mapping[str, Any]) -> None:
        if isinstance(value, Mapping):
            value = schedules.deserialize(value)
        if callable(value) and not takes(value, 0):
            raise TypeError(
                f"learning_rate: expected a function of one argument, the step, got {value!r}"
            )
        if not callable(value):
            value = finite_at_least_0("learning_rate", value)
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
            A dict for `from_config`, in which a schedule is `{"class_name": ..., "config": ...}`:
            of plain values, unless the learning rate is a function or of the user's own class.

        Reference: `keras.optimizers.Optimizer.get_config`.

        Example:
            >>> from cnnrs.optimizers import SGD
            >>> config = SGD(0.1, momentum=0.9).get_config()
            >>> config["learning_rate"], config["momentum"], config["use_ema"]
            (0.1, 0.9, False)
        """
        arguments = {key: getattr(self, key) for key in (*self._arguments, *AVERAGING)}
        return {"learning_rate": schedules.serialize(self.learning_rate), **arguments}

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

    def _settled(self) -> tuple[str, ...]:
        return (*self._settings, *AVERAGING)

    def _rates(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """The learning rates of `count` steps."""
        return rates_of(self._learning_rate, first, count)

    def _compiled(self) -> tuple[str, dict[str, Any]]:
        """The optimizer as the compiled network takes it, without the learning rate."""
        return self._kind, {key: getattr(self, key) for key in (*self._settings, *AVERAGING)}

    def __repr__(self) -> str:
        averaging = AVERAGING if self.use_ema else ()
        return call_of(self, ("learning_rate", *self._arguments, *averaging))


class SGD(Optimizer):
    """Gradient descent: `w -= learning_rate * g`.

    With momentum m, `v = m * v - learning_rate * g` and `w += v`, or for Nesterov's
    `w += m * v - learning_rate * g`.

    Args:
        learning_rate: 0.01 by default; a number, a schedule, or a function from step to rate.
        momentum: from 0 (default) to 1.
        nesterov: whether momentum is Nesterov's, False by default.
        lr: `learning_rate`, by its old name.
        use_ema: whether averages of the weights are kept; see `Optimizer`.
        ema_momentum: how much of the averages a step keeps; from 0 to 1, 0.99 by default.
        ema_overwrite_frequency: after how many steps, again and again, the weights become their
            averages; None (default) for after the training alone.

    Raises:
        TypeError: if one is no number, or neither True nor False where it should be.
        ValueError: if one is out of its range, or `lr` is given beside a learning rate that is
            not the default.

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
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
    ) -> None:
        super().__init__(learning_rate, 0.01, lr, use_ema, ema_momentum, ema_overwrite_frequency)
        self.momentum = between("momentum", momentum, 0, 1)
        self.nesterov = flag("nesterov", nesterov)


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
        use_ema: whether averages of the weights are kept; see `Optimizer`.
        ema_momentum: how much of the averages a step keeps; from 0 to 1, 0.99 by default.
        ema_overwrite_frequency: after how many steps, again and again, the weights become their
            averages; None (default) for after the training alone.

    Raises:
        TypeError: if one is no number, or neither True nor False where it should be.
        ValueError: if one is out of its range, or `lr` is given beside a learning rate that is
            not the default.

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
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
    ) -> None:
        super().__init__(learning_rate, 0.001, lr, use_ema, ema_momentum, ema_overwrite_frequency)
        self.beta_1 = from_0_below_1("beta_1", beta_1)
        self.beta_2 = from_0_below_1("beta_2", beta_2)
        self.epsilon = at_least_0("epsilon", epsilon)
        if "weight_decay" not in self._arguments:  # else it is set already
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
        use_ema: whether averages of the weights are kept; see `Optimizer`.
        ema_momentum: how much of the averages a step keeps; from 0 to 1, 0.99 by default.
        ema_overwrite_frequency: after how many steps, again and again, the weights become their
            averages; None (default) for after the training alone.

    Raises:
        TypeError: if one is no number, or neither True nor False where it should be.
        ValueError: if one is out of its range, or `lr` is given beside a learning rate that is
            not the default.

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
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
    ) -> None:
        self.weight_decay = at_least_0("weight_decay", weight_decay)
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            lr=lr,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
        )


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
