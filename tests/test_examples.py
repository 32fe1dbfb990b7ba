"""The small programs that show how to leave and how to arrive."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason=f"{EXAMPLES} is not here")


def last_line(program: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / program))
    return capsys.readouterr().out.splitlines()[-1]


def assert_as_good(line: str, library: str, *, percent: float, difference: float) -> None:
    """The library is right more often than that, and its probabilities are as near as that."""
    found = re.fullmatch(rf"{library}: (.*)% right, at most (\S+) .*", line)
    assert found, line
    assert float(found[1]) > percent
    assert float(found[2]) < difference


def test_what_was_exported_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert_as_good(last_line("export_onnx.py", capsys), "onnxruntime", percent=88, difference=1e-5)


def test_what_came_from_pytorch_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert_as_good(last_line("from_pytorch.py", capsys), "cnnrs", percent=80, difference=1e-4)


def test_what_came_from_keras_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow")
    assert_as_good(last_line("from_keras.py", capsys), "cnnrs", percent=80, difference=1e-5)


def test_a_folder_of_own_pictures_is_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    line = last_line("own_images.py", capsys)
    (right,) = re.fullmatch(
        r"1500 pictures of circle, square, triangle: (.*)% right .*", line
    ).groups()
    assert float(right) > 90
