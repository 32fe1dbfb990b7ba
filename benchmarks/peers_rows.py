"""What the peer benchmark measures, who takes part, and what each of them has to offer for it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from networks import NETWORKS, Array, starting_weights

Task = Literal["train", "infer"]

IMAGES = 4096
"""Everybody goes round and round through the same images, the first ones of MNIST."""

CHUNK = 512
"""Images a call, for those that take many steps in one: a multiple of every batch size."""

CHECKED_STEPS = 8
"""Training steps whose losses must agree with cnnrs's before anybody is timed."""


@dataclass(frozen=True)
class Row:
    """One line of the result: what is done with which network, and how many images at a time."""

    network: str
    task: Task
    batch: int

    @property
    def rate(self) -> float:
        """The learning rate: so high that in a few steps the losses change a lot."""
        return 0.01 if self.batch == 1 else 0.1

    def __str__(self) -> str:
        return f"{self.network}, {self.task}, batch {self.batch}"


BATCHES: dict[Task, Sequence[int]] = {"train": (1, 32, 128), "infer": (1, 128)}

ROWS = [
    Row(network, task, batch)
    for network in NETWORKS
    for task, batches in BATCHES.items()
    for batch in batches
]


@dataclass(frozen=True)
class Contender:
    """A way to do the work, in a module beside this one that has a function `prepare`."""

    key: str
    title: str
    library: str
    module: str
    requires: str
    tasks: Sequence[Task] = ("train", "infer")


CONTENDERS = [
    Contender("cnnrs", "cnnrs", "cnnrs", "peers_cnnrs", "cnnrs"),
    Contender("numpy", "NumPy, windows + BLAS", "NumPy", "peers_numpy", "numpy"),
    Contender("torch", "PyTorch, NCHW", "PyTorch", "peers_torch", "torch"),
    Contender("torch-nhwc", "PyTorch, channels last", "PyTorch", "peers_torch", "torch"),
    Contender("jax", "JAX, reduce_window", "JAX", "peers_jax", "jax"),
    Contender("jax-reshape", "JAX, pool by reshape", "JAX", "peers_jax", "jax", ("train",)),
    Contender("jax-scan", "JAX, scan, patches", "JAX", "peers_jax", "jax"),
    Contender("keras", "Keras, on_batch", "TensorFlow", "peers_keras", "tensorflow"),
    Contender("tf", "TensorFlow, tf.function", "TensorFlow", "peers_keras", "tensorflow"),
    Contender("tf-xla", "TensorFlow, XLA, patches", "TensorFlow", "peers_keras", "tensorflow"),
]


class Work(ABC):
    """A row's work in one framework, with all that can be made ready before it is timed."""

    def __init__(self, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> None:
        self.row = row
        self.network = NETWORKS[row.network]
        self.weights = starting_weights(self.network)
        self.x: Array = self.network.inputs(images)
        self.y = labels.astype(np.int32)

    def batches(self, size: int | None = None) -> list[tuple[Array, npt.NDArray[np.int32]]]:
        """Images and labels in batches, `size` instead of the row's images in each."""
        size = size or self.row.batch
        starts = range(0, len(self.x) - size + 1, size)
        return [(self.x[at : at + size], self.y[at : at + size]) for at in starts]

    def chunks(self) -> list[tuple[Array, npt.NDArray[np.int32]]]:
        """The same batches, with those of `CHUNK` images in one array: (steps, batch, ...)."""
        steps = CHUNK // self.row.batch
        return [
            (x.reshape(steps, -1, *x.shape[1:]), y.reshape(steps, -1))
            for x, y in self.batches(CHUNK)
        ]

    @abstractmethod
    def reset(self) -> None:
        """Go back to the starting weights."""

    @abstractmethod
    def check(self) -> Array:
        """From the starting weights: losses of the first steps, or the first batch's outputs."""

    @abstractmethod
    def run(self, images: int) -> int:
        """Work through at least that many images, wait for the result, return how many."""


class BatchWork(Work):
    """Work by calls of one function, `step`, with arguments that lie ready in `calls`."""

    calls: Sequence[tuple[Any, ...]]
    images_per_call: int

    @abstractmethod
    def step(self, *arguments: Any) -> Any:
        """Train or infer once, and return losses or probabilities, in the framework's own way."""

    def finish(self) -> None:
        """Wait for what is not done yet."""

    def numbers(self, result: Any) -> Array:
        """What `step` returned, as a NumPy array."""
        return np.asarray(result, np.float32)

    def check(self) -> Array:
        self.reset()
        if self.row.task == "infer":
            return self.numbers(self.step(*self.calls[0]))
        losses = [np.ravel(self.numbers(self.step(*call))) for call in self.calls[:CHECKED_STEPS]]
        return np.concatenate(losses)[:CHECKED_STEPS]

    def run(self, images: int) -> int:
        count = math.ceil(images / self.images_per_call)
        for arguments in islice(cycle(self.calls), count):
            self.step(*arguments)
        self.finish()
        return count * self.images_per_call


def disagreement(row: Row, got: Any, expected: Any) -> str | None:
    """In what way losses or probabilities are not cnnrs's; None if they are."""
    tolerance = 1e-3 if row.task == "train" else 1e-4
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return f"shape {got.shape} instead of {expected.shape}"
    apart = np.abs(got - expected)
    if np.all(apart <= tolerance):  # False for NaN too
        return None
    what = "losses" if row.task == "train" else "probabilities"
    return f"{what} are up to {apart.max():.2g} apart from cnnrs's, {tolerance} allowed"
