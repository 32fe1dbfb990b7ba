"""The training of a `Sequential` done by PyTorch, for `cnnrs bench accuracy --peer torch`.

It is what a practised user of PyTorch would write for a CPU: eager mode, all images in one tensor,
batches by index, no accuracy while it trains, and the memory format (channels last) and the kind of
optimizers (fused) with which the recipes `fast` and `keras` took the least time of the processor.
PyTorch is imported when it is used, never with the package.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._torch_network import Network, tensor
from cnnrs.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    History,
    LearningRateScheduler,
    ModelCheckpoint,
    SwapEMAWeights,
    TensorBoard,
)
from cnnrs.losses import CategoricalCrossentropy, MeanSquaredError, SparseCategoricalCrossentropy
from cnnrs.models import Sequential
from cnnrs.optimizers import SGD, Adam, AdamW

Array: TypeAlias = npt.NDArray[Any]

WATCHING = (BackupAndRestore, CSVLogger, History, ModelCheckpoint, SwapEMAWeights, TensorBoard)
"""Callbacks on which the trained weights do not depend."""

CLIP = 1e-7
"""How far from 0 and 1 probabilities are kept that no softmax made."""


def version() -> str:
    """The version of PyTorch.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "peer: expected the package torch, which is not installed; "
            'pip install "cnnrs[bench]" does that',
            name=error.name,
        ) from error
    return str(torch.__version__)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchTraining:
    """A model's twin in PyTorch: its layers, its weights as they are now, and how it is trained.

    Loss and learning rates are the model's. Of the optimizers, Adam and AdamW are Keras's, as
    PyTorch's epsilon is given anew at each step: `epsilon / sqrt(1 - beta_2 ** t)`. SGD differs in
    one thing: PyTorch's momentum gathers gradients, Keras's gathers steps, so that while the
    learning rate changes, the earlier gradients' share is by today's rate and not by theirs.

    Args:
        model: built and compiled, and not changed afterwards. Its optimizer is asked for the
            learning rates, and `LearningRateScheduler` sets them there.
        callbacks: of the model's training. `skipped` names those that change it, and that PyTorch
            does not follow: all but the `LearningRateScheduler` and those that only watch.

    Raises:
        ValueError: if PyTorch cannot follow a layer, the loss or the optimizer.
        ModuleNotFoundError: if PyTorch is not installed.
    """

    def __init__(self, model: Sequential, callbacks: Sequence[Callback] = ()) -> None:
        version()
        self._model = model
        takes_logits = getattr(model.loss, "from_logits", None)  # None if it knows neither
        self.network = Network(model, with_softmax=takes_logits is not False)
        self._loss = _loss(model, self.network)
        self._schedulers = [it for it in callbacks if isinstance(it, LearningRateScheduler)]
        self.skipped = [
            type(it).__name__
            for it in callbacks
            if not isinstance(it, (*WATCHING, LearningRateScheduler))
        ]
        self._optimizer()  # which refuses what PyTorch cannot follow

    def check(self, images: int, batch_size: int) -> None:
        """Refuse a last step of one image if PyTorch's batch normalisation would.

        Raises:
            ValueError: if so many images leave one, and a channel has one number an image.
        """
        if self.network.needs_two and 1 in (batch_size, images % batch_size):
            raise ValueError(
                f"batch_size: expected no step of one image alone, of which PyTorch's batch "
                f"normalisation takes no variance, got {batch_size} for {images} images"
            )

    def fit(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        batch_size: int,
        epochs: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """Train.

        Args:
            x: as for `Sequential.fit`, and so the others.
            y: labels.
            batch_size: images a step.
            epochs: how many.
            seed: of the order of the images, dropout and augmentation; 0 by default.
            shuffle: whether each epoch has its own random order, True by default.

        Raises:
            TypeError: if data are no real numbers.
            ValueError: if shapes do not fit, labels are out of range, or `check` says so.
        """
        import torch

        torch.manual_seed(seed)
        data = self._model._data("fit", x, y)
        self.check(len(data.x), batch_size)
        images, labels = tensor(data.x), tensor(_labels(self._model, y, data.y))
        steps = math.ceil(len(images) / batch_size)
        optimizer, adjust = self._optimizer()
        averages = _Averages(self._model.optimizer, self._trained())
        module = self.network.module.train()
        for scheduler in self._schedulers:
            scheduler.set_params({"verbose": 0, "epochs": epochs, "steps": steps})
            scheduler.set_model(self._model)
            scheduler.on_train_begin({})
        step = 0
        for epoch in range(epochs):
            for scheduler in self._schedulers:
                scheduler.on_epoch_begin(epoch, {})
            rates = self._model._rates(step, steps).tolist()
            order = torch.randperm(len(images)) if shuffle else torch.arange(len(images))
            for rate, index in zip(rates, order.split(batch_size), strict=True):
                step += 1
                batch = self.network.prepared(images.index_select(0, index))
                optimizer.zero_grad()
                self._loss(module(batch), labels.index_select(0, index)).backward()
                adjust(step, rate)
                optimizer.step()
                averages.follow(step)
        averages.take()

    def predict_classes(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Compute which class each image is taken for, as `Sequential.predict_classes`."""
        out = self.network.predict(self._model._inputs("x", x))
        classes = (out > 0.5)[..., 0] if out.shape[-1] == 1 else out.argmax(axis=-1)
        return classes.astype(np.int64)

    def _trained(self) -> list[Any]:
        return [it for it in self.network.module.parameters() if it.requires_grad]

    def _optimizer(self) -> tuple[Any, Callable[[int, float], None]]:
        """PyTorch's optimizer, and what sets it up for step t, counted from 1, and its rate."""
        import torch

        ours = self._model.optimizer
        if not self._trained():
            raise ValueError(f"{self._model.name}: expected weights to train, got none")
        if isinstance(ours, SGD):
            optimizer = torch.optim.SGD(
                self._trained(),
                momentum=ours.momentum,
                nesterov=ours.nesterov and ours.momentum > 0,
                fused=True,
            )
        elif isinstance(ours, Adam):
            kind = torch.optim.AdamW if isinstance(ours, AdamW) else torch.optim.Adam
            optimizer = kind(
                self._trained(),
                betas=(ours.beta_1, ours.beta_2),
                eps=ours.epsilon,
                weight_decay=ours.weight_decay,
                fused=True,
            )
        else:
            raise ValueError(f"optimizer: expected one that PyTorch can follow, got {ours!r}")
        (group,) = optimizer.param_groups

        def adjust(step: int, rate: float) -> None:
            group["lr"] = rate
            if isinstance(ours, Adam):
                group["eps"] = ours.epsilon / math.sqrt(1 - ours.beta_2**step)

        return optimizer, adjust


class _Averages:
    """Averages of all trained weights over the steps, if the optimizer keeps any."""

    def __init__(self, optimizer: Any, weights: list[Any]) -> None:
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self._every = optimizer.ema_overwrite_frequency
        self._weights = weights if optimizer.use_ema else []
        self._averages = [weight.detach().clone() for weight in self._weights]
        self._move = get_ema_multi_avg_fn(optimizer.ema_momentum)

    def follow(self, step: int) -> None:
        """Take the weights after a step, counted from 1, into account."""
        if not self._weights:
            return
        if step == 1:
            for average, weight in zip(self._averages, self._weights, strict=True):
                average.copy_(weight.detach())
        else:
            self._move(self._averages, self._weights, step)
        if self._every and step % self._every == 0:
            self.take()

    def take(self) -> None:
        """Make the weights their averages."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            weight.detach().copy_(average)


def _loss(model: Sequential, network: Network) -> Callable[[Any, Any], Any]:
    """The mean loss of a batch, from what the network's module makes of it and labels."""
    from torch.nn import functional

    loss = model.loss
    if isinstance(loss, MeanSquaredError):
        return lambda out, y: functional.mse_loss(out, y)
    if not isinstance(loss, SparseCategoricalCrossentropy | CategoricalCrossentropy):
        raise ValueError(f"loss: expected one that PyTorch can follow, got {loss!r}")
    smoothing = loss.label_smoothing
    if loss.from_logits or network.of_logits:
        return lambda out, y: functional.cross_entropy(out, y, label_smoothing=smoothing)

    def of_probabilities(out: Any, y: Any) -> Any:
        classes = out.shape[1]
        targets = y if y.is_floating_point() else functional.one_hot(y, classes)
        targets = targets * (1 - smoothing) + smoothing / classes
        shares = (out / out.sum(1, keepdim=True)).clamp(CLIP, 1 - CLIP)
        return -(targets * shares.log()).sum(1).mean()

    return of_probabilities


def _labels(model: Sequential, y: npt.ArrayLike, checked: Array) -> Array:
    """The labels as PyTorch's loss takes them: class numbers, or rows of the model's dtype."""
    if isinstance(model.loss, SparseCategoricalCrossentropy):
        return np.asarray(y).reshape(-1).astype(np.int64)
    return checked
