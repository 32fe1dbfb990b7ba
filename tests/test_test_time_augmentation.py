"""`predict(..., augmentations=n)`: the mean of what is said of n versions of each image."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from cnnrs import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    RandomAffine,
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomTranslation,
    Rescaling,
    Sequential,
)
from cnnrs.layers import Layer
from cnnrs.utils import set_random_seed
from model_under_test import assert_same_weights

Array: TypeAlias = npt.NDArray[Any]

SHAPE = (12, 10, 1)


def images(n: int) -> Array:
    return np.random.default_rng(0).random((n, *SHAPE), np.float32)


def classifier(*layers: Layer) -> Sequential:
    set_random_seed(3)
    rest = [Conv2D(4, 3), MaxPooling2D(2), BatchNormalization(), Flatten(), Dropout(0.5)]
    model = Sequential([Input(SHAPE), *layers, *rest, Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def all_kinds() -> list[Layer]:
    kinds = [RandomTranslation(0.2, 0.2), RandomAffine(0.05, seed=3), RandomElastic(10, 3)]
    return [RandomFlip("horizontal"), *kinds, RandomErasing((1, 1))]


def test_a_version_is_one_that_training_could_see() -> None:
    x = images(512)
    model = Sequential([Input(SHAPE), RandomFlip("horizontal")])
    version = model.predict(x, augmentations=1)
    mirrored = (version == x[:, :, ::-1]).all((1, 2, 3))
    assert ((version == x).all((1, 2, 3)) ^ mirrored).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=5 * 0.5 / 512**0.5)


def test_the_result_is_the_mean_and_each_version_another() -> None:
    x = images(4)
    model = Sequential([Input(SHAPE), RandomFlip("horizontal")])
    n = 400
    half = (x + x[:, :, ::-1]) / 2
    # 5 standard deviations of the share of mirrored ones.
    np.testing.assert_allclose(model.predict(x, augmentations=n), half, rtol=0, atol=5 * 0.5 / 20)
    one, two = (model.predict(x, augmentations=n) for n in (1, 2))
    second = 2 * two - one
    for version in (one, second):
        sides = [abs(version - side).max((1, 2, 3)) < 1e-5 for side in (x, x[:, :, ::-1])]
        assert (sides[0] ^ sides[1]).all()


def test_all_else_is_as_in_prediction() -> None:
    """Neither is anything dropped, nor are images normalised by those beside them."""
    x = images(40)
    x += x[:, :, ::-1]
    model = classifier(RandomFlip("horizontal"))
    model.fit(x, np.arange(40) % 3, verbose=0)
    expected = model.predict(x)
    np.testing.assert_allclose(model.predict(x, augmentations=3), expected, rtol=0, atol=1e-6)
    classes = model.predict_classes(x, augmentations=3)
    np.testing.assert_array_equal(classes, expected.argmax(1))


def test_classes_are_those_of_the_mean() -> None:
    x = np.random.default_rng(0).random((200, 1, 2, 1))
    model = Sequential([Input((1, 2, 1)), RandomFlip("horizontal"), Flatten()])
    mean = model.predict(x, augmentations=3).argmax(1)
    np.testing.assert_array_equal(model.predict_classes(x, augmentations=3), mean)
    assert (mean != model.predict_classes(x)).any()


@pytest.fixture
def _same_threads_after() -> Iterator[None]:
    threads = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(threads)


@pytest.mark.usefixtures("_same_threads_after")
def test_calls_and_threads_change_no_bit() -> None:
    x = images(300)
    model = classifier(*all_kinds())
    state = model._rng.bit_generator.state
    expected = model.predict(x, augmentations=2)
    assert not np.allclose(expected, model.predict(x), atol=1e-3)
    for threads in (1, 2, 3, 7):
        cnnrs.set_num_threads(threads)
        np.testing.assert_array_equal(model.predict(x, augmentations=2), expected)
    assert model._rng.bit_generator.state == state


def test_it_is_by_the_weights_of_now() -> None:
    x, y = images(64), np.arange(64) % 3
    model = classifier(*all_kinds())
    before = model.predict(x, augmentations=2)
    model.fit(x, y, epochs=2, verbose=0)
    after = model.predict(x, augmentations=2)
    assert not np.allclose(after, before, atol=1e-4)
    twin = classifier(*all_kinds())
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.predict(x, augmentations=2), after)
    model.set_weights([0 * array for array in model.get_weights()])
    np.testing.assert_allclose(model.predict(x, augmentations=2), 1 / 3, rtol=1e-6)


def test_it_does_not_disturb_training() -> None:
    x, y = images(64), np.arange(64) % 3
    asked, left = classifier(*all_kinds()), classifier(*all_kinds())
    for model in (asked, left):
        for _ in range(2):
            model.fit(x, y, verbose=0)
            if model is asked:
                model.predict(x, augmentations=3)
    assert_same_weights(asked, left)


def test_bytes_and_no_images_at_all_are_fine() -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    model = classifier(RandomTranslation(0.2, 0.2), Rescaling(1 / 255))
    np.testing.assert_array_equal(
        model.predict(x, augmentations=2), model.predict(x.astype(np.float32), augmentations=2)
    )
    assert model.predict(x[:0], augmentations=2).shape == (0, 3)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "augmentations: expected .* got -1"),
        (1.5, TypeError, "augmentations: .*got 1.5"),
    ],
)
def test_unfit_numbers_are_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        classifier(RandomFlip()).predict(images(2), augmentations=value)


def test_a_model_without_such_layers_has_no_versions() -> None:
    with pytest.raises(ValueError, match=r"augmentations: .*without random.*got 4"):
        classifier().predict(images(2), augmentations=4)
    assert classifier().predict(images(2), augmentations=0).shape == (2, 3)
