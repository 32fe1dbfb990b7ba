"""The tutorial's layers, called by the finalisers of garbage that is collected in other calls."""

import pytest

from processes_under_test import python

FINALISERS = """
import gc
import numpy as np
from cnnrs import Conv3x3, MaxPool2, Softmax, _core

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        softmax.forward(x)
        softmax.backprop(np.ones(3), 0.0)
        global finalised
        finalised += 1

def refused(call, *arguments):
    try:
        call(*arguments)
    except TypeError as error:
        assert "expected a float64 array, got ndarray of dtype int64" in str(error), error
    else:
        raise AssertionError("not refused")

softmax, conv, pool, x, finalised = Softmax(4, 3), Conv3x3(2), MaxPool2(), np.ones(4), 0
image, wrong, filters = np.ones((4, 4)), np.ones(4, np.int64), conv.filters
d_filters = np.ones((2, 2, 2))
deep = x.reshape((1,) * 21 + (4,))  # the interpreter keeps shorter tuples for use again

def calls():
{calls}

calls()
for n in range(400):
    gc.set_threshold(1 + n % 8)  # every place that may start a collection starts one
    Garbage()
    calls()
gc.set_threshold(700)
gc.collect()
assert finalised == 400, finalised
"""


@pytest.mark.parametrize(
    "calls",
    [
        "softmax.forward(deep)\nsoftmax.backprop(np.ones(3), 0.0)",
        "conv.forward(image)\nconv.backprop(d_filters, 0.0)",
        "pool.forward(d_filters)\npool.backprop(np.ones((1, 1, 2)))",
        "refused(_core.softmax_forward, x, wrong, x)",
        "refused(_core.softmax_backprop, x, x, x, wrong, x, 0.0)",
        "refused(_core.softmax_backprop, x, x, x, softmax.weights, wrong, 0.0)",
        "refused(_core.conv3x3_forward, image, wrong)",
        "refused(_core.conv3x3_backprop, d_filters, image, wrong, 0.0)",
    ],
)
def test_a_finaliser_may_call_a_layer_in_the_midst_of_any_call(calls: str) -> None:
    indented = "\n".join(f"    {line}" for line in calls.splitlines())
    ran = python(FINALISERS.replace("{calls}", indented), timeout=20)
    assert (ran.returncode, ran.stderr) == (0, "")
