"""Trainings by PyTorch, which `cnnrs bench accuracy --peer torch` sets beside cnnrs's."""

import copy
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

import torch_cases as draws  # noqa: E402 - needs no PyTorch itself
from augmentation_under_test import FILL_MODES, affine, warped  # noqa: E402
from cnnrs import (  # noqa: E402
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    RandomAffine,
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
    Sequential,
)
from cnnrs._torch_augmentation import augmentation  # noqa: E402
from cnnrs._torch_training import TorchTraining, threads  # noqa: E402
from cnnrs.bench_accuracy import busy  # noqa: E402
from cnnrs.callbacks import (  # noqa: E402
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    TerminateOnNaN,
)
from cnnrs.layers import Layer  # noqa: E402
from cnnrs.losses import CategoricalCrossentropy, MeanSquaredError  # noqa: E402
from cnnrs.losses import SparseCategoricalCrossentropy as Sparse  # noqa: E402
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer  # noqa: E402
from cnnrs.optimizers.schedules import CosineDecay  # noqa: E402
from cnnrs.utils import set_random_seed  # noqa: E402
from model_under_test import assert_same_weights  # noqa: E402
from test_against_torch import draw_images, draw_labels, draw_weights  # noqa: E402
from test_cli import assert_refused, cnnrs_command  # noqa: E402
from torch_cases import Case  # noqa: E402

Array: TypeAlias = npt.NDArray[Any]

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For PyTorch: threads do not pay for networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(got: Array, expected: Array, tolerance: float, what: str = "") -> None:
    """Equal up to a share of the largest number, or of 1."""
    assert got.shape == expected.shape, what
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * largest, err_msg=what)


def ends_in_a_vector(case: Case) -> Case:
    """The case with a layer behind it that makes a vector of an image, if it needs one."""
    model = Sequential([Input(case.shape), *copy.deepcopy(case.layers)])
    return case if len(model.output_shape) == 2 else replace(case, layers=(*case.layers, Flatten()))


def prepared(case: Case, optimizer: Optimizer) -> tuple[Sequential, Array, Array]:
    """A model, and images and labels for it."""
    rng = np.random.default_rng(case.seed)
    model = Sequential([Input(case.shape), *copy.deepcopy(case.layers)], dtype=case.dtype)
    model.set_weights(draw_weights(model, rng))
    model.compile(optimizer, case.loss)
    labels = draw_labels(case.loss, case.n, model.output_shape[1:], rng)  # type: ignore[arg-type]
    return model, draw_images(case, rng), labels


def drawn(count: int, seed: int, make: Callable[[draws.Draw], dict[str, Any]]) -> Any:
    cases = [ends_in_a_vector(case) for case in draws.cases(count, seed, make)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def check_predictions(case: Case) -> None:
    model, images, _ = prepared(case, SGD())
    expected = model.predict(images)
    training = TorchTraining(model)
    got = training.network.predict(model._inputs("x", images))
    assert got.dtype == expected.dtype
    close(got, expected, TOLERANCE[case.dtype])
    np.testing.assert_array_equal(training.predict_classes(images), got.argmax(-1))
    assert_same_weights(training.network, model)


@drawn(20, 101, draws.convolution)
def test_convolutions(case: Case) -> None:
    check_predictions(case)


@drawn(25, 102, draws.pooling)
def test_poolings(case: Case) -> None:
    check_predictions(case)


@drawn(25, 104, draws.elementwise)
def test_activations_and_rescaling(case: Case) -> None:
    check_predictions(case)


@drawn(15, 105, draws.normalisation)
def test_batch_normalisations(case: Case) -> None:
    check_predictions(case)


@drawn(25, 108, draws.network)
def test_networks(case: Case) -> None:
    check_predictions(case)


def test_what_changes_images_in_training_only_leaves_predictions_as_they_are() -> None:
    layers = [Input((9, 8, 3)), RandomAffine(1), RandomElastic(), RandomErasing((1, 1))]
    pooled = [Dropout(0.9), GlobalAveragePooling2D(keepdims=True), Flatten()]
    ones = Dense(1, kernel_initializer="ones")
    model = Sequential([*layers, *pooled, ones])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((4, 9, 8, 3), np.float32)
    close(TorchTraining(model).network.predict(x)[:, 0], x.mean((1, 2)).sum(1), 1e-6)


# Training, in float64, so that rounding does not grow


def check_training(
    model: Sequential, x: Array, y: Array, batch_size: int, epochs: int, tolerance: float = 1e-8
) -> None:
    """The weights after the same training by both."""
    training = TorchTraining(model)
    training.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False)
    model.fit(x, y, batch_size, epochs, shuffle=False, verbose=0)
    named = model._weights_by_name()
    for (name, ours), theirs in zip(named.items(), training.network.get_weights(), strict=True):
        if not name.endswith("moving_variance"):
            close(theirs, ours, tolerance, name)


OPTIMIZERS = {
    "sgd": SGD(CosineDecay(0.1, 7)),
    "momentum": SGD(0.05, momentum=0.9),
    "nesterov": SGD(0.05, momentum=0.8, nesterov=True),
    "nesterov without momentum": SGD(0.05, nesterov=True),
    "adam": Adam(CosineDecay(0.02, 7), beta_1=0.7, beta_2=0.9, epsilon=1e-2),
    "adam by default": Adam(),
    "adamw": AdamW(0.01, weight_decay=0.3),
    "averages": Adam(0.01, use_ema=True, ema_momentum=0.7),
    "averages again and again": SGD(0.1, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_over_several_steps(name: str) -> None:
    set_random_seed(1)
    model = Sequential(
        [
            Input((8, 9, 1)),
            Rescaling(1 / 255, -0.5),
            Conv2D(4, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            BatchNormalization(momentum=0.8),
            Flatten(),
            Dense(5, activation="tanh"),
            Dense(3, activation="softmax"),
        ],
        dtype="float64",
    )
    model.compile(copy.copy(OPTIMIZERS[name]), Sparse(label_smoothing=0.1))
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 256, (13, 8, 9, 1), np.uint8), rng.integers(0, 3, 13)
    check_training(model, x, y, batch_size=5, epochs=3)


@pytest.mark.filterwarnings("ignore:loss. ")
@drawn(25, 107, draws.loss)
def test_losses(case: Case) -> None:
    model, x, y = prepared(replace(case, dtype="float64"), SGD(0.1))
    check_training(model, x, y, case.n, 1)


@drawn(25, 110, draws.network)
def test_a_step_of_networks(case: Case) -> None:
    model, x, y = prepared(replace(case, dtype="float64", n=max(case.n, 2)), SGD(0.1))
    check_training(model, x, y, case.n, 1)


def test_a_step_of_float32() -> None:
    case = draws.named(0, dtype="float32", seed=3, **draws.network(draws.Draw(3, 1), tame=True))
    model, x, y = prepared(case, SGD(0.1))
    check_training(model, x, y, case.n, 1, tolerance=1e-5)


def test_the_moving_variance_takes_the_unbiased_one() -> None:
    model = Sequential([Input((2,)), BatchNormalization(momentum=0.75), Dense(1)])
    model.compile("sgd", "mse")
    training = TorchTraining(model)
    x = np.array([[0.0, 5.0], [4.0, 5.0]])
    training.fit(x, np.zeros((2, 1)), batch_size=2, epochs=1)
    _, _, mean, variance, *_ = training.network.get_weights()
    close(mean, np.array([0.5, 1.25]), 1e-6)
    close(variance, np.array([0.75 + 0.25 * 8, 0.75]), 1e-6)


def test_each_epoch_has_an_order_of_its_own_and_a_seed_gives_the_same() -> None:
    def trained(seed: int, epochs: int = 2, shuffle: bool = True) -> Array:
        set_random_seed(0)
        model = Sequential([Input((3,)), Dropout(0.5), Dense(1)])
        model.compile(SGD(0.1, momentum=0.9), "mse")
        training = TorchTraining(model)
        rng = np.random.default_rng(1)
        x, y = rng.random((12, 3)), rng.random((12, 1))
        training.fit(x, y, batch_size=5, epochs=epochs, seed=seed, shuffle=shuffle)
        return np.concatenate([array.ravel() for array in training.network.get_weights()])

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.abs(trained(1) - trained(2)).max() > 1e-4
    assert np.abs(trained(1) - trained(1, shuffle=False)).max() > 1e-4


def test_a_scheduler_is_followed_and_other_callbacks_are_named(tmp_path: Path) -> None:
    def made() -> Sequential:
        set_random_seed(0)
        model = Sequential([Input((3,)), Dense(1)], dtype="float64")
        model.compile(SGD(0.5), "mse")
        return model

    callbacks = [
        LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else 0.1),
        CSVLogger(tmp_path / "log.csv"),
        EarlyStopping("loss"),
        TerminateOnNaN(),
    ]
    rng = np.random.default_rng(1)
    x, y = rng.random((12, 3)), rng.random((12, 1))
    ours, training = made(), TorchTraining(made(), callbacks)
    ours.fit(x, y, 5, 3, shuffle=False, verbose=0, callbacks=callbacks[:1])
    training.fit(x, y, batch_size=5, epochs=3, shuffle=False)
    for mine, theirs in zip(ours.get_weights(), training.network.get_weights(), strict=True):
        close(theirs, mine, 1e-12)
    assert training.skipped == ["EarlyStopping", "TerminateOnNaN"]


def test_pytorch_computes_with_as_many_threads_for_a_while() -> None:
    before = torch.get_num_threads()
    with threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


# What is refused


class Mine(Layer):
    _kind = "flatten"


class OfMine(Optimizer):
    _kind, _settings = "sgd", ("momentum", "nesterov")
    momentum, nesterov = 0.0, False

    def __init__(self) -> None:
        super().__init__(0.1, 0.1, None, False, 0.99, None)


class LossOfMine(CategoricalCrossentropy.__base__):  # type: ignore[misc, name-defined]
    _kind = "mean_squared_error"


@pytest.mark.parametrize(
    ("layers", "optimizer", "loss", "complaint"),
    [
        ([Mine(name="mine")], "sgd", "mse", r"mine: expected a layer .* got <Mine name=mine>"),
        ([Flatten()], OfMine(), "mse", r"optimizer: expected .* got OfMine\("),
        ([Flatten()], "sgd", LossOfMine(), r"loss: expected .* got LossOfMine\("),
        ([Flatten()], "sgd", None, r"loss: expected .* got None"),
        ([Activation("relu")], "sgd", "mse", r"expected an output \(n, classes\) .* got \(None, 2"),
    ],
)
def test_what_pytorch_cannot_follow_is_named(
    layers: list[Layer], optimizer: Any, loss: Any, complaint: str
) -> None:
    model = Sequential([Input((2, 3, 1)), Conv2D(1, 1), *copy.deepcopy(layers)])
    if loss is not None:
        model.compile(optimizer, loss)
    with pytest.raises(ValueError, match=complaint):
        TorchTraining(model)


def test_a_model_without_weights_is_refused() -> None:
    model = Sequential([Input((3,)), Activation("softmax")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="sequential: expected weights to train, got none"):
        TorchTraining(model)


def test_one_image_alone_is_refused_where_it_has_no_variance() -> None:
    for shape, refused in (((3,), True), ((1, 1, 3), True), ((1, 2, 3), False)):
        model = Sequential([Input(shape), BatchNormalization(), Flatten(), Dense(1)])
        model.compile("sgd", "mse")
        training = TorchTraining(model)
        training.check(10, 5)
        for images, batch_size in ((11, 5), (10, 1)):
            if refused:
                with pytest.raises(ValueError, match="batch_size: expected no step of one image"):
                    training.check(images, batch_size)
            else:
                training.check(images, batch_size)


# Augmentation

SHAPES = [(1, 1, 1), (5, 8, 1), (9, 4, 3)]


def changed(layer: Layer, images: Array, seed: int = 0) -> Array:
    """What the function of a layer makes of images (n, h, w, c)."""
    torch.manual_seed(seed)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    out: Array = augmentation(layer)(planes).permute(0, 2, 3, 1).numpy()  # type: ignore[arg-type]
    return out


def images(shape: Sequence[int], n: int = 6) -> Array:
    return np.random.default_rng(0).random((n, *shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_changed_images_have_their_shape_and_stay_within_range(
    shape: tuple[int, ...], fill_mode: str, interpolation: str
) -> None:
    reading = {"fill_mode": fill_mode, "interpolation": interpolation, "fill_value": 0.5}
    for layer in (
        RandomTranslation(0.9, (-0.3, 0.5), **reading),
        RandomRotation(1, **reading),
        RandomZoom(0.9, **reading),
        RandomZoom((-0.4, 0.9), (0.1, 0.2), **reading),
        RandomAffine(1, 0.5, 0.5, 1, **reading),
        RandomElastic(300, 2, **reading),
        RandomErasing((1, 1), (0.1, 0.9), value_range=(0, 1)),
    ):
        x = images(shape)
        out = changed(layer, x)
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
        assert out.min() >= -1e-12
        assert out.max() <= 1 + 1e-12
        if shape != (1, 1, 1):
            assert np.abs(out - x).max() > 0.01, layer
            assert np.abs(changed(layer, x, seed=1) - out).max() > 0.01, layer


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_maps_mean_what_they_mean_to_cnnrs(fill_mode: str, interpolation: str) -> None:
    """Bounds that are the same leave nothing to draw."""
    x = images((7, 10, 2), 2)
    reading: dict[str, Any] = {
        "fill_mode": fill_mode,
        "interpolation": interpolation,
        "fill_value": 0.3,
    }
    for layer, parts in (
        (
            RandomTranslation((3 / 7, 3 / 7), (-0.4, -0.4), **reading),
            {"down": 3 / 7, "right": -0.4},
        ),
        (RandomTranslation((1, 1), (-1, -1), **reading), {"down": 1, "right": -1}),
        (RandomRotation((0.1, 0.1), **reading), {"turns": 0.1}),
        (RandomZoom((-0.3, -0.3), (0.63, 0.63), **reading), {"zoom": (-0.3, 0.63)}),
        (RandomZoom((0.7, 0.7), **reading), {"zoom": (0.7, 0.7)}),
        (
            RandomAffine((0.2, 0.2), (0.3, 0.3), (-0.2, -0.2), (0.4, 0.4), **reading),
            {"turns": 0.2, "down": 0.3, "right": 0.3, "zoom": (-0.2, -0.2), "shear": 0.4},
        ),
    ):
        matrix = affine(x.shape[1:], **parts)  # type: ignore[arg-type]
        expected = np.stack([warped(image, matrix, **reading) for image in x])
        close(changed(layer, x), expected, 1e-9, repr(parts))


def test_a_translation_by_whole_pixels_moves_down_and_right() -> None:
    x = images((5, 4, 1), 1)
    layer = RandomTranslation((0.2, 0.2), (0.5, 0.5), "constant")
    expected = np.zeros_like(x)
    expected[:, 1:, 2:] = x[:, :-1, :-2]
    close(changed(layer, x), expected, 1e-12)


def test_each_image_has_numbers_of_its_own_within_the_bounds() -> None:
    ramp = np.broadcast_to(np.arange(40.0)[:, None, None], (200, 40, 3, 1)).copy()
    out = changed(RandomTranslation((-0.1, 0.3), 0.0, "nearest"), ramp)
    down = 20 - out[:, 20, 1, 0]  # in pixels
    assert -4 <= down.min() < -3
    assert 11 < down.max() <= 12
    assert len(np.unique(down)) == len(down)


def test_elastic_displacements_are_as_strong_and_smooth_as_described() -> None:
    alpha, sigma = 20.0, 3.0
    columns = np.broadcast_to(np.arange(60.0)[:, None], (60, 60, 1))
    ramp = np.stack([columns] * 100)
    out = changed(RandomElastic(alpha, sigma, "nearest"), ramp) - ramp
    inner = out[:, 10:50, 10:50, 0]
    assert math.sqrt((inner**2).mean()) == pytest.approx(0.163 * alpha / sigma, rel=0.1)
    assert np.abs(np.diff(inner, axis=2)).max() < 0.5 * np.abs(inner).max()
    assert abs(inner.mean()) < 0.1


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_every_other_image_is_mirrored(mode: str) -> None:
    x = images((3, 4, 2), 400)
    out = changed(RandomFlip(mode), x)
    sides = [x]
    if "horizontal" in mode:
        sides += [side[:, :, ::-1] for side in sides]
    if "vertical" in mode:
        sides += [side[:, ::-1] for side in sides]
    found = np.stack([(out == side).all((1, 2, 3)) for side in sides])
    np.testing.assert_array_equal(found.sum(0), np.ones(400))
    # 5 standard deviations.
    p = 1 / len(sides)
    assert found.mean(1) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 400))


def test_erasing_paints_one_patch_of_the_size_that_is_asked_for() -> None:
    x = images((20, 30, 3), 40)
    colour = (0.1, 2.0, -1.0)
    out = changed(RandomErasing((1, 1), (0.25, 0.25), colour, value_range=(0, 1)), x)
    painted = (out != x).any(-1)
    for image, patch in zip(out, painted, strict=True):
        rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
        assert (len(rows), len(columns)) == (10, 15)
        assert patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        np.testing.assert_allclose(image[patch], [[0.1, 1, 0]] * 150)
    half = changed(RandomErasing(1.0, fill_value=-1, value_range=(-1, 1)), images((9, 9, 1), 400))
    assert 0.4 < (half == -1).any((1, 2, 3)).mean() < 0.6


def test_noise_fills_what_is_erased() -> None:
    x = np.full((30, 16, 16, 1), 9.0)
    out = changed(RandomErasing((1, 1), (1, 1), value_range=(-3, 3)), x)
    assert np.abs(out).max() <= 3
    assert len(np.unique(out)) > 1000


def test_a_seed_of_its_own_gives_the_same_whatever_the_other() -> None:
    x = images((9, 9, 1))
    layer = RandomTranslation(0.5, 0.5, seed=7)
    np.testing.assert_array_equal(changed(layer, x, seed=1), changed(layer, x, seed=2))


def test_augmented_images_are_trained_on() -> None:
    """A pixel in the corner reaches the weight of another only if it is moved."""
    model = Sequential(
        [
            Input((2, 2, 1)),
            RandomTranslation((0.5, 0.5), (0.5, 0.5), "constant"),
            Flatten(),
            Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    model.compile(SGD(0.5), MeanSquaredError())
    training = TorchTraining(model)
    x = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]]] * 2)
    training.fit(x, np.ones((2, 1)), batch_size=2, epochs=1)
    close(training.network.get_weights()[0].ravel(), np.array([0, 0, 0, 1.0]), 1e-6)


# The command

RECIPE = """
from cnnrs import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, Rescaling, Sequential
from cnnrs import RandomTranslation
from cnnrs.callbacks import EarlyStopping
from cnnrs.layers import Layer
from cnnrs.recipes import Recipe

class Mine(Layer):
    _kind = "flatten"

def recipe(shape, classes, images, epochs=1):
    first = [Input(shape), RandomTranslation(0.05, 0.05, "constant"), Rescaling(1 / 255)]
    middle = [Conv2D(4, 5, activation="relu"), MaxPooling2D(4), Dropout(0.1), Flatten()]
    model = Sequential([*first, *middle, Dense(classes, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return Recipe(model, 100, epochs, [EarlyStopping("loss", patience=9)])
"""


def bench(tmp_path: Path, *arguments: str | Path, recipe: str = RECIPE) -> Any:
    file = tmp_path / "mine.py"
    file.write_text(recipe)
    common = ("bench", "accuracy", "--data", "mnist-sample", "--recipe", file, "--peer", "torch")
    # One thread: PyTorch's wait for each other for long where other programs run, too.
    return cnnrs_command(*common, *arguments, CNNRS_NUM_THREADS="1")


def test_the_command_trains_with_both_and_says_which_is_faster(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    ran = bench(tmp_path, "--seeds", "3", "--peer-seeds", "2", "--epochs", "2", "--json", file)
    assert (ran.returncode, ran.stderr) == (0, "")
    report = json.loads(file.read_text())
    runs, peer_runs = report["runs"], report["peer_runs"]
    assert report["peer"] == f"PyTorch {torch.__version__}"
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert [run["seed"] for run in peer_runs] == [0, 1]
    assert min(run["accuracy"] for run in [*runs, *peer_runs]) > 0.6
    ours, theirs = (statistics.median(run["seconds"] for run in each) for each in (runs, peer_runs))
    assert report["times_as_fast"] == pytest.approx(theirs / ours)

    lines = ran.stdout.splitlines()
    assert lines[1].endswith(f", 1 threads; beside PyTorch {torch.__version__}")
    assert lines[2] == "PyTorch trains without the recipe's EarlyStopping"
    names = [("cnnrs", 0), ("PyTorch", 0), ("cnnrs", 1), ("PyTorch", 1), ("cnnrs", 2)]
    by_name = {("cnnrs", run["seed"]): run for run in runs}
    by_name |= {("PyTorch", run["seed"]): run for run in peer_runs}
    for line, (name, seed) in zip(lines[3:8], names, strict=True):
        run = by_name[name, seed]
        assert line.startswith(f"seed {seed}: {name} {run['accuracy']:.2%} in {run['seconds']:.2f}")
    assert lines[8].startswith("cnnrs: mean ")
    assert lines[9].startswith("PyTorch: mean ")
    assert f"median {theirs:.2f} s of training, {10000 / theirs:,.0f} images/s" in lines[9]
    assert lines[10] == f"cnnrs is {theirs / ours:.1f} times as fast as PyTorch"
    note = busy([*runs, *peer_runs])
    assert lines[11:] == ([] if note is None else [note])


def test_a_machine_that_is_not_idle_is_noted() -> None:
    alone, disturbed = {"seconds": 2.0, "cpu_seconds": 3.9}, {"seconds": 9.0, "cpu_seconds": 8.0}
    assert busy([alone] * 3) is None
    note = busy([alone, disturbed, disturbed])
    assert note is not None
    assert note.startswith("Other programs took the processor from 2 of 3 trainings")


def test_a_recipe_that_pytorch_cannot_follow_is_refused_before_any_training(
    tmp_path: Path,
) -> None:
    ran = bench(tmp_path, recipe=RECIPE.replace("0.1), Flatten()", "0.1), Mine()"))
    assert_refused(
        ran, "flatten: expected a layer that PyTorch can follow, got <Mine name=flatten>"
    )
    assert "seed" not in ran.stdout
