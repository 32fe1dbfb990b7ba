"""At least 99 % of MNIST's test images right after well under a second of training.

Two convolutions, each pooled before it is normalised, so that most of the backward pass is sparse;
one epoch of Adam with short memories and one cycle of the learning rate (Smith and Topin, 2018).
Smoothed labels are worth 0.15 points of accuracy here.
"""

from cnnrs.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    Input,
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


def recipe(shape: tuple[int, ...], classes: int, images: int, epochs: int = 1) -> Recipe:
    """Make the model, for images of `shape`."""
    model = Sequential(
        [
            Input(shape),
            Rescaling(1 / 79, -0.42),  # MNIST's mean becomes 0 and its deviation 1
            Conv2D(8, 5, use_bias=False),
            MaxPooling2D(2),
            BatchNormalization(momentum=0.9),
            ReLU(),
            Conv2D(32, 5, use_bias=False),
            MaxPooling2D(2),
            BatchNormalization(momentum=0.9),
            ReLU(),
            Flatten(),
            Dense(classes, activation="softmax"),
        ]
    )
    steps = epochs * -(-images // BATCH_SIZE)
    model.compile(
        Adam(OneCycle(0.02, steps), beta_1=0.7, beta_2=0.9, epsilon=1e-8),
        SparseCategoricalCrossentropy(label_smoothing=0.1),
    )
    return Recipe(model, BATCH_SIZE, epochs)
