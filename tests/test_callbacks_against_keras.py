"""EarlyStopping, ReduceLROnPlateau and LearningRateScheduler against Keras's own."""

import csv
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnrs import callbacks
from cnnrs.optimizers import SGD
from model_under_test import SPARSE, data, small_model

# Of what Keras and TensorFlow warn about in their own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAN = float("nan")


class Feed(callbacks.Callback):
    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_loss"] = self.values[epoch]


def ours(callback: Any, values: list[float]) -> tuple[int, list[float], list[Any], list[Any]]:
    """Epochs, learning rates, the weights at the end, and those of each epoch."""
    x, y = data(4)
    model = small_model()
    model.compile(SGD(0.5), SPARSE)
    weights, rates = [], []

    def note(epoch: int, logs: Any) -> None:
        weights.append(model.get_weights()[0])
        rates.append(model.optimizer.learning_rate)

    called = [Feed(values), callbacks.LambdaCallback(on_epoch_end=note), callback]
    history = model.fit(x, y, epochs=len(values), verbose=0, callbacks=called)
    rates.append(model.optimizer.learning_rate)
    return len(history.epoch), rates, model.get_weights()[0], weights


def theirs(
    callback: Any, values: list[float], weights: list[Any]
) -> tuple[int, list[float], list[Any]]:
    """The same of Keras's callback, with a model that only holds what it asks for."""
    model = SimpleNamespace(stop_training=False, optimizer=SimpleNamespace(learning_rate=0.5))
    model.get_weights = lambda: model.weights
    model.set_weights = lambda weights: setattr(model, "weights", weights)
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        model.weights = weights[min(epoch, len(weights) - 1)]
        rates.append(model.optimizer.learning_rate)
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": value})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch + 1, [*rates, model.optimizer.learning_rate], model.weights


# Eighths are exact in float32, which Keras compares in.
eighths = st.integers(-16, 16).map(lambda n: n / 8)
# A first figure that is NaN is never beaten in Keras.
sequences = st.tuples(eighths, st.lists(eighths | st.just(NAN), max_size=14)).map(
    lambda it: [it[0], *it[1]]
)
watched = {
    "min_delta": st.sampled_from([0, 0.25, -0.25]),
    "patience": st.integers(0, 4),
    "mode": st.sampled_from(["auto", "min", "max"]),
}


@settings(max_examples=300)
@given(
    sequences,
    st.fixed_dictionaries(
        watched,
        optional={
            "baseline": eighths,
            "restore_best_weights": st.booleans(),
        },
    ),
)
def test_early_stopping_is_kerass(
    keras: Any, values: list[float], arguments: dict[str, Any]
) -> None:
    got = callbacks.EarlyStopping(**arguments)
    expected = keras.callbacks.EarlyStopping(**arguments)
    epochs, _, last, weights = ours(got, values)
    their_epochs, _, their_last = theirs(expected, values, weights)
    assert epochs == their_epochs
    np.testing.assert_array_equal(last, their_last)
    for name in ("wait", "stopped_epoch", "best", "best_epoch"):
        assert getattr(got, name) == getattr(expected, name)


@settings(max_examples=300)
@given(
    sequences,
    st.fixed_dictionaries(
        watched,
        optional={
            "factor": st.sampled_from([0.0, 0.125, 0.5]),
            "cooldown": st.integers(0, 4),
            "min_lr": st.sampled_from([0.0, 0.0625, 0.5, 2.0]),
        },
    ),
)
def test_reducing_the_learning_rate_is_kerass(
    keras: Any, values: list[float], arguments: dict[str, Any]
) -> None:
    got = callbacks.ReduceLROnPlateau(**arguments)
    expected = keras.callbacks.ReduceLROnPlateau(**arguments)
    _, rates, _, weights = ours(got, values)
    assert rates == pytest.approx(theirs(expected, values, weights)[1])
    for name in ("wait", "cooldown_counter", "best"):
        assert getattr(got, name) == getattr(expected, name)


@pytest.mark.parametrize(
    "schedule", [lambda epoch: 0.5 / (epoch + 1), lambda epoch, rate: rate * (0.5 + epoch)]
)
def test_a_schedule_of_learning_rates_is_kerass(keras: Any, schedule: Any) -> None:
    values = [1.0] * 5
    _, rates, _, weights = ours(callbacks.LearningRateScheduler(schedule), values)
    expected = keras.callbacks.LearningRateScheduler(schedule)
    assert rates == theirs(expected, values, weights)[1]


def test_a_table_is_kerass(keras: Any, tmp_path: Path) -> None:
    x, y = data()
    paths = [tmp_path / "ours.csv", tmp_path / "theirs.csv"]
    model = small_model()
    model.compile(SGD(0.5), SPARSE)
    logged = callbacks.CSVLogger(paths[0], ";")
    called = keras.callbacks.CSVLogger(str(paths[1]), ";")
    also = callbacks.LambdaCallback(
        on_train_begin=called.on_train_begin,
        on_epoch_end=called.on_epoch_end,
        on_train_end=called.on_train_end,
    )
    model.fit(x, y, epochs=3, verbose=0, validation_split=0.5, callbacks=[logged, also])
    tables = []
    for path in paths:
        with path.open(newline="") as file:
            tables.append(list(csv.reader(file, delimiter=";")))
    assert tables[0] == tables[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    "name", [name for name in callbacks.__all__ if name not in ("Callback", "History")]
)
def test_arguments_are_kerass(keras: Any, name: str) -> None:
    def arguments(kind: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(kind).parameters.values()
        return [(it.name, it.default) for it in parameters if it.kind is not it.VAR_KEYWORD]

    if not hasattr(keras.callbacks, name):
        pytest.skip(f"this Keras has no {name}")
    expected = arguments(getattr(keras.callbacks, name))
    assert arguments(getattr(callbacks, name)) == expected


def test_hooks_are_kerass(keras: Any) -> None:
    def hooks(kind: Any) -> set[str]:
        return {name for name in vars(kind) if name.startswith("on_")}

    assert hooks(keras.callbacks.Callback) - hooks(callbacks.Callback) == {
        f"on_{what}_batch_{when}" for what in ("test", "predict") for when in ("begin", "end")
    }
    assert hooks(callbacks.Callback) <= hooks(keras.callbacks.Callback)
