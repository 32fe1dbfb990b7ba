"""How soon does Ctrl-C end a call?

    python benchmarks/interrupt.py [--rounds 20]

A child trains, evaluates or predicts; after 0.3 to 1.0 s, at random, it is sent SIGINT. What counts
is the time from then until KeyboardInterrupt is caught, by a clock that processes share on Linux.
After each round the model must give finite probabilities, and the next goes on with it. The images
are noise, the large network's 256x256x3 with a convolution of 64 filters, and all processors work.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children

SECONDS = (0.3, 1.0)
"""When the signal comes."""

CASES = {
    "fit tutorial": "fit, the tutorial's network, batch 1",
    "fit convnet": "fit, Keras's convnet, batch 128",
    "fit large": "fit, the large network, batch 32",
    "evaluate large": "evaluate, the large network",
    "predict large": "predict, the large network",
}

DIGIT, LARGE = (28, 28, 1), (256, 256, 3)


def layers_of(net: str) -> list[Any]:
    """The layers of a network."""
    from cnnrs import Conv2D, Dense, Flatten, GlobalAveragePooling2D, Input, MaxPooling2D, Rescaling

    first, pool = Rescaling(1 / 255), MaxPooling2D(2)
    last = Dense(10, activation="softmax")
    if net == "tutorial":
        return [Input(DIGIT), first, Conv2D(8, 3, use_bias=False), pool, Flatten(), last]
    if net == "large":
        conv = Conv2D(64, 3, activation="relu")
        return [Input(LARGE), first, conv, pool, GlobalAveragePooling2D(), last]
    return [
        *(Input(DIGIT), first, Conv2D(32, 3, activation="relu"), pool),
        *(Conv2D(64, 3, activation="relu"), MaxPooling2D(2), Flatten(), last),
    ]


def prepare(case: str) -> Callable[[], children.Answer]:
    """In the child: what one round does."""
    import numpy as np

    from cnnrs import Sequential
    from cnnrs.optimizers import SGD
    from cnnrs.utils import set_random_seed

    method, net = case.split()
    set_random_seed(1)
    model = Sequential(layers_of(net))
    model.compile(SGD(1e-3), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(1)
    n = 512 if net == "large" else 60_000  # At 0.3 s, a call on them is in its midst.
    x = rng.integers(0, 256, (n, *model.input_shape[1:]), np.uint8)
    y = rng.integers(0, 10, n)
    batch = {"tutorial": 1, "convnet": 128, "large": 32}[net]
    call: Callable[[], object] = {
        "fit": lambda: model.fit(x, y, batch, epochs=10**6, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, verbose=0),
        "predict": lambda: model.predict(x),
    }[method]
    # A shell lets what it starts in the background ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def round_() -> children.Answer:
        try:
            while True:
                call()
        except KeyboardInterrupt:
            caught = time.monotonic()
        usable = bool(np.isfinite(model.predict(x[:8])).all())
        return {"caught": caught, "usable": usable}

    return round_


def work(case: str) -> None:
    """In the child: prepare at the first request, and do a round at each of the others."""
    rounds: list[Callable[[], children.Answer]] = []

    def answer(_: children.Answer) -> children.Answer:
        if rounds:
            return rounds[0]()
        rounds.append(prepare(case))
        return {"pid": os.getpid()}

    children.serve(answer)


def measure(case: str, rounds: int) -> list[float]:
    """Milliseconds from the signal to its exception, for each round."""
    took: list[float] = []
    with children.Child(Path(__file__), case) as child:
        pid = child.ask()["pid"]
        while len(took) < rounds:
            sent: list[float] = []
            timer = threading.Timer(random.uniform(*SECONDS), interrupt, (pid, sent))
            timer.start()
            try:
                answer = child.ask()
            finally:
                timer.cancel()
            if not answer["usable"]:
                raise SystemExit(f"{case}: expected finite probabilities afterwards, got others")
            took.append(1e3 * (answer["caught"] - sent[0]))
    return took


def interrupt(pid: int, sent: list[float]) -> None:
    """Send the signal, and put down when."""
    sent.append(time.monotonic())
    os.kill(pid, signal.SIGINT)


def main() -> None:
    """Measure all cases, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each case (default 20)")
    options = parser.parse_args()
    machine = children.machine()
    print(f"{machine['processor']}, {machine['cpus']} processors; {options.rounds} rounds of each")
    print(f"{'ms from SIGINT to KeyboardInterrupt':<42}median   worst")
    for case, name in CASES.items():
        took = measure(case, options.rounds)
        print(f"{name:<40}{statistics.median(took):8.1f}{max(took):8.1f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in CASES:
        work(sys.argv[1])
    else:
        main()
