"""Test accuracy and time of `cnnrs train` over several seeds, all of which are reported.

python benchmarks/accuracy.py [--seeds 5] [--epochs 3] [--data mnist]
"""

import argparse
import statistics
import time

from cnnrs.datasets import load
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed


def main() -> None:
    """Train once for each seed and print a line for each, then the mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="(default 3)")
    parser.add_argument("--data", default="mnist", help="what cnnrs train takes (default mnist)")
    options = parser.parse_args()

    data = load(options.data)
    print(f"Data: {data.origin}")
    images, height, width = data.x_train.shape
    accuracies, step_times = [], []
    for seed in range(options.seeds):
        set_random_seed(seed)
        model = tutorial_network(height, width)
        model.compile(SGD(0.005), "sparse_categorical_crossentropy")
        start = time.perf_counter()
        model.fit(data.x_train, data.y_train, batch_size=1, epochs=options.epochs, verbose=0)
        step_times.append((time.perf_counter() - start) / (options.epochs * images))
        _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
        accuracies.append(accuracy)
        print(f"seed {seed}: {accuracy:.2%}, {step_times[-1] * 1e6:.2f} us a step")
    print(
        f"mean {statistics.mean(accuracies):.2%}, worst {min(accuracies):.2%}; "
        f"median {statistics.median(step_times) * 1e6:.2f} us a step"
    )


if __name__ == "__main__":
    main()
