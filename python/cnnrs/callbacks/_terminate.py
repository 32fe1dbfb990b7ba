"""Ending a training that has gone astray."""

from cnnrs._checks import flag
from cnnrs.callbacks._base import Callback

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Callback):
    """Ends the training when the loss of a step is NaN or infinite.

    It ends after the steps that run together with that one, at most a tenth of a second later, so
    that this costs no time. The warning that `fit` gives says which step it was.

    Args:
        raise_error: whether to raise an error instead, which leaves out the end of the epoch and
            `on_train_end` of all callbacks; False by default.

    Raises:
        TypeError: if `raise_error` is neither True nor False.
        RuntimeError: from `fit`, if `raise_error` is set and the loss is not finite.

    Reference: `keras.callbacks.TerminateOnNaN`. There it ends right after the step.

    Example:
        >>> import warnings
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import TerminateOnNaN
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.array([[1.0], [np.nan]])
        >>> with warnings.catch_warnings(action="ignore"):
        ...     history = model.fit(x, x, epochs=100, verbose=0, callbacks=[TerminateOnNaN()])
        >>> history.history
        {'loss': [nan]}
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = flag("raise_error", raise_error)

    def _on_loss_not_finite(self, epoch: int, batch: int, loss: float) -> None:
        if self.raise_error:
            raise RuntimeError(
                f"loss: expected a finite number, got {loss} at epoch {epoch + 1}, step {batch + 1}"
            )
        self.model.stop_training = True
