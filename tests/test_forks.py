"""Forked children train as their parents do, and have threads of their own."""

import pytest

from processes_under_test import forks, python

PREAMBLE = """
import os, signal, threading
import cnnrs
from nets_under_test import digits
from training_under_test import assert_same_bits, model_of
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
