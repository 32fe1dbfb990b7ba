"""The compiled network below `Sequential`: what it takes, what it refuses, and its threads."""

import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cnnrs._core import Network
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed
from model_under_test import assert_same
from processes_under_test import python

Arrays = tuple[np.ndarray, ...]


def network(height: int = 6, width: int = 7) -> tuple[Network, list[np.ndarray]]:
    """The tutorial's network, ready to be trained, and its weights."""
    set_random_seed(3)
    model = tutorial_network(height, width)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model._ready_network(), model.get_weights()


def noise(height: int = 6, width: int = 7, n: int = 12) -> Arrays:
    """Images of noise and their labels."""
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (n, height, width, 1), np.uint8), rng.integers(0, 10, n)


def step(net: Network, x: Any, y: Any, order: Any, **changes: Any) -> Any:
    """Train on one image a step."""
    others = {"batch": 1, "rates": np.full(np.size(order), 0.1), "seed": 0, "first": 0} | changes
    return net.train(x, y, order, *others.values())


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x, y + 10), ValueError, "y: expected classes .* below 10, got 1"),
        (lambda x, y: (x, y - 10), ValueError, "y: expected classes from 0 .*, got -"),
        (lambda x, y: (x[:11], y), ValueError, r"y: expected shape \(11,\), got \(12,\)"),
        (lambda x, y: (x, y[:11]), ValueError, r"y: expected shape \(12,\), got \(11,\)"),
        (lambda x, y: (x[:, :5], y), ValueError, r"x: .*\(n, 6, 7, 1\), got \(12, 5, 7, 1\)"),
        (lambda x, y: (x[..., 0], y), ValueError, r"x: .*\(n, 6, 7, 1\), got \(12, 6, 7\)"),
        (lambda x, y: (x[0], y), ValueError, r"x: .*\(n, 6, 7, 1\), got \(6, 7, 1\)"),
        (lambda x, y: (x, y[:, np.newaxis]), ValueError, r"y: .*\(12,\), got \(12, 1\)"),
        (lambda x, y: (x.astype(np.int8), y), TypeError, "x: .* uint8, .* got .* int8"),
        (lambda x, y: (x.astype(">f4"), y), TypeError, "x: .* float32 .* got .* >f4"),
        (lambda x, y: (x.tolist(), y), TypeError, "x: .* uint8, .* got list"),
        (lambda x, y: (x, y.astype(np.uint8)), TypeError, "y: .* int64, got .* uint8"),
        (lambda x, y: (x, y.tolist()), TypeError, "y: .* int64, got list"),
    ],
)
def test_unfit_data_is_refused_before_the_first_step(
    change: Callable[..., tuple[object, object]], error: type[Exception], message: str
) -> None:
    net, weights = network()
    x, y = change(*noise())
    with pytest.raises(error, match=f"(?s){message}"):
        step(net, x, y, np.array([0, 1]))
    with pytest.raises(error, match=f"(?s){message}"):
        net.evaluate(x, y)
    assert_same(net.get_weights(), weights)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"order": np.array([0, 12])}, IndexError, "order: expected .* below 12, got 12"),
        ({"order": np.array([0, -1])}, IndexError, "order: expected .* below 12, got -1"),
        ({"order": np.array([-(2**63)])}, IndexError, "below 12, got -9223372036854775808"),
        ({"order": np.array([0], np.int32)}, TypeError, "order: .* int64, got .* int32"),
        ({"order": np.array([0], ">i8")}, TypeError, "order: .* int64, got .* >i8"),
        ({"order": [0]}, TypeError, "order: .* int64, got list"),
        ({"batch": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch": -1}, OverflowError, ""),
        ({"rates": np.array([0.1])}, ValueError, "rates: .* each of 2 steps, got 1"),
        ({"rates": np.array([0.1, np.nan])}, ValueError, "rates: expected finite .*, got NaN"),
        ({"rates": [0.1, 0.1]}, TypeError, "rates: .* float64, got list"),
        ({"seed": -1}, OverflowError, ""),
        ({"first": -1}, OverflowError, ""),
    ],
)
def test_unfit_steps_are_refused_before_the_first(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    net, weights = network()
    x, y = noise()
    with pytest.raises(error, match=f"(?s){message}"):
        step(net, x, y, **({"order": np.array([0, 1])} | changes))
    assert_same(net.get_weights(), weights)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda k, w, b: [k[..., :7], w, b], ValueError, r"\.kernel: .*\(3, 3, 1, 8\), got \(3, "),
        (lambda k, w, b: [k, w.T, b], ValueError, r"dense\.kernel: .*\(32, 10\), got \(10, 32\)"),
        (lambda k, w, b: [k, w, b[:9]], ValueError, r"dense\.bias: .*\(10,\), got \(9,\)"),
        (lambda k, w, b: [k[0], w, b], ValueError, r"conv2d\.kernel: .*, got \(3, 1, 8\)"),
        (lambda k, w, b: [k, w.astype(float), b], TypeError, "kernel: .* float32, got .* float64"),
        (lambda k, w, b: [k, w, b.tolist()], TypeError, "dense.bias: .* float32, got list"),
        (lambda k, w, b: [k, w], ValueError, "weights: expected 3 arrays, got 2"),
    ],
)
def test_unfit_weights_are_refused_whole(
    change: Callable[..., list[Any]], error: type[Exception], message: str
) -> None:
    net, weights = network()
    with pytest.raises(error, match=f"(?s){message}"):
        net.set_weights(change(*(array + 1 for array in weights)))
    assert_same(net.get_weights(), weights)


def test_no_order_does_nothing() -> None:
    net, weights = network()
    losses, right = step(net, *noise(), np.zeros(0, np.int64))
    assert (losses.tolist(), right) == ([], 0)
    assert_same(net.get_weights(), weights)


@pytest.mark.parametrize(
    "layers",
    [
        "Dense(2**50, input_shape=(4,))",
        "Conv2D(2**50, 3, input_shape=(4, 4, 1))",
        "Flatten(input_shape=(2**62, 4, 1))",
        "Input((2**31, 2**20, 1)), Flatten(), Dense(2)",
    ],
)
def test_a_network_larger_than_memory_is_an_exception_and_no_abort(layers: str) -> None:
    program = f"""if True:
        from cnnrs import Conv2D, Dense, Flatten, Input, Sequential
        try:
            Sequential([{layers}])
        except (MemoryError, ValueError) as error:
            print("refused")
    """
    ran = python(program)
    assert (ran.returncode, ran.stdout.strip()) == (0, "refused")


# Arrays as they lie in memory


def unaligned(array: np.ndarray) -> np.ndarray:
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def packed(array: np.ndarray) -> np.ndarray:
    """A stride that is no multiple of the element's size."""
    records = np.zeros(array.shape, [("byte", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "transposed in memory": lambda array: array.swapaxes(0, -1).copy().swapaxes(0, -1),
    "every other": lambda array: np.repeat(array, 2, axis=0)[::2],
    "every other of the last axis": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "unaligned": unaligned,
    "field of a packed record": packed,
    "read-only": read_only,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_in_any_layout_give_the_same(
    dtype: type, layout: Callable[[np.ndarray], np.ndarray]
) -> None:
    (x, y), order = noise(), np.array([3, 1, 4, 1, 5])
    x = x.astype(dtype)
    arranged = layout(x)
    np.testing.assert_array_equal(arranged, x)
    (net, _), (other, _) = network(), network()
    losses, right = step(net, x, y, order)
    rates = layout(np.full(5, 0.1))
    got, got_right = step(other, arranged, layout(y), layout(order), rates=rates)
    np.testing.assert_array_equal(got, losses)
    assert got_right == right
    assert_same(other.get_weights(), net.get_weights())
    assert other.evaluate(arranged, layout(y)) == net.evaluate(x, y)
    np.testing.assert_array_equal(other.predict(arranged), net.predict(x))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_in_any_layout_come_back_as_they_were_set(
    layout: Callable[[np.ndarray], np.ndarray],
) -> None:
    net, weights = network()
    changed = [array + 1 for array in weights]
    net.set_weights(list(map(layout, changed)))
    assert_same(net.get_weights(), changed)
    assert all(array.flags.c_contiguous for array in net.get_weights())


# Threads


class Meddler(np.ndarray):
    """An array whose copy changes what another one is taken for."""

    victim: np.ndarray

    def copy(self, order: Any = "C") -> Any:
        self.victim.shape = (self.victim.size,)
        self.victim.dtype = np.uint8
        return np.array(self, order=order)


def is_assignable(attribute: str) -> bool:
    """NumPy is taking these away."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            setattr(np.zeros(4), attribute, {"shape": (2, 2), "dtype": np.uint8}[attribute])
    except AttributeError:
        return False
    return True


turns_arrays = pytest.mark.skipif(
    not (is_assignable("shape") and is_assignable("dtype")),
    reason="this NumPy's arrays stay what they are",
)


@turns_arrays
@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("method", ["train", "evaluate"])
def test_arrays_stay_what_they_were_as_they_came(method: str) -> None:
    """Those that came before the one whose conversion runs Python."""
    net, _ = network()
    x, y = noise()
    x = x.astype(np.float32)
    labels = np.repeat(y, 2)[::2].view(Meddler)
    labels.victim = x.copy()
    order = np.arange(len(x))
    call = {
        "train": lambda x, y: step(net, x, y, order, rates=np.zeros(len(x)))[0].sum(),
        "evaluate": lambda x, y: net.evaluate(x, y)[0],
    }[method]
    expected = call(x, y)
    assert call(labels.victim, labels) == expected
    assert labels.victim.dtype == np.uint8


TURNED_AT_WORK = """
import threading
import numpy as np
from nets_under_test import digits
from threads_under_test import AtWork
from training_under_test import model_of

x, _ = digits(5000)
x = (x / 255).astype(np.float32)
model = model_of("convnet")
expected = model.predict(x, verbose=0)
with AtWork(model) as network:
    thread = threading.Thread(target=model.predict, args=(x,), kwargs={"verbose": 0})
    thread.start()
    network.begun.wait()
    x.dtype = np.uint8
    thread.join()
assert (network.returned[0] == expected).all()
print("equal")
"""


@turns_arrays
def test_an_array_that_is_turned_into_another_at_work_aborts_nothing() -> None:
    ran = python(TURNED_AT_WORK, CNNRS_SIMD="scalar")
    assert ran.stdout == "equal\n", ran.stderr


def test_one_network_trained_by_two_threads_does_one_after_the_other() -> None:
    x, y = noise(28, 28, 2000)
    parts = [np.arange(2000), np.arange(2000)[::-1]]

    def outcome(train: Callable[[Network], object]) -> bytes:
        net, _ = network(28, 28)
        train(net)
        return b"".join(array.tobytes() for array in net.get_weights())

    def learn(net: Network, part: int) -> None:
        step(net, x, y, parts[part], rates=np.full(2000, 0.005))

    def in_turn(net: Network, first: int) -> None:
        learn(net, first)
        learn(net, 1 - first)

    def at_once(net: Network) -> None:
        together = threading.Barrier(2)

        def meet_and_learn(part: int) -> None:
            together.wait()
            learn(net, part)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(meet_and_learn, (0, 1)))

    serial = {outcome(lambda net, first=first: in_turn(net, first)) for first in (0, 1)}
    assert len(serial) == 2
    assert outcome(at_once) in serial


@pytest.mark.parametrize("method", ["train", "evaluate", "predict"])
def test_other_threads_run_during_the_steps(method: str) -> None:
    net, _ = network(28, 28)
    x, y = noise(28, 28, 5000)
    order, rates = np.arange(5000), np.zeros(5000)
    call = {
        "train": lambda: step(net, x, y, order, rates=rates),
        "evaluate": lambda: net.evaluate(x, y),
        "predict": lambda: net.predict(x),
    }[method]
    go, ran = threading.Event(), threading.Event()

    def other() -> None:
        go.wait()
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    # From here, no thread takes the interpreter's lock from one that does not give it.
    sys.setswitchinterval(1000)
    try:
        go.set()
        for _ in range(100):
            call()
            if seen := ran.is_set():
                break
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen
