"""Pictures in files, for models: PNG and JPEG, with Pillow (the extra `plots`).

`read` and `as_mnist` make of a drawn or photographed digit what MNIST's own images are; `load`
takes a picture as it is; `files` finds the pictures of a folder.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._arrays import real
from cnnrs._checks import as_path, choice, pair
from cnnrs._digit import LARGEST, from_grey

if TYPE_CHECKING:
    from types import ModuleType

    from PIL.Image import Image

__all__ = ["as_mnist", "files", "load", "read"]

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
PathLike: TypeAlias = str | os.PathLike[str]

SUFFIXES = (".jpeg", ".jpg", ".png")
CHANNELS = {"grayscale": 1, "rgb": 3}

OTHER_KINDS = {
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II\*\0|MM\0\*",
    "HEIC": rb".{4}ftyp(?:hei|hev|mif1)",
    "AVIF": rb".{4}ftypavi",
}
"""What files of pictures that are not read begin with, to name them."""
LONGEST_BEGIN = 12
"""Bytes that any of them looks at."""


def files(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Find the pictures that paths stand for.

    Args:
        paths: files and folders, or one of them. A folder stands for the files in it, not in
            folders below it, whose names end in .png, .jpg or .jpeg and do not begin with a dot.

    Returns:
        The files in the order given, those of a folder sorted by name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        TypeError: if something else than a path is given.
        ValueError: if there is no path, one is empty, or a folder holds no picture.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from cnnrs.images import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.JPG", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in files(folder)]
        ['a.JPG', 'b.png']
    """
    if isinstance(paths, bytes) or not isinstance(paths, str | os.PathLike | Iterable):
        raise TypeError(f"paths: expected files and folders, got {paths!r}")
    found: list[Path] = []
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = as_path("paths", given)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if is_picture(file))
            if not inside:
                raise ValueError(f"{path}: expected a folder with PNG or JPEG files, found none")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: expected a file or folder, found none")
    if not found:
        raise ValueError("paths: expected at least one file or folder, got none")
    return found


def read(paths: PathLike | Iterable[PathLike]) -> Bytes:
    """Read pictures of one digit each as images like MNIST's; `as_mnist` says how.

    Args:
        paths: files and folders, or one of them, as for `files`.

    Returns:
        New uint8 array (n, 28, 28), 0 for background to 255.

    Raises:
        ModuleNotFoundError: if Pillow is not installed.
        OSError: if a file is missing or cannot be opened.
        ValueError: if a file is no whole PNG or JPEG image, or shows nothing. The message names it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from cnnrs.images import read
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     picture = Image.new("RGB", (120, 200), "white")
        ...     picture.paste("black", (55, 40, 65, 160))
        ...     picture.save(Path(folder, "one.png"))
        ...     digits = read(folder)
        >>> digits.shape, int((digits > 0).any(axis=2).sum())
        ((1, 28, 28), 20)
    """
    found = files(paths)
    out = np.empty((len(found), 28, 28), np.uint8)
    for n, path in enumerate(found):
        image = _open(path)
        try:
            out[n] = as_mnist(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return out


def as_mnist(image: Image | npt.ArrayLike) -> Bytes:
    """Make of a picture of one digit an image like those of MNIST.

    Its light is evened out: a smooth background (a quadratic surface, fitted robustly) is taken
    off. What is left is ink, dark or light: the background is what most pixels show. Otsu's
    threshold tells ink from paper, and specks are dropped. The digit is cropped, scaled with smooth
    edges so that its longer side is 20 pixels, and placed into 28 x 28 pixels with its centre of
    mass in the middle, as MNIST's makers did; only where this would cut it off it is moved.

    Args:
        image: a Pillow image, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): of integers
            from 0 to 255, uint16 up to 65535, floats from 0 to 1, or booleans. Transparent parts
            count as background.

    Returns:
        New uint8 array (28, 28), 0 for background to 255.

    Raises:
        ModuleNotFoundError: if Pillow is not installed.
        TypeError: if an array does not hold real numbers.
        ValueError: if an array has another shape or range, or nothing stands out in the image.

    Reference: Y. LeCun, C. Cortes and C. Burges, The MNIST database; N. Otsu, 1979.

    Example:
        >>> import numpy as np
        >>> from cnnrs.images import as_mnist
        >>> paper = np.full((200, 150), 230, np.uint8)
        >>> paper[50:150, 20:30] = 40
        >>> digit = as_mnist(paper)
        >>> digit.shape, digit.dtype, int(digit.max())
        ((28, 28), dtype('uint8'), 255)
    """
    _pillow()
    return from_grey(_grey(image))


def load(
    path: PathLike,
    image_size: int | Sequence[int] | None = None,
    color_mode: str = "rgb",
) -> Bytes:
    """Read a picture as it is.

    It is turned as its EXIF data say; 16 bits become 8, and what is transparent becomes white.

    Args:
        path: a PNG or JPEG file, whatever its name.
        image_size: height and width to scale it to, or one number for both, without regard to its
            own proportions; None (default) is its own size. Pixels are averaged where it shrinks.
        color_mode: `"rgb"` (default) or `"grayscale"`.

    Returns:
        New uint8 array (h, w, 3) or (h, w, 1).

    Raises:
        ModuleNotFoundError: if Pillow is not installed.
        OSError: if the file is missing or cannot be opened.
        TypeError: if something else than a path is given.
        ValueError: if it is no whole PNG or JPEG image, or an argument is none of the above.

    Reference: `keras.utils.load_img`, whose sizes are `target_size`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from cnnrs.images import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "sky.png")
        ...     Image.new("RGB", (40, 30), (0, 0, 255)).save(path)
        ...     load(path, (6, 8)).shape
        (6, 8, 3)
    """
    choice("color_mode", color_mode, list(CHANNELS))
    size = None if image_size is None else pair("image_size", image_size)
    image = _eight_bits(_open(as_path("path", path)))
    if image.has_transparency_data:
        from PIL import Image

        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if color_mode == "grayscale" else "RGB")
    if size is not None:
        image = image.resize(size[::-1], _pillow().Resampling.BILINEAR)
    return np.array(image, np.uint8).reshape(image.height, image.width, CHANNELS[color_mode])


def is_picture(path: Path) -> bool:
    """Whether a file is one of a folder's pictures, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures in files need Pillow, which is not installed: pip install 'cnnrs[plots]'",
            name=error.name,
        ) from error
    return Image


def _open(path: Path) -> Image:
    """The image that a file holds, decoded and turned upright."""
    pillow = _pillow()
    from PIL import ImageOps

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            image: Image = pillow.open(file, formats=("PNG", "JPEG"))
            image.load()
            return ImageOps.exif_transpose(image)
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
            raise ValueError(
                f"{path}: expected an image of at most {pillow.MAX_IMAGE_PIXELS:,} pixels, found a "
                f"larger one"
            ) from None
        except pillow.UnidentifiedImageError:
            file.seek(0)
            other = _other_kind(file.read(LONGEST_BEGIN)) or "none"
            raise ValueError(f"{path}: expected a PNG or JPEG image, found {other}") from None
        except MemoryError:
            raise
        # Damaged files make decoders raise nearly anything.
        except Exception as error:
            raise ValueError(
                f"{path}: expected a whole PNG or JPEG image, found: {error}"
            ) from error


def _other_kind(begin: bytes) -> str | None:
    """What kind of picture a file that begins so holds, if it is a known one that is not read."""
    kinds = (kind for kind, pattern in OTHER_KINDS.items() if re.match(pattern, begin, re.DOTALL))
    return next(kinds, None)


def _eight_bits(image: Image) -> Image:
    """A grey image of 16 bits as one of 8, where Pillow would clip at 255; others as they are."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
    return _pillow().fromarray(grey.round().astype(np.uint8))  # type: ignore[no-any-return]


def _grey(image: Image | npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The image in grey, from 0 to 1, a transparent one on a ground that its ink stands out on."""
    from PIL.Image import Image

    if isinstance(image, Image):
        image = _eight_bits(image)
        transparent = image.has_transparency_data
        if image.mode not in ("L", "F") or transparent:
            image = image.convert("RGBA" if transparent else "RGB")
        # What is shrunk anyway need not become floats at its full size.
        image = image.reduce(max(1, max(image.size) // (2 * LARGEST)))
    array = real("image", image)  # type: ignore[arg-type]
    if array.ndim not in (2, 3) or not array.size or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"image: expected shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), got {array.shape}"
        )
    full = {"b": 1, "f": 1}.get(array.dtype.kind, 65535 if array.dtype == np.uint16 else 255)
    least, most = array.min(), array.max()
    if not (least >= 0 and most <= full):  # nor NaN
        raise ValueError(
            f"image: expected numbers from 0 to {full} in an array of {array.dtype}, got {least} "
            f"to {most}"
        )
    array = array.astype(np.float32) / np.float32(full)
    if array.ndim == 2:
        return array
    colours, alpha = array[..., :3], array[..., 3:]
    # The weights of ITU-R BT.601, as in Pillow.
    grey: npt.NDArray[np.float32] = (
        colours[..., 0]
        if colours.shape[2] == 1
        else colours @ np.array([0.299, 0.587, 0.114], np.float32)
    )
    if alpha.size and alpha.min() < 1:
        cover = alpha[..., 0]
        dark = (grey * cover).sum() <= 0.5 * cover.sum()
        grey = grey * cover + (1 - cover if dark else 0)
    return grey
