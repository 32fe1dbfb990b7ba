"""The tutorial's program for Keras, with its import lines changed."""

import re
import runpy
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "keras_program.py"


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not here")
def test_the_tutorials_keras_program_learns(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(PROGRAM))
    model, test_images, test_labels = (
        names[name] for name in ("model", "test_images", "test_labels")
    )
    assert model.count_params() == 8 * 9 + 13 * 13 * 8 * 10 + 10
    history = model.history.history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history["accuracy"] == sorted(history["accuracy"])
    assert history["val_accuracy"][-1] > 0.87
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == [
        "Epoch 1/3",
        "5000/5000",
        "Epoch 2/3",
        "5000/5000",
        "Epoch 3/3",
        "5000/5000",
    ]
    classes = model.predict_classes(test_images)
    assert (classes == test_labels).mean() == pytest.approx(history["val_accuracy"][-1])
    shown = [int(digit) for digit in re.findall(r"\d", last)]
    assert shown == [*classes[:10], *test_labels[:10]]
