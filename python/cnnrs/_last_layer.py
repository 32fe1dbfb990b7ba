"""Whether a loss is one for what a model ends in."""

from collections.abc import Sequence

from cnnrs._augmentation import Augmentation
from cnnrs._layer import Layer
from cnnrs.layers import (
    Activation,
    AveragePooling2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
)
from cnnrs.losses import CategoricalCrossentropy, Loss, SparseCategoricalCrossentropy

PROBABILITIES = ("softmax", "sigmoid")
"""Activations whose outputs lie between 0 and 1."""

PASSING = (
    *(Dropout, Flatten, Augmentation),
    *(MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D),
)
"""Layers whose outputs, as they evaluate, lie between 0 and 1 if their inputs do."""


def misfit(layers: Sequence[Layer], loss: Loss) -> str | None:
    """What to say of a cross-entropy behind one softmax too many or too few, if it is."""
    if not isinstance(loss, CategoricalCrossentropy | SparseCategoricalCrossentropy):
        return None
    last = next((layer for layer in reversed(layers) if not _passes(layer)), None)
    if last is None:
        return None
    activation = getattr(last, "activation", None)  # of a layer that can have one
    if loss.from_logits:
        if activation != "softmax":
            return None
        return (
            f"loss: from_logits=True applies a softmax, and so does {last!r}: the loss sees two; "
            f"leave one of them out"
        )
    if activation in PROBABILITIES:
        return None
    advice = 'put Activation("softmax") behind it'
    if activation is not None:
        advice = 'give it activation="softmax"'
    return (
        f"loss: expected probabilities, as behind a softmax, but layer {last.name!r} ends in none; "
        f"{advice}, or compile with {type(loss).__name__}(from_logits=True)"
    )


def _passes(layer: Layer) -> bool:
    """Whether a layer is left out when the last activation is looked for."""
    linear = isinstance(layer, Activation) and layer.activation == "linear"
    return linear or isinstance(layer, PASSING)
