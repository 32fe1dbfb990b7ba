"""Layers' arguments are found by their names."""

from collections.abc import Callable
from typing import Any

import pytest

from cnnrs import BatchNormalization, Dense, Dropout, Flatten
from cnnrs.layers import Layer


class Small(Dense):
    """A user's layer, which passes on what it does not know."""

    def __init__(self, width: int, **others: Any) -> None:
        super().__init__(width, **others)


DENSE = "units, activation, use_bias, kernel_initializer, bias_initializer, name or input_shape"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Dropout(0.5, sed=1),
            "Dropout: expected the arguments rate, name or .*, got sed",
        ),
        (lambda: Dense(4, kernel_regularizer="l2"), f"Dense: .* {DENSE}, got kernel_reg.*='l2'"),
        (lambda: Dense(3, input_dim=4), rf"{DENSE}, got input_dim=4; give input_shape=\(4,\)$"),
        (lambda: Small(3, bias=False), f"Small: expected the arguments width, {DENSE}, got bias="),
        (lambda: Flatten(axis=1), "Flatten: .* data_format, name or input_shape, got axis=1"),
        (lambda: BatchNormalization(trainable=False), "axis, momentum, .*, got trainable=False"),
    ],
)
def test_unknown_arguments_are_answered_by_the_known_ones(
    make: Callable[[], Layer], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make()
