"""The arguments of `Sequential`'s methods, checked."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy.typing as npt

from cnnrs._augmentation import Augmentation
from cnnrs._checks import integer, only
from cnnrs._fit import Data
from cnnrs._layer import Layer
from cnnrs.losses import Loss

Verbose: TypeAlias = Literal["auto", 0, 1, 2]


def metric(metrics: Sequence[str] | None, loss: Loss) -> str | None:
    """What the accuracy is called, if it is reported."""
    if not isinstance(metrics, str | list | tuple | None):
        raise TypeError(f"metrics: expected a list of names, got {metrics!r}")
    names = [metrics] if isinstance(metrics, str) else list(metrics or ())
    if len(names) > 1:
        raise ValueError(f"metrics: expected one name for the accuracy, got {names!r}")
    if names and not loss._classifies:
        raise ValueError(f"metrics: expected none for {loss}, got {names[0]!r}")
    for name in names:
        if name not in ("accuracy", "acc"):
            raise ValueError(f"metrics: expected 'accuracy' or 'acc', got {name!r}")
    return (names[0] if names else "accuracy") if loss._classifies else None


def batch_size(value: int | None) -> int:
    """Images a step."""
    return 32 if value is None else integer("batch_size", value)


def augmentations(value: int, layers: Sequence[Layer]) -> int:
    """How many versions of each image the layers shall make."""
    versions = integer("augmentations", value, 0)
    if versions and not any(isinstance(layer, Augmentation) for layer in layers):
        raise ValueError(
            f"augmentations: expected 0 for a model without random augmentation layers, got {value}"
        )
    return versions


def verbosity(value: Verbose) -> int:
    """The level that `verbose` stands for."""
    only("verbose", value, "auto", 0, 1, 2)
    return 1 if value == "auto" else value


def validation_pair(data: object) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Images and labels to judge by."""
    if not isinstance(data, list | tuple) or len(data) != 2:
        got = f"{len(data)} of them" if isinstance(data, list | tuple) else type(data).__name__
        raise ValueError(f"validation_data: expected two arrays (x, y), got {got}")
    return data[0], data[1]


def split(data: Data, share: float) -> tuple[Data, Data]:
    """The first images and the last, of which `share` is the share."""
    at = math.floor(len(data.x) * (1 - share))
    if at == 0 or at == len(data.x):
        raise ValueError(
            f"validation_split: expected a share that leaves images to train and to judge by, got "
            f"{share} of {len(data.x)}"
        )
    return data.part(slice(at)), data.part(slice(at, None))
