"""Whole trainings that are known to go well, each a short file to copy and change.

A recipe is a Python file with a function `recipe(shape, classes, images, epochs=...)`. It gets the
shape of an image, the number of classes and of training images, and returns a `Recipe`. The images
that its model is trained on are bytes from 0 to 255.
"""

import importlib
import runpy
from collections.abc import Callable as Function
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cnnrs.callbacks import Callback
from cnnrs.models import Sequential

__all__ = ["NAMES", "Make", "Recipe", "load"]

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


def load(name: str, data: str = "mnist") -> Make:
    """Find a recipe.

    Args:
        name: one of `NAMES`, or the path of a Python file, which is run.
        data: what is trained on, as `cnnrs.datasets.load` takes it; `"mnist"` by default. Of
            `"fast"` and `"best"` there are others for `"fashion_mnist"`.

    Returns:
        The function `recipe` of the file.

    Raises:
        ValueError: if there is no recipe of that name, or the file has none.
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
    found: Function[..., Recipe] | None = runpy.run_path(str(Path(name))).get("recipe")
    if not callable(found):
        raise ValueError(f"{name}: expected a function `recipe`, found none")
    return found
