"""How many threads there are, and what they take over from their caller."""

import os
import platform
import sys
from typing import Any

import pytest

import cnnrs
from processes_under_test import python


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_environment_says_how_many_threads(threads: int) -> None:
    done = python("import cnnrs; print(cnnrs.get_num_threads())", CNNRS_NUM_THREADS=str(threads))
    assert done.stdout == f"{threads}\n", done.stderr


def test_an_empty_number_of_threads_means_the_processors() -> None:
    """Those that this process may use, which can be fewer than the machine has."""
    done = python("import cnnrs; print(cnnrs.get_num_threads())", CNNRS_NUM_THREADS="")
    assert 1 <= int(done.stdout) <= (os.cpu_count() or 1), done.stderr


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " 2", "99999999999999999999"])
def test_unfit_numbers_of_threads_are_refused_by_the_import(text: str) -> None:
    done = python("import cnnrs; print('imported')", CNNRS_NUM_THREADS=text)
    assert done.returncode == 1
    assert done.stdout == ""
    expected = f'ValueError: CNNRS_NUM_THREADS: expected an integer from 1, got "{text}"'
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n: expected at least 1, got 0"),
        (-1, ValueError, "n: expected at least 1, got -1"),
        (1.5, TypeError, "n: expected an integer, got 1.5"),
        ("2", TypeError, "n: expected an integer, got '2'"),
        (None, TypeError, "n: expected an integer, got None"),
    ],
)
def test_unfit_numbers_of_threads_are_refused(n: Any, error: type[Exception], message: str) -> None:
    before = cnnrs.get_num_threads()
    with pytest.raises(error, match=message):
        cnnrs.set_num_threads(n)
    assert cnnrs.get_num_threads() == before


FLUSHING = """
import ctypes
import numpy as np
import cnnrs

def flush_subnormals():
    environment = (ctypes.c_uint32 * 8)()  # of glibc on x86-64: its last word is MXCSR
    libm = ctypes.CDLL("libm.so.6")
    libm.fegetenv(environment)
    environment[7] |= 0x8040
    libm.fesetenv(environment)

def trained():
    model = cnnrs.Sequential([cnnrs.Flatten(input_shape=(28, 28, 1)), cnnrs.Dense(64)])
    model.compile(cnnrs.optimizers.SGD(1.0), "mean_squared_error")
    kernel, bias = (np.zeros_like(array) for array in model.get_weights())
    model.set_weights([kernel, bias])
    model.fit(x, y, batch_size=256, shuffle=False, verbose=0)
    return model.get_weights()

# Gradients, too, are subnormal.
x = np.full((2048, 28, 28, 1), 1e-38, np.float32)
y = np.full((2048, 64), 1e-2, np.float32)
cnnrs.set_num_threads(2)
kept, _ = trained()
flush_subnormals()
flushed, _ = trained()
print(*(int((kernel.view(np.uint32) != 0).sum()) for kernel in (kept, flushed)))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="glibc's fenv_t for x86-64"
)
def test_all_threads_take_subnormal_numbers_for_zeros_if_their_caller_does() -> None:
    """Some libraries tell the thread that imports them to do so."""
    done = python(FLUSHING, CNNRS_SIMD="scalar")
    assert (done.stdout, done.stderr) == (f"{784 * 64} 0\n", "")
