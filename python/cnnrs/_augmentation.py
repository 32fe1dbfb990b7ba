"""Layers that change images at random in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, Unpack

from cnnrs._checks import between, channels_last, choice, integer, number
from cnnrs._layer import Common, Layer

Factor: TypeAlias = float | Sequence[float]
"""The least and the largest of what is drawn for each image, or one number."""

FILL_MODES = ("constant", "nearest", "reflect", "wrap")
FLIP_MODES = ("horizontal", "vertical", "horizontal_and_vertical")
INTERPOLATIONS = ("bilinear", "nearest")


class Augmentation(Layer):
    """The base of all layers that change images at random in training and leave them else."""

    seed: int | None

    def _set_seed(self, seed: int | None) -> None:
        self.seed = None if seed is None else integer("seed", seed, 0)


class _Warp(Augmentation):
    """The base of layers that read each pixel elsewhere in the image."""

    _reading = ("fill_mode", "interpolation", "seed", "fill_value")

    def _set_reading(
        self,
        fill_mode: str,
        interpolation: str,
        seed: int | None,
        fill_value: float,
        data_format: str | None,
    ) -> None:
        self.fill_mode = choice("fill_mode", fill_mode, FILL_MODES)
        self.interpolation = choice("interpolation", interpolation, INTERPOLATIONS)
        self.fill_value = number("fill_value", fill_value)
        self._set_seed(seed)
        channels_last(data_format)


class RandomTranslation(_Warp):
    """In training, each image is moved down or up and right or left.

    `out[i, j] = in[i - height * down, j - width * right]`, `down` and `right` being drawn uniformly
    from the factors. Evaluating and predicting leave images as they are. The layer stands before
    all layers with weights. What is drawn follows from the model's generator, which
    `utils.set_random_seed` seeds, whatever the number of threads.

    Args:
        height_factor: how far down in heights of the image, from -1 to 1: `(least, largest)`, or
            one number `f` for `(-f, f)`.
        width_factor: how far to the right in widths, as above.
        fill_mode: what is outside of an image `a b c d`: `b a | a b c d | d c` for `"reflect"`
            (default), `c d | a b c d | a b` for `"wrap"`, `a a | a b c d | d d` for `"nearest"`,
            and `fill_value` for `"constant"`.
        interpolation: what is between pixels: `"bilinear"` (default) or `"nearest"`.
        seed: an integer from which, with the number of the training step, the layer's numbers
            follow instead of from the model's generator; None by default.
        fill_value: what is outside, if `fill_mode` is `"constant"`; 0 by default.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a factor is no number.
        ValueError: if it is out of its range, or a value is none of the above.

    Reference: `keras.layers.RandomTranslation`. (On TensorFlow, its `"wrap"` skips what is between
    the last pixel and the first.)

    Example:
        >>> from cnnrs import Conv2D, Input, RandomTranslation, Sequential
        >>> model = Sequential([Input((28, 28, 1)), RandomTranslation(0.1, 0.1), Conv2D(8, 3)])
        >>> model.output_shape
        (None, 26, 26, 8)
    """

    _kind = "random_translation"
    _settings = ("height_factor", "width_factor", *_Warp._reading)

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.height_factor = _bounds("height_factor", height_factor)
        self.width_factor = _bounds("width_factor", width_factor)
        self._set_reading(fill_mode, interpolation, seed, fill_value, data_format)


class RandomFlip(Augmentation):
    """In training, each image is mirrored at random.

    The probability is one half, independently for each direction of the mode. Otherwise as
    `RandomTranslation`.

    Args:
        mode: `"horizontal"` for left to right, `"vertical"` for upside down, or
            `"horizontal_and_vertical"` (default).
        seed: None (default) or an integer, as of `RandomTranslation`.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if the mode is none of these.

    Reference: `keras.layers.RandomFlip`, which has one chance for both directions together.

    Example:
        >>> from cnnrs import Conv2D, Input, RandomFlip, Sequential
        >>> model = Sequential([Input((28, 28, 1)), RandomFlip("horizontal"), Conv2D(8, 3)])
        >>> model.layers[0].mode
        'horizontal'
    """

    _kind = "random_flip"
    _settings = ("mode", "seed")

    def __init__(
        self,
        mode: str = "horizontal_and_vertical",
        seed: int | None = None,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.mode = choice("mode", mode, FLIP_MODES)
        self._set_seed(seed)
        channels_last(data_format)


class RandomRotation(_Warp):
    """In training, each image is rotated about its centre.

    The angle, counterclockwise, is a full turn times what is drawn uniformly from the factor.
    Otherwise as `RandomTranslation`.

    Args:
        factor: how far in full turns, from -1 to 1: `(least, largest)`, or one number `f` for
            `(-f, f)`.
        fill_mode: what is outside of an image, `"reflect"` by default; as of `RandomTranslation`.
        interpolation: what is between pixels: `"bilinear"` (default) or `"nearest"`.
        seed: None (default) or an integer, as of `RandomTranslation`.
        fill_value: what is outside, if `fill_mode` is `"constant"`; 0 by default.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if the factor is no number.
        ValueError: if it is out of its range, or a value is none of the above.

    Reference: `keras.layers.RandomRotation`.

    Example:
        >>> from cnnrs import Conv2D, Input, RandomRotation, Sequential
        >>> model = Sequential([Input((28, 28, 1)), RandomRotation(15 / 360), Conv2D(8, 3)])
        >>> model.layers[0]
        <RandomRotation name=random_rotation>
    """

    _kind = "random_rotation"
    _settings = ("factor", *_Warp._reading)

    def __init__(
        self,
        factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.factor = _bounds("factor", factor)
        self._set_reading(fill_mode, interpolation, seed, fill_value, data_format)


class RandomZoom(_Warp):
    """In training, each image is zoomed about its centre.

    `1 + height` times its height is seen and `1 + width` times its width, both drawn uniformly from
    the factors: above 0 the image gets smaller, below 0 larger. Otherwise as `RandomTranslation`.

    Args:
        height_factor: from above -1 to 1: `(least, largest)`, or one number `f` for `(-f, f)`.
        width_factor: as above; None (default) is always the height's, so that proportions stay.
        fill_mode: what is outside of an image, `"reflect"` by default; as of `RandomTranslation`.
        interpolation: what is between pixels: `"bilinear"` (default) or `"nearest"`.
        seed: None (default) or an integer, as of `RandomTranslation`.
        fill_value: what is outside, if `fill_mode` is `"constant"`; 0 by default.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a factor is no number.
        ValueError: if it is out of its range, or a value is none of the above.

    Reference: `keras.layers.RandomZoom`.

    Example:
        >>> from cnnrs import RandomZoom
        >>> RandomZoom((-0.2, 0.1)).height_factor
        (-0.2, 0.1)
    """

    _kind = "random_zoom"
    _settings = ("height_factor", "width_factor", *_Warp._reading)

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor | None = None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.height_factor = _zoom("height_factor", height_factor)
        self.width_factor = None if width_factor is None else _zoom("width_factor", width_factor)
        self._set_reading(fill_mode, interpolation, seed, fill_value, data_format)


class RandomAffine(_Warp):
    """In training, each image is zoomed, sheared, rotated and moved, all in one go.

    The result is that of the four one after the other, but the image is read between its pixels
    once only, which is sharper and faster than a layer for each. Otherwise as `RandomTranslation`.

    Args:
        rotation: as the factor of `RandomRotation`; 0 by default, as all of these.
        translation: as the factors of `RandomTranslation`, for the height and again for the width.
        zoom: as the factor of `RandomZoom`, one for both.
        shear: how many columns further to the right each row is read than the one above it, from -1
            to 1; the middle row stays.
        fill_mode: what is outside of an image, `"reflect"` by default; as of `RandomTranslation`.
        interpolation: what is between pixels: `"bilinear"` (default) or `"nearest"`.
        seed: None (default) or an integer, as of `RandomTranslation`.
        fill_value: what is outside, if `fill_mode` is `"constant"`; 0 by default.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a factor is no number.
        ValueError: if it is out of its range, or a value is none of the above.

    Reference: `keras.layers.RandomRotation`, `RandomTranslation`, `RandomZoom` and, for `shear`,
    the `x_factor` of `RandomShear`, which leaves the first row where it is.

    Example:
        >>> from cnnrs import RandomAffine
        >>> layer = RandomAffine(rotation=0.03, translation=0.1, zoom=(-0.1, 0.1), shear=0.1)
        >>> layer.rotation
        (-0.03, 0.03)
    """

    _kind = "random_affine"
    _settings = ("rotation", "translation", "zoom", "shear", *_Warp._reading)

    def __init__(
        self,
        rotation: Factor = 0.0,
        translation: Factor = 0.0,
        zoom: Factor = 0.0,
        shear: Factor = 0.0,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.rotation = _bounds("rotation", rotation)
        self.translation = _bounds("translation", translation)
        self.zoom = _zoom("zoom", zoom)
        self.shear = _bounds("shear", shear)
        self._set_reading(fill_mode, interpolation, seed, fill_value, data_format)


class RandomElastic(_Warp):
    """In training, each image is distorted as if it were drawn on rubber.

    Each pixel is read further down and to the right by smooth random numbers: even ones from -1 to
    1, blurred by a Gaussian of standard deviation `sigma` and multiplied by `alpha`; their root
    mean square is `0.163 * alpha / sigma` pixels. (In place of a Gaussian there are cubic B-splines
    of the same width, `1.73 * sigma` apart.) Otherwise as `RandomTranslation`.

    Args:
        alpha: how strong the distortion is, from 0 to 10,000; 34 by default.
        sigma: how smooth it is, in pixels, from 0.5 to 10,000; 4 by default.
        fill_mode: what is outside of an image, `"reflect"` by default; as of `RandomTranslation`.
        interpolation: what is between pixels: `"bilinear"` (default) or `"nearest"`.
        seed: None (default) or an integer, as of `RandomTranslation`.
        fill_value: what is outside, if `fill_mode` is `"constant"`; 0 by default.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a number is not one.
        ValueError: if it is out of its range, or a value is none of the above.

    Reference: P. Simard, D. Steinkraus and J. Platt, 2003, who have these defaults for MNIST.

    Example:
        >>> from cnnrs import Conv2D, Input, RandomElastic, Sequential
        >>> model = Sequential([Input((28, 28, 1)), RandomElastic(alpha=20, sigma=4), Conv2D(8, 3)])
        >>> model.count_params()
        80
    """

    _kind = "random_elastic"
    _settings = ("alpha", "sigma", *_Warp._reading)

    def __init__(
        self,
        alpha: float = 34.0,
        sigma: float = 4.0,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.alpha = between("alpha", alpha, 0, 1e4)
        self.sigma = between("sigma", sigma, 0.5, 1e4)
        self._set_reading(fill_mode, interpolation, seed, fill_value, data_format)


class RandomErasing(Augmentation):
    """In training, a rectangle somewhere in an image is painted over.

    Its height is the square root of what is drawn uniformly from `scale` times the image's, its
    width that of another such number times the image's, and its place is any. Otherwise as
    `RandomTranslation`.

    Args:
        factor: the probability that it is done, itself drawn uniformly for each image: `(least,
            largest)`, or one number `f` for `(0, f)`, which comes to `f / 2` of all images. So the
            default, 1, does it to half of them, as in Keras, and `(1, 1)` to all.
        scale: from 0 to 1: `(least, largest)`, or one number `f` for `(0, f)`; `(0.02, 0.33)` by
            default.
        fill_value: what to paint with: a number, or three for images of three channels; None
            (default) is random numbers of a normal distribution, whose standard deviation is the
            largest of `value_range`.
        value_range: to which all paint is clipped, `(0, 255)` by default.
        seed: None (default) or an integer, as of `RandomTranslation`.
        data_format: `"channels_last"` or None (default), which is the same.
        **common: `name` and `input_shape`, as of every `Layer`.

    Raises:
        TypeError: if a number is not one.
        ValueError: if it is out of its range.

    Reference: `keras.layers.RandomErasing`; Z. Zhong et al., 2017.

    Example:
        >>> from cnnrs import Conv2D, Input, RandomErasing, Rescaling, Sequential
        >>> erasing = RandomErasing((1, 1), fill_value=0)
        >>> model = Sequential([Input((28, 28, 1)), erasing, Rescaling(1 / 255), Conv2D(8, 3)])
        >>> erasing.factor
        (1.0, 1.0)
    """

    _kind = "random_erasing"
    _settings = ("factor", "scale", "fill_value", "value_range", "seed")

    def __init__(
        self,
        factor: Factor = 1.0,
        scale: Factor = (0.02, 0.33),
        fill_value: float | Sequence[float] | None = None,
        value_range: Sequence[float] = (0, 255),
        seed: int | None = None,
        data_format: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.factor = _bounds("factor", factor, least=0.0)
        self.scale = _bounds("scale", scale, least=0.0)
        self.fill_value = _paint(fill_value)
        self.value_range = _range("value_range", value_range)
        self._set_seed(seed)
        channels_last(data_format)


def _bounds(name: str, value: Factor, *, least: float = -1.0) -> tuple[float, float]:
    """The least and the largest of what is drawn, from one number or two from `least` to 1."""
    expected = f"a number from {least:g} to 1, or two"

    def bound(it: float) -> float:
        return number(name, it, expected, lambda value: least <= value <= 1)

    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
        low, high = sorted(map(bound, value))
        return low, high
    high = abs(bound(value))  # type: ignore[arg-type]
    return max(0.0 - high, least), high


def _zoom(name: str, value: Factor) -> tuple[float, float]:
    bounds = _bounds(name, value)
    if bounds[0] == -1:
        raise ValueError(f"{name}: expected numbers above -1, got {value!r}")
    return bounds


def _range(name: str, value: Sequence[float]) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name}: expected two numbers (smallest, largest), got {value!r}")
    low, high = (number(name, it) for it in value)
    if low > high:
        raise ValueError(f"{name}: expected the smaller number first, got {value!r}")
    return low, high


def _paint(value: float | Sequence[float] | None) -> float | tuple[float, ...] | None:
    if isinstance(value, list | tuple):
        if len(value) != 3:
            raise ValueError(f"fill_value: expected one number, three or None, got {value!r}")
        return tuple(number("fill_value", it) for it in value)
    return None if value is None else number("fill_value", value)  # type: ignore[arg-type]
