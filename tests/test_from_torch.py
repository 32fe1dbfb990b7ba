"""Weights of PyTorch networks in models of the same layers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from cnnrs import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Sequential,
    from_torch,
)
from model_under_test import assert_same, assert_same_weights

Array: TypeAlias = npt.NDArray[Any]
StateDict: TypeAlias = dict[str, Any]


# Predictions, against PyTorch's arithmetic in plain NumPy, channels first


def convolve(x: Array, weight: Array, bias: Array, padding: int) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    return np.einsum("nchwyx,ocyx->nohw", windows, weight) + bias[:, None, None]


def normalise(x: Array, state: StateDict, name: str) -> Array:
    weight, bias, mean, variance = (
        state[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def max_pool(x: Array) -> Array:
    n, c, h, w = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def predicted(state: StateDict, x: Array) -> Array:
    """`Net` in PyTorch's way: images (n, c, h, w)."""
    x = convolve(x, state["conv1.weight"], state["conv1.bias"], padding=1)
    x = np.maximum(normalise(x, state, "bn1"), 0)
    x = max_pool(convolve(x, state["conv2.weight"], state["conv2.bias"], padding=0))
    x = normalise(x.reshape(len(x), -1), state, "bn2")
    x = np.tanh(x @ state["fc1.weight"].T + state["fc1.bias"])
    return x @ state["fc2.weight"].T + state["fc2.bias"]


SIZES = {"channels": 3, "height": 7, "width": 6, "filters": 4, "more": 5, "hidden": 6}


def state_dict(
    channels: int, height: int, width: int, filters: int, more: int, hidden: int, seed: int = 0
) -> StateDict:
    """Of a module that makes its convolutions first, then the normalisations, then the rest."""
    rng = np.random.default_rng(seed)
    flat = more * ((height - 2) // 2) * ((width - 1) // 2)

    def product(name: str, *shape: int) -> StateDict:
        return {
            f"{name}.weight": rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])),
            f"{name}.bias": rng.standard_normal(shape[0]),
        }

    def norm(name: str, size: int) -> StateDict:
        return {
            f"{name}.weight": rng.uniform(0.5, 1.5, size),
            f"{name}.bias": rng.standard_normal(size),
            f"{name}.running_mean": rng.standard_normal(size),
            f"{name}.running_var": rng.uniform(0.5, 1.5, size),
            f"{name}.num_batches_tracked": np.array(7),
        }

    return {
        **product("conv1", filters, channels, 3, 3),
        **product("conv2", more, filters, 3, 2),
        **norm("bn1", filters),
        **norm("bn2", flat),
        **product("fc1", hidden, flat),
        **product("fc2", 2, hidden),
    }


def model(
    channels: int, height: int, width: int, filters: int, more: int, hidden: int
) -> Sequential:
    layers = [
        Input((height, width, channels)),
        Conv2D(filters, 3, padding="same"),
        BatchNormalization(epsilon=1e-5),
        ReLU(),
        Dropout(0.5),
        Conv2D(more, (3, 2)),
        MaxPooling2D(2),
        Flatten(),
        BatchNormalization(epsilon=1e-5),
        Dropout(0.5),
        Dense(hidden, "tanh"),
        Dense(2),
    ]
    return Sequential(layers, dtype="float64")


sizes = st.integers(1, 6)


@settings(max_examples=40)
@given(
    channels=sizes,
    height=st.integers(4, 9),
    width=st.integers(3, 9),
    filters=sizes,
    more=sizes,
    hidden=sizes,
)
def test_a_network_predicts_what_pytorchs_arithmetic_gives(**settings: int) -> None:
    state = state_dict(**settings)
    ours = model(**settings)
    assert from_torch(state, ours) is ours
    images = np.random.default_rng(1).standard_normal(
        (3, settings["channels"], settings["height"], settings["width"])
    )
    np.testing.assert_allclose(
        ours.predict(images.transpose(0, 2, 3, 1)), predicted(state, images), rtol=1e-12, atol=1e-12
    )


def test_images_without_channels_and_means_of_channels_keep_their_order() -> None:
    weight = np.arange(12.0).reshape(2, 6)
    flat = Sequential([Input((3, 2)), Flatten(), Dense(2, use_bias=False)])
    means = Sequential([Input((4, 5, 6)), GlobalAveragePooling2D(), Dense(2, use_bias=False)])
    for ours in (flat, means):
        from_torch({"weight": weight}, ours)
        np.testing.assert_array_equal(ours.get_weights()[0], weight.T)


# Sources


class Tensor:
    """What PyTorch's tensors have of what is used."""

    def __init__(self, array: Array, *, bfloat16: bool = False) -> None:
        self._array, self._bfloat16, self._ready = array, bfloat16, False

    def detach(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        self._ready = True
        return self

    def float(self) -> "Tensor":
        self._bfloat16 = False
        return self

    def numpy(self) -> Array:
        assert self._ready
        if self._bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._array


def expected() -> Sequential:
    return from_torch(state_dict(**SIZES), model(**SIZES))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_values_may_be_tensors(bfloat16: bool) -> None:
    state = {name: Tensor(array, bfloat16=bfloat16) for name, array in state_dict(**SIZES).items()}
    assert_same_weights(from_torch(state, model(**SIZES)), expected())


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_gives_the_same_as_the_state_dict(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "net.safetensors"
    save_file(state_dict(**SIZES), path)
    assert_same_weights(from_torch(kind(path), model(**SIZES)), expected())
    assert_same_weights(from_torch(load_file(path), model(**SIZES)), expected())


def dense_chain(length: int) -> tuple[StateDict, Sequential]:
    """Layers of the same shape, told apart by their weights: 0, 1, and so on."""
    state = {f"{2 * n}.weight": np.full((2, 2), float(n)) for n in range(length)}
    return state, Sequential([Input((2,)), *(Dense(2, use_bias=False) for _ in range(length))])


def firsts(model: Sequential) -> list[float]:
    return [float(array.flat[0]) for array in model.get_weights()]


def test_numbers_in_a_files_names_count_as_numbers(tmp_path: Path) -> None:
    state, ours = dense_chain(12)
    save_file(state, tmp_path / "net.safetensors")
    loaded = load_file(tmp_path / "net.safetensors")
    assert list(loaded) != list(state)
    for source in (tmp_path / "net.safetensors", loaded):
        assert firsts(from_torch(source, ours)) == list(range(12))


def test_a_state_dict_keeps_its_own_order() -> None:
    state, ours = dense_chain(3)
    backwards = dict(reversed(state.items()))
    assert firsts(from_torch(backwards, ours)) == [2, 1, 0]
    assert firsts(from_torch(state, ours, order=["2", "0", "4"])) == [1, 0, 2]


# What is refused


def refused(changes: StateDict, drop: tuple[str, ...] = ()) -> tuple[StateDict, Sequential]:
    state = {name: array for name, array in state_dict(**SIZES).items() if name not in drop}
    return state | changes, model(**SIZES)


ONES = np.ones
BATCH_NORM = ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        (
            {"conv1.weight": ONES((4, 1, 3, 3))},
            (),
            "conv1.weight: expected shape (4, 3, 3, 3) for conv2d, got (4, 1, 3, 3)",
        ),
        (
            {"conv2.weight": ONES((5, 4, 3))},
            (),
            "conv2.weight: expected a Conv2d of 4 axes, a Linear of 2, or a BatchNorm with "
            "running_mean and running_var, got shape (5, 4, 3)",
        ),
        (
            {"fc1.weight": ONES((20, 6))},
            (),
            "fc1.weight: expected shape (6, 20) for dense, got (20, 6)",
        ),
        ({"fc2.bias": ONES(3)}, (), "fc2.bias: expected shape (2,) for dense_1, got (3,)"),
        (
            {},
            ("conv2.bias",),
            "conv2.bias: expected shape (5,) for conv2d_1, got no such tensor; give the layer "
            "use_bias=False",
        ),
        (
            {},
            ("conv2.bias", "conv2.weight"),
            "source: expected 2 Conv2d (conv2d, conv2d_1), as the model has, got 1 Conv2d (conv1)",
        ),
        (
            {"fc3.weight": ONES((2, 2))},
            (),
            "source: expected 2 Linear (dense, dense_1), as the model has, "
            "got 3 Linear (fc1, fc2, fc3)",
        ),
        (
            {},
            BATCH_NORM,
            "source: expected 2 BatchNorm (batch_normalization, batch_normalization_1), as the "
            "model has, got 1 BatchNorm (bn2)",
        ),
        (
            {},
            ("bn1.running_var",),
            "bn1.running_var: expected shape (4,) for batch_normalization, got no such tensor",
        ),
        (
            {},
            ("bn2.weight",),
            "bn2.weight: expected shape (20,) for batch_normalization_1, got no such tensor; give "
            "the layer scale=False",
        ),
        ({}, ("fc2.weight",), "fc2.weight: expected a tensor, got fc2 without it"),
        (
            {"lstm.weight_ih_l0": ONES((8, 3))},
            (),
            "lstm.weight_ih_l0: expected tensors of a Conv2d, Linear or BatchNorm, which end in "
            "weight, bias, running_mean, running_var, got shape (8, 3)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_changes_nothing(
    changes: StateDict, drop: tuple[str, ...], message: str
) -> None:
    state, ours = refused(changes, drop)
    before = ours.get_weights()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        from_torch(state, ours)
    assert_same(ours.get_weights(), before)


def test_what_the_layer_does_not_have_is_refused() -> None:
    dense = Sequential([Input((2,)), Dense(1, use_bias=False)])
    with pytest.raises(ValueError, match=r"0.bias: expected none for dense, which has use_bias=F"):
        from_torch({"0.weight": ONES((1, 2)), "0.bias": ONES(1)}, dense)
    norm = Sequential([Input((2,)), BatchNormalization(center=False, scale=False)])
    moving = {"0.running_mean": ONES(2), "0.running_var": ONES(2)}
    from_torch(moving, norm)
    with pytest.raises(ValueError, match=r"0.bias: expected none for .*, which has center=False"):
        from_torch({**moving, "0.bias": ONES(2)}, norm)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    ours = Sequential([Input((2,)), Dense(1, use_bias=False)])
    with pytest.raises(TypeError, match=r"source: expected a state_dict .*, got object"):
        from_torch(object(), ours)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"source: expected names of tensors, got 0"):
        from_torch({0: ONES((1, 2))}, ours)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"0.weight: expected real numbers, got dtype complex128"):
        from_torch({"0.weight": ONES((1, 2), complex)}, ours)
    with pytest.raises(ValueError, match=r"expected a .safetensors file, got net.pt; give what to"):
        from_torch("net.pt", ours)
    with pytest.raises(ValueError, match=r"order: expected each of \['0'\] once, got \['1'\]"):
        from_torch({"0.weight": ONES((1, 2))}, ours, ["1"])
    with pytest.raises(ValueError, match=r"order: expected each of \[''\] once, got \['1'\]"):
        from_torch({"weight": ONES((1, 2))}, ours, ["1"])
    for order in ([0], "0", 0):
        with pytest.raises(TypeError, match=r"order: expected a list of modules' names, got \W*0"):
            from_torch({"0.weight": ONES((1, 2))}, ours, order)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model: expected a Sequential, got None"):
        from_torch({"0.weight": ONES((1, 2))}, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"from_torch: expected a built model, got sequential"):
        from_torch({"0.weight": ONES((1, 2))}, Sequential([Dense(1, use_bias=False)]))
    with pytest.raises(FileNotFoundError):
        from_torch(tmp_path / "none.safetensors", ours)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"source: expected a .safetensors file of numbers that"):
        from_torch(broken, ours)
    bfloat16 = b'{"0.weight":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    broken.write_bytes(len(bfloat16).to_bytes(8, "little") + bfloat16 + bytes(4))
    with pytest.raises((ValueError, TypeError), match=r"bfloat16|0.weight: expected real numbers"):
        from_torch(broken, ours)


# The other libraries themselves


def torch_networks(nn: Any) -> Iterator[tuple[Any, Sequential]]:
    yield (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, (3, 2), stride=(2, 1)),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.BatchNorm1d(12 * 2 * 4),
            nn.Dropout(0.5),
            nn.Linear(12 * 2 * 4, 16),
            nn.Sigmoid(),
            nn.Linear(16, 5),
            nn.Softmax(1),
        ),
        Sequential(
            [
                Input((10, 11, 3)),
                Conv2D(8, 3, padding="same", use_bias=False),
                BatchNormalization(epsilon=1e-5, momentum=0.9),
                ReLU(),
                MaxPooling2D(2),
                Conv2D(12, (3, 2), (2, 1)),
                ReLU(negative_slope=0.1),
                Flatten(),
                BatchNormalization(epsilon=1e-5, momentum=0.9),
                Dropout(0.5),
                Dense(16, "sigmoid"),
                Dense(5),
                Activation("softmax"),
            ]
        ),
    )
    yield (
        nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, 4, 5, padding=2),
            nn.BatchNorm2d(4, affine=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2, bias=False),
        ),
        Sequential(
            [
                Input((9, 8, 1)),
                AveragePooling2D(2),
                Conv2D(4, 5, padding="same"),
                BatchNormalization(epsilon=1e-5, center=False, scale=False),
                GlobalAveragePooling2D(),
                Flatten(),
                Dense(2, use_bias=False),
            ]
        ),
    )


def test_pytorchs_networks_predict_the_same(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for theirs, ours in torch_networks(torch.nn):
        images = torch.randn(6, *(ours.input_shape[axis] for axis in (3, 1, 2)))
        theirs(images)  # in training, which moves means and variances
        theirs.eval()
        path = tmp_path / "net.safetensors"
        save_file({name: value.numpy() for name, value in theirs.state_dict().items()}, path)
        x = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
        with_gradients = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
        for source in (theirs.state_dict(), with_gradients, path):
            ours.set_weights([np.zeros_like(array) for array in ours.get_weights()])
            from_torch(source, ours)
            np.testing.assert_allclose(
                ours.predict(x), theirs(images).detach().numpy(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_kerass_weights_need_no_help(keras: Any) -> None:
    from cnnrs import layers as ours
    from nets_under_test import NETS

    x = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    for net in NETS.values():
        theirs = keras.Sequential(net(keras.layers))
        model = Sequential(net(ours))
        model.set_weights(theirs.get_weights())
        np.testing.assert_allclose(
            model.predict(x), theirs.predict(x, verbose=0), rtol=1e-4, atol=1e-5
        )
