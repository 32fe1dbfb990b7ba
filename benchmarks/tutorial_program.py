"""Run the tutorial's whole program on cnnrs and on NumPy: the same numbers, in how much time?

    python benchmarks/tutorial_program.py [--images 1000] [--epochs 3] [--tests 1000] [--runs 10]

The program is `examples/tutorial.py`. The exit status is 1 if a printed line or a parameter
differs.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnnrs import _core, numpy_reference
from cnnrs import tutorial as layers
from cnnrs.datasets import mnist

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import tutorial as program

TOLERANCE = 1e-9


class Run(NamedTuple):
    """What the program printed and learnt, and the seconds of its training."""

    lines: list[str]
    parameters: dict[str, npt.NDArray[np.float64]]
    seconds: float


def run(layers: ModuleType, options: argparse.Namespace) -> Run:
    """Train and test once; the same seed for all."""
    images, labels = mnist.train_images("sample"), mnist.train_labels("sample")
    np.random.seed(options.seed)
    network = program.Network(layers)
    start = time.perf_counter()
    lines = list(
        program.train(network, images[: options.images], labels[: options.images], options.epochs)
    )
    seconds = time.perf_counter() - start
    images, labels = mnist.test_images("sample"), mnist.test_labels("sample")
    lines.append(program.test(network, images[: options.tests], labels[: options.tests]))
    parameters = {
        "filters": network.conv.filters,
        "weights": network.softmax.weights,
        "biases": network.softmax.biases,
    }
    return Run(lines, parameters, seconds)


def main() -> int:
    """Compare one run on NumPy with several on cnnrs, half of them before it and half after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="to train on (default 1000)")
    parser.add_argument("--epochs", type=int, default=3, help="(default 3)")
    parser.add_argument("--tests", type=int, default=1000, help="images to test on (default 1000)")
    parser.add_argument("--runs", type=int, default=10, help="of cnnrs (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    options = parser.parse_args()

    half = max(1, options.runs // 2)
    ours = [run(layers, options) for _ in range(half)]
    numpys = run(numpy_reference, options)
    ours += [run(layers, options) for _ in range(half)]

    print(*numpys.lines, sep="\n")
    same = True
    for number, line in enumerate(numpys.lines):
        for other in {mine.lines[number] for mine in ours} - {line}:
            print(f"DIFFERS on cnnrs: {other}")
            same = False
    for name, expected in numpys.parameters.items():
        apart = np.max([np.abs(mine.parameters[name] - expected) for mine in ours])
        within = bool(apart <= TOLERANCE)  # False for NaN too
        print(f"{name}: at most {apart:.1e} apart{'' if within else ': DIFFERS'}")
        same &= within

    seconds = [mine.seconds for mine in ours]
    median = statistics.median(seconds)
    steps = options.images * options.epochs
    print(
        f"training, {steps:,} steps: NumPy {numpys.seconds:.2f} s, cnnrs ({_core.simd_level()}) "
        f"{median:.4f} s (median of {len(seconds)}, {min(seconds):.4f} to {max(seconds):.4f}): "
        f"{numpys.seconds / median:,.0f} times as fast"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
