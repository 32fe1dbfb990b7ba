"""The recipes of the package: they fit, train, and differ by data set where they say so."""

import numpy as np
import pytest

from cnnrs import recipes
from cnnrs.datasets import load
from cnnrs.layers import Conv2D
from cnnrs.recipes import best, best_fashion, fast, fast_fashion, keras, tutorial
from cnnrs.utils import set_random_seed


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (tutorial.recipe, 4000),
        (keras.recipe, 3000),
        (fast.recipe, 3000),
        (fast_fashion.recipe, 3000),
        (best.recipe, 1200),
        (best_fashion.recipe, 1200),
    ],
    ids=["tutorial", "keras", "fast", "fast_fashion", "best", "best_fashion"],
)
def test_a_recipe_learns_in_the_epochs_it_is_told(make: recipes.Make, images: int) -> None:
    data = load("mnist-sample")
    set_random_seed(0)
    made = make((28, 28, 1), classes=10, images=images, epochs=3)
    assert made.epochs == 3
    x, y = data.x_train[:images, ..., np.newaxis], data.y_train[:images]
    made.model.fit(x, y, made.batch_size, made.epochs, verbose=0, callbacks=list(made.callbacks))
    right = made.model.predict_classes(data.x_test[..., np.newaxis]) == data.y_test
    # Of 1,000 images of 10 classes, after few steps.
    assert right.mean() > 0.5


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("data", ["mnist", "mnist-sample", "fashion_mnist", "a/folder"])
def test_every_name_has_a_recipe_for_all_data(name: str, data: str) -> None:
    made = recipes.load(name, data)((28, 28, 1), 10, 1000)
    assert made.model.output_shape == (None, 10)
    assert (made.epochs >= 1, made.batch_size >= 1) == (True, True)


def test_fast_and_best_are_others_for_clothes() -> None:
    assert recipes.load("fast", "fashion_mnist") is fast_fashion.recipe
    assert recipes.load("best", "fashion_mnist") is best_fashion.recipe
    assert recipes.load("fast", "mnist-sample") is recipes.load("fast") is fast.recipe
    assert recipes.load("keras", "fashion_mnist") is recipes.load("keras") is keras.recipe


def test_fast_is_deeper_if_there_is_time() -> None:
    def convolutions(epochs: int) -> int:
        layers = fast.recipe((28, 28, 1), 10, 1000, epochs=epochs).model.layers
        return sum(isinstance(layer, Conv2D) for layer in layers)

    assert [convolutions(epochs) for epochs in (1, 3, 4, 10)] == [2, 2, 3, 3]


@pytest.mark.parametrize("name", ["fast", "best"])
def test_other_images_than_digits_fit(name: str) -> None:
    made = recipes.load(name)((20, 31, 3), classes=4, images=100, epochs=1)
    x = np.random.default_rng(0).integers(0, 256, (100, 20, 31, 3), np.uint8)
    made.model.fit(x, np.arange(100) % 4, made.batch_size, verbose=0)
    assert np.isfinite(made.model.predict(x)).all()
