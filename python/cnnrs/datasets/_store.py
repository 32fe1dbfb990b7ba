"""Where a data set's four IDX files come from: a user's folder, the cache, a mirror, the sample."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _idx
from ._idx import DatasetError

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

SAMPLE = files(__package__) / "sample"
CLASSES = 10
"""Of MNIST, of Fashion-MNIST, and so of every folder in their format."""

TIMEOUT = (5, 30)
"""Seconds to wait for a mirror to answer at all, and for each next piece of a file."""

Bytes = npt.NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]
Find = Callable[[str], Traversable]
"""From the name of one of the four files, without `.gz`, to the file."""


class Dataset(NamedTuple):
    """Images and labels for training and testing, and one line on where they came from.

    `x_train` and `x_test` are uint8 arrays (n, height, width), `y_train` and `y_test` uint8 arrays
    (n,) with labels from 0 to 9.

    Example:
        >>> from cnnrs.datasets import load
        >>> load("mnist-sample").x_test.shape
        (1000, 28, 28)
    """

    x_train: Bytes
    y_train: Bytes
    x_test: Bytes
    y_test: Bytes
    origin: str


class Unavailable(DatasetError):
    """No folder holds the data set and no mirror gave it; `why` is the message without advice."""

    why: str


@dataclass
class Source:
    """A published data set: its folder's name, its title, and who has its files.

    `sha256` is that of each `.gz` file as the mirrors have it: other copies hold the same data
    compressed differently, so a user's own files are not held against it.
    """

    name: str
    title: str
    mirrors: Sequence[str]
    sha256: Mapping[str, str]
    has_sample: bool = False

    def train_images(self, source: str = "auto") -> Bytes:
        """Read the training images.

        Args:
            source: `"auto"` for the full data set, from `$CNNRS_DATA`, the cache or a download;
                `"sample"` for the sample that comes with the package (MNIST only).

        Returns:
            uint8 array (60000, 28, 28), 0 for background to 255; (5000, 28, 28) for the sample.

        Raises:
            DatasetError: if the file is missing, damaged, or cannot be downloaded.
            ValueError: if `source` is none of the above.

        Example:
            >>> from cnnrs.datasets import mnist
            >>> mnist.train_images("sample").shape
            (5000, 28, 28)
        """
        return read_images(self._open(source)[1](TRAIN_IMAGES))

    def train_labels(self, source: str = "auto") -> Bytes:
        """Read the training images' labels.

        Args:
            source: `"auto"` or `"sample"`, as for `train_images`.

        Returns:
            uint8 array (60000,) of labels from 0 to 9; (5000,) for the sample.

        Raises:
            DatasetError: if the file is missing, damaged, or cannot be downloaded.
            ValueError: if `source` is none of the above.

        Example:
            >>> from cnnrs.datasets import mnist
            >>> mnist.train_labels("sample")[:5].tolist()
            [5, 0, 4, 1, 9]
        """
        return read_labels(self._open(source)[1](TRAIN_LABELS))

    def test_images(self, source: str = "auto") -> Bytes:
        """Read the test images.

        Args:
            source: `"auto"` or `"sample"`, as for `train_images`.

        Returns:
            uint8 array (10000, 28, 28), 0 for background to 255; (1000, 28, 28) for the sample.

        Raises:
            DatasetError: if the file is missing, damaged, or cannot be downloaded.
            ValueError: if `source` is none of the above.

        Example:
            >>> from cnnrs.datasets import mnist
            >>> mnist.test_images("sample").dtype
            dtype('uint8')
        """
        return read_images(self._open(source)[1](TEST_IMAGES))

    def test_labels(self, source: str = "auto") -> Bytes:
        """Read the test images' labels.

        Args:
            source: `"auto"` or `"sample"`, as for `train_images`.

        Returns:
            uint8 array (10000,) of labels from 0 to 9; (1000,) for the sample.

        Raises:
            DatasetError: if the file is missing, damaged, or cannot be downloaded.
            ValueError: if `source` is none of the above.

        Example:
            >>> from cnnrs.datasets import mnist
            >>> mnist.test_labels("sample")[:5].tolist()
            [7, 2, 1, 0, 4]
        """
        return read_labels(self._open(source)[1](TEST_LABELS))

    def load_data(self, source: str = "auto", *, path: None = None) -> tuple[Pair, Pair]:
        """Read images and labels for training and testing, in the order that Keras gives them.

        Args:
            source: `"auto"` or `"sample"`, as for `train_images`.
            path: None alone. Keras's names a file in its cache; here `$CNNRS_DATA` names a folder.

        Returns:
            `(x_train, y_train), (x_test, y_test)`: uint8 arrays (60000, 28, 28), (60000,),
            (10000, 28, 28), (10000,); 5,000 and 1,000 images for the sample.

        Raises:
            DatasetError: if a file is missing, damaged, or cannot be downloaded, or if two files
                do not go together.
            ValueError: if an argument is none of the above.

        Example:
            >>> from cnnrs.datasets import mnist
            >>> (x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
            >>> x_train.shape, y_test.shape
            ((5000, 28, 28), (1000,))
        """
        if path is not None:
            raise ValueError(f"path of {self.title}: expected None, got {path!r}. {self._advice()}")
        data = self.load(source)
        return (data.x_train, data.y_train), (data.x_test, data.y_test)

    def load(self, source: str = "auto") -> Dataset:
        """Read the data set as `load_data` does, with a line on where it came from."""
        folder, find = self._open(source)
        data = read_all(find)
        if source == "sample":
            return data._replace(
                origin=f"the bundled sample of {self.title}: the first {_count(data)}"
            )
        return data._replace(origin=f"{self.title}, {_count(data)}, from {folder}")

    def _open(self, source: str) -> tuple[Traversable, Find]:
        if source == "sample" and self.has_sample:
            return SAMPLE, partial(find_in, SAMPLE)
        if source != "auto":
            expected = '"auto" or "sample"' if self.has_sample else '"auto"'
            raise ValueError(
                f"source of {self.title}: expected {expected}, got {source!r}. {self._advice()}"
            )
        if own := os.environ.get("CNNRS_DATA"):
            folder = Path(own).expanduser() / self.name
            if folder.is_dir():
                return folder, partial(find_in, folder)
        import pooch  # type: ignore[import-untyped]

        cache = pooch.os_cache("cnnrs") / self.name
        return cache, partial(self._fetch, cache)

    def _fetch(self, cache: Path, name: str) -> Path:
        """Find a file in the cache, its checksum right, or download it there."""
        import pooch

        zipped = f"{name}.gz"
        bar = sys.stderr is not None and sys.stderr.isatty()
        download = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT)
        failures = []
        for mirror in self.mirrors:
            try:
                url, known = mirror + zipped, self.sha256[name]
                return Path(pooch.retrieve(url, known, zipped, cache, downloader=download))
            except ValueError as error:
                failures.append(f"{mirror}: {error}")
            except OSError as error:
                # A download's own errors are OSErrors too, but none of the system's, with a number.
                if error.errno is not None or isinstance(error, PermissionError):
                    raise DatasetError(
                        f"the cache folder {cache} cannot be used: {error}. {self._advice()}"
                    ) from error
                answered = getattr(error, "response", None) is not None
                failures.append(f"{mirror}: {error if answered else type(error).__name__}")
        own = os.environ.get("CNNRS_DATA")
        elsewhere = f"CNNRS_DATA={own} has no folder {self.name}, " if own else ""
        failed = f"{cache} has no sound {zipped}, and its download failed ({'; '.join(failures)})"
        unavailable = Unavailable(f"no {self.title} here: {elsewhere}{failed}. {self._advice()}")
        unavailable.why = elsewhere + failed
        raise unavailable

    def _advice(self) -> str:
        sample = ', or take the bundled sample: load_data("sample")' if self.has_sample else ""
        return (
            f"Put the four files into a folder {self.name}/ and set CNNRS_DATA to the folder "
            f"that holds it{sample}"
        )


def load_folder(folder: Path) -> Dataset:
    """Read the four files of a folder, gzipped or not."""
    data = read_all(partial(find_in, folder))
    return data._replace(origin=f"{_count(data)}, from {folder}")


def find_in(folder: Traversable, name: str) -> Traversable:
    """Find one of the four files in a folder, gzipped or not."""
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise DatasetError(f"{folder}: expected a file {name}.gz or {name}, found neither")


def read_images(path: Traversable) -> Bytes:
    """Read a file of images into a uint8 array (n, height, width)."""
    return _idx.read(path, ndim=3)


def read_labels(path: Traversable) -> Bytes:
    """Read a file of labels from 0 to 9 into a uint8 array (n,)."""
    labels = _idx.read(path, ndim=1)
    wrong = np.flatnonzero(labels >= CLASSES)
    if wrong.size:
        raise DatasetError(
            f"{path}: expected labels from 0 to {CLASSES - 1}, "
            f"found {labels[wrong[0]]} at position {wrong[0]}"
        )
    return labels


def read_all(find: Find) -> Dataset:
    """Read the four files, check that they go together, and leave the origin empty."""
    x_train, y_train = _read_pair(find(TRAIN_IMAGES), find(TRAIN_LABELS))
    x_test, y_test = _read_pair(test_path := find(TEST_IMAGES), find(TEST_LABELS))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DatasetError(
            f"{test_path}: expected images of the training images' height and width "
            f"{x_train.shape[1:]}, found {x_test.shape[1:]}"
        )
    return Dataset(x_train, y_train, x_test, y_test, origin="")


def _read_pair(images_path: Traversable, labels_path: Traversable) -> Pair:
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        raise DatasetError(
            f"{labels_path}: expected {len(images):,} labels, as many as {images_path.name} "
            f"has images, found {len(labels):,}"
        )
    return images, labels


def _count(data: Dataset) -> str:
    return f"{len(data.x_train):,} training and {len(data.x_test):,} test images"
