"""Learning rate schedules: what they come to, against Keras's and PyTorch's, and in training."""

import inspect
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import Dense, Input, Sequential
from cnnrs.optimizers import SGD, Adam, AdamW, schedules
from cnnrs.optimizers.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    OneCycle,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

# By hand

BY_HAND: list[tuple[LearningRateSchedule, dict[int, float]]] = [
    (ExponentialDecay(0.2, 10, 0.25), {0: 0.2, 5: 0.1, 10: 0.05, 20: 0.0125}),
    (ExponentialDecay(0.2, 10, 0.25, staircase=True), {0: 0.2, 9: 0.2, 10: 0.05, 19: 0.05}),
    (ExponentialDecay(0.2, 10, 0), {0: 0.2, 1: 0.0}),
    (InverseTimeDecay(0.3, 10, 0.5), {0: 0.3, 5: 0.24, 10: 0.2, 40: 0.1}),
    (InverseTimeDecay(0.3, 10, 0.5, True), {0: 0.3, 9: 0.3, 10: 0.2, 49: 0.1}),
    (
        PiecewiseConstantDecay([3, 10], [0.5, 0.25, 0.125]),
        {0: 0.5, 3: 0.5, 4: 0.25, 10: 0.25, 11: 0.125, 9999: 0.125},
    ),
    (PiecewiseConstantDecay([], [0.5]), {0: 0.5, 9: 0.5}),
    (PolynomialDecay(1.0, 10, 0.2), {0: 1.0, 5: 0.6, 10: 0.2, 99: 0.2}),
    (PolynomialDecay(1.0, 10, 0.0, power=2), {0: 1.0, 5: 0.25, 9: 0.01, 10: 0.0}),
    (PolynomialDecay(1.0, 10, 0.0, cycle=True), {0: 1.0, 5: 0.5, 10: 0.0, 15: 0.25, 20: 0.0}),
    (CosineDecay(0.4, 12), {0: 0.4, 4: 0.3, 6: 0.2, 8: 0.1, 12: 0.0, 99: 0.0}),
    (CosineDecay(0.4, 12, alpha=0.5), {0: 0.4, 6: 0.3, 12: 0.2, 13: 0.2}),
    (
        CosineDecay(0.1, 12, warmup_target=0.4, warmup_steps=3),
        {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 7: 0.3, 15: 0.0, 16: 0.0},
    ),
    (CosineDecay(0.1, 12, warmup_target=0.4), {0: 0.4, 4: 0.3, 12: 0.0}),
    (CosineDecay(0.4, 12, warmup_steps=3), {0: 0.4, 4: 0.3, 12: 0.0}),
    (
        CosineDecayRestarts(0.4, 6),
        {0: 0.4, 3: 0.2, 6: 0.4, 12: 0.2, 18: 0.4, 30: 0.2, 42: 0.4},
    ),
    (CosineDecayRestarts(0.4, 6, t_mul=1, m_mul=0.5), {0: 0.4, 3: 0.2, 6: 0.2, 9: 0.1, 12: 0.1}),
    (CosineDecayRestarts(0.4, 6, alpha=0.5), {0: 0.4, 3: 0.3, 6: 0.4, 12: 0.3}),
    # A third, ninth, ... of the way, where rounded logarithms miss the beginning of a period.
    (CosineDecayRestarts(0.4, 2, t_mul=3), {2 * (3**n - 1) // 2: 0.4 for n in range(12)}),
    (CosineDecayRestarts(0.4, 2, t_mul=5), {2 * (5**n - 1) // 4: 0.4 for n in range(9)}),
    (
        OneCycle(1.0, 20, 0.25, "linear", div_factor=5, final_div_factor=10),
        {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0, 14: 0.02 + 0.98 / 3, 19: 0.02, 20: 0.02},
    ),
    (
        OneCycle(1.0, 21, 0.5, div_factor=10, final_div_factor=1),
        {0: 0.1, 20: 0.1, 30: 0.1, 10: 0.1 + 0.9 * math.cos(math.pi / 21 / 2) ** 2},
    ),
    (OneCycle(1.0, 5, 1.0, "linear", div_factor=5), {0: 0.2, 2: 0.6, 4: 1.0, 9: 1.0}),
    (OneCycle(1.0, 10, 0.1), {0: 1.0}),
    (OneCycle(1.0, 1), {0: 1 / 25e4}),
]


@pytest.mark.parametrize(("schedule", "rates"), BY_HAND, ids=[repr(case[0]) for case in BY_HAND])
def test_rates_are_those_computed_by_hand(
    schedule: LearningRateSchedule, rates: dict[int, float]
) -> None:
    for step, rate in rates.items():
        got = schedule(step)
        assert type(got) is float
        assert got == pytest.approx(rate, rel=1e-12, abs=1e-12)


EACH = [
    ExponentialDecay(0.2, 30, 0.5),
    InverseTimeDecay(0.2, 30, 0.5, staircase=True),
    PiecewiseConstantDecay([7, 150], [0.2, 0.1, 0.3]),
    PolynomialDecay(0.2, 70, power=0.5, cycle=True),
    CosineDecay(0.01, 90, 0.1, warmup_target=0.2, warmup_steps=13),
    CosineDecayRestarts(0.2, 7, 1.5, 0.9, 0.01),
    OneCycle(0.2, 120),
]
KINDS = [type(schedule).__name__ for schedule in EACH]


@pytest.mark.parametrize("schedule", EACH, ids=KINDS)
@given(first=st.integers(0, 300), count=st.integers(1, 300))
def test_the_rates_of_many_steps_are_those_of_each(
    schedule: LearningRateSchedule, first: int, count: int
) -> None:
    rates = SGD(schedule)._rates(first, count)
    assert (rates.shape, rates.dtype) == ((count,), np.float64)
    assert rates.tolist() == [schedule(first + n) for n in range(count)]
    steps = np.arange(first, first + count).reshape(1, -1)
    assert schedule(steps).tolist() == [rates.tolist()]


@given(
    steps=st.integers(1, 10**9),
    decay_steps=st.floats(1e-3, 1e9),
    power=st.floats(0, 9),
    factor=st.floats(1, 10),
)
def test_rates_are_always_between_the_ends(
    steps: int, decay_steps: float, power: float, factor: float
) -> None:
    for schedule in (
        PolynomialDecay(0.5, decay_steps, 0.25, power, cycle=True),
        PolynomialDecay(0.5, decay_steps, 0.25, power),
        CosineDecayRestarts(0.5, decay_steps, factor, alpha=0.5),
        CosineDecay(0.25, decay_steps, 0.5, warmup_target=0.5, warmup_steps=decay_steps / factor),
    ):
        around = [0, 1, steps - 1, steps, steps + 1]
        assert all(0.25 - 1e-6 <= rate <= 0.5 + 1e-6 for rate in schedule(around))


def test_a_subclass_that_changes_the_rate_is_asked() -> None:
    class Halved(CosineDecay):
        def __call__(self, step: Any) -> Any:
            assert type(step) is int
            return super().__call__(step) / 2 if step > 1 else 0.0

    rates = SGD(Halved(0.2, 10))._rates(0, 6)
    assert rates.tolist() == [0, 0, *(CosineDecay(0.1, 10)([2, 3, 4, 5]))]


# Descriptions


@pytest.mark.parametrize("schedule", EACH, ids=KINDS)
def test_schedules_survive_json_and_pickle(schedule: LearningRateSchedule) -> None:
    steps = np.arange(200)
    described = json.loads(json.dumps(schedules.serialize(schedule)))
    assert described["class_name"] == type(schedule).__name__
    again = schedules.deserialize(described)
    same = type(schedule).from_config(schedule.get_config())
    for copy in (again, same, pickle.loads(pickle.dumps(schedule))):
        assert type(copy) is type(schedule)
        assert repr(copy) == repr(schedule)
        assert copy(steps).tolist() == schedule(steps).tolist()


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_optimizers_describe_their_schedules(kind: Any) -> None:
    optimizer = kind(CosineDecay(0.1, 20), use_ema=True, ema_momentum=0.5)
    described = json.loads(json.dumps(optimizer.get_config()))
    assert described["learning_rate"]["class_name"] == "CosineDecay"
    again = kind.from_config(described)
    assert repr(again) == repr(optimizer)
    assert again._rates(0, 30).tolist() == optimizer._rates(0, 30).tolist()
    assert kind.from_config(kind(0.5).get_config()).learning_rate == 0.5
    optimizer.learning_rate = described["learning_rate"]
    assert repr(again) == repr(optimizer)


def test_rates_of_the_users_own_stay_themselves() -> None:
    class CosineDecay(LearningRateSchedule):
        def __call__(self, step: int) -> float:
            return 0.5

    for own in (CosineDecay(), lambda step: 0.5):
        assert schedules.serialize(own) is own
        again = SGD.from_config(SGD(own).get_config())
        assert again.learning_rate is own
    with pytest.raises(NotImplementedError, match=r"CosineDecay: .*get_config"):
        CosineDecay().get_config()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, r"'ExponentialDecay'.* or 'PolynomialDecay', got \{\}"),
        ({"class_name": "SGD", "config": {}}, "class_name of .*'SGD'"),
        ({"class_name": "CosineDecay"}, "arguments of CosineDecay: .*initial_learning_rate"),
        ({"class_name": "OneCycle", "config": {"speed": 1}}, "arguments of OneCycle: .*speed"),
    ],
)
def test_unfit_descriptions_are_refused(described: Any, message: str) -> None:
    for read in (
        lambda: schedules.deserialize(described),
        lambda: SGD.from_config({"learning_rate": described}),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_description_is_a_dict() -> None:
    with pytest.raises(TypeError, match=r"learning_rate: expected a dict .*, got 3"):
        schedules.deserialize(3)  # type: ignore[arg-type]


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ExponentialDecay(-0.1, 9, 0.5), ValueError, "initial_learning_rate: .*-0.1"),
        (lambda: ExponentialDecay(0.1, 0, 0.5), ValueError, "decay_steps: .*above 0, got 0"),
        (lambda: ExponentialDecay(0.1, 9, -1), ValueError, "decay_rate: .*got -1"),
        (lambda: InverseTimeDecay(math.nan, 9, 1), ValueError, "initial_learning_rate: .*nan"),
        (lambda: InverseTimeDecay(0.1, "9", 1), TypeError, "decay_steps: .*got '9'"),
        (lambda: PiecewiseConstantDecay([1, 2], [1, 2]), ValueError, "values: expected 3.*got 2"),
        (lambda: PiecewiseConstantDecay([2, 2], [1, 2, 3]), ValueError, r"boundaries: .*\[2.0, 2"),
        (lambda: PiecewiseConstantDecay([2], [1, -2]), ValueError, r"values\[1\]: .*got -2"),
        (lambda: PiecewiseConstantDecay(["2"], [1, 2]), TypeError, r"boundaries\[0\]: .*got '2'"),
        (lambda: PolynomialDecay(0.1, 9, math.inf), ValueError, "end_learning_rate: .*got inf"),
        (lambda: PolynomialDecay(0.1, 9, power=-1), ValueError, "power: .*got -1"),
        (lambda: CosineDecay(0.1, 9, -0.5), ValueError, "alpha: .*got -0.5"),
        (lambda: CosineDecay(0.1, 9, warmup_target=-1), ValueError, "warmup_target: .*got -1"),
        (lambda: CosineDecay(0.1, 9, warmup_steps=-1), ValueError, "warmup_steps: .*got -1"),
        (lambda: CosineDecayRestarts(0.1, 0), ValueError, "first_decay_steps: .*got 0"),
        (lambda: CosineDecayRestarts(0.1, 9, 0.5), ValueError, "t_mul: .*at least 1, got 0.5"),
        (lambda: CosineDecayRestarts(0.1, 9, m_mul=-1), ValueError, "m_mul: .*got -1"),
        (lambda: OneCycle(0.1, 0), ValueError, "steps: expected at least 1, got 0"),
        (lambda: OneCycle(0.1, 9.5), TypeError, "steps: expected an integer, got 9.5"),
        (lambda: OneCycle(0.1, 9, 1.5), ValueError, "pct_start: .*from 0 to 1, got 1.5"),
        (lambda: OneCycle(0.1, 9, anneal_strategy="exp"), ValueError, "'cos' or 'linear', got 'e"),
        (lambda: OneCycle(0.1, 9, div_factor=0), ValueError, "div_factor: .*got 0"),
        (lambda: OneCycle(0.1, 9, final_div_factor=0), ValueError, "final_div_factor: .*got 0"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# In training


def linear_model(optimizer: Any) -> Sequential:
    model = Sequential([Input((3,)), Dense(1, use_bias=False)], dtype="float64")
    model.set_weights([[[0.5], [-1.0], [2.0]]])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("schedule", EACH, ids=KINDS)
def test_the_rates_reach_the_training(
    schedule: LearningRateSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 3)), rng.standard_normal((200, 1))
    w = np.array([[0.5], [-1.0], [2.0]])
    for step in range(100):
        batch, targets = x[2 * step : 2 * step + 2], y[2 * step : 2 * step + 2]
        w -= schedule(step) * batch.T @ (batch @ w - targets)
    for seconds in (0.0, 1e6):  # a step a call, and as many as there are
        monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", seconds)
        model = linear_model(SGD(schedule))
        model.fit(x[:80], y[:80], 2, verbose=0, shuffle=False)
        model.fit(x[80:], y[80:], 2, verbose=0, shuffle=False)
        np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-12)


def test_a_schedule_can_be_assigned_on_the_way() -> None:
    x = np.array([[1.0, 0.0, 0.0]])
    model = linear_model(SGD(0.25))
    model.fit(x, [0.0], verbose=0)
    model.optimizer.learning_rate = PiecewiseConstantDecay([1], [0.125, 0.5])
    model.fit(x, [0.0], epochs=2, verbose=0)  # steps 1 and 2
    assert model.get_weights()[0][0, 0] == 0.5 * (1 - 0.5) * (1 - 0.25) * (1 - 1.0)
    model.optimizer.learning_rate = 0.25
    assert model.optimizer._rates(7, 2).tolist() == [0.25, 0.25]


class From5(LearningRateSchedule):
    """What comes from step 5 on."""

    def __init__(self, rate: Any) -> None:
        self.rate = rate

    def __call__(self, step: int) -> Any:
        return self.rate if step >= 5 else 0.125


@pytest.mark.parametrize(
    ("schedule", "error", "got"),
    [
        (From5(-0.5), ValueError, "-0.5"),
        (From5(math.nan), ValueError, "nan"),
        (From5(math.inf), ValueError, "inf"),
        (ExponentialDecay(1e-10, 1, 1e62), ValueError, "inf"),
        (From5(None), TypeError, "None"),
        (From5([0.125]), TypeError, r"\[0.125\]"),
    ],
    ids=["negative", "nan", "infinite", "overflow", "none", "list"],
)
def test_a_rate_that_no_step_can_take_is_refused_with_its_step(
    schedule: Any, error: type[Exception], got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnrs._fit.CALL_SECONDS", 1e6)
    x, y = np.zeros((20, 3)), np.zeros(20)
    model = linear_model(SGD(schedule))
    model.fit(x[:2], y[:2], 1, verbose=0)  # steps 0 and 1
    with pytest.raises(error, match=f"learning_rate: .*got {got} at step 5$"):
        model.fit(x, y, 1, verbose=0)  # step 2, and in another call those from 3 on
    assert model._ready_network().steps() == 3


# Against Keras and PyTorch


LIKE_KERAS: list[tuple[str, dict[str, Any]]] = [
    ("ExponentialDecay", {"decay_steps": 30, "decay_rate": 0.7}),
    ("ExponentialDecay", {"decay_steps": 30, "decay_rate": 0.7, "staircase": True}),
    ("InverseTimeDecay", {"decay_steps": 30, "decay_rate": 0.7}),
    ("InverseTimeDecay", {"decay_steps": 30, "decay_rate": 0.7, "staircase": True}),
    ("PolynomialDecay", {"decay_steps": 45}),
    ("PolynomialDecay", {"decay_steps": 45, "end_learning_rate": 0.03, "power": 0.5}),
    ("PolynomialDecay", {"decay_steps": 45, "power": 2.0, "cycle": True}),
    ("CosineDecay", {"decay_steps": 50}),
    ("CosineDecay", {"decay_steps": 50, "alpha": 0.1, "warmup_target": 0.5, "warmup_steps": 9}),
    ("CosineDecay", {"decay_steps": 50, "warmup_target": 0.05, "warmup_steps": 20}),
    ("CosineDecayRestarts", {"first_decay_steps": 16}),
    ("CosineDecayRestarts", {"first_decay_steps": 16, "t_mul": 1.0, "m_mul": 0.75}),
    ("CosineDecayRestarts", {"first_decay_steps": 17, "t_mul": 1.3, "m_mul": 1.25, "alpha": 0.1}),
]

of_keras = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@of_keras
@pytest.mark.parametrize(
    ("name", "settings"),
    LIKE_KERAS,
    ids=[f"{n}-{len(s)}-{i}" for i, (n, s) in enumerate(LIKE_KERAS)],
)
def test_rates_are_kerass(keras: Any, name: str, settings: dict[str, Any]) -> None:
    # TensorFlow computes in float64, as the rate is given, but takes 0.7 and the like as float32.
    theirs = getattr(keras.optimizers.schedules, name)(np.float64(0.2), **settings)
    expected = [float(theirs(step)) for step in range(150)]
    ours = getattr(schedules, name)(0.2, **settings)
    assert ours(np.arange(150)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    described = keras.optimizers.schedules.serialize(theirs)
    assert repr(schedules.deserialize(described)) == repr(ours)


@of_keras
def test_piecewise_rates_are_kerass(keras: Any) -> None:
    arguments = ([5, 20], [0.1, 0.5, 0.25])
    theirs = keras.optimizers.schedules.PiecewiseConstantDecay(*arguments)
    expected = [float(theirs(step)) for step in range(30)]
    assert PiecewiseConstantDecay(*arguments)(np.arange(30)) == pytest.approx(expected)


@of_keras
@pytest.mark.parametrize("name", sorted(set(KINDS) - {"OneCycle"}))
def test_arguments_are_kerass(keras: Any, name: str) -> None:
    ours, theirs = (
        [(it.name, it.default) for it in inspect.signature(kind).parameters.values()]
        for kind in (getattr(schedules, name), getattr(keras.optimizers.schedules, name))
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"anneal_strategy": "linear"},
        {"pct_start": 0.47, "div_factor": 4.0, "final_div_factor": 3.0},
        {"pct_start": 0.0},
        {"pct_start": 0.01, "anneal_strategy": "linear"},
        {"pct_start": 1.0},
    ],
)
@pytest.mark.parametrize("steps", [2, 37, 60])
def test_one_cycle_is_pytorchs(steps: int, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    if settings.get("pct_start", 0.3) * steps == 1:
        pytest.skip("PyTorch divides by zero")
    optimizer = torch.optim.SGD([torch.zeros(1)], momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps, **settings)
    expected = theirs.get_last_lr()
    for _ in range(steps - 1):
        optimizer.step()
        theirs.step()
        expected += theirs.get_last_lr()
    assert OneCycle(0.3, steps, **settings)(np.arange(steps)) == pytest.approx(expected, rel=1e-9)
