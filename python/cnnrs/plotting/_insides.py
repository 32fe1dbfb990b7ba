"""What a model has learnt, and what becomes of an image in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from cnnrs import layers
from cnnrs._arrays import fits, real
from cnnrs._layer import Layer
from cnnrs.plotting._style import (
    SIGNED,
    Array,
    axes_of,
    new_figure,
    number_of,
    scale_of,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cnnrs.models import Sequential

ELEMENTWISE = (
    layers.Activation,
    layers.ReLU,
    layers.BatchNormalization,
    layers.Dropout,
    layers.Rescaling,
)
"""Layers that belong to the stage of the convolution or pooling before them."""

ACROSS = 16
"""Feature maps in one line."""

IMAGE, HEADING = 1.6, 0.34
"""Inches: the image's height above feature maps, and room above each panel for its title."""


def filters(
    model: Sequential, layer: str | int | Layer | None = None, ax: Axes | None = None
) -> Figure:
    """Draw the filters that a convolution has learnt: negative weights blue, positive ones orange.

    Filters over one channel are numbered tiles. Over several, a line is a filter and a column is an
    input channel. (Keras calls all of them together the layer's kernel.)

    Args:
        model: a built model.
        layer: a `Conv2D` of it, or its name or place in `model.layers`; None (default) for the
            first `Conv2D`.
        ax: where to draw; None (default) for a new figure.

    Returns:
        The figure.

    Raises:
        IndexError: if there is no layer of that number.
        TypeError: if `layer` is something else.
        ValueError: if the model has no such layer, it is no `Conv2D`, or the model is not built.

    Example:
        >>> from cnnrs import Conv2D, Input, Sequential
        >>> from cnnrs.plotting import filters
        >>> model = Sequential([Input((28, 28, 1)), Conv2D(8, 3)])
        >>> figure = filters(model)
        >>> figure.axes[0].get_title()
        'conv2d: 8 filters of 3 x 3'
    """
    chosen = _layer(model, layer, (layers.Conv2D,), "a Conv2D")
    kernel: Array = chosen.get_weights()[0]
    high, wide, channels, count = kernel.shape
    largest = max(map(abs, scale_of(kernel))) or 1.0
    title = f"{chosen.name}: {number_of(count, 'filter')} of {high} x {wide}"
    if channels == 1:
        across = min(count, max(4, math.ceil(math.sqrt(count * 1.6))))
        lines = math.ceil(count / across)
        tiles = kernel[:, :, 0].transpose(2, 0, 1)
        size = (0.75 * across + 1.3, (0.75 * high / wide + 0.3) * lines + 0.6)
    else:
        across, lines = channels, count
        tiles = kernel.transpose(3, 2, 0, 1).reshape(count * channels, high, wide)
        title += f" x {channels}"
        inch = min(0.34, 12 / max(across, lines))
        size = (max(inch * across, 1.6) + 2.2, max(inch * lines * high / wide, 1.4) + 1.1)
    figure, axes = axes_of(ax, max(size[0], 3.6), max(size[1], 2.0))
    mosaic = Mosaic(tiles, across, gap=0.15, head=0.35 if channels == 1 else 0.0)
    image = mosaic.show(axes, cmap=SIGNED, vmin=-largest, vmax=largest)
    axes.set_title(title, fontsize=11)
    if channels == 1:
        for n, (x, y) in enumerate(mosaic.heads()):
            axes.text(x, y, str(n), ha="center", va="bottom", fontsize=8)
    else:
        axes.set_axis_on()
        axes.set_frame_on(False)
        mosaic.number(axes, "x", across)
        mosaic.number(axes, "y", lines)
        axes.set(xlabel="input channel", ylabel="filter")
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("weight")
    bar.ax.tick_params(labelsize=8)
    return figure


def feature_maps(
    model: Sequential, image: npt.ArrayLike, layer: str | int | Layer | None = None
) -> Figure:
    """Draw what becomes of an image behind each convolution and pooling, a tile for each channel.

    A stage is a `Conv2D` or pooling layer with the activations, normalisations and so on right
    behind it. Its tiles have one scale, from dark for its least number to bright for its largest.
    The model stays as it is. (Feature maps are also called activations, which in Keras are the
    functions.)

    Args:
        model: a built model that takes images.
        image: (h, w) or (h, w, channels), as the model takes it.
        layer: a layer of the model whose output alone is drawn, or its name or place in
            `model.layers`; None (default) for all stages.

    Returns:
        A figure with the image, if it has 1 or 3 channels, and below it a panel for each stage.

    Raises:
        IndexError: if there is no layer of that number.
        TypeError: if `layer` is something else, or the image does not hold real numbers.
        ValueError: if the image does not fit, the model has no such layer or no stage, the layer's
            output is no image, or the model is not built.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Conv2D, Input, MaxPooling2D, Sequential
        >>> from cnnrs.plotting import feature_maps
        >>> model = Sequential([Input((28, 28, 1)), Conv2D(8, 3), MaxPooling2D()])
        >>> figure = feature_maps(model, np.zeros((28, 28)))
        >>> [axes.get_title() for axes in figure.axes]
        ['image: 28 x 28', 'conv2d: 26 x 26 x 8', 'max_pooling2d: 13 x 13 x 8']
    """
    model._need_network("feature_maps")
    array, expected = real("image", image), model.input_shape[1:]
    if not fits(array.shape, expected):
        raise ValueError(f"image: expected shape {expected}, got {array.shape}")
    inputs = model._inputs("image", array[np.newaxis])
    stages = _stages(model) if layer is None else [_one_stage(model, layer)]
    outputs = _outputs(model, inputs, [end for _, end in stages])
    panels: list[tuple[str, Array]] = []
    for (name, _), output in zip(stages, outputs, strict=True):
        if output.ndim != 4:
            raise ValueError(
                f"layer: expected one whose output is an image, got {name} with "
                f"{(None, *output.shape[1:])}"
            )
        panels.append((f"{name}: {_size(output.shape[1:])}", output[0].transpose(2, 0, 1)))

    picture = inputs[0]
    across = min(ACROSS, max(len(maps) for _, maps in panels))
    inch = 0.56 if across > 8 else 0.8  # a tile's width, and the gap behind it
    width = max(inch * across, 3.6) + 0.2
    places: list[tuple[float, float]] = []
    if is_shown := picture.ndim == 3 and picture.shape[2] in (1, 3):
        high = min(IMAGE, (width - 0.2) * picture.shape[0] / picture.shape[1])
        places.append((high * picture.shape[1] / picture.shape[0], high))
    for _, maps in panels:
        columns = min(across, len(maps))
        lines = math.ceil(len(maps) / columns)
        places.append((inch * columns, inch * lines * maps.shape[1] / maps.shape[2]))
    height = sum(high + HEADING for _, high in places) + 0.1
    figure = new_figure(width, height, None)
    top = height
    panel_axes = []
    for wide, high in places:
        top -= HEADING + high
        panel_axes.append(
            figure.add_axes(((width - wide) / 2 / width, top / height, wide / width, high / height))
        )
    if is_shown:
        axes = panel_axes.pop(0)
        shown = picture[..., 0] if picture.shape[2] == 1 else picture
        show_image(axes, shown, scale_of(shown))
        axes.set_title(f"image: {_size(shown.shape)}", fontsize=10)
    for axes, (title, maps) in zip(panel_axes, panels, strict=True):
        least, most = scale_of(maps)
        mosaic = Mosaic(maps, min(across, len(maps)), gap=0.08)
        mosaic.show(axes, cmap="viridis", vmin=least, vmax=most)
        axes.set_title(title, fontsize=10)
    return figure


class Mosaic:
    """Tiles (n, h, w) in lines of `across`, as one image, in which a tile's width is 1.

    `gap` lies between tiles, `head` above each, for text, in tiles' widths.
    """

    def __init__(self, tiles: Array, across: int, gap: float, head: float = 0.0) -> None:
        count, high, wide = tiles.shape
        # Each number becomes a square of pixels, so that a gap can be narrower than it.
        zoom = max(1, math.ceil(16 / wide))
        self._tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
        self._high, self._wide = high * zoom, wide * zoom
        self._gap = max(1, round(gap * self._wide))
        self._head = round(head * self._wide)
        self._across, self._lines = across, math.ceil(count / across)

    def _corners(self) -> Iterator[tuple[int, int]]:
        """The upper left pixel (y, x) of each tile."""
        for n in range(len(self._tiles)):
            line, column = divmod(n, self._across)
            yield (
                line * (self._head + self._high + self._gap) + self._head,
                column * (self._wide + self._gap),
            )

    def show(self, axes: Axes, **how: Any) -> Any:
        """Show the tiles, and return the image."""
        whole = np.full(
            (
                self._lines * (self._head + self._high + self._gap) - self._gap,
                self._across * (self._wide + self._gap) - self._gap,
            ),
            np.nan,
        )
        for tile, (y, x) in zip(self._tiles, self._corners(), strict=True):
            whole[y : y + self._high, x : x + self._wide] = tile
        axes.set_axis_off()
        axes.add_collection(
            PatchCollection(
                [Rectangle((x - 0.5, y - 0.5), self._wide, self._high) for y, x in self._corners()],
                facecolor="none",
                edgecolor="0.6",
                linewidth=0.4,
                clip_on=False,
            )
        )
        return axes.imshow(whole, interpolation="nearest", **how)

    def heads(self) -> Iterator[tuple[float, float]]:
        """The point (x, y) in the middle above each tile."""
        for y, x in self._corners():
            yield x + self._wide / 2 - 0.5, y - 1

    def number(self, axes: Axes, which: Literal["x", "y"], count: int) -> None:
        """Number the lines (`which` is "y") or columns ("x"), all or every so many of them."""
        size = self._wide if which == "x" else self._high
        every = next(step for step in (1, 2, 4, 8, 16, 32, 64, count) if count <= 16 * step)
        numbers = range(0, count, every)
        middles = [n * (size + self._gap) + size / 2 - 0.5 for n in numbers]
        axes.set(**{f"{which}ticks": middles, f"{which}ticklabels": [str(n) for n in numbers]})
        axes.tick_params(which, length=0, labelsize=8)


def _layer(
    model: Sequential,
    which: str | int | Layer | None,
    kinds: tuple[type[Layer], ...],
    what: str,
) -> Layer:
    """The layer that is meant, which is of one of these kinds; by default the first such one."""
    if which is None:
        for layer in model.layers:
            if isinstance(layer, kinds):
                return layer
        raise ValueError(f"layer: expected a model with {what}, got {model.name} without")
    if isinstance(which, Layer):
        found = which
        if found not in model.layers:
            raise ValueError(f"layer: expected one of {model.name}, got {which!r}")
    elif isinstance(which, str):
        by_name = {layer.name: layer for layer in model.layers}
        if which not in by_name:
            raise ValueError(f"layer: expected one of {', '.join(by_name)}, got {which!r}")
        found = by_name[which]
    elif isinstance(which, int | np.integer):
        if not -len(model.layers) <= which < len(model.layers):
            raise IndexError(f"layer: expected a number below {len(model.layers)}, got {which}")
        found = model.layers[int(which)]
    else:
        raise TypeError(f"layer: expected a layer, a name or a number, got {which!r}")
    if not isinstance(found, kinds):
        raise ValueError(f"layer: expected {what}, got {found!r}")
    return found


def _stages(model: Sequential) -> list[tuple[str, int]]:
    """For each convolution and pooling its title, and how many layers lead up to its end."""
    kinds = (layers.Conv2D, layers.MaxPooling2D, layers.AveragePooling2D)
    found: list[tuple[str, int]] = []
    all_layers = model.layers
    for n, layer in enumerate(all_layers):
        if isinstance(layer, kinds):
            found.append((layer.name, n + 1))
        elif found and found[-1][1] == n and isinstance(layer, ELEMENTWISE):
            name = found[-1][0]
            if not isinstance(layer, layers.Dropout):
                name = f"{name}, {layer.name}"
            found[-1] = (name, n + 1)
    if not found:
        raise ValueError(
            f"model: expected one with a convolution or pooling, got {model.name} without"
        )
    return found


def _one_stage(model: Sequential, which: str | int | Layer) -> tuple[str, int]:
    layer = _layer(model, which, (Layer,), "a layer")
    return layer.name, model.layers.index(layer) + 1


def _outputs(model: Sequential, inputs: Array, ends: list[int]) -> list[Array]:
    """What comes out of the first so many layers, for each of `ends`, which rise."""
    # A copy has layers and a generator of its own, so that nothing of the model's is used up.
    part = copy.copy(model)
    found = []
    for end in reversed(ends):
        while len(part.layers) > end:
            part.pop()
        found.append(part.predict(inputs))
    return found[::-1]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
