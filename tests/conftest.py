"""Fixtures of several test files."""

import numpy as np
import pytest

pytest.register_assert_rewrite("cli_under_test", "layers_under_test")  # failures show values


@pytest.fixture
def rng() -> np.random.Generator:
    np.random.seed(1)  # for the layers' own draws
    return np.random.default_rng(1)
