"""Learning rates that change from epoch to epoch."""

import math
from collections.abc import Callable
from typing import Any

from cnnrs._checks import finite_at_least_0, from_0_below_1, integer, number, takes
from cnnrs._progress import say
from cnnrs.callbacks._base import Callback, Logs
from cnnrs.callbacks._monitor import Monitor

__all__ = ["LearningRateScheduler", "ReduceLROnPlateau"]


class _LearningRate(Callback):
    """The base of callbacks that set the learning rate, which needs to be a number."""

    verbose: int

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that the learning rate can be set."""
        self._rate()

    def _rate(self) -> float:
        assert self.model.optimizer is not None
        rate = self.model.optimizer.learning_rate
        if callable(rate):
            raise ValueError(
                f"{type(self).__name__}: expected an optimizer whose learning_rate is a number, "
                f"got {rate!r}, which sets it at every step"
            )
        return rate

    def _set_rate(self, rate: float, epoch: int) -> None:
        assert self.model.optimizer is not None
        self.model.optimizer.learning_rate = rate
        if self.verbose:
            say(f"Epoch {epoch + 1}: {type(self).__name__} sets the learning rate to {rate:g}")


class LearningRateScheduler(_LearningRate):
    """Sets the learning rate before each epoch, and adds `learning_rate` to the logs.

    Args:
        schedule: a function `schedule(epoch, learning_rate)`, or of the epoch alone, that returns
            the epoch's learning rate. Epochs are counted from 0.
        verbose: 1 prints each learning rate, 0 (default) nothing.

    Raises:
        TypeError: if `schedule` is no function, or returns something else than a number.
        ValueError: if it returns a number that is no learning rate, or the optimizer's learning
            rate is a schedule of its own.

    Reference: `keras.callbacks.LearningRateScheduler`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import LearningRateScheduler
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> halve = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else 0.1)
        >>> x = np.zeros((3, 1))
        >>> history = model.fit(x, np.zeros(3), epochs=3, verbose=0, callbacks=[halve])
        >>> history.history["learning_rate"]
        [0.1, 0.05, 0.025]
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(
                f"schedule: expected a function of the epoch and the learning rate, got "
                f"{schedule!r}"
            )
        self.schedule = schedule
        self.verbose = verbose
        self._takes_the_rate = takes(schedule, 0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the epoch's learning rate."""
        rate = self._rate()
        new = self.schedule(epoch, rate) if self._takes_the_rate else self.schedule(epoch)
        expected = "a function that returns a finite number of at least 0"
        self._set_rate(number("schedule", new, expected, lambda it: 0 <= it < math.inf), epoch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Note the learning rate."""
        if logs is not None:
            logs["learning_rate"] = self._rate()


class ReduceLROnPlateau(_LearningRate):
    """Lowers the learning rate when a figure has not become better for some epochs.

    Adds `learning_rate`, the epoch's own, to the logs.

    Args:
        monitor: the figure's key in the logs, `"val_loss"` by default.
        factor: what the learning rate is multiplied by, from 0 to below 1, 0.1 by default.
        patience: how many epochs without a better figure are too many, 10 by default.
        verbose: 1 prints each new learning rate, 0 (default) nothing.
        mode: whether `"min"` or `"max"` is better; `"auto"` (default) knows losses and accuracies.
        min_delta: the least change that counts as better, 1e-4 by default.
        cooldown: how many epochs after a change do not count, 0 by default.
        min_lr: the least learning rate, 0 by default.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of range, the mode is unknown, or the optimizer's learning rate is
            a schedule of its own.

    Warns:
        RuntimeWarning: if the logs do not have the figure; the epoch does not count then.

    Reference: `keras.callbacks.ReduceLROnPlateau`, where a first figure of NaN is never beaten.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import ReduceLROnPlateau
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> lower = ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_lr=0.005)
        >>> x = np.zeros((3, 1))
        >>> history = model.fit(x, np.zeros(3), epochs=6, verbose=0, callbacks=[lower])
        >>> history.history["learning_rate"]
        [0.01, 0.01, 0.01, 0.005, 0.005, 0.005]
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self._watch()  # so that wrong ones are refused now
        self.factor = from_0_below_1("factor", factor)
        self.patience = integer("patience", patience, least=0)
        self.verbose = verbose
        self.cooldown = integer("cooldown", cooldown, least=0)
        self.min_lr = finite_at_least_0("min_lr", min_lr)
        self._begin()

    def _watch(self) -> Monitor:
        """What the attributes say now."""
        return Monitor(self.monitor, self.mode, self.min_delta)

    def _begin(self) -> None:
        self.wait = 0
        self.cooldown_counter = 0
        self.best: float | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier training, and check that the learning rate can be set."""
        super().on_train_begin(logs)
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Note the learning rate, and lower it if the best figure has been too long ago."""
        rate = self._rate()
        if logs is not None:
            logs["learning_rate"] = rate
        watched = self._watch()
        value = watched.value(logs)
        if value is None:
            return
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if watched.is_better(value, self.best):
            self.best = value
            self.wait = 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self._set_rate(max(rate * self.factor, self.min_lr), epoch)
                self.cooldown_counter = self.cooldown
                self.wait = 0

    def get_state(self) -> dict[str, Any]:
        """What a later process needs to go on, besides the optimizer: numbers and None."""
        return {"wait": self.wait, "cooldown_counter": self.cooldown_counter, "best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called."""
        self.wait = state["wait"]
        self.cooldown_counter = state["cooldown_counter"]
        self.best = state["best"]
