"""What layers, losses, optimizers and models were made with cannot be assigned anew."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from cnnrs import BatchNormalization, Conv2D, Dense, Dropout, RandomErasing, Sequential
from cnnrs.losses import CategoricalCrossentropy
from cnnrs.optimizers import SGD, Adam, AdamW
from model_under_test import assert_same_weights, compiled, data

MADE = [
    Conv2D(4, 3),
    BatchNormalization(),
    Dropout(0.5),
    RandomErasing(1.0),
    CategoricalCrossentropy(),
    SGD(0.1),
    Adam(),
    AdamW(),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_a_setting_stays(made: Any) -> None:
    for made_or_copied in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        before = made.get_config()
        settings = before.keys() - {"learning_rate"}
        assert settings
        for name in settings:
            with pytest.raises(AttributeError, match=f"^{name}: expected to stay .*, got 0.25; "):
                setattr(made_or_copied, name, 0.25)
        assert made_or_copied.get_config() == before


def test_nothing_can_be_frozen() -> None:
    model = compiled()
    for owner in (model, model.layers[0]):
        assert owner.trainable
        owner.trainable = True
        with pytest.raises(ValueError, match="trainable: expected True, got False"):
            owner.trainable = False


def test_only_compile_chooses_the_optimizer_and_the_loss() -> None:
    model, twin = compiled(), compiled()
    for name in ("optimizer", "loss"):
        with pytest.raises(AttributeError, match=rf"^{name}: .*, got SGD.*; compile"):
            setattr(model, name, SGD(0.5))
    x, y = data()
    for each in (model, twin):
        each.fit(x, y, verbose=0)
    assert_same_weights(model, twin)


def test_steps_per_execution_are_checked() -> None:
    model = compiled()
    model.steps_per_execution = 3
    with pytest.raises(ValueError, match="steps_per_execution: expected at least 1, got 0"):
        model.steps_per_execution = 0
    assert model.steps_per_execution == 3


def test_a_models_name_and_layers_are_checked() -> None:
    with pytest.raises(TypeError, match="name: expected a string, got 5"):
        Sequential(name=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layers: expected a list of layers, got <Dense"):
        Sequential(Dense(3))  # type: ignore[arg-type]


def test_weights_may_come_one_by_one() -> None:
    model, twin = compiled(seed=1), compiled(seed=2)
    model.set_weights(iter(twin.get_weights()))  # type: ignore[arg-type]
    assert_same_weights(model, twin)
    layer = model.layers[0]
    layer.set_weights(iter(np.zeros_like(part) for part in layer.get_weights()))  # type: ignore[arg-type]
    assert not any(part.any() for part in layer.get_weights())
