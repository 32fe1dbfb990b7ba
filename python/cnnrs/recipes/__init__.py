"""Whole trainings that are known to go well, each a short file to copy and change.

A recipe is a Python file with a function `recipe(shape, classes, images, epochs=...)`. It gets the
shape of an image, the number of classes and of training images, and returns a `Recipe`. The images
that its model is trained on are bytes from 0 to 255.
"""

import functools
import importlib
import inspect
import runpy
import traceback
from collections.abc import Callable as Function
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cnnrs._checks import integer, takes
from cnnrs.callbacks import Callback
from cnnrs.models import Sequential

__all__ = ["NAMES", "Make", "Recipe", "RecipeError", "load"]

NAMES = ("tutorial", "keras", "fast", "best")
"""Those that come with the package."""

BY_DATA = {("fast", "fashion_mnist"): "fast_fashion", ("best", "fashion_mnist"): "best_fashion"}
"""Files of recipes that are not the same for all data sets."""


@dataclass(frozen=True)
class Recipe:
    """A model and what `Sequential.fit` is given.

    Args:
        model: compiled.
        batch_size: images a step.
        epochs: how many.
        callbacks: for `fit`; none by default.

    Example:
        >>> from cnnrs.recipes import fast
        >>> made = fast.recipe((28, 28, 1), classes=10, images=60000)
        >>> made.epochs, made.batch_size
        (1, 64)
    """

    model: Sequential
    batch_size: int
    epochs: int
    callbacks: Sequence[Callback] = ()


class Make(Protocol):
    """The function of a recipe's file."""

    def __call__(
        self, shape: tuple[int, ...], classes: int, images: int, epochs: int = ...
    ) -> Recipe: ...


class RecipeError(Exception):
    """What is raised when the function of a user's file fails, or is none of a recipe.

    Example:
        >>> from cnnrs.recipes import RecipeError
        >>> print(RecipeError("mine.py, line 3: ZeroDivisionError: division by zero"))
        mine.py, line 3: ZeroDivisionError: division by zero
    """


def load(name: str, data: str = "mnist") -> Make:
    """Find a recipe.

    Args:
        name: one of `NAMES`, or the path of a Python file, which is run.
        data: what is trained on, as `cnnrs.datasets.load` takes it; `"mnist"` by default. Of
            `"fast"` and `"best"` there are others for `"fashion_mnist"`.

    Returns:
        The function `recipe` of the file. One of a user's file raises `RecipeError` if it fails,
        takes other arguments or returns no sound `Recipe`, and builds a model that is not.

    Raises:
        ValueError: if there is no recipe of that name, or the file fails or has none.
        OSError: if the file is missing or cannot be read.

    Example:
        >>> from cnnrs.recipes import load
        >>> load("keras")((28, 28, 1), 10, 60000, epochs=5).epochs
        5
    """
    if name in NAMES:
        file = BY_DATA.get((name, data), name)
        make: Make = importlib.import_module(f"{__name__}.{file}").recipe
        return make
    if not name.endswith(".py"):
        names = ", ".join(NAMES)
        raise ValueError(f"recipe: expected {names} or a file that ends in .py, got {name!r}")
    file = str(Path(name))
    found = _run(file).get("recipe")
    if not callable(found):
        raise ValueError(f"{file}: expected a function `recipe`, found none")
    return _of_user(file, found)


def _run(file: str) -> dict[str, Any]:
    """What a user's file defines."""
    try:
        return runpy.run_path(file)
    except Exception as error:
        if isinstance(error, OSError) and _line(file, error) is None:
            raise  # It cannot be read.
        raise ValueError(_failure(file, error)) from error


def _of_user(file: str, make: Function[..., object]) -> Make:
    """The function of a user's file, whose mistakes name the file."""

    @functools.wraps(make)
    def recipe(shape: tuple[int, ...], *counts: int, **keywords: Any) -> Recipe:
        if not takes(make, shape, *counts, **keywords):
            raise RecipeError(
                f"{file}: expected a function `recipe(shape, classes, images, epochs=...)`, got "
                f"`recipe{inspect.signature(make)}`"
            )
        try:
            made = make(shape, *counts, **keywords)
        except BrokenPipeError:
            raise  # Whoever read what the file printed has gone.
        except Exception as error:
            raise RecipeError(_failure(file, error)) from error
        try:
            return _checked(made, shape)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{file}: {error}") from error

    return recipe


def _checked(made: object, shape: tuple[int, ...]) -> Recipe:
    """What a recipe has made, if it is sound; its model is built then, for images of `shape`."""
    if not isinstance(made, Recipe):
        raise TypeError(f"expected a Recipe from its function `recipe`, got {made!r}")
    if not isinstance(made.model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {made.model!r}")
    if made.model.optimizer is None:
        raise ValueError(f"model: expected a compiled one, got {made.model.name} before compile")
    integer("batch_size", made.batch_size)
    integer("epochs", made.epochs)
    if not isinstance(made.callbacks, list | tuple):
        raise TypeError(f"callbacks: expected a list or tuple, got {made.callbacks!r}")
    for callback in made.callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks: expected objects of cnnrs.callbacks.Callback, got {callback!r}"
            )
    if not made.model.built:
        made.model.build((None, *shape))
    return made


@contextmanager
def naming_line(name: str) -> Iterator[None]:
    """Make a user's recipe that fails in training a `RecipeError` that says where.

    What fails within the file, say in a callback, is named with its line; what `fit` refuses, say
    a loss that the labels do not fit, with the file alone.
    """
    file = str(Path(name))
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read what the file printed has gone.
    except Exception as error:
        if _line(file, error) is not None:
            raise RecipeError(_failure(file, error)) from error
        if name not in NAMES and isinstance(error, TypeError | ValueError):
            raise RecipeError(f"{file}: {error}") from error
        raise


def _failure(file: str, error: Exception) -> str:
    """One line on an error of a user's file, with the place in it."""
    line = _line(file, error)
    place = file if line is None else f"{file}, line {line}"
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    return ": ".join(filter(None, (place, type(error).__name__, what)))


def _line(file: str, error: Exception) -> int | None:
    """The last line of a file that an error came through, if it did."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    return lines[-1] if lines else None
