"""The compiled module: kernels and the network, without the conveniences."""

from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Array: TypeAlias = npt.NDArray[np.float64]
_Layer: TypeAlias = tuple[str, str, dict[str, Any]]

__all__ = [
    "BUILD_PROFILE",
    "Network",
    "__version__",
    "conv3x3_backprop",
    "conv3x3_forward",
    "fma_peak",
    "get_num_threads",
    "max_pool2_backprop",
    "max_pool2_forward",
    "set_num_threads",
    "simd_level",
    "simd_levels",
    "softmax_backprop",
    "softmax_forward",
]

__version__: Final[str]
BUILD_PROFILE: Final[str]

def fma_peak(seconds: float) -> float: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
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
class Network:
    def __new__(cls, input_shape: tuple[int, ...], layers: list[_Layer], dtype: str) -> Network: ...
    def output_shapes(self) -> list[tuple[int, ...]]: ...
    def weight_shapes(self) -> list[list[tuple[str, tuple[int, ...], bool]]]: ...
    def get_weights(self) -> list[npt.NDArray[Any]]: ...
    def set_weights(self, weights: list[npt.NDArray[Any]]) -> None: ...
    def compile(
        self, loss: tuple[str, dict[str, Any]], optimizer: tuple[str, dict[str, Any]]
    ) -> None: ...
    def train(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        order: npt.NDArray[np.int64],
        batch_size: int,
        rates: npt.NDArray[np.float64],
        seed: int,
        first_step: int,
    ) -> tuple[npt.NDArray[np.float64], int]: ...
    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, int]: ...
    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]: ...
    def optimizer_state(self) -> list[npt.NDArray[Any]]: ...
    def set_optimizer_state(self, state: list[npt.NDArray[Any]]) -> None: ...
