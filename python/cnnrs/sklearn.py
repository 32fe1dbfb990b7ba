"""A classifier for scikit-learn's pipelines and searches (the extra `sklearn`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import optimizers
from cnnrs._checks import Shape, sizes
from cnnrs._layer import Input, Layer
from cnnrs.layers import Conv2D, Dense, Flatten, MaxPooling2D, Rescaling
from cnnrs.models import Sequential
from cnnrs.optimizers import Optimizer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "cnnrs.sklearn: expected the package scikit-learn, which is not installed; "
        'pip install "cnnrs[sklearn]" does that',
        name=error.name,
    ) from error

__all__ = ["CNNClassifier"]

Array: TypeAlias = npt.NDArray[Any]
Layers: TypeAlias = Sequence[Layer] | Callable[[Shape], Sequence[Layer]]

DTYPES = (np.float32, np.float64, np.uint8)
"""What the compiled network reads where it lies; other numbers become the first of them."""

SCALE_ROWS = 1000
"""About how many rows the scale of the default network's inputs is taken from."""


class CNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network that sorts images or vectors into classes, as an estimator of scikit-learn.

    The layers are followed by a `Dense` layer with a softmax, one output for each class, and a
    `Flatten` in front of it where it is needed. Training makes the cross-entropy small.

    Args:
        layers: the layers without the last one, or a function that makes them from the shape of one
            input, (h, w, c) or (features,). They are copied at each `fit`. By default (None) 64
            hidden units, behind 32 filters of 3x3 and a pooling if there are images; there, inputs
            are first brought to a mean of 0 and a deviation of 1, all with the same two numbers.
        image_shape: (h, w) or (h, w, c), if images come as rows (n, h * w * c); None by default.
        epochs: how often each image is learnt from, 20 by default.
        batch_size: images a step, 32 by default.
        optimizer: of `cnnrs.optimizers`, or its name; `"adam"` by default.
        learning_rate: instead of the optimizer's own; None by default.
        random_state: what the initial weights, the order of images and dropout follow from: an
            integer for the same model each time, a `RandomState`, or None (default).
        verbose: as for `Sequential.fit`; 0 by default.

    Attributes:
        classes_: the labels, sorted; array (classes,).
        n_features_in_: numbers of one input.
        feature_names_in_: names of the columns, if `fit` was given some.
        input_shape_: what the model is fed: (features,), or (h, w, c).
        model_: the trained `Sequential`.
        history_: losses and accuracies of the epochs, as `History.history`.

    Reference: `sklearn.neural_network.MLPClassifier`, for images.

    Example:
        >>> from cnnrs.datasets import mnist
        >>> from cnnrs.layers import Conv2D, MaxPooling2D, Rescaling
        >>> from cnnrs.sklearn import CNNClassifier
        >>> (x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
        >>> classifier = CNNClassifier(
        ...     [Rescaling(1 / 255), Conv2D(8, 3), MaxPooling2D(2)], epochs=2, random_state=0
        ... )
        >>> classifier.fit(x_train, y_train).score(x_test, y_test) > 0.8
        True
    """

    def __init__(
        self,
        layers: Layers | None = None,
        *,
        image_shape: Sequence[int] | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        random_state: Any = None,
        verbose: Any = 0,
    ) -> None:
        self.layers = layers
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new model.

        Args:
            X: images (n, h, w) or (n, h, w, c), or rows (n, features), finite real numbers.
            y: labels (n,) of any type that can be sorted.

        Returns:
            The classifier.

        Raises:
            TypeError: if layers are none, or a setting is of another type.
            ValueError: if shapes do not fit, numbers are not finite, there is one class only, or a
                setting is out of range.

        Reference: `fit` of scikit-learn's classifiers.

        Example:
            >>> from cnnrs.sklearn import CNNClassifier
            >>> classifier = CNNClassifier([], epochs=200, random_state=0)
            >>> classifier.fit([[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]).classes_
            array(['no', 'yes'], dtype='<U3')
        """
        rows, shape = _rows(X)
        rows, y = validate_data(self, rows, y, dtype=DTYPES)
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            (only,) = classes.tolist()  # as a plain number, which NumPy's is not printed as
            raise ValueError(f"y: expected two classes or more, got 1 class: {only!r}")
        input_shape = _input_shape(self.image_shape, shape, rows.shape[1])
        optimizer = copy.deepcopy(optimizers.get(self.optimizer))
        if self.learning_rate is not None:
            optimizer.learning_rate = self.learning_rate
        model = self._model(input_shape, len(classes), rows)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        history = model.fit(
            rows.reshape(-1, *input_shape),
            numbers,
            batch_size=self.batch_size,
            epochs=self.epochs,
            verbose=self.verbose,
        )
        self.classes_, self.input_shape_ = classes, input_shape
        self.model_, self.history_ = model, history.history
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Compute the probabilities of the classes.

        Args:
            X: images or rows, as for `fit`.

        Returns:
            float32 array (n, classes), in the order of `classes_`; each row's sum is 1.

        Raises:
            sklearn.exceptions.NotFittedError: if `fit` was not called before.
            ValueError: if the shape does not fit, or numbers are not finite.

        Reference: `predict_proba` of scikit-learn's classifiers.

        Example:
            >>> from cnnrs.sklearn import CNNClassifier
            >>> classifier = CNNClassifier([]).fit([[0.0], [0.0]], [5, 7])
            >>> classifier.predict_proba([[0.0], [0.0], [0.0]]).shape
            (3, 2)
        """
        check_is_fitted(self, "model_")
        rows, shape = _rows(X)
        rows = validate_data(self, rows, dtype=DTYPES, reset=False)
        if shape is not None:
            _check_images(_image(shape), self.input_shape_)
        out: npt.NDArray[np.float32] = self.model_.predict(rows.reshape(-1, *self.input_shape_))
        return out

    def predict(self, X: Any) -> Array:
        """Compute the most probable labels.

        Args:
            X: images or rows, as for `fit`.

        Returns:
            Array (n,) of labels.

        Raises:
            sklearn.exceptions.NotFittedError: if `fit` was not called before.
            ValueError: if the shape does not fit, or numbers are not finite.

        Reference: `predict` of scikit-learn's classifiers.

        Example:
            >>> from cnnrs.sklearn import CNNClassifier
            >>> classifier = CNNClassifier([], epochs=200, random_state=0)
            >>> classifier.fit([[-1.0], [1.0]], ["low", "high"]).predict([[-2.0], [2.0]])
            array(['low', 'high'], dtype='<U4')
        """
        probabilities = self.predict_proba(X)  # which finds out whether there are classes
        labels: Array = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def _model(self, input_shape: Shape, classes: int, rows: Array) -> Sequential:
        """A new model with new weights, which leaves everybody else's random numbers alone."""
        if self.layers is None:
            given: Sequence[Layer] = _default_layers(input_shape, rows)
        elif callable(self.layers):
            given = self.layers(input_shape)
        else:
            given = self.layers
        if not isinstance(given, Sequence):  # nor an iterator, which would serve once
            raise TypeError(
                f"layers: expected a list of layers, or a function that makes one, got {given!r}"
            )
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        model = Sequential.__new__(Sequential)
        model._begin(
            [Input(input_shape), *map(copy.deepcopy, given)],
            "sequential",
            "float32",
            np.random.default_rng(seed),
        )
        outputs = model._outputs() if model.layers else input_shape
        if len(outputs) > 1:
            model.add(Flatten())
        model.add(Dense(classes, activation="softmax"))
        return model


def _default_layers(input_shape: Shape, rows: Array) -> list[Layer]:
    sample = rows[:: max(1, len(rows) // SCALE_ROWS)].astype(np.float64)
    mean, deviation = float(sample.mean()), float(sample.std()) or 1.0
    layers: list[Layer] = [Rescaling(1 / deviation, -mean / deviation)]
    if len(input_shape) > 1:
        layers += [
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPooling2D(2, padding="same"),  # which takes images of one pixel, too
            Flatten(),
        ]
    return [*layers, Dense(64, activation="relu")]


def _rows(X: Any) -> tuple[Any, Shape | None]:
    """The inputs as rows, and the shape of one of them if they were images."""
    array = X if hasattr(X, "shape") else np.asarray(X)
    shape = tuple(array.shape)
    if len(shape) < 3:
        return array, None
    if len(shape) > 4 or 0 in shape[1:]:
        raise ValueError(
            f"X: expected rows (n, features), images (n, h, w) or images (n, h, w, c), got shape "
            f"{shape}"
        )
    return np.asarray(array).reshape(len(array), math.prod(shape[1:])), shape[1:]


def _input_shape(image_shape: Sequence[int] | None, shape: Shape | None, features: int) -> Shape:
    """What the model is fed."""
    if image_shape is None:
        return (features,) if shape is None else _image(shape)
    wanted = sizes("image_shape", image_shape)
    if len(wanted) not in (2, 3):
        raise ValueError(f"image_shape: expected (h, w) or (h, w, c), got {image_shape!r}")
    wanted = _image(wanted)
    if shape is not None:
        _check_images(_image(shape), wanted)
    elif math.prod(wanted) != features:
        raise ValueError(
            f"X: expected {math.prod(wanted)} features for image_shape={image_shape!r}, "
            f"got {features}"
        )
    return wanted


def _image(shape: Shape) -> Shape:
    """The shape with an axis of channels."""
    return (*shape, 1) if len(shape) == 2 else shape


def _check_images(got: Shape, expected: Shape) -> None:
    if got != expected:
        raise ValueError(f"X: expected one input of shape {expected}, got images {got}")
