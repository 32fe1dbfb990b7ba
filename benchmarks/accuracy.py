"""Test accuracy and time of `cnnrs train` over several seeds, all of which are reported.

python benchmarks/accuracy.py [--seeds 5] [--epochs 3] [--data mnist]
"""

import argparse
import statistics
import time

from cnnrs.datasets import load
from cnnrs.trainer import Trainer


def main() -> None:
    """Train once for each seed and print a line for each, then the mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="(default 3)")
    parser.add_argument("--data", default="mnist", help="what cnnrs train takes (default mnist)")
    options = parser.parse_args()

    data = load(options.data)
    print(f"Data: {data.origin}")
    accuracies, step_times = [], []
    for seed in range(options.seeds):
        trainer = Trainer(data, seed=seed)
        start = time.perf_counter()
        steps = sum(score.images for _ in range(options.epochs) for score in trainer.train_epoch())
        step_times.append((time.perf_counter() - start) / steps)
        accuracies.append(trainer.test().accuracy)
        print(f"seed {seed}: {accuracies[-1]:.2%}, {step_times[-1] * 1e6:.2f} us a step")
    print(
        f"mean {statistics.mean(accuracies):.2%}, worst {min(accuracies):.2%}; "
        f"median {statistics.median(step_times) * 1e6:.2f} us a step"
    )


if __name__ == "__main__":
    main()
