"""The tutorial's layers compute the numbers of plain NumPy, from whatever arrays they are given."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnrs import Conv3x3, MaxPool2, Softmax
from cnnrs import numpy_reference as plain
from cnnrs import tutorial as ours
from layers_under_test import (
    KINDS,
    RATE,
    Array,
    assert_close,
    assert_same_parameters,
    pair,
    parameters,
    state,
)


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
on_random_arrays = settings(max_examples=120, database=None)


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
        out, expected = softmax.forward(x), reference.forward(plain_x)
        # An exponential is off, relatively, by as much as its total is absolutely.
        assert_close(out, expected, f"{step} output", largest(reference.last_totals))
        # What follows is judged alone, from the same totals and parameters. The gradient of the
        # totals is a difference of numbers as large as the gradient of the output.
        reference.last_totals = softmax.last_totals.copy()
        terms = largest(plain_gradient)
        for again in ("", " again"):  # on the totals of the same forward, but other weights
            assert_close(
                softmax.backprop(gradient, rate),
                reference.backprop(plain_gradient, float(rate)),
                f"{step} input gradient{again}",
                terms * largest(softmax.weights) * nodes,
            )
            assert_same_parameters(softmax, reference, terms * largest(plain_x) * max(1, rate))
            reference.weights, reference.biases = softmax.weights.copy(), softmax.biases.copy()
    np.testing.assert_array_equal(x, plain_x)
    np.testing.assert_array_equal(gradient, plain_gradient)


def largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=1))


AROUND_VECTORS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 15, 16, 17, 33)


@pytest.mark.parametrize("n", AROUND_VECTORS)
def test_sizes_around_vectors_and_tiles_equal_numpy(n: int, rng: np.random.Generator) -> None:
    for w in (3, 4, 9, 10, 11, 12, 19):
        assert_equal_steps(*pair("Conv3x3", rng, (n,), (4, w), (2, w - 2, n)))
    for h, w in ((2, 2), (3, 4), (4, 3), (5, 7)):
        assert_equal_steps(*pair("MaxPool2", rng, (), (h, w, n), (h // 2, w // 2, n)))
    for nodes in (1, 3, 4, 5, 9, 10, 11, 14, 15, 25):
        assert_equal_steps(*pair("Softmax", rng, (n, nodes), (n,), (nodes,)))


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
