"""Keras on TensorFlow in the peer benchmark, in two ways.

`keras`: `train_on_batch` and `predict_on_batch` of a compiled model, on tensors that lie ready.

`tf`: the fastest way that TensorFlow was found to have. Training is one `tf.function` that loops in
its graph over the steps of 512 images, with `tf.nn` operations, the loss from logits, and weights
that it updates itself; inference is one such function a batch. XLA (`jit_compile=True`) made it
slower. Outputs of inference end as NumPy arrays in both.
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
    return (KerasWork if key == "keras" else FunctionWork)(row, images, labels)


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


@tf.autograph.experimental.do_not_convert  # its loop is over layers: one graph, not a loop in it
def logits(network: Network, weights: list[tf.Variable], x: tf.Tensor) -> tf.Tensor:
    """The network without the softmax."""
    given = iter(weights)
    for layer, before, _ in network.steps():
        match layer:
            case Conv(same=same):
                x = tf.nn.conv2d(x, next(given), 1, "SAME" if same else "VALID")
                x = tf.nn.bias_add(x, next(given)) if layer.bias else x
                x = tf.nn.relu(x) if layer.relu else x
            case Pool():
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            case Flatten():
                x = tf.reshape(x, (-1, int(np.prod(before))))
            case Dense():
                x = tf.nn.bias_add(tf.matmul(x, next(given)), next(given))
                x = tf.nn.relu(x) if layer.relu else x
    return x


class FunctionWork(BatchWork):
    """Functions that TensorFlow has made a graph of."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parameters = [tf.Variable(w) for w in self.weights]
        training = self.row.task == "train"
        self.images_per_call = CHUNK if training else self.row.batch
        if training:
            steps = CHUNK // self.row.batch
            self.calls = [
                (tf.constant(x.reshape(steps, -1, *x.shape[1:])), tf.constant(y.reshape(steps, -1)))
                for x, y in self.batches(CHUNK)
            ]
        else:
            self.calls = [(tf.constant(x),) for x, _ in self.batches()]
        function = tf.function(self.train if training else self.infer)
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
                outputs = logits(self.network, self.parameters, xs[step])
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
        return tf.nn.softmax(logits(self.network, self.parameters, x))

    def step(self, *arguments: tf.Tensor) -> Any:
        return self.function(*arguments).numpy()
