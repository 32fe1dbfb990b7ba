"""A SIGINT ends what a network is at, and leaves it usable."""

import pytest

from processes_under_test import python, sends_signals

PREAMBLE = """
import os, signal, sys, threading, time
import numpy as np
import cnnrs
from nets_under_test import digits
from training_under_test import assert_same_bits, model_of, steps
"""

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
