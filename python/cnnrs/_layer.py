"""What all layers of a `Sequential` model are, and what it is fed."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy.typing as npt

from cnnrs import initializers
from cnnrs._checks import sizes, text
from cnnrs._settings import Settled, Trained

if TYPE_CHECKING:
    from cnnrs._structure import Structure


class Common(TypedDict, total=False):
    """The keyword arguments of every layer.

    `name`: what messages, summaries and files call it; Keras's choice by default, such as `conv2d`,
    `conv2d_1`. `input_shape`: what the model is fed, without the batch axis, if the layer is first.
    """

    name: str | None
    input_shape: Sequence[int] | None


class Input:
    """What a model is fed, given before its first layer.

    Args:
        shape: the sizes of one image or vector, without the batch axis.
        name: what messages call it, `"input_layer"` by default.

    Raises:
        TypeError: if the shape is no tuple of integers.
        ValueError: if a size is unknown or not positive.

    Reference: `keras.Input`.

    Example:
        >>> from cnnrs import Dense, Input, Sequential
        >>> Sequential([Input((784,)), Dense(10)]).output_shape
        (None, 10)
    """

    def __init__(self, shape: Sequence[int], name: str | None = None) -> None:
        self.shape = sizes("shape", shape)
        self.name = "input_layer" if name is None else text("name", name)

    def __repr__(self) -> str:
        return f"<Input shape={self.shape}>"


class Layer(Settled, Trained):
    """The base of all layers.

    A layer is a class with `_kind`, the compiled network's name for it, and `_settings`, the
    attributes that the compiled network takes, which are arguments too. A weight named `kernel`
    begins with what the attribute `kernel_initializer` draws. None of these can be assigned once a
    layer is made, nor can its name.

    Args:
        name: what messages, summaries and files call the layer; Keras's choice by default.
        input_shape: what the model is fed, without the batch axis, if the layer is first.

    Reference: `keras.Layer`.

    Example:
        >>> from cnnrs.layers import Dense, Layer
        >>> isinstance(Dense(10), Layer)
        True
    """

    _compiled_methods = ("call", "build", "compute_output_shape", "add_weight", "add_loss")
    _kind: ClassVar[str]
    _weights: ClassVar[tuple[str, ...]] = ()
    _base_name: ClassVar[str | None] = None
    """What names begin with, where it is not the kind."""

    def __init__(
        self,
        *,
        name: str | None = None,
        input_shape: Sequence[int] | None = None,
        **unknown: object,
    ) -> None:
        kind = type(self).__name__
        if not hasattr(self, "_kind"):
            raise TypeError(f"{kind}: expected a layer of cnnrs.layers, or a class made of one")
        if unknown:
            key, value = unknown.popitem()
            advice = f"; give input_shape=({value},)" if key == "input_dim" else ""
            *first, last = _arguments(type(self))
            raise TypeError(
                f"{kind}: expected the arguments {', '.join(first)} or {last}, "
                f"got {key}={value!r}{advice}"
            )
        self._model: Structure | None = None
        self._named = name is not None
        self.name = self._base_name or self._kind if name is None else text("name", name)
        self._input_shape = None if input_shape is None else sizes("input_shape", input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer, as Keras without `input_shape`.

        Returns:
            A dict for `from_config`: of plain values, unless an initializer is a user's function.

        Reference: `keras.Layer.get_config`.

        Example:
            >>> from cnnrs.layers import MaxPooling2D
            >>> MaxPooling2D(2, name="pool").get_config()
            {'name': 'pool', 'pool_size': (2, 2), 'strides': (2, 2), 'padding': 'valid'}
        """
        config = {"name": self.name, **self._compiled()[2]}
        for key in self._initializers():
            config[key] = initializers.serialize(getattr(self, key))
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a layer from what `get_config` returned.

        Reference: `keras.Layer.from_config`.

        Example:
            >>> from cnnrs.layers import Dense
            >>> Dense.from_config(Dense(10, "softmax").get_config()).activation
            'softmax'
        """
        return cls(**config)

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """Copy the layer's weights, in Keras's order.

        Raises:
            ValueError: if the layer is in no model, or the model is not built.

        Reference: `keras.Layer.get_weights`.

        Example:
            >>> from cnnrs import Conv2D, Input, Sequential
            >>> model = Sequential([Input((28, 28, 1)), Conv2D(8, 3)])
            >>> [array.shape for array in model.layers[0].get_weights()]
            [(3, 3, 1, 8), (8,)]
        """
        return self._owner()._layer_weights(self)

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Replace the layer's weights.

        Args:
            weights: arrays in the order and of the shapes of `get_weights`.

        Raises:
            ValueError: if the layer is in no model, the model is not built, or a shape is another.

        Reference: `keras.Layer.set_weights`.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((3,)), Dense(1)])
            >>> model.layers[0].set_weights([np.ones((3, 1)), np.zeros(1)])
            >>> model.predict(np.ones((1, 3))).tolist()
            [[3.0]]
        """
        self._owner()._set_layer_weights(self, weights)

    def _settled(self) -> tuple[str, ...]:
        return ("name", *self._settings, *self._initializers())

    def _initializers(self) -> tuple[str, ...]:
        return tuple(f"{weight}_initializer" for weight in self._weights)

    def _owner(self) -> Structure:
        if self._model is None:
            raise ValueError(f"{self.name}: expected a layer of a built model, got one of no model")
        return self._model

    def _compiled(self) -> tuple[str, str, dict[str, Any]]:
        """The layer as the compiled network takes it."""
        return self._kind, self.name, {key: getattr(self, key) for key in self._settings}

    def _join(self, model: Structure, taken: Collection[str]) -> None:
        """Become a layer of a model in which those names are taken."""
        if not self._named:
            base = self._base_name or self._kind
            names = itertools.chain([base], (f"{base}_{n}" for n in itertools.count(1)))
            free = next(name for name in names if name not in taken)
            self.__dict__["name"] = free  # chosen here, not assigned anew
        elif self.name in taken:
            raise ValueError(f"name: expected one that no other layer has, got {self.name!r}")
        self._model = model

    def _leave(self) -> None:
        """Become a layer of no model."""
        self._model = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}  # A copy belongs to no model yet.

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


def _arguments(kind: type[Layer]) -> list[str]:
    """The names of all arguments of a class, also of those that it passes on to its base."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            _self, *arguments = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {it.name: None for it in arguments if it.kind not in _SEVERAL}
            if not any(it.kind is it.VAR_KEYWORD for it in arguments):
                break
    return list(names)


_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
