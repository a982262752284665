"""Paints brain MRIs and pelvic ultrasound images: healthy bodies and findings."""

import numpy as np
from PIL import Image

from roco_caption.data.phantoms.canvas import Canvas, Field, Lesion, Spot, extent, norm, step

_PROBE = -1.5  # y of the point where all ultrasound beams start


def brain(canvas: Canvas) -> None:
    rng = canvas.rng
    width, height = rng.uniform(0.68, 0.74), rng.uniform(0.84, 0.9)
    depth = width - width * norm(canvas.x / (width - 0.05 * canvas.y), canvas.y / height)
    canvas.paint(step(depth), 0.5 + 0.06 * canvas.noise(20))
    canvas.paint(step(depth - 0.05), 0.06)
    canvas.paint(step(depth - 0.085), 0.86)
    brain = step(depth - 0.11)
    folds = np.minimum(np.abs(canvas.noise(14)), np.abs(canvas.noise(19)) + 0.05)
    cortex = brain * np.clip(1.5 - (depth - 0.11) / rng.uniform(0.13, 0.17), 0, 1)
    canvas.paint(brain, 0.36 + 0.015 * canvas.noise(12))
    canvas.paint(cortex * step(0.5 - folds, 0.3), 0.52)
    canvas.paint(cortex * step(0.1 - folds, 0.12), 0.85)
    canvas.parts = {"depth": depth, "brain": brain, "healthy": brain, "shift": 0 * depth}


def ventricles(canvas: Canvas) -> None:
    """Add fissure, ventricles and deep grey matter, displaced by the mass effect of findings."""
    healthy = canvas.parts["healthy"]
    canvas.side = np.abs(canvas.x - canvas.parts["shift"] + 0.006 * canvas.noise(9))
    fissure = step(0.012 - canvas.side, 0.012) * step(np.abs(canvas.y + 0.03) - 0.3, 0.1)
    canvas.paint(0.8 * fissure * healthy, 0.85)
    width = canvas.rng.uniform(0.8, 1.25)
    for centre, radii, tilt, edge, value in (
        ((0.2, -0.04), (0.09, 0.17), -0.35, 0.04, 0.45),
        ((0.11, 0.08), (0.09, 0.12), 0.2, 0.04, 0.47),
        ((0.1, -0.2), (0.055 * width, 0.14), -0.35, 0.02, 0.9),
        ((0.2, 0.3), (0.055 * width, 0.17), -0.3, 0.02, 0.9),
        ((0.0, 0.02), (0.02 * width, 0.12), 0.0, 0.02, 0.85),
    ):
        canvas.paint(canvas.ellipse(centre, radii, tilt, edge=edge, both=True) * healthy, value)


def _displace(canvas: Canvas, lesion: Lesion, mask: Field) -> None:
    """Replace healthy brain with a lesion, and push the midline to the other side."""
    canvas.parts["healthy"] = canvas.parts["healthy"] * (1 - mask)
    amount = lesion.sign * extent(canvas, lesion, small=(0.02, 0.04), large=(0.07, 0.12))
    canvas.parts["shift"] -= amount * np.exp(-2 * canvas.x**2 - 3 * canvas.y**2)


def glioma(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, extent(canvas, lesion, small=(0.14, 0.16), large=(0.22, 0.26))
    centre = (lesion.sign * rng.uniform(0.25, 0.33), rng.uniform(-0.3, 0.18))
    brain, fingers = canvas.parts["brain"], 0.07 * canvas.noise(11)
    oedema = canvas.ellipse(centre, (1.6 * radius, 1.8 * radius), edge=0.06, wobble=fingers)
    canvas.paint(oedema * brain, 0.76)
    _displace(canvas, lesion, oedema)
    depth = canvas.depth(centre, (radius, radius)) + 0.025 * canvas.noise(12)
    canvas.paint(step(depth, 0.03) * brain, 0.14)
    canvas.paint(step(depth - 0.4 * radius, 0.04) * brain, 0.6 + 0.12 * canvas.noise(20))
    return Spot(*centre, radius)


def infarct(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, middle = canvas.rng, canvas.rng.uniform(-0.25, 0.35)
    half = extent(canvas, lesion, small=(0.36, 0.44), large=(0.66, 0.8))
    start = extent(canvas, lesion, small=(0.32, 0.38), large=(0.2, 0.26))
    angle = np.arctan2(canvas.y - 0.02, lesion.sign * canvas.x) - middle + 0.06 * canvas.noise(9)
    wedge = step(half - np.abs(angle), 0.12) * step(norm(canvas.x, canvas.y) - start, 0.06)
    bright = rng.uniform(0.74, 0.82) + 0.02 * canvas.noise(20)
    canvas.paint(wedge * canvas.parts["brain"], bright)
    canvas.parts["healthy"] = canvas.parts["healthy"] * (1 - wedge)
    return Spot(lesion.sign * 0.48 * np.cos(middle), 0.02 + 0.48 * np.sin(middle), 0.05)


def subdural(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, depth = canvas.rng, canvas.parts["depth"]
    middle, half = rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.15)
    thick = extent(canvas, lesion, small=(0.085, 0.11), large=(0.17, 0.22))
    angle = np.arctan2(canvas.y, lesion.sign * canvas.x) - middle
    crescent = thick * np.sqrt(np.clip(1 - (angle / half) ** 2, 0, 1))
    blood = step(depth - 0.085) * step(0.085 + crescent - depth) * (crescent > 0)
    canvas.paint(blood, rng.uniform(0.88, 1.0) + 0.03 * canvas.noise(14))
    _displace(canvas, lesion, blood)
    return Spot(lesion.sign * 0.58 * np.cos(middle), 0.6 * np.sin(middle), 0.03)


def pelvis(canvas: Canvas) -> None:
    rng, depth = canvas.rng, norm(canvas.x, canvas.y - _PROBE)
    canvas.image += 0.38 + 0.07 * canvas.noise(7) + 0.06 * canvas.noise(30)
    for layer in rng.uniform(0.62, 0.86, 5).tolist():
        canvas.paint(0.8 * step(0.012 - np.abs(depth - layer), 0.012), rng.uniform(0.5, 0.8))
    bladder = (rng.uniform(-0.06, 0.06), rng.uniform(-0.36, -0.28))
    urine = canvas.depth(bladder, (rng.uniform(0.24, 0.34), 0.14)) + 0.02 * canvas.noise(4)
    canvas.paint(step(urine + 0.02, 0.03), 0.62)
    canvas.paint(step(urine), 0.03)
    uterus = (rng.uniform(-0.05, 0.05), rng.uniform(0.1, 0.18))
    wobble = 0.015 * canvas.noise(6)
    muscle = canvas.depth(uterus, (0.31, 0.22)) + wobble
    canvas.paint(step(muscle, 0.03), 0.6)
    canvas.paint(step(muscle - 0.03, 0.04), 0.33)
    stripe = canvas.ellipse(uterus, (0.15, 0.035), rng.uniform(-0.2, 0.2), edge=0.04, wobble=wobble)
    canvas.paint(stripe, 0.8)
    beam = np.arctan2(canvas.x, canvas.y - _PROBE)
    canvas.parts = {"depth": depth, "beam": beam, "gain": 1.27 - 0.25 * depth}


def echoes(canvas: Canvas) -> None:
    """Turn tissue into echoes: gain along the beams, speckle, and the sector that the probe sees.

    Speckle is Rayleigh noise on a polar grid, so its grains widen with depth. The square root
    imitates the scanner's compression.
    """
    depth, beam, gain = (canvas.parts[name] for name in ("depth", "beam", "gain"))
    grains = Image.fromarray(canvas.rng.rayleigh(0.8, (200, 110)).astype(np.float32))
    noise = np.asarray(grains.resize((440, 800), Image.Resampling.BICUBIC))
    column = np.clip((beam + 0.7) * (440 / 1.4), 0, 439).astype(int)
    row = np.clip((depth - 0.5) * 400, 0, 799).astype(int)
    speckle = np.sqrt(np.clip(noise, 0.02, None))[row, column]
    sector = step(0.62 - np.abs(beam), 0.01) * step(depth - 0.58) * step(2.42 - depth)
    canvas.image = np.clip(canvas.image, 0.02, 1.2) * gain * speckle * sector


def _adnexa(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, extent(canvas, lesion, small=(0.15, 0.18), large=(0.24, 0.28))
    return Spot(lesion.sign * rng.uniform(0.42, 0.5), rng.uniform(0.1, 0.28), radius)


def _behind(canvas: Canvas, spot: Spot) -> Field:
    """Return the mask of the tissue that the beams reach only through `spot`."""
    distance = float(np.hypot(spot.x, spot.y - _PROBE))
    angle = canvas.parts["beam"] - float(np.arctan2(spot.x, spot.y - _PROBE))
    within = step(0.9 * spot.radius / distance - np.abs(angle), 0.04)
    return within * step(canvas.parts["depth"] - distance, 0.06)


def adnexal_cyst(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    canvas.parts["gain"] *= 1 + rng.uniform(0.6, 0.9) * _behind(canvas, spot)  # enhancement
    radii = (spot.radius, spot.radius * rng.uniform(0.85, 1))
    fluid = canvas.depth(spot[:2], radii) + 0.01 * canvas.noise(6)
    canvas.paint(step(fluid + 0.02), 0.7)
    canvas.paint(step(fluid), 0.02)
    return spot


def solid_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    radii = (spot.radius, spot.radius * rng.uniform(0.8, 1))
    mass = canvas.ellipse(spot[:2], radii, edge=0.03, wobble=0.03 * canvas.noise(8))
    canvas.paint(mass, rng.uniform(0.85, 1.0) + 0.12 * canvas.noise(20))
    return spot


def dermoid(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    radii, wobble = (spot.radius, 0.8 * spot.radius), 0.01 * canvas.noise(8)
    front = canvas.ellipse(spot[:2], radii, wobble=wobble)
    canvas.parts["gain"] *= 1 - rng.uniform(0.88, 0.97) * _behind(canvas, spot)  # shadow
    canvas.paint(front * step(spot.y - 0.25 * spot.radius - canvas.y, 0.08), 1.25)
    return Spot(spot.x, spot.y - 0.5 * spot.radius, 0.7 * spot.radius)


BRAIN = {"glioma": glioma, "infarct": infarct, "subdural hematoma": subdural}
PELVIS = {"adnexal cyst": adnexal_cyst, "solid adnexal mass": solid_mass, "dermoid": dermoid}
