"""What a training shows: lines on standard output, and a bar on a terminal or in a notebook."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

from cnnrs.callbacks._base import Logs

if TYPE_CHECKING:
    from tqdm import tqdm

BAR_SECONDS = 0.2
"""An epoch that takes less shows no bar: it would only flicker."""

MOVE_SECONDS = 0.1
"""The least time between two states of the bar."""

BAR_FORMAT = "{percentage:3.0f}%|{bar}| {remaining} left{postfix}, {rate_noinv_fmt}"
"""What matters least comes last, because a narrow terminal cuts it off."""

BESIDE_FIGURES = len("100%|##########| 00:00 left, , 999k images/s")
"""Columns that all else takes. Figures that do not fit beside it are left out."""

LEAST_COLUMNS = 10
"""A terminal that is narrower has no room for a bar."""

USUAL_COLUMNS = 80
"""Of a terminal that does not know its size."""


class Report:
    """What the user sees of one call of `Sequential.fit`.

    Args:
        verbose: 0 for nothing, 1 for two lines an epoch and a bar between them if there is a
            terminal or a notebook, 2 for one line an epoch.
        epochs: the number of the last one.
        steps: of an epoch.
        images: of an epoch.
    """

    def __init__(self, verbose: int, *, epochs: int, steps: int, images: int) -> None:
        self._verbose = verbose
        self._epochs = epochs
        self._images = images
        self.steps = steps
        self._heading = ""
        self._bar: tqdm[Any] | None = None  # other threads, too, clear it and give it up
        self._on_terminal = False

    def begin(self, epoch: int) -> None:
        """Print an epoch's heading."""
        self._heading = f"Epoch {epoch + 1}/{self._epochs}"
        if self._verbose == 1:
            say(self._heading)

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Show a progress bar meanwhile, which is gone afterwards."""
        if self._verbose == 1:
            self._open()
        _showing.append(self)
        try:
            yield
            if (bar := self._bar) is not None:
                bar.total = bar.n  # or a notebook takes an early end for an error
        finally:
            _showing.remove(self)
            with self._harmless():
                if (bar := self._bar) is not None:
                    bar.close()
            self._bar = None

    def update(self, images: int, logs: Logs) -> None:
        """Move the bar on by some images, and show the figures so far."""
        if self._bar is None:
            return  # without the cost of a guard
        with self._harmless():
            if (bar := self._bar) is not None:
                figures = [f"{name}: {_figure(value)}" for name, value in logs.items()]
                if self._on_terminal:
                    columns = _columns(bar.fp)  # which may have changed
                    bar.ncols = columns
                    while figures and len(", ".join(figures)) > columns - BESIDE_FIGURES:
                        figures.pop()
                bar.set_postfix_str(", ".join(figures), refresh=False)
                bar.update(images)

    def clear(self) -> None:
        """Make way for other output; the bar comes back when it moves on."""
        with self._harmless():
            if (bar := self._bar) is not None:
                bar.clear()

    def end(self, steps: int, seconds: float, logs: Logs) -> None:
        """Print an epoch's figures."""
        if self._verbose:
            heading = f"{self._heading} - " if self._verbose == 2 else ""
            say(heading + line(steps, self.steps, seconds, logs))

    def _open(self) -> None:
        settings: dict[str, Any] = {
            "total": self._images,
            "unit": " images",
            "unit_scale": True,
            "bar_format": BAR_FORMAT,
            "delay": BAR_SECONDS,
            "mininterval": MOVE_SECONDS,
            "miniters": 1,
            "leave": False,
        }
        with self._harmless():
            notebook = _notebook_bar()
            if notebook is not None:
                self._on_terminal = False
                self._bar = notebook(**settings)
            elif can_show_a_bar(sys.stderr):
                from tqdm import tqdm

                self._on_terminal = True
                # `nrows`, too, is given, because tqdm shows nothing where the size is unknown.
                columns = _columns(sys.stderr)
                self._bar = tqdm(**settings, file=sys.stderr, ncols=columns, nrows=20)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Give up the bar if it cannot be shown, as when the terminal is gone: it is only a bar."""
        try:
            yield
        except (OSError, ValueError):
            if (bar := self._bar) is not None:
                bar.disable = True
            self._bar = None


def can_show_a_bar(file: Any) -> bool:
    """Whether a file is a terminal that can go back to a line's begin, and wide enough."""
    if file is None or getattr(file, "closed", False) or not file.isatty():
        return False
    if os.name == "posix" and os.environ.get("TERM", "dumb") in ("", "dumb"):
        return False
    return _columns(file) >= LEAST_COLUMNS - 1


def _columns(file: Any) -> int:
    """How many columns of a terminal can be used: in the last one, some begin a new line."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (AttributeError, OSError, ValueError):
        columns = 0
    return (columns or USUAL_COLUMNS) - 1


def _notebook_bar() -> Any:
    """The class of tqdm's bars in a notebook, or None if this is none or lacks ipywidgets."""
    # Of these `tqdm.auto`, which is slow to load, goes by one or the other.
    if not {"ipykernel.zmqshell", "IPython.utils._process_emscripten"} & sys.modules.keys():
        return None
    from tqdm import auto, notebook

    return auto.tqdm if issubclass(auto.tqdm, notebook.tqdm_notebook) else None


_showing: list[Report] = []
"""What has a bar on the screen, in which no line should end up."""


def say(text: str) -> None:
    """Print a line at once, if there is a standard output."""
    for report in list(_showing):
        report.clear()
    if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
        print(text, flush=True)


def line(steps: int, of: int, seconds: float, logs: Logs) -> str:
    """Steps, seconds and figures, as Keras writes them."""
    each = seconds / steps
    if each >= 1:
        pace = f"{each:.0f}s"
    elif each >= 1e-3:
        pace = f"{each * 1e3:.0f}ms"
    else:
        pace = f"{each * 1e6:.0f}us"
    head = f"{steps}/{of} - {seconds:.1f}s - {pace}/step"
    return " - ".join([head, *(f"{name}: {_figure(value)}" for name, value in logs.items())])


def _figure(value: object) -> str:
    if not isinstance(value, Real):  # a callback may put anything into logs
        return str(value)
    number = float(value)
    return f"{number:.4f}" if abs(number) > 1e-3 else f"{number:.4e}"
