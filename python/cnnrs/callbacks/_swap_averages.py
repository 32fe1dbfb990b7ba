"""Judging a model by the averages of its weights, while it is trained."""

from typing import TYPE_CHECKING

from cnnrs._checks import flag
from cnnrs.callbacks._base import Callback, Logs

if TYPE_CHECKING:
    from cnnrs.models import Sequential

__all__ = ["SwapEMAWeights"]


class SwapEMAWeights(Callback):
    """Puts the averages of the weights in their place for validation, evaluation and prediction.

    Training is not disturbed: it goes on with the weights themselves. The optimizer keeps averages
    if it was made with `use_ema=True`.

    Args:
        swap_on_epoch: whether the averages are there at the end of each epoch too, for callbacks
            behind this one, such as one that saves the model; False by default.

    Raises:
        TypeError: if `swap_on_epoch` is neither True nor False.
        ValueError: from `fit`, `evaluate` or `predict`, if no averages are kept.

    If an exception ends the training while the averages are there, they stay until more training
    or `set_weights`.

    Reference: `keras.callbacks.SwapEMAWeights`. There, a training that another callback ends early
    loses the averages with `swap_on_epoch=True`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import SwapEMAWeights
        >>> from cnnrs.optimizers import SGD
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile(SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
        >>> x = np.linspace(-1, 1, 100)
        >>> history = model.fit(
        ...     x, 2 * x, validation_split=0.1, verbose=0, callbacks=[SwapEMAWeights()]
        ... )
        >>> validated = history.history["val_loss"][0]
        >>> model.evaluate(x[90:], 2 * x[90:], verbose=0) == validated  # averages since fit ended
        True
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = flag("swap_on_epoch", swap_on_epoch)

    def set_model(self, model: "Sequential") -> None:
        """Refuse a model whose optimizer keeps no averages."""
        if model.optimizer is None or not model.optimizer.use_ema:
            raise ValueError(
                f"SwapEMAWeights: expected an optimizer with use_ema=True, got {model.optimizer!r}"
            )
        super().set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Put the weights back."""
        self._show_averages(False)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Put the averages there, with `swap_on_epoch`."""
        if self.swap_on_epoch:
            self._show_averages(True)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Put the averages there."""
        self._show_averages(True)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Put the weights back."""
        self._show_averages(False)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Put the averages there."""
        self._show_averages(True)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Put the weights back."""
        self._show_averages(False)

    def _show_averages(self, shown: bool) -> None:
        self.model._ready_network().show_averages(shown)
