"""A data set of own pictures, from a folder that has a folder for each class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnrs.datasets import DatasetError, image_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of b, one of a and one of c, and files that are none of them."""
    for name, shade in (("b/2.png", 20), ("b/deep/1.JPG", 40), ("a/x.jpeg", 60), ("c/y.png", 80)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (shade, shade, shade)).save(path)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "._x.png").write_text("what some systems leave behind")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.png").write_text("of no class")
    return tmp_path


def test_classes_are_subfolders_in_the_order_of_their_names(folder: Path) -> None:
    x, y, names = image_folder(folder, (4, 6), "grayscale")
    assert (x.shape, x.dtype) == ((4, 4, 6, 1), np.uint8)
    np.testing.assert_allclose(x[:, 2, 3, 0].astype(int), [60, 20, 40, 80], atol=2)
    assert (y.tolist(), y.dtype) == ([0, 1, 1, 2], np.int64)
    assert names == ["a", "b", "c"]


def test_defaults_are_kerass(folder: Path) -> None:
    x, _, _ = image_folder(str(folder))
    assert x.shape == (4, 256, 256, 3)
    assert image_folder(folder, 8)[0].shape == (4, 8, 8, 3)


def test_class_names_order_the_numbers(folder: Path) -> None:
    x, y, names = image_folder(folder, 4, "grayscale", class_names=["c", "a", "b"])
    np.testing.assert_allclose(x[:, 2, 3, 0].astype(int), [80, 60, 20, 40], atol=2)
    assert (y.tolist(), names) == ([0, 1, 2, 2], ["c", "a", "b"])


def test_folders_that_are_no_data_set(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"none: expected a folder, found none"):
        image_folder(folder / "none")
    with pytest.raises(DatasetError, match=r"c: expected a subfolder for each class, found none"):
        image_folder(folder / "c")
    with pytest.raises(DatasetError, match=r"class_names, \['a', 'b'\], found \['a', 'b', 'c'\]"):
        image_folder(folder, class_names=["a", "b"])
    (folder / "d").mkdir()
    with pytest.raises(DatasetError, match=r"d: expected PNG or JPEG files, found none"):
        image_folder(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    path = folder / "b" / "deep" / "1.JPG"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DatasetError, match=r"1\.JPG: expected a whole PNG or JPEG image"):
        image_folder(folder, 4)


def test_other_arguments_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="color_mode: expected 'grayscale' or 'rgb', got 'grey'"):
        image_folder(folder, color_mode="grey")
    with pytest.raises(ValueError, match="folder: expected a path, got ''"):
        image_folder("")
    with pytest.raises(TypeError, match=r"image_size: expected an integer, got 8\.5"):
        image_folder(folder, 8.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_size: expected an integer or a pair of them"):
        image_folder(folder, (8, 8, 3))
