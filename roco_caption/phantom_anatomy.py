"""Draws one patient with known findings: chest film, abdominal CT, brain MRI, pelvic ultrasound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from roco_caption.phantom_brain_pelvis import (
    adnexal_cyst,
    brain,
    dermoid,
    echoes,
    glioma,
    infarct,
    pelvis,
    solid_mass,
    subdural,
    ventricles,
)
from roco_caption.phantom_chest_abdomen import (
    abdomen,
    chest,
    chest_front,
    effusion,
    lung_mass,
    pneumothorax,
    psoas_abscess,
    renal_cyst,
    renal_mass,
)
from roco_caption.phantom_drawing import Box, Canvas, Lesion, Random, Spot, bounds, inscribe

VISIBLE = 0.05  # of the brightness, from black to white: a pixel that changed more is the finding's


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
        chest,
        {"pleural effusion": effusion, "pneumothorax": pneumothorax, "lung mass": lung_mass},
        chest_front,
        turn=3, bend=0.02, blur=0.8, grain=0.012, marker=("R", 17),
    ),
    "abdominal CT": _Modality(
        abdomen,
        {"renal cyst": renal_cyst, "renal mass": renal_mass, "psoas abscess": psoas_abscess},
        None,
        turn=4, bend=0.012, blur=0.6, grain=0.035, marker=("W 400  L 40", 9),
    ),
    "brain MRI": _Modality(
        brain,
        {"glioma": glioma, "infarct": infarct, "subdural hematoma": subdural},
        ventricles,
        turn=5, bend=0.01, blur=0.6, grain=0.015, marker=("T2 TSE", 9),
    ),
    "pelvic ultrasound": _Modality(
        pelvis,
        {"adnexal cyst": adnexal_cyst, "solid adnexal mass": solid_mass, "dermoid": dermoid},
        echoes,
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
        right is on the image's left. Its `info["boxes"]` says where each lesion lies: a `Box` of
        the pixels that it changed.
    """
    made = _MODALITIES[modality]
    canvas = Canvas(rng, turn=made.turn, bend=made.bend)
    made.body(canvas)
    spots: list[Spot] = []
    boxes: list[Box] = []
    for lesion in lesions:
        healthy = canvas.image.copy()
        spots.append(made.findings[lesion.finding](canvas, lesion))
        boxes.append(bounds(np.abs(canvas.image - healthy) > VISIBLE))
    if made.finish:
        made.finish(canvas)
    blur, grain = made.blur * rng.uniform(0.7, 1.4), made.grain * rng.uniform(0.6, 1.4)
    picture = canvas.develop(blur=blur, grain=grain)
    for spot in spots if arrow else ():
        canvas.point_at(picture, spot)
    inscribe(picture, *made.marker, rng)
    picture.info["boxes"] = boxes
    return picture
