"""The peer benchmark's result as a chart: a panel for each network and task."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from networks import NETWORKS
from peers_report import best_of_library

COLOURS = {
    "cnnrs": "#d55e00",
    "PyTorch": "#0072b2",
    "JAX": "#56b4e9",
    "TensorFlow": "#009e73",
    "NumPy": "#999999",
}
"""From Okabe and Ito's palette, in which readers of every colour vision can tell them apart."""

LABEL = 2.5
"""How many times a bar's end the end of its label is, at most: a diamond must not lie on it."""

TASKS = {"train": "training", "infer": "inference"}

Facts = Mapping[str, Any]


def draw(facts: Facts) -> Figure:
    """Draw the run with the fewest threads as bars, and the one with the most as diamonds.

    Each library is there once, with the fastest of its ways.
    """
    runs = sorted(facts["runs"], key=lambda run: run["threads"])
    networks = list(dict.fromkeys(row["network"] for row in runs[0]["rows"]))
    libraries = [library for library in COLOURS if library in facts["libraries"].values()]
    figure = Figure(figsize=(10, 0.9 + 2.7 * len(networks)), dpi=150, layout="constrained")
    panels = figure.subplots(len(networks), len(TASKS), squeeze=False, sharex="row")
    for network, (left, right) in zip(networks, panels, strict=True):
        for task, axes in zip(TASKS, (left, right), strict=True):
            _panel(axes, facts, runs, network, task, libraries)
            axes.set_title(
                f"{NETWORKS[network].title.partition(':')[0]}, {TASKS[task]}", loc="left"
            )
    for axes in panels[-1]:
        axes.set_xlabel("microseconds for one image (logarithmic)")
    handles: list[Any] = [Patch(color=COLOURS[library], label=library) for library in libraries]
    if len(runs) > 1:
        label = f"{runs[-1]['threads']} threads (bars: {runs[0]['threads']})"
        handles.append(_diamond([], [], label=label))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _panel(
    axes: Axes, facts: Facts, runs: list[Facts], network: str, task: str, libraries: list[str]
) -> None:
    """One network's training or inference: a group of bars for each batch size."""
    few, many = (
        {
            row["batch"]: best_of_library(row, facts["libraries"])
            for row in run["rows"]
            if (row["network"], row["task"]) == (network, task)
        }
        for run in (runs[0], runs[-1])
    )
    height = 0.84 / len(libraries)
    for group, batch in enumerate(few):
        for number, library in enumerate(libraries):
            if library not in few[batch]:
                continue
            time = few[batch][library] * 1e6
            at = group + (number - (len(libraries) - 1) / 2) * height
            axes.barh(at, time, height * 0.92, color=COLOURS[library])
            end = time
            if len(runs) > 1 and library in many[batch]:
                other = many[batch][library] * 1e6
                axes.add_line(_diamond([other], [at]))
                if time < other < time * LABEL:
                    end = other * 1.06
            weight = "bold" if library == "cnnrs" else "normal"
            axes.annotate(
                _microseconds(time),
                (end, at),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                weight=weight,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set_ylim(len(few) - 0.5, -0.5)
    axes.set_yticks(range(len(few)), [f"batch {batch}" for batch in few])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _diamond(x: list[float], y: list[float], **settings: Any) -> Line2D:
    settings |= {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return Line2D(x, y, color="black", marker="D", linestyle="none", **settings)


def _microseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
