"""Losses and optimizers: names, arguments, and what training with them comes to."""

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cnnrs import Activation, Dense, Input, Sequential, losses, optimizers
from cnnrs.losses import CategoricalCrossentropy, MeanSquaredError, SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer
from cnnrs.optimizers.schedules import LearningRateSchedule
from cnnrs.utils import to_categorical
from model_under_test import data, small_model


def line(optimizer: Optimizer | str, *, w: float = 3.0) -> Sequential:
    """`out = w * x`, so that with the data below the gradient is `2 * (w - 1)`."""
    model = Sequential(
        [Input((1,)), Dense(1, use_bias=False, kernel_initializer=lambda *_: np.full((1, 1), w))],
        dtype="float64",
    )
    model.compile(optimizer, "mse")
    return model


ONE = np.ones((1, 1))


def path(optimizer: Optimizer, steps: int = 6) -> list[float]:
    """The weight after each of some steps of one image, and then after as many more at once."""
    model = line(optimizer)
    values = []
    for n in [1] * steps + [steps]:
        model.fit(np.ones((n, 1)), np.ones(n), batch_size=1, verbose=0)
        values.append(float(model.get_weights()[0][0, 0]))
    return values


def expected_path(step: Callable[[float, float, int], float], steps: int = 6) -> list[float]:
    """The same from a function of the weight, its gradient and the step's number from 1."""
    w, values = 3.0, []
    for t in range(1, 2 * steps + 1):
        w = step(w, 2 * (w - 1), t)
        values.append(w)
    return [*values[:steps], w]


# Configurations


@pytest.mark.parametrize(
    "thing",
    [
        SGD(0.1, momentum=0.9, nesterov=True),
        Adam(0.1, 0.8, 0.9, 1e-3),
        AdamW(0.1, 0.2, 0.8, 0.9, 1e-3),
        CategoricalCrossentropy(True, 0.25),
        SparseCategoricalCrossentropy(True),
        MeanSquaredError(),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_a_configuration_makes_an_equal_one(thing: Any) -> None:
    config = thing.get_config()
    assert repr(type(thing).from_config(config)) == repr(thing)
    assert list(config) == [
        name for name in inspect.signature(type(thing)).parameters if name != "lr"
    ]


# Losses


def logits_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((50, 4)), rng.integers(0, 4, 50)


def evaluated(loss: losses.Loss | str, x: np.ndarray, y: np.ndarray, *layers: Any) -> Any:
    model = Sequential([Input(x.shape[1:]), *(layers or [Activation("linear")])], dtype="float64")
    model.compile("sgd", loss)
    return model.evaluate(x, y, verbose=0)


def test_crossentropies_are_the_formulas() -> None:
    x, y = logits_and_labels()
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    plain = -np.log(p[np.arange(50), y]).mean()
    right = (p.argmax(1) == y).mean()
    one_hot = to_categorical(y, 4)
    smooth = -(np.log(p) * (one_hot * 0.8 + 0.05)).sum(1).mean()
    softmax = Activation("softmax")
    for loss, labels, layers, expected in [
        (SparseCategoricalCrossentropy(from_logits=True), y, [], plain),
        (SparseCategoricalCrossentropy(), y, [softmax], plain),
        (CategoricalCrossentropy(from_logits=True), one_hot, [], plain),
        ("categorical_crossentropy", one_hot, [Activation("softmax")], plain),
        (CategoricalCrossentropy(True, label_smoothing=0.2), one_hot, [], smooth),
        (CategoricalCrossentropy(True), one_hot * 0.8 + 0.05, [], smooth),
    ]:
        got = evaluated(loss, x, labels, *layers)
        assert got == pytest.approx([expected, right], rel=1e-12)


def test_mean_squared_error_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 2, 3)), rng.standard_normal((9, 2, 3))
    loss = evaluated(MeanSquaredError(), x, y)
    assert isinstance(loss, float)
    assert loss == pytest.approx(((x - y) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ("mse", MeanSquaredError),
        ("MSE", MeanSquaredError),
        ("mean_squared_error", MeanSquaredError),
        ("MeanSquaredError", MeanSquaredError),
        (MeanSquaredError, MeanSquaredError),
        ("categorical_crossentropy", CategoricalCrossentropy),
        ("CategoricalCrossentropy", CategoricalCrossentropy),
        ("sparse_categorical_crossentropy", SparseCategoricalCrossentropy),
        (SparseCategoricalCrossentropy(True), SparseCategoricalCrossentropy),
    ],
)
def test_losses_are_found_by_kerass_names(identifier: Any, kind: type[losses.Loss]) -> None:
    assert type(losses.get(identifier)) is kind


# Optimizers


def test_sgd_is_the_formula() -> None:
    assert path(SGD(0.1)) == pytest.approx(expected_path(lambda w, g, t: w - 0.1 * g), rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_formula(nesterov: bool) -> None:
    v = 0.0

    def step(w: float, g: float, t: int) -> float:
        nonlocal v
        v = 0.9 * v - 0.1 * g
        return w + (0.9 * v - 0.1 * g if nesterov else v)

    assert path(SGD(0.1, 0.9, nesterov)) == pytest.approx(expected_path(step), rel=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "beta_1", "beta_2", "epsilon", "decay"),
    [
        (Adam(0.1), 0.9, 0.999, 1e-7, 0),
        (Adam(0.1, 0.8, 0.9, 1e-2), 0.8, 0.9, 1e-2, 0),
        (AdamW(0.1), 0.9, 0.999, 1e-7, 0.004),
        (AdamW(0.1, 0.5, 0.8), 0.8, 0.999, 1e-7, 0.5),
    ],
)
def test_adam_is_the_formula(
    optimizer: Optimizer, beta_1: float, beta_2: float, epsilon: float, decay: float
) -> None:
    m = v = 0.0

    def step(w: float, g: float, t: int) -> float:
        nonlocal m, v
        w -= 0.1 * decay * w
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        rate = 0.1 * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        return w - rate * m / (math.sqrt(v) + epsilon)

    assert path(optimizer) == pytest.approx(expected_path(step), rel=1e-12)


def test_compiling_again_forgets_momenta() -> None:
    model = line(SGD(0.1, momentum=0.9))
    for _ in range(2):
        model.set_weights([[[3.0]]])
        model.compile(SGD(0.1, momentum=0.9), "mse")
        model.fit(ONE, ONE, verbose=0, epochs=3)
        last = model.get_weights()[0][0, 0]
        assert last == path(SGD(0.1, momentum=0.9))[2]


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [("sgd", SGD), ("SGD", SGD), ("adam", Adam), ("Adam", Adam), ("AdamW", AdamW)],
)
def test_optimizers_are_found_by_kerass_names(identifier: str, kind: type[Optimizer]) -> None:
    found = optimizers.get(identifier)
    assert type(found) is kind
    assert repr(found) == repr(kind())
    assert optimizers.get(found) is found


def test_defaults_are_kerass() -> None:
    assert repr(SGD()) == "SGD(learning_rate=0.01, momentum=0.0, nesterov=False)"
    betas = "beta_1=0.9, beta_2=0.999, epsilon=1e-07)"
    assert repr(Adam()) == f"Adam(learning_rate=0.001, {betas}"
    assert repr(AdamW()) == f"AdamW(learning_rate=0.001, weight_decay=0.004, {betas}"
    assert repr(CategoricalCrossentropy()) == (
        "CategoricalCrossentropy(from_logits=False, label_smoothing=0.0)"
    )


@pytest.mark.parametrize(
    "made",
    [SGD(0.5, 0.9, True), Adam(use_ema=True, ema_overwrite_frequency=3), AdamW(0.5, 0.25)],
)
def test_what_is_shown_can_be_typed_back(made: Optimizer) -> None:
    assert eval(repr(made)).get_config() == made.get_config()


# Learning rates


def test_the_old_name_of_the_learning_rate() -> None:
    for kind in (SGD, Adam, AdamW):
        optimizer = kind(lr=0.5)
        assert (optimizer.learning_rate, optimizer.lr) == (0.5, 0.5)
        optimizer.lr = 0.25
        assert optimizer.learning_rate == 0.25
        with pytest.raises(ValueError, match=r"lr: .*learning_rate=0.3, lr=0.5"):
            kind(0.3, lr=0.5)


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), Fraction(1, 2)])
def test_any_kind_of_number_is_one(number: Any) -> None:
    optimizer = AdamW(number, weight_decay=number, beta_1=number)
    assert optimizer.get_config() == AdamW(0.5, weight_decay=0.5, beta_1=0.5).get_config()
    assert type(optimizer.learning_rate) is type(optimizer.beta_1) is float


def test_an_assigned_learning_rate_counts_from_the_next_step() -> None:
    model = line(SGD(0.1))
    model.fit(ONE, ONE, verbose=0)
    assert model.get_weights()[0] == pytest.approx(2.6, rel=1e-12)
    model.optimizer.learning_rate = np.float32(0.5)
    model.fit(ONE, ONE, verbose=0)
    assert model.get_weights()[0] == pytest.approx(1.0, rel=1e-12)


class Harmonic(LearningRateSchedule):
    def __call__(self, step: int) -> float:
        assert type(step) is int
        return 0.1 / (1 + step)


@pytest.mark.parametrize("schedule", [Harmonic(), lambda step: 0.1 / (1 + step)])
def test_schedules_count_all_steps_since_compiling(schedule: Any) -> None:
    expected = expected_path(lambda w, g, t: w - 0.1 / t * g)
    model = line(SGD(schedule))
    x = np.ones((4, 1))
    model.fit(x, x, batch_size=1, verbose=0)
    assert model.get_weights()[0] == pytest.approx(expected[3], rel=1e-12)
    model.fit(x[:2], x[:2], batch_size=1, verbose=0)
    assert model.get_weights()[0] == pytest.approx(expected[5], rel=1e-12)
    model.compile(SGD(schedule), "mse")
    model.set_weights([[[3.0]]])
    model.fit(ONE, ONE, verbose=0)
    assert model.get_weights()[0] == pytest.approx(expected[0], rel=1e-12)


class Fixed(LearningRateSchedule):
    def __init__(self, rate: Any) -> None:
        self.rate = rate

    def __call__(self, step: int) -> Any:
        return self.rate


@pytest.mark.parametrize("rate", [0.1, np.float32(0.1), np.array(0.1)])
def test_a_schedule_may_return_any_kind_of_number(rate: Any) -> None:
    assert path(SGD(Fixed(rate))) == path(SGD(float(rate)))


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (Fixed([0.1, 0.2]), TypeError, r"learning_rate: .*got \[0.1, 0.2\] at step 0"),
        (Fixed("fast"), TypeError, "learning_rate: .*got 'fast' at step 0"),
        (Fixed("0.1"), TypeError, "learning_rate: .*got '0.1' at step 0"),
        (Fixed(10**400), TypeError, "learning_rate: .*got 10+ at step 0"),
        (Fixed(None), TypeError, "learning_rate: .*got None at step 0"),
        (Fixed(math.nan), ValueError, "learning_rate: .*got nan at step 0"),
        (Fixed(-1), ValueError, "learning_rate: .*got -1"),
        (lambda step: math.inf, ValueError, "learning_rate: .*got inf"),
        (LearningRateSchedule(), NotImplementedError, "a subclass with __call__"),
    ],
)
def test_unfit_schedules_are_refused_before_the_step(
    schedule: Any, error: type[Exception], message: str
) -> None:
    model = line(SGD(schedule))
    with pytest.raises(error, match=message):
        model.fit(ONE, ONE, verbose=0)
    assert model.get_weights()[0] == 3


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD(-0.1), ValueError, "learning_rate: .*got -0.1"),
        (lambda: SGD(math.nan), ValueError, "learning_rate: .*got nan"),
        (lambda: SGD(math.inf), ValueError, "learning_rate: .*got inf"),
        (lambda: SGD(10**400), ValueError, "learning_rate: .*got a number that no float holds"),
        (lambda: SGD(np.array([0.1])), TypeError, r"learning_rate: .*got array\(\[0.1\]\)"),
        (lambda: SGD("0.1"), TypeError, "learning_rate: .*got '0.1'"),
        (lambda: SGD(momentum=1.5), ValueError, "momentum: .*from 0 to 1, got 1.5"),
        (lambda: Adam(beta_1=1), ValueError, "beta_1: .*below 1, got 1"),
        (lambda: Adam(beta_2=-1), ValueError, "beta_2: .*got -1"),
        (lambda: Adam(epsilon=-1), ValueError, "epsilon: .*got -1"),
        (lambda: AdamW(weight_decay=-1), ValueError, "weight_decay: .*got -1"),
        (lambda: AdamW(weight_decay=None), TypeError, "weight_decay: .*got None"),
        (lambda: SGD(ema_momentum=1.5), ValueError, "ema_momentum: .*from 0 to 1, got 1.5"),
        (lambda: Adam(ema_momentum=None), TypeError, "ema_momentum: .*got None"),
        (lambda: AdamW(ema_overwrite_frequency=0), ValueError, "ema_overwrite_frequency: .*got 0"),
        (lambda: SGD(ema_overwrite_frequency=2.5), TypeError, "ema_overwrite_frequency: .*2.5"),
        (lambda: optimizers.get("rmsprop"), ValueError, "'sgd', 'adam' or 'adamw', got 'rmsprop'"),
        (lambda: optimizers.get(None), TypeError, "optimizer: .*got None"),
        (lambda: CategoricalCrossentropy(label_smoothing=2), ValueError, "label_smoothing: .*2"),
        (lambda: losses.get("hinge"), ValueError, "'mse', got 'hinge'"),
        (lambda: losses.get(np.sum), TypeError, "loss: .*got <function sum"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_smoothed_labels_are_those_of_one_hot_rows() -> None:
    x, y = data(20)
    losses = []
    for loss, targets in (
        (SparseCategoricalCrossentropy(label_smoothing=0.2), y),
        (CategoricalCrossentropy(label_smoothing=0.2), to_categorical(y, 3)),
    ):
        model = small_model()
        model.compile(SGD(0.1), loss)
        model.fit(x, targets, epochs=2, verbose=0)
        losses.append((model.evaluate(x, targets, verbose=0), model.history.history))
    assert losses[0] == losses[1]
    assert (
        SparseCategoricalCrossentropy.from_config(
            SparseCategoricalCrossentropy(label_smoothing=0.2).get_config()
        ).label_smoothing
        == 0.2
    )
    with pytest.raises(ValueError, match=r"label_smoothing: .*from 0 to 1, got 1.5"):
        SparseCategoricalCrossentropy(label_smoothing=1.5)
