"""What `cnnrs train` does: read the data, train, report, and leave the results in a folder."""

import contextlib
import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import __version__, recipes, saving
from cnnrs._files import atomic_path, check_writable, remove_left_over
from cnnrs._progress import can_show_a_bar
from cnnrs._scores import Scores, check_test_images, class_count, probabilities
from cnnrs.callbacks import BackupAndRestore
from cnnrs.callbacks._base import Callback, History, Logs
from cnnrs.callbacks._csv import ABSENT
from cnnrs.datasets import Dataset, load
from cnnrs.datasets._store import CLASSES
from cnnrs.models import Sequential
from cnnrs.utils import set_random_seed

if TYPE_CHECKING:
    from tqdm import tqdm

Array: TypeAlias = npt.NDArray[Any]

TUTORIAL = "tutorial"
"""The recipe that has a report of its own."""

MODEL, HISTORY, REPORT = "model.safetensors", "history.csv", "report.json"
PICTURES = ("history.png", "confusion.png", "mistakes.png")

BACKUP, OPTIONS = "backup", "options.json"
"""A folder in that of the results, until they are there, and a file in it."""

REPORTS = 10
LEAST_REPORT = 100
"""Reports an epoch, and the fewest steps between two: the tutorial's number."""

MOVES = 10
"""How often the progress bar moves between two reports."""


def run(
    *,
    data: str,
    recipe: str = "tutorial",
    limit: int | None = None,
    epochs: int | None = None,
    learn_rate: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
) -> History:
    """Train by a recipe, report, and write the results.

    The tutorial's network has the tutorial's kind of report; others have that of `fit`.

    Args:
        data: what `cnnrs.datasets.load` takes.
        recipe: what `cnnrs.recipes.load` takes.
        limit: how many training images to use, the first ones; all by default.
        epochs: times that every training image is learnt from; the recipe's by default.
        learn_rate: the learning rate of the tutorial's recipe, 0.005 by default; others have none.
        seed: of the initial weights and the order of the images; the same seed gives the same
            weights on the same type of machine.
        out: a folder for `model.safetensors`, `history.csv`, `report.json` and, if matplotlib is
            installed, `history.png`, `confusion.png` and `mistakes.png`; it is made if need be, and
            files of these names are replaced. Until they are there, it holds a backup.
        resume: whether to go on with the training that was cut off there; if there was none, one
            begins, unless there are the results of another.

    Returns:
        The history of the training, judged by the test images.

    Raises:
        DatasetError: if the data cannot be had.
        RecipeError: if a recipe of the user's own fails, or does not fit the images.
        ValueError: if there is no such recipe, the images do not fit it, there are none to judge
            by, or the folder has the backup of a training that is not to be gone on with, or had
            other options.
        OSError: if the folder cannot be written; this is found out before training.

    Warns:
        RuntimeWarning: if the loss, or the test loss, is not finite; training goes on.
    """
    make = recipes.load(recipe, data)
    if learn_rate is not None and recipe != TUTORIAL:
        raise ValueError(f"--lr: expected none for the recipe {recipe}, which has its own")
    dataset = _dataset(data, limit)
    set_random_seed(seed)
    made = _made(make, recipe, dataset, epochs)
    if learn_rate is not None and made.model.optimizer is not None:
        made.model.optimizer.learning_rate = learn_rate
    backup = None
    if out is not None:
        _check_model(recipe, made.model)
        _check_folder(out)
        options = {"data": data, "recipe": recipe, "limit": limit, "lr": learn_rate, "seed": seed}
        backup = _backup(out / BACKUP, options, resume)
    epochs_logs = _EpochsLogs()
    callbacks = [*([] if backup is None else [backup]), *made.callbacks, epochs_logs]
    try:
        with recipes.naming_line(recipe):
            if recipe == TUTORIAL:
                history = _fit_tutorial(made, dataset, seed, callbacks)
            else:
                print(f"Recipe {recipe}, seed {seed}, {made.model.dtype}")
                history = _fit(made, dataset, callbacks)
    except BaseException:
        if backup is not None and not backup._path.exists():
            backup.forget()  # Nothing can go on from its folder alone.
        raise
    if out is not None and backup is not None:
        images = len(dataset.x_train)
        facts = {"data": dataset.origin, "images": images, "recipe": recipe, "seed": seed}
        _write(out, made.model, epochs_logs.all, dataset, facts)
        backup.forget()
    return history


def _dataset(data: str, limit: int | None) -> Dataset:
    """The images to train on, no more than `limit`, and to judge by."""
    dataset = load(data)
    print(f"Data: {dataset.origin}")
    check_test_images(dataset)
    if limit is None or limit >= len(dataset.x_train):
        return dataset
    print(f"      of which the first {limit:,} training images")
    return dataset._replace(x_train=dataset.x_train[:limit], y_train=dataset.y_train[:limit])


def _made(make: recipes.Make, recipe: str, dataset: Dataset, epochs: int | None) -> recipes.Recipe:
    """What a recipe makes for these images, and for so many epochs or its own; a built model."""
    images, height, width = dataset.x_train.shape
    wanted = {} if epochs is None else {"epochs": epochs}
    try:
        return make((height, width, 1), CLASSES, images, **wanted)
    except ValueError as error:  # of a recipe of ours; that of a user's file is a `RecipeError`
        why = f"images of {height}x{width} pixels do not fit the recipe {recipe}: {error}"
        raise ValueError(why) from error


def _check_model(recipe: str, model: Sequential) -> None:
    """Refuse a model of which no results could be written, before it is trained."""
    class_count(recipe, model)
    try:
        saving.describe(model.__getstate__())
    except ValueError as error:
        raise ValueError(f"{recipe}: {error}") from error


def _check_folder(out: Path) -> None:
    """Make the folder, and refuse it if results cannot be written there, before there are any."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        why = "expected a folder or a new name, found something else"
        raise FileExistsError(error.errno, why, str(out)) from error
    for name in (MODEL, HISTORY, REPORT, *PICTURES):
        check_writable(out / name)
        remove_left_over(out / name)


def _fit(made: recipes.Recipe, dataset: Dataset, callbacks: list[Callback]) -> History:
    """Train with the report of `fit`."""
    return made.model.fit(
        dataset.x_train,
        dataset.y_train,
        batch_size=made.batch_size,
        epochs=made.epochs,
        callbacks=callbacks,
        validation_data=(dataset.x_test, dataset.y_test),
    )


def _fit_tutorial(
    made: recipes.Recipe, dataset: Dataset, seed: int, callbacks: list[Callback]
) -> History:
    """Train with the tutorial's kind of report."""
    from tqdm import tqdm

    model, images = made.model, len(dataset.x_train)
    assert model.optimizer is not None
    rate = model.optimizer.learning_rate
    assert isinstance(rate, float)
    print(f"SGD, one image a step, learning rate {rate:g}, seed {seed}, {model.dtype}")
    move = math.ceil(max(LEAST_REPORT, images / REPORTS) / MOVES)
    model.steps_per_execution = move
    hidden = not can_show_a_bar(sys.stderr)
    with tqdm(total=made.epochs * images, unit=" images", leave=False, disable=hidden) as bar:
        return model.fit(
            dataset.x_train,
            dataset.y_train,
            batch_size=made.batch_size,
            epochs=made.epochs,
            verbose=0,
            callbacks=[*callbacks, _Report(bar, move * MOVES)],
            validation_data=(dataset.x_test, dataset.y_test),
        )


class _Backup(BackupAndRestore):
    """Stays until the results are written, and has its training's options beside it."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        super().__init__(folder, delete_checkpoint=False)
        self._options = options

    def _after_epoch_end(self, callbacks: Sequence[Callback], epoch: int) -> None:
        file = self.backup_dir / OPTIONS
        if not file.exists():  # before the first epoch, or another training has deleted it
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path:
                path.write_text(json.dumps(self._options), "utf-8")
        super()._after_epoch_end(callbacks, epoch)

    def forget(self) -> None:
        """Delete the backup and the options, and the folder if it is empty then."""
        for file in (self._path, self.backup_dir / OPTIONS):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.backup_dir.rmdir()


def _backup(folder: Path, options: dict[str, Any], resume: bool) -> _Backup:
    """What backs a training with these options up, and goes on with the last one if it shall.

    The folder may be the user's own, with other files.
    """
    file = folder / OPTIONS
    backup = _Backup(folder, options)
    found = _options(file, options) if file.exists() else None
    if found is None and backup._path.exists():
        raise ValueError(
            f"{backup._path}: expected no such file without {OPTIONS} beside it, got one; delete "
            f"it, or choose another folder"
        )
    if resume and found is not None:
        if found != options:
            was, now = _other_options(found, options), _other_options(options, found)
            raise ValueError(
                f"--resume: expected the options of the training in {folder}, {was}, got {now}"
            )
        return backup
    if resume:
        out = folder.parent
        if finished := [name for name in (MODEL, HISTORY, REPORT) if (out / name).exists()]:
            raise ValueError(
                f"--resume: expected a training that was cut off in {out}, found the "
                f"{finished[0]} of one that was not; without --resume, it is replaced"
            )
        print(f"      no training was cut off in {out}; this one begins anew")
    elif backup._path.exists():
        raise ValueError(
            f"{backup._path}: expected no training that was cut off, found one; --resume goes on "
            f"with it; to begin anew, delete the file"
        )
    if folder.exists():
        remove_left_over(file)
        file.unlink(missing_ok=True)
    return backup


def _options(file: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Those that a training has left; the file of somebody else is refused."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError(
            f"{file}: expected the options of a training that was cut off, or no such file, got "
            f"another; delete it, or choose another folder"
        )
    return found


def _other_options(options: dict[str, Any], others: dict[str, Any]) -> str:
    """Those that the others do not have, as one would type them."""
    return " ".join(
        f"no --{name}" if value is None else f"--{name} {value}"
        for name, value in options.items()
        if name not in others or value != others[name]
    )


class _Report(Callback):
    """Prints the tutorial's kind of lines, through the progress bar, so that it makes way."""

    def __init__(self, bar: "tqdm[Any]", every: int) -> None:
        self._bar = bar
        self._every = every

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        assert self.params is not None
        self._steps = self.params["steps"]
        self._bar.write(f"\nEpoch {epoch + 1}/{self.params['epochs']}")
        self._shown = 0  # by the bar
        self._told = (0, 0.0, 0)  # by the last line: steps, sum of the losses, how many were right
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        done = batch + 1
        self._bar.update(done - self._shown)
        self._shown = done
        if done == self._steps:
            self._seconds = time.perf_counter() - self._start
        if done % self._every == 0 or done == self._steps:
            total = (done, logs["loss"] * done, round(logs["accuracy"] * done))
            steps, loss, right = (
                now - before for now, before in zip(total, self._told, strict=True)
            )
            self._told = total
            self._bar.write(f"Step {done:>6,} | {_columns(loss / steps, right / steps)}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        self._bar.write(
            f"Test        | {_columns(logs['val_loss'], logs['val_accuracy'])} | "
            f"{self._steps:,} steps in {self._seconds:.2f} s, "
            f"{self._seconds / self._steps * 1e6:.1f} us each"
        )


class _EpochsLogs(Callback):
    """Remembers each epoch's figures apart, as some epochs may have other names than others."""

    def __init__(self) -> None:
        self.all: list[Logs] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.all.append(dict(logs or {}))

    def get_state(self) -> dict[str, Any]:
        return {"all": self.all}

    def set_state(self, state: dict[str, Any]) -> None:
        self.all = state["all"]


def _columns(loss: float, accuracy: float) -> str:
    return f"Average loss {loss:.3f} | Accuracy {accuracy:7.2%}"


def _write(
    out: Path, model: Sequential, epochs: list[Logs], dataset: Dataset, facts: dict[str, Any]
) -> None:
    """Write the results, `epochs` being each epoch's figures, and say what they are."""
    model.save(out / MODEL)
    names = list(dict.fromkeys(name for logs in epochs for name in logs))
    with atomic_path(out / HISTORY) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *names])
        for n, logs in enumerate(epochs):
            writer.writerow([n + 1, *(logs.get(name, ABSENT) for name in names)])
    outputs = model.predict(dataset.x_test)
    report = {
        "cnnrs": __version__,
        **facts,
        "epochs": len(epochs),
        "parameters": model.count_params(),
        "test": Scores.of(dataset.y_test, outputs).report(),
    }
    with atomic_path(out / REPORT) as path:
        path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    drawn, why_not = _draw(out, model, _curves(epochs, names), dataset, outputs)
    for name in set(PICTURES) - set(drawn):
        (out / name).unlink(missing_ok=True)  # It would be another training's.
    *most, last = (MODEL, HISTORY, REPORT, *drawn)
    written = f"{', '.join(most)} and {last}{why_not}"
    print(f"\nWrote {written} to {out}")


def _curves(epochs: list[Logs], names: list[str]) -> dict[str, list[float]]:
    """The figures that are numbers, by their names, with NaN for the epochs that have none."""
    curves = {name: [logs.get(name, math.nan) for logs in epochs] for name in names}
    return {
        name: curve
        for name, curve in curves.items()
        if all(isinstance(figure, Real) for figure in curve)
    }


def _draw(
    out: Path,
    model: Sequential,
    curves: dict[str, list[float]],
    dataset: Dataset,
    outputs: Array,
) -> tuple[list[str], str]:
    """Write the pictures, and return the names of those there are, and why there are no others."""
    try:
        from cnnrs import plotting
    except ModuleNotFoundError as error:
        return [], f" (no pictures: {error.name} is not installed)"
    true = dataset.y_test
    figures = [plotting.training_curves(curves)]
    why_not = ""
    if not np.isfinite(outputs).all():
        why_not = "the model predicts NaN"
    else:
        figures.append(plotting.confusion_matrix(true, outputs.argmax(axis=1)))
        likely = probabilities(model, outputs)
        if likely is None:
            why_not = "the model's outputs are neither probabilities nor its loss's logits"
        else:
            figures.append(plotting.mistakes(dataset.x_test, true, likely))
    drawn, left_out = PICTURES[: len(figures)], PICTURES[len(figures) :]
    for name, figure in zip(drawn, figures, strict=True):
        with atomic_path(out / name) as path:
            figure.savefig(path)
    return list(drawn), f" (no {' and no '.join(left_out)}: {why_not})" if left_out else ""
