"""What the commands that take a finished model do: evaluate, predict, export, inspect."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import images
from cnnrs._files import printable
from cnnrs._scores import Scores, check_test_images, class_count, probabilities
from cnnrs.datasets import load
from cnnrs.layers import Rescaling
from cnnrs.models import Sequential
from cnnrs.saving import load_model

Array: TypeAlias = npt.NDArray[Any]

Scaling: TypeAlias = tuple[float, float] | None
"""A factor and a summand, if any, for what a model is fed in the place of pixels from 0 to 255."""

MNIST_SIZE = (28, 28)
"""Of the images that pictures are centred and scaled for."""

SHOWN = 2
"""Classes in a line of `predict`."""


def evaluate(model_file: Path, data: str, scaling: Scaling, as_json: bool) -> None:
    """Print how a model does on the test images of a data set, class by class.

    Args:
        model_file: from `Sequential.save` or `cnnrs train`.
        data: what `cnnrs.datasets.load` takes.
        scaling: for each pixel.
        as_json: whether to print JSON instead of a table.

    Raises:
        OSError: if a file is missing or cannot be read.
        ValueError: if the model is damaged, classifies nothing, or takes other images, or if there
            are none to judge it by.

    Warns:
        RuntimeWarning: if neither the model nor anyone else says how pixels are scaled.
    """
    model = _load(model_file)
    classes = class_count(model_file, model)
    dataset = load(data)
    check_test_images(dataset)
    if dataset.y_test.max() >= classes:
        raise ValueError(
            f"{model_file}: expected a model of at least {dataset.y_test.max() + 1} classes, "
            f"got one of {classes}"
        )
    outputs = _outputs(model_file, model, dataset.x_test, scaling)
    scores = Scores.of(dataset.y_test, outputs)
    if as_json:
        report = {"model": str(model_file), "data": dataset.origin, **scores.report()}
        print(json.dumps(report, indent=2))
        return
    print(f"Data: {dataset.origin}")
    print("class  precision   recall   images")
    columns = zip(scores.precision, scores.recall, scores.images, strict=True)
    for n, (precision, recall, count) in enumerate(columns):
        print(f"{n:>5}  {_percent(precision):>9}  {_percent(recall):>7}  {count:>7,}")
    nan = f", {scores.unpredicted:,} of which got NaN" if scores.unpredicted else ""
    print(f"accuracy {_percent(scores.accuracy)} of {scores.images.sum():,} images{nan}")


def predict(
    model_file: Path,
    paths: Sequence[Path],
    scaling: Scaling,
    as_json: bool,
    complain: Callable[[Exception], None],
) -> bool:
    """Print what a model takes pictures for.

    For a model of 28x28 grey images, pictures are made like MNIST's by `images.as_mnist`; for any
    other, they are scaled to its size.

    Args:
        model_file: from `Sequential.save` or `cnnrs train`.
        paths: PNG and JPEG files, and folders of them.
        scaling: for each pixel.
        as_json: whether to print JSON instead of a table.
        complain: called with the error of each file or folder that is missing or cannot be read;
            the others are classified all the same.

    Returns:
        Whether all pictures could be read.

    Raises:
        OSError: if the model's file is missing or cannot be read.
        ValueError: if the model is damaged, or does not make probabilities of pictures.

    Warns:
        RuntimeWarning: if neither the model nor anyone else says how pixels are scaled.
    """
    model = _load(model_file)
    classes = class_count(model_file, model)
    read = _reader(model_file, model)
    unread = 0
    pictures: list[tuple[Path, Array]] = []
    for path in paths:
        try:
            found = images.files(path)
        except (OSError, ValueError) as error:
            unread += 1
            complain(error)
            continue
        for file in found:
            try:
                pictures.append((file, read(file)))
            except (OSError, ValueError) as error:
                unread += 1
                complain(error)
    if pictures:
        pixels = np.stack([picture for _, picture in pictures])
        outputs = _outputs(model_file, model, pixels, scaling)
        likely = probabilities(model, outputs)
        if likely is None:
            raise ValueError(
                f"{model_file}: expected a model whose outputs are probabilities, from 0 to 1, or "
                f"are its loss's logits, got outputs from {np.nanmin(outputs):g} to "
                f"{np.nanmax(outputs):g}"
            )
        files = [path for path, _ in pictures]
        if as_json:
            print(json.dumps(list(_predictions(files, likely)), indent=2))
        else:
            _print_table(files, likely, min(SHOWN, classes))
    elif as_json:
        print("[]")
    return not unread


def export(model_file: Path, out: Path, input_dtype: str) -> None:
    """Write a model as an ONNX file.

    Raises:
        ModuleNotFoundError: if the package onnx is not installed.
        OSError: if a file cannot be read or written.
        ValueError: if the model is damaged, or `out` is no name of an ONNX file.
    """
    load_model(model_file).export(out, input_dtype=input_dtype)
    print(f"Wrote {out} ({out.stat().st_size:,} bytes)")


def inspect(model_file: Path) -> None:
    """Print what a model file holds: its layers, and how it was trained.

    Raises:
        OSError: if the file is missing or cannot be read.
        ValueError: if it is damaged.
    """
    model = load_model(model_file)
    model.summary()
    shape = model.input_shape if model.built else "of a shape that is not known yet"
    print(f" Input: {shape}, computed in {model.dtype}")
    if model.optimizer is not None:
        print(f" Optimizer: {model.optimizer!r}")
        print(f" Loss: {model.loss!r}")
    print(f" File: {model_file}, {model_file.stat().st_size:,} bytes")


def _load(model_file: Path) -> Sequential:
    """A model that can predict."""
    model = load_model(model_file)
    if not model.built:
        raise ValueError(f"{model_file}: expected a built model, got one without weights")
    return model


def _outputs(model_file: Path, model: Sequential, pixels: Array, scaling: Scaling) -> Array:
    """What a model makes of images of bytes."""
    if scaling is not None:
        factor, summand = scaling
        return model.predict(pixels.astype(model.dtype) * factor + summand)
    if not any(isinstance(layer, Rescaling) for layer in model.layers):
        warnings.warn(
            f"{model_file}: there is no Rescaling layer, so the model is given pixels from 0 to "
            "255; if it was trained on others, say how, as in --scale 1/255 --offset -0.5",
            RuntimeWarning,
            stacklevel=3,
        )
    return model.predict(pixels)


def _reader(model_file: Path, model: Sequential) -> Callable[[Path], Array]:
    """What makes of a file an image for the model."""
    shape = tuple(side for side in model.input_shape[1:] if side is not None)
    if shape in (MNIST_SIZE, (*MNIST_SIZE, 1)):
        return lambda path: images.read(path)[0].reshape(shape)
    modes = {1: "grayscale", 3: "rgb"}
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in modes:
        raise ValueError(
            f"{model_file}: expected a model of images (h, w), (h, w, 1) or (h, w, 3), got one of "
            f"inputs {shape}"
        )
    return lambda path: images.load(path, shape[:2], modes[channels]).reshape(shape)


def _predictions(files: Sequence[Path], probabilities: Array) -> Iterator[dict[str, Any]]:
    for path, row in zip(files, probabilities.astype(float).tolist(), strict=True):
        # JSON has no NaN.
        known = [None if math.isnan(probability) else probability for probability in row]
        best = None if None in known else int(np.argmax(row))
        yield {
            "file": str(path),
            "class": best,
            "probability": None if best is None else row[best],
            "probabilities": known,
        }


def _print_table(files: Sequence[Path], probabilities: Array, shown: int) -> None:
    names = [printable(path) for path in files]
    width = max(map(len, names))
    for name, row in zip(names, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:shown]
        figures = "   ".join(f"{n:>3} {_percent(row[n]):>7}" for n in best)
        print(f"{name:<{width}}  {'NaN' if np.isnan(row).any() else figures}")


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.2%}"
