"""Training comes to the same bits whatever the number of threads, the length of its calls, and
beside other trainings."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from cnnrs import Sequential, layers
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer
from cnnrs.utils import set_random_seed
from nets_under_test import NETS, digits
from threads_under_test import in_threads
from training_under_test import assert_same_bits, model_of, steps

Array: TypeAlias = npt.NDArray[Any]

THREADS = (1, 2, 3, 7)


@pytest.fixture(autouse=True)
def _same_threads_after() -> Iterator[None]:
    threads = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(threads)


# Threads


@pytest.mark.parametrize(("n", "batch"), [(6, 1), (50, 7), (150, 32), (200, 129), (333, 333)])
@pytest.mark.parametrize("net", NETS)
def test_threads_change_no_bit(net: str, n: int, batch: int) -> None:
    """Batches of one, of less than a block, of few chunks and of all, with what is left."""
    x, y = digits(n)
    many, labels = digits(333)  # few are no work for several threads
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of(net)
        history = model.fit(x, y, batch, epochs=2, verbose=0).history
        scores = history, model.evaluate(many, labels, verbose=0)
        results.append((model.get_weights(), scores, model.predict(many).tobytes()))
    (weights, scores, out), *others = results
    assert not np.array_equal(weights[0], model_of(net).get_weights()[0])
    for other_weights, other_scores, other_out in others:
        assert_same_bits(other_weights, weights)
        assert other_scores == scores
        assert other_out == out


@pytest.mark.parametrize("block", range(1, 17))
@pytest.mark.parametrize("net", ["small", "normed"])
def test_what_is_left_may_be_more_chunks_than_a_batch(net: str, block: int) -> None:
    """A batch is 16 chunks of whole images at most: two images more than 16 blocks make fewer and
    longer ones, some less make 16 again."""
    batch, left = 16 * block + 2, 16 * block - 1
    n = 2 * batch + left  # the first call takes one step, the second one both sizes
    rng = np.random.default_rng(0)
    x, y = rng.random((n, 16, 16, 1), np.float32), rng.integers(0, 3, n)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        between = [layers.BatchNormalization()] if net == "normed" else []
        first, second = layers.Conv2D(16, 3), layers.Conv2D(16, 3)
        last = [layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(3, "softmax")]
        model = Sequential([layers.Input((16, 16, 1)), first, *between, second, *last])
        model.compile(SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
        model.fit(x, y, batch, epochs=2, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("rule", [SGD(0.02), Adam(), AdamW()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_no_bit_of_other_rules_and_types(dtype: str, rule: Optimizer) -> None:
    x, y = digits(100)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of("normed", rule, dtype=dtype)
        model.fit(x, y, 33, epochs=2, verbose=0)
        results.append([*model.get_weights(), *model._ready_network().optimizer_state()])
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize(("n", "batch"), [(67, 64), (103, 17), (110, 32), (300, 128)])
@pytest.mark.parametrize("net", NETS)
def test_threads_change_no_bit_where_layers_descend_by_themselves(
    net: str, n: int, batch: int
) -> None:
    """In all steps of one thread, which takes chunk after chunk; with more threads, in an epoch's
    last step, if that is so short that one thread takes it alone. Small batches of the tutorial's
    network are divided by rows, which descend by themselves in all steps."""
    x, y = digits(n)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of(net, SGD(0.02))
        model.fit(x, y, batch, epochs=3, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize(
    ("filters", "units", "batch"), [(8, 10, 80), (8, 10, 380), (8, 10, 1000), (16, 1, 225)]
)
@pytest.mark.parametrize("rule", [SGD(0.002), Adam()], ids=lambda rule: type(rule).__name__)
def test_threads_change_no_bit_where_they_add_up_pairs(
    filters: int, units: int, batch: int, rule: Optimizer
) -> None:
    """Batches of 4, 6, 16 and 15 chunks. One thread takes two at a time and adds up what they come
    to, two threads do so but for 6 chunks, and many take one at a time."""
    x, y = digits(batch + 70)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        first = [layers.Input((28, 28, 1)), layers.Conv2D(filters, 3), layers.MaxPooling2D(2)]
        model = Sequential([*first, layers.Flatten(), layers.Dense(units)])
        model.compile(rule, "mean_squared_error")
        model.fit(x, np.outer(y, np.arange(1, units + 1)) / 50, batch, epochs=2, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("rule", [SGD(0.02), SGD(0.02, momentum=0.9)], ids=["plain", "momentum"])
@pytest.mark.parametrize(
    ("net", "dtype", "batch", "left"),
    [
        ("perceptron", "float32", 33, 20),
        ("normed perceptron", "float32", 33, 20),
        ("convolution", "float32", 257, 173),
        ("convolution", "float64", 257, 173),
    ],
)
def test_what_is_left_may_have_longer_chunks_than_a_batch(
    net: str, dtype: str, batch: int, left: int, rule: Optimizer
) -> None:
    """A batch of 33 is two chunks of 17, but one of 20 is one chunk; nor does it matter whether one
    call takes both sizes."""
    x, y = digits(2 * batch + left)

    def between() -> list[layers.Layer]:
        if net == "convolution":
            return [layers.Conv2D(8, 3), layers.MaxPooling2D(2)]
        normed = [layers.BatchNormalization()] if net == "normed perceptron" else []
        return [layers.Flatten(), layers.Dense(200), *normed, layers.ReLU()]

    def trained(threads: int, *calls: slice) -> list[Array]:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        first = [layers.Input((28, 28, 1)), *between(), layers.Flatten()]
        model = Sequential([*first, layers.Dense(10, "softmax")], dtype=dtype)
        model.compile(rule, "sparse_categorical_crossentropy")
        for rows in calls:
            model.fit(x[rows], y[rows], batch, shuffle=False, verbose=0)
        return model.get_weights()

    alone = trained(1, slice(0, None))
    for threads in THREADS:
        assert_same_bits(trained(threads, slice(0, None)), alone)
        assert_same_bits(trained(threads, slice(0, 2 * batch), slice(2 * batch, None)), alone)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("batch", [1, 16, 20, 65, 130, 256, 257, 300])
def test_many_weights_are_used_for_long_blocks(batch: int, normed: bool) -> None:
    """Which batches have by their own size, not by what was trained before, nor by the threads."""
    x, y = digits(2 * batch + batch // 3)

    def perceptron() -> Sequential:
        set_random_seed(1)
        between = [layers.BatchNormalization()] if normed else []
        first = [layers.Flatten(), layers.Dense(200), *between, layers.ReLU()]
        model = Sequential([layers.Input((28, 28, 1)), *first, layers.Dense(10, "softmax")])
        model.compile(SGD(0.02), "sparse_categorical_crossentropy")
        return model

    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = perceptron()
        if threads > 1:
            weights = model.get_weights()
            for other in (256, 7, 1000):
                model.fit(*digits(other), other, verbose=0)
            model.set_weights(weights)
        model.fit(x, y, batch, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for other_weights in results[1:]:
        assert_same_bits(other_weights, results[0])


def test_the_number_of_threads_may_change_in_the_middle() -> None:
    x, y = digits(96)
    steady, restless = model_of("convnet"), model_of("convnet")
    steady.fit(x, y, epochs=4, verbose=0)
    for threads in (3, 1, 2, 64):
        cnnrs.set_num_threads(threads)
        restless.fit(x, y, verbose=0)
        restless.predict(x)
    assert_same_bits(restless.get_weights(), steady.get_weights())


# Calls


@pytest.mark.parametrize(
    "rule",
    [SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), Adam(), AdamW()],
    ids=["sgd", "momentum", "nesterov", "adam", "adamw"],
)
@pytest.mark.parametrize("net", ["tutorial", "normed"])
def test_one_call_of_many_steps_is_many_calls_of_one(net: str, rule: Optimizer) -> None:
    """How many steps a call of `fit` takes depends on the clock, so that nothing else may."""
    x, y = digits(60)
    expected = model_of(net, rule)
    steps(expected, x, y, batch=5, calls=[1] * 20)
    for calls in ([20], [1, 8, 11]):
        model = model_of(net, rule)
        steps(model, x, y, batch=5, calls=calls)
        assert_same_bits(model.get_weights(), expected.get_weights())


# Two trainings at once


@pytest.mark.parametrize("nets", [("convnet", "convnet"), ("normed", "lenet")], ids="-".join)
def test_two_models_train_at_once_as_they_do_alone(nets: tuple[str, str]) -> None:
    x, y = digits(150)
    cnnrs.set_num_threads(2)
    alone = [model_of(net, seed=seed) for seed, net in enumerate(nets)]
    together = [model_of(net, seed=seed) for seed, net in enumerate(nets)]
    for model in alone:
        model.fit(x, y, epochs=3, verbose=0)
    in_threads(*(partial(model.fit, x, y, epochs=3, verbose=0) for model in together))
    for model, expected in zip(together, alone, strict=True):
        assert_same_bits(model.get_weights(), expected.get_weights())
