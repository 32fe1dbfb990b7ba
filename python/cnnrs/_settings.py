"""What cannot be assigned to layers, losses, optimizers and models."""

from typing import Any, ClassVar

from cnnrs._checks import only


class Settled:
    """An object whose settings cannot be assigned anew: what was made of it would not know.

    `_settings` are the attributes that the compiled network takes.
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    def _settled(self) -> tuple[str, ...]:
        """The attributes that stay as they were first set."""
        return self._settings

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ and name in self._settled():
            raise AttributeError(
                f"{name}: expected to stay {self.__dict__[name]!r}, got {value!r}; "
                f"make another {type(self).__name__}"
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
