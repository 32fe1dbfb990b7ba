"""PyTorch in the peer benchmark: eager mode, NCHW or channels last.

Batches are tensors in the layout of the variant, made before the clock starts. Nothing is read back
while training: no loss, no accuracy. Inference runs in `inference_mode`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from networks import Array, Conv, Dense, Flatten, Network, Pool
from peers_rows import BatchWork, Row, Work

VERSIONS = {"torch": torch.__version__}


def prepare(
    key: str, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], threads: int
) -> Work:
    """Get ready for a row."""
    torch.set_num_threads(threads)
    return TorchWork(row, images, labels, channels_last=key == "torch-nhwc")


def modules(network: Network) -> nn.Sequential:
    """The network's layers in PyTorch, without the softmax."""
    layers: list[nn.Module] = []
    for layer, before, _ in network.steps():
        match layer:
            case Conv(filters, size, same, bias, relu):
                padding = size // 2 if same else 0
                layers.append(nn.Conv2d(before[-1], filters, size, padding=padding, bias=bias))
                layers += [nn.ReLU()] if relu else []
            case Pool():
                layers.append(nn.MaxPool2d(2))
            case Flatten():
                layers.append(nn.Flatten())
            case Dense(units, relu):
                layers.append(nn.Linear(before[0], units))
                layers += [nn.ReLU()] if relu else []
    return nn.Sequential(*layers)


def converted(network: Network, weights: list[Array]) -> list[torch.Tensor]:
    """Weights in PyTorch's order of axes; behind `Flatten`, channels come first there."""
    tensors: list[torch.Tensor] = []
    flattened = None
    given = iter(weights)
    for layer, before, _ in network.steps():
        if isinstance(layer, Flatten):
            flattened = before
        elif isinstance(layer, Conv):
            tensors.append(torch.from_numpy(next(given).transpose(3, 2, 0, 1).copy()))
            if layer.bias:
                tensors.append(torch.from_numpy(next(given)))
        elif isinstance(layer, Dense):
            kernel = next(given)
            if flattened is not None:
                cube = kernel.reshape(*flattened, -1).transpose(2, 0, 1, 3)
                kernel, flattened = cube.reshape(kernel.shape), None
            tensors += [torch.from_numpy(kernel.T.copy()), torch.from_numpy(next(given))]
    return tensors


class TorchWork(BatchWork):
    """Training or inference, one batch a call."""

    def __init__(self, *arguments: Any, channels_last: bool) -> None:
        super().__init__(*arguments)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.start = converted(self.network, self.weights)
        self.model = modules(self.network).to(memory_format=layout)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.row.rate)
        self.images_per_call = self.row.batch
        self.calls = []
        for x, y in self.batches():
            # With one channel only the strides tell the layouts apart, and PyTorch looks at them.
            planes = x.transpose(0, 3, 1, 2)
            image = torch.from_numpy(planes if channels_last else planes.copy())
            label = torch.from_numpy(y.astype(np.int64))
            self.calls.append((image, label) if self.row.task == "train" else (image,))

    def reset(self) -> None:
        with torch.no_grad():
            for parameter, start in zip(self.model.parameters(), self.start, strict=True):
                parameter.copy_(start)

    def step(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is None:
            with torch.inference_mode():
                return torch.softmax(self.model(x), 1)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def numbers(self, result: torch.Tensor) -> Array:
        return np.asarray(result.detach())
