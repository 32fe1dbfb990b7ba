"""The command `cnnrs`, run as users run it: in a process of its own."""

import csv
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

import cnnrs
from cnnrs.datasets import load
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals, pipes and terminals")
PICTURES = ["confusion.png", "history.png", "mistakes.png"]
RESULTS = sorted([*PICTURES, "history.csv", "model.safetensors", "report.json"])
SAMPLE = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "1")
FOREVER = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "1000000")

MODULE = (sys.executable, "-m", "cnnrs")


def script() -> tuple[str]:
    """The installed command."""
    found = shutil.which("cnnrs", path=sysconfig.get_path("scripts"))
    assert found is not None
    return (found,)


def patched(statements: str) -> tuple[str, ...]:
    """The command after some statements."""
    return (
        sys.executable,
        "-c",
        f"import sys\n{statements}\nfrom cnnrs.cli import main\nsys.exit(main())",
    )


def without(package: str) -> tuple[str, ...]:
    """The command where a package is not installed."""
    return patched(f"""
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
""")


NO_MATPLOTLIB = without("matplotlib")


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what changes the command's output, and with wide help texts."""
    changing = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "CNNRS_DATA", "TQDM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return kept | {"COLUMNS": "200"} | changes


def cnnrs_command(
    *arguments: str | Path, command: Sequence[str] = MODULE, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, env=environment(**env)
    )


def assert_refused(ran: subprocess.CompletedProcess[str], *mentions: str) -> None:
    """One line of complaint, status 1, and no epoch was begun."""
    assert re.fullmatch(r"cnnrs: .+\n", ran.stderr), ran.stderr
    for mention in mentions:
        assert mention in ran.stderr
    assert "Epoch" not in ran.stdout
    assert ran.returncode == 1


class Epoch(NamedTuple):
    """The report of one epoch: steps, loss and accuracy (as printed) of each line, and the test."""

    steps: list[tuple[int, float, str]]
    test: tuple[float, str]
    images: int


def parse(report: str) -> tuple[list[str], list[Epoch]]:
    """The lines before the first epoch, and the epochs; no other line may be there."""
    head, *parts = re.split(r"\nEpoch (\d+)/\d+\n", report)
    numbers, bodies = parts[::2], parts[1::2]
    assert numbers == [str(n + 1) for n in range(len(bodies))]
    epochs = []
    for body in bodies:
        *lines, last = body.partition("\nWrote ")[0].strip("\n").split("\n")
        columns = r"\| Average loss (\S+) \| Accuracy +(\S+%)"
        steps = []
        for line in lines:
            match = re.fullmatch(rf"Step +([\d,]+) {columns}", line)
            assert match, line
            steps.append((int(match[1].replace(",", "")), float(match[2]), match[3]))
        match = re.fullmatch(rf"Test +{columns} \| ([\d,]+) steps in \S+ s, \S+ us each", last)
        assert match, last
        images = int(match[3].replace(",", ""))
        epochs.append(Epoch(steps, (float(match[1]), match[2]), images))
    return head.strip("\n").split("\n"), epochs


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_folder(folder: Path, height: int = 4, width: int = 5, label: int = 9) -> Path:
    """Seven training and three test images of noise, one of them with that label."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (count, height, width), np.uint8)
        labels = np.full(count, label, np.uint8)
        labels[1:] = rng.integers(0, 10, count - 1)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


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
    assert sorted(contents(tmp_path)) == sorted(set(RESULTS) - {"mistakes.png"})
    assert "(no mistakes.png: the model predicts NaN)" in ran.stdout.splitlines()[-1]
    assert "nan" in (tmp_path / "history.csv").read_text()


def test_divergence_in_the_last_step_is_told_too() -> None:
    arguments = ("--limit", "1", "--epochs", "1", "--lr", "1e30")
    ran = cnnrs_command("train", "--data", "mnist-sample", *arguments)
    assert ran.returncode == 0
    warning = r"the test loss is (nan|inf) after epoch 1; a learning rate below 1e\+30 may help"
    assert re.fullmatch(f"cnnrs: warning: {warning}\n", ran.stderr)
    assert len(parse(ran.stdout)[1]) == 1


def test_a_warning_that_is_an_error_is_one_line() -> None:
    ran = cnnrs_command(*SAMPLE, "--lr", "1e30", PYTHONWARNINGS="error::RuntimeWarning")
    assert re.fullmatch(r"cnnrs: the loss is not finite at epoch 1, step 2; .*\n", ran.stderr)
    assert ran.returncode == 1


# Data


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("{}/own", "7 training and 3 test images, from {}"),
        ("fashion_mnist", "Fashion-MNIST, 7 training and 3 test images, from {}"),
        ("mnist", "MNIST, 7 training and 3 test images, from {}"),
    ],
)
def test_trains_on_idx_files(name: str, origin: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / Path(name).name)
    data = name.format(tmp_path)
    ran = cnnrs_command("train", "--data", data, "--epochs", "1", CNNRS_DATA=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    head, (epoch,) = parse(ran.stdout)
    assert head[0] == f"Data: {origin.format(folder)}"
    assert [step for step, _, _ in epoch.steps] == [7]


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (3, 3), (7, 7), (1000, 7)])
def test_limit_is_of_the_training_images(limit: int, steps: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own")
    ran = cnnrs_command("train", "--data", folder, "--limit", str(limit), "--epochs", "1")
    head, (epoch,) = parse(ran.stdout)
    assert epoch.images == epoch.steps[-1][0] == steps
    assert ("of which the first" in "\n".join(head)) == (limit < 7)


def test_without_a_network_it_trains_on_the_sample_and_says_so(tmp_path: Path) -> None:
    command = patched("""
import os, pathlib, pooch
pooch.os_cache = lambda name: pathlib.Path(os.environ["CACHE"], name)
""")
    closed = "http://127.0.0.1:9"  # The port of the discard protocol, which nobody serves.
    env = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), closed)
    env |= {"no_proxy": "", "NO_PROXY": "", "CACHE": str(tmp_path)}
    ran = cnnrs_command("train", "--limit", "500", "--epochs", "1", command=command, **env)
    assert ran.returncode == 0
    head, (epoch,) = parse(ran.stdout)
    assert head[0].startswith(
        "Data: the bundled sample of MNIST: the first 5,000 training and 1,000 test images "
        f"(no full MNIST here: {tmp_path}"
    )
    assert len(head) == 3
    assert epoch.images == 500
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["no-such-folder", "~no-such-user/mnist", "cifar10"])
def test_missing_data_is_named(name: str) -> None:
    assert_refused(cnnrs_command("train", "--data", name), name, "expected mnist, mnist-sample,")


def test_unfit_data_is_refused(tmp_path: Path) -> None:
    label = write_folder(tmp_path / "label", label=10)
    ran = cnnrs_command("train", "--data", label)
    assert_refused(ran, f"{label}", "expected labels from 0 to 9, found 10")
    small = write_folder(tmp_path / "small", 3, 3)
    ran = cnnrs_command("train", "--data", small)
    assert_refused(ran, "images of 3x3 pixels do not fit", "at least 2x2 pixels")
    (label / "train-labels-idx1-ubyte").unlink()
    assert_refused(cnnrs_command("train", "--data", label), "train-labels-idx1-ubyte")


def test_a_folder_whose_name_the_output_cannot_spell_is_trained_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "数字")
    ran = cnnrs_command(
        "train", "--data", folder, "--epochs", "1", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(parse(ran.stdout)[1]) == 1


# The folder of results


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
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "(no pictures: matplotlib is not installed)" in ran.stdout.splitlines()[-1]
    assert sorted(contents(tmp_path)) == sorted(set(RESULTS) - set(PICTURES))


@pytest.mark.parametrize(
    ("folder", "file", "out"),
    [
        ("", "taken", "taken"),
        ("", "taken", "taken/run"),
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


# Interrupts, closed pipes, terminals


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Do not hand down an ignored SIGINT, as a shell gives it to what it runs in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def start(*arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MODULE, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(),
    )


@posix_only
@pytest.mark.parametrize("before", [None, {}, dict.fromkeys(RESULTS, b"of an earlier run")])
def test_ctrl_c_ends_it_and_leaves_the_folder_as_it_was(
    before: dict[str, bytes] | None, tmp_path: Path, interruptible: None
) -> None:
    for name, content in (before or {}).items():
        (tmp_path / name).write_bytes(content)
    with start(*FOREVER, *(() if before is None else ("--out", tmp_path))) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("Step") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint == "cnnrs: interrupted\n"
    assert contents(tmp_path) == (before or {})


MANY = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "30")


@posix_only
def test_a_training_that_was_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    report = cnnrs_command(*MANY, "--out", whole, command=NO_MATPLOTLIB).stdout
    for epochs in (2, 5):
        with start(*MANY, "--out", cut, *(["--resume"] if epochs > 2 else [])) as process:
            assert process.stdout is not None
            tests = (line for line in process.stdout if line.startswith("Test"))
            for _ in range(epochs):
                next(tests)
            process.kill()
    assert sorted(file.name for file in cut.iterdir()) == ["backup"]

    refused = cnnrs_command(*MANY, "--out", cut, "--resume", "--seed", "1")
    assert_refused(refused, "--resume: expected the options of the training in", "'seed': 1")
    ran = cnnrs_command(*MANY, "--out", cut, "--resume", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert contents(cut) == contents(whole)
    assert not (cut / "backup").exists()
    last = report.partition("\nEpoch 30/30\n")[2].partition("\nTest")[0]
    assert ran.stdout.partition("\nEpoch 30/30\n")[2].partition("\nTest")[0] == last
    assert len(re.findall("^Epoch", ran.stdout, re.MULTILINE)) < 30


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
        ("slow", "recipe: expected tutorial, keras, fast or a file that ends in .py, got 'slow'"),
    ):
        assert_refused(cnnrs_command("train", "--recipe", name), complaint)
    refused = cnnrs_command("train", "--recipe", "fast", "--lr", "0.1")
    assert_refused(refused, "--lr: expected none for the recipe fast, which has its own")


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


def test_a_peer_that_is_not_installed_is_refused_before_any_training() -> None:
    arguments = ("bench", "accuracy", "--data", "mnist-sample", "--peer", "torch")
    ran = cnnrs_command(*arguments, command=without("torch"))
    assert_refused(ran, "peer: expected the package torch", 'pip install "cnnrs[bench]"')
    assert ran.stdout == ""
    ran = cnnrs_command("bench", "accuracy", "--peer", "jax")
    assert ran.returncode == 2
    assert "invalid choice: 'jax'" in ran.stderr


def test_accuracies_that_cannot_be_written_are_not_measured(tmp_path: Path) -> None:
    arguments = ("--data", "mnist-sample", "--json", tmp_path / "missing" / "runs.json")
    ran = cnnrs_command("bench", "accuracy", *arguments)
    assert_refused(ran, "runs.json: No such file or directory")
    assert ran.stdout == ""


def test_resume_without_a_backup_begins_anew_and_says_so(tmp_path: Path) -> None:
    ran = cnnrs_command(*SAMPLE, "--out", tmp_path, "--resume", command=NO_MATPLOTLIB)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"no training was cut off in {tmp_path}; this one begins anew" in ran.stdout
    assert "model.safetensors" in contents(tmp_path)


@posix_only
def test_reader_that_leaves_early_ends_it_silently() -> None:
    with start(*FOREVER) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Data: ")
            process.stdout.close()
            _, complaint = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (complaint, process.returncode) == ("", 1)


@posix_only
def test_reader_that_left_before_the_first_line_ends_it_silently() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        ran = subprocess.run(
            [*MODULE, *SAMPLE],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(),
        )
    assert (ran.stderr, ran.returncode) == ("", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full disk")
def test_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [*MODULE, *SAMPLE],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(),
        )
    assert re.fullmatch(r"cnnrs: .*No space left on device.*\n", ran.stderr)
    assert ran.returncode == 1


@posix_only
@pytest.mark.parametrize("piped", [True, False], ids=["report piped", "report shown"])
def test_terminal_shows_a_progress_bar_that_leaves_no_trace(piped: bool) -> None:
    import pty
    import termios

    terminal, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    with subprocess.Popen(
        [*MODULE, *SAMPLE],
        stdout=subprocess.PIPE if piped else ours,
        stderr=ours,
        env=environment(),
    ) as process:
        os.close(ours)
        screen = read_all(terminal)
        report = process.communicate(timeout=20)[0] if piped else b""
    assert process.returncode == 0
    assert re.search(r"%\|.*/300 .*images", screen)
    # What a terminal shows of each line is what follows its last carriage return; blanks, that it
    # was wiped with, are not seen.
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in screen.split("\n")]
    _, (epoch,) = parse(report.decode() if piped else "\n".join(shown))
    assert [step for step, _, _ in epoch.steps] == [100, 200, 300]
    if piped:
        assert not any(shown)
        assert report.isascii()
        assert b"\r" not in report


def read_all(terminal: int) -> str:
    """What was written to the terminal until its last writer closed it."""
    parts = []
    with os.fdopen(terminal, "rb", buffering=0) as file:
        try:
            while part := file.read(4096):
                parts.append(part)
        except OSError:
            pass  # Linux's way to say that nobody can write any more.
    return b"".join(parts).decode()


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
        ("train --momentum 1", "unrecognized arguments: --momentum 1"),
        ("train mnist", "unrecognized arguments: mnist"),
        ("train --resume", "--resume needs --out"),
        ("evaluate", "required: MODEL"),
        ("predict model.safetensors", "required: IMAGE"),
        ("export model.safetensors a.onnx --input-dtype int8", "invalid choice: 'int8'"),
        ("bench --repeats 0", "--repeats: expected an integer from 1, got '0'"),
        ("learn", "invalid choice: 'learn'"),
        ("", "required: COMMAND"),
    ],
)
def test_misuse_is_status_2_and_says_how(arguments: str, complaint: str) -> None:
    ran = cnnrs_command(*arguments.split())
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
