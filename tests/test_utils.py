"""One-hot rows, seeds and threads."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cnnrs
from cnnrs import Conv3x3, Dense, Input, Sequential
from cnnrs.utils import set_random_seed, to_categorical

# One-hot rows


@given(
    y=hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.int64, np.float32, np.float64, np.float16]),
        hnp.array_shapes(max_dims=3, max_side=5),
        elements=st.integers(0, 9),
    ),
    more=st.none() | st.integers(0, 3),
)
def test_to_categorical_is_one_hot(y: np.ndarray, more: int | None) -> None:
    classes = int(y.max()) + 1 + (more or 0)
    rows = to_categorical(y, None if more is None else classes)
    shape = y.shape[:-1] if y.ndim > 1 and y.shape[-1] == 1 else y.shape
    assert rows.dtype == np.float64
    assert rows.shape == (*shape, classes)
    np.testing.assert_array_equal(rows.sum(-1), np.ones(shape))
    np.testing.assert_array_equal(rows.argmax(-1), y.reshape(shape))


def test_to_categorical_takes_lists_numbers_and_nothing() -> None:
    np.testing.assert_array_equal(to_categorical([1, 0]), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(to_categorical(2), [0, 0, 1])
    np.testing.assert_array_equal(to_categorical([True, False]), [[0, 1], [1, 0]])
    assert to_categorical([], 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "classes", "error", "message"),
    [
        (
            np.array([2**64 - 1], np.uint64),
            None,
            ValueError,
            f"x: .* below {2**62}, got {2**64 - 1}",
        ),
        (np.array([2**64 - 1], np.uint64), 3, ValueError, f"x: .* below 3, got {2**64 - 1}"),
        ([1e30], 3, ValueError, r"x: .* below 3, got 1e\+30"),
        ([[0, 1], [2]], 3, ValueError, "x: expected an array of real numbers"),
        (iter([1]), 3, TypeError, "x: .* got dtype object of list_iterator"),
        ([0, 3], 3, ValueError, "x: .* below 3, got 3"),
        ([0, -1], None, ValueError, "x: .*got -1"),
        ([0.0, 1.5], None, ValueError, "x: .*whole.*got 1.5"),
        ([0.0, np.nan], None, ValueError, "x: .*whole.*got nan"),
        ([0.0, np.inf], None, ValueError, "x: .*whole.*got inf"),
        ([], None, ValueError, "x: expected at least one number"),
        (["a"], None, TypeError, "x: expected real numbers, got dtype <U1"),
        ([1j], None, TypeError, "x: expected real numbers, got dtype complex128"),
        ([0], 0, ValueError, "num_classes: expected at least 1, got 0"),
        ([0], 2.0, TypeError, "num_classes: expected an integer, got 2.0"),
    ],
)
def test_to_categorical_refuses_what_is_no_class(
    x: Any, classes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        to_categorical(x, classes)


# Seeds


def test_a_seed_fixes_all_draws() -> None:
    def draws() -> list[Any]:
        models = [Sequential([Input((5,)), Dense(4)]) for _ in range(2)]
        weights = [model.get_weights()[0].tolist() for model in models]
        return [random.random(), np.random.rand(), Conv3x3(1).filters.tolist(), *weights]

    set_random_seed(7)
    first = draws()
    set_random_seed(7)
    assert draws() == first
    set_random_seed(8)
    for ours, other in zip(draws(), first, strict=True):
        assert ours != other
    assert first[3] != first[4], "each model has its own generator"
    assert draws()[3:] != draws()[3:]


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_unfit_seeds_are_refused(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed: expected"):
        set_random_seed(seed)


# Threads


def test_threads_are_set_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    before = cnnrs.get_num_threads()
    assert before >= 1
    try:
        for n in (1, 2):
            cnnrs.set_num_threads(n)
            assert cnnrs.get_num_threads() == n
            cnnrs.show_config()
            assert f"threads          {n}\n" in capsys.readouterr().out
    finally:
        cnnrs.set_num_threads(before)


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-2, ValueError), (1.0, TypeError)])
def test_unfit_numbers_of_threads_are_refused(n: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="n: expected"):
        cnnrs.set_num_threads(n)
