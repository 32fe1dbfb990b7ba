"""Fixtures of several test files."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing of the library: the machine may be busy.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

# Failures show values there too.
pytest.register_assert_rewrite("cli_under_test", "layers_under_test", "training_under_test")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt here and in all child processes, whatever the tests were started by.

    A shell has what it runs in the background ignore SIGINT, which children inherit.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


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
