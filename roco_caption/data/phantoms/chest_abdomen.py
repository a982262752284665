"""Paints chest radiographs and abdominal CTs: healthy bodies and findings.

Each finding's function adds it to the image and returns where. Findings are exaggerated: they take
up a large part of their organ, so that even an encoder with random weights can see them.
"""

import numpy as np

from roco_caption.data.phantoms.canvas import Canvas, Field, Lesion, Spot, extent, norm, step


def chest(canvas: Canvas) -> None:
    x, y, side, rng = canvas.x, canvas.y, canvas.side, canvas.rng
    heights, widths = [-1, -0.88, -0.76, -0.5, 0.3, 1.2], [0.26, 0.3, 0.7, 1.05, 0.98, 0.94]
    width = np.interp(y, heights, widths).astype(np.float32)
    canvas.paint(step(width - side, 0.06), 0.6 - 0.15 * (side * side) ** 2)
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
    """Return the brightness of the lung vessels, which fan out from both hila and fade."""
    shade = 0.012 * canvas.noise(40)
    for sign in (-1, 1):
        dx, dy = sign * canvas.x - 0.17, canvas.y - 0.02
        angle = np.arctan2(dy, dx) + 0.1 * canvas.noise(9)
        knots = canvas.rng.standard_normal(70)
        fan = np.clip(np.interp(np.arange(-4, 4, 0.01), np.linspace(-4, 4, 70), knots), 0, 2)
        spokes = fan.astype(np.float32)[((angle + 4) * 100).astype(int) % 800]
        shade += 0.16 * spokes * np.exp(-3.2 * norm(dx, dy)) * (dx > -0.1)
    return shade


def chest_front(canvas: Canvas) -> None:
    """Add what a radiograph projects over the lungs: vessels, heart, trachea, bones."""
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
    lucency = np.clip(1.1 - canvas.image, 0, 1) * step(0.8 - side, 0.06) * step(y + 0.78, 0.2)
    canvas.image += _ribs(canvas) * lucency * step(side - 0.1, 0.1)
    canvas.image += 0.05 * canvas.ellipse((0.76, -0.3), (0.1, 0.3), 0.25, edge=0.04, both=True)
    clavicle = -0.6 - 0.3 * (side - 0.1) + 0.12 * np.sin(5 * side)
    bone = step(0.034 - np.abs(y - clavicle)) * step(side - 0.1) * step(0.8 - side)
    canvas.image += 0.08 * bone


def _ribs(canvas: Canvas) -> Field:
    """Return the brightness of the ribs' posterior and fainter anterior parts."""
    y, side, rng = canvas.y, canvas.side, canvas.rng
    spacing = rng.uniform(0.16, 0.18)
    curve = rng.uniform(0.6, 0.75) * side * side * side
    posterior = (y - 0.1 * side - curve) / spacing + rng.uniform()
    anterior = (y + rng.uniform(0.7, 0.9) * side) / (1.2 * spacing) + rng.uniform()
    shade = np.zeros_like(y)
    for phase, weight, width in ((posterior, 0.085, 0.5), (anterior, 0.03, 0.4)):
        across = np.abs(phase % 1 - 0.5) * (2 / width)
        shade += weight * step(1 - across, 0.25) * (0.6 + 0.8 * np.clip(across, 0, 1) ** 2)
    return shade


def effusion(canvas: Canvas, lesion: Lesion) -> Spot:
    level = extent(canvas, lesion, small=(0.2, 0.3), large=(-0.2, 0.02))
    meniscus = level + 0.12 - 0.9 * np.clip(canvas.side - 0.3, 0, 1) ** 1.6
    fluid = canvas.parts["chest"] * step(canvas.y - meniscus, 0.07) * step(lesion.sign * canvas.x)
    canvas.paint(fluid, canvas.rng.uniform(0.68, 0.78))
    canvas.parts["vessels"] *= 1 - fluid
    return Spot(lesion.sign * 0.55, level + 0.1, 0.02)


def pneumothorax(canvas: Canvas, lesion: Lesion) -> Spot:
    expanded = extent(canvas, lesion, small=(0.74, 0.82), large=(0.42, 0.56))
    centre = (lesion.sign * (0.03 + 0.4 * expanded), 0.41 - 0.35 * expanded)
    edge = canvas.depth(centre, (0.36 * expanded, 0.86 * expanded)) + 0.012 * canvas.noise(6)
    cavity = canvas.parts["lung"] * step(lesion.sign * canvas.x)
    air, collapsed = cavity * (1 - step(edge)), cavity * step(edge)
    canvas.paint(air, canvas.rng.uniform(0.03, 0.07))
    canvas.image += collapsed * (0.22 if lesion.size == "large" else 0.09)
    canvas.image += 0.16 * cavity * np.exp(-((edge / 0.012) ** 2))
    canvas.parts["vessels"] *= 1 - air
    return Spot(centre[0] + lesion.sign * 0.3 * expanded, centre[1] - 0.45 * expanded, 0.02)


def lung_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, extent(canvas, lesion, small=(0.14, 0.17), large=(0.26, 0.31))
    centre = (lesion.sign * rng.uniform(0.4, 0.5), rng.uniform(-0.42, 0.08))
    radii, wobble = (radius, radius * rng.uniform(0.85, 1.1)), 0.02 * canvas.noise(12)
    mass = canvas.ellipse(centre, radii, rng.uniform(0, 3), edge=0.05, wobble=wobble)
    canvas.paint(mass * canvas.parts["lung"], rng.uniform(0.64, 0.76))
    return Spot(*centre, radius)


def abdomen(canvas: Canvas) -> None:
    x, y, rng = canvas.x, canvas.y, canvas.rng
    fat = rng.uniform(0.05, 0.13)
    canvas.paint(0.5 * step(0.01 - np.abs(y - 0.86 + 0.2 * x**2)), 0.35)  # the table
    bulge = np.abs(x / 0.93) ** 2.3 + np.abs(y / 0.72) ** 2.3
    depth = 0.75 - 0.75 * bulge ** (1 / 2.3)
    for inset, value in ((0.0, 0.50), (0.018, 0.24), (fat, 0.55), (fat + 0.055, 0.25)):
        canvas.paint(step(depth - inset), value)
    inside = step(depth - (fat + 0.055))
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
    """Add loops that contain fluid, food, contrast medium or gas."""
    rng = canvas.rng
    for content in rng.choice([0.42, 0.5, 0.78, 0.04], 11, p=[0.4, 0.35, 0.1, 0.15]):
        centre = (rng.uniform(-0.4, 0.62), rng.uniform(-0.5, -0.08))
        depth = canvas.depth(centre, rng.uniform(0.06, 0.13, 2), rng.uniform(0, 3))
        canvas.paint(inside * step(depth), 0.6)
        canvas.paint(inside * step(depth - 0.022), float(content))


def _spine(canvas: Canvas) -> None:
    """Add muscles, a vertebra, the aorta and the vena cava."""
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


def renal_cyst(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, extent(canvas, lesion, small=(0.13, 0.155), large=(0.22, 0.27))
    centre = (lesion.sign * rng.uniform(0.5, 0.58), rng.uniform(0.14, 0.28))
    radii = (radius, radius * rng.uniform(0.88, 1.1))
    canvas.paint(canvas.ellipse(centre, radii, rng.uniform(0, 3)), rng.uniform(0.32, 0.38))
    return Spot(*centre, radius)


def renal_mass(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, radius = canvas.rng, extent(canvas, lesion, small=(0.17, 0.20), large=(0.25, 0.29))
    centre = (lesion.sign * rng.uniform(0.5, 0.57), rng.uniform(0.12, 0.24))
    depth = canvas.depth(centre, (radius, radius)) + 0.03 * canvas.noise(9)
    canvas.paint(step(depth), 0.92 + 0.06 * canvas.noise(18))
    necrosis = step(depth - rng.uniform(0.55, 0.65) * radius, 0.06)
    canvas.paint(necrosis * rng.uniform(0.3, 0.9), 0.5)
    return Spot(*centre, radius)


def psoas_abscess(canvas: Canvas, lesion: Lesion) -> Spot:
    rng, width = canvas.rng, extent(canvas, lesion, small=(0.14, 0.155), large=(0.19, 0.21))
    centre = (lesion.sign * (0.1 + width) * rng.uniform(0.98, 1.1), rng.uniform(0.26, 0.34))
    radii, tilt = (width, 1.3 * width), lesion.sign * rng.uniform(-0.5, -0.2)
    depth = canvas.depth(centre, radii, tilt) + 0.012 * canvas.noise(9)
    canvas.paint(step(depth), 0.85)
    canvas.paint(step(depth - 0.04, 0.03), rng.uniform(0.33, 0.4))
    return Spot(*centre, width)


CHEST = {"pleural effusion": effusion, "pneumothorax": pneumothorax, "lung mass": lung_mass}
ABDOMEN = {"renal cyst": renal_cyst, "renal mass": renal_mass, "psoas abscess": psoas_abscess}
