"""The layers of a `Sequential` as modules of PyTorch, which begin with the model's weights.

PyTorch is imported when it is used, never with the package.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._augmentation import Augmentation
from cnnrs._checks import Shape
from cnnrs._layer import Layer
from cnnrs._torch_augmentation import augmentation
from cnnrs.interop import AXES, CONVOLUTION, LINEAR
from cnnrs.layers import (
    LEAKY_RELU_SLOPE,
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
    Rescaling,
)
from cnnrs.models import Sequential

Array: TypeAlias = npt.NDArray[Any]

Pair: TypeAlias = tuple[int, int]

VECTOR = (0,)
"""The axes of a bias, or of a normalisation's weights, as of `AXES`."""

PREDICTED = 1000
"""Images that are judged at a time, so that the largest layer's output fits into memory."""


def tensor(array: Array) -> Any:
    """The array as a tensor; PyTorch wants one that it may write to."""
    import torch

    return torch.from_numpy(np.require(array, requirements=["W"]))


@dataclass(frozen=True)
class _Weight:
    """A weight of the model, and where PyTorch has it."""

    module: Any
    name: str
    axes: tuple[int, ...]

    def tensor(self) -> Any:
        return getattr(self.module, self.name)

    def get(self) -> Array:
        array: Array = self.tensor().detach().numpy().transpose(np.argsort(self.axes))
        return array.copy()

    def set(self, array: Array) -> None:
        self.tensor().detach().copy_(tensor(array.transpose(self.axes)))


class Network:
    """The modules of a model's layers, in the memory format channels last.

    Its outputs are the model's to rounding, and so are its batch normalisations in training but for
    one thing: PyTorch's moving variance takes the batch's with n - 1 in place of n.

    `needs_two` says whether a channel of some batch normalisation has one number an image, so that
    PyTorch cannot train it on one image alone.

    Args:
        model: built, of images (h, w, c) or vectors, and with a vector as its output.
        with_softmax: False leaves a softmax at the end to the loss, which takes logits then.

    Raises:
        ValueError: if PyTorch cannot follow a layer, or the model is of another kind.
    """

    def __init__(self, model: Sequential, *, with_softmax: bool = True) -> None:
        import torch

        compiled = model._need_network("peer")
        assert model._shape is not None
        shapes = [model._shape, *compiled.output_shapes()]
        if len(shapes[-1]) != 1:
            raise ValueError(
                f"{model.name}: expected an output (n, classes) for PyTorch to follow, got "
                f"{model.output_shape}"
            )
        self.dtype = getattr(torch, model.dtype)
        self._of_images = len(shapes[0]) == 3
        self._weights: list[_Weight] = []
        self.needs_two = False
        modules: list[Any] = []
        for layer, inputs in zip(model.layers, shapes[:-1], strict=True):
            modules += self._modules(layer, inputs)
        self._softmax: Any = None
        if not with_softmax and modules and isinstance(modules[-1], torch.nn.Softmax):
            self._softmax = modules.pop()
        self.module = torch.nn.Sequential(*modules)
        self.module.to(dtype=self.dtype, memory_format=torch.channels_last)
        self.set_weights(model.get_weights())

    @property
    def of_logits(self) -> bool:
        """Whether a softmax was left to the loss."""
        return self._softmax is not None

    def get_weights(self) -> list[Array]:
        """Copies of all weights, in the order and shapes of `Sequential.get_weights`."""
        return [weight.get() for weight in self._weights]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Copy in all weights, in the order and shapes of `Sequential.get_weights`."""
        for weight, array in zip(self._weights, weights, strict=True):
            weight.set(array)

    def prepared(self, x: Any) -> Any:
        """A batch for `module`, of a tensor of what the model is fed."""
        x = x.to(self.dtype)
        return x.permute(0, 3, 1, 2) if self._of_images else x  # A view: channels stay last.

    def predict(self, x: Array) -> Array:
        """The output, as `Sequential.predict` has it, for an array that is of the right shape."""
        import torch

        self.module.eval()
        with torch.inference_mode():
            outs = [self.module(self.prepared(part)) for part in tensor(x).split(PREDICTED)]
            out = torch.cat(outs)
            return np.asarray(out if self._softmax is None else self._softmax(out))

    def _modules(self, layer: Layer, inputs: Shape) -> Iterator[Any]:
        """The modules of a layer, whose weights are noted."""
        from torch import nn

        match layer:
            case Augmentation():
                yield _in_training(augmentation(layer))
            case Conv2D():
                before, padding = _around(layer, layer.kernel_size, inputs, 0.0)
                yield from before
                conv = nn.Conv2d(
                    inputs[-1],
                    layer.filters,
                    layer.kernel_size,
                    layer.strides,
                    padding,
                    bias=layer.use_bias,
                )
                self._note(conv, AXES[CONVOLUTION])
                yield conv
                yield from _activation(layer.activation)
            case Dense():
                linear = nn.Linear(inputs[0], layer.units, bias=layer.use_bias)
                self._note(linear, AXES[LINEAR])
                yield linear
                yield from _activation(layer.activation)
            case MaxPooling2D():
                before, padding = _around(layer, layer.pool_size, inputs, -np.inf)
                yield from before
                yield nn.MaxPool2d(layer.pool_size, layer.strides, padding)
            case AveragePooling2D():
                yield from _average_pooling(layer, inputs)
            case GlobalAveragePooling2D():
                keepdims = layer.keepdims
                yield _function(lambda x: x.mean((2, 3), keepdim=keepdims))
            case Flatten():
                if len(inputs) == 3:  # Rows, columns, channels, as they lie in memory.
                    yield _function(lambda x: x.permute(0, 2, 3, 1).flatten(1))
                else:
                    yield nn.Flatten()
            case Activation():
                yield from _activation(layer.activation, vectors=len(inputs) == 2)
            case ReLU():
                yield _relu(layer)
            case Dropout():
                yield nn.Dropout(layer.rate)
            case BatchNormalization() if len(inputs) != 2:
                yield self._norm(layer, inputs)
            case Rescaling():
                scale, offset = layer.scale, layer.offset
                yield _function(lambda x: x.mul(scale).add_(offset))
            case _:
                raise ValueError(
                    f"{layer.name}: expected a layer that PyTorch can follow, got {layer!r}"
                )

    def _norm(self, layer: BatchNormalization, inputs: Shape) -> Any:
        from torch import nn

        self.needs_two |= math.prod(inputs[:-1]) == 1
        kind = nn.BatchNorm2d if len(inputs) == 3 else nn.BatchNorm1d
        affine = layer.center or layer.scale
        norm = kind(inputs[-1], layer.epsilon, 1 - layer.momentum, affine=affine)
        # PyTorch has none or both of them: one that the layer does not have stays as it began.
        for has, name in ((layer.scale, "weight"), (layer.center, "bias")):
            if has:
                self._weights.append(_Weight(norm, name, VECTOR))
            elif affine:
                getattr(norm, name).requires_grad_(False)
        for name in ("running_mean", "running_var"):
            self._weights.append(_Weight(norm, name, VECTOR))
        return norm

    def _note(self, module: Any, axes: tuple[int, ...]) -> None:
        """Note the kernel and bias of a product."""
        self._weights.append(_Weight(module, "weight", axes))
        if module.bias is not None:
            self._weights.append(_Weight(module, "bias", VECTOR))


def _function(apply: Callable[[Any], Any]) -> Any:
    """A module without weights."""
    from torch import nn

    module = nn.Module()
    module.forward = apply
    return module


def _in_training(apply: Callable[[Any], Any]) -> Any:
    """A module that changes images in training only."""
    import torch

    module = torch.nn.Module()
    module.forward = lambda x: (
        apply(x).contiguous(memory_format=torch.channels_last) if module.training else x
    )
    return module


def _activation(name: str, *, vectors: bool = False) -> Iterator[Any]:
    """The module of an activation, if it does anything; of `vectors` (n, h, w) the softmax is."""
    import torch
    from torch import nn

    match name:
        case "linear":
            pass
        case "relu":
            yield nn.ReLU()
        case "leaky_relu":
            yield nn.LeakyReLU(LEAKY_RELU_SLOPE)
        case "elu":
            yield nn.ELU()
        case "sigmoid":
            yield nn.Sigmoid()
        case "tanh":
            yield nn.Tanh()
        case "softplus":
            yield nn.Softplus()
        case "exponential":
            yield _function(torch.exp)
        case "softmax":
            yield nn.Softmax(-1 if vectors else 1)
        case _:
            raise ValueError(f"activation: expected one that PyTorch can follow, got {name!r}")


def _relu(layer: ReLU) -> Any:
    from torch import nn

    slope, most = layer.negative_slope, layer.max_value
    if most is not None:
        return _function(lambda x: nn.functional.leaky_relu(x, slope).clamp(max=most))
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _average_pooling(layer: AveragePooling2D, inputs: Shape) -> Iterator[Any]:
    """The mean over what is inside of the image."""
    import torch
    from torch import nn

    before, padding = _around(layer, layer.pool_size, inputs, 0.0)
    yield from before
    yield nn.AvgPool2d(layer.pool_size, layer.strides, padding, count_include_pad=False)
    if before:
        ones = before[0](torch.ones(1, 1, *inputs[:2], dtype=torch.float64))
        shares = nn.functional.avg_pool2d(ones, layer.pool_size, layer.strides)
        yield _function(lambda x: x / shares.to(x.dtype))


def _around(layer: Any, window: Pair, inputs: Shape, value: float) -> tuple[list[Any], Pair]:
    """What pads an image: a module in front, or if both sides are alike, (rows, columns) for both.

    With `"same"` padding the odd one is below and to the right, which PyTorch's layers do not do.
    """
    from torch import nn

    missing = [
        max((-(-size // stride) - 1) * stride + length - size, 0) if layer.padding == "same" else 0
        for size, length, stride in zip(inputs[:2], window, layer.strides, strict=True)
    ]
    above, left = (count // 2 for count in missing)
    below, right = missing[0] - above, missing[1] - left
    if (above, left) == (below, right):
        return [], (above, left)
    return [nn.ConstantPad2d((left, right, above, below), value)], (0, 0)
