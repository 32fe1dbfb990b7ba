"""What the tests of the command `cnnrs` share: runs in a process of their own, and reports."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pytest

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals, pipes and terminals")
PICTURES = ["confusion.png", "history.png", "mistakes.png"]
RESULTS = sorted([*PICTURES, "history.csv", "model.safetensors", "report.json"])
SAMPLE = ("train", "--data", "mnist-sample", "--limit", "300", "--epochs", "1")

MODULE = (sys.executable, "-m", "cnnrs")


def script() -> tuple[str]:
    """The installed command."""
    found = shutil.which("cnnrs", path=sysconfig.get_path("scripts"))
    assert found is not None
    return (found,)


def patched(statements: str) -> tuple[str, ...]:
    """The command after some statements."""
    return (
        sys.executable,
        "-c",
        f"import sys\n{statements}\nfrom cnnrs.cli import main\nsys.exit(main())",
    )


def without(package: str) -> tuple[str, ...]:
    """The command where a package is not installed."""
    return patched(f"""
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
""")


NO_MATPLOTLIB = without("matplotlib")


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what changes the command's output, and with wide help texts."""
    changing = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "CNNRS_DATA", "TQDM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return kept | {"COLUMNS": "200"} | changes


def cnnrs_command(
    *arguments: str | Path,
    command: Sequence[str] = MODULE,
    stdout: int | IO[bytes] = subprocess.PIPE,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=environment(**env),
    )


def start(*arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MODULE, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(),
    )


def assert_refused(ran: subprocess.CompletedProcess[str], *mentions: str) -> None:
    """One line of complaint, status 1, and no epoch was begun."""
    assert re.fullmatch(r"cnnrs: .+\n", ran.stderr), ran.stderr
    for mention in mentions:
        assert mention in ran.stderr
    assert "Epoch" not in ran.stdout
    assert ran.returncode == 1


class Epoch(NamedTuple):
    """The report of one epoch: steps, loss and accuracy (as printed) of each line, and the test."""

    steps: list[tuple[int, float, str]]
    test: tuple[float, str]
    images: int


def parse(report: str) -> tuple[list[str], list[Epoch]]:
    """The lines before the first epoch, and the epochs; no other line may be there."""
    head, *parts = re.split(r"\nEpoch (\d+)/\d+\n", report)
    numbers, bodies = parts[::2], parts[1::2]
    assert numbers == [str(n + 1) for n in range(len(bodies))]
    epochs = []
    for body in bodies:
        *lines, last = body.partition("\nWrote ")[0].strip("\n").split("\n")
        columns = r"\| Average loss (\S+) \| Accuracy +(\S+%)"
        steps = []
        for line in lines:
            match = re.fullmatch(rf"Step +([\d,]+) {columns}", line)
            assert match, line
            steps.append((int(match[1].replace(",", "")), float(match[2]), match[3]))
        match = re.fullmatch(rf"Test +{columns} \| ([\d,]+) steps in \S+ s, \S+ us each", last)
        assert match, last
        images = int(match[3].replace(",", ""))
        epochs.append(Epoch(steps, (float(match[1]), match[2]), images))
    return head.strip("\n").split("\n"), epochs


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
