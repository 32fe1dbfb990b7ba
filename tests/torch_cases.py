"""Random small networks for `test_against_torch`: drawn by seed, each named by what it is.

The gradient of a layer's input cannot be asked for, so that most layers stand behind a `front`: a
product whose weights are the images themselves. Image k of the data is a one in channel k and zeros
elsewhere, so that the front's kernel holds every number that the next layer is fed, and the
kernel's gradient is that layer's gradient of the input.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from cnnrs import (
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
from cnnrs.layers import ACTIVATIONS, Layer
from cnnrs.losses import (
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer

Pair: TypeAlias = tuple[int, int]

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 70)
"""Around the widths of vectors and tiles."""

BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 25, 31, 32, 33)
"""Around the sizes of blocks."""

WORK = 4_000_000
"""Products that one layer may take: PyTorch's convolution in float64 is slow."""

FRONT = "front"


@dataclass(frozen=True)
class Case:
    """A network and what it is fed."""

    name: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    n: int
    dtype: str
    seed: int
    loss: Loss = MeanSquaredError()  # noqa: RUF009 - it is a description
    data: str = "noise"
    """`noise`, or `units`, which a front makes images of."""
    data_dtype: str = "float32"


@dataclass(frozen=True)
class Course:
    """A training of several steps."""

    case: Case
    optimizer: Optimizer
    batch: int
    epochs: int


class Draw:
    """A generator with what cases are made of."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])
        self.seed = int(self.rng.integers(2**31))

    def one(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def flag(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def upto(self, most: int, least: int = 1) -> int:
        return int(self.rng.integers(least, max(least, most) + 1))

    def pair(self, most: int, least: int = 1) -> Pair:
        return self.upto(most, least), self.upto(most, least)

    def padding(self) -> str:
        return self.one(("valid", "same"))

    def batch(self, most: int = BATCHES[-1]) -> int:
        """The largest that may be, one time in three."""
        fitting = [n for n in BATCHES if n <= most]
        return fitting[-1] if self.flag(1 / 3) else self.one(fitting)

    def dtype(self) -> str:
        return self.one(("float32", "float64"))

    def image(self, outs: Pair, window: Pair, strides: Pair, padding: str) -> Pair:
        """Height and width of an image with so many windows, and what may be left over."""
        left = [self.upto(stride - 1, 0) for stride in strides]
        first = window if padding == "valid" else (1, 1)
        sides = zip(outs, strides, first, left, strict=True)
        h, w = ((out - 1) * stride + one + more for out, stride, one, more in sides)
        return h, w

    def conv(
        self, *, least: int = 1, most: int = 9, window: int = 7, strides: int = 3, **settings: Any
    ) -> tuple[tuple[int, int, int], Conv2D, int]:
        """An image, a convolution, and how many images are not too many."""
        c, filters = self.one(CHANNELS), self.one(CHANNELS)
        size, steps, padding = self.pair(window), self.pair(strides), self.padding()
        work = WORK // (size[0] * size[1] * c * filters)
        outs = self.pair(most, least)
        while outs[0] * outs[1] > work and outs > (least, least):
            outs = max(least, outs[0] - 1), max(least, outs[1] - 1)
        settings.setdefault("use_bias", self.flag())
        layer = Conv2D(filters, size, steps, padding, **settings)
        h, w = self.image(outs, size, steps, padding)
        return (h, w, c), layer, self.batch(max(1, work // (outs[0] * outs[1])))

    def norm(self) -> BatchNormalization:
        return BatchNormalization(
            momentum=self.one((0.99, 0.9, 0.5)),
            epsilon=self.one((1e-3, 1e-5, 0.1)),
            center=self.flag(0.8),
            scale=self.flag(0.8),
        )

    def between(self) -> list[Layer]:
        """Nothing, or what keeps a layer from being computed with the one before it."""
        return [Activation("linear")] if self.flag() else []


def behind_a_front(
    shape: tuple[int, ...], n: int, layers: list[Layer], settings: dict[str, Any]
) -> dict[str, Any]:
    """A case's settings with a front that feeds the layers n inputs of that shape.

    Where such a front would be large, it is a convolution of one pixel, through which the gradient
    is seen as a sum.
    """
    if len(shape) == 1:
        front: Layer = Dense(shape[0], use_bias=False, name=FRONT)
        return {**settings, "shape": (n,), "n": n, "layers": (front, *layers), "data": "units"}
    h, w, c = shape
    if (h * w * n) ** 2 * c > 2 * WORK:
        front = Conv2D(c, 1)
        return {**settings, "shape": shape, "n": n, "layers": (front, *layers)}
    front = Conv2D(c, (h, w), use_bias=False, name=FRONT)
    around = (2 * h - 1, 2 * w - 1, n)
    return {**settings, "shape": around, "n": n, "layers": (front, *layers), "data": "units"}


def describe(layer: Layer) -> str:
    """As short as it can be said."""
    it: Any = layer
    by = "x".join

    def windows(size: Pair) -> str:
        padding = "" if it.padding == "valid" else "same"
        return f"{by(map(str, size))}/{by(map(str, it.strides))}{padding}"

    match layer:
        case Conv2D() if it.name == FRONT:
            return FRONT
        case Dense() if it.name == FRONT:
            return FRONT
        case Conv2D():
            bias = "" if it.use_bias else "nobias"
            activation = "" if it.activation == "linear" else it.activation
            return f"conv{it.filters}f{windows(it.kernel_size)}{bias}{activation}"
        case MaxPooling2D():
            return f"max{windows(it.pool_size)}"
        case AveragePooling2D():
            return f"mean{windows(it.pool_size)}"
        case GlobalAveragePooling2D():
            return "global"
        case Dense():
            activation = "" if it.activation == "linear" else it.activation
            return f"dense{it.units}{activation}"
        case BatchNormalization():
            return f"norm{'' if it.scale else 'noscale'}{'' if it.center else 'nocenter'}"
        case Activation():
            return it.activation
        case ReLU():
            return f"relu({it.max_value},{it.negative_slope})"
    return type(layer).__name__.lower()


def named(number: int, **settings: Any) -> Case:
    """A case with its name."""
    case = Case(name="", **settings)
    words = (
        f"{number:03}",
        "x".join(map(str, case.shape)),
        *map(describe, case.layers),
        f"n{case.n}",
        case.dtype,
    )
    return replace(case, name="-".join(words))


def cases(count: int, seed: int, make: Callable[[Draw], dict[str, Any]]) -> list[Case]:
    drawn = []
    for number in range(count):
        draw = Draw(seed, number)
        settings: dict[str, Any] = {"dtype": draw.dtype(), "seed": draw.seed}
        drawn.append(named(number, **{**settings, **make(draw)}))
    return drawn


# One layer


def convolution(draw: Draw) -> dict[str, Any]:
    activation = draw.one((None, None, "relu", "tanh", "leaky_relu", "softmax"))
    shape, layer, n = draw.conv(activation=activation)
    if draw.flag(1 / 3):
        return {"shape": shape, "n": n, "layers": (layer,)}
    return behind_a_front(shape, n, [layer], {})


def pooling(draw: Draw) -> dict[str, Any]:
    n, c = draw.batch(), draw.one(CHANNELS)
    kind = draw.one((MaxPooling2D, MaxPooling2D, AveragePooling2D, AveragePooling2D, None))
    if kind is None:
        h, w = draw.pair(9)
        return behind_a_front(
            (h, w, c), n, [*draw.between(), GlobalAveragePooling2D(keepdims=draw.flag())], {}
        )
    window = (2, 2) if draw.flag(1 / 3) else draw.pair(7)
    strides = draw.one((window, draw.pair(3)))
    padding = draw.padding()
    h, w = draw.image(draw.pair(5), window, strides, padding)
    return behind_a_front(
        (h, w, c), n, [*draw.between(), kind(window, strides, padding), *draw.between()], {}
    )


def dense(draw: Draw) -> dict[str, Any]:
    activation = draw.one((None, "relu", "sigmoid", "elu", "softmax"))
    layer = Dense(draw.one(CHANNELS), activation, use_bias=draw.flag())
    shape, n = (draw.one((*CHANNELS, 99, 128, 257)),), draw.batch()
    if draw.flag(1 / 3):
        return {"shape": shape, "n": n, "layers": (layer,)}
    return behind_a_front(shape, n, [layer], {})


def elementwise(draw: Draw) -> dict[str, Any]:
    kind = draw.one(("name", "name", "relu", "rescaling", "argument"))
    name = draw.one(ACTIVATIONS[1:])
    shape = (*draw.pair(5), draw.one(CHANNELS)) if draw.flag() else (draw.one(CHANNELS),)
    layer: Layer
    if kind == "name":
        layer = Activation(name)
    elif kind == "relu":
        layer = ReLU(draw.one((None, 0.5, 1.0)), draw.one((0.0, 0.1, 1.5)))
    elif kind == "rescaling":
        layer = Rescaling(draw.one((1 / 255, -2.0, 1.0)), draw.one((0.0, 0.5)))
    elif len(shape) == 1:
        layer = Dense(draw.one(CHANNELS), name)
    else:
        layer = Conv2D(draw.one(CHANNELS), 1, activation=name)
    return behind_a_front(shape, draw.batch(), [*draw.between(), layer], {})


def normalisation(draw: Draw) -> dict[str, Any]:
    n = draw.batch()
    shape = (*draw.pair(5), draw.one(CHANNELS)) if draw.flag(0.7) else (draw.one(CHANNELS),)
    # Of one number alone, what is left is exactly 0, which is a corner of ReLU.
    relu = Activation("relu" if n > 1 else "tanh")
    units = draw.one(CHANNELS)
    layers: list[Layer] = draw.one(
        (
            [draw.norm()],
            [Activation("linear"), draw.norm()],
            [draw.norm(), Activation("tanh"), draw.norm()],
            [draw.norm(), draw.norm()],
            [draw.norm(), relu],
            [Activation("relu"), draw.norm()],
            [Flatten(), Dense(units), draw.norm(), relu],
            [Flatten(), Dense(units, use_bias=False), draw.norm()],
            [Flatten(), Dense(units, "sigmoid"), draw.norm()],
        )
    )
    if draw.flag(0.2):
        return {"shape": shape, "n": n, "layers": tuple(layers)}
    return behind_a_front(shape, n, layers, {})


# What is computed in one go


def fused(draw: Draw) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    order = draw.one(
        (
            "conv pool",
            "conv+relu pool",
            "conv+relu pool",
            "conv relu pool",
            "conv pool relu",
            "conv pool relu",
            "conv pool norm relu",
            "conv pool norm",
            "conv norm relu pool",
            "conv norm relu pool",
            "conv norm pool relu",
            "conv norm pool",
            "conv norm relu",
            "conv norm norm",
            "conv linear norm relu pool",
            "conv+tanh pool",
            "conv+relu pool relu",
            "conv+relu norm pool",
            "conv leaky pool",
            "conv pool leaky",
            "conv relu6 pool",
            "conv pool pool",
            "conv mean relu",
            "conv rescale pool",
        )
    )
    first, *others = order.split()
    if "+" in first:
        settings["activation"] = first.split("+")[1]
    shape, conv, n = draw.conv(least=2, most=11, window=5, strides=draw.one((1, 1, 2)), **settings)
    if draw.flag(0.3):  # as images in grey are
        shape = (*shape[:2], 1)

    def pool() -> MaxPooling2D:
        if draw.flag(0.8):
            return MaxPooling2D(2, padding=draw.padding())
        return MaxPooling2D(draw.pair(3), draw.pair(3), padding="same")

    make: dict[str, Callable[[], Layer]] = {
        "pool": pool,
        "mean": lambda: AveragePooling2D(2, padding="same"),
        "norm": draw.norm,
        "relu": lambda: ReLU() if draw.flag() else Activation("relu"),
        "leaky": lambda: ReLU(negative_slope=0.25),
        "relu6": lambda: ReLU(0.75),
        "linear": lambda: Activation("linear"),
        "rescale": lambda: Rescaling(-1.5, 0.25),
    }
    if others == ["pool", "pool"]:
        make["pool"] = lambda: MaxPooling2D(2, padding="same")
    layers = [conv, *(make[word]() for word in others)]
    if draw.flag():
        return {"shape": shape, "n": n, "layers": tuple(layers)}
    return behind_a_front(shape, n, layers, {})


# Losses


def loss(draw: Draw) -> dict[str, Any]:
    classes, n = draw.one(CHANNELS[1:]), draw.batch()
    tameing = draw.one((0.0, 0.0, 0.1, 0.5, 1.0))
    head, from_logits = draw.one(
        (
            ([Dense(classes)], True),
            ([Dense(classes, "tanh")], True),
            ([Dense(classes, "softmax")], False),
            ([Dense(classes, "softmax")], False),
            ([Dense(classes), Activation("softmax")], False),
            ([Dense(classes, "softmax"), Flatten()], False),
            ([Dense(classes, "softmax"), Rescaling(0.5, 0.01)], False),
            ([Dense(classes, "softmax")], True),
            ([Dense(classes, "sigmoid")], False),
            ([Dense(classes), Activation("softplus")], False),
            ([Dense(classes, "exponential")], False),
        )
    )
    kind: Loss = draw.one(
        (
            SparseCategoricalCrossentropy(from_logits),
            CategoricalCrossentropy(from_logits, tameing),
            MeanSquaredError(),
        )
    )
    settings = {"loss": kind}
    if draw.flag(1 / 3):
        return {**settings, "shape": (draw.one(CHANNELS),), "n": n, "layers": tuple(head)}
    return behind_a_front((draw.one(CHANNELS),), n, list(head), settings)


# Whole networks


def network(draw: Draw, *, tame: bool = False) -> dict[str, Any]:
    """Up to three convolutions with what goes with them, and up to two dense layers.

    A tame one has no corners, no ties, and no normalisations, which make small differences large.
    """
    c = draw.one((1, 1, 2, 3))
    relu = (lambda: Activation("tanh")) if tame else (lambda: draw.one((ReLU(), ReLU(1.5, 0.1))))
    pool = AveragePooling2D if tame else draw.one((MaxPooling2D, MaxPooling2D, AveragePooling2D))
    layers: list[Layer] = [Rescaling(0.5, 0.1)] if draw.flag(0.3) else []
    for number in range(draw.upto(3)):
        padding = draw.padding() if number < 2 else "same"
        layers.append(Conv2D(draw.one((1, 2, 4, 5, 8, 9, 16)), draw.pair(3), padding=padding))
        extras: list[Layer] = [relu()]
        if draw.flag(0.3) and not tame:
            extras.insert(draw.upto(1, 0), draw.norm())
        if draw.flag(0.6):
            extras.insert(draw.upto(2, 0), pool(2, padding="same"))
        layers += extras
    layers.append(draw.one((Flatten(), Flatten(), GlobalAveragePooling2D())))
    if draw.flag():
        layers.append(Dense(draw.one((5, 16, 33)), "tanh" if tame else "relu"))
    classes = draw.one((2, 3, 10, 11))
    layers.append(Dense(classes, draw.one(("softmax", "softmax", None))))
    logits = layers[-1].activation == "linear"
    kind: Loss = draw.one(
        (
            SparseCategoricalCrossentropy(logits),
            SparseCategoricalCrossentropy(logits),
            CategoricalCrossentropy(logits, 0.1),
            MeanSquaredError(),
        )
    )
    h, w = draw.pair(12, 7)
    return {
        "shape": (h, w, c),
        "layers": tuple(layers),
        "n": draw.batch(),
        "loss": kind,
        "data_dtype": draw.one(("uint8", "float32", "float64")),
    }


def optimizer(draw: Draw) -> Optimizer:
    rate = draw.one((0.03, 0.01))
    betas = {"beta_1": draw.one((0.9, 0.5, 0.0)), "beta_2": draw.one((0.999, 0.9))}
    epsilon = draw.one((1e-3, 1e-2))
    return draw.one(
        (
            SGD(rate),
            SGD(rate, 0.9),
            SGD(rate, draw.one((0.5, 0.9)), nesterov=True),
            Adam(rate, **betas, epsilon=epsilon),
            AdamW(rate, draw.one((0.004, 0.5)), **betas, epsilon=epsilon),
        )
    )


def courses(count: int, seed: int) -> list[Course]:
    """Trainings of several steps, the last of each epoch of fewer images.

    Rounding grows from step to step, so that they are few, and in float32 of tame networks.
    """
    drawn = []
    for number in range(count):
        draw = Draw(seed, number)
        rule, dtype = optimizer(draw), draw.dtype()
        settings = network(draw, tame=dtype == "float32")
        case = named(number, dtype=dtype, seed=draw.seed, **settings)
        name = f"{case.name}-{type(rule).__name__.lower()}"
        drawn.append(Course(replace(case, name=name), rule, draw.upto(case.n, -(-case.n // 4)), 3))
    return drawn
