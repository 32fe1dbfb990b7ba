"""Layers: their shapes, weights, names and configs, and what they refuse."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmentation_under_test import Seen, augmented
from cnnrs import (
    Activation,
    AveragePooling2D,
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
    ReLU,
    Rescaling,
    Sequential,
)
from cnnrs.initializers import HeNormal, RandomNormal
from cnnrs.layers import ACTIVATIONS, Layer

LAYERS: dict[str, Callable[[], Layer]] = {
    "Conv2D": lambda: Conv2D(4, (3, 2), (2, 1), "same", activation="relu"),
    "MaxPooling2D": lambda: MaxPooling2D((2, 3), 1),
    "AveragePooling2D": lambda: AveragePooling2D(2, padding="same"),
    "GlobalAveragePooling2D": lambda: GlobalAveragePooling2D(keepdims=True),
    "Flatten": Flatten,
    "Dense": lambda: Dense(4, "tanh", use_bias=False),
    "Activation": lambda: Activation("softmax"),
    "ReLU": lambda: ReLU(6, negative_slope=0.1),
    "Dropout": lambda: Dropout(0.25, seed=2**64 - 1),
    "BatchNormalization": lambda: BatchNormalization(momentum=0.9, scale=False),
    "Rescaling": lambda: Rescaling(1 / 255, offset=-0.5),
    "RandomTranslation": lambda: RandomTranslation(0.1, (-0.2, 0.3), "wrap", fill_value=2),
    "RandomRotation": lambda: RandomRotation(0.1, interpolation="nearest", seed=2**64 - 1),
    "RandomZoom": lambda: RandomZoom((-0.2, 0.1), 0.3),
    "RandomAffine": lambda: RandomAffine(0.1, 0.2, (0.1, 0.3), 0.4, "constant"),
    "RandomElastic": lambda: RandomElastic(20, 3, "nearest"),
    "RandomErasing": lambda: RandomErasing(0.5, 0.2, (1, 2, 3), (0, 1), 7),
    "RandomFlip": lambda: RandomFlip("vertical", 7),
}


def alone(layer: Layer, *shape: int) -> Sequential:
    return Sequential([Input(shape), layer])


# Shapes and weights


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["valid", "same"]),
)
def test_windows_give_keras_shapes(
    size: tuple[int, int], window: tuple[int, int], strides: tuple[int, int], padding: str
) -> None:
    layers = [
        (3, Conv2D(3, window, strides, padding)),
        (2, MaxPooling2D(window, strides, padding)),
        (2, AveragePooling2D(window, strides, padding)),
    ]
    for channels, layer in layers:
        if padding == "valid" and any(k > n for k, n in zip(window, size, strict=True)):
            with pytest.raises(ValueError, match=rf"^{layer.name}: .*{size[0]}x{size[1]}"):
                alone(layer, *size, 2)
            continue
        if padding == "valid":
            sides = [(n - k) // s + 1 for n, k, s in zip(size, window, strides, strict=True)]
        else:
            sides = [-(-n // s) for n, s in zip(size, strides, strict=True)]
        assert alone(layer, *size, 2).output_shape == (None, *sides, channels)


@pytest.mark.parametrize(
    ("layer", "shape", "output", "weights"),
    [
        (Conv2D(8, 3), (28, 28, 1), (26, 26, 8), [(3, 3, 1, 8), (8,)]),
        (Conv2D(8, (2, 3), use_bias=False), (4, 4, 5), (3, 2, 8), [(2, 3, 5, 8)]),
        (Dense(10), (7,), (10,), [(7, 10), (10,)]),
        (Dense(10, use_bias=False), (7,), (10,), [(7, 10)]),
        (Flatten(), (3, 4, 5), (60,), []),
        (MaxPooling2D(), (5, 4, 3), (2, 2, 3), []),
        (GlobalAveragePooling2D(), (3, 4, 5), (5,), []),
        (GlobalAveragePooling2D(keepdims=True), (3, 4, 5), (1, 1, 5), []),
        (BatchNormalization(), (3, 4, 5), (3, 4, 5), [(5,)] * 4),
        (BatchNormalization(center=False), (5,), (5,), [(5,)] * 3),
        (BatchNormalization(center=False, scale=False), (5,), (5,), [(5,)] * 2),
        (Activation("relu"), (3, 4, 5), (3, 4, 5), []),
        (ReLU(), (3, 4, 5), (3, 4, 5), []),
        (Dropout(0.5), (3, 4, 5), (3, 4, 5), []),
        (Rescaling(2), (3, 4, 5), (3, 4, 5), []),
        (RandomTranslation(0.1, 0.1), (3, 4, 5), (3, 4, 5), []),
        (RandomRotation(0.1), (3, 4, 5), (3, 4, 5), []),
        (RandomZoom(0.1), (3, 4, 5), (3, 4, 5), []),
        (RandomAffine(0.1), (3, 4, 5), (3, 4, 5), []),
        (RandomElastic(), (3, 4, 5), (3, 4, 5), []),
        (RandomErasing(), (3, 4, 5), (3, 4, 5), []),
        (RandomFlip(), (3, 4, 5), (3, 4, 5), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Layer) else "",
)
def test_outputs_and_weights_have_keras_shapes(
    layer: Layer, shape: tuple[int, ...], output: tuple[int, ...], weights: list[tuple[int, ...]]
) -> None:
    model = Sequential([Input(shape), layer])
    assert model.output_shape == (None, *output)
    assert [array.shape for array in model.get_weights()] == weights
    assert model.count_params() == sum(int(np.prod(shape)) for shape in weights)
    layer = model.pop()
    assert model.layers == []
    with pytest.raises(ValueError, match=f"{layer.name}: .* of no model"):
        layer.get_weights()


def test_weights_begin_as_their_initializers_say() -> None:
    model = Sequential(
        [
            Input((5, 5, 2)),
            Conv2D(3, 2, kernel_initializer="ones", bias_initializer=RandomNormal(mean=9, seed=1)),
            BatchNormalization(
                gamma_initializer=lambda shape, dtype: np.full(shape, 2, dtype),
                beta_initializer="ones",
                moving_mean_initializer=lambda shape, dtype: np.arange(*shape),
                moving_variance_initializer=None,
            ),
            Flatten(),
            Dense(2, kernel_initializer=HeNormal, bias_initializer=None),
        ],
        dtype="float64",
    )
    kernel, bias, gamma, beta, mean, variance, dense, dense_bias = model.get_weights()
    np.testing.assert_array_equal(kernel, np.ones((2, 2, 2, 3)))
    np.testing.assert_array_equal(bias, RandomNormal(mean=9, seed=1)((3,), np.float64))
    np.testing.assert_array_equal(gamma, [2, 2, 2])
    np.testing.assert_array_equal(beta, [1, 1, 1])
    np.testing.assert_array_equal(mean, [0, 1, 2])
    np.testing.assert_array_equal(variance, [1, 1, 1])
    assert 0 < np.abs(dense).max() <= 2 * np.sqrt(2 / 48) / 0.87
    np.testing.assert_array_equal(dense_bias, [0, 0])
    assert {array.dtype for array in model.get_weights()} == {np.dtype(np.float64)}


def test_an_initializers_array_of_another_shape_is_refused_by_name() -> None:
    wrong = Dense(2, kernel_initializer=lambda shape, dtype: np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"dense.*kernel.*\(3, 2\).*\(2, 3\)"):
        alone(wrong, 3)


def test_a_layers_weights_can_be_read_and_replaced() -> None:
    first, second = Dense(2, use_bias=False), Dense(3)
    model = Sequential([Input((4,)), first, Flatten(), second])
    assert [array.shape for array in second.get_weights()] == [(2, 3), (3,)]
    assert model.layers[1].get_weights() == []
    before = first.get_weights()
    second.set_weights([np.ones((2, 3)), [1, 2, 3]])
    np.testing.assert_array_equal(model.get_weights()[2], [1, 2, 3])
    np.testing.assert_array_equal(first.get_weights(), before)
    with pytest.raises(ValueError, match="dense_1: expected 2 arrays, got 1"):
        second.set_weights([np.ones((2, 3))])
    with pytest.raises(TypeError, match="dense_1: expected a list of 2 arrays, got None"):
        second.set_weights(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dense_1.*\(2, 3\).*\(3, 2\)"):
        second.set_weights([np.ones((3, 2)), np.ones(3)])


# Numbers


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_kerass(name: str) -> None:
    x = np.array([[-30.0, -1.5, -1e-3, 0.0], [0.2, 1.0, 3.0, 20.0]])
    expected = {
        "linear": x,
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x < 0, 0.2 * x, x),
        "elu": np.where(x < 0, np.exp(x) - 1, x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "softplus": np.log1p(np.exp(x)),
        "exponential": np.exp(x),
        "softmax": np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    }[name]
    made = (
        Activation(name),
        Dense(4, name, kernel_initializer=lambda shape, dtype: np.eye(*shape)),
    )
    for layer in made:
        out = Sequential([Input((4,)), layer], dtype="float64").predict(x)
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-15)
    image = Sequential([Input((1, 2, 4)), Activation(name)], dtype="float64")
    out = image.predict(x[np.newaxis, np.newaxis])[0, 0]
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-15)


def test_relu_has_a_slope_and_a_limit() -> None:
    x = np.array([[-2.0, 0.5, 7.0]])
    for layer, expected in [
        (ReLU(), [0, 0.5, 7]),
        (ReLU(6), [0, 0.5, 6]),
        (ReLU(negative_slope=0.5), [-1, 0.5, 7]),
        (ReLU(max_value=1.0, negative_slope=0.25), [-0.5, 0.5, 1]),
    ]:
        np.testing.assert_array_equal(alone(layer, 3).predict(x), [expected])


def test_pooling_by_hand() -> None:
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    for layer, expected in [
        (MaxPooling2D(2), [[5, 7]]),
        (MaxPooling2D(2, padding="SAME"), [[5, 7], [9, 11]]),
        (MaxPooling2D((2, 3), strides=1), [[6, 7], [10, 11]]),
        (AveragePooling2D(2), [[2.5, 4.5]]),
        (AveragePooling2D(2, padding="Same"), [[2.5, 4.5], [8.5, 10.5]]),
    ]:
        np.testing.assert_array_equal(alone(layer, 3, 4, 1).predict(x)[0, ..., 0], expected)
    np.testing.assert_array_equal(alone(GlobalAveragePooling2D(), 3, 4, 1).predict(x), [[5.5]])
    # Padding is never the maximum.
    below = alone(MaxPooling2D(2, padding="same"), 3, 4, 1).predict(-1 - x)
    np.testing.assert_array_equal(below[0, ..., 0], [[-1, -3], [-9, -11]])


def test_convolution_pads_below_and_to_the_right_first() -> None:
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    layer = Conv2D(1, 2, padding="same", kernel_initializer="ones")
    expected = [[10, 14, 18, 10], [26, 30, 34, 18], [17, 19, 21, 11]]
    np.testing.assert_array_equal(alone(layer, 3, 4, 1).predict(x)[0, ..., 0], expected)


def test_rescaling_takes_bytes() -> None:
    model = alone(Rescaling(1 / 255, -0.5), 3)
    out = model.predict(np.array([[0, 51, 255]], np.uint8))
    np.testing.assert_allclose(out, [[-0.5, -0.3, 0.5]], rtol=1e-6)


def test_dropout_with_a_seed_drops_the_same_in_every_model() -> None:
    x = np.ones((4, 3, 5, 2))
    first, same, other = (
        Seen([Dropout(0.5, seed=seed)], x, seed=model) for seed, model in ((3, 1), (3, 2), (4, 1))
    )
    steps = [first.step() for _ in range(2)]
    for expected in steps:
        assert {*expected.ravel()} == {0, 2}
        np.testing.assert_array_equal(same.step(), expected)
        assert not np.array_equal(other.step(), expected)
    assert not np.array_equal(*steps)
    without = [Seen([Dropout(0.5)], x, seed=model).step() for model in (1, 2)]
    assert not np.array_equal(*without)
    two = augmented([Dropout(0.5, seed=3), Dropout(0.5, seed=3)], x)
    assert {*two.ravel()} == {0, 4}
    assert not np.array_equal(two / 2, steps[0])


# Names and configs


def test_names_are_kerass_within_a_model() -> None:
    def layers() -> list[Layer]:
        return [
            Conv2D(2, 1),
            Conv2D(2, 1, name="mine"),
            Conv2D(2, 1),
            MaxPooling2D(1),
            AveragePooling2D(1),
            ReLU(),
            BatchNormalization(),
            Conv2D(2, 1),
            GlobalAveragePooling2D(),
            Dense(1),
        ]

    expected = [
        "conv2d",
        "mine",
        "conv2d_1",
        "max_pooling2d",
        "average_pooling2d",
        "re_lu",
        "batch_normalization",
        "conv2d_2",
        "global_average_pooling2d",
        "dense",
    ]
    for _ in range(2):
        model = Sequential([Input((2, 2, 1)), *layers()])
        assert [layer.name for layer in model.layers] == expected


def test_a_name_taken_is_refused_and_an_automatic_one_gives_way() -> None:
    model = Sequential([Input((2,)), Dense(1, name="dense")])
    model.add(Dense(1))
    assert model.layers[-1].name == "dense_1"
    with pytest.raises(ValueError, match=r"name: .*'dense_1'"):
        model.add(Dense(1, name="dense_1"))
    assert len(model.layers) == 2
    with pytest.raises(TypeError, match="name: expected a string, got 3"):
        Dense(1, name=3)


def test_errors_of_the_network_begin_with_the_layers_name() -> None:
    with pytest.raises(ValueError, match=r"^second: .*3x3.*2x2"):
        Sequential([Input((4, 4, 1)), Conv2D(1, 3), Conv2D(1, 3, name="second")])
    with pytest.raises(ValueError, match=r"^max_pooling2d: "):
        Sequential([Input((4,)), MaxPooling2D()])
    with pytest.raises(ValueError, match=rf"^dense: a weight matrix of shape \(4, {2**62}\) "):
        Sequential([Input((4,)), Dense(2**62)])


@pytest.mark.parametrize("kind", LAYERS)
def test_config_makes_an_equal_layer(kind: str) -> None:
    layer = LAYERS[kind]()
    config = layer.get_config()
    assert config["name"] == layer.name
    assert {*config} == {*layer._settled()}
    again = type(layer).from_config(config)
    assert type(again) is type(layer)
    assert again.get_config() == config
    for same in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same.get_config() == config
    assert kind in repr(layer)
    assert layer.name in repr(layer)


def test_config_says_what_the_arguments_were() -> None:
    assert Conv2D(4, 3, padding="SAME", activation=None).get_config() == {
        "name": "conv2d",
        "filters": 4,
        "kernel_size": (3, 3),
        "strides": (1, 1),
        "padding": "same",
        "activation": "linear",
        "use_bias": True,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}},
    }
    own = Dense(1, kernel_initializer=np.zeros)
    assert Dense.from_config(own.get_config()).kernel_initializer is np.zeros


def test_a_copy_of_a_models_layer_can_go_to_another_model() -> None:
    first = Sequential([Input((3,)), Dense(2)])
    second = Sequential([Input((4,)), copy.deepcopy(first.layers[0])])
    assert second.output_shape == (None, 2)
    assert first.layers[0].get_weights()[0].shape == (3, 2)


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Conv2D(0, 3), ValueError, "filters: expected at least 1, got 0"),
        (lambda: Conv2D(2.5, 3), TypeError, "filters: expected an integer, got 2.5"),
        (lambda: Conv2D(8, 0), ValueError, "kernel_size: expected at least 1, got 0"),
        (
            lambda: Conv2D(8, (3, 3, 3)),
            ValueError,
            r"kernel_size: .* a pair of them, got \(3, 3, 3\)",
        ),
        (lambda: Conv2D(8, "3"), TypeError, "kernel_size: expected an integer, got '3'"),
        (lambda: Conv2D(8, 3, strides=(1, -1)), ValueError, "strides: .* at least 1, got -1"),
        (lambda: Conv2D(8, 3, padding="full"), ValueError, "padding: .*'same', got 'full'"),
        (lambda: Conv2D(8, 3, padding=1), ValueError, "padding: .*'same', got 1"),
        (lambda: Conv2D(8, 3, dilation_rate=2), ValueError, r"dilation_rate: .*got \(2, 2\)"),
        (lambda: Conv2D(8, 3, groups=2), ValueError, "groups: expected 1, got 2"),
        (lambda: Conv2D(8, 3, groups=np.ones(2)), ValueError, "groups: .* 1, got array"),
        (
            lambda: Conv2D(8, 3, data_format="channels_first"),
            ValueError,
            "data_format: .*'channels_last', got 'channels_first'",
        ),
        (lambda: Conv2D(8, 3, activation="gelu"), ValueError, "activation: .*'relu'.*got 'gelu'"),
        (
            lambda: Conv2D(8, 3, kernel_initializer="nought"),
            ValueError,
            "kernel_initializer: .*'glorot_uniform'.*got 'nought'",
        ),
        (lambda: Conv2D(8, 3, bias_initializer=3), TypeError, "bias_initializer: .*got 3"),
        (lambda: Conv2D(8, 3, kernel_regularizer="l2"), TypeError, "kernel_regularizer"),
        (lambda: MaxPooling2D(0), ValueError, "pool_size: expected at least 1, got 0"),
        (lambda: MaxPooling2D(2, 0), ValueError, "strides: expected at least 1, got 0"),
        (lambda: AveragePooling2D(2, padding=None), ValueError, "padding: .*got None"),
        (lambda: GlobalAveragePooling2D("channels_first"), ValueError, "data_format"),
        (lambda: Flatten("channels_first"), ValueError, "data_format"),
        (lambda: Dense(0), ValueError, "units: expected at least 1, got 0"),
        (lambda: Dense(1.0), TypeError, "units: expected an integer, got 1.0"),
        (lambda: Activation("swish"), ValueError, "activation: .*got 'swish'"),
        (lambda: ReLU(max_value=-1), ValueError, "max_value: .*at least 0, got -1"),
        (lambda: ReLU(negative_slope=-0.1), ValueError, "negative_slope: .*got -0.1"),
        (lambda: ReLU(threshold=1.0), ValueError, "threshold: expected 0, got 1.0"),
        (lambda: Dropout(1), ValueError, "rate: .*from 0 to below 1, got 1"),
        (lambda: Dropout(-0.1), ValueError, "rate: .*got -0.1"),
        (lambda: Dropout(float("nan")), ValueError, "rate: .*got nan"),
        (lambda: Dropout("0.5"), TypeError, "rate: expected a number.*got '0.5'"),
        (
            lambda: Dropout(0.5, (1, 3)),  # type: ignore[arg-type]
            ValueError,
            r"noise_shape: expected None, got \(1, 3\)",
        ),
        (lambda: Dropout(0.5, seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: Dropout(0.5, seed=2**64), ValueError, f"seed: .* at most .*got {2**64}"),
        (lambda: Dropout(0.5, seed=0.5), TypeError, "seed: expected an integer, got 0.5"),
        (lambda: BatchNormalization(1), ValueError, "axis: expected -1 or 3, got 1"),
        (lambda: BatchNormalization(momentum=2), ValueError, "momentum: .*got 2"),
        (lambda: BatchNormalization(epsilon=0), ValueError, "epsilon: .*got 0"),
        (lambda: BatchNormalization(epsilon=np.inf), ValueError, "epsilon: .*finite.*got inf"),
        (lambda: Rescaling(float("inf")), ValueError, "scale: .*finite.*got inf"),
        (lambda: Rescaling(1, [1, 2]), TypeError, r"offset: .*got \[1, 2\]"),
        (lambda: Input(()), ValueError, r"shape: .*got \(\)"),
        (lambda: Input((None, 28, 1)), ValueError, r"shape: .*known.*got \(None, 28, 1\)"),
        (lambda: Input((28, 0)), ValueError, "shape: expected at least 1, got 0"),
        (lambda: Input(784), TypeError, r"shape: expected a tuple .*got 784"),
        (lambda: Dense(1, input_shape=784), TypeError, "input_shape: expected a tuple .*got 784"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_places_in_a_pooling_window_are_numbers_of_the_dtype() -> None:
    pooling = MaxPooling2D((4097, 4096), padding="same")
    with pytest.raises(
        ValueError, match=r"at most 16777216 pixels in a window, got \(4097, 4096\)"
    ):
        Sequential([Input((4, 4, 1)), pooling])
    model = Sequential([Input((4, 4, 1)), MaxPooling2D((4096, 4096), padding="same")])
    assert model.predict(np.ones((1, 4, 4, 1))) == 1
    model = Sequential([Input((4, 4, 1)), pooling], dtype="float64")
    assert model.predict(np.ones((1, 4, 4, 1))) == 1
