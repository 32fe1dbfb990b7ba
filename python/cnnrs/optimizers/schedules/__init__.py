"""Learning rates that change from step to step, with Keras's names and meanings."""

from collections.abc import Mapping
from typing import Any

from cnnrs._checks import one_of
from cnnrs.optimizers.schedules._base import LearningRateSchedule
from cnnrs.optimizers.schedules._cosine import CosineDecay, CosineDecayRestarts, OneCycle
from cnnrs.optimizers.schedules._decay import (
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "OneCycle",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]

BY_NAME: Mapping[str, type[LearningRateSchedule]] = {
    kind.__name__: kind
    for kind in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        OneCycle,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}


def serialize(learning_rate: Any) -> Any:
    """Describe a schedule by plain values.

    Args:
        learning_rate: a schedule; or a number, a function or a schedule of the user's own class.

    Returns:
        `{"class_name": ..., "config": ...}`; what is no schedule of this module stays itself.

    Reference: `keras.optimizers.schedules.serialize`.

    Example:
        >>> from cnnrs.optimizers import schedules
        >>> schedules.serialize(schedules.PiecewiseConstantDecay([9], [0.1, 0.01]))["class_name"]
        'PiecewiseConstantDecay'
    """
    if BY_NAME.get(type(learning_rate).__name__) is type(learning_rate):
        return {"class_name": type(learning_rate).__name__, "config": learning_rate.get_config()}
    return learning_rate


def deserialize(config: Mapping[str, Any]) -> LearningRateSchedule:
    """Make a schedule from what `serialize` returned, or Keras's function of that name.

    Args:
        config: `{"class_name": ..., "config": ...}`.

    Raises:
        TypeError: if the config is no dict.
        ValueError: if there is no such class, or its arguments are others.

    Reference: `keras.optimizers.schedules.deserialize`.

    Example:
        >>> from cnnrs.optimizers import schedules
        >>> config = {"initial_learning_rate": 0.1, "decay_steps": 500}
        >>> schedules.deserialize({"class_name": "CosineDecay", "config": config})(0)
        0.1
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"learning_rate: expected a dict of class_name and config, got {config!r}")
    kind = BY_NAME.get(config.get("class_name", ""))
    if kind is None:
        raise ValueError(
            f"learning_rate: expected a class_name of {one_of(list(BY_NAME))}, got {config!r}"
        )
    try:
        return kind.from_config(config.get("config", {}))
    except TypeError as error:
        raise ValueError(
            f"learning_rate: expected the arguments of {kind.__name__}: {error}"
        ) from error
