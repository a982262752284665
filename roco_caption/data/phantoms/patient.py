"""Draws one patient with known findings, and writes the caption."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roco_caption.data.phantoms.brain_pelvis import BRAIN, PELVIS, brain, echoes, pelvis, ventricles
from roco_caption.data.phantoms.canvas import Canvas, Lesion, Random, Spot
from roco_caption.data.phantoms.chest_abdomen import ABDOMEN, CHEST, abdomen, chest, chest_front

VISIBLE = 0.05  # change in brightness (0 to 1) from which a pixel belongs to a finding


class _Modality(NamedTuple):
    body: Callable[[Canvas], None]
    findings: Mapping[str, Callable[[Canvas, Lesion], Spot]]
    finish: Callable[[Canvas], None] | None  # painted after the findings
    turn: float  # degrees
    bend: float
    blur: float  # pixels
    grain: float
    marker: tuple[str, int]  # text in the corner, and its height in pixels
    views: tuple[str, ...]  # how captions name the modality


_MODALITIES = {
    "chest radiograph": _Modality(
        chest, CHEST, chest_front,
        turn=3, bend=0.02, blur=0.8, grain=0.012, marker=("R", 17),
        views=("chest radiograph", "frontal chest radiograph", "posteroanterior chest X-ray",
               "chest X-ray", "plain radiograph of the chest"),
    ),
    "abdominal CT": _Modality(
        abdomen, ABDOMEN, None,
        turn=4, bend=0.012, blur=0.6, grain=0.035, marker=("W 400  L 40", 9),
        views=("axial CT of the abdomen", "contrast-enhanced axial CT", "abdominal CT scan",
               "axial contrast-enhanced CT of the abdomen", "computed tomography of the abdomen"),
    ),
    "brain MRI": _Modality(
        brain, BRAIN, ventricles,
        turn=5, bend=0.01, blur=0.6, grain=0.015, marker=("T2 TSE", 9),
        views=("axial T2-weighted MRI of the brain", "T2-weighted axial MR image", "brain MRI",
               "axial T2-weighted MR image of the brain",
               "magnetic resonance imaging of the brain"),
    ),
    "pelvic ultrasound": _Modality(
        pelvis, PELVIS, echoes,
        turn=0, bend=0.015, blur=0.5, grain=0.008, marker=("C5-2  34 Hz", 9),
        views=("transverse pelvic ultrasound", "pelvic ultrasound",
               "transabdominal ultrasound of the pelvis", "transverse sonogram of the pelvis",
               "ultrasonography of the pelvis"),
    ),
}  # fmt: skip

FINDINGS = {name: tuple(modality.findings) for name, modality in _MODALITIES.items()}


def draw(modality: str, lesion: Lesion, rng: Random, *, arrow: bool = False) -> Image.Image:
    """Draw a patient with one of `FINDINGS[modality]` as an image ("L") of SIZE by SIZE pixels.

    The patient's right is on the image's left; `arrow` adds one. `info["box"]` is (x0, y0, x1, y1)
    around the pixels that the lesion changed, x1 and y1 exclusive.
    """
    style = _MODALITIES[modality]
    canvas = Canvas(rng, turn=style.turn, bend=style.bend)
    style.body(canvas)
    healthy = canvas.image.copy()
    spot = style.findings[lesion.finding](canvas, lesion)
    changed = np.abs(canvas.image - healthy) > VISIBLE
    if style.finish:
        style.finish(canvas)
    blur, grain = style.blur * rng.uniform(0.7, 1.4), style.grain * rng.uniform(0.6, 1.4)
    picture = canvas.develop(blur=blur, grain=grain)
    if arrow:
        canvas.point_at(picture, spot)
    text, height = style.marker
    corner = tuple(rng.integers(4, 16, 2).tolist())
    ImageDraw.Draw(picture).text(corner, text, fill=190, font=ImageFont.load_default(height))
    picture.info["box"] = Image.fromarray(np.uint8(changed)).getbbox()
    return picture


_SHOWS = ("shows", "showing", "demonstrates", "demonstrating", "reveals")
_ARROWS = (" (arrow)", " (arrow)", " (white arrow)")
_ARROW_SENTENCES = ("The arrow points to the finding.", "White arrow shows the lesion.")

# In every sentence {n} is the size with its article ("a small"), {size} the size alone.
_FRAMES = (
    "{view} {shows} {n} {side} {name}{arrow}.",
    "{n} {side} {name}{arrow} on {view}.",
    "{view}: {size} {side}-sided {name}{arrow}.",
)


class _Wording(NamedTuple):
    name: str
    small: str  # words for a small finding; a repeated word is chosen more often
    large: str
    sentences: tuple[str, ...]  # besides _FRAMES


_WORDINGS = {
    "pleural effusion": _Wording("pleural effusion", "small small minimal", "large large massive", (
        "{view} {shows} homogeneous opacity{arrow} of the {side} lower zone with a meniscus, in"
        " keeping with {n} pleural effusion.",
        "{n} {side}-sided pleural effusion{arrow} blunts the costophrenic angle on {view}.",
        "{view} {shows} {n} pleural effusion{arrow} that obscures the {side} hemidiaphragm.",
        "fluid in the {side} pleural space{arrow}, {n} effusion, on {view}.")),
    "pneumothorax": _Wording("pneumothorax", "small", "large large extensive", (
        "{view} {shows} {n} {side} pneumothorax with a visible pleural line{arrow}.",
        "air in the {side} pleural space{arrow} with retraction of the lung, {n} pneumothorax, on"
        " {view}.",
        "{view} {shows} the visceral pleural edge{arrow} of the {side} lung, which is retracted by"
        " {n} pneumothorax.",
        "{n} pneumothorax{arrow} on the {side}, seen on {view}.")),
    "lung mass": _Wording("lung mass", "small", "large large bulky", (
        "{view} {shows} {n} rounded mass{arrow} in the {side} lung.",
        "{n} pulmonary mass{arrow} projects over the {side} lung field on {view}.",
        "{view} {shows} a well-defined opacity{arrow} in the {side} lung, consistent with {n}"
        " pulmonary mass.",
        "{n} solitary mass{arrow} of the {side} lung, seen on {view}.")),
    "renal cyst": _Wording("renal cyst", "small", "large", (
        "{view} {shows} {n} cyst{arrow} of the {side} kidney, of water attenuation.",
        "{n} simple cyst{arrow} arises from the cortex of the {side} kidney on {view}.",
        "{view} {shows} a hypodense lesion{arrow} in the {side} kidney, consistent with {n} renal"
        " cyst.",
        "non-enhancing {side} renal cyst{arrow}, {size}, on {view}.")),
    "renal mass": _Wording("renal mass", "small", "large large bulky", (
        "{view} {shows} {n} enhancing mass{arrow} in the {side} kidney with central necrosis.",
        "{n} heterogeneous mass{arrow} arises from the {side} kidney on {view}.",
        "{view} {shows} a hypervascular {side} renal mass{arrow}, {size}, suggesting renal cell"
        " carcinoma.",
        "enhancing {side} renal mass{arrow}, {size}, on {view}.")),
    "psoas abscess": _Wording("psoas abscess", "small", "large large extensive", (
        "{view} {shows} {n} rim-enhancing collection{arrow} in the {side} psoas muscle, consistent"
        " with an abscess.",
        "{n} abscess{arrow} expands the {side} psoas muscle on {view}.",
        "{view} {shows} enlargement of the {side} psoas muscle by {n} abscess{arrow}.",
        "{side} iliopsoas abscess{arrow}, {size}, with an enhancing rim on {view}.")),
    "glioma": _Wording("glioma", "small", "large large bulky", (
        "{view} {shows} {n} glioma{arrow} of the {side} hemisphere with surrounding edema.",
        "{n} heterogeneous glioma{arrow} with edema in the {side} hemisphere on {view}.",
        "{view} {shows} an intra-axial lesion{arrow} of the {side} hemisphere with edema,"
        " consistent with {n} glioma.",
        "high-grade {side} glioma{arrow}, {size}, with perilesional edema on {view}.")),
    "infarct": _Wording("infarct", "small small limited", "large large extensive", (
        "{view} {shows} wedge-shaped hyperintensity{arrow} in the {side} middle cerebral artery"
        " territory, consistent with {n} infarct.",
        "{n} infarct{arrow} of the {side} hemisphere that reaches the cortex on {view}.",
        "{view} {shows} {n} infarct{arrow} in the {side} middle cerebral artery territory.",
        "subacute {side} cerebral infarction{arrow}, {size}, on {view}.")),
    "subdural hematoma": _Wording("subdural hematoma", "small", "large large extensive", (
        "{view} {shows} {n} crescent-shaped collection{arrow} over the {side} hemisphere,"
        " consistent with subdural hematoma.",
        "{n} subdural hematoma{arrow} compresses the {side} hemisphere on {view}.",
        "{view} {shows} {n} hyperintense subdural hematoma{arrow} along the {side} convexity.",
        "chronic {side} subdural hematoma{arrow}, {size}, on {view}.")),
    "adnexal cyst": _Wording("adnexal cyst", "small", "large", (
        "{view} {shows} {n} anechoic cyst{arrow} in the {side} adnexa with posterior acoustic"
        " enhancement.",
        "{n} simple cyst{arrow} of the {side} ovary on {view}.",
        "{view} {shows} a thin-walled anechoic {side} ovarian cyst{arrow}, {size}.",
        "unilocular {side} ovarian cyst{arrow}, {size}, on {view}.")),
    "solid adnexal mass": _Wording("adnexal mass", "small", "large large bulky", (
        "{view} {shows} {n} solid echogenic mass{arrow} in the {side} adnexa.",
        "{n} solid mass{arrow} of the {side} ovary on {view}.",
        "{view} {shows} a hyperechoic solid {side} ovarian mass{arrow}, {size}.",
        "solid {side} adnexal mass{arrow}, {size}, beside the uterus on {view}.")),
    "dermoid": _Wording("ovarian dermoid", "small", "large", (
        "{view} {shows} {n} {side} ovarian dermoid{arrow} with posterior acoustic shadowing.",
        "{n} mature teratoma{arrow} of the {side} ovary casts an acoustic shadow on {view}.",
        "{view} {shows} an echogenic lesion{arrow} in the {side} adnexa with dense shadowing,"
        " consistent with {n} dermoid.",
        "{side} adnexal dermoid{arrow}, {size}, with an acoustic shadow on {view}.")),
}  # fmt: skip


def write_caption(modality: str, lesion: Lesion, rng: Random, *, arrow: bool = False) -> str:
    """Describe a phantom in one of many phrasings, which `scores.phantoms` can read."""
    wording = _WORDINGS[lesion.finding]
    size = _choose((wording.large if lesion.size == "large" else wording.small).split(), rng)
    inline = arrow and rng.random() < 0.7
    sentence = _choose(_FRAMES + wording.sentences, rng).format(
        view=_choose(_MODALITIES[modality].views, rng),
        shows=_choose(_SHOWS, rng),
        n=f"an {size}" if size[0] in "aeiou" else f"a {size}",
        size=size,
        side=lesion.side,
        name=wording.name,
        arrow=_choose(_ARROWS, rng) if inline else "",
    )
    if arrow and not inline:
        sentence += " " + _choose(_ARROW_SENTENCES, rng)
    return sentence[0].upper() + sentence[1:]


def _choose(options: Sequence[str], rng: Random) -> str:
    return options[int(rng.integers(len(options)))]
