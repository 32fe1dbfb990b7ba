"""Data sets: reading IDX files, where they are looked for, and downloading."""

import gzip
import hashlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnrs.datasets
from cnnrs.datasets import Dataset, DatasetError, fashion_mnist, load, mnist

ROOT = Path(__file__).parents[1]
FULL = Path(os.environ.get("CNNRS_DATA") or "no-such-folder").resolve()
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
needs_full_mnist = pytest.mark.skipif(
    not (FULL / "mnist").is_dir(), reason="CNNRS_DATA names no folder with the full MNIST"
)
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX file modes and signals")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny() -> dict[str, np.ndarray]:
    """Seven training and three test images of 4 x 5 pixels."""
    rng = np.random.default_rng(0)
    return {
        NAMES[0]: rng.integers(0, 256, (7, 4, 5), np.uint8),
        NAMES[1]: np.arange(7, dtype=np.uint8),
        NAMES[2]: rng.integers(0, 256, (3, 4, 5), np.uint8),
        NAMES[3]: np.array([9, 0, 5], np.uint8),
    }


def write_folder(folder: Path, *, zipped: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name, array in tiny().items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def assert_is_tiny(data: Dataset) -> None:
    for got, expected in zip(data[:4], tiny().values(), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert got.flags.writeable


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Leave nothing but an empty cache and mirrors that refuse every connection."""
    monkeypatch.delenv("CNNRS_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for module in (mnist, fashion_mnist):
            monkeypatch.setattr(module.SOURCE, "mirrors", (f"{refusing}/a/", f"{refusing}/b/"))
        yield tmp_path / "cache" / "cnnrs" / "mnist"


class Mirror:
    """A server on this machine: what it has, what it was asked for, and how it breaks off."""

    def __init__(self) -> None:
        self.files = {f"/{name}.gz": gzip.compress(idx(array)) for name, array in tiny().items()}
        self.asked: list[str] = []
        self.at_half: Callable[[], None] | None = None
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                body = mirror.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if mirror.at_half is None:
                    self.wfile.write(body)
                else:
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    mirror.at_half()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Mirror":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve the tiny data set as MNIST, from the second mirror; the first refuses connections."""
    with Mirror() as served:
        sums = {path[1:-3]: hashlib.sha256(b).hexdigest() for path, b in served.files.items()}
        monkeypatch.setattr(mnist.SOURCE, "sha256", sums)
        monkeypatch.setattr(mnist.SOURCE, "mirrors", (mnist.SOURCE.mirrors[0], served.url))
        yield served


# The sample


def test_sample_is_the_start_of_genuine_mnist() -> None:
    data = load("mnist-sample")
    assert [array.shape for array in data[:4]] == [(5000, 28, 28), (5000,), (1000, 28, 28), (1000,)]
    assert [hashlib.md5(array.tobytes()).hexdigest() for array in data[:4]] == [
        "cbdc3a78058ebc7f42005a033e7f3c1f",
        "812583a26d4b7d26fdb5f4cae9e6efd8",
        "1524e1bd745c8715b390a8741bb5a6d3",
        "e1d2a4a26f7e83d7b1e8cfda6097b91c",
    ]


def test_sample_can_be_asked_for_function_by_function() -> None:
    (x_train, y_train), (x_test, y_test) = mnist.load_data("sample")
    readers = (mnist.train_images, mnist.train_labels, mnist.test_images, mnist.test_labels)
    for array, one in zip((x_train, y_train, x_test, y_test), readers, strict=True):
        again = one("sample")
        np.testing.assert_array_equal(array, again)
        again += 1
        assert again.flags.c_contiguous


def test_unknown_source_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='MNIST: expected "auto" or "sample", got \'half\''):
        mnist.load_data("half")
    with pytest.raises(ValueError, match="Fashion-MNIST: expected \"auto\", got 'sample'"):
        fashion_mnist.load_data("sample")


def test_kerass_path_is_refused_with_what_to_do_instead() -> None:
    advice = "Put the four files into a folder mnist/ and set CNNRS_DATA to the folder that holds"
    with pytest.raises(ValueError, match=f"path of MNIST: expected None, got 'm.npz'. {advice}"):
        mnist.load_data(path="m.npz")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"\"sample\", got 'm.npz'. {advice}"):
        mnist.load_data("m.npz")


# The full MNIST


@needs_full_mnist
def test_full_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(FULL))
    data = load("mnist")
    assert data.origin == (f"MNIST, 60,000 training and 10,000 test images, from {FULL / 'mnist'}")
    assert [hashlib.md5(idx(array)).hexdigest() for array in data[:4]] == [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]
    for full, part in zip(data[:4], load("mnist-sample")[:4], strict=True):
        np.testing.assert_array_equal(full[: len(part)], part)


@needs_full_mnist
def test_script_makes_the_bundled_sample(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_sample.py"
    environment = os.environ | {"CNNRS_DATA": str(FULL)}
    subprocess.run([sys.executable, script, tmp_path], check=True, env=environment)
    bundled = Path(cnnrs.datasets.__file__).with_name("sample")
    for name in NAMES:
        made, kept = ((folder / f"{name}.gz").read_bytes() for folder in (tmp_path, bundled))
        assert gzip.decompress(made) == gzip.decompress(kept)


# Folders


@pytest.mark.parametrize("zipped", [True, False])
def test_folder(tmp_path: Path, zipped: bool) -> None:
    folder = write_folder(tmp_path / "own", zipped=zipped)
    for given_as in (folder, str(folder)):
        data = load(given_as)
        assert_is_tiny(data)
        assert data.origin == f"7 training and 3 test images, from {folder}"


def test_cnnrs_data_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "mnist")
    write_folder(tmp_path / "fashion_mnist", zipped=False)
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path))
    assert_is_tiny(load("mnist"))
    data = load("fashion_mnist")
    assert_is_tiny(data)
    assert data.origin == (
        f"Fashion-MNIST, 7 training and 3 test images, from {tmp_path / 'fashion_mnist'}"
    )
    for module in (mnist, fashion_mnist):
        (x_train, y_train), (x_test, y_test) = module.load_data()
        assert_is_tiny(Dataset(x_train, y_train, x_test, y_test, ""))
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        one_by_one = (getattr(module, part)() for part in parts)
        assert_is_tiny(Dataset(*one_by_one, ""))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="cifar: expected mnist, mnist-sample, fashion_mnist or"):
        load("cifar")
    with pytest.raises(DatasetError, match=r"'': expected mnist, .* or a folder"):
        load("")


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_named_and_nothing_else_is_tried(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "mnist")
    (folder / f"{name}.gz").unlink()
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        load("mnist")
    assert str(caught.value) == f"{folder}: expected a file {name}.gz or {name}, found neither"


def damages() -> dict[str, tuple[str, bytes, str]]:
    """For each kind of damage: the file, what is put into it, and the message after its path."""
    images, labels, test_images, _ = (idx(array) for array in tiny().values())
    zipped, plain = f"{NAMES[0]}.gz", NAMES[0]
    gz = gzip.compress(images)
    no_gzip = "expected a whole gzip file, found: "
    no_images = "expected the IDX magic number 0x00000803 (unsigned bytes, dimensions: 3), found 0x"
    no_labels = "expected the IDX magic number 0x00000801 (unsigned bytes, dimensions: 1), found 0x"
    size = "expected 140 bytes of data, as its header claims (7 x 4 x 5), found "
    shape = "expected images of the training images' height and width (4, 5), found (5, 4)"
    turned = test_images[:8] + struct.pack(">2I", 5, 4) + test_images[16:]
    return {
        "truncated gzip": (zipped, gz[:-20], no_gzip),
        "gzip without its end": (zipped, gz[:-8], no_gzip),
        "wrong gzip checksum": (zipped, gz[:-8] + bytes(8), no_gzip + "CRC check failed"),
        "garbled gzip": (zipped, gz[:12] + b"\xff" * 40, no_gzip + "Error -3"),
        "no gzip": (zipped, b"<html>not found", no_gzip + "Not a gzipped file"),
        "empty gzip": (zipped, b"", no_images),
        "labels for images": (plain, labels, no_images + "00000801"),
        "images for labels": (NAMES[1], images, no_labels + "00000803"),
        "integers": (NAMES[1], b"\0\0\x0c\x01" + labels[4:], no_labels + "00000c01"),
        "half a header": (plain, images[:9], "expected an IDX header of 16 bytes, found 9"),
        "too short": (plain, images[:-1], size + "139"),
        "too long": (plain, images + b"\0", size + "more"),
        "too short, zipped": (zipped, gzip.compress(images[:-1]), size + "139"),
        "too long, zipped": (zipped, gzip.compress(images + b"\0"), size + "more"),
        "label out of range": (
            NAMES[1],
            labels[:-2] + b"\x0a\xff",
            "expected labels from 0 to 9, found 10 at position 5",
        ),
        "fewer labels": (
            NAMES[1],
            idx(np.zeros(6, np.uint8)),
            f"expected 7 labels, as many as {plain} has images, found 6",
        ),
        "other image size": (NAMES[2], turned, shape),
    }


@pytest.mark.parametrize("kind", damages())
def test_damage_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, message = damages()[kind]
    folder = write_folder(tmp_path / "mnist", zipped=name.endswith(".gz"))
    (folder / name).write_bytes(content)
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path))
    for read in (mnist.load_data, lambda: load("mnist"), lambda: load(folder)):
        with pytest.raises(DatasetError) as caught:
            read()
        assert str(caught.value).startswith(f"{folder / name}: {message}")


@pytest.mark.parametrize(
    ("claim", "payload"),
    [((2**32 - 1,) * 3, 1_000), ((1, 2, 5), 100_000_000)],
    ids=["claims much and holds little", "claims little and holds much"],
)
def test_memory_follows_neither_the_claim_nor_the_bomb(
    tmp_path: Path, claim: tuple[int, ...], payload: int
) -> None:
    folder = write_folder(tmp_path / "own")
    content = struct.pack(">4B3I", 0, 0, 8, 3, *claim) + bytes(payload)
    (folder / f"{NAMES[0]}.gz").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="bytes of data, as its header claims"):
            load(folder)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    counts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    zipped=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    counts: tuple[int, int],
    size: tuple[int, int],
    zipped: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("own")
    arrays = []
    for count in counts:
        arrays.append(rng.integers(0, 256, (count, *size), np.uint8))
        arrays.append(rng.integers(0, 10, count, np.uint8))
    for name, array in zip(NAMES, arrays, strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    for got, expected in zip(load(folder)[:4], arrays, strict=True):
        np.testing.assert_array_equal(got, expected)


# Downloads and the cache


def test_download_tries_mirrors_in_turn_and_fills_the_cache(mirror: Mirror, cache: Path) -> None:
    data = load("mnist")
    assert_is_tiny(data)
    assert data.origin == f"MNIST, 7 training and 3 test images, from {cache}"
    assert sorted(mirror.asked) == sorted(mirror.files)
    assert {f"/{file.name}": file.read_bytes() for file in cache.iterdir()} == mirror.files
    assert_is_tiny(load("mnist"))
    assert len(mirror.asked) == 4, "the second time, the cache is enough"


def test_each_function_downloads_no_more_than_it_needs(mirror: Mirror) -> None:
    mnist.test_labels()
    assert mirror.asked == [f"/{NAMES[3]}.gz"]


def test_cnnrs_data_without_the_folder_goes_on_to_the_cache(
    mirror: Mirror, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "elsewhere"))
    assert load("mnist").origin.endswith(str(cache))


def test_damaged_cache_is_downloaded_again(mirror: Mirror, cache: Path) -> None:
    load("mnist")
    (cache / f"{NAMES[0]}.gz").write_bytes(b"damaged")
    assert_is_tiny(load("mnist"))
    assert len(mirror.asked) == 5


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_only_on_a_terminal(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    mnist.train_images()
    assert ("100%|" in screen.getvalue()) == terminal


def test_no_network_is_an_error_that_says_what_to_do(cache: Path) -> None:
    for read in (
        mnist.train_images,
        mnist.train_labels,
        mnist.test_images,
        mnist.test_labels,
        mnist.load_data,
    ):
        with pytest.raises(OSError, match="no MNIST here: ") as caught:
            read()
        message = str(caught.value)
        assert f"{cache} has no sound" in message
        for url in mnist.SOURCE.mirrors:
            assert f"{url}: ConnectionError" in message
        assert "set CNNRS_DATA to the folder that holds it" in message
        assert 'load_data("sample")' in message
    with pytest.raises(DatasetError, match="no Fashion-MNIST here: ") as caught:
        load("fashion_mnist")
    assert "sample" not in str(caught.value)


def test_no_network_names_a_cnnrs_data_that_did_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        mnist.load_data()
    assert f"CNNRS_DATA={tmp_path} has no folder mnist, " in str(caught.value)


def test_load_makes_do_with_the_sample_and_says_so(cache: Path) -> None:
    data = load("mnist")
    np.testing.assert_array_equal(data.x_train, mnist.train_images("sample"))
    assert data.origin.startswith(
        "the bundled sample of MNIST: the first 5,000 training and 1,000 test images "
        f"(no full MNIST here: {cache} has no sound {NAMES[0]}.gz, and its download failed ("
    )
    assert "\n" not in data.origin


def test_absent_file_on_the_mirror(mirror: Mirror, cache: Path) -> None:
    mirror.files.clear()
    with pytest.raises(DatasetError, match="404"):
        mnist.load_data()
    assert list(cache.iterdir()) == []


def test_wrong_checksum_leaves_nothing(mirror: Mirror, cache: Path) -> None:
    path = f"/{NAMES[0]}.gz"
    genuine = hashlib.sha256(mirror.files[path]).hexdigest()
    mirror.files[path] = b"<html>please log in"
    wrong = hashlib.sha256(mirror.files[path]).hexdigest()
    with pytest.raises(DatasetError, match=f"expected {genuine} but got {wrong}"):
        mnist.load_data()
    assert list(cache.iterdir()) == []


def test_broken_connection_leaves_nothing(mirror: Mirror, cache: Path) -> None:
    mirror.at_half = lambda: None
    with pytest.raises(DatasetError, match="ChunkedEncodingError"):
        mnist.load_data()
    assert list(cache.iterdir()) == []


@posix_only
def test_interrupt_leaves_nothing(mirror: Mirror, cache: Path) -> None:
    program = """if True:
        import pathlib, sys
        import pooch
        from cnnrs.datasets import mnist
        cache, url = sys.argv[1:]
        pooch.os_cache = lambda project: pathlib.Path(cache)
        mnist.SOURCE.mirrors = [url]
        try:
            mnist.train_images()
        except KeyboardInterrupt:
            sys.exit(42)
    """
    started, gone = threading.Event(), threading.Event()
    listing: list[str] = []

    def interrupt() -> None:
        started.wait()
        listing.extend(file.name for file in cache.iterdir())
        os.kill(process.pid, signal.SIGINT)
        gone.wait()

    mirror.at_half = interrupt
    arguments = [sys.executable, "-c", program, str(cache.parent), mirror.url]
    with subprocess.Popen(arguments) as process:
        started.set()
        try:
            assert process.wait(timeout=60) == 42
        finally:
            process.kill()
            gone.set()
    assert len(listing) == 1
    assert listing != [f"{NAMES[0]}.gz"], "a download goes to a temporary name first"
    assert list(cache.iterdir()) == []


def test_file_in_the_place_of_the_cache(mirror: Mirror, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("")
    for read in (mnist.load_data, lambda: load("mnist")):
        with pytest.raises(DatasetError) as caught:
            read()
        assert str(caught.value).startswith(f"the cache folder {cache} cannot be used: ")
        assert "Put the four files into a folder mnist/ and set CNNRS_DATA" in str(caught.value)


def test_a_cache_that_pooch_may_not_write_is_told(
    mirror: Mirror, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no number, as in pooch")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(DatasetError, match=f"the cache folder {cache} cannot be used: no number"):
        mnist.load_data()


@posix_only
def test_read_only_cache(mirror: Mirror, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):
        pytest.skip("the superuser writes to any folder")
    with pytest.raises(DatasetError, match=f"the cache folder {cache} cannot be used: "):
        mnist.load_data()
    cache.chmod(0o755)


def test_import_needs_no_download_libraries() -> None:
    program = (
        "import sys, cnnrs.datasets; print({'pooch', 'requests', 'tqdm'}.intersection(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "set()"
