"""What the tests that need processes of their own share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sends_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="signals are sent in another way there"
)
forks = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"),
    reason="there is no fork here, or none that the system's own libraries survive",
)


def python(
    program: str, *arguments: str, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program, which may import what stands in this folder."""
    folders = filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
