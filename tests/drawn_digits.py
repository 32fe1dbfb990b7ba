"""Ten digits drawn with a pen, for tests: strokes as curves through points."""

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]

STROKES = {
    0: [
        "55 0, 22 14, 8 50, 22 88, 50 100, 80 85, 92 50, 80 14, 52 0",
    ],
    1: [
        "35 22, 52 0",
        "52 0, 50 50, 47 100",
    ],
    2: [
        "12 24, 28 4, 58 0, 80 16, 76 42, 48 72, 10 98",
        "10 98, 50 96, 92 97",
    ],
    3: [
        "15 12, 40 0, 70 7, 77 26, 62 43, 38 48",
        "38 48, 68 54, 84 74, 70 94, 40 100, 10 90",
    ],
    4: [
        "30 0, 20 30, 10 58, 90 56",
        "72 10, 68 55, 62 100",
    ],
    5: [
        "26 3, 22 25, 18 44",
        "18 44, 45 38, 76 52, 82 76, 60 97, 30 100, 8 90",
        "26 3, 55 3, 86 0",
    ],
    6: [
        "72 0, 40 20, 18 52, 20 84, 45 100, 74 90, 80 68, 58 53, 32 60, 20 76",
    ],
    7: [
        "8 6, 45 5, 88 3",
        "88 3, 62 42, 40 100",
    ],
    8: [
        "76 14, 50 0, 25 12, 30 34, 55 50, 80 72, 70 94, 42 100, 20 86, 26 64, 52 46, 74 30, 76 14",
    ],
    9: [
        "78 20, 54 2, 26 12, 20 34, 42 50, 68 42, 79 20",
        "79 20, 76 55, 66 100",
    ],
}
"""For each digit its strokes: points x y in percent of its width and height, y downwards."""


def draw(
    digit: int,
    size: tuple[int, int] = (200, 300),
    at: Point = (0.3, 0.25),
    scale: Point = (0.45, 0.4),
    pen: int = 16,
    ink: int = 30,
    paper: int = 255,
) -> Image.Image:
    """A grey picture of a digit; place and scale are shares of its width and height."""
    picture = Image.new("L", size, paper)
    canvas = ImageDraw.Draw(picture)
    for stroke in STROKES[digit]:
        points = [
            tuple(
                (begin + part * share) * length
                for begin, part, share, length in zip(at, point, scale, size, strict=True)
            )
            for point in curve(stroke)
        ]
        for x, y in points:
            canvas.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=ink)
    return picture


def curve(stroke: str, steps: int = 25) -> list[Point]:
    """A smooth curve through a stroke's points (Catmull and Rom's), as dense as a pen's dots."""
    points = [tuple(map(int, point.split())) for point in stroke.split(",")]
    ends = np.array([points[0], *points, points[-1]]) / 100
    t = np.linspace(0, 1, steps)[:, None]
    parts = [
        0.5
        * (
            2 * b
            + (c - a) * t
            + (2 * a - 5 * b + 4 * c - d) * t**2
            + (3 * b - a - 3 * c + d) * t**3
        )
        for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]
