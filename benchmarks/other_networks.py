"""Small networks of other kinds than those of `peers.py`: cnnrs and PyTorch, in one process.

    python benchmarks/other_networks.py [--threads 1] [--seconds 0.3] [--networks perceptron ...]

Deep and narrow, wide and shallow, with batch normalisation, strides, dense layers of a million
weights: no network should fall into a hole between those that the kernels were made for. Images are
random numbers; training is SGD with momentum, batches of 32 and 128, as each library's users write
it. PyTorch runs eagerly, in both memory layouts and with its optimizer fused or not, of which the
fastest counts. "infer 128" is calls of 128 images each.

A row has the least microseconds an image of three measurements, and how many times as long PyTorch
takes. The process is pinned to as many processors as it may use threads.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import children
import cnnrs
from cnnrs import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Sequential,
)
from cnnrs._torch_network import Network
from cnnrs.losses import SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD

IMAGES, CLASSES, BATCHES, REPEATS = 512, 10, (32, 128), 3

CALLS = [*(f"train {batch}" for batch in BATCHES), "infer 1", "infer 128"]


def conv(filters: int, size: int = 3, strides: int = 1) -> Conv2D:
    """A padded convolution with ReLU."""
    return Conv2D(filters, size, strides, padding="same", activation="relu")


def valid(filters: int) -> Conv2D:
    """A convolution without padding, with ReLU."""
    return Conv2D(filters, 3, activation="relu")


def normed(filters: int, strides: int = 1) -> list[Any]:
    """A padded convolution, batch normalisation and ReLU."""
    conv = Conv2D(filters, 3, strides, padding="same", use_bias=False)
    return [conv, BatchNormalization(), ReLU()]


def networks() -> dict[str, list[Any]]:
    """The layers of each, without the last one, of the classes."""
    pool = MaxPooling2D
    return {
        "perceptron": [Input((784,)), Dense(512, "relu"), Dense(256, "relu")],
        "small perceptron": [Input((784,)), Dense(128, "relu")],
        "tiny": [Input((8, 8, 1)), valid(8), pool(), Flatten()],
        "dense head": [
            *(Input((28, 28, 1)), valid(32), pool(), valid(64), pool()),
            *(Flatten(), Dense(128, "relu"), Dropout(0.5)),
        ],
        "Keras's CIFAR-10": [
            *(Input((32, 32, 3)), conv(32), valid(32), pool(), Dropout(0.25)),
            *(conv(64), valid(64), pool(), Dropout(0.25)),
            *(Flatten(), Dense(512, "relu"), Dropout(0.5)),
        ],
        "VGG, normed": [
            *(Input((32, 32, 3)), *normed(32), *normed(32), pool(), *normed(64), *normed(64)),
            *(pool(), *normed(128), *normed(128), pool(), Flatten()),
        ],
        "strides, normed": [
            *(Input((28, 28, 1)), *normed(32), *normed(32), *normed(32, 2), Dropout(0.4)),
            *(*normed(64), *normed(64), *normed(64, 2), Dropout(0.4)),
            *(Flatten(), Dense(128), BatchNormalization(), ReLU()),
        ],
        "strides": [
            *(Input((32, 32, 3)), conv(32, strides=2), conv(64, strides=2), conv(128, strides=2)),
            GlobalAveragePooling2D(),
        ],
        "1x1 kernels": [
            *(Input((16, 16, 64)), conv(64, 1), conv(64, 1), conv(64), conv(128, 1)),
            GlobalAveragePooling2D(),
        ],
        "5x5 kernels": [
            *(Input((32, 32, 3)), conv(32, 5), pool(), conv(32, 5), pool(), conv(64, 5), pool()),
            Flatten(),
        ],
        "large images": [
            *(Input((64, 64, 3)), valid(16), pool(), valid(32), pool(), valid(64), pool()),
            *(Flatten(), Dense(64, "relu")),
        ],
    }


Call = tuple[Callable[[], object], int]
"""What is timed, and of how many images it is."""


def least(call: Call, seconds: float) -> float:
    """The least microseconds an image."""
    run, images = call
    run()
    times = []
    for _ in range(REPEATS):
        runs, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            run()
            runs += 1
        times.append(took / (runs * images) * 1e6)
    return min(times)


def calls(train: Callable[[int], object], infer: Callable[[int], object]) -> list[Call]:
    """Those of `CALLS`: training in batches, inference of so many images."""
    trainings = [(partial(train, batch), IMAGES) for batch in BATCHES]
    return [*trainings, (partial(infer, 1), 1), (partial(infer, IMAGES), IMAGES)]


def of_cnnrs(model: Sequential, x: Any, y: Any) -> list[Call]:
    """The calls in cnnrs."""

    def infer(images: int) -> None:
        for first in range(0, images, 128):
            model.predict(x[first : min(first + 128, images)])

    return calls(lambda batch: model.fit(x, y, batch, verbose=0, shuffle=False), infer)


def of_torch(network: Network, x: Any, y: Any, layout: Any, fused: bool) -> list[Call]:
    """The calls in PyTorch."""
    module = network.module.to(memory_format=layout)
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, fused=fused)

    def train(batch: int) -> None:
        module.train()
        for inputs, labels in zip(x.split(batch), y.split(batch), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()

    def infer(images: int) -> None:
        module.eval()
        with torch.inference_mode():
            for inputs in x[:images].split(128):
                module(inputs)

    return calls(train, infer)


def row(layers: list[Any], seconds: float) -> list[tuple[float, float]]:
    """Microseconds an image of cnnrs and of PyTorch, for each of the calls."""
    model = Sequential([*layers, Dense(CLASSES)])
    model.compile(SGD(0.01, momentum=0.9), SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x = rng.random((IMAGES, *model.input_shape[1:]), np.float32)
    y = rng.integers(0, CLASSES, IMAGES)
    np.testing.assert_allclose(Network(model).predict(x), model.predict(x), rtol=1e-3, atol=1e-4)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    layouts = [torch.contiguous_format, torch.channels_last][: 1 + (x.ndim == 4)]
    peers = [
        of_torch(Network(model), *tensors, layout, fused)
        for layout in layouts
        for fused in (False, True)
    ]
    return [
        (least(ours, seconds), min(least(theirs, seconds) for theirs in others))
        for ours, *others in zip(of_cnnrs(model, x, y), *peers, strict=True)
    ]


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of both (default 1)")
    parser.add_argument("--seconds", type=float, default=0.3, help="a measurement (default 0.3)")
    parser.add_argument("--networks", nargs="*", choices=list(networks()), metavar="NAME")
    options = parser.parse_args()

    machine = children.machine()
    print(f"{machine['processor']}, threads: {options.threads}; PyTorch {torch.__version__}")
    children.warn_if_busy(machine)
    children.pin(children.cpus()[-options.threads :])
    torch.set_num_threads(options.threads)
    cnnrs.set_num_threads(options.threads)
    print(f"{'us an image, PyTorch/cnnrs':<28}" + "".join(f"{call:>16}" for call in CALLS))
    for name, layers in networks().items():
        if options.networks is None or name in options.networks:
            times = row(layers, options.seconds)
            cells = (f"{ours:9.1f}{theirs / ours:6.1f}x" for ours, theirs in times)
            print(f"{name:<28}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
