"""The command `cnnrs bench`, and the vectorised NumPy layers that it measures."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_under_test import MODULE, NO_MATPLOTLIB, cnnrs_command
from cnnrs import bench as measuring
from cnnrs import numpy_reference, numpy_vectorised, tutorial
from cnnrs._core import fma_peak, simd_level

OPERATIONS = [
    "Conv3x3 forward",
    "Conv3x3 backprop",
    "MaxPool2 forward",
    "MaxPool2 backprop",
    "Softmax forward",
    "Softmax backprop",
    "training step",
]
IMPLEMENTATIONS = ["NumPy, loops", "NumPy, vectorised", "cnnrs"]


def bench(
    *arguments: str | Path, command: Sequence[str] = MODULE
) -> subprocess.CompletedProcess[str]:
    # One round, and no more: times differ from run to run, so no test is about them.
    return cnnrs_command("bench", "--repeats", "1", *arguments, command=command)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_table_json_and_chart(tmp_path: Path) -> None:
    ran = bench("--json", tmp_path / "times.json", "--plot", tmp_path / "times.png")
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert names(tmp_path) == ["times.json", "times.png"]
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    facts = json.loads((tmp_path / "times.json").read_text())
    assert facts["repeats"] == 1
    assert facts["instruction_set"] == simd_level()
    assert facts["train_loop_seconds"] > 0
    assert list(facts["seconds"]) == OPERATIONS
    heading, *rows = ran.stdout.splitlines()[: 1 + len(OPERATIONS)]
    assert re.split(r"\s{2,}", heading.strip()) == IMPLEMENTATIONS
    for row, (operation, times) in zip(rows, facts["seconds"].items(), strict=True):
        assert list(times) == IMPLEMENTATIONS
        assert min(times.values()) > 0
        assert row.startswith(operation)
        shown = re.findall(r" ([\d,]+\.\d)\b", row)
        assert shown == [f"{seconds * 1e6:,.1f}" for seconds in times.values()]
    for words in ("cnnrs train", simd_level(), f"{facts['train_loop_seconds'] * 1e6:.1f} us"):
        assert words in ran.stdout


def test_each_figure_is_the_median_of_what_it_is_said_to_be_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[tuple[str, str]] = []

    def noting(implementation: str, kind: str, layer: Callable[..., Any]) -> Callable[..., Any]:
        class Noting:
            def __init__(self, *arguments: Any) -> None:
                self.layer = layer(*arguments)

            def __getattr__(self, method: str) -> Any:
                def call(*arguments: Any) -> Any:
                    called.append((implementation, f"{kind} {method}"))
                    return getattr(self.layer, method)(*arguments)

                return call

        return Noting

    modules = (numpy_reference, numpy_vectorised, tutorial)
    for implementation, module in zip(IMPLEMENTATIONS, modules, strict=True):
        for kind in ("Conv3x3", "MaxPool2", "Softmax"):
            layer = getattr(module, kind)
            monkeypatch.setattr(module, kind, noting(implementation, kind, layer))
    forth = ["Conv3x3 forward", "MaxPool2 forward", "Softmax forward"]
    back = ["Softmax backprop", "MaxPool2 backprop", "Conv3x3 backprop"]
    turns: Counter[tuple[str, str]] = Counter()

    def seconds(task: Callable[[], object], calls: int) -> float:
        """The first of a task's turns tells how often it is to be called."""
        called.clear()
        task()
        ((implementation, operation), *more) = called
        if more:
            assert called == [(implementation, name) for name in forth + back]
            operation = "training step"
        key = implementation, operation
        turn = (1.0, 5.0, 1.0, 4.0, 9.0, 2.0)[turns[key]]
        turns[key] += 1
        return turn * (10 * OPERATIONS.index(operation) + IMPLEMENTATIONS.index(implementation) + 1)

    monkeypatch.setattr(measuring, "_seconds", seconds)
    assert measuring.measure(repeats=5) == {
        operation: {
            implementation: 4.0 * (10 * row + column + 1)
            for column, implementation in enumerate(IMPLEMENTATIONS)
        }
        for row, operation in enumerate(OPERATIONS)
    }


def test_without_files_it_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = bench()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "name", "mention"),
    [
        ("--json", "file/times.json", "times.json"),
        ("--json", "missing/times.json", "times.json"),
        ("--json", "folder", "folder"),
        ("--plot", "file/times.png", "times.png"),
        ("--plot", "missing/times.png", "times.png"),
    ],
)
def test_unusable_file_is_one_line_that_names_it(
    option: str, name: str, mention: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    ran = bench(option, tmp_path / name)
    complaint = [line for line in ran.stderr.splitlines() if "font cache" not in line]
    assert ran.returncode == 1
    assert len(complaint) == 1
    assert complaint[0].startswith("cnnrs: ")
    assert mention in re.sub(r"\.times\.[0-9a-f]{12}", "times", complaint[0])
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("name", ["times.docx", "times", ""])
def test_a_chart_is_one_of_three_kinds(name: str) -> None:
    ran = bench("--plot", name)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"expected a name that ends in .png, .svg or .pdf, got {name!r}" in ran.stderr


def test_chart_without_matplotlib_is_refused_before_the_measurement(tmp_path: Path) -> None:
    ran = bench("--plot", tmp_path / "times.png", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(r"cnnrs: .*matplotlib.*\n", ran.stderr)


# The layers that stand for the best that NumPy can do


def arrays(
    *names: str, least: int, values: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
) -> st.SearchStrategy[tuple[np.random.Generator, np.ndarray]]:
    """A generator, and an array that it filled, of up to 9 along each of the named axes."""
    return st.builds(
        lambda seed, *shape: (rng := np.random.default_rng(seed), values(rng, shape)),
        st.integers(0, 2**32 - 1),
        *(st.integers(least if name in "hw" else 1, 9) for name in names),
    )


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def ties(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few different numbers, a negative zero among them, so that most regions hold equal maxima."""
    return rng.choice([-0.5, -0.0, 0.0, 0.1 + 0.2, 0.3], shape)


@settings(max_examples=60)
@given(arrays("h", "w", least=3, values=noise), st.integers(1, 9))
def test_convolution_is_the_loops(
    drawn: tuple[np.random.Generator, np.ndarray], num_filters: int
) -> None:
    rng, image = drawn
    loops = numpy_reference.Conv3x3(num_filters)
    fast = numpy_vectorised.Conv3x3(num_filters)
    loops.filters = rng.standard_normal((num_filters, 3, 3))
    fast.filters = loops.filters.copy()
    out = loops.forward(image)
    np.testing.assert_allclose(fast.forward(image), out, rtol=1e-12, atol=1e-12)
    d_out = rng.standard_normal(out.shape)
    assert loops.backprop(d_out, 0.1) is fast.backprop(d_out, 0.1) is None
    np.testing.assert_allclose(fast.filters, loops.filters, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(
    st.one_of(
        arrays("h", "w", "channels", least=1, values=noise),
        arrays("h", "w", "channels", least=1, values=ties),
    )
)
def test_pooling_is_the_loops_ties_and_all(
    drawn: tuple[np.random.Generator, np.ndarray],
) -> None:
    rng, image = drawn
    loops, fast = numpy_reference.MaxPool2(), numpy_vectorised.MaxPool2()
    out = loops.forward(image)
    np.testing.assert_array_equal(fast.forward(image), out, strict=True)
    d_out = rng.standard_normal(out.shape)
    np.testing.assert_array_equal(fast.backprop(d_out), loops.backprop(d_out), strict=True)


def test_a_training_step_is_that_of_the_loops() -> None:
    rng = np.random.default_rng(0)
    images, trained = rng.random((5, 9, 10)) - 0.5, []
    for layers in (numpy_reference, numpy_vectorised):
        np.random.seed(1)
        conv, pool, softmax = layers.Conv3x3(4), layers.MaxPool2(), layers.Softmax(3 * 4 * 4, 10)
        for label, image in enumerate(images):
            out = softmax.forward(pool.forward(conv.forward(image)))
            gradient = np.zeros(10)
            gradient[label] = -1 / out[label]
            conv.backprop(pool.backprop(softmax.backprop(gradient, 0.1)), 0.1)
        trained.append((conv.filters, softmax.weights, softmax.biases))
    for loops, fast in zip(*trained, strict=True):
        np.testing.assert_allclose(fast, loops, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_peak_is_not_looked_for_for_ever(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds: expected a finite number, got"):
        fma_peak(seconds)
