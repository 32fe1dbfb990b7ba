"""The tutorial's three layers in plain NumPy and loops: what `cnnrs` is tested and timed against.

Written as a reader of the tutorial would: one region at a time, easy to follow, and slow. The
classes take and return what those of `cnnrs.tutorial` do, so that either can stand for the other.

Example:
    >>> import numpy as np
    >>> from cnnrs import numpy_reference as numpy_layers
    >>> numpy_layers.Conv3x3(8).forward(np.zeros((28, 28))).shape
    (26, 26, 8)
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


class Conv3x3:
    """A convolution with 3x3 filters: stride 1, no padding, no bias."""

    def __init__(self, num_filters: int) -> None:
        self.num_filters = num_filters
        self.filters = np.random.randn(num_filters, 3, 3) / 9

    def forward(self, input: Array) -> Array:
        """Convolve an image: (h, w) -> (h - 2, w - 2, num_filters)."""
        self.last_input = input
        h, w = input.shape
        out = np.zeros((h - 2, w - 2, self.num_filters))
        for i in range(h - 2):
            for j in range(w - 2):
                region = input[i : i + 3, j : j + 3]
                out[i, j] = np.sum(region * self.filters, axis=(1, 2))
        return out

    def backprop(self, d_L_d_out: Array, learn_rate: float) -> None:
        """Update the filters from the gradient of the output."""
        d_L_d_filters = np.zeros(self.filters.shape)
        h, w, _ = d_L_d_out.shape
        for i in range(h):
            for j in range(w):
                region = self.last_input[i : i + 3, j : j + 3]
                for f in range(self.num_filters):
                    d_L_d_filters[f] += d_L_d_out[i, j, f] * region
        self.filters -= learn_rate * d_L_d_filters


class MaxPool2:
    """Max pooling over 2x2 regions with stride 2."""

    def forward(self, input: Array) -> Array:
        """Take the maximum of each region: (h, w, c) -> (h // 2, w // 2, c)."""
        self.last_input = input
        h, w, channels = input.shape
        out = np.zeros((h // 2, w // 2, channels))
        for i in range(h // 2):
            for j in range(w // 2):
                region = input[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                out[i, j] = np.amax(region, axis=(0, 1))
        return out

    def backprop(self, d_L_d_out: Array) -> Array:
        """Hand the gradient to every position that equals its region's maximum."""
        d_L_d_input = np.zeros(self.last_input.shape)
        h, w, channels = d_L_d_out.shape
        for i in range(h):
            for j in range(w):
                region = self.last_input[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                maximum = np.amax(region, axis=(0, 1))
                for y in range(2):
                    for x in range(2):
                        for c in range(channels):
                            if region[y, x, c] == maximum[c]:
                                d_L_d_input[2 * i + y, 2 * j + x, c] = d_L_d_out[i, j, c]
        return d_L_d_input


class Softmax:
    """A fully connected layer with softmax activation."""

    def __init__(self, input_len: int, nodes: int) -> None:
        self.weights = np.random.randn(input_len, nodes) / input_len
        self.biases = np.zeros(nodes)

    def forward(self, input: Array) -> Array:
        """Compute the probability of each class: any shape -> (nodes,)."""
        self.last_input_shape = input.shape
        self.last_input = input.flatten()
        self.last_totals = self.last_input @ self.weights + self.biases
        return self._softmax()

    def backprop(self, d_L_d_out: Array, learn_rate: float) -> Array:
        """Update weights and biases; return the gradient of the input, in its shape."""
        out = self._softmax()
        d_L_d_totals = out * (d_L_d_out - np.sum(d_L_d_out * out))

        d_L_d_weights = np.outer(self.last_input, d_L_d_totals)
        d_L_d_input: Array = self.weights @ d_L_d_totals
        self.weights -= learn_rate * d_L_d_weights
        self.biases -= learn_rate * d_L_d_totals
        return d_L_d_input.reshape(self.last_input_shape)

    def _softmax(self) -> Array:
        exponentials = np.exp(self.last_totals - np.max(self.last_totals))
        out: Array = exponentials / np.sum(exponentials)
        return out
