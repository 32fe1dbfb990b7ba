"""Writing files so that no reader ever sees half of one."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RANDOM_BYTES = 6
"""In the name of a temporary file, in hexadecimal digits."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block succeeds.

    The temporary file lies in the same folder, already exists (empty), and ends in the same suffix,
    because some writers go by it. On success it is flushed to disk and renamed over `path`, and the
    folder is flushed, so that a power cut leaves the old file or the new one; on any exception,
    Ctrl-C included, it is deleted and `path` is left as it was. Permissions are those that
    `open(path, "wb")` would have left: the umask's for a new file, an old file's own.

    Args:
        path: the file to write; a symbolic link is followed.

    Returns:
        A context manager whose value is the temporary path.

    Raises:
        OSError: if `path` exists and is no regular file or a read-only one, or its folder cannot
            be written. One from the block names `path` if it named nothing or the temporary path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder, "note.txt")
        ...     with atomic_path(target) as temporary:
        ...         _ = temporary.write_text("done")
        ...     target.read_text(), len(list(Path(folder).iterdir()))
        ('done', 1)
    """
    target, temporary = _begin(path)
    try:
        with naming_file(target, temporary):
            if target.exists():
                # Nobody else may read it meanwhile, but its owner must be able to write it.
                temporary.chmod(target.stat().st_mode & 0o777 | 0o600)
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming_file(path: str | os.PathLike[str], *hidden: Path) -> Iterator[None]:
    """Let an `OSError` that names no file, as that of a full disk, or a hidden one name this."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or str(error.filename) in map(str, hidden)
        if unnamed and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the `OSError` that `atomic_path` would start with, and leave everything as it is."""
    _begin(path)[1].unlink()


def remove_left_over(path: str | os.PathLike[str]) -> None:
    """Delete temporary files for `path`, left by processes that were killed as they wrote them."""
    target = Path(os.path.realpath(path))
    random = f"[0-9a-f]{{{2 * RANDOM_BYTES}}}"
    name = re.compile(rf"\.{re.escape(target.stem)}\.{random}{re.escape(target.suffix)}")
    for file in target.parent.iterdir():
        if name.fullmatch(file.name):
            file.unlink(missing_ok=True)


def printable(text: object) -> str:
    """A text, such as a file's name, with escapes for what is no visible part of a line."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def _sync_folder(folder: Path) -> None:
    """Flush a folder's names to disk, where the system can."""
    if os.name != "posix":
        return
    with suppress(OSError):  # The file is there; some file systems know no such flush.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _begin(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    with naming_file(path):  # There may be no current folder.
        target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_file():
            raise OSError(f"{target}: expected a regular file or a new name, found something else")
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(RANDOM_BYTES)}{target.suffix}")
    try:
        temporary.open("xb").close()
    except OSError as error:  # which names a file that nobody asked for
        raise OSError(error.errno, error.strerror, str(target)) from error
    return target, temporary
