"""Safetensors files of which every byte that matters is checked.

A file is the length of its header (8 bytes, little endian), the header (JSON: where each tensor
lies, and `__metadata__`, strings by strings), and the tensors. Our metadata has `format`, a number,
and `sha256`, the digest of all other metadata and of all tensors with their names, types and
shapes, so that nothing of a damaged file is taken for whole.
"""

import os
import stat
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _core
from cnnrs._files import atomic_path

Array: TypeAlias = npt.NDArray[Any]

FORMAT = 1
"""To be raised when older versions would misread a file, be it by one renamed key or by another
order in which the network stores what the optimizer remembers."""

KEYS = ("about", "cnnrs", "format", "sha256")
"""Of the metadata."""

PREFIX = 8
"""Bytes of the header's length."""

ALIGNMENT = 8
"""What the header's length is a multiple of, so that the tensors are aligned."""


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], about: Any) -> None:
    """Write tensors and `about`, anything that JSON can say, so that no reader sees half of it.

    The same tensors and the same `about` make the same bytes.
    """
    import json

    from safetensors.numpy import save

    metadata = {"format": str(FORMAT), "cnnrs": _core.__version__, "about": json.dumps(about)}
    metadata["sha256"] = digest(tensors, metadata)
    content = save(dict(tensors), metadata)
    end = PREFIX + int.from_bytes(content[:PREFIX], "little")
    # The library's order of names is another each time.
    header = json.dumps(json.loads(content[PREFIX:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(PREFIX, "little") + header)
        file.write(memoryview(content)[end:])


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], Any]:
    """Read what `write` wrote: tensors, and `about`.

    No more memory is used than a small multiple of what the file has, whatever it claims.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is no such file, is damaged, or of a newer format. The message does
            not name the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with open(path, "rb", opener=_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("expected a regular file")
        length = int.from_bytes(file.read(PREFIX), "little")
        if length > status.st_size - PREFIX:
            raise ValueError("expected a safetensors file, found something else or one cut off")
        file.seek(0)
        content = file.read(status.st_size)
    metadata = _metadata(content[PREFIX : PREFIX + length])
    try:
        tensors = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: an element type that NumPy lacks
        raise ValueError(
            f"expected a whole safetensors file, found a damaged one: {error}"
        ) from None
    if metadata["sha256"] != digest(tensors, metadata):
        raise ValueError("expected content that fits its checksum, found some that was changed")
    return tensors, parse(metadata["about"])


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody to write into it, as for a pipe with a name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def digest(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256 over everything, in hexadecimal; the metadata's `sha256` is left out."""
    import hashlib
    import json

    sha = hashlib.sha256()
    names = sorted(tensors)
    arrays = [
        np.require(tensors[name], tensors[name].dtype.newbyteorder("<"), "C") for name in names
    ]
    head = {key: value for key, value in metadata.items() if key != "sha256"}
    kinds = [(name, a.dtype.str, a.shape) for name, a in zip(names, arrays, strict=True)]
    sha.update(json.dumps([head, kinds], sort_keys=True).encode())
    for array in arrays:
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def parse(text: str | bytes) -> Any:
    """The value of a JSON text, if no object in it has the same key twice."""
    import json

    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("expected a header of a few levels, found too many") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"expected each name once, found {key!r} twice")
        found[key] = value
    return found


def _metadata(header: bytes) -> dict[str, str]:
    """The metadata of a header, if it is of our making."""
    try:
        found = parse(header)
        metadata: dict[str, str] = found["__metadata__"]
        ours = all(isinstance(metadata[key], str) for key in KEYS)
    except (KeyError, TypeError, UnicodeDecodeError):
        ours = False
    except ValueError as error:
        raise ValueError(f"expected a safetensors header, found a damaged one: {error}") from None
    if not ours:
        raise ValueError("expected a file written by cnnrs, found another")
    if metadata["format"] != str(FORMAT):
        raise ValueError(
            f"expected format {FORMAT}, which is that of cnnrs {_core.__version__}, found "
            f"{metadata['format']!r}, written by {metadata['cnnrs']!r}"
        )
    return metadata
