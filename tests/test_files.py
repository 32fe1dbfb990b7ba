"""Atomic writing: a reader finds the old file or the new one."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cnnrs import load_model
from cnnrs._files import atomic_path, check_writable, printable

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX file modes and links")


def test_atomic_write_replaces_the_file_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    target.write_text("old")
    with atomic_path(str(target)) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".bin"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_atomic_write_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "model.bin"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@posix_only
def test_atomic_write_flushes_the_file_and_then_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.bin"
    flushed: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert flushed == [(False, False), (True, True)]


@posix_only
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_atomic_write_has_the_mode_of_an_ordinary_one(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        (tmp_path / "ordinary").open("wb").close()
        for target in (tmp_path / "atomic", tmp_path / "shared"):
            with atomic_path(target) as temporary:
                temporary.write_bytes(b"")
            assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
        target.chmod(0o664)
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"again")
        assert target.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(previous)


@posix_only
def test_atomic_write_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "model", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_atomic_write_refuses_a_folder_and_a_missing_one(tmp_path: Path) -> None:
    refused = pytest.raises(OSError, match="expected a regular file or a new name")
    with refused, atomic_path(tmp_path):
        pytest.fail("not reached")
    missing = tmp_path / "missing" / "model"
    with pytest.raises(FileNotFoundError) as error, atomic_path(missing):
        pytest.fail("not reached")
    assert error.value.filename == str(missing)


def test_a_read_only_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.bin"
    target.write_text("old")
    # No permissions bind the superuser, as whom these tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and path == target))
    with pytest.raises(PermissionError) as error:
        check_writable(target)
    assert error.value.filename == str(target)
    with pytest.raises(PermissionError) as error, atomic_path(target):
        pytest.fail("not reached")
    assert error.value.filename == str(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o464, 0o060])
def test_atomic_write_can_be_done_by_its_owner_alone(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "shared"
    target.touch()
    target.chmod(mode)
    if not os.access(target, os.W_OK):
        pytest.skip("only a group may write it, or the superuser")
    with atomic_path(target) as temporary:
        assert temporary.stat().st_mode & 0o777 == mode | 0o600
    assert target.stat().st_mode & 0o777 == mode


def test_an_error_without_a_name_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"

    def fail(*error: object) -> None:
        with atomic_path(target):
            raise OSError(*error)

    with pytest.raises(OSError, match="No space left on device") as full:
        fail(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(target)
    with pytest.raises(OSError, match="other") as other:
        fail(errno.EACCES, "Permission denied", "other")
    assert other.value.filename == "other"
    with pytest.raises(OSError, match="no such data") as data:
        fail("no such data")
    assert str(data.value) == "no such data"
    with pytest.raises(FileNotFoundError) as gone, atomic_path(target) as temporary:
        temporary.unlink()
    assert gone.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_without_a_current_folder_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as error:
        check_writable("model.bin")
    assert error.value.filename == "model.bin"


@posix_only
def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a regular file"):
        load_model(pipe)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("数字 é ok.png", "数字 é ok.png"),
        ("a\r\n\x1b[2J\x9b", r"a\r\n\x1b[2J\x9b"),
        ("no utf-8: \udcff", r"no utf-8: \udcff"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
    ],
)
def test_a_name_is_shown_as_a_part_of_a_line(name: str, shown: str) -> None:
    assert printable(Path(name)) == shown
