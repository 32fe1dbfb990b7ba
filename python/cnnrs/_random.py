"""Where models get their generators of random numbers from.

Types are quoted because `np.random` is loaded when it is first looked at, which importing this
package should not do.
"""

import threading

import numpy as np

_source: "np.random.Generator | None" = None
_lock = threading.Lock()


def seed(value: int) -> None:
    """Make the generators of all models to come follow from `value`."""
    global _source
    with _lock:
        _source = np.random.default_rng(value)


def new_generator() -> "np.random.Generator":
    """A generator of its own for a new model."""
    global _source
    with _lock:
        if _source is None:
            _source = np.random.default_rng()
        return _source.spawn(1)[0]
