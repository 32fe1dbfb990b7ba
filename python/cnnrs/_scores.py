"""How well a model tells classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cnnrs.datasets import Dataset
    from cnnrs.models import Sequential

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """How well each class is told from the others.

    `confusion` (classes, classes) counts images: rows are what they show, columns what they were
    taken for. `images` (classes,) counts what they show; some were taken for nothing, if the model
    predicts NaN.
    """

    confusion: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]

    @classmethod
    def of(cls, true: Array, outputs: Array) -> Self:
        """Count the outputs (n, classes) of a model for images that show `true` (n,)."""
        classes = outputs.shape[1]
        true = true.astype(np.int64)
        taken = ~np.isnan(outputs).any(axis=1)
        pairs = true[taken] * classes + outputs[taken].argmax(axis=1)
        counts = np.bincount(pairs, minlength=classes**2).astype(np.int64)
        images = np.bincount(true, minlength=classes).astype(np.int64)
        return cls(counts.reshape(classes, classes), images)

    @property
    def unpredicted(self) -> int:
        """How many images were taken for nothing."""
        return int(self.images.sum() - self.confusion.sum())

    @property
    def precision(self) -> Array:
        """Of the images taken for a class, the share that show it; NaN if there are none."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Array:
        """Of the images that show a class, the share taken for it; NaN if there are none."""
        return _ratio(self.confusion.diagonal(), self.images)

    @property
    def accuracy(self) -> float:
        """The share of the images that were taken for what they show."""
        return float(self.confusion.trace() / self.images.sum())

    def report(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        columns = zip(self.precision, self.recall, self.images, strict=True)
        return {
            "accuracy": self.accuracy,
            "images": int(self.images.sum()),
            "classes": [
                {
                    "class": n,
                    "precision": None if np.isnan(precision) else float(precision),
                    "recall": None if np.isnan(recall) else float(recall),
                    "images": int(count),
                }
                for n, (precision, recall, count) in enumerate(columns)
            ],
        }


def check_test_images(dataset: Dataset) -> None:
    """Refuse a data set that has no images to judge a model by."""
    if not len(dataset.x_test):
        raise ValueError(f"{dataset.origin}: expected at least one test image, got none")


def class_count(name: object, model: Sequential) -> int:
    """How many classes a model tells apart, one that its errors call by that name."""
    shape = model.output_shape
    if len(shape) != 2 or shape[1] is None or shape[1] < 2:
        raise ValueError(
            f"{name}: expected a model with an output for each of at least 2 classes, got outputs "
            f"of shape {shape}"
        )
    return shape[1]


def probabilities(model: Sequential, outputs: Array) -> Array | None:
    """What a model's outputs (n, classes) are, or its loss takes them for; None if neither.

    Where an image's outputs are NaN, so are its probabilities.
    """
    if getattr(model.loss, "from_logits", False):
        with np.errstate(invalid="ignore"):  # of NaN
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    if (outputs < 0).any() or (outputs > 1).any():
        return None
    return outputs


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole, np.float64)
