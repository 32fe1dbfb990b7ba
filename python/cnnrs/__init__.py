"""Small convolutional networks on the CPU: Rust kernels under a Python face."""

from cnnrs import datasets
from cnnrs._config import show_config
from cnnrs._core import __version__
from cnnrs.tutorial import Conv3x3, MaxPool2, Softmax

__all__ = [
    "Conv3x3",
    "MaxPool2",
    "Softmax",
    "__version__",
    "datasets",
    "show_config",
]
