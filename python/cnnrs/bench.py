"""What `cnnrs bench` does: time the tutorial's layers and training step against NumPy.

All implementations take turns in one process, so that changes of the machine's speed
meet them alike.
"""

import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np

from cnnrs import __version__, _core, numpy_reference, numpy_vectorised, tutorial
from cnnrs._files import atomic_path, check_writable
from cnnrs.datasets import mnist
from cnnrs.datasets._store import CLASSES
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import NUM_FILTERS, tutorial_network

Task: TypeAlias = Callable[[], object]
Times: TypeAlias = dict[str, dict[str, float]]
"""For each operation, the seconds that each implementation takes for one image."""

LOOPS, VECTORISED, OURS = "NumPy, loops", "NumPy, vectorised", "cnnrs"
LAYERS: Mapping[str, ModuleType] = {
    LOOPS: numpy_reference,
    VECTORISED: numpy_vectorised,
    OURS: tutorial,
}

IMAGES = 100
BLOCK_SECONDS = 0.02
"""A block of calls is timed as one, so long that the clock's grain and its calls do not count."""


def run(*, repeats: int = 9, json_file: Path | None = None, plot_file: Path | None = None) -> Times:
    """Measure, print a table, and write the files that are asked for.

    Args:
        repeats: rounds in which every implementation has one turn; the median is reported.
        json_file: where to write all figures.
        plot_file: where to draw a bar chart; the suffix says what kind of file.

    Returns:
        For each operation the median seconds of each implementation.

    Raises:
        OSError: if a file cannot be written.
        ModuleNotFoundError: if a chart is asked for and matplotlib is not installed.
        ValueError: if matplotlib does not know the chart's suffix.
    """
    # What is missing or cannot be written is better known before the measurement than after it.
    for file in filter(None, (json_file, plot_file)):
        check_writable(file)
    if plot_file is not None:
        from cnnrs.plotting import time_bars

        if not plot_file.suffix:
            raise ValueError(f"{plot_file}: expected a name that ends in .png, .svg or .pdf")
    times = measure(repeats)
    loop = statistics.median(_train_loop_seconds() for _ in range(repeats))
    rounds = "one round" if repeats == 1 else f"medians of {repeats} rounds"
    print(table(times))
    print(
        f"\nMicroseconds for one image, and how many times cnnrs is faster; {rounds}."
        f"\nfloat64, {NUM_FILTERS} filters, {_core.simd_level()}."
        f"\nThe loop of `cnnrs train` (float32, no Python between the steps): {loop * 1e6:.1f} us "
        f"a step."
    )
    if json_file is not None:
        facts = {
            "cnnrs": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "instruction_set": _core.simd_level(),
            "repeats": repeats,
            "seconds": times,
            "train_loop_seconds": loop,
        }
        with atomic_path(json_file) as path:
            path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    if plot_file is not None:
        with atomic_path(plot_file) as path:
            time_bars(times).savefig(path)
    return times


def measure(repeats: int) -> Times:
    """Time every operation on every implementation, in turn, and take the medians."""
    tasks = {name: _tasks(layers) for name, layers in LAYERS.items()}
    operations = list(tasks[OURS])
    calls = {}
    for name in tasks:
        for operation, task in tasks[name].items():
            task()  # The first call of anything is slow.
            calls[name, operation] = math.ceil(BLOCK_SECONDS / _seconds(task, 1))
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for operation in operations:
            for name in tasks:
                key = name, operation
                samples[key].append(_seconds(tasks[name][operation], calls[key]))
    return {
        operation: {name: statistics.median(samples[name, operation]) for name in tasks}
        for operation in operations
    }


def table(times: Times) -> str:
    """Lay out times in microseconds, and how many times faster `cnnrs` is than either NumPy.

    Example:
        >>> from cnnrs.bench import LAYERS, table
        >>> print(table({"training step": dict(zip(LAYERS, (0.02, 2e-4, 2e-5)))}))
                              NumPy, loops   NumPy, vectorised          cnnrs
        training step       20,000.0 1,000x        200.0    10x           20.0
    """
    lines = [f"{'':<20}{LOOPS:>14}{VECTORISED:>20}{OURS:>15}"]
    for operation, row in times.items():
        loops, vectorised, ours = (row[name] * 1e6 for name in LAYERS)
        lines.append(
            f"{operation:<17}{loops:>11,.1f} {loops / ours:>5,.0f}x"
            f"{vectorised:>13,.1f} {vectorised / ours:>5,.0f}x{ours:>15,.1f}"
        )
    return "\n".join(lines)


def _tasks(layers: ModuleType) -> dict[str, Task]:
    """The tutorial's operations on one implementation of its layers."""
    np.random.seed(0)
    conv, pool = layers.Conv3x3(NUM_FILTERS), layers.MaxPool2()
    softmax = layers.Softmax(13 * 13 * NUM_FILTERS, CLASSES)
    images = mnist.train_images("sample")[:IMAGES]
    labels = mnist.train_labels("sample")[:IMAGES]

    image = images[0] / 255 - 0.5
    convolved = conv.forward(image)
    pooled = pool.forward(convolved)
    out = softmax.forward(pooled)
    d_out = np.zeros(CLASSES)
    d_out[labels[0]] = -1 / out[labels[0]]
    d_pooled = softmax.backprop(d_out, 0.0)
    d_convolved = pool.backprop(d_pooled)
    examples = itertools.cycle(zip(images, labels, strict=True))

    def training_step() -> None:
        image, label = next(examples)
        out = softmax.forward(pool.forward(conv.forward(image / 255 - 0.5)))
        gradient = np.zeros(CLASSES)
        gradient[label] = -1 / out[label]
        conv.backprop(pool.backprop(softmax.backprop(gradient, 0.005)), 0.005)

    return {
        "Conv3x3 forward": lambda: conv.forward(image),
        "Conv3x3 backprop": lambda: conv.backprop(d_convolved, 0.0),
        "MaxPool2 forward": lambda: pool.forward(convolved),
        "MaxPool2 backprop": lambda: pool.backprop(d_pooled),
        "Softmax forward": lambda: softmax.forward(pooled),
        "Softmax backprop": lambda: softmax.backprop(d_out, 0.0),
        "training step": training_step,
    }


def _seconds(task: Task, calls: int) -> float:
    """The time of one call, the mean of a block of them."""
    start = time.perf_counter()
    for _ in range(calls):
        task()
    return (time.perf_counter() - start) / calls


def _train_loop_seconds() -> float:
    """The time of one step of `cnnrs train`, the mean of an epoch on the sample."""
    images, labels = mnist.train_images("sample"), mnist.train_labels("sample")
    model = tutorial_network(*images.shape[1:])
    model.compile(SGD(0.005), "sparse_categorical_crossentropy")
    start = time.perf_counter()
    model.fit(images, labels, batch_size=1, verbose=0)
    return (time.perf_counter() - start) / len(images)
