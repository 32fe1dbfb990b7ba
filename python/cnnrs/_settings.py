"""What layers, losses, optimizers and the like are made of, and what cannot be assigned to them."""

from collections.abc import Iterable
from typing import Any, ClassVar

from cnnrs._checks import only

UNHEEDED = frozenset(
    (
        *("clipnorm", "clipvalue", "global_clipnorm", "weight_decay", "amsgrad", "iterations"),
        *("loss_scale_factor", "gradient_accumulation_steps", "dtype", "dtype_policy"),
        *("weights", "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"),
    )
)
"""Attributes that mean something to Keras's objects, and nothing to those here without them."""


def call_of(made: object, names: Iterable[str]) -> str:
    """The call that makes an equal object, of which these attributes are the arguments."""
    arguments = ", ".join(f"{name}={getattr(made, name)!r}" for name in names)
    return f"{type(made).__name__}({arguments})"


class Compiled:
    """An object that a network is compiled from: what it computes is not Python.

    `_compiled_methods` are the methods that Keras would call.
    """

    _compiled_methods: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in cls._compiled_methods:
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}: expected a class without a {name} of its own, which the "
                    f"compiled network would not call"
                )


class Settled(Compiled):
    """An object whose settings cannot be assigned anew: what was made of it would not know.

    `_settings` are the attributes that the compiled network takes.
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    def _settled(self) -> tuple[str, ...]:
        """The attributes that stay as they were first set."""
        return self._settings

    def __setattr__(self, name: str, value: Any) -> None:
        kind, settled = type(self).__name__, self._settled()
        if name in self.__dict__ and name in settled:
            raise AttributeError(
                f"{name}: expected to stay {self.__dict__[name]!r}, got {value!r}; "
                f"make another {kind}"
            )
        unheeded = name in UNHEEDED or name.endswith(("_regularizer", "_constraint"))
        if unheeded and name not in settled:
            raise AttributeError(
                f"{name}: expected no assignment, which a {kind} would not heed, got {value!r}"
            )
        super().__setattr__(name, value)


class Trained:
    """An object whose weights cannot be frozen."""

    @property
    def trainable(self) -> bool:
        """Whether weights are trained: always True, another value is refused."""
        return True

    @trainable.setter
    def trainable(self, value: bool) -> None:
        only("trainable", value, True)
