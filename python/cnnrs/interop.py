"""Weights from other libraries.

Those of a Keras model need no help: `model.set_weights(keras_model.get_weights())`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._arrays import real
from cnnrs._checks import Shape
from cnnrs._layer import Layer
from cnnrs.layers import BatchNormalization, Conv2D, Dense, Flatten
from cnnrs.models import Sequential

__all__ = ["from_torch"]

Array: TypeAlias = npt.NDArray[Any]

IGNORED = "num_batches_tracked"
PARTS = ("weight", "bias", "running_mean", "running_var")

CONVOLUTION, LINEAR, NORM = "Conv2d", "Linear", "BatchNorm"
"""PyTorch's names of the modules that have weights here."""

AXES = {CONVOLUTION: (3, 2, 0, 1), LINEAR: (1, 0)}
"""Which axis of a kernel of ours, (kh, kw, in, out) or (in, out), each of PyTorch's is."""


def from_torch(
    source: Mapping[str, Any] | str | os.PathLike[str],
    model: Sequential,
    order: Sequence[str] | None = None,
) -> Sequential:
    """Take the weights of a PyTorch network over into a model of the same layers.

    Kernels are turned from PyTorch's order of axes into ours: those of a `Conv2d` from
    (out, in, h, w), those of a `Linear` from (out, in), and the inputs of the first `Linear` behind
    a `Flatten` from channels, rows, columns into rows, columns, channels. PyTorch's network takes
    images (n, c, h, w), the model the same images as (n, h, w, c).

    The n-th `Conv2d` belongs to the n-th `Conv2D`, and so do each `Linear` and `Dense`,
    `BatchNorm1d` or `BatchNorm2d` and `BatchNormalization`. These correspond:

    | PyTorch | here |
    | --- | --- |
    | `Conv2d(i, o, k, stride=s)`, `dilation` and `groups` 1 | `Conv2D(o, k, strides=s)` |
    | ... with `padding=k // 2`, k odd, stride 1 | ... with `padding="same"` |
    | ... or `Linear` with `bias=False` | ... with `use_bias=False` |
    | `BatchNorm2d(c)` | `BatchNormalization(epsilon=1e-5, momentum=0.9)` |
    | ... with `affine=False` | ... with `center=False, scale=False` |
    | `MaxPool2d(k)`, `AvgPool2d(k)`, without padding | `MaxPooling2D(k)`, `AveragePooling2D(k)` |
    | `LeakyReLU(a)` | `ReLU(negative_slope=a)` |

    Weights do not tell strides, padding, activations and epsilons: those are the user's to match. A
    stride above 1 with padding has no counterpart, as PyTorch pads above and to the left first.

    Args:
        source: a state_dict, whose values are tensors or arrays (PyTorch itself is not needed), or
            the path of a `.safetensors` file.
        model: a built model, which is changed.
        order: the modules' names (`"conv1"` for `conv1.weight`) in the order of the model's layers.
            By default (None) it is the state_dict's. A file, and what is read from one, has the
            order of the alphabet instead; there, numbers in names count as numbers.

    Returns:
        The model.

    Raises:
        TypeError: if an argument is something else, or the source holds no real numbers.
        ValueError: if the model is not built, the order does not have each module once, a tensor is
            missing or left over, or its shape does not fit its layer. The model stays as it was.
        OSError: if the file cannot be read.

    Reference: `torch.nn.Module.load_state_dict`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Dense, Input, Sequential, from_torch
        >>> state_dict = {"0.weight": np.array([[2.0, 3.0]]), "0.bias": np.array([1.0])}
        >>> model = from_torch(state_dict, Sequential([Input((2,)), Dense(1)]))
        >>> model.predict([[1.0, 1.0]]).tolist()
        [[6.0]]
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {model!r}")
    modules = _in_order(_modules(_read(source)), order)
    with model._lock:
        shapes = model._need_network("from_torch").weight_shapes()
        wanted = [
            (layer, parts) for layer, parts in zip(model.layers, shapes, strict=True) if parts
        ]
        matched = _matched([layer for layer, _ in wanted], modules)
        positions = _flat_positions(model)
        weights: list[Array] = []
        for layer, parts in wanted:
            module = matched[layer]
            if module.kind == NORM:
                weights += _norm(layer, parts, module, positions.get(layer))
            else:
                weights += _product(layer, parts, module, positions.get(layer))
        model.set_weights(weights)
    return model


@dataclass
class _Module:
    """The tensors of one PyTorch module, by the last part of their names."""

    name: str
    parts: dict[str, Array]

    @property
    def kind(self) -> str:
        weight = self.parts.get("weight")
        if "running_mean" in self.parts or "running_var" in self.parts:
            return NORM
        if weight is None:
            raise ValueError(f"{self.tensor('weight')}: expected a tensor, got {self} without it")
        kinds = {4: CONVOLUTION, 2: LINEAR}
        if weight.ndim not in kinds:
            raise ValueError(
                f"{self.tensor('weight')}: expected a {CONVOLUTION} of 4 axes, a {LINEAR} of 2, or "
                f"a {NORM} with running_mean and running_var, got shape {weight.shape}"
            )
        return kinds[weight.ndim]

    def tensor(self, part: str) -> str:
        return f"{self.name}.{part}" if self.name else part

    def __str__(self) -> str:
        return self.name or "a module"


def _read(source: Any) -> dict[str, Array]:
    """The tensors as arrays, by their names."""
    if isinstance(source, Mapping):
        tensors = {name: value for name, value in source.items() if _part(name) != IGNORED}
        return {name: _array(name, value) for name, value in tensors.items()}
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "source: expected a state_dict or the path of a .safetensors file, got "
            f"{type(source).__name__}; a module's is module.state_dict()"
        )
    if not os.fspath(source).endswith(".safetensors"):
        raise ValueError(
            f"source: expected a .safetensors file, got {os.fspath(source)}; give what "
            f"torch.load(path, weights_only=True) returns instead"
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "numpy") as file:
            names = [name for name in sorted(file.keys()) if _part(name) != IGNORED]
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, TypeError, AttributeError) as error:  # two of types NumPy lacks
        raise ValueError(
            f"source: expected a .safetensors file of numbers that NumPy has, got "
            f"{os.fspath(source)}: {error}"
        ) from error
    return {name: real(name, array) for name, array in tensors.items()}


def _array(name: str, value: Any) -> Array:
    """A tensor or an array as an array of real numbers."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        try:
            value = value.numpy()
        except TypeError:  # bfloat16, which NumPy does not have
            value = value.float().numpy()
    return real(name, value)


def _part(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"source: expected names of tensors, got {name!r}")
    return name.rpartition(".")[2]


def _modules(tensors: Mapping[str, Array]) -> list[_Module]:
    """The modules in the order of the network, as far as the names tell it."""
    names = list(tensors)
    if names == sorted(names):  # A module's own order has each weight before its bias.
        names.sort(key=_natural)
    modules: dict[str, _Module] = {}
    for name in names:
        prefix, _, part = name.rpartition(".")
        if part not in PARTS:
            raise ValueError(
                f"{name}: expected tensors of a {CONVOLUTION}, {LINEAR} or {NORM}, which end in "
                f"{', '.join(PARTS)}, got shape {tensors[name].shape}"
            )
        modules.setdefault(prefix, _Module(prefix, {})).parts[part] = tensors[name]
    return list(modules.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which "layers.2" comes before "layers.10"."""
    return [
        (int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)
    ]


def _in_order(modules: list[_Module], order: Sequence[str] | None) -> list[_Module]:
    if order is None:
        return modules
    if not isinstance(order, list | tuple) or not all(isinstance(name, str) for name in order):
        raise TypeError(f"order: expected a list of modules' names, got {order!r}")
    by_name = {module.name: module for module in modules}
    if sorted(order) != sorted(by_name):
        raise ValueError(f"order: expected each of {list(by_name)} once, got {list(order)}")
    return [by_name[name] for name in order]


def _kind_of(layer: Layer) -> str:
    if isinstance(layer, Conv2D):
        return CONVOLUTION
    if isinstance(layer, Dense):
        return LINEAR
    if isinstance(layer, BatchNormalization):
        return NORM
    raise ValueError(f"{layer.name}: expected a layer that PyTorch has too, got {layer!r}")


def _matched(layers: Sequence[Layer], modules: Sequence[_Module]) -> dict[Layer, _Module]:
    """For each layer the module whose weights it takes."""
    matched: dict[Layer, _Module] = {}
    for kind in (CONVOLUTION, LINEAR, NORM):
        mine = [layer for layer in layers if _kind_of(layer) == kind]
        theirs = [module for module in modules if module.kind == kind]
        if len(mine) != len(theirs):
            raise ValueError(
                f"source: expected {_listed(kind, [layer.name for layer in mine])}, as the model "
                f"has, got {_listed(kind, [str(module) for module in theirs])}"
            )
        matched |= zip(mine, theirs, strict=True)
    return matched


def _listed(kind: str, names: Sequence[str]) -> str:
    return f"{len(names)} {kind}" + (f" ({', '.join(names)})" if names else "")


def _flat_positions(model: Sequential) -> dict[Layer, npt.NDArray[np.intp]]:
    """For layers fed a flattened image: where in PyTorch's row each of the model's numbers is."""
    found: dict[Layer, npt.NDArray[np.intp]] = {}
    positions: npt.NDArray[np.intp] | None = None
    inputs: Shape = model._shape or ()
    for layer, outputs in zip(
        model.layers, model._need_network("from_torch").output_shapes(), strict=True
    ):
        if positions is not None:
            found[layer] = positions
        if isinstance(layer, Flatten) and len(inputs) == 3:
            h, w, c = inputs
            positions = np.arange(h * w * c).reshape(c, h, w).transpose(1, 2, 0).ravel()
        elif isinstance(layer, Dense):
            positions = None
        inputs = outputs
    return found


_Parts: TypeAlias = list[tuple[str, Shape, bool]]


def _product(
    layer: Layer, parts: _Parts, module: _Module, positions: npt.NDArray[np.intp] | None
) -> Iterator[Array]:
    """The kernel and bias of a convolution or Dense layer."""
    shapes = {name: shape for name, shape, _ in parts}
    kernel = shapes["kernel"]
    weight = module.parts["weight"]
    axes = AXES[module.kind]
    _check(module, "weight", layer, tuple(kernel[axis] for axis in axes))
    turned = weight.transpose(np.argsort(axes))
    yield turned if positions is None else turned[positions]
    if "bias" in shapes:
        _check(module, "bias", layer, shapes["bias"], "give the layer use_bias=False")
        yield module.parts["bias"]
    elif "bias" in module.parts:
        raise ValueError(
            f"{module.tensor('bias')}: expected none for {layer.name}, which has use_bias=False, "
            f"got shape {module.parts['bias'].shape}"
        )


def _norm(
    layer: Layer, parts: _Parts, module: _Module, positions: npt.NDArray[np.intp] | None
) -> Iterator[Array]:
    """The weights of a batch normalisation."""
    theirs = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    switches = {"gamma": "scale=False", "beta": "center=False"}
    names = [name for name, *_ in parts]
    for ours, switch in switches.items():
        part = theirs[ours]
        if ours not in names and part in module.parts:
            raise ValueError(
                f"{module.tensor(part)}: expected none for {layer.name}, which has {switch}, got "
                f"shape {module.parts[part].shape}"
            )
    for ours, shape, _ in parts:
        advice = f"give the layer {switches[ours]}" if ours in switches else ""
        _check(module, theirs[ours], layer, shape, advice)
        array = module.parts[theirs[ours]]
        yield array if positions is None else array[positions]


def _check(module: _Module, part: str, layer: Layer, shape: Shape, advice: str = "") -> None:
    """Refuse a tensor that is not there or of another shape."""
    array = module.parts.get(part)
    if array is None:
        raise ValueError(
            f"{module.tensor(part)}: expected shape {shape} for {layer.name}, got no such tensor"
            + (f"; {advice}" if advice else "")
        )
    if array.shape != shape:
        raise ValueError(
            f"{module.tensor(part)}: expected shape {shape} for {layer.name}, got {array.shape}"
        )
