"""cnnrs in the peer benchmark: the model face, as users call it.

Training is one call of `fit`, silent, with as many epochs as it takes, so that everything counts
that `fit` does besides: the random order of every epoch, checks, callbacks, metrics. The peers are
spared that. Inference is one call of `predict` a batch.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

import cnnrs
from cnnrs import _core
from networks import Array, Conv, Dense, Flatten, Network, Pool, foreground_share
from peers_rows import CHECKED_STEPS, BatchWork, Row, Work

VERSIONS = {"cnnrs": cnnrs.__version__, "instruction set": _core.simd_level()}


def prepare(
    key: str, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], threads: int
) -> Work:
    """Get ready for a row."""
    cnnrs.set_num_threads(threads)
    return (Training if row.task == "train" else Inference)(row, images, labels)


def fma_peak(seconds: float) -> float | None:
    """One core's multiplications and additions in registers, GFLOP/s, if this cnnrs measures it."""
    measure = getattr(_core, "fma_peak", None)
    return None if measure is None else float(measure(seconds))


def model_layers(network: Network) -> list[Any]:
    """The network's layers in cnnrs."""
    layers: list[Any] = [cnnrs.Input((28, 28, 1))]
    for layer in network.layers:
        match layer:
            case Conv(filters, size, same, bias, relu):
                padding, activation = "same" if same else "valid", "relu" if relu else None
                layers.append(
                    cnnrs.Conv2D(
                        filters, size, padding=padding, activation=activation, use_bias=bias
                    )
                )
            case Pool():
                layers.append(cnnrs.MaxPooling2D(2))
            case Flatten():
                layers.append(cnnrs.Flatten())
            case Dense(units, relu):
                last = layer is network.layers[-1]
                activation = "softmax" if last else "relu" if relu else None
                layers.append(cnnrs.Dense(units, activation=activation))
    return layers


class Training(Work):
    """`fit`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = cnnrs.Sequential(model_layers(self.network))
        sgd = cnnrs.optimizers.SGD(self.row.rate)
        self.model.compile(sgd, "sparse_categorical_crossentropy")

    def reset(self) -> None:
        self.model.set_weights(self.weights)

    def check(self) -> Array:
        self.reset()
        losses = []
        for x, y in self.batches()[:CHECKED_STEPS]:
            history = self.model.fit(x, y, self.row.batch, verbose=0, shuffle=False)
            losses.append(history.history["loss"][0])
        return np.array(losses, np.float32)

    def run(self, images: int) -> int:
        size = self.row.batch
        n = max(1, min(images, len(self.x)) // size) * size
        epochs = -(-images // n)
        self.model.fit(self.x[:n], self.y[:n], size, epochs, verbose=0)
        return n * epochs

    def live_shares(self) -> list[float]:
        """With the weights of now: the share of pooled elements that have a gradient."""
        shares, weights = [], self.model.get_weights()
        for number, layer in enumerate(self.network.layers):
            if isinstance(layer, Conv) and layer.relu:
                front = cnnrs.Sequential(model_layers(self.network)[: number + 3])
                front.set_weights(weights[: len(front.get_weights())])
                shares.append(float(np.mean(front.predict(self.x[: CHECKED_STEPS * 64]) > 0)))
            elif isinstance(layer, Conv):
                shares.append(1.0)
        return shares

    def foreground_share(self) -> float:
        """The share of the first convolution's windows that are not left out."""
        level = _core.simd_level()
        return foreground_share(self.network, self.x, instruction_set=level)


class Inference(BatchWork):
    """`predict`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = cnnrs.Sequential(model_layers(self.network))
        self.calls = [(x,) for x, _ in self.batches()]
        self.images_per_call = self.row.batch

    def reset(self) -> None:
        self.model.set_weights(self.weights)

    def step(self, x: Array) -> Array:
        return self.model.predict(x, verbose=0)
