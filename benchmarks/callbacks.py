"""What callbacks and the progress cost: epochs with them and without, in turn in one process.

    python benchmarks/callbacks.py [--rounds 15] [--epochs 5] [--batch-size 32] [--data mnist]

The tutorial's network learns from 60,000 images. `quiet` has verbose=0 and no callbacks; `watched`
has verbose=1 on a pseudo-terminal, `EarlyStopping`, `ReduceLROnPlateau` and `CSVLogger`; and
`watched, bar` shows the bar from an epoch's first moment on, which it does otherwise only when the
epoch takes longer than a moment. Each round runs all three, every other round in reverse order.

Both the time on the clock and the processor time of all threads of this process are printed: other
programs on the machine disturb the former more. The ratio is the median of the rounds' own ratios.
"""

import argparse
import contextlib
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cnnrs
from cnnrs import Conv2D, Dense, Flatten, MaxPooling2D, Sequential, _progress
from cnnrs.callbacks import Callback, CSVLogger, EarlyStopping, ReduceLROnPlateau
from cnnrs.datasets import load
from cnnrs.utils import set_random_seed

QUIET, WATCHED, WITH_BAR = "quiet", "watched", "watched, bar"

READER = "import os, sys\nwhile os.read(int(sys.argv[1]), 1 << 16): pass"
"""Takes what the terminal is sent, in a process of its own, whose time does not count."""


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Make standard output and errors a pseudo-terminal that somebody reads."""
    parent, child = pty.openpty()
    command = [sys.executable, "-c", READER, str(parent)]
    os.environ["TERM"] = "xterm"
    with subprocess.Popen(command, pass_fds=[parent], stderr=subprocess.DEVNULL) as reader:
        with (
            os.fdopen(child, "w") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield
        os.close(parent)
        reader.terminate()


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="(default 15)")
    parser.add_argument("--epochs", type=int, default=5, help="of a round (default 5)")
    parser.add_argument("--batch-size", type=int, default=32, help="(default 32)")
    parser.add_argument("--data", default="mnist", help="what cnnrs train takes (default mnist)")
    options = parser.parse_args()

    data = load(options.data)
    x, y = data.x_train[..., None].astype("float32") / 255, data.y_train
    set_random_seed(0)
    model = Sequential(
        [
            Conv2D(8, 3, use_bias=False, input_shape=x.shape[1:]),
            MaxPooling2D(2),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    usual = _progress.BAR_SECONDS

    def measure(way: str, folder: str) -> tuple[float, float]:
        """Milliseconds of an epoch, on the clock and of the processor."""
        watchers: list[Callback] = [
            EarlyStopping(monitor="loss", patience=100, restore_best_weights=True),
            ReduceLROnPlateau(monitor="loss", patience=100),
            CSVLogger(Path(folder, "log.csv")),
        ]
        _progress.BAR_SECONDS = 0 if way == WITH_BAR else usual
        clock, processor = time.perf_counter(), time.process_time()
        model.fit(
            x,
            y,
            batch_size=options.batch_size,
            epochs=options.epochs,
            verbose=0 if way == QUIET else 1,
            callbacks=None if way == QUIET else watchers,
        )
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        return 1e3 * clock / options.epochs, 1e3 * processor / options.epochs

    ways = [QUIET, WATCHED, WITH_BAR]
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with terminal(), tempfile.TemporaryDirectory() as folder:
        for way in ways:
            measure(way, folder)  # What is loaded at first use is no cost of an epoch.
        for number in range(options.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                times[way].append(measure(way, folder))

    print(
        f"{len(x):,} images, batch {options.batch_size}, {cnnrs.get_num_threads()} threads; ",
        end="",
    )
    print(f"medians of {options.rounds} rounds of {options.epochs} epochs")
    print("                ms an epoch                 ratio to quiet")
    print("                clock       processor       clock     processor")
    for way in ways:
        medians = [statistics.median(kind) for kind in zip(*times[way], strict=True)]
        ratios = [
            statistics.median(a / b for a, b in zip(ours, quiet, strict=True))
            for ours, quiet in zip(
                zip(*times[way], strict=True), zip(*times[QUIET], strict=True), strict=True
            )
        ]
        figures = f"{medians[0]:<12.2f}{medians[1]:<16.2f}{ratios[0]:<10.4f}{ratios[1]:.4f}"
        print(f"{way:<16}{figures}")


if __name__ == "__main__":
    main()
