"""What this installation is and what it runs on."""

import numpy as np

from cnnrs import _core
from cnnrs._checks import integer


def set_num_threads(n: int) -> None:
    """Choose how many threads train, evaluate and predict.

    The results do not depend on it. By default it is what the environment variable
    `CNNRS_NUM_THREADS` says when the package is imported, or else the number of processors.

    Args:
        n: at least 1.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is less than 1.

    Example:
        >>> import cnnrs
        >>> before = cnnrs.get_num_threads()
        >>> cnnrs.set_num_threads(1)
        >>> cnnrs.get_num_threads()
        1
        >>> cnnrs.set_num_threads(before)
    """
    _core.set_num_threads(integer("n", n))


def get_num_threads() -> int:
    """Return how many threads train, evaluate and predict.

    Example:
        >>> import cnnrs
        >>> cnnrs.get_num_threads() >= 1
        True
    """
    return _core.get_num_threads()


def show_config() -> None:
    """Print the version, the build profile, the instruction set in use and the number of threads.

    The environment variable `CNNRS_SIMD` (`scalar`, `avx2`, `avx512` or `neon`), read when the
    package is imported, takes the place of the fastest instruction set that the machine has.

    Example:
        >>> import cnnrs
        >>> cnnrs.show_config()  # doctest: +ELLIPSIS
        cnnrs ...
        ...
    """
    print(f"cnnrs            {_core.__version__} ({_core.BUILD_PROFILE} build)")
    print(f"NumPy            {np.__version__}")
    print(f"instruction set  {_core.simd_level()} (available: {', '.join(_core.simd_levels())})")
    print(f"threads          {_core.get_num_threads()}")
