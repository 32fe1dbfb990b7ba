"""Going on with a training that was cut off."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import as_path, flag, only
from cnnrs._files import check_writable, remove_left_over
from cnnrs._progress import say
from cnnrs.callbacks._base import Callback

__all__ = ["BackupAndRestore"]

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

ARRAY = "array of the file"
"""The key of what stands for an array in a callback's state."""


class BackupAndRestore(Callback):
    """Backs a training up after each epoch, and goes on with it if it was cut off.

    If there is a backup when `fit` begins, the training goes on after the epoch that was backed up,
    and ends with the weights and the history that it would have had, bit for bit on a machine of
    the same kind: weights, what the optimizer has gathered, the random numbers, the learning rate
    if it is a number, and the other callbacks' states (`Callback.get_state`) are all taken from it.
    So a program that is killed and begun again, as often as may be, loses no more than the epoch
    that it was in. What the program itself remembers, its data above all, must be the same again.

    Args:
        backup_dir: a folder of its own, which is made if it is missing.
        save_freq: `"epoch"` (default), the only one.
        double_checkpoint: as in Keras, which keeps two backups if asked to, in case that it is cut
            off while it writes one; nothing depends on it here, where a file is whole or not there.
        delete_checkpoint: whether to delete the backup, and the folder if it is empty then, at the
            end of a training that nothing cut off; True by default. If it stays, `fit` with as many
            epochs finds all of them done.

    Raises:
        TypeError: if the folder is no path.
        ValueError: if it is empty, or `save_freq` is another; as training begins, if the backup is
            damaged, or is that of another model or of other data.
        OSError: as training begins, if the folder cannot be written to.

    Reference: `keras.callbacks.BackupAndRestore`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import BackupAndRestore, Callback
        >>> class PowerCut(Callback):
        ...     def on_epoch_begin(self, epoch, logs=None):
        ...         if epoch == 2:
        ...             raise RuntimeError
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.zeros((3, 1)), np.zeros(3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     backup = BackupAndRestore(folder + "/backup")
        ...     try:
        ...         model.fit(x, y, epochs=4, verbose=0, callbacks=[backup, PowerCut()])
        ...     except RuntimeError:
        ...         model.fit(x, y, epochs=4, verbose=0, callbacks=[backup]).epoch
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        del double_checkpoint
        only("save_freq", save_freq, "epoch")
        self.backup_dir = as_path("backup_dir", backup_dir)
        self.delete_checkpoint = flag("delete_checkpoint", delete_checkpoint)

    @property
    def _path(self) -> Path:
        return self.backup_dir / "backup.safetensors"

    def _after_train_begin(self, callbacks: Sequence[Callback], run: dict[str, Any]) -> None:
        self._run = run
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        check_writable(self._path)
        remove_left_over(self._path)
        if self._path.exists():
            self._restore(callbacks)

    def _after_epoch_end(self, callbacks: Sequence[Callback], epoch: int) -> None:
        from cnnrs import _tensor_file, saving

        of_model, arrays = self.model.__getstate__(), Arrays()
        backup = {
            "epoch": epoch,
            "stopped": bool(self.model.stop_training),
            "run": self._run,
            "callbacks": [
                [type(callback).__qualname__, _stored(type(callback).__qualname__, state, arrays)]
                for callback in callbacks
                if (state := callback.get_state())
            ],
        }
        self.backup_dir.mkdir(parents=True, exist_ok=True)  # Another training may have deleted it.
        _tensor_file.write(
            self._path,
            {**saving.tensors_of(of_model), **arrays},
            {"model": saving.describe(of_model, strict=False), "backup": backup},
        )

    def _after_train_end(self) -> None:
        if self.delete_checkpoint:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # The folder may hold other files.
                self.backup_dir.rmdir()

    def _restore(self, callbacks: Sequence[Callback]) -> None:
        """Make model and callbacks what they were after the epoch that was backed up."""
        from cnnrs import _tensor_file, saving

        model = self.model
        with saving.naming_damage(self._path):
            tensors, about = _tensor_file.read(self._path)
            if "backup" not in about:
                raise ValueError("expected a backup of a training, found a model or weights")
            backup, saved = about["backup"], about["model"]
            mine = _plain(saving.describe(model.__getstate__(), strict=False))
            _expect_the_same(backup["run"], self._run)
            _expect_the_same(_kind(saved), _kind(mine))
            states = defaultdict[str, list[Any]](list)
            for name, state in backup["callbacks"]:
                states[name].append(_loaded(state, tensors))
            model._set_weights_by_name(saving.weights_among(tensors))
            model._ready_network().set_optimizer_state(saving.optimizer_state_among(tensors))
            model._rng.bit_generator.state = saved["random_state"]
            rate = saved["compiled"]["optimizer"]["config"]["learning_rate"]
            if rate is not None and model.optimizer is not None:
                model.optimizer.learning_rate = rate
            epoch = int(backup["epoch"])
        for callback in callbacks:
            if states[type(callback).__qualname__]:
                callback.set_state(states[type(callback).__qualname__].pop(0))
        assert self.params is not None
        model._initial_epoch = self.params["epochs"] if backup["stopped"] else epoch + 1
        model.stop_training = backup["stopped"]
        if self.params["verbose"]:
            say(f"Going on after epoch {epoch + 1}, which {self._path} has")


def _kind(described: dict[str, Any]) -> dict[str, Any]:
    """What must be the same of two models of which one goes on with the other's training."""
    kept = ("dtype", "input_shape", "layers", "compiled")
    kind: dict[str, Any] = _plain({key: described[key] for key in kept})
    kind["compiled"].pop("steps_per_execution")
    kind["compiled"]["optimizer"]["config"].pop("learning_rate")
    return kind


def _plain(value: Any) -> Any:
    """As it comes out of a file: tuples become lists."""
    import json

    return json.loads(json.dumps(value))


def _expect_the_same(found: Any, expected: Any) -> None:
    """Refuse what differs in any part."""
    # Where two differ in structure, so they do in keys or lengths, which come first.
    for (name, ours), (_, theirs) in zip(_parts(expected), _parts(found), strict=False):
        if ours != theirs:
            raise ValueError(
                f"expected a backup of this training, with {name} {ours!r}, found {theirs!r}; "
                f"delete the file to begin anew"
            )


def _parts(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Parts of a value with their names: its numbers and texts, and what keys each dict has."""
    if isinstance(value, dict):
        yield f"{name} keys".lstrip(), sorted(value)
        for key in sorted(value):
            yield from _parts(value[key], f"{name} {key}".lstrip())
    elif isinstance(value, list):
        yield f"number of {name}", len(value)
        for n, part in enumerate(value):
            yield from _parts(part, f"{name}[{n}]")
    else:
        yield name, value


def _stored(owner: str, value: Any, arrays: Arrays) -> Any:
    """A callback's state as JSON can say it; arrays are put into `arrays`."""
    if isinstance(value, np.ndarray):
        name = f"callback.{len(arrays)}"
        arrays[name] = value
        return {ARRAY: name}
    if isinstance(value, list | tuple):
        return [_stored(owner, part, arrays) for part in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _stored(owner, part, arrays) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"{owner}.get_state: expected numbers, strings, booleans, None and arrays, in lists or "
        f"dicts by strings, got {value!r}"
    )


def _loaded(value: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """The state that `_stored` stored."""
    if isinstance(value, list):
        return [_loaded(part, arrays) for part in value]
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            return arrays[value[ARRAY]]
        return {key: _loaded(part, arrays) for key, part in value.items()}
    return value
