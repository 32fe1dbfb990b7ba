"""Averages of the weights: what they come to, when they replace them, and what they outlive."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnrs
from cnnrs import BatchNormalization, Dense, Input, Sequential, layers
from cnnrs.callbacks import (
    BackupAndRestore,
    Callback,
    EarlyStopping,
    LambdaCallback,
    SwapEMAWeights,
)
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer
from cnnrs.optimizers.schedules import CosineDecay
from cnnrs.utils import set_random_seed
from model_under_test import SPARSE, Plain, assert_same, assert_same_weights, data, small_model
from nets_under_test import NETS

Array: TypeAlias = npt.NDArray[Any]

RULES: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda **averaging: SGD(0.1, **averaging),
    "momentum": lambda **averaging: SGD(0.1, momentum=0.9, **averaging),
    "adam": lambda **averaging: Adam(0.01, **averaging),
    "adamw": lambda **averaging: AdamW(0.01, **averaging),
}


def averaged(dtype: str = "float64", **averaging: Any) -> Sequential:
    model = small_model(dtype=dtype)
    model.compile(SGD(0.1, use_ema=True, **averaging), SPARSE)
    return model


def shown(model: Sequential) -> list[Array]:
    """The averages, in the order and of the shapes of weights."""
    network = model._ready_network()
    network.show_averages(True)
    weights = model.get_weights()
    network.show_averages(False)
    return weights


def assert_close(got: list[Array], expected: list[Array], tolerance: float = 1e-12) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# What they come to


@given(
    momentum=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    every=st.sampled_from([None, 1, 2, 5]),
    batch=st.sampled_from([1, 3, 8]),
)
@settings(max_examples=30)
def test_averages_are_those_of_a_loop_in_numpy(
    momentum: float, every: int | None, batch: int
) -> None:
    x, y = data(24)
    model = averaged(ema_momentum=momentum, ema_overwrite_frequency=every)
    plain = Plain(model.get_weights())
    averages: list[Array] = []

    class Compare(Callback):
        def on_train_batch_end(self, batch_number: int, logs: Any = None) -> None:
            nonlocal averages
            start = batch * batch_number
            plain.step(x[start : start + batch], y[start : start + batch], 0.1)
            if not averages:
                averages = [w.copy() for w in plain.weights]
            for average, w in zip(averages, plain.weights, strict=True):
                average += (1 - momentum) * (w - average)
                if every and (batch_number + 1) % every == 0:
                    w[...] = average
            assert_close(self.model.get_weights(), plain.weights)
            assert_close(shown(self.model), averages)

    model.fit(x, y, batch, verbose=0, shuffle=False, callbacks=[Compare()])
    assert averages
    assert_close(model.get_weights(), averages)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("rule", RULES)
def test_averages_do_not_disturb_the_steps(rule: str, batch: int) -> None:
    x, y = data(24)
    paths = []
    for averaging in ({}, {"use_ema": True, "ema_momentum": 0.9}):
        model = small_model(dtype="float64")
        model.compile(RULES[rule](**averaging), SPARSE)
        path: list[list[Array]] = []
        note = LambdaCallback(
            on_train_batch_end=lambda batch, logs, model=model, path=path: path.append(
                model.get_weights()
            )
        )
        model.fit(x, y, batch, verbose=0, shuffle=False, callbacks=[note])
        paths.append(path)
    for without, with_averages in zip(*paths, strict=True):
        assert_close(with_averages, without)
    mean = paths[0][0]
    for weights in paths[0][1:]:
        mean = [0.9 * a + 0.1 * w for a, w in zip(mean, weights, strict=True)]
    assert_close(model.get_weights(), mean)


@pytest.fixture
def threads() -> Iterator[None]:
    before = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("net", ["tutorial", "normed"])
@pytest.mark.parametrize("rule", RULES)
def test_any_number_of_threads_gives_the_same_averages(rule: str, net: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((150, 28, 28, 1), np.float32), rng.integers(0, 10, 150)
    results = []
    for n in (1, 2, 3):
        cnnrs.set_num_threads(n)
        set_random_seed(1)
        model = Sequential(NETS[net](layers))
        model.compile(
            RULES[rule](use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3), SPARSE
        )
        model.fit(x, y, 64, epochs=2, verbose=0)
        results.append([*model.get_weights(), *model._ready_network().optimizer_state()])
    for result in results[1:]:
        assert_same(result, results[0])


def test_moving_statistics_are_not_averaged() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 6)), rng.integers(0, 3, 40)
    ends = []
    for use_ema in (False, True):
        set_random_seed(0)
        model = Sequential([Input((6,)), BatchNormalization(momentum=0.5), Dense(3, "softmax")])
        model.compile(SGD(0.5, use_ema=use_ema, ema_momentum=0.9), SPARSE)
        model.fit(x, y, 8, verbose=0, shuffle=False)
        ends.append(model.get_weights())
    without, with_averages = ends
    changed = [not np.array_equal(a, b) for a, b in zip(without, with_averages, strict=True)]
    assert changed == [True, True, False, False, True, True]  # gamma, beta, mean, variance, ...


# When they replace the weights


def test_weights_become_their_averages_as_fit_ends() -> None:
    x, y = data()
    model, ended = averaged(ema_momentum=0.5), []

    class Note(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ended.append((self.model.get_weights(), shown(self.model)))

        def on_train_end(self, logs: Any = None) -> None:
            assert_same(self.model.get_weights(), ended[-1][1])

    before = model.get_weights()
    model.fit(x, y, epochs=0, verbose=0)
    assert_same(model.get_weights(), before)
    model.fit(x, y, 5, epochs=2, verbose=0, callbacks=[Note()])
    assert len(ended) == 2
    assert any(not np.array_equal(a, b) for a, b in zip(*ended[-1], strict=True))
    assert_same(model.get_weights(), ended[-1][1])
    prediction = model.predict(x)
    model.set_weights(ended[-1][0])
    assert not np.allclose(model.predict(x), prediction, atol=1e-6)
    model.fit(x, y, initial_epoch=3, epochs=3, verbose=0)
    assert_same(model.get_weights(), ended[-1][0])


def test_weights_become_their_averages_whatever_callbacks_do_to_logs() -> None:
    x, y = data()
    model, expected = averaged(), averaged()
    empty = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.clear())
    model.fit(x, y, epochs=2, verbose=0, shuffle=False, callbacks=empty)
    expected.fit(x, y, epochs=2, verbose=0, shuffle=False)
    assert_same_weights(model, expected)


def test_an_exception_leaves_the_weights_as_they_are() -> None:
    x, y = data()
    model, seen = averaged(ema_momentum=0.5), []

    def fail(epoch: int, logs: Any) -> None:
        seen.append(model.get_weights())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, 5, verbose=0, callbacks=[LambdaCallback(on_epoch_end=fail)])
    assert_same(model.get_weights(), seen[0])


def test_without_averages_fit_ends_with_the_weights() -> None:
    x, y = data()
    model, plain = small_model(), small_model()
    model.compile(SGD(0.1, ema_momentum=0.5, ema_overwrite_frequency=1), SPARSE)
    plain.compile(SGD(0.1), SPARSE)
    for it in (model, plain):
        it.fit(x, y, 5, epochs=2, verbose=0)
    assert_same_weights(model, plain)


# Judging by them


def test_validation_is_by_averages_and_does_not_disturb() -> None:
    x, y = data(30)
    judged: list[float] = []
    model, alone = averaged(ema_momentum=0.5), averaged(ema_momentum=0.5)

    class Judge(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            twin = small_model(dtype="float64")
            twin.compile("sgd", SPARSE)
            twin.set_weights(shown(self.model))
            judged.append(twin.evaluate(x[20:], y[20:], verbose=0)[0])

    validation = {"validation_data": (x[20:], y[20:]), "verbose": 0}
    history = model.fit(
        x[:20], y[:20], 4, epochs=3, callbacks=[SwapEMAWeights(), Judge()], **validation
    )
    other = alone.fit(x[:20], y[:20], 4, epochs=3, **validation)
    assert history.history["val_loss"] == judged
    assert history.history["loss"] == other.history["loss"]
    assert history.history["val_loss"] != other.history["val_loss"]
    assert_same_weights(model, alone)


@pytest.mark.parametrize("stopped", [False, True])
def test_averages_are_there_at_the_end_of_epochs(stopped: bool) -> None:
    x, y = data()
    seen: list[list[Array]] = []
    model, alone = averaged(ema_momentum=0.5), averaged(ema_momentum=0.5)

    class Note(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.model.get_weights())
            self.model.stop_training = stopped and epoch == 1

    averages: list[list[Array]] = []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: averages.append(shown(alone)))
    swap = SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, 5, 3, verbose=0, callbacks=[swap, Note()], validation_data=(x, y))
    alone.fit(x, y, 5, 2 if stopped else 3, verbose=0, callbacks=[note])
    assert len(seen) == len(averages) == (2 if stopped else 3)
    for ours, theirs in zip(seen, averages, strict=True):
        assert_same(ours, theirs)
    assert_same_weights(model, alone)
    for it in (model, alone):
        it.fit(x, y, 5, verbose=0)
    assert_same_weights(model, alone)


def test_best_averages_can_be_taken_back() -> None:
    x, y = data()
    seen: list[list[Array]] = []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    model = averaged(ema_momentum=0.5)
    stop = EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)
    model.fit(x, y, 5, 9, verbose=0, callbacks=[SwapEMAWeights(True), note, stop])
    assert len(seen) == 3
    assert_same(model.get_weights(), seen[0])


def test_evaluation_and_prediction_are_by_averages() -> None:
    x, y = data()
    model, results = averaged(ema_momentum=0.5), []

    def judge(epoch: int, logs: Any) -> None:
        for callbacks in (None, [SwapEMAWeights()], None):
            figures = model.evaluate(x, y, verbose=0, callbacks=callbacks)
            results.append((figures[0], model.predict(x, callbacks=callbacks)))

    model.fit(x, y, 5, verbose=0, callbacks=[LambdaCallback(on_epoch_end=judge)])
    (loss, out), (averages_loss, averages_out), (loss_after, out_after) = results
    assert loss == loss_after
    np.testing.assert_array_equal(out, out_after)
    assert averages_loss == model.evaluate(x, y, verbose=0)[0] != loss
    np.testing.assert_array_equal(averages_out, model.predict(x))


def test_swapping_needs_averages() -> None:
    x, y = data()
    model = small_model()
    message = r"SwapEMAWeights: .*use_ema=True, got {}"
    with pytest.raises(ValueError, match=message.format("None")):
        model.predict(x, callbacks=[SwapEMAWeights()])
    model.compile(SGD(0.1), SPARSE)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message.format("SGD")):
        model.fit(x, y, verbose=0, callbacks=[SwapEMAWeights()])
    assert_same(model.get_weights(), before)


def test_new_weights_replace_the_weights_and_not_the_averages() -> None:
    x, y = data()
    model, alone = averaged(ema_momentum=0.5), averaged(ema_momentum=0.5)
    for it in (model, alone):
        it.fit(x, y, 5, verbose=0)
    new = [np.ones_like(w) / 9 for w in model.get_weights()]
    model._ready_network().show_averages(True)
    model.set_weights(new)
    assert_same(model.get_weights(), new)
    alone.set_weights(new)
    for it in (model, alone):
        it.fit(x, y, 5, verbose=0)
    assert_same_weights(model, alone)


# What they outlive


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("duplicate", [copy.copy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_keep_averages(duplicate: Callable[[Any], Any], there: bool) -> None:
    x, y = data()
    model, twins = averaged("float32", ema_momentum=0.5), []

    def twin(epoch: int, logs: Any) -> None:
        if epoch == 0:
            twins.append(duplicate(model))

    order = [SwapEMAWeights(swap_on_epoch=there), LambdaCallback(on_epoch_end=twin)]
    model.fit(x, y, 5, 2, verbose=0, shuffle=False, callbacks=order)
    assert repr(twins[0].optimizer) == repr(model.optimizer)
    twins[0].fit(x, y, 5, 2, initial_epoch=1, verbose=0, shuffle=False)
    assert_same_weights(twins[0], model)


@pytest.mark.parametrize("there", [False, True])
def test_saved_models_keep_averages(tmp_path: Path, there: bool) -> None:
    x, y = data()
    model = averaged("float32", ema_momentum=0.5)
    path, expected = tmp_path / "model.safetensors", []

    def save(epoch: int, logs: Any) -> None:
        if epoch == 0:
            expected.append(model.predict(x))
            model.save(path)

    order = [SwapEMAWeights(swap_on_epoch=there), LambdaCallback(on_epoch_end=save)]
    model.fit(x, y, 5, 2, verbose=0, shuffle=False, callbacks=order)
    loaded = cnnrs.load_model(path)
    np.testing.assert_array_equal(loaded.predict(x), expected[0])
    loaded.fit(x, y, 5, 2, initial_epoch=1, verbose=0, shuffle=False)
    assert_same_weights(loaded, model)


@pytest.mark.parametrize("cut_at", [1, 4])
@pytest.mark.parametrize("swap", [None, False, True])
def test_a_training_that_is_cut_off_goes_on_with_averages(
    tmp_path: Path, swap: bool | None, cut_at: int
) -> None:
    x, y = data(30)
    swapping = [] if swap is None else [SwapEMAWeights(swap)]

    def compiled(seed: int = 0) -> Sequential:
        model = small_model(seed=seed)
        model.compile(Adam(CosineDecay(0.1, 30), use_ema=True, ema_momentum=0.5), SPARSE)
        return model

    def fit(model: Sequential, *callbacks: Callback) -> dict[str, list[float]]:
        every = [*swapping, *callbacks]
        return model.fit(x, y, 5, 4, 0, every, validation_split=0.2).history

    class Cut(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == cut_at:
                raise KeyboardInterrupt

        def on_train_end(self, logs: Any = None) -> None:
            raise KeyboardInterrupt

    expected, model = compiled(), compiled(seed=1)
    figures = fit(expected)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), BackupAndRestore(tmp_path), Cut())
    assert fit(model, BackupAndRestore(tmp_path)) == figures
    assert_same_weights(model, expected)


def test_compiling_begins_new_averages() -> None:
    x, y = data()
    model = averaged(ema_momentum=0.5)
    model.fit(x, y, 5, verbose=0)
    fresh = averaged(ema_momentum=0.5)
    fresh.set_weights(model.get_weights())
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.5), SPARSE)
    for it in (model, fresh):
        it.fit(x, y, 5, verbose=0, shuffle=False)
    assert_same_weights(model, fresh)


def test_compiling_puts_weights_back_in_whose_place_averages_stand() -> None:
    class Interrupt(Callback):
        def on_test_begin(self, logs: Any = None) -> None:
            raise KeyboardInterrupt

    x, y = data()
    model = averaged(ema_momentum=0.5)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, 5, validation_data=(x, y), callbacks=[SwapEMAWeights(), Interrupt()])
    averages, network = model.get_weights(), model._ready_network()
    network.show_averages(False)
    weights = model.get_weights()
    network.show_averages(True)
    assert_same(model.get_weights(), averages)
    assert any((a != b).any() for a, b in zip(weights, averages, strict=True))
    model.compile("sgd", SPARSE)
    assert_same(model.get_weights(), weights)


def test_states_that_do_not_fit_are_refused() -> None:
    network = averaged()._ready_network()
    state = network.optimizer_state()
    assert [array.shape for array in state] == [(1,), state[1].shape, (1,)]
    for wrong, message in [
        (state[:-1], "expected 3 arrays, got 2"),
        ([np.array([-1]), *state[1:]], "expected from 0 to 4611686018427387904 steps, got -1"),
        ([np.array([2**63 - 1]), *state[1:]], "steps, got 9223372036854775807"),
        ([*state[:-1], np.array([2])], "0 or 1 at its end, got 2"),
        ([*state[:-1], np.array([1])], "in the weights' place after a step, got 0 steps"),
        ([*state[:-1], np.array([0, 1])], r"\(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            network.set_optimizer_state(wrong)


# Against Keras


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("every", [None, 4])
@pytest.mark.parametrize("swap", [None, False, True])
def test_averages_are_kerass(keras: Any, swap: bool | None, every: int | None) -> None:
    def make(of: Any) -> list[Any]:
        return [of.Input((7, 6, 2)), of.Conv2D(4, 3), of.Flatten(), of.Dense(3, "softmax")]

    x, y = data(30)
    results = []
    set_random_seed(0)
    first = Sequential(make(layers)).get_weights()
    for module in (keras, cnnrs):
        model = module.Sequential(make(module.layers))
        model.set_weights(first)
        rule = module.optimizers.SGD(
            0.1, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=every
        )
        model.compile(rule, SPARSE, metrics=["accuracy"])
        swapping = [] if swap is None else [module.callbacks.SwapEMAWeights(swap)]
        seen: list[Array] = []

        def note(epoch: int, logs: Any, model: Any = model, seen: list[Array] = seen) -> None:
            seen.extend(model.get_weights())

        history = model.fit(
            x,
            y,
            5,
            3,
            verbose=0,
            shuffle=False,
            validation_data=(x, y),
            callbacks=[*swapping, module.callbacks.LambdaCallback(on_epoch_end=note)],
        )
        losses = history.history["loss"] + history.history["val_loss"]
        results.append([*seen, *model.get_weights(), np.array(losses)])
    assert_close(results[1], results[0], 1e-4)
