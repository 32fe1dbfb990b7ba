"""What `cnnrs train` does: read the data, train, report, and leave the results in a folder."""

import csv
import math
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cnnrs import __version__
from cnnrs._files import atomic_path, check_writable
from cnnrs.datasets import load
from cnnrs.trainer import Score, Trainer, Weights

WEIGHTS, HISTORY, PICTURE = "weights.safetensors", "history.csv", "history.png"

REPORTS = 10
LEAST_REPORT = 100
"""Reports an epoch, and the fewest steps between two: the tutorial's number."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history; loss and accuracy are over the images as they were trained on."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


def run(
    *,
    data: str,
    limit: int | None = None,
    epochs: int = 3,
    learn_rate: float = 0.005,
    seed: int = 0,
    out: Path | None = None,
) -> list[Epoch]:
    """Train the tutorial's network, print the tutorial's kind of report, and write the results.

    Args:
        data: what `cnnrs.datasets.load` takes.
        limit: how many training images to use, the first ones; all by default.
        epochs: times that every training image is learnt from.
        learn_rate: the learning rate of plain gradient descent.
        seed: of the initial weights and the order of the images.
        out: a folder for `weights.safetensors`, `history.csv` and, if matplotlib is installed,
            `history.png`; it is made if need be, and files of these names are replaced.

    Returns:
        One entry an epoch.

    Raises:
        DatasetError: if the data cannot be had.
        OSError: if the folder cannot be written; this is found out before training.
    """
    dataset = load(data)
    print(f"Data: {dataset.origin}")
    if limit is not None and limit < len(dataset.x_train):
        dataset = dataset._replace(x_train=dataset.x_train[:limit], y_train=dataset.y_train[:limit])
        print(f"      of which the first {limit:,} training images")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, HISTORY, PICTURE):
            check_writable(out / name)  # Better to know now than after the training.
    trainer = Trainer(dataset, learn_rate=learn_rate, seed=seed)
    print(f"SGD, one image a step, learning rate {learn_rate:g}, seed {seed}, float32")

    history = []
    for epoch in range(1, epochs + 1):
        print(f"\nEpoch {epoch}/{epochs}")
        start = time.perf_counter()
        score = _train_epoch(trainer)
        seconds = time.perf_counter() - start
        test = trainer.test()
        print(
            f"Test        | {_columns(test)} | {score.images:,} steps in {seconds:.2f} s, "
            f"{seconds / score.images * 1e6:.1f} us each"
        )
        history.append(Epoch(epoch, score.loss, score.accuracy, test.loss, test.accuracy))
        if not math.isfinite(test.loss):
            print(
                f"cnnrs: warning: the test loss is {test.loss} after epoch {epoch}; "
                f"a learning rate below {learn_rate:g} may help",
                file=sys.stderr,
            )
    if out is not None:
        facts = {"data": dataset.origin, "seed": str(seed), "learn_rate": repr(learn_rate)}
        _write(out, history, trainer.weights, facts)
    return history


def _train_epoch(trainer: Trainer) -> Score:
    """Train one epoch with a progress bar, print its reports, and return the score of them all."""
    from tqdm import tqdm

    images = len(trainer.data.x_train)
    report_every = max(LEAST_REPORT, math.ceil(images / REPORTS))
    total, since_report = Score(), Score()
    # disable=None: no bar where standard error is not a terminal.
    with tqdm(total=images, unit=" images", leave=False, disable=None) as bar:
        for score in trainer.train_epoch(report_every):
            bar.update(score.images)
            total, since_report = total + score, since_report + score
            if since_report.images == report_every or total.images == images:
                # Through tqdm, so that the bar makes way for the line.
                tqdm.write(f"Step {total.images:>6,} | {_columns(since_report)}")
                since_report = Score()
    return total


def _columns(score: Score) -> str:
    return f"Average loss {score.loss:.3f} | Accuracy {score.accuracy:7.2%}"


def _write(out: Path, history: list[Epoch], weights: Weights, facts: dict[str, str]) -> None:
    from safetensors.numpy import save

    with atomic_path(out / WEIGHTS) as path:
        path.write_bytes(save(weights, metadata={"cnnrs": __version__, **facts}))
    with atomic_path(out / HISTORY) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in history)
    try:
        from cnnrs.plotting import training_curves
    except ModuleNotFoundError as error:
        (out / PICTURE).unlink(missing_ok=True)  # It would be another training's.
        written = f"{WEIGHTS} and {HISTORY} (no {PICTURE}: {error.name} is not installed)"
    else:
        figure = training_curves([asdict(epoch) for epoch in history])
        with atomic_path(out / PICTURE) as path:
            figure.savefig(path)
        written = f"{WEIGHTS}, {HISTORY} and {PICTURE}"
    print(f"\nWrote {written} to {out}")
