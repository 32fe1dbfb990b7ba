"""Training: what is learnt, in which order, what is told, and what is refused."""

import io
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest

from cnnrs import BatchNormalization, Dense, Input, Sequential
from cnnrs._fit import CALL_SECONDS, GROWTH, Pace
from cnnrs.callbacks import Callback, History
from cnnrs.losses import CategoricalCrossentropy, MeanSquaredError
from cnnrs.optimizers import SGD, Adam, AdamW
from cnnrs.utils import set_random_seed, to_categorical
from model_under_test import Plain, assert_same_weights, compiled, data, differ, small_model

SPARSE = "sparse_categorical_crossentropy"


class Spy:
    """A compiled network that notes how many steps each call of `train` takes."""

    def __init__(self, model: Sequential) -> None:
        self._network, self.calls = model._network, []
        model._network = self

    def train(self, *arguments: Any) -> Any:
        self.calls.append(len(arguments[4]))
        return self._network.train(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


# What is learnt


@pytest.mark.parametrize("labels", ["sparse", "categorical"])
def test_training_is_the_formula(labels: str) -> None:
    model = small_model(dtype="float64")
    plain = Plain(model.get_weights())
    model.compile(SGD(0.1), f"{labels}_crossentropy".replace("sparse", "sparse_categorical"))
    x, y = data(22)
    x_val, y_val = data(7, seed=1)
    if labels == "categorical":
        targets, val_targets = to_categorical(y, 3), to_categorical(y_val, 3)
    else:
        targets, val_targets = y, y_val
    history = model.fit(
        x,
        targets,
        batch_size=4,
        epochs=3,
        verbose=0,
        shuffle=False,
        validation_data=(x_val, val_targets),
    ).history
    for epoch in range(3):
        steps = [plain.step(x[i : i + 4], y[i : i + 4], 0.1) for i in range(0, 22, 4)]
        loss, right = (sum(parts) / 22 for parts in zip(*steps, strict=True))
        val_loss, val_right = plain.judge(x_val, y_val)
        got = {name: values[epoch] for name, values in history.items()}
        expected = {"loss": loss, "accuracy": right}
        expected |= {"val_loss": val_loss / 7, "val_accuracy": val_right / 7}
        assert got == pytest.approx(expected, rel=1e-10)
    for ours, reference in zip(model.get_weights(), plain.weights, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-10, atol=1e-12)
    loss, right = plain.judge(x, y)
    assert model.evaluate(x, targets, verbose=0) == pytest.approx([loss / 22, right / 22])


def test_labels_of_any_kind_say_the_same() -> None:
    x, y = data()

    def trained(loss: Any, labels: Any) -> Sequential:
        model = small_model()
        model.compile("sgd", loss)
        model.fit(x, labels, verbose=0)
        return model

    expected = trained(SPARSE, y)
    for labels in (
        y.astype(np.uint8),
        y.astype(np.int32)[:, np.newaxis],
        y.astype(np.float64),
        y.tolist(),
        np.repeat(y, 2)[::2],
    ):
        assert_same_weights(trained(SPARSE, labels), expected)
    one_hot = to_categorical(y, 3)
    expected = trained("categorical_crossentropy", one_hot)
    for labels in (one_hot.astype(bool), one_hot.astype(np.float16), np.asfortranarray(one_hot)):
        assert_same_weights(trained("categorical_crossentropy", labels), expected)
    expected = trained("mse", one_hot)
    assert_same_weights(trained(MeanSquaredError, one_hot.astype(int).tolist()), expected)


def test_moving_statistics_are_not_trained_but_move() -> None:
    model = Sequential([Input((2,)), BatchNormalization(momentum=0.5), Dense(1)], dtype="float64")
    model.compile(SGD(0.0), "mse")
    x = np.array([[1.0, 2.0], [3.0, 6.0]])
    before = model.get_weights()
    model.fit(x, np.zeros(2), verbose=0)
    gamma, beta, mean, variance, *dense = model.get_weights()
    np.testing.assert_allclose(mean, [1, 2])
    np.testing.assert_allclose(variance, [1, 2.5])
    for ours, theirs in zip([gamma, beta, *dense], before[:2] + before[4:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Order, seeds, chunks


def orders(model: Sequential, *, epochs: int, **settings: Any) -> list[list[int]]:
    """The images of each epoch in turn, known by their losses while nothing is learnt."""
    x, y = data(12)
    model.compile(SGD(0.0), SPARSE)
    single = [model.evaluate(x[i : i + 1], y[i : i + 1], verbose=0)[0] for i in range(12)]
    losses = np.array(single)
    seen: list[list[int]] = []

    class Watch(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append([])
            self.sum = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            total = logs["loss"] * (batch + 1)
            seen[-1].append(int(np.argmin(np.abs(losses - (total - self.sum)))))
            self.sum = total

    model.fit(x, y, batch_size=1, epochs=epochs, verbose=0, callbacks=[Watch()], **settings)
    return seen


def test_every_epoch_sees_every_image_once_in_a_new_order() -> None:
    seen = orders(small_model(dtype="float64"), epochs=3)
    assert all(sorted(order) == list(range(12)) for order in seen)
    assert len(set(map(tuple, seen))) == 3
    assert orders(small_model(dtype="float64"), epochs=3) == seen
    assert orders(small_model(dtype="float64"), epochs=2, shuffle=False) == [list(range(12))] * 2


def test_validation_images_are_the_last_ones() -> None:
    seen = orders(small_model(dtype="float64"), epochs=2, validation_split=0.25)
    assert [sorted(order) for order in seen] == [list(range(9))] * 2


def test_same_seed_same_weights() -> None:
    x, y = data()

    def trained(seed: int, epochs: int = 2) -> Sequential:
        model = small_model(seed=seed, dropout=0.5)
        model.compile("adam", SPARSE)
        model.fit(x, y, epochs=epochs, batch_size=4, verbose=0)
        return model

    first = trained(1)
    np.random.seed(7)
    assert_same_weights(trained(1), first)
    assert differ(trained(2), first)
    assert differ(trained(1, epochs=1), first)


@pytest.mark.parametrize("seconds", [0.0, 1e6])
@pytest.mark.parametrize("optimizer", [partial(SGD, momentum=0.9), Adam, AdamW])
def test_calls_of_any_length_come_to_the_same(
    optimizer: Any, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(100)

    def trained(callbacks: Any = None) -> tuple[Sequential, list[int], dict[str, list[float]]]:
        model = small_model(dropout=0.3)
        model.compile(optimizer(lambda step: 0.1 / (1 + step)), SPARSE)
        spy = Spy(model)
        fit = model.fit(x, y, batch_size=3, epochs=2, verbose=0, callbacks=callbacks)
        return model, spy.calls, fit.history

    class EachBatch(Callback):
        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            pass

    expected, calls, figures = trained(EachBatch())
    assert calls == [1] * 68
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", seconds)
    model, calls, history = trained()
    assert calls == ([1] * 68 if seconds == 0 else [1, GROWTH, 34 - 1 - GROWTH, 34])
    assert_same_weights(model, expected)
    for name, values in history.items():
        assert values == pytest.approx(figures[name], rel=1e-12)


def test_calls_take_as_long_as_they_should() -> None:
    pace = Pace()
    assert pace.steps == 1
    for expected in (GROWTH, GROWTH**2, 100, 100):
        pace.took(pace.steps, pace.steps * CALL_SECONDS / 100)
        assert pace.steps == expected
    pace.took(100, 100 * CALL_SECONDS)
    assert pace.steps == 1
    pace.took(1, 0.0)
    assert pace.steps == GROWTH


# History and validation


def test_history_has_kerass_keys() -> None:
    x, y = data()
    model = compiled()
    history = model.fit(x, y, epochs=2, verbose=0)
    assert isinstance(history, History)
    assert model.history is history
    assert list(history.history) == ["loss", "accuracy"]
    assert history.epoch == [0, 1]
    assert history.params == {"verbose": 0, "epochs": 2, "steps": 1}
    history = model.fit(x, y, validation_data=[x, y], verbose=0)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(type(value) is float for (value,) in history.history.values())
    model.compile("sgd", "mse")
    history = model.fit(x, to_categorical(y, 3), validation_split=0.5, verbose=0)
    assert list(history.history) == ["loss", "val_loss"]
    assert isinstance(model.evaluate(x, to_categorical(y, 3), verbose=0), float)


@pytest.mark.parametrize(
    ("metrics", "name"),
    [(None, "accuracy"), ([], "accuracy"), (["accuracy"], "accuracy"), ("acc", "acc")],
)
def test_accuracy_is_reported_in_any_case(metrics: Any, name: str) -> None:
    x, y = data()
    model = small_model()
    model.compile("sgd", SPARSE, metrics=metrics)
    assert list(model.fit(x, y, verbose=0, validation_split=0.1).history) == [
        "loss",
        name,
        "val_loss",
        f"val_{name}",
    ]
    judged = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(judged) == ["loss", name]
    assert list(judged.values()) == model.evaluate(x, y, 7, verbose=0)


def test_validation_is_what_evaluate_says_and_changes_nothing() -> None:
    x, y = data(40)
    model, without = compiled(), compiled()
    history = model.fit(x[:30], y[:30], validation_data=(x[30:], y[30:]), verbose=0, epochs=2)
    without.fit(x[:30], y[:30], verbose=0, epochs=2)
    assert_same_weights(model, without)
    loss, accuracy = model.evaluate(x[30:], y[30:], verbose=0)
    assert history.history["val_loss"][-1] == loss
    assert history.history["val_accuracy"][-1] == accuracy
    split = compiled()
    figures = split.fit(x, y, validation_split=0.25, verbose=0, epochs=2)
    assert_same_weights(split, model)
    assert figures.history == history.history
    # Data that is given goes before a share.
    given = compiled()
    given.fit(x, y, validation_split=0.5, validation_data=(x, y), verbose=0)
    assert given.history.params["steps"] == 2


def test_epochs_left_out() -> None:
    x, y = data()
    model = compiled()
    before = model.get_weights()
    assert model.fit(x, y, epochs=0, verbose=0).history == {}
    assert model.fit(x, y, epochs=3, initial_epoch=3, verbose=0).epoch == []
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.fit(x, y, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]


def test_a_history_that_is_given_goes_on() -> None:
    x, y = data()
    model, history = compiled(), History()
    assert model.fit(x, y, epochs=2, verbose=0, callbacks=history) is history
    model.fit(x, y, epochs=3, initial_epoch=2, verbose=0, callbacks=[history])
    assert len(history.history["loss"]) == 3
    assert history.epoch == [2]


def test_batches_larger_than_the_data() -> None:
    x, y = data(5)
    all_at_once, larger, default = compiled(), compiled(), compiled()
    all_at_once.fit(x, y, batch_size=5, verbose=0)
    larger.fit(x, y, batch_size=2**40, verbose=0)
    default.fit(x, y, None, verbose=0)
    assert_same_weights(larger, all_at_once)
    assert_same_weights(default, all_at_once)


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
        assert seen.pop(0) == pytest.approx((loss / n, right / n))
    assert history.history["loss"] == pytest.approx([sum(losses) / 10])


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


# A loss that is not finite


def test_a_loss_that_is_not_finite_is_told_once() -> None:
    x, y = data(30)
    x[13] = np.nan
    model = compiled()
    model.compile(SGD(0.25), SPARSE)
    with pytest.warns(RuntimeWarning) as caught:
        history = model.fit(x, y, batch_size=3, epochs=2, shuffle=False, verbose=0)
    (warning,) = caught
    assert str(warning.message) == (
        "the loss is not finite at epoch 1, step 5; a learning rate below 0.25 may help"
    )
    assert warning.filename == __file__
    assert all(map(math.isnan, history.history["loss"]))
    assert len(history.history["loss"]) == 2, "training goes on"
    assert np.isnan(model.get_weights()[0]).any(), "and nothing is hidden"
    with pytest.warns(RuntimeWarning, match="epoch 1, step 1;"):
        model.fit(x, y, verbose=0)


def test_the_step_is_right_in_a_call_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    x, y = data(80)
    x[70:] = np.nan
    with pytest.warns(RuntimeWarning, match="epoch 1, step 71;"):
        compiled().fit(x, y, batch_size=1, shuffle=False, verbose=0)


def test_a_learning_rate_too_large_is_told() -> None:
    x, y = data(100)
    model = small_model()
    model.compile(SGD(1e30), SPARSE)
    with pytest.warns(RuntimeWarning, match=r"learning rate below 1e\+30 may help"):
        model.fit(x, y, batch_size=5, epochs=3, verbose=0)


def test_a_warning_that_is_an_error_ends_the_training() -> None:
    x, y = data()
    model = compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="not finite"):
            model.fit(np.full_like(x, np.nan), y, verbose=0)


# What is shown


FIGURES = r"loss: \d\.\d{4} - accuracy: \d\.\d{4}(e[+-]\d\d)?"
LINE = rf"(\d+)/(\d+) - \d+\.\ds - \d+(s|ms|us)/step - {FIGURES}"


@pytest.mark.parametrize("verbose", ["auto", 1, 2, True])
def test_lines_are_like_kerass(verbose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, 4, epochs=2, verbose=verbose, validation_split=0.2)
    out, err = capsys.readouterr()
    assert err == ""
    val = FIGURES.replace("loss", "val_loss").replace("accuracy", "val_accuracy")
    assert re.fullmatch(rf"Epoch 1/2\n{LINE} - {val}\nEpoch 2/2\n{LINE} - {val}\n", out)
    assert out.count("\n4/4 - ") == 2
    model.evaluate(x, y, 8, verbose)
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"{LINE}\n", out)
    assert out.startswith("3/3 - ")
    model.predict(x, None, verbose)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [0, False])
def test_silence(verbose: Any, capfd: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, epochs=2, verbose=verbose, validation_split=0.5)
    model.evaluate(x, y, verbose=verbose)
    model.predict(x)
    assert capfd.readouterr() == ("", "")


def test_small_figures_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    model = Sequential([Input((1,)), Dense(1, kernel_initializer="ones")], dtype="float64")
    model.compile(SGD(0.0), "mse")
    for error, shown in [(0.01, "1.0000e-04"), (0.0, "0.0000e+00"), (2.0, "4.0000")]:
        model.evaluate([[1.0]], [[1.0 - error]])
        assert capsys.readouterr().out.endswith(f" - loss: {shown}\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("verbose", "shown"), [("auto", True), (1, True), (2, False), (0, False)])
def test_a_terminal_gets_a_bar(
    verbose: Any, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = data()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    compiled().fit(x, y, batch_size=2, verbose=verbose)
    assert ("0/10 [" in terminal.getvalue()) == shown
    assert "steps" in terminal.getvalue() or not shown
    assert capsys.readouterr().out.count("\n") == (0 if verbose == 0 else 2)


def test_no_standard_error_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    x, y = data()
    compiled().fit(x, y)


def test_the_bar_is_loaded_on_a_terminal_only() -> None:
    program = """if True:
        import sys
        from cnnrs import Dense, Input, Sequential
        model = Sequential([Input((1,)), Dense(1)])
        model.compile("sgd", "mse")
        model.fit([1.0], [1.0])
        print("tqdm" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "False"
    assert ran.stderr == ""


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
        ({"loss": "mse", "metrics": ["accuracy"]}, ValueError, "metrics: .*MeanSquaredError"),
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
        ({"validation_split": "x"}, TypeError, "validation_split: .*got 'x'"),
        ({"validation_data": 3}, ValueError, "validation_data: .*two arrays.*got int"),
        ({"validation_data": (1, 2, 3)}, ValueError, "validation_data: .*got 3 of them"),
        ({"callbacks": [3]}, TypeError, "callbacks: .*got 3"),
        ({"callbacks": Callback}, TypeError, "callbacks: .*got <class"),
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
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
