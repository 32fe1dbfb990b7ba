"""What `cnnrs bench accuracy` does: train by a recipe once for each seed, and judge each model."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from cnnrs._config import get_num_threads
from cnnrs._files import atomic_path
from cnnrs.datasets import load
from cnnrs.recipes import load as load_recipe
from cnnrs.utils import set_random_seed

CLASSES = 10


def run(
    *,
    recipe: str,
    data: str,
    seeds: int,
    epochs: int | None = None,
    json_file: Path | None = None,
) -> None:
    """Train once for each seed from 0 on, and print accuracy and time of each and of all.

    The time of a training is that of `fit` alone, and in all that of drawing the weights and of the
    predictions too; reading the data is in neither.

    Args:
        recipe: what `cnnrs.recipes.load` takes.
        data: what `cnnrs.datasets.load` takes.
        seeds: how many, at least 1.
        epochs: in place of the recipe's own.
        json_file: also written to, if given.

    Raises:
        DatasetError: if the data cannot be had.
        ValueError: if there is no such recipe, or it does not fit the images.
        OSError: if the file cannot be written.
    """
    make = load_recipe(recipe)
    dataset = load(data)
    x_train, x_test = dataset.x_train[..., None], dataset.x_test[..., None]
    print(f"Data: {dataset.origin}")
    print(f"Recipe {recipe}, {get_num_threads()} threads")
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        start = time.perf_counter()
        set_random_seed(seed)
        wanted = {} if epochs is None else {"epochs": epochs}
        made = make(x_train.shape[1:], CLASSES, len(x_train), **wanted)
        begin = time.perf_counter()
        made.model.fit(
            x_train,
            dataset.y_train,
            batch_size=made.batch_size,
            epochs=made.epochs,
            verbose=0,
            callbacks=list(made.callbacks),
        )
        seconds = time.perf_counter() - begin
        accuracy = float((made.model.predict_classes(x_test) == dataset.y_test).mean())
        in_all = time.perf_counter() - start
        rows.append({"seed": seed, "accuracy": accuracy, "seconds": seconds, "in_all": in_all})
        print(f"seed {seed}: {accuracy:.2%} in {seconds:.2f} s of training, {in_all:.2f} s in all")
    accuracies = [row["accuracy"] for row in rows]
    seconds = statistics.median(row["seconds"] for row in rows)
    images = len(x_train) * made.epochs
    spread = f", standard deviation {statistics.stdev(accuracies):.2%}" if seeds > 1 else ""
    print(
        f"mean {statistics.mean(accuracies):.2%}{spread}, worst {min(accuracies):.2%}; "
        f"median {seconds:.2f} s of training, {images / seconds:,.0f} images/s"
    )
    if json_file is not None:
        with atomic_path(json_file) as path:
            report = {"recipe": recipe, "data": dataset.origin, "threads": get_num_threads()}
            path.write_text(json.dumps(report | {"runs": rows}, indent=2) + "\n")
