"""Training the tutorial's network: the trainer, and the compiled network below it."""

import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cnnrs
from cnnrs._core import TutorialNet
from cnnrs.datasets import Dataset, load
from cnnrs.trainer import Score, Trainer, Weights

Arrays = tuple[np.ndarray, ...]


def noise(
    height: int = 9, width: int = 8, *, train: int = 12, test: int = 5, classes: int = 10
) -> Dataset:
    """Images of noise: no two sums of a pooling region are equal, so every tie rule is the same."""
    rng = np.random.default_rng(height * width)
    images = rng.integers(0, 256, (train + test, height, width), np.uint8)
    labels = rng.integers(0, classes, train + test, np.uint8)
    return Dataset(images[:train], labels[:train], images[train:], labels[train:], "noise")


class Tutorial:
    """The tutorial's program on the layers of `cnnrs`, in float64, from given parameters."""

    def __init__(self, kernel: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> None:
        self.conv = cnnrs.Conv3x3(kernel.shape[3])
        self.conv.filters = kernel[:, :, 0].transpose(2, 0, 1)
        self.pool = cnnrs.MaxPool2()
        self.softmax = cnnrs.Softmax(*weights.shape)
        self.softmax.weights, self.softmax.biases = weights, biases

    @property
    def weights(self) -> Arrays:
        kernel = self.conv.filters.transpose(1, 2, 0)[:, :, np.newaxis]
        return kernel, self.softmax.weights, self.softmax.biases

    def judge(self, image: np.ndarray, label: int) -> tuple[float, bool]:
        self.out = self.softmax.forward(self.pool.forward(self.conv.forward(image / 255 - 0.5)))
        return -math.log(self.out[label]), int(np.argmax(self.out)) == label

    def learn(self, image: np.ndarray, label: int, rate: float) -> tuple[float, bool]:
        score = self.judge(image, label)
        gradient = np.zeros(len(self.out))
        gradient[label] = -1 / self.out[label]
        d_pooled = self.softmax.backprop(gradient, rate)
        self.conv.backprop(self.pool.backprop(d_pooled), rate)
        return score


def assert_same_to_float32(got: Arrays, expected: Arrays) -> None:
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=2e-6)


def assert_identical(got: Weights, expected: Weights) -> None:
    assert list(got) == list(expected)
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name])


def trained(data: Dataset, *, epochs: int = 1, seed: int = 0) -> Weights:
    trainer = Trainer(data, seed=seed, learn_rate=0.05)
    for _ in range(epochs):
        for _ in trainer.train_epoch():
            pass
    return trainer.weights


def orders(data: Dataset, *, epochs: int, seed: int = 0) -> list[list[int]]:
    """The images of each epoch in turn, known by their losses while nothing is learnt."""
    losses = []
    for n in range(len(data.x_train)):
        one = data._replace(x_test=data.x_train[n : n + 1], y_test=data.y_train[n : n + 1])
        losses.append(Trainer(one, seed=seed).test().loss)
    assert len(set(losses)) == len(losses)
    trainer = Trainer(data, seed=seed, learn_rate=0.0)
    return [
        [losses.index(score.loss) for score in trainer.train_epoch(report_every=1)]
        for _ in range(epochs)
    ]


# What is learnt


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (9, 8), (28, 28)])
def test_learns_what_the_tutorials_layers_learn(height: int, width: int) -> None:
    data = noise(height, width)
    trainer = Trainer(data, learn_rate=0.05, seed=3)
    tutorial = Tutorial(*trainer.weights.values())
    for order in orders(data, epochs=4, seed=3):
        for index, score in zip(order, trainer.train_epoch(report_every=1), strict=True):
            loss, right = tutorial.learn(data.x_train[index], data.y_train[index], 0.05)
            assert score.images == 1
            assert score.loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
            assert score.correct == right
    assert_same_to_float32(tuple(trainer.weights.values()), tutorial.weights)

    losses, right = zip(*map(tutorial.judge, data.x_test, data.y_test), strict=True)
    score = trainer.test()
    assert (score.images, score.correct) == (5, sum(right))
    assert score.loss_sum == pytest.approx(sum(losses), rel=1e-4)


def test_learns_to_read_digits() -> None:
    trainer = Trainer(load("mnist-sample"))
    scores = [sum(trainer.train_epoch(1000), Score()) for _ in range(2)]
    assert [score.images for score in scores] == [5000, 5000]
    assert scores[0].accuracy < scores[1].accuracy
    assert trainer.test().accuracy > 0.85


def test_every_epoch_sees_every_image_once_in_a_new_order() -> None:
    seen = orders(noise(), epochs=3)
    assert all(sorted(order) == list(range(12)) for order in seen)
    assert len(set(map(tuple, seen))) == 3
    assert orders(noise(), epochs=3) == seen
    assert orders(noise(), epochs=3, seed=1) != seen


@pytest.mark.parametrize("report_every", [None, 1, 5, 12, 1000])
@pytest.mark.parametrize("pixels", [1, 5 * 72, 8_000_000])
def test_chunks_change_nothing(
    pixels: int, report_every: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise()
    whole = Trainer(data)
    (expected,) = whole.train_epoch()
    monkeypatch.setattr("cnnrs.trainer.CHUNK_PIXELS", pixels)
    trainer = Trainer(data)
    scores = list(trainer.train_epoch(report_every))
    assert_identical(trainer.weights, whole.weights)
    total = sum(scores, Score())
    assert (total.images, total.correct) == (12, expected.correct)
    assert total.loss == pytest.approx(expected.loss, rel=1e-12)
    assert max(score.images for score in scores) <= max(1, pixels // 72)
    ends = set(itertools.accumulate(score.images for score in scores))
    assert ends >= set(range(report_every or 12, 12, report_every or 12))
    tests = trainer.test()
    monkeypatch.undo()
    assert tests.loss == pytest.approx(whole.test().loss, rel=1e-12)


def test_same_seed_same_weights() -> None:
    weights = trained(noise(), epochs=2, seed=5)
    np.random.seed(1)
    assert_identical(trained(noise(), epochs=2, seed=5), weights)
    for other in (trained(noise(), epochs=2, seed=6), trained(noise(), epochs=1, seed=5)):
        assert not np.array_equal(other["dense.kernel"], weights["dense.kernel"])


def test_initial_weights_are_the_tutorials_draws() -> None:
    draws = [Trainer(noise(28, 28), seed=seed).weights for seed in range(20)]
    kernels = np.stack([weights["conv2d.kernel"] for weights in draws])
    dense = np.stack([weights["dense.kernel"] for weights in draws])
    assert kernels.std() == pytest.approx(1 / 9, rel=0.1)
    assert dense.std() == pytest.approx(1 / (13 * 13 * 8), rel=0.01)
    for values in (kernels, dense):
        assert abs(values.mean()) < 0.1 * values.std()
        assert len(np.unique(values)) > 0.99 * values.size
    assert not any(weights["dense.bias"].any() for weights in draws)


def test_weights_are_copies_in_keras_layouts() -> None:
    trainer = Trainer(noise(9, 8))
    shapes = {name: array.shape for name, array in trainer.weights.items()}
    expected = {"conv2d.kernel": (3, 3, 1, 8), "dense.kernel": (3 * 3 * 8, 10), "dense.bias": (10,)}
    assert shapes == expected
    before = trainer.weights
    for array in trainer.weights.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous, "safetensors writes the memory as it lies"
        array[...] = 7
    assert_identical(trainer.weights, before)


def test_testing_and_a_learning_rate_of_zero_change_nothing() -> None:
    data = noise()
    copies = [array.copy() for array in data[:4]]
    trainer = Trainer(data, learn_rate=0.0)
    before = trainer.weights
    first = trainer.test()
    list(trainer.train_epoch())
    assert_identical(trainer.weights, before)
    assert trainer.test() == first
    for array, copy in zip(data[:4], copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_scores_add_up_and_none_is_nan() -> None:
    assert Score(2, 3.0, 1) + Score(1, 0.5, 1) == Score(3, 3.5, 2)
    assert math.isnan(Score().loss)
    assert math.isnan(Score().accuracy)


def test_a_diverged_network_hides_no_nan() -> None:
    trainer = Trainer(noise(), learn_rate=1e30)
    list(trainer.train_epoch())
    assert math.isnan(trainer.test().loss)


# What is refused


def refusals() -> dict[str, tuple[Dataset, type[Exception], str]]:
    data, small = noise(6, 7), noise(3, 3)
    x, y = data.x_train, data.y_train
    size = "at least 4x4 pixels, got "
    deep = data._replace(x_train=x[..., np.newaxis], x_test=data.x_test[..., np.newaxis])
    return {
        "nothing to train on": (
            data._replace(x_train=x[:0], y_train=y[:0]),
            ValueError,
            "x_train: .* got none",
        ),
        "nothing to test on": (noise(test=0), ValueError, "x_test: .* got none"),
        "no window of the kernel": (noise(2, 9), ValueError, size + "2x9"),
        "no window of the pooling": (small, ValueError, size + "3x3"),
        "nor sideways": (noise(9, 3), ValueError, size + "9x3"),
        "labels out of range": (data._replace(y_train=y + 10), ValueError, "classes below 10, got"),
        "test labels out of range": (
            data._replace(y_test=data.y_test + 10),
            ValueError,
            "classes below 10, got",
        ),
        "fewer labels": (
            data._replace(y_train=y[:5]),
            ValueError,
            r"y_train: .*\(12,\), got \(5,\)",
        ),
        "more labels": (
            data._replace(x_train=x[:5]),
            ValueError,
            r"y_train: .*\(5,\), got \(12,\)",
        ),
        "other test images": (
            data._replace(x_test=noise(7, 6).x_test),
            ValueError,
            r"x_test: expected shape \(n, 6, 7\), got \(5, 7, 6\)",
        ),
        "float images": (data._replace(x_train=x / 255), TypeError, "x_train: .* uint8 .* float64"),
        "float labels": (
            data._replace(y_train=y.astype(np.float32)),
            TypeError,
            "y_train: .* uint8 .* float32",
        ),
        "one image": (data._replace(x_train=x[0]), ValueError, r"\(6, 7\)"),
        "a channel axis": (deep, ValueError, r"\(12, 6, 7, 1\)"),
    }


@pytest.mark.parametrize("kind", refusals())
def test_unfit_data_is_refused_by_name(kind: str) -> None:
    data, error, message = refusals()[kind]

    with pytest.raises(error, match=message):
        Trainer(data)


def test_negative_report_interval_does_not_pass_for_training() -> None:
    trainer = Trainer(noise())
    with pytest.raises(ValueError, match=r"report_every.*-1"):
        list(trainer.train_epoch(-1))


# The compiled network


def network(
    height: int = 6, width: int = 7, filters: int = 8, classes: int = 10
) -> tuple[TutorialNet, Arrays]:
    """A network with parameters like the trainer's, and these."""
    net = TutorialNet(height, width, filters, classes)
    rng = np.random.default_rng(filters)
    kernel, weights, biases = (
        rng.standard_normal(array.shape, np.float32) / np.float32(9) for array in net.get_weights()
    )
    net.set_weights(kernel, weights, biases)
    return net, (kernel, weights, biases)


@pytest.mark.parametrize(
    ("height", "width", "filters", "classes"),
    [(4, 4, 1, 1), (4, 7, 7, 2), (5, 6, 9, 3), (9, 4, 16, 11), (7, 7, 17, 17), (8, 9, 40, 256)],
)
def test_any_size_learns_what_the_tutorials_layers_learn(
    height: int, width: int, filters: int, classes: int
) -> None:
    data = noise(height, width, classes=classes)
    net, parameters = network(height, width, filters, classes)
    tutorial = Tutorial(*parameters)
    order = np.array([3, 1, 4, 1, 5, 9, 2, 6] * 4)
    got = net.train(data.x_train, data.y_train, order, 0.02)
    steps = [tutorial.learn(data.x_train[i], data.y_train[i], 0.02) for i in order]
    assert got[0] == pytest.approx(sum(loss for loss, _ in steps), rel=1e-4, abs=1e-9)
    assert got[1] == sum(right for _, right in steps)
    assert_same_to_float32(net.get_weights(), tutorial.weights)
    before = net.get_weights()
    loss, right = net.evaluate(data.x_train, data.y_train, np.array([7]))
    expected = tutorial.judge(data.x_train[7], data.y_train[7])
    assert (loss, right) == (pytest.approx(expected[0], rel=1e-4, abs=1e-6), expected[1])
    for array, same in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_new_network_is_zeros_and_an_empty_order_does_nothing() -> None:
    net = TutorialNet(6, 7, 8, 10)
    data = noise(6, 7)
    assert net.train(data.x_train, data.y_train, np.zeros(0, np.int64), 0.1) == (0.0, 0)
    assert not any(array.any() for array in net.get_weights())
    loss, _ = net.evaluate(data.x_train, data.y_train, np.arange(12))
    assert loss == pytest.approx(12 * math.log(10))


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((3, 4, 8, 10), ValueError),
        ((0, 0, 8, 10), ValueError),
        ((4, 4, 0, 10), ValueError),
        ((4, 4, 8, 0), ValueError),
        ((2**40, 2**40, 8, 10), ValueError),
        ((2**62, 4, 1, 1), ValueError),
        ((4, 4, 2**60, 1), ValueError),
        ((4, 4, 8, 2**60), ValueError),
        ((2**64, 4, 8, 10), OverflowError),
        ((-1, 4, 8, 10), OverflowError),
        ((4.0, 4, 8, 10), TypeError),
    ],
)
def test_unfit_sizes_are_refused(sizes: tuple[int, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        TutorialNet(*sizes)


@pytest.mark.parametrize("sizes", ["2**31, 2**20, 1, 1", "4, 4, 8, 2**50", "4, 4, 2**50, 2"])
def test_a_network_larger_than_memory_is_an_exception_and_no_abort(sizes: str) -> None:
    program = f"""if True:
        from cnnrs._core import TutorialNet
        try:
            TutorialNet({sizes})
        except (MemoryError, ValueError) as error:
            print("refused")
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "refused")


@pytest.mark.parametrize("method", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y, o: (x, y, [*o, 12]), IndexError, "order: expected .* below 12, got 12"),
        (lambda x, y, o: (x, y, [*o, -1]), IndexError, "order: expected .* below 12, got -1"),
        (lambda x, y, o: (x, y, [*o, -(2**63)]), IndexError, "below 12, got -9223372036854775808"),
        (lambda x, y, o: (x, y + 10, o), ValueError, "labels: expected classes below 10, got"),
        (lambda x, y, o: (x[:11], y, o), ValueError, r"\(12, 6, 7\), got \(11, 6, 7\)"),
        (lambda x, y, o: (x[:, :5], y, o), ValueError, r"\(12, 6, 7\), got \(12, 5, 7\)"),
        (lambda x, y, o: (x[:, :, :6], y, o), ValueError, r"\(12, 6, 7\), got \(12, 6, 6\)"),
        (lambda x, y, o: (x[0], y, o), ValueError, r"images: .*\(12, 6, 7\), got \(6, 7\)"),
        (lambda x, y, o: (x, y[:, np.newaxis], o), ValueError, r"labels: .*\(n,\), got \(12, 1\)"),
        (lambda x, y, o: (x.astype(np.int8), y, o), TypeError, "images: .* uint8, got .* int8"),
        (lambda x, y, o: (x, y.astype(int), o), TypeError, "labels: .* uint8, got .* int64"),
        (lambda x, y, o: (x, y, np.array(o, np.int32)), TypeError, "order: .* int64, got .* int32"),
        (lambda x, y, o: (x, y, np.array(o, ">i8")), TypeError, "order: .* int64, got .* >i8"),
        (lambda x, y, o: (x.tolist(), y, o), TypeError, "images: .* uint8, got list"),
    ],
)
def test_unfit_arguments_are_refused_before_the_first_step(
    method: str, change: Callable[..., tuple[object, ...]], error: type[Exception], message: str
) -> None:
    net, parameters = network()
    data = noise(6, 7)
    images, labels, order = change(data.x_train, data.y_train, [0, 1])
    order = np.array(order, np.int64) if isinstance(order, list) else order
    rate = (0.1,) if method == "train" else ()
    with pytest.raises(error, match=f"(?s){message}"):
        getattr(net, method)(images, labels, order, *rate)
    for got, expected in zip(net.get_weights(), parameters, strict=True):
        np.testing.assert_array_equal(got, expected)


def unaligned(array: np.ndarray) -> np.ndarray:
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def packed(array: np.ndarray) -> np.ndarray:
    """A stride that is no multiple of the element's size."""
    records = np.zeros(array.shape, [("byte", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "transposed in memory": lambda array: array.swapaxes(0, -1).copy().swapaxes(0, -1),
    "every other": lambda array: np.repeat(array, 2, axis=0)[::2],
    "every other of the last axis": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "unaligned": unaligned,
    "field of a packed record": packed,
    "read-only": read_only,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_images_in_any_layout_give_the_same(
    layout: Callable[[np.ndarray], np.ndarray],
) -> None:
    data = noise(6, 7)
    arranged = layout(data.x_train)
    np.testing.assert_array_equal(arranged, data.x_train)
    expected = network()[0].train(data.x_train, data.y_train, np.arange(12), 0.1)
    assert network()[0].train(arranged, data.y_train, np.arange(12), 0.1) == expected


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_labels_and_order_in_any_layout_give_the_same(
    layout: Callable[[np.ndarray], np.ndarray],
) -> None:
    data, order = noise(6, 7), np.array([3, 1, 4, 1, 5])
    expected = network()[0].train(data.x_train, data.y_train, order, 0.1)
    got = network()[0].train(data.x_train, layout(data.y_train), layout(order), 0.1)
    assert got == expected


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_in_any_layout_come_back_as_they_were_set(
    layout: Callable[[np.ndarray], np.ndarray],
) -> None:
    _, parameters = network()
    net = TutorialNet(6, 7, 8, 10)
    net.set_weights(*map(layout, parameters))
    for got, expected in zip(net.get_weights(), parameters, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda k, w, b: (k[..., :7], w, b), ValueError, r"kernel: .*\(3, 3, 1, 8\), got \(3, 3, "),
        (lambda k, w, b: (k, w.T, b), ValueError, r"weights: .*\(32, 10\), got \(10, 32\)"),
        (lambda k, w, b: (k, w, b[:9]), ValueError, r"biases: .*\(10,\), got \(9,\)"),
        (lambda k, w, b: (k[0], w, b), ValueError, r"kernel: .*\(3, 3, 1, 8\), got \(3, 1, 8\)"),
        (lambda k, w, b: (k, w.astype(float), b), TypeError, "weights: .* float32, got .* float64"),
        (lambda k, w, b: (k, w, b.tolist()), TypeError, "biases: .* float32, got list"),
    ],
)
def test_unfit_weights_are_refused_whole(
    change: Callable[..., Arrays], error: type[Exception], message: str
) -> None:
    net, parameters = network()
    with pytest.raises(error, match=f"(?s){message}"):
        net.set_weights(*change(*(array + 1 for array in parameters)))
    for got, expected in zip(net.get_weights(), parameters, strict=True):
        np.testing.assert_array_equal(got, expected)


# Threads


def test_two_trainers_at_once_learn_what_each_learns_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = noise(28, 28, train=2000)
    alone = [trained(data, seed=seed) for seed in (1, 2)]
    monkeypatch.setattr("cnnrs.trainer.CHUNK_PIXELS", 28 * 28 * 100)
    together = threading.Barrier(2)

    def train(seed: int) -> Weights:
        together.wait()
        return trained(data, seed=seed)

    with ThreadPoolExecutor(2) as pool:
        for got, expected in zip(pool.map(train, (1, 2)), alone, strict=True):
            assert_identical(got, expected)


def test_one_network_trained_by_two_threads_does_one_after_the_other() -> None:
    data = noise(28, 28, train=2000)
    parts = [np.arange(2000), np.arange(2000)[::-1]]

    def outcome(train: Callable[[TutorialNet], object]) -> bytes:
        net, _ = network(28, 28)
        train(net)
        return b"".join(array.tobytes() for array in net.get_weights())

    def step(net: TutorialNet, part: int) -> None:
        net.train(data.x_train, data.y_train, parts[part], 0.005)

    def in_turn(net: TutorialNet, first: int) -> None:
        step(net, first)
        step(net, 1 - first)

    def at_once(net: TutorialNet) -> None:
        together = threading.Barrier(2)

        def meet_and_step(part: int) -> None:
            together.wait()
            step(net, part)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(meet_and_step, (0, 1)))

    serial = {outcome(lambda net, first=first: in_turn(net, first)) for first in (0, 1)}
    assert len(serial) == 2
    assert outcome(at_once) in serial


@pytest.mark.parametrize("method", ["train", "evaluate"])
def test_other_threads_run_during_the_steps(method: str) -> None:
    net, _ = network(28, 28)
    data, order = noise(28, 28), np.zeros(5000, np.int64)
    rate = (0.0,) if method == "train" else ()
    go, ran = threading.Event(), threading.Event()

    def other() -> None:
        go.wait()
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    # From here, no thread takes the interpreter's lock from one that does not give it.
    sys.setswitchinterval(1000)
    try:
        go.set()
        for _ in range(100):
            getattr(net, method)(data.x_train, data.y_train, order, *rate)
            if seen := ran.is_set():
                break
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen
