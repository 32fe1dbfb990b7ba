"""The tutorial's Keras program on cnnrs, in PyTorch, and on Keras: how long does it take?

    python benchmarks/keras_program.py [--seeds 5] [--images 60000] [--peers torch keras]

60,000 images of MNIST, one at a time, 3 epochs, each with a validation on 10,000 images. cnnrs runs
`tutorial_keras.py` with nothing but its import lines changed, Keras 3 with one spelling changed
(`lr`), PyTorch an equivalent loop. Each run has a process of its own, with as many threads as the
library takes by itself, or `--threads`; half of the runs of cnnrs come before those of the peers,
half after.

`--images` shortens the peers' runs, which take minutes: training and validation alike. What is
compared then is the time of a step. cnnrs always runs the whole program. So that what happens once
(tracing, compiling) does not count, however few the steps, each run trains before it is timed, with
100 images, and begins again from its first weights.
"""

import argparse
import difflib
import json
import statistics
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import children
from cnnrs.datasets import mnist
from keras_program_child import PROGRAM, text

CHILD = Path(__file__).with_name("keras_program_child.py")
TITLES = {"cnnrs": "cnnrs", "torch": "PyTorch", "keras": "Keras"}
NEEDS = {"torch": "torch", "keras": "tensorflow"}

Run = dict[str, Any]


def save_data(path: Path, images: int) -> None:
    """Put as many training images into a file, and test images in proportion."""
    (x_train, y_train), (x_test, y_test) = mnist.load_data()
    tests = max(1, round(images * len(x_test) / len(x_train)))
    np.savez(
        path,
        train_images=x_train[:images],
        train_labels=y_train[:images],
        test_images=x_test[:tests],
        test_labels=y_test[:tests],
    )


def run(library: str, data: Path, seed: int, threads: int | None) -> Run:
    """Run the program once, and say so."""
    with children.Child(CHILD, library, str(data), str(seed), threads=threads) as child:
        result = child.ask()
    seconds, steps, accuracy = result["seconds"]["fit"], result["steps"], result["accuracy"]
    print(
        f"{TITLES[library]}, seed {seed}: fit {seconds:.2f} s, {steps:,} steps, "
        f"accuracy {accuracy:.2%}",
        flush=True,
    )
    return result


def changes(library: str) -> str:
    """The lines of the program that a library needs otherwise."""
    lines = difflib.unified_diff(
        PROGRAM.read_text().splitlines(), text(library).splitlines(), n=0, lineterm=""
    )
    kept = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    return "\n".join([f"Changed for {TITLES[library]}:", *(f"    {line}" for line in kept)])


def step_time(runs: list[Run]) -> float:
    """The median seconds of a step, validation included."""
    times: list[float] = [run["seconds"]["fit"] / run["steps"] for run in runs]
    return statistics.median(times)


def table(runs: dict[str, list[Run]]) -> str:
    """The result in Markdown; times are medians."""
    ours = step_time(runs["cnnrs"])
    lines = [
        "| | imports, s | fit, s | steps | us/step | cnnrs is faster | validation accuracy |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for library, several in runs.items():
        imports, fit = (
            statistics.median(run["seconds"][part] for run in several)
            for part in ("imports", "fit")
        )
        step = step_time(several)
        accuracies = [run["accuracy"] for run in several]
        accuracy = f"{statistics.mean(accuracies):.2%}"
        if len(several) > 1:
            accuracy = f"mean {accuracy}, worst {min(accuracies):.2%}"
        lines.append(
            f"| {TITLES[library]} | {imports:.2f} | {fit:.2f} | {several[0]['steps']:,} | "
            f"{step * 1e6:,.1f} | {step / ours:,.0f}x | {accuracy} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of cnnrs, 0 to N - 1 (default 5)")
    parser.add_argument("--images", type=int, default=60_000, help="of the peers (default 60000)")
    parser.add_argument("--peers", nargs="*", choices=list(NEEDS), default=list(NEEDS))
    parser.add_argument("--threads", type=int, help="for all (default: what each takes by itself)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()

    before = children.machine()
    print(f"{before['processor']}, {before['cpus']} cores, load {before['load'][0]:.1f}")
    children.warn_if_busy(before)
    print(*(changes(library) for library in ("cnnrs", "keras")), sep="\n")
    runs: dict[str, list[Run]] = {"cnnrs": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "mnist.npz"
        save_data(data, options.images)
        half = (options.seeds + 1) // 2
        runs["cnnrs"] += [run("cnnrs", data, seed, options.threads) for seed in range(half)]
        for library in options.peers:
            if find_spec(NEEDS[library]) is None:
                print(f"left out: {TITLES[library]} ({NEEDS[library]} is not installed)")
            else:
                runs[library] = [run(library, data, 0, options.threads)]
        runs["cnnrs"] += [
            run("cnnrs", data, seed, options.threads) for seed in range(half, options.seeds)
        ]

    print("\n" + table(runs))
    if options.images < 60_000 and len(runs) > 1:
        print(
            f"\nThe peers had {options.images:,} images instead of 60,000: the time of a step is "
            "compared, and their accuracies are of shorter trainings."
        )
    if options.json is not None:
        facts = {"machine": before, "images": options.images, "runs": runs}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
