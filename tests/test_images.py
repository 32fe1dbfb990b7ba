"""Pictures in files: found, read, and made into images like MNIST's."""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling, Sequential, images
from cnnrs.datasets import mnist
from cnnrs.utils import set_random_seed
from drawn_digits import draw

Array = npt.NDArray[Any]
DIGITS = range(10)


def noisy(picture: Image.Image, deviation: float, seed: int = 0) -> Array:
    array = np.asarray(picture, float)
    noise = np.random.default_rng(seed).normal(0, deviation, array.shape)
    return (array + noise).clip(0, 255).round().astype(np.uint8)


def shaded(picture: Image.Image) -> Array:
    """Under light that falls from the upper left, down to less than half."""
    array = np.asarray(picture, float)
    y, x = (np.linspace(0, 1, length) for length in array.shape)
    return (array * (1 - 0.35 * x - 0.25 * y[:, None])).round().astype(np.uint8)


# Digits


@pytest.fixture(scope="module")
def model() -> Sequential:
    """A small network that knows MNIST, or what the package has of it."""
    full = Path(os.environ.get("CNNRS_DATA", "nowhere"), "mnist").is_dir()
    (x, y), _ = mnist.load_data("auto" if full else "sample")
    set_random_seed(0)
    model = Sequential(
        [
            Input((28, 28, 1)),
            Rescaling(1 / 255),
            Conv2D(16, 3, activation="relu"),
            MaxPooling2D(),
            Conv2D(32, 3, activation="relu"),
            MaxPooling2D(),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2 if full else 8, verbose=0)
    return model


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(draw, id="dark-on-white"),
        pytest.param(lambda n: draw(n, ink=240, paper=10), id="light-on-dark"),
        pytest.param(lambda n: draw(n, ink=60, paper=150), id="on-grey"),
        pytest.param(lambda n: draw(n, ink=150, paper=180), id="faint"),
        pytest.param(lambda n: noisy(draw(n, ink=60, paper=190), 25, n), id="noise"),
        pytest.param(lambda n: shaded(draw(n, ink=40, paper=240)), id="shaded"),
        pytest.param(lambda n: draw(n, size=(24, 36), pen=3), id="small"),
        pytest.param(
            lambda n: draw(n, size=(1200, 1600), at=(0.1, 0.1), scale=(0.8, 0.8), pen=120),
            id="large",
        ),
        pytest.param(
            lambda n: draw(n, size=(900, 1200), at=(0.6, 0.7), scale=(0.1, 0.1), pen=10),
            id="in-a-corner",
        ),
    ],
)
def test_a_network_that_knows_mnist_reads_drawn_digits(
    model: Sequential, picture: Callable[[int], Any]
) -> None:
    read = np.stack([images.as_mnist(picture(digit)) for digit in DIGITS])
    guesses = model.predict_classes(read)
    assert (guesses == DIGITS).sum() >= 9, guesses


def test_images_of_mnist_stay_what_they_are(model: Sequential) -> None:
    x, y = mnist.test_images("sample")[:200], mnist.test_labels("sample")[:200]
    again = np.stack([images.as_mnist(image) for image in x])
    assert np.abs(again.astype(float) - x).mean() < 10
    right, right_again = ((model.predict_classes(z) == y).sum() for z in (x, again))
    assert right_again >= right - 3


# What as_mnist promises

pictures = st.builds(
    draw,
    digit=st.sampled_from(DIGITS),
    size=st.tuples(st.integers(60, 160), st.integers(60, 160)),
    at=st.tuples(st.floats(0.15, 0.4), st.floats(0.15, 0.4)),
    scale=st.tuples(st.floats(0.3, 0.45), st.floats(0.3, 0.45)),
    pen=st.integers(4, 12),
    ink=st.integers(0, 100),
    paper=st.integers(160, 255),
)


@settings(max_examples=20)
@given(pictures)
def test_size_and_place_are_mnists(picture: Image.Image) -> None:
    out = images.as_mnist(picture)
    assert (out.shape, out.dtype, out.max()) == ((28, 28), np.uint8, 255)
    rows, columns = np.flatnonzero(out.any(axis=1)), np.flatnonzero(out.any(axis=0))
    sides = [np.ptp(rows) + 1, np.ptp(columns) + 1]
    assert max(sides) in (19, 20)
    for axis, at in ((0, rows), (1, columns)):
        sums = out.sum(axis=1 - axis, dtype=float)
        centre = (np.arange(28) * sums).sum() / sums.sum()
        # In the middle, as near as whole pixels come to it, or as near as the frame lets it come.
        assert abs(centre - 14) <= 0.51 or at[0] <= 1 or at[-1] >= 26


@settings(max_examples=20)
@given(pictures)
def test_polarity_and_contrast_do_not_matter(picture: Image.Image) -> None:
    array = np.asarray(picture)
    expected = images.as_mnist(array).astype(int)
    for other in (255 - array, array // 2, array.astype(np.uint16) * 257, array / 255):
        assert np.abs(images.as_mnist(other) - expected).mean() < 1
    floats = Image.fromarray((array / 255).astype(np.float32))
    assert np.abs(images.as_mnist(floats) - expected).mean() < 1


@settings(max_examples=20)
@given(pictures, st.tuples(*[st.integers(0, 60)] * 4))
def test_place_does_not_matter(picture: Image.Image, margins: tuple[int, ...]) -> None:
    array = np.asarray(picture)
    top, bottom, left, right = margins
    wider = np.pad(array, ((top, bottom), (left, right)), "edge")
    # The blur against noise goes by the picture's size, and must not make the difference.
    assume(round(max(wider.shape) / 100) == round(max(array.shape) / 100))
    difference = np.abs(images.as_mnist(wider).astype(int) - images.as_mnist(array))
    assert difference.mean() < 1


@settings(max_examples=20)
@given(pictures, st.integers(2, 4))
def test_scale_does_not_matter(picture: Image.Image, times: int) -> None:
    array = np.asarray(picture)
    larger = array.repeat(times, axis=0).repeat(times, axis=1)
    small, large = (images.as_mnist(it).astype(int) for it in (array, larger))
    # Whole pixels bring the centre of mass to the middle, so either may lie one further.
    moved = [np.roll(small, by, axis=(0, 1)) for by in product((-1, 0, 1), repeat=2)]
    assert min(np.abs(large - it).mean() for it in moved) < 10


def test_a_digit_that_its_centre_would_cut_off_is_moved() -> None:
    paper = np.full((200, 200), 255, np.uint8)
    paper[40:160, 40:70] = 0  # nearly all ink at the left,
    paper[150:160, 40:160] = 0  # and a foot to the right
    out = images.as_mnist(paper)
    columns = np.flatnonzero(out.any(axis=0))
    assert (columns[0], columns[-1]) == (8, 27)
    assert np.ptp(np.flatnonzero(out.any(axis=1))) == 19


def test_specks_are_dropped_and_parts_are_kept() -> None:
    paper = np.asarray(draw(1, at=(0.4, 0.3))).copy()
    expected = images.as_mnist(paper)
    paper[10:20, 10:19] = 0  # a thirtieth of the digit
    paper[280:283, 5:9] = 0
    np.testing.assert_array_equal(images.as_mnist(paper), expected)
    paper[60:75, 150:165] = 0  # as large as a part of a digit
    assert (images.as_mnist(paper) != expected).any()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_picture_is_read_or_refused(picture: Array) -> None:
    try:
        out = images.as_mnist(picture)
    except ValueError:
        return
    assert (out.shape, out.dtype, out.max()) == ((28, 28), np.uint8, 255)


@pytest.mark.parametrize("paper", [0, 128, 255])
def test_what_shows_nothing_is_refused(paper: int) -> None:
    blank = Image.new("L", (150, 100), paper)
    level = np.full((100, 150), min(max(paper, 60), 200), np.uint8)
    for picture in (
        blank,
        shaded(blank),
        noisy(Image.fromarray(level), 10),
        noisy(Image.fromarray(level), 20, seed=1),
        noisy(Image.fromarray(level), 80),  # in spots that are not faint
        draw(3, ink=paper, paper=paper),
        draw(3, ink=abs(paper - 10), paper=paper),
        np.zeros((1, 1)),
    ):
        with pytest.raises(ValueError, match="expected a digit that stands out from its back"):
            images.as_mnist(picture)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(4), ValueError, r"image: expected shape \(h, w\), .*got \(4,\)"),
        (np.zeros((4, 4, 2)), ValueError, r"got \(4, 4, 2\)"),
        (np.zeros((0, 4)), ValueError, r"got \(0, 4\)"),
        (np.full((4, 4), 1.5), ValueError, "numbers from 0 to 1 in an array of float64, got 1.5"),
        (np.full((4, 4), np.nan), ValueError, "got nan"),
        (np.full((4, 4), -1), ValueError, "numbers from 0 to 255 .*got -1"),
        ([[0.0, 1.0], [0.5]], ValueError, "image: expected an array of real numbers, got none"),
        (np.full((4, 4), "a"), TypeError, "image: expected real numbers, got dtype"),
    ],
)
def test_arrays_that_are_no_images(array: Array, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        images.as_mnist(array)


def test_an_array_is_left_as_it_is() -> None:
    array = np.asarray(draw(5), float) / 255
    before = array.copy()
    images.as_mnist(array)
    np.testing.assert_array_equal(array, before)


# Files


def saved(picture: Image.Image, folder: Path, kind: str) -> Path:
    path = folder / f"{kind.replace(';', '')}.png"
    if kind == "I;16":
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 257).save(path)
    elif kind == "LA":
        covered = Image.eval(picture, lambda shade: 255 - shade)
        Image.merge("LA", [Image.new("L", picture.size), covered]).save(path)
    elif kind == "white":  # ink on nothing
        covered = Image.eval(picture, lambda shade: 255 - shade)
        white = Image.new("L", picture.size, 255)
        Image.merge("RGBA", [white, white, white, covered]).save(path)
    elif kind == "CMYK":
        path = path.with_suffix(".jpg")
        picture.convert("CMYK").save(path, quality=95)
    elif kind == "jpeg":
        path = path.with_suffix(".jpg")
        picture.save(path, quality=90)
    elif kind == "turned":  # lying on its side, with a note to turn it back
        exif = Image.Exif()
        exif[0x0112] = 6
        path = path.with_suffix(".jpg")
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    elif kind == "P transparent":
        picture.convert("P").save(path, transparency=bytes([255] * 200 + [0] * 56))
    else:
        picture.convert(kind).save(path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK"),
        *("P transparent", "white", "jpeg", "turned"),
    ],
)
def test_every_kind_of_file_says_the_same(kind: str, tmp_path: Path) -> None:
    picture = draw(5, ink=0)
    expected = images.as_mnist(picture).astype(int)
    (got,) = images.read(saved(picture, tmp_path, kind))
    assert np.abs(got - expected).mean() < 3


def test_read_takes_files_and_folders(tmp_path: Path) -> None:
    for digit in (3, 1, 2):
        draw(digit).save(tmp_path / f"{digit}.png")
    one, two, three = (images.as_mnist(draw(digit)) for digit in (1, 2, 3))
    np.testing.assert_array_equal(images.read(tmp_path), [one, two, three])
    np.testing.assert_array_equal(images.read(str(tmp_path / "2.png")), [two])
    np.testing.assert_array_equal(
        images.read([tmp_path / "3.png", tmp_path]), [three, one, two, three]
    )


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "below.png").mkdir()
    (tmp_path / "empty").mkdir()
    expected = [tmp_path / name for name in ("a.jpeg", "b.PNG", "c.jpg")]
    assert images.files(tmp_path) == expected
    assert images.files([tmp_path / "notes.txt", tmp_path]) == [tmp_path / "notes.txt", *expected]
    with pytest.raises(ValueError, match=r"empty: expected a folder with PNG or JPEG files, found"):
        images.files([tmp_path, tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match=r"none\.png: expected a file or folder, found"):
        images.files(tmp_path / "none.png")
    with pytest.raises(ValueError, match="paths: expected at least one file or folder, got none"):
        images.files([])
    with pytest.raises(ValueError, match="paths: expected a path, got ''"):
        images.read("")
    with pytest.raises(TypeError, match=r"paths: expected a path, got b'a.png'"):
        images.files([b"a.png"])  # type: ignore[list-item]
    for wrong in (5, None, b"a.png"):
        with pytest.raises(TypeError, match=f"^paths: expected files and folders, got {wrong!r}$"):
            images.read(wrong)  # type: ignore[arg-type]


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    draw(8, size=(60, 80), pen=6).save(file, kind)
    return file.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG")}
OTHERS = [
    *((kind, encoded(kind)[:40]) for kind in ("GIF", "BMP", "TIFF")),
    ("TIFF", b"MM\0*"),
    ("WebP", b"RIFF\n\0\0\0WEBPVP8 "),
    ("HEIC", b"\0\0\0\x18ftypheic"),
    ("HEIC", b"\0\0\0\x18ftypmif1"),
    ("AVIF", b"\0\0\0 ftypavif"),
]


@pytest.mark.parametrize("take", [images.read, images.load])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PNG or JPEG image, found none"),
        (b"no image at all", "expected a PNG or JPEG image, found none"),
        (b"BMI of", "expected a PNG or JPEG image, found none"),
        *(
            (begin + bytes(100), f"expected a PNG or JPEG image, found {kind}$")
            for kind, begin in OTHERS
        ),
        (WHOLE["PNG"][:200], "expected a whole PNG or JPEG image, found: "),
        (WHOLE["JPEG"][:600], "expected a whole PNG or JPEG image, found: "),
    ],
)
def test_files_that_are_no_whole_pictures(
    take: Callable[[Path], Any], content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.png: {message}"):
        take(path)


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # as of EXIF data that make no sense
        try:
            picture = images.load(path)
        except ValueError as error:
            refused = str(error)
        else:
            refused = ""
    assert str(path) in refused or picture.shape[2] == 3


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (100, 100)).save(path)
    for limit in (6000, 1000):  # Pillow warns of the first and refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=rf"bomb\.png: .*at most {limit:,} pixels, found a"):
            images.read(path)


def test_a_file_that_shows_nothing_is_named(tmp_path: Path) -> None:
    draw(4).save(tmp_path / "a.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: expected a digit that stands out"):
        images.read(tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for take in (images.read, images.load):
        with pytest.raises(FileNotFoundError, match=r"none\.png"):
            take(tmp_path / "none.png")


# Loading as it is


def test_load_keeps_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = images.load(tmp_path / "a.png")
    np.testing.assert_array_equal(got, pixels)
    assert got.flags.writeable
    grey = images.load(tmp_path / "a.png", color_mode="grayscale")
    assert grey.shape == (5, 7, 1)
    expected = pixels @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[..., 0], expected, atol=1)


def test_load_scales_and_averages(tmp_path: Path) -> None:
    pixels = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (16, 20))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = images.load(tmp_path / "a.png", (4, 5), "grayscale")
    assert got.shape == (4, 5, 1)
    assert np.abs(got.astype(int) - 128).max() < 30
    assert images.load(tmp_path / "a.png", 6).shape == (6, 6, 3)


def test_load_takes_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert images.load(tmp_path / "deep.png", color_mode="grayscale").ravel().tolist() == [
        0,
        1,
        255,
    ]
    Image.new("RGBA", (2, 1), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (images.load(tmp_path / "clear.png") == 255).all()


def test_load_refuses_other_arguments(tmp_path: Path) -> None:
    draw(1).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="path: expected a path, got ''"):
        images.load("")
    with pytest.raises(ValueError, match="color_mode: expected 'grayscale' or 'rgb', got 'rgba'"):
        images.load(tmp_path / "a.png", color_mode="rgba")
    with pytest.raises(ValueError, match="image_size: expected at least 1, got 0"):
        images.load(tmp_path / "a.png", (0, 4))


def test_without_pillow_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['PIL'] = None; import numpy as np; from cnnrs import images\n"
        "images.as_mnist(np.zeros((4, 4)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError: pictures in files need Pillow" in ran.stderr
    assert "pip install 'cnnrs[plots]'" in ran.stderr
