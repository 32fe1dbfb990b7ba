"""A process's first call, which may be met by another: of a finaliser, or in a forked process."""

import pytest

from processes_under_test import forks, python

PREAMBLE = """
import gc, os, sys, threading, warnings
import numpy as np
from cnnrs import MaxPool2

pool, image = MaxPool2(), np.arange(16.0).reshape(4, 4, 1)
"""

FINALISED = """
calls = []

class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        calls.append(pool.forward(image).shape)

for _ in range(100):
    Cycle()
gc.set_threshold(1)
shape = pool.forward(image).shape
gc.set_threshold(700)
gc.collect()
assert shape == (2, 2, 1) and calls == 100 * [(2, 2, 1)], (shape, len(calls))
"""

FORKED = """
warnings.simplefilter("ignore")  # a fork beside threads is what is looked at
sys.setswitchinterval(1e-6)
thread = threading.Thread(target=pool.forward, args=(image,))
thread.start()
children = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        pool.forward(image)
        os._exit(0)
    children.append(child)
thread.join()
assert [os.waitpid(child, 0)[1] for child in children] == 20 * [0]
"""


@pytest.mark.parametrize(
    "program", [FINALISED, pytest.param(FORKED, marks=forks)], ids=["finaliser", "fork"]
)
def test_the_first_call_may_be_met_by_another(program: str) -> None:
    ran = python(PREAMBLE + program, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
