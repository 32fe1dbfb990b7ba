"""Train on pictures of one's own: a folder that has a folder of PNG or JPEG files for each class.

    pip install "cnnrs[plots]"
    python examples/own_images.py

It draws them itself, circles, squares and triangles with a shaky pen, into a temporary folder.
Without Pillow it says so and does nothing.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from cnnrs import Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling, Sequential
from cnnrs.datasets import image_folder
from cnnrs.utils import set_random_seed

try:
    from PIL import Image, ImageDraw
except ModuleNotFoundError:
    print('Pillow is not installed, so that there is nothing to draw: pip install "cnnrs[plots]"')
    sys.exit()

CORNERS = {"circle": 40, "square": 4, "triangle": 3}
EACH = 500

set_random_seed(0)
rng = np.random.default_rng(0)


def draw(corners: int) -> Image.Image:
    """A shape of any size and place, turned by any angle, each corner a little off."""
    picture = Image.new("L", (64, 64), int(rng.integers(160, 256)))
    (x, y), radius, turn = rng.uniform(24, 40, 2), rng.uniform(12, 22), rng.uniform(0, math.tau)
    angles = turn + math.tau * np.arange(corners) / corners
    reach = radius * rng.uniform(0.94, 1.06, corners)
    points = [*zip(x + reach * np.cos(angles), y + reach * np.sin(angles), strict=True)]
    ink, pen = int(rng.integers(0, 100)), int(rng.integers(2, 5))
    ImageDraw.Draw(picture).line([*points, *points[:2]], fill=ink, width=pen, joint="curve")
    return picture


with tempfile.TemporaryDirectory() as folder:
    for name, corners in CORNERS.items():
        (Path(folder) / name).mkdir()
        for n in range(EACH):
            draw(corners).save(Path(folder) / name / f"{n:03}.png")
    x, y, class_names = image_folder(folder, image_size=(32, 32), color_mode="grayscale")

order = rng.permutation(len(x))  # or the last ones, to judge by, would be of one class
x, y = x[order], y[order]
model = Sequential(
    [
        Input(x.shape[1:]),
        Rescaling(1 / 255),
        Conv2D(16, 3, activation="relu"),
        MaxPooling2D(),
        Conv2D(32, 3, activation="relu"),
        MaxPooling2D(),
        Conv2D(64, 3, activation="relu"),
        MaxPooling2D(),
        Flatten(),
        Dense(len(class_names), activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
history = model.fit(x, y, epochs=20, validation_split=0.2, verbose=0)
accuracy = history.history["val_accuracy"][-1]
print(f"{len(x)} pictures of {', '.join(class_names)}: {accuracy:.1%} right of those not seen")
