"""The tutorial's layers: the numbers of plain NumPy, whatever they are called with and from where.

`ours` is `cnnrs.tutorial`, `plain` is `cnnrs.numpy_reference`, which sees float64 in C order only.
"""

import copy
import gc
import itertools
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnrs import Conv3x3, MaxPool2, Softmax, _core
from cnnrs import numpy_reference as plain
from cnnrs import tutorial as ours

Array: TypeAlias = npt.NDArray[Any]
Layer: TypeAlias = Conv3x3 | MaxPool2 | Softmax

PARAMETERS = ("filters", "weights", "biases")
STATE = (*PARAMETERS, "num_filters", "last_input", "last_input_shape", "last_totals")

KINDS = ("Conv3x3", "MaxPool2", "Softmax")
RATE = {"Conv3x3": (0.5,), "MaxPool2": (), "Softmax": (0.5,)}
"""What backprop takes after the gradient."""


def state(layer: object) -> dict[str, Any]:
    """A copy of all that a layer shows."""
    return {name: copy.deepcopy(getattr(layer, name)) for name in STATE if hasattr(layer, name)}


def parameters(layer: object) -> dict[str, Array]:
    return {name: getattr(layer, name) for name in PARAMETERS if hasattr(layer, name)}


def assert_close(got: Any, expected: Any, what: str = "") -> None:
    """Equal up to the order of summation; NaN and infinity only where expected."""
    assert isinstance(got, np.ndarray), what
    assert got.dtype == np.float64, what
    assert got.shape == np.shape(expected), what
    scale = np.max(np.abs(expected), initial=1, where=np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * scale, err_msg=what)


def assert_same_parameters(mine: object, reference: object) -> None:
    for name, expected in parameters(reference).items():
        assert_close(getattr(mine, name), expected, name)


@pytest.fixture
def rng() -> np.random.Generator:
    np.random.seed(1)  # for the layers' own draws
    return np.random.default_rng(1)


SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Conv3x3": ((11,), (6, 7), (4, 5, 11)),
    "MaxPool2": ((), (5, 7, 11), (2, 3, 11)),
    "Softmax": ((11, 13), (11,), (13,)),
}
"""What a layer is made with, its input's shape, its gradient's: none a multiple of a vector."""


def pair(
    kind: str, rng: np.random.Generator, *sizes: tuple[int, ...]
) -> tuple[Any, Any, Array, Array]:
    """A layer, the same in NumPy, an input and a gradient."""
    made_with, x, gradient = sizes or SIZES[kind]
    mine, reference = getattr(ours, kind)(*made_with), getattr(plain, kind)(*made_with)
    for name, value in parameters(mine).items():
        value[...] = rng.standard_normal(value.shape)
        setattr(reference, name, value.copy())
    return mine, reference, rng.standard_normal(x), rng.standard_normal(gradient)


def assert_equal_steps(mine: Any, reference: Any, x: Array, gradient: Array) -> None:
    """One forward and one backprop."""
    rate = RATE[type(mine).__name__]
    with np.errstate(all="ignore"):
        out, d_x = reference.forward(x), reference.backprop(gradient, *rate)
    sizes = f"{x.shape} -> {out.shape}"
    assert_close(mine.forward(x), out, f"output, {sizes}")
    got = mine.backprop(gradient, *rate)
    if d_x is None:
        assert got is None
    else:
        assert_close(got, d_x, f"input gradient, {sizes}")
    assert_same_parameters(mine, reference)


# --- Random shapes, values, dtypes and memory layouts ------------------------------------------

DTYPES = ("<f8", ">f8", "f4", ">f4", "f2", "g", "i1", ">i2", "i4", "<i8", "u1", "<u4", "u8", "?")


def fortran(x: Array) -> Array:
    return x.copy("F")


def with_gaps(x: Array) -> Array:
    """Every other element of an array that is otherwise full of large numbers."""
    wide = np.full(tuple(2 * n + 1 for n in x.shape), 77).astype(x.dtype)
    every_other: Any = (..., *[slice(1, None, 2)] * x.ndim)
    view: Array = wide[every_other]
    view[...] = x
    return view


def backwards(x: Array) -> Array:
    """Negative strides along every axis."""
    flip: Any = (..., *[slice(None, None, -1)] * x.ndim)
    view: Array = x[flip].copy()[flip]
    return view


def turned(x: Array) -> Array:
    """The last axis first in memory."""
    return np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1) if x.ndim else x


def unaligned(x: Array) -> Array:
    view = np.ndarray(x.shape, x.dtype, bytearray(1 + x.nbytes), offset=1)
    view[...] = x
    return view


def read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def nested_lists(x: Array) -> Any:
    return x.tolist() if x.size else x  # An empty list would have lost its shape.


LAYOUTS: tuple[Callable[[Array], Any], ...] = (
    np.copy,
    fortran,
    with_gaps,
    backwards,
    turned,
    unaligned,
    read_only,
    nested_lists,
)


@st.composite
def guises(draw: st.DrawFn, *shape: int) -> tuple[Any, Array]:
    """Some array of a shape, and the same numbers as float64 in C order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    match draw(st.sampled_from(("few", "many", "zero"))):
        case "few":  # so that many regions hold equal maxima, and gradients hold zeros
            values = rng.choice([-3.0, -0.5, -0.0, 0.0, 1.0, 2.0], shape)
        case "many":
            values = rng.standard_normal(shape) * (1 if dtype.kind == "f" else 30)
        case "zero":
            values = np.zeros(shape)
    values = np.array(np.abs(values) if dtype.kind in "ub" else values, dtype)
    return draw(st.sampled_from(LAYOUTS))(values), np.array(values, np.float64, order="C")


rates = st.sampled_from([0.005, 0.0, 1, -0.25, np.float32(0.5), np.array(0.125)])
on_random_arrays = settings(max_examples=120, deadline=None, database=None)


def set_both(mine: Any, reference: Any, name: str, guise: tuple[Any, Array]) -> None:
    setattr(mine, name, guise[0])
    setattr(reference, name, guise[1].copy())
    np.testing.assert_array_equal(getattr(mine, name), guise[1])
    assert getattr(mine, name).dtype == np.float64


@on_random_arrays
@given(st.data(), st.integers(3, 21), st.integers(3, 21), st.integers(1, 18), rates)
def test_conv_equals_numpy(data: st.DataObject, h: int, w: int, filters: int, rate: float) -> None:
    conv: Any = ours.Conv3x3(filters)
    reference = plain.Conv3x3(filters)
    set_both(conv, reference, "filters", data.draw(guises(filters, 3, 3)))
    image, plain_image = data.draw(guises(h, w))
    gradient, plain_gradient = data.draw(guises(h - 2, w - 2, filters))
    for step in ("first", "second"):  # the second on filters that backprop changed
        assert_close(conv.forward(image), reference.forward(plain_image), f"{step} output")
        assert conv.backprop(gradient, rate) is None
        reference.backprop(plain_gradient, float(rate))
        assert_same_parameters(conv, reference)
    np.testing.assert_array_equal(image, plain_image)
    np.testing.assert_array_equal(gradient, plain_gradient)


@on_random_arrays
@given(st.data(), st.integers(0, 11), st.integers(0, 11), st.integers(0, 18))
def test_max_pool_equals_numpy(data: st.DataObject, h: int, w: int, channels: int) -> None:
    """To the bit, and for sizes without a single region, or without channels, too."""
    pool, reference = ours.MaxPool2(), plain.MaxPool2()
    x, plain_x = data.draw(guises(h, w, channels))
    gradient, plain_gradient = data.draw(guises(h // 2, w // 2, channels))
    out, d_x = pool.forward(x), pool.backprop(gradient)
    assert out.dtype == d_x.dtype == np.float64
    np.testing.assert_array_equal(out, reference.forward(plain_x), strict=True)
    np.testing.assert_array_equal(d_x, reference.backprop(plain_gradient), strict=True)
    np.testing.assert_array_equal(x, plain_x)
    np.testing.assert_array_equal(gradient, plain_gradient)


@on_random_arrays
@given(st.data(), st.lists(st.integers(1, 6), max_size=4), st.integers(1, 25), rates)
def test_softmax_equals_numpy(
    data: st.DataObject, shape: list[int], nodes: int, rate: float
) -> None:
    inputs = math.prod(shape)
    softmax, reference = ours.Softmax(inputs, nodes), plain.Softmax(inputs, nodes)
    set_both(softmax, reference, "weights", data.draw(guises(inputs, nodes)))
    set_both(softmax, reference, "biases", data.draw(guises(nodes)))
    x, plain_x = data.draw(guises(*shape))
    gradient, plain_gradient = data.draw(guises(nodes))
    for step in ("first", "second"):
        assert_close(softmax.forward(x), reference.forward(plain_x), f"{step} output")
        for again in ("", " again"):  # on the totals of the same forward, but other weights
            assert_close(
                softmax.backprop(gradient, rate),
                reference.backprop(plain_gradient, float(rate)),
                f"{step} input gradient{again}",
            )
            assert_same_parameters(softmax, reference)
    np.testing.assert_array_equal(x, plain_x)
    np.testing.assert_array_equal(gradient, plain_gradient)


AROUND_VECTORS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 15, 16, 17, 33)


@pytest.mark.parametrize("n", AROUND_VECTORS)
def test_sizes_around_vectors_and_tiles_equal_numpy(n: int, rng: np.random.Generator) -> None:
    for w in (3, 4, 9, 10, 11, 12, 19):
        assert_equal_steps(*pair("Conv3x3", rng, (n,), (4, w), (2, w - 2, n)))
    for h, w in ((2, 2), (3, 4), (4, 3), (5, 7)):
        assert_equal_steps(*pair("MaxPool2", rng, (), (h, w, n), (h // 2, w // 2, n)))
    for nodes in (1, 3, 4, 5, 9, 10, 11, 14, 15, 25):
        assert_equal_steps(*pair("Softmax", rng, (n, nodes), (n,), (nodes,)))


EACH_INSTRUCTION_SET = """
import sys; sys.path.insert(0, sys.argv[1])
import test_tutorial as t
assert t._core.simd_level() == sys.argv[2], t._core.simd_level()
t.test_conv_equals_numpy(); t.test_max_pool_equals_numpy(); t.test_softmax_equals_numpy()
for n in t.AROUND_VECTORS:
    t.test_sizes_around_vectors_and_tiles_equal_numpy(n, t.np.random.default_rng(n))
print("equal")
"""


def python(*arguments: str, simd: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        env={**os.environ, "CNNRS_SIMD": simd},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("level", sorted({*_core.simd_levels()} - {_core.simd_level()}))
def test_every_other_instruction_set_equals_numpy(level: str) -> None:
    done = python(EACH_INSTRUCTION_SET, str(Path(__file__).parent), level, simd=level)
    assert done.stdout == "equal\n", done.stderr


def test_an_unknown_instruction_set_is_refused_by_the_import() -> None:
    done = python("import cnnrs", simd="nonsense")
    assert done.returncode == 1
    names = ", ".join(_core.simd_levels())
    expected = f'ValueError: CNNRS_SIMD: expected one of this machine\'s {names}, got "nonsense"'
    assert expected in done.stderr


def test_an_empty_instruction_set_means_the_fastest() -> None:
    done = python("from cnnrs import _core; print(_core.simd_level())", simd="")
    assert done.stdout.strip() == _core.simd_levels()[-1]


# --- Gradients ---------------------------------------------------------------------------------


def slopes(loss: Callable[[], float], x: Array, h: float = 1e-5) -> Array:
    """Central differences of the loss by each element of `x`, which is edited in place."""
    out = np.empty(x.shape)
    for at in np.ndindex(*x.shape):
        value = x[at]
        x[at] = value + h
        above = loss()
        x[at] = value - h
        out[at] = (above - loss()) / (2 * h)
        x[at] = value
    return out


def test_conv_gradient_is_the_central_difference(rng: np.random.Generator) -> None:
    conv, image = Conv3x3(9), rng.standard_normal((6, 7))
    d_out = rng.standard_normal((4, 5, 9))
    expected = slopes(lambda: float(np.sum(conv.forward(image) * d_out)), conv.filters)
    before = conv.filters.copy()
    conv.backprop(d_out, 1.0)
    np.testing.assert_allclose(before - conv.filters, expected, rtol=0, atol=1e-8)


def test_max_pool_gradient_is_the_central_difference(rng: np.random.Generator) -> None:
    pool, x = MaxPool2(), rng.permutation(5 * 7 * 3).reshape(5, 7, 3).astype(float)  # no ties
    d_out = rng.standard_normal((2, 3, 3))
    expected = slopes(lambda: float(np.sum(pool.forward(x) * d_out)), x)
    np.testing.assert_allclose(pool.backprop(d_out), expected, rtol=0, atol=1e-8)


def test_softmax_gradients_are_the_central_differences(rng: np.random.Generator) -> None:
    softmax, x = Softmax(12, 11), rng.standard_normal((3, 4))
    softmax.weights, softmax.biases = rng.standard_normal((12, 11)), rng.standard_normal(11)
    d_out = rng.standard_normal(11)

    def loss() -> float:
        return float(np.sum(softmax.forward(x) * d_out))

    expected = [slopes(loss, at) for at in (x, softmax.weights, softmax.biases)]
    before = softmax.weights.copy(), softmax.biases.copy()
    loss()
    d_x = softmax.backprop(d_out, 1.0)
    got = d_x, before[0] - softmax.weights, before[1] - softmax.biases
    for mine, numeric in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, numeric, rtol=0, atol=1e-8)


def test_every_position_of_a_tie_gets_the_gradient_and_the_odd_edge_none() -> None:
    pool = MaxPool2()
    x = np.array([[5.0, 5.0, 9.0], [5.0, 1.0, 9.0], [9.0, 9.0, 9.0]])
    assert pool.forward(x[:, :, np.newaxis]).tolist() == [[[5.0]]]
    got = pool.backprop(np.array([[[0.5]]]))[:, :, 0]
    assert got.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_softmax_answers_an_all_zero_gradient_with_zeros_and_changes_nothing() -> None:
    softmax = Softmax(6, 3)
    softmax.forward(np.ones((2, 3)))
    before = state(softmax)
    assert softmax.backprop(np.zeros(3), 1.0).tolist() == [[0.0] * 3] * 2
    np.testing.assert_equal(state(softmax), before)


# --- NaN, infinity and large numbers -----------------------------------------------------------

SPECIAL = tuple(itertools.product((math.nan, math.inf, -math.inf), repeat=2))


@pytest.mark.parametrize("values", SPECIAL, ids=str)
@pytest.mark.parametrize("where", ["input", "gradient", "parameter"])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_go_where_numpy_sends_them(
    kind: str, where: str, values: tuple[float, float], rng: np.random.Generator
) -> None:
    mine, reference, x, gradient = pair(kind, rng)
    at = [3, -9]
    if where == "parameter":
        for name in parameters(mine):
            getattr(mine, name).flat[at] = getattr(reference, name).flat[at] = values
    else:
        {"input": x, "gradient": gradient}[where].flat[at] = values
    assert_equal_steps(mine, reference, x, gradient)


def test_a_nan_makes_nan_of_its_windows_only(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 6, 1))
    x[3, 3] = np.nan
    nans = np.isnan(MaxPool2().forward(x))[:, :, 0]
    assert np.argwhere(nans).tolist() == [[1, 1]]
    nans = np.isnan(Conv3x3(2).forward(x[:, :, 0]))
    assert nans[1:4, 1:4].all()
    assert nans.sum() == 3 * 3 * 2


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([1e4, 0.0, 1e4], [0.5, 0.0, 0.5]),
        ([-1e4, -1e4, -1e4], [1 / 3] * 3),
        ([1e308, -1e308, 0.0], [1.0, 0.0, 0.0]),
        ([-1e308, -1e308, -np.inf], [0.5, 0.5, 0.0]),
    ],
)
def test_large_totals_do_not_overflow(totals: list[float], expected: list[float]) -> None:
    softmax = Softmax(1, 3)
    softmax.weights, softmax.biases = np.zeros((1, 3)), totals
    np.testing.assert_allclose(softmax.forward([1.0]), expected, rtol=1e-15)
    assert np.isfinite(softmax.backprop([1.0, -2.0, 3.0], 0.1)).all()


# --- Parameters and what layers remember -------------------------------------------------------


def test_the_same_seed_draws_the_same_numbers_as_numpy() -> None:
    drawn = []
    for layers in (ours, plain):
        np.random.seed(3)
        conv, softmax = layers.Conv3x3(5), layers.Softmax(20, 4)
        drawn.append((conv.filters, softmax.weights, softmax.biases, np.random.rand()))
    np.testing.assert_equal(drawn[0], drawn[1])
    assert drawn[0][0].shape == (5, 3, 3)


def test_edits_and_assignments_take_effect(rng: np.random.Generator) -> None:
    image, d_out = rng.standard_normal((5, 6)), rng.standard_normal((3, 4, 4))
    results = []
    for layers in (ours, plain):
        np.random.seed(0)
        conv = layers.Conv3x3(4)
        filters = conv.filters
        conv.filters[0] = 0
        conv.filters *= 2
        conv.filters[1:, ::2] += 1
        assert conv.filters is filters  # as for any attribute that holds an array
        out = [conv.forward(image)]
        conv.backprop(d_out, 0.5)
        assert conv.filters is filters
        conv.filters = conv.filters[:3, ::-1]
        conv.num_filters = 3
        out += [conv.forward(image), conv.filters]

        softmax = layers.Softmax(4, 3)
        softmax.weights[0], softmax.biases[1] = 2, -1
        softmax.weights.T[...] *= 3
        softmax.biases += 0.5
        out += [softmax.forward(image[0, :4]), softmax.last_totals]
        softmax.weights, softmax.biases = np.ones((4, 2)), np.arange(2.0)
        out += [softmax.forward(image[0, :4]), softmax.last_totals]
        results.append(out)
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_assigned_array_is_copied(name: str) -> None:
    layer = Conv3x3(2) if name == "filters" else Softmax(4, 3)
    value = np.ones(getattr(layer, name).shape)
    setattr(layer, name, value)
    value[...] = 0
    assert (getattr(layer, name) == 1).all()


def test_layers_remember_their_last_forward(rng: np.random.Generator) -> None:
    conv, pool, softmax = Conv3x3(2), MaxPool2(), Softmax(6, 3)
    assert conv.num_filters == 2
    assert conv.last_input is pool.last_input is softmax.last_input is None
    assert softmax.last_input_shape is None
    assert softmax.last_totals is None
    image, x = rng.standard_normal((4, 5)), rng.standard_normal((3, 2, 1))
    conv.forward(image)
    pool.forward(x)
    softmax.forward(x)
    assert conv.last_input is image
    assert pool.last_input is x
    np.testing.assert_array_equal(softmax.last_input, x.flatten(), strict=True)
    assert softmax.last_input_shape == (3, 2, 1)
    assert_close(softmax.last_totals, x.flatten() @ softmax.weights + softmax.biases)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_new_arrays(kind: str, rng: np.random.Generator) -> None:
    layer, _, x, gradient = pair(kind, rng)
    first = layer.forward(x)
    kept = first.copy()
    layer.forward(x + 1)
    np.testing.assert_array_equal(first, kept)
    if kind != "Conv3x3":
        first = layer.backprop(gradient, *RATE[kind])
        kept = first.copy()
        layer.backprop(gradient + 1, *RATE[kind])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_continue_from_the_same_state_and_go_their_own_way(
    kind: str, again: Callable[[Layer], Any], rng: np.random.Generator
) -> None:
    layer, _, x, gradient = pair(kind, rng)
    layer.forward(x)
    before = state(layer)
    other = again(layer)
    np.testing.assert_equal(state(other), before)
    d_x = other.backprop(gradient, *RATE[kind])
    np.testing.assert_equal(state(layer), before)  # backprop of the copy left it alone
    np.testing.assert_equal(layer.backprop(gradient, *RATE[kind]), d_x)
    np.testing.assert_equal(state(layer), state(other))
    np.testing.assert_array_equal(layer.forward(x), other.forward(x))


def test_no_reference_is_kept_but_the_last_input(rng: np.random.Generator) -> None:
    for kind in KINDS:
        layer, _, x, gradient = pair(kind, rng)
        layer.forward(x)
        counts = [sys.getrefcount(a) for a in (x, gradient, *parameters(layer).values())]
        for _ in range(20):
            layer.forward(x)
            layer.backprop(gradient, *RATE[kind])
            with pytest.raises((TypeError, ValueError)):
                layer.backprop(gradient[1:], *RATE[kind])
        after = [sys.getrefcount(a) for a in (x, gradient, *parameters(layer).values())]
        assert after == counts, kind


# --- Memory that is shared ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_edits_of_the_arrays_between_forward_and_backprop_do_as_in_numpy(
    kind: str, rng: np.random.Generator
) -> None:
    """The tutorial's Softmax keeps a copy of its input, the others the array itself."""
    mine, reference, x, gradient = pair(kind, rng)
    results = []
    for layer in (mine, reference):
        x_here = x.copy()
        out = layer.forward(x_here)
        x_here *= -2
        out *= 0
        results.append(layer.backprop(gradient, *RATE[kind]))
    if kind != "Conv3x3":
        assert_close(*results)
    assert_same_parameters(mine, reference)


SHARED: dict[str, Callable[[Array], Array]] = {
    "view": lambda a: a[:],
    # NumPy cannot tell from the bases that these two share memory.
    "view through a buffer": lambda a: np.asarray(memoryview(a)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("share", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize(
    ("image", "gradient"),
    [
        (lambda f: f[1], lambda f: f[:1, :1]),
        (lambda f: f[:, 2], lambda f: f[2:, 2:, ::-1]),
        (lambda f: np.pad(f[0], 1), lambda f: f),
        (lambda f: np.pad(f[0], 1), lambda f: f.T),
    ],
)
def test_the_filters_as_input_and_gradient(
    share: Callable[[Array], Array],
    image: Callable[[Array], Array],
    gradient: Callable[[Array], Array],
) -> None:
    results = []
    for layers in (ours, plain):
        np.random.seed(5)
        conv = layers.Conv3x3(3)
        for _ in range(2):
            results.append(conv.forward(image(share(conv.filters))))
            conv.backprop(gradient(share(conv.filters)), 0.5)
            results.append(conv.filters.copy())
    for got, expected in zip(results[:4], results[4:], strict=True):
        assert_close(got, expected)


PARTS_OF_SOFTMAX: dict[str, tuple[str, Any]] = {
    "row": ("weights", np.s_[0]),
    "column": ("weights", np.s_[:, 0]),
    "column backwards": ("weights", np.s_[::-1, 12]),
    "biases": ("biases", np.s_[:]),
    "totals": ("last_totals", np.s_[:]),
    "input": ("last_input", np.s_[::-1]),
}


@pytest.mark.parametrize("share", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("x", PARTS_OF_SOFTMAX)
@pytest.mark.parametrize("gradient", PARTS_OF_SOFTMAX)
def test_the_arrays_of_a_softmax_as_its_input_and_gradient(
    x: str, gradient: str, share: Callable[[Array], Array]
) -> None:
    results = []
    for layers in (ours, plain):
        np.random.seed(5)
        softmax = layers.Softmax(13, 13)
        softmax.biases += np.arange(13) / 7
        softmax.forward(np.arange(13.0))
        for _ in range(2):
            name, part = PARTS_OF_SOFTMAX[x]
            results.append(softmax.forward(share(getattr(softmax, name))[part]))
            name, part = PARTS_OF_SOFTMAX[gradient]
            results.append(softmax.backprop(share(getattr(softmax, name))[part], 0.5))
            results += [softmax.weights.copy(), softmax.biases.copy()]
    for got, expected in zip(results[:8], results[8:], strict=True):
        assert_close(got, expected)


# --- What is refused ---------------------------------------------------------------------------


def after_forward(kind: str) -> Any:
    """A layer that expects an image (5, 6), an input (5, 6, 2), six numbers."""
    sizes, x = {
        "Conv3x3": ((2,), (5, 6)),
        "MaxPool2": ((), (5, 6, 2)),
        "Softmax": ((6, 3), (2, 3)),
    }[kind]
    layer = getattr(ours, kind)(*sizes)
    layer.forward(np.ones(x))
    return layer


def refuses(
    layer: object, error: type[Exception], match: str, call: Callable[..., object], *given: Any
) -> None:
    """The call fails with that error, and the layer is as it was."""
    before = state(layer)
    with pytest.raises(error, match=match):
        call(*given)
    np.testing.assert_equal(state(layer), before)


NOT_REAL: dict[str, tuple[Any, str]] = {
    "None": (None, "object"),
    "dict": ({}, "object"),
    "text": ("3", "<U1"),
    "list of text": ([["3"]], "<U1"),
    "bytes": (b"3", r"\|S1"),
    "objects": (np.ones((5, 6), object), "object"),
    "complex": (np.ones((5, 6), complex), "complex128"),
    "dates": (np.ones((5, 6), "M8[s]"), r"datetime64\[s\]"),
    "records": (np.ones((5, 6), "i4,f8"), r"\[\('f0'"),
}


@pytest.mark.parametrize(("value", "dtype"), NOT_REAL.values(), ids=NOT_REAL)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_real_numbers_is_refused(kind: str, value: Any, dtype: str) -> None:
    layer = after_forward(kind)
    x = "image" if kind == "Conv3x3" else "input"
    match = f": expected .*real numbers, got .*{dtype}"
    refuses(layer, TypeError, f"^{x}{match}", layer.forward, value)
    refuses(layer, TypeError, f"^d_L_d_out{match}", layer.backprop, value, *RATE[kind])
    for name in parameters(layer):
        refuses(layer, TypeError, f"^{name}{match}", setattr, layer, name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_lists_are_refused(kind: str) -> None:
    layer, ragged = after_forward(kind), [[1, 2, 3], [1, 2]]
    refuses(layer, ValueError, "inhomogeneous", layer.forward, ragged)
    refuses(layer, ValueError, "inhomogeneous", layer.backprop, ragged, *RATE[kind])
    for name in parameters(layer):
        refuses(layer, ValueError, "inhomogeneous", setattr, layer, name, ragged)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("Conv3x3", (), "image: expected an array of shape (h, w), got ()"),
        ("Conv3x3", (9,), "image: expected an array of shape (h, w), got (9,)"),
        ("Conv3x3", (5, 6, 1), "image: expected an array of shape (h, w), got (5, 6, 1)"),
        ("Conv3x3", (2, 9), "at least 3x3 pixels for a 3x3 kernel, got 2x9"),
        ("Conv3x3", (9, 2), "at least 3x3 pixels for a 3x3 kernel, got 9x2"),
        ("Conv3x3", (0, 0), "at least 3x3 pixels for a 3x3 kernel, got 0x0"),
        ("MaxPool2", (), "input: expected an array of shape (h, w, channels), got ()"),
        ("MaxPool2", (4, 4), "input: expected an array of shape (h, w, channels), got (4, 4)"),
        ("MaxPool2", (2,) * 4, "array of shape (h, w, channels), got (2, 2, 2, 2)"),
        ("Softmax", (), "input, flattened: expected shape (6,), got (1,)"),
        ("Softmax", (0,), "input, flattened: expected shape (6,), got (0,)"),
        ("Softmax", (7,), "input, flattened: expected shape (6,), got (7,)"),
        ("Softmax", (2, 2), "input, flattened: expected shape (6,), got (4,)"),
    ],
)
def test_inputs_of_another_shape_are_refused(
    kind: str, shape: tuple[int, ...], message: str
) -> None:
    layer = after_forward(kind)
    refuses(layer, ValueError, re.escape(message), layer.forward, np.ones(shape))


@pytest.mark.parametrize(
    ("kind", "expected"), [("Conv3x3", (3, 4, 2)), ("MaxPool2", (2, 3, 2)), ("Softmax", (3,))]
)
def test_gradients_of_another_shape_are_refused(kind: str, expected: tuple[int, ...]) -> None:
    layer = after_forward(kind)
    larger = (expected[0] + 1, *expected[1:])
    for shape in (larger, (*expected[::-1], 1), expected[1:], (0,), (math.prod(expected), 1)):
        match = re.escape(f"d_L_d_out: expected shape {expected}, got {shape}")
        refuses(layer, ValueError, match, layer.backprop, np.ones(shape), *RATE[kind])


@pytest.mark.parametrize(
    ("name", "expected", "shapes"),
    [
        ("filters", "(num_filters, 3, 3)", [(2, 3), (0, 3, 3), (2, 3, 4), (3, 3, 2), ()]),
        ("weights", "(input_len, nodes)", [(6,), (0, 3), (6, 0), (6, 3, 1)]),
        ("biases", "(nodes,)", [(), (0,), (3, 1)]),
    ],
)
def test_parameters_of_another_shape_are_refused(
    name: str, expected: str, shapes: list[tuple[int, ...]]
) -> None:
    layer = after_forward("Conv3x3" if name == "filters" else "Softmax")
    for shape in shapes:
        match = f"^{name}: expected shape {re.escape(expected)}.*, got {re.escape(str(shape))}$"
        refuses(layer, ValueError, match, setattr, layer, name, np.ones(shape))


def test_another_number_of_filters_is_refused() -> None:
    conv = after_forward("Conv3x3")
    refuses(conv, ValueError, "expected 2.*got 3", setattr, conv, "num_filters", 3)


def test_parameters_that_do_not_fit_each_other_are_refused() -> None:
    softmax = after_forward("Softmax")
    softmax.weights = np.ones((6, 4))
    match = r"biases: expected shape \(4,\), got \(3,\)"
    refuses(softmax, ValueError, match, softmax.forward, np.ones(6))
    refuses(softmax, ValueError, match, softmax.backprop, np.ones(4), 0.1)
    softmax.biases = np.ones(4)
    match = r"totals: expected shape \(4,\), got \(3,\)"
    refuses(softmax, ValueError, match, softmax.backprop, np.ones(4), 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_backprop_before_forward_is_refused(kind: str, rng: np.random.Generator) -> None:
    layer, _, _, gradient = pair(kind, rng)
    match = "expected a call of forward first, got none"
    refuses(layer, RuntimeError, match, layer.backprop, gradient, *RATE[kind])
    refuses(layer, TypeError, "real numbers", layer.forward, "text")  # which is none
    refuses(layer, RuntimeError, match, layer.backprop, gradient, *RATE[kind])


@pytest.mark.parametrize("rate", ["0.1", None, 1j, [0.1], np.ones(3)], ids=repr)
def test_learning_rates_that_are_not_a_number_are_refused(rate: Any) -> None:
    conv, softmax = after_forward("Conv3x3"), after_forward("Softmax")
    match = "must be real number, not|only .* arrays can be converted"
    refuses(conv, TypeError, match, conv.backprop, np.ones((3, 4, 2)), rate)
    refuses(softmax, TypeError, match, softmax.backprop, np.ones(3), rate)


TOO_LARGE = "too big|too large|dimension"


@pytest.mark.parametrize(
    ("layer", "sizes", "error", "match"),
    [
        (Conv3x3, (0,), ValueError, "^num_filters: expected at least 1, got 0$"),
        (Conv3x3, (-1,), ValueError, "^num_filters: expected at least 1, got -1$"),
        (Softmax, (0, 3), ValueError, "^input_len: expected at least 1, got 0$"),
        (Softmax, (6, -1), ValueError, "^nodes: expected at least 1, got -1$"),
        (Conv3x3, (2.5,), TypeError, "'float'.*integer"),
        (Softmax, ("6", 3), TypeError, "'str'.*integer"),
        (Softmax, (6, None), TypeError, "'NoneType'.*integer"),
        (Conv3x3, (2**62,), ValueError, TOO_LARGE),
        (Conv3x3, (2**70,), (OverflowError, ValueError), TOO_LARGE),
        (Softmax, (2**62, 3), ValueError, TOO_LARGE),
        (Softmax, (2**31, 2**31), ValueError, TOO_LARGE),
    ],
)
def test_impossible_sizes_are_refused(
    layer: Callable[..., object], sizes: tuple[Any, ...], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        layer(*sizes)


def test_an_input_that_no_memory_holds_is_a_memory_error() -> None:
    pool, huge = after_forward("MaxPool2"), np.broadcast_to(1.0, (2**46, 2, 2))
    refuses(pool, MemoryError, "Unable to allocate", pool.forward, huge)


def test_an_output_that_no_memory_holds_is_a_memory_error() -> None:
    conv = Conv3x3(1)
    conv.filters = np.zeros((2**20, 3, 3))
    with pytest.raises(MemoryError):
        conv.forward(np.zeros((3, 2**24)))  # the output would take 128 TiB
    assert conv.last_input is None


@pytest.mark.parametrize(
    ("kind", "name"), [("Conv3x3", "filters"), ("Softmax", "weights"), ("Softmax", "biases")]
)
def test_read_only_parameters_are_used_but_not_updated(
    kind: str, name: str, rng: np.random.Generator
) -> None:
    layer, _, x, gradient = pair(kind, rng)
    getattr(layer, name).flags.writeable = False
    layer.forward(x)
    match = f"{name}: .*not writeable"
    refuses(layer, ValueError, match, layer.backprop, gradient, *RATE[kind])


@pytest.mark.parametrize(
    ("attribute", "value", "error", "match"),
    [
        ("shape", (2, 9), ValueError, r"filters: expected .*\(num_filters, 3, 3\), got \(2, 9\)"),
        ("shape", (9, 2, 1), ValueError, r"filters: expected .*3, 3\), got \(9, 2, 1\)"),
        ("dtype", np.int64, TypeError, "filters: expected .*float64"),
        ("strides", (8, 16, 24), ValueError, "filters: expected .*contiguous"),
    ],
)
def test_filters_whose_layout_was_changed_are_refused(
    attribute: str, value: Any, error: type[Exception], match: str
) -> None:
    conv = after_forward("Conv3x3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy is taking these away
        try:
            setattr(conv.filters, attribute, value)
        except AttributeError:
            pytest.skip(f"this NumPy does not set {attribute}")
    refuses(conv, error, match, conv.forward, np.ones((5, 6)))
    refuses(conv, error, match, conv.backprop, np.ones((3, 4, 2)), 0.1)


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
    done = python(CHANGES_MEANWHILE, simd="")
    assert done.stdout == "refused True\n", done.stderr


# --- Calls from several threads and from inside each other -------------------------------------

CALLS = 200


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns every few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*tasks: Callable[[], None]) -> None:
    """Run each task in a thread of its own, 200 times; raise the first exception."""
    start, errors = threading.Barrier(len(tasks)), []

    def body(task: Callable[[], None]) -> None:
        start.wait()
        try:
            for _ in range(CALLS):
                task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


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
    np.testing.assert_allclose(softmax.weights.sum(axis=1), rows, rtol=0, atol=1e-10)
    np.testing.assert_allclose(softmax.biases.sum(), 0, atol=1e-10)


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
