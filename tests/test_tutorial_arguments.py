"""What the tutorial's layers are given, keep, share and refuse."""

import copy
import math
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from cnnrs import Conv3x3, MaxPool2, Softmax
from cnnrs import numpy_reference as plain
from cnnrs import tutorial as ours
from layers_under_test import (
    KINDS,
    PARAMETERS,
    RATE,
    Array,
    assert_close,
    assert_same_parameters,
    pair,
    parameters,
    state,
)

Layer: TypeAlias = Conv3x3 | MaxPool2 | Softmax

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
    match = f": expected .*real numbers, got .*{dtype}"
    refuses(layer, TypeError, f"^input{match}", layer.forward, value)
    refuses(layer, TypeError, f"^d_L_d_out{match}", layer.backprop, value, *RATE[kind])
    for name in parameters(layer):
        refuses(layer, TypeError, f"^{name}{match}", setattr, layer, name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_lists_are_refused(kind: str) -> None:
    layer, ragged = after_forward(kind), [[1, 2, 3], [1, 2]]
    refuses(layer, ValueError, "^input: .*inhomogeneous", layer.forward, ragged)
    refuses(layer, ValueError, "^d_L_d_out: .*inhomogeneous", layer.backprop, ragged, *RATE[kind])
    for name in parameters(layer):
        refuses(layer, ValueError, f"^{name}: .*inhomogeneous", setattr, layer, name, ragged)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("Conv3x3", (), "input: expected an array of shape (h, w), got ()"),
        ("Conv3x3", (9,), "input: expected an array of shape (h, w), got (9,)"),
        ("Conv3x3", (5, 6, 1), "input: expected an array of shape (h, w), got (5, 6, 1)"),
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
    match = r"^learn_rate: expected a real number, got "
    refuses(conv, TypeError, match, conv.backprop, np.ones((3, 4, 2)), rate)
    refuses(softmax, TypeError, match, softmax.backprop, np.ones(3), rate)


def test_what_a_learning_rate_raises_itself_is_not_renamed() -> None:
    class Interrupted:
        def __float__(self) -> float:
            raise KeyboardInterrupt("as it is computed")

    conv, gradient = after_forward("Conv3x3"), np.ones((3, 4, 2))
    refuses(conv, KeyboardInterrupt, "as it is computed", conv.backprop, gradient, Interrupted())


TOO_LARGE = "too big|too large|dimension"


@pytest.mark.parametrize(
    ("layer", "sizes", "error", "match"),
    [
        (Conv3x3, (0,), ValueError, "^num_filters: expected at least 1, got 0$"),
        (Conv3x3, (-1,), ValueError, "^num_filters: expected at least 1, got -1$"),
        (Softmax, (0, 3), ValueError, "^input_len: expected at least 1, got 0$"),
        (Softmax, (6, -1), ValueError, "^nodes: expected at least 1, got -1$"),
        (Conv3x3, (2.5,), TypeError, "^num_filters: expected an integer, got 2.5$"),
        (Softmax, ("6", 3), TypeError, "^input_len: expected an integer, got '6'$"),
        (Softmax, (6, None), TypeError, "^nodes: expected an integer, got None$"),
        (Conv3x3, (2**62,), ValueError, TOO_LARGE),
        (Conv3x3, (2**70,), ValueError, f"^num_filters: expected at most {2**64 - 1}, got"),
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
