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


def test_what_was_exported_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    line = last_line("export_onnx.py", capsys)
    right, difference = re.fullmatch(r"onnxruntime: (.*)% right, at most (\S+) .*", line).groups()
    assert float(right) > 88
    assert float(difference) < 1e-5


def test_what_came_from_pytorch_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    line = last_line("from_pytorch.py", capsys)
    right, difference = re.fullmatch(r"cnnrs: (.*)% right, at most (\S+) .*", line).groups()
    assert float(right) > 80
    assert float(difference) < 1e-4


def test_what_came_from_keras_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow")
    line = last_line("from_keras.py", capsys)
    right, difference = re.fullmatch(r"cnnrs: (.*)% right, at most (\S+) .*", line).groups()
    assert float(right) > 80
    assert float(difference) < 1e-5


def test_a_folder_of_own_pictures_is_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    line = last_line("own_images.py", capsys)
    (right,) = re.fullmatch(
        r"1500 pictures of circle, square, triangle: (.*)% right .*", line
    ).groups()
    assert float(right) > 90
