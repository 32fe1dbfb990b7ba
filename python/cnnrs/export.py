"""Models as ONNX files, which other programs run (the extra `onnx`).

Images lie channels last here and channels first in ONNX, so that one Transpose stands before the
first layer that looks at a pixel's neighbours. There is none behind the convolutions: a Flatten in
front of a Dense layer leaves the numbers in ONNX's order, and the rows of the Dense layer's kernel
are put into that order once, when the file is written. A Transpose would move every number of every
image instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import __version__
from cnnrs._augmentation import Augmentation
from cnnrs._checks import Shape, as_path, choice
from cnnrs._files import atomic_path
from cnnrs._layer import Layer
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

if TYPE_CHECKING:
    import onnx

    from cnnrs._structure import Structure

__all__ = ["write_onnx"]

Array: TypeAlias = npt.NDArray[Any]

OPSET, IR_VERSION = 17, 8
"""Of mid 2022: onnxruntime 1.12 and newer run it, and it has all that the layers need."""

INPUT_DTYPES = ("float32", "float64", "uint8")

LARGEST_FILE = 2**31 - 2**20
"""Bytes of weights: a protobuf file ends at 2 GiB, and the graph around the weights is small."""

ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAKY_RELU_SLOPE}),
    "elu": ("Elu", {"alpha": 1.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softplus": ("Softplus", {}),
    "exponential": ("Exp", {}),
}
"""Of each number by itself: the ONNX operator, and its attributes."""


def write_onnx(
    model: Structure, filepath: str | os.PathLike[str], input_dtype: str = "float32"
) -> None:
    """Write a model as an ONNX file; `Sequential.export` is this function as a method.

    The graph takes `input` (batch, *input shape), images channels last as the model takes them, and
    gives `output` (batch, *output shape), float32; any batch size fits. It computes what `predict`
    does, in float32 also for a float64 model, because onnxruntime has no convolution in float64.
    Dropout and random augmentation are gone, and batch normalisation is part of the convolution or
    Dense layer in front of it, if nothing stands between. The file passed ONNX's own checks before
    it got its name.

    Args:
        model: a built model.
        filepath: the file to write, replaced if it is there; a name that ends in .onnx.
        input_dtype: what the graph takes: `"float32"` (default), `"float64"` or `"uint8"`.

    Raises:
        ModuleNotFoundError: if the package onnx is not installed.
        ValueError: if the model is not built, the weights are larger than an ONNX file can be, or
            the name or the input type is another.
        TypeError: if it is no path, or a layer has no counterpart in ONNX here.
        OSError: if the file cannot be written.

    Reference: `keras.Model.export` with `format="onnx"`; https://onnx.ai/onnx/operators.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.export import write_onnx
        >>> model = Sequential([Input((4,)), Dense(3, "softmax")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_onnx(model, Path(folder, "model.onnx"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['model.onnx']
    """
    target = as_path("filepath", filepath)
    if target.suffix != ".onnx":  # or it would be taken for a file of another kind
        raise ValueError(f"{target}: expected a name that ends in .onnx")
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "export: expected the package onnx, which is not installed; "
            'pip install "cnnrs[onnx]" does that',
            name=error.name,
        ) from error
    choice("input_dtype", input_dtype, INPUT_DTYPES)
    with model._lock:
        network = model._need_network("export")
        assert model._shape is not None
        shapes = [model._shape, *network.output_shapes()]
        weights = model._by_layer(network.get_weights())
        names = network.weight_shapes()
        layers = [
            _Step(
                layer,
                inputs,
                outputs,
                dict(zip([name for name, *_ in parts], weights[layer], strict=True)),
            )
            for layer, inputs, outputs, parts in zip(
                model.layers, shapes[:-1], shapes[1:], names, strict=True
            )
        ]
    size = sum(array.size * 4 for step in layers for array in step.weights.values())
    if size > LARGEST_FILE:
        raise ValueError(
            f"export: expected weights of at most {LARGEST_FILE:,} bytes, which an ONNX file can "
            f"hold, got {size:,} in float32"
        )
    graph = _Graph(onnx, shapes[0], input_dtype)
    steps = list(_folded(layers))
    for n, step in enumerate(steps, 1):
        graph.add(step, dense_to_come=any(isinstance(it.layer, Dense) for it in steps[n:]))
    proto = graph.finish(model.name, shapes[-1])
    onnx.checker.check_model(proto, full_check=True)
    with atomic_path(target) as temporary:
        temporary.write_bytes(proto.SerializeToString())


@dataclass
class _Step:
    """A layer, the shapes of one input and output, and the weights by their names."""

    layer: Layer
    inputs: Shape
    outputs: Shape
    weights: dict[str, Array]


def _folded(steps: Sequence[_Step]) -> Iterator[_Step]:
    """The steps that compute something, a batch normalisation taken into the one before it."""
    last: _Step | None = None
    for step in steps:
        if isinstance(step.layer, Dropout | Augmentation):
            continue
        if isinstance(step.layer, Activation) and step.layer.activation == "linear":
            continue
        if (
            isinstance(step.layer, BatchNormalization)
            and last is not None
            and isinstance(last.layer, Conv2D | Dense)
            and last.layer.activation == "linear"
        ):
            scale, offset = _scale_and_offset(step)
            kernel = last.weights["kernel"] * scale  # its last axis is the output's channel
            bias = last.weights.get("bias", 0.0) * scale + offset
            last = _Step(last.layer, last.inputs, last.outputs, {"kernel": kernel, "bias": bias})
            continue
        if last is not None:
            yield last
        last = step
    if last is not None:
        yield last


def _scale_and_offset(step: _Step) -> tuple[Array, Array]:
    """A batch normalisation as `in * scale + offset`, float64 (channels,)."""
    assert isinstance(step.layer, BatchNormalization)
    mean, variance = (
        step.weights[name].astype(np.float64) for name in ("moving_mean", "moving_variance")
    )
    scale = step.weights.get("gamma", 1.0) / np.sqrt(variance + step.layer.epsilon)
    return scale, step.weights.get("beta", 0.0) - mean * scale


@dataclass
class _Graph:
    """An ONNX graph that grows by one layer at a time."""

    onnx: Any
    shape: Shape
    input_dtype: str
    value: str = "input"
    """The name of the last result."""
    channels_first: bool = False
    """Whether the last result is an image (batch, c, h, w) instead of (batch, h, w, c)."""
    order: npt.NDArray[np.intp] | None = None
    """Where it is a flattened image in ONNX's order: which of the model's numbers stands where."""
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.input_dtype != "float32":
            self.node("input/Cast", "Cast", to=self.onnx.TensorProto.FLOAT)

    def node(self, name: str, operator: str, *weights: str, **attributes: Any) -> None:
        """Feed the last result to an operator."""
        self.nodes.append(
            self.onnx.helper.make_node(
                operator, [self.value, *weights], [name], name=name, **attributes
            )
        )
        self.value = name

    def constant(self, name: str, array: npt.ArrayLike) -> str:
        """Add a weight, as float32."""
        plain = np.ascontiguousarray(array, np.float32)
        self.constants.append(self.onnx.numpy_helper.from_array(plain, name))
        return name

    def to_channels_first(self, before: str) -> None:
        if not self.channels_first:
            self.node(f"{before}/ChannelsFirst", "Transpose", perm=[0, 3, 1, 2])
            self.channels_first = True

    def to_channels_last(self, before: str) -> None:
        if self.channels_first:
            self.node(f"{before}/ChannelsLast", "Transpose", perm=[0, 2, 3, 1])
            self.channels_first = False

    def add(self, step: _Step, *, dense_to_come: bool) -> None:
        """Add a layer."""
        layer = step.layer
        match layer:
            case Conv2D():
                self.convolution(layer, step)
            case MaxPooling2D():
                self.to_channels_first(layer.name)
                self.node(f"{layer.name}/MaxPool", "MaxPool", **_windows(layer, step))
            case AveragePooling2D():
                self.to_channels_first(layer.name)
                self.node(
                    f"{layer.name}/AveragePool",
                    "AveragePool",
                    count_include_pad=0,
                    **_windows(layer, step),
                )
            case GlobalAveragePooling2D():
                self.to_channels_first(layer.name)
                self.node(f"{layer.name}/GlobalAveragePool", "GlobalAveragePool")
                if not layer.keepdims:
                    self.flatten(layer.name)
            case Flatten():
                self.flatten_image(layer, step, dense_to_come)
            case Dense():
                self.dense(layer, step)
            case Activation():
                self.activation(layer.name, layer.activation)
            case ReLU():
                self.rectify(layer)
            case BatchNormalization():
                self.normalise(layer, step)
            case Rescaling():
                self.scale(layer.name, layer.scale, layer.offset)
            case _:
                raise TypeError(
                    f"{layer.name}: expected a layer that ONNX export knows, got {layer!r}"
                )

    def convolution(self, layer: Conv2D, step: _Step) -> None:
        self.to_channels_first(layer.name)
        # (kh, kw, in, out) -> (out, in, kh, kw)
        kernel = self.constant(f"{layer.name}/kernel", step.weights["kernel"].transpose(3, 2, 0, 1))
        self.node(
            f"{layer.name}/Conv",
            "Conv",
            kernel,
            *self.bias(layer.name, step),
            **_windows(layer, step),
        )
        self.activation(layer.name, layer.activation)

    def dense(self, layer: Dense, step: _Step) -> None:
        kernel = step.weights["kernel"]
        if self.order is not None:
            kernel, self.order = kernel[self.order], None
        self.node(
            f"{layer.name}/Gemm",
            "Gemm",
            self.constant(f"{layer.name}/kernel", kernel),
            *self.bias(layer.name, step),
        )
        self.activation(layer.name, layer.activation)

    def bias(self, name: str, step: _Step) -> list[str]:
        if "bias" not in step.weights:
            return []
        return [self.constant(f"{name}/bias", step.weights["bias"])]

    def flatten(self, name: str) -> None:
        self.node(f"{name}/Flatten", "Flatten", axis=1)
        self.channels_first = False

    def flatten_image(self, layer: Flatten, step: _Step, dense_to_come: bool) -> None:
        if self.channels_first:
            h, w, c = step.inputs
            if dense_to_come:
                self.order = np.arange(h * w * c).reshape(h, w, c).transpose(2, 0, 1).ravel()
            else:
                self.to_channels_last(layer.name)
        self.flatten(layer.name)

    def activation(self, name: str, activation: str) -> None:
        if activation == "softmax":
            self.to_channels_last(name)
            self.node(f"{name}/Softmax", "Softmax", axis=-1)
        elif activation != "linear":
            operator, attributes = ACTIVATIONS[activation]
            self.node(f"{name}/{operator}", operator, **attributes)

    def rectify(self, layer: ReLU) -> None:
        name = layer.name
        if layer.negative_slope:
            self.node(f"{name}/LeakyRelu", "LeakyRelu", alpha=layer.negative_slope)
        else:
            self.node(f"{name}/Relu", "Relu")
        if layer.max_value is not None:
            self.node(f"{name}/Min", "Min", self.constant(f"{name}/max_value", layer.max_value))

    def normalise(self, layer: BatchNormalization, step: _Step) -> None:
        name, channels = layer.name, step.inputs[-1]
        if not self.channels_first and len(step.inputs) > 1:
            self.scale(name, *_scale_and_offset(step))
            return
        parts = {
            "gamma": np.ones(channels),
            "beta": np.zeros(channels),
            **step.weights,
        }
        order = slice(None) if self.order is None else self.order
        self.node(
            f"{name}/BatchNormalization",
            "BatchNormalization",
            *(
                self.constant(f"{name}/{part}", parts[part][order])
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            ),
            epsilon=layer.epsilon,
        )

    def scale(self, name: str, scale: float | Array, offset: float | Array) -> None:
        """Multiply, and then add; arrays are along the last axis."""
        if np.any(scale != np.float64(1)):
            self.node(f"{name}/Mul", "Mul", self.constant(f"{name}/scale", scale))
        if np.any(offset != np.float64(0)):
            self.node(f"{name}/Add", "Add", self.constant(f"{name}/offset", offset))

    def finish(self, name: str, outputs: Shape) -> onnx.ModelProto:
        """The whole as a model, whose last result is called `output`."""
        self.to_channels_last("")  # a name that no layer's value has
        if not self.nodes:
            self.node("output", "Identity")
        del self.nodes[-1].output[:]
        self.nodes[-1].output.append("output")
        helper, types = self.onnx.helper, self.onnx.TensorProto
        taken = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.input_dtype))
        graph = helper.make_graph(
            self.nodes,
            name or "cnnrs",
            [helper.make_tensor_value_info("input", taken, ["batch", *self.shape])],
            [helper.make_tensor_value_info("output", types.FLOAT, ["batch", *outputs])],
            self.constants,
        )
        proto: onnx.ModelProto = helper.make_model(
            graph,
            producer_name="cnnrs",
            producer_version=__version__,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        return proto


def _windows(layer: Conv2D | MaxPooling2D | AveragePooling2D, step: _Step) -> dict[str, Any]:
    """The attributes of an operator on windows; padding is given by what makes the output's size.

    The odd row or column of padding goes below or to the right.
    """
    size = layer.kernel_size if isinstance(layer, Conv2D) else layer.pool_size
    pads = [
        max((n_out - 1) * stride + window - n_in, 0)
        for n_in, n_out, window, stride in zip(
            step.inputs, step.outputs[:2], size, layer.strides, strict=False
        )
    ]
    before = [pad // 2 for pad in pads]
    after = [pad - half for pad, half in zip(pads, before, strict=True)]
    return {"kernel_shape": size, "strides": layer.strides, "pads": [*before, *after]}
