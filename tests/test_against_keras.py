"""The model face against Keras 3 on TensorFlow: weights, predictions, trainings, what is said."""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from augmentation_under_test import FILL_MODES, augmented
from cnnrs import Activation, Input, Sequential, layers, losses, optimizers, utils
from model_under_test import assert_same
from nets_under_test import NETS, convnet, digits, lenet, normed, tutorial

Array: TypeAlias = npt.NDArray[Any]

# Of what Keras and TensorFlow warn about in their own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def keras(keras: Any) -> Iterator[Any]:
    """Keras as all tests have it, left as it was."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip(f"Keras runs on {keras.backend.backend()} here")
    floatx = keras.config.floatx()
    yield keras
    keras.backend.clear_session()
    keras.config.set_floatx(floatx)


def pair(
    keras: Any, make: Callable[..., list[Any]], dtype: str = "float32", **settings: Any
) -> tuple[Sequential, Any]:
    """The same model in both, with the same random weights."""
    keras.backend.clear_session()
    keras.config.set_floatx(dtype)
    theirs = keras.Sequential(make(keras.layers, **settings))
    ours = Sequential(make(layers, **settings), dtype=dtype)
    rng = np.random.default_rng(0)
    weights = [draw(variable, rng) for variable in theirs.weights]
    theirs.set_weights(weights)
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def draw(variable: Any, rng: np.random.Generator) -> Array:
    shape = tuple(variable.shape)
    if variable.name in ("moving_variance", "gamma"):
        return rng.uniform(0.5, 1.5, shape)
    size = np.prod(shape[:-1]) if len(shape) > 1 else 4
    return rng.standard_normal(shape) / np.sqrt(size)


# Weights and predictions

IMAGE, ROW = (9, 8, 3), (7,)

ONE_LAYER: dict[str, tuple[tuple[int, ...], Callable[[Any], list[Any]]]] = {
    "Conv2D": (IMAGE, lambda of: [of.Conv2D(4, (3, 2), (2, 1), "same", activation="relu")]),
    "Conv2D valid": (IMAGE, lambda of: [of.Conv2D(17, 3, use_bias=False)]),
    "Conv2D strides": (IMAGE, lambda of: [of.Conv2D(5, 4, 3, padding="same")]),
    "MaxPooling2D": (IMAGE, lambda of: [of.MaxPooling2D((2, 3), 1)]),
    "MaxPooling2D same": (IMAGE, lambda of: [of.MaxPooling2D(2, padding="same")]),
    "MaxPooling2D strides": (IMAGE, lambda of: [of.MaxPooling2D((3, 5), (2, 3), "same")]),
    "AveragePooling2D": (IMAGE, lambda of: [of.AveragePooling2D(2)]),
    "AveragePooling2D same": (IMAGE, lambda of: [of.AveragePooling2D((3, 5), (2, 3), "same")]),
    "GlobalAveragePooling2D": (IMAGE, lambda of: [of.GlobalAveragePooling2D()]),
    "keepdims": (IMAGE, lambda of: [of.GlobalAveragePooling2D(keepdims=True)]),
    "Flatten": (IMAGE, lambda of: [of.Flatten()]),
    "Flatten a row": (ROW, lambda of: [of.Flatten(), of.Flatten()]),
    "Dense": (ROW, lambda of: [of.Dense(33, "tanh")]),
    "Dense without bias": (ROW, lambda of: [of.Dense(3, use_bias=False)]),
    "ReLU": (IMAGE, lambda of: [of.ReLU()]),
    "ReLU with a limit": (IMAGE, lambda of: [of.ReLU(max_value=0.75, negative_slope=0.1)]),
    "ReLU with a slope": (ROW, lambda of: [of.ReLU(negative_slope=0.5)]),
    "Dropout": (ROW, lambda of: [of.Dropout(0.5)]),
    "BatchNormalization": (IMAGE, lambda of: [of.BatchNormalization()]),
    "BatchNormalization of rows": (ROW, lambda of: [of.BatchNormalization(scale=False)]),
    "no center": (ROW, lambda of: [of.BatchNormalization(center=False, epsilon=0.1)]),
    "folded": (IMAGE, lambda of: [of.Conv2D(4, 3), of.BatchNormalization(), of.ReLU()]),
    "folded rows": (ROW, lambda of: [of.Dense(40), of.BatchNormalization()]),
    "Rescaling": (IMAGE, lambda of: [of.Rescaling(1 / 255, -0.5)]),
    **{
        f"Activation {name}": (shape, lambda of, name=name: [of.Activation(name)])
        for name, shape in zip(layers.ACTIVATIONS, itertools.cycle((IMAGE, ROW)), strict=False)
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ONE_LAYER)
def test_layers_take_kerass_weights_and_predict_the_same(keras: Any, kind: str, dtype: str) -> None:
    shape, make = ONE_LAYER[kind]
    ours, theirs = pair(keras, lambda of: [of.Input(shape), *make(of)], dtype)
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype(dtype)
    expected = np.asarray(theirs(x, training=False))
    got = ours.predict(x)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    # TensorFlow has the slope of leaky_relu in float32 only.
    tolerance = 1e-5 if dtype == "float32" else 1e-7 if "leaky" in kind else 1e-9
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("net", NETS)
def test_networks_take_kerass_weights_and_predict_the_same(keras: Any, net: str) -> None:
    ours, theirs = pair(keras, NETS[net])
    x, _ = digits(40)
    expected = np.asarray(theirs(x, training=False))
    np.testing.assert_allclose(ours.predict(x), expected, rtol=0, atol=1e-5)
    assert ours.predict_classes(x).tolist() == expected.argmax(1).tolist()
    assert ours.output_shape == theirs.output_shape
    assert ours.input_shape == theirs.input_shape


@pytest.mark.parametrize("net", NETS)
def test_weights_have_kerass_order_shapes_and_names(keras: Any, net: str) -> None:
    ours, theirs = pair(keras, NETS[net])
    pairs = zip(ours.get_weights(), theirs.get_weights(), strict=True)
    for got, expected in pairs:
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        assert layer.name == other.name
        assert_same(layer.get_weights(), other.get_weights())
    fresh = Sequential(NETS[net](layers))
    theirs.set_weights(fresh.get_weights())
    assert_same(fresh.get_weights(), theirs.get_weights())


@pytest.mark.parametrize("net", NETS)
def test_weights_begin_as_kerass_do(keras: Any, net: str) -> None:
    """Zeros and ones where Keras has them, and in kernels numbers of the same range."""
    keras.config.set_floatx("float32")
    utils.set_random_seed(0)
    keras.utils.set_random_seed(0)
    theirs = keras.Sequential(NETS[net](keras.layers))
    for got, expected in zip(
        Sequential(NETS[net](layers)).get_weights(), theirs.get_weights(), strict=True
    ):
        if np.ptp(expected) == 0:
            np.testing.assert_array_equal(got, expected)
        else:
            limit = np.sqrt(6 / (np.prod(got.shape[:-1]) + np.prod(got.shape[:-2]) * got.shape[-1]))
            assert np.abs([got.max(), expected.max()]).max() <= limit
            assert got.std() == pytest.approx(limit / np.sqrt(3), rel=0.25)


# Training


def course(
    keras: Any,
    make: Callable[..., list[Any]],
    rule: str,
    *,
    loss: str = "sparse_categorical_crossentropy",
    **settings: Any,
) -> None:
    """Twenty steps of one call of `fit` each, from the same weights and in the same order."""
    ours, theirs = pair(keras, make, **({"dropout": 0.0} if make in (convnet, normed) else {}))
    x, y = digits(20 * 16)
    labels = y if loss.startswith("sparse") else utils.to_categorical(y, 10)
    ours.compile(getattr(optimizers, rule)(**settings), loss)
    theirs.compile(getattr(keras.optimizers, rule)(**settings), loss, jit_compile=False)
    got, expected = (
        model.fit(x, labels, batch_size=16, shuffle=False, verbose=0).history["loss"]
        for model in (ours, theirs)
    )
    assert got == pytest.approx(expected, rel=1e-4)
    for n, (ours_, theirs_) in enumerate(
        zip(ours.get_weights(), theirs.get_weights(), strict=True)
    ):
        largest = np.abs(theirs_).max()
        np.testing.assert_allclose(ours_, theirs_, rtol=0, atol=1e-4 * largest, err_msg=str(n))


@pytest.mark.parametrize(
    ("net", "settings"),
    [
        (tutorial, {}),
        (tutorial, {"momentum": 0.9}),
        (convnet, {"momentum": 0.9}),
        (lenet, {"momentum": 0.9, "nesterov": True}),
        (normed, {"momentum": 0.9}),
    ],
    ids=["tutorial", "tutorial momentum", "convnet momentum", "lenet nesterov", "normed momentum"],
)
def test_twenty_steps_of_sgd(keras: Any, net: Any, settings: dict[str, Any]) -> None:
    course(keras, net, "SGD", learning_rate=0.02, **settings)


@pytest.mark.parametrize(
    ("net", "rule", "settings"),
    [
        (tutorial, "Adam", {}),
        (lenet, "Adam", {}),
        (lenet, "Adam", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
        (lenet, "AdamW", {"weight_decay": 0.5}),
    ],
    ids=["tutorial adam", "lenet adam", "lenet settings", "lenet adamw"],
)
def test_twenty_steps_of_adam(keras: Any, net: Any, rule: str, settings: dict[str, Any]) -> None:
    course(keras, net, rule, learning_rate=0.001, **settings)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "mean_squared_error"])
def test_twenty_steps_of_other_losses(keras: Any, loss: str) -> None:
    course(keras, lenet, "SGD", loss=loss, learning_rate=0.1)


# Augmentation


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("RandomTranslation", (0.15, -0.23)),
        ("RandomTranslation", (-1.0, 0.9)),
        ("RandomRotation", (0.07,)),
        ("RandomRotation", (-0.4,)),
        ("RandomZoom", (0.3,)),
        ("RandomZoom", (-0.3, 0.4)),
    ],
)
def test_images_are_moved_rotated_and_zoomed_alike(
    keras: Any, kind: str, factors: tuple[float, ...], fill_mode: str, interpolation: str
) -> None:
    """With factors of which nothing is left to be drawn."""
    settings = {"fill_mode": fill_mode, "interpolation": interpolation, "fill_value": 0.4}
    bounds = [(factor, factor) for factor in factors]
    x = np.random.default_rng(0).random((4, 9, 7, 3), np.float32)
    theirs = getattr(keras.layers, kind)(*bounds, **settings)
    expected = np.asarray(theirs(x, training=True))
    got = augmented(getattr(layers, kind)(*bounds, **settings), x)
    same: Any = slice(None)
    if fill_mode == "wrap":
        # Between the last pixel and the first TensorFlow does not interpolate, and farther out it
        # goes wrong: only what is read inside of the image is the same.
        reading = settings | {"fill_mode": "constant", "interpolation": "bilinear"}
        fills = [
            augmented(getattr(layers, kind)(*bounds, **reading | {"fill_value": value}), x)
            for value in (0.0, 1.0)
        ]
        same = fills[0] == fills[1]
    np.testing.assert_allclose(got[same], expected[same], rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, (0.2, 0.8), (1.0, 1.0)])
def test_as_many_images_have_a_patch(keras: Any, factor: Any) -> None:
    x = np.full((1024, 16, 16, 1), 9, np.float32)
    settings = {"factor": factor, "scale": (0.1, 0.5), "fill_value": 0}
    sizes = []
    for painted in (
        augmented(layers.RandomErasing(**settings), x),
        np.asarray(keras.layers.RandomErasing(**settings)(x, training=True)),
    ):
        size = (painted == 0).sum((1, 2, 3))
        sizes.append(((size > 0).mean(), size.mean() / 256))
    assert sizes[0][0] == pytest.approx(sizes[1][0], abs=0.08)
    assert sizes[0][1] == pytest.approx(sizes[1][1], abs=0.03)


# Losses

LOSSES = [
    ("SparseCategoricalCrossentropy", {}),
    ("SparseCategoricalCrossentropy", {"from_logits": True}),
    ("CategoricalCrossentropy", {}),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}),
    ("CategoricalCrossentropy", {"from_logits": True}),
    ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.25}),
    ("MeanSquaredError", {}),
]


@pytest.mark.parametrize(
    ("kind", "settings", "outputs"),
    [
        (kind, settings, outputs)
        for kind, settings in LOSSES
        for outputs in (
            ["logits"]
            if "from_logits" in settings or kind == "MeanSquaredError"
            else ["probabilities", "any sum", "zeros and ones"]
        )
    ],
)
def test_losses_of_outputs(keras: Any, kind: str, settings: dict[str, Any], outputs: str) -> None:
    """Of each of some images: probabilities are divided by their sum and then clipped.

    Keras does the same, but for the sparse loss on TensorFlow alone, which clips first.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 20)
    out = 3 * rng.standard_normal((20, 5))
    if outputs != "logits":
        out = np.exp(out)
    if outputs == "probabilities":
        out /= out.sum(1, keepdims=True)
    if outputs == "zeros and ones":
        out = np.eye(5)[labels]
        out[::2] = np.eye(5)[(labels[::2] + 1) % 5]
    sparse = kind.startswith("Sparse")
    y = labels if sparse else np.eye(5)[labels]
    keras.config.set_floatx("float64")
    theirs = getattr(keras.losses, kind)(**settings, reduction=None, dtype="float64")
    if sparse and outputs in ("any sum", "zeros and ones"):
        theirs = keras.losses.CategoricalCrossentropy(reduction=None, dtype="float64")
        expected = np.asarray(theirs(np.eye(5)[labels], out))
    else:
        expected = np.asarray(theirs(y, out))
    model = Sequential([Input((5,)), Activation("linear")], dtype="float64")
    model.compile("sgd", getattr(losses, kind)(**settings))
    got = [
        model.evaluate(out[n : n + 1], y[n : n + 1], verbose=0, return_dict=True)["loss"]
        for n in range(20)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


# What is said


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("sparse_categorical_crossentropy", {"validation_split": 0.2}),
        ("sparse_categorical_crossentropy", {"initial_epoch": 1}),
        ("mean_squared_error", {"validation_data": 9}),
    ],
    ids=["split", "initial epoch", "validation data"],
)
def test_histories_have_kerass_keys(keras: Any, loss: str, settings: dict[str, Any]) -> None:
    x, y = digits(50)
    classifies = loss.startswith("sparse")
    labels = y if classifies else np.eye(10)[y]
    metrics = ["accuracy"] if classifies else None
    if "validation_data" in settings:
        settings = {"validation_data": (x[:9], labels[:9])}
    said, scores, named = [], [], []
    for model in pair(keras, tutorial):
        model.compile("sgd", loss, metrics=metrics)
        history = model.fit(x, labels, epochs=2, verbose=0, shuffle=False, **settings)
        assert model.history is history
        said.append(history)
        scores.append(model.evaluate(x, labels, verbose=0))
        named.append(model.evaluate(x, labels, verbose=0, return_dict=True))
    ours, theirs = said
    assert set(ours.history) == set(theirs.history)
    assert ours.epoch == theirs.epoch
    for key, values in theirs.history.items():
        assert ours.history[key] == pytest.approx(values, rel=1e-4), key
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    assert set(named[0]) == set(named[1])


COUNTS = re.compile(r"(Total|Trainable|Non-trainable) params: ([\d,]+) \((.*?)\)")


@pytest.mark.parametrize("net", NETS)
def test_summaries_count_as_kerass_do(keras: Any, net: str) -> None:
    ours, theirs = pair(keras, NETS[net])
    said: list[list[tuple[str, ...]]] = []
    for model in (ours, theirs):
        lines: list[str] = []

        def take(line: str, line_break: bool = False, lines: list[str] = lines) -> None:
            lines.append(line)

        model.summary(print_fn=take)
        said.append(COUNTS.findall("\n".join(lines)))
    assert len(said[0]) == 3
    assert said[0] == said[1]
    assert ours.count_params() == theirs.count_params()


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 2, 1], None),
        ([0, 2, 1], 5),
        ([[0], [2]], None),
        ([[0, 1], [2, 0]], None),
        (3, 4),
        (np.array([1, 0], np.uint8), 2),
        (np.array([1.0, 0.0]), None),
        ([], 3),
    ],
)
def test_to_categorical(keras: Any, y: Any, classes: int | None) -> None:
    expected = keras.utils.to_categorical(y, classes)
    got = utils.to_categorical(y, classes)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


# Arguments

NOT_KERASS = ("Input", "Layer", "RandomAffine", "RandomElastic")

SAME_ARGUMENTS = [
    *(("layers", kind) for kind in layers.__all__ if kind not in NOT_KERASS),
    *(("optimizers", kind) for kind in ("SGD", "Adam", "AdamW")),
    *(("losses", kind) for kind in ("CategoricalCrossentropy", "SparseCategoricalCrossentropy")),
    ("utils", "to_categorical"),
    ("utils", "set_random_seed"),
]

ON_PURPOSE = {
    "AveragePooling2D": {"pool_size"},
    "AvgPool2D": {"pool_size"},
    "to_categorical": {"y"},
}
"""Arguments of another default or name: Keras has no default, and says `x` for `y`."""


@pytest.mark.parametrize(("module", "name"), SAME_ARGUMENTS)
def test_arguments_have_kerass_order_and_defaults(keras: Any, module: str, name: str) -> None:
    ours = inspect.signature(getattr(getattr(cnnrs, module), name)).parameters.values()
    theirs = list(inspect.signature(getattr(getattr(keras, module), name)).parameters.values())
    positional = [it for it in ours if it.kind is it.POSITIONAL_OR_KEYWORD]
    for got, expected in zip(positional, theirs, strict=False):
        if got.name not in ON_PURPOSE.get(name, set()):
            assert (got.name, got.default) == (expected.name, expected.default)
