"""Small helpers, with Keras's names."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from cnnrs import _random
from cnnrs._arrays import class_numbers, real
from cnnrs._checks import integer

__all__ = ["set_random_seed", "to_categorical"]


def set_random_seed(seed: int) -> None:
    """Make what follows draw the same random numbers every time.

    Seeds Python's `random`, NumPy's legacy generator `np.random` (which the tutorial's layers draw
    from), and the generators of all models made from now on: of their weights, the order of the
    images and dropout. Models that there are keep theirs.

    Args:
        seed: from 0 to 2**32 - 1.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is out of range.

    Reference: `keras.utils.set_random_seed`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.utils import set_random_seed
        >>> def first_weight():
        ...     set_random_seed(1)
        ...     return Sequential([Input((3,)), Dense(1)]).get_weights()[0][0, 0]
        >>> bool(first_weight() == first_weight())
        True
    """
    seed = integer("seed", seed, least=0)
    if seed >= 2**32:
        raise ValueError(f"seed: expected at most {2**32 - 1}, got {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the tutorial's layers draw from it
    _random.seed(seed)


def to_categorical(x: npt.ArrayLike, num_classes: int | None = None) -> npt.NDArray[np.float64]:
    """One-hot rows from class numbers: `out[..., k] = 1 if x[...] == k else 0`.

    Args:
        x: class numbers from 0, of any shape; a last axis of size 1 is left out.
        num_classes: how many classes there are; the highest number and 1 by default.

    Returns:
        float64 array (*x.shape, num_classes).

    Raises:
        TypeError: if `x` does not hold numbers.
        ValueError: if a number is not whole or not below `num_classes`, or without `num_classes`
            there are none.

    Reference: `keras.utils.to_categorical`, which rounds down what is not whole, and counts
    negative numbers from the last class.

    Example:
        >>> from cnnrs.utils import to_categorical
        >>> to_categorical([0, 2])
        array([[1., 0., 0.],
               [0., 0., 1.]])
    """
    array = real("x", x)
    if array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if num_classes is not None:
        num_classes = integer("num_classes", num_classes)
    classes = class_numbers("x", array, num_classes)
    if num_classes is None:
        if not classes.size:
            raise ValueError("x: expected at least one number if num_classes is None, got none")
        num_classes = int(classes.max()) + 1
    out = np.zeros((classes.size, num_classes))
    out[np.arange(classes.size), classes.ravel()] = 1
    return out.reshape(*classes.shape, num_classes)
