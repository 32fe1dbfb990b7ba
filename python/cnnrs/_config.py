"""What this installation is and what it runs on."""

import numpy as np

from cnnrs import _core


def show_config() -> None:
    """Print the version, the build profile and the instruction set in use.

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
