"""Model files: what is written is what is read, and what no file can hold is refused."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import cnnrs
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
    Rescaling,
    Sequential,
)
from cnnrs.layers import Layer
from cnnrs.losses import CategoricalCrossentropy, MeanSquaredError, SparseCategoricalCrossentropy
from cnnrs.optimizers import SGD, Adam, AdamW
from cnnrs.optimizers.schedules import CosineDecay, PiecewiseConstantDecay
from cnnrs.utils import to_categorical
from model_under_test import (
    SPARSE,
    assert_same,
    assert_same_weights,
    compiled,
    data,
    description,
    differ,
    small_model,
)

FILE = "model.safetensors"

# Round trips

PADDING = st.sampled_from(["valid", "same"])
ACTIVATION = st.sampled_from(["linear", "relu", "tanh", "leaky_relu"])
INITIALIZER = st.sampled_from(["he_normal", "glorot_uniform", cnnrs.initializers.HeUniform(seed=3)])

IMAGE_LAYERS: list[st.SearchStrategy[Layer]] = [
    st.builds(
        Conv2D,
        st.integers(1, 5),
        st.sampled_from([1, (1, 2), 3]),
        strides=st.sampled_from([1, (2, 1)]),
        padding=st.just("same"),
        activation=ACTIVATION,
        use_bias=st.booleans(),
        kernel_initializer=INITIALIZER,
    ),
    st.builds(MaxPooling2D, st.sampled_from([1, 2]), st.just(1), st.just("same")),
    st.builds(AveragePooling2D, st.sampled_from([1, (2, 1)]), padding=st.just("same")),
    st.builds(BatchNormalization, momentum=st.floats(0, 1), center=st.booleans()),
    st.builds(ReLU, st.sampled_from([None, 6.0]), st.sampled_from([0.0, 0.1])),
    st.builds(Activation, ACTIVATION),
    st.builds(Dropout, st.floats(0, 0.9)),
    st.builds(Rescaling, st.floats(-2, 2), offset=st.floats(-1, 1)),
]

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.01, momentum=0.9),
    SGD(0.01, momentum=0.5, nesterov=True),
    Adam(0.01, beta_1=0.8),
    AdamW(0.01, weight_decay=0.1, epsilon=1e-5),
    SGD(CosineDecay(0.1, 9), use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=4),
    Adam(PiecewiseConstantDecay([2, 5], [0.1, 0.01, 0.001]), use_ema=True),
]

LOSSES = [
    SparseCategoricalCrossentropy(),
    SparseCategoricalCrossentropy(from_logits=True),
    CategoricalCrossentropy(label_smoothing=0.25),
    MeanSquaredError(),
]


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a model for images (6, 5, 2) in three classes."""
    reduce = draw(st.sampled_from([Flatten, GlobalAveragePooling2D]))()
    layers = draw(st.lists(st.one_of(IMAGE_LAYERS), max_size=4))
    last = Dense(3, draw(st.sampled_from(["softmax", "linear"])))
    return {
        "layers": [Input((6, 5, 2)), *layers, reduce, last],
        "name": draw(st.sampled_from([None, "digits", "Zähler/2"])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
    }


@given(networks(), st.sampled_from(OPTIMIZERS), st.sampled_from(LOSSES), st.integers(0, 2))
@settings(max_examples=100)
@pytest.mark.filterwarnings("ignore:the loss is not finite", "ignore:loss. ")
def test_a_loaded_model_goes_on_as_the_saved_one_does(
    tmp_path_factory: pytest.TempPathFactory, network: Any, optimizer: Any, loss: Any, epochs: int
) -> None:
    model = Sequential(**network)
    model.compile(optimizer, loss, steps_per_execution=3)
    rng = np.random.default_rng(0)
    x, labels = rng.random((11, 6, 5, 2)), rng.integers(0, 3, 11)
    y = labels if isinstance(loss, SparseCategoricalCrossentropy) else to_categorical(labels, 3)
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0)
    path = tmp_path_factory.mktemp("model") / FILE
    model.save(path)
    twin = cnnrs.load_model(path)
    assert description(twin) == description(model)
    assert_same_weights(twin, model)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    ours, theirs = (each.fit(x, y, 4, epochs=2, verbose=0).history for each in (twin, model))
    assert_same_weights(twin, model)
    np.testing.assert_equal(ours, theirs)


def test_every_layer_loss_and_optimizer_is_among_those_tried() -> None:
    tried = {repr(type(thing)) for thing in (*OPTIMIZERS, *LOSSES)}
    for module, base in ((cnnrs.optimizers, "Optimizer"), (cnnrs.losses, "Loss")):
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and name != base:
                assert repr(kind) in tried


def test_models_that_are_not_ready_are_saved_too(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for model in (Sequential(), Sequential([Dense(2)], name="later"), Sequential([Input((3,))])):
        model.save(path)
        twin = cnnrs.load_model(path)
        assert description(twin) == description(model)
        assert not twin.built
    uncompiled = Sequential([Input((3,)), Dense(2)])
    uncompiled.save(path)
    assert_same_weights(cnnrs.load_model(path), uncompiled)
    later = Sequential([Dense(2)])
    later.compile("adam", "mse")
    later.save(path)
    twin = cnnrs.load_model(path)
    for model in (later, twin):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=2, verbose=0)
    assert_same_weights(twin, later)


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    model = Sequential([Input((2,)), Dense(2), ReLU(max_value=float("inf"))])
    model.set_weights([[[np.nan, np.inf], [-np.inf, -0.0]], [0.0, 5e-324]])
    model.save(tmp_path / FILE)
    twin = cnnrs.load_model(tmp_path / FILE)
    for ours, theirs in zip(twin.get_weights(), model.get_weights(), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert twin.layers[1].max_value == float("inf")


def test_the_same_model_makes_the_same_file(tmp_path: Path) -> None:
    model = compiled(optimizer="adam")
    model.save(tmp_path / "a.safetensors")
    model.save(tmp_path / "b.safetensors")
    cnnrs.load_model(tmp_path / "a.safetensors").save(tmp_path / "c.safetensors")
    first, *others = (path.read_bytes() for path in tmp_path.iterdir())
    assert others == [first, first]


def test_a_file_is_read_by_others(tmp_path: Path) -> None:
    model = compiled()
    model.save(tmp_path / FILE)
    with safe_open(tmp_path / FILE, "np") as file:
        names = set(file.keys())
        kernel = file.get_tensor("conv2d/kernel")
        about = json.loads(file.metadata()["about"])
    weights = {"conv2d/kernel", "conv2d/bias", "dense/kernel", "dense/bias"}
    assert names == {*weights, "optimizer.steps"}
    np.testing.assert_array_equal(kernel, model.get_weights()[0])
    assert about["model"]["layers"][0]["class_name"] == "Conv2D"


def test_tensors_are_aligned(tmp_path: Path) -> None:
    for length in range(1, 9):
        Sequential([Input((2,)), Dense(3)], name="n" * length).save(tmp_path / FILE)
        assert int.from_bytes((tmp_path / FILE).read_bytes()[:8], "little") % 8 == 0


def test_names_of_layers_are_no_paths_and_cannot_clash(tmp_path: Path) -> None:
    layers = [Dense(2, name="optimizer.steps"), Dense(2, name="a/b"), Dense(2, name="")]
    model = Sequential([Input((2,)), *layers])
    model.compile("adam", "mse")
    model.save(tmp_path / FILE)
    assert_same_weights(cnnrs.load_model(tmp_path / FILE), model)


# Weights


def test_weights_are_loaded_from_either_file(tmp_path: Path) -> None:
    model = compiled(seed=1)
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / FILE)
    model.save_weights(tmp_path / "weights.safetensors")
    for name in (FILE, "weights.safetensors"):
        twin = small_model(seed=2)
        assert differ(twin, model)
        twin.load_weights(str(tmp_path / name))
        assert_same_weights(twin, model)
    with pytest.raises(ValueError, match="weights only, which load_weights reads"):
        cnnrs.load_model(tmp_path / "weights.safetensors")


def test_weights_of_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    small_model().save_weights(path)

    def refused(model: Sequential, message: str) -> None:
        before = model.get_weights()
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
            model.load_weights(path)
        assert_same(model.get_weights(), before)

    refused(small_model(dtype="float64"), "dtype float64, found .* float32")
    wide = Sequential([Input((7, 6, 2)), Conv2D(5, 3), Flatten(), Dense(3)])
    refused(wide, r"conv2d/kernel of shape \(3, 3, 2, 5\).*found \(3, 3, 2, 4\)")
    other = Sequential([Input((7, 6, 2)), Conv2D(4, 3, name="other")])
    refused(other, r"a weight other/kernel \(3, 3, 2, 4\), found none")
    refused(Sequential([Input((7, 6, 2)), Conv2D(4, 3)]), "no weight dense/")
    with pytest.raises(ValueError, match="load_weights: expected a built model"):
        Sequential([Dense(2)]).load_weights(path)
    with pytest.raises(ValueError, match="save_weights: expected a built model"):
        Sequential([Dense(2)]).save_weights(path)


# What cannot be saved


def zeros(shape: Any, dtype: Any = None) -> Any:
    return np.zeros(shape)


class Mine(Dense):
    pass


class MyLoss(MeanSquaredError):
    pass


class MySGD(SGD):
    pass


def test_what_no_file_can_hold_is_refused_by_name(tmp_path: Path) -> None:
    def with_(layer: Layer | None = None, optimizer: Any = "sgd", loss: Any = "mse") -> Sequential:
        model = Sequential([Input((2,)), layer or Dense(2)])
        model.compile(optimizer, loss)
        return model

    for model, message in (
        (with_(Mine(2)), r"classes of cnnrs.layers, got one with test_saving.Mine"),
        (with_(loss=MyLoss()), r"classes of cnnrs.losses, got one with test_saving.MyLoss"),
        (with_(optimizer=MySGD()), r"cnnrs.optimizers, got one with test_saving.MySGD"),
        (with_(optimizer=SGD(zeros)), r"a number or a schedule of .*, got <function zeros"),
        (Sequential([Dense(2, bias_initializer=zeros)]), r"got bias_initializer=<function zeros"),
    ):
        with pytest.raises(ValueError, match=message):
            model.save(tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"filepath: .* ends in \.safetensors, got 'a\.h5'"):
        with_().save("a.h5")
    with pytest.raises(FileNotFoundError):
        with_().save(tmp_path / "missing" / FILE)


def test_a_model_may_be_loaded_without_what_trains_it(tmp_path: Path) -> None:
    model = compiled(optimizer="adam")
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = cnnrs.load_model(tmp_path / "model.safetensors", None, compile=False)
    assert (loaded.optimizer, loaded.loss) == (None, None)
    assert_same_weights(loaded, model)
    with pytest.raises(ValueError, match="fit: expected a compiled model"):
        loaded.fit(x, y, verbose=0)
    loaded.compile("adam", SPARSE)
    assert loaded._ready_network().steps() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"custom_objects": {"Mine": Dense}}, ValueError, "custom_objects: expected None, got {"),
        ({"compile": "no"}, TypeError, "compile: expected True or False, got 'no'"),
    ],
)
def test_what_loading_does_not_heed_is_refused(
    tmp_path: Path, arguments: Any, error: type[Exception], message: str
) -> None:
    compiled().save(tmp_path / "model.safetensors")
    with pytest.raises(error, match=message):
        cnnrs.load_model(tmp_path / "model.safetensors", **arguments)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_who_has_a_file_of_keras_is_told_the_way(tmp_path: Path, name: str) -> None:
    model = compiled()
    way = (
        r"; what Keras has saved comes over by model\.set_weights\(keras_model\.get_weights\(\)\)$"
    )
    with pytest.raises(ValueError, match=r"ends in \.safetensors, got .*" + way):
        model.save(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK of Keras")
    for read in (cnnrs.load_model, model.load_weights):
        with pytest.raises(ValueError, match=f"{name}: expected a safetensors file, .*{way}"):
            read(tmp_path / name)


@pytest.mark.parametrize("path", [None, b"model.safetensors", 3])
def test_what_is_no_path_is_refused(path: Any) -> None:
    model = compiled()
    calls = (model.save, model.save_weights, model.load_weights, cnnrs.load_model)
    for call in calls:
        with pytest.raises(TypeError, match=re.escape(f"filepath: expected a path, got {path!r}")):
            call(path)


def test_a_file_can_be_kept(tmp_path: Path) -> None:
    model, other = compiled(seed=1), compiled(seed=2)
    for name in ("save", "save_weights"):
        path = tmp_path / f"{name}.safetensors"
        getattr(model, name)(filepath=path, overwrite=False)
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match="no such file without overwrite"):
            getattr(other, name)(path, False)
        assert path.read_bytes() == before
        getattr(other, name)(path)
        model.load_weights(filepath=path)
        assert_same_weights(model, other)


def test_an_initializer_of_the_users_is_left_out_of_a_built_model(tmp_path: Path) -> None:
    model = Sequential([Input((2,)), Dense(2, kernel_initializer=zeros)])
    model.save(tmp_path / FILE)
    twin = cnnrs.load_model(tmp_path / FILE)
    assert_same_weights(twin, model)
    assert type(twin.layers[0].kernel_initializer).__name__ == "GlorotUniform"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled()
    model.save(tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    model.fit(*data(), verbose=0)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
