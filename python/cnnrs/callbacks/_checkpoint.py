"""Saving the model while it is trained."""

import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnrs._checks import flag, integer, number
from cnnrs._progress import say
from cnnrs.callbacks._base import Callback, Logs
from cnnrs.callbacks._monitor import Monitor

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Callback):
    """Saves the model or its weights after each epoch, or only if it is better than all before.

    Args:
        filepath: of the file; ends in `.safetensors`. May name figures in braces, as in
            `"{epoch:02d}-{val_loss:.2f}.safetensors"`: `epoch`, counted from 1, those of the logs,
            and between epochs `batch`, counted from 1 too. Missing folders are made.
        monitor: the figure to judge by, `"val_loss"` by default.
        verbose: 1 prints a line for each saving, 0 (default) none.
        save_best_only: whether to save only if the figure is better than all before, False by
            default.
        save_weights_only: whether to save as `save_weights` does, not as `save`; False by default.
        mode: `"min"`, `"max"`, or `"auto"` (default), which knows losses and accuracies: what is
            better.
        save_freq: `"epoch"` (default), or after how many batches to save, counted over epochs.
        initial_value_threshold: what the first figure must be better than; None by default.

    Raises:
        TypeError: if a number is not one.
        ValueError: if the path ends otherwise or has anything but names in braces, or the mode or
            the frequency is another; as training begins, if the model is one that `save` refuses;
            as it is time to save, if the path names a figure that the logs do not have.

    Warns:
        RuntimeWarning: if the logs have no such figure; then nothing is saved.

    Reference: `keras.callbacks.ModelCheckpoint`, where a first figure of NaN is never beaten.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import ModelCheckpoint
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = ModelCheckpoint(folder + "/{epoch:02d}.safetensors")
        ...     _ = model.fit(np.zeros((3, 1)), np.zeros(3), epochs=2, verbose=0, callbacks=[keep])
        ...     sorted(os.listdir(folder))
        ['01.safetensors', '02.safetensors']
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        from cnnrs import saving

        saving.check_path(filepath)
        self.filepath = os.fspath(filepath)
        _check_braces(self.filepath)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = flag("save_best_only", save_best_only)
        self.save_weights_only = flag("save_weights_only", save_weights_only)
        self.best = (
            None
            if initial_value_threshold is None
            else number("initial_value_threshold", initial_value_threshold)
        )
        self.mode = mode
        self._watch()  # so that a wrong mode is refused now
        self._every: int | None = None
        self._seen = 0  # batches since the last saving
        if isinstance(save_freq, str):
            if save_freq != "epoch":
                raise ValueError(f"save_freq: expected 'epoch' or an integer, got {save_freq!r}")
        else:
            self._every = integer("save_freq", save_freq)
        self._epoch = self._last_batch = 0

    def _watch(self) -> Monitor | None:
        """What the attributes say now."""
        return Monitor(self.monitor, self.mode) if self.save_best_only else None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Refuse a model that cannot be saved before it is trained, not after."""
        from cnnrs import saving

        if self._every is not None:
            # Only then does training stop after every step to call hooks.
            self.on_train_batch_end = self._after_batch  # type: ignore[method-assign]
        if not self.save_weights_only:
            saving.describe(self.model.__getstate__())

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remember the epoch."""
        self._epoch, self._last_batch = epoch, -1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, if it is time to."""
        if self._every is None:
            watched = self._watch()
            value = None if watched is None else watched.value(logs)
            self._save(watched, value, logs or {}, epoch=epoch + 1)

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        assert self._every is not None
        self._seen += batch - self._last_batch
        self._last_batch = batch
        if self._seen >= self._every:
            self._seen = 0
            watched = self._watch()
            value = None if watched is None else watched.value(logs)
            self._save(watched, value, logs or {}, epoch=self._epoch + 1, batch=batch + 1)

    def _save(
        self, watched: Monitor | None, value: float | None, logs: Logs, **counts: int
    ) -> None:
        """Save, if the figure is better or none is watched."""
        path = self._path({**logs, **counts})
        if watched is not None:
            if value is None:
                return
            was = "" if self.best is None else f" from {self.best:.5f}"
            if not watched.is_better(value, self.best):
                self._say(counts, f"{self.monitor} did not improve{was}")
                return
            self.best = value
            self._say(counts, f"{self.monitor} improved{was} to {value:.5f}, saving to {path}")
        else:
            self._say(counts, f"saving to {path}")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)

    def _path(self, figures: Mapping[str, float]) -> str:
        try:
            return self.filepath.format(**figures)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"filepath: expected figures among {', '.join(figures)} in braces, got "
                f"{self.filepath!r} ({type(error).__name__}: {error})"
            ) from error

    def _say(self, counts: Mapping[str, int], text: str) -> None:
        if self.verbose:
            say(f"Epoch {counts['epoch']}: {text}")

    def get_state(self) -> dict[str, Any]:
        """Return the best figure so far, and how many batches were since the last saving."""
        return {"best": self.best, "seen": self._seen}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self._seen = state["best"], state["seen"]


def _check_braces(path: str) -> None:
    """Refuse braces around anything that no figure's name can be."""
    try:
        fields = [field for _, field, *_ in string.Formatter().parse(path) if field is not None]
    except ValueError as error:
        raise ValueError(
            f"filepath: expected names of figures in braces, got {path!r} ({error})"
        ) from None
    for field in fields:
        # What `str.format` would look for by a place, or within a figure.
        if not field or field.isdecimal() or "." in field or "[" in field:
            raise ValueError(
                f"filepath: expected names of figures in braces, got '{{{field}}}' in {path!r}"
            )
