"""The tutorial's three layers in NumPy without loops: the strongest NumPy that the benchmark meets.

Convolution is one matrix product over sliding windows (BLAS), pooling works on views of the four
corners of all regions. The classes take and return what those of `cnnrs.tutorial` do.

Example:
    >>> import numpy as np
    >>> from cnnrs import numpy_vectorised
    >>> numpy_vectorised.Conv3x3(8).forward(np.zeros((28, 28))).shape
    (26, 26, 8)
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cnnrs import numpy_reference
from cnnrs.numpy_reference import Softmax

__all__ = ["Conv3x3", "MaxPool2", "Softmax"]

Array: TypeAlias = npt.NDArray[np.float64]


class Conv3x3(numpy_reference.Conv3x3):
    """A convolution with 3x3 filters as a matrix product over all windows of the image."""

    def forward(self, input: Array) -> Array:
        """Convolve an image: (h, w) -> (h - 2, w - 2, num_filters)."""
        windows = sliding_window_view(input, (3, 3))
        self._shape = windows.shape[:2]
        self._windows = windows.reshape(-1, 9)
        out: Array = self._windows @ self.filters.reshape(-1, 9).T
        return out.reshape(*self._shape, self.num_filters)

    def backprop(self, d_L_d_out: Array, learn_rate: float) -> None:
        """Update the filters from the gradient of the output."""
        d_L_d_filters = d_L_d_out.reshape(-1, self.num_filters).T @ self._windows
        self.filters -= learn_rate * d_L_d_filters.reshape(self.filters.shape)


class MaxPool2:
    """Max pooling over 2x2 regions as maxima of four views."""

    def forward(self, input: Array) -> Array:
        """Take the maximum of each region: (h, w, c) -> (h // 2, w // 2, c)."""
        self._input = input
        a, b, c, d = _corners(input)
        self._out: Array = np.maximum(np.maximum(a, b), np.maximum(c, d))
        return self._out

    def backprop(self, d_L_d_out: Array) -> Array:
        """Hand the gradient to every position that equals its region's maximum."""
        d_L_d_input = np.zeros(self._input.shape)
        for corner, d_corner in zip(_corners(self._input), _corners(d_L_d_input), strict=True):
            np.multiply(d_L_d_out, corner == self._out, out=d_corner)
        return d_L_d_input


def _corners(x: Array) -> list[Array]:
    """Views (h // 2, w // 2, c) of the four positions of every region."""
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return [x[i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]
