"""The networks of the peer benchmark: their layers, starting weights, and arithmetic.

Arrays are (n, height, width, channels); kernels (kh, kw, in, out), as in Keras. Every network ends
in a softmax over its last layer's outputs, which is not among the layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

INPUT: Shape = (28, 28, 1)
CLASSES = 10


@dataclass(frozen=True)
class Conv:
    """A convolution in steps of 1."""

    filters: int
    size: int = 3
    same: bool = False
    bias: bool = True
    relu: bool = True


@dataclass(frozen=True)
class Pool:
    """The maxima of 2x2 windows; an odd last row or column is left out."""


@dataclass(frozen=True)
class Flatten:
    """All numbers of an image in one row."""


@dataclass(frozen=True)
class Dense:
    """Every output from every input."""

    units: int
    relu: bool = False


Layer = Conv | Pool | Flatten | Dense


@dataclass(frozen=True)
class Network:
    """A network for images of 28x28 grey pixels, which it sees as `pixel / 255 + offset`."""

    title: str
    layers: tuple[Layer, ...]
    offset: float = 0.0

    def inputs(self, images: npt.NDArray[np.uint8]) -> Array:
        """The images as the network sees them: (n, 28, 28) -> (n, 28, 28, 1)."""
        return (images[..., None] / np.float32(255) + np.float32(self.offset)).astype(np.float32)

    def steps(self) -> Iterator[tuple[Layer, Shape, Shape]]:
        """The layers, each with the shapes of an image before and behind it."""
        shape = INPUT
        for layer in self.layers:
            before, shape = shape, _output(layer, shape)
            yield layer, before, shape


NETWORKS = {
    "tutorial": Network(
        "tutorial net: 8C3 (no bias) - MP2 - FC10",
        (Conv(8, bias=False, relu=False), Pool(), Flatten(), Dense(CLASSES)),
        offset=-0.5,
    ),
    "convnet": Network(
        "Keras's MNIST convnet: 32C3 - ReLU - MP2 - 64C3 - ReLU - MP2 - FC10",
        (Conv(32), Pool(), Conv(64), Pool(), Flatten(), Dense(CLASSES)),
    ),
    "lenet5": Network(
        "LeNet-5: 6C5 (same) - ReLU - MP2 - 16C5 - ReLU - MP2 - FC120 - ReLU - FC84 - ReLU - FC10",
        (
            *(Conv(6, 5, same=True), Pool(), Conv(16, 5), Pool(), Flatten()),
            *(Dense(120, relu=True), Dense(84, relu=True), Dense(CLASSES)),
        ),
    ),
}


def starting_weights(network: Network) -> list[Array]:
    """Glorot's uniform weights, the same at every call, and biases 0; in Keras's order."""
    rng = np.random.default_rng(0)
    weights: list[Array] = []
    for layer, before, _ in network.steps():
        match layer:
            case Conv(filters, size):
                shape: Shape = (size, size, before[-1], filters)
            case Dense(units):
                shape = (before[-1], units)
            case _:
                continue
        area = int(np.prod(shape[:-2]))
        limit = (6 / (area * (shape[-2] + shape[-1]))) ** 0.5
        weights.append(rng.uniform(-limit, limit, shape).astype(np.float32))
        if not isinstance(layer, Conv) or layer.bias:
            weights.append(np.zeros(shape[-1], np.float32))
    return weights


@dataclass(frozen=True)
class Arithmetic:
    """Operations for one image, a multiplication and an addition being two.

    `dense` counts the layers as they are written: the products of convolutions and dense layers,
    forward, and in training for the weights' gradients and, but for the first layer, the input's.

    `executed` counts what cnnrs computes. Behind a convolution stands a 2x2 pooling, so it

    - leaves out rows and columns of the convolution that the pooling drops;
    - takes 16 products for 36 (3x3), or 6 for 10 (5x5), where Winograd's filtering serves: with
      channels enough, and on a first layer's one channel, where 3x3 takes 24, and that with AVX-512
      or AVX2 only; the sums before and after them are not counted;
    - computes the gradients of a convolution for one of the four positions in a window only, and
      there only if the pooled element is alive: a quarter, times the share of live elements. The
      first layer takes dead ones too;
    - leaves out the windows that see nothing but the images' background, where `foreground_share`
      says so: of the first convolution and of the dense layer behind its pooling, both ways.
    """

    dense: float
    executed: float


def arithmetic(
    network: Network,
    *,
    training: bool,
    instruction_set: str,
    live: Sequence[float] = (),
    foreground: float = 1.0,
) -> Arithmetic:
    """Count a network's operations for one image.

    Args:
        network: any whose convolutions all have a pooling behind them.
        training: whether to count the gradients too.
        instruction_set: the one that cnnrs uses.
        live: the share of pooled elements that have a gradient, for each convolution; 1 where it
            is not given.
        foreground: the share of the first convolution's windows that are not left out.
    """
    dense = executed = 0.0
    convs = 0
    for number, (layer, before, after) in enumerate(network.steps()):
        gradients = 0 if not training else 1 if number == 0 else 2
        if isinstance(layer, Dense):
            products = 2.0 * before[-1] * after[-1]
            dense += products * (1 + gradients)
            executed += products * (1 + gradients) * (foreground if convs == 1 else 1.0)
            convs = max(convs, 2)  # None of the others is behind the first convolution.
        elif isinstance(layer, Conv):
            position = 2.0 * layer.size**2 * before[-1] * layer.filters
            positions = after[0] * after[1]
            windows = (after[0] // 2) * (after[1] // 2)
            dense += position * positions * (1 + gradients)
            share = _winograd_share(layer.size, before[-1], layer.filters, instruction_set)
            seen = foreground if number == 0 else 1.0
            executed += position * 4 * windows * share * seen
            alive = live[convs] if number > 0 and convs < len(live) else 1.0
            executed += position * windows * alive * gradients * seen
            convs += 1
    return Arithmetic(dense, executed)


def foreground_share(network: Network, x: Array, *, instruction_set: str) -> float:
    """The share of the first convolution's pooling windows that cnnrs computes in training.

    With AVX-512 or AVX2, a 3x3 convolution of 8 filters or a multiple of 16, a pooling and a dense
    layer of few outputs leave out what sees the background only: in plain gradient descent, also by
    one image after the other.

    Args:
        network: any.
        x: its inputs, (n, 28, 28, 1), the first of which tells the background.
        instruction_set: the one that cnnrs uses.
    """
    first, dense = network.layers[0], network.layers[3:4]
    if not (
        isinstance(first, Conv)
        and (first.size, first.same) == (3, False)
        and (first.filters == 8 or first.filters % 16 == 0)
        and network.layers[1:3] == (Pool(), Flatten())
        and all(isinstance(layer, Dense) and layer.units < 32 for layer in dense)
        and instruction_set in ("avx512", "avx2")
    ):
        return 1.0
    differs = np.asarray(x[..., 0] != x[0, 1, 1, 0])
    patches = np.lib.stride_tricks.sliding_window_view(differs, (4, 4), axis=(1, 2))
    return float(patches[:, ::2, ::2].any((-2, -1)).mean())


def _winograd_share(size: int, c_in: int, c_out: int, instruction_set: str) -> float:
    """The share of the products of a convolution that cnnrs takes.

    In Rust: `winograd::supports`, and for a first layer `pays` in `conv_pool_grey`.
    """
    match size:
        case 3 if c_in == 1 and instruction_set in ("avx512", "avx2"):
            return 24 / 36
        case 3 if c_in * c_out // (c_in + c_out) >= 8:
            return 16 / 36
        case 5 if c_in == 1 and (instruction_set != "avx2" or c_out > 4):
            return 6 / 10
        case 5 if 5 * c_in >= 24:
            return 6 / 10
        case _:
            return 1.0


def _output(layer: Layer, before: Shape) -> Shape:
    match layer:
        case Conv(filters, size, same):
            lost = 0 if same else size - 1
            return (before[0] - lost, before[1] - lost, filters)
        case Pool():
            return (before[0] // 2, before[1] // 2, before[2])
        case Flatten():
            return (int(np.prod(before)),)
        case Dense(units):
            return (units,)
