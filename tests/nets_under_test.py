"""Digits, and whole networks for them, of any library that has Keras's names, such as
`tutorial(cnnrs.layers)`."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs.datasets import mnist

Array: TypeAlias = npt.NDArray[Any]

IMAGE = (28, 28, 1)


def digits(n: int) -> tuple[Array, Array]:
    """Images, float32 (n, 28, 28, 1) from 0 to 1, and their class numbers."""
    images, labels = mnist.load_data("sample")[0]
    return (images[:n, ..., np.newaxis] / 255).astype(np.float32), labels[:n].astype(np.int64)


def tutorial(of: Any) -> list[Any]:
    """The network of the tutorial."""
    return [
        of.Input(IMAGE),
        of.Conv2D(8, 3, use_bias=False),
        of.MaxPooling2D(2),
        of.Flatten(),
        of.Dense(10, activation="softmax"),
    ]


def convnet(of: Any, dropout: float = 0.5) -> list[Any]:
    """Keras's example for MNIST."""
    return [
        of.Input(IMAGE),
        of.Conv2D(32, kernel_size=(3, 3), activation="relu"),
        of.MaxPooling2D(pool_size=(2, 2)),
        of.Conv2D(64, kernel_size=(3, 3), activation="relu"),
        of.MaxPooling2D(pool_size=(2, 2)),
        of.Flatten(),
        of.Dropout(dropout),
        of.Dense(10, activation="softmax"),
    ]


def lenet(of: Any) -> list[Any]:
    """LeNet-5 with fully connected layers behind the second pooling."""
    return [
        of.Input(IMAGE),
        of.Conv2D(6, 5, padding="same", activation="tanh"),
        of.AveragePooling2D(2),
        of.Conv2D(16, 5, activation="tanh"),
        of.AveragePooling2D(2),
        of.Flatten(),
        of.Dense(120, activation="tanh"),
        of.Dense(84, activation="tanh"),
        of.Dense(10, activation="softmax"),
    ]


def normed(of: Any, dropout: float = 0.25) -> list[Any]:
    """With batch normalisation before and behind a pooling, and dropout."""
    return [
        of.Input(IMAGE),
        of.Rescaling(2.0, offset=-1.0),
        of.Conv2D(8, 3, strides=2, use_bias=False),
        of.BatchNormalization(),
        of.ReLU(),
        of.Dropout(dropout),
        of.Conv2D(17, (3, 2), padding="same"),
        of.MaxPooling2D(2),
        of.BatchNormalization(momentum=0.9),
        of.Activation("relu"),
        of.GlobalAveragePooling2D(),
        of.Dense(10, activation="softmax"),
    ]


NETS: dict[str, Callable[..., list[Any]]] = {
    "tutorial": tutorial,
    "convnet": convnet,
    "lenet": lenet,
    "normed": normed,
}
