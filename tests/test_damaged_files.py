"""Model files that are damaged, or say what cannot be: each is refused by name."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import cnnrs
from cnnrs import (
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    Input,
    MaxPooling2D,
    Rescaling,
    Sequential,
    _tensor_file,
)
from cnnrs.utils import set_random_seed
from model_under_test import (
    SPARSE,
    assert_same_weights,
    description,
    small_model,
)

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sequential, bytes]:
    """A trained model and its file."""
    set_random_seed(0)
    model = Sequential(
        [
            Input((6, 6, 2)),
            Rescaling(0.5),
            Conv2D(4, 3, use_bias=False),
            BatchNormalization(),
            MaxPooling2D(2),
            Flatten(),
            Dense(3, "softmax"),
        ]
    )
    model.compile("adam", SPARSE)
    model.fit(np.ones((4, 6, 6, 2)), np.zeros(4, int), verbose=0)
    path = tmp_path_factory.mktemp("example") / FILE
    model.save(path)
    return model, path.read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's header and its tensors' bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, tensors: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def signed(tensors: dict[str, Any], about: Any, **metadata: str) -> bytes:
    """A file whose checksum is right."""
    head = {"format": "1", "cnnrs": "0", "about": json.dumps(about), **metadata}
    return save(tensors, head | {"sha256": _tensor_file.digest(tensors, head)})


def loaded(path: Path, content: bytes) -> tuple[dict[str, Any], Any]:
    path.write_bytes(content)
    return _tensor_file.read(path)


def edited_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        header, tensors = parts(content)
        return joined(change(header) or header, tensors)

    return edit


def doubled(header: dict[str, Any]) -> str:
    return json.dumps(header)[:-1] + ', "dense/bias": ' + json.dumps(header["dense/bias"]) + "}"


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda file: b"", "something else or one cut off"),
    "cut in the header": (lambda file: file[:100], "something else or one cut off"),
    "cut at the end": (lambda file: file[:-1], "damaged"),
    "longer": (lambda file: file + b"\0", "damaged"),
    "huge header": (lambda file: b"\xff" * 8 + file[8:], "something else or one cut off"),
    "a weight changed": (lambda file: file[:-1] + bytes([file[-1] ^ 1]), "fits its checksum"),
    "no safetensors": (lambda file: joined("[1, 2]", b""), "written by cnnrs"),
    "another's": (lambda file: save({"a": np.ones(3)}), "written by cnnrs"),
    "no JSON": (lambda file: joined("{", b""), "damaged"),
    "no text": (lambda file: struct.pack("<Q", 2) + b"\xff\xff", "written by cnnrs"),
    "deep": (lambda file: joined("[" * 10**5, b""), "found too many"),
    "twice the same": (edited_header(doubled), "'dense/bias' twice"),
    "newer": (
        edited_header(lambda header: header["__metadata__"].update(format="2", cnnrs="9.1")),
        r"expected format 1, which is that of cnnrs .*, found '2', written by '9\.1'",
    ),
    "odd format": (
        edited_header(lambda header: header["__metadata__"].update(format="x")),
        "expected format 1, .* found 'x', written by",
    ),
    "a name changed": (
        edited_header(lambda header: header.update({"dense/odd": header.pop("dense/bias")})),
        "fits its checksum",
    ),
    "a huge size": (
        edited_header(lambda header: header["dense/bias"].update(shape=[2**62])),
        "damaged",
    ),
    "a type changed": (
        edited_header(lambda header: header["dense/bias"].update(dtype="I32")),
        "fits its checksum",
    ),
    "a type that NumPy lacks": (
        edited_header(
            lambda header: header["dense/kernel"].update(
                dtype="BF16", shape=[2 * header["dense/kernel"]["shape"][0], 3]
            )
        ),
        "",
    ),
    "a setting changed": (
        edited_header(
            lambda header: header["__metadata__"].update(
                about=header["__metadata__"]["about"].replace('"units": 3', '"units": 4')
            )
        ),
        "fits its checksum",
    ),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_refused(
    how: str, tmp_path: Path, example: tuple[Sequential, bytes]
) -> None:
    damage, message = DAMAGED[how]
    path = tmp_path / FILE
    path.write_bytes(damage(example[1]))
    for load in (cnnrs.load_model, small_model().load_weights):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}") as error:
            load(path)
        assert "\n" not in str(error.value)


def test_a_missing_file_and_other_things(tmp_path: Path) -> None:
    for load in (cnnrs.load_model, small_model().load_weights):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / FILE)
        with pytest.raises(OSError, match=r"directory|denied"):
            load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="no devices among the files")
def test_a_device_is_no_file() -> None:
    for load in (cnnrs.load_model, small_model().load_weights):
        with pytest.raises(ValueError, match=r"^/dev/zero: expected a regular file$"):
            load("/dev/zero")


def at(about: Any, *keys: Any) -> Callable[[Any], Any]:
    """Sets a part of a description."""

    def put(value: Any) -> Any:
        part = about
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return put


def layer(n: int, key: str) -> tuple[Any, ...]:
    return "model", "layers", n, "config", key


OPTIMIZER = ("model", "compiled", "optimizer")

CLAIMS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("model", "input_shape"), [10**4, 10**4, 2], "numbers for dense"),
    (("model", "input_shape"), [6, 6, 10**9], "numbers for conv2d"),
    (("model", "input_shape"), [6, 6, float("nan")], "integer"),
    (("model", "input_shape"), [10**9, 10**9, 2], "too large"),
    (("model", "input_shape"), [36, 2], "images"),
    (("model", "input_shape"), [6, 6, -2], "at least 1"),
    (("model", "input_shape"), [10**30, 6, 2], ""),
    (
        layer(1, "filters"),
        10**12,
        "of 18000000000000 numbers for conv2d, found at most 72",
    ),
    (layer(1, "filters"), float("nan"), "filters: expected an integer|description"),
    (layer(1, "filters"), "4", "description"),
    (layer(1, "kernel_size"), [10**6, 10**6], "numbers for conv2d"),
    (layer(1, "kernel_size"), [1, 1], "conv2d/kernel of shape|at most|a weight"),
    (layer(5, "units"), 10**12, "numbers for dense"),
    (layer(5, "units"), 2, "dense/kernel of shape"),
    (layer(5, "use_bias"), False, "no weight dense/bias"),
    (layer(5, "activation"), "magic", "activation: expected"),
    (layer(5, "odd"), 1, "description"),
    (layer(5, "name"), 5, "description"),
    (layer(5, "kernel_initializer"), {"class_name": "os.system"}, "known class_name"),
    (("model", "layers", 0, "class_name"), "Layer", "expected one of"),
    (("model", "layers", 0, "class_name"), "Sequential", "expected one of"),
    (("model", "layers", 0, "class_name"), ["Dense"], "description"),
    (("model", "layers"), [], "no tensors"),
    (("model", "layers"), 5, "description"),
    (("model", "dtype"), "float64", "dtype float64, found"),
    (("model", "dtype"), "object", "dtype"),
    (("model", "name"), None, "name"),
    (("model", "random_state"), {"bit_generator": "MT19937"}, ""),
    (("model", "random_state"), None, "description"),
    (("model", "compiled", "steps_per_execution"), 0, "at least 1"),
    (("model", "compiled", "metrics"), ["magic"], "metrics"),
    (("model", "compiled"), None, "not compiled|optimizer|description"),
    ((*OPTIMIZER, "class_name"), "Optimizer", "expected one of SGD"),
    ((*OPTIMIZER, "class_name"), "SGD", "description"),
    ((*OPTIMIZER, "config", "learning_rate"), -1, "learning_rate"),
    ((*OPTIMIZER, "config", "learning_rate"), None, "learning_rate"),
    ((*OPTIMIZER, "config", "beta_1"), float("nan"), "beta_1"),
    (("model", "compiled", "loss", "class_name"), "Loss", "expected one of"),
]


@pytest.mark.parametrize(("keys", "value", "message"), CLAIMS)
def test_a_description_that_cannot_be_is_refused(
    keys: tuple[Any, ...], value: Any, message: str, tmp_path: Path, example: Any
) -> None:
    path = tmp_path / FILE
    tensors, about = loaded(path, example[1])
    at(about, *keys)(value)
    path.write_bytes(signed(tensors, about))
    before = peak()
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*({message})"):
        cnnrs.load_model(path)
    assert peak() - before < BOUND


TENSORS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda all_: all_.pop("dense/bias"), "a weight dense/bias"),
    (lambda all_: all_.update({"odd/bias": np.ones(2)}), "no weight odd/bias"),
    (lambda all_: all_.update({"odd": np.ones(2)}), "expected tensors optimizer.steps"),
    (lambda all_: all_.pop("optimizer.slot_2"), "3 arrays, got 2"),
    (lambda all_: all_.pop("optimizer.steps"), "expected tensors optimizer.steps"),
    (lambda all_: all_.update({"dense/bias": np.ones(3)}), "dtype float32, found"),
    (lambda all_: all_.update({"dense/bias": np.ones((3, 1), np.float32)}), "of shape"),
    (
        lambda all_: all_.update({"optimizer.steps": np.array([-1])}),
        "from 0 to [0-9]+ steps, got -1",
    ),
    (lambda all_: all_.update({"optimizer.steps": np.array([1.0])}), "description|int64"),
    (lambda all_: all_.update({"optimizer.slot_1": np.ones(3, np.float32)}), "state"),
]


@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path, example: Any
) -> None:
    path = tmp_path / FILE
    tensors, about = loaded(path, example[1])
    change(tensors)
    path.write_bytes(signed(tensors, about))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*({message})"):
        cnnrs.load_model(path)


BOUND = 100e6
"""Bytes that reading a file of a few kilobytes may take at most, whatever it claims."""


def peak() -> float:
    """The most memory that this process has had so far, in bytes; 0 where nobody counts it."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0.0
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


# Random damage


def loaded_within_bounds(path: Path) -> Sequential | None:
    """The model, or None if the file is refused as it should be."""
    before = peak()
    got, refusal = None, ""
    try:
        got = cnnrs.load_model(path)
    except ValueError as error:
        refusal = str(error)
    assert got is not None or refusal.startswith(f"{path}: ")
    assert peak() - before < BOUND
    return got


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 10**6, 10**9, 2**31, 2**63, 2**64, 10**400]),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 10**12), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def any_part(draw: st.DrawFn, value: Any) -> tuple[Any, ...]:
    """The keys of a random part of a description."""
    keys: list[Any] = []
    while isinstance(value, dict | list) and value:
        inside = sorted(value) if isinstance(value, dict) else range(len(value))
        keys.append(draw(st.sampled_from(inside)))
        value = value[keys[-1]]
        if len(keys) > 1 and draw(st.integers(0, 3)) == 0:
            break
    return tuple(keys)


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """A file whose bytes are changed, without a thought for the checksum."""
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "cut", "insert", "length", "number"]))
        # As often in the header as in the tensors, which are longer.
        end = draw(st.sampled_from([8, 8 + length, len(content)]))
        place = draw(st.integers(0, max(0, min(end, len(content)) - 1)))
        if kind == "flip" and content:
            flipped = content[place] ^ draw(st.integers(1, 255))
            content = content[:place] + bytes([flipped]) + content[place + 1 :]
        elif kind == "cut":
            content = content[:place] + content[place + draw(st.integers(1, 2**20)) :]
        elif kind == "insert":
            content = content[:place] + draw(st.binary(max_size=9)) + content[place:]
        elif kind == "length":
            content = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + content[8:]
        elif numbers := list(re.finditer(rb"\d+", content[: 8 + length])):
            found = draw(st.sampled_from(numbers))
            new = str(draw(st.integers(0, 2**70))).encode()
            text = content[8 : found.start()] + new + content[found.end() : 8 + length]
            content = len(text).to_bytes(8, "little") + text + content[8 + length :]
    return content


SLOW = list(HealthCheck)


@given(st.data())
@settings(max_examples=1000, suppress_health_check=SLOW)
def test_random_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    example: tuple[Sequential, bytes],
    drawn: st.DataObject,
) -> None:
    model, content = example
    path = tmp_path_factory.getbasetemp() / FILE
    path.write_bytes(drawn.draw(damage(content)))
    got = loaded_within_bounds(path)
    if got is not None:
        assert description(got) == description(model)
        assert_same_weights(got, model)


@given(st.data())
@settings(max_examples=500, suppress_health_check=SLOW)
def test_random_descriptions_are_refused_or_made(
    tmp_path_factory: pytest.TempPathFactory,
    example: tuple[Sequential, bytes],
    drawn: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / FILE
    tensors, about = loaded(path, example[1])
    for _ in range(drawn.draw(st.integers(1, 2))):
        keys = any_part(drawn.draw, about)
        if keys:
            at(about, *keys)(drawn.draw(NASTY))
    path.write_bytes(signed(tensors, about))
    got = loaded_within_bounds(path)
    if got is not None and got.built:
        assert got.count_params() == example[0].count_params()
