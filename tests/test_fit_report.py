"""What a training shows."""

import re
import subprocess
import sys
from typing import Any

import pytest

from cnnrs import Dense, Input, Sequential
from cnnrs.optimizers import SGD
from model_under_test import (
    compiled,
    data,
)

# What is shown


FIGURES = r"loss: \d\.\d{4} - accuracy: \d\.\d{4}(e[+-]\d\d)?"
LINE = rf"(\d+)/(\d+) - \d+\.\ds - \d+(s|ms|us)/step - {FIGURES}"


@pytest.mark.parametrize("verbose", ["auto", 1, True])
def test_lines_are_like_kerass(verbose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, 4, epochs=2, verbose=verbose, validation_split=0.2)
    out, err = capsys.readouterr()
    assert err == ""
    val = FIGURES.replace("loss", "val_loss").replace("accuracy", "val_accuracy")
    assert re.fullmatch(rf"Epoch 1/2\n{LINE} - {val}\nEpoch 2/2\n{LINE} - {val}\n", out)
    assert out.count("\n4/4 - ") == 2
    model.evaluate(x, y, 8, verbose)
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"{LINE}\n", out)
    assert out.startswith("3/3 - ")
    model.predict(x, None, verbose)
    assert capsys.readouterr() == ("", "")


def test_an_epoch_can_have_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    compiled().fit(x, y, 4, epochs=2, verbose=2)
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(rf"Epoch 1/2 - {LINE}\nEpoch 2/2 - {LINE}\n", out)


@pytest.mark.parametrize("verbose", [0, False])
def test_silence(verbose: Any, capfd: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, epochs=2, verbose=verbose, validation_split=0.5)
    model.evaluate(x, y, verbose=verbose)
    model.predict(x)
    assert capfd.readouterr() == ("", "")


def test_small_figures_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    model = Sequential([Input((1,)), Dense(1, kernel_initializer="ones")], dtype="float64")
    model.compile(SGD(0.0), "mse")
    for error, shown in [(0.01, "1.0000e-04"), (0.0, "0.0000e+00"), (2.0, "4.0000")]:
        model.evaluate([[1.0]], [[1.0 - error]])
        assert capsys.readouterr().out.endswith(f" - loss: {shown}\n")


def test_the_bar_is_loaded_on_a_terminal_only() -> None:
    program = """if True:
        import sys
        from cnnrs import Dense, Input, Sequential
        model = Sequential([Input((1,)), Dense(1)])
        model.compile("sgd", "mse")
        model.fit([1.0], [1.0])
        print("tqdm" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "False"
    assert ran.stderr == ""
