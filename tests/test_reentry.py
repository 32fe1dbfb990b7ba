"""Who would wait for a network for ever is refused: a signal's handler in the thread whose call it
interrupts, and a forked process that has not inherited the thread at work."""

import re
from subprocess import CompletedProcess

import pytest

from processes_under_test import forks, python, sends_signals

PREAMBLE = """
import copy, os, signal, sys, threading
from nets_under_test import digits
from threads_under_test import AtWork
from training_under_test import assert_same_bits, model_of

sys.setswitchinterval(1000)

def train(model, n):
    model.fit(x[:n], y[:n], batch_size=n, verbose=0)

def attempt(*calls):
    for call in calls:
        try:
            call()
        except RuntimeError as error:
            print("RuntimeError:", error, flush=True)
        else:
            print("returned", flush=True)

x, y = digits(5000)
model, expected = model_of("convnet"), model_of("convnet")
weights, optimizer = model.get_weights(), model.optimizer
train(expected, 5000)

uses = [
    model.get_weights,
    lambda: model.set_weights(weights),
    lambda: model.predict(x[:1]),
    lambda: model.evaluate(x[:1], y[:1], verbose=0),
    lambda: model.compile("sgd", "sparse_categorical_crossentropy"),
    lambda: copy.deepcopy(model),
]
"""

GOES_ON = """
assert len(network.returned) == 1
assert model.optimizer is optimizer
if model._ready_network().steps() == 0:
    train(model, 5000)
assert_same_bits(model.get_weights(), expected.get_weights())
for each in (model, expected):
    train(each, 50)
assert_same_bits(model.get_weights(), expected.get_weights())
print("goes on")
"""


def assert_refused(ran: CompletedProcess[str], why: str) -> None:
    """All uses of the network, which goes on as if there had been none."""
    *lines, last = ran.stdout.splitlines() or [""]
    assert len(lines) == 6, (ran.stdout, ran.stderr)
    for line in lines:
        assert re.match(f"RuntimeError: .*network.*{why}", line), ran.stdout
    assert last == "goes on", ran.stderr


HANDLER = """
def send():
    network.begun.wait()
    os.kill(os.getpid(), signal.SIGUSR1)

signal.signal(signal.SIGUSR1, lambda *_: attempt(*uses))
with AtWork(model) as network:
    threading.Thread(target=send, daemon=True).start()
"""


@sends_signals
@pytest.mark.parametrize(
    "call", ["train(model, 5000)", "model.evaluate(x, y, verbose=0)", "model.predict(x)"]
)
def test_a_handler_cannot_use_the_network_that_it_interrupts(call: str) -> None:
    program = f"{PREAMBLE}{HANDLER}    {call}\n{GOES_ON}"
    assert_refused(python(program, timeout=20, CNNRS_SIMD="scalar"), "this thread")


FORK = """
twin = copy.deepcopy(model)
shown = []
with AtWork(model) as network:
    thread = threading.Thread(target=train, args=(model, 5000))
    thread.start()
    network.begun.wait()
    # It comes back once this second thread waits for the network, with what it holds as it waits.
    waiting = threading.Thread(target=model.summary, kwargs={"print_fn": shown.append})
    waiting.start()
    assert not shown
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)  # ends a process that waits for ever
        try:
            attempt(*uses)
            train(twin, 50)
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    thread.join()
    waiting.join()
    assert shown
"""


BETWEEN = """
def wait():
    network.begun.wait()
    model.get_weights()

waiting = threading.Thread(target=wait)
with AtWork(model) as network:
    waiting.start()
    model.predict(x)
    # The other thread's turn comes while it waits for the interpreter's lock, which this one keeps.
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        try:
            attempt(lambda: model.predict(x[:1]))
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    waiting.join()
"""


@forks
def test_a_forked_process_does_not_wait_for_a_thread_whose_turn_had_come() -> None:
    """It may or may not have come."""
    ran = python(f"import time\n{PREAMBLE}{BETWEEN}", timeout=40, CNNRS_SIMD="scalar")
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch("returned\n|RuntimeError: .*process.*\n", ran.stdout)


@forks
def test_a_forked_process_cannot_use_a_network_at_work_in_its_parent() -> None:
    """But a copy of the model."""
    ran = python(PREAMBLE + FORK + GOES_ON, timeout=20, CNNRS_SIMD="scalar")
    assert_refused(ran, "process")
