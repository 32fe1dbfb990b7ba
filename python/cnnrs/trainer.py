"""Training the tutorial's network on a data set, in chunks of steps that each are one Rust call."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _core
from cnnrs.datasets import Dataset

NUM_FILTERS = 8
CLASSES = 10

CHUNK_PIXELS = 8_000_000
"""Pixels trained on in one call: some 50 ms, then Ctrl-C and the progress bar have a turn."""

Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Score:
    """What the network scored on some images: their number, the sum of the losses, how many right.

    Example:
        >>> score = Score(images=3, loss_sum=1.5, correct=3) + Score(1, 0.5, 0)
        >>> score.loss, score.accuracy
        (0.5, 0.75)
    """

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    @property
    def loss(self) -> float:
        """The mean cross-entropy loss, NaN for no images."""
        return self.loss_sum / self.images if self.images else math.nan

    @property
    def accuracy(self) -> float:
        """The share that was predicted right, NaN for no images."""
        return self.correct / self.images if self.images else math.nan

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.images + other.images,
            self.loss_sum + other.loss_sum,
            self.correct + other.correct,
        )


class Trainer:
    """The tutorial's network and its training: SGD, one image a step.

    The network is the tutorial's, Conv3x3(8), MaxPool2, Softmax(10), with its initial draws. Two
    things are not: it computes in float32, and of equal maxima in a pooling region only the first
    receives the gradient, as in Keras and PyTorch.

    Args:
        data: the images and labels to train and test on, images of at least 4x4 pixels.
        learn_rate: the learning rate of plain gradient descent.
        seed: of the initial parameters and the order of the images; the same seed gives the same
            weights on the same type of machine.

    Raises:
        TypeError: if images or labels are not uint8 arrays.
        ValueError: if there are no images, they are too small, or the arrays do not go together.

    Example:
        >>> from cnnrs.datasets import load
        >>> trainer = Trainer(load("mnist-sample"), seed=1)
        >>> for score in trainer.train_epoch(report_every=2500):
        ...     print(score.images, score.accuracy > 0.6)
        2500 True
        2500 True
        >>> trainer.test().accuracy > 0.8
        True
    """

    def __init__(self, data: Dataset, *, learn_rate: float = 0.005, seed: int = 0) -> None:
        _check(data)
        self.data = data._replace(
            x_train=np.ascontiguousarray(data.x_train), x_test=np.ascontiguousarray(data.x_test)
        )
        self.learn_rate = learn_rate
        self._rng = np.random.default_rng(seed)
        _, height, width = data.x_train.shape
        self._net = _core.TutorialNet(height, width, NUM_FILTERS, CLASSES)
        _, dense, biases = self._net.get_weights()
        # As the tutorial draws them, and in its shapes: filters (num_filters, 3, 3).
        filters = self._rng.standard_normal((NUM_FILTERS, 3, 3)) / 9
        weights = self._rng.standard_normal(dense.shape) / len(dense)
        kernel = filters.transpose(1, 2, 0)[:, :, np.newaxis]
        self._net.set_weights(kernel.astype(np.float32), weights.astype(np.float32), biases)

    @property
    def weights(self) -> Weights:
        """Copies of the parameters, float32, in Keras's layouts and order.

        `conv2d.kernel` (3, 3, 1, 8), `dense.kernel` (inputs, 10), `dense.bias` (10,).
        """
        kernel, weights, biases = self._net.get_weights()
        return {"conv2d.kernel": kernel, "dense.kernel": weights, "dense.bias": biases}

    def train_epoch(self, report_every: int | None = None) -> Iterator[Score]:
        """Train one epoch, on every training image once, in a new random order.

        Args:
            report_every: a number of steps at whose multiples a chunk shall end.

        Yields:
            After every chunk of steps (see `CHUNK_PIXELS`) its score, each image judged before its
            own step.
        """
        order = self._rng.permutation(np.arange(len(self.data.x_train), dtype=np.int64))
        if report_every is None:
            report_every = len(order)
        if report_every < 1:
            raise ValueError(f"report_every: expected at least 1, got {report_every}")
        for start in range(0, len(order), report_every):
            for part in self._chunks(order[start : start + report_every]):
                sums = self._net.train(self.data.x_train, self.data.y_train, part, self.learn_rate)
                yield Score(len(part), *sums)

    def test(self) -> Score:
        """Judge all test images."""
        score = Score()
        for part in self._chunks(np.arange(len(self.data.x_test), dtype=np.int64)):
            score += Score(len(part), *self._net.evaluate(self.data.x_test, self.data.y_test, part))
        return score

    def _chunks(self, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        size = max(1, CHUNK_PIXELS // math.prod(self.data.x_train.shape[1:]))
        for start in range(0, len(order), size):
            yield order[start : start + size]


def _check(data: Dataset) -> None:
    for part in ("train", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        for name, array in ((f"x_{part}", x), (f"y_{part}", y)):
            if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
                got = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"{name}: expected a uint8 array, got {got}")
        if x.ndim != 3 or x.shape[1:] != data.x_train.shape[1:]:
            sizes = data.x_train.shape[1:] if part == "test" else ("height", "width")
            expected = ", ".join(map(str, ("n", *sizes)))
            raise ValueError(f"x_{part}: expected shape ({expected}), got {x.shape}")
        if not len(x):
            raise ValueError(f"x_{part}: expected at least one image, got none")
        if y.shape != (len(x),):
            raise ValueError(f"y_{part}: expected shape ({len(x)},), got {y.shape}")
        if y.max() >= CLASSES:
            raise ValueError(f"y_{part}: expected classes below {CLASSES}, got {y.max()}")
