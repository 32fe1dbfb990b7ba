"""How weights begin: the distributions, their generators, and how they are named."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnrs import Dense, Input, Sequential, initializers
from cnnrs.initializers import (
    BY_NAME,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    LecunNormal,
    LecunUniform,
    Ones,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
from cnnrs.utils import set_random_seed

SCALED = {
    GlorotUniform: ("uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    GlorotNormal: ("normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    HeUniform: ("uniform", lambda fan_in, fan_out: 2 / fan_in),
    HeNormal: ("normal", lambda fan_in, fan_out: 2 / fan_in),
    LecunUniform: ("uniform", lambda fan_in, fan_out: 1 / fan_in),
    LecunNormal: ("normal", lambda fan_in, fan_out: 1 / fan_in),
}


@pytest.mark.parametrize("kind", SCALED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("shape", "fan_in", "fan_out"),
    [((200, 100), 200, 100), ((3, 2, 40, 60), 240, 360), ((5, 5, 1, 400), 25, 10_000)],
)
def test_variance_follows_from_the_fans(
    kind: type[Initializer], shape: tuple[int, ...], fan_in: int, fan_out: int
) -> None:
    distribution, variance = SCALED[kind]
    deviation = math.sqrt(variance(fan_in, fan_out))
    values = kind(seed=1)(shape, np.float64)
    assert values.shape == shape
    assert values.std() == pytest.approx(deviation, rel=0.02)
    assert abs(values.mean()) < 0.05 * deviation
    limit = deviation * (math.sqrt(3) if distribution == "uniform" else 2 / 0.8796256610342398)
    assert 0.95 * limit < np.abs(values).max() <= limit


def test_cutting_off_the_tails_is_made_up_for() -> None:
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    deviation = math.sqrt(1 - 4 * density / inside)  # of a standard normal from -2 to 2
    cut = TruncatedNormal(stddev=0.1, seed=0)((100, 3), np.float64)
    scaled = VarianceScaling(1, "fan_in", "truncated_normal", seed=0)((100, 3), np.float64)
    np.testing.assert_allclose(scaled, cut / deviation, rtol=1e-13)


def test_simple_distributions() -> None:
    size = (40_000,)
    normal = RandomNormal(mean=1, stddev=0.5, seed=0)(size)
    assert (normal.mean(), normal.std()) == pytest.approx((1, 0.5), rel=0.02)
    assert np.abs(normal - 1).max() > 1.5
    truncated = TruncatedNormal(mean=1, stddev=0.5, seed=0)(size)
    assert truncated.std() == pytest.approx(0.5 * 0.8796, rel=0.02)
    assert 0.95 < np.abs(truncated - 1).max() <= 1
    uniform = RandomUniform(-1, 3, seed=0)(size)
    assert (uniform.min(), uniform.max()) == pytest.approx((-1, 3), abs=0.01)
    assert RandomNormal()(size).std() == pytest.approx(0.05, rel=0.03)
    assert np.abs(RandomUniform()(size)).max() == pytest.approx(0.05, rel=0.01)
    scaled = VarianceScaling(4, "fan_out", "untruncated_normal", seed=0)((100, 400))
    assert scaled.std() == pytest.approx(0.1, rel=0.02)
    assert np.abs(scaled).max() > 0.3
    np.testing.assert_array_equal(Zeros()((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(Ones()((2, 3)), np.ones((2, 3)))


def test_a_vector_is_its_own_fan() -> None:
    assert np.abs(HeUniform(seed=0)((600,))).max() == pytest.approx(math.sqrt(6 / 600), rel=0.02)


def test_a_seed_draws_the_same_every_time_and_none_does_not() -> None:
    seeded, free = HeNormal(seed=3), HeNormal()
    np.testing.assert_array_equal(seeded((3, 4)), seeded((3, 4)))
    assert not np.array_equal(free((3, 4)), free((3, 4)))
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(free((3, 4), rng=rng), seeded((3, 4)))
    set_random_seed(1)
    drawn = free((3, 4))
    set_random_seed(1)
    np.testing.assert_array_equal(free((3, 4)), drawn)


def test_either_dtype_begins_with_the_same_weights() -> None:
    def weights(dtype: str) -> np.ndarray:
        set_random_seed(5)
        return Sequential([Input((30,)), Dense(20)], dtype=dtype).get_weights()[0]

    assert weights("float64").dtype == np.float64
    np.testing.assert_array_equal(weights("float64").astype(np.float32), weights("float32"))


@pytest.mark.parametrize("name", BY_NAME)
def test_initializers_are_found_by_name_class_and_config(name: str) -> None:
    kind = BY_NAME[name]
    found = [initializers.get(identifier) for identifier in (name, kind.__name__, kind, kind())]
    found.append(initializers.get(initializers.serialize(kind())))
    for initializer in found:
        assert type(initializer) is kind
        assert initializer.get_config() == kind().get_config()


def test_config_holds_the_arguments() -> None:
    for made in (
        RandomNormal(1, 2, seed=3),
        RandomUniform(1, 2, seed=3),
        TruncatedNormal(1, 2, seed=3),
        VarianceScaling(2, "fan_out", "uniform", 4),
        GlorotUniform(5),
    ):
        for again in (
            initializers.get(initializers.serialize(made)),
            type(made).from_config(made.get_config()),
            eval(repr(made)),
        ):
            assert type(again) is type(made)
            np.testing.assert_array_equal(again((3, 4)), made((3, 4)))


def test_initializers_are_shown_as_the_calls_that_make_them() -> None:
    assert repr(Zeros()) == "Zeros()"
    assert repr(HeNormal(3)) == "HeNormal(seed=3)"
    assert repr(RandomNormal()) == "RandomNormal(mean=0.0, stddev=0.05, seed=None)"


class OfKeras(Initializer):
    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        return np.full(shape, 0.5)


@pytest.mark.parametrize(
    "initializer", [OfKeras(), lambda shape, *, dtype=None: np.full(shape, 0.5, dtype)]
)
def test_an_initializer_may_be_written_as_for_keras(initializer: Any) -> None:
    model = Sequential([Input((2,)), Dense(3, kernel_initializer=initializer)])
    np.testing.assert_array_equal(model.get_weights()[0], np.full((2, 3), 0.5))


def test_an_own_subclass_stays_itself() -> None:
    class Sevens(Zeros):
        def _draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
            return np.full(shape, 7.0)

    own = Sevens()
    assert initializers.serialize(own) is own
    model = Sequential([Input((2,)), Dense(1, kernel_initializer=own)])
    np.testing.assert_array_equal(model.get_weights()[0], [[7], [7]])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: initializers.get("glorot"), ValueError, "'glorot_uniform'.*got 'glorot'"),
        (lambda: initializers.get({"class_name": "X"}), ValueError, "known class_name"),
        (lambda: initializers.get(None), TypeError, "got None"),
        (lambda: RandomNormal(stddev=-1), ValueError, "stddev: .*got -1"),
        (lambda: RandomUniform(2, 1), ValueError, "maxval: expected at least minval=2, got 1"),
        (lambda: RandomNormal("0"), TypeError, "mean: .*got '0'"),
        (lambda: VarianceScaling(0), ValueError, "scale: .*got 0"),
        (lambda: VarianceScaling(1, "fan"), ValueError, "mode: .*got 'fan'"),
        (lambda: VarianceScaling(1, "fan_in", "x"), ValueError, "distribution: .*got 'x'"),
        (lambda: HeNormal(seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: HeNormal(seed=1.5), TypeError, "seed: expected an integer, got 1.5"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
