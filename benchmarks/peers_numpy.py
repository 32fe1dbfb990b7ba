"""Vectorised NumPy in the peer benchmark: windows of the images times the kernels (BLAS), float32.

Array names: `d_x` is the gradient of the loss with respect to `x`; images are (n, h, w, c).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from networks import Array, Conv, Dense, Flatten
from peers_rows import BatchWork, Row, Work

VERSIONS = {"numpy": np.__version__}


def prepare(
    key: str, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], threads: int
) -> Work:
    """Get ready for a row; how many threads BLAS has is in the environment."""
    return NumpyWork(row, images, labels)


class NumpyLayer:
    """A layer with its parameters, which a step backward also updates."""

    parameters: list[Array]

    def __init__(self) -> None:
        self.parameters = []

    def forward(self, x: Array) -> Array:
        raise NotImplementedError

    def backward(self, d_out: Array, rate: float, wants_input: bool) -> Array | None:
        raise NotImplementedError


class Affine(NumpyLayer):
    """`out = relu(x @ kernel + bias)`, with or without bias and ReLU; x (n, inputs)."""

    def __init__(self, bias: bool, relu: bool) -> None:
        super().__init__()
        self.bias, self.relu = bias, relu

    def forward(self, x: Array) -> Array:
        kernel = self.parameters[0]
        self.x = x
        out = x @ kernel.reshape(-1, kernel.shape[-1])
        if self.bias:
            out += self.parameters[1]
        self.out = np.maximum(out, 0, out=out) if self.relu else out
        return self.out

    def backward(self, d_out: Array, rate: float, wants_input: bool) -> Array | None:
        kernel = self.parameters[0]
        if self.relu:
            d_out = d_out * (self.out > 0)
        d_x = d_out @ kernel.reshape(-1, kernel.shape[-1]).T if wants_input else None
        kernel -= rate * (self.x.T @ d_out).reshape(kernel.shape)
        if self.bias:
            self.parameters[1] -= rate * d_out.sum(axis=0)
        return d_x


class Convolution(Affine):
    """The same for every window of the images."""

    def __init__(self, size: int, pad: int, bias: bool, relu: bool) -> None:
        super().__init__(bias, relu)
        self.size, self.pad = size, pad

    def forward(self, x: Array) -> Array:
        if self.pad:
            sides = (self.pad, self.pad)
            x = np.pad(x, ((0, 0), sides, sides, (0, 0)))
        self.shape = x.shape
        windows = sliding_window_view(x, (self.size, self.size), axis=(1, 2))
        n, h, w = windows.shape[:3]
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1)
        return super().forward(rows).reshape(n, h, w, -1)

    def backward(self, d_out: Array, rate: float, wants_input: bool) -> Array | None:
        n, h, w, channels = d_out.shape
        d_rows = super().backward(d_out.reshape(-1, channels), rate, wants_input)
        if d_rows is None:
            return None
        d_windows = d_rows.reshape(n, h, w, self.size, self.size, -1)
        d_x = np.zeros(self.shape, np.float32)
        for i in range(self.size):
            for j in range(self.size):
                d_x[:, i : i + h, j : j + w] += d_windows[:, :, :, i, j]
        inside = slice(self.pad, -self.pad or None)
        return d_x[:, inside, inside]


class MaxPool(NumpyLayer):
    """The maxima of 2x2 windows; the first of equal ones has the gradient."""

    def forward(self, x: Array) -> Array:
        self.x = x
        a, b, c, d = _corners(x)
        self.out = np.maximum(np.maximum(a, b), np.maximum(c, d))
        return self.out

    def backward(self, d_out: Array, rate: float, wants_input: bool) -> Array | None:
        d_x = np.zeros(self.x.shape, np.float32)
        left = np.ones(d_out.shape, bool)
        for corner, d_corner in zip(_corners(self.x), _corners(d_x), strict=True):
            chosen = left & (corner == self.out)
            np.multiply(d_out, chosen, out=d_corner)
            left ^= chosen
        return d_x


class Row1d(NumpyLayer):
    """All numbers of an image in one row."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, d_out: Array, rate: float, wants_input: bool) -> Array | None:
        return d_out.reshape(self.shape)


def _corners(x: Array) -> list[Array]:
    """Views (n, h // 2, w // 2, c) of the four positions of every window."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]


class NumpyWork(BatchWork):
    """Training or inference, one batch a call."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.layers: list[NumpyLayer] = []
        for layer in self.network.layers:
            match layer:
                case Conv(_, size, same, bias, relu):
                    self.layers.append(Convolution(size, size // 2 if same else 0, bias, relu))
                case Dense(_, relu):
                    self.layers.append(Affine(bias=True, relu=relu))
                case Flatten():
                    self.layers.append(Row1d())
                case _:
                    self.layers.append(MaxPool())
        self.images_per_call = self.row.batch
        arrays = 2 if self.row.task == "train" else 1
        self.calls = [batch[:arrays] for batch in self.batches()]

    def reset(self) -> None:
        given = iter(self.weights)
        for layer in self.layers:
            if isinstance(layer, Affine):
                layer.parameters = [next(given).copy() for _ in range(1 + layer.bias)]

    def step(self, x: Array, y: npt.NDArray[np.int32] | None = None) -> Any:
        for layer in self.layers:
            x = layer.forward(x)
        p = np.exp(x - x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        if y is None:
            return p
        at = np.arange(len(y)), y
        loss = -np.log(p[at]).mean()
        p[at] -= 1
        d_out = p / np.float32(len(y))
        for number, layer in reversed(list(enumerate(self.layers))):
            d_out = layer.backward(d_out, self.row.rate, wants_input=number > 0)
        return loss
