"""Data sets of small images: MNIST, Fashion-MNIST, folders in their format, and own pictures."""

import os
from contextlib import suppress
from pathlib import Path

from . import fashion_mnist, mnist
from ._folder import image_folder
from ._idx import DatasetError
from ._store import Dataset, Unavailable, load_folder

__all__ = ["Dataset", "DatasetError", "fashion_mnist", "image_folder", "load", "mnist"]


def load(name_or_folder: str | os.PathLike[str]) -> Dataset:
    """Read a data set by its name, or from a folder.

    Unlike `mnist.load_data()`, `load("mnist")` makes do with the bundled sample where there is no
    MNIST and no network; `origin` then says so, and is meant to be shown.

    Args:
        name_or_folder: `"mnist"`, `"mnist-sample"`, `"fashion_mnist"`, or else a folder that holds
            the four IDX files under their usual names, gzipped or not: `train-images-idx3-ubyte`,
            `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`.

    Returns:
        A `Dataset`: x_train, y_train, x_test, y_test (uint8) and origin, one line of text.

    Raises:
        DatasetError: if a file is missing, damaged, or cannot be downloaded, if two files do not go
            together, or if there is no such name or folder.

    Example:
        >>> from cnnrs.datasets import load
        >>> load("mnist-sample").origin
        'the bundled sample of MNIST: the first 5,000 training and 1,000 test images'
    """
    if name_or_folder == "mnist-sample":
        return mnist.SOURCE.load("sample")
    if name_or_folder == "fashion_mnist":
        return fashion_mnist.SOURCE.load()
    if name_or_folder == "mnist":
        try:
            return mnist.SOURCE.load()
        except Unavailable as error:
            sample = mnist.SOURCE.load("sample")
            return sample._replace(origin=f"{sample.origin} (no full MNIST here: {error.why})")
    folder = Path(name_or_folder)
    with suppress(RuntimeError):  # no such user's home: then no such folder
        folder = folder.expanduser()
    if not os.fspath(name_or_folder) or not folder.is_dir():
        given = os.fspath(name_or_folder) or "''"
        raise DatasetError(
            f"{given}: expected mnist, mnist-sample, fashion_mnist or a folder of IDX files, found "
            f"no such folder"
        )
    return load_folder(folder)
