"""Models as ONNX files: onnxruntime predicts the same from them."""

import copy
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnrs.export
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
    RandomAffine,
    RandomElastic,
    RandomErasing,
    ReLU,
    Rescaling,
    Sequential,
    layers,
)
from cnnrs.layers import ACTIVATIONS, Layer
from model_under_test import assert_same, small_model
from nets_under_test import IMAGE, NETS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Array: TypeAlias = npt.NDArray[Any]


def drawn(model: Sequential, seed: int = 0) -> Sequential:
    """The model with random weights that leave numbers about as large as they were."""
    rng = np.random.default_rng(seed)
    names = [name for parts in model._network.weight_shapes() for name, *_ in parts]
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, array.shape)
            if name in ("gamma", "moving_variance")
            else rng.standard_normal(array.shape) / np.sqrt(np.prod(array.shape[:-1]))
            for name, array in zip(names, model.get_weights(), strict=True)
        ]
    )
    return model


def exported(model: Sequential, folder: Path, **settings: Any) -> Any:
    path = folder / "model.onnx"
    model.export(path, **settings)
    return onnx.load(path)


def run(proto: Any, x: Array) -> Array:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["output"], {"input": x})[0]


def operators(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def assert_same_predictions(model: Sequential, folder: Path, n: int = 3, seed: int = 0) -> None:
    x = np.random.default_rng(seed).standard_normal((n, *model.input_shape[1:]), np.float32)
    assert_close(run(exported(model, folder), x), model.predict(x))


def assert_close(got: Array, expected: Array) -> None:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    size = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * size)


# Predictions

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
SAFE = st.sampled_from([name for name in ACTIVATIONS if name != "exponential"])


@st.composite
def networks(draw: st.DrawFn) -> Sequential:
    """Up to six layers in any order that fits."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)))
    model = Sequential([Input(shape)], dtype=draw(st.sampled_from(["float32", "float64"])))
    for _ in range(draw(st.integers(1, 6))):
        height_and_width = model.output_shape[1:3] if model.layers else shape[:2]
        model.add(
            draw(image_layers(height_and_width) if len(height_and_width) == 2 else row_layers())
        )
    return drawn(model, draw(st.integers(0, 9)))


@st.composite
def image_layers(draw: st.DrawFn, shape: tuple[int, int]) -> Layer:
    kind = draw(st.sampled_from([Conv2D, MaxPooling2D, AveragePooling2D, None]))
    if kind is None:
        return draw(
            st.one_of(
                st.builds(Flatten),
                st.builds(GlobalAveragePooling2D, keepdims=st.booleans()),
                elementwise(),
            )
        )
    window, strides = draw(PAIRS), draw(PAIRS)
    padding = draw(st.sampled_from(["valid", "same"]))
    if padding == "valid":
        window = min(window[0], shape[0]), min(window[1], shape[1])
    if kind is Conv2D:
        filters, use_bias = draw(st.integers(1, 6)), draw(st.booleans())
        return Conv2D(filters, window, strides, padding, activation=draw(SAFE), use_bias=use_bias)
    return kind(window, strides, padding)


def row_layers() -> st.SearchStrategy[Layer]:
    dense = st.builds(Dense, st.integers(1, 6), activation=SAFE, use_bias=st.booleans())
    return st.one_of(dense, elementwise(), st.builds(Flatten))


def elementwise() -> st.SearchStrategy[Layer]:
    normalised = st.builds(
        BatchNormalization,
        center=st.booleans(),
        scale=st.booleans(),
        epsilon=st.sampled_from([1e-3, 1e-5]),
    )
    return st.one_of(
        normalised,
        st.builds(Activation, SAFE),
        st.builds(
            ReLU,
            max_value=st.sampled_from([None, 0.0, 0.7]),
            negative_slope=st.sampled_from([0.0, 0.3]),
        ),
        st.builds(Rescaling, st.sampled_from([1.0, -1.5]), st.sampled_from([0.0, 0.5])),
        st.builds(Dropout, st.just(0.5)),
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=networks(), n=st.integers(1, 5))
def test_random_networks_predict_the_same(tmp_path: Path, model: Sequential, n: int) -> None:
    assert_same_predictions(model, tmp_path, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_whole_networks_predict_the_same(tmp_path: Path, name: str, dtype: str) -> None:
    assert_same_predictions(drawn(Sequential(NETS[name](layers), dtype=dtype)), tmp_path)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 4, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    "layer",
    [
        *map(Activation, ACTIVATIONS),
        ReLU(0.5, 0.25),
        ReLU(6),
        BatchNormalization(),
        Rescaling(3.0, 2.0),
        Flatten(),
        Dropout(0.5),
    ],
    ids=lambda layer: getattr(layer, "activation", layer.name),
)
def test_layers_take_any_number_of_axes(
    tmp_path: Path, layer: Layer, shape: tuple[int, ...]
) -> None:
    assert_same_predictions(drawn(Sequential([Input(shape), copy.copy(layer)])), tmp_path)


def test_same_padding_puts_the_odd_row_below(tmp_path: Path) -> None:
    model = Sequential([Input((4, 4, 1)), Conv2D(1, 3, 2, "same", kernel_initializer="ones")])
    assert_same_predictions(model, tmp_path)
    (convolution,) = [n for n in exported(model, tmp_path).graph.node if n.op_type == "Conv"]
    (pads,) = [list(a.ints) for a in convolution.attribute if a.name == "pads"]
    assert pads == [0, 0, 1, 1]


def test_the_mean_leaves_padding_out(tmp_path: Path) -> None:
    model = Sequential([Input((3, 3, 1)), AveragePooling2D(2, padding="same")])
    ones = np.ones((1, 3, 3, 1), np.float32)
    assert (run(exported(model, tmp_path), ones) == 1).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_the_graph_takes_the_type_of_numbers_asked_for(tmp_path: Path, dtype: str) -> None:
    image, *rest = NETS["lenet"](layers)
    model = drawn(Sequential([image, Rescaling(1 / 255), *rest]))
    x = np.random.default_rng(0).integers(0, 256, (3, *IMAGE)).astype(dtype)
    assert_close(run(exported(model, tmp_path, input_dtype=dtype), x), model.predict(x))


def test_names_of_layers_do_not_meet_those_of_the_graph(tmp_path: Path) -> None:
    model = Sequential(
        [
            Input((5, 5, 2)),
            Conv2D(2, 2, activation="relu", name="input"),
            Conv2D(3, 2, name="output/Conv"),
            Conv2D(3, 2, name="output"),
        ]
    )
    assert_same_predictions(drawn(model), tmp_path)


# The graph


def test_dropout_is_gone_and_batch_normalisation_is_in_the_layer_before(tmp_path: Path) -> None:
    model = Sequential(
        [
            Input((6, 6, 2)),
            RandomAffine(0.1, 0.1),
            RandomElastic(),
            RandomErasing(),
            Conv2D(4, 3, use_bias=False),
            Dropout(0.5),
            BatchNormalization(),
            Activation("linear"),
            BatchNormalization(scale=False),
            Flatten(),
            Dense(3),
            BatchNormalization(center=False),
        ]
    )
    drawn(model)
    proto = exported(model, tmp_path)
    assert operators(proto) == ["Transpose", "Conv", "Flatten", "Gemm"]
    assert {weight.name for weight in proto.graph.initializer} == {
        "conv2d/kernel",
        "conv2d/bias",
        "dense/kernel",
        "dense/bias",
    }
    assert_same_predictions(model, tmp_path)


@pytest.mark.parametrize("between", [ReLU, Flatten, MaxPooling2D])
def test_batch_normalisation_behind_something_else_stays(tmp_path: Path, between: Any) -> None:
    model = Sequential(
        [Input((4, 4, 2)), Conv2D(3, 1), between(), BatchNormalization(), Flatten(), Dense(2)]
    )
    assert "BatchNormalization" in operators(exported(model, tmp_path))
    assert_same_predictions(drawn(model), tmp_path)


def test_an_activation_keeps_batch_normalisation_out_of_the_layer(tmp_path: Path) -> None:
    model = Sequential([Input((4,)), Dense(3, "tanh"), BatchNormalization()])
    assert operators(exported(model, tmp_path)) == ["Gemm", "Tanh", "BatchNormalization"]
    assert_same_predictions(drawn(model), tmp_path)


@pytest.mark.parametrize(
    ("behind", "transposes"),
    [
        ([Flatten(), Dense(3)], 1),
        ([Flatten(), Dropout(0.1), ReLU(), BatchNormalization(), Flatten(), Dense(3)], 1),
        ([Flatten(), Activation("softmax"), Dense(3), Dense(4)], 1),
        ([GlobalAveragePooling2D(), Dense(3)], 1),
        ([MaxPooling2D(), Flatten()], 2),
        ([Activation("softmax")], 2),
        ([], 2),
    ],
)
def test_images_are_turned_no_more_than_needed(
    tmp_path: Path, behind: list[Layer], transposes: int
) -> None:
    front = [Input((5, 4, 2)), Conv2D(3, 2), MaxPooling2D(1)]
    model = drawn(Sequential([*front, *map(copy.copy, behind)]))
    assert operators(exported(model, tmp_path)).count("Transpose") == transposes
    assert_same_predictions(model, tmp_path)


def test_the_file_says_what_it_takes_and_who_wrote_it(tmp_path: Path) -> None:
    model = small_model()
    proto = exported(model, tmp_path)
    assert (proto.producer_name, proto.producer_version) == ("cnnrs", cnnrs.__version__)
    assert (proto.ir_version, [(it.domain, it.version) for it in proto.opset_import]) == (
        8,
        [("", 17)],
    )
    assert (proto.domain, proto.doc_string, proto.graph.doc_string) == ("", "", "")
    assert not proto.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    ((x,), (y,)) = proto.graph.input, proto.graph.output
    assert (x.name, y.name) == ("input", "output")
    for value, shape in ((x, (7, 6, 2)), (y, (3,))):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert tuple(dim.dim_value for dim in rest) == shape


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_is(tmp_path: Path) -> None:
    model = small_model()
    before = model.get_weights()
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for file in files:
        model.export(str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert_same(model.get_weights(), before)


# What is refused


def test_a_refused_export_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")

    class Unknown(Layer):
        _kind = "flatten"

    def refuse(*_: Any, **__: Any) -> None:
        raise onnx.checker.ValidationError("no good")

    with pytest.raises(ValueError, match="export: expected a built model, got sequential"):
        Sequential([Dense(3)]).export(path)
    with pytest.raises(TypeError, match="flatten: expected a layer that ONNX export knows, got <U"):
        Sequential([Input((3,)), Unknown()]).export(path)
    with pytest.raises(ValueError, match=r"input_dtype: expected 'float32', .*, got 'int8'"):
        small_model().export(path, input_dtype="int8")
    with pytest.raises(ValueError, match="format: expected 'onnx', got 'tf_saved_model'"):
        small_model().export(path, format="tf_saved_model")
    with pytest.raises(TypeError, match=r"filepath: expected a path, got b'model\.onnx'"):
        small_model().export(b"model.onnx")  # type: ignore[arg-type]
    for name in ("model", "model.tflite", "model.onnx.gz", "1"):
        with pytest.raises(ValueError, match=rf"{name}: expected a name that ends in \.onnx"):
            small_model().export(tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(onnx.checker, "check_model", refuse)
        with pytest.raises(onnx.checker.ValidationError):
            small_model().export(path)
    with monkeypatch.context() as patch:
        patch.setattr(cnnrs.export, "LARGEST_FILE", 500)
        with pytest.raises(ValueError, match=r"weights of at most 500 bytes, .*, got 508 in"):
            small_model().export(path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ModuleNotFoundError, match=r'pip install "cnnrs\[onnx\]"'):
            small_model().export(path)
    with pytest.raises(FileNotFoundError):
        small_model().export(tmp_path / "nowhere" / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "old"
