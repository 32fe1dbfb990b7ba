"""The tutorial's layers on each instruction set, called inside each other and from threads."""

import copy
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from cnnrs import Conv3x3, MaxPool2, Softmax, _core
from cnnrs import numpy_reference as plain
from layers_under_test import Array, assert_same_parameters, pair, state
from processes_under_test import python
from threads_under_test import in_threads

# --- Instruction sets, each in a process of its own --------------------------------------------

EACH_INSTRUCTION_SET = """
import sys
import test_tutorial_numbers as t
from cnnrs import _core
assert _core.simd_level() == sys.argv[1], _core.simd_level()
t.test_conv_equals_numpy(); t.test_max_pool_equals_numpy(); t.test_softmax_equals_numpy()
for n in t.AROUND_VECTORS:
    t.test_sizes_around_vectors_and_tiles_equal_numpy(n, t.np.random.default_rng(n))
print("equal")
"""


@pytest.mark.parametrize("level", sorted({*_core.simd_levels()} - {_core.simd_level()}))
def test_every_other_instruction_set_equals_numpy(level: str) -> None:
    done = python(EACH_INSTRUCTION_SET, level, CNNRS_SIMD=level)
    assert done.stdout == "equal\n", done.stderr


def test_an_unknown_instruction_set_is_refused_by_the_import() -> None:
    done = python("import cnnrs", CNNRS_SIMD="nonsense")
    assert done.returncode == 1
    names = ", ".join(_core.simd_levels())
    expected = f'ValueError: CNNRS_SIMD: expected one of this machine\'s {names}, got "nonsense"'
    assert expected in done.stderr


def test_an_empty_instruction_set_means_the_fastest() -> None:
    done = python("from cnnrs import _core; print(_core.simd_level())", CNNRS_SIMD="")
    assert done.stdout.strip() == _core.simd_levels()[-1]


# --- Calls from inside each other --------------------------------------------------------------


class Late:
    """An array that runs something first, when it is asked for its numbers."""

    def __init__(self, first: Callable[[], object], array: Array) -> None:
        self.first, self.array = first, array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self.first()
        return self.array


@pytest.mark.parametrize("call", ["forward", "backprop"])
@pytest.mark.parametrize("kind", ["Conv3x3", "Softmax"])
def test_other_calls_may_run_while_an_argument_is_being_converted(
    kind: str, call: str, rng: np.random.Generator
) -> None:
    """As another thread's may, while NumPy reads a list or a large float32 array."""
    mine, reference, x, gradient = pair(kind, rng)
    mine.forward(x)
    reference.forward(x)

    def other(layer: Any) -> object:
        return layer.forward(x) if call == "forward" else layer.backprop(gradient, 0.25)

    mine.backprop(Late(lambda: other(mine), gradient), 0.5)
    other(reference)
    reference.backprop(gradient, 0.5)
    assert_same_parameters(mine, reference)


CHANGES_MEANWHILE = """
import numpy as np
from cnnrs import Conv3x3

class Image:
    def __array__(self, dtype=None, copy=None):
        if conv.last_input is self:
            gradient.dtype = np.int8  # (30, 30, 8) as expected, in an eighth of the memory
        return np.ones((32, 32))

conv, gradient = Conv3x3(8), np.ones((30, 30, 1))
conv.forward(Image())
before = conv.filters.copy()
try:
    conv.backprop(gradient, 1.0)
except (TypeError, ValueError) as error:
    print("refused", np.array_equal(conv.filters, before))
"""


def test_a_gradient_that_changes_while_the_image_is_converted_is_refused() -> None:
    done = python(CHANGES_MEANWHILE)
    assert done.stdout == "refused True\n", done.stderr


# --- Calls from several threads ----------------------------------------------------------------

CALLS = 200

at_once = partial(in_threads, times=CALLS)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns every few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("convert", [np.asarray, np.float32, np.ndarray.tolist])
def test_concurrent_updates_of_the_filters_add_up(
    convert: Callable[[Array], Any], rng: np.random.Generator
) -> None:
    """Small integers and a power of two: their sum is exact in any order."""
    conv, image = Conv3x3(3), rng.integers(-3, 4, (6, 7)).astype(float)
    conv.filters = rng.integers(-3, 4, (3, 3, 3))
    gradients = rng.integers(-3, 4, (4, 4, 5, 3)).astype(float)
    reference = plain.Conv3x3(3)
    reference.filters = conv.filters.copy()
    reference.forward(image)
    for gradient in gradients:
        reference.backprop(gradient, CALLS / 8)
    conv.forward(image)

    def task(gradient: Any) -> Callable[[], None]:
        def step() -> None:
            conv.forward(convert(image))
            conv.backprop(gradient, 1 / 8)

        return step

    at_once(*(task(convert(gradient)) for gradient in gradients))
    np.testing.assert_array_equal(conv.filters, reference.filters)


@pytest.mark.usefixtures("impatient")
def test_concurrent_forwards_see_whole_updates_only(rng: np.random.Generator) -> None:
    conv, image = Conv3x3(3), np.ones((6, 7))
    conv.filters, start = np.zeros((3, 3, 3)), np.zeros((4, 5, 3))
    gradient = rng.integers(1, 4, (4, 5, 3)).astype(float)
    conv.forward(image)
    conv.backprop(gradient, 1.0)
    step = conv.forward(image)
    conv.filters[...] = 0
    outs: list[Array] = []
    at_once(
        *[lambda: outs.append(conv.forward(image))] * 2,
        *[lambda: conv.backprop(gradient, 1.0)] * 2,
    )
    counts = np.array([(out - start) / step for out in outs])
    np.testing.assert_array_equal(counts, np.broadcast_to(counts[:, :1, :1, :1], counts.shape))
    assert set(counts.ravel()) <= set(range(2 * CALLS + 1))
    np.testing.assert_array_equal(conv.forward(image), 2 * CALLS * step)


@pytest.mark.usefixtures("impatient")
def test_concurrent_edits_of_the_filters_are_seen_whole(rng: np.random.Generator) -> None:
    conv, image = Conv3x3(3), rng.standard_normal((6, 7))
    filters = conv.filters.copy()
    out = conv.forward(image)
    outs: list[Array] = []

    def negate() -> None:
        conv.filters *= -1

    def assign() -> None:
        conv.filters = filters

    def backprop() -> None:
        conv.backprop(np.zeros(out.shape), 1.0)

    at_once(*[lambda: outs.append(conv.forward(image))] * 2, negate, assign, backprop)
    assert all(np.array_equal(seen, out) or np.array_equal(seen, -out) for seen in outs)


@pytest.mark.usefixtures("impatient")
def test_concurrent_max_pooling_answers_for_one_input() -> None:
    pool = MaxPool2()
    inputs = [np.roll([3.0, 0.0, 1.0, 2.0], n).reshape(2, 2, 1) for n in range(4)]
    possible = [(x == 3).tolist() for x in inputs]
    seen: list[Any] = []

    def task(x: Array) -> Callable[[], None]:
        def step() -> None:
            assert pool.forward(x).tolist() == [[[3.0]]]
            seen.append(pool.backprop(np.ones((1, 1, 1))).tolist())

        return step

    at_once(*map(task, inputs))
    assert all(d_x in possible for d_x in seen)


@pytest.mark.usefixtures("impatient")
def test_concurrent_softmax_pairs_each_input_with_its_totals(rng: np.random.Generator) -> None:
    """At a learning rate of 0, each input's gradient is known, and its shape tells which it is."""
    softmax, gradient = Softmax(6, 5), rng.standard_normal(5)
    inputs = [rng.standard_normal(shape) for shape in [(6,), (2, 3), (3, 2), (6, 1)]]
    softmax.weights = rng.standard_normal((6, 5))
    expected = {}
    for x in inputs:
        softmax.forward(x)
        expected[x.shape] = softmax.backprop(gradient, 0.0)
    seen: list[Array] = []

    def task(x: Array) -> Callable[[], None]:
        def step() -> None:
            softmax.forward(x)
            seen.append(softmax.backprop(gradient, 0.0))

        return step

    at_once(*map(task, inputs))
    assert len(seen) == len(inputs) * CALLS
    for d_x in seen:
        np.testing.assert_array_equal(d_x, expected[d_x.shape])


@pytest.mark.usefixtures("impatient")
def test_concurrent_updates_of_the_softmax_are_all_made(rng: np.random.Generator) -> None:
    """On the totals of one forward they are all the same, so that their order does not matter."""
    softmax, _, x, gradient = pair("Softmax", rng)
    softmax.forward(x)
    one_by_one = copy.deepcopy(softmax)
    for _ in range(4 * CALLS):
        one_by_one.backprop(gradient, 0.01)
    at_once(*[lambda: softmax.backprop(gradient, 0.01)] * 4)
    np.testing.assert_equal(state(softmax), state(one_by_one))


@pytest.mark.usefixtures("impatient")
def test_concurrent_softmax_training_keeps_its_sums(rng: np.random.Generator) -> None:
    """The totals' gradients sum to 0, so each row of the weights keeps its sum in any order."""
    softmax = Softmax(6, 5)
    rows = softmax.weights.sum(axis=1)
    softmax.forward(np.ones(6))

    def task(seed: int) -> Callable[[], None]:
        own = np.random.default_rng(seed)

        def step() -> None:
            out = softmax.forward(own.standard_normal(6))
            assert abs(out.sum() - 1) < 1e-12
            softmax.backprop(own.standard_normal(5).astype(np.float32), 0.01)

        return step

    at_once(*map(task, range(4)))
    np.testing.assert_allclose(softmax.weights.sum(axis=1), rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(softmax.biases.sum(), 0, atol=1e-12)


@pytest.mark.usefixtures("impatient")
def test_layers_may_be_dropped_while_their_calls_run() -> None:
    image, numbers = np.ones((9, 9)), itertools.count(1)
    current: list[Conv3x3] = []

    def replace() -> None:
        conv = Conv3x3(5)
        conv.filters = np.full((5, 3, 3), next(numbers))
        current[:] = [conv]
        del conv
        gc.collect(0)

    def use() -> None:
        out = current[0].forward(image)
        assert (out == out[0, 0, 0]).all()
        assert out[0, 0, 0] in range(9, 9 * (CALLS + 2), 9)

    replace()
    at_once(use, use, use, replace)
