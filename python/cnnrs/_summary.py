"""The table that `Sequential.summary` prints."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnrs._checks import Shape

HEADINGS = ("Layer (type)", "Output Shape", "Param #")


@dataclass
class Row:
    """One layer: its name, its class, and if it is built its output's shape and its weights'.

    `weights` has each weight's shape and whether it is trained.
    """

    name: str
    kind: str
    output: Shape | None = None
    weights: Sequence[tuple[Shape, bool]] = ()

    def count(self, trained: bool) -> int:
        return sum(math.prod(shape) for shape, flag in self.weights if flag == trained)

    @property
    def cells(self) -> tuple[str, str, str]:
        name = f"{self.name} ({self.kind})"
        if self.output is None:
            return name, "?", "0 (unbuilt)"
        return name, str((None, *self.output)), f"{self.count(True) + self.count(False):,}"


def summary(name: str, rows: Sequence[Row], itemsize: int) -> Iterator[str]:
    """The lines of the table, in ASCII, so that every terminal and file can take them."""
    table = [HEADINGS, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = f"+{'+'.join('-' * (width + 2) for width in widths)}+"
    yield f'Model: "{name}"'
    yield rule
    for n, (layer, shape, params) in enumerate(table):
        yield f"| {layer:<{widths[0]}} | {shape:<{widths[1]}} | {params:>{widths[2]}} |"
        if n == 0:
            yield rule
    yield rule
    trained, fixed = (sum(row.count(flag) for row in rows) for flag in (True, False))
    for what, count in (
        ("Total", trained + fixed),
        ("Trainable", trained),
        ("Non-trainable", fixed),
    ):
        yield f" {what} params: {count:,} ({_memory(count * itemsize)})"


def _memory(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TB"
