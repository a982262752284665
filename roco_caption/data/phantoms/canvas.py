"""Drawing in body coordinates: soft shapes, smooth noise, arrows, film and scanner grain.

x grows to the image's right, which is the patient's left, y grows downwards, and the image spans
-1 to 1 in both. Fields are float32 of shape (SIZE, SIZE); brightness is 0 (black) to 1 (white).
"""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 256
Field = np.ndarray
Random = np.random.Generator


class Lesion(NamedTuple):
    """A finding, the patient's side it is on ("right", "left"), its size ("small", "large")."""

    finding: str
    side: str
    size: str

    @property
    def sign(self) -> int:
        """The sign of its x coordinate: -1 is the image's left, the patient's right."""
        return -1 if self.side == "right" else 1


class Spot(NamedTuple):
    """Where an arrow points: a centre in body coordinates, and how far from it the arrow stops."""

    x: float
    y: float
    radius: float


class Canvas:
    """An image being drawn, and the body coordinates of its pixels.

    These are rotated (by up to `turn` degrees), scaled, shifted and bent (`bend` is the standard
    deviation) at random, so that the same drawing looks like a different patient each time.
    """

    def __init__(self, rng: Random, *, turn: float, bend: float) -> None:
        self.rng = rng
        self.image: Field = np.zeros((SIZE, SIZE), np.float32)
        line = np.linspace(-1, 1, SIZE, dtype=np.float32)
        column, row = np.meshgrid(line, line)
        angle = np.radians(rng.uniform(-turn, turn))
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        scale, shift = rng.uniform(0.95, 1.05, 2).tolist(), rng.uniform(-0.04, 0.04, 2).tolist()
        bent_x, bent_y = bend * self.noise(5), bend * self.noise(5)
        self.x: Field = scale[0] * (cos * column + sin * row - shift[0]) + bent_x
        self.y: Field = scale[1] * (cos * row - sin * column - shift[1]) + bent_y
        self.side: Field = np.abs(self.x)  # distance from the midline
        self.parts: dict[str, Field] = {}  # anatomy that the findings refer to

    def noise(self, cells: int) -> Field:
        """Return a smooth random field, standard normal at `cells` by `cells` knots."""
        knots = Image.fromarray(self.rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(knots.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def depth(self, centre: Any, radii: Any, tilt: float = 0.0, *, both: bool = False) -> Field:
        """Return the approximate depth of each pixel inside an ellipse, negative outside.

        `tilt` is in radians, clockwise; `both` mirrors the ellipse to the body's other side.
        """
        dx, dy = (self.side if both else self.x) - float(centre[0]), self.y - float(centre[1])
        a, b = float(radii[0]), float(radii[1])
        cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
        along = dx * (cos / a) + dy * (sin / a)
        across = dy * (cos / b) - dx * (sin / b)
        return (1 - norm(along, across)) * min(a, b)

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
        """Blend `value` into the image, with `mask` as its opacity."""
        self.image += mask * (value - self.image)

    def develop(self, *, blur: float, grain: float) -> Image.Image:
        """Return the image ("L") with grain, blur (pixels), random brightness and contrast."""
        noisy = self.image + grain * self.rng.standard_normal((SIZE, SIZE), dtype=np.float32)
        gamma, gain = self.rng.uniform(0.88, 1.14), self.rng.uniform(0.92, 1.0)
        windowed = np.clip(noisy, 0, 1) ** gamma * gain
        return Image.fromarray(np.uint8(255 * windowed)).filter(ImageFilter.GaussianBlur(blur))

    def point_at(self, picture: Image.Image, spot: Spot) -> None:
        """Draw a white arrow with a black outline that comes from the side and stops at `spot`."""
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
    """Return a random number from the range that belongs to the lesion's size."""
    return canvas.rng.uniform(*(large if lesion.size == "large" else small))


def step(distance: Field, edge: float = 0.02) -> Field:
    """Return 1 where `distance` is positive, 0 where negative, and a ramp `edge` wide between."""
    return np.clip(distance / edge + 0.5, 0, 1)


def norm(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y)  # several times faster than np.hypot
