"""Kills trainings that are backed up, begins them again, and compares what they come to.

    python tests/kill_training.py [--kills 100] [--seed 0]

Each training is a process of its own. It is killed (SIGKILL) at random moments, begun again until
it ends, and its weights and history are compared, bit for bit, with those of a training that nobody
killed. Prints what happened; ends with 1 if anything was not as it should be.
"""

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS = 40


def train(folder: Path, dies: str = "") -> None:
    """Train, tell each epoch on standard output, and leave weights and history in the folder."""
    from cnnrs import (
        BatchNormalization,
        Conv2D,
        Dense,
        Dropout,
        Flatten,
        Input,
        MaxPooling2D,
        Sequential,
    )
    from cnnrs.callbacks import BackupAndRestore, Callback
    from cnnrs.optimizers import Adam
    from cnnrs.utils import set_random_seed

    class Tell(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            print(epoch, flush=True)

    class Slower(Callback):
        """Lowers the learning rate when the loss has not been lower for some epochs."""

        best, wait = float("inf"), 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.wait = 0 if logs["val_loss"] < self.best else self.wait + 1
            self.best = min(self.best, logs["val_loss"])
            if self.wait == 2:
                self.model.optimizer.learning_rate *= 0.5
                self.wait = 0

        def get_state(self) -> dict[str, Any]:
            return {"best": self.best, "wait": self.wait}

        def set_state(self, state: Any) -> None:
            self.best, self.wait = state["best"], state["wait"]

    if dies:
        die_at(dies)
    set_random_seed(7)
    rng = np.random.default_rng(3)
    y = rng.integers(0, 10, 2000)
    x = rng.random((2000, 12, 12, 1), np.float32) + y[:, None, None, None] / 10
    model = Sequential(
        [
            Input((12, 12, 1)),
            Conv2D(8, 3, activation="relu"),
            MaxPooling2D(2),
            BatchNormalization(),
            Dropout(0.3),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile(Adam(0.02), "sparse_categorical_crossentropy")
    callbacks = [BackupAndRestore(folder / "backup"), Slower(), Tell()]
    history = model.fit(
        x, y, 16, epochs=EPOCHS, verbose=0, validation_split=0.1, callbacks=callbacks
    )
    weights = {f"weight {n}": array for n, array in enumerate(model.get_weights())}
    figures = {name: np.array(values) for name, values in history.history.items()}
    np.savez(folder / "result.npz", epoch=history.epoch, **weights, **figures)


def die_at(moment: str) -> None:
    """Make this process kill itself at the third backup: when a function is called or has been."""
    import os
    import signal

    when, _, name = moment.partition(" ")
    owner = {"fsync": os, "replace": Path}[name]
    original, calls = getattr(owner, name), 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        last = calls == (5 if name == "fsync" else 3)  # file and folder are flushed each time
        if last and when == "within":  # as if half had been written
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        result = None if last and when != "after" else original(*arguments)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


@dataclass
class Report:
    """What became of the trainings."""

    kills: int = 0
    within_backups: int = 0
    trainings: int = 0
    processes: int = 0
    faults: list[str] = field(default_factory=list)


class Training:
    """One training in a folder, as often begun again as need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[list[int]] = []
        """The epochs that each process began."""

    def run(self, *, seconds: float | None = None, dies: str = "") -> bool:
        """Begin or go on, for so many seconds after training began; returns whether it ended."""
        command = [sys.executable, __file__, "--train", str(self.folder), "--dies", dies]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            start = time.perf_counter()
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
        self.seconds = time.perf_counter() - start
        self.begun.append([int(epoch) for epoch in (first + out).split()])
        if process.returncode not in (0, -9):
            raise RuntimeError(f"the training ended with {process.returncode}")
        return process.returncode == 0

    def faults(self, expected: dict[str, Any]) -> list[str]:
        """What is not as it should be."""
        found = []
        begun = [epochs for epochs in self.begun if epochs]
        for (*_, killed), (after, *_) in itertools.pairwise(begun):
            # One that was killed when it had trained, but not ended, has no backup any more.
            anew = after == 0 and killed == EPOCHS - 1
            if after not in (killed, killed + 1) and not anew:
                found.append(f"killed in epoch {killed}, went on with {after}")
        got = result(self.folder)
        if got.keys() != expected.keys():
            found.append(f"results are {sorted(got)}")
        found += [
            f"{name} differs"
            for name in got.keys() & expected.keys()
            if got[name].tobytes() != expected[name].tobytes()
        ]
        left = sorted(path.name for path in self.folder.iterdir())
        if left != ["result.npz"]:
            found.append(f"left behind: {left}")
        return found


def result(folder: Path) -> dict[str, Any]:
    with np.load(folder / "result.npz") as file:
        return dict(file)


def undisturbed(folder: Path) -> tuple[dict[str, Any], float]:
    """What the training comes to if nobody kills it, and the seconds from its first epoch on."""
    folder.mkdir()
    training = Training(folder)
    if not training.run():
        raise RuntimeError("the training was killed")
    return result(folder), training.seconds


def kill(kills: int, seed: int, folder: Path) -> Report:
    """Kill trainings so many times, each within half of what it takes after it began or went on."""
    rng, report = random.Random(seed), Report()
    expected, seconds = undisturbed(folder / "undisturbed")
    while report.kills < kills or report.trainings == 0:
        training = Training(folder / str(report.trainings))
        training.folder.mkdir()
        while True:
            report.processes += 1
            left = report.kills < kills
            if training.run(seconds=rng.uniform(0, seconds / 2) if left else None):
                break
            report.kills += 1
            report.within_backups += any((training.folder / "backup").glob(".*"))
        report.trainings += 1
        report.faults += [f"training {report.trainings}: {it}" for it in training.faults(expected)]
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings and compare what they come to.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dies", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.dies)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = kill(options.kills, options.seed, Path(folder))
    print(
        f"{report.kills} kills of {report.processes} processes, {report.within_backups} of them "
        f"while a backup was written; {report.trainings} trainings of {EPOCHS} epochs ended; "
        f"{len(report.faults)} faults"
    )
    print(*report.faults, sep="\n", end="\n" if report.faults else "")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
