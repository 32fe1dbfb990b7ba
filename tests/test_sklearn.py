"""The classifier for scikit-learn: its contract, images, and what a search may do with it."""

import pickle
import subprocess
import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cnnrs import Conv2D, Dense, Dropout, Flatten, MaxPooling2D, Rescaling, Sequential
from cnnrs.layers import Layer
from cnnrs.optimizers import SGD
from cnnrs.sklearn import CNNClassifier
from model_under_test import SPARSE, assert_same_weights, differ

Array: TypeAlias = npt.NDArray[Any]


@parametrize_with_checks(
    [
        CNNClassifier(),
        CNNClassifier([], optimizer="sgd", learning_rate=0.1),
        CNNClassifier([Dense(16, "relu"), Dropout(0.1)], batch_size=8),
    ]
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


SQUARE, BAR = "square", "bar"


def images(n: int = 60, seed: int = 0) -> tuple[Array, Array]:
    """Bytes (n, 6, 5): a bright square or a bright bar somewhere in the dark, and which."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (n, 6, 5), np.uint8)
    y = np.where(rng.random(n) < 0.5, SQUARE, BAR)
    for image, label in zip(x, y, strict=True):
        h, w = (2, 2) if label == SQUARE else (4, 1)
        top, left = rng.integers(0, 6 - h + 1), rng.integers(0, 5 - w + 1)
        image[top : top + h, left : left + w] += 200
    return x, y


def classifier(**settings: Any) -> CNNClassifier:
    layers = [Rescaling(1 / 255), Conv2D(8, 3, activation="relu"), MaxPooling2D(2)]
    defaults = {"layers": layers, "epochs": 40, "learning_rate": 0.01, "random_state": 0}
    return CNNClassifier(**{**defaults, **settings})


# Images


def test_images_are_learnt_in_any_form() -> None:
    x, y = images()
    test, labels = images(seed=1)
    by_images = classifier().fit(x, y)
    by_rows = classifier(image_shape=(6, 5)).fit(x.reshape(60, 30), y)
    by_channels = classifier(image_shape=(6, 5, 1)).fit(x[..., np.newaxis], y)
    assert by_images.score(test, labels) > 0.9
    assert by_images.classes_.tolist() == [BAR, SQUARE]
    for other in (by_rows, by_channels):
        assert_same_weights(other.model_, by_images.model_)
    for fitted in (by_images, by_rows, by_channels):
        assert (fitted.n_features_in_, fitted.input_shape_) == (30, (6, 5, 1))
        expected = by_images.predict_proba(test)
        for form in (test, test.reshape(60, 30), test[..., np.newaxis], test.tolist()):
            np.testing.assert_array_equal(fitted.predict_proba(form), expected)
        np.testing.assert_array_equal(fitted.predict(test), fitted.classes_[expected.argmax(1)])


def test_colours_are_channels() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((80, 3, 3, 3), np.float32)
    y = x.mean((1, 2)).argmax(-1)
    by_images = classifier(layers=[Conv2D(3, 3)], epochs=200).fit(x, y)
    assert by_images.input_shape_ == (3, 3, 3)
    assert by_images.score(x, y) > 0.9
    by_rows = clone(by_images).set_params(image_shape=(3, 3, 3)).fit(x.reshape(80, 27), y)
    assert_same_weights(by_rows.model_, by_images.model_)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_default_layers_suit_images_of_any_scale(scale: float) -> None:
    x, y = images(200)
    test, labels = images(seed=1)
    fitted = CNNClassifier(random_state=0).fit(x * scale + scale, y)
    assert [type(layer).__name__ for layer in fitted.model_.layers] == [
        "Rescaling",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dense",
        "Dense",
    ]
    assert fitted.score(test * scale + scale, labels) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3, 4)])
def test_the_default_layers_take_small_and_constant_images(shape: tuple[int, ...]) -> None:
    fitted = CNNClassifier(epochs=1).fit(np.ones((4, *shape)), [0, 1, 2, 0])
    assert np.isfinite(fitted.predict_proba(np.ones((2, *shape)))).all()


# Layers


def test_layers_stay_the_users_and_serve_again() -> None:
    x, y = images(20)
    layers: list[Layer] = [Flatten(), Dense(4, "relu")]
    ours = CNNClassifier(layers, epochs=1)
    first = ours.fit(x, y).model_
    second = ours.fit(x, y).model_
    assert first is not second
    assert [layer._model for layer in layers] == [None, None]
    assert Sequential(layers).layers == layers
    ours.fit(x, y)  # also while they belong to a model


def test_layers_may_come_from_a_function_of_the_shape() -> None:
    def make(shape: tuple[int, ...]) -> list[Layer]:
        return [Flatten(), Dense(shape[0] * shape[1])]

    x, y = images(20)
    fitted = CNNClassifier(make, epochs=1).fit(x, y)
    assert [array.shape for array in fitted.model_.get_weights()] == [
        (30, 30),
        (30,),
        (30, 2),
        (2,),
    ]


def test_the_last_layers_are_added_where_needed() -> None:
    x, y = images(20)
    assert [type(it).__name__ for it in CNNClassifier([], epochs=1).fit(x, y).model_.layers] == [
        "Flatten",
        "Dense",
    ]
    rows = CNNClassifier([], epochs=1).fit(x.reshape(20, 30), y)
    assert [type(it).__name__ for it in rows.model_.layers] == ["Dense"]


# Settings


def test_settings_reach_the_training() -> None:
    x, y = images(40)
    fitted = classifier(
        epochs=3, batch_size=7, optimizer=SGD(momentum=0.9), learning_rate=0.05
    ).fit(x, y)
    layers = [Rescaling(1 / 255), Conv2D(8, 3, activation="relu"), MaxPooling2D(2), Flatten()]
    again = Sequential.__new__(Sequential)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    again._begin([*layers, Dense(2, "softmax")], "again", "float32", np.random.default_rng(seed))
    again.compile(SGD(0.05, momentum=0.9), SPARSE)
    history = again.fit(
        x[..., np.newaxis], (y == SQUARE).astype(int), batch_size=7, epochs=3, verbose=0
    )
    assert_same_weights(fitted.model_, again)
    assert fitted.history_ == history.history
    assert list(fitted.history_) == ["loss", "accuracy"]


def test_the_optimizer_given_stays_as_it_is() -> None:
    x, y = images(20)
    sgd = SGD(0.1)
    fitted = classifier(optimizer=sgd, learning_rate=0.5, epochs=1).fit(x, y)
    assert (sgd.learning_rate, fitted.model_.optimizer.learning_rate) == (0.1, 0.5)


def test_the_random_state_decides_and_nobody_elses_is_touched() -> None:
    x, y = images(20)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    same = [classifier(random_state=5, epochs=1).fit(x, y).model_ for _ in range(2)]
    assert_same_weights(*same)
    assert differ(same[0], classifier(random_state=6, epochs=1).fit(x, y).model_)
    state = np.random.RandomState(5)
    one, two = (classifier(random_state=state, epochs=1).fit(x, y).model_ for _ in range(2))
    assert_same_weights(one, same[0])
    assert differ(one, two)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    unseeded = [classifier(random_state=None, epochs=1).fit(x, y).model_ for _ in range(2)]
    assert differ(*unseeded)


@pytest.mark.parametrize(
    "labels", [[True, False], [7, -3], ["a", "b"], np.array(["x", "y"], object)]
)
def test_labels_of_any_type_come_back(labels: Any) -> None:
    x, y = images(40)
    names = np.where(y == SQUARE, *labels).astype(np.asarray(labels).dtype)
    predicted = classifier().fit(x, names).predict(x)
    assert predicted.dtype == names.dtype
    assert set(predicted) == set(names)


# Among scikit-learn's own


def test_it_works_in_a_pipeline_and_is_cross_validated() -> None:
    x, y = images(120)
    pipe = make_pipeline(StandardScaler(), classifier(image_shape=(6, 5), layers=None))
    assert cross_val_score(pipe, x.reshape(120, 30), y, cv=3).min() > 0.7
    assert cross_val_score(classifier(), x, y, cv=2).shape == (2,)  # images themselves, too


def test_a_grid_may_vary_layers_and_numbers() -> None:
    x, y = images(40)
    grid = {
        "layers": [[Flatten(), Dense(4)], [Flatten(), Dense(5)], [Flatten()], None],
        "epochs": [0, 10],
    }
    search = GridSearchCV(classifier(), grid, cv=2).fit(x, y)
    assert search.best_params_["epochs"] == 10
    assert len(search.cv_results_["params"]) == 8
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


def test_a_clone_has_the_settings_and_nothing_learnt() -> None:
    x, y = images(20)
    fitted = classifier(epochs=1).fit(x, y)
    copy = clone(fitted)
    assert not hasattr(copy, "model_")
    assert [layer.get_config() for layer in copy.layers] == [
        layer.get_config() for layer in fitted.layers
    ]
    assert_same_weights(copy.fit(x, y).model_, fitted.model_)


def test_pickling_keeps_what_was_learnt() -> None:
    x, y = images(20)
    fitted = classifier(epochs=2).fit(x, y)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(x), fitted.predict_proba(x))
    assert copy.history_ == fitted.history_
    assert_same_weights(copy.fit(x, y).model_, fitted.model_)


# What is refused


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"image_shape": (6, 6)}, (4, 30), r"X: expected 36 features for .*\(6, 6\), got 30"),
        ({"image_shape": (6, 6)}, (4, 6, 5), r"X: .* shape \(6, 6, 1\), got images \(6, 5, 1\)"),
        ({"image_shape": (30,)}, (4, 30), r"image_shape: expected \(h, w\) or .*, got \(30,\)"),
        ({"image_shape": (0, 5)}, (4, 30), r"image_shape: expected at least 1, got 0"),
        ({}, (4, 2, 3, 4, 5), r"X: expected rows \(n, features\), .*, got shape \(4, 2, 3, 4, 5\)"),
        ({"layers": [Conv2D(2, 7)]}, (4, 6, 5), r"conv2d: expected an image of at least 7x7"),
        ({"optimizer": "best"}, (4, 6, 5), r"optimizer: expected 'sgd', .*, got 'best'"),
        ({"learning_rate": -1}, (4, 6, 5), r"learning_rate: expected .* at least 0, got -1"),
        ({"epochs": -1}, (4, 6, 5), r"epochs: expected at least 0, got -1"),
    ],
)
def test_a_refused_setting_leaves_nothing_learnt(
    settings: dict[str, Any], shape: tuple[int, ...], message: str
) -> None:
    ours = classifier(**settings)
    with pytest.raises(ValueError, match=message):
        ours.fit(np.zeros(shape), [0, 1, 0, 1])
    with pytest.raises(NotFittedError):
        ours.predict(np.zeros(shape))


@pytest.mark.parametrize("only", [1, "a", True])
def test_one_class_is_refused_and_shown_as_it_was_given(only: Any) -> None:
    with pytest.raises(ValueError, match=f"expected two classes or more, got 1 class: {only!r}$"):
        classifier().fit(np.zeros((5, 3)), [only] * 5)


@pytest.mark.parametrize(
    "layers", [Dense(3), iter([Dense(3)]), lambda shape: Dense(3)], ids=["layer", "iterator", "fn"]
)
def test_layers_that_are_no_list_are_refused(layers: Any) -> None:
    with pytest.raises(TypeError, match=r"layers: expected a list of layers, or a .*, got <"):
        classifier(layers=layers).fit(*images(20))


def test_no_images_are_refused() -> None:
    x, y = images(20)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        classifier().fit(x[:0], y[:0])
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        classifier(epochs=1).fit(x, y).predict(x[:0])


def test_other_images_than_learnt_are_refused() -> None:
    x, y = images(20)
    fitted = classifier(epochs=1).fit(x, y)
    with pytest.raises(ValueError, match=r"X: expected one input of shape \(6, 5, 1\), got images"):
        fitted.predict(x.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="X has 25 features, but CNNClassifier is expecting 30"):
        fitted.predict(x[:, :5])


def test_scikit_learn_missing_is_said_and_the_rest_needs_none() -> None:
    program = "import sys; sys.modules['sklearn'] = None; import cnnrs; import cnnrs.sklearn"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: cnnrs.sklearn: expected the package scikit-learn, which is not "
        'installed; pip install "cnnrs[sklearn]" does that'
    )
