"""The layers of the tutorial "CNNs from scratch" (Victor Zhou, 2019), with its calls and numbers.

One image at a time, in float64. A program written for the tutorial's NumPy layers runs on these
with only its import lines changed. `cnnrs.numpy_reference` has the same three classes as plain
loops.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _core
from cnnrs._arrays import real
from cnnrs._checks import integer

Array: TypeAlias = npt.NDArray[np.float64]

_NEEDS_FORWARD = "backprop: expected a call of forward first, got none"


class Conv3x3:
    """A convolution with 3x3 filters: stride 1, no padding, no bias.

    `out[i, j, f] = sum over y, x of input[i + y, j + x] * filters[f, y, x]`

    Args:
        num_filters: how many filters, at least 1. They are drawn as
            `np.random.randn(num_filters, 3, 3) / 9`.

    Raises:
        TypeError: if the number is no integer.
        ValueError: if there is not at least one filter.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Conv3x3
        >>> conv = Conv3x3(8)
        >>> conv.forward(np.zeros((28, 28))).shape
        (26, 26, 8)
    """

    def __init__(self, num_filters: int) -> None:
        num_filters = integer("num_filters", num_filters)
        self.filters = np.random.randn(num_filters, 3, 3) / 9
        self._last_input: npt.ArrayLike | None = None

    @property
    def filters(self) -> Array:
        """The filters, float64 (num_filters, 3, 3); edits in place take effect.

        An assigned array is copied, and with it `num_filters` changes.
        """
        return self._filters

    @filters.setter
    def filters(self, value: npt.ArrayLike) -> None:
        if value is not getattr(self, "_filters", None):  # as it is in `conv.filters -= x`
            self._filters = _parameter("filters", value, ("num_filters", 3, 3))

    @property
    def num_filters(self) -> int:
        """How many filters there are. To change it, assign `filters`."""
        return len(self._filters)

    @num_filters.setter
    def num_filters(self, value: int) -> None:
        if value != len(self._filters):
            raise ValueError(
                f"num_filters: expected {len(self._filters)}, as many as filters holds, "
                f"got {value}; assign filters to change it"
            )

    @property
    def last_input(self) -> npt.ArrayLike | None:
        """The image of the last `forward`, or None."""
        return self._last_input

    def forward(self, input: npt.ArrayLike) -> Array:
        """Convolve one image.

        Args:
            input: the image, real numbers (h, w), each at least 3.

        Returns:
            float64 array (h - 2, w - 2, num_filters).

        Raises:
            TypeError: if the image does not hold real numbers.
            ValueError: if it has another rank or is too small.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Conv3x3
            >>> conv = Conv3x3(1)
            >>> conv.filters = np.ones((1, 3, 3))
            >>> conv.forward(np.ones((3, 3))).tolist()
            [[[9.0]]]
        """
        out = _core.conv3x3_forward(input, self._filters)
        self._last_input = input
        return out

    def backprop(self, d_L_d_out: npt.ArrayLike, learn_rate: float) -> None:
        """Update the filters by one step of stochastic gradient descent.

        `filters[f, y, x] -= learn_rate * sum over i, j of d_L_d_out[i, j, f] * input[i + y, j + x]`

        As in the tutorial, the input's gradient is not computed: this is the first layer.

        Args:
            d_L_d_out: the loss's gradient with respect to the last output, of its shape.
            learn_rate: the learning rate.

        Raises:
            RuntimeError: before the first `forward`.
            TypeError: if the gradient does not hold real numbers, or the rate is not one.
            ValueError: if it has another shape, or `filters` was made read-only.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Conv3x3
            >>> conv = Conv3x3(1)
            >>> conv.filters = np.zeros((1, 3, 3))
            >>> _ = conv.forward(np.ones((3, 3)))
            >>> conv.backprop([[[2.0]]], learn_rate=0.5)
            >>> conv.filters[0, 0].tolist()
            [-1.0, -1.0, -1.0]
        """
        if self._last_input is None:
            raise RuntimeError(_NEEDS_FORWARD)
        _core.conv3x3_backprop(d_L_d_out, self._last_input, self._filters, learn_rate)


class MaxPool2:
    """Max pooling over 2x2 regions with stride 2.

    `out[i, j, c] = max of input[2i:2i+2, 2j:2j+2, c]`; an odd last row or column is ignored.

    Example:
        >>> import numpy as np
        >>> from cnnrs import MaxPool2
        >>> pool = MaxPool2()
        >>> pool.forward(np.arange(4.0).reshape(2, 2, 1)).tolist()
        [[[3.0]]]
    """

    def __init__(self) -> None:
        self._last_input: npt.ArrayLike | None = None

    @property
    def last_input(self) -> npt.ArrayLike | None:
        """The input of the last `forward`, or None."""
        return self._last_input

    def forward(self, input: npt.ArrayLike) -> Array:
        """Take the maximum of each region.

        Args:
            input: real numbers (h, w, channels).

        Returns:
            float64 array (h // 2, w // 2, channels), NaN where a region holds one.

        Raises:
            TypeError: if the input does not hold real numbers.
            ValueError: if it has another rank.

        Example:
            >>> import numpy as np
            >>> from cnnrs import MaxPool2
            >>> MaxPool2().forward(np.zeros((26, 27, 8))).shape
            (13, 13, 8)
        """
        out = _core.max_pool2_forward(input)
        self._last_input = input
        return out

    def backprop(self, d_L_d_out: npt.ArrayLike) -> Array:
        """Hand the gradient to the positions that held the maximum.

        As in the tutorial, *every* position that equals its region's maximum receives the
        gradient; all others, and an odd last row or column, receive 0.

        Args:
            d_L_d_out: the loss's gradient with respect to the last output, of its shape.

        Returns:
            The gradient with respect to the last input: float64, of its shape.

        Raises:
            RuntimeError: before the first `forward`.
            TypeError: if the gradient does not hold real numbers.
            ValueError: if it has another shape.

        Example:
            >>> import numpy as np
            >>> from cnnrs import MaxPool2
            >>> pool = MaxPool2()
            >>> _ = pool.forward(np.array([[1.0, 5.0], [5.0, 0.0]])[:, :, np.newaxis])
            >>> pool.backprop([[[0.5]]])[:, :, 0].tolist()
            [[0.0, 0.5], [0.5, 0.0]]
        """
        if self._last_input is None:
            raise RuntimeError(_NEEDS_FORWARD)
        return _core.max_pool2_backprop(d_L_d_out, self._last_input)


class Softmax:
    """A fully connected layer with softmax activation.

    `totals = input.flatten() @ weights + biases`, `out = exp(totals) / sum(exp(totals))`

    The exponentials are taken of `totals - max(totals)`, so that large totals do not overflow, as
    they do in the tutorial.

    Args:
        input_len: elements of the input, at least 1. The weights are drawn as
            `np.random.randn(input_len, nodes) / input_len`; the biases are 0.
        nodes: classes, at least 1.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if there is not at least one input and one node.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Softmax
        >>> softmax = Softmax(13 * 13 * 8, 10)
        >>> softmax.forward(np.zeros((13, 13, 8))).tolist() == [0.1] * 10
        True
    """

    def __init__(self, input_len: int, nodes: int) -> None:
        input_len, nodes = integer("input_len", input_len), integer("nodes", nodes)
        self.weights = np.random.randn(input_len, nodes) / input_len
        self.biases = np.zeros(nodes)
        # The input, its shape, and the totals, assigned at once: threads that share a layer never
        # see half of a forward.
        self._last: tuple[Array, tuple[int, ...], Array] | None = None

    @property
    def weights(self) -> Array:
        """The weights, float64 (input_len, nodes); edits in place take effect.

        An assigned array is copied.
        """
        return self._weights

    @weights.setter
    def weights(self, value: npt.ArrayLike) -> None:
        if value is not getattr(self, "_weights", None):
            # The kernels walk along the inputs, hence Fortran order.
            self._weights = _parameter("weights", value, ("input_len", "nodes"), order="F")

    @property
    def biases(self) -> Array:
        """The biases, float64 (nodes,); edits in place take effect.

        An assigned array is copied.
        """
        return self._biases

    @biases.setter
    def biases(self, value: npt.ArrayLike) -> None:
        if value is not getattr(self, "_biases", None):
            self._biases = _parameter("biases", value, ("nodes",))

    @property
    def last_input(self) -> Array | None:
        """The input of the last `forward`, flattened and copied to float64, or None."""
        return None if self._last is None else self._last[0]

    @property
    def last_input_shape(self) -> tuple[int, ...] | None:
        """The shape of the last `forward`'s input, or None."""
        return None if self._last is None else self._last[1]

    @property
    def last_totals(self) -> Array | None:
        """What the last `forward` took the softmax of, float64 (nodes,), or None."""
        return None if self._last is None else self._last[2]

    def forward(self, input: npt.ArrayLike) -> Array:
        """Compute the probability of each class.

        Args:
            input: real numbers of any shape, input_len of them.

        Returns:
            float64 array (nodes,) of probabilities that sum to 1.

        Raises:
            TypeError: if the input does not hold real numbers.
            ValueError: if it has another number of elements.

        Example:
            >>> from cnnrs import Softmax
            >>> softmax = Softmax(2, 2)
            >>> softmax.weights = [[0.0, 1000.0], [0.0, 0.0]]
            >>> softmax.forward([1.0, 1.0]).tolist()
            [0.0, 1.0]
        """
        out, flat, shape, totals = _core.softmax_forward(input, self._weights, self._biases)
        self._last = flat, shape, totals
        return out

    def backprop(self, d_L_d_out: npt.ArrayLike, learn_rate: float) -> Array:
        """Update weights and biases by one step of stochastic gradient descent.

        `d_L_d_totals[k] = out[k] * (d_L_d_out[k] - sum over n of d_L_d_out[n] * out[n])`

        This is the whole Jacobian of the softmax: right for any gradient. The tutorial's code uses
        the first nonzero of `d_L_d_out` only, and returns None for an all-zero one, where this
        returns zeros.

        Args:
            d_L_d_out: the loss's gradient with respect to the last output, (nodes,).
            learn_rate: the learning rate.

        Returns:
            The gradient with respect to the last input, before the update: float64, of its shape.

        Raises:
            RuntimeError: before the first `forward`.
            TypeError: if the gradient does not hold real numbers, or the rate is not one.
            ValueError: if it has another shape, or a parameter was made read-only.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Softmax
            >>> softmax = Softmax(2, 2)
            >>> softmax.weights = np.zeros((2, 2))
            >>> _ = softmax.forward([1.0, 2.0])
            >>> softmax.backprop([-2.0, 0.0], learn_rate=1.0).tolist()
            [0.0, 0.0]
            >>> softmax.weights.tolist(), softmax.biases.tolist()
            ([[0.5, -0.5], [1.0, -1.0]], [0.5, -0.5])
        """
        if self._last is None:
            raise RuntimeError(_NEEDS_FORWARD)
        flat, shape, totals = self._last
        d_L_d_input = _core.softmax_backprop(
            d_L_d_out, flat, totals, self._weights, self._biases, learn_rate
        )
        return d_L_d_input.reshape(shape)


def _parameter(
    name: str,
    value: npt.ArrayLike,
    shape: tuple[int | str, ...],
    order: Literal["C", "F"] = "C",
) -> Array:
    """Copy a parameter into a float64 array; `shape` has a name for each size that is free."""
    array = real(name, value)
    fits = array.ndim == len(shape) and all(
        got >= 1 if isinstance(size, str) else got == size
        for got, size in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected shape ({expected}), none 0, got {array.shape}")
    return np.array(array, np.float64, order=order)
