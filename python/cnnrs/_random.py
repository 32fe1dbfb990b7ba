"""Where models get their generators of random numbers from."""

import numpy as np

_source = np.random.default_rng()


def seed(value: int) -> None:
    """Make the generators of all models to come follow from `value`."""
    global _source
    _source = np.random.default_rng(value)


def new_generator() -> np.random.Generator:
    """A generator of its own for a new model."""
    return _source.spawn(1)[0]
