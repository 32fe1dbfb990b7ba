"""Pictures: what stands in them, not how they look."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnrs import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    Sequential,
    plotting,
)
from cnnrs.callbacks import History
from cnnrs.utils import set_random_seed
from model_under_test import assert_same, assert_same_weights, compiled, data

Array = npt.NDArray[Any]

FOUR = {
    "loss": [0.5, 0.3, 0.2],
    "accuracy": [0.8, 0.9, 0.95],
    "val_loss": [0.4, 0.35, 0.3],
    "val_accuracy": [0.85, 0.9, 0.91],
}
LONG = [f"a class with an unusually long name, number {n}" for n in range(20)]


FIVE_TIMES = dict.fromkeys("abcde", 1e-6)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def labels(ticks: Any) -> list[str]:
    return [text.get_text() for text in ticks]


def numbers(line: Any) -> list[list[float]]:
    return [list(line.get_xdata()), list(line.get_ydata())]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Every visible text lies within the figure, and no two titles of panels overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # which lays it out
    renderer = canvas.get_renderer()
    width, height = figure.bbox.size
    titles = []
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        if box is not None:
            assert box.x0 >= -1
            assert box.y0 >= -1
            assert box.x1 <= width + 1
            assert box.y1 <= height + 1
        if axes.get_title():
            titles.append(axes.title.get_window_extent(renderer))
    for text in figure.texts:
        titles.append(text.get_window_extent(renderer))
        assert titles[-1].x0 >= 0
        assert titles[-1].x1 <= width
    for n, one in enumerate(titles):
        assert not any(one.overlaps(other) for other in titles[n + 1 :])


# Training curves


def test_training_curves_with_validation() -> None:
    figure = plotting.training_curves(FOUR)
    loss, accuracy = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Loss", "Accuracy"]
    assert [numbers(line) for line in loss.lines] == [
        [[1, 2, 3], FOUR["loss"]],
        [[1, 2, 3], FOUR["val_loss"]],
    ]
    assert numbers(accuracy.lines[1]) == [[1, 2, 3], FOUR["val_accuracy"]]
    assert labels(loss.get_legend().get_texts()) == ["training, while learning", "validation"]
    assert accuracy.yaxis.get_major_formatter()(0.5, 0) == "50.0%"
    assert_nothing_is_cut_off(figure)


def test_training_curves_of_whatever_is_there() -> None:
    history = {"loss": [2.0], "val_mean_squared_error": [1.0], "learning_rate": [0.1]}
    figure = plotting.training_curves(history)
    titles = ["Loss", "Mean squared error", "Learning rate"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1]
    for names in (1, 4, 7):
        figure = plotting.training_curves({f"metric_{n}": [1.0, 2.0] for n in range(names)})
        assert len(figure.axes) == names
        assert_nothing_is_cut_off(figure)
    with pytest.raises(ValueError, match="history: expected figures of at least one epoch"):
        plotting.training_curves({})
    with pytest.raises(ValueError, match="history: expected figures of at least one epoch"):
        plotting.training_curves({"loss": [], "val_loss": []})
    with pytest.raises(TypeError, match="history: expected a History or its dict, got None"):
        plotting.training_curves(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="history: expected a list of numbers for loss, got 3"):
        plotting.training_curves({"loss": 3})  # type: ignore[dict-item]


def test_training_curves_of_what_fit_returns() -> None:
    x, y = data()
    history = compiled().fit(x, y, epochs=5, initial_epoch=3, verbose=0)
    assert isinstance(history, History)
    line = plotting.training_curves(history).axes[0].lines[0]
    assert numbers(line) == [[4, 5], history.history["loss"]]


def test_training_curves_of_several_trainings_in_one_history() -> None:
    x, y = data()
    model, history = compiled(), History()
    for end in (2, 4):
        model.fit(x, y, epochs=end, initial_epoch=end - 2, verbose=0, callbacks=[history])
    line = plotting.training_curves(history).axes[0].lines[0]
    assert numbers(line) == [[1, 2, 3, 4], history.history["loss"]]


@pytest.mark.parametrize(("rows", "got"), [({}, 0), ({"a": {}}, 0), ({"a": FIVE_TIMES}, 5)])
def test_time_bars_refuses(rows: dict[str, dict[str, float]], got: int) -> None:
    with pytest.raises(ValueError, match=f"rows: .* 1 to 3 implementations, got {got}"):
        plotting.time_bars(rows)


def test_time_bars_refuses_other_implementations_of_another_operation() -> None:
    rows = {"step": {"NumPy": 2.0, "cnnrs": 1.0}, "other": {"NumPy": 2.0}}
    with pytest.raises(ValueError, match=r"times of NumPy, cnnrs for other, got those of NumPy$"):
        plotting.time_bars(rows)


def test_without_matplotlib_the_extra_is_named() -> None:
    program = "import sys; sys.modules['matplotlib'] = None; import cnnrs.plotting"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError: cnnrs.plotting needs matplotlib" in ran.stderr
    assert "pip install 'cnnrs[plots]'" in ran.stderr


# Results

TRUE, PREDICTED = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("normalize", "cells"),
    [
        (None, ["2", "1", "2", "1"]),
        ("true", ["67", "33", "100", "100"]),
        ("pred", ["67", "33", "67", "33"]),
        ("all", ["33", "17", "33", "17"]),
    ],
)
def test_confusion_matrix(normalize: Any, cells: list[str]) -> None:
    figure = plotting.confusion_matrix(TRUE, PREDICTED, ["a", "b", "c"], normalize=normalize)
    axes, bar = figure.axes
    assert texts(axes) == cells
    # Rows are true classes: text of row 0, column 1 stands at x = 1, y = 0.
    assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (1, 1), (0, 2)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert labels(axes.get_xticklabels()) == labels(axes.get_yticklabels()) == ["a", "b", "c"]
    assert axes.get_title() == "4 of 6 right (66.7%)"
    assert bar.get_ylabel().startswith("percent of ")


def test_confusion_matrix_agrees_with_counting() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 10, (2, 500))
    axes = plotting.confusion_matrix(true, predicted.astype(float)).axes[0]
    counts = np.zeros((10, 10), int)
    for row, column in zip(true, predicted, strict=True):
        counts[row, column] += 1
    shown = axes.images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(shown, counts / counts.sum(axis=1, keepdims=True))
    assert sorted(map(int, texts(axes))) == sorted(counts[counts > 0])


def test_confusion_matrix_draws_where_it_is_told_to() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plotting.confusion_matrix([0, 1], [0, 1], ax=right) is figure
    assert (texts(left), texts(right)) == ([], ["1", "1"])
    part = figure.subfigures()
    assert plotting.confusion_matrix([0, 1], [0, 1], ax=part.subplots()) is figure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0]), "y_true: expected 1 labels, as many as in y_pred, got 2"),
        (([], []), "y_true: expected at least one class number, got none"),
        (([0, 5], [0, 1], ["a", "b"]), "y_true: expected class numbers .* below 2, got 5"),
        (([0, 1], [0, 0.5]), "y_pred: expected whole class numbers, got 0.5"),
        ((np.eye(2), np.eye(2)), r"y_true: expected class numbers \(n,\), got shape \(2, 2\)"),
        (([0], [0], None, "rows"), "normalize: expected None, 'true', 'pred' or 'all', got 'rows'"),
    ],
)
def test_confusion_matrix_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plotting.confusion_matrix(*arguments)


def guesses() -> tuple[Array, Array, Array]:
    """Six images, of which 1, 3 and 4 are taken for the wrong class, 4 with the most confidence."""
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    probabilities = np.array(
        [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.05, 0.95], [0.6, 0.4]]
    )
    return images, np.array([0, 0, 1, 1, 0, 0]), probabilities


def test_mistakes_come_surest_first() -> None:
    images, true, probabilities = guesses()
    figure = plotting.mistakes(images, true, probabilities, class_names=["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes] == [
        "true cat\ntaken for dog\n95.0%",
        "true dog\ntaken for cat\n70.0%",
        "true cat\ntaken for dog\n60.0%",
    ]
    for axes, n in zip(figure.axes, (4, 3, 1), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[n])
    assert figure.get_suptitle() == "3 mistakes in 6 images"
    figure = plotting.mistakes(images[..., None], true, probabilities[:, 1:], count=2)
    assert len(figure.axes) == 2
    assert figure.axes[0].get_title() == "true 0\ntaken for 1\n95.0%"
    assert figure.get_suptitle() == "3 mistakes in 6 images, the 2 most confident"


def test_without_mistakes_it_says_so() -> None:
    images, _, probabilities = guesses()
    figure = plotting.mistakes(images, probabilities.argmax(axis=1), probabilities)
    assert ([text.get_text() for text in figure.texts], figure.axes) == (
        ["No mistakes in 6 images"],
        [],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, p: (x, y, p[:3]), "probabilities: expected 6 rows, got 3"),
        (lambda x, y, p: (x, y[:3], p), "y_true: expected 6 labels"),
        (lambda x, y, p: (x, y + 1, p), "y_true: expected class numbers .* below 2, got 2"),
        (lambda x, y, p: (x, y, p * 9), "probabilities: expected numbers from 0 to 1, as behind"),
        (lambda x, y, p: (x, y, p * np.nan), "probabilities: .* got nan"),
        (lambda x, y, p: (x.reshape(6, 20), y, p), r"x: expected images .*got \(6, 20\)"),
        (lambda x, y, p: (x, y, p, 0), "count: expected at least 1, got 0"),
        (lambda x, y, p: (x, y, p, 1, ["a"]), "class_names: expected 2 names, got 1"),
        (lambda x, y, p: (x, y, p, 1, "ab"), "class_names: expected 2 names, got 'ab'"),
    ],
)
def test_mistakes_refuses(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plotting.mistakes(*change(*guesses()))


def test_prediction() -> None:
    figure = plotting.prediction(np.zeros((1, 4, 5, 3)), [[0.125, 0.8754, 0, 0]], list("abcd"))
    left, right = figure.axes
    assert np.shape(left.images[0].get_array()) == (4, 5, 3)
    assert [bar.get_width() for bar in right.patches] == [0.125, 0.8754, 0, 0]
    assert labels(right.get_yticklabels()) == ["a", "b", "c", "d"]
    assert texts(right) == ["12.5%", "87.5%", "0.0%", "0.0%"]
    assert figure.get_suptitle() == "taken for b"
    colours = [bar.get_facecolor() for bar in right.patches]
    assert colours[1] != colours[0] == colours[2]


def test_prediction_of_one_output_and_of_many() -> None:
    right = plotting.prediction(np.zeros((4, 5)), [0.25]).axes[1]
    assert texts(right) == ["75.0%", "25.0%"]
    probabilities = np.arange(100) / np.arange(100).sum()
    right = plotting.prediction(np.zeros((4, 5)), probabilities).axes[1]
    assert labels(right.get_yticklabels()) == [str(n) for n in range(99, 79, -1)]
    assert right.get_xlabel() == "probability, 20 largest"


def test_percentages_round_to_nothing_and_everything_only_if_they_are() -> None:
    right = plotting.prediction(np.zeros((4, 5)), [0.99999, 0.00001]).axes[1]
    assert texts(right) == [">99.9%", "<0.1%"]


def test_prediction_refuses() -> None:
    with pytest.raises(ValueError, match="probabilities: expected those of one image, got 2 rows"):
        plotting.prediction(np.zeros((4, 5)), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"image: expected one image .*got shape \(2, 4, 5\)"):
        plotting.prediction(np.zeros((2, 4, 5)), [0.5, 0.5])


# Insides


def network() -> Sequential:
    set_random_seed(0)
    return Sequential(
        [
            Input((12, 10, 1)),
            Conv2D(4, 3, name="first"),
            BatchNormalization(name="norm"),
            ReLU(name="rectify"),
            MaxPooling2D(name="pool"),
            Conv2D(20, (3, 1), activation="relu", name="second"),
            Dropout(0.5),
            AveragePooling2D((1, 2), name="mean"),
            Flatten(name="flat"),
            Dense(3, name="totals"),
            Activation("softmax"),
        ]
    )


def test_filters_of_one_channel_are_tiles() -> None:
    model = network()
    axes = plotting.filters(model).axes[0]
    assert axes.get_title() == "first: 4 filters of 3 x 3"
    assert texts(axes) == ["0", "1", "2", "3"]
    (image,) = axes.images
    kernel = model.get_weights()[0]
    largest = np.abs(kernel).max()
    assert image.get_clim() == pytest.approx((-largest, largest))
    shown = np.ma.compressed(np.ma.masked_invalid(np.ma.filled(image.get_array(), np.nan)))
    assert set(shown.astype(np.float32)) == set(kernel.ravel())
    # The first tile's upper left corner, which its number stands above.
    (x, y) = axes.texts[0].get_position()
    assert np.float32(image.get_array()[int(y) + 2, int(x) - 5]) == kernel[0, 0, 0, 0]


def test_filters_that_are_not_finite_are_drawn_all_the_same() -> None:
    model = network()
    model.set_weights([array * np.nan for array in model.get_weights()])
    assert plotting.filters(model).axes[0].images[0].get_clim() == (-1, 1)


def test_filters_of_several_channels_are_a_table() -> None:
    model = network()
    for layer in ("second", 4, -6, model.layers[4]):
        axes = plotting.filters(model, layer).axes[0]
        assert axes.get_title() == "second: 20 filters of 3 x 1 x 4"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("input channel", "filter")
        assert labels(axes.get_xticklabels()) == ["0", "1", "2", "3"]
        assert labels(axes.get_yticklabels())[:3] == ["0", "2", "4"]
    figure = Figure()
    assert plotting.filters(model, ax=figure.subplots()) is figure


def test_a_layer_that_is_not_meant_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="layer: expected a Conv2D, got <MaxPooling2D name=pool>"):
        plotting.filters(model, "pool")
    with pytest.raises(ValueError, match=r"layer: expected one of first, norm, .*got 'third'"):
        plotting.filters(model, "third")
    with pytest.raises(IndexError, match="layer: expected a number below 10, got 10"):
        plotting.filters(model, 10)
    with pytest.raises(TypeError, match=r"layer: expected a layer, a name or a number, got 1\.5"):
        plotting.filters(model, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer: expected one of sequential, got <Conv2D"):
        plotting.filters(model, Conv2D(4, 3))
    with pytest.raises(ValueError, match="layer: expected a model with a Conv2D, got sequential"):
        plotting.filters(Sequential([Input((3,)), Dense(2)]))


def test_feature_maps_are_what_a_shorter_model_predicts() -> None:
    model = network()
    image = np.random.default_rng(0).random((12, 10)).astype(np.float32)
    figure = plotting.feature_maps(model, image)
    assert [axes.get_title() for axes in figure.axes] == [
        "image: 12 x 10",
        "first, norm, rectify: 10 x 8 x 4",
        "pool: 5 x 4 x 4",
        "second: 3 x 4 x 20",
        "mean: 3 x 2 x 20",
    ]
    shorter = Sequential([Input((12, 10, 1)), Conv2D(4, 3), BatchNormalization(), ReLU()])
    shorter.set_weights(model.get_weights()[: len(shorter.get_weights())])
    expected = shorter.predict(image[None])
    (shown,) = figure.axes[1].images
    assert shown.get_clim() == pytest.approx((expected.min(), expected.max()))
    # Without the gaps, each number of the first line of maps, over and over.
    array = np.ma.masked_invalid(np.ma.filled(shown.get_array(), np.nan))
    zoom = array.shape[0] // 10
    first = array[::zoom, ::zoom][:10, :8].astype(np.float32)
    np.testing.assert_array_equal(first, expected[0, :, :, 0])
    assert set(array.compressed().astype(np.float32)) == set(expected.ravel())


def test_feature_maps_of_one_layer() -> None:
    model, image = network(), np.zeros((12, 10, 1), np.uint8)
    figure = plotting.feature_maps(model, image, "norm")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image: 12 x 10", "norm: 10 x 8 x 4"]
    message = r"output is an image, got flat with \(None, 120\)"
    with pytest.raises(ValueError, match=message):
        plotting.feature_maps(model, image, "flat")
    with pytest.raises(ValueError, match=r"image: expected shape \(12, 10, 1\), got \(9, 9\)"):
        plotting.feature_maps(model, np.zeros((9, 9)))
    with pytest.raises(ValueError, match="image: expected an array of real numbers, got none"):
        plotting.feature_maps(model, [[1, 2], [3]])
    with pytest.raises(ValueError, match="feature_maps: expected a built model"):
        plotting.feature_maps(Sequential([Conv2D(4, 3)]), image)
    with pytest.raises(ValueError, match="expected one with a convolution or pooling, got seq"):
        plotting.feature_maps(Sequential([Input((3,)), Dense(2)]), np.zeros(3))


def test_feature_maps_leave_the_model_and_its_random_numbers_alone() -> None:
    x, y = data()

    def trained(look: bool) -> list[Sequential]:
        model = compiled(dropout=0.5)
        model.fit(x, y, verbose=0)
        if look:
            layers, weights = model.layers, model.get_weights()
            plotting.feature_maps(model, x[0])
            plotting.filters(model)
            assert model.layers == layers
            assert_same(weights, model.get_weights())
        model.fit(x, y, verbose=0)
        return [model, Sequential([Input((4,)), Dense(3)])]

    for looked_at, other in zip(trained(True), trained(False), strict=True):
        assert_same_weights(looked_at, other)


# Looks


def drawn() -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    x = rng.random((40, 28, 28))
    found: dict[str, Figure] = {}
    for classes in (2, 10, 20):
        names = LONG[:classes]
        true, predicted = rng.integers(0, classes, (2, 40))
        sure = np.full((40, classes), 0.5 / (classes - 1))
        sure[np.arange(40), predicted] = 0.5001
        for kind, class_names in (("numbers", None), ("names", names)):
            key = f"{classes}-{kind}"
            found |= {
                f"matrix-{key}": plotting.confusion_matrix(true, predicted, class_names),
                f"mistakes-{key}": plotting.mistakes(x, true, sure, class_names=class_names),
                f"mistake-{key}": plotting.mistakes(x, true, sure, 1, class_names),
                f"prediction-{key}": plotting.prediction(x[0], sure[0], class_names),
            }
    wide = Sequential(
        [Input((28, 28, 3)), Conv2D(1, 7), Conv2D(64, 3), MaxPooling2D(), Conv2D(8, 5)]
    )
    panorama = Sequential([Input((8, 80, 1)), Conv2D(4, 3)])
    found |= {
        "filters-one-channel": plotting.filters(wide, 1),
        "filters-one-filter": plotting.filters(wide, 0),
        "filters-many-channels": plotting.filters(wide, 3),
        "maps": plotting.feature_maps(wide, rng.random((28, 28, 3))),
        "maps-grey": plotting.feature_maps(network(), np.zeros((12, 10))),
        "maps-wide": plotting.feature_maps(panorama, rng.random((8, 80))),
        "maps-one": plotting.feature_maps(wide, rng.random((28, 28, 3)), 0),
    }
    return found


def test_nothing_is_cut_off_and_no_titles_overlap() -> None:
    for name, figure in drawn().items():
        try:
            assert_nothing_is_cut_off(figure)
        except AssertionError as error:
            raise AssertionError(name) from error
