"""What layers, losses, optimizers and models were made with cannot be assigned anew."""

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

from cnnrs import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    GlobalAveragePooling2D,
    RandomErasing,
    Sequential,
)
from cnnrs.callbacks import EarlyStopping
from cnnrs.layers import Layer
from cnnrs.losses import CategoricalCrossentropy, Loss
from cnnrs.optimizers import SGD, Adam, AdamW
from cnnrs.optimizers.schedules import ExponentialDecay
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


FLAGS = {
    "use_bias": lambda value: Conv2D(4, 3, use_bias=value),
    "keepdims": lambda value: GlobalAveragePooling2D(keepdims=value),
    "center": lambda value: BatchNormalization(center=value),
    "from_logits": lambda value: CategoricalCrossentropy(value),
    "nesterov": lambda value: SGD(0.1, nesterov=value),
    "use_ema": lambda value: Adam(use_ema=value),
    "staircase": lambda value: ExponentialDecay(0.1, 10, 0.5, staircase=value),
    "restore_best_weights": lambda value: EarlyStopping(restore_best_weights=value),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["no", "False", 0.1, 2, None, [], np.array([1, 0])], ids=repr)
def test_what_is_neither_true_nor_false_is_refused(name: str, value: Any) -> None:
    with pytest.raises(
        TypeError, match=re.escape(f"{name}: expected True or False, got {value!r}")
    ):
        FLAGS[name](value)


@pytest.mark.parametrize("value", [True, 1, np.True_, np.int64(1)], ids=repr)
def test_what_equals_true_is_true(value: Any) -> None:
    assert Conv2D(4, 3, use_bias=value).get_config()["use_bias"] is True


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


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "weight_decay", "iterations"])
def test_what_an_optimizer_would_not_heed_is_refused(name: str) -> None:
    optimizer = SGD(0.1)
    with pytest.raises(AttributeError, match=f"^{name}: expected no assignment, .* SGD would not"):
        setattr(optimizer, name, 1e-6)
    assert AdamW(weight_decay=0.5).weight_decay == 0.5
    assert not hasattr(optimizer, name)


def test_what_layers_and_models_would_not_heed_is_refused() -> None:
    layer, model = Dense(3), compiled()
    for owner, name in [
        (layer, "kernel"),
        (layer, "kernel_regularizer"),
        (BatchNormalization(), "gamma_constraint"),
        (model, "weights"),
        (model, "dtype"),
    ]:
        with pytest.raises(AttributeError, match=f"^{name}: expected no assignment, .*, got 'l2'"):
            setattr(owner, name, "l2")
    layer.note = "mine"  # type: ignore[attr-defined]
    assert model.dtype == "float32"


@pytest.mark.parametrize(
    ("base", "method"),
    [
        (Dense, "call"),
        (Layer, "build"),
        (Loss, "call"),
        (CategoricalCrossentropy, "__call__"),
        (SGD, "update_step"),
        (Sequential, "train_step"),
    ],
)
def test_a_method_that_would_not_be_called_is_refused(base: type, method: str) -> None:
    with pytest.raises(TypeError, match=f"^Mine: expected a class without a {method} of its own"):
        type("Mine", (base,), {method: lambda self, *_: None})


def test_classes_may_be_made_of_layers_and_models() -> None:
    class Small(Dense):
        def __init__(self) -> None:
            super().__init__(3, "softmax")

    class Mine(Sequential):
        def describe(self) -> str:
            return f"{len(self.layers)} layers"

    assert Mine([Small()]).describe() == "1 layers"
    bare = type("Bare", (Layer,), {})
    with pytest.raises(TypeError, match=r"^Bare: expected a layer of cnnrs\.layers"):
        bare()


def test_unknown_arguments_are_said_to_be_a_layers() -> None:
    with pytest.raises(TypeError, match=r"^Dropout: .*name or input_shape, got units=1"):
        Dropout(0.5, units=1)  # type: ignore[call-arg]


def test_a_learning_rate_needs_a_step() -> None:
    for take in (lambda: SGD(lambda: 0.1), lambda: setattr(SGD(), "learning_rate", lambda: 0.1)):
        with pytest.raises(TypeError, match="rate: expected a function of one argument, the s"):
            take()
