"""The layers of a model and their weights: the half of `Sequential` that does not train."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _arrays, _core, initializers
from cnnrs._checks import Shape, choice, integer, one_of, only, sizes, text
from cnnrs._layer import Input, Layer
from cnnrs._settings import Settled, Trained
from cnnrs._summary import Row, summary

Array: TypeAlias = npt.NDArray[Any]

TWINS = {
    "cnnrs.tutorial.Conv3x3": "Conv2D(num_filters, 3, use_bias=False)",
    "cnnrs.tutorial.MaxPool2": "MaxPooling2D(2)",
    "cnnrs.tutorial.Softmax": 'Dense(nodes, activation="softmax")',
}
"""What stands for the tutorial's layers in a model."""

_structures: weakref.WeakSet[Structure] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: nobody here would release what another thread held as it was forked."""
    for structure in _structures:
        structure._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Structure(Settled, Trained):
    """A list of layers, compiled to a network whenever it changes.

    `_own` names its own attributes: all others are the user's, which copies take with them.
    """

    _own: ClassVar[frozenset[str]] = frozenset(
        (
            *("_name", "_dtype", "_rng", "_lock"),
            *("_layers", "_shape", "_network", "_in_network"),
        )
    )

    def _begin(
        self,
        layers: Iterable[Layer | Input],
        name: str,
        dtype: npt.DTypeLike,
        rng: np.random.Generator,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        """Become a model of these layers, with these weights or with new ones."""
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {layers!r}")
        self.name = name
        self._dtype = _dtype(dtype)
        self._rng = rng
        self._lock = threading.RLock()  # held while the structure changes
        _structures.add(self)
        self._layers: list[Layer] = []
        self._shape: Shape | None = None  # of the input, without the batch axis
        self._network: _core.Network | None = None
        self._in_network: list[Layer] = []
        self._change(lambda: self._extend(layers), weights)

    @property
    def name(self) -> str:
        """What messages, summaries and files call the model. May be assigned."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = text("name", value)

    @property
    def dtype(self) -> str:
        """Of the arithmetic and the weights: `"float32"` or `"float64"`, as the model was made."""
        return self._dtype

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the `Input`; a new list."""
        return list(self._layers)

    @property
    def built(self) -> bool:
        """Whether the input's shape is known, and with it the weights are there."""
        return self._network is not None

    @property
    def input_shape(self) -> tuple[None, *tuple[int, ...]]:
        """The shape of what the model is fed, None standing for the batch axis.

        Raises:
            AttributeError: if it is not known yet.
        """
        if self._shape is None:
            raise AttributeError(f"{self.name} has no input shape yet")
        return None, *self._shape

    @property
    def output_shape(self) -> tuple[None, *tuple[int, ...]]:
        """The shape of what the model predicts, None standing for the batch axis.

        Raises:
            AttributeError: if it is not known yet.
        """
        if self._network is None:
            raise AttributeError(f"{self.name} has no output shape yet")
        return None, *self._outputs()

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Find a layer by its name or by its place.

        Args:
            name: the layer's name.
            index: its place in `layers`, from 0, or from -1 backwards.

        Raises:
            TypeError: if the index is no integer.
            ValueError: if there is no such layer, or not one of the two is given.

        Reference: `keras.Model.get_layer`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((4,)), Dense(3, name="hidden"), Dense(2)])
            >>> model.get_layer("hidden") is model.get_layer(index=0)
            True
        """
        if (name is None) == (index is None):
            raise ValueError(
                f"get_layer: expected a name or an index, got name={name!r}, index={index!r}"
            )
        layers = self.layers
        if index is not None:
            place = integer("index", index, least=-len(layers))
            if place >= len(layers):
                raise ValueError(f"index: expected less than {len(layers)}, got {place}")
            return layers[place]
        for layer in layers:
            if layer.name == name:
                return layer
        names = one_of([layer.name for layer in layers]) if layers else "none, without layers"
        raise ValueError(f"name: expected {names}, got {name!r}")

    def add(self, layer: Layer | Input) -> None:
        """Add a layer behind the last one. The others keep their weights.

        Args:
            layer: a layer that is in no model yet, or first of all an `Input`.

        Raises:
            TypeError: if it is no layer.
            ValueError: if it does not fit what it is fed, its name is taken, or it belongs to
                another model. The model stays as it was.

        Reference: `keras.Sequential.add`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((4,))])
            >>> model.add(Dense(3))
            >>> model.output_shape
            (None, 3)
        """
        self._change(lambda: self._append(layer))

    def pop(self) -> Layer:
        """Take the last layer off. The others keep their weights.

        Returns:
            The layer, which can be added to a model again; its weights are gone.

        Raises:
            IndexError: if there is none.

        Reference: `keras.Sequential.pop`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((4,)), Dense(3), Dense(2)])
            >>> model.pop()
            <Dense name=dense_1>
            >>> model.output_shape
            (None, 3)
        """
        if not self._layers:
            raise IndexError(f"pop: expected a model with layers, got {self.name} with none")
        layer = self._layers[-1]
        self._change(lambda: self._layers.pop())
        layer._leave()
        return layer

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Fix the shape of the input, and draw the weights.

        Args:
            input_shape: with the batch axis, as in `(None, 28, 28, 1)`; its size may be anything.
                Not needed if the model knows.

        Raises:
            ValueError: if the shape is not known, it is another than the model knows, there are no
                layers, or one of them does not fit what it is fed.

        Reference: `keras.Sequential.build`.

        Example:
            >>> from cnnrs import Dense, Sequential
            >>> model = Sequential([Dense(3)])
            >>> model.build((None, 4))
            >>> model.count_params()
            15
        """
        if not self._layers:
            raise ValueError(f"{self.name}: expected a model with layers, got one with none")
        if input_shape is None:
            if self._shape is None:
                raise ValueError(
                    "input_shape: expected a shape such as (None, 28, 28, 1), got None"
                )
            return
        if not isinstance(input_shape, list | tuple):
            raise TypeError(
                f"input_shape: expected a shape such as (None, 28, 28, 1), got {input_shape!r}"
            )
        self._build(sizes("input_shape", input_shape[1:]))

    def summary(
        self,
        line_length: None = None,
        positions: None = None,
        print_fn: Callable[[str], object] | None = None,
    ) -> None:
        """Print a table of the layers, their outputs' shapes and their weights.

        Args:
            line_length: None (default): the table is as wide as what it says.
            positions: None (default), likewise.
            print_fn: called with each line, instead of `print`.

        Raises:
            ValueError: if there is a line length, or there are positions.

        Reference: `keras.Model.summary`.

        Example:
            >>> from cnnrs import Conv2D, Flatten, Input, Sequential
            >>> Sequential([Input((28, 28, 1)), Conv2D(8, 3), Flatten()]).summary()
            Model: "sequential"
            +-------------------+-------------------+---------+
            | Layer (type)      | Output Shape      | Param # |
            +-------------------+-------------------+---------+
            | conv2d (Conv2D)   | (None, 26, 26, 8) |      80 |
            | flatten (Flatten) | (None, 5408)      |       0 |
            +-------------------+-------------------+---------+
             Total params: 80 (320.00 B)
             Trainable params: 80 (320.00 B)
             Non-trainable params: 0 (0.00 B)
        """
        only("line_length", line_length, None)
        only("positions", positions, None)
        with self._lock:
            rows = [Row(layer.name, type(layer).__name__) for layer in self._layers]
            if self._network is not None:
                outputs, weights = self._network.output_shapes(), self._network.weight_shapes()
                for row, output, parts in zip(rows, outputs, weights, strict=True):
                    row.output, row.weights = output, [part[1:] for part in parts]
        for row_text in summary(self.name, rows, np.dtype(self.dtype).itemsize):
            (print_fn or print)(row_text)

    def get_weights(self) -> list[Array]:
        """Copy all weights.

        Returns:
            Arrays of the model's dtype, in Keras's order and shapes: layer by layer, a kernel
            (kh, kw, in, out) or (in, out) before its bias.

        Raises:
            ValueError: if the model is not built.

        Reference: `keras.Model.get_weights`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> [array.shape for array in Sequential([Input((4,)), Dense(3)]).get_weights()]
            [(4, 3), (3,)]
        """
        return self._need_network("get_weights").get_weights()

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Replace all weights, also by those of the same model in Keras.

        Args:
            weights: arrays of real numbers in the order and of the shapes of `get_weights`.

        Raises:
            TypeError: if they are no arrays of real numbers.
            ValueError: if the model is not built, or their number or a shape is another.

        Reference: `keras.Model.set_weights`.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((2,)), Dense(1)])
            >>> model.set_weights([np.array([[2.0], [3.0]]), np.array([1.0])])
            >>> model.predict([[1.0, 1.0]]).tolist()
            [[6.0]]
        """
        network = self._need_network("set_weights")
        expected = sum(map(len, network.weight_shapes()))
        weights = _arrays.several("weights", weights, expected)
        network.set_weights(
            [
                _arrays.plain(_arrays.real(f"weights[{n}]", array), self.dtype)
                for n, array in enumerate(weights)
            ]
        )

    def count_params(self) -> int:
        """Count the numbers in all weights, trained or not.

        Raises:
            ValueError: if the model is not built.

        Reference: `keras.Model.count_params`.

        Example:
            >>> from cnnrs import Conv2D, Input, Sequential
            >>> Sequential([Input((28, 28, 1)), Conv2D(8, 3)]).count_params()
            80
        """
        shapes = self._need_network("count_params").weight_shapes()
        return sum(math.prod(shape) for parts in shapes for _, shape, _ in parts)

    # For layers and subclasses

    def _layer_weights(self, layer: Layer) -> list[Array]:
        return self._by_layer(self.get_weights())[layer]

    def _set_layer_weights(self, layer: Layer, weights: Sequence[npt.ArrayLike]) -> None:
        with self._lock:
            parts: dict[Layer, Sequence[npt.ArrayLike]] = {**self._by_layer(self.get_weights())}
            parts[layer] = _arrays.several(layer.name, weights, len(parts[layer]))
            self.set_weights([array for part in parts.values() for array in part])

    def _by_layer(self, weights: list[Array]) -> dict[Layer, list[Array]]:
        """The arrays of all layers by the layer that has them."""
        rest = iter(weights)
        shapes = self._need_network("weights").weight_shapes()
        return {
            layer: [next(rest) for _ in parts]
            for layer, parts in zip(self._in_network, shapes, strict=True)
        }

    def _weights_by_name(self) -> dict[str, Array]:
        """Copies of all weights by their names, such as `conv2d/kernel`."""
        return dict(zip(self._named_shapes(), self.get_weights(), strict=True))

    def _set_weights_by_name(self, weights: Mapping[str, Array]) -> None:
        """Set all weights, which must be there, of the model's dtype and of the right shapes."""
        network = self._need_network("load_weights")
        network.set_weights(_in_order(self._named_shapes(), weights, self.dtype))

    def _named_shapes(self) -> dict[str, Shape]:
        return _named_shapes(self._layers, self._need_network("weights"))

    def _outputs(self) -> Shape:
        """The shape of one prediction."""
        return self._need_network("output_shape").output_shapes()[-1]

    def _need_network(self, what: str) -> _core.Network:
        if self._network is None:
            lacks = "knows no input shape yet; begin with an Input, or call build"
            if self._shape is not None:
                lacks = "has no layers"
            raise ValueError(f"{what}: expected a built model, got {self.name}, which {lacks}")
        return self._network

    def _build(self, shape: Shape) -> None:
        """Fix the input's shape, if it is not fixed yet."""
        with self._lock:
            if self._shape is None:
                self._change(lambda: setattr(self, "_shape", shape))
            elif self._shape != shape:
                raise ValueError(
                    f"input_shape: expected {self.input_shape}, which {self.name} has already, "
                    f"got {(None, *shape)}"
                )

    @contextmanager
    def _unbuilt_if_refused(self) -> Iterator[None]:
        """Take the building of the model back, if there is one and what follows it is refused."""
        with self._lock:
            network, shape, random = self._network, self._shape, self._rng.bit_generator.state
            try:
                yield
            except BaseException:
                if self._network is not network:
                    self._network, self._shape, self._in_network = network, shape, []
                    self._rng.bit_generator.state = random
                raise

    def _change(
        self, change: Callable[[], object], weights: Mapping[str, Array] | None = None
    ) -> None:
        """Change the layers or the shape and build the network, or leave all as it was."""
        with self._lock:
            layers, shape = list(self._layers), self._shape
            try:
                change()
                self._rebuild(weights)
            except BaseException:
                for layer in self._layers:
                    if layer not in layers:
                        layer._leave()
                self._layers, self._shape = layers, shape
                raise

    def _extend(self, layers: Iterable[Layer | Input]) -> None:
        for layer in layers:
            self._append(layer)

    def _append(self, layer: Layer | Input) -> None:
        if isinstance(layer, Input):
            if self._layers or self._shape is not None:
                raise ValueError(
                    f"{layer.name}: expected one Input, before all layers, got a later one"
                )
            self._shape = layer.shape
            return
        if not isinstance(layer, Layer):
            twin = TWINS.get(f"{type(layer).__module__}.{type(layer).__name__}")
            advice = f"; {twin} is its like there" if twin else ""
            raise TypeError(f"layers: expected objects of cnnrs.layers, got {layer!r}{advice}")
        if layer._model is not None:
            raise ValueError(
                f"{layer.name}: expected a layer of no model, got one of {layer._model.name}; "
                f"make another, as with Layer.from_config"
            )
        if not self._layers and layer._input_shape is not None:
            if self._shape not in (None, layer._input_shape):
                raise ValueError(
                    f"{layer.name}: expected input_shape={self._shape}, as Input has it, "
                    f"got {layer._input_shape}"
                )
            self._shape = layer._input_shape
        layer._join(self, {other.name for other in self._layers})
        self._layers.append(layer)

    def _rebuild(self, weights: Mapping[str, Array] | None) -> None:
        """Compile the network anew, with these weights if they are given.

        Otherwise layers that were in the old one keep theirs, and others draw new ones.
        """
        if self._shape is None or not self._layers:
            network = None
        else:
            compiled = [layer._compiled() for layer in self._layers]
            network = _core.Network(self._shape, compiled, self.dtype)
            if weights is None:
                new = self._kept_and_drawn(network)
            else:
                new = _in_order(_named_shapes(self._layers, network), weights, self.dtype)
            network.set_weights(new)
        self._network, self._in_network = network, list(self._layers)
        self._network_changed()

    def _kept_and_drawn(self, network: _core.Network) -> list[Array]:
        """The weights of a new network: those of the old one's layers, others drawn."""
        old = self._by_layer(self.get_weights()) if self._network else {}
        new: list[Array] = []
        for layer, parts in zip(self._layers, network.weight_shapes(), strict=True):
            new += old.get(layer) or [
                initializers.draw(
                    getattr(layer, f"{name}_initializer"), shape, self.dtype, self._rng
                )
                for name, shape, _ in parts
            ]
        return new

    def _network_changed(self) -> None:
        """Called when there is another network, or none."""
        raise NotImplementedError


def _named_shapes(layers: Sequence[Layer], network: _core.Network) -> dict[str, Shape]:
    """The shapes of all weights in their order, by names such as `conv2d/kernel`."""
    return {
        f"{layer.name}/{name}": shape
        for layer, parts in zip(layers, network.weight_shapes(), strict=True)
        for name, shape, _ in parts
    }


def _in_order(shapes: Mapping[str, Shape], weights: Mapping[str, Array], dtype: str) -> list[Array]:
    """The weights in the order of the shapes, if they are all of them and fit."""
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"expected a weight {name} {shape}, found none")
        array = weights[name]
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ValueError(
                f"expected {name} of shape {shape} and dtype {dtype}, found {array.shape} and "
                f"{array.dtype}"
            )
    for name in weights:
        if name not in shapes:
            raise ValueError(f"expected no weight {name}, found one")
    return [weights[name] for name in shapes]


def _dtype(value: npt.DTypeLike) -> str:
    try:
        name = str(value) if value is None else np.dtype(value).name
    except TypeError:
        name = str(value)
    return choice("dtype", name, ("float32", "float64"))
