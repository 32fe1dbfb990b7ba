"""Small convolutional networks on the CPU: Rust kernels under a Python face."""

from cnnrs import (
    callbacks,
    datasets,
    initializers,
    interop,
    layers,
    losses,
    models,
    optimizers,
    saving,
    utils,
)
from cnnrs._config import get_num_threads, set_num_threads, show_config
from cnnrs._core import __version__
from cnnrs.interop import from_torch
from cnnrs.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Rescaling,
)
from cnnrs.models import Sequential
from cnnrs.saving import load_model
from cnnrs.tutorial import Conv3x3, MaxPool2, Softmax

__all__ = [
    "Activation",
    "AveragePooling2D",
    "BatchNormalization",
    "Conv2D",
    "Conv3x3",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Input",
    "MaxPool2",
    "MaxPooling2D",
    "ReLU",
    "Rescaling",
    "Sequential",
    "Softmax",
    "__version__",
    "callbacks",
    "datasets",
    "from_torch",
    "get_num_threads",
    "initializers",
    "interop",
    "layers",
    "load_model",
    "losses",
    "models",
    "optimizers",
    "saving",
    "set_num_threads",
    "show_config",
    "utils",
]
