"""What a model makes of images: right and wrong, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm

from cnnrs._arrays import check_length, class_numbers, real
from cnnrs._checks import integer, only
from cnnrs.plotting._style import (
    BLUE,
    GREY,
    SHARES,
    Array,
    axes_of,
    image_of,
    images_of,
    names_of,
    new_figure,
    number_of,
    percent,
    probability_rows,
    scale_of,
    shorten,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 20
"""Classes that `prediction` shows at most."""


def confusion_matrix(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
    normalize: Literal["true", "pred", "all"] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how often images of each class are taken for each class: rows true, columns predicted.

    A cell is tinted by its share of its row; with `normalize`, by the share that it shows. Cells of
    no image are left empty. The name and the arguments are scikit-learn's.

    Args:
        y_true: true class numbers (n,).
        y_pred: predicted class numbers (n,), as `predict_classes` returns them.
        class_names: a name for each class; None (default) for their numbers.
        normalize: None (default) shows numbers of images; `"true"` shares of each row, `"pred"`
            of each column, `"all"` of all images, in percent.
        ax: where to draw; None (default) for a new figure.

    Returns:
        The figure.

    Raises:
        TypeError: if class numbers are no real numbers.
        ValueError: if there are none, they are not whole, not below the number of names, or not as
            many; if `normalize` is none of the above.

    Reference: `sklearn.metrics.ConfusionMatrixDisplay.from_predictions`.

    Example:
        >>> from cnnrs.plotting import confusion_matrix
        >>> figure = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1', '1', '2']
    """
    only("normalize", normalize, None, "true", "pred", "all")
    known = None if class_names is None else len(class_names)
    true, predicted = (
        _classes(name, y, known) for name, y in (("y_true", y_true), ("y_pred", y_pred))
    )
    check_length("y_true", true, len(predicted), "in y_pred")
    if not len(true):
        raise ValueError("y_true: expected at least one class number, got none")
    classes = known or int(max(true.max(), predicted.max())) + 1
    names = names_of(class_names, classes)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (true, predicted), 1)

    whole = {
        "pred": counts.sum(axis=0, keepdims=True),
        "all": counts.sum(keepdims=True),
    }.get(normalize or "true", counts.sum(axis=1, keepdims=True))
    shares = counts / np.maximum(whole, 1)
    longest = max(map(len, names))
    side = min(max(0.46 * classes, 2.4), 14)
    margin = 0.9 + 0.085 * longest
    figure, axes = axes_of(ax, side + margin + 0.9, side + margin + 0.3)
    # By square roots, or a few mistakes among many images would leave no trace.
    tints = PowerNorm(0.5, vmin=0, vmax=max(shares.max(), 1e-9))
    image = axes.imshow(shares, cmap=SHARES, norm=tints)
    size = 9 if classes <= 12 else 7
    for row, column in np.argwhere(counts):
        text = _cell(shares[row, column]) if normalize else f"{counts[row, column]}"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=min(size, 36 / len(text)),
            color="white" if tints(shares[row, column]) > 0.6 else "black",
        )
    axes.set_xticks(range(classes), names, rotation=90 if longest > 3 else 0, fontsize=size + 1)
    axes.set_yticks(range(classes), names, fontsize=size + 1)
    axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    right = int(np.trace(counts))
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{right:,} of {len(true):,} right ({percent(right / len(true))})", fontsize=11)
    bar = figure.colorbar(image, ax=axes, format=lambda share, _: f"{100 * share:.0f}")
    of = {"pred": "the predicted class", "all": "all images"}
    bar.set_label(f"percent of {of.get(normalize or 'true', 'the true class')}")
    return figure


def mistakes(
    x: npt.ArrayLike,
    y_true: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    count: int = 12,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw the most confident mistakes: images taken for a wrong class, the surest first.

    Confidence is the probability of the predicted class. (Top losses, another term, are those whose
    true class has the least probability.)

    Args:
        x: images (n, h, w), (n, h, w, 1) or (n, h, w, 3), of any range.
        y_true: true class numbers (n,).
        probabilities: what `predict` returns behind a softmax (n, classes), or behind one sigmoid
            (n, 1).
        count: how many to draw at most, 12 by default.
        class_names: a name for each class; None (default) for their numbers.

    Returns:
        A figure with a panel for each mistake, or one that says that there are none.

    Raises:
        TypeError: if something does not hold real numbers.
        ValueError: if shapes do not fit, class numbers or probabilities are out of range, or
            `count` is less than 1.

    Example:
        >>> import numpy as np
        >>> from cnnrs.plotting import mistakes
        >>> images = np.zeros((2, 28, 28), np.uint8)
        >>> probabilities = [[0.9, 0.1], [0.75, 0.25]]
        >>> figure = mistakes(images, [0, 1], probabilities, class_names=["cat", "dog"])
        >>> figure.axes[0].get_title()
        'true dog\\ntaken for cat\\n75.0%'
    """
    count = integer("count", count)
    images = images_of("x", x)
    rows = probability_rows(probabilities)
    if len(rows) != len(images):
        raise ValueError(f"probabilities: expected {len(images)} rows, got {len(rows)}")
    true = _classes("y_true", y_true, rows.shape[1])
    check_length("y_true", true, len(images))
    names = [shorten(name, 18) for name in names_of(class_names, rows.shape[1])]

    predicted, sure = rows.argmax(axis=1), rows.max(axis=1)
    wrong = np.flatnonzero(predicted != true)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    shown = wrong[:count]
    if not len(shown):
        figure = new_figure(4, 1.2)
        figure.text(
            0.5, 0.5, f"No mistakes in {number_of(len(images), 'image')}", ha="center", va="center"
        )
        return figure
    columns = min(len(shown), 6 if max(map(len, names)) <= 8 else 5)
    lines = math.ceil(len(shown) / columns)
    width = 1.5 if max(map(len, names)) <= 8 else 2.0
    tall = (width - 0.1) * min(max(images.shape[1] / images.shape[2], 0.25), 2)
    figure = new_figure(max(width * columns, 4.4), (tall + 0.7) * lines + 0.4, "compressed")
    of_all = f"{number_of(len(wrong), 'mistake')} in {number_of(len(images), 'image')}"
    first = "the" if len(shown) == 1 else f"the {len(shown)}"
    figure.suptitle(
        of_all if len(shown) == len(wrong) else f"{of_all}, {first} most confident", fontsize=11
    )
    scale = scale_of(images)
    for at, n in enumerate(shown):
        axes = figure.add_subplot(lines, columns, at + 1)
        show_image(axes, images[n], scale)
        axes.set_title(
            f"true {names[true[n]]}\ntaken for {names[predicted[n]]}\n{percent(sure[n])}",
            fontsize=9,
        )
    return figure


def prediction(
    image: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw an image beside the probabilities of its classes, as bars.

    Of more than 20 classes, the 20 most probable are drawn, the most probable first.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3), of any range.
        probabilities: one row of what `predict` returns, (classes,) or (1, classes); one number
            alone is the probability of class 1 of two.
        class_names: a name for each class; None (default) for their numbers.

    Returns:
        A figure of two panels.

    Raises:
        TypeError: if something does not hold real numbers.
        ValueError: if a shape is another, or a number is not from 0 to 1.

    Example:
        >>> import numpy as np
        >>> from cnnrs.plotting import prediction
        >>> figure = prediction(np.zeros((28, 28)), [0.125, 0.875], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[1].texts]
        ['12.5%', '87.5%']
    """
    picture = image_of(image)
    row = real("probabilities", probabilities)
    row = probability_rows(row.reshape(1, -1) if row.ndim < 2 else row)
    if len(row) != 1:
        raise ValueError(f"probabilities: expected those of one image, got {len(row)} rows")
    (shares,) = row
    names = names_of(class_names, len(shares))
    best = int(shares.argmax())
    shown: Array = np.arange(len(shares))
    if len(shares) > MOST_BARS:
        shown = np.argsort(-shares, kind="stable")[:MOST_BARS]

    height = max(2.6, 0.8 + 0.24 * len(shown))
    margin = 0.09 * max(len(names[n]) for n in shown)
    figure = new_figure(6.4 + margin, height)
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 3.6 + margin))
    show_image(left, picture, scale_of(picture))
    figure.suptitle(f"taken for {names[best]}", fontsize=11)
    bars = right.barh(
        range(len(shown)),
        shares[shown],
        color=[BLUE if n == best else GREY for n in shown],
    )
    right.bar_label(bars, [percent(shares[n]) for n in shown], padding=3, fontsize=9)
    right.set_yticks(range(len(shown)), [names[n] for n in shown])
    right.set_ylim(len(shown) - 0.4, -0.6)
    right.set_xlim(0, 1.18)
    right.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    right.set_xlabel(
        "probability" if len(shown) == len(shares) else f"probability, {len(shown)} largest"
    )
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _classes(name: str, value: npt.ArrayLike, known: int | None) -> npt.NDArray[np.int64]:
    """Class numbers (n,), each below `known`, if that is given."""
    array = real(name, value)
    if array.ndim == 0 or array.shape[1:] not in ((), (1,)):
        raise ValueError(f"{name}: expected class numbers (n,), got shape {array.shape}")
    return class_numbers(name, array.reshape(-1), known)


def _cell(share: float) -> str:
    """A share in a narrow cell: two digits, and more only where it would seem to be 0 or 100."""
    value = 100 * share
    if value in (0, 100) or 1 <= value < 99:
        return f"{value:.0f}"
    return f"{value:.1f}"
