"""The tutorial's network as a model: the same as the tutorial's layers."""

import math

import numpy as np
import pytest

import cnnrs
from cnnrs.callbacks import Callback
from cnnrs.optimizers import SGD
from cnnrs.recipes.tutorial import tutorial_network
from cnnrs.utils import set_random_seed

Arrays = list[np.ndarray]


def noise(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise: no two sums of a pooling region are equal, so every tie rule is the same."""
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (12, height, width), np.uint8), rng.integers(0, 10, 12, np.uint8)


class Tutorial:
    """The tutorial's program on the layers of `cnnrs`, in float64."""

    def __init__(self, height: int, width: int) -> None:
        self.conv = cnnrs.Conv3x3(8)
        self.pool = cnnrs.MaxPool2()
        self.softmax = cnnrs.Softmax((height - 2) // 2 * ((width - 2) // 2) * 8, 10)

    @property
    def weights(self) -> Arrays:
        kernel = self.conv.filters.transpose(1, 2, 0)[:, :, np.newaxis]
        return [kernel, self.softmax.weights, self.softmax.biases]

    def judge(self, image: np.ndarray, label: int) -> tuple[float, bool]:
        self.out = self.softmax.forward(self.pool.forward(self.conv.forward(image / 255 - 0.5)))
        return -math.log(self.out[label]), int(np.argmax(self.out)) == label

    def learn(self, image: np.ndarray, label: int, rate: float) -> tuple[float, bool]:
        score = self.judge(image, label)
        gradient = np.zeros(10)
        gradient[label] = -1 / self.out[label]
        d_pooled = self.softmax.backprop(gradient, rate)
        self.conv.backprop(self.pool.backprop(d_pooled), rate)
        return score


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_it_begins_as_the_tutorials_layers_do(seed: int) -> None:
    np.random.seed(seed)
    expected = Tutorial(28, 28).weights
    set_random_seed(seed)
    for ours, theirs in zip(tutorial_network(28, 28).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float32), strict=True)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (9, 8), (28, 28)])
def test_it_learns_what_the_tutorials_layers_learn(height: int, width: int) -> None:
    x, y = noise(height, width)
    np.random.seed(3)
    tutorial = Tutorial(height, width)
    set_random_seed(3)
    model = tutorial_network(height, width)
    model.compile(SGD(0.05), "sparse_categorical_crossentropy")
    sums = [(0.0, 0.0)]

    class Watch(Callback):
        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            assert logs is not None
            sums.append((logs["loss"] * (batch + 1), logs["accuracy"] * (batch + 1)))

    for _ in range(4):
        del sums[1:]
        model.fit(x, y, batch_size=1, verbose=0, shuffle=False, callbacks=Watch())
        steps = [tutorial.learn(image, label, 0.05) for image, label in zip(x, y, strict=True)]
        assert np.diff(sums, axis=0) == pytest.approx(np.array(steps, float), rel=1e-4, abs=1e-6)
    for ours, theirs in zip(model.get_weights(), tutorial.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    losses, right = zip(*map(tutorial.judge, x, y), strict=True)
    expected = [np.mean(losses), np.mean(right)]
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-4)
