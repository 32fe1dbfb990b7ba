"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLE = README.parent / "examples" / "keras_program.py"

pytestmark = pytest.mark.skipif(not README.exists(), reason=f"{README} is not here")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)


def test_the_programs_run(capsys: pytest.CaptureFixture[str]) -> None:
    programs = blocks("python")
    assert len(programs) >= 2
    for program in programs:
        exec(program, {})
    assert "val_accuracy: 0.9" in capsys.readouterr().out


def test_the_changed_imports_are_those_of_the_example() -> None:
    (difference,) = (block for block in blocks("diff") if "from keras" in block)
    added = re.findall(r"^\+(.*)$", difference, re.M)
    program = EXAMPLE.read_text("utf-8").replace("set_random_seed, ", "").splitlines()
    assert added
    assert [line for line in program if line.startswith("from cnnrs")] == added
