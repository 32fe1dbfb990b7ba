"""What the tests of random augmentation share: what layers make of images, and NumPy's word."""

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import Dense, Flatten, Input, Sequential
from cnnrs.layers import Layer
from cnnrs.optimizers import SGD
from cnnrs.utils import set_random_seed

Array: TypeAlias = npt.NDArray[Any]

FILL_MODES = ("constant", "nearest", "reflect", "wrap")


class Seen:
    """A model whose weights say, bit by bit, what its layers make of images in training."""

    def __init__(
        self, layers: Sequence[Layer], images: Array, dtype: str = "float32", seed: int = 0
    ) -> None:
        n = len(images)
        assert n & (n - 1) == 0, "products with n are exact"
        set_random_seed(seed)
        last = Dense(n, use_bias=False, kernel_initializer="zeros")
        layers = [Input(images.shape[1:]), *copy.deepcopy(layers), Flatten(), last]
        self.model = Sequential(layers, dtype=dtype)
        self.model.compile(SGD(1.0), "mean_squared_error")
        # One step takes each image from a column of its own.
        self.images, self.targets = images, -np.eye(n) * n * n / 2

    def step(self) -> Array:
        """One step of training: (n, h, w, c)."""
        self.model.set_weights([np.zeros_like(array) for array in self.model.get_weights()])
        n = len(self.images)
        self.model.fit(self.images, self.targets, batch_size=n, shuffle=False, verbose=0)
        return -self.model.get_weights()[-1].T.reshape(self.images.shape)


def augmented(
    layers: Layer | Sequence[Layer], images: Array, dtype: str = "float32", seed: int = 0
) -> Array:
    """What the layers make of images in the first step of training."""
    return Seen([layers] if isinstance(layers, Layer) else layers, images, dtype, seed).step()


def affine(
    shape: tuple[int, ...],
    *,
    turns: float = 0.0,
    down: float = 0.0,
    right: float = 0.0,
    zoom: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
) -> Array:
    """From (row, column, 1) of the result to that of the image, (3, 3)."""

    def moved(down: float, right: float) -> Array:
        return np.array([[1, 0, down], [0, 1, right], [0, 0, 1]])

    h, w = shape[:2]
    cos, sin = math.cos(math.tau * turns), math.sin(math.tau * turns)
    centre = moved((h - 1) / 2, (w - 1) / 2)
    zoomed = np.diag([1 + zoom[0], 1 + zoom[1], 1])
    sheared = np.array([[1, 0, 0], [shear, 1, 0], [0, 0, 1]])
    rotated = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    back = np.linalg.inv(centre) @ moved(-down * h, -right * w)
    result: Array = centre @ zoomed @ sheared @ rotated @ back
    return result


def read(
    image: Array,
    rows: Array,
    columns: Array,
    fill_mode: str,
    interpolation: str = "bilinear",
    fill_value: float = 0.0,
) -> Array:
    """The image (h, w, c) at rows and columns of any shape, float64 (*shape, c)."""

    def pixels(rows: Array, columns: Array) -> Array:
        inside = np.ones(rows.shape, bool)
        places = []
        for at, size in ((rows, image.shape[0]), (columns, image.shape[1])):
            if fill_mode == "constant":
                inside &= (at >= 0) & (at < size)
            if fill_mode == "wrap":
                at = at % size
            if fill_mode == "reflect":
                at = at % (2 * size)
                at = np.where(at < size, at, 2 * size - 1 - at)
            places.append(np.clip(at, 0, size - 1))
        found = image[places[0], places[1]].astype(np.float64)
        return np.where(inside[..., np.newaxis], found, fill_value)

    if interpolation == "nearest":
        return pixels(np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    below, beside = (rows - top)[..., np.newaxis], (columns - left)[..., np.newaxis]
    return (
        (1 - below) * (1 - beside) * pixels(top, left)
        + (1 - below) * beside * pixels(top, left + 1)
        + below * (1 - beside) * pixels(top + 1, left)
        + below * beside * pixels(top + 1, left + 1)
    )


def warped(image: Array, matrix: Array, **reading: Any) -> Array:
    """The image (h, w, c) through a map of its coordinates."""
    h, w = image.shape[:2]
    places = np.stack([*np.mgrid[:h, :w].reshape(2, -1), np.ones(h * w)])
    rows, columns = (matrix @ places)[:2].reshape(2, h, w)
    return read(image, rows, columns, **reading)


def ramps(n: int, h: int, w: int) -> Array:
    """Images whose two channels are their rows' numbers and their columns', (n, h, w, 2)."""
    return np.broadcast_to(np.stack(np.mgrid[:h, :w], -1), (n, h, w, 2)).astype(np.float64)
