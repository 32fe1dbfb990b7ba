"""The command `cnnrs`, run as users run it: what it prints, and how it is called."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import cnnrs
from cli_under_test import (
    MODULE,
    NO_MATPLOTLIB,
    RESULTS,
    SAMPLE,
    Epoch,
    assert_refused,
    cnnrs_command,
    contents,
    parse,
    patched,
    script,
    without,
)
from cnnrs.datasets import load
from cnnrs.recipes import fast
from cnnrs.utils import set_random_seed

# The report


@pytest.mark.parametrize("command", [lambda: MODULE, script], ids=["module", "script"])
def test_report(command: Callable[[], tuple[str, ...]]) -> None:
    ran = cnnrs_command(
        "train", "--data", "mnist-sample", "--limit", "1000", "--epochs", "2", command=command()
    )
    assert (ran.returncode, ran.stderr) == (0, ""), "no progress bar without a terminal"
    assert all(character == "\n" or character.isprintable() for character in ran.stdout)
    head, epochs = parse(ran.stdout)
    assert head == [
        "Data: the bundled sample of MNIST: the first 5,000 training and 1,000 test images",
        "      of which the first 1,000 training images",
        "SGD, one image a step, learning rate 0.005, seed 0, float32",
    ]
    for epoch in epochs:
        assert [step for step, _, _ in epoch.steps] == list(range(100, 1001, 100))
        assert epoch.images == 1000
    first, last = (epoch.test for epoch in epochs)
    assert last[0] < first[0] < 1.5
    assert float(last[1].rstrip("%")) > 75


def test_last_report_of_an_epoch_may_be_shorter() -> None:
    ran = cnnrs_command("train", "--data", "mnist-sample", "--limit", "150", "--epochs", "1")
    _, (epoch,) = parse(ran.stdout)
    assert [step for step, _, _ in epoch.steps] == [100, 150]
    assert epoch.images == 150


def test_each_line_is_passed_on_at_once() -> None:
    command = patched("""
import os, cnnrs._fit
cnnrs._fit.evaluate = lambda *_: os._exit(7)  # as a kill would, without a last flush
""")
    ran = cnnrs_command(*SAMPLE, command=command)
    assert ran.returncode == 7
    assert ran.stdout.rpartition("\n")[0].startswith("Data: ")
    assert "\nStep    300 | " in ran.stdout


def test_same_seed_same_lines_and_weights(tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> tuple[list[Epoch], dict[str, bytes]]:
        ran = cnnrs_command(*SAMPLE, *arguments, "--out", tmp_path / name, command=NO_MATPLOTLIB)
        written = load_file(tmp_path / name / "model.safetensors")
        return parse(ran.stdout)[1], {key: array.tobytes() for key, array in written.items()}

    report, weights = run("a", "--seed", "1")
    assert run("b", "--seed", "1") == (report, weights)
    other_report, other_weights = run("c", "--seed", "2")
    assert other_report != report
    assert other_weights != weights


def test_divergence_is_one_line_of_warning_that_names_the_epoch(tmp_path: Path) -> None:
    ran = cnnrs_command(*SAMPLE, "--epochs", "2", "--lr", "1e30", "--out", tmp_path)
    assert ran.returncode == 0
    assert ran.stderr == (
        "cnnrs: warning: the loss is not finite at epoch 1, step 2; "
        "a learning rate below 1e+30 may help\n"
    )
    _, epochs = parse(ran.stdout)
    assert [str(epoch.test[0]) for epoch in epochs] == ["nan", "nan"]
    assert sorted(contents(tmp_path)) == sorted(set(RESULTS) - {"confusion.png", "mistakes.png"})
    assert (
        "(no confusion.png and no mistakes.png: the model predicts NaN)"
        in ran.stdout.splitlines()[-1]
    )
    assert "nan" in (tmp_path / "history.csv").read_text()
    report = json.loads((tmp_path / "report.json").read_text())["test"]
    assert (report["accuracy"], report["images"]) == (0, 1000)


def test_divergence_in_the_last_step_is_told_too() -> None:
    arguments = ("--limit", "1", "--epochs", "1", "--lr", "1e30")
    ran = cnnrs_command("train", "--data", "mnist-sample", *arguments)
    assert ran.returncode == 0
    assert ran.stderr == (
        "cnnrs: warning: the loss of the validation is not finite at epoch 1; "
        "a learning rate below 1e+30 may help\n"
    )
    assert len(parse(ran.stdout)[1]) == 1


def test_a_warning_that_is_an_error_is_one_line() -> None:
    ran = cnnrs_command(*SAMPLE, "--lr", "1e30", PYTHONWARNINGS="error::RuntimeWarning")
    assert re.fullmatch(r"cnnrs: the loss is not finite at epoch 1, step 2; .*\n", ran.stderr)
    assert ran.returncode == 1


# Recipes


def test_other_recipes_have_the_report_of_fit(tmp_path: Path) -> None:
    arguments = ("train", "--data", "mnist-sample", "--limit", "640", "--epochs", "2")
    ran = cnnrs_command(*arguments, "--recipe", "fast", "--out", tmp_path, command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Recipe fast, seed 0, float32" in ran.stdout
    assert len(re.findall(r"^10/10 - .* - val_accuracy: 0\.\d+$", ran.stdout, re.MULTILINE)) == 2
    assert json.loads((tmp_path / "report.json").read_text())["recipe"] == "fast"


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from cnnrs import Dense, Flatten, Input, Rescaling, Sequential\n"
        "from cnnrs.recipes import Recipe\n"
        "def recipe(shape, classes, images, epochs=2):\n"
        "    layers = [Input(shape), Rescaling(1 / 255), Flatten(), Dense(classes, 'softmax')]\n"
        "    model = Sequential(layers)\n"
        "    model.compile('adam', 'sparse_categorical_crossentropy')\n"
        "    return Recipe(model, batch_size=100, epochs=epochs)\n"
    )
    arguments = ("train", "--data", "mnist-sample", "--limit", "500", "--recipe", file)
    ran = cnnrs_command(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(re.findall(r"^5/5 - ", ran.stdout, re.MULTILINE)) == 2
    (tmp_path / "empty.py").touch()
    for name, complaint in (
        (tmp_path / "empty.py", "empty.py: expected a function `recipe`, found none"),
        (tmp_path / "none.py", "none.py: No such file or directory"),
        ("slow", "expected tutorial, keras, fast, best or a file that ends in .py, got 'slow'"),
    ):
        assert_refused(cnnrs_command("train", "--recipe", name), complaint)
    refused = cnnrs_command("train", "--recipe", "fast", "--lr", "0.1")
    assert_refused(refused, "--lr: expected none for the recipe fast, which has its own")


FAULTY_RECIPES = {
    "def recipe(": ", line 1: SyntaxError: '(' was never closed",
    "import os\nhalf = 1 / 0": ", line 2: ZeroDivisionError: division by zero",
    "import nothing_such": ", line 1: ModuleNotFoundError: No module named 'nothing_such'",
    "open('nothing_such')": ", line 1: FileNotFoundError: ",
    "raise RuntimeError": ", line 1: RuntimeError\n",
    "recipe = 3": ": expected a function `recipe`, found none",
    "def recipe(size): return 3": (
        ": expected a function `recipe(shape, classes, images, epochs=...)`, got `recipe(size)`"
    ),
    "def recipe(shape, classes, images, epochs=1): return 3": (
        ": expected a Recipe from its function `recipe`, got 3"
    ),
    "def recipe(shape, classes, images, epochs=1):\n  return images.model": (
        ", line 2: AttributeError: 'int' object has no attribute 'model'"
    ),
}


@pytest.mark.parametrize("program", FAULTY_RECIPES)
def test_a_faulty_recipe_is_one_line_that_names_it(program: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(program)
    for kind in ("train",), ("bench", "accuracy"):
        arguments = (*kind, "--data", "mnist-sample", "--epochs", "1", "--recipe")
        ran = cnnrs_command(*arguments, tmp_path / "mine.py")
        assert_refused(ran, f"cnnrs: {tmp_path / 'mine.py'}{FAULTY_RECIPES[program]}")


@pytest.mark.parametrize("program", ["half = 1 / 0", "def recipe(*_, **__): 1 / 0"])
def test_debug_shows_where_a_recipe_fails(program: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(program)
    arguments = ("train", "--data", "mnist-sample", "--debug", "--recipe")
    ran = cnnrs_command(*arguments, tmp_path / "mine.py")
    assert f'File "{tmp_path / "mine.py"}", line 1' in ran.stderr
    assert "ZeroDivisionError" in ran.stderr


def test_accuracy_is_that_of_each_seed_and_of_all(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    arguments = ("--data", "mnist-sample", "--seeds", "2", "--epochs", "3", "--json", file)
    ran = cnnrs_command("bench", "accuracy", *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    report = json.loads(file.read_text())
    accuracies = [run["accuracy"] for run in report["runs"]]
    assert (report["recipe"], len(accuracies)) == ("fast", 2)
    assert min(accuracies) > 0.9
    lines = ran.stdout.splitlines()
    for seed, (line, accuracy) in enumerate(zip(lines[2:4], accuracies, strict=True)):
        assert line.startswith(f"seed {seed}: {accuracy:.2%} in ")
    assert lines[4].startswith(f"mean {sum(accuracies) / 2:.2%}, standard deviation ")
    assert f"worst {min(accuracies):.2%}" in lines[4]


def test_a_recipe_can_be_judged_without_the_test_images(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    arguments = ("--data", "mnist-sample", "--seeds", "1", "--hold-out", "500", "--debug")
    ran = cnnrs_command("bench", "--json", file, "accuracy", *arguments)  # on either side
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "judged by the last 500 training images, trained on the others" in ran.stdout
    report = json.loads(file.read_text())
    assert report["held_out"] == 500
    (run,) = report["runs"]
    x, y, *_ = load("mnist-sample")
    set_random_seed(0)
    made = fast.recipe((28, 28, 1), classes=10, images=4500)
    made.model.fit(x[:4500, ..., None], y[:4500], made.batch_size, made.epochs, verbose=0)
    right = made.model.predict_classes(x[4500:, ..., None]) == y[4500:]
    assert run["accuracy"] == right.mean()
    refused = cnnrs_command("bench", "accuracy", "--data", "mnist-sample", "--hold-out", "5000")
    assert_refused(refused, "--hold-out: expected fewer than the 5,000 training images, got 5,000")


def test_a_peer_that_is_not_installed_is_refused_before_any_training() -> None:
    arguments = ("bench", "accuracy", "--data", "mnist-sample", "--peer", "torch")
    ran = cnnrs_command(*arguments, command=without("torch"))
    assert_refused(ran, "peer: expected the package torch", 'pip install "cnnrs[bench]"')
    assert ran.stdout == ""
    ran = cnnrs_command("bench", "accuracy", "--peer", "jax")
    assert ran.returncode == 2
    assert "invalid choice: 'jax'" in ran.stderr


def test_one_round_is_not_called_a_median() -> None:
    for repeats, told in (("1", "faster; one round."), ("2", "faster; medians of 2 rounds.")):
        ran = cnnrs_command("bench", "--repeats", repeats)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert told in ran.stdout


def test_want_of_memory_is_one_line() -> None:
    command = patched("""
from cnnrs.models import Sequential
def fit(*_, **__):
    raise MemoryError
Sequential.fit = fit
""")
    assert_refused(cnnrs_command(*SAMPLE, command=command), "cnnrs: MemoryError\n")


def test_accuracies_that_cannot_be_written_are_not_measured(tmp_path: Path) -> None:
    arguments = ("--data", "mnist-sample", "--json", tmp_path / "missing" / "runs.json")
    ran = cnnrs_command("bench", "accuracy", *arguments)
    assert_refused(ran, "runs.json: No such file or directory")
    assert ran.stdout == ""


# Usage


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("train --epochs 0", "--epochs: expected an integer from 1, got '0'"),
        ("train --epochs 1.5", "--epochs: expected an integer from 1, got '1.5'"),
        ("train --limit 0", "--limit: expected an integer from 1, got '0'"),
        ("train --limit many", "--limit: expected an integer from 1, got 'many'"),
        ("train --seed -1", "--seed: expected an integer from 0 to 4294967295, got '-1'"),
        ("train --seed 4294967296", "from 0 to 4294967295, got '4294967296'"),
        ("train --lr nan", "--lr: expected a number above 0, got 'nan'"),
        ("train --lr -1", "--lr: expected a number above 0, got '-1'"),
        ("train --lr 0", "--lr: expected a number above 0, got '0'"),
        ("train --lr inf", "--lr: expected a number above 0, got 'inf'"),
        ("train --lr x", "--lr: expected a number above 0, got 'x'"),
        ("train --momentum 1", "cnnrs train: error: unrecognized arguments: --momentum 1"),
        ("train mnist", "cnnrs train: error: unrecognized arguments: mnist"),
        ("bench --bogus", "cnnrs bench: error: unrecognized arguments: --bogus"),
        ("bench accuracy --bogus", "cnnrs bench accuracy: error: unrecognized arguments: --bogus"),
        ("train --resume", "cnnrs train: error: --resume needs --out"),
        ("train --out=", "--out: expected a path, got ''"),
        ("inspect ''", "MODEL: expected a path, got ''"),
        ("evaluate ''", "MODEL: expected a path, got ''"),
        ("predict a.safetensors ''", "IMAGE: expected a path, got ''"),
        ("export a.safetensors ''", "FILE: expected a path, got ''"),
        ("bench --plot a.png accuracy", "expected no --plot, which belongs to `bench` alone"),
        ("bench accuracy --plot a.png", "expected no --plot, which belongs to `bench` alone"),
        ("bench --repeats 2 accuracy", "expected no --repeats"),
        ("bench accuracy --repeats 2", "expected no --repeats"),
        ("bench accuracy --peer-seeds 2", "--peer-seeds needs --peer"),
        ("evaluate", "required: MODEL"),
        ("predict model.safetensors", "required: IMAGE"),
        ("export model.safetensors a.onnx --input-dtype int8", "invalid choice: 'int8'"),
        ("bench --repeats 0", "--repeats: expected an integer from 1, got '0'"),
        ("learn", "invalid choice: 'learn'"),
        ("", "required: COMMAND"),
    ],
)
def test_misuse_is_status_2_and_says_how(arguments: str, complaint: str) -> None:
    ran = cnnrs_command(*shlex.split(arguments))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: cnnrs ")
    assert complaint in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (
            ["--help"],
            ["train ", "evaluate ", "predict ", "export ", "inspect ", "bench ", "info ", "--vers"],
        ),
        (
            ["train", "--help"],
            [
                "(default: mnist)",
                "(default: the recipe's, 3 for the tutorial)",
                "learning rate of the recipe tutorial (default: 0.005)",
                "(default: tutorial)",
                "(default: 0)",
                "--limit N",
                "--out FOLDER",
                "history.png",
            ],
        ),
        (["bench", "--help"], ["(default: 9)", "--json FILE", "--plot FILE"]),
    ],
)
def test_help_has_the_options_and_their_defaults(arguments: list[str], mentions: list[str]) -> None:
    ran = cnnrs_command(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: cnnrs ")
    unwrapped = " ".join(ran.stdout.split())
    for mention in mentions:
        assert mention in unwrapped


@pytest.mark.parametrize("command", [lambda: MODULE, script], ids=["module", "script"])
def test_version(command: Callable[[], tuple[str, ...]]) -> None:
    ran = cnnrs_command("--version", command=command())
    assert (ran.returncode, ran.stdout) == (0, f"cnnrs {cnnrs.__version__}\n")
