"""A data set of one's own: a folder that has a folder of pictures for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnnrs import images
from cnnrs._checks import as_path, choice, pair
from cnnrs.datasets._idx import DatasetError


def image_folder(
    folder: str | os.PathLike[str],
    image_size: int | Sequence[int] = (256, 256),
    color_mode: str = "rgb",
    class_names: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    """Read the pictures of a folder that has one subfolder for each class, named after it.

    Pictures are the PNG and JPEG files in a subfolder and in folders below it, sorted by path. All
    of them are held in memory, scaled as `cnnrs.images.load` does it. Other files, and what begins
    with a dot, are left aside.

    Args:
        folder: the folder.
        image_size: height and width to scale every picture to, or one number for both; 256 by
            default.
        color_mode: `"rgb"` (default) or `"grayscale"`.
        class_names: the subfolders' names in the order of their class numbers; None (default) for
            all of them, sorted.

    Returns:
        `(x, y, class_names)`: a uint8 array (n, h, w, 3) or (n, h, w, 1), an int64 array (n,) of
        class numbers, and the classes' names, all pictures of the first class first.

    Raises:
        DatasetError: if there is no such folder, it has no subfolders or others than
            `class_names`, a subfolder has no picture, or a file is no whole picture.
        ModuleNotFoundError: if Pillow is not installed.
        TypeError: if a size is no integer, or the folder no path.
        ValueError: if the folder's path is empty, or an argument is none of the above.

    Reference: `keras.utils.image_dataset_from_directory`, with the whole data set in one batch and
    not shuffled.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from cnnrs.datasets import image_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, shade in ("day", "white"), ("night", "black"):
        ...         Path(folder, name).mkdir()
        ...         Image.new("RGB", (40, 30), shade).save(Path(folder, name, "sky.png"))
        ...     x, y, class_names = image_folder(folder, (6, 8), "grayscale")
        >>> x.shape, x[:, 0, 0, 0], y, class_names
        ((2, 6, 8, 1), array([255,   0], dtype=uint8), array([0, 1]), ['day', 'night'])
    """
    height, width = pair("image_size", image_size)
    channels = images.CHANNELS[choice("color_mode", color_mode, list(images.CHANNELS))]
    root = as_path("folder", folder)
    names = _classes(root, class_names)
    files = [_files(root / name) for name in names]
    x = np.empty((sum(map(len, files)), height, width, channels), np.uint8)
    for n, file in enumerate(file for part in files for file in part):
        try:
            x[n] = images.load(file, (height, width), color_mode)
        except ValueError as error:
            raise DatasetError(str(error)) from error
    y = np.repeat(np.arange(len(names), dtype=np.int64), [len(part) for part in files])
    return x, y, names


def _classes(root: Path, wanted: Sequence[str] | None) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    if not root.is_dir():
        raise DatasetError(f"{root}: expected a folder, found none")
    found = sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not found:
        raise DatasetError(f"{root}: expected a subfolder for each class, found none")
    if wanted is None:
        return found
    if isinstance(wanted, str) or sorted(wanted) != found:
        raise DatasetError(
            f"{root}: expected a subfolder for each of class_names, {wanted!r}, found {found}"
        )
    return list(wanted)


def _files(folder: Path) -> list[Path]:
    """The pictures in and below a folder."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if images.is_picture(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DatasetError(f"{folder}: expected PNG or JPEG files, found none")
    return files
