"""Child processes of the benchmarks: pinned, told how many threads to use, asked over pipes.

A request and its reply are one line of JSON each. The parent starts a `Child`; the program that
runs in it calls `serve`. This module imports nothing but the standard library, so that a child can
pin itself before any framework starts its threads.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "CNNRS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

SETTLE_SECONDS = 0.005
"""After a reply: idle threads of some runtimes go on looking for work for about a millisecond."""

BUSY = 0.5
"""A load from which on others take part in the measurement."""

Answer = dict[str, Any]


class ChildError(RuntimeError):
    """A child raised an exception or died; the message has its last lines."""


def cpus() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(to: Collection[int]) -> None:
    """Keep this process, and threads that it starts from now on, on these processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, to)


def peak_memory() -> int:
    """The most bytes that this process has had in memory.

    On Linux `ru_maxrss` begins with what the parent had when it started the child. The kernel's
    `VmHWM` is the same figure for the program alone, and is taken where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> Answer:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cpus": len(cpus()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def warn_if_busy(before: Answer) -> None:
    """Say so if others take part in the measurement, on a machine as it was before."""
    if before["load"][0] > BUSY:
        print(f"The machine is busy (load {before['load'][0]:.1f}): the figures mean little.")


class Child:
    """A Python program beside this one in a process of its own.

    Args:
        script: what to run; it calls `serve`.
        arguments: of its command line.
        threads: what the thread variables of all frameworks are set to; None (default) leaves them
            out, so that each takes its own default.

    Use it in a `with` statement: the process ends with it.
    """

    def __init__(self, script: Path, *arguments: str, threads: int | None = None) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        for name in THREAD_VARIABLES:
            environment.pop(name, None)
            if threads is not None:
                environment[name] = str(threads)
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - see __exit__
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )

    def ask(self, **request: Any) -> Answer:
        """Send a request and wait for its reply.

        Raises:
            ChildError: if the child raises an exception or dies.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            last = "".join(self._errors.readlines()[-20:])
            raise ChildError(f"its process ended with status {status}\n{last}".strip())
        time.sleep(SETTLE_SECONDS)
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # if it has died
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def serve(answer: Callable[[Answer], Answer]) -> None:
    """Answer the parent's requests until there are no more."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # What a framework prints must not stand between the replies.
        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except Exception:
                reply = {"error": traceback.format_exc()}
            print(json.dumps(reply), file=replies, flush=True)
