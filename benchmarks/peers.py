"""Small networks on the CPU: cnnrs and its peers side by side, in one run.

    python benchmarks/peers.py [--quick] [--json FILE] [--plot FILE.png]

Three networks are trained (plain SGD, cross-entropy) at batch 1, 32 and 128 and asked for
probabilities at batch 1 and 128, on one core and on all. Every contender has a process of its own,
pinned to its cores, for each number of cores; see the head of `peers_*.py` for what exactly it
runs. Peers that are not installed are named and left out.

- All see the same images, as float32 and in the layout they like, converted before the clock
  starts, and the same starting weights, to which every repeat goes back.
- Nobody is timed before the losses of its first steps agree with cnnrs's to 1e-3, or its
  probabilities to 1e-4. A disagreement is reported, and the exit status is then 1.
- The repeats of a row go round over the contenders, one busy at a time, since machines drift. All
  figures are medians of the repeats.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import children
import peers_report
from networks import NETWORKS
from peers_rows import CONTENDERS, IMAGES, ROWS, Contender, Row, disagreement

WORKER = Path(__file__).with_name("peers_worker.py")

PEAK_SECONDS = 0.05
"""How long the peak of one core's arithmetic is measured, once in every round."""

Workers = dict[str, children.Child]
Facts = dict[str, Any]


def installed(only: list[str] | None) -> list[Contender]:
    """The contenders that can take part; the others are named. cnnrs always does."""
    chosen = [c for c in CONTENDERS if only is None or c.key in {"cnnrs", *only}]
    for contender in chosen:
        if find_spec(contender.requires) is None:
            print(f"left out: {contender.title} ({contender.requires} is not installed)")
    return [contender for contender in chosen if find_spec(contender.requires)]


@contextmanager
def data_file() -> Iterator[tuple[str, str]]:
    """A file with the images and labels, and a line on where they came from."""
    from cnnrs.datasets import load

    data = load("mnist-sample")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, images=data.x_train[:IMAGES], labels=data.y_train[:IMAGES])
        yield str(path), data.origin


def measure(row: Row, workers: Workers, repeats: int, seconds: float) -> Facts:
    """Check, warm up and time all contenders on one row, taking turns."""
    faults: dict[str, str] = {}
    expected = workers["cnnrs"].ask(do="prepare", row=asdict(row), seconds=seconds)["check"]
    ready = ["cnnrs"]
    for contender in CONTENDERS[1:]:
        key = contender.key
        if key in workers and row.task in contender.tasks:
            try:
                got = workers[key].ask(do="prepare", row=asdict(row), seconds=seconds)["check"]
                fault = disagreement(row, got, expected)
            except children.ChildError as error:
                fault = str(error)
            if fault is None:
                ready.append(key)
            else:
                faults[key] = fault
    samples: dict[str, list[float]] = {key: [] for key in ready}
    peaks = []
    for number in range(repeats):
        turn = number % len(ready)
        for key in ready[turn:] + ready[:turn]:
            if key in faults:
                continue
            try:
                took = workers[key].ask(do="repeat")
                samples[key].append(took["seconds"] / took["images"])
            except children.ChildError as error:
                faults[key] = str(error)
                del samples[key]
        peaks.append(workers["cnnrs"].ask(do="peak", seconds=PEAK_SECONDS)["gflops"])
    shares = workers["cnnrs"].ask(do="live")
    return {
        **asdict(row),
        "seconds_per_image": samples,
        "fma_peak_gflops": [peak for peak in peaks if peak is not None],
        "live_shares": shares["live"],
        "foreground_share": shares["foreground"],
        "faults": faults,
    }


def measure_all(
    contenders: list[Contender], rows: list[Row], cpus: list[int], data: str, options: Any
) -> Facts:
    """Measure all rows on these processors, in one set of processes."""
    begun = time.perf_counter()
    versions: Facts = {}
    with ExitStack() as stack:
        workers: Workers = {}
        for contender in contenders:
            arguments = contender.key, ",".join(map(str, cpus)), data
            child = stack.enter_context(children.Child(WORKER, *arguments, threads=len(cpus)))
            try:
                versions |= child.ask(do="versions")["versions"]
            except children.ChildError as error:
                print(f"left out: {contender.title} does not start: {error}")
            else:
                workers[contender.key] = child
        results = []
        for row in rows:
            results.append(measure(row, workers, options.repeats, options.seconds))
            elapsed = time.perf_counter() - begun
            print(f"{elapsed:5.0f} s: {len(cpus)} thread(s), {row}", file=sys.stderr, flush=True)
        memory = {}
        for key, worker in workers.items():
            with suppress(children.ChildError):  # Why it has ended is known by now.
                memory[key] = worker.ask(do="memory")["bytes"]
    return {"threads": len(cpus), "rows": results, "memory": memory, "versions": versions}


def parse() -> argparse.Namespace:
    """Read the command line."""
    keys = [contender.key for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one core, 3 repeats of 0.1 s")
    parser.add_argument("--repeats", type=int, help="of each measurement (default 5)")
    parser.add_argument("--seconds", type=float, help="how long each takes (default 0.3)")
    parser.add_argument("--threads", type=int, nargs="+", help="(default: 1 and all cores)")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="(default all)")
    parser.add_argument("--peers", nargs="+", choices=keys, help="beside cnnrs (default all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart")
    parser.add_argument("--redraw", type=Path, metavar="FILE", help="of --json: measure nothing")
    options = parser.parse_args()
    cores = len(children.cpus())
    options.repeats = options.repeats or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.1 if options.quick else 0.3)
    options.threads = options.threads or ([1] if options.quick else sorted({1, cores}))
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads: expected numbers from 1 to {cores}, got {options.threads}")
    return options


def run(options: argparse.Namespace) -> Facts:
    """Measure what the options ask for."""
    contenders = installed(options.peers)
    rows = [row for row in ROWS if options.networks is None or row.network in options.networks]
    before = children.machine()
    children.warn_if_busy(before)
    with data_file() as (data, origin):
        runs = [
            # The last processors: the first one has most of the system's own work.
            measure_all(contenders, rows, children.cpus()[-threads:], data, options)
            for threads in options.threads
        ]
    return {
        "machine": before | {"load_at_the_end": children.machine()["load"]},
        "versions": {"numpy": np.__version__} | runs[0]["versions"],
        "data": origin,
        "repeats": options.repeats,
        "seconds": options.seconds,
        "titles": {contender.key: contender.title for contender in contenders},
        "libraries": {contender.key: contender.library for contender in contenders},
        "runs": [{key: run[key] for key in ("threads", "rows", "memory")} for run in runs],
    }


def main() -> int:
    """Measure, or read what was measured; print, write and draw it."""
    options = parse()
    if options.plot is not None:
        import peers_chart  # What is missing is better known before the measurement.
    facts = json.loads(options.redraw.read_text()) if options.redraw else run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(peers_report.report(facts))
    if options.plot is not None:
        peers_chart.draw(facts).savefig(options.plot)
    return 1 if any(row["faults"] for run in facts["runs"] for row in run["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
