"""What training minimises, with Keras's names. A loss object is a description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._arrays import check_length, class_numbers, fit_shape, plain, real
from cnnrs._checks import Shape, between, flag, one_of
from cnnrs._settings import Settled, call_of

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]

Array: TypeAlias = npt.NDArray[Any]


class Loss(Settled):
    """The base of all losses.

    A loss is a class with `_kind`, the compiled network's name for it, `_settings`, the attributes
    that the compiled network takes, and `_targets`, which says what labels must be.

    Reference: `keras.losses.Loss`.

    Example:
        >>> from cnnrs.losses import Loss, MeanSquaredError
        >>> isinstance(MeanSquaredError(), Loss)
        True
    """

    _compiled_methods = ("call", "__call__")
    _kind: ClassVar[str]
    _classifies: ClassVar[bool] = True
    """Whether the share of right predictions is reported too."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal loss.

        Reference: `keras.losses.Loss.get_config`.

        Example:
            >>> from cnnrs.losses import SparseCategoricalCrossentropy
            >>> SparseCategoricalCrossentropy().get_config()
            {'from_logits': False, 'label_smoothing': 0.0}
        """
        return {key: getattr(self, key) for key in self._settings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a loss from what `get_config` returned.

        Reference: `keras.losses.Loss.from_config`.

        Example:
            >>> from cnnrs.losses import SparseCategoricalCrossentropy
            >>> SparseCategoricalCrossentropy.from_config({"from_logits": True})
            SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.0)
        """
        return cls(**config)

    def _compiled(self) -> tuple[str, dict[str, Any]]:
        """The loss as the compiled network takes it."""
        return self._kind, self.get_config()

    def _targets(self, name: str, y: npt.ArrayLike, n: int, outputs: Shape, dtype: str) -> Array:
        """The labels of n images as the compiled network takes them."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return call_of(self, self._settings)


class CategoricalCrossentropy(Loss):
    """Cross-entropy of labels that are one-hot rows or probabilities, (n, classes).

    `loss = -sum over k of y[k] * log(p[k])`, where p is the output, or with `from_logits` its
    softmax. With label smoothing s, y is `y * (1 - s) + s / classes`.

    Without `from_logits`, p is divided by its sum and kept between 1e-7 and 1 - 1e-7; behind a
    softmax, which is computed together with the loss, neither is needed.

    Args:
        from_logits: whether the model ends without a softmax, False by default.
        label_smoothing: from 0 (default) to 1.

    Raises:
        TypeError: if the label smoothing is not a number, or `from_logits` neither True nor False.
        ValueError: if it is out of its range.

    Reference: `keras.losses.CategoricalCrossentropy`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.losses import CategoricalCrossentropy
        >>> model = Sequential([Input((4,)), Dense(3)])
        >>> model.compile("sgd", CategoricalCrossentropy(from_logits=True))
        >>> model.loss
        CategoricalCrossentropy(from_logits=True, label_smoothing=0.0)
    """

    _kind = "categorical_crossentropy"
    _settings = ("from_logits", "label_smoothing")

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag("from_logits", from_logits)
        self.label_smoothing = between("label_smoothing", label_smoothing, 0, 1)

    def _targets(self, name: str, y: npt.ArrayLike, n: int, outputs: Shape, dtype: str) -> Array:
        array = real(name, y)
        check_length(name, array, n)
        if array.shape[1:] != outputs and array.shape[1:] in ((), (1,)):
            raise ValueError(
                f"{name}: expected one-hot rows {_of(n, outputs)} for {self._kind}, got "
                f"{array.shape}; for class numbers compile with "
                f'loss="sparse_categorical_crossentropy", or take cnnrs.utils.to_categorical(y)'
            )
        return plain(fit_shape(name, array, outputs), dtype)


class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of labels that are class numbers, (n,) or (n, 1).

    `loss = -log(p[y])`, where p is the output, or with `from_logits` its softmax. With label
    smoothing s, it is `-(1 - s) * log(p[y]) - s / classes * sum over k of log(p[k])`.

    Without `from_logits`, p is divided by its sum and kept between 1e-7 and 1 - 1e-7, as Keras does
    on JAX and PyTorch (on TensorFlow it does the one after the other the other way round); behind a
    softmax, which is computed together with the loss, neither is needed.

    Args:
        from_logits: whether the model ends without a softmax, False by default.
        label_smoothing: from 0 (default) to 1; by keyword only, as Keras has no such argument.

    Raises:
        TypeError: if the label smoothing is not a number, or `from_logits` neither True nor False.
        ValueError: if it is out of its range.

    Reference: `keras.losses.SparseCategoricalCrossentropy`; the smoothing is that of
    `torch.nn.CrossEntropyLoss`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.losses import SparseCategoricalCrossentropy
        >>> model = Sequential([Input((4,)), Dense(3)])
        >>> model.compile("sgd", SparseCategoricalCrossentropy(from_logits=True))
        >>> model.loss
        SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.0)
    """

    _kind = "sparse_categorical_crossentropy"
    _settings = ("from_logits", "label_smoothing")

    def __init__(self, from_logits: bool = False, *, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag("from_logits", from_logits)
        self.label_smoothing = between("label_smoothing", label_smoothing, 0, 1)

    def _compiled(self) -> tuple[str, dict[str, Any]]:
        if self.label_smoothing:
            return CategoricalCrossentropy._kind, self.get_config()
        return self._kind, {"from_logits": self.from_logits}

    def _targets(self, name: str, y: npt.ArrayLike, n: int, outputs: Shape, dtype: str) -> Array:
        array = real(name, y)
        check_length(name, array, n)
        if array.shape[1:] not in ((), (1,)):
            advice = (
                '; for one-hot rows compile with loss="categorical_crossentropy"'
                if array.shape[1:] == outputs
                else ""
            )
            raise ValueError(
                f"{name}: expected class numbers ({n},) for {self._kind}, got {array.shape}{advice}"
            )
        numbers = class_numbers(name, array.reshape(n), outputs[-1])
        if not self.label_smoothing:
            return numbers
        rows = np.zeros((n, outputs[-1]), dtype)
        rows[np.arange(n), numbers] = 1
        return rows


class MeanSquaredError(Loss):
    """The mean over an image's outputs of `(p - y) ** 2`; labels have the outputs' shape.

    Reference: `keras.losses.MeanSquaredError`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> from cnnrs.losses import MeanSquaredError
        >>> model = Sequential([Input((2,)), Dense(1, kernel_initializer="ones")])
        >>> model.compile("sgd", MeanSquaredError())
        >>> model.evaluate([[1.0, 2.0]], [5.0], verbose=0)
        4.0
    """

    _kind = "mean_squared_error"
    _classifies = False

    def _targets(self, name: str, y: npt.ArrayLike, n: int, outputs: Shape, dtype: str) -> Array:
        array = real(name, y)
        check_length(name, array, n)
        return plain(fit_shape(name, array, outputs), dtype)


BY_NAME: dict[str, type[Loss]] = {
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}


def get(identifier: str | Loss | type[Loss]) -> Loss:
    """Find a loss.

    Args:
        identifier: a name, in Keras's spelling `"mse"` or that of the class; a loss or its class.

    Returns:
        The loss, with default arguments if it was a name or class.

    Raises:
        ValueError: if there is no such loss.
        TypeError: if it is something else.

    Reference: `keras.losses.get`.

    Example:
        >>> from cnnrs import losses
        >>> losses.get("mse")
        MeanSquaredError()
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if isinstance(identifier, str):
        for name, kind in BY_NAME.items():
            if identifier.lower() == name or identifier == kind.__name__:
                return kind()
        raise ValueError(f"loss: expected {one_of(list(BY_NAME))}, got {identifier!r}")
    raise TypeError(f"loss: expected a name or a cnnrs.losses.Loss, got {identifier!r}")


def _of(n: int, outputs: Shape) -> str:
    return f"({', '.join(map(str, (n, *outputs)))})"
