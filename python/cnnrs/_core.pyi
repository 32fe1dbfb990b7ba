"""The compiled module: kernels and the network, without the conveniences."""

from typing import Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Array: TypeAlias = npt.NDArray[np.float64]

__all__ = [
    "BUILD_PROFILE",
    "TutorialNet",
    "__version__",
    "conv3x3_backprop",
    "conv3x3_forward",
    "max_pool2_backprop",
    "max_pool2_forward",
    "simd_level",
    "simd_levels",
    "softmax_backprop",
    "softmax_forward",
]

__version__: Final[str]
BUILD_PROFILE: Final[str]

def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def conv3x3_forward(image: npt.ArrayLike, filters: _Array) -> _Array: ...
def conv3x3_backprop(
    d_out: npt.ArrayLike, image: npt.ArrayLike, filters: _Array, learn_rate: float
) -> None: ...
def max_pool2_forward(input: npt.ArrayLike) -> _Array: ...
def max_pool2_backprop(d_out: npt.ArrayLike, input: npt.ArrayLike) -> _Array: ...
def softmax_forward(
    input: npt.ArrayLike, weights: _Array, biases: _Array
) -> tuple[_Array, _Array, tuple[int, ...], _Array]: ...
def softmax_backprop(
    d_out: npt.ArrayLike,
    input: npt.ArrayLike,
    totals: npt.ArrayLike,
    weights: _Array,
    biases: _Array,
    learn_rate: float,
) -> _Array: ...

@final
class TutorialNet:
    def __new__(cls, height: int, width: int, num_filters: int, classes: int) -> TutorialNet: ...
    def get_weights(
        self,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...
    def set_weights(
        self,
        kernel: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
        biases: npt.NDArray[np.float32],
    ) -> None: ...
    def train(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int64],
        learn_rate: float,
    ) -> tuple[float, int]: ...
    def evaluate(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int64],
    ) -> tuple[float, int]: ...
