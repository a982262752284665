"""Cleaning keeps what radiology needs."""

import pytest
import regex

from roco_caption.text import words
from roco_caption.text.words import JOINER, clean, token_names


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
        ("Crohn's and l'abdomen, o'clock", "crohn 's and l' abdomen o' clock"),
        ("Fat of -85 HU, 10-20 mm, 3x4.2cm", "fat of - 85 hu 10 - 20 mm 3 x 4.2 cm"),
        ("A ‘target sign’ and a .5 cm cyst", "a target sign and a .5 cm cyst"),
        ("10³, H₂O, ½", "10³ h2o ½"),
        ("छाती का एक्स-रे", "छाती का एक्स रे"),
        ("cafe\u0301 \u00adof\ufeff CT", "café of ct"),
    ],
)
def test_cleaning_keeps_sides_numbers_levels_and_negations(caption, words):
    assert " ".join(clean(caption)) == words


def test_cleaning_its_own_result_changes_nothing():
    for caption in ("T2-weighted, 5mm", "10 %, 37°C", "3D CT 1.5T"):
        assert clean(" ".join(clean(caption))) == clean(caption)


def test_a_sign_knows_whether_it_adjoins_its_neighbours():
    minus, dash, percent = f"-{JOINER}", f"{JOINER}-{JOINER}", f"{JOINER}%"
    expected = (minus, "85", "to", "10", dash, "20", "5", "-", "6")
    assert token_names("-85 to 10-20, 5 - 6") == expected
    assert token_names("5% or 5 %") == ("5", percent, "or", "5", "%")


@pytest.mark.parametrize(
    "caption",
    [
        "Axial CT (arrow) of the chest, x-ray; MRI: mass.",
        "patients' x-rays, Crohn's, fig_2 and l'abdomen",
        "cafe\u0301 mm 5mm 3 x 4 cm T2 H₂O Ａｂ ab½ ab\u00b2",
        "a/b a-b (a) [a] \"a\" 'a' a. a.b .a a\n b\ta\u00a0b",
    ],
)
def test_usual_words_are_found_as_any_other(caption):
    slow = regex.compile("|".join(words._TOKENS))
    text = caption.translate(words._PREPARED)
    expected = [(match.span(), match["word"]) for match in slow.finditer(text)]
    assert [(match.span(), match["word"]) for _, match in words._tokens(text)] == expected
