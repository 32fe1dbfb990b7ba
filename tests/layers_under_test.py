"""What the tests of the tutorial's layers share.

`ours` is `cnnrs.tutorial`, `plain` is `cnnrs.numpy_reference`, which sees float64 in C order only.
"""

import copy
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import numpy_reference as plain
from cnnrs import tutorial as ours

Array: TypeAlias = npt.NDArray[Any]

PARAMETERS = ("filters", "weights", "biases")
STATE = (*PARAMETERS, "num_filters", "last_input", "last_input_shape", "last_totals")

KINDS = ("Conv3x3", "MaxPool2", "Softmax")
RATE = {"Conv3x3": (0.5,), "MaxPool2": (), "Softmax": (0.5,)}
"""What backprop takes after the gradient."""


def state(layer: object) -> dict[str, Any]:
    """A copy of all that a layer shows."""
    return {name: copy.deepcopy(getattr(layer, name)) for name in STATE if hasattr(layer, name)}


def parameters(layer: object) -> dict[str, Array]:
    return {name: getattr(layer, name) for name in PARAMETERS if hasattr(layer, name)}


def assert_close(got: Any, expected: Any, what: str = "", terms: float = 1.0) -> None:
    """Equal up to the order of summation; NaN and infinity only where expected.

    `terms` is how large the numbers are whose differences make the result, where that is larger
    than the result itself: their rounding stays when they cancel.
    """
    assert isinstance(got, np.ndarray), what
    assert got.dtype == np.float64, what
    assert got.shape == np.shape(expected), what
    scale = np.max(np.abs(expected), initial=terms, where=np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * scale, err_msg=what)


def assert_same_parameters(mine: object, reference: object, terms: float = 1.0) -> None:
    for name, expected in parameters(reference).items():
        assert_close(getattr(mine, name), expected, name, terms)


SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Conv3x3": ((11,), (6, 7), (4, 5, 11)),
    "MaxPool2": ((), (5, 7, 11), (2, 3, 11)),
    "Softmax": ((11, 13), (11,), (13,)),
}
"""What a layer is made with, its input's shape, its gradient's: none a multiple of a vector."""


def pair(
    kind: str, rng: np.random.Generator, *sizes: tuple[int, ...]
) -> tuple[Any, Any, Array, Array]:
    """A layer, the same in NumPy, an input and a gradient."""
    made_with, x, gradient = sizes or SIZES[kind]
    mine, reference = getattr(ours, kind)(*made_with), getattr(plain, kind)(*made_with)
    for name, value in parameters(mine).items():
        value[...] = rng.standard_normal(value.shape)
        setattr(reference, name, value.copy())
    return mine, reference, rng.standard_normal(x), rng.standard_normal(gradient)
