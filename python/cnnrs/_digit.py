"""From a grey picture of one digit to an image like MNIST's: `cnnrs.images.as_mnist` says how."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]

SIDE, BOX = 28, 20
"""Pixels of an image of MNIST, and of the square that its digit fits into."""

CENTRE = 14.5
"""Where MNIST's centres of mass lie, from the outer edge of the first pixel."""

LARGEST = 800
"""Pixels of the longer side that is looked at: enough for a digit a tenth as large."""

FAINTEST = 1 / 16
"""How far ink must stand out, black to white being 1: less is a stain or a shadow."""

CLEAREST_NOISE = 3.5
"""How many standard deviations of the paper ink must stand out; noise alone comes to 2 or so."""

SPECK = 1 / 16
"""Pieces of ink smaller than this share of the largest one are no part of the digit."""


def from_grey(grey: Floats) -> npt.NDArray[np.uint8]:
    """The image (28, 28) of a picture (h, w) with values from 0 to 1."""
    ink = _ink(_smooth(_shrink(grey)))
    pieces = _without_specks(ink >= 0.5)
    rows, columns = np.flatnonzero(pieces.any(axis=1)), np.flatnonzero(pieces.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    ink[(ink >= 0.5) & ~pieces] = 0
    scale = BOX / max(bottom - top, right - left)
    height = max(1, round((bottom - top) * scale))
    width = max(1, round((right - left) * scale))
    digit = _resize(ink, (height, width), (left, top, right, bottom)).clip(0, 1)
    # A thin pen's lines are narrower than a pixel now, and would be pale.
    digit /= np.quantile(digit[digit > digit.max() / 4], 0.75)
    digit = digit.clip(0, 1)
    out = np.zeros((SIDE, SIDE), np.uint8)
    y, x = (_start(digit.sum(axis=1 - axis)) for axis in (0, 1))
    out[y : y + height, x : x + width] = (digit * 255).round()
    return out


def _start(sums: Floats) -> int:
    """Where a digit begins whose rows or columns sum to this, for its centre to be the middle."""
    centre = ((np.arange(len(sums)) + 0.5) * sums).sum() / sums.sum()
    return int(np.clip(round(CENTRE - centre), 0, SIDE - len(sums)))


def _shrink(grey: Floats) -> Floats:
    height, width = grey.shape
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return grey
    return _resize(grey, (max(1, round(height * scale)), max(1, round(width * scale))))


def _resize(
    image: Floats, size: tuple[int, int], box: tuple[Any, Any, Any, Any] | None = None
) -> Floats:
    """The part (left, top, right, bottom) of an image as one of that height and width."""
    from PIL import Image

    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box)
    return np.array(resized, np.float32)


def _smooth(grey: Floats) -> Floats:
    """The picture with less noise: a blur that is narrow for what a digit's lines are."""
    for _ in range(round(max(grey.shape) / 100)):
        padded = np.pad(grey, 1, "edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        grey = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16
    return grey


def _ink(grey: Floats) -> Floats:
    """How much ink there is at each pixel, 0 to 1."""
    apart = grey - _background(grey)
    # Whichever side stands out, and by how much, is told by the cubes, not by the noise.
    if (apart**3).sum() < 0:
        apart = -apart
    level = 0.0
    if apart.max() >= FAINTEST:
        is_ink = apart > _otsu(apart.clip(0))
        level, noise = float(np.median(apart[is_ink])), float(apart[~is_ink].std())
    if level < FAINTEST or level < CLEAREST_NOISE * noise:
        raise ValueError("expected a digit that stands out from its background, found none")
    # Edges stay soft, but paper is 0 and ink 1.
    return ((apart / level - 0.25) / 0.5).clip(0, 1)


def _background(grey: Floats) -> Floats:
    """The quadratic surface that most pixels lie on, by least squares with weights.

    Weights fall with the square of a pixel's distance from the surface of the round before, so that
    ink hardly counts. The first surface is the level of the picture's edges, where ink is rare.
    """
    height, width = grey.shape
    step = max(1, max(height, width) // 64)
    part = grey[::step, ::step].astype(np.float64)
    values = part.ravel()
    basis = _quadratic(np.arange(0, height, step) / height, np.arange(0, width, step) / width)
    edges = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    surface = np.full(len(values), np.median(edges))
    for _ in range(20):
        distance = np.abs(values - surface)
        # The standard deviation of the paper, by that third of all pixels that lies closest.
        spread = max(2.3 * float(np.quantile(distance, 1 / 3)), 1e-3)
        weighted = basis.T / (1 + (distance / spread) ** 2)
        factors = np.linalg.lstsq(weighted @ basis, weighted @ values, rcond=None)[0]
        surface = basis @ factors
    whole = _quadratic(np.arange(height) / height, np.arange(width) / width) @ factors
    return np.asarray(whole, np.float32).reshape(height, width)


def _quadratic(y: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The columns 1, y, x, y*y, y*x, x*x, a row for each pixel."""
    y, x = (part.ravel() - 0.5 for part in np.meshgrid(y, x, indexing="ij"))
    return np.stack([np.ones(len(y)), y, x, y * y, y * x, x * x], axis=1)


def _otsu(values: Floats) -> float:
    """The threshold that splits values into two classes with the largest variance between them."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * middles)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
        between = below * above * apart**2
    return float(edges[1:-1][np.nanargmax(between)])


def _without_specks(mask: Mask) -> Mask:
    """The mask without pieces that are much smaller than the largest one; corners connect."""
    numbers = np.full(mask.shape, -1)
    numbers[mask] = np.arange(np.count_nonzero(mask))
    pairs = [
        np.stack([one[both], other[both]])
        for one, other in (
            (numbers[:, :-1], numbers[:, 1:]),
            (numbers[:-1], numbers[1:]),
            (numbers[:-1, :-1], numbers[1:, 1:]),
            (numbers[:-1, 1:], numbers[1:, :-1]),
        )
        for both in [(one >= 0) & (other >= 0)]
    ]
    a, b = np.concatenate(pairs, axis=1)
    # Every pixel's piece is named after its least pixel: the names of neighbours are compared, and
    # each name is replaced by its own, until all agree.
    piece = np.arange(np.count_nonzero(mask))
    while (piece[a] != piece[b]).any():
        least = np.minimum(piece[a], piece[b])
        np.minimum.at(piece, piece[a], least)
        np.minimum.at(piece, piece[b], least)
        piece = piece[piece]
    sizes = np.bincount(piece)
    out = np.zeros_like(mask)
    out[mask] = sizes[piece] >= SPECK * sizes.max()
    return out
