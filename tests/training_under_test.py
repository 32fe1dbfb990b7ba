"""What the tests of whole trainings share: models to train, single steps, and the same bits."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import Sequential, layers
from cnnrs.optimizers import SGD, Optimizer
from cnnrs.utils import set_random_seed
from nets_under_test import NETS

Array: TypeAlias = npt.NDArray[Any]


def model_of(
    net: str, rule: Optimizer | None = None, *, seed: int = 1, dtype: str = "float32"
) -> Sequential:
    set_random_seed(seed)
    model = Sequential(NETS[net](layers), dtype=dtype)
    model.compile(rule or SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def steps(model: Sequential, x: Array, y: Array, *, batch: int, calls: list[int]) -> None:
    """Train in calls of so many steps each."""
    network, first = model._ready_network(), 0
    for count in calls:
        order = np.arange(first * batch, (first + count) * batch) % len(x)
        network.train(x, y, order, batch, np.full(count, 0.01), 7, first)
        first += count


def assert_same_bits(got: list[Array], expected: list[Array]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.isfinite(ours).all()
        assert ours.tobytes() == theirs.tobytes()
