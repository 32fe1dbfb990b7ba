"""The folder that `cnnrs train` writes, and the backup that a training goes on from."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import cnnrs
from cli_under_test import (
    NO_MATPLOTLIB,
    PICTURES,
    RESULTS,
    SAMPLE,
    assert_refused,
    cnnrs_command,
    contents,
    parse,
    patched,
    posix_only,
    start,
)
from cnnrs.datasets import load
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed

# The folder


def test_out_holds_model_history_report_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    ran = cnnrs_command(
        *("train", "--data", "mnist-sample", "--limit", "1000", "--epochs", "2"),
        *("--lr", "0.01", "--seed", "3", "--out", out),
    )
    assert ran.returncode == 0
    head, epochs = parse(ran.stdout)
    last = ran.stdout.splitlines()[-1]
    assert last == (
        "Wrote model.safetensors, history.csv, report.json, history.png, confusion.png and "
        f"mistakes.png to {out}"
    )
    assert sorted(file.name for file in out.iterdir()) == RESULTS
    for name in PICTURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    set_random_seed(3)
    model = tutorial_network(28, 28)
    model.compile(SGD(0.01), "sparse_categorical_crossentropy")
    data = load("mnist-sample")
    x, y = data.x_train[:1000], data.y_train[:1000]
    model.fit(x, y, batch_size=1, epochs=len(epochs), verbose=0)
    written = cnnrs.load_model(out / "model.safetensors")
    for ours, array in zip(written.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, array)

    report = json.loads((out / "report.json").read_text())
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    test = report.pop("test")
    assert report == {
        "cnnrs": cnnrs.__version__,
        "data": head[0].removeprefix("Data: "),
        "images": 1000,
        "recipe": "tutorial",
        "seed": 3,
        "epochs": 2,
        "parameters": 13602,
    }
    assert (test["accuracy"], test["images"], len(test["classes"])) == (accuracy, 1000, 10)

    with (out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, epoch in zip(rows, epochs, strict=True):
        loss, percent = epoch.test
        assert f"{float(row['val_loss']):.3f}" == f"{loss:.3f}"
        assert f"{float(row['val_accuracy']):.2%}" == percent
        printed = np.array([(loss, float(percent[:-1])) for _, loss, percent in epoch.steps])
        assert float(row["loss"]) == pytest.approx(printed[:, 0].mean(), abs=5.1e-4)
        assert float(row["accuracy"]) * 100 == pytest.approx(printed[:, 1].mean(), abs=5.1e-3)


def test_out_replaces_files_of_its_names_and_no_others(tmp_path: Path) -> None:
    for name in (*RESULTS, "notes.txt"):
        (tmp_path / name).write_bytes(b"old" * 100_000)
    assert cnnrs_command(*SAMPLE, "--out", tmp_path).returncode == 0
    found = contents(tmp_path)
    assert sorted(found) == sorted([*RESULTS, "notes.txt"])
    assert {name for name, content in found.items() if b"old" in content} == {"notes.txt"}


def test_without_matplotlib_it_says_so_and_writes_the_rest(tmp_path: Path) -> None:
    for name in PICTURES:
        (tmp_path / name).write_text("of another training")
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "(no pictures: matplotlib is not installed)" in ran.stdout.splitlines()[-1]
    assert sorted(contents(tmp_path)) == sorted(set(RESULTS) - set(PICTURES))


@pytest.mark.parametrize(
    ("folder", "file", "out"),
    [
        ("", "taken", "taken"),
        ("", "taken", "taken/run"),
        ("run/report.json", "", "run"),
        ("run/history.csv", "", "run"),
        ("run/model.safetensors", "", "run"),
        ("run/history.png", "", "run"),
    ],
)
def test_unusable_out_is_found_out_before_training(
    folder: str, file: str, out: str, tmp_path: Path
) -> None:
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    if file:
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path / out)
    if out == file:
        assert_refused(ran, f"{file}: expected a folder or a new name, found something else")
    assert_refused(ran, (tmp_path / (folder or out)).name)
    assert sorted(tmp_path.rglob("*")) == before


@posix_only
def test_read_only_out_is_found_out_before_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("the superuser writes to any folder")
        assert_refused(cnnrs_command(*SAMPLE, "--out", tmp_path), str(tmp_path))
    finally:
        tmp_path.chmod(0o755)


# The backup


MANY = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "30")


def cut_off(out: Path, *arguments: str, epochs: int = 2) -> None:
    """Train and be killed after some epochs."""
    with start(*MANY, "--out", out, *arguments) as process:
        assert process.stdout is not None
        tests = (line for line in process.stdout if line.startswith("Test"))
        for _ in range(epochs):
            next(tests)
        process.kill()


@posix_only
def test_a_training_that_was_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    report = cnnrs_command(*MANY, "--out", whole, command=NO_MATPLOTLIB).stdout
    cut_off(cut)
    cut_off(cut, "--resume", epochs=5)
    assert sorted(file.name for file in cut.iterdir()) == ["backup"]

    refused = cnnrs_command(*MANY, "--out", cut, "--resume", "--seed", "1")
    assert_refused(
        refused, "--resume: expected the options of the training in", "--seed 0, got --seed 1"
    )
    ran = cnnrs_command(*MANY, "--out", cut, "--resume", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert contents(cut) == contents(whole)
    assert not (cut / "backup").exists()
    last = report.partition("\nEpoch 30/30\n")[2].partition("\nTest")[0]
    assert ran.stdout.partition("\nEpoch 30/30\n")[2].partition("\nTest")[0] == last
    assert len(re.findall("^Epoch", ran.stdout, re.MULTILINE)) < 30


def test_resume_without_a_backup_begins_anew_and_says_so(tmp_path: Path) -> None:
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, "--resume", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"no training was cut off in {tmp_path}; this one begins anew" in ran.stdout
    assert "model.safetensors" in contents(tmp_path)


def test_a_folder_of_the_users_own_keeps_its_files(tmp_path: Path) -> None:
    for out, resume in ((tmp_path / "new", []), (tmp_path / "resumed", ["--resume"])):
        own = out / "backup"
        own.mkdir(parents=True)
        (own / "thesis.txt").write_text("mine")
        ran = cnnrs_command(*SAMPLE, "--out", out, *resume, command=NO_MATPLOTLIB)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert [(file.name, file.read_text()) for file in own.iterdir()] == [("thesis.txt", "mine")]


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "report.json"])
def test_resume_does_not_replace_what_was_finished(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("finished")
    refused = cnnrs_command(*SAMPLE, "--out", tmp_path, "--resume")
    assert_refused(refused, f"--resume: expected a training that was cut off in {tmp_path}", name)
    assert contents(tmp_path) == {name: b"finished"}


def test_a_backup_is_not_replaced_unasked(tmp_path: Path) -> None:
    cut_off(tmp_path)
    file = tmp_path / "backup" / "backup.safetensors"
    before = file.read_bytes()
    for others in ([], ["--seed", "1"]):
        refused = cnnrs_command(*MANY, "--out", tmp_path, *others)
        assert_refused(refused, f"{file}: expected no training that was cut off", "--resume goes")
        assert file.read_bytes() == before
    file.unlink()
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_training_that_cannot_begin_leaves_no_backup(tmp_path: Path) -> None:
    command = patched("""
from cnnrs.models import Sequential
def fit(*_, **__):
    raise ValueError("no")
Sequential.fit = fit
""")
    assert_refused(cnnrs_command(*SAMPLE, "--out", tmp_path, command=command), "cnnrs: no")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{bad", "[1]", '{"mine": 1}'])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_options_of_somebody_else_are_refused(tmp_path: Path, text: str, resume: list[str]) -> None:
    file = tmp_path / "backup" / "options.json"
    file.parent.mkdir()
    file.write_text(text)
    refused = cnnrs_command(*SAMPLE, "--out", tmp_path, *resume)
    assert_refused(refused, f"{file}: expected the options of a training that was cut off")
    assert file.read_text() == text


def test_a_backup_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backup" / "backup.safetensors"
    file.parent.mkdir()
    file.write_text("mine")
    refused = cnnrs_command(*SAMPLE, "--out", tmp_path)
    assert_refused(refused, f"{file}: expected no such file without options.json beside it")
    assert file.read_text() == "mine"


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    for name in (
        *(".report.0123456789ab.json", ".history.0123456789ab.csv"),
        "backup/.options.0123456789ab.json",
    ):
        (tmp_path / name).touch()
    (tmp_path / ".report.mine.json").touch()
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    hidden = [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert hidden == [".report.mine.json"]
    assert not (tmp_path / "backup").exists()
