"""Callbacks from plain functions."""

from collections.abc import Callable
from typing import Any

from cnnrs._checks import one_of
from cnnrs.callbacks._base import Callback

__all__ = ["LambdaCallback"]

_HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Calls functions instead of methods.

    Args:
        on_epoch_begin: a function `f(epoch, logs)`; None (default) calls nothing, here and below.
        on_epoch_end: a function `f(epoch, logs)`.
        on_train_begin: a function `f(logs)`.
        on_train_end: a function `f(logs)`.
        on_train_batch_begin: a function `f(batch, logs)`, which gets `logs` by that name, as do all
            hooks of batches. This and the next make each step a call of its own, see `Callback`.
        on_train_batch_end: a function `f(batch, logs)`.
        kwargs: functions for the other hooks of `Callback`, by their names.

    Raises:
        TypeError: if a hook is unknown, or something else than a function is given.

    Reference: `keras.callbacks.LambdaCallback`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import LambdaCallback
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> tell = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
        >>> _ = model.fit(np.zeros((3, 1)), np.zeros(3), epochs=2, verbose=0, callbacks=[tell])
        0 0.0
        1 0.0
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **kwargs: Callable[..., Any] | None,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for hook, function in given.items():
            if hook not in _HOOKS:
                raise TypeError(f"LambdaCallback: expected {one_of(_HOOKS)}, got {hook!r}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"{hook}: expected a function, got {function!r}")
            setattr(self, hook, function)
