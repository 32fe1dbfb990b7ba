"""The commands of `cnnrs` that take a finished model, each in a process of its own."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnrs
from cli_under_test import assert_refused, cnnrs_command, patched, posix_only
from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling, Sequential
from cnnrs._scores import Scores
from cnnrs.datasets import load
from cnnrs.images import read
from cnnrs.losses import SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_random_seed(0)
    data = load("mnist-sample")
    model = tutorial_network(28, 28)
    model.compile(SGD(0.005), "sparse_categorical_crossentropy")
    model.fit(data.x_train, data.y_train, batch_size=1, epochs=2, verbose=0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two digits, large, dark on white, and of a file that is none."""
    data = load("mnist-sample")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, digit in (("a.png", 0), ("b.jpg", 4)):
        image = data.x_test[np.flatnonzero(data.y_test == digit)[0]]
        Image.fromarray(255 - image).resize((140, 140)).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def succeed(*arguments: str | Path) -> str:
    ran = cnnrs_command(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_evaluate_prints_each_class(model_file: Path) -> None:
    data = load("mnist-sample")
    model = cnnrs.load_model(model_file)
    predicted = model.predict_classes(data.x_test)
    head, titles, *rows, last = succeed(
        "evaluate", model_file, "--data", "mnist-sample"
    ).splitlines()
    assert head == f"Data: {data.origin}"
    assert titles.split() == ["class", "precision", "recall", "images"]
    assert len(rows) == 10
    for n, row in enumerate(rows):
        hits = int(((data.y_test == n) & (predicted == n)).sum())
        taken, shown = int((predicted == n).sum()), int((data.y_test == n).sum())
        assert row.split() == [str(n), f"{hits / taken:.2%}", f"{hits / shown:.2%}", str(shown)]
    assert last == f"accuracy {np.mean(predicted == data.y_test):.2%} of 1,000 images"


def test_evaluate_prints_json(model_file: Path) -> None:
    report = json.loads(succeed("evaluate", model_file, "--data", "mnist-sample", "--json"))
    assert report["model"] == str(model_file)
    assert report["images"] == sum(row["images"] for row in report["classes"]) == 1000
    assert 0.8 < report["accuracy"] < 1


def test_scores_of_a_class_that_nobody_takes() -> None:
    outputs = np.array([[0.5, 0.3, 0.2]] * 3)
    scores = Scores.of(np.array([0, 0, 1], np.uint8), outputs)
    assert scores.confusion.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert [row["precision"] for row in scores.report()["classes"]] == [2 / 3, None, None]
    assert [row["recall"] for row in scores.report()["classes"]] == [1, 0, None]
    assert scores.accuracy == 2 / 3


def test_what_gets_nan_is_taken_for_no_class() -> None:
    outputs = np.array([[0.9, 0.1], [np.nan, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    scores = Scores.of(np.array([0, 0, 1, 1], np.uint8), outputs)
    assert scores.confusion.tolist() == [[1, 0], [0, 1]]
    assert (scores.accuracy, scores.unpredicted) == (0.5, 2)
    assert [row["recall"] for row in scores.report()["classes"]] == [0.5, 0.5]
    assert [row["images"] for row in scores.report()["classes"]] == [2, 2]


def test_a_model_that_predicts_nan_is_right_nowhere(pictures: Path, tmp_path: Path) -> None:
    model = Sequential([Input((28, 28)), Rescaling(1), Flatten(), Dense(10, "softmax")])
    model.set_weights([np.full((784, 10), np.nan), np.zeros(10)])
    file = tmp_path / "nan.safetensors"
    model.save(file)
    last = succeed("evaluate", file, "--data", "mnist-sample").splitlines()[-1]
    assert last == "accuracy 0.00% of 1,000 images, 1,000 of which got NaN"
    printed = succeed("predict", file, pictures / "a.png", "--json")
    row = json.loads(printed, parse_constant=pytest.fail)[0]
    assert (row["class"], row["probability"], row["probabilities"]) == (None, None, [None] * 10)
    assert succeed("predict", file, pictures / "a.png").split() == [str(pictures / "a.png"), "NaN"]


@pytest.fixture(params=["float32", "float64"])
def scaled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sequential, Path]:
    """A model that was trained as the tutorial's is, on pixels from -0.5 to 0.5, and its file."""
    set_random_seed(0)
    data = load("mnist-sample")
    model = Sequential([Input((28, 28)), Flatten(), Dense(10, "softmax")], dtype=request.param)
    model.compile(SGD(0.01), "sparse_categorical_crossentropy")
    model.fit(data.x_train / 255 - 0.5, data.y_train, verbose=0)
    model.save(tmp_path / "scaled.safetensors")
    return model, tmp_path / "scaled.safetensors"


SCALING = ("--scale", "1/255", "--offset", "-0.5")


def test_pixels_are_scaled_for_a_model_that_was_trained_on_such(
    scaled: tuple[Sequential, Path], pictures: Path
) -> None:
    model, file = scaled
    data = load("mnist-sample")
    hits = model.predict_classes(data.x_test / 255 - 0.5) == data.y_test
    last = succeed("evaluate", file, "--data", "mnist-sample", *SCALING).splitlines()[-1]
    assert last == f"accuracy {np.mean(hits):.2%} of 1,000 images"
    row = json.loads(succeed("predict", file, pictures / "a.png", *SCALING, "--json"))[0]
    expected = model.predict(read([pictures / "a.png"]) / 255 - 0.5)[0]
    np.testing.assert_allclose(row["probabilities"], expected, rtol=1e-4)


def test_who_says_nothing_of_pixels_is_warned(
    scaled: tuple[Sequential, Path], pictures: Path
) -> None:
    _, file = scaled
    picture = pictures / "a.png"
    for arguments in (["evaluate", file, "--data", "mnist-sample"], ["predict", file, picture]):
        ran = cnnrs_command(*arguments)
        assert ran.returncode == 0
        (warning,) = ran.stderr.splitlines()
        assert warning.startswith(f"cnnrs: warning: {file}: there is no Rescaling layer")
        succeed(*arguments, "--scale", "1")
        succeed(*arguments, "--offset=-1/2")


@pytest.mark.parametrize("text", ["", "half", "1/0", "nan", "inf", "1e999", "1/255/2"])
@pytest.mark.parametrize("option", ["--scale", "--offset"])
def test_unfit_scaling_is_refused(option: str, text: str) -> None:
    ran = cnnrs_command("evaluate", "model.safetensors", option, text)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.endswith(
        f"argument {option}: expected a number such as 0.5 or 1/255, got {text!r}\n"
    )


def test_predict_makes_probabilities_of_logits(pictures: Path, tmp_path: Path) -> None:
    set_random_seed(0)
    model = Sequential([Input((28, 28)), Rescaling(1 / 255), Flatten(), Dense(10)])
    model.compile("sgd", SparseCategoricalCrossentropy(from_logits=True))
    file = tmp_path / "logits.safetensors"
    model.save(file)
    row = json.loads(succeed("predict", file, pictures / "a.png", "--json"))[0]
    powers = np.exp(model.predict(read([pictures / "a.png"]))[0].astype(float))
    np.testing.assert_allclose(row["probabilities"], powers / powers.sum(), rtol=1e-4)


def test_predict_refuses_what_are_no_probabilities(pictures: Path, tmp_path: Path) -> None:
    model = Sequential([Input((28, 28)), Rescaling(1), Flatten(), Dense(2)])
    model.compile("sgd", "mse")
    file = tmp_path / "other.safetensors"
    for least, most in ((-0.5, 0.5), (0.5, 1.5)):
        model.set_weights([np.zeros((784, 2)), np.array([least, most])])
        model.save(file)
        ran = cnnrs_command("predict", file, pictures / "a.png")
        complaint = f"{file}: expected a model whose outputs are probabilities"
        assert_refused(ran, complaint, f"outputs from {least} to {most}")


def test_a_model_that_is_not_built_can_be_looked_at_only(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "unbuilt.safetensors"
    Sequential([Dense(3)]).save(file)
    assert " Input: of a shape that is not known yet" in succeed("inspect", file).splitlines()[-2]
    for arguments in (["evaluate", file, "--data", "mnist-sample"], ["predict", file, pictures]):
        assert_refused(cnnrs_command(*arguments), f"{file}: expected a built model")


def test_predict_prints_the_likeliest_classes_and_names_what_is_no_picture(
    model_file: Path, pictures: Path
) -> None:
    files = [pictures / "a.png", pictures / "b.jpg"]
    probabilities = cnnrs.load_model(model_file).predict(read(files))
    ran = cnnrs_command("predict", model_file, pictures)
    assert ran.returncode == 1
    assert ran.stderr == f"cnnrs: {pictures / 'c.png'}: expected a PNG or JPEG image, found none\n"
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    for line, file, row in zip(lines, files, probabilities, strict=True):
        best = np.argsort(-row)[:2]
        assert line.split() == [str(file), *(it for n in best for it in (str(n), f"{row[n]:.2%}"))]
    assert [int(line.split()[1]) for line in lines] == [0, 4]


def test_predict_goes_on_where_files_are_missing(model_file: Path, pictures: Path) -> None:
    missing = [pictures / "none.png", pictures / "nowhere"]
    ran = cnnrs_command("predict", model_file, missing[0], pictures / "a.png", missing[1])
    assert (ran.returncode, len(ran.stdout.splitlines())) == (1, 1)
    expected = [f"cnnrs: {path}: expected a file or folder, found none" for path in missing]
    assert ran.stderr.splitlines() == expected


def test_predict_names_what_cannot_be_opened_as_other_commands_do(
    model_file: Path, pictures: Path
) -> None:
    command = patched("""
from pathlib import Path
opened = Path.open
def open(path, *mode, **settings):
    if path.name == "a.png":  # as if it belonged to somebody else
        raise PermissionError(13, "Permission denied", str(path))
    return opened(path, *mode, **settings)
Path.open = open
""")
    ran = cnnrs_command("predict", model_file, pictures / "a.png", command=command)
    assert_refused(ran, f"cnnrs: {pictures / 'a.png'}: Permission denied\n")


@posix_only
def test_names_that_are_no_line_of_text_are_shown_with_escapes(
    model_file: Path, pictures: Path
) -> None:
    name = "new\nline \x1b[31mred ok"
    (pictures / "a.png").rename(pictures / f"{name}.png")
    (pictures / "c.png").rename(pictures / f"{name}-none.png")
    shown = r"new\nline \x1b[31mred ok"
    ran = cnnrs_command("predict", model_file, pictures)
    lines = ran.stdout.splitlines()
    assert [line[: line.index(".")] for line in lines] == [
        str(pictures / "b"),
        str(pictures / shown),
    ]
    assert_refused(ran, f"{pictures / shown}-none.png: expected a PNG or JPEG image, found none")
    files = [
        row["file"]
        for row in json.loads(cnnrs_command("predict", model_file, pictures, "--json").stdout)
    ]
    assert files == [str(pictures / "b.jpg"), str(pictures / f"{name}.png")]


def test_predict_prints_json(model_file: Path, pictures: Path) -> None:
    rows = json.loads(succeed("predict", model_file, pictures / "b.jpg", "--json"))
    assert [(row["file"], row["class"]) for row in rows] == [(str(pictures / "b.jpg"), 4)]
    assert rows[0]["probability"] == max(rows[0]["probabilities"])
    assert sum(rows[0]["probabilities"]) == pytest.approx(1)


def test_predict_scales_pictures_for_other_models(tmp_path: Path) -> None:
    # It tells red from blue.
    model = Sequential([Input((2, 3, 3)), Rescaling(1 / 255), Flatten(), Dense(2, "softmax")])
    kernel = np.zeros((18, 2))
    kernel[0::3, 0] = kernel[2::3, 1] = 1
    model.set_weights([kernel, np.zeros(2)])
    model.save(tmp_path / "colours.safetensors")
    for name, colour in (("blue.png", (0, 0, 255)), ("red.png", (255, 0, 0))):
        Image.new("RGB", (31, 17), colour).save(tmp_path / name)
    lines = succeed("predict", tmp_path / "colours.safetensors", tmp_path).splitlines()
    assert [line.split()[1] for line in lines] == ["1", "0"]


def test_export_writes_onnx(model_file: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    line = succeed("export", model_file, out, "--input-dtype", "uint8")
    assert line == f"Wrote {out} ({out.stat().st_size:,} bytes)\n"
    images = load("mnist-sample").x_test[:20, :, :, np.newaxis]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": images})[0]
    np.testing.assert_allclose(got, cnnrs.load_model(model_file).predict(images), atol=1e-5)


def test_inspect_prints_the_summary(model_file: Path) -> None:
    printed = succeed("inspect", model_file)
    lines: list[str] = []
    cnnrs.load_model(model_file).summary(print_fn=lines.append)
    assert printed.startswith("\n".join(lines))
    assert "Input: (None, 28, 28, 1), computed in float32" in printed
    assert "Optimizer: SGD(learning_rate=0.005" in printed
    assert f"File: {model_file}, {model_file.stat().st_size:,} bytes" in printed


def test_info_prints_the_configuration() -> None:
    assert re.match(rf"cnnrs +{re.escape(cnnrs.__version__)} ", succeed("info"))


@pytest.fixture
def images_model(tmp_path: Path) -> Path:
    """Of images, but no classifier."""
    model = Sequential([Input((8, 8, 1)), Conv2D(2, 3), MaxPooling2D(2)])
    model.save(tmp_path / "images.safetensors")
    return tmp_path / "images.safetensors"


def test_unfit_models_are_refused(images_model: Path, model_file: Path, tmp_path: Path) -> None:
    for command in (("evaluate", images_model), ("predict", images_model, tmp_path)):
        assert_refused(cnnrs_command(*command), str(images_model), "(None, 3, 3, 2)")
    few = Sequential([Input((28, 28)), Flatten(), Dense(3, "softmax")])
    few.save(tmp_path / "few.safetensors")
    ran = cnnrs_command("evaluate", tmp_path / "few.safetensors", "--data", "mnist-sample")
    assert_refused(ran, "at least 10 classes, got one of 3")
    ran = cnnrs_command("export", model_file, tmp_path / "model.txt")
    assert_refused(ran, "model.txt: expected a name that ends in .onnx")


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_unusable_files_are_named(command: str, model_file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    assert_refused(cnnrs_command(command, missing), f"cnnrs: {missing}: No such file or directory")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model_file.read_bytes()[:-1])
    assert_refused(cnnrs_command(command, cut), f"{cut}: expected a whole safetensors file")


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    ran = cnnrs_command("inspect", "--debug", tmp_path / "missing.safetensors")
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback")
    assert "FileNotFoundError" in ran.stderr


def test_results_go_through_a_pipe(model_file: Path, pictures: Path) -> None:
    found = subprocess.run(
        ["sort", "-k2"],
        input=cnnrs_command("predict", model_file, pictures).stdout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[1] for line in found.splitlines()] == ["0", "4"]
