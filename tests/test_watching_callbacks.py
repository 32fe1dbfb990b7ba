"""Callbacks that watch a figure or set the learning rate, fed with figures made by hand."""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import Sequential
from cnnrs.callbacks import (
    Callback,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from cnnrs.optimizers import SGD, schedules
from model_under_test import SPARSE, assert_same, assert_same_weights, compiled, data, small_model

NAN = math.nan


class Feed(Callback):
    """Puts a figure of each epoch into the logs; None leaves it out."""

    def __init__(self, values: Sequence[float | None], name: str = "val_loss") -> None:
        self.values, self.name = values, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.values[epoch] is not None:
            logs[self.name] = self.values[epoch]


class Weights(Callback):
    """Keeps the weights that each epoch ends with."""

    def __init__(self) -> None:
        self.weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(self.model.get_weights())


def train(
    values: Sequence[float | None], *callbacks: Callback, name: str = "val_loss", **settings: Any
) -> Sequential:
    """A training of as many epochs as there are figures."""
    x, y = data(8)
    model = small_model()
    model.compile(SGD(0.5), SPARSE)
    called = [Feed(values, name), *callbacks]
    model.fit(x, y, epochs=len(values), verbose=0, callbacks=called, **settings)
    return model


def epochs_of(values: Sequence[float | None], *, name: str = "val_loss", **settings: Any) -> int:
    """How many epochs `EarlyStopping` leaves of such figures."""
    model = train(values, EarlyStopping(monitor=name, **settings), name=name)
    assert model.history is not None
    return len(model.history.epoch)


def rates_of(values: Sequence[float | None], **settings: Any) -> list[float]:
    """The learning rates of epochs that have such figures, and the one after them."""
    model = train(values, ReduceLROnPlateau(**settings))
    assert model.history is not None
    assert model.optimizer is not None
    return [*model.history.history["learning_rate"], model.optimizer.learning_rate]


# What is better


@pytest.mark.parametrize(
    ("values", "settings", "epochs"),
    [
        ([5, 4, 3, 3, 2], {}, 4),  # the first that is not better
        ([5, 5, 5, 5, 5], {}, 2),
        ([5, 4, 5, 5, 5], {"patience": 1}, 3),
        ([5, 4, 5, 5, 5], {"patience": 2}, 4),
        ([5, 4, 5, 3, 4, 4], {"patience": 2}, 6),  # a better one begins the patience anew
        ([5, 4.6, 4.2, 3.8], {"min_delta": 0.5}, 2),
        ([5, 4.6, 4.2, 3.8], {"min_delta": -0.5}, 2),  # as in Keras
        ([5, 4.6, 4.2, 3.8], {"min_delta": 0.5, "patience": 2}, 4),  # 4.2 beats 5
        ([1, 2, 3, 2], {"mode": "max"}, 4),
        ([3, 2, 1], {"mode": "max"}, 2),
        ([1, 2, 3, 3], {"name": "val_accuracy"}, 4),
        ([1, 2, 3, 3], {"name": "val_acc"}, 4),
        ([3, 2, 1], {"name": "val_accuracy", "mode": "min"}, 3),
        ([3, 2, 1, 1], {"name": "f1", "mode": "min"}, 4),
        ([NAN, 5, 4, 3], {}, 4),  # anything is better than NaN
        ([NAN, NAN, 4, 3], {}, 2),  # but that is no better than nothing
        ([NAN, 5, 4, 3], {"patience": 2}, 4),
        ([5, NAN, 4], {}, 2),
        ([5, NAN, 4, NAN, NAN], {"patience": 2}, 5),
        ([math.inf, 5, 4], {}, 3),
        ([5, 4, 3, 2], {"baseline": 1.0}, 4),  # better than before is enough while it goes on
        ([5, 4, 4, 2], {"baseline": 1.0, "patience": 9}, 4),
        ([5, 4, 3, 3, 2], {"baseline": 1.0, "patience": 2}, 4),  # counted from the begin
        ([5, 0.5, 3, 3, 2], {"baseline": 1.0, "patience": 2}, 4),  # counted from 0.5
        ([1, 2, 3, 2, 3, 3], {"start_from_epoch": 3}, 5),
        ([1], {}, 1),
        ([None, 5, None, 4, 4], {"patience": 2}, 5),
    ],
)
@pytest.mark.filterwarnings("ignore:monitor:RuntimeWarning")
def test_training_stops_when_a_figure_no_longer_gets_better(
    values: list[float | None], settings: dict[str, Any], epochs: int
) -> None:
    assert epochs_of(values, **settings) == epochs


def test_training_that_just_began_again_is_not_stopped_by_the_one_before() -> None:
    stop = EarlyStopping(patience=1)
    for values, epochs in [([2, 3, 1], 2), ([9, 8, 7], 3)]:
        model = train(values, stop)
        assert len(model.history.epoch) == epochs
    assert (stop.best, stop.best_epoch, stop.stopped_epoch) == (7, 2, 0)


def test_epochs_are_counted_from_the_first_of_all() -> None:
    values = [0, 0, 0, 5, 6, 4]
    model = train(values, EarlyStopping(), initial_epoch=3)
    assert model.history.epoch == [3, 4]


@pytest.mark.parametrize(
    ("values", "best", "stopped"),
    [
        ([5, 3, 4, 4, 1], 1, 4),
        ([5, 4, 3], 2, 0),
        ([NAN, NAN, NAN], 0, 2),
        ([NAN, 5, 6, 6, 1], 1, 4),
    ],
)
def test_the_best_weights_come_back(
    values: list[float], best: int, stopped: int, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, stop = Weights(), EarlyStopping(patience=2, restore_best_weights=True, verbose=1)
    model = train(values, weights, stop)
    assert_same(model.get_weights(), weights.weights[best])
    assert stop.best_epoch == best
    told = f"Epoch {stopped}: early stopping\n" if stopped else ""
    told += f"Taking back the weights of epoch {best + 1}, the best\n"
    assert capsys.readouterr().out == told


def test_the_last_weights_stay_otherwise() -> None:
    weights = Weights()
    model = train([5, 3, 4], weights, EarlyStopping())
    assert_same(model.get_weights(), weights.weights[-1])


@pytest.mark.parametrize("kind", [EarlyStopping, ReduceLROnPlateau])
def test_a_figure_that_is_missing_is_told(kind: Any) -> None:
    x, y = data()
    model = compiled()
    with pytest.warns(RuntimeWarning, match="got 'val_loss'; there are: loss, accuracy") as caught:
        model.fit(x, y, epochs=2, verbose=0, callbacks=[kind()])
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}
    assert len(model.history.epoch) == 2


@pytest.mark.parametrize("kind", [EarlyStopping, ReduceLROnPlateau])
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mode": "least"}, ValueError, "mode: expected 'auto', 'min' or 'max', got 'least'"),
        ({"monitor": "f1"}, ValueError, "mode: expected 'min' or 'max' for monitor='f1'"),
        ({"monitor": 1}, TypeError, "monitor: expected a name"),
        ({"min_delta": "1"}, TypeError, "min_delta: expected a finite number"),
        ({"min_delta": NAN}, ValueError, "min_delta: expected a finite number, got nan"),
        ({"patience": 1.5}, TypeError, "patience: expected an integer, got 1.5"),
        ({"patience": -1}, ValueError, "patience: expected at least 0, got -1"),
    ],
)
def test_nonsense_to_watch_is_refused(
    kind: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(baseline="1"), TypeError, "baseline: expected"),
        (lambda: EarlyStopping(start_from_epoch=-1), ValueError, "start_from_epoch: expected"),
        (lambda: ReduceLROnPlateau(factor=1.0), ValueError, "factor: expected a number from 0"),
        (lambda: ReduceLROnPlateau(factor=NAN), ValueError, "factor: expected a number from 0"),
        (lambda: ReduceLROnPlateau(cooldown=-1), ValueError, "cooldown: expected at least 0"),
        (lambda: ReduceLROnPlateau(min_lr=-1.0), ValueError, "min_lr: expected a finite number"),
        (lambda: LearningRateScheduler(0.1), TypeError, "schedule: expected a function"),
    ],
)
def test_nonsense_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# Learning rates


@pytest.mark.parametrize(
    ("values", "settings", "rates"),
    [
        ([3, 3, 3, 3], {"patience": 2}, [0.5, 0.5, 0.5, 0.05, 0.05]),
        ([3, 3, 3, 3], {"patience": 1, "factor": 0.5}, [0.5, 0.5, 0.25, 0.125, 0.0625]),
        ([3, 3, 3, 3], {"patience": 0, "factor": 0.5}, [0.5, 0.5, 0.25, 0.125, 0.0625]),
        ([3, 2, 1, 0], {"patience": 1}, [0.5] * 5),
        ([3, 3 - 5e-5, 3 - 2e-4], {"patience": 1, "factor": 0.5}, [0.5, 0.5, 0.25, 0.25]),
        ([3] * 5, {"patience": 1, "factor": 0.5, "min_lr": 0.2}, [0.5, 0.5, 0.25, 0.2, 0.2, 0.2]),
        ([3] * 3, {"patience": 1, "factor": 0.5, "min_lr": 0.7}, [0.5] * 4),  # is not raised
        ([3] * 5, {"patience": 1, "cooldown": 2}, [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]),
        ([1, 2, 3], {"patience": 1, "mode": "max"}, [0.5] * 4),
        ([NAN, NAN, 3, 3], {"patience": 2, "factor": 0.5}, [0.5, 0.5, 0.25, 0.25, 0.25]),
    ],
)  # fmt: skip
def test_the_learning_rate_falls_on_a_plateau(
    values: list[float], settings: dict[str, Any], rates: list[float]
) -> None:
    assert rates_of(values, **settings) == pytest.approx(rates, rel=1e-12)


def test_what_is_done_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    train([3, 3], ReduceLROnPlateau(patience=1, verbose=1))
    assert capsys.readouterr().out == "Epoch 2: ReduceLROnPlateau sets the learning rate to 0.05\n"
    train([3, 3], LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1), verbose=1))
    assert capsys.readouterr().out == (
        "Epoch 1: LearningRateScheduler sets the learning rate to 0.1\n"
        "Epoch 2: LearningRateScheduler sets the learning rate to 0.05\n"
    )


def test_a_schedule_sets_each_epochs_learning_rate() -> None:
    x, y = data()

    def rate(epoch: int, old: float) -> float:
        return 0.1 if epoch == 0 else old / 2

    model, by_hand, kerass = compiled(), compiled(), compiled()
    history = model.fit(
        x, y, epochs=3, verbose=0, shuffle=False, callbacks=LearningRateScheduler(rate)
    )
    assert history.history["learning_rate"] == [0.1, 0.05, 0.025]
    for epoch in range(3):
        by_hand.optimizer.learning_rate = 0.1 / 2**epoch
        by_hand.fit(x, y, verbose=0, shuffle=False)
    assert_same_weights(model, by_hand)
    old = LearningRateScheduler(lambda epoch: np.float32(0.1) / 2**epoch)  # of the epoch alone
    kerass.fit(x, y, epochs=3, verbose=0, shuffle=False, callbacks=old)
    assert kerass.history.history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])


def test_an_error_in_a_schedule_is_its_own() -> None:
    def rate(epoch: int, old: float) -> float:
        return old + "1"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        train([1], LearningRateScheduler(rate))


@pytest.mark.parametrize(
    ("rate", "error"),
    [(None, TypeError), ("0.1", TypeError), (-0.1, ValueError), (NAN, ValueError)],
)
def test_nonsense_for_a_learning_rate_is_refused(rate: Any, error: type[Exception]) -> None:
    match = "schedule: expected a function that returns a finite number of at least 0, got"
    with pytest.raises(error, match=match):
        train([1], LearningRateScheduler(lambda epoch: rate))
    x, y = data()
    model = compiled()

    def assign(batch: int, logs: Any) -> None:
        model.optimizer.learning_rate = rate

    with pytest.raises(error, match="learning_rate: expected a finite number of at least 0, got"):
        model.fit(x, y, verbose=0, callbacks=LambdaCallback(on_train_batch_end=assign))
    assert model.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    "callback", [LearningRateScheduler(lambda epoch: 0.1), ReduceLROnPlateau()]
)
def test_two_masters_of_the_learning_rate_are_refused(callback: Callback) -> None:
    class Falling(schedules.LearningRateSchedule):
        def __call__(self, steps: Any) -> Any:
            return 1 / (steps + 1)

    x, y = data()
    model, untrained = small_model(), small_model()
    for rate in (Falling(), lambda step: 0.1):
        model.compile(SGD(rate), SPARSE)
        with pytest.raises(ValueError, match="expected an optimizer whose learning_rate is a num"):
            model.fit(x, y, verbose=0, callbacks=[callback])
    assert_same_weights(model, untrained)


def test_a_learning_rate_counts_from_the_next_step() -> None:
    x, y = data()

    def assign(batch: int, logs: Any) -> None:
        model.optimizer.learning_rate = 0.1 * (batch + 2)

    model, by_hand = compiled(), compiled()
    model.optimizer.learning_rate = 0.1
    called = LambdaCallback(on_train_batch_end=assign)
    model.fit(x, y, 5, verbose=0, shuffle=False, callbacks=called)
    for batch in range(4):
        by_hand.optimizer.learning_rate = 0.1 * (batch + 1)
        part = slice(5 * batch, 5 * batch + 5)
        by_hand.fit(x[part], y[part], 5, verbose=0, shuffle=False)
    assert_same_weights(model, by_hand)


# State

figures = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, NAN]), min_size=1, max_size=12)


@given(figures, st.integers(0, 12), st.integers(0, 3), st.booleans())
def test_watching_goes_on_in_another_process(
    values: list[float], at: int, patience: int, restore: bool
) -> None:
    """As a backup would do it: after the new training has begun."""
    at = min(at, len(values))

    def new() -> list[Any]:
        return [
            EarlyStopping(patience=patience, restore_best_weights=restore),
            ReduceLROnPlateau(patience=patience, factor=0.5, cooldown=1),
        ]

    class Restore(Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            for callback, state in zip(later, states, strict=True):
                callback.set_state(pickle.loads(state))

    class Keep(Callback):
        """Undoes what the end of the first part does, which no backup would see."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.weights, self.stopped = self.model.get_weights(), self.model.stop_training

    x, y = data(8)
    whole = compiled()
    whole.optimizer.learning_rate = 0.5
    expected = new()
    settings: dict[str, Any] = {"verbose": 0, "shuffle": False}
    whole.fit(x, y, epochs=len(values), callbacks=[Feed(values), *expected], **settings)

    parts = compiled()
    parts.optimizer.learning_rate = 0.5
    first, later, keep = new(), new(), Keep()
    parts.fit(x, y, epochs=at, callbacks=[Feed(values), *first, keep], **settings)
    if at:
        parts.set_weights(keep.weights)
    states = [pickle.dumps(callback.get_state()) for callback in first]
    if not at or not keep.stopped:
        called = [Feed(values), *later, Restore()]
        parts.fit(x, y, epochs=len(values), initial_epoch=at, callbacks=called, **settings)
    else:
        later = first
        if restore:
            parts.set_weights(first[0].best_weights)
    for got, wanted in zip(later, expected, strict=True):
        np.testing.assert_equal(got.get_state(), wanted.get_state())
    assert_same_weights(parts, whole)
    assert parts.optimizer.learning_rate == whole.optimizer.learning_rate


# Attributes count from when they are assigned


def test_what_is_watched_may_be_assigned() -> None:
    stop = EarlyStopping(patience=1)
    stop.monitor, stop.mode, stop.min_delta = "figure", "max", 10.0
    model = train([0.0, 11.0, 20.0, 40.0], stop, name="figure")
    assert len(model.history.epoch) == 3

    lower = ReduceLROnPlateau(patience=1, factor=0.5)
    lower.min_delta = 10.0
    model = train([50.0, 39.0, 30.0], lower)
    assert model.optimizer.learning_rate == 0.25


def test_whether_only_the_best_is_saved_may_be_assigned(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "{epoch}.safetensors")
    keep.save_best_only, keep.best = True, 0.5
    train([0.6, 0.4, 0.45], keep)
    assert [path.name for path in tmp_path.iterdir()] == ["2.safetensors"]


def test_hooks_may_be_set_as_training_begins() -> None:
    batches: list[int] = []

    class Late(Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.on_train_batch_end = lambda batch, logs=None: batches.append(batch)

    x, y = data(8)
    compiled().fit(x, y, 4, verbose=0, callbacks=[Late()])
    assert batches == [0, 1]
