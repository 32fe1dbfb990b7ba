"""Which figure a callback watches, and whether a new value of it is better than the best so far."""

import math

from cnnrs._checks import choice, number
from cnnrs._warnings import warn
from cnnrs.callbacks._base import Logs

_DIRECTIONS = {"loss": "min", "accuracy": "max", "acc": "max"}
"""What is better of the figures that `fit` reports, by their names without `val_`."""


class Monitor:
    """One figure of the logs, and when it counts as better.

    With mode `"min"` a value is better than the best if `value + min_delta < best`, with `"max"` if
    `value - min_delta > best`. NaN is never better, and anything else is better than nothing.

    Args:
        name: the figure's key in `logs`, such as `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"` (default), which knows losses and accuracies.
        min_delta: the least change that counts, 0 by default; its sign is ignored, as in Keras.

    Raises:
        TypeError: if `name` is no string or `min_delta` no number.
        ValueError: if the mode is another, or `"auto"` does not know the figure.

    Example:
        >>> from cnnrs.callbacks._monitor import Monitor
        >>> monitor = Monitor("val_loss", min_delta=0.1)
        >>> monitor.mode, monitor.is_better(0.5, None), monitor.is_better(0.45, 0.5)
        ('min', True, False)
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"monitor: expected a name such as 'val_loss', got {name!r}")
        choice("mode", mode, ("auto", "min", "max"))
        if mode == "auto":
            known = _DIRECTIONS.get(name.removeprefix("val_"))
            if known is None:
                raise ValueError(
                    f"mode: expected 'min' or 'max' for monitor={name!r}, got 'auto', which knows "
                    f"losses and accuracies only"
                )
            mode = known
        self.name = name
        self.mode = mode
        self.min_delta = abs(number("min_delta", min_delta))

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far, which is None at first."""
        if best is None:
            return not math.isnan(value)
        if self.mode == "min":
            return value + self.min_delta < best
        return value - self.min_delta > best

    def value(self, logs: Logs | None) -> float | None:
        """The figure in an epoch's logs, or None, and a `RuntimeWarning`, if it is not there.

        The warning points at the call of `fit` if a callback's hook calls this itself.
        """
        value = (logs or {}).get(self.name)
        if value is None:
            keys = ", ".join(logs or ()) or "none"
            warn(f"monitor: expected a figure of the logs, got {self.name!r}; there are: {keys}")
            return None
        return float(value)
