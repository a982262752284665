"""Draws on a patient's own coordinates: soft shapes, smooth noise, arrows, film and scanner grain.

x grows to the image's right, which is the patient's left, y grows downwards, and the picture spans
-1 to 1 in both. Fields are float32 of shape (SIZE, SIZE); brightness runs from 0, black, to 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 256

Field = np.ndarray
Random = np.random.Generator


class Lesion(NamedTuple):
    """One finding in one patient: what it is, on which side of the patient, and how large."""

    finding: str
    side: str
    size: str

    @property
    def sign(self) -> int:
        """The side of the image that it lies on: -1 is the image's left, the patient's right."""
        return -1 if self.side == "right" else 1

    @property
    def large(self) -> bool:
        return self.size == "large"


class Spot(NamedTuple):
    """Where an arrow should point: a centre in body coordinates, and how far from it to stop."""

    x: float
    y: float
    radius: float


class Box(NamedTuple):
    """A rectangle of pixels: columns x0 to x1 and rows y0 to y1, the last ones not included."""

    x0: int
    y0: int
    x1: int
    y1: int


def bounds(mask: np.ndarray) -> Box:
    """Return the smallest box that holds every pixel of a mask, bool (rows, columns)."""
    (columns,), (rows,) = np.nonzero(mask.any(axis=0)), np.nonzero(mask.any(axis=1))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


class Canvas:
    """A picture in the making, and where in the patient's body each of its pixels lies.

    The body coordinates are turned, stretched, shifted and bent at random, so that a drawing with
    fixed numbers comes out as another patient each time.

    Args:
        rng: where all of that comes from.
        turn: largest rotation, in degrees.
        bend: how far outlines are bent, in body coordinates (one standard deviation).
    """

    def __init__(self, rng: Random, *, turn: float, bend: float) -> None:
        self.rng = rng
        self.image: Field = np.zeros((SIZE, SIZE), np.float32)
        line = np.linspace(-1, 1, SIZE, dtype=np.float32)
        column, row = np.meshgrid(line, line)
        angle = np.radians(rng.uniform(-turn, turn))
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        (wide, tall), (right, down) = rng.uniform(0.95, 1.05, 2), rng.uniform(-0.04, 0.04, 2)
        bent_x, bent_y = bend * self.noise(5), bend * self.noise(5)
        self.x: Field = float(wide) * (cos * column + sin * row - float(right)) + bent_x
        self.y: Field = float(tall) * (cos * row - sin * column - float(down)) + bent_y
        self.side: Field = np.abs(self.x)
        self.parts: dict[str, Field] = {}  # outlines that the findings refer to

    def noise(self, cells: int) -> Field:
        """Return a smooth random field, standard normal at `cells` by `cells` knots."""
        knots = Image.fromarray(self.rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(knots.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def depth(self, centre: Any, radii: Any, tilt: float = 0.0, *, both: bool = False) -> Field:
        """Return about how deep each pixel lies within an ellipse: 0 on its outline, < 0 outside.

        Args:
            centre: x and y.
            radii: half its width and half its height.
            tilt: radians, clockwise.
            both: whether it lies on both sides of the body, mirrored.
        """
        dx, dy = (self.side if both else self.x) - float(centre[0]), self.y - float(centre[1])
        wide, tall = float(radii[0]), float(radii[1])
        cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
        along = dx * (cos / wide) + dy * (sin / wide)
        across = dy * (cos / tall) - dx * (sin / tall)
        return (1 - norm(along, across)) * min(wide, tall)

    def ellipse(
        self,
        centre: Any,
        radii: Any,
        tilt: float = 0.0,
        *,
        edge: float = 0.02,
        wobble: Any = 0.0,
        both: bool = False,
    ) -> Field:
        """Return an ellipse's mask; the field `wobble` pushes its outline in and out."""
        return step(self.depth(centre, radii, tilt, both=both) + wobble, edge)

    def paint(self, mask: Field, value: float | Field) -> None:
        """Cover the picture with `value` where `mask` is 1."""
        self.image += mask * (value - self.image)

    def develop(self, *, blur: float, grain: float) -> Image.Image:
        """Return the grey-scale picture ("L") with grain, blur (pixels) and a window of its own."""
        rng = self.rng
        noisy = self.image + grain * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
        windowed = np.clip(noisy, 0, 1) ** rng.uniform(0.88, 1.14) * rng.uniform(0.92, 1.0)
        return Image.fromarray(np.uint8(255 * windowed)).filter(ImageFilter.GaussianBlur(blur))

    def point_at(self, picture: Image.Image, spot: Spot) -> None:
        """Draw a white arrow, outlined in black, that comes from the side and stops at `spot`."""
        nearest = int(np.argmin((self.x - spot.x) ** 2 + (self.y - spot.y) ** 2))
        row, column = divmod(nearest, SIZE)
        angle = self.rng.uniform(-0.9, 0.9) + (0 if spot.x > 0 else np.pi)
        away = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-away[1], away[0]])
        tip = np.array([column, row]) + away * (spot.radius * SIZE * 0.35 + 2)
        outline = [(0, 0), (9, 5), (9, 2), (26, 2), (26, -2), (9, -2), (9, -5)]
        points = [tuple(tip + back * away + aside * across) for back, aside in outline]
        ImageDraw.Draw(picture).polygon(points, fill=250, outline=20)


def extent(canvas: Canvas, lesion: Lesion, *, small: tuple, large: tuple) -> float:
    """Return how large a finding is drawn, at random between the two bounds of its size."""
    return canvas.rng.uniform(*(large if lesion.large else small))


def step(distance: Field, edge: float = 0.02) -> Field:
    """Return 1 where `distance` is positive, 0 where negative, and a ramp `edge` wide between."""
    return np.clip(distance / edge + 0.5, 0, 1)


def norm(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y)  # several times faster than np.hypot


def inscribe(picture: Image.Image, text: str, height: int, rng: Random) -> None:
    """Write `text`, `height` pixels high, into the upper left corner, never twice at one place."""
    left, top = (int(n) for n in rng.integers(4, 16, 2))
    font = ImageFont.load_default(height)
    ImageDraw.Draw(picture).text((left, top), text, fill=190, font=font)
