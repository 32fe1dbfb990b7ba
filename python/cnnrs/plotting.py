"""Pictures, with matplotlib (the extra `plots`). Each function returns the figure it drew."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"
"""From Okabe and Ito's palette, which readers of every colour vision can tell apart."""


def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over the epochs.

    Args:
        history: what `History.history` holds after a training with validation: under the keys loss,
            accuracy, val_loss and val_accuracy one number an epoch; accuracies from 0 to 1.

    Returns:
        A figure of two panels.

    Example:
        >>> history = dict(loss=[0.4], accuracy=[0.9], val_loss=[0.3], val_accuracy=[0.92])
        >>> len(training_curves(history).axes)
        2
    """
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True
    ):
        for name, colour, marker, label in (
            (key, BLUE, "o", "training, while learning"),
            (f"val_{key}", ORANGE, "s", "test"),
        ):
            epochs = range(1, len(history[name]) + 1)
            axes.plot(epochs, history[name], color=colour, marker=marker, label=label)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def time_bars(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how long each implementation takes for each operation, on a logarithmic scale.

    Args:
        rows: for each operation the seconds that each implementation takes, the implementations
            in the same order everywhere, at most three of them.

    Returns:
        A figure of horizontal bars, each with its time.

    Example:
        >>> figure = time_bars({"step": {"NumPy": 0.02, "cnnrs": 2e-5}})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['NumPy', 'cnnrs']
    """
    names = list(next(iter(rows.values())))
    height = 0.8 / len(names)
    figure = Figure(figsize=(9, 1 + 0.28 * len(names) * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for n, (name, colour) in enumerate(zip(names, (GREY, BLUE, ORANGE), strict=False)):
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
