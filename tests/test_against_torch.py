"""Layers, losses and optimizers against PyTorch: outputs, and gradients of weights and inputs.

What is expected comes from `torch_reference`, in float64 from the model's own weights and images.
The gradient of a weight is what one step of plain gradient descent subtracts from it.
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

import torch_cases as draws  # noqa: E402 - needs no PyTorch itself
import torch_reference  # noqa: E402
from cnnrs import (  # noqa: E402
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Rescaling,
    Sequential,
)
from cnnrs.layers import ACTIVATIONS, Layer  # noqa: E402
from cnnrs.losses import (  # noqa: E402
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from cnnrs.optimizers import SGD  # noqa: E402
from torch_cases import Case, Course  # noqa: E402
from torch_reference import Reference  # noqa: E402

Array: TypeAlias = npt.NDArray[Any]

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
"""Of the largest number of an array, that is how far the others may be off: sums of up to some
thousand products, one layer behind another, keep all but three digits of float32, and float64 has
digits to spare."""

ROUNDINGS = 16
"""In units of the type's epsilon and of the size of its terms, that is how far a sum may be off
besides: where they cancel, their rounding is left, as of the gradient of a bias in front of a batch
normalisation, which is exactly 0."""

MARGIN = {"float32": 2e-6, "float64": 1e-12}
"""How far from corners and ties random numbers are kept, as a share of the largest: on the other
side there is another gradient, and rounding may lead there."""

RATE = 4096.0
"""The learning rate of the one step: so large that the weight, from which the gradient is
subtracted, does not round it; and a power of two, by which it is multiplied exactly."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """For PyTorch: threads do not pay for networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_weights(model: Sequential, rng: np.random.Generator) -> list[Array]:
    """Weights with which numbers keep their size from layer to layer."""
    weights = []
    for layer in model.layers:
        shapes = [array.shape for array in layer.get_weights()]
        if isinstance(layer, BatchNormalization):
            n = shapes[-1]
            gamma = rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n)
            learnt = [gamma] * layer.scale + [rng.standard_normal(n)] * layer.center
            weights += [*learnt, rng.standard_normal(n), rng.uniform(0.3, 2, n)]
        elif layer.name == draws.FRONT:
            weights.append(rng.standard_normal(shapes[0]))
        elif shapes:
            kernel, *bias = (rng.standard_normal(shape) for shape in shapes)
            weights += [kernel / math.sqrt(kernel[..., 0].size), *(array / 2 for array in bias)]
    return weights


def draw_images(case: Case, rng: np.random.Generator) -> Array:
    shape = (case.n, *case.shape)
    if case.data == "units":
        x = np.zeros(shape, case.data_dtype)
        middle = [side // 2 for side in case.shape[:-1]]
        for n in range(case.n):
            x[(n, *middle, n)] = 1
        return x
    if case.data_dtype == "uint8":
        return rng.integers(0, 5, shape, np.uint8)
    return rng.standard_normal(shape).astype(case.data_dtype)


def draw_labels(loss: Loss, n: int, outputs: tuple[int, ...], rng: np.random.Generator) -> Array:
    """For categorical cross-entropy half one-hot rows, half numbers of any sum."""
    if isinstance(loss, MeanSquaredError):
        return rng.standard_normal((n, *outputs))
    labels = rng.integers(0, outputs[-1], n)
    if isinstance(loss, SparseCategoricalCrossentropy):
        return labels
    rows = np.eye(outputs[-1])[labels]
    rows[::2] = rng.random(rows[::2].shape)
    return rows


class Subject:
    """A case's model with weights, images and labels, drawn anew until no corner is near."""

    def __init__(self, case: Case, steps: Callable[["Subject"], float] | None = None) -> None:
        self.case = case
        layers = copy.deepcopy(case.layers)
        self.model = Sequential([Input(case.shape), *layers], dtype=case.dtype)
        self.outputs = tuple(size for size in self.model.output_shape[1:] if size is not None)
        for attempt in range(30):
            rng = np.random.default_rng([case.seed, attempt])
            self.model.set_weights(draw_weights(self.model, rng))
            self.weights = self.model.get_weights()
            self.images = draw_images(case, rng)
            labels = draw_labels(case.loss, case.n, self.outputs, rng)
            self.labels = labels.astype(case.dtype) if labels.dtype.kind == "f" else labels
            self.x = self.images.astype(case.dtype)
            self.reference = Reference(self.model.layers, self.weights)
            self.out = self.reference(self.x, training=True)
            margin = steps(self) if steps else self.reference.margin
            if margin > MARGIN[case.dtype]:
                return
        raise AssertionError(f"{case.name}: expected numbers away from corners, got none")

    def close(self, got: Any, expected: Any, what: str, terms: float = 0.0) -> None:
        """Equal up to rounding; see `TOLERANCE` and `ROUNDINGS`."""
        expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
        got, expected = np.asarray(got), np.asarray(expected)
        assert got.shape == expected.shape, what
        largest = float(np.abs(expected).max(initial=0))
        limit = TOLERANCE[self.case.dtype] * largest
        limit += ROUNDINGS * float(np.finfo(self.case.dtype).eps) * terms
        off = np.abs(got.astype(np.float64) - expected)
        assert np.isfinite(got).all(), what
        worst = np.unravel_index(off.argmax(), off.shape)
        assert off.max() <= limit, (
            f"{what}{list(map(int, worst))}: expected {expected[worst]}, got {got[worst]}; the "
            f"largest is {largest}, the limit {limit}"
        )

    def judged(self, out: torch.Tensor) -> tuple[float, float]:
        """The mean loss of an output, and the share of it that is right."""
        loss = self.reference.losses(self.case.loss, out, self.labels).mean()
        labels = self.labels if self.labels.ndim == 1 else self.labels.argmax(-1)
        return float(loss.detach()), float(np.mean(out.detach().numpy().argmax(-1) == labels))

    def close_scores(self, got: dict[str, float], out: torch.Tensor, what: str) -> None:
        loss, accuracy = self.judged(out)
        self.close(got["loss"], loss, f"{what} loss")
        if not isinstance(self.case.loss, MeanSquaredError):
            assert got["accuracy"] == pytest.approx(accuracy, abs=1e-12), what


def check(case: Case) -> None:
    """Predictions, scores, and one step."""
    it = Subject(case)
    out = it.reference(it.x)
    got = it.model.predict(it.images)
    assert got.dtype == case.dtype
    it.close(got, out, "output")

    it.model.compile(SGD(RATE), case.loss)
    it.close_scores(it.model.evaluate(it.images, it.labels, return_dict=True, verbose=0), out, "")
    out = it.reference(it.x, training=True)
    loss = it.reference.losses(case.loss, out, it.labels).mean()
    gradients = it.reference.gradients(loss)
    history = it.model.fit(it.images, it.labels, case.n, shuffle=False, verbose=0).history
    it.close_scores({name: values[0] for name, values in history.items()}, out, "training")
    after = it.model.get_weights()
    for index, terms in enumerate(it.reference.terms()):
        what = f"weight {index}"
        if it.reference.trained[index]:
            got = (it.weights[index].astype(np.float64) - after[index]) / RATE
            it.close(got, gradients[index], what, terms)
        else:
            it.close(after[index], it.reference.moving[index], what)


def group(cases: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


# One layer, mostly behind one that shows the gradient of its input


@group(draws.cases(140, 1, draws.convolution))
def test_convolutions(case: Case) -> None:
    check(case)


@group(draws.cases(90, 2, draws.pooling))
def test_poolings(case: Case) -> None:
    check(case)


@group(draws.cases(60, 3, draws.dense))
def test_dense_layers(case: Case) -> None:
    check(case)


@group(draws.cases(70, 4, draws.elementwise))
def test_activations_and_rescaling(case: Case) -> None:
    check(case)


@group(draws.cases(70, 5, draws.normalisation))
def test_batch_normalisations(case: Case) -> None:
    check(case)


def small_images(least: int, most: int) -> list[tuple[int, int, int]]:
    """Heights, widths and numbers of images."""
    return [(h, w, n) for h in range(least, most) for w in range(least, most) for n in (1, 2)]


def test_every_size_of_small_images_of_one_channel() -> None:
    """Every number of pixels that may be left over behind the last whole tile."""
    wrong, rng = [], np.random.default_rng(0)
    for (h, w, n), filters in itertools.product(small_images(3, 15), (1, 9, 20)):
        model = Sequential([Input((h, w, 1)), Conv2D(filters, 3)])
        x = rng.standard_normal((n, h, w, 1), np.float32)
        expected = Reference(model.layers, model.get_weights())(x).detach().numpy()
        if not np.allclose(model.predict(x), expected, rtol=0, atol=1e-5):
            wrong.append((h, w, n, filters))
    assert not wrong


def test_every_size_of_small_images_that_one_filter_sees() -> None:
    """The gradient of the input is a convolution of one channel too."""
    wrong = []
    for h, w, n in small_images(3, 10):
        settings = draws.behind_a_front((h, w, 3), n, [Conv2D(1, 3)], {"dtype": "float64"})
        try:
            check(Case(name=f"{h}x{w}x{n}", seed=1, **settings))
        except AssertionError:
            wrong.append((h, w, n))
    assert not wrong


# What is computed in one go


@group(draws.cases(130, 6, draws.fused))
def test_layers_computed_together(case: Case) -> None:
    check(case)


@pytest.mark.filterwarnings("ignore:loss. ")
@group(draws.cases(70, 7, draws.loss))
def test_losses(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_softmax_over_channels_is_none_over_all_outputs(sparse: bool) -> None:
    """Cross-entropy divides the outputs by their sum, here the number of pixels."""
    kind = SparseCategoricalCrossentropy if sparse else CategoricalCrossentropy
    layers = (Conv2D(3, 1, activation="softmax"), Flatten())
    check(Case("softmax of pixels", (2, 2, 3), layers, 5, "float64", 1, kind()))


# Whole networks


@group(draws.cases(50, 8, draws.network))
def test_networks(case: Case) -> None:
    check(case)


@group(draws.cases(4, 9, lambda draw: {**draws.network(draw), "n": draw.one((129, 200, 257, 400))}))
def test_networks_and_large_batches(case: Case) -> None:
    """Of more blocks than there are chunks."""
    check(case)


@pytest.mark.parametrize("course", draws.courses(60, 12), ids=lambda course: course.case.name)
def test_optimizers_over_several_steps(course: Course) -> None:
    case, rule = course.case, course.optimizer
    sums: list[float] = []
    learnt: list[torch.Tensor] = []

    def steps(it: Subject) -> float:
        reference, margin = it.reference, math.inf
        descent = torch_reference.Descent(rule, reference.weights)
        sums[:] = []
        for _ in range(course.epochs):
            total = 0.0
            for start in range(0, case.n, course.batch):
                at = slice(start, start + course.batch)
                out = reference(it.x[at], training=True)
                losses = reference.losses(case.loss, out, it.labels[at])
                gradients = reference.gradients(losses.mean())
                margin = min(margin, reference.margin)
                total += float(losses.sum().detach())
                with torch.no_grad():
                    new = list(descent(reference.weights, gradients, rule.learning_rate))
                    for index, flag in enumerate(reference.trained):
                        value = new[index] if flag else reference.moving[index]
                        reference.weights[index].copy_(value)
            sums.append(total / case.n)
        learnt[:] = [weight.detach().clone() for weight in reference.weights]
        return margin

    it = Subject(case, steps)
    it.model.compile(rule, case.loss)
    history = it.model.fit(
        it.images, it.labels, course.batch, course.epochs, shuffle=False, verbose=0
    )
    for index, (got, expected) in enumerate(zip(it.model.get_weights(), learnt, strict=True)):
        it.close(got, expected, f"weight {index}", float(expected.abs().max()))
    it.close(history.history["loss"], sums, "loss")
    it.close(it.model.predict(it.images), it.reference(it.x), "output")


# Types of images


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("data_dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("first", ["conv", "conv pool", "pool", "norm", "relu"])
def test_types_of_images(first: str, data_dtype: str, dtype: str, rescaled: bool) -> None:
    layers: dict[str, list[Layer]] = {
        "conv": [Conv2D(5, 3, padding="same")],
        "conv pool": [Conv2D(9, (3, 2)), MaxPooling2D()],
        "pool": [AveragePooling2D(2)],
        "norm": [BatchNormalization()],
        "relu": [ReLU(2.5)],
    }
    scale = [Rescaling(1 / 3, -0.7), Rescaling(-2)] if rescaled else []
    check(
        Case(
            name=first,
            shape=(7, 6, 1 if first == "conv pool" else 2),
            layers=(*scale, *layers[first], Flatten(), Dense(3, "softmax")),
            n=11,
            dtype=dtype,
            seed=1,
            loss=SparseCategoricalCrossentropy(),
            data_dtype=data_dtype,
        )
    )


# Ties: the first maximum has the gradient

TIES: dict[str, Callable[[], list[Layer]]] = {
    "pool": lambda: [Activation("linear"), MaxPooling2D()],
    "pool 3x2": lambda: [Activation("linear"), MaxPooling2D((3, 2), (2, 1), "same")],
    "fused pool": lambda: [MaxPooling2D()],
    "fused pool, relu": lambda: [MaxPooling2D(), ReLU()],
    "fused relu, pool": lambda: [ReLU(), MaxPooling2D()],
    "norm before": lambda: [BatchNormalization(center=False, scale=False), MaxPooling2D()],
    "relu with a limit": lambda: [ReLU(1.5), MaxPooling2D()],
    "leaky": lambda: [ReLU(negative_slope=0.5), MaxPooling2D()],
}


def tied(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check with weights of few whole numbers: sums are exact, and equal ones frequent."""

    def draw(model: Sequential, rng: np.random.Generator) -> list[Array]:
        weights = model.get_weights()
        for array in weights[: len(model.layers[0].get_weights())]:
            array[...] = rng.integers(-1, 3, array.shape)
        return weights

    monkeypatch.setattr(f"{__name__}.draw_weights", draw)
    monkeypatch.setattr(f"{__name__}.MARGIN", dict.fromkeys(MARGIN, 0.0))
    check(case)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 9])
@pytest.mark.parametrize("order", TIES)
def test_ties_of_what_a_front_holds(
    order: str, n: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"name": order, "dtype": dtype, "seed": n}
    for c in (1, 3, 17):
        # (Not five rows: Winograd's filtering would round the front's whole numbers.)
        case = Case(**draws.behind_a_front((7, 4, c), n, TIES[order](), settings))
        assert case.data == "units"
        tied(case, monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("order", TIES)
def test_ties_of_sums(order: str, c: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a convolution of images of whole numbers."""
    case = Case(
        name=order,
        shape=(7, 8, c),
        layers=(Conv2D(9, 2), *TIES[order]()),
        n=5,
        dtype=dtype,
        seed=1,
        data_dtype="uint8",
    )
    tied(case, monkeypatch)


def test_the_first_of_equal_numbers_is_the_one_above_and_to_the_left() -> None:
    """By hand, for windows that overlap and reach out of the image."""
    pool = MaxPooling2D(2, 1, "same")
    front = Conv2D(1, (2, 3), use_bias=False)
    model = Sequential([Input((3, 5, 1)), front, Activation("linear"), pool], dtype="float64")
    model.set_weights([np.ones((2, 3, 1, 1))])
    x = np.zeros((1, 3, 5, 1))
    x[0, 1, 2, 0] = 1
    model.compile(SGD(1.0), "mse")
    model.fit(x, np.zeros((1, 2, 3, 1)), verbose=0)
    gradient = (1 - model.get_weights()[0][::-1, ::-1, 0, 0]) * 6 / 2
    # Every window's own corner is its first pixel.
    np.testing.assert_allclose(gradient, np.ones((2, 3)))


# Extremes


@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sparse", [True, False])
def test_crossentropy_of_large_logits(sparse: bool, dtype: str, size: float) -> None:
    """A softmax before the loss does not round them to 0 and 1."""
    kind = SparseCategoricalCrossentropy if sparse else CategoricalCrossentropy
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((17, 11)) * size).astype(dtype)
    labels = rng.integers(0, 11, 17)
    expected = torch.from_numpy(logits.astype(np.float64)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(expected, torch.from_numpy(labels))
    loss.backward()
    for from_logits in (True, False):
        front = Dense(11, None if from_logits else "softmax", use_bias=False)
        model = Sequential([Input((17,)), front], dtype=dtype)
        model.set_weights([logits])
        model.compile(SGD(RATE), kind(from_logits))
        y = labels if sparse else np.eye(11)[labels]
        history = model.fit(np.eye(17), y, 17, shuffle=False, verbose=0).history
        assert history["loss"] == pytest.approx([loss.item()], rel=TOLERANCE[dtype])
        got = (logits.astype(np.float64) - model.get_weights()[0]) / RATE
        # The step is rounded to the spacing of the logits.
        spacing = float(np.spacing(np.abs(logits).max())) / RATE
        off = np.abs(got - expected.grad.numpy()).max()
        assert off <= TOLERANCE[dtype] / 17 + spacing


NOT_A_NUMBER: dict[str, Callable[[], list[Layer]]] = {
    "conv": lambda: [Conv2D(3, 3, padding="same")],
    "conv relu pool": lambda: [Conv2D(3, 3, activation="relu"), MaxPooling2D()],
    "conv pool relu": lambda: [Conv2D(3, 3), MaxPooling2D(), ReLU()],
    "conv norm": lambda: [Conv2D(3, 3), BatchNormalization()],
    "max": lambda: [MaxPooling2D((3, 2), 1)],
    "mean": lambda: [AveragePooling2D(2, padding="same")],
    "global": lambda: [GlobalAveragePooling2D()],
    "norm": lambda: [BatchNormalization()],
    "dense": lambda: [Flatten(), Dense(3)],
    "many dense": lambda: [Flatten(), Dense(70, "relu")],
    "limited relu": lambda: [ReLU(1.0)],
    "leaky relu": lambda: [ReLU(negative_slope=0.5)],
    "rescaling": lambda: [Activation("linear"), Rescaling(2.0)],
    **{name: lambda name=name: [Activation(name)] for name in ACTIVATIONS},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", NOT_A_NUMBER)
@pytest.mark.parametrize("channels", [1, 2])
def test_nan_comes_out_where_pytorchs_does(kind: str, channels: int, dtype: str) -> None:
    model = Sequential([Input((6, 7, channels)), *NOT_A_NUMBER[kind]()], dtype=dtype)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, 7, channels)).astype(dtype)
    x[0, 2, 3, 0] = x[1, 5, 6, -1] = np.nan
    expected = Reference(model.layers, model.get_weights())(x).detach().numpy()
    got = model.predict(x)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# Dropout: the mask is not PyTorch's, but what is dropped follows from the gradient


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 5, 33])
def test_dropout_drops_the_same_on_both_ways(n: int, rate: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, 40)).astype(dtype)
    y = rng.standard_normal((n, 40)).astype(dtype)
    model = Sequential([Input((n,)), Dense(40, use_bias=False), Dropout(rate)], dtype=dtype)
    model.set_weights([images])
    model.compile(SGD(RATE), "mse")
    loss = model.fit(np.eye(n), y, n, shuffle=False, verbose=0).history["loss"][0]
    gradient = (images.astype(np.float64) - model.get_weights()[0]) / RATE
    mask = np.where(gradient == 0, 0, 1 / (1 - rate))
    expected = torch.from_numpy(images.astype(np.float64)).requires_grad_()
    out = expected * torch.from_numpy(mask)
    reference = ((out - torch.from_numpy(y.astype(np.float64))) ** 2).mean()
    reference.backward()
    assert loss == pytest.approx(reference.item(), rel=TOLERANCE[dtype])
    largest = expected.grad.abs().max().item()
    assert np.abs(gradient - expected.grad.numpy()).max() <= TOLERANCE[dtype] * largest
    kept, spread = np.mean(mask > 0), math.sqrt(rate * (1 - rate) / mask.size)
    assert abs(kept - (1 - rate)) < 5 * spread
