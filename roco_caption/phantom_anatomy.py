"""Draws one patient with known findings: chest film, abdominal CT, brain MRI, pelvic ultrasound.

Each modality is a function that paints the healthy body on a canvas, and one function a finding
that paints what is wrong and returns where. They follow what such pictures show, and exaggerate:
a finding takes up a good part of its organ, so that an encoder that was never trained can see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from roco_caption.phantom_drawing import Canvas, Field, Lesion, Random, Spot, inscribe, norm, step


def _size(canvas: Canvas, lesion: Lesion, *, small: tuple, large: tuple) -> float:
    return canvas.rng.uniform(*(large if lesion.large else small))


# ----------------------------------------------------------------------------- chest radiograph


def _chest(canvas: Canvas) -> None:
    x, y, side, rng = canvas.x, canvas.y, canvas.side, canvas.rng
    outline = [-1, -0.88, -0.76, -0.5, 0.3, 1.2], [0.26, 0.3, 0.7, 1.05, 0.98, 0.94]
    width = np.interp(y, *outline)
    canvas.paint(step(width.astype(np.float32) - side, 0.06), 0.6 - 0.15 * (side * side) ** 2)
    chest = canvas.ellipse((0.43, 0.06), (0.36, 0.86), 0.07, edge=0.04, both=True)
    left, right = rng.uniform(0.48, 0.56), rng.uniform(0.42, 0.5)
    diaphragm = left + (right - left) * (x < 0) + rng.uniform(0.9, 1.3) * (side - 0.36) ** 2
    chest *= step(side - 0.1, 0.05) * step(diaphragm + 0.1 - y, 0.2)
    lung = chest * step(diaphragm - y, 0.03)
    canvas.paint(step(y - diaphragm, 0.05) * step(0.8 - side, 0.1), 0.70)
    canvas.paint(lung, 0.20 + 0.05 * y + 0.03 * canvas.noise(4))
    stomach = (rng.uniform(0.3, 0.42), rng.uniform(0.72, 0.8))
    canvas.paint(0.6 * canvas.ellipse(stomach, (0.13, 0.08), edge=0.06), 0.35)
    canvas.parts = {"chest": chest, "lung": lung, "vessels": _vessels(canvas) * lung}


def _vessels(canvas: Canvas) -> Field:
    """Return the lungs' markings, which fan out from both hila and thin out with distance."""
    shade = 0.012 * canvas.noise(40)
    for sign in (-1, 1):
        dx, dy = sign * canvas.x - 0.17, canvas.y - 0.02
        angle = np.arctan2(dy, dx) + 0.1 * canvas.noise(9)
        knots = canvas.rng.standard_normal(70)
        fan = np.clip(np.interp(np.arange(-4, 4, 0.01), np.linspace(-4, 4, 70), knots), 0, 2)
        spokes = fan.astype(np.float32)[((angle + 4) * 100).astype(int) % 800]
        shade += 0.16 * spokes * np.exp(-3.2 * norm(dx, dy)) * (dx > -0.1)
    return shade


def _chest_front(canvas: Canvas) -> None:
    """Add what a film lays over the lungs: markings, heart, great vessels, trachea, bones."""
    x, y, side, rng = canvas.x, canvas.y, canvas.side, canvas.rng
    canvas.image += canvas.parts["vessels"]
    apex = (rng.uniform(0.1, 0.16), 0.3)
    heart = canvas.ellipse(apex, (rng.uniform(0.32, 0.4), 0.24), 0.6, edge=0.06)
    atrium = canvas.ellipse((-0.07, 0.28), (0.15, 0.22), edge=0.06)
    aorta = canvas.ellipse((0.1, -0.24), (0.12, 0.13), edge=0.06)
    mediastinum = step(0.14 + 0.05 * np.abs(y) - side, 0.06)
    middle = np.maximum.reduce([heart, atrium, aorta, mediastinum])
    canvas.image += middle * np.clip(0.68 - canvas.image, 0, 1)
    canvas.image += 0.05 * step(0.085 - side, 0.03) * (1 + 0.4 * np.sin(34 * y))
    canvas.image -= 0.1 * step(0.045 - np.abs(x - 0.01), 0.03) * step(-0.18 - y, 0.1)
    bare = np.clip(1.1 - canvas.image, 0, 1) * step(0.8 - side, 0.06) * step(y + 0.78, 0.2)
    canvas.image += _ribs(canvas) * bare * step(side - 0.1, 0.1)
    canvas.image += 0.05 * canvas.ellipse((0.76, -0.3), (0.1, 0.3), 0.25, edge=0.04, both=True)
    along = -0.6 - 0.3 * (side - 0.1) + 0.12 * np.sin(5 * side)
    clavicle = step(0.034 - np.abs(y - along)) * step(side - 0.1) * step(0.8 - side)
    canvas.image += 0.08 * clavicle


def _ribs(canvas: Canvas) -> Field:
    """Return the ribs' brightness: each bends down from the spine, and comes back in front."""
    y, side, rng = canvas.y, canvas.side, canvas.rng
    spacing = rng.uniform(0.16, 0.18)
    behind = (
        y - 0.1 * side - rng.uniform(0.6, 0.75) * side * side * side
    ) / spacing + rng.uniform()
    before = (y + rng.uniform(0.7, 0.9) * side) / (1.2 * spacing) + rng.uniform()
    shade = np.zeros_like(y)
    for phase, weight, width in ((behind, 0.085, 0.5), (before, 0.03, 0.4)):
        across = np.abs(phase % 1 - 0.5) * (2 / width)
        shade += weight * step(1 - across, 0.25) * (0.6 + 0.8 * np.clip(across, 0, 1) ** 2)
    return shade


def _effusion(canvas: Canvas, lesion: Lesion) -> Spot:
    level = _size(canvas, lesion, small=(0.2, 0.3), large=(-0.2, 0.02))
    meniscus = level + 0.12 - 0.9 * np.clip(canvas.side - 0.3, 0, 1) ** 1.6
    fluid = canvas.parts["chest"] * step(canvas.y - meniscus, 0.07) * step(lesion.sign * canvas.x)
    canvas.paint(fluid, canvas.rng.uniform(0.68, 0.78))
    canvas.parts["vessels"] *= 1 - fluid
    return Spot(lesion.sign * 0.55, level + 0.1, 0.02)


def _pneumothorax(canvas: Canvas, lesion: Lesion) -> Spot:
    rest = _size(canvas, lesion, small=(0.74, 0.82), large=(0.42, 0.56))
    centre = (lesion.sign * (0.03 + 0.4 * rest), 0.41 - 0.35 * rest)
    edge = canvas.depth(centre, (0.36 * rest, 0.86 * rest)) + 0.012 * canvas.noise(6)
    cavity = canvas.parts["lung"] * step(lesion.sign * canvas.x)
    air, collapsed = cavity * (1 - step(edge)), cavity * step(edge)
    canvas.paint(air, canvas.rng.uniform(0.03, 0.07))
    canvas.image += collapsed * (0.22 if lesion.large else 0.09)
    canvas.image += 0.16 * cavity * np.exp(-((edge / 0.012) ** 2))
    canvas.parts["vessels"] *= 1 - air
    return Spot(centre[0] + lesion.sign * 0.3 * rest, centre[1] - 0.45 * rest, 0.02)


def _lung_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, _size(canvas, lesion, small=(0.14, 0.17), large=(0.26, 0.31))
    centre = (lesion.sign * rng.uniform(0.4, 0.5), rng.uniform(-0.42, 0.08))
    radii = (radius, radius * rng.uniform(0.85, 1.1))
    wobble = 0.02 * canvas.noise(12)
    mass = canvas.ellipse(centre, radii, rng.uniform(0, 3), edge=0.05, wobble=wobble)
    canvas.paint(mass * canvas.parts["lung"], rng.uniform(0.64, 0.76))
    return Spot(*centre, radius)


# ---------------------------------------------------------------------------------- abdominal CT


def _abdomen(canvas: Canvas) -> None:
    x, y, rng = canvas.x, canvas.y, canvas.rng
    fat = rng.uniform(0.05, 0.13)
    canvas.paint(0.5 * step(0.01 - np.abs(y - 0.86 + 0.2 * x**2)), 0.35)  # the table
    bulge = np.abs(x / 0.93) ** 2.3 + np.abs(y / 0.72) ** 2.3
    depth = 0.75 - 0.75 * bulge ** (1 / 2.3)
    for inset, value in ((0.0, 0.50), (0.018, 0.24), (fat, 0.55), (fat + 0.055, 0.25)):
        canvas.paint(step(depth - inset), value)
    inside = step(depth - inset)
    _bowel(canvas, inside)
    radii, wobble = (0.33, rng.uniform(0.36, 0.48)), 0.02 * canvas.noise(5)
    liver = inside * canvas.ellipse((-0.58, -0.1), radii, 0.1, edge=0.03, wobble=wobble)
    canvas.paint(liver, 0.60 + 0.012 * canvas.noise(24))
    canvas.paint(liver * step(0.1 - np.abs(canvas.noise(9)), 0.1), 0.65)  # its vessels
    spleen = canvas.ellipse((0.68, 0.06), (0.13, rng.uniform(0.18, 0.28)), -0.15, edge=0.03)
    canvas.paint(spleen * inside, 0.64)
    _spine(canvas)
    for sign in (-1, 1):
        _kidney(canvas, sign)


def _bowel(canvas: Canvas, inside: Field) -> None:
    """Add loops that hold fluid, food, contrast medium or gas to the front of an abdomen."""
    rng = canvas.rng
    for content in rng.choice([0.42, 0.5, 0.78, 0.04], 11, p=[0.4, 0.35, 0.1, 0.15]):
        centre = (rng.uniform(-0.4, 0.62), rng.uniform(-0.5, -0.08))
        depth = canvas.depth(centre, rng.uniform(0.06, 0.13, 2), rng.uniform(0, 3))
        canvas.paint(inside * step(depth), 0.6)
        canvas.paint(inside * step(depth - 0.022), float(content))


def _spine(canvas: Canvas) -> None:
    """Add back muscles, psoas, vertebra, aorta and vena cava to an abdomen."""
    canvas.paint(canvas.ellipse((0.2, 0.5), (0.19, 0.13), 0.2, both=True), 0.54)
    psoas = (canvas.rng.uniform(0.08, 0.11), 0.13)
    canvas.paint(canvas.ellipse((0.19, 0.26), psoas, 0.3, both=True), 0.56)
    canvas.paint(canvas.ellipse((0.13, 0.42), (0.15, 0.025), 0.25, both=True), 0.85)
    canvas.paint(canvas.ellipse((0, 0.52), (0.028, 0.13)), 0.88)
    vertebra = canvas.depth((0, 0.24), (0.155, 0.125))
    canvas.paint(step(vertebra), 0.95)
    canvas.paint(step(vertebra - 0.03, 0.03), 0.76 + 0.03 * canvas.noise(50))
    canal = canvas.depth((0, 0.41), (0.08, 0.06))
    canvas.paint(step(canal), 0.92)
    canvas.paint(step(canal - 0.018), 0.45)
    canvas.paint(canvas.ellipse((0.07, 0.06), (0.062, 0.06)), 0.88)
    canvas.paint(canvas.ellipse((-0.1, 0.07), (0.078, 0.055)), 0.70)


def _kidney(canvas: Canvas, sign: int) -> None:
    rng, wobble = canvas.rng, 0.008 * canvas.noise(8)
    x, y = rng.uniform(0.42, 0.47), rng.uniform(0.2, 0.28)
    tilt = sign * rng.uniform(-0.7, -0.3)
    canvas.paint(canvas.ellipse((sign * x, y), (0.15, 0.19), tilt, wobble=wobble), 0.80)
    canvas.paint(canvas.ellipse((sign * x, y), (0.09, 0.13), tilt, edge=0.05, wobble=wobble), 0.70)
    hilum = (sign * (x - 0.08), y - 0.02)
    canvas.paint(canvas.ellipse(hilum, (0.085, 0.055), 0.2, edge=0.03, wobble=wobble), 0.27)


def _renal_cyst(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, _size(canvas, lesion, small=(0.13, 0.155), large=(0.22, 0.27))
    centre = (lesion.sign * rng.uniform(0.5, 0.58), rng.uniform(0.14, 0.28))
    radii = (radius, radius * rng.uniform(0.88, 1.1))
    canvas.paint(canvas.ellipse(centre, radii, rng.uniform(0, 3)), rng.uniform(0.32, 0.38))
    return Spot(*centre, radius)


def _renal_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, _size(canvas, lesion, small=(0.17, 0.20), large=(0.25, 0.29))
    centre = (lesion.sign * rng.uniform(0.5, 0.57), rng.uniform(0.12, 0.24))
    depth = canvas.depth(centre, (radius, radius)) + 0.03 * canvas.noise(9)
    canvas.paint(step(depth), 0.92 + 0.06 * canvas.noise(18))
    necrosis = step(depth - rng.uniform(0.55, 0.65) * radius, 0.06)
    canvas.paint(necrosis * rng.uniform(0.3, 0.9), 0.5)
    return Spot(*centre, radius)


def _psoas_abscess(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, width = canvas.rng, _size(canvas, lesion, small=(0.14, 0.155), large=(0.19, 0.21))
    centre = (lesion.sign * (0.1 + width) * rng.uniform(0.98, 1.1), rng.uniform(0.26, 0.34))
    radii, tilt = (width, 1.3 * width), lesion.sign * rng.uniform(-0.5, -0.2)
    depth = canvas.depth(centre, radii, tilt) + 0.012 * canvas.noise(9)
    canvas.paint(step(depth), 0.85)
    canvas.paint(step(depth - 0.04, 0.03), rng.uniform(0.33, 0.4))
    return Spot(*centre, width)


# ------------------------------------------------------------------------------------- brain MRI


def _brain(canvas: Canvas) -> None:
    rng = canvas.rng
    wide, tall = rng.uniform(0.68, 0.74), rng.uniform(0.84, 0.9)
    depth = wide - wide * norm(canvas.x / (wide - 0.05 * canvas.y), canvas.y / tall)
    canvas.paint(step(depth), 0.5 + 0.06 * canvas.noise(20))
    canvas.paint(step(depth - 0.05), 0.06)
    canvas.paint(step(depth - 0.085), 0.86)
    brain = step(depth - 0.11)
    folds = np.minimum(np.abs(canvas.noise(14)), np.abs(canvas.noise(19)) + 0.05)
    outer = brain * np.clip(1.5 - (depth - 0.11) / rng.uniform(0.13, 0.17), 0, 1)
    canvas.paint(brain, 0.36 + 0.015 * canvas.noise(12))
    canvas.paint(outer * step(0.5 - folds, 0.3), 0.52)
    canvas.paint(outer * step(0.1 - folds, 0.12), 0.85)
    canvas.parts = {"depth": depth, "brain": brain, "healthy": brain, "shift": 0 * depth}


def _ventricles(canvas: Canvas) -> None:
    """Add fissure, ventricles and deep grey matter, shifted as far as the findings push them."""
    y, rng = canvas.y, canvas.rng
    canvas.side = np.abs(canvas.x - canvas.parts["shift"] + 0.006 * canvas.noise(9))
    fissure = step(0.012 - canvas.side, 0.012) * step(np.abs(y + 0.03) - 0.3, 0.1)
    canvas.paint(0.8 * fissure * canvas.parts["healthy"], 0.85)
    plump = rng.uniform(0.8, 1.25)
    for centre, radii, tilt, edge, value in (
        ((0.2, -0.04), (0.09, 0.17), -0.35, 0.04, 0.45),
        ((0.11, 0.08), (0.09, 0.12), 0.2, 0.04, 0.47),
        ((0.1, -0.2), (0.055 * plump, 0.14), -0.35, 0.02, 0.9),
        ((0.2, 0.3), (0.055 * plump, 0.17), -0.3, 0.02, 0.9),
        ((0.0, 0.02), (0.02 * plump, 0.12), 0.0, 0.02, 0.85),
    ):
        shape = canvas.ellipse(centre, radii, tilt, edge=edge, both=True)
        canvas.paint(shape * canvas.parts["healthy"], value)


def _displace(canvas: Canvas, lesion: Lesion, mask: Field) -> None:
    """Let a lesion take the place of healthy brain, and push the midline to the other side."""
    canvas.parts["healthy"] = canvas.parts["healthy"] * (1 - mask)
    amount = _size(canvas, lesion, small=(0.02, 0.04), large=(0.07, 0.12))
    near = np.exp(-2 * canvas.x**2 - 3 * canvas.y**2)
    canvas.parts["shift"] -= lesion.sign * amount * near


def _glioma(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, _size(canvas, lesion, small=(0.14, 0.16), large=(0.22, 0.26))
    centre = (lesion.sign * rng.uniform(0.25, 0.33), rng.uniform(-0.3, 0.18))
    brain, fingers = canvas.parts["brain"], 0.07 * canvas.noise(11)
    oedema = canvas.ellipse(centre, (1.6 * radius, 1.8 * radius), edge=0.06, wobble=fingers)
    canvas.paint(oedema * brain, 0.76)
    _displace(canvas, lesion, oedema)
    depth = canvas.depth(centre, (radius, radius)) + 0.025 * canvas.noise(12)
    canvas.paint(step(depth, 0.03) * brain, 0.14)
    canvas.paint(step(depth - 0.4 * radius, 0.04) * brain, 0.6 + 0.12 * canvas.noise(20))
    return Spot(*centre, radius)


def _infarct(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, middle = canvas.rng, canvas.rng.uniform(-0.25, 0.35)
    half = _size(canvas, lesion, small=(0.36, 0.44), large=(0.66, 0.8))
    start = _size(canvas, lesion, small=(0.32, 0.38), large=(0.2, 0.26))
    angle = np.arctan2(canvas.y - 0.02, lesion.sign * canvas.x) - middle + 0.06 * canvas.noise(9)
    wedge = step(half - np.abs(angle), 0.12) * step(norm(canvas.x, canvas.y) - start, 0.06)
    bright = rng.uniform(0.74, 0.82) + 0.02 * canvas.noise(20)
    canvas.paint(wedge * canvas.parts["brain"], bright)
    canvas.parts["healthy"] = canvas.parts["healthy"] * (1 - wedge)
    return Spot(lesion.sign * 0.48 * np.cos(middle), 0.02 + 0.48 * np.sin(middle), 0.05)


def _subdural(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, depth = canvas.rng, canvas.parts["depth"]
    middle, half = rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.15)
    thick = _size(canvas, lesion, small=(0.085, 0.11), large=(0.17, 0.22))
    angle = np.arctan2(canvas.y, lesion.sign * canvas.x) - middle
    crescent = thick * np.sqrt(np.clip(1 - (angle / half) ** 2, 0, 1))
    blood = step(depth - 0.085) * step(0.085 + crescent - depth) * (crescent > 0)
    canvas.paint(blood, rng.uniform(0.88, 1.0) + 0.03 * canvas.noise(14))
    _displace(canvas, lesion, blood)
    return Spot(lesion.sign * 0.58 * np.cos(middle), 0.6 * np.sin(middle), 0.03)


# ----------------------------------------------------------------------------- pelvic ultrasound

_PROBE = -1.5  # y of the point from which all beams come


def _pelvis(canvas: Canvas) -> None:
    rng, depth = canvas.rng, norm(canvas.x, canvas.y - _PROBE)
    canvas.image += 0.38 + 0.07 * canvas.noise(7) + 0.06 * canvas.noise(30)
    for layer in rng.uniform(0.62, 0.86, 5):
        wall = step(0.012 - np.abs(depth - float(layer)), 0.012)
        canvas.paint(0.8 * wall, rng.uniform(0.5, 0.8))
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


def _echoes(canvas: Canvas) -> None:
    """Turn tissue into echoes: gain along the beams, speckle, and the sector that the probe sees.

    Speckle is Rayleigh noise that lies along the beams, hence coarser across them with depth; the
    square root stands for the scanner's compression.
    """
    depth, beam, gain = (canvas.parts[name] for name in ("depth", "beam", "gain"))
    noise = Image.fromarray(canvas.rng.rayleigh(0.8, (200, 110)).astype(np.float32))
    noise = np.asarray(noise.resize((440, 800), Image.Resampling.BICUBIC))
    column = np.clip((beam + 0.7) * (440 / 1.4), 0, 439).astype(int)
    row = np.clip((depth - 0.5) * 400, 0, 799).astype(int)
    speckle = np.sqrt(np.clip(noise, 0.02, None))[row, column]
    sector = step(0.62 - np.abs(beam), 0.01) * step(depth - 0.58) * step(2.42 - depth)
    canvas.image = np.clip(canvas.image, 0.02, 1.2) * gain * speckle * sector


def _adnexa(canvas: Canvas, lesion: Lesion) -> Spot:
    radius = _size(canvas, lesion, small=(0.15, 0.18), large=(0.24, 0.28))
    x, y = lesion.sign * canvas.rng.uniform(0.42, 0.5), canvas.rng.uniform(0.1, 0.28)
    return Spot(x, y, radius)


def _behind(canvas: Canvas, spot: Spot) -> Field:
    """Return the mask of what the beams reach only through `spot`."""
    distance = float(np.hypot(spot.x, spot.y - _PROBE))
    angle = canvas.parts["beam"] - float(np.arctan2(spot.x, spot.y - _PROBE))
    within = step(0.9 * spot.radius / distance - np.abs(angle), 0.04)
    return within * step(canvas.parts["depth"] - distance, 0.06)


def _adnexal_cyst(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    canvas.parts["gain"] *= 1 + rng.uniform(0.6, 0.9) * _behind(canvas, spot)
    radii = (spot.radius, spot.radius * rng.uniform(0.85, 1))
    fluid = canvas.depth(spot[:2], radii) + 0.01 * canvas.noise(6)
    canvas.paint(step(fluid + 0.02), 0.7)
    canvas.paint(step(fluid), 0.02)
    return spot


def _solid_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    radii = (spot.radius, spot.radius * rng.uniform(0.8, 1))
    mass = canvas.ellipse(spot[:2], radii, edge=0.03, wobble=0.03 * canvas.noise(8))
    canvas.paint(mass, rng.uniform(0.85, 1.0) + 0.12 * canvas.noise(20))
    return spot


def _dermoid(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, spot = canvas.rng, _adnexa(canvas, lesion)
    radii, wobble = (spot.radius, 0.8 * spot.radius), 0.01 * canvas.noise(8)
    front = canvas.ellipse(spot[:2], radii, wobble=wobble)
    canvas.parts["gain"] *= 1 - rng.uniform(0.88, 0.97) * _behind(canvas, spot)
    canvas.paint(front * step(spot.y - 0.25 * spot.radius - canvas.y, 0.08), 1.25)
    return Spot(spot.x, spot.y - 0.5 * spot.radius, 0.7 * spot.radius)


# ------------------------------------------------------------------------------------- the whole


class _Modality(NamedTuple):
    body: Callable[[Canvas], None]
    findings: dict[str, Callable[[Canvas, Lesion], Spot]]
    finish: Callable[[Canvas], None] | None  # what lies over the findings or is made of them
    turn: float  # degrees
    bend: float
    blur: float  # pixels
    grain: float
    marker: tuple[str, int]  # what stands in the corner, and how high in pixels


_MODALITIES = {
    "chest radiograph": _Modality(
        _chest,
        {"pleural effusion": _effusion, "pneumothorax": _pneumothorax, "lung mass": _lung_mass},
        _chest_front,
        turn=3, bend=0.02, blur=0.8, grain=0.012, marker=("R", 17),
    ),
    "abdominal CT": _Modality(
        _abdomen,
        {"renal cyst": _renal_cyst, "renal mass": _renal_mass, "psoas abscess": _psoas_abscess},
        None,
        turn=4, bend=0.012, blur=0.6, grain=0.035, marker=("W 400  L 40", 9),
    ),
    "brain MRI": _Modality(
        _brain,
        {"glioma": _glioma, "infarct": _infarct, "subdural hematoma": _subdural},
        _ventricles,
        turn=5, bend=0.01, blur=0.6, grain=0.015, marker=("T2 TSE", 9),
    ),
    "pelvic ultrasound": _Modality(
        _pelvis,
        {"adnexal cyst": _adnexal_cyst, "solid adnexal mass": _solid_mass, "dermoid": _dermoid},
        _echoes,
        turn=0, bend=0.015, blur=0.5, grain=0.008, marker=("C5-2  34 Hz", 9),
    ),
}  # fmt: skip

FINDINGS: dict[str, tuple[str, ...]] = {
    name: tuple(modality.findings) for name, modality in _MODALITIES.items()
}


def draw(
    modality: str, lesions: Sequence[Lesion], rng: Random, *, arrow: bool = False
) -> Image.Image:
    """Draw one patient.

    Args:
        modality: a key of `FINDINGS`.
        lesions: the findings to draw, none or several; each one of `FINDINGS[modality]`.
        rng: where all variation comes from; the same state draws the same picture.
        arrow: whether a white arrow points at each lesion.

    Returns:
        A grey-scale picture ("L") of SIZE by SIZE pixels in radiological convention: the patient's
        right is on the image's left.
    """
    made = _MODALITIES[modality]
    canvas = Canvas(rng, turn=made.turn, bend=made.bend)
    made.body(canvas)
    spots = [made.findings[lesion.finding](canvas, lesion) for lesion in lesions]
    if made.finish:
        made.finish(canvas)
    blur, grain = made.blur * rng.uniform(0.7, 1.4), made.grain * rng.uniform(0.6, 1.4)
    picture = canvas.develop(blur=blur, grain=grain)
    for spot in spots if arrow else ():
        canvas.point_at(picture, spot)
    inscribe(picture, *made.marker, rng)
    return picture
