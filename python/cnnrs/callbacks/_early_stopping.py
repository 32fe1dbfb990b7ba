"""Ending a training that no longer gets better."""

from typing import Any, TypeAlias

import numpy.typing as npt

from cnnrs._checks import flag, integer, number
from cnnrs._progress import say
from cnnrs.callbacks._base import Callback, Logs
from cnnrs.callbacks._monitor import Monitor

__all__ = ["EarlyStopping"]

Weights: TypeAlias = list[npt.NDArray[Any]]


class EarlyStopping(Callback):
    """Ends the training when a figure has not become better for some epochs.

    `stopped_epoch`, counted from 0, is the epoch that the training was ended after, `best` the best
    figure and `best_epoch` its epoch. They begin anew with each training.

    Args:
        monitor: the figure's key in the logs, `"val_loss"` by default.
        min_delta: the least change that counts as better, 0 by default.
        patience: how many epochs without a better figure are too many; 0 by default, which ends the
            training after the first, as 1 does.
        verbose: 1 prints what is done, 0 (default) nothing.
        mode: whether `"min"` or `"max"` is better; `"auto"` (default) knows losses and accuracies.
        baseline: what the figure must beat for the patience to begin anew; None by default.
        restore_best_weights: whether the model has the weights of the best epoch when the training
            is over, however it ended but by an exception; False by default.
        start_from_epoch: the first epoch that counts, 0 by default.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of range, or the mode is unknown.

    Warns:
        RuntimeWarning: if the logs do not have the figure; the epoch does not count then.

    Reference: `keras.callbacks.EarlyStopping`. There a first figure that is NaN is never beaten.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import EarlyStopping
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.linspace(-1, 1, 100)
        >>> stop = EarlyStopping(monitor="loss", min_delta=1e-3, patience=2)
        >>> history = model.fit(x, 2 * x, epochs=500, verbose=0, callbacks=[stop])
        >>> len(history.epoch) < 500, history.history["loss"][-1] < 0.1
        (True, True)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self._watch()  # so that wrong ones are refused now
        self.patience = integer("patience", patience, least=0)
        self.verbose = verbose
        self.baseline = None if baseline is None else number("baseline", baseline)
        self.restore_best_weights = flag("restore_best_weights", restore_best_weights)
        self.start_from_epoch = integer("start_from_epoch", start_from_epoch, least=0)
        self._begin()

    def _watch(self) -> Monitor:
        """What the attributes say now."""
        return Monitor(self.monitor, self.mode, self.min_delta)

    def _begin(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: Weights | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier training."""
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the figure with the best, and end the training if that has been too long ago."""
        watched = self._watch()
        value = watched.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        better = watched.is_better(value, self.best)
        if self.restore_best_weights and (better or self.best_weights is None):
            self.best_weights = self.model.get_weights()
            self.best_epoch = epoch
        self.wait += 1
        if better:
            self.best, self.best_epoch = value, epoch
            if self.baseline is None or watched.is_better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Take back the best weights, if this is wished."""
        if self.verbose and self.stopped_epoch:
            say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                say(f"Taking back the weights of epoch {self.best_epoch + 1}, the best")
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        """What a later process needs to go on: numbers, None and lists of arrays."""
        return {
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called."""
        self.wait = state["wait"]
        self.stopped_epoch = state["stopped_epoch"]
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]
