"""How soon does Ctrl-C end a call?

    python benchmarks/interrupt.py [--rounds 20]

A child trains, evaluates or predicts; after 0.3 to 1.0 s, at random, it is sent SIGINT. What counts
is the time from then until KeyboardInterrupt is caught, by a clock that processes share on Linux.
After each round the model must give finite probabilities, and the next goes on with it. The images
are noise, and all processors work. The large network's images are 256x256x3, before a convolution
of 64 filters; the deep one's 224x224x32, before eight of them, so that a step of one image takes
about a second. A wait of more than 0.2 s is reported, and the exit status is then 1. Training looks
for signals between layers: one layer that takes longer, for one image, makes a signal wait as long.
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

LONGEST = 200.0
"""Milliseconds that a call may take to end."""

CASES = {
    "fit tutorial": "fit, the tutorial's network, batch 1",
    "fit convnet": "fit, Keras's convnet, batch 128",
    "fit large": "fit, the large network, batch 32",
    "fit deep": "fit, the deep network, batch 1, SGD",
    "evaluate large": "evaluate, the large network",
    "predict large": "predict, the large network",
}

DIGIT, LARGE, DEEP = (28, 28, 1), (256, 256, 3), (224, 224, 32)


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
    if net == "deep":
        convs = [Conv2D(64, 3, activation="relu") for _ in range(8)]
        return [Input(DEEP), first, *convs, GlobalAveragePooling2D(), last]
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
    # At 0.3 s, a call on so many is in its midst.
    n = {"tutorial": 60_000, "convnet": 60_000, "large": 512, "deep": 8}[net]
    x = rng.integers(0, 256, (n, *model.input_shape[1:]), np.uint8)
    y = rng.integers(0, 10, n)
    batch = {"tutorial": 1, "convnet": 128, "large": 32, "deep": 1}[net]
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
        usable = bool(np.isfinite(model.predict(x[:2])).all())
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


def main() -> int:
    """Measure all cases, and print a line for each; 1 if a wait was too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each case (default 20)")
    options = parser.parse_args()
    machine = children.machine()
    print(f"{machine['processor']}, {machine['cpus']} processors; {options.rounds} rounds of each")
    children.warn_if_busy(machine)
    print(f"{'ms from SIGINT to KeyboardInterrupt':<42}median   worst")
    worst = 0.0
    for case, name in CASES.items():
        took = measure(case, options.rounds)
        worst = max(worst, *took)
        print(f"{name:<40}{statistics.median(took):8.1f}{max(took):8.1f}", flush=True)
    if worst <= LONGEST:
        return 0
    print(f"expected {LONGEST:.0f} ms at most, the worst wait was {worst:.0f} ms")
    return 1


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in CASES:
        work(sys.argv[1])
    else:
        sys.exit(main())
