"""The process of one contender in the peer benchmark: `peers_worker.py KEY CPUS DATA`.

It pins itself to the processors before it imports anything that starts threads, and then does what
`peers.py` asks for: prepare a row, time it once, tell how much memory it has had.
"""

import gc
import importlib
import sys
import time
from types import ModuleType
from typing import Any

import children

CALIBRATION = 4
"""The first measurements grow until one takes a fourth of the time that a repeat shall take."""


class Worker:
    """Answers requests, which are named after methods."""

    def __init__(self, key: str, threads: int, data: str) -> None:
        # NumPy starts BLAS's threads: not before the process is pinned.
        import numpy as np

        from peers_rows import CONTENDERS

        self.work: Any = None
        self.key = key
        self.threads = threads
        contender = next(contender for contender in CONTENDERS if contender.key == key)
        self.module: ModuleType = importlib.import_module(contender.module)
        with np.load(data) as arrays:
            self.images, self.labels = arrays["images"], arrays["labels"]

    def answer(self, request: children.Answer) -> children.Answer:
        """Call the method that the request names."""
        answer: children.Answer = getattr(self, request.pop("do"))(**request)
        return answer

    def versions(self) -> children.Answer:
        """Those of the libraries at work."""
        return {"versions": self.module.VERSIONS}

    def prepare(self, row: dict[str, Any], seconds: float) -> children.Answer:
        """Get ready for a row, choose how many images take so long, and compute what is checked."""
        from peers_rows import Row

        self.work = None  # Free the last row's before there is another.
        gc.unfreeze()
        gc.collect()
        self.work = self.module.prepare(
            self.key, Row(**row), self.images, self.labels, self.threads
        )
        check = self.work.check().tolist()
        gc.freeze()  # What the framework consists of is not looked through again and again.
        self.count = self.work.row.batch
        took = self._time()
        while took["seconds"] * CALIBRATION < seconds:
            self.count = CALIBRATION * took["images"]
            took = self._time()
        self.count = max(1, round(took["images"] * seconds / took["seconds"]))
        return {"check": check}

    def repeat(self) -> children.Answer:
        """Do the row's work once more from its starting weights, and time it."""
        return self._time()

    def live(self) -> children.Answer:
        """Shares of pooled elements with a gradient, at the weights that the last repeat left."""
        shares = getattr(self.work, "live_shares", None)
        foreground = getattr(self.work, "foreground_share", None)
        return {
            "live": shares() if shares is not None else None,
            "foreground": foreground() if foreground is not None else None,
        }

    def peak(self, seconds: float) -> children.Answer:
        """The peak of one core's arithmetic."""
        return {"gflops": self.module.fma_peak(seconds)}

    def memory(self) -> children.Answer:
        """The most memory this process has had."""
        return {"bytes": children.peak_memory()}

    def _time(self) -> children.Answer:
        self.work.reset()
        start = time.perf_counter()
        images = self.work.run(self.count)
        return {"images": images, "seconds": time.perf_counter() - start}


def main() -> None:
    """Pin, import, serve."""
    key, cpus, data = sys.argv[1:]
    to = [int(cpu) for cpu in cpus.split(",")]
    children.pin(to)
    children.serve(Worker(key, len(to), data).answer)


if __name__ == "__main__":
    main()
