"""Random augmentation: what images become, what is drawn, and where it may stand."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnrs
from augmentation_under_test import (
    FILL_MODES,
    Array,
    Seen,
    affine,
    augmented,
    ramps,
    read,
    warped,
)
from cnnrs import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    RandomAffine,
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
    Sequential,
)
from cnnrs.callbacks import Callback
from cnnrs.layers import Layer
from cnnrs.utils import set_random_seed

LAYERS: dict[str, Callable[..., Layer]] = {
    "RandomTranslation": lambda **common: RandomTranslation(0.2, (-0.1, 0.3), **common),
    "RandomRotation": lambda **common: RandomRotation(0.1, "wrap", **common),
    "RandomZoom": lambda **common: RandomZoom((-0.3, 0.2), fill_mode="nearest", **common),
    "RandomAffine": lambda **common: RandomAffine(0.1, 0.1, 0.1, 0.1, "constant", **common),
    "RandomElastic": lambda **common: RandomElastic(20, 3, **common),
    "RandomErasing": lambda **common: RandomErasing((1, 1), **common),
    "RandomFlip": lambda **common: RandomFlip(**common),
}

MANY_WAYS = [kind for kind in LAYERS if kind != "RandomFlip"]
"""Those that hardly ever change an image twice in the same way."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def images(n: int, h: int = 9, w: int = 13, c: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, h, w, c))


# What images become


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 35), st.integers(1, 5)),
    turns=st.floats(-1, 1),
    moved=st.floats(-1, 1),
    zoom=st.floats(-0.95, 1),
    shear=st.floats(-1, 1),
    fill_mode=st.sampled_from(FILL_MODES),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_an_image_is_zoomed_sheared_rotated_and_moved(
    shape: tuple[int, int, int],
    turns: float,
    moved: float,
    zoom: float,
    shear: float,
    fill_mode: str,
    dtype: str,
) -> None:
    x = images(2, *shape).astype(dtype)
    reading: dict[str, Any] = {"fill_mode": fill_mode, "fill_value": 0.25}
    factors = [(it, it) for it in (turns, moved, zoom, shear)]
    got = augmented(RandomAffine(*factors, **reading), x, dtype)
    matrix = affine(shape, turns=turns, down=moved, right=moved, zoom=(zoom, zoom), shear=shear)
    for image, out in zip(x, got, strict=True):
        # The farther coordinates are from 0, the fewer digits are left behind the point.
        expected = warped(image, matrix, **reading)
        np.testing.assert_allclose(out, expected, rtol=0, atol=20 * TOLERANCE[dtype])


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        (RandomTranslation, {"height_factor": 0.15, "width_factor": -0.37}),
        (RandomRotation, {"factor": 0.07}),
        (RandomZoom, {"height_factor": -0.3, "width_factor": 0.45}),
        (RandomZoom, {"height_factor": 0.31}),
    ],
)
def test_single_maps_are_as_documented(
    layer: Callable[..., Layer], settings: dict[str, float], interpolation: str, fill_mode: str
) -> None:
    height, width = (settings.get(f"{side}_factor", 0.0) for side in ("height", "width"))
    x = images(4, 11, 18, 3)
    if layer is RandomTranslation:
        matrix = affine(x.shape[1:], down=height, right=width)
    elif layer is RandomZoom:
        matrix = affine(x.shape[1:], zoom=(height, width or height))
    else:
        matrix = affine(x.shape[1:], turns=settings["factor"])
    reading = {"fill_mode": fill_mode, "interpolation": interpolation, "fill_value": 3.0}
    for dtype, tolerance in TOLERANCE.items():
        bounds = {name: (value, value) for name, value in settings.items()}
        got = augmented(layer(**bounds, **reading), x.astype(dtype), dtype)
        expected = np.stack([warped(image, matrix, **reading) for image in x])
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * tolerance)


def test_positive_factors_move_down_and_right_turn_left_and_shrink() -> None:
    x = np.zeros((1, 5, 5, 1))
    x[0, 1, 2] = 1  # above the centre

    def place(layer: Layer) -> list[int]:
        return np.argwhere(augmented(layer, x)[0, ..., 0] == 1).squeeze().tolist()

    assert place(RandomTranslation((0.2, 0.2), (0.4, 0.4), "constant")) == [2, 4]
    assert place(RandomRotation((0.25, 0.25), interpolation="nearest")) == [2, 1]
    smaller = augmented(RandomZoom((1, 1), fill_mode="constant"), np.ones((1, 5, 5, 1)))
    assert smaller.sum() < 10
    rows = augmented(RandomAffine(shear=(1, 1), fill_mode="nearest"), ramps(1, 5, 5))[0, ..., 1]
    np.testing.assert_array_equal(rows[2], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows[3], [1, 2, 3, 4, 4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("mode", "mirrored"),
    [
        ("horizontal", [np.s_[:, :], np.s_[:, ::-1]]),
        ("vertical", [np.s_[:, :], np.s_[::-1, :]]),
        (
            "horizontal_and_vertical",
            [np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :], np.s_[::-1, ::-1]],
        ),
    ],
)
def test_images_are_mirrored_evenly_and_to_the_bit(
    mode: str, mirrored: list[Any], dtype: str
) -> None:
    x = images(1024, 3, 20, 1).astype(dtype)
    got = augmented(RandomFlip(mode), x, dtype)
    found = np.stack([(got == x[:, *places]).all((1, 2, 3)) for places in mirrored])
    np.testing.assert_array_equal(found.sum(0), np.ones(1024))
    # 5 standard deviations.
    p = 1 / len(mirrored)
    np.testing.assert_allclose(found.mean(1), p, rtol=0, atol=5 * math.sqrt(p * (1 - p) / 1024))
    same = found[0]
    assert_independent(same[1:], same[:-1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_factors_of_zero_change_no_bit(fill_mode: str, dtype: str) -> None:
    x = images(4).astype(dtype)
    x[0, 0, 0, 0] = -0.0
    nothing = [
        RandomTranslation(0, 0.0, fill_mode),
        RandomRotation((0, 0), fill_mode),
        RandomZoom(0, (0, 0), fill_mode),
        RandomAffine(fill_mode=fill_mode),
        RandomElastic(alpha=0, fill_mode=fill_mode),
        RandomErasing(0),
        RandomErasing((1, 1), scale=0),
    ]
    np.testing.assert_array_equal(augmented(nothing, x, dtype), x)


def test_bytes_are_augmented_before_and_after_a_rescaling() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    expected = augmented(RandomRotation(0.1, seed=1), x / 255)
    before = augmented([RandomRotation(0.1, seed=1), Rescaling(1 / 255)], x)
    np.testing.assert_allclose(before, expected, rtol=0, atol=1e-6)
    after = augmented([Rescaling(1 / 255), RandomRotation(0.1, seed=1)], x)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)
    assert not np.allclose(expected, x / 255, atol=0.1)


# What is drawn


def matrices(layer: Layer, n: int = 512, h: int = 40, w: int = 50) -> Array:
    """For each image, where the pixels next to the centre come from: (n, 2, 3) as `affine`."""
    seen = augmented(layer, ramps(n, h, w), "float64")
    y, x = h // 2, w // 2
    origin, down, right = seen[:, y, x], seen[:, y + 1, x], seen[:, y, x + 1]
    linear = np.stack([down - origin, right - origin], -1)
    offset = origin - np.einsum("nij,j->ni", linear, [y, x])
    return np.concatenate([linear, offset[..., np.newaxis]], -1)


def assert_even(values: Array, least: float, largest: float) -> None:
    """Within bounds, near both, and evenly between them."""
    span = largest - least
    assert least - 1e-9 <= values.min() < least + 0.03 * span
    assert largest + 1e-9 >= values.max() > largest - 0.03 * span
    # 5 standard deviations of the mean and of the standard deviation.
    n = len(values)
    assert values.mean() == pytest.approx((least + largest) / 2, abs=5 * span / math.sqrt(12 * n))
    assert values.std() == pytest.approx(span / math.sqrt(12), rel=5 * 0.45 / math.sqrt(n))


def assert_independent(a: Array, b: Array) -> None:
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))


@pytest.mark.parametrize(("factor", "bounds"), [(0.1, (-0.1, 0.1)), ((0.02, 0.2), (0.02, 0.2))])
def test_angles_are_drawn_evenly(factor: Any, bounds: tuple[float, float]) -> None:
    seen = matrices(RandomRotation(factor))
    angles = np.arctan2(seen[:, 0, 1], seen[:, 0, 0])
    assert_even(angles / math.tau, *bounds)
    np.testing.assert_allclose(np.linalg.det(seen[:, :, :2]), 1, rtol=1e-12)
    assert_independent(angles[1:], angles[:-1])


def test_translations_are_drawn_evenly() -> None:
    seen = matrices(RandomTranslation(0.2, (0.1, -0.1)))
    identities = np.broadcast_to(np.eye(2), (512, 2, 2))
    np.testing.assert_allclose(seen[:, :, :2], identities, rtol=0, atol=1e-12)
    down, right = -seen[:, 0, 2] / 40, -seen[:, 1, 2] / 50
    assert_even(down, -0.2, 0.2)
    assert_even(right, -0.1, 0.1)
    assert_independent(down, right)


def test_zooms_are_drawn_evenly() -> None:
    seen = matrices(RandomZoom((-0.3, 0.1), 0.2))
    assert_even(seen[:, 0, 0] - 1, -0.3, 0.1)
    assert_even(seen[:, 1, 1] - 1, -0.2, 0.2)
    assert_independent(seen[:, 0, 0], seen[:, 1, 1])
    seen = matrices(RandomZoom(0.2))
    np.testing.assert_allclose(seen[:, 0, 0], seen[:, 1, 1], rtol=1e-12)
    assert_even(seen[:, 0, 0] - 1, -0.2, 0.2)


def test_all_of_a_map_is_drawn_evenly() -> None:
    seen = matrices(RandomAffine(0.05, 0.1, 0.1, 0.2))
    sin, cos = -seen[:, 0, 1], seen[:, 0, 0]
    turns, zoom = np.arctan2(-sin, cos), np.hypot(sin, cos)
    # Rows of a matrix that is zoomed, sheared and then rotated.
    shear = np.einsum("ni,ni->n", seen[:, 0, :2], seen[:, 1, :2]) / zoom**2
    centre = np.einsum("nij,nj->ni", np.linalg.inv(seen[:, :, :2]), [19.5, 24.5] - seen[:, :, 2])
    moved = (centre - [19.5, 24.5]) / [40, 50]
    turns = np.arctan2(seen[:, 0, 1], seen[:, 0, 0]) / math.tau
    drawn = [-turns, zoom - 1, shear, moved[:, 0], moved[:, 1]]
    for values, factor in zip(drawn, (0.05, 0.1, 0.2, 0.1, 0.1), strict=True):
        assert_even(values, -factor, factor)
    for n, values in enumerate(drawn):
        for others in drawn[:n]:
            assert_independent(values, others)


@pytest.mark.parametrize(("alpha", "sigma"), [(34.0, 4.0), (10.0, 2.0), (60.0, 8.0)])
def test_distortions_are_smooth_and_as_large_as_said(alpha: float, sigma: float) -> None:
    n, h, w = 64, 28, 30
    moved = augmented(RandomElastic(alpha, sigma, "nearest"), ramps(n, h, w), "float64")
    size = 0.163 * alpha / sigma
    far = math.ceil(6 * size)
    inner = (slice(None), slice(far, h - far), slice(far, w - far))
    moved = (moved - ramps(n, h, w))[inner]
    assert np.sqrt((moved**2).mean()) == pytest.approx(size, rel=0.1)
    assert abs(moved.mean()) < 0.2 * size
    assert_independent(moved[..., 0].reshape(n, -1)[:, 0], moved[..., 1].reshape(n, -1)[:, 0])
    # The correlation of a Gaussian blur: exp(-(d / 2 sigma)^2) at distance d.
    for distance in (1, 2, 3):
        product = (moved[:, distance:] * moved[:, :-distance]).mean() / (moved**2).mean()
        assert product == pytest.approx(math.exp(-((distance / (2 * sigma)) ** 2)), abs=0.05)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_distortion_reads_where_it_says(interpolation: str, fill_mode: str) -> None:
    x = images(8, 24, 17, 3)
    layer = RandomElastic(12, 3, fill_mode, interpolation, seed=5, fill_value=0.5)
    where = RandomElastic(12, 3, "nearest", seed=5)
    rows, columns = np.moveaxis(augmented(where, ramps(8, 24, 17), "float64"), -1, 0)
    got = augmented(layer, x, "float64")
    for n in range(8):
        expected = read(x[n], rows[n], columns[n], fill_mode, interpolation, 0.5)
        # Where the map of places is not cut off at the borders.
        sure = (rows[n] > 0) & (rows[n] < 23) & (columns[n] > 0) & (columns[n] < 16)
        assert sure.mean() > 0.7
        np.testing.assert_allclose(got[n][sure], expected[sure], rtol=0, atol=1e-12)
    if fill_mode == "constant":
        assert not np.allclose(got[:, 0], augmented(where, x, "float64")[:, 0])


def patches(layer: Layer, n: int = 512, h: int = 40, w: int = 50) -> tuple[Array, Array]:
    """Which images have a patch, and of those the least and largest row and column, (m, 2, 2)."""
    painted = augmented(layer, np.full((n, h, w, 1), -1.0)) != -1
    assert (painted.reshape(n, -1).all(1) == 0).all()
    found = painted.reshape(n, -1).any(1)
    borders = []
    for mask in painted[found, :, :, 0]:
        rows, columns = np.nonzero(mask)
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        borders.append([[rows.min(), rows.max()], [columns.min(), columns.max()]])
    return found, np.array(borders)


def test_patches_have_sides_of_their_scale_and_lie_anywhere() -> None:
    found, borders = patches(RandomErasing((1, 1), (0.1, 0.5), fill_value=7))
    assert found.all()
    shares = (borders[:, :, 1] - borders[:, :, 0] + 1) / [40, 50]
    for axis, side in ((0, 40), (1, 50)):
        # A side is rounded to pixels, up or down.
        assert shares[:, axis].min() >= math.sqrt(0.1) - 1 / side
        assert shares[:, axis].max() <= math.sqrt(0.5) + 1 / side
        assert (shares[:, axis] ** 2).mean() == pytest.approx(0.3, abs=0.03)
        room = side - (borders[:, axis, 1] - borders[:, axis, 0] + 1)
        assert (borders[:, axis, 0] / room).mean() == pytest.approx(0.5, abs=0.08)
    assert_independent(shares[:, 0], shares[:, 1])


@pytest.mark.parametrize(("factor", "share"), [(1.0, 0.5), (0.4, 0.2), ((0.9, 0.9), 0.9), (0, 0)])
def test_patches_are_as_frequent_as_their_factor(factor: Any, share: float) -> None:
    found, _ = patches(RandomErasing(factor, (0.1, 0.1), fill_value=0))
    assert found.mean() == pytest.approx(share, abs=5 * 0.5 / math.sqrt(512))


def test_patches_are_painted_with_what_is_asked_for() -> None:
    x = np.full((16, 20, 20, 3), 9.0)
    all_of_it: dict[str, Any] = {"factor": (1, 1), "scale": (1, 1)}
    grey = augmented(RandomErasing(**all_of_it, fill_value=7), x)
    np.testing.assert_array_equal(grey, np.full_like(x, 7))
    colour = augmented(
        RandomErasing(**all_of_it, fill_value=(0.5, -1, 3), value_range=(0, 2)), x, "float64"
    )
    np.testing.assert_array_equal(colour, np.broadcast_to([0.5, 0, 2], x.shape))
    noise = augmented(RandomErasing(**all_of_it, value_range=(-0.5, 0.5)), x, "float64")
    assert (noise.min(), noise.max()) == (-0.5, 0.5)
    inner = noise[abs(noise) < 0.5]
    # One standard deviation to either side is left.
    assert inner.size / noise.size == pytest.approx(0.6827, abs=0.02)
    assert inner.mean() == pytest.approx(0, abs=0.02)
    assert np.unique(inner).size == inner.size
    with pytest.raises(ValueError, match=r"^random_erasing: .*3 channels.*got 2"):
        augmented(RandomErasing(fill_value=(1, 2, 3)), x[..., :2])


# Where numbers come from


@pytest.mark.parametrize("kind", MANY_WAYS)
def test_seeds_steps_and_images_each_have_numbers_of_their_own(kind: str) -> None:
    x = np.repeat(images(1), 4, 0)
    first, same, other = (Seen([LAYERS[kind]()], x, seed=seed) for seed in (1, 1, 2))
    steps = [first.step() for _ in range(3)]
    for expected in steps:
        np.testing.assert_array_equal(same.step(), expected)
    drawn = [*steps[0], *steps[1], *steps[2], *other.step(), x[0]]
    assert len({image.astype(np.float32).tobytes() for image in drawn}) == len(drawn)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_seed_of_its_own_makes_a_layer_independent_of_the_models(kind: str) -> None:
    x = images(4)
    first, second, other = (
        Seen([LAYERS[kind](seed=seed)], x, seed=model) for seed, model in ((3, 1), (3, 2), (4, 1))
    )
    steps = [first.step() for _ in range(3)]
    for expected in steps:
        np.testing.assert_array_equal(second.step(), expected)
        assert not np.array_equal(other.step(), expected)
    assert not np.array_equal(steps[0], steps[1])


def test_two_layers_draw_different_numbers() -> None:
    x = ramps(64, 40, 40)
    for seed in (None, 3):
        first, second = (RandomTranslation(0.1, 0, seed=seed) for _ in range(2))
        layers = [first, Rescaling(1.0, 0.0), second]
        both = augmented(layers, x, "float64")[:, 20, 20, 0] - 20
        once = augmented(layers[0], x, "float64")[:, 20, 20, 0] - 20
        assert_independent(both - once, once)


@pytest.fixture
def _same_threads_after() -> Iterator[None]:
    threads = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(threads)


def small_net(layers: Sequence[Layer], dtype: str = "float32") -> Sequential:
    set_random_seed(1)
    rest = [Conv2D(4, 3, activation="relu"), Flatten(), Dense(3, "softmax")]
    model = Sequential([Input((9, 13, 2)), *layers, *rest], dtype=dtype)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.usefixtures("_same_threads_after")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_calls_change_no_bit(dtype: str) -> None:
    class EachBatch(Callback):
        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            pass

    x, y = images(150), np.arange(150) % 3
    results = []
    for threads, callback in [(1, None), (2, None), (3, EachBatch()), (7, None)]:
        cnnrs.set_num_threads(threads)
        layers = [Dropout(0.1), *(make() for make in LAYERS.values()), RandomZoom(0.1, seed=1)]
        model = small_net(layers, dtype)
        # A batch that several threads share.
        model.fit(x, y, 140, epochs=3, verbose=0, callbacks=callback)
        results.append([array.tobytes() for array in model.get_weights()])
    assert results == [results[0]] * 4
    assert np.isfinite(model.get_weights()[0]).all()


# Where it stands


@pytest.mark.parametrize("kind", LAYERS)
def test_evaluating_and_predicting_leave_images_alone(kind: str) -> None:
    x, y = images(20), np.arange(20) % 3
    plain, changing = small_net([]), small_net([LAYERS[kind]()])
    changing.set_weights(plain.get_weights())
    np.testing.assert_array_equal(changing.predict(x), plain.predict(x))
    assert changing.evaluate(x, y, verbose=0) == plain.evaluate(x, y, verbose=0)
    assert changing.count_params() == plain.count_params()
    changing.fit(x, y, verbose=0)
    plain.fit(x, y, verbose=0)
    assert not np.allclose(changing.get_weights()[0], plain.get_weights()[0])
    assert np.isfinite(changing.get_weights()[0]).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_it_stands_before_all_weights(kind: str) -> None:
    for weighty in (Conv2D(2, 1), BatchNormalization(), BatchNormalization(-1, center=False)):
        layers = [Input((4, 4, 1)), weighty, MaxPooling2D(1), LAYERS[kind](name="behind")]
        with pytest.raises(
            ValueError, match=rf"^behind: .*before all.*got one behind {weighty.name}"
        ):
            Sequential(layers)
    model = Sequential([Input((4, 4, 1)), Conv2D(2, 1)])
    with pytest.raises(ValueError, match=r"before all layers with weights.*behind conv2d"):
        model.add(LAYERS[kind]())
    assert len(model.layers) == 1
    Sequential([Input((4, 4, 1)), MaxPooling2D(2), Dropout(0.5), LAYERS[kind](), Conv2D(2, 1)])


@pytest.mark.parametrize("kind", LAYERS)
def test_it_takes_images_only(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^random_\w+: .*\(height, width, channels\).*\(7,\)"):
        Sequential([Input((7,)), LAYERS[kind]()])


def test_a_saved_model_augments_the_same(tmp_path: Path) -> None:
    x, y = images(16), np.arange(16) % 3
    model = small_net([make(seed=n) for n, make in enumerate(LAYERS.values())])
    copied = Sequential([Input((9, 13, 2)), *copy.deepcopy(model.layers)])
    copied.compile("sgd", "sparse_categorical_crossentropy")
    copied.set_weights(model.get_weights())
    for it in (model, copied):
        it.fit(x, y, verbose=0, shuffle=False)
    np.testing.assert_array_equal(model.get_weights()[0], copied.get_weights()[0])


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomTranslation(1.5, 0), ValueError, "height_factor: .*-1 to 1.*got 1.5"),
        (lambda: RandomTranslation(0, (0, 2)), ValueError, "width_factor: .*got 2"),
        (lambda: RandomTranslation(0, (0, 0, 0)), ValueError, r"width_factor: .*got \(0, 0, 0\)"),
        (lambda: RandomTranslation("0.1", 0), TypeError, "height_factor: .*got '0.1'"),
        (lambda: RandomTranslation(0), TypeError, "width_factor"),
        (lambda: RandomTranslation(0, 0, "mirror"), ValueError, "fill_mode: .*got 'mirror'"),
        (lambda: RandomTranslation(0, 0, None), ValueError, "fill_mode: .*got None"),
        (lambda: RandomRotation(0, "wrap", "cubic"), ValueError, "interpolation: .*'cubic'"),
        (lambda: RandomRotation(float("nan")), ValueError, "factor: .*got nan"),
        (lambda: RandomRotation(0, seed=-1), ValueError, "seed: .*got -1"),
        (lambda: RandomRotation(0, seed=2**64), ValueError, f"seed: .*got {2**64}"),
        (lambda: RandomRotation(0, seed=0.5), TypeError, "seed: .*got 0.5"),
        (lambda: RandomRotation(0, fill_value=float("inf")), ValueError, "fill_value: .*got inf"),
        (lambda: RandomRotation(0, data_format="channels_first"), ValueError, "data_format"),
        (lambda: RandomZoom(-1), ValueError, "height_factor: .*above -1, got -1"),
        (lambda: RandomZoom(0, (-1, 0)), ValueError, r"width_factor: .*above -1, got \(-1, 0\)"),
        (lambda: RandomAffine(shear=2), ValueError, "shear: .*got 2"),
        (lambda: RandomAffine(zoom=[0.1, 3]), ValueError, "zoom: .*got 3"),
        (lambda: RandomElastic(alpha=-1), ValueError, "alpha: .*got -1"),
        (lambda: RandomElastic(sigma=0.1), ValueError, "sigma: .*0.5.*got 0.1"),
        (lambda: RandomElastic(sigma=(1, 2)), TypeError, r"sigma: .*got \(1, 2\)"),
        (lambda: RandomFlip("both"), ValueError, "mode: .*'horizontal'.*got 'both'"),
        (lambda: RandomFlip(seed=-1), ValueError, "seed: .*got -1"),
        (lambda: RandomErasing(-0.5), ValueError, "factor: .*0 to 1.*got -0.5"),
        (lambda: RandomErasing(scale=(0.1, 1.1)), ValueError, "scale: .*got 1.1"),
        (lambda: RandomErasing(fill_value=(1, 2)), ValueError, r"fill_value: .*got \(1, 2\)"),
        (lambda: RandomErasing(fill_value="noise"), TypeError, "fill_value: .*got 'noise'"),
        (lambda: RandomErasing(value_range=(1, 0)), ValueError, r"value_range: .*got \(1, 0\)"),
        (lambda: RandomErasing(value_range=255), ValueError, "value_range: .*got 255"),
    ],
)
def test_unfit_arguments_are_refused_by_name(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_factors_become_bounds() -> None:
    assert RandomRotation(-0.25).factor == (-0.25, 0.25)
    assert repr(RandomAffine().zoom) == "(0.0, 0.0)"
    assert repr(RandomErasing(1).factor) == "(0.0, 1.0)"
    assert RandomTranslation((0.3, -0.1), [0, 0.5]).height_factor == (-0.1, 0.3)
