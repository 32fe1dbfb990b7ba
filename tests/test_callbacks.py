"""What is called during a training, and how it can be stopped."""

import copy
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnrs import Activation, Sequential
from cnnrs._fit import GROWTH
from cnnrs.callbacks import Callback, History, LambdaCallback
from cnnrs.losses import CategoricalCrossentropy, SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD
from model_under_test import (
    SPARSE,
    Plain,
    Spy,
    assert_same_weights,
    compiled,
    data,
    small_model,
)

# Callbacks


class Log(Callback):
    """Notes every call of a hook."""

    def __init__(self, name: str = "", events: list[Any] | None = None) -> None:
        self.name = name
        self.events: list[Any] = [] if events is None else events

    def note(self, hook: str, *details: Any) -> None:
        self.events.append((self.name, hook, *details) if self.name else (hook, *details))

    def on_train_begin(self, logs: Any = None) -> None:
        self.note("train_begin", logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.note("train_end", list(logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.note("epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.note("epoch_end", epoch, list(logs))


class BatchLog(Log):
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.note("batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.note("batch_end", batch, list(logs))


def test_hooks_are_called_in_kerass_order() -> None:
    x, y = data()
    log, keys = BatchLog(), ["loss", "accuracy"]
    model = compiled()
    model.fit(x, y, batch_size=10, epochs=2, verbose=0, callbacks=[log], validation_data=(x, y))
    epochs = [
        [
            ("epoch_begin", epoch, {}),
            ("batch_begin", 0, {}),
            ("batch_end", 0, keys),
            ("batch_begin", 1, {}),
            ("batch_end", 1, keys),
            ("epoch_end", epoch, [*keys, "val_loss", "val_accuracy"]),
        ]
        for epoch in range(2)
    ]
    end = ("train_end", [*keys, "val_loss", "val_accuracy"])
    assert log.events == [("train_begin", {}), *epochs[0], *epochs[1], end]
    assert log.model is model
    assert log.params == {"verbose": 0, "epochs": 2, "steps": 2}


def test_callbacks_know_the_model_before_its_figures() -> None:
    class Ask(Callback):
        def set_params(self, params: dict[str, Any]) -> None:
            assert self.model is model
            asked.append(params["steps"])

    x, y = data(10)
    asked: list[int] = []
    model = compiled()
    model.fit(x, y, 2, verbose=0, callbacks=Ask())
    model.evaluate(x, y, 5, verbose=0, callbacks=Ask())
    model.predict(x, 10, verbose=0, callbacks=Ask())
    assert asked == [5, 2, 1]


def test_a_history_that_is_given_keeps_its_place() -> None:
    x, y = data()
    late = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(late=1.0))
    history = compiled().fit(x, y, verbose=0, callbacks=[History(), late])
    assert "late" not in history.history


@pytest.mark.parametrize("end", ["begin", "end"])
@pytest.mark.parametrize("hook", ["on_train_batch_", "on_batch_"])
def test_functions_get_the_logs_of_batches_by_name(hook: str, end: str) -> None:
    x, y = data(10)
    seen: list[int] = []
    note = LambdaCallback(**{hook + end: lambda batch, *, logs: seen.append(batch)})
    compiled().fit(x, y, 5, verbose=0, callbacks=note)
    assert seen == [0, 1]


def test_callbacks_take_turns_and_the_history_is_last() -> None:
    x, y = data()
    events: list[Any] = []

    class Add(Log):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            logs["mine"] = epoch / 2

    first, second = Add("first", events), Log("second", events)
    history = compiled().fit(x, y, verbose=0, epochs=2, callbacks=(first, second))
    assert history.history["mine"] == [0.0, 0.5]
    assert [event[:2] for event in events[:4]] == [
        ("first", "train_begin"),
        ("second", "train_begin"),
        ("first", "epoch_begin"),
        ("second", "epoch_begin"),
    ]
    assert events[5] == ("second", "epoch_end", 0, ["loss", "accuracy", "mine"])


def test_figures_of_batches_are_over_the_epoch_so_far() -> None:
    x, y = data(10)
    seen: list[tuple[float, float]] = []

    class Old(Callback):  # by the hook's old name
        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append((logs["loss"], logs["accuracy"]))

    model = small_model(dtype="float64")
    plain = Plain(model.get_weights())
    model.compile(SGD(0.1), SPARSE)
    history = model.fit(x, y, 4, verbose=0, shuffle=False, callbacks=[Old()])
    losses, rights = zip(
        *(plain.step(x[i : i + 4], y[i : i + 4], 0.1) for i in (0, 4, 8)), strict=True
    )
    for n, loss, right in zip(
        (4, 8, 10), itertools.accumulate(losses), itertools.accumulate(rights), strict=True
    ):
        assert seen.pop(0) == pytest.approx((loss / n, right / n), rel=1e-12)
    assert history.history["loss"] == pytest.approx([sum(losses) / 10], rel=1e-12)


def test_steps_run_one_by_one_only_for_a_callback_that_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    x, y = data(60)

    def calls(callback: Callback) -> list[int]:
        model = compiled()
        spy = Spy(model)
        model.fit(x, y, batch_size=1, verbose=0, callbacks=callback)
        return spy.calls

    assert calls(Log()) == [1, GROWTH, 60 - 1 - GROWTH]
    assert calls(BatchLog()) == [1] * 60
    patched = Log()
    patched.on_batch_begin = lambda batch, logs=None: None
    assert calls(patched) == [1] * 60


@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_hooks_of_batches_are_called_every_so_many_steps(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", seconds)
    x, y = data(50)
    each, log = compiled(), BatchLog()
    figures: dict[int, Any] = {}

    class Figures(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            figures[batch] = logs

    each.fit(x, y, batch_size=2, verbose=0, callbacks=[Figures()])
    expected = {batch: figures[batch] for batch in (9, 19, 24)}
    figures.clear()

    model = compiled()
    model.compile("sgd", SPARSE, steps_per_execution=10)
    assert model.steps_per_execution == 10
    spy = Spy(model)
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=log)
    calls = [1] * 25 if seconds == 0 else [1, GROWTH, 10 - 1 - GROWTH, 10, 5]
    assert spy.calls[: len(calls)] == calls
    hooks = [("begin", 0), ("end", 9), ("begin", 10), ("end", 19), ("begin", 20), ("end", 24)]
    batches = [(f"batch_{hook}", batch) for hook, batch in hooks]
    assert [event[:2] for event in log.events if event[0].startswith("batch")] == batches * 2

    again = compiled()
    again.compile("sgd", SPARSE, steps_per_execution=10)
    copy.copy(again).fit(x, y, batch_size=2, verbose=0, callbacks=Figures())
    assert figures == expected
    model.compile("sgd", SPARSE)
    assert model.steps_per_execution == 1


def test_training_stops_between_two_hooks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 0.0)
    x, y = data(20)
    model, log = compiled(), BatchLog()
    model.compile("sgd", SPARSE, steps_per_execution=10)

    def stop(*arguments: Any) -> Any:
        model.stop_training = len(spy.calls) == 2
        return Spy.train(spy, *arguments)

    spy = Spy(model)
    spy.train = stop
    history = model.fit(x, y, 1, verbose=0, shuffle=False, callbacks=[log])
    assert len(spy.calls) == 3
    assert [event[:2] for event in log.events[2:4]] == [("batch_begin", 0), ("batch_end", 2)]
    expected = compiled()
    assert history.history == expected.fit(x[:3], y[:3], 1, verbose=0, shuffle=False).history


@pytest.mark.parametrize("when", ["epoch", "batch"])
def test_training_stops_when_it_is_told_to(when: str) -> None:
    x, y = data(20)

    class StopAfterEpoch(Log):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            self.model.stop_training = epoch == 1

    class StopAfterBatch(BatchLog):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    log = StopAfterEpoch() if when == "epoch" else StopAfterBatch()
    model, expected = compiled(), compiled()
    history = model.fit(
        x, y, 5, epochs=9, verbose=0, callbacks=[log], shuffle=False, validation_data=(x, y)
    )
    assert model.stop_training
    assert log.events[-1][0] == "train_end"
    if when == "epoch":
        expected.fit(x, y, 5, epochs=2, verbose=0, shuffle=False)
        assert history.epoch == [0, 1]
    else:
        expected.fit(x[:10], y[:10], 5, verbose=0, shuffle=False)
        assert history.epoch == [0]
        assert history.history["loss"] == expected.history.history["loss"]
        assert len(history.history["val_loss"]) == 1
    assert_same_weights(model, expected)
    model.fit(x, y, verbose=0)
    assert not model.stop_training


def test_the_learning_rate_can_be_changed_on_the_way() -> None:
    x, y = data()

    class Halve(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.1 / 2**epoch

    model, by_hand = compiled(), compiled()
    model.fit(x, y, epochs=3, verbose=0, shuffle=False, callbacks=[Halve()])
    for epoch in range(3):
        by_hand.optimizer.learning_rate = 0.1 / 2**epoch
        by_hand.fit(x, y, verbose=0, shuffle=False)
    assert_same_weights(model, by_hand)


class AtTheFirstEpochsEnd(Callback):
    """Does something with the model once."""

    def __init__(self, act: Callable[[Sequential], object]) -> None:
        self.act = act

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            self.act(self.model)


def test_training_goes_on_with_the_layers_that_a_callback_adds() -> None:
    x, y = data()
    model, by_hand = compiled(), compiled()
    grow = AtTheFirstEpochsEnd(lambda model: model.add(Activation("linear")))
    history = model.fit(x, y, epochs=3, verbose=0, shuffle=False, callbacks=grow)
    by_hand.fit(x, y, verbose=0, shuffle=False)
    by_hand.add(Activation("linear"))
    rest = by_hand.fit(x, y, epochs=2, verbose=0, shuffle=False)
    assert history.history["loss"][1:] == rest.history["loss"]
    assert_same_weights(model, by_hand)


def test_figures_follow_the_loss_that_a_callback_compiles() -> None:
    x, y = data()
    rows = np.eye(3)[y]
    model = compiled("categorical_crossentropy")
    change = AtTheFirstEpochsEnd(lambda model: model.compile("sgd", "mse"))
    model.fit(x, rows, epochs=2, verbose=0, validation_data=(x, rows), callbacks=change)
    logs = model.history.history
    assert {name: len(figures) for name, figures in logs.items()} == {
        "loss": 2,
        "accuracy": 1,
        "val_loss": 2,
        "val_accuracy": 1,
    }


class AfterBatch(Callback):
    """Does something with the model after a step of the first epoch."""

    def __init__(self, batch: int, act: Callable[[Sequential], object]) -> None:
        self.batch, self.act, self.epoch = batch, act, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == (0, self.batch):
            self.act(self.model)


@pytest.mark.parametrize("what", ["test", "predict"])
@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_hook_that_nothing_would_call_is_refused(what: str, when: str) -> None:
    name = f"on_{what}_batch_{when}"
    with pytest.raises(TypeError, match=f"^Mine: expected a class without {name}, which nothing"):
        type("Mine", (Callback,), {name: lambda self, batch, logs=None: None})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("categorical_crossentropy", "mse"),
        ("categorical_crossentropy", CategoricalCrossentropy(label_smoothing=0.5)),
        (SPARSE, SparseCategoricalCrossentropy(label_smoothing=0.5)),
    ],
)
def test_figures_begin_anew_with_a_loss_that_comes_within_an_epoch(before: str, after: Any) -> None:
    x, y = data()
    labels = y if before == SPARSE else np.eye(3)[y]
    model, by_hand = compiled(before), compiled(before)
    change = AfterBatch(1, lambda model: model.compile("sgd", after))
    model.fit(x, labels, 5, verbose=0, shuffle=False, callbacks=change)
    by_hand.fit(x[:10], labels[:10], 5, verbose=0, shuffle=False)
    by_hand.compile("sgd", after)
    by_hand.fit(x[10:], labels[10:], 5, verbose=0, shuffle=False)
    assert model.history.history == by_hand.history.history
    assert_same_weights(model, by_hand)


def test_figures_go_on_with_an_equal_loss() -> None:
    x, y = data()
    model, expected = compiled(), compiled()
    again = AfterBatch(1, lambda model: model.compile("sgd", SPARSE))
    model.fit(x, y, 5, verbose=0, shuffle=False, callbacks=again)
    expected.fit(x, y, 5, verbose=0, shuffle=False)
    assert model.history.history == expected.history.history


@pytest.mark.parametrize(
    ("before", "after"),
    [("mse", "categorical_crossentropy"), ("categorical_crossentropy", "mse")],
)
def test_figures_are_of_the_loss_that_they_were_counted_by(before: str, after: str) -> None:
    x, y = data()
    rows = np.eye(3)[y]
    model, expected = compiled(before), compiled(before)
    change = AfterBatch(3, lambda model: model.compile("sgd", after))  # the last step
    model.fit(x, rows, 5, verbose=0, shuffle=False, callbacks=change)
    expected.fit(x, rows, 5, verbose=0, shuffle=False)
    assert model.history.history == expected.history.history


@pytest.mark.parametrize("validation", [{}, {"validation_split": 0.25}])
def test_labels_are_prepared_anew_for_the_loss_that_a_callback_compiles(
    validation: dict[str, Any],
) -> None:
    x, y = data()
    smoothed = SparseCategoricalCrossentropy(label_smoothing=0.1)
    model, by_hand = compiled(), compiled()

    def change(model: Sequential) -> None:
        model.compile("sgd", smoothed)

    callback = AtTheFirstEpochsEnd(change)
    model.fit(x, y, epochs=2, verbose=0, shuffle=False, callbacks=callback, **validation)
    by_hand.fit(x, y, verbose=0, shuffle=False, **validation)
    change(by_hand)
    by_hand.fit(x, y, verbose=0, shuffle=False, **validation)
    assert_same_weights(model, by_hand)
    for name, (figure,) in by_hand.history.history.items():
        assert model.history.history[name][1] == figure


def test_a_loss_for_other_labels_is_refused_by_name() -> None:
    x, y = data()
    model = compiled()
    change = AtTheFirstEpochsEnd(lambda model: model.compile("sgd", "mse"))
    message = (
        r"^y: expected shape \(n, 3\), got \(20,\); the training began with SparseCategorical.*, "
        r"and a callback compiled the model with MeanSquaredError\(\)$"
    )
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, epochs=2, verbose=0, callbacks=change)
    assert model.history.epoch == [0]


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_end"])
@pytest.mark.parametrize("first", [True, False])
def test_the_history_is_that_of_the_outer_training(hook: str, first: bool) -> None:
    x, y = data()

    def train(*_: Any) -> None:
        model.fit(x, y, verbose=0)

    model, inner = compiled(), LambdaCallback(**{hook: train})
    callbacks = [History(), inner] if first else [inner]
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    assert model.history is history
    assert history.epoch == [0, 1]


@pytest.mark.parametrize("return_dict", [False, True])
def test_an_evaluation_returns_its_own_values(return_dict: bool) -> None:
    x, y = data()
    model = compiled()
    expected = model.evaluate(x, y, verbose=0)
    for act in (dict.clear, lambda logs: logs.update(mine=1.0)):
        change = LambdaCallback(on_test_end=act)
        got = model.evaluate(x, y, verbose=0, callbacks=change, return_dict=return_dict)
        if return_dict:  # what callbacks have made of it, as in Keras
            assert got in ({}, {"loss": expected[0], "accuracy": expected[1], "mine": 1.0})
        else:
            assert got == expected


def test_a_hook_of_batches_may_be_set_as_an_epoch_begins() -> None:
    class Late(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                self.on_train_batch_end = lambda batch, logs: batches.append(batch)

    batches: list[int] = []
    compiled().fit(*data(), batch_size=5, epochs=2, verbose=0, callbacks=Late())
    assert batches == [0, 1, 2, 3]


def test_steps_are_counted_by_the_optimizer() -> None:
    x, y = data(10)
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.01

    def compile_anew(model: Sequential) -> None:
        asked.append(-1)
        model.compile(SGD(rate), SPARSE)

    acts = (compile_anew, [-1, 0, 1]), (lambda model: model.fit(x, y, 2, verbose=0), range(2, 9))
    for act, later in acts:
        asked.clear()
        model = compiled(optimizer=SGD(rate))
        model.fit(x, y, 5, epochs=2, verbose=0, callbacks=AtTheFirstEpochsEnd(act))
        assert asked == [0, 1, *later]


@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("note", ["warm", None, [1.0, 2.0], np.ones(2), True, np.float32(0.5)])
def test_anything_may_be_put_into_logs(
    verbose: Any, note: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Note(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["note"] = note

    x, y = data()
    history = compiled().fit(x, y, epochs=2, verbose=verbose, callbacks=Note())
    assert all(kept is note for kept in history.history["note"])
    assert capsys.readouterr().out.count("note: ") == (2 if verbose else 0)


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_leaves_a_usable_model(error: type[BaseException]) -> None:
    x, y = data()

    class Fail(BatchLog):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if len(self.model.history.epoch) == 2 and batch == 1:
                raise error

    log = Fail()
    model, expected = compiled(), compiled()
    with pytest.raises(error):
        model.fit(x, y, 5, epochs=9, verbose=0, shuffle=False, callbacks=[log])
    assert model.history.epoch == [0, 1]
    assert len(model.history.history["loss"]) == 2
    assert "train_end" not in [event[0] for event in log.events]
    expected.fit(x, y, 5, epochs=2, verbose=0, shuffle=False)
    expected.fit(x[:10], y[:10], 5, verbose=0, shuffle=False)
    assert_same_weights(model, expected)
    model.fit(x, y, verbose=0)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT between processes on Windows")
def test_ctrl_c_ends_the_training_and_keeps_the_model() -> None:
    program = """if True:
        import numpy as np
        from cnnrs import Conv2D, Dense, Flatten, Sequential
        from cnnrs.callbacks import Callback

        class Tell(Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    print("begins", flush=True)

        model = Sequential([Conv2D(8, 3, input_shape=(28, 28, 1)), Flatten(), Dense(10, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = np.zeros((2000, 28, 28, 1), np.uint8), np.zeros(2000, int)
        try:
            model.fit(x, y, batch_size=1, epochs=10**6, verbose=0, callbacks=[Tell()])
        except KeyboardInterrupt:
            finite = np.isfinite(model.predict(x[:1])).all()
            print("interrupted", finite, len(model.history.epoch) >= 1)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"begins\n"
        running.send_signal(signal.SIGINT)
        try:
            out, _ = running.communicate(timeout=20)
        finally:
            running.kill()
    assert out == b"interrupted True True\n"
