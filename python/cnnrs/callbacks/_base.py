"""The base of all callbacks, and the history that `Sequential.fit` returns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from cnnrs.models import Sequential

__all__ = ["Callback", "History"]

Logs: TypeAlias = dict[str, float]

_NEVER_CALLED = tuple(
    f"on_{what}_batch_{when}" for what in ("test", "predict") for when in ("begin", "end")
)
"""Keras's hooks that are none here."""


class Callback:
    """The base of callbacks: override what shall be called.

    `self.model` is the model that is trained, and `self.params` has the keys `verbose`, `epochs`
    and `steps`. Setting `self.model.stop_training = True` ends the training after the current step
    and its epoch's validation. Steps run many at a time, unless a callback overrides one of the
    hooks of batches: then each step is a call of its own, which is slower for small networks.
    `compile(steps_per_execution=n)` makes it a call every n steps, and calls the hooks before the
    first and after the last of them. Validation, evaluation and prediction run in one piece each,
    and have no hooks of batches: a class that has them is refused as it is made.

    Reference: `keras.callbacks.Callback`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import Callback
        >>> class Tell(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(epoch, logs["loss"])
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> _ = model.fit(np.zeros((3, 1)), np.zeros(3), epochs=2, verbose=0, callbacks=[Tell()])
        0 0.0
        1 0.0
    """

    params: dict[str, Any] | None = None
    model: "Sequential"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in _NEVER_CALLED:
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}: expected a class without {name}, which nothing would call: "
                    f"validation, evaluation and prediction run in one piece each"
                )

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive `verbose`, `epochs` and `steps`, before `fit`, `evaluate` or `predict` begin."""
        self.params = params

    def set_model(self, model: "Sequential") -> None:
        """Receive the model, before `fit`, `evaluate` or `predict` begin."""
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called before the first epoch, with nothing in `logs`."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called after the last epoch, with its `logs`; not if an exception ended the training."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before each epoch, counted from 0, with nothing in `logs`."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after each epoch and its validation, with their `logs`.

        Keys are `loss`, `accuracy` for a classification, and those with `val_` before them. What
        is put into `logs` here is seen by the callbacks that follow, and by the history: it comes
        after all others, unless a `History` is among those given.
        """

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called before a validation or evaluation, with nothing in `logs`."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called after a validation or evaluation, with its `loss` and `accuracy` in `logs`."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Called before a prediction, with nothing in `logs`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Called after a prediction, with nothing in `logs`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before step `batch` of an epoch, counted from 0, with nothing in `logs`."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after step `batch`, with `loss` and `accuracy` over the epoch so far in `logs`."""
        self.on_batch_end(batch, logs=logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """The old name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The old name of `on_train_batch_end`."""

    def get_state(self) -> dict[str, Any]:
        """Return what the callback must know to go on with a training that was cut off.

        `BackupAndRestore` calls it after each epoch, and `set_state` when the training goes on.

        Returns:
            Numbers, strings, booleans, None and NumPy arrays, also in lists and in dicts by
            strings; nothing by default.
        """
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Receive what `get_state` returned, after `on_train_begin`; tuples have become lists."""

    def _after_train_begin(self, callbacks: "Sequence[Callback]", run: dict[str, Any]) -> None:
        """Called when `on_train_begin` of all callbacks has been."""

    def _after_epoch_end(self, callbacks: "Sequence[Callback]", epoch: int) -> None:
        """Called when `on_epoch_end` of all callbacks has been."""

    def _after_train_end(self) -> None:
        """Called when `on_train_end` of all callbacks has been."""

    def _on_loss_not_finite(self, epoch: int, batch: int, loss: float) -> None:
        """Called once a training, after the steps that ran together with the first such step."""


class History(Callback):
    """What `Sequential.fit` returns: the losses and accuracies of its epochs.

    `history` maps `loss`, `accuracy` for a classification, and with validation `val_loss` and
    `val_accuracy`, to lists with one number an epoch. `epoch` lists the epochs, counted from 0.
    Loss and accuracy are over the images as they were trained on, those with `val_` after it.

    Reference: `keras.callbacks.History`, where the names are sorted.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.zeros((3, 1)), np.zeros(3), epochs=2, verbose=0)
        >>> history.history, history.epoch
        ({'loss': [0.0, 0.0]}, [0, 1])
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begin a new list of epochs; losses are added to those that are there."""
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add an epoch."""
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def get_state(self) -> dict[str, Any]:
        """Return the epochs so far."""
        return {"history": self.history, "epoch": self.epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on after these epochs."""
        self.history, self.epoch = state["history"], state["epoch"]
