"""Train the tutorial's network on 1,000 digits, one image at a time, and test it on 1,000 others.

    python examples/tutorial.py

The layers come in as a module: with `cnnrs.numpy_reference`, the same three in plain NumPy loops,
the lines are the same and take hundreds of times as long (`benchmarks/tutorial_program.py`).
"""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt

from cnnrs import tutorial
from cnnrs.datasets import mnist

Array = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

REPORT_EVERY = 100


class Network:
    """28x28 grey image -> 8 filters of 3x3 -> 2x2 maxima -> probabilities of the 10 digits."""

    def __init__(self, layers: ModuleType) -> None:
        self.conv = layers.Conv3x3(8)
        self.pool = layers.MaxPool2()
        self.softmax = layers.Softmax(13 * 13 * 8, 10)

    def forward(self, image: Bytes, label: int) -> tuple[Array, float, bool]:
        """Return the probabilities, the cross-entropy loss, and whether the guess is right."""
        out = self.conv.forward(image / 255 - 0.5)
        out = self.pool.forward(out)
        out = self.softmax.forward(out)
        return out, -np.log(out[label]), np.argmax(out) == label

    def train(self, image: Bytes, label: int, learn_rate: float = 0.005) -> tuple[float, bool]:
        """Take one step of gradient descent; return the loss and success from before it."""
        out, loss, right = self.forward(image, label)
        gradient = np.zeros(10)
        gradient[label] = -1 / out[label]
        gradient = self.softmax.backprop(gradient, learn_rate)
        gradient = self.pool.backprop(gradient)
        self.conv.backprop(gradient, learn_rate)
        return loss, right


def train(network: Network, images: Bytes, labels: Bytes, epochs: int) -> Iterator[str]:
    """Train on all images in a new order each epoch; yield a line for every 100 of them."""
    for epoch in range(1, epochs + 1):
        scores = []
        for step, at in enumerate(np.random.permutation(len(images)), start=1):
            scores.append(network.train(images[at], labels[at]))
            if step % REPORT_EVERY == 0:
                loss, right = np.mean(scores[-REPORT_EVERY:], axis=0)
                yield f"epoch {epoch}, image {step}: mean loss {loss:.3f}, {right:.0%} right"


def test(network: Network, images: Bytes, labels: Bytes) -> str:
    """Judge the network by images that it has not seen."""
    scores = [network.forward(*example)[1:] for example in zip(images, labels, strict=True)]
    loss, right = np.mean(scores, axis=0)
    return f"test: mean loss {loss:.3f}, {right:.1%} right"


def main() -> None:
    """Run the tutorial at its own size, on the images that come with cnnrs."""
    np.random.seed(0)
    network = Network(tutorial)
    images, labels = mnist.train_images("sample")[:1000], mnist.train_labels("sample")[:1000]
    for line in train(network, images, labels, epochs=3):
        print(line)
    print(test(network, mnist.test_images("sample"), mnist.test_labels("sample")))


if __name__ == "__main__":
    main()
