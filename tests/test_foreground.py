"""Training on images with a background, which the kernels leave out where all windows see it."""

import numpy as np
import pytest

from cnnrs import Sequential
from cnnrs.callbacks import Callback
from cnnrs.layers import Activation, Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling
from cnnrs.losses import SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD
from cnnrs.utils import set_random_seed

CLASSES = 12


def pictures(n, background, rng):
    """Images of a background with something in a corner of each, of which one is all background."""
    x = np.full((n, 28, 28, 1), background)
    for image in x[1:]:
        top, left = rng.integers(0, 16, 2)
        image[top : top + 12, left : left + 12] = rng.normal(size=(12, 12, 1))
    return x, rng.integers(0, CLASSES, n)


def model(dtype, filters, padding, relu, use_bias, *first):
    activation = "relu" if relu else None
    conv = Conv2D(filters, 3, padding=padding, use_bias=use_bias, activation=activation)
    layers = [Input((28, 28, 1)), *first, conv, MaxPooling2D(2), Flatten(), Dense(CLASSES)]
    made = Sequential([*layers, Activation("softmax")], dtype=dtype)
    made.compile(SGD(0.01), "sparse_categorical_crossentropy")
    return made


@pytest.mark.parametrize("background", [0.0, -0.5, 1.0])
@pytest.mark.parametrize("batch_size", [1, 2, 13, 30, 70])
@pytest.mark.parametrize(
    ("filters", "padding", "relu", "use_bias"),
    [(8, "valid", False, False), (8, "same", True, True), (16, "valid", True, False)],
)
def test_training_equals_that_in_float64(background, batch_size, filters, padding, relu, use_bias):
    """In float64 nothing is left out."""
    # Of this seed's outputs, none is so near zero that rounding decides whether ReLU lets it pass.
    rng = np.random.default_rng(8)
    x, y = pictures(70, background, rng)
    trained = []
    weights = None
    for dtype in ("float64", "float32"):
        made = model(dtype, filters, padding, relu, use_bias)
        weights = weights or [rng.normal(size=w.shape) / 10 for w in made.get_weights()]
        made.set_weights([w.astype(dtype) for w in weights])
        made.fit(x, y, batch_size, epochs=2, shuffle=False, verbose=0)
        trained.append(made.get_weights())
    for exact, got in zip(*trained, strict=True):
        np.testing.assert_allclose(got, exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("seen", ["a part", "all", "all of some"])
@pytest.mark.parametrize("batch_size", [1, 9, 30, 80])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_images_left_where_they_lie_train_as_copies_do(seen, padding, batch_size):
    """Those of another type than the model's are copied."""
    rng = np.random.default_rng(7)
    x, y = pictures(100, -0.5, rng)
    noisy = {"a part": slice(0), "all": slice(100), "all of some": slice(50)}[seen]
    x[noisy] = rng.normal(size=x[noisy].shape)
    x = x.astype(np.float32)
    trained = []
    for copied in (False, True):
        set_random_seed(3)
        made = model("float32", 8, padding, relu=True, use_bias=True)
        given = x.astype(np.float64) if copied else x
        made.fit(given, y, batch_size, epochs=3, verbose=0)
        trained.append([*made.get_weights(), made.history.history["loss"], made.predict(given)])
    for left, copy in zip(*trained, strict=True):
        np.testing.assert_array_equal(left, copy)


@pytest.mark.parametrize("batch_size", [9, 30])
def test_bytes_train_as_the_numbers_they_stand_for(batch_size):
    """They are read as such, a batch that is divided by rows in two parts."""
    rng = np.random.default_rng(7)
    x, y = pictures(100, 0.0, rng)
    images = (np.abs(x) * 80).astype(np.uint8)
    trained = []
    for given in (images, images.astype(np.float64)):
        set_random_seed(3)
        made = model("float32", 8, "valid", True, True, Rescaling(1 / 255, -0.5))
        made.fit(given, y, batch_size, epochs=2, verbose=0)
        trained.append([*made.get_weights(), made.history.history["loss"]])
    for ours, theirs in zip(*trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Watching(Callback):
    """Makes each step, or some together, a call of its own, and may set the weights before one."""

    def __init__(self, step=None, scale=1.0):
        super().__init__()
        self.step, self.scale = step, scale

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.step:
            self.model.set_weights([self.scale * w for w in self.model.get_weights()])


def trained_one_by_one(images, steps_per_execution=1, callbacks=()):
    """Weights and loss after an epoch at batch 1 of small images.

    What steps add to the weights that meet the background is brought together every 1,024 steps.
    """
    rng = np.random.default_rng(7)
    x = np.full((images, 12, 12, 1), -0.5)
    for image in x:
        top, left = rng.integers(0, 7, 2)
        image[top : top + 5, left : left + 5] = rng.normal(size=(5, 5, 1))
    set_random_seed(3)
    conv = Conv2D(8, 3, activation="relu")
    made = Sequential([Input((12, 12, 1)), conv, MaxPooling2D(2), Flatten(), Dense(CLASSES)])
    loss = SparseCategoricalCrossentropy(from_logits=True)
    made.compile(SGD(0.01), loss, steps_per_execution=steps_per_execution)
    y = rng.integers(0, CLASSES, images)
    made.fit(x, y, 1, verbose=0, callbacks=list(callbacks))
    return [*made.get_weights(), made.history.history["loss"]]


@pytest.mark.parametrize("steps_per_execution", [1, 7, 1000, 1024])
def test_steps_are_the_same_however_an_epoch_is_cut_into_calls(steps_per_execution):
    whole = trained_one_by_one(2100)
    cut = trained_one_by_one(2100, steps_per_execution, [Watching()])
    for ours, theirs in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_are_set_between_steps_are_trained_on():
    """What was to be added to the old ones is not."""
    rng = np.random.default_rng(7)
    x, y = pictures(40, -0.5, rng)
    trained = []
    weights = None
    for dtype in ("float64", "float32"):
        made = model(dtype, 8, "valid", relu=True, use_bias=True)
        weights = weights or [rng.normal(size=w.shape) / 10 for w in made.get_weights()]
        made.set_weights([w.astype(dtype) for w in weights])
        made.fit(x, y, 1, shuffle=False, verbose=0, callbacks=[Watching(step=20, scale=0.5)])
        trained.append(made.get_weights())
    for exact, got in zip(*trained, strict=True):
        np.testing.assert_allclose(got, exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("batch_size", [1, 20])
def test_what_is_not_finite_is_not_left_out(batch_size, value):
    """Not in a picture, and not among the weights that only the background meets."""
    rng = np.random.default_rng(7)
    x, y = pictures(20, 0.0, rng)
    broken = x.copy()
    broken[3, 0, 27] = value
    made = model("float32", 8, "valid", relu=False, use_bias=False)
    with pytest.warns(RuntimeWarning, match="loss is not finite"):
        made.fit(broken, y, batch_size, verbose=0)
    made = model("float32", 8, "valid", relu=False, use_bias=False)
    kernel, weights, biases = made.get_weights()
    weights[0] = value
    made.set_weights([kernel, weights, biases])
    with pytest.warns(RuntimeWarning, match="loss is not finite"):
        made.fit(x, y, batch_size, verbose=0)
