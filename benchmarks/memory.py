"""How much memory does it take to train Keras's MNIST convnet?

    python benchmarks/memory.py

One epoch on 60,000 uint8 images at batch 128, rescaled within the model; and beside it what an
interpreter has in memory that has done no more than import NumPy and load the images. Each is a
process of its own, whose peak is reported. If training takes more than 300 MB in all, the exit
status is 1.
"""

import sys
import tempfile
import time
from pathlib import Path

import children

LIMIT = 300e6
"""Bytes that an interpreter may take that trains, with NumPy and the data."""

IMAGES = 60_000
BATCH = 128


def save_data(path: Path) -> str:
    """Put the images and labels into a file; where they come from."""
    import numpy as np

    from cnnrs.datasets import load

    data = load("mnist")
    repeats = -(-IMAGES // len(data.x_train))
    np.savez(
        path,
        x=np.tile(data.x_train, (repeats, 1, 1))[:IMAGES, ..., None],
        y=np.tile(data.y_train, repeats)[:IMAGES],
    )
    return data.origin if repeats == 1 else f"{data.origin}, {repeats} times over"


def work(data: str, train: bool) -> children.Answer:
    """In the child: load the data, perhaps train, and tell the peak."""
    import numpy as np

    with np.load(data) as arrays:
        x, y = arrays["x"], arrays["y"]
    answer: children.Answer = {}
    if train:
        from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling, Sequential
        from cnnrs.optimizers import SGD

        model = Sequential(
            [
                Input((28, 28, 1)),
                Rescaling(1 / 255),
                *(Conv2D(32, 3, activation="relu"), MaxPooling2D(2)),
                *(Conv2D(64, 3, activation="relu"), MaxPooling2D(2)),
                Flatten(),
                Dense(10, activation="softmax"),
            ]
        )
        model.compile(SGD(0.1), "sparse_categorical_crossentropy")
        start = time.perf_counter()
        history = model.fit(x, y, batch_size=BATCH, verbose=0).history
        answer = {"seconds": time.perf_counter() - start, "accuracy": history["accuracy"][-1]}
    return answer | {"bytes": children.peak_memory(), "data": x.nbytes + y.nbytes}


def ask(data: Path, what: str) -> children.Answer:
    """Start a child for it."""
    with children.Child(Path(__file__), what, str(data)) as child:
        return child.ask()


def main() -> int:
    """Measure both and print the difference; 1 if the total is too much."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        origin = save_data(data)
        idle, training = ask(data, "load"), ask(data, "train")
    print(f"Data: {origin}, {idle['data'] / 1e6:.0f} MB")
    print(f"NumPy and the data:                {idle['bytes'] / 1e6:6.1f} MB at the peak")
    print(f"the same, cnnrs, and one epoch:    {training['bytes'] / 1e6:6.1f} MB at the peak")
    print(f"what cnnrs and its training take:  {(training['bytes'] - idle['bytes']) / 1e6:6.1f} MB")
    print(f"({training['seconds']:.1f} s, accuracy while learning {training['accuracy']:.1%})")
    if training["bytes"] <= LIMIT:
        return 0
    print(f"expected {LIMIT / 1e6:.0f} MB at most, it took {training['bytes'] / 1e6:.0f} MB")
    return 1


if __name__ == "__main__":
    if len(sys.argv) == 3:
        children.serve(lambda _: work(sys.argv[2], train=sys.argv[1] == "train"))
    else:
        sys.exit(main())
