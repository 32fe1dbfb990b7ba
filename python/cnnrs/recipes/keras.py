"""Keras's example for MNIST: 32 and 64 filters of 3x3, dropout, Adam, batches of 128.

Reference: `mnist_convnet` of the examples at keras.io (F. Chollet, 2015).
"""

from cnnrs.layers import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, Rescaling
from cnnrs.models import Sequential
from cnnrs.recipes import Recipe


def recipe(shape: tuple[int, ...], classes: int, images: int, epochs: int = 15) -> Recipe:
    """Make the model, for images of `shape`."""
    model = Sequential(
        [
            Input(shape),
            Rescaling(1 / 255),
            Conv2D(32, 3, activation="relu"),
            MaxPooling2D(2),
            Conv2D(64, 3, activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dropout(0.5),
            Dense(classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return Recipe(model, batch_size=128, epochs=epochs)
