"""The tutorial's network and its training: plain gradient descent, one image a step.

Reference: V. Zhou, "CNNs from scratch", 2019.
"""

import numpy as np

from cnnrs.datasets._store import CLASSES
from cnnrs.layers import Conv2D, Dense, Flatten, MaxPooling2D, Rescaling
from cnnrs.models import Sequential
from cnnrs.optimizers import SGD
from cnnrs.recipes import Recipe
from cnnrs.tutorial import Conv3x3, Softmax

NUM_FILTERS = 8


def recipe(shape: tuple[int, ...], classes: int, images: int, epochs: int = 3) -> Recipe:
    """Make the model, for grey images of `shape`, and 10 classes."""
    if shape[2:] != (1,) or classes != CLASSES:
        raise ValueError(
            f"expected grey images of {CLASSES} classes, got {classes} classes of shape {shape}"
        )
    model = tutorial_network(*shape[:2])
    model.compile(SGD(0.005), "sparse_categorical_crossentropy")
    return Recipe(model, batch_size=1, epochs=epochs)


def tutorial_network(height: int, width: int) -> Sequential:
    """Make the tutorial's network: Conv3x3(8), MaxPool2, Softmax(10), for bytes as pixels.

    After `set_random_seed(n)` it begins with the same numbers as the tutorial's own layers after
    `np.random.seed(n)`. Two things are not the tutorial's: it computes in float32, and of equal
    maxima in a pooling region only the first receives the gradient, as in Keras and PyTorch.

    Args:
        height: of the images, at least 4.
        width: of the images, at least 4.

    Returns:
        A model that is not compiled yet.

    Raises:
        ValueError: if the images are too small.

    Example:
        >>> from cnnrs.recipes.tutorial import tutorial_network
        >>> [array.shape for array in tutorial_network(28, 28).get_weights()]
        [(3, 3, 1, 8), (1352, 10), (10,)]
    """
    model = Sequential(
        [
            Rescaling(1 / 255, -0.5, input_shape=(height, width, 1)),
            Conv2D(NUM_FILTERS, 3, use_bias=False),
            MaxPooling2D(2),
            Flatten(),
            Dense(CLASSES, activation="softmax"),
        ]
    )
    _, dense, bias = model.get_weights()
    filters = Conv3x3(NUM_FILTERS).filters  # (num_filters, 3, 3)
    kernel = filters.transpose(1, 2, 0)[:, :, np.newaxis]
    model.set_weights([kernel, Softmax(*dense.shape).weights, bias])
    return model
