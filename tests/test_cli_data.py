"""What `cnnrs train` learns from: images in files, by name or by folder, some or all of them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from cli_under_test import assert_refused, cnnrs_command, parse, patched
from cnnrs import Dense, Flatten, Input, Sequential


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_folder(folder: Path, height: int = 4, width: int = 5, label: int = 9) -> Path:
    """Seven training and three test images of noise, one of them with that label."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (count, height, width), np.uint8)
        labels = np.full(count, label, np.uint8)
        labels[1:] = rng.integers(0, 10, count - 1)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("{}/own", "7 training and 3 test images, from {}"),
        ("fashion_mnist", "Fashion-MNIST, 7 training and 3 test images, from {}"),
        ("mnist", "MNIST, 7 training and 3 test images, from {}"),
    ],
)
def test_trains_on_idx_files(name: str, origin: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / Path(name).name)
    data = name.format(tmp_path)
    ran = cnnrs_command("train", "--data", data, "--epochs", "1", CNNRS_DATA=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    head, (epoch,) = parse(ran.stdout)
    assert head[0] == f"Data: {origin.format(folder)}"
    assert [step for step, _, _ in epoch.steps] == [7]


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (3, 3), (7, 7), (1000, 7)])
def test_limit_is_of_the_training_images(limit: int, steps: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own")
    ran = cnnrs_command("train", "--data", folder, "--limit", str(limit), "--epochs", "1")
    head, (epoch,) = parse(ran.stdout)
    assert epoch.images == epoch.steps[-1][0] == steps
    assert ("of which the first" in "\n".join(head)) == (limit < 7)


def test_without_a_network_it_trains_on_the_sample_and_says_so(tmp_path: Path) -> None:
    command = patched("""
import os, pathlib, pooch
pooch.os_cache = lambda name: pathlib.Path(os.environ["CACHE"], name)
""")
    closed = "http://127.0.0.1:9"  # The port of the discard protocol, which nobody serves.
    env = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), closed)
    env |= {"no_proxy": "", "NO_PROXY": "", "CACHE": str(tmp_path)}
    ran = cnnrs_command("train", "--limit", "500", "--epochs", "1", command=command, **env)
    assert ran.returncode == 0
    head, (epoch,) = parse(ran.stdout)
    assert head[0].startswith(
        "Data: the bundled sample of MNIST: the first 5,000 training and 1,000 test images "
        f"(no full MNIST here: {tmp_path}"
    )
    assert len(head) == 3
    assert epoch.images == 500
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["no-such-folder", "~no-such-user/mnist", "cifar10"])
def test_missing_data_is_named(name: str) -> None:
    assert_refused(cnnrs_command("train", "--data", name), name, "expected mnist, mnist-sample,")


def test_unfit_data_is_refused(tmp_path: Path) -> None:
    label = write_folder(tmp_path / "label", label=10)
    ran = cnnrs_command("train", "--data", label)
    assert_refused(ran, f"{label}", "expected labels from 0 to 9, found 10")
    small = write_folder(tmp_path / "small", 3, 3)
    ran = cnnrs_command("train", "--data", small)
    assert_refused(ran, "images of 3x3 pixels do not fit", "at least 2x2 pixels")
    (label / "train-labels-idx1-ubyte").unlink()
    assert_refused(cnnrs_command("train", "--data", label), "train-labels-idx1-ubyte")


def test_data_without_test_images_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own")
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 4, 5), np.uint8)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))
    model = Sequential([Input((4, 5)), Flatten(), Dense(10, "softmax")])
    model.save(tmp_path / "model.safetensors")
    for command in (
        ["train", "--out", tmp_path / "out"],
        ["evaluate", tmp_path / "model.safetensors"],
        ["bench", "accuracy"],
    ):
        refused = cnnrs_command(*command, "--data", folder)
        complaint = f"0 test images, from {folder}: expected at least one test image, got none"
        assert_refused(refused, complaint)
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_name_the_output_cannot_spell_is_trained_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "数字")
    ran = cnnrs_command(
        "train", "--data", folder, "--epochs", "1", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(parse(ran.stdout)[1]) == 1
