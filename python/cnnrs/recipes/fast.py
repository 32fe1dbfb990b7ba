"""99 % of MNIST's test images right on the average, after well under a second of training.

Convolutions with pooling and ReLU right behind them, so that most of the backward pass is sparse,
and the normalisation behind those; one epoch of Adam with short memories and one cycle of the
learning rate (Smith and Topin, 2018). Smoothed labels are worth 0.15 points of accuracy here.
"""

from cnnrs.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPooling2D,
    ReLU,
    Rescaling,
)
from cnnrs.losses import SparseCategoricalCrossentropy
from cnnrs.models import Sequential
from cnnrs.optimizers import Adam
from cnnrs.optimizers.schedules import OneCycle
from cnnrs.recipes import Recipe

BATCH_SIZE = 64

EPOCHS_FOR_THREE = 4
"""From so many on, a third convolution is worth more than further epochs."""


def recipe(shape: tuple[int, ...], classes: int, images: int, epochs: int = 1) -> Recipe:
    """Make the model, for images of `shape`."""
    layers = three_convolutions() if epochs >= EPOCHS_FOR_THREE else [*block(8, 5), *block(32, 5)]
    rescaling = Rescaling(1 / 79, -0.42)  # MNIST's mean becomes 0 and its deviation 1
    model = Sequential([Input(shape), rescaling, *layers, Flatten(), Dense(classes, "softmax")])
    return compiled(model, images, epochs)


def block(filters: int, side: int, padding: str = "valid") -> list[Layer]:
    """A convolution with what goes with it."""
    return [
        Conv2D(filters, side, padding=padding, use_bias=False),
        MaxPooling2D(2),
        ReLU(),
        BatchNormalization(momentum=0.9),
    ]


def three_convolutions() -> list[Layer]:
    """For more time, or more difficult images."""
    return [*block(16, 5, "same"), *block(32, 3, "same"), *block(64, 3, "same")]


def compiled(model: Sequential, images: int, epochs: int) -> Recipe:
    """The model with its training."""
    steps = epochs * -(-images // BATCH_SIZE)
    model.compile(
        Adam(OneCycle(0.02, steps), beta_1=0.7, beta_2=0.9, epsilon=1e-8),
        SparseCategoricalCrossentropy(label_smoothing=0.1),
    )
    return Recipe(model, BATCH_SIZE, epochs)
