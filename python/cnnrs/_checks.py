"""Checks of arguments: each error names the argument, what was expected and what came."""

import inspect
import math
import operator
import os
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]

LARGEST = 2**64 - 1
"""The largest integer that the compiled network takes."""


def integer(name: str, value: SupportsIndex, least: int = 1) -> int:
    """The value as an int, which is at least `least`."""
    try:
        number = int(operator.index(value))
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    if number > LARGEST:
        raise ValueError(f"{name}: expected at most {LARGEST}, got {number}")
    return number


def flag(name: str, value: bool) -> bool:
    """The value as a bool, if it is True or False, or a number that equals one of them."""
    if not isinstance(value, int | np.integer | np.bool_) or value not in (0, 1):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def text(name: str, value: str) -> str:
    """The value, if it is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {value!r}")
    return value


def as_path(name: str, value: str | os.PathLike[str]) -> Path:
    """The value as a path, if it is one and not empty, which would mean the current folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name}: expected a path, got {value!r}")
    return Path(value)


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one positive integer for both, or from two."""
    if not isinstance(value, list | tuple):
        side = integer(name, value)  # type: ignore[arg-type]
        return side, side
    if len(value) != 2:
        raise ValueError(f"{name}: expected an integer or a pair of them, got {value!r}")
    return integer(name, value[0]), integer(name, value[1])


def number(
    name: str,
    value: float,
    expected: str = "a finite number",
    fits: Callable[[float], bool] = math.isfinite,
) -> float:
    """The value as a float, if it fits what `expected` says in words; NaN never should."""
    scalar = value[()] if isinstance(value, np.ndarray) else value  # of an array without axes
    if not isinstance(scalar, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    try:
        found = float(scalar)
    except OverflowError:
        raise ValueError(f"{name}: expected {expected}, got a number that no float holds") from None
    if not fits(found):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return found


def between(name: str, value: float, least: float, largest: float) -> float:
    """The value as a float, if it is neither below `least` nor above `largest`."""
    expected = f"a number from {least:,g} to {largest:,g}"
    return number(name, value, expected, lambda it: least <= it <= largest)


def from_0_below_1(name: str, value: float) -> float:
    """The value as a float, if it is from 0 to below 1."""
    return number(name, value, "a number from 0 to below 1", lambda it: 0 <= it < 1)


def at_least_0(name: str, value: float) -> float:
    """The value as a float, if it is not negative; infinity fits too."""
    return number(name, value, "a number of at least 0", lambda it: it >= 0)


def above_0(name: str, value: float) -> float:
    """The value as a float, if it is positive; infinity fits too."""
    return number(name, value, "a number above 0", lambda it: it > 0)


def finite_at_least_0(name: str, value: float) -> float:
    """The value as a float, if it is finite and not negative."""
    return number(name, value, "a finite number of at least 0", lambda it: 0 <= it < math.inf)


def finite_above_0(name: str, value: float) -> float:
    """The value as a float, if it is finite and positive."""
    return number(name, value, "a finite number above 0", lambda it: 0 < it < math.inf)


def choice(name: str, value: str | None, allowed: Sequence[str]) -> str:
    """The value, if it is one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected {one_of(allowed)}, got {value!r}")
    return value


def sizes(name: str, value: Sequence[int]) -> Shape:
    """The sizes of an array without its batch axis: at least one, each positive."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: expected a tuple of sizes such as (28, 28, 1), got {value!r}")
    if not value or None in value:
        raise ValueError(f"{name}: expected one or more known sizes, got {value!r}")
    return tuple(integer(name, size) for size in value)


def only(name: str, value: Any, *supported: Any) -> None:
    """Refuse any value but the ones that Keras has and this library supports."""
    if isinstance(value, np.ndarray) or value not in supported:
        raise ValueError(f"{name}: expected {one_of(supported)}, got {value!r}")


def takes(function: Callable[..., object], *arguments: object, **keywords: object) -> bool:
    """Whether a function can be called with these arguments; those that do not tell can."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def channels_last(data_format: str | None) -> None:
    """Refuse another order of axes than (height, width, channels)."""
    only("data_format", data_format, None, "channels_last")


def one_of(values: Sequence[Any]) -> str:
    """The values as an error's text lists them."""
    *first, last = map(repr, values)
    return f"{', '.join(first)} or {last}" if first else last
