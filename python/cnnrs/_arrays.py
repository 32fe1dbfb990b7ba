"""Turning what users pass as data into arrays that the compiled network takes."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._checks import Shape

Array: TypeAlias = npt.NDArray[Any]

MOST_CLASSES = 2**62
"""More than memory holds, and exact in int64 and float64 alike."""

TAKEN_AS_THEY_ARE = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))


def real(name: str, value: npt.ArrayLike) -> Array:
    """The value as an array of integers, floats or booleans."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # as of rows that are not equally long
        raise ValueError(f"{name}: expected an array of real numbers, got none: {error}") from None
    if array.dtype.kind not in "biuf":
        kind = "" if array is value else f" of {type(value).__name__}"
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}{kind}")
    return array


def several(name: str, values: Iterable[npt.ArrayLike], n: int) -> list[npt.ArrayLike]:
    """The values as a list, if they are `n` arrays or what can become so many."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list of {n} arrays, got {values!r}")
    arrays = list(values)
    if len(arrays) != n:
        raise ValueError(f"{name}: expected {n} arrays, got {len(arrays)}")
    return arrays


def plain(array: Array, dtype: npt.DTypeLike) -> Array:
    """The array itself if it is of that type, in C order, aligned and native, else such a copy."""
    return np.require(array, dtype, ["C", "A"])


def inputs(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """The value as a C-contiguous array of at least one axis, uint8, float32 or float64.

    An array of that kind is returned as it is. Other element types become `dtype`.
    """
    array = real(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array with a batch axis, got the number {array}")
    native = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return plain(array, native if native in TAKEN_AS_THEY_ARE else dtype)


def fits(got: Shape, shape: Shape) -> bool:
    """Whether one image fits; like Keras's, with a last axis of size 1 put in or left out."""
    return got == shape or (*got, 1) == shape or got == (*shape, 1)


def fit_shape(name: str, array: Array, shape: Shape) -> Array:
    """The array as (n, *shape), where `fits` allows it."""
    got = array.shape[1:]
    if got == shape:
        return array
    if not fits(got, shape):
        expected = ", ".join(map(str, ("n", *shape)))
        raise ValueError(f"{name}: expected shape ({expected}), got {array.shape}")
    return array.reshape(len(array), *shape)


def check_length(name: str, array: Array, n: int, others: str = "inputs") -> None:
    """Refuse labels that are not as many as the others."""
    if array.ndim == 0 or len(array) != n:
        got = len(array) if array.ndim else f"the number {array}"
        raise ValueError(f"{name}: expected {n} labels, as many as {others}, got {got}")


def class_numbers(name: str, array: Array, classes: int | None = None) -> npt.NDArray[np.int64]:
    """The array as int64, if its numbers are whole, at least 0 and, if given, below `classes`."""
    if array.dtype.kind == "f":
        broken = array[~np.isfinite(array) | (array != np.trunc(array))]
        if broken.size:
            raise ValueError(f"{name}: expected whole class numbers, got {broken[0]}")
        array = array.astype(np.float64)
    end = MOST_CLASSES if classes is None else classes
    # What does not fit into int64 must not come out as another number.
    numbers = plain(array.clip(-1, MOST_CLASSES) if array.dtype.kind == "f" else array, np.int64)
    wrong = array[(numbers < 0) | (numbers >= end)]
    if wrong.size:
        below = "" if classes is None and wrong[0] < 0 else f" and below {end}"
        raise ValueError(f"{name}: expected class numbers of at least 0{below}, got {wrong[0]}")
    return numbers
