"""`Sequential` without its training: building, weights, predictions, the summary."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnrs
from cnnrs import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    Input,
    MaxPooling2D,
    Sequential,
    Softmax,
    models,
)
from cnnrs.utils import set_random_seed
from model_under_test import (
    Plain,
    assert_same,
    assert_same_weights,
    compiled,
    data,
    differ,
    small_model,
)

# Building


def test_models_are_built_when_the_inputs_shape_is_known() -> None:
    for model in (
        Sequential([Input((4,)), Dense(3), Dense(2)]),
        Sequential([Dense(3, input_shape=(4,)), Dense(2)]),
        Sequential([Dense(3, input_shape=[4]), Dense(2, input_shape=(99,))]),
        Sequential(layer for layer in (Input((4,)), Dense(3), Dense(2))),
    ):
        assert model.built
        assert (model.input_shape, model.output_shape) == ((None, 4), (None, 2))
        assert [type(layer) for layer in model.layers] == [Dense, Dense]
        model.build()
        model.build((None, 4))
        model.build((32, 4))


def test_a_model_of_unknown_input_is_built_by_the_first_images() -> None:
    def unbuilt() -> Sequential:
        set_random_seed(3)
        return Sequential([Conv2D(2, 3), Flatten(), Dense(3, "softmax")])

    model = unbuilt()
    assert not model.built
    for name in ("input_shape", "output_shape"):
        assert not hasattr(model, name)
    for method in (model.get_weights, model.count_params, lambda: model.set_weights([])):
        with pytest.raises(ValueError, match="expected a built model, got sequential"):
            method()
    with pytest.raises(ValueError, match=r"input_shape: .*got None"):
        model.build()
    x, y = data()
    with pytest.raises(ValueError, match=r"^conv2d: "):
        model.predict(x[:, :2])
    assert not model.built, "a failed build leaves no trace"
    by_hand = unbuilt()
    by_hand.build((None, 7, 6, 2))
    model.predict(x)
    assert_same_weights(model, by_hand)
    for method in ("fit", "evaluate"):
        model = unbuilt()
        model.compile("sgd", "sparse_categorical_crossentropy")
        for refused in (np.zeros(19), np.full(20, 9)):
            with pytest.raises(ValueError, match="y: expected"):
                getattr(model, method)(x[..., :1], refused, verbose=0)
            assert not model.built, "refused labels leave no trace either"
        getattr(model, method)(x, y, verbose=0)
        assert model.input_shape == (None, 7, 6, 2)
        if method == "evaluate":
            assert_same_weights(model, by_hand)


def test_the_inputs_shape_cannot_change() -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"\(None, 7, 6, 2\).*got \(None, 8, 6, 2\)"):
        model.build((None, 8, 6, 2))
    with pytest.raises(ValueError, match="input_layer: expected one Input"):
        model.add(Input((7, 6, 2)))
    with pytest.raises(ValueError, match=r"dense: expected input_shape=\(4,\).*got \(5,\)"):
        Sequential([Input((4,)), Dense(1, input_shape=(5,))])
    with pytest.raises(ValueError, match="expected one Input"):
        Sequential([Input((4,)), Input((4,))])


def test_layers_are_added_one_by_one_and_keep_their_weights() -> None:
    set_random_seed(1)
    whole = Sequential([Input((5, 5, 1)), Conv2D(2, 3), Flatten(), Dense(4)])
    set_random_seed(1)
    model = Sequential()
    assert not model.built
    for layer in (Input((5, 5, 1)), Conv2D(2, 3), Flatten(), Dense(4)):
        model.add(layer)
    assert_same_weights(model, whole)
    model.add(Dense(3))
    assert model.output_shape == (None, 3)
    assert_same(model.get_weights()[:4], whole.get_weights())
    assert model.pop().name == "dense_1"
    assert_same_weights(model, whole)


def test_a_popped_layer_is_free_and_begins_anew() -> None:
    model = Sequential([Input((5,)), Dense(4)])
    before = model.get_weights()
    layer = model.pop()
    assert not model.built
    model.add(layer)
    assert model.output_shape == (None, 4)
    assert not np.array_equal(model.get_weights()[0], before[0])
    with pytest.raises(IndexError, match=r"pop: .* sequential with none"):
        Sequential().pop()


def test_what_does_not_fit_is_not_added() -> None:
    model = small_model()
    before, layers = model.get_weights(), model.layers
    unfit = Conv2D(1, 3)
    for layer, error, message in [
        (unfit, ValueError, "^conv2d_1: "),
        (model.layers[0], ValueError, "conv2d: expected a layer of no model, got one of"),
        (3, TypeError, "expected objects of cnnrs.layers, got 3"),
        (Dense, TypeError, "expected objects of cnnrs.layers, got <class"),
        (Softmax(4, 3), TypeError, r"got <.*Softmax.*>; Dense\(nodes, activation=.softmax.\) is"),
    ]:
        with pytest.raises(error, match=message):
            model.add(layer)
    assert model.layers == layers
    assert_same(model.get_weights(), before)
    Sequential([Input((3, 3, 1)), unfit])
    assert unfit.name == "conv2d"


def test_a_layer_belongs_to_one_model() -> None:
    layer = Dense(2)
    with pytest.raises(ValueError, match="dense: expected a layer of no model"):
        Sequential([Input((2,)), layer, layer])
    first = Sequential([Input((2,)), layer], name="first")
    with pytest.raises(ValueError, match=r"dense: .* of first"):
        Sequential([Input((2,)), layer])
    assert first.layers == [layer]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sequential([Input((2,)), "dense"]), TypeError, "layers: .*got 'dense'"),
        (lambda: Sequential(dtype="float16"), ValueError, "dtype: .*'float64', got 'float16'"),
        (lambda: Sequential(dtype=None), ValueError, "dtype: .*got 'None'"),
        (lambda: Sequential(dtype="single tone"), ValueError, "dtype: .*got 'single tone'"),
        (lambda: Sequential().build((None, 3)), ValueError, "sequential: .* got one with none"),
        (lambda: Sequential([Dense(1)]).build((None, None)), ValueError, "input_shape: .*known"),
        (lambda: Sequential([Dense(1)]).build((None,)), ValueError, r"input_shape: .*got \(\)"),
        (lambda: Sequential([Dense(1)]).predict(np.zeros(3)), ValueError, r"x: .*got shape \(3,\)"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_keras_models_is_a_module_too() -> None:
    assert models.Sequential is Sequential
    assert models.load_model is cnnrs.load_model
    assert repr(small_model()) == "<Sequential name=sequential, built=True>"
    assert Sequential(dtype=np.float64).dtype == "float64"


# Weights


@given(seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
def test_weights_make_the_round_trip(seed: int, dtype: str) -> None:
    source, target = small_model(seed=seed, dtype=dtype), small_model(seed=seed + 1, dtype=dtype)
    assert differ(source, target)
    target.set_weights(source.get_weights())
    assert_same_weights(target, source)
    x, _ = data(5, seed)
    np.testing.assert_array_equal(target.predict(x), source.predict(x))


def test_weights_are_copies_of_the_models_dtype() -> None:
    model = small_model()
    weights = model.get_weights()
    assert [(array.shape, array.dtype) for array in weights] == [
        (shape, np.float32) for shape in [(3, 3, 2, 4), (4,), (16, 3), (3,)]
    ]
    given_ = [np.asfortranarray(array.astype(np.float64)) for array in weights]
    weights[0][...] = 7
    assert not (model.get_weights()[0] == 7).any()
    model.set_weights(given_)
    given_[0][...] = 7
    assert not (model.get_weights()[0] == 7).any()
    model.set_weights([array.tolist() for array in given_])
    assert (model.get_weights()[0] == 7).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda _: None, TypeError, "weights: expected a list of 4 arrays, got None"),
        (lambda w: w[:3], ValueError, "weights: expected 4 arrays, got 3"),
        (lambda w: [*w, w[0]], ValueError, "weights: expected 4 arrays, got 5"),
        (lambda w: [w[0], w[1], w[2].T, w[3]], ValueError, r"dense.*\(16, 3\).*\(3, 16\)"),
        (lambda w: [w[0], w[1], w[2], w[3] + 1j], TypeError, r"weights\[3\]: .*complex64"),
        (lambda w: ["x", *w[1:]], TypeError, r"weights\[0\]: expected real numbers"),
    ],
)
def test_unfit_weights_are_refused(change: Any, error: type[Exception], message: str) -> None:
    model = small_model()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.set_weights(change(model.get_weights()))
    assert_same(model.get_weights(), before)


# Predictions


def test_predictions_are_the_formulas() -> None:
    model = small_model(dtype="float64")
    x, _ = data()
    expected = Plain(model.get_weights()).predict(x)
    got = model.predict(x)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    single = small_model()
    assert single.predict(x).dtype == np.float32
    np.testing.assert_allclose(single.predict(x), expected, rtol=1e-4)
    np.testing.assert_array_equal(single.predict_classes(x), expected.argmax(1))
    assert single.predict_classes(x).dtype == np.int64


@given(
    dtype=st.sampled_from(
        [
            "uint8",
            "int8",
            "uint16",
            "int32",
            "int64",
            "bool",
            "float16",
            "float32",
            "float64",
            ">f4",
        ]
    ),
    layout=st.sampled_from(["C", "F", "strided", "reversed", "read-only", "unaligned"]),
)
def test_any_real_dtype_and_layout_gives_the_same(dtype: str, layout: str) -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 7, 6, 2)).astype(dtype)
    expected = small_model().predict(x.astype(np.float32))
    if layout == "F":
        x = np.asfortranarray(x)
    elif layout == "strided":
        x = np.repeat(x, 2, axis=2)[:, :, ::2]
    elif layout == "reversed":
        x = np.ascontiguousarray(x[::-1])[::-1]
    elif layout == "read-only":
        x.flags.writeable = False
    elif layout == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        raw[...] = x
        x = raw
    copied = x.copy()
    np.testing.assert_array_equal(small_model().predict(x), expected)
    np.testing.assert_array_equal(x, copied)


def test_bytes_are_not_scaled() -> None:
    model = Sequential([Input((2,)), Activation("linear")])
    out = model.predict(np.array([[0, 255]], np.uint8))
    np.testing.assert_array_equal(out, [[0, 255]])


def test_a_last_axis_of_one_may_be_missing_or_too_much() -> None:
    image = Sequential([Input((4, 4, 1)), Conv2D(2, 3), Flatten()])
    x = np.random.default_rng(0).random((3, 4, 4, 1))
    np.testing.assert_array_equal(image.predict(x[..., 0]), image.predict(x))
    vector = Sequential([Input((4,)), Dense(2)])
    v = x[:, 0]
    np.testing.assert_array_equal(vector.predict(v), vector.predict(v[..., 0]))
    number = Sequential([Input((1,)), Dense(2)])
    np.testing.assert_array_equal(number.predict([1.0, 2.0]), number.predict([[1.0], [2.0]]))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            np.zeros((3, 7, 6, 3)),
            ValueError,
            r"x: expected shape \(n, 7, 6, 2\), got \(3, 7, 6, 3\)",
        ),
        (np.zeros((7, 6, 2)), ValueError, r"x: expected shape \(n, 7, 6, 2\), got \(7, 6, 2\)"),
        (np.zeros((3, 7, 6, 2, 1, 1)), ValueError, r"x: expected shape \(n, 7, 6, 2\)"),
        (1.0, ValueError, "x: expected an array with a batch axis, got the number 1.0"),
        (np.zeros((3, 7, 6, 2), complex), TypeError, "x: expected real numbers, got dtype complex"),
        (np.zeros((3, 7, 6, 2), object), TypeError, "x: expected real numbers, got dtype object"),
        (np.full((3, 7, 6, 2), "a"), TypeError, "x: expected real numbers, got dtype <U1"),
        (
            np.zeros((3, 7, 6, 2), "M8[s]"),
            TypeError,
            "x: expected real numbers, got dtype datetime",
        ),
        (None, TypeError, "x: expected real numbers, got dtype object"),
    ],
)
def test_unfit_images_are_refused(x: Any, error: type[Exception], message: str) -> None:
    model = compiled()
    for use in (model.predict, model.predict_classes):
        with pytest.raises(error, match=message):
            use(x)
    for train in (model.fit, model.evaluate):
        with pytest.raises(error, match=message):
            train(x, np.zeros(3))


def test_no_images_have_no_predictions() -> None:
    model = small_model()
    assert model.predict(np.zeros((0, 7, 6, 2))).shape == (0, 3)
    assert model.predict_classes(np.zeros((0, 7, 6, 2))).shape == (0,)


def test_a_single_output_is_a_yes_or_no() -> None:
    model = Sequential([Input((1,)), Activation("sigmoid")])
    assert model.predict_classes([-1.0, 0.0, 2.0]).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size: expected an integer, got 1.5"),
        ({"verbose": 3}, ValueError, "verbose: expected 'auto', 0, 1 or 2, got 3"),
        ({"verbose": np.ones(2)}, ValueError, "verbose: expected 'auto', 0, 1 or 2, got array"),
        ({"verbose": "loud"}, ValueError, "verbose: .*got 'loud'"),
    ],
)
def test_arguments_of_all_methods_are_checked(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = compiled()
    x, y = data()
    for use in (
        lambda: model.predict(x, **settings),
        lambda: model.predict_classes(x, **settings),
        lambda: model.evaluate(x, y, **settings),
        lambda: model.fit(x, y, **settings),
    ):
        with pytest.raises(error, match=message):
            use()
    for batch_size in (None, 1, 1000):
        assert model.predict(x, batch_size, 1).shape == (20, 3)


# The summary


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    model = Sequential(
        [
            Input((28, 28, 1)),
            Conv2D(8, 3),
            BatchNormalization(),
            MaxPooling2D(2),
            Flatten(),
            Dense(100),
        ],
        name="digits",
    )
    assert model.summary() is None
    shown = capsys.readouterr().out
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert capsys.readouterr().out == ""
    assert "\n".join(lines) + "\n" == shown
    assert shown.isascii()
    assert len({len(line) for line in lines if line[0] in "+|"}) == 1
    assert [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[0] == "|"
    ] == [
        ["Layer (type)", "Output Shape", "Param #"],
        ["conv2d (Conv2D)", "(None, 26, 26, 8)", "80"],
        ["batch_normalization (BatchNormalization)", "(None, 26, 26, 8)", "32"],
        ["max_pooling2d (MaxPooling2D)", "(None, 13, 13, 8)", "0"],
        ["flatten (Flatten)", "(None, 1352)", "0"],
        ["dense (Dense)", "(None, 100)", "135,300"],
    ]
    assert lines[0] == 'Model: "digits"'
    assert lines[-3:] == [
        " Total params: 135,412 (528.95 KB)",
        " Trainable params: 135,396 (528.89 KB)",
        " Non-trainable params: 16 (64.00 B)",
    ]


def test_summary_of_what_is_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    Sequential([Dense(3)], dtype="float64").summary()
    assert "| dense (Dense) | ?            | 0 (unbuilt) |" in capsys.readouterr().out
    Sequential().summary()
    assert " Total params: 0 (0.00 B)" in capsys.readouterr().out


def test_memory_follows_the_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    Sequential([Input((512,)), Dense(1024, use_bias=False)], dtype="float64").summary()
    assert " Total params: 524,288 (4.00 MB)" in capsys.readouterr().out
