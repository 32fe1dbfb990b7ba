"""Model files: layers, weights, and what training needs to go on.

A file holds the weights by names such as `conv2d/kernel` in Keras's shapes, what the optimizer
remembers as `optimizer.steps` and `optimizer.slot_1`, and all else as JSON. A weight's name always
has a slash and no other has one, so none can be taken for another. A backup of a training is such a
file too, and holds arrays of its callbacks besides, as `callback.0`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from cnnrs import _arguments, _core, _tensor_file, layers, losses, optimizers
from cnnrs._checks import Shape, as_path, flag, integer, only
from cnnrs._layer import Input, Layer
from cnnrs._structure import Structure

if TYPE_CHECKING:
    from cnnrs.models import Sequential

__all__ = ["load_model"]

Array: TypeAlias = npt.NDArray[Any]
Path: TypeAlias = str | os.PathLike[str]
Described: TypeAlias = dict[str, Any]

SUFFIX = ".safetensors"

NOT_COMPILED = (None, None, None, 1)
"""Optimizer, loss, metric and steps per execution of a model before `compile`."""

FAULTS = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError)
"""What reading a description raises, besides ValueError, if it is of another make than ours."""


def load_model(filepath: Path, custom_objects: None = None, compile: bool = True) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    It predicts the same, and trained on it ends with the same weights, bit for bit on a machine of
    the same kind. Nothing in the file is run as code, and it gets no more memory than its own size
    calls for, whatever it claims.

    Args:
        filepath: the file's path.
        custom_objects: None (default): a file holds layers of this package alone.
        compile: whether the model is compiled if it was, True by default.

    Returns:
        The model; its history is not kept.

    Raises:
        FileNotFoundError: if there is none.
        TypeError: if it is no path, or `compile` neither True nor False.
        ValueError: if the file is damaged, holds weights only, was written by a newer version, or
            is none of ours.

    Reference: `keras.models.load_model`.

    Example:
        >>> import tempfile
        >>> import cnnrs
        >>> from cnnrs import Dense, Input, Sequential
        >>> model = Sequential([Input((4,)), Dense(3)])
        >>> model.compile("adam", "mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.safetensors")
        ...     twin = cnnrs.load_model(f"{folder}/model.safetensors")
        >>> twin.optimizer
        Adam(learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-07)
    """
    filepath = as_path("filepath", filepath)
    only("custom_objects", custom_objects, None)
    compiles = flag("compile", compile)
    with naming_damage(filepath):
        tensors, about = _tensor_file.read(filepath)
        if about.get("model") is None:
            raise ValueError("expected a model, found weights only, which load_weights reads")
        return _restored(about["model"], tensors, compiles)


def save_model(model: Sequential, path: Path, overwrite: bool) -> None:
    """Write a model to a file."""
    check_path(path, overwrite)
    state = model.__getstate__()
    _tensor_file.write(path, tensors_of(state), {"model": describe(state)})


def save_weights(model: Structure, path: Path, overwrite: bool) -> None:
    """Write a model's weights to a file."""
    check_path(path, overwrite)
    model._need_network("save_weights")
    _tensor_file.write(path, model._weights_by_name(), {"model": None})


def load_weights(model: Structure, path: Path) -> None:
    """Replace a model's weights by those of a file."""
    model._need_network("load_weights")
    path = as_path("filepath", path)
    with naming_damage(path):
        tensors, _ = _tensor_file.read(path)
        model._set_weights_by_name(weights_among(tensors))


def check_path(path: Path, overwrite: bool = True) -> None:
    """Refuse a path that does not say what the file is, or may not be overwritten."""
    name = os.fspath(as_path("filepath", path))
    if not name.endswith(SUFFIX):
        raise ValueError(
            f"filepath: expected one that ends in {SUFFIX}, got {name!r}{_advice(name)}"
        )
    if not overwrite and os.path.lexists(name):
        raise FileExistsError(errno.EEXIST, "expected no such file without overwrite", name)


def tensors_of(state: Mapping[str, Any]) -> dict[str, Array]:
    """All arrays of a model's state, by the names that they have in a file."""
    remembered = state["optimizer_state"] or []
    names = ["optimizer.steps", *(f"optimizer.slot_{n}" for n in range(1, len(remembered)))]
    return {**(state["weights"] or {}), **dict(zip(names, remembered, strict=False))}


def weights_among(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The weights, of all tensors of a file."""
    return {name: array for name, array in tensors.items() if "/" in name}


def optimizer_state_among(tensors: Mapping[str, Array]) -> list[Array]:
    """What the optimizer remembers, of all tensors of a file; nothing before it is compiled."""
    found = [name for name in tensors if "/" not in name and not name.startswith("callback.")]
    if not found:
        return []
    names = ["optimizer.steps", *(f"optimizer.slot_{n}" for n in range(1, len(found)))]
    if set(found) != set(names):
        raise ValueError(f"expected tensors {', '.join(names)}, found {', '.join(sorted(found))}")
    return [tensors[name] for name in names]


def describe(state: Mapping[str, Any], *, strict: bool = True) -> Described:
    """All of a model's state that is no array, as JSON can say it.

    Args:
        state: of `Sequential.__getstate__`.
        strict: whether to refuse what `load_model` could not make again; else such a thing is
            described by its name alone.
    """
    optimizer, loss, metric, steps_per_execution = state["compiled"]
    built = state["weights"] is not None
    return {
        "name": state["name"],
        "dtype": state["dtype"],
        "input_shape": state["shape"],
        "layers": [
            {
                "class_name": _class_name(kind, layers, Layer, strict),
                "config": _layer_config(config, strict and not built),
            }
            for kind, config in state["layers"]
        ],
        "random_state": state["rng"],
        "compiled": optimizer
        and {
            "optimizer": {
                "class_name": _class_name(
                    type(optimizer), optimizers, optimizers.Optimizer, strict
                ),
                "config": _optimizer_config(optimizer, strict),
            },
            "loss": {
                "class_name": _class_name(type(loss), losses, losses.Loss, strict),
                "config": loss.get_config(),
            },
            "metrics": metric and [metric],
            "steps_per_execution": steps_per_execution,
        },
    }


def _class_name(kind: type, module: Any, base: type, strict: bool) -> str:
    """The class's name, if it is one of the module's."""
    if strict and _classes(module, base).get(kind.__name__) is not kind:
        raise ValueError(
            f"save: expected a model of classes of {module.__name__}, got one with "
            f"{kind.__module__}.{kind.__qualname__}, which load_model could not find; "
            f"save_weights writes the weights alone"
        )
    return kind.__name__


def _classes(module: Any, base: type) -> dict[str, type[Any]]:
    """The module's classes that files may name."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type)
        and issubclass(kind, base)
        and kind is not base
        and kind.__name__ == name  # not another name of the same one
    }


def _layer_config(config: Mapping[str, Any], strict: bool) -> Described:
    """The arguments of a layer, None standing for initializers of the user's own."""
    plain = dict(config)
    for key, value in config.items():
        if key.endswith("_initializer") and not isinstance(value, Mapping):
            if strict:
                raise ValueError(
                    f"save: expected initializers of cnnrs.initializers in a model that is not "
                    f"built, got {key}={value!r} of {config['name']}"
                )
            plain[key] = None
    return plain


def _optimizer_config(optimizer: optimizers.Optimizer, strict: bool) -> Described:
    """The arguments of an optimizer, None standing for a learning rate of the user's own."""
    config = optimizer.get_config()
    if callable(config["learning_rate"]):
        if strict:
            raise ValueError(
                f"save: expected a learning rate that is a number or a schedule of "
                f"cnnrs.optimizers.schedules, got {config['learning_rate']!r}, which no file can "
                f"hold; save_weights writes the weights alone"
            )
        config["learning_rate"] = None
    return config


def _restored(about: Described, tensors: Mapping[str, Array], compiles: bool) -> Sequential:
    """The model that was described, with these arrays, and compiled only if it shall be."""
    from cnnrs.models import Sequential  # which itself needs what is here

    shape = about["input_shape"]
    input_shape = None if shape is None else Input(shape).shape
    kinds = _classes(layers, Layer)
    described = [(_find(kinds, it), it["config"]) for it in about["layers"]]
    weights, remembered = weights_among(tensors), optimizer_state_among(tensors)
    built = input_shape is not None and bool(described)
    if input_shape is not None:
        made = [kind.from_config(config) for kind, config in described]
        _check_claims(made, input_shape, about["dtype"], weights)
    if tensors and not built:
        raise ValueError("expected no tensors of a model that is not built, found some")
    if remembered and about["compiled"] is None:
        raise ValueError("expected no optimizer's tensors of a model not compiled, found some")
    compiled = _compiled(about["compiled"])
    model = Sequential.__new__(Sequential)
    model.__setstate__(
        {
            "name": _text("name", about["name"]),
            "dtype": about["dtype"],
            "shape": input_shape,
            "layers": described,
            "weights": weights if built else None,
            "rng": about["random_state"],
            "compiled": compiled if compiles else NOT_COMPILED,
            "optimizer_state": remembered if compiles else [],
            "history": None,
            "attributes": {},
        }
    )
    return model


def _compiled(about: Described | None) -> tuple[Any, Any, str | None, int]:
    """Optimizer, loss, metric and steps per execution."""
    if about is None:
        return NOT_COMPILED
    optimizer_class = _find(_classes(optimizers, optimizers.Optimizer), about["optimizer"])
    loss_class = _find(_classes(losses, losses.Loss), about["loss"])
    loss = loss_class.from_config(about["loss"]["config"])
    return (
        optimizer_class.from_config(about["optimizer"]["config"]),
        loss,
        _arguments.metric(about["metrics"], loss),
        integer("steps_per_execution", about["steps_per_execution"]),
    )


def _find(kinds: Mapping[str, type[Any]], described: Described) -> type[Any]:
    name = described["class_name"]
    if name not in kinds:
        raise ValueError(f"expected one of {', '.join(kinds)}, found {name!r}")
    return kinds[name]


def _check_claims(
    made: Sequence[Layer], shape: Shape, dtype: str, weights: Mapping[str, Array]
) -> None:
    """Refuse layers that claim larger weights than the file has.

    The network has room for its weights from the beginning, so this must be known before there is
    one. So layers are made one by one, each of which is no larger than the weights found.
    """
    largest: dict[str, int] = {}
    for name, array in weights.items():
        layer_name = name.rpartition("/")[0]
        largest[layer_name] = max(array.size, largest.get(layer_name, 0))
    for layer in made:
        kind, name, settings = layer._compiled()
        if layer._weights:
            sides = [settings.get(key, 1) for key in ("filters", "units")]
            claimed = math.prod([shape[-1], *sides, *settings.get("kernel_size", ())])
            if claimed > largest.get(name, 0):
                raise ValueError(
                    f"expected a weight of {claimed} numbers for {name}, found at most "
                    f"{largest.get(name, 0)}"
                )
        shape = _core.Network(shape, [(kind, name, settings)], dtype).output_shapes()[-1]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string for {name}, found {value!r}")
    return value


def _advice(path: Path) -> str:
    """What helps who has a file of Keras."""
    if not os.fspath(path).endswith((".keras", ".h5", ".hdf5")):
        return ""
    return "; what Keras has saved comes over by model.set_weights(keras_model.get_weights())"


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Make what is wrong with a file a ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}{_advice(path)}") from error
    except FAULTS as error:
        raise ValueError(
            f"{os.fspath(path)}: expected the description of a model, found another thing "
            f"({type(error).__name__}: {error})"
        ) from error
