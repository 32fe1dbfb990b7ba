"""Figures of all epochs for TensorBoard."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from cnnrs._checks import as_path, flag, only
from cnnrs._files import naming_file
from cnnrs.callbacks._base import Callback, Logs

__all__ = ["TensorBoard"]

_FILE_VERSION = "brain.Event:2"
"""What the first record of an event file says, or TensorBoard would not take it for one."""


class TensorBoard(Callback):
    """Writes each epoch's figures where TensorBoard looks for them.

    The training's go into `log_dir/train`, those of the validation into `log_dir/validation`, so
    that they share a chart: `epoch_loss`, `epoch_accuracy`, and `epoch_learning_rate` if it is a
    number. The step is the epoch, counted from 0. `tensorboard --logdir logs` shows them.

    Args:
        log_dir: a folder, which is made if need be; `"logs"` by default.
        histogram_freq: 0 (default) alone: no histograms are written.
        write_graph: as in Keras; no graph is written here.
        write_images: False (default) alone.
        write_steps_per_second: whether to write `epoch_steps_per_second` too, False by default.
        update_freq: `"epoch"` (default) alone.
        profile_batch: 0 (default) alone.
        embeddings_freq: 0 (default) alone.
        embeddings_metadata: None (default) alone.

    Raises:
        ModuleNotFoundError: if tensorboard is not installed.
        TypeError: if the folder is no path.
        ValueError: if it is empty, or another value is given.
        OSError: from `fit`, if the folder cannot be written.

    Reference: `keras.callbacks.TensorBoard`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import TensorBoard
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     board = TensorBoard(folder)
        ...     _ = model.fit(np.zeros((3, 1)), np.zeros(3), verbose=0, callbacks=[board])
        ...     [path.name for path in Path(folder).iterdir()]
        ['train']
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str = "epoch",
        profile_batch: int = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: None = None,
    ) -> None:
        self.log_dir = os.fspath(as_path("log_dir", log_dir))
        only("histogram_freq", histogram_freq, 0)
        only("write_graph", write_graph, True, False)
        only("write_images", write_images, False)
        only("update_freq", update_freq, "epoch")
        only("profile_batch", profile_batch, 0)
        only("embeddings_freq", embeddings_freq, 0)
        only("embeddings_metadata", embeddings_metadata, None)
        _modules()
        self.write_steps_per_second = flag("write_steps_per_second", write_steps_per_second)
        self._files: dict[str, Path] = {}
        self._steps, self._start = 0, 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begin new files."""
        self._files = {}
        self._folder("train")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the clock, and at how many steps were taken before."""
        self._steps = self.model._ready_network().steps()
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the figures."""
        logs = logs or {}
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith("val_")}
        if self.write_steps_per_second:
            seconds = time.perf_counter() - self._start
            steps = self.model._ready_network().steps() - self._steps
            train["epoch_steps_per_second"] = steps / max(seconds, 1e-9)
        rate = self.model.optimizer and self.model.optimizer.learning_rate
        if isinstance(rate, float):
            train.setdefault("epoch_learning_rate", rate)
        validation = {f"epoch_{k[4:]}": v for k, v in logs.items() if k.startswith("val_")}
        self._write("train", epoch, train)
        self._write("validation", epoch, validation)

    def _folder(self, name: str) -> Path:
        folder = Path(self.log_dir, name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, folder: str, epoch: int, figures: Logs) -> None:
        """Append a record to the folder's file, which is begun if need be."""
        if not figures:
            return
        event, summary, record_writer = _modules()
        now_ns = time.time_ns()
        now = now_ns / 1e9
        values = [summary.Summary.Value(tag=k, simple_value=float(v)) for k, v in figures.items()]
        records = [event.Event(wall_time=now, step=epoch, summary=summary.Summary(value=values))]
        if folder not in self._files:
            # TensorBoard reads a folder's files in the order of their names.
            second, rest = divmod(now_ns, 10**9)
            unique = f"{socket.gethostname()}.{os.getpid()}.{rest:09}"
            name = f"events.out.tfevents.{second:010}.{unique}"
            self._files[folder] = self._folder(folder) / name
            records.insert(0, event.Event(wall_time=now, file_version=_FILE_VERSION))
        # Opened for each epoch, so that an exception between two leaves no file open.
        with naming_file(self._files[folder]), self._files[folder].open("ab") as file:
            writer = record_writer.RecordWriter(file)
            for record in records:
                writer.write(record.SerializeToString())


def _modules() -> tuple[Any, Any, Any]:
    """The parts of tensorboard that make events and records, which load neither peer nor thread."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer import record_writer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"TensorBoard: expected the package tensorboard, got {error}; "
            f"pip install 'cnnrs[tensorboard]' installs it",
            name=error.name,
        ) from error
    return event_pb2, summary_pb2, record_writer
