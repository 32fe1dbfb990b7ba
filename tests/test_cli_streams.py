"""`cnnrs train` at its end: interrupted, read by nobody, on a full disk, on a terminal."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli_under_test import (
    MODULE,
    RESULTS,
    SAMPLE,
    cnnrs_command,
    contents,
    environment,
    parse,
    posix_only,
    start,
)

FOREVER = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "1000000")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Do not hand down an ignored SIGINT, as a shell gives it to what it runs in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@posix_only
@pytest.mark.parametrize("before", [None, {}, dict.fromkeys(RESULTS, b"of an earlier run")])
def test_ctrl_c_ends_it_and_leaves_the_folder_as_it_was(
    before: dict[str, bytes] | None, tmp_path: Path, interruptible: None
) -> None:
    for name, content in (before or {}).items():
        (tmp_path / name).write_bytes(content)
    with start(*FOREVER, *(() if before is None else ("--out", tmp_path))) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("Step") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint == "cnnrs: interrupted\n"
    assert contents(tmp_path) == (before or {})


@posix_only
def test_reader_that_leaves_early_ends_it_silently() -> None:
    with start(*FOREVER) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Data: ")
            process.stdout.close()
            _, complaint = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (complaint, process.returncode) == ("", 1)


@posix_only
def test_reader_that_left_before_the_first_line_ends_it_silently() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        ran = cnnrs_command(*SAMPLE, stdout=pipe)
    assert (ran.stderr, ran.returncode) == ("", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full disk")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [SAMPLE, ["--help"], ["train", "--help"], ["--version"], ["info"]]
)
def test_full_disk_is_one_line(arguments: Sequence[str], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = cnnrs_command(*arguments, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert ran.stderr == "cnnrs: standard output: No space left on device\n"
    assert ran.returncode == 1


@posix_only
@pytest.mark.parametrize(
    ("arguments", "status", "lines"),
    [
        (SAMPLE, 0, ["Data: the bundled sample", "      of which", "SGD, one image a step"]),
        (("train", "--data", "missing"), 1, []),
        (("train", "--epochs", "none"), 2, []),
    ],
    ids=["training", "complaint", "usage"],
)
def test_without_standard_error_only_results_are_shown(
    arguments: tuple[str, ...], status: int, lines: list[str]
) -> None:
    ran = cnnrs_command(*arguments, command=("sh", "-c", 'exec "$@" 2>&-', "sh", *MODULE))
    assert ran.returncode == status
    shown = ran.stdout.splitlines()
    assert bool(shown) == bool(lines)
    assert all(line.startswith(begin) for line, begin in zip(shown, lines, strict=False))


@posix_only
@pytest.mark.parametrize("piped", [True, False], ids=["report piped", "report shown"])
def test_terminal_shows_a_progress_bar_that_leaves_no_trace(piped: bool) -> None:
    report, screen = on_a_terminal(piped, "xterm")
    assert re.search(r"%\|.*/300 .*images", screen)
    # What a terminal shows of each line is what follows its last carriage return; blanks, that it
    # was wiped with, are not seen.
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in screen.split("\n")]
    _, (epoch,) = parse(report.decode() if piped else "\n".join(shown))
    assert [step for step, _, _ in epoch.steps] == [100, 200, 300]
    if piped:
        assert not any(shown)
        assert report.isascii()
        assert b"\r" not in report


@posix_only
@pytest.mark.parametrize("term", ["dumb", ""])
def test_terminal_without_a_way_back_shows_no_bar(term: str) -> None:
    report, screen = on_a_terminal(True, term)
    assert screen.strip() == ""
    parse(report.decode())


def on_a_terminal(piped: bool, term: str) -> tuple[bytes, str]:
    """The report, if it is piped, and what else a terminal of that kind received."""
    import pty
    import termios

    terminal, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    with subprocess.Popen(
        [*MODULE, *SAMPLE],
        stdout=subprocess.PIPE if piped else ours,
        stderr=ours,
        env=environment(TERM=term),
    ) as process:
        os.close(ours)
        screen = read_all(terminal)
        report = process.communicate(timeout=20)[0] if piped else b""
    assert process.returncode == 0
    return report, screen


def read_all(terminal: int) -> str:
    """What was written to the terminal until its last writer closed it."""
    parts = []
    with os.fdopen(terminal, "rb", buffering=0) as file:
        try:
            while part := file.read(4096):
                parts.append(part)
        except OSError:
            pass  # Linux's way to say that nobody can write any more.
    return b"".join(parts).decode()
