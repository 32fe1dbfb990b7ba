"""The arguments of a model's methods: names, order and defaults are what programs rely on."""

import inspect
from typing import Any

import pytest

from cnnrs import Sequential

PROMISED = {
    "compile": (
        "self, optimizer='sgd', loss=None, loss_weights=None, metrics=None, *, "
        "steps_per_execution=1"
    ),
    "fit": (
        "self, x, y, batch_size=32, epochs=1, verbose='auto', callbacks=None, "
        "validation_split=0.0, validation_data=None, shuffle=True, initial_epoch=0"
    ),
    "evaluate": (
        "self, x, y, batch_size=None, verbose='auto', *, callbacks=None, return_dict=False"
    ),
    "predict": "self, x, batch_size=None, verbose='auto', *, augmentations=0, callbacks=None",
    "predict_classes": "self, x, batch_size=None, verbose='auto', *, augmentations=0",
}


@pytest.mark.parametrize("name", PROMISED)
def test_arguments_are_those_promised(name: str) -> None:
    parameters = inspect.signature(getattr(Sequential, name)).parameters.values()
    bare = [it.replace(annotation=inspect.Parameter.empty) for it in parameters]
    assert str(inspect.Signature(bare)) == f"({PROMISED[name]})"


ON_PURPOSE = {("compile", "optimizer"): "sgd", ("fit", "batch_size"): 32}
"""Defaults that are others than Keras's, which are "rmsprop" and None for 32."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["compile", "fit", "evaluate", "predict"])
def test_arguments_have_kerass_names_order_and_defaults(keras: Any, name: str) -> None:
    """But that some of Keras's are missing, and data cannot be left out."""
    ours = inspect.signature(getattr(Sequential, name)).parameters
    theirs = inspect.signature(getattr(keras.Sequential, name)).parameters
    shared = [argument for argument in ours if argument != "augmentations"]
    assert shared == [argument for argument in theirs if argument in shared]
    for argument in shared:
        got, expected = ours[argument].default, theirs[argument].default
        if (name, argument) in ON_PURPOSE:
            assert got == ON_PURPOSE[name, argument] != expected
        elif argument in ("x", "y"):
            assert got is inspect.Parameter.empty
        else:
            assert repr(got) == repr(expected)
