"""Figures over epochs, and times of implementations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from cnnrs.callbacks import History
from cnnrs.plotting._style import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels in one line."""

COLOURS = (GREY, BLUE, ORANGE)
"""Of implementations."""


def training_curves(history: History | Mapping[str, Sequence[float]]) -> Figure:
    """Draw what a training reports over its epochs: loss, accuracy, and all else in its history.

    Figures of training are means over an epoch, while the model learns; those of validation are
    taken behind it. (Learning curves, another term, often stand for figures over the number of
    training images.)

    Args:
        history: what `fit` returned, or its `history`: for each name one number an epoch. A name
            with `val_` before it shares the panel of the name without.

    Returns:
        A figure with a panel for each name.

    Raises:
        TypeError: if it is something else, or a name has no list of numbers.
        ValueError: if the history has no epoch.

    Reference: `keras.callbacks.History`.

    Example:
        >>> from cnnrs.plotting import training_curves
        >>> history = dict(loss=[0.4], accuracy=[0.9], val_loss=[0.3], val_accuracy=[0.92])
        >>> [axes.get_title() for axes in training_curves(history).axes]
        ['Loss', 'Accuracy']
    """
    if not isinstance(history, History | Mapping):
        raise TypeError(f"history: expected a History or its dict, got {history!r}")
    figures = history.history if isinstance(history, History) else history
    for name, part in figures.items():
        if np.ndim(part) != 1:
            raise TypeError(f"history: expected a list of numbers for {name}, got {part!r}")
    if not any(map(len, figures.values())):
        raise ValueError("history: expected figures of at least one epoch, got none")
    epochs_of = history.epoch if isinstance(history, History) else []
    # A history that several trainings have filled knows the epochs of the last one only.
    is_whole = all(len(part) == len(epochs_of) for part in figures.values())
    begin = epochs_of[0] + 1 if epochs_of and is_whole else 1
    names = list(dict.fromkeys(name.removeprefix("val_") for name in figures))
    across = 2 if len(names) == 4 else min(len(names), ACROSS)
    lines = math.ceil(len(names) / across)
    figure = new_figure(max(4.5 * across, 5), 3.4 * lines)
    for n, name in enumerate(names):
        axes = figure.add_subplot(lines, across, n + 1)
        for key, colour, marker, label in (
            (name, BLUE, "o", "training, while learning"),
            (f"val_{name}", ORANGE, "s", "validation"),
        ):
            if key in figures:
                epochs = range(begin, begin + len(figures[key]))
                few = marker if len(epochs) <= 30 else None
                axes.plot(epochs, figures[key], color=colour, marker=few, markersize=5, label=label)
        last = begin + max(len(figures.get(key, ())) for key in (name, f"val_{name}")) - 1
        margin = min(0.05 * max(last - begin, 1), 0.9)  # so that no tick stands for epoch 0
        axes.set_xlim(begin - margin, last + margin)
        axes.set(title=name.replace("_", " ").capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if f"val_{name}" in figures or name in ("loss", "accuracy", "acc"):
            axes.legend()
        if name in ("accuracy", "acc"):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def time_bars(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how long each implementation takes for each operation, on a logarithmic scale.

    Args:
        rows: for each operation the seconds that each implementation takes, the implementations
            in the same order everywhere, at most three of them.

    Returns:
        A figure of horizontal bars, each with its time.

    Raises:
        ValueError: if there is no operation, no implementation, or more than three of them, or if
            operations have not the same ones.

    Example:
        >>> from cnnrs.plotting import time_bars
        >>> figure = time_bars({"step": {"NumPy": 0.02, "cnnrs": 2e-5}})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['NumPy', 'cnnrs']
    """
    names = list(next(iter(rows.values()), ()))
    if not 1 <= len(names) <= len(COLOURS):
        raise ValueError(
            f"rows: expected times of 1 to {len(COLOURS)} implementations, got {len(names)}"
        )
    for operation, of_one in rows.items():
        if set(of_one) != set(names):
            raise ValueError(
                f"rows: expected times of {', '.join(names)} for {operation}, got those of "
                f"{', '.join(of_one) or 'none'}"
            )
    height = 0.8 / len(names)
    figure = new_figure(9, 1 + 0.28 * len(names) * len(rows))
    axes = figure.subplots()
    for n, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        at = [row + (n - (len(names) - 1) / 2) * height for row in range(len(rows))]
        times = [times[name] * 1e6 for times in rows.values()]
        bars = axes.barh(at, times, height * 0.95, color=colour, label=name)
        axes.bar_label(bars, [_microseconds(time) for time in times], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _microseconds(value)))
    axes.margins(x=0.15, y=0.02)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("time for one image, in microseconds (logarithmic)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _microseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
