"""How well a model tells classes apart."""

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

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


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole, np.float64)
