"""Training epoch by epoch, in calls of many steps that each are one Rust call."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cnnrs._progress import Report
from cnnrs._warnings import warn
from cnnrs.callbacks._base import Callback, History, Logs

if TYPE_CHECKING:
    from cnnrs import _core
    from cnnrs.losses import Loss
    from cnnrs.models import Sequential

Array: TypeAlias = npt.NDArray[Any]

CALL_SECONDS = 0.07
"""How long one call should take: then Ctrl-C and the progress bar have a turn."""

GROWTH = 8
"""How many times longer than the last a call may get: the first ones are no good measure."""


@dataclass(frozen=True)
class Data:
    """Images and labels as the compiled network takes them.

    `labels` makes the labels anew, as the loss wants them that the model has by then.
    """

    x: Array
    y: Array
    labels: Callable[[], Array]

    def relabelled(self) -> "Data":
        return replace(self, y=self.labels())

    def part(self, rows: slice) -> "Data":
        return Data(self.x[rows], self.y[rows], lambda: self.labels()[rows])


@dataclass
class Sums:
    """What some images came to: their number, the sum of their losses, how many are right."""

    images: int = 0
    loss: float = 0.0
    right: int = 0

    def logs(self, metric: str | None) -> Logs:
        """The means, `metric` being the name of the accuracy, if it is reported."""
        logs = {"loss": self.loss / self.images}
        if metric is not None:
            logs[metric] = self.right / self.images
        return logs


class Pace:
    """Chooses how many steps the next call takes, from how long the last one took."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        fitting = int(steps * CALL_SECONDS / max(seconds, 1e-9))
        self.steps = max(1, min(fitting, GROWTH * self.steps))


class CallbackList:
    """All callbacks of one training, evaluation or prediction.

    `history` is the last `History` among those that are given, or else one that follows them.
    """

    def __init__(self, callbacks: Any, model: "Sequential", **params: Any) -> None:
        several = isinstance(callbacks, list | tuple)
        given = list(callbacks) if several else [] if callbacks is None else [callbacks]
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks: expected a cnnrs.callbacks.Callback, or a list or tuple of them, "
                    f"got {callback!r}"
                )
        histories = [callback for callback in given if isinstance(callback, History)]
        self.history = histories[-1] if histories else History()
        self._callbacks: list[Callback] = given if histories else [*given, self.history]
        self.wants_batches = False
        for callback in self._callbacks:
            callback.set_model(model)
            callback.set_params(params)

    def train_begin(self, run: dict[str, Any]) -> None:
        """Begin a training of which `run` says how many images it has, and how it takes them."""
        self._each("on_train_begin", {})
        self._each("_after_train_begin", self._callbacks, run)

    def train_end(self, logs: Logs) -> None:
        self._each("on_train_end", logs)
        self._each("_after_train_end")

    def test_begin(self) -> None:
        self._each("on_test_begin", {})

    def test_end(self, logs: Logs) -> None:
        self._each("on_test_end", logs)

    def predict_begin(self) -> None:
        self._each("on_predict_begin", {})

    def predict_end(self) -> None:
        self._each("on_predict_end", {})

    def loss_not_finite(self, epoch: int, batch: int, loss: float) -> None:
        self._each("_on_loss_not_finite", epoch, batch, loss)

    def epoch_begin(self, epoch: int) -> None:
        self._each("on_epoch_begin", epoch, {})
        self.wants_batches = any(map(_wants_batches, self._callbacks))  # they may have set hooks

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        self._each("on_epoch_end", epoch, logs)
        self._each("_after_epoch_end", self._callbacks, epoch)

    def batch_begin(self, batch: int) -> None:
        self._each("on_train_batch_begin", batch, logs={})

    def batch_end(self, batch: int, logs: Logs) -> None:
        self._each("on_train_batch_end", batch, logs=logs)

    def _each(self, hook: str, *arguments: Any, **keywords: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*arguments, **keywords)


def _wants_batches(callback: Callback) -> bool:
    """Whether a callback overrides one of the hooks that are called at every step."""
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    return any(
        getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook)
        for hook in hooks
    )


def evaluate(network: "_core.Network", data: Data) -> Sums:
    """Judge images without training."""
    return Sums(len(data.x), *network.evaluate(data.x, data.y))


def draw_seed(rng: "np.random.Generator") -> int:
    """A seed for the random numbers of an epoch's layers."""
    # For NumPy's default generator, `rng.integers(2**64, dtype=np.uint64)`: in 0.2 us, not 1.3.
    return int(rng.bit_generator.random_raw())


class Fit:
    """One call of `Sequential.fit`: what stays the same over its epochs."""

    def __init__(
        self,
        model: "Sequential",
        data: Data,
        validation: Data | None,
        *,
        batch_size: int,
        steps_per_execution: int,
        callbacks: CallbackList,
        report: Report,
    ) -> None:
        self._model = model
        self._data = data
        self._validation = validation
        self._loss = model.loss  # that the labels are for
        self._metric = model._metric
        self._sums = Sums()  # of the epoch so far, or since a callback changed the loss
        # No more than there are: how a step is computed depends on it.
        self._batch_size = min(batch_size, len(data.x))
        self._steps_per_execution = steps_per_execution
        self._callbacks = callbacks
        self._report = report
        self._pace = Pace()
        self._rate = 0.0  # of the last step, once there was one
        self._warned = False

    def epoch(self, epoch: int, rng: "np.random.Generator", shuffle: bool) -> Logs:
        """Train one epoch, validate, tell the callbacks, and return the logs."""
        self._callbacks.epoch_begin(epoch)
        self._report.begin(epoch)
        order = np.arange(len(self._data.x), dtype=np.int64)
        if shuffle:
            rng.shuffle(order)
        start = time.perf_counter()
        steps = self._train(epoch, order, draw_seed(rng))
        seconds = time.perf_counter() - start
        logs = self._sums.logs(self._metric)
        if self._validation is not None:
            self._callbacks.test_begin()
            network = self._network()
            judged = evaluate(network, self._validation).logs(self._metric)
            self._callbacks.test_end(judged)
            logs |= {f"val_{name}": value for name, value in judged.items()}
            if not self._warned and not math.isfinite(judged["loss"]):
                what = f"the loss of the validation is not finite at epoch {epoch + 1}"
                self._warn(what, self._validation.x, self._validation.y)
        self._callbacks.epoch_end(epoch, logs)
        self._report.end(steps, seconds, logs)
        return logs

    def _train(self, epoch: int, order: npt.NDArray[np.int64], seed: int) -> int:
        """Take the steps of an epoch, and return how many they were."""
        total, hooks = self._report.steps, self._callbacks.wants_batches
        done, self._sums = 0, Sums()
        with self._report.bar():
            while done < total and not (done and self._model.stop_training):
                end = min(done + self._steps_per_execution, total) if hooks else total
                if hooks:
                    self._callbacks.batch_begin(done)
                while True:
                    count = min(self._pace.steps, end - done)
                    self._call(epoch, order, seed, done, count)
                    done += count
                    if done == end or self._model.stop_training:
                        break
                if hooks:
                    self._callbacks.batch_end(done - 1, self._sums.logs(self._metric))
        return done

    def _call(
        self, epoch: int, order: npt.NDArray[np.int64], seed: int, done: int, count: int
    ) -> None:
        """Take `count` steps after `done` of the epoch, and add what they came to to the sums."""
        part = order[done * self._batch_size : (done + count) * self._batch_size]
        network = self._network()
        rates = self._model._rates(network.steps(), count)
        start = time.perf_counter()
        losses, right = network.train(
            self._data.x, self._data.y, part, self._batch_size, rates, seed, done
        )
        self._pace.took(count, time.perf_counter() - start)
        sums = self._sums
        sums.images += len(part)
        # One after the other, so that the sum does not depend on how steps are cut into calls.
        with np.errstate(all="ignore"):
            sums.loss = float(np.add.accumulate(np.concatenate([[sums.loss], losses]))[-1])
        sums.right += right
        self._report.update(len(part), sums.logs(self._metric))
        if not (math.isfinite(sums.loss) or self._warned or np.isfinite(losses).all()):
            strange = int(np.isfinite(losses).argmin())
            step, images = done + strange, part[strange * self._batch_size :][: self._batch_size]
            if strange:
                self._rate = float(rates[strange - 1])
            self._callbacks.loss_not_finite(epoch, step, float(losses[strange]))
            self._warn(
                f"the loss is not finite at epoch {epoch + 1}, step {step + 1}",
                self._data.x[images],
                self._data.y[images],
            )
        self._rate = float(rates[-1])

    def _network(self) -> "_core.Network":
        """The network as callbacks have left it, with labels and sums for the loss that it has."""
        model = self._model
        network = model._ready_network()
        if not _equal(model.loss, self._loss):
            try:
                self._data = self._data.relabelled()
                self._validation = self._validation and self._validation.relabelled()
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{error}; the training began with {self._loss}, and a callback compiled the "
                    f"model with {model.loss}"
                ) from error
            self._sums = Sums()
        self._loss, self._metric = model.loss, model._metric
        return network

    def _warn(self, what: str, x: Array, y: Array) -> None:
        """Warn, once in a training, of what these data came to, and of what it may come from."""
        self._warned = True
        self._report.clear()
        why = "x may be too large, or the weights as training began too large or not finite"
        if self._rate:  # The loss is what the steps before it have led to.
            why = f"a learning rate below {self._rate:g} may help"
        for name, array in (("y", y), ("x", x)):
            if not _is_finite(array, self._model.dtype):
                why = f"{name} holds a number that is not finite in {self._model.dtype}"
        warn(f"{what}; {why}")


def _equal(a: "Loss | None", b: "Loss | None") -> bool:
    """Whether two losses take the same labels and come to the same."""
    if a is None or b is None or a is b:
        return a is b
    return type(a) is type(b) and a._compiled() == b._compiled()


def _is_finite(array: Array, dtype: str) -> bool:
    """Whether all numbers are, as the model takes them."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(dtype, copy=False)).all())
