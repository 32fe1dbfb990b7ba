"""Keras on TensorFlow in the peer benchmark, in three ways.

`keras`: `train_on_batch` and `predict_on_batch` of a compiled model, on tensors that lie ready.

`tf`: training is one `tf.function` that loops in its graph over the steps of 512 images, with
`tf.nn` operations, the loss from logits, and weights that it updates itself; inference is one such
function a batch.

`tf-xla`: the same functions, compiled by XLA (`jit_compile=True`). The convolution is a product of
patches, joined from shifted slices, and the kernel; the pooling is by reshape. At batch 1 it is
faster than `tf`, at the larger ones slower. Compiled with the convolution of `tf.nn`, training is
several times slower.

Outputs of inference end as NumPy arrays in all of them.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from networks import INPUT, Array, Conv, Dense, Flatten, Network, Pool
from peers_rows import CHUNK, BatchWork, Row, Work

VERSIONS = {"tensorflow": tf.__version__, "keras": keras.__version__}


def prepare(
    key: str, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], threads: int
) -> Work:
    """Get ready for a row; the number of threads is set once, before the first operation."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    if key == "keras":
        return KerasWork(row, images, labels)
    return FunctionWork(row, images, labels, xla=key == "tf-xla")


def keras_model(network: Network) -> keras.Sequential:
    """The network in Keras, with its softmax."""
    layers: list[Any] = [keras.Input(INPUT)]
    for layer in network.layers:
        match layer:
            case Conv(filters, size, same, bias, relu):
                padding, activation = "same" if same else "valid", "relu" if relu else None
                layers.append(
                    keras.layers.Conv2D(
                        filters, size, padding=padding, activation=activation, use_bias=bias
                    )
                )
            case Pool():
                layers.append(keras.layers.MaxPooling2D(2))
            case Flatten():
                layers.append(keras.layers.Flatten())
            case Dense(units, relu):
                last = layer is network.layers[-1]
                activation = "softmax" if last else "relu" if relu else None
                layers.append(keras.layers.Dense(units, activation=activation))
    return keras.Sequential(layers)


class KerasWork(BatchWork):
    """The model's own methods, one batch a call."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = keras_model(self.network)
        sgd = keras.optimizers.SGD(self.row.rate)
        self.model.compile(sgd, "sparse_categorical_crossentropy")
        self.images_per_call = self.row.batch
        arrays = 2 if self.row.task == "train" else 1
        self.calls = [tuple(map(tf.constant, batch[:arrays])) for batch in self.batches()]

    def reset(self) -> None:
        self.model.set_weights(self.weights)

    def numbers(self, result: Any) -> Array:
        self.model.reset_metrics()  # Older releases return the mean of all losses since then.
        return super().numbers(result)

    def step(self, x: tf.Tensor, y: tf.Tensor | None = None) -> Any:
        if y is None:
            return self.model.predict_on_batch(x)
        return self.model.train_on_batch(x, y)


def patches(x: tf.Tensor, size: int, same: bool) -> tf.Tensor:
    """What a convolution's filters see, in the last axis."""
    if same:
        x = tf.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    h, w = x.shape[1] - size + 1, x.shape[2] - size + 1
    x = tf.concat([x[:, :, j : j + w] for j in range(size)], -1)
    return tf.concat([x[:, i : i + h] for i in range(size)], -1)


# Its loop is over layers: one graph, not a loop in it.
@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def logits(
    network: Network, weights: list[tf.Variable], x: tf.Tensor, by_patches: bool
) -> tf.Tensor:
    """The network without the softmax, by TensorFlow's operations or by patches and a reshape."""
    given = iter(weights)
    for layer, before, after in network.steps():
        match layer:
            case Conv(filters, size, same):
                kernel = next(given)
                if by_patches:
                    kernel = tf.reshape(kernel, (-1, filters))
                    x = tf.tensordot(patches(x, size, same), kernel, 1)
                else:
                    x = tf.nn.conv2d(x, kernel, 1, "SAME" if same else "VALID")
                x = tf.nn.bias_add(x, next(given)) if layer.bias else x
                x = tf.nn.relu(x) if layer.relu else x
            case Pool() if by_patches:
                h, w, c = after
                windows = tf.reshape(x[:, : 2 * h, : 2 * w], (-1, h, 2, w, 2, c))
                x = tf.reduce_max(windows, (2, 4))
            case Pool():
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            case Flatten():
                x = tf.reshape(x, (-1, int(np.prod(before))))
            case Dense():
                x = tf.nn.bias_add(tf.matmul(x, next(given)), next(given))
                x = tf.nn.relu(x) if layer.relu else x
    return x


class FunctionWork(BatchWork):
    """Functions that TensorFlow has made a graph of, and XLA perhaps compiled."""

    def __init__(self, *arguments: Any, xla: bool) -> None:
        super().__init__(*arguments)
        self.xla = xla
        self.parameters = [tf.Variable(w) for w in self.weights]
        training = self.row.task == "train"
        self.images_per_call = CHUNK if training else self.row.batch
        batches = self.chunks() if training else self.batches()
        arrays = 2 if training else 1
        self.calls = [tuple(map(tf.constant, batch[:arrays])) for batch in batches]
        function = tf.function(self.train if training else self.infer, jit_compile=xla)
        # The graph for arguments of this shape: a call need not look for it.
        self.function = function.get_concrete_function(*self.calls[0])

    def reset(self) -> None:
        for parameter, start in zip(self.parameters, self.weights, strict=True):
            parameter.assign(start)

    def train(self, xs: tf.Tensor, ys: tf.Tensor) -> tf.Tensor:
        """As many steps as there are batches in the arrays; their losses."""
        steps = xs.shape[0]
        losses = tf.TensorArray(tf.float32, size=steps)
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                outputs = logits(self.network, self.parameters, xs[step], self.xla)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(ys[step], outputs)
                )
            gradients = tape.gradient(loss, self.parameters)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.assign_sub(self.row.rate * gradient)
            losses = losses.write(step, loss)
        return losses.stack()

    def infer(self, x: tf.Tensor) -> tf.Tensor:
        """Probabilities."""
        return tf.nn.softmax(logits(self.network, self.parameters, x, self.xla))

    def step(self, *arguments: tf.Tensor) -> Any:
        return self.function(*arguments).numpy()
