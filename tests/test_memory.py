"""The user's data is read where it is: no method copies it. And when there is no memory left."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from cnnrs import Dense, GlobalAveragePooling2D, Input, Sequential, _arrays
from processes_under_test import python

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


# When there is no more


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in another way there")
def test_a_copy_that_does_not_fit_is_a_memory_error() -> None:
    ran = python(NO_ROOM_FOR_A_COPY)
    assert (ran.stdout, ran.stderr) == ("no room\nroom\n", "")


NO_ROOM_FOR_A_COPY = """
import copy, resource
from pathlib import Path
import numpy as np
from cnnrs import Dense, Input, Sequential

model = Sequential([Input((2000,)), Dense(2000)])
model.compile("adam", "mse")
model.fit(np.ones((1, 2000)), np.ones((1, 2000)), verbose=0)
pages = int(Path("/proc/self/statm").read_text().split()[0])
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 24_000_000, hard))
try:
    copy.deepcopy(model)
except MemoryError:
    print("no room")
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
copy.deepcopy(model).predict(np.ones((1, 2000)))
print("room")
"""
"""A copy of its weights alone has room, the optimizer's two arrays have not."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in another way there")
def test_a_workspace_that_does_not_fit_is_a_memory_error() -> None:
    ran = python(NO_ROOM_TO_WORK_IN)
    assert (ran.stdout, ran.stderr) == ("no room\n" * 4 + "as it was\n", "")


NO_ROOM_TO_WORK_IN = """
import resource
from pathlib import Path
import numpy as np
from cnnrs import Conv3x3, Softmax

conv, softmax = Conv3x3(1_000_000), Softmax(1, 4_000_000)
filters, weights = conv.filters.copy(), softmax.weights.copy()
small, gradient = np.ones((3, 3)), softmax.forward(np.ones(1))
row = conv.forward(small)
pages = int(Path("/proc/self/statm").read_text().split()[0])
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 20_000_000, hard))
for call in (
    lambda: conv.forward(small),
    lambda: conv.backprop(row, 0.1),
    lambda: softmax.backprop(gradient, 0.1),
    lambda: softmax.backprop(softmax.biases, 0.1),
):
    try:
        call()
    except MemoryError:
        print("no room")
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
if (conv.filters == filters).all() and (softmax.weights == weights).all():
    print("as it was")
"""
"""The arrays that are returned have room, or are small; what the kernels work in has not."""
