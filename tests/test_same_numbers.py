"""The tutorial's program prints the same lines on cnnrs as on plain NumPy, from the same seed.

The run at the tutorial's own size takes a minute on NumPy: `benchmarks/tutorial_program.py`.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cnnrs import numpy_reference, tutorial
from cnnrs.datasets import mnist

PROGRAM = Path(__file__).parents[1] / "examples" / "tutorial.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not here")
    spec = importlib.util.spec_from_file_location("tutorial_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program: ModuleType, layers: ModuleType) -> tuple[Any, list[str]]:
    np.random.seed(7)
    network = program.Network(layers)
    images, labels = mnist.train_images("sample"), mnist.train_labels("sample")
    lines = list(program.train(network, images[:200], labels[:200], epochs=1))
    images, labels = mnist.test_images("sample"), mnist.test_labels("sample")
    return network, [*lines, program.test(network, images[:100], labels[:100])]


def test_the_tutorials_program_gives_the_same_lines_and_parameters(program: ModuleType) -> None:
    ours, our_lines = run(program, tutorial)
    numpys, numpy_lines = run(program, numpy_reference)
    assert len(our_lines) == 3
    assert our_lines == numpy_lines
    for layer, name in (("conv", "filters"), ("softmax", "weights"), ("softmax", "biases")):
        got, expected = (getattr(getattr(net, layer), name) for net in (ours, numpys))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14, err_msg=name)


def test_the_example_runs_as_it_stands_and_learns(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program.main()
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 10
    # "test: mean loss 0.541, 83.1% right"
    assert float(last.split()[-2].rstrip("%")) > 75
