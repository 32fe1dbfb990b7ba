"""What the README shows runs as it stands there."""

import re
from functools import partial
from pathlib import Path

import pytest

import cnnrs

README = Path(__file__).parents[1] / "README.md"
GUIDE = README.parent / "docs" / "guide.md"
EXAMPLE = README.parent / "examples" / "keras_program.py"

pytestmark = pytest.mark.skipif(not README.exists(), reason=f"{README} is not here")


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


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


def test_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name in ("matplotlib", "PIL", "sklearn"):
        pytest.importorskip(name)
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), colour).save(tmp_path / "pictures" / name / "one.png")
    names: dict[str, object] = {}
    programs = blocks("python", GUIDE)
    assert len(programs) == 6
    request.addfinalizer(partial(cnnrs.set_num_threads, cnnrs.get_num_threads()))
    for program in programs:
        exec(program, names)
    assert names["class_names"] == ["blue", "red"]
    pictures = ("curves", "confusion", "mistakes", "filters", "maps", "prediction")
    assert {f"{name}.png" for name in pictures} <= {file.name for file in tmp_path.iterdir()}
