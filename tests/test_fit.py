"""Training: what is learnt, in which order, and what of it is kept."""

import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import BatchNormalization, Dense, Flatten, Input, Sequential, layers
from cnnrs._fit import CALL_SECONDS, GROWTH, Pace
from cnnrs.callbacks import Callback, History
from cnnrs.losses import MeanSquaredError
from cnnrs.optimizers import SGD, Adam, AdamW
from cnnrs.utils import set_random_seed, to_categorical
from model_under_test import (
    SPARSE,
    Plain,
    Spy,
    assert_same,
    assert_same_weights,
    compiled,
    data,
    differ,
    small_model,
)
from nets_under_test import digits, tutorial

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
        assert got == pytest.approx(expected, rel=1e-12)
    for ours, reference in zip(model.get_weights(), plain.weights, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-13, atol=1e-14)
    loss, right = plain.judge(x, y)
    assert model.evaluate(x, targets, verbose=0) == pytest.approx(
        [loss / 22, right / 22], rel=1e-12
    )


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
    np.testing.assert_allclose(mean, [1, 2], rtol=1e-13)
    np.testing.assert_allclose(variance, [1, 2.5], rtol=1e-13)
    assert_same([gamma, beta, *dense], before[:2] + before[4:])


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
    assert history == figures


def test_the_number_of_threads_changes_nothing() -> None:
    x, y = data(100)

    def trained(threads: int) -> tuple[Sequential, dict[str, list[float]]]:
        cnnrs.set_num_threads(threads)
        model = small_model(dropout=0.3)
        model.compile("adam", SPARSE)
        fit = model.fit(x, y, batch_size=64, epochs=3, verbose=0, validation_split=0.1)
        return model, fit.history

    before = cnnrs.get_num_threads()
    try:
        expected, figures = trained(1)
        for threads in (2, 3):
            model, history = trained(threads)
            assert_same_weights(model, expected)
            assert history == figures
    finally:
        cnnrs.set_num_threads(before)


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
    figures = split.fit(x, y, validation_split=np.array(0.25), verbose=0, epochs=2)
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
    assert_same(model.get_weights(), before)
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


def test_a_step_is_the_same_however_large_it_could_have_been() -> None:
    """Thirty images of the tutorial's network are divided otherwise than sixty are."""
    x, y = digits(30)
    trained = []
    for batch_size in (30, 64, 1000):
        set_random_seed(1)
        model = Sequential(tutorial(layers))
        model.compile("sgd", SPARSE)
        model.fit(x, y, batch_size, epochs=3, verbose=0)
        trained.append(model)
    for other in trained[1:]:
        assert_same_weights(other, trained[0])


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
        "the loss is not finite at epoch 1, step 5; x holds a number that is not finite in float32"
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


def test_what_led_to_the_loss_is_told_and_not_what_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    x = np.ones((30, 1))
    x[20:] = np.nan  # which no step has seen yet
    model = Sequential([Input((1,)), Dense(1)])
    model.compile(SGD(lambda step: 1e30 if step == 3 else 0.125), "mse")
    with pytest.warns(RuntimeWarning, match=r"step 5; a learning rate below 1e\+30 may help"):
        model.fit(x, np.zeros(30), batch_size=1, shuffle=False, verbose=0)


def test_the_epoch_of_a_strange_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    model = Sequential([Input((1,)), Dense(1)])
    model.compile(SGD(lambda step: 1e30 if step == 53 else 1e-3), "mse")
    with pytest.warns(RuntimeWarning, match=r"epoch 6, step 5; .* below 1e\+30 may help") as told:
        model.fit(np.ones((10, 1)), np.zeros(10), batch_size=1, epochs=9, verbose=0)
    assert len(told) == 1


def test_a_learning_rate_is_not_blamed_for_what_it_did_not_do() -> None:
    x, y = data()
    model = small_model()
    model.compile(SGD(1.0), "mse")
    rows = np.eye(3)[y]
    rows[2, 0] = np.inf
    with pytest.warns(RuntimeWarning, match=r"step 1; y holds a number that is not finite"):
        model.fit(x, rows, batch_size=5, shuffle=False, verbose=0)
    for optimizer in (SGD(1.0), SGD(0.0)):
        model = Sequential([Input((7, 6, 2)), Flatten(), Dense(1)])
        model.compile(optimizer, "mse")
        with pytest.warns(RuntimeWarning, match=r"step 1; x may be too large, or the weights as"):
            model.fit(x * 1e30, np.zeros(20), batch_size=5, shuffle=False, verbose=0)


def test_a_number_too_large_for_the_model_is_told() -> None:
    x, y = data(30)
    wide = x.astype(np.float64)
    wide[20] = 1e300
    with pytest.warns(RuntimeWarning, match="step 5; x holds a number that is not finite in float"):
        compiled().fit(wide, y, batch_size=5, shuffle=False, verbose=0)


def test_a_learning_rate_is_not_blamed_for_weights_that_are_not_finite() -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, verbose=0)
    model.set_weights([np.full_like(array, np.nan) for array in model.get_weights()])
    with pytest.warns(RuntimeWarning, match="or the weights as training began .* or not finite"):
        model.fit(x, y, verbose=0)


def test_a_validation_whose_loss_is_not_finite_is_told() -> None:
    x, y = data()
    strange = np.full_like(x, np.nan)
    with pytest.warns(RuntimeWarning) as caught:
        compiled().fit(x, y, epochs=2, validation_data=(strange, y), verbose=0)
    (warning,) = caught
    assert str(warning.message) == (
        "the loss of the validation is not finite at epoch 1; x holds a number that is not finite "
        "in float32"
    )
    assert warning.filename == __file__
    model = Sequential([Input((7, 6, 2)), Flatten(), Dense(1)])
    model.compile(SGD(1e30), "mse")
    with pytest.warns(RuntimeWarning, match=r"validation .* epoch 1; a learning rate below 1e\+30"):
        model.fit(x, y, batch_size=20, validation_data=(x, y), verbose=0)


def test_a_warning_that_is_an_error_ends_the_training() -> None:
    x, y = data()
    model = compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="not finite"):
            model.fit(np.full_like(x, np.nan), y, verbose=0)
