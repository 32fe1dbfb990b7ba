"""Fixtures of several test files."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing of the library: the machine may be busy.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

pytest.register_assert_rewrite("cli_under_test", "layers_under_test")  # failures show values


@pytest.fixture
def rng() -> np.random.Generator:
    np.random.seed(1)  # for the layers' own draws
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras on TensorFlow; tests that ask for it are skipped where it is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras", minversion="3")
