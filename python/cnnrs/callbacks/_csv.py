"""Figures of all epochs as a table in a file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cnnrs._checks import as_path, flag, one_of
from cnnrs._files import atomic_path, naming_file
from cnnrs._warnings import warn
from cnnrs.callbacks._base import Callback, Logs

__all__ = ["CSVLogger"]

ABSENT = "NA"
"""What stands for a figure that an epoch does not have."""

_NO_SEPARATORS = '\r\n"'


class CSVLogger(Callback):
    """Writes each epoch's figures into a CSV file.

    The columns are `epoch`, counted from 0, and the first epoch's figures in alphabetical order. A
    figure that an epoch does not have is `NA`. The row is in the file when the epoch's end is over.

    Args:
        filename: the file; its folder must be there.
        separator: one character between two columns, a comma by default.
        append: whether to go on with a file that is there, in its columns, which may leave figures
            out; False (default) begins it anew as the first epoch ends.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the path is empty, the separator is not one character, or the file to go on
            with is no such log.
        OSError: from `fit`, if the file cannot be written; before training if it never could.

    Warns:
        RuntimeWarning: once a training, if figures have no column.

    Reference: `keras.callbacks.CSVLogger`. There a file to go on with is not looked into.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.callbacks import CSVLogger
        >>> model = Sequential([Input((1,)), Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = CSVLogger(Path(folder, "log.csv"))
        ...     _ = model.fit(np.zeros((3, 1)), np.zeros(3), epochs=2, verbose=0, callbacks=[log])
        ...     Path(folder, "log.csv").read_text().splitlines()
        ['epoch,loss', '0,0.0', '1,0.0']
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        if not isinstance(separator, str):
            raise TypeError(f"separator: expected one character, got {separator!r}")
        if len(separator) != 1 or separator in _NO_SEPARATORS:
            raise ValueError(
                f"separator: expected one character other than {one_of(_NO_SEPARATORS)}, got "
                f"{separator!r}"
            )
        self.filename = os.fspath(as_path("filename", filename))
        self.sep = separator
        self.append = flag("append", append)
        self._columns: list[str] | None = None
        self._warned = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """See to it that there is a file to write to, and look into one to go on with."""
        self._columns = self._read_columns() if self.append else None
        self._warned = False
        Path(self.filename).open("ab").close()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write a row, the first one into an empty file."""
        logs = logs or {}
        if self._columns is None:
            self._columns = ["epoch", *sorted(logs)]
            self._write(self._columns, "w")
        figures = {**logs, "epoch": epoch}
        self._write([figures.get(name, ABSENT) for name in self._columns])
        left_out = sorted(logs.keys() - set(self._columns))
        if left_out and not self._warned:
            self._warned = True
            warn(f"{self.filename}: no column for {', '.join(left_out)}")

    def get_state(self) -> dict[str, Any]:
        """The file as it is after this epoch, for `BackupAndRestore`."""
        return {"file": Path(self.filename).read_bytes().decode(), "columns": self._columns}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Make the file what it was, without rows of epochs that will come again."""
        with atomic_path(self.filename) as path:
            path.write_bytes(state["file"].encode())
        self._columns = state["columns"]

    def _read_columns(self) -> list[str] | None:
        """The columns of a file to go on with, which ends with a whole line afterwards."""
        import csv

        path = Path(self.filename)
        if not path.exists() or not path.stat().st_size:
            return None
        try:
            with path.open(newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file, delimiter=self.sep), [])
        except (UnicodeDecodeError, csv.Error):
            columns = []
        if columns[:1] != ["epoch"]:
            raise ValueError(
                f"{self.filename}: expected a log that begins with the column 'epoch' and has "
                f"{self.sep!r} between columns, got another file; append=False would replace it"
            )
        with path.open("rb+") as raw:
            raw.seek(-1, os.SEEK_END)
            if raw.read() != b"\n":
                raw.write(b"\r\n")
        return columns

    def _write(self, row: Sequence[object], mode: Literal["a", "w"] = "a") -> None:
        import csv

        # Opened for each row, so that an exception between two leaves no file open.
        with (
            naming_file(self.filename),
            Path(self.filename).open(mode, newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, delimiter=self.sep).writerow(row)
