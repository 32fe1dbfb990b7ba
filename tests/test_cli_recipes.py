"""Recipes of the user's own: what they may be, and how their mistakes are told."""

import csv
import json
import sys
from pathlib import Path

import pytest

from cli_under_test import (
    NO_MATPLOTLIB,
    PICTURES,
    RESULTS,
    assert_refused,
    cnnrs_command,
    contents,
)

TRAIN = ("train", "--data", "mnist-sample", "--limit", "200")
LOGITS = "SparseCategoricalCrossentropy(from_logits=True)"


def write_recipe(
    folder: Path,
    *,
    last: str = "Dense(classes, 'softmax')",
    optimizer: str = "'adam'",
    loss: str = "'sparse_categorical_crossentropy'",
    first: str = "Input(shape), ",
    given: str = "batch_size=100, epochs=epochs",
    before: str = "",
) -> Path:
    file = folder / "mine.py"
    file.write_text(
        "from cnnrs import Dense, Flatten, Input, Rescaling, Sequential\n"
        "from cnnrs.callbacks import Callback\n"
        "from cnnrs.losses import SparseCategoricalCrossentropy\n"
        "from cnnrs.optimizers import Adam\n"
        "from cnnrs.recipes import Recipe\n"
        f"{before}"
        "def recipe(shape, classes, images, epochs=1):\n"
        f"    model = Sequential([{first}Rescaling(1 / 255), Flatten(), {last}])\n"
        f"    model.compile({optimizer}, {loss})\n"
        f"    return Recipe(model, {given})\n"
    )
    return file


@pytest.mark.parametrize(
    ("last", "loss", "left_out"),
    [
        ("Dense(classes)", LOGITS, []),
        ("Dense(classes, 'relu')", LOGITS, []),
        ("Dense(classes)", "'sparse_categorical_crossentropy'", ["mistakes.png"]),
    ],
)
def test_a_model_need_not_end_in_probabilities(
    last: str, loss: str, left_out: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = write_recipe(tmp_path, last=last, loss=loss)
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", out)
    warned = "cnnrs: warning: loss: expected probabilities, as behind a softmax, but layer 'dense'"
    assert (ran.returncode, ran.stderr.startswith(warned)) == (0, bool(left_out))
    assert ran.stderr.count("\n") == len(left_out)
    assert sorted(path.name for path in out.iterdir()) == sorted(set(RESULTS) - set(left_out))
    why = "(no mistakes.png: the model's outputs are neither probabilities nor its loss's logits)"
    assert (why in ran.stdout) == bool(left_out)


def test_a_model_of_no_classes_is_refused_before_training(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, last="Dense(1)", loss="'mse'")
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", tmp_path / "out")
    assert_refused(ran, f"{file}: expected a model with an output for each of at least 2 classes")
    assert not (tmp_path / "out").exists()
    assert cnnrs_command(*TRAIN, "--recipe", file).returncode == 0, "without results, it may be"


def test_a_model_may_leave_its_input_open(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, first="")
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", tmp_path / "out", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(contents(tmp_path / "out")) == sorted(set(RESULTS) - set(PICTURES))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["parameters"] == 7850


SOMETIMES = """
class Sometimes(Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            logs["norm"] = 2.5
        logs["each"] = [0.5, epoch]
"""


def test_a_figure_of_some_epochs_is_absent_in_the_others(tmp_path: Path) -> None:
    given = "batch_size=100, epochs=3, callbacks=[Sometimes()]"
    file = write_recipe(tmp_path, before=SOMETIMES, given=given)
    out = tmp_path / "out"
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", out)
    assert (ran.returncode, ran.stderr) == (0, "")
    with (out / "history.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["norm"] for row in rows] == ["NA", "2.5", "NA"]
    assert [row["each"] for row in rows] == ["[0.5, 0]", "[0.5, 1]", "[0.5, 2]"]
    assert all(float(row["val_loss"]) > 0 for row in rows)
    assert sorted(contents(out)) == RESULTS


def test_a_figure_may_have_a_name_that_the_systems_encoding_lacks(tmp_path: Path) -> None:
    before = (
        "class Greek(Callback):\n"
        "    def on_epoch_end(self, epoch, logs=None):\n"
        "        logs['\\u03bb'] = 1.5\n"
    )
    given = "batch_size=100, epochs=1, callbacks=[Greek()]"
    file = write_recipe(tmp_path, before=before, given=given)
    arguments = (*TRAIN, "--recipe", file, "--out", tmp_path / "out")
    command = (sys.executable, "-X", "utf8=0", *NO_MATPLOTLIB[1:])
    ran = cnnrs_command(*arguments, command=command, LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert (ran.returncode, ran.stderr) == (0, "")
    table = (tmp_path / "out" / "history.csv").read_text("utf-8")
    assert table.partition("\n")[0].endswith(",\u03bb")


def test_a_model_that_cannot_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, optimizer="Adam(lambda step: 0.001)")
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", tmp_path / "out")
    assert_refused(ran, f"{file}: save: expected a learning rate that is a number or a schedule")
    assert not (tmp_path / "out").exists()
    assert cnnrs_command(*TRAIN, "--recipe", file).returncode == 0, "without results, it may be"


BAD_CALLBACK = """
class Bad(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        1 / 0
"""

KINDS = [("train", "--limit", "200"), ("bench", "accuracy", "--seeds", "1")]


@pytest.mark.parametrize("kind", KINDS, ids=["train", "bench"])
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("batch_size=100, epochs=0", "epochs: expected at least 1, got 0"),
        ("batch_size='x', epochs=1", "batch_size: expected an integer, got 'x'"),
        ("100, 1, Callback()", "callbacks: expected a list or tuple, got <"),
        ("100, 1, [3]", "callbacks: expected objects of cnnrs.callbacks.Callback, got 3"),
    ],
)
def test_an_unsound_recipe_is_refused(
    kind: tuple[str, ...], given: str, complaint: str, tmp_path: Path
) -> None:
    file = write_recipe(tmp_path, given=given)
    ran = cnnrs_command(*kind, "--data", "mnist-sample", "--recipe", file)
    assert_refused(ran, f"{file}: {complaint}")


@pytest.mark.parametrize("kind", KINDS, ids=["train", "bench"])
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"last": "Dense(classes, 'sotfmax')"}, ", line 7: ValueError: activation: expected "),
        ({"optimizer": "'adm'"}, ", line 8: ValueError: optimizer: expected "),
        ({"given": "int('abc'), 1"}, ", line 9: ValueError: invalid literal for int() "),
        ({"loss": "'categorical_crossentropy'"}, ": y: expected one-hot rows "),
        ({"last": "Dense(5, 'softmax')"}, ": y: expected class numbers of at least 0 and below 5"),
        ({"first": "Input((5, 5, 1)), "}, ": x: expected shape (n, 5, 5, 1), got "),
        (
            {"first": "Conv2D(1, 40), ", "before": "from cnnrs import Conv2D\n"},
            ": conv2d: expected an image of at least 40x40 pixels",
        ),
    ],
)
def test_a_mistake_in_the_model_names_the_file_and_its_line_if_it_has_one(
    kind: tuple[str, ...], changes: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    file = write_recipe(tmp_path, **changes)
    ran = cnnrs_command(*kind, "--data", "mnist-sample", "--recipe", file)
    assert_refused(ran, f"cnnrs: {file}{complaint}")


@pytest.mark.parametrize("kind", KINDS, ids=["train", "bench"])
def test_a_model_that_is_not_compiled_is_refused(kind: tuple[str, ...], tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    file.write_text(file.read_text().replace("model.compile(", "model.compile, ("))
    ran = cnnrs_command(*kind, "--data", "mnist-sample", "--recipe", file)
    complaint = "model: expected a compiled one, got sequential before compile"
    assert_refused(ran, f"cnnrs: {file}: {complaint}\n")


def test_a_recipe_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from cnnrs.recipes import Recipe\n"
        "def recipe(shape, classes, images, epochs=1):\n"
        "    return Recipe('net', 1, 1)\n"
    )
    refused = cnnrs_command(*TRAIN, "--recipe", file)
    assert_refused(refused, f"{file}: model: expected a Sequential, got 'net'")


@pytest.mark.parametrize("kind", KINDS, ids=["train", "bench"])
def test_a_callback_that_fails_is_one_line_that_names_its_place(
    kind: tuple[str, ...], tmp_path: Path
) -> None:
    given = "batch_size=100, epochs=1, callbacks=[Bad()]"
    file = write_recipe(tmp_path, before=BAD_CALLBACK, given=given)
    ran = cnnrs_command(*kind, "--data", "mnist-sample", "--recipe", file)
    assert_refused(ran, f"cnnrs: {file}, line 9: ZeroDivisionError: division by zero")
    shown = cnnrs_command(*kind, "--data", "mnist-sample", "--recipe", file, "--debug")
    assert shown.stderr.startswith("Traceback")


def test_a_callback_whose_reader_has_gone_ends_the_training_silently(tmp_path: Path) -> None:
    before = BAD_CALLBACK.replace("1 / 0", "raise BrokenPipeError")
    given = "batch_size=100, epochs=1, callbacks=[Bad()]"
    ran = cnnrs_command(*TRAIN, "--recipe", write_recipe(tmp_path, before=before, given=given))
    assert (ran.returncode, ran.stderr) == (1, "")


def test_a_backup_that_another_training_deleted_is_whole_again(tmp_path: Path) -> None:
    out, first = tmp_path / "out", tmp_path / "first"
    first.touch()
    before = f"""
import pathlib, shutil
class Bad(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            shutil.rmtree({str(out / "backup")!r})
        if epoch == 3 and pathlib.Path({str(first)!r}).exists():
            1 / 0
"""
    given = "batch_size=100, epochs=4, callbacks=[Bad()]"
    file = write_recipe(tmp_path, before=before, given=given)
    cut_off = cnnrs_command(*TRAIN, "--recipe", file, "--out", out)
    assert "ZeroDivisionError" in cut_off.stderr
    first.unlink()
    ran = cnnrs_command(*TRAIN, "--recipe", file, "--out", out, "--resume", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("Epoch ") == 1
    assert json.loads((out / "report.json").read_text())["epochs"] == 4
    assert not (out / "backup").exists()
