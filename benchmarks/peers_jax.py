"""JAX in the peer benchmark: compiled functions, channels last, parameters donated.

XLA takes as many threads as there are processors that the process is pinned to, and cannot be told
otherwise: the pinning happens before this module is imported. Calls return before their work is
done; in training only the end is waited for, in inference every batch, as its output is wanted.

`jax` and `jax-reshape` take XLA's own convolution, one batch a call, and differ in the pooling.
`reduce_window` is what Flax's `max_pool` does; its gradient is slow on the CPU. The maximum over
two axes of a reshaped array has a faster one, which shares the gradient among equal maxima.

`jax-scan` pools by reshape too. Its convolution is a product of patches, joined from shifted
slices, and the kernel. Training is one `lax.scan` over the steps of 512 images, in which XLA's own
convolution is up to 11 times slower. Inference is one batch a call.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from networks import Conv, Dense, Flatten, Network, Pool
from peers_rows import CHUNK, BatchWork, Row, Work

VERSIONS = {"jax": jax.__version__}


def prepare(
    key: str, row: Row, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], threads: int
) -> Work:
    """Get ready for a row."""
    return JaxWork(row, images, labels, by_reshape=key != "jax", scan=key == "jax-scan")


def patches(x: Any, size: int, same: bool) -> Any:
    """What a convolution's filters see, in the last axis."""
    if same:
        x = jnp.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    h, w = x.shape[1] - size + 1, x.shape[2] - size + 1
    x = jnp.concatenate([x[:, :, j : j + w] for j in range(size)], -1)
    return jnp.concatenate([x[:, i : i + h] for i in range(size)], -1)


def logits(network: Network, weights: list[Any], x: Any, by_reshape: bool, by_patches: bool) -> Any:
    """The network without the softmax, with XLA's pooling and convolution or others."""
    given = iter(weights)
    for layer, _, after in network.steps():
        match layer:
            case Conv(filters, size, same):
                kernel = next(given)
                if by_patches:
                    x = patches(x, size, same) @ kernel.reshape(-1, filters)
                else:
                    padding, order = "SAME" if same else "VALID", ("NHWC", "HWIO", "NHWC")
                    x = lax.conv_general_dilated(
                        x, kernel, (1, 1), padding, dimension_numbers=order
                    )
                x = x + next(given) if layer.bias else x
                x = jax.nn.relu(x) if layer.relu else x
            case Pool() if by_reshape:
                h, w, c = after
                x = x[:, : 2 * h, : 2 * w].reshape(-1, h, 2, w, 2, c).max((2, 4))
            case Pool():
                window = (1, 2, 2, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
            case Flatten():
                x = x.reshape(len(x), -1)
            case Dense():
                x = x @ next(given) + next(given)
                x = jax.nn.relu(x) if layer.relu else x
    return x


class JaxWork(BatchWork):
    """Training or inference: one batch a call, or with `scan` many steps of training."""

    def __init__(self, *arguments: Any, by_reshape: bool, scan: bool) -> None:
        super().__init__(*arguments)
        network, rate = self.network, self.row.rate

        def loss(weights: list[Any], x: Any, y: Any) -> Any:
            log_p = jax.nn.log_softmax(logits(network, weights, x, by_reshape, scan))
            return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

        def train(weights: list[Any], x: Any, y: Any) -> tuple[list[Any], Any]:
            value, gradients = jax.value_and_grad(loss)(weights, x, y)
            return [w - rate * d for w, d in zip(weights, gradients, strict=True)], value

        def infer(weights: list[Any], x: Any) -> Any:
            return jax.nn.softmax(logits(network, weights, x, by_reshape, scan))

        def train_many(weights: list[Any], xs: Any, ys: Any) -> Any:
            return lax.scan(lambda weights, batch: train(weights, *batch), weights, (xs, ys))

        training = self.row.task == "train"
        many = training and scan
        self.train = jax.jit(train_many if many else train, donate_argnums=0)
        self.infer = jax.jit(infer)
        self.images_per_call = CHUNK if many else self.row.batch
        batches = self.chunks() if many else self.batches()
        self.calls = [jax.device_put(batch[: 2 if training else 1]) for batch in batches]
        self.reset()

    def reset(self) -> None:
        # Copies: donated memory must not be NumPy's.
        self.parameters = jax.block_until_ready([jnp.array(w, copy=True) for w in self.weights])

    def step(self, x: Any, y: Any = None) -> Any:
        if y is None:
            return self.infer(self.parameters, x).block_until_ready()
        self.parameters, loss = self.train(self.parameters, x, y)
        return loss

    def finish(self) -> None:
        jax.block_until_ready(self.parameters)
