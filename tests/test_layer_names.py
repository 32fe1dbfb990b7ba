"""Layers are found by their names, and their arguments are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnrs import (
    AveragePooling2D,
    BatchNormalization,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    Sequential,
    layers,
)
from cnnrs.layers import Layer


@pytest.mark.parametrize("index", [2, -1, np.int64(2)])
def test_layers_are_found_by_name_and_by_place(index: Any) -> None:
    model = Sequential([Dense(3), Dense(3, name="hidden"), Flatten()])
    assert model.get_layer("hidden") is model.get_layer(name="hidden") is model.layers[1]
    assert model.get_layer(index=index) is model.layers[2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "conv"},
            ValueError,
            "name: expected 'dense', 'dense_1' or 'flatten', got",
        ),
        ({"name": 1}, ValueError, "name: .*, got 1"),
        ({"index": 3}, ValueError, "index: expected less than 3, got 3"),
        ({"index": -4}, ValueError, "index: expected at least -3, got -4"),
        ({"index": "dense"}, TypeError, "index: expected an integer, got 'dense'"),
        ({}, ValueError, "get_layer: expected a name or an index, got name=None, index=None"),
        ({"name": "dense", "index": 0}, ValueError, "an index, got name='dense', index=0"),
    ],
)
def test_layers_that_are_not_there_are_not_found(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Sequential([Dense(3), Dense(3), Flatten()]).get_layer(**arguments)
    with pytest.raises(ValueError, match="name: expected none, without layers, got 'dense'"):
        Sequential().get_layer("dense")


class Small(Dense):
    """A user's layer, which passes on what it does not know."""

    def __init__(self, width: int, **others: Any) -> None:
        super().__init__(width, **others)


@pytest.mark.parametrize(
    ("short", "kind"),
    [
        ("MaxPool2D", MaxPooling2D),
        ("AvgPool2D", AveragePooling2D),
        ("GlobalAvgPool2D", GlobalAveragePooling2D),
    ],
)
def test_layers_have_kerass_shorter_names(short: str, kind: type[Layer]) -> None:
    assert getattr(layers, short) is kind


def test_the_channels_of_images_are_their_third_axis() -> None:
    model = Sequential([Input((4, 5, 6)), BatchNormalization(axis=3)])
    assert [array.shape for array in model.get_weights()] == [(6,)] * 4


DENSE = "units, activation, use_bias, kernel_initializer, bias_initializer, name or input_shape"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Dropout(0.5, sed=1),
            "Dropout: expected the arguments rate, noise_shape, seed, name or .*, got sed",
        ),
        (lambda: Dense(4, kernel_regularizer="l2"), f"Dense: .* {DENSE}, got kernel_reg.*='l2'"),
        (lambda: Dense(3, input_dim=4), rf"{DENSE}, got input_dim=4; give input_shape=\(4,\)$"),
        (lambda: Small(3, bias=False), f"Small: expected the arguments width, {DENSE}, got bias="),
        (
            lambda: MaxPooling2D(3, stride=1),
            "MaxPooling2D: .*, strides, .*, got stride=1",
        ),
        (lambda: Flatten(axis=1), "Flatten: .* data_format, name or input_shape, got axis=1"),
        (lambda: BatchNormalization(trainable=False), "axis, momentum, .*, got trainable=False"),
    ],
)
def test_unknown_arguments_are_answered_by_the_known_ones(
    make: Callable[[], Layer], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make()
