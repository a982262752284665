"""Cleaning keeps what radiology needs."""

import pytest

from roco_caption.text.words import clean


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("T2-weighted MRI, L3–L4.", "t2 weighted mri l3 l4"),
        ("A 5mm nodule, 1.6 x 1.8cm", "a 5 mm nodule 1.6 x 1.8 cm"),
        ("No effusion in the LEFT lung!", "no effusion in the left lung"),
        (' "Quoted"\n second line ', "quoted second line"),
        ("12 µm, 30°, 50% (PF-Targon-PF®)", "12 μm 30 ° 50 % pf targon pf"),
        ("ｆｕｌｌ ｗｉｄｔｈ cm²", "full width cm2"),
        ("café fig_2", "café fig 2"),
        ("--- ... !", ""),
    ],
)
def test_cleaning_keeps_sides_numbers_levels_and_negations(caption, words):
    assert " ".join(clean(caption)) == words


def test_cleaning_its_own_result_changes_nothing():
    for caption in ("T2-weighted, 5mm", "10 %, 37°C", "3D CT 1.5T"):
        assert clean(" ".join(clean(caption))) == clean(caption)
