"""At least 90.5 % of Fashion-MNIST's test images right after a few seconds of training.

As `fast`, with a third convolution and three epochs: clothes are less alike than digits.
"""

from cnnrs.layers import Dense, Flatten, Input, Rescaling
from cnnrs.models import Sequential
from cnnrs.recipes import Recipe
from cnnrs.recipes.fast import compiled, three_convolutions


def recipe(shape: tuple[int, ...], classes: int, images: int, epochs: int = 3) -> Recipe:
    """Make the model, for images of `shape`."""
    rescaling = Rescaling(1 / 90, -0.81)  # Fashion-MNIST's mean becomes 0 and its deviation 1
    model = Sequential(
        [Input(shape), rescaling, *three_convolutions(), Flatten(), Dense(classes, "softmax")]
    )
    return compiled(model, images, epochs)
