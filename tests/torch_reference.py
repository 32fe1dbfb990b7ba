"""The layers, losses and optimizers of the model face written with PyTorch, in float64.

Gradients are PyTorch's; the formulas of the optimizers are those of Keras 3, which PyTorch's differ
from in where epsilon and the learning rate stand.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")  # Doctests are looked for in here too.

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from cnnrs import (  # noqa: E402
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
    Rescaling,
)
from cnnrs.layers import Layer  # noqa: E402
from cnnrs.losses import (  # noqa: E402
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from cnnrs.optimizers import SGD, Adam, Optimizer  # noqa: E402

Array: TypeAlias = npt.NDArray[Any]

CLIP = 1e-7
"""Keras keeps probabilities that far from 0 and 1 before it takes their logarithm."""

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "exponential": torch.exp,
    "softmax": lambda x: torch.softmax(x, -1),
}


def tensor(array: npt.ArrayLike) -> Tensor:
    return torch.from_numpy(np.array(array, np.float64))


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's rule: as many windows as strides begin, the odd zero behind."""
    missing = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return missing // 2, missing - missing // 2


def padded(x: Tensor, layer: Any, window: Sequence[int], value: float) -> Tensor:
    """Images (n, c, h, w) with what the layer's padding puts around them."""
    if layer.padding == "valid":
        return x
    above, below = same_padding(x.shape[2], window[0], layer.strides[0])
    left, right = same_padding(x.shape[3], window[1], layer.strides[1])
    return F.pad(x, (left, right, above, below), value=value)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@dataclass
class Product:
    """A product of inputs and weights, of which the input and the output are kept."""

    layer: Conv2D | Dense
    first: int
    """The index of its kernel among all weights; the bias follows."""
    x: Tensor
    z: Tensor


@dataclass
class Norm:
    """A batch normalisation in training."""

    first: int
    """The index of its first weight."""
    trained: int
    """How many of its weights are trained."""
    out: Tensor
    xhat: Tensor
    gain: float
    """How many times larger than the output's gradient the input's can be, before it cancels."""


class Reference:
    """A network of the given layers and weights, which are those of `Sequential.get_weights`."""

    def __init__(self, layers: Sequence[Layer], weights: Sequence[Array]) -> None:
        self.layers = layers
        self.weights = [tensor(array).requires_grad_() for array in weights]
        self.trained = [flag for layer in layers for flag in _trained(layer)]
        assert len(self.trained) == len(self.weights)

    def __call__(self, x: npt.ArrayLike, *, training: bool = False) -> Tensor:
        """The output for images (n, ...).

        Sets `margin`, how far from a corner of ReLU or a tie in max pooling this was, as a share of
        the largest number there; in training `moving`, the new moving averages by index; and
        `logits`, what the last softmax had if it made the output.
        """
        self.margin = math.inf
        self.moving: dict[int, Tensor] = {}
        self.steps: list[Product | Norm] = []
        self.logits: Tensor | None = None
        out, first = tensor(x), 0
        for layer in self.layers:
            if not (isinstance(layer, Flatten) and out.ndim == 2):
                self.logits = None
            out = self._apply(layer, out, first, training)
            first += len(_trained(layer))
        return out

    def losses(self, loss: Loss, out: Tensor, y: Array) -> Tensor:
        """The loss of each image, from the output of the last call."""
        if isinstance(loss, MeanSquaredError):
            return ((out - tensor(y)) ** 2).flatten(1).mean(1)
        assert isinstance(loss, SparseCategoricalCrossentropy | CategoricalCrossentropy)
        classes = out.shape[-1]
        if isinstance(loss, SparseCategoricalCrossentropy):
            y = np.eye(classes)[y]
        smoothing = getattr(loss, "label_smoothing", 0.0)
        target = tensor(y) * (1 - smoothing) + smoothing / classes
        if loss.from_logits:
            logs = F.log_softmax(out, -1)
        elif self.logits is not None:  # As Keras on TensorFlow does: nothing is clipped.
            logs = F.log_softmax(self.logits, -1)
        else:
            logs = torch.log(torch.clamp(out / out.sum(-1, keepdim=True), CLIP, 1 - CLIP))
        return -(target * logs).sum(-1)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradients of all weights, zeros for those that are not trained."""
        for weight in self.weights:
            weight.grad = None
        if loss.requires_grad:
            loss.backward()
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]

    def terms(self) -> list[float]:
        """After `gradients`: how large the numbers are that each weight's gradient is the sum of.

        What comes through a batch normalisation is a difference itself: before it, its terms count.
        """
        sizes = [0.0] * len(self.weights)
        floor = 0.0
        for step in reversed(self.steps):
            if isinstance(step, Norm):
                if step.out.grad is None:  # Nothing before it, nor it itself, is trained.
                    continue
                d = step.out.grad.abs() + floor
                rows = d.reshape(-1, d.shape[-1])
                sums = (rows * step.xhat.abs().reshape(rows.shape)).sum(0), rows.sum(0)
                for index in range(step.first, step.first + step.trained):
                    sizes[index] = max(float(sum_.max()) for sum_ in sums)
                floor = max(floor, 3 * step.gain * float(d.max()))
                continue
            d, x = step.z.grad.abs() + floor, step.x.abs()
            if isinstance(step.layer, Dense):
                of_kernel, of_bias = x.T @ d, d.sum(0)
            else:
                shape = self.weights[step.first].permute(3, 2, 0, 1).shape
                strides = step.layer.strides
                of_kernel = torch.nn.grad.conv2d_weight(x, shape, d.contiguous(), strides)
                of_bias = d.sum((0, 2, 3))
            sizes[step.first] = float(of_kernel.max())
            if step.layer.use_bias:
                sizes[step.first + 1] = float(of_bias.max())
        return sizes

    def _apply(self, layer: Layer, x: Tensor, first: int, training: bool) -> Tensor:
        match layer:
            case Conv2D():
                x = padded(channels_first(x), layer, layer.kernel_size, 0.0)
                kernel = self.weights[first].permute(3, 2, 0, 1).contiguous()
                bias = self.weights[first + 1] if layer.use_bias else None
                z = F.conv2d(x, kernel, bias, layer.strides)
                self._keep(Product(layer, first, x.detach(), z), z)
                return self._activation(layer.activation, channels_last(z))
            case Dense():
                z = x @ self.weights[first]
                if layer.use_bias:
                    z = z + self.weights[first + 1]
                self._keep(Product(layer, first, x.detach(), z), z)
                return self._activation(layer.activation, z)
            case MaxPooling2D():
                x = padded(channels_first(x), layer, layer.pool_size, -math.inf)
                self._watch_ties(x, layer)
                return channels_last(F.max_pool2d(x, layer.pool_size, layer.strides))
            case AveragePooling2D():
                x = channels_first(x)
                size, strides = layer.pool_size, layer.strides
                ones = padded(torch.ones_like(x), layer, size, 0.0)
                share = F.avg_pool2d(ones, size, strides)
                return channels_last(
                    F.avg_pool2d(padded(x, layer, size, 0.0), size, strides) / share
                )
            case GlobalAveragePooling2D():
                return x.mean((1, 2), keepdim=layer.keepdims)
            case Flatten():
                return x.flatten(1)
            case Activation():
                return self._activation(layer.activation, x)
            case ReLU():
                self._watch_corner(x)
                x = F.leaky_relu(x, layer.negative_slope)
                if layer.max_value is None:
                    return x
                self._watch_corner(x - layer.max_value)
                return torch.clamp(x, max=layer.max_value)
            case BatchNormalization():
                return self._normalise(layer, x, first, training)
            case Rescaling():
                return x * layer.scale + layer.offset
        raise TypeError(layer)

    def _activation(self, name: str, x: Tensor) -> Tensor:
        if name in ("relu", "leaky_relu"):
            self._watch_corner(x)
        if name == "softmax":
            self.logits = x
        return ACTIVATIONS[name](x)

    def _normalise(
        self, layer: BatchNormalization, x: Tensor, first: int, training: bool
    ) -> Tensor:
        weights = iter(self.weights[first:])
        gamma = next(weights) if layer.scale else torch.ones(x.shape[-1], dtype=x.dtype)
        beta = next(weights) if layer.center else torch.zeros(x.shape[-1], dtype=x.dtype)
        mean, variance = next(weights), next(weights)
        trained = layer.scale + layer.center
        if training:
            moving = mean, variance
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes, unbiased=False)
            for n, (old, new) in enumerate(zip(moving, (mean, variance), strict=True)):
                mixed = layer.momentum * old + (1 - layer.momentum) * new
                self.moving[first + trained + n] = mixed.detach()
        inverse = 1 / torch.sqrt(variance + layer.epsilon)
        xhat = (x - mean) * inverse
        out = gamma * xhat + beta
        if training:
            gain = float((gamma * inverse).abs().max().detach())
            self._keep(Norm(first, trained, out, xhat.detach(), gain), out)
        return out

    def _keep(self, step: Product | Norm, out: Tensor) -> None:
        if out.requires_grad:
            out.retain_grad()
        self.steps.append(step)

    def _watch_corner(self, x: Tensor) -> None:
        """Numbers that are 0 by themselves, as behind another ReLU, have no gradient anyway."""
        self._watch(x.detach().abs(), x.detach())

    def _watch_ties(self, x: Tensor, layer: MaxPooling2D) -> None:
        """The same for windows of equal numbers."""
        if layer.pool_size == (1, 1):
            return
        x = x.detach()
        windows = x.unfold(2, layer.pool_size[0], layer.strides[0])
        windows = windows.unfold(3, layer.pool_size[1], layer.strides[1]).flatten(-2)
        first, second = windows.topk(2, -1).values.unbind(-1)
        self._watch(first - second, first)

    def _watch(self, distances: Tensor, numbers: Tensor) -> None:
        distances = distances[(distances > 0) & torch.isfinite(distances)]
        if distances.numel():
            self.margin = min(self.margin, float(distances.min() / numbers.abs().max()))


def _trained(layer: Layer) -> list[bool]:
    """Of each of the layer's weights, whether it is trained."""
    if isinstance(layer, BatchNormalization):
        return [True] * (layer.scale + layer.center) + [False, False]
    return [True] * (1 + layer.use_bias) if isinstance(layer, Conv2D | Dense) else []


class Descent:
    """An optimizer by Keras's formulas."""

    def __init__(self, optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
        self.optimizer = optimizer
        self.step = 0
        self.slots = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]

    def __call__(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], rate: float
    ) -> Iterator[Tensor]:
        """The weights after a step."""
        self.step += 1
        for (m, v), w, g in zip(self.slots, weights, gradients, strict=True):
            yield self._one(m, v, w, g, rate)

    def _one(self, m: Tensor, v: Tensor, w: Tensor, g: Tensor, rate: float) -> Tensor:
        it = self.optimizer
        if isinstance(it, Adam):
            w = w - rate * it.weight_decay * w
            m += (g - m) * (1 - it.beta_1)
            v += (g * g - v) * (1 - it.beta_2)
            alpha = rate * math.sqrt(1 - it.beta_2**self.step) / (1 - it.beta_1**self.step)
            return w - alpha * m / (torch.sqrt(v) + it.epsilon)
        assert isinstance(it, SGD)
        m.mul_(it.momentum).sub_(rate * g)
        return w + (it.momentum * m - rate * g if it.nesterov else m)
