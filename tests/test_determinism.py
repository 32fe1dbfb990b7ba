"""Training comes to the same bits whatever the number of threads, beside other trainings, in forked
children and after interruptions."""

import os
import platform
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from cnnrs import Sequential, layers
from cnnrs.optimizers import SGD, Adam, AdamW, Optimizer
from cnnrs.utils import set_random_seed
from nets_under_test import NETS, digits
from processes_under_test import forks, python, sends_signals
from threads_under_test import in_threads

Array: TypeAlias = npt.NDArray[Any]

THREADS = (1, 2, 3, 7)


@pytest.fixture(autouse=True)
def _same_threads_after() -> Iterator[None]:
    threads = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(threads)


def model_of(
    net: str, rule: Optimizer | None = None, *, seed: int = 1, dtype: str = "float32"
) -> Sequential:
    set_random_seed(seed)
    model = Sequential(NETS[net](layers), dtype=dtype)
    model.compile(rule or SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def assert_same_bits(got: list[Array], expected: list[Array]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.isfinite(ours).all()
        assert ours.tobytes() == theirs.tobytes()


# Threads


@pytest.mark.parametrize(("n", "batch"), [(6, 1), (50, 7), (150, 32), (200, 129), (333, 333)])
@pytest.mark.parametrize("net", NETS)
def test_threads_change_no_bit(net: str, n: int, batch: int) -> None:
    """Batches of one, of less than a block, of few chunks and of all, with what is left."""
    x, y = digits(n)
    many, labels = digits(333)  # few are no work for several threads
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of(net)
        history = model.fit(x, y, batch, epochs=2, verbose=0).history
        scores = history, model.evaluate(many, labels, verbose=0)
        results.append((model.get_weights(), scores, model.predict(many).tobytes()))
    (weights, scores, out), *others = results
    assert not np.array_equal(weights[0], model_of(net).get_weights()[0])
    for other_weights, other_scores, other_out in others:
        assert_same_bits(other_weights, weights)
        assert other_scores == scores
        assert other_out == out


@pytest.mark.parametrize("block", range(1, 17))
@pytest.mark.parametrize("net", ["small", "normed"])
def test_what_is_left_may_be_more_chunks_than_a_batch(net: str, block: int) -> None:
    """A batch is 16 chunks of whole images at most: two images more than 16 blocks make fewer and
    longer ones, some less make 16 again."""
    batch, left = 16 * block + 2, 16 * block - 1
    n = 2 * batch + left  # the first call takes one step, the second one both sizes
    rng = np.random.default_rng(0)
    x, y = rng.random((n, 16, 16, 1), np.float32), rng.integers(0, 3, n)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        between = [layers.BatchNormalization()] if net == "normed" else []
        first, second = layers.Conv2D(16, 3), layers.Conv2D(16, 3)
        last = [layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(3, "softmax")]
        model = Sequential([layers.Input((16, 16, 1)), first, *between, second, *last])
        model.compile(SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
        model.fit(x, y, batch, epochs=2, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("rule", [SGD(0.02), Adam(), AdamW()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_no_bit_of_other_rules_and_types(dtype: str, rule: Optimizer) -> None:
    x, y = digits(100)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of("normed", rule, dtype=dtype)
        model.fit(x, y, 33, epochs=2, verbose=0)
        results.append([*model.get_weights(), *model._ready_network().optimizer_state()])
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize(("n", "batch"), [(67, 64), (103, 17), (110, 32), (300, 128)])
@pytest.mark.parametrize("net", NETS)
def test_threads_change_no_bit_where_layers_descend_by_themselves(
    net: str, n: int, batch: int
) -> None:
    """In all steps of one thread, which takes chunk after chunk; with more threads, in an epoch's
    last step, if that is so short that one thread takes it alone. Small batches of the tutorial's
    network are divided by rows, which descend by themselves in all steps."""
    x, y = digits(n)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = model_of(net, SGD(0.02))
        model.fit(x, y, batch, epochs=3, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize(
    ("filters", "units", "batch"), [(8, 10, 80), (8, 10, 380), (8, 10, 1000), (16, 1, 225)]
)
@pytest.mark.parametrize("rule", [SGD(0.002), Adam()], ids=lambda rule: type(rule).__name__)
def test_threads_change_no_bit_where_they_add_up_pairs(
    filters: int, units: int, batch: int, rule: Optimizer
) -> None:
    """Batches of 4, 6, 16 and 15 chunks. One thread takes two at a time and adds up what they come
    to, two threads do so but for 6 chunks, and many take one at a time."""
    x, y = digits(batch + 70)
    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        first = [layers.Input((28, 28, 1)), layers.Conv2D(filters, 3), layers.MaxPooling2D(2)]
        model = Sequential([*first, layers.Flatten(), layers.Dense(units)])
        model.compile(rule, "mean_squared_error")
        model.fit(x, np.outer(y, np.arange(1, units + 1)) / 50, batch, epochs=2, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("rule", [SGD(0.02), SGD(0.02, momentum=0.9)], ids=["plain", "momentum"])
@pytest.mark.parametrize(
    ("net", "dtype", "batch", "left"),
    [
        ("perceptron", "float32", 33, 20),
        ("normed perceptron", "float32", 33, 20),
        ("convolution", "float32", 257, 173),
        ("convolution", "float64", 257, 173),
    ],
)
def test_what_is_left_may_have_longer_chunks_than_a_batch(
    net: str, dtype: str, batch: int, left: int, rule: Optimizer
) -> None:
    """A batch of 33 is two chunks of 17, but one of 20 is one chunk; nor does it matter whether one
    call takes both sizes."""
    x, y = digits(2 * batch + left)

    def between() -> list[layers.Layer]:
        if net == "convolution":
            return [layers.Conv2D(8, 3), layers.MaxPooling2D(2)]
        normed = [layers.BatchNormalization()] if net == "normed perceptron" else []
        return [layers.Flatten(), layers.Dense(200), *normed, layers.ReLU()]

    def trained(threads: int, *calls: slice) -> list[Array]:
        cnnrs.set_num_threads(threads)
        set_random_seed(1)
        first = [layers.Input((28, 28, 1)), *between(), layers.Flatten()]
        model = Sequential([*first, layers.Dense(10, "softmax")], dtype=dtype)
        model.compile(rule, "sparse_categorical_crossentropy")
        for rows in calls:
            model.fit(x[rows], y[rows], batch, shuffle=False, verbose=0)
        return model.get_weights()

    alone = trained(1, slice(0, None))
    for threads in THREADS:
        assert_same_bits(trained(threads, slice(0, None)), alone)
        assert_same_bits(trained(threads, slice(0, 2 * batch), slice(2 * batch, None)), alone)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("batch", [1, 16, 20, 65, 130, 256, 257, 300])
def test_many_weights_are_used_for_long_blocks(batch: int, normed: bool) -> None:
    """Which batches have by their own size, not by what was trained before, nor by the threads."""
    x, y = digits(2 * batch + batch // 3)

    def perceptron() -> Sequential:
        set_random_seed(1)
        between = [layers.BatchNormalization()] if normed else []
        first = [layers.Flatten(), layers.Dense(200), *between, layers.ReLU()]
        model = Sequential([layers.Input((28, 28, 1)), *first, layers.Dense(10, "softmax")])
        model.compile(SGD(0.02), "sparse_categorical_crossentropy")
        return model

    results = []
    for threads in THREADS:
        cnnrs.set_num_threads(threads)
        model = perceptron()
        if threads > 1:
            weights = model.get_weights()
            for other in (256, 7, 1000):
                model.fit(*digits(other), other, verbose=0)
            model.set_weights(weights)
        model.fit(x, y, batch, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for other_weights in results[1:]:
        assert_same_bits(other_weights, results[0])


def test_the_number_of_threads_may_change_in_the_middle() -> None:
    x, y = digits(96)
    steady, restless = model_of("convnet"), model_of("convnet")
    steady.fit(x, y, epochs=4, verbose=0)
    for threads in (3, 1, 2, 64):
        cnnrs.set_num_threads(threads)
        restless.fit(x, y, verbose=0)
        restless.predict(x)
    assert_same_bits(restless.get_weights(), steady.get_weights())


# Calls


def steps(model: Sequential, x: Array, y: Array, *, batch: int, calls: list[int]) -> None:
    """Train in calls of so many steps each."""
    network, first = model._ready_network(), 0
    for count in calls:
        order = np.arange(first * batch, (first + count) * batch) % len(x)
        network.train(x, y, order, batch, np.full(count, 0.01), 7, first)
        first += count


@pytest.mark.parametrize(
    "rule",
    [SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), Adam(), AdamW()],
    ids=["sgd", "momentum", "nesterov", "adam", "adamw"],
)
@pytest.mark.parametrize("net", ["tutorial", "normed"])
def test_one_call_of_many_steps_is_many_calls_of_one(net: str, rule: Optimizer) -> None:
    """How many steps a call of `fit` takes depends on the clock, so that nothing else may."""
    x, y = digits(60)
    expected = model_of(net, rule)
    steps(expected, x, y, batch=5, calls=[1] * 20)
    for calls in ([20], [1, 8, 11]):
        model = model_of(net, rule)
        steps(model, x, y, batch=5, calls=calls)
        assert_same_bits(model.get_weights(), expected.get_weights())


# Two trainings at once


@pytest.mark.parametrize("nets", [("convnet", "convnet"), ("normed", "lenet")], ids="-".join)
def test_two_models_train_at_once_as_they_do_alone(nets: tuple[str, str]) -> None:
    x, y = digits(150)
    cnnrs.set_num_threads(2)
    alone = [model_of(net, seed=seed) for seed, net in enumerate(nets)]
    together = [model_of(net, seed=seed) for seed, net in enumerate(nets)]
    for model in alone:
        model.fit(x, y, epochs=3, verbose=0)
    in_threads(*(partial(model.fit, x, y, epochs=3, verbose=0) for model in together))
    for model, expected in zip(together, alone, strict=True):
        assert_same_bits(model.get_weights(), expected.get_weights())


# Other processes

PREAMBLE = """
import os, signal, sys, threading, time
import numpy as np
import cnnrs
from nets_under_test import digits
from test_determinism import assert_same_bits, model_of, steps
"""


FORK = """
import multiprocessing

cnnrs.set_num_threads(2)
x, y = digits(200)

def train(seed):
    model = model_of("convnet", seed=seed)
    model.fit(x, y, epochs=2, verbose=0)
    return model

def goes_on(model):
    model.fit(x, y, epochs=2, verbose=0)
    return model.predict(x).tobytes()

def check(queue):
    # What the parent has trained goes on, and a new model trains too.
    assert_same_bits(train(2).get_weights(), fresh)
    queue.put(goes_on(model))

model, fresh = train(1), train(2).get_weights()

beside = []
if BESIDE:
    beside = [threading.Thread(target=train, args=(3,), daemon=True)]
    beside[0].start()

context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=check, args=(queue,)) for _ in range(2)]
for child in children:
    child.start()
answers = [queue.get(timeout=60) for _ in children]
for child in children:
    child.join()

pid = os.fork()
if pid == 0:
    assert_same_bits(train(2).get_weights(), fresh)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
for thread in beside:
    thread.join()
print("equal" if answers == [goes_on(model)] * 2 else "differ")
"""


@forks
@pytest.mark.parametrize("beside", [False, True])
def test_forked_children_train_as_their_parent_does(beside: bool) -> None:
    """Also while another thread of the parent trains."""
    done = python(f"{PREAMBLE}\nBESIDE = {beside}\n{FORK}")
    assert done.stdout == "equal\n", done.stderr


HELPERS = """
cnnrs.set_num_threads(2)
x, y = digits(500)

def threads():
    return len(os.listdir("/proc/self/task"))

alone = threads()
model_of("convnet").fit(x, y, verbose=0)
helped = threads()
pid = os.fork()
if pid == 0:
    os._exit(threads())
forked = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(helped - alone, threads() - alone, forked)
"""


@forks
def test_a_fork_leaves_no_threads_behind() -> None:
    """Those that wait for their thread's next call; Python 3.12 and newer would warn of them."""
    # NumPy's own threads end with a fork.
    done = python(f"{PREAMBLE}\n{HELPERS}", OPENBLAS_NUM_THREADS="1")
    assert (done.stdout, done.stderr) == ("1 0 1\n", "")


FORKED_BY_C = """
import ctypes

cnnrs.set_num_threads(2)
x, y = digits(500)
model, expected = model_of("convnet"), model_of("convnet")
for twin in (model, expected):
    twin.fit(x, y, verbose=0)
expected.fit(x, y, verbose=0)

def parent_of(fork):
    pid = fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    signal.alarm(15)  # ends a process that waits for ever

# The first child has inherited what is known of a thread, and no thread; Python does not tell it.
parent_of(ctypes.PyDLL(None).fork)
parent_of(os.fork)
model.fit(x, y, verbose=0)
assert_same_bits(model.get_weights(), expected.get_weights())
os._exit(7)
"""


@forks
def test_a_child_that_python_has_not_forked_has_threads_of_its_own() -> None:
    done = python(f"{PREAMBLE}\n{FORKED_BY_C}")
    assert (done.returncode, done.stderr) == (7, "")


FLUSHING = """
import ctypes

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
    done = python(f"{PREAMBLE}\n{FLUSHING}", CNNRS_SIMD="scalar")
    assert (done.stdout, done.stderr) == (f"{784 * 64} 0\n", "")


STILL_WORKS = """
def still_works(model, x, y):
    weights = model.get_weights()
    assert all(np.isfinite(array).all() for array in weights)
    assert np.isfinite(model.predict(x)).all()
    model.fit(x, y, verbose=0)
    assert any((a != b).any() for a, b in zip(weights, model.get_weights()))
    assert len(model.history.history["loss"]) == 1
    print("goes on")
"""

MANY_STEPS = """
def send():
    global sent
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

x, y = digits(500)
for net in ("tutorial", "convnet", "normed"):
    model = model_of(net)
    threading.Timer(0.5, send).start()
    try:
        model.fit(x, y, batch_size=8, epochs=10**6, verbose=0)
    except KeyboardInterrupt:
        print(f"KeyboardInterrupt after {time.monotonic() - sent:.3f} s", file=sys.stderr)
    still_works(model, x, y)
"""


@sends_signals
def test_sigint_ends_a_training_of_many_steps_and_the_model_goes_on() -> None:
    """How long it took stands on standard error, which is shown if this fails."""
    done = python(PREAMBLE + STILL_WORKS + MANY_STEPS)
    assert done.stdout == "goes on\n" * 3, done.stderr


INTERRUPTED = """
from threads_under_test import AtWork

sys.setswitchinterval(1000)

def interrupted(model, call):
    # A SIGINT comes while the compiled network is at work, and ends its call there.
    with AtWork(model) as network:
        def send():
            network.begun.wait()
            os.kill(os.getpid(), signal.SIGINT)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            call()
        except KeyboardInterrupt:
            assert network.begun.is_set()
            assert network.returned == []
        else:
            print("no KeyboardInterrupt")
        sender.join()
"""

MANY_IMAGES = """
x, y = digits(5000)

def made():
    return model_of("convnet", RULE)
"""

ONE_IMAGE = """
from cnnrs import BatchNormalization, Conv2D, Dense, GlobalAveragePooling2D, Input, Sequential

rng = np.random.default_rng(0)
x, y = rng.random((1, 256, 256, 32), np.float32), np.ones((1, 1), np.float32)

def block():
    return [Conv2D(32, 3, padding="same", use_bias=False), BatchNormalization()]

def made():
    cnnrs.utils.set_random_seed(1)
    blocks = [*block(), *block(), *block()]
    model = Sequential([Input((256, 256, 32)), *blocks, GlobalAveragePooling2D(), Dense(1)])
    model.compile(RULE, "mse")
    return model
"""

ONE_STEP = """
def state(model):
    return [*model.get_weights(), *model._ready_network().optimizer_state()]

model, expected = made(), made()
for each in (model, expected):
    steps(each, x[:9], y[:9], batch=1, calls=[1])
before = state(model)
interrupted(model, lambda: model.fit(x, y, batch_size=len(x), verbose=0))
assert model._ready_network().steps() == 1
assert_same_bits(state(model), before)
for each in (model, expected):
    steps(each, x[:9], y[:9], batch=1, calls=[1])
assert_same_bits(state(model), state(expected))
print("goes on")
"""


@sends_signals
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("SGD(0.02)", MANY_IMAGES),
        ("SGD(0.02, momentum=0.9)", MANY_IMAGES),
        ("Adam()", MANY_IMAGES),
        ("SGD(0.02, momentum=0.9)", ONE_IMAGE),
    ],
    ids=["plain", "momentum", "adam", "one image"],
)
def test_a_step_that_sigint_ends_does_not_count(rule: str, kind: str, threads: int) -> None:
    """Nor is the signal forgotten where the images of a step meet again and again, as one image
    does in batch normalisation, and each stretch between meetings takes long."""
    done = python(
        f"{PREAMBLE}\nfrom cnnrs.optimizers import SGD, Adam\nRULE = {rule}\n"
        + kind
        + INTERRUPTED
        + ONE_STEP,
        CNNRS_SIMD="scalar",
        CNNRS_NUM_THREADS=str(threads),
    )
    assert done.stdout == "goes on\n", done.stderr


NO_TRAINING = """
x, y = digits(5000)
model, many, labels = model_of("convnet"), np.concatenate([x] * 4), np.concatenate([y] * 4)
interrupted(model, lambda: model.evaluate(many, labels, verbose=0))
interrupted(model, lambda: model.predict(many))
still_works(model, x[:50], y[:50])
"""


@sends_signals
@pytest.mark.parametrize("threads", [1, 3])
def test_sigint_ends_evaluate_and_predict(threads: int) -> None:
    done = python(
        PREAMBLE + STILL_WORKS + INTERRUPTED + NO_TRAINING,
        CNNRS_SIMD="scalar",
        CNNRS_NUM_THREADS=str(threads),
    )
    assert done.stdout == "goes on\n", done.stderr


# The number of threads


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
