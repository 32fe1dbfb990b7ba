"""What all pictures share: colours, figures, and how an image is shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cnnrs._arrays import real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array: TypeAlias = npt.NDArray[Any]
Layout: TypeAlias = Literal["constrained", "compressed"]

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"
"""From Okabe and Ito's palette, which readers of every colour vision can tell apart."""

SHARES = LinearSegmentedColormap.from_list("shares", ["white", BLUE])
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", ORANGE])
"""From negative to positive."""

LONGEST = 28
"""Letters of a class's name that are shown."""


def new_figure(width: float, height: float, layout: Layout | None = "constrained") -> Figure:
    """A figure of that size in inches.

    The layout `"compressed"` is for panels that keep their proportions, None for fixed places.
    """
    figure = Figure(figsize=(width, height), dpi=150, layout=layout)
    if layout is not None:
        figure.set_layout_engine(layout, w_pad=0.08, h_pad=0.08)
    return figure


def axes_of(ax: "Axes | None", width: float, height: float) -> "tuple[Figure, Axes]":
    """The axes to draw into and its figure, both new if there is none."""
    if ax is None:
        figure = new_figure(width, height, "compressed")
        return figure, figure.subplots()
    parent: Any = ax.figure
    while not isinstance(parent, Figure):  # a part of a figure
        parent = parent.figure
    return parent, ax


def names_of(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """A name for each class, by default its number; long ones cut off."""
    if class_names is None:
        return [str(n) for n in range(classes)]
    if isinstance(class_names, str) or len(class_names) != classes:
        got = repr(class_names) if isinstance(class_names, str) else str(len(class_names))
        raise ValueError(f"class_names: expected {classes} names, got {got}")
    return [shorten(str(name), LONGEST) for name in class_names]


def shorten(text: str, letters: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def probability_rows(value: npt.ArrayLike) -> Array:
    """Probabilities (n, classes); one number alone for an image is that of class 1 of two."""
    array = real("probabilities", value)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"probabilities: expected shape (n, classes), got {array.shape}")
    wrong = array[~((array >= 0) & (array <= 1 + 1e-3))]
    if wrong.size:
        raise ValueError(
            f"probabilities: expected numbers from 0 to 1, as behind a softmax, got {wrong[0]}"
        )
    return np.concatenate([1 - array, array], axis=1) if array.shape[1] == 1 else array


def images_of(name: str, value: npt.ArrayLike) -> Array:
    """Images that can be shown, (n, h, w) or (n, h, w, 3)."""
    array = real(name, value)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)):
        raise ValueError(
            f"{name}: expected images (n, h, w), (n, h, w, 1) or (n, h, w, 3), got {array.shape}"
        )
    return array


def image_of(value: npt.ArrayLike) -> Array:
    """One image that can be shown, (h, w) or (h, w, 3)."""
    array = real("image", value)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            f"image: expected one image (h, w), (h, w, 1) or (h, w, 3), got shape {array.shape}"
        )
    return array[..., 0] if array.shape[2:] == (1,) else array


def scale_of(images: Array) -> tuple[float, float]:
    """What is black and what is white: 0 and 255 of bytes, else the least and largest number."""
    if images.dtype == np.uint8:
        return 0, 255
    finite = images[np.isfinite(images)]
    if not finite.size:
        return 0, 1
    return float(finite.min()), float(finite.max())


def show_image(ax: "Axes", image: Array, scale: tuple[float, float]) -> None:
    """Show an image (h, w) or (h, w, 3), without an axis."""
    least, most = scale
    if image.ndim == 3:
        image = ((image - least) / ((most - least) or 1)).clip(0, 1)
    ax.imshow(image, cmap="gray", vmin=least, vmax=most, interpolation="nearest")
    ax.set_axis_off()


def percent(share: float) -> str:
    """A share as a percentage that says 100 % and 0 % only of 1 and 0."""
    text = f"{share:.1%}"
    if text == "100.0%" and share < 1:
        return ">99.9%"
    if text == "0.0%" and share > 0:
        return "<0.1%"
    return text


def number_of(count: int, thing: str) -> str:
    """A number of things, in words that fit 1 too."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
