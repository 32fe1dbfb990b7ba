"""`Sequential`: a network as a list of layers, with Keras's methods, run by one Rust call."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _arguments, _arrays, _core, _random, losses, optimizers
from cnnrs._arguments import Verbose
from cnnrs._checks import flag, from_0_below_1, integer
from cnnrs._fit import CallbackList, Data, Fit, evaluate
from cnnrs._last_layer import misfit
from cnnrs._layer import Input, Layer
from cnnrs._progress import Report, line, say
from cnnrs._stored import Stored
from cnnrs._warnings import warn
from cnnrs.callbacks import Callback, History
from cnnrs.losses import Loss
from cnnrs.optimizers import Optimizer
from cnnrs.saving import load_model

__all__ = ["Sequential", "load_model"]

Array: TypeAlias = npt.NDArray[Any]


class Sequential(Stored):
    """A network of layers, each of which takes the output of the one before.

    The model is built, its weights drawn, as soon as the shape of its input is known: from an
    `Input`, from the first layer's `input_shape`, or else from the first images that it is given.

    Args:
        layers: the layers, an `Input` first if there is one; more can be added later.
        name: what messages call the model, `"sequential"` by default.
        dtype: of the arithmetic and the weights: `"float32"` (default) or `"float64"`.

    Raises:
        TypeError: if something else than layers is given.
        ValueError: if a layer does not fit what it is fed, two have the same name, one belongs to
            another model, or the dtype is another.

    Reference: `keras.Sequential`.

    Example:
        >>> from cnnrs import Conv2D, Dense, Flatten, MaxPooling2D, Sequential
        >>> from cnnrs.datasets import mnist
        >>> from cnnrs.utils import set_random_seed
        >>> set_random_seed(1)
        >>> model = Sequential([
        ...     Conv2D(8, 3, input_shape=(28, 28, 1), use_bias=False),
        ...     MaxPooling2D(2),
        ...     Flatten(),
        ...     Dense(10, activation="softmax"),
        ... ])
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> (x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
        >>> history = model.fit(x_train / 255, y_train, epochs=2, verbose=0)
        >>> loss, accuracy = model.evaluate(x_test / 255, y_test, verbose=0)
        >>> accuracy > 0.8
        True
    """

    _compiled_methods = ("call", "train_step", "test_step", "predict_step", "compute_loss")
    _own = Stored._own | {
        *("_optimizer", "_loss", "_metric", "_steps_per_execution", "_network_is_compiled"),
        *("history", "stop_training", "_initial_epoch", "_warned_of_its_end"),
    }

    def __init__(
        self,
        layers: Iterable[Layer | Input] | None = None,
        name: str | None = None,
        dtype: str = "float32",
    ) -> None:
        name = "sequential" if name is None else name
        self._begin(layers or (), name, dtype, _random.new_generator())

    def _begin(
        self,
        layers: Iterable[Layer | Input],
        name: str,
        dtype: npt.DTypeLike,
        rng: np.random.Generator,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        self._optimizer: Optimizer | None = None
        self._loss: Loss | None = None
        self.history: History | None = None
        self.stop_training = False
        self._initial_epoch = 0  # of `fit`; a callback may change it as training begins
        self._steps_per_execution = 1
        self._metric: str | None = None
        self._network_is_compiled = False
        self._warned_of_its_end = False
        super()._begin(layers, name, dtype, rng, weights)

    @property
    def optimizer(self) -> Optimizer | None:
        """What the model was compiled with, or None. `compile` chooses another."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, value: object) -> None:
        raise _compile_chooses("optimizer", value, self._optimizer)

    @property
    def loss(self) -> Loss | None:
        """What the model was compiled with, or None. `compile` chooses another."""
        return self._loss

    @loss.setter
    def loss(self, value: object) -> None:
        raise _compile_chooses("loss", value, self._loss)

    @property
    def steps_per_execution(self) -> int:
        """How many steps `fit` takes between two calls of a callback's hooks of batches.

        May be assigned; it counts from the next `fit`.
        """
        return self._steps_per_execution

    @steps_per_execution.setter
    def steps_per_execution(self, value: int) -> None:
        self._steps_per_execution = integer("steps_per_execution", value)

    def compile(
        self,
        optimizer: str | Optimizer = "sgd",
        loss: str | Loss | type[Loss] | None = None,
        loss_weights: None = None,
        metrics: Sequence[str] | None = None,
        *,
        steps_per_execution: int = 1,
    ) -> None:
        """Choose how the model is trained. What the optimizer had gathered is lost.

        Args:
            optimizer: of `cnnrs.optimizers`, or its name; `"sgd"` by default, where Keras has
                `"rmsprop"`.
            loss: of `cnnrs.losses`, or its name. It has no default.
            loss_weights: None (default): there is one output.
            metrics: `["accuracy"]` or `["acc"]`, which says what the accuracy is called. It is
                reported for classification losses in any case, and for no other.
            steps_per_execution: how many steps `fit` takes between two calls of a callback's hooks
                of batches, 1 by default. Nothing else depends on it.

        Raises:
            TypeError: if something else is given.
            ValueError: if a name is unknown, the loss does not fit the model's output, or
                `steps_per_execution` is less than 1.

        Warns:
            RuntimeWarning: if the model ends in a softmax and the loss, with `from_logits=True`,
                applies another; or if a cross-entropy expects probabilities, and the model ends in
                other numbers. `fit` and `evaluate` warn of it if the end came later.

        Reference: `keras.Model.compile`.

        Example:
            >>> from cnnrs import Dense, Input, Sequential
            >>> from cnnrs.optimizers import SGD
            >>> model = Sequential([Input((4,)), Dense(3, "softmax")])
            >>> model.compile(SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
        """
        if loss is None:
            raise ValueError("loss: expected a name or a cnnrs.losses.Loss, got None")
        if loss_weights is not None:
            raise ValueError(
                f"loss_weights: expected None, got {loss_weights!r}; metrics go by name, as in "
                f'compile(optimizer, loss, metrics=["accuracy"])'
            )
        steps_per_execution = integer("steps_per_execution", steps_per_execution)
        new_optimizer, new_loss = optimizers.get(optimizer), losses.get(loss)
        metric = _arguments.metric(metrics, new_loss)
        with self._lock:
            if self._network is not None:
                self._network.compile(new_loss._compiled(), new_optimizer._compiled())
            self._network_is_compiled = self.built
            self._optimizer, self._loss, self._metric = new_optimizer, new_loss, metric
            self.steps_per_execution = steps_per_execution
            self._warned_of_its_end = False
        self._warn_of_its_end(new_loss)

    def fit(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        batch_size: int | None = 32,
        epochs: int = 1,
        verbose: Verbose = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
    ) -> History:
        """Train on images and labels for a number of epochs.

        Arrays of uint8, float32 or float64 in C order are read where they are, and must not change
        meanwhile; others are copied, other element types as the model's dtype. Values are taken as
        they are: to divide pixels by 255, do so or put a `Rescaling` first. NaN is not looked for.

        Args:
            x: images or vectors (n, *input shape); a last axis of size 1 may be missing.
            y: labels, as the loss wants them: class numbers (n,), or rows (n, *output shape).
            batch_size: images a step, 32 by default, also for None. The last step of an epoch takes
                what is left.
            epochs: the epoch to end after, counted from 1; 1 by default.
            verbose: 0 for silence, 2 for one line an epoch on standard output, 1 for two, and
                between them a progress bar on standard error if it is a terminal, or in a notebook;
                `"auto"` (default) is 1.
            callbacks: of `cnnrs.callbacks`, one or several.
            validation_split: the share of the images, the last ones before they are shuffled, to
                judge by after each epoch instead of training on them; 0 by default.
            validation_data: `(x, y)` to judge by instead; None by default.
            shuffle: whether each epoch has its own random order, True by default.
            initial_epoch: the epochs to leave out, 0 by default.

        Returns:
            The history of this training, which is also `model.history`, from its first epoch on.

        Raises:
            TypeError: if data are no real numbers, or a callback is not a `Callback`.
            ValueError: if the model is not compiled, shapes do not fit, or labels or an argument
                are out of range.

        Warns:
            RuntimeWarning: once, if the loss or that of the validation is not finite; training goes
                on.

        If the optimizer keeps averages (`use_ema=True`), weights become their averages after the
        last epoch, before `on_train_end` of callbacks.

        An exception, such as `KeyboardInterrupt` at Ctrl-C, leaves the model as it was after the
        last whole step, and `model.history` with all finished epochs.

        Reference: `keras.Model.fit`.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Dense, Input, Sequential
            >>> model = Sequential([Input((1,)), Dense(1)])
            >>> model.compile("sgd", "mse")
            >>> x = np.linspace(-1, 1, 100)
            >>> history = model.fit(x, 2 * x, batch_size=10, epochs=50, verbose=0)
            >>> history.history["loss"][-1] < history.history["loss"][0]
            True
        """
        batch_size = _arguments.batch_size(batch_size)
        epochs = integer("epochs", epochs, least=0)
        initial_epoch = integer("initial_epoch", initial_epoch, least=0)
        level = _arguments.verbosity(verbose)
        split = from_0_below_1("validation_split", validation_split)
        shuffle = flag("shuffle", shuffle)
        with self._unbuilt_if_refused():
            data = self._data("fit", x, y)
            validation = None
            if validation_data is not None:
                validation = self._data(
                    "fit", *_arguments.validation_pair(validation_data), of=" of validation_data"
                )
            elif split:
                data, validation = _arguments.split(data, split)
            self._ready_network()
            steps = math.ceil(len(data.x) / batch_size)
            called = CallbackList(callbacks, self, verbose=level, epochs=epochs, steps=steps)
        self.history = called.history
        self.stop_training = False
        self._initial_epoch = initial_epoch
        called.train_begin(
            {
                "images": len(data.x),
                "validation images": len(validation.x) if validation else 0,
                "batch_size": batch_size,
                "shuffle": shuffle,
            }
        )
        fit = Fit(
            self,
            data,
            validation,
            batch_size=batch_size,
            steps_per_execution=self.steps_per_execution,
            callbacks=called,
            report=Report(level, epochs=epochs, steps=steps, images=len(data.x)),
        )
        logs: dict[str, float] = {}
        first = self._initial_epoch
        trained = first > initial_epoch  # before a training that goes on here
        for epoch in range(first, epochs):
            logs = fit.epoch(epoch, self._rng, shuffle)
            trained = True
            self.history = called.history  # which a callback's own `fit` replaces
            if self.stop_training:
                break
        if trained:
            self._ready_network().take_averages()
        called.train_end(logs)
        self.history = called.history
        return called.history

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        batch_size: int | None = None,
        verbose: Verbose = "auto",
        *,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Judge the model by images and labels.

        Args:
            x: images or vectors, as for `fit`.
            y: labels, as for `fit`.
            batch_size: what the printed line counts as a step, 32 by default, also for None. The
                result does not depend on it.
            verbose: 0 for silence, 1, 2 or `"auto"` (default) for a line on standard output.
            callbacks: of `cnnrs.callbacks`, one or several.
            return_dict: whether to return `{"loss": ..., "accuracy": ...}`, False by default.

        Returns:
            For a classification `[loss, accuracy]`, else the loss: means over all images.

        Raises:
            TypeError: if data are no real numbers, or a callback is not a `Callback`.
            ValueError: if the model is not compiled, shapes do not fit, there are no images, or
                labels are out of range.

        Reference: `keras.Model.evaluate`.

        Example:
            >>> import numpy as np
            >>> from cnnrs import Activation, Input, Sequential
            >>> model = Sequential([Input((2,)), Activation("softmax")])
            >>> model.compile("sgd", "sparse_categorical_crossentropy")
            >>> loss, accuracy = model.evaluate([[0.0, 0.0], [0.0, 9.0]], [0, 1], verbose=0)
            >>> round(loss, 3), accuracy
            (0.347, 1.0)
        """
        steps_of = _arguments.batch_size(batch_size)
        level = _arguments.verbosity(verbose)
        data = self._data("evaluate", x, y)
        steps = math.ceil(len(data.x) / steps_of)
        called = CallbackList(callbacks, self, verbose=level, epochs=1, steps=steps)
        called.test_begin()
        start = time.perf_counter()
        logs = evaluate(self._ready_network(), data).logs(self._metric)
        seconds = time.perf_counter() - start
        values = list(logs.values())  # before callbacks change the logs
        called.test_end(logs)
        if level:
            say(line(steps, steps, seconds, logs))
        if return_dict:
            return logs
        return values if len(values) > 1 else values[0]

    def predict(
        self,
        x: npt.ArrayLike,
        batch_size: int | None = None,
        verbose: Verbose = "auto",
        *,
        augmentations: int = 0,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Array:
        """Compute the model's output.

        With `augmentations`, it is the mean of the outputs for so many versions of each image,
        which the model's random augmentation layers make as in training. That is right a little
        more often, as a rule, and takes so many times as long. Each place in `x` has versions of
        its own, the same in each call.

        Calls of one model wait for each other. Threads that predict at once are faster with a copy
        each, `copy.copy(model)`, and `cnnrs.set_num_threads(1)`.

        Args:
            x: images or vectors, as for `fit`.
            batch_size: as in Keras; nothing depends on it here.
            verbose: as in Keras; nothing is printed here.
            augmentations: versions of each image; 0 (default) for the images as they are.
            callbacks: of `cnnrs.callbacks`, one or several.

        Returns:
            New array (n, *output shape) of the model's dtype.

        Raises:
            TypeError: if `x` does not hold real numbers, or a callback is not a `Callback`.
            ValueError: if its shape does not fit, or there are no layers to make versions.

        Reference: `keras.Model.predict`; test-time augmentation as by A. Krizhevsky et al., 2012.

        Example:
            >>> from cnnrs import Input, Rescaling, Sequential
            >>> Sequential([Input((2,)), Rescaling(0.5)]).predict([[-1.0, 2.0]])
            array([[-0.5,  1. ]], dtype=float32)
        """
        steps_of = _arguments.batch_size(batch_size)
        level = _arguments.verbosity(verbose)
        array = self._inputs("x", x)
        network = self._need_network("predict")
        versions = _arguments.augmentations(augmentations, self.layers)
        if callbacks is None:
            return _mean_output(network, array, versions)
        steps = math.ceil(len(array) / steps_of)
        called = CallbackList(callbacks, self, verbose=level, epochs=1, steps=steps)
        called.predict_begin()
        out = _mean_output(network, array, versions)
        called.predict_end()
        return out

    def predict_classes(
        self,
        x: npt.ArrayLike,
        batch_size: int | None = None,
        verbose: Verbose = "auto",
        *,
        augmentations: int = 0,
    ) -> npt.NDArray[np.int64]:
        """Compute which class the model takes each image for.

        Args:
            x: images or vectors, as for `fit`.
            batch_size: as in Keras; nothing depends on it here.
            verbose: as in Keras; nothing is printed here.
            augmentations: as of `predict`.

        Returns:
            int64 array (n,): the first largest output's number; where there is one output alone,
            whether it is above 0.5.

        Raises:
            TypeError: if `x` does not hold real numbers.
            ValueError: as `predict`.

        Reference: `predict_classes` of Keras's `Sequential` up to version 2.5.

        Example:
            >>> from cnnrs import Activation, Input, Sequential
            >>> model = Sequential([Input((3,)), Activation("softmax")])
            >>> model.predict_classes([[0.0, 2.0, 1.0]])
            array([1])
        """
        out = self.predict(x, batch_size, verbose, augmentations=augmentations)
        classes = (out > 0.5)[..., 0] if out.shape[-1] == 1 else out.argmax(axis=-1)
        return classes.astype(np.int64)

    def _inputs(self, name: str, x: npt.ArrayLike) -> Array:
        """The images as the compiled network takes them; if need be the model is built for them."""
        array = _arrays.inputs(name, x, self.dtype)
        if self._network is None:
            if array.ndim == 1 and self._shape is None:
                raise ValueError(
                    f"{name}: expected images or vectors for a model that knows no input shape "
                    f"yet, got shape {array.shape}"
                )
            self.build((None, *array.shape[1:]))
        assert self._shape is not None
        return _arrays.fit_shape(name, array, self._shape)

    def _data(self, method: str, x: npt.ArrayLike, y: npt.ArrayLike, of: str = "") -> Data:
        """Images and labels as the compiled network takes them."""
        if self.loss is None:
            raise ValueError(f"{method}: expected a compiled model, got {self.name} before compile")
        with self._unbuilt_if_refused():
            images = self._inputs(f"x{of}", x)
            self._warn_of_its_end(self.loss)
            if not len(images):
                raise ValueError(f"x{of}: expected at least one image, got none")

            def labels() -> Array:
                assert self.loss is not None
                return self.loss._targets(f"y{of}", y, len(images), self._outputs(), self.dtype)

            return Data(images, labels(), labels)

    def _warn_of_its_end(self, loss: Loss) -> None:
        """Warn, once for each `compile`, if the loss is not one for what the model ends in."""
        words = None if self._warned_of_its_end else misfit(self._layers, loss)
        if words is not None:
            warn(words)
            self._warned_of_its_end = True  # unless warnings are errors

    def _ready_network(self) -> _core.Network:
        """The network, compiled for the loss and the optimizer."""
        with self._lock:
            network = self._need_network("fit")
            if not self._network_is_compiled and self.loss and self.optimizer:
                network.compile(self.loss._compiled(), self.optimizer._compiled())
                self._network_is_compiled = True
        return network

    def _network_changed(self) -> None:
        self._network_is_compiled = False

    def _rates(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """The learning rates of `count` steps, as the optimizer has them now."""
        assert self.optimizer is not None
        return self.optimizer._rates(first, count)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            weights = remembered = None
            if self._network is not None:
                # In one call, because another thread may train meanwhile.
                arrays, remembered = self._network.state()
                weights = dict(zip(self._named_shapes(), arrays, strict=True))
            return {
                "name": self.name,
                "dtype": self.dtype,
                "shape": self._shape,
                "layers": [(type(layer), layer.get_config()) for layer in self._layers],
                "weights": weights,
                "rng": self._rng.bit_generator.state,
                "compiled": (self.optimizer, self.loss, self._metric, self.steps_per_execution),
                "optimizer_state": remembered if self._network_is_compiled else None,
                "history": self.history and (self.history.history, self.history.epoch),
                "attributes": {
                    name: value for name, value in vars(self).items() if name not in self._own
                },
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        rng = np.random.default_rng()
        layers: list[Layer | Input] = [kind.from_config(it) for kind, it in state["layers"]]
        if state["shape"] is not None:
            layers.insert(0, Input(state["shape"]))
        self._begin(layers, state["name"], state["dtype"], rng, state["weights"])
        rng.bit_generator.state = state["rng"]
        # A shallow copy shares no weights with the original, and so nothing that changes them.
        optimizer, self._loss, self._metric, self._steps_per_execution = state["compiled"]
        self._optimizer = copy.deepcopy(optimizer)
        if state["optimizer_state"]:
            self._ready_network().set_optimizer_state(state["optimizer_state"])
        if state["history"] is not None:
            self.history = History()
            self.history.history, self.history.epoch = copy.deepcopy(state["history"])
            self.history.set_model(self)
        vars(self).update(state["attributes"])

    def __repr__(self) -> str:
        return f"<Sequential name={self.name}, built={self.built}>"


def _compile_chooses(name: str, value: object, chosen: object) -> AttributeError:
    return AttributeError(
        f"{name}: expected to stay {chosen!r}, got {value!r}; compile(...) chooses another"
    )


def _mean_output(network: _core.Network, x: Array, versions: int) -> Array:
    """The output for the images or, if there are versions of them, the mean of theirs."""
    if versions == 0:
        return network.predict(x)
    out = network.predict(x, 0)
    for version in range(1, versions):
        out += network.predict(x, version)
    out /= versions
    return out
