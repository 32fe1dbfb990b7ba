"""What `cnnrs bench accuracy` does: train by a recipe once for each seed, and judge each model.

The same can be done with PyTorch, in turn with cnnrs.
"""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cnnrs import _torch_training
from cnnrs._config import get_num_threads
from cnnrs._files import atomic_path, check_writable
from cnnrs._scores import check_test_images
from cnnrs._torch_training import TorchTraining
from cnnrs.datasets import Dataset, load
from cnnrs.datasets._store import CLASSES
from cnnrs.models import Sequential
from cnnrs.recipes import Make, Recipe, naming_line
from cnnrs.recipes import load as load_recipe
from cnnrs.utils import set_random_seed

ALONE = 0.9
"""The least share of the time that a training's process computes if no other program does: one
thread at least never rests."""

Row: TypeAlias = dict[str, Any]


def run(
    *,
    recipe: str,
    data: str,
    seeds: int,
    epochs: int | None = None,
    hold_out: int = 0,
    json_file: Path | None = None,
    peer: str | None = None,
    peer_seeds: int | None = None,
) -> None:
    """Train once for each seed from 0 on, and print accuracy and time of each and of all.

    The time of a training is that of `fit` alone, and in all that of drawing the weights and of the
    predictions too; reading the data is in neither.

    With a peer, each of cnnrs's trainings is followed by one of the peer's: by the same recipe,
    from the same weights, with as many threads, in the same process, so that a machine that gets
    slower meets both alike. If other programs took the processor meanwhile, a last line says so:
    PyTorch's threads wait for each other more often than ours, and lose far more.

    Args:
        recipe: what `cnnrs.recipes.load` takes.
        data: what `cnnrs.datasets.load` takes.
        seeds: how many, at least 1.
        epochs: in place of the recipe's own.
        hold_out: how many of the last training images to judge by, instead of the test images;
            they are not trained on. With 0, the default, all are. A recipe that was chosen by the
            test images would be judged too well by them.
        json_file: also written to, if given.
        peer: `"torch"` for PyTorch; None (default) for none.
        peer_seeds: how many of the seeds the peer trains with, at least 1; None (default) for all.

    Raises:
        DatasetError: if the data cannot be had.
        RecipeError: if a recipe of the user's own fails, or does not fit the images.
        ValueError: if there is no such recipe, it does not fit the images, no image is left to
            train on or to judge by, or the peer cannot follow it.
        ModuleNotFoundError: if the peer is not installed.
        OSError: if the file cannot be written.
    """
    beside = None if peer is None else f"PyTorch {_torch_training.version()}"
    if json_file is not None:
        check_writable(json_file)  # Better to know now than after the trainings.
    bench = _Bench(load_recipe(recipe, data), held_out(load(data), hold_out), epochs)
    print(f"Data: {bench.data.origin}")
    print(f"Recipe {recipe}, {get_num_threads()} threads{f'; beside {beside}' if beside else ''}")
    report: Row = {"recipe": recipe, "data": bench.data.origin, "held_out": hold_out}
    report["threads"] = get_num_threads()
    rows: list[Row] = []
    peer_rows: list[Row] = []
    if peer is None:
        with naming_line(recipe):
            for seed in range(seeds):
                rows.append(bench.ours(seed))
        print(bench.summary(rows))
        report["runs"] = rows
    else:
        with naming_line(recipe), _torch_training.threads(get_num_threads()):
            bench.check_peer()
            for seed in range(seeds):
                rows.append(bench.ours(seed, "cnnrs "))
                if peer_seeds is None or seed < peer_seeds:
                    peer_rows.append(bench.of_torch(seed))
        print(f"cnnrs: {bench.summary(rows)}")
        print(f"PyTorch: {bench.summary(peer_rows)}")
        times = _median_seconds(peer_rows) / _median_seconds(rows)
        print(f"cnnrs is {times:.1f} times as fast as PyTorch")
        if note := busy(rows + peer_rows):
            print(note)
        report |= {"runs": rows, "peer": beside, "peer_runs": peer_rows, "times_as_fast": times}
    if json_file is not None:
        with atomic_path(json_file) as path:
            path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def held_out(data: Dataset, images: int) -> Dataset:
    """The data with the last training images in place of the test images, if there are any."""
    if images == 0:
        check_test_images(data)
        return data
    x, y = data.x_train, data.y_train
    if images >= len(x):
        raise ValueError(
            f"--hold-out: expected fewer than the {len(x):,} training images, got {images:,}"
        )
    origin = f"{data.origin}; judged by the last {images:,} training images, trained on the others"
    return Dataset(x[:-images], y[:-images], x[-images:], y[-images:], origin)


class _Bench:
    """A recipe and the images, for one training after the other."""

    def __init__(self, make: Make, data: Dataset, epochs: int | None) -> None:
        self._make = make
        self.data = data
        self._x_train, self._x_test = data.x_train[..., None], data.x_test[..., None]
        self._epochs = {} if epochs is None else {"epochs": epochs}
        self._images = 0
        """What a whole training comes to, an image once for each epoch."""
        self._weights: list[Any] = []
        """What the last model of ours began with."""

    def ours(self, seed: int, name: str = "") -> Row:
        """Train a model, print how it went, and return that."""
        start = _Clock()
        made = self._made(seed)
        self._weights = made.model.get_weights()
        begin = _Clock()
        made.model.fit(
            self._x_train,
            self.data.y_train,
            batch_size=made.batch_size,
            epochs=made.epochs,
            verbose=0,
            callbacks=list(made.callbacks),
        )
        return self._judged(seed, name, made.model, start, begin)

    def of_torch(self, seed: int) -> Row:
        """The same with PyTorch, from the weights that the last model of ours began with."""
        start = _Clock()
        made = self._made(seed)
        made.model.set_weights(self._weights)
        training = TorchTraining(made.model, made.callbacks)
        begin = _Clock()
        training.fit(
            self._x_train,
            self.data.y_train,
            batch_size=made.batch_size,
            epochs=made.epochs,
            seed=seed,
        )
        return self._judged(seed, "PyTorch ", training, start, begin)

    def check_peer(self) -> None:
        """Refuse a recipe that PyTorch cannot follow, and say what it leaves out."""
        made = self._made(0)
        training = TorchTraining(made.model, made.callbacks)
        training.check(len(self._x_train), made.batch_size)
        if training.skipped:
            print(f"PyTorch trains without the recipe's {', '.join(training.skipped)}")

    def summary(self, rows: Sequence[Row]) -> str:
        """What some trainings came to."""
        accuracies = [row["accuracy"] for row in rows]
        several = len(rows) > 1
        spread = f", standard deviation {statistics.stdev(accuracies):.2%}" if several else ""
        seconds = _median_seconds(rows)
        return (
            f"mean {statistics.mean(accuracies):.2%}{spread}, worst {min(accuracies):.2%}; "
            f"median {seconds:.2f} s of training, {self._images / seconds:,.0f} images/s"
        )

    def _made(self, seed: int) -> Recipe:
        set_random_seed(seed)
        made = self._make(self._x_train.shape[1:], CLASSES, len(self._x_train), **self._epochs)
        self._images = len(self._x_train) * made.epochs
        return made

    def _judged(
        self,
        seed: int,
        name: str,
        model: Sequential | TorchTraining,
        start: "_Clock",
        begin: "_Clock",
    ) -> Row:
        """The accuracy of a model whose training has just ended, and how long it took."""
        seconds, cpu_seconds = begin.seconds(), begin.cpu_seconds()
        accuracy = float((model.predict_classes(self._x_test) == self.data.y_test).mean())
        in_all = start.seconds()
        print(
            f"seed {seed}: {name}{accuracy:.2%} in {seconds:.2f} s of training, "
            f"{in_all:.2f} s in all"
        )
        return {
            "seed": seed,
            "accuracy": accuracy,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "in_all": in_all,
        }


class _Clock:
    """What has gone by since it was made."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """By the clock on the wall."""
        return time.perf_counter() - self._start

    def cpu_seconds(self) -> float:
        """Of computing, all threads of this process taken together."""
        return time.process_time() - self._cpu_start


def busy(rows: Sequence[Row]) -> str | None:
    """A warning, if other programs took the processor from some of the trainings."""
    disturbed = sum(row["cpu_seconds"] < ALONE * row["seconds"] for row in rows)
    if not disturbed:
        return None
    return (
        f"Other programs took the processor from {disturbed} of {len(rows)} trainings: measure "
        f"again when the machine is idle"
    )


def _median_seconds(rows: Sequence[Row]) -> float:
    return statistics.median([float(row["seconds"]) for row in rows])
