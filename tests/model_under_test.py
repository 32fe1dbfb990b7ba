"""What the tests of the model face share: small models, data, and a network in plain NumPy."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, Sequential
from cnnrs.utils import set_random_seed

Array: TypeAlias = npt.NDArray[Any]

SPARSE = "sparse_categorical_crossentropy"


def small_model(*, dtype: str = "float32", seed: int = 0, dropout: float = 0.0) -> Sequential:
    """A convolution, a pooling and a dense layer for images (7, 6, 2) in three classes."""
    set_random_seed(seed)
    layers = [
        Input((7, 6, 2)),
        Conv2D(4, 3, activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        *([Dropout(dropout)] if dropout else []),
        Dense(3, activation="softmax"),
    ]
    return Sequential(layers, dtype=dtype)


def compiled(loss: Any = SPARSE, optimizer: Any = "sgd", **settings: Any) -> Sequential:
    model = small_model(**settings)
    model.compile(optimizer, loss)
    return model


def data(n: int = 20, seed: int = 0) -> tuple[Array, Array]:
    """Images of noise, float32 (n, 7, 6, 2), and their class numbers."""
    rng = np.random.default_rng(seed)
    return rng.random((n, 7, 6, 2), np.float32), rng.integers(0, 3, n)


def assert_same(got: list[Array], expected: list[Array]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def assert_same_weights(got: Sequential, expected: Sequential) -> None:
    assert_same(got.get_weights(), expected.get_weights())


def description(model: Sequential) -> list[Any]:
    """All that two models must have in common but their weights."""
    compiled_with = [model.optimizer, model.loss, model._metric, model.steps_per_execution]
    return [
        model.name,
        model.dtype,
        model._shape,
        [(type(layer), layer.get_config()) for layer in model.layers],
        list(map(repr, compiled_with)),
    ]


def differ(a: Sequential, b: Sequential) -> bool:
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return any(not np.array_equal(ours, theirs) for ours, theirs in pairs)


class Spy:
    """A compiled network that notes how many steps each call of `train` takes."""

    def __init__(self, model: Sequential) -> None:
        self._network, self.calls = model._network, []
        model._network = self

    def train(self, *arguments: Any) -> Any:
        self.calls.append(len(arguments[4]))
        return self._network.train(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


class Plain:
    """`small_model` and its training by gradient descent, in float64, by way of the formulas."""

    def __init__(self, weights: list[Array]) -> None:
        self.kernel, self.bias, self.dense, self.dense_bias = (
            np.array(array, np.float64) for array in weights
        )

    @property
    def weights(self) -> list[Array]:
        return [self.kernel, self.bias, self.dense, self.dense_bias]

    def predict(self, x: Array) -> Array:
        n, h, w, _ = x.shape
        self.x = np.asarray(x, np.float64)
        self.sums = np.zeros((n, h - 2, w - 2, len(self.bias))) + self.bias
        for y, x_ in np.ndindex(3, 3):
            self.sums += self.x[:, y : y + h - 2, x_ : x_ + w - 2] @ self.kernel[y, x_]
        rows, columns = (h - 2) // 2, (w - 2) // 2
        active = np.maximum(self.sums, 0)[:, : 2 * rows, : 2 * columns]
        windows = active.reshape(n, rows, 2, columns, 2, -1).transpose(0, 1, 3, 5, 2, 4)
        self.windows = windows.reshape(*windows.shape[:4], 4)
        self.flat = self.windows.max(-1).reshape(n, -1)
        totals = self.flat @ self.dense + self.dense_bias
        powers = np.exp(totals - totals.max(-1, keepdims=True))
        self.out = powers / powers.sum(-1, keepdims=True)
        return self.out

    def judge(self, x: Array, y: Array) -> tuple[float, int]:
        """The sum of the losses, and how many predictions are right."""
        out = self.predict(x)
        return -np.log(out[np.arange(len(y)), y]).sum(), int((out.argmax(-1) == y).sum())

    def step(self, x: Array, y: Array, rate: float) -> tuple[float, int]:
        """One step of gradient descent; returns what the images came to before it."""
        score = self.judge(x, y)
        d_totals = (self.out - np.eye(3)[y]) / len(y)
        d_flat = d_totals @ self.dense.T
        d_windows = np.zeros_like(self.windows)
        first = self.windows.argmax(-1)[..., np.newaxis]
        np.put_along_axis(d_windows, first, d_flat.reshape(first.shape), -1)
        n, rows, columns, filters, _ = d_windows.shape
        spread = d_windows.reshape(n, rows, columns, filters, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        d_sums = np.zeros_like(self.sums)
        d_sums[:, : 2 * rows, : 2 * columns] = spread.reshape(n, 2 * rows, 2 * columns, filters)
        d_sums *= self.sums > 0
        self.dense -= rate * self.flat.T @ d_totals
        self.dense_bias -= rate * d_totals.sum(0)
        h, w = d_sums.shape[1:3]
        for y_, x_ in np.ndindex(3, 3):
            under = self.x[:, y_ : y_ + h, x_ : x_ + w]
            self.kernel[y_, x_] -= rate * np.einsum("nijc,nijf->cf", under, d_sums)
        self.bias -= rate * d_sums.sum((0, 1, 2))
        return score
