"""The layers that change images at random, written for a batch of PyTorch tensors.

They draw from the same distributions as the compiled network, from another generator. Images are
floats (n, c, h, w). PyTorch is imported when it is used, never with the package.
"""

import math
from collections.abc import Callable
from typing import Any

from cnnrs._augmentation import (
    Augmentation,
    RandomAffine,
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)

PADDING = {"constant": "zeros", "nearest": "border", "reflect": "reflection", "wrap": "border"}
"""What `grid_sample` calls a fill mode. It knows none that wraps: coordinates are wrapped first."""

NOTHING = (0.0, 0.0)
"""The bounds of what is not drawn."""

SPLINE_ENERGY = 151 / 315
"""The integral of the square of a cubic B-spline."""


def augmentation(layer: Augmentation) -> Callable[[Any], Any]:
    """The function of a layer from a batch of images to the changed ones.

    Args:
        layer: one of `cnnrs.layers` whose name begins with `Random`.

    Raises:
        ValueError: if it is none of those.
    """
    draw = _Draw(layer.seed)
    match layer:
        case RandomErasing():
            return lambda x: _erased(layer, draw, x)
        case RandomFlip():
            return lambda x: _mirrored(layer, draw, x)
        case RandomElastic():
            return lambda x: _read(layer, x, _elastic_grid(layer, draw, x))
        case RandomTranslation() | RandomRotation() | RandomZoom() | RandomAffine():
            return lambda x: _read(layer, x, _affine_grid(layer, draw, x))
    raise ValueError(f"{layer.name}: expected a layer that PyTorch can follow, got {layer!r}")


class _Draw:
    """Even random numbers: of a layer's own generator if it has a seed, else of PyTorch's."""

    def __init__(self, seed: int | None) -> None:
        import torch

        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, x: Any, bounds: Any = (0.0, 1.0), *sizes: int) -> Any:
        """One number for each image, or as many as `sizes` say: (n, *sizes)."""
        return x.new_empty(len(x), *sizes).uniform_(*bounds, generator=self.generator)


def _affine_grid(layer: Any, draw: _Draw, x: Any) -> Any:
    """Where each pixel is read, (n, h, w, 2), as `grid_sample` takes it."""
    import torch

    rotation = down = right = shear = zoom = NOTHING
    columns_zoom = None
    match layer:
        case RandomTranslation():
            down, right = layer.height_factor, layer.width_factor
        case RandomRotation():
            rotation = layer.factor
        case RandomZoom():
            zoom, columns_zoom = layer.height_factor, layer.width_factor
        case RandomAffine():
            rotation, shear, zoom = layer.rotation, layer.shear, layer.zoom
            down = right = layer.translation
    angle, slant = math.tau * draw(x, rotation), draw(x, shear)
    move = torch.stack([draw(x, right), draw(x, down)], 1)  # in widths and in heights
    tall = 1 + draw(x, zoom)
    wide = tall if columns_zoom is None else 1 + draw(x, columns_zoom)
    cos, sin = angle.cos(), angle.sin()
    # Coordinates are columns and rows from the centre, in half widths and half heights.
    h, w = x.shape[2:]
    turn = torch.stack(
        [
            torch.stack([wide * (cos + slant * sin), wide * (slant * cos - sin) * (h / w)], 1),
            torch.stack([tall * sin * (w / h), tall * cos], 1),
        ],
        1,
    )  # (n, 2, 2)
    theta = torch.cat([turn, turn @ (-2 * move)[..., None]], 2)
    return torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)


def _elastic_grid(layer: RandomElastic, draw: _Draw, x: Any) -> Any:
    """Where each pixel is read, (n, h, w, 2): cubic B-splines whose knots are random numbers."""
    import torch

    n, _, h, w = x.shape
    spacing = math.sqrt(3) * layer.sigma  # of the knots, at which splines are as wide as Gaussians
    most = layer.alpha / (2 * math.sqrt(math.pi) * layer.sigma * SPLINE_ENERGY)
    rows, columns = _splines(draw, x, h, spacing), _splines(draw, x, w, spacing)
    knots = draw(x, (-most, most), 2, rows.shape[2], columns.shape[2])
    moved = rows[:, None] @ knots @ columns[:, None].mT  # (n, 2, h, w): right, down, in pixels
    half_sizes = x.new_tensor([w / 2, h / 2])
    still = torch.nn.functional.affine_grid(
        torch.eye(2, 3, dtype=x.dtype).expand(n, 2, 3), list(x.shape), align_corners=False
    )
    return still + moved.permute(0, 2, 3, 1) / half_sizes


def _splines(draw: _Draw, x: Any, pixels: int, spacing: float) -> Any:
    """How much of each knot's number is in each pixel's, (n, pixels, knots)."""
    import torch

    knots = int((pixels - 1) / spacing + 1) + 4  # of which each pixel sees four
    # Where they lie is random, so that no pixel is nearer to them than others.
    at = torch.arange(pixels, dtype=x.dtype) / spacing + draw(x)[:, None] + 1
    distance = (at[..., None] - torch.arange(knots, dtype=x.dtype)).abs()
    near = 2 / 3 - distance * distance * (2 - distance) / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _read(layer: Any, x: Any, grid: Any) -> Any:
    """The images read at the places of the grid."""
    import torch

    if layer.fill_mode == "wrap":
        sizes = x.new_tensor([x.shape[3], x.shape[2]])
        pixels = ((grid + 1) * sizes - 1) / 2
        # A border of one pixel has what is between the last one and the first.
        grid = (2 * (pixels.remainder(sizes) + 1) + 1) / (sizes + 2) - 1
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    fill = layer.fill_value if layer.fill_mode == "constant" else 0.0
    read = torch.nn.functional.grid_sample(
        x - fill if fill else x,
        grid,
        mode=layer.interpolation,
        padding_mode=PADDING[layer.fill_mode],
        align_corners=False,
    )
    return read + fill if fill else read


def _mirrored(layer: RandomFlip, draw: _Draw, x: Any) -> Any:
    """The images, of which every other is mirrored, each direction for itself."""
    import torch

    for axis, mode in ((2, "vertical"), (3, "horizontal")):
        if mode in layer.mode:
            x = torch.where((draw(x) < 0.5)[:, None, None, None], x.flip(axis), x)
    return x


def _erased(layer: RandomErasing, draw: _Draw, x: Any) -> Any:
    """The images with a patch painted over."""
    import torch

    inside = (draw(x) < draw(x, layer.factor))[:, None, None, None]
    for axis in (2, 3):
        size = x.shape[axis]
        length = size * draw(x, layer.scale).sqrt()
        start = draw(x) * (size - length)
        at = torch.arange(size, dtype=x.dtype)
        covered = (at >= start[:, None]) & (at < (start + length)[:, None])
        inside = inside & covered.reshape((-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size))
    low, high = layer.value_range
    if layer.fill_value is None:
        paint = torch.empty_like(x).normal_(0, abs(high), generator=draw.generator)
    else:
        paint = x.new_tensor(layer.fill_value).reshape(-1, 1, 1)
    return torch.where(inside, paint.clamp(low, high), x)
