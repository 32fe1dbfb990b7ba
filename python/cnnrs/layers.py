"""The layers of a `Sequential` model, with Keras's names, arguments and defaults.

A layer object is a description: its weights live in the compiled network of the model that it was
added to, and it belongs to one model at a time. Images are arrays (n, height, width, channels).

Layers named `Random...` change images at random in training, and leave them as they are else:
`RandomTranslation`, `RandomRotation` and `RandomZoom` move, rotate and zoom them, `RandomAffine`
does all that and shears them, `RandomFlip` mirrors them, `RandomElastic` distorts them,
`RandomErasing` paints over a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, Unpack

from cnnrs import initializers
from cnnrs._augmentation import (
    RandomAffine,
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from cnnrs._checks import (
    at_least_0,
    between,
    channels_last,
    choice,
    finite_above_0,
    flag,
    from_0_below_1,
    integer,
    number,
    only,
    pair,
)
from cnnrs._layer import Common, Input, Layer
from cnnrs.initializers import InitializerLike

__all__ = [
    "Activation",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "Input",
    "Layer",
    "MaxPool2D",
    "MaxPooling2D",
    "RandomAffine",
    "RandomElastic",
    "RandomErasing",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "ReLU",
    "Rescaling",
]

Pair: TypeAlias = int | Sequence[int]
"""One number for height and width, or two."""

ACTIVATIONS = (
    "linear",
    "relu",
    "leaky_relu",
    "elu",
    "sigmoid",
    "tanh",
    "softplus",
    "exponential",
    "softmax",
)

LEAKY_RELU_SLOPE = 0.2
"""Of `"leaky_relu"` below 0, as in Keras."""


class Conv2D(Layer):
    """A convolution over images: (n, h, w, c) -> (n, h_out, w_out, filters).

    `out[i, j, f] = activation(bias[f] + sum over y, x, c of
    in[i * sh + y, j * sw + x, c] * kernel[y, x, c, f])`

    With `"valid"` padding h_out is `(h - kh) // sh + 1`; with `"same"` it is h / sh rounded up, the
    image being surrounded by zeros, the odd one below and to the right. Weights: `kernel`
    (kh, kw, c, filters) and `bias` (filters,).

    Args:
        filters: how many filters, at least 1.
        kernel_size: height and width of the kernel, or one number for both.
        strides: how far to move down and right, or one number for both; 1 by default.
        padding: `"valid"` (default) or `"same"`, in capitals or not.
        data_format: `"channels_last"` or None (default), which is the same.
        dilation_rate: 1 (default).
        groups: 1 (default).
        activation: a name as in `Activation`; None (default) is `"linear"`.
        use_bias: whether to add a bias, True by default.
        kernel_initializer: how the kernel begins, `"glorot_uniform"` by default.
        bias_initializer: how the bias begins, `"zeros"` by default.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a size is no integer, or `use_bias` neither True nor False.
        ValueError: if a size is not positive, or a value is none of the above.

    Reference: `keras.layers.Conv2D`.

    Example:
        >>> from cnnrs import Conv2D, Input, Sequential
        >>> Sequential([Input((28, 28, 1)), Conv2D(8, 3, activation="relu")]).output_shape
        (None, 26, 26, 8)
    """

    _kind = "conv2d"
    _settings = ("filters", "kernel_size", "strides", "padding", "activation", "use_bias")
    _weights = ("kernel", "bias")

    def __init__(
        self,
        filters: int,
        kernel_size: Pair,
        strides: Pair = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Pair = (1, 1),
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike | None = "glorot_uniform",
        bias_initializer: InitializerLike | None = "zeros",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.filters = integer("filters", filters)
        self.kernel_size = pair("kernel_size", kernel_size)
        self.strides = pair("strides", strides)
        self.padding = _padding(padding)
        channels_last(data_format)
        only("dilation_rate", pair("dilation_rate", dilation_rate), (1, 1))
        only("groups", groups, 1)
        self.activation = _activation(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = _initializer("kernel", kernel_initializer, "glorot_uniform")
        self.bias_initializer = _initializer("bias", bias_initializer, "zeros")


class _Pooling2D(Layer):
    """A reduction over windows of an image, each channel by itself."""

    _settings = ("pool_size", "strides", "padding")

    def __init__(
        self,
        pool_size: Pair = (2, 2),
        strides: Pair | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        **unknown: object,
    ) -> None:
        super().__init__(name=name, input_shape=input_shape, **unknown)
        self.pool_size = pair("pool_size", pool_size)
        self.strides = self.pool_size if strides is None else pair("strides", strides)
        self.padding = _padding(padding)
        channels_last(data_format)


class MaxPooling2D(_Pooling2D):
    """The maximum of each window: (n, h, w, c) -> (n, h_out, w_out, c).

    `out[i, j, c] = max of in[i * sh : i * sh + ph, j * sw : j * sw + pw, c]`

    Sizes follow from the padding as for `Conv2D`; padding never is the maximum. The first of equal
    maxima receives the gradient; behind a 5x5 convolution, sums that would be equal may differ by
    rounding, and the largest as computed does.

    Args:
        pool_size: height and width of a window, or one number for both; 2 by default.
        strides: how far to move down and right; None (default) is `pool_size`.
        padding: `"valid"` (default) or `"same"`, in capitals or not.
        data_format: `"channels_last"` or None (default), which is the same.
        name, input_shape: as of every `Layer`.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is not positive, or a value is none of the above.

    Reference: `keras.layers.MaxPooling2D`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Input, MaxPooling2D, Sequential
        >>> model = Sequential([Input((2, 2, 1)), MaxPooling2D()])
        >>> model.predict(np.arange(4.0).reshape(1, 2, 2, 1))
        array([[[[3.]]]], dtype=float32)
    """

    _kind = "max_pooling2d"


class AveragePooling2D(_Pooling2D):
    """The mean of each window: (n, h, w, c) -> (n, h_out, w_out, c).

    `out[i, j, c] = mean of in[i * sh : i * sh + ph, j * sw : j * sw + pw, c]`

    Sizes follow from the padding as for `Conv2D`; padding does not count in the mean.

    Args:
        pool_size: height and width of a window, or one number for both; 2 by default (Keras has no
            default here).
        strides: how far to move down and right; None (default) is `pool_size`.
        padding: `"valid"` (default) or `"same"`, in capitals or not.
        data_format: `"channels_last"` or None (default), which is the same.
        name, input_shape: as of every `Layer`.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is not positive, or a value is none of the above.

    Reference: `keras.layers.AveragePooling2D`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import AveragePooling2D, Input, Sequential
        >>> model = Sequential([Input((2, 2, 1)), AveragePooling2D(2)])
        >>> model.predict(np.arange(4.0).reshape(1, 2, 2, 1))
        array([[[[1.5]]]], dtype=float32)
    """

    _kind = "average_pooling2d"


class GlobalAveragePooling2D(Layer):
    """The mean of each channel: (n, h, w, c) -> (n, c).

    Args:
        data_format: `"channels_last"` or None (default), which is the same.
        keepdims: whether to return (n, 1, 1, c) instead, False by default.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if `keepdims` is neither True nor False.
        ValueError: if the data format is another.

    Reference: `keras.layers.GlobalAveragePooling2D`.

    Example:
        >>> from cnnrs import GlobalAveragePooling2D, Input, Sequential
        >>> Sequential([Input((7, 7, 64)), GlobalAveragePooling2D()]).output_shape
        (None, 64)
    """

    _kind = "global_average_pooling2d"
    _settings = ("keepdims",)

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **common: Unpack[Common]
    ) -> None:
        super().__init__(**common)
        channels_last(data_format)
        self.keepdims = flag("keepdims", keepdims)


class Flatten(Layer):
    """All numbers of an image in one row: (n, h, w, c) -> (n, h * w * c).

    Args:
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        ValueError: if the data format is another.

    Reference: `keras.layers.Flatten`.

    Example:
        >>> from cnnrs import Flatten, Input, Sequential
        >>> Sequential([Input((13, 13, 8)), Flatten()]).output_shape
        (None, 1352)
    """

    _kind = "flatten"

    def __init__(self, data_format: str | None = None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        channels_last(data_format)


class Dense(Layer):
    """Every output from every input: (n, inputs) -> (n, units).

    `out[k] = activation(bias[k] + sum over i of in[i] * kernel[i, k])`

    Weights: `kernel` (inputs, units) and `bias` (units,).

    Args:
        units: how many outputs, at least 1.
        activation: a name as in `Activation`; None (default) is `"linear"`.
        use_bias: whether to add a bias, True by default.
        kernel_initializer: how the kernel begins, `"glorot_uniform"` by default.
        bias_initializer: how the bias begins, `"zeros"` by default.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if `units` is no integer, or `use_bias` neither True nor False.
        ValueError: if it is not positive, or the activation or an initializer is unknown.

    Reference: `keras.layers.Dense`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> Sequential([Input((1352,)), Dense(10, activation="softmax")]).count_params()
        13530
    """

    _kind = "dense"
    _settings = ("units", "activation", "use_bias")
    _weights = ("kernel", "bias")

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike | None = "glorot_uniform",
        bias_initializer: InitializerLike | None = "zeros",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.units = integer("units", units)
        self.activation = _activation(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = _initializer("kernel", kernel_initializer, "glorot_uniform")
        self.bias_initializer = _initializer("bias", bias_initializer, "zeros")


class Activation(Layer):
    """A function of each number, or for `"softmax"` of each row of them.

    | name | of x |
    | --- | --- |
    | `"linear"` | x |
    | `"relu"` | max(x, 0) |
    | `"leaky_relu"` | x, or 0.2 x where x < 0 |
    | `"elu"` | x, or exp(x) - 1 where x < 0 |
    | `"sigmoid"` | 1 / (1 + exp(-x)) |
    | `"tanh"` | tanh(x) |
    | `"softplus"` | log(1 + exp(x)) |
    | `"exponential"` | exp(x) |
    | `"softmax"` | exp(x) / sum of exp(x), over the last axis |

    Args:
        activation: one of these names.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        ValueError: if there is no such activation.

    Reference: `keras.layers.Activation`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Activation, Input, Sequential
        >>> Sequential([Input((2,)), Activation("softmax")]).predict(np.zeros((1, 2)))
        array([[0.5, 0.5]], dtype=float32)
    """

    _kind = "activation"
    _settings = ("activation",)

    def __init__(self, activation: str | None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.activation = _activation(activation)


class ReLU(Layer):
    """The rectified linear unit: `min(x, max_value)`, or `negative_slope * x` where x < 0.

    Args:
        max_value: the largest output, at least 0; None (default) is no limit.
        negative_slope: the slope below zero, at least 0; 0 by default.
        threshold: 0 (default).
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a number is not one.
        ValueError: if one is negative, or the threshold is not 0.

    Reference: `keras.layers.ReLU`.

    Example:
        >>> from cnnrs import Input, ReLU, Sequential
        >>> model = Sequential([Input((3,)), ReLU(max_value=6, negative_slope=0.5)])
        >>> model.predict([[-1.0, 2.0, 9.0]])
        array([[-0.5,  2. ,  6. ]], dtype=float32)
    """

    _kind = "relu"
    _settings = ("max_value", "negative_slope")
    _base_name = "re_lu"

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.max_value = None if max_value is None else at_least_0("max_value", max_value)
        self.negative_slope = at_least_0("negative_slope", negative_slope)
        only("threshold", threshold, 0)


class Dropout(Layer):
    """In training, each number is 0 with probability `rate` and else divided by `1 - rate`.

    Evaluating and predicting leave the numbers as they are.

    Args:
        rate: the share of the numbers to drop, from 0 to below 1.
        noise_shape: None (default): each number is dropped or not on its own.
        seed: None (default) or an integer, as of `RandomTranslation`.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if the rate is not a number, or the seed not an integer.
        ValueError: if one is out of its range, or there is a noise shape.

    Reference: `keras.layers.Dropout`; N. Srivastava et al., 2014.

    Example:
        >>> from cnnrs import Dropout, Input, Sequential
        >>> Sequential([Input((3,)), Dropout(0.5)]).predict([[1.0, 2.0, 3.0]])
        array([[1., 2., 3.]], dtype=float32)
    """

    _kind = "dropout"
    _settings = ("rate", "seed")

    def __init__(
        self,
        rate: float,
        noise_shape: None = None,
        seed: int | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.rate = from_0_below_1("rate", rate)
        only("noise_shape", noise_shape, None)
        self.seed = None if seed is None else integer("seed", seed, 0)


class BatchNormalization(Layer):
    """Each channel with mean 0 and variance 1, then scaled and shifted by what is learnt.

    `out = gamma * (in - mean) / sqrt(variance + epsilon) + beta`

    In training, mean and variance are the batch's, over all its pixels, and the moving ones go
    towards them: `moving = momentum * moving + (1 - momentum) * batch's`. Evaluating and predicting
    use the moving ones. Weights: `gamma`, `beta`, `moving_mean` and `moving_variance`, each
    (channels,), of which the last two are not trained.

    Args:
        axis: -1 (default), the channels, or 3, which is the same for images.
        momentum: of the moving mean and variance, from 0 to 1; 0.99 by default.
        epsilon: added to the variance, above 0; 0.001 by default.
        center: whether there is a `beta`, True by default.
        scale: whether there is a `gamma`, True by default.
        beta_initializer: how `beta` begins, `"zeros"` by default.
        gamma_initializer: how `gamma` begins, `"ones"` by default.
        moving_mean_initializer: how `moving_mean` begins, `"zeros"` by default.
        moving_variance_initializer: how `moving_variance` begins, `"ones"` by default.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a number is not one, or `center` or `scale` is neither True nor False.
        ValueError: if one is out of its range, or an initializer is unknown.

    Reference: `keras.layers.BatchNormalization`; S. Ioffe and C. Szegedy, 2015.

    Example:
        >>> from cnnrs import BatchNormalization, Input, Sequential
        >>> Sequential([Input((26, 26, 8)), BatchNormalization()]).count_params()
        32
    """

    _kind = "batch_normalization"
    _settings = ("momentum", "epsilon", "center", "scale")
    _weights = ("gamma", "beta", "moving_mean", "moving_variance")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike | None = "zeros",
        gamma_initializer: InitializerLike | None = "ones",
        moving_mean_initializer: InitializerLike | None = "zeros",
        moving_variance_initializer: InitializerLike | None = "ones",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        only("axis", axis, -1, 3)
        self.momentum = between("momentum", momentum, 0, 1)
        self.epsilon = finite_above_0("epsilon", epsilon)
        self.center = flag("center", center)
        self.scale = flag("scale", scale)
        self.beta_initializer = _initializer("beta", beta_initializer, "zeros")
        self.gamma_initializer = _initializer("gamma", gamma_initializer, "ones")
        self.moving_mean_initializer = _initializer("moving_mean", moving_mean_initializer, "zeros")
        self.moving_variance_initializer = _initializer(
            "moving_variance", moving_variance_initializer, "ones"
        )


class Rescaling(Layer):
    """Numbers on another scale: `in * scale + offset`.

    Args:
        scale: what to multiply by, for instance `1 / 255`.
        offset: what to add then, 0 by default.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is not finite.

    Reference: `keras.layers.Rescaling`.

    Example:
        >>> import numpy as np
        >>> from cnnrs import Input, Rescaling, Sequential
        >>> model = Sequential([Input((2,)), Rescaling(1 / 255, offset=-0.5)])
        >>> model.predict(np.array([[0, 255]], np.uint8))
        array([[-0.5,  0.5]], dtype=float32)
    """

    _kind = "rescaling"
    _settings = ("scale", "offset")

    def __init__(self, scale: float, offset: float = 0.0, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.scale = number("scale", scale)
        self.offset = number("offset", offset)


MaxPool2D = MaxPooling2D
AvgPool2D = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D
"""Keras's shorter names of the same classes."""


def _padding(value: str) -> str:
    return choice("padding", value.lower() if isinstance(value, str) else value, ("valid", "same"))


def _activation(value: str | None) -> str:
    return choice("activation", "linear" if value is None else value, ACTIVATIONS)


def _initializer(weight: str, value: InitializerLike | None, default: str) -> Any:
    return initializers.get(default if value is None else value, f"{weight}_initializer")
