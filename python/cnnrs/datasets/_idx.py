"""The IDX format: a big-endian header (magic number, one size per dimension), then the values."""

import gzip
import math
import struct
import zlib
from contextlib import nullcontext
from importlib.resources.abc import Traversable

import numpy as np
import numpy.typing as npt

UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20
"""Bytes read at a time, so that memory follows what a file holds and not what its header claims."""


class DatasetError(OSError):
    """A data set cannot be had: a file is missing, damaged, or cannot be downloaded or stored.

    An `OSError`, as `gzip.BadGzipFile` is: what is wrong lies outside the program. The message
    names the file, what was expected and what was found.
    """


def read(path: Traversable, ndim: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        ndim: how many dimensions it must have.

    Returns:
        A new writeable uint8 array with the header's shape.

    Raises:
        DatasetError: if the file is not a whole IDX file of unsigned bytes with `ndim` dimensions.
    """
    with path.open("rb") as raw:
        zipped = path.name.endswith(".gz")
        with gzip.GzipFile(fileobj=raw) if zipped else nullcontext(raw) as file:
            try:
                header = file.read(4 + 4 * ndim)
                shape = _shape(path, header, ndim)
                size = math.prod(shape)
                data = bytearray()
                # One byte more than claimed tells a file that is too long, and makes gzip check
                # its checksum at the end of one that is not.
                while chunk := file.read(min(CHUNK, size + 1 - len(data))):
                    data += chunk
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DatasetError(f"{path}: expected a whole gzip file, found: {error}") from error
    if len(data) != size:
        found = f"{len(data):,}" if len(data) < size else "more"
        claim = " x ".join(map(str, shape))
        raise DatasetError(
            f"{path}: expected {size:,} bytes of data, as its header claims ({claim}), "
            f"found {found}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def encode(array: npt.NDArray[np.uint8]) -> bytes:
    """Give the bytes of the IDX file that holds `array`, not compressed."""
    header = struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    return header + array.tobytes()


def _shape(path: Traversable, header: bytes, ndim: int) -> tuple[int, ...]:
    magic = struct.pack(">HBB", 0, UNSIGNED_BYTE, ndim)
    if header[:4] != magic:
        raise DatasetError(
            f"{path}: expected the IDX magic number 0x{magic.hex()} (unsigned bytes, "
            f"dimensions: {ndim}), found 0x{header[:4].hex()}"
        )
    if len(header) < 4 + 4 * ndim:
        raise DatasetError(
            f"{path}: expected an IDX header of {4 + 4 * ndim} bytes, found {len(header)}"
        )
    return struct.unpack(f">{ndim}I", header[4:])
