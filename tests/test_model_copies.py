"""Models that are copied, and models that several threads use."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cnnrs import Dense, Flatten, Input, Rescaling, Sequential
from cnnrs.callbacks import Callback
from cnnrs.losses import SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD, Adam
from cnnrs.utils import set_random_seed
from model_under_test import Array, assert_same_weights, compiled, data, differ, small_model

COPIES = [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]


class Twice(Sequential):
    """A model that is initialized twice, as a mixin may do, with an attribute of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.note = "kept"
        super().__init__([Input((4,)), Dense(2)])


class Named(Sequential):
    """A model with attributes of the user's own, some of them there before the model is."""

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        super().__init__([Input((4,)), Dense(len(classes))], name="named")
        self.made_by = "a test"


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_has_the_users_attributes(copied: Any) -> None:
    model = Named(["a", "b"])
    model.note = {"seed": 1}
    twin = copied(model)
    assert type(twin) is Named
    assert (twin.classes, twin.made_by, twin.note) == (["a", "b"], "a test", {"seed": 1})
    assert_same_weights(copied(twin), model)


@pytest.mark.parametrize("copied", COPIES)
def test_a_model_that_is_initialized_twice_can_be_copied(copied: Any) -> None:
    model = Twice()
    twin = copied(model)
    assert twin.note == "kept"
    assert_same_weights(twin, model)


def test_a_models_own_attributes_are_those_that_it_has() -> None:
    model = compiled()
    model.fit(*data(), verbose=0)
    assert vars(model).keys() == Sequential._own


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_shares_nothing_that_training_changes(copied: Any) -> None:
    x, y = data()
    model = compiled()
    model.fit(x, y, verbose=0)
    twin = copied(model)
    rate, history = model.optimizer.learning_rate, copy.deepcopy(model.history.history)
    twin.optimizer.learning_rate = 0.5
    twin.history.history["loss"].append(0.0)
    twin.fit(x, y, epochs=2, initial_epoch=1, verbose=0, callbacks=[twin.history])
    assert (model.optimizer.learning_rate, model.history.history) == (rate, history)


@pytest.mark.parametrize("name", [None, 5, b"model"])
def test_a_models_name_is_a_string(name: Any) -> None:
    model = small_model()
    with pytest.raises(TypeError, match=f"name: expected a string, got {name!r}"):
        model.name = name
    model.name = "another"
    assert model.name == "another"


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_goes_on_as_the_model_does(copied: Any) -> None:
    set_random_seed(0)
    model = small_model(dropout=0.3)
    model.compile(Adam(0.01), SparseCategoricalCrossentropy())
    x, y = data()
    model.fit(x, y, epochs=2, verbose=0)
    twin = copied(model)
    assert_same_weights(twin, model)
    assert [layer.get_config() for layer in twin.layers] == [
        layer.get_config() for layer in model.layers
    ]
    assert twin.history.history == model.history.history
    assert twin.history.model is twin
    for each in (model, twin):
        each.fit(x, y, epochs=2, verbose=0)
    assert_same_weights(twin, model)
    twin.layers[0].set_weights([np.zeros((3, 3, 2, 4)), np.zeros(4)])
    assert differ(twin, model)


def test_copies_of_models_that_are_not_ready() -> None:
    unbuilt = copy.deepcopy(Sequential([Dense(2)], name="later"))
    assert not unbuilt.built
    unbuilt.build((None, 3))
    assert unbuilt.name == "later"
    bare = Sequential([Input((3,)), Dense(2)], dtype="float64")
    twin = copy.deepcopy(bare)
    assert_same_weights(twin, bare)
    assert (twin.loss, twin.optimizer, twin.history) == (None, None, None)
    assert copy.deepcopy(Sequential()).layers == []


def test_threads_may_share_a_model_and_train_two_at_once() -> None:
    x, y = data(200)

    def trained(seed: int) -> Sequential:
        model = small_model(seed=0, dropout=0.2)
        model._rng = np.random.default_rng(seed)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    alone = [trained(seed) for seed in range(2)]
    for model in alone:
        model.fit(x, y, epochs=3, verbose=0)
    together = [trained(seed) for seed in range(2)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(model.fit, x, y, epochs=3, verbose=0) for model in together]
        reads = [pool.submit(model.predict, x) for model in together for _ in range(5)]
        for job in jobs + reads:
            job.result()
    for model, expected in zip(together, alone, strict=True):
        assert_same_weights(model, expected)


def unsteady() -> tuple[Sequential, Array, Array]:
    """A model, and what to train it on: each step's label becomes the weight."""
    model = Sequential([Input((1,)), Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(SGD(0.5), "mean_squared_error")
    return model, np.ones((3000, 1), np.float32), np.arange(1, 3001, dtype=np.float32)[:, None]


def moment(model: Sequential) -> tuple[int, float]:
    """The steps and the weight that a copy would have."""
    state = model.__getstate__()
    return int(state["optimizer_state"][0][0]), float(state["weights"]["dense/kernel"][0, 0])


def test_a_copy_made_during_a_training_is_of_one_moment() -> None:
    """Its weights are those that its optimizer's steps have come to."""
    model, x, y = unsteady()
    weights, enough = [0.0], threading.Event()

    class Note(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            weights.append(float(self.model.get_weights()[0][0, 0]))
            self.model.stop_training = enough.is_set()

    settings: dict[str, Any] = {"batch_size": 1, "shuffle": False, "verbose": 0}
    with ThreadPoolExecutor(1) as pool:
        # The training ends only when it has been seen at so many of its steps.
        job = pool.submit(model.fit, x, y, epochs=10**9, callbacks=[Note()], **settings)
        seen = {moment(model)}
        try:
            while len(seen) < 100 and not job.done():
                seen.add(moment(model))
        finally:
            enough.set()
        job.result()
    assert all(weights[steps] == weight for steps, weight in seen)


def test_a_copy_is_of_one_moment_even_if_each_call_lets_a_step_in() -> None:
    model, x, y = unsteady()

    class Trained:
        """The compiled network, which takes a step after each call, as in another thread."""

        def __init__(self, network: Any) -> None:
            self._network = network

        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> Any:
                result = getattr(self._network, name)(*arguments)
                step = self._network.steps()
                self._network.train(x, y, np.array([step]), 1, np.array([0.5]), 0, step)
                return result

            return call

    model._network = Trained(model._network)
    seen = [moment(model) for _ in range(3)]
    assert len(set(seen)) == 3
    assert all(weight == steps for steps, weight in seen)


def test_threads_build_a_model_once() -> None:
    x, _ = data()
    model = Sequential([Rescaling(2), Flatten(), Dense(3)])
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(lambda _: model.predict(x), range(16))
    for other in others:
        np.testing.assert_array_equal(other, first)
