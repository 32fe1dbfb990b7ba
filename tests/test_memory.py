"""The user's data is read where it is: no method copies it."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from cnnrs import Dense, GlobalAveragePooling2D, Input, Sequential, _arrays

Array: TypeAlias = npt.NDArray[Any]

DTYPES = ["uint8", "float32", "float64"]


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_in_c_order_are_taken_as_they_are(dtype: str, arithmetic: str) -> None:
    x = np.ones((3, 4, 5, 2), dtype)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (x, x[1:], frozen):
        assert _arrays.inputs("x", array, arithmetic) is array


def test_no_copy_is_made_for_a_last_axis_of_size_1() -> None:
    x = np.ones((3, 4, 5), np.uint8)
    assert np.shares_memory(_arrays.fit_shape("x", x, (4, 5, 1)), x)
    assert np.shares_memory(_arrays.fit_shape("x", x[..., np.newaxis], (4, 5)), x)


# What is allocated. NumPy tells tracemalloc of its arrays.

SIDE, BYTES = 500, 20_000_000


@pytest.fixture
def allocated() -> Iterator[Callable[[Callable[[], object]], int]]:
    """How many bytes a call has allocated at its height."""

    def measure(call: Callable[[], object]) -> int:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


def model_and_data(dtype: str) -> tuple[Sequential, Array, Array]:
    """A model that has worked before, so that what stays is there, and data for it."""
    model = Sequential([Input((SIDE, SIDE, 2)), GlobalAveragePooling2D(), Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    n = BYTES // (SIDE * SIDE * 2 * np.dtype(dtype).itemsize)
    x, y = np.ones((n, SIDE, SIDE, 2), dtype), np.arange(n) % 3
    model.fit(x[:1], y[:1], verbose=0)
    return model, x, y


CALLS: dict[str, Callable[[Sequential, Array, Array], object]] = {
    "fit": lambda model, x, y: model.fit(x, y, 2, epochs=2, verbose=0),
    "fit in order": lambda model, x, y: model.fit(x, y, verbose=0, shuffle=False),
    "fit and split": lambda model, x, y: model.fit(x, y, verbose=0, validation_split=0.5),
    "fit and validate": lambda model, x, y: model.fit(
        x[:1], y[:1], verbose=0, validation_data=(x, y)
    ),
    "evaluate": lambda model, x, y: model.evaluate(x, y, verbose=0),
    "predict": lambda model, x, y: model.predict(x),
    "predict_classes": lambda model, x, y: model.predict_classes(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_allocates_little_beside_its_data(
    dtype: str,
    call: Callable[[Sequential, Array, Array], object],
    allocated: Callable[[Callable[[], object]], int],
) -> None:
    model, x, y = model_and_data(dtype)
    assert x.nbytes == BYTES
    assert allocated(lambda: call(model, x, y)) < x.nbytes / 50


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_copy_would_be_seen(
    call: Callable[[Sequential, Array, Array], object],
    allocated: Callable[[Callable[[], object]], int],
) -> None:
    """As of an array that is in another order."""
    model, x, y = model_and_data("uint8")
    assert allocated(lambda: call(model, x[:, ::-1], y)) >= x.nbytes / 2
