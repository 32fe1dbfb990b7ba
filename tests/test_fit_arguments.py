"""What training and judging refuse."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnrs import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    ReLU,
    Rescaling,
    Sequential,
)
from cnnrs.callbacks import Callback, LambdaCallback
from cnnrs.layers import Layer
from cnnrs.losses import CategoricalCrossentropy, Loss, SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD
from cnnrs.utils import set_random_seed
from model_under_test import SPARSE, assert_same, compiled, data, small_model

# What is refused


def test_training_and_judging_need_compile() -> None:
    x, y = data()
    for method in ("fit", "evaluate"):
        with pytest.raises(ValueError, match=rf"{method}: expected a compiled model"):
            getattr(small_model(), method)(x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "loss: expected a name .*got None"),
        ({"loss": "hinge"}, ValueError, "loss: .*'mse', got 'hinge'"),
        ({"loss": 3}, TypeError, "loss: .*got 3"),
        ({"optimizer": "rmsprop", "loss": "mse"}, ValueError, "optimizer: .*got 'rmsprop'"),
        ({"optimizer": 0.1, "loss": "mse"}, TypeError, "optimizer: .*got 0.1"),
        ({"loss": SPARSE, "metrics": ["auc"]}, ValueError, "metrics: .*'acc', got 'auc'"),
        ({"loss": "mse", "metrics": ["mae"]}, ValueError, "metrics: expected none for .*'mae'"),
        ({"loss": SPARSE, "metrics": 5}, TypeError, "metrics: expected a list of names, got 5"),
        ({"loss": "mse", "metrics": ["accuracy"]}, ValueError, "metrics: .*MeanSquaredError"),
        ({"loss": SPARSE, "steps_per_execution": 0}, ValueError, "steps_per_.*at least 1, got 0"),
        ({"loss": SPARSE, "steps_per_execution": 1.5}, TypeError, "steps_per_.*got 1.5"),
        (
            {"loss": SPARSE, "loss_weights": ["accuracy"]},
            ValueError,
            r"loss_weights: expected None, got \['accuracy'\]; metrics go by name",
        ),
    ],
)
def test_compile_refuses_by_name_and_changes_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = compiled()
    before = model.optimizer, model.loss
    with pytest.raises(error, match=message):
        model.compile(**arguments)
    assert (model.optimizer, model.loss) == before


def test_a_loss_that_does_not_fit_the_output_is_refused() -> None:
    image = Sequential([Input((4, 4, 2)), BatchNormalization()])
    with pytest.raises(ValueError, match=r"\(4, 4, 2\)"):
        image.compile("sgd", SPARSE)
    assert image.loss is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs: expected at least 0, got -1"),
        ({"epochs": 1.0}, TypeError, "epochs: expected an integer, got 1.0"),
        ({"initial_epoch": -1}, ValueError, "initial_epoch: expected at least 0, got -1"),
        ({"batch_size": -3}, ValueError, "batch_size: expected at least 1, got -3"),
        ({"validation_split": 1}, ValueError, "validation_split: .*below 1, got 1"),
        ({"validation_split": -0.1}, ValueError, "validation_split: .*got -0.1"),
        ({"validation_split": 0.99}, ValueError, "validation_split: .*got 0.99 of 20"),
        (
            {"validation_split": np.array(-0.1)},
            ValueError,
            r"validation_split: .*got array\(-0.1\)",
        ),
        ({"validation_split": np.array([0.1])}, TypeError, r"validation_split: .*got array\(\[0.1"),
        ({"validation_split": "x"}, TypeError, "validation_split: .*got 'x'"),
        ({"validation_data": 3}, ValueError, "validation_data: .*two arrays.*got int"),
        ({"validation_data": (1, 2, 3)}, ValueError, "validation_data: .*got 3 of them"),
        ({"callbacks": [3]}, TypeError, "callbacks: .*got 3"),
        ({"callbacks": Callback}, TypeError, "callbacks: .*got <class"),
        (
            {"callbacks": (callback for callback in [Callback()])},
            TypeError,
            "callbacks: expected a .*Callback, or a list or tuple of them, got <generator",
        ),
        ({"sample_weight": [1]}, TypeError, "sample_weight"),
    ],
)
def test_fit_refuses_by_name(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    x, y = data()
    model = compiled()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(x, y, **({"verbose": 0} | settings))
    assert_same(model.get_weights(), before)


ONE_HOT = np.eye(3)[np.zeros(20, int)]


@pytest.mark.parametrize(
    ("loss", "y", "error", "message"),
    [
        (SPARSE, ONE_HOT, ValueError, r'\(20,\).*\(20, 3\).*loss="categorical_crossentropy"'),
        (SPARSE, np.zeros((20, 2)), ValueError, r"y: expected class numbers \(20,\).*\(20, 2\)$"),
        (SPARSE, np.zeros(19), ValueError, "y: expected 20 labels, as many as inputs, got 19"),
        (SPARSE, 1, ValueError, "y: expected 20 labels.* got the number 1"),
        (SPARSE, np.full(20, 0.5), ValueError, "y: expected whole class numbers, got 0.5"),
        (SPARSE, np.full(20, np.nan), ValueError, "y: expected whole class numbers, got nan"),
        (SPARSE, np.full(20, 3), ValueError, "below 3, got 3"),
        (SPARSE, np.full(20, -1), ValueError, "got -1"),
        (SPARSE, ["cat"] * 20, TypeError, "y: expected real numbers, got dtype <U3"),
        (SPARSE, None, TypeError, "y: expected real numbers, got dtype object"),
        (
            "categorical_crossentropy",
            np.zeros(20, int),
            ValueError,
            r'y: expected one-hot rows \(20, 3\).*\(20,\).*loss="sparse_categorical_crossentropy"',
        ),
        (
            CategoricalCrossentropy(),
            np.zeros((20, 1)),
            ValueError,
            r"\(20, 1\); for class numbers .*to_categorical",
        ),
        ("categorical_crossentropy", np.zeros((20, 4)), ValueError, r"\(n, 3\), got \(20, 4\)"),
        ("mse", np.zeros((20, 2)), ValueError, r"y: expected shape \(n, 3\), got \(20, 2\)"),
        ("mse", np.zeros((9, 3)), ValueError, "y: expected 20 labels, .*got 9"),
        ("mse", ONE_HOT * 1j, TypeError, "y: expected real numbers, got dtype complex128"),
    ],
)
def test_unfit_labels_are_refused_with_advice(
    loss: Any, y: Any, error: type[Exception], message: str
) -> None:
    x, _ = data()
    model = compiled(loss)
    before = model.get_weights()
    for use in (model.fit, model.evaluate):
        with pytest.raises(error, match=message):
            use(x, y, verbose=0)
    with pytest.raises(error, match=message.removeprefix("y:")):
        model.fit(
            x,
            np.eye(3)[:1].repeat(20, 0) if loss != SPARSE else np.zeros(20),
            validation_data=(x, y),
            verbose=0,
        )
    assert_same(model.get_weights(), before)


def test_errors_in_validation_data_say_so() -> None:
    x, y = data()
    model = compiled()
    with pytest.raises(ValueError, match=r"x of validation_data: expected shape"):
        model.fit(x, y, validation_data=(x[:, :5], y))
    with pytest.raises(ValueError, match=r"y of validation_data: expected 20 labels"):
        model.fit(x, y, validation_data=(x, y[:5]))


def test_no_images_are_refused() -> None:
    model = compiled()
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="x: expected at least one image, got none"):
            use(np.zeros((0, 7, 6, 2)), np.zeros(0))


def test_data_is_left_as_it_is() -> None:
    x, y = data()
    copies = x.copy(), y.copy()
    model = compiled()
    model.fit(x, y, epochs=2, verbose=0)
    model.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(y, copies[1])


def test_adding_a_layer_keeps_the_way_of_training() -> None:
    set_random_seed(0)
    model = Sequential([Input((4,)), Dense(5)])
    model.compile(SGD(0.1, momentum=0.9), "mse")
    model.fit(np.ones((3, 4)), np.ones((3, 5)), verbose=0)
    model.add(Dense(2))
    model.fit(np.ones((3, 4)), np.ones((3, 2)), verbose=0)
    assert model.optimizer.momentum == 0.9


def test_two_softmaxes_are_warned_of() -> None:
    model = Sequential([Input((4,)), Dense(3, "softmax")])
    with pytest.warns(RuntimeWarning, match=r"from_logits=True applies a softmax, and so does <De"):
        model.compile("sgd", CategoricalCrossentropy(from_logits=True))
    model.compile("sgd", CategoricalCrossentropy())
    with pytest.warns(RuntimeWarning, match="from_logits=True applies a softmax"):
        model.compile("sgd", CategoricalCrossentropy(from_logits=True))


def test_two_softmaxes_are_warned_of_where_they_come_together() -> None:
    model = Sequential()
    model.compile("sgd", SparseCategoricalCrossentropy(from_logits=True))
    model.add(Dense(3, activation="softmax"))
    x = np.zeros((2, 4), np.float32)
    with pytest.warns(RuntimeWarning, match="from_logits=True applies a softmax") as warned:
        model.fit(x, [0, 1], verbose=0)
    assert [Path(it.filename).name for it in warned] == [Path(__file__).name]
    model.fit(x, [0, 1], verbose=0)  # a second warning would be an error


def test_two_softmaxes_are_seen_through_what_only_passes_them_on() -> None:
    ends = [Dense(3, "softmax"), Dropout(0.5), Flatten(), Activation("linear")]
    with pytest.warns(RuntimeWarning, match="from_logits=True applies a softmax, and so does <De"):
        Sequential(ends).compile("sgd", CategoricalCrossentropy(from_logits=True))


DENSE = "layer 'dense' ends in none; give it activation=\"softmax\", or compile with "
"""What a missing softmax is warned of by, up to the loss."""

NO_SOFTMAX: list[tuple[Callable[[], list[Layer]], str]] = [
    (lambda: [Dense(3)], DENSE),
    (lambda: [Dense(3), Dropout(0.5), Flatten(), Activation("linear")], DENSE),
    (lambda: [Dense(3, activation="relu")], DENSE),
    (lambda: [Dense(3, activation="exponential")], DENSE),
    (lambda: [Dense(3, "softmax"), Activation("tanh")], DENSE.replace("dense", "activation")),
    (lambda: [Conv2D(3, 1), GlobalAveragePooling2D()], DENSE.replace("dense", "conv2d")),
    (lambda: [Dense(3), ReLU()], "layer 're_lu' ends in none; put Activation(\"softmax\") behind"),
    (lambda: [Dense(3), BatchNormalization()], "layer 'batch_normalization' ends in none; put "),
    (lambda: [Dense(3, "softmax"), Rescaling(2.0)], "layer 'rescaling' ends in none; put "),
]


@pytest.mark.parametrize(("layers", "words"), NO_SOFTMAX)
@pytest.mark.parametrize("loss", [SparseCategoricalCrossentropy, CategoricalCrossentropy])
def test_a_missing_softmax_is_warned_of(
    layers: Callable[[], list[Layer]], words: str, loss: type[Loss]
) -> None:
    words = f"loss: expected probabilities, as behind a softmax, but {words}"
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(words)}") as warned:
        Sequential(layers()).compile("sgd", loss())
    assert str(warned[0].message).endswith(f", or compile with {loss.__name__}(from_logits=True)")
    assert [Path(it.filename).name for it in warned] == [Path(__file__).name]


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ([Dense(3, activation="sigmoid")], SPARSE),
        ([Dense(3, activation="softmax"), Dropout(0.5)], SPARSE),
        ([Dense(3), Activation("softmax"), Activation("linear")], "categorical_crossentropy"),
        ([Conv2D(3, 1, activation="softmax"), GlobalAveragePooling2D()], SPARSE),
        ([Flatten()], SPARSE),  # of what may be probabilities
        ([Dense(3)], CategoricalCrossentropy(from_logits=True)),
        ([Dense(3, activation="relu")], "mse"),
    ],
)
def test_no_softmax_is_missed_where_none_is_missing(layers: list[Layer], loss: Any) -> None:
    Sequential(layers).compile("sgd", loss)


class Odd(Loss):
    _kind = "odd"


def test_a_missing_softmax_is_warned_of_once_for_each_compile() -> None:
    x, y = np.ones((2, 4), np.float32), [0, 1]
    for judge in ("evaluate", "fit"):
        model = Sequential()
        model.compile("sgd", SPARSE)  # there may come a softmax
        model.add(Dense(3, kernel_initializer="ones"))
        with pytest.warns(RuntimeWarning, match="expected probabilities"):
            getattr(model, judge)(x, y, verbose=0)
        model.fit(x, y, verbose=0)  # a second warning would be an error
        with pytest.raises(ValueError, match="odd"):
            model.compile("sgd", Odd())
        model.evaluate(x, y, verbose=0)  # compiled as before, and warned of
        with pytest.warns(RuntimeWarning, match="expected probabilities"):
            model.compile("sgd", SPARSE)


def test_a_warning_that_is_an_error_is_one_each_time() -> None:
    model, x = Sequential([Input((4,)), Dense(3)]), np.zeros((2, 4), np.float32)
    for _ in range(2):
        with pytest.raises(RuntimeWarning, match="expected probabilities"):
            model.compile("sgd", SPARSE)
        with pytest.raises(RuntimeWarning, match="expected probabilities"):
            model.fit(x, [0, 1], verbose=0)


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_a_cross_entropy_needs_two_classes(loss: str) -> None:
    model = Sequential([Input((4,)), Dense(1, activation="sigmoid")])
    with pytest.raises(ValueError, match=r"two classes or more for a cross-entropy, got .*\(1,\)"):
        model.compile("sgd", loss)


@pytest.mark.parametrize("shuffle", ["batch", "False", None, 2])
def test_shuffle_is_true_or_false(shuffle: Any) -> None:
    x, y = data()
    with pytest.raises(TypeError, match=f"^shuffle: expected True or False, got {shuffle!r}"):
        compiled().fit(x, y, shuffle=shuffle, verbose=0)


def test_the_accuracy_has_one_name() -> None:
    with pytest.raises(ValueError, match=r"metrics: expected one name .*'acc'\]"):
        small_model().compile("sgd", SPARSE, metrics=["accuracy", "acc"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_data": (np.zeros((2, 9)), [0, 1])},
        {"validation_split": 0.999},
        {"callbacks": [3]},
    ],
)
def test_a_refused_first_fit_builds_nothing(arguments: dict[str, Any]) -> None:
    model = Sequential([Dense(3, activation="softmax")])
    model.compile("sgd", SPARSE)
    with pytest.raises((TypeError, ValueError), match="expected"):
        model.fit(np.zeros((4, 5)), [0, 1, 2, 0], verbose=0, **arguments)
    assert not model.built
    model.fit(np.zeros((4, 6)), [0, 1, 2, 0], verbose=0)


def test_a_loss_that_does_not_fit_is_refused_before_callbacks_are_called() -> None:
    called: list[str] = []
    model = Sequential([Conv2D(3, 3, activation="softmax")])
    model.compile("sgd", SPARSE)
    record = LambdaCallback(on_train_begin=lambda logs: called.append("begun"))
    with pytest.raises(ValueError, match="expected an output of one axis"):
        model.fit(np.zeros((4, 8, 8, 1)), np.zeros(4), verbose=0, callbacks=[record])
    assert (called, model.built) == ([], False)


def test_a_shape_to_build_is_a_tuple() -> None:
    with pytest.raises(TypeError, match=r"input_shape: expected a shape such as .*, got 5"):
        Sequential([Dense(3)]).build(5)  # type: ignore[arg-type]


def test_a_model_without_layers_is_said_to_have_none() -> None:
    with pytest.raises(ValueError, match="expected a built model, got sequential, which has no"):
        Sequential([Input((4,))]).get_weights()
