"""How a layer's weights begin: Keras's initializers, drawn from a NumPy generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs import _random
from cnnrs._checks import Shape, above_0, at_least_0, choice, integer, number, one_of, takes
from cnnrs._settings import call_of

__all__ = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "get",
]

Array: TypeAlias = npt.NDArray[Any]


class Initializer:
    """The base of all initializers: called with a shape, it returns an array of it.

    Reference: `keras.initializers.Initializer`.

    Example:
        >>> from cnnrs.initializers import Initializer, Ones
        >>> isinstance(Ones(), Initializer)
        True
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self,
        shape: Shape,
        dtype: npt.DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> Array:
        """Make the array.

        Numbers are drawn in float64 and then rounded, so that a model of another dtype begins with
        the same weights.

        Args:
            shape: the shape of the array.
            dtype: its element type.
            rng: the generator to draw from; a new one if None, or if the initializer has a seed.

        Returns:
            A new array.
        """
        return self._draw(tuple(shape), self._generator(rng)).astype(dtype)

    def _generator(self, rng: np.random.Generator | None) -> np.random.Generator:
        return rng or _random.new_generator()

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal initializer.

        Reference: `keras.initializers.Initializer.get_config`.

        Example:
            >>> from cnnrs.initializers import RandomUniform
            >>> RandomUniform(-1, 1, seed=3).get_config()
            {'minval': -1.0, 'maxval': 1.0, 'seed': 3}
        """
        return {name: getattr(self, name) for name in self._settings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an initializer from what `get_config` returned.

        Reference: `keras.initializers.Initializer.from_config`.

        Example:
            >>> from cnnrs.initializers import RandomUniform
            >>> RandomUniform.from_config(RandomUniform(-1, 1, seed=3).get_config())
            RandomUniform(minval=-1.0, maxval=1.0, seed=3)
        """
        return cls(**config)

    def __repr__(self) -> str:
        return call_of(self, self._settings)


class Zeros(Initializer):
    """All zeros.

    Reference: `keras.initializers.Zeros`.

    Example:
        >>> from cnnrs.initializers import Zeros
        >>> Zeros()((2,)).tolist()
        [0.0, 0.0]
    """

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.zeros(shape)


class Ones(Initializer):
    """All ones.

    Reference: `keras.initializers.Ones`.

    Example:
        >>> from cnnrs.initializers import Ones
        >>> Ones()((2,)).tolist()
        [1.0, 1.0]
    """

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape)


class _Random(Initializer):
    """An initializer that, given a seed, draws the same numbers each time."""

    def __init__(self, seed: int | None) -> None:
        self.seed = None if seed is None else integer("seed", seed, least=0)

    def _generator(self, rng: np.random.Generator | None) -> np.random.Generator:
        return super()._generator(rng) if self.seed is None else np.random.default_rng(self.seed)


class RandomNormal(_Random):
    """Draws from a normal distribution.

    Args:
        mean: its mean, 0 by default.
        stddev: its standard deviation, 0.05 by default.
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Raises:
        TypeError: if a number is not one.
        ValueError: if the standard deviation is negative.

    Reference: `keras.initializers.RandomNormal`.

    Example:
        >>> from cnnrs.initializers import RandomNormal
        >>> RandomNormal(stddev=0.1, seed=1)((3, 3, 1, 8)).shape
        (3, 3, 1, 8)
    """

    _settings = ("mean", "stddev", "seed")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean = number("mean", mean)
        self.stddev = at_least_0("stddev", stddev)

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.normal(self.mean, self.stddev, shape)


class RandomUniform(_Random):
    """Draws uniformly between two bounds.

    Args:
        minval: the lower bound, -0.05 by default.
        maxval: the upper bound, 0.05 by default.
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Raises:
        TypeError: if a number is not one.
        ValueError: if the upper bound is below the lower one.

    Reference: `keras.initializers.RandomUniform`.

    Example:
        >>> from cnnrs.initializers import RandomUniform
        >>> bool((abs(RandomUniform(-1, 1)((100,))) <= 1).all())
        True
    """

    _settings = ("minval", "maxval", "seed")

    def __init__(
        self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None
    ) -> None:
        super().__init__(seed)
        self.minval = number("minval", minval)
        self.maxval = number(
            "maxval", maxval, f"at least minval={minval}", lambda value: value >= self.minval
        )

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.uniform(self.minval, self.maxval, shape)


class TruncatedNormal(RandomNormal):
    """Draws from a normal distribution, and again where it is off by over two deviations.

    Args:
        mean: the distribution's mean, 0 by default.
        stddev: its standard deviation before it is truncated, 0.05 by default.
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Raises:
        TypeError: if a number is not one.
        ValueError: if the standard deviation is negative.

    Reference: `keras.initializers.TruncatedNormal`.

    Example:
        >>> from cnnrs.initializers import TruncatedNormal
        >>> bool((abs(TruncatedNormal(stddev=0.5)((100,))) <= 1).all())
        True
    """

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return self.mean + self.stddev * _truncated_normal(shape, rng)


class VarianceScaling(_Random):
    """Draws with a variance of `scale / fan`, so that signals keep their size from layer to layer.

    `fan_in` is how many inputs an output sums, `fan_out` how many outputs an input adds to, and
    `fan_avg` their mean: for a kernel (kh, kw, in, out) `kh * kw * in` and `kh * kw * out`.

    Args:
        scale: the variance times the fan, 1 by default.
        mode: `"fan_in"` (default), `"fan_out"` or `"fan_avg"`.
        distribution: `"truncated_normal"` (default), `"untruncated_normal"` or `"uniform"`.
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Raises:
        TypeError: if the scale is not a number, or the seed not an integer.
        ValueError: if the scale is not positive, or the mode or distribution is another.

    Reference: `keras.initializers.VarianceScaling`.

    Example:
        >>> from cnnrs.initializers import VarianceScaling
        >>> VarianceScaling(2.0, mode="fan_out", seed=0)((3, 3, 1, 8)).shape
        (3, 3, 1, 8)
    """

    _settings: ClassVar[tuple[str, ...]] = ("scale", "mode", "distribution", "seed")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        self.scale = above_0("scale", scale)
        self.mode = choice("mode", mode, ("fan_in", "fan_out", "fan_avg"))
        self.distribution = choice(
            "distribution", distribution, ("truncated_normal", "untruncated_normal", "uniform")
        )

    def _draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        fan_in, fan_out = _fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation
            return rng.uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return rng.normal(0, deviation, shape)
        return deviation / TRUNCATED_DEVIATION * _truncated_normal(shape, rng)


class _Scaled(VarianceScaling):
    """Variance scaling with everything but the seed given."""

    _settings: ClassVar[tuple[str, ...]] = ("seed",)
    _given: ClassVar[tuple[float, str, str]]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self._given, seed=seed)


class GlorotUniform(_Scaled):
    """Draws uniformly from -limit to limit = sqrt(6 / (fan_in + fan_out)): the default for kernels.

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.GlorotUniform`; X. Glorot and Y. Bengio, 2010.

    Example:
        >>> from cnnrs.initializers import GlorotUniform
        >>> bool((abs(GlorotUniform()((4, 2))) <= 1).all())
        True
    """

    _given = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Scaled):
    """Draws from a truncated normal distribution of variance 2 / (fan_in + fan_out).

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.GlorotNormal`; X. Glorot and Y. Bengio, 2010.

    Example:
        >>> from cnnrs.initializers import GlorotNormal
        >>> GlorotNormal(seed=1)((4, 2)).shape
        (4, 2)
    """

    _given = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Scaled):
    """Draws uniformly from -limit to limit = sqrt(6 / fan_in): for layers with a ReLU.

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.HeUniform`; K. He et al., 2015.

    Example:
        >>> from cnnrs.initializers import HeUniform
        >>> bool((abs(HeUniform()((6, 2))) <= 1).all())
        True
    """

    _given = (2.0, "fan_in", "uniform")


class HeNormal(_Scaled):
    """Draws from a truncated normal distribution of variance 2 / fan_in: for layers with a ReLU.

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.HeNormal`; K. He et al., 2015.

    Example:
        >>> from cnnrs.initializers import HeNormal
        >>> HeNormal(seed=1)((4, 2)).shape
        (4, 2)
    """

    _given = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """Draws uniformly from -limit to limit = sqrt(3 / fan_in).

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.LecunUniform`; G. Klambauer et al., 2017.

    Example:
        >>> from cnnrs.initializers import LecunUniform
        >>> bool((abs(LecunUniform()((3, 2))) <= 1).all())
        True
    """

    _given = (1.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """Draws from a truncated normal distribution of variance 1 / fan_in.

    Args:
        seed: with a seed, every call draws the same numbers; the model's generator if None.

    Reference: `keras.initializers.LecunNormal`; G. Klambauer et al., 2017.

    Example:
        >>> from cnnrs.initializers import LecunNormal
        >>> LecunNormal(seed=1)((4, 2)).shape
        (4, 2)
    """

    _given = (1.0, "fan_in", "truncated_normal")


Draw: TypeAlias = Callable[..., Any]
"""An `Initializer`, or a user's function of shape and dtype that returns an array."""

InitializerLike: TypeAlias = str | Draw | type[Initializer] | Mapping[str, Any]
"""An initializer's name, the thing itself, its class, or what `serialize` made of it."""

BY_NAME: Mapping[str, type[Initializer]] = {
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "variance_scaling": VarianceScaling,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "truncated_normal": TruncatedNormal,
    "zeros": Zeros,
    "ones": Ones,
}

TRUNCATED_DEVIATION = 0.87962566103423978
"""The standard deviation of the standard normal distribution truncated at -2 and 2."""


def get(identifier: InitializerLike, name: str = "initializer") -> Draw:
    """Find an initializer.

    Args:
        identifier: a name such as `"he_normal"` or `"HeNormal"`; an initializer or its class; a
            function that takes a shape and a dtype and returns an array; or
            `{"class_name": ..., "config": ...}`.
        name: what errors call it.

    Returns:
        An `Initializer`, or the function.

    Raises:
        ValueError: if there is no initializer of that name.
        TypeError: if it is something else.

    Reference: `keras.initializers.get`.

    Example:
        >>> from cnnrs import initializers
        >>> type(initializers.get("he_normal")).__name__
        'HeNormal'
    """
    if isinstance(identifier, str):
        for short, kind in BY_NAME.items():
            if identifier in (short, kind.__name__):
                return kind()
        raise ValueError(f"{name}: expected {one_of(list(BY_NAME))}, got {identifier!r}")
    if isinstance(identifier, Mapping):
        for kind in BY_NAME.values():
            if identifier.get("class_name") == kind.__name__:
                return kind(**identifier.get("config", {}))
        raise ValueError(f"{name}: expected a known class_name, got {identifier!r}")
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        return identifier()
    if callable(identifier):
        return identifier
    raise TypeError(
        f"{name}: expected a name, an Initializer or a function of shape and dtype, "
        f"got {identifier!r}"
    )


def serialize(initializer: Draw) -> InitializerLike:
    """What `get` makes an equal initializer of; a user's own function stays itself."""
    if isinstance(initializer, Initializer) and type(initializer) in BY_NAME.values():
        return {"class_name": type(initializer).__name__, "config": initializer.get_config()}
    return initializer


def draw(
    initializer: Draw,
    shape: Shape,
    dtype: str,
    rng: np.random.Generator,
) -> Array:
    """Draw a weight from an initializer or a user's function."""
    if isinstance(initializer, Initializer) and takes(initializer, shape, dtype, rng):
        return initializer(shape, dtype, rng)
    if takes(initializer, shape, dtype):
        drawn = initializer(shape, dtype)
    else:
        drawn = initializer(shape, dtype=dtype)
    try:
        return np.asarray(drawn, dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"expected an array of {dtype} from {initializer!r}, got {drawn!r}"
        ) from None


def _fans(shape: Shape) -> tuple[int, int]:
    """How many inputs each output sums, and how many outputs each input adds to."""
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    *window, channels_in, channels_out = shape
    return math.prod(window) * channels_in, math.prod(window) * channels_out


def _truncated_normal(shape: Shape, rng: np.random.Generator) -> Array:
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.standard_normal(np.count_nonzero(far))
    return values
