import math
from decimal import Decimal
from pathlib import Path

import pytest

from roco_caption.scores.clinical import _numbers, _sides, modality_of, region_of, slips

ROCO = Path(__file__).parents[3] / "shared" / "roco_text"


@pytest.mark.parametrize(
    ("caption", "modality"),
    [
        ("Axial contrast-enhanced CT scan.", "CT"),
        ("Multidetector computed tomography of the chest", "CT"),
        ("CT angiography of the aorta", "CT"),
        ("Cone-beam computed tomography", "CT"),
        ("MR angiogram", "MR"),
        ("Sagittal T2-weighted image", "MR"),
        ("Chest X ray before the CT", "radiograph"),
        ("Orthopantomogram (OPG)", "radiograph"),
        ("Transthoracic echocardiogram", "ultrasound"),
        ("Endoscopic ultrasound", "ultrasound"),
        ("18F-FDG PET/CT image", "nuclear"),
        ("Coronary angiography", "angiography"),
        ("Barium swallow", "fluoroscopy"),
        ("Mammography of the left breast", "mammography"),
        ("A mass (arrow) in direct contact", ""),
        ("", ""),
    ],
)
def test_modality(caption, modality):
    assert modality_of(caption) == modality
    assert modality_of(caption.lower()) == modality


@pytest.mark.parametrize(
    ("caption", "modality"),
    [
        ("It allowed us to see a mass", ""),
        ("US of the liver", "ultrasound"),
        ("Us and them: MRI", "MR"),
        ("abdominal us", "ultrasound"),
        ("us-guided biopsy", "ultrasound"),
        ("X-ray of Mr. Smith", "radiograph"),
        ("The hip of Mr Smith", ""),
        ("Brain MR", "MR"),
        ("Radiograph of a pet dog", "radiograph"),
        ("His pet had a CT", "CT"),
        ("pet/ct", "nuclear"),
        ("On 3 Oct. 2012 the mass had grown", ""),
        ("OCT image of the eye", "optical"),
        ("Fracture of the T1 vertebra", ""),
        ("Echo time of an MRI", "MR"),
    ],
)
def test_words_that_look_like_abbreviations_name_no_modality(caption, modality):
    assert modality_of(caption) == modality


@pytest.mark.parametrize(
    ("caption", "sides"),
    [
        ("A bright spot of an upright man, outright in the cleft", ""),
        ("Brightness by Wright; leftover", ""),
        ("Left-sided, leftmost", "left"),
        ("RIGHTWARD shift", "right"),
        ("Bilaterally", "left right"),
    ],
)
def test_sides_are_whole_words(caption, sides):
    assert _sides(caption) == set(sides.split())


@pytest.mark.parametrize(
    ("caption", "numbers"),
    [
        ("1,000 or 1000 or 1000.0", "1000"),
        ("0.5, .5 and 0,50", "0.5"),
        ("5mm, 5 mm, 5.0 mm", "5"),
        ("3.5x4.2 cm, 3mmx2mm", "3.5 4.2 3 2"),
        ("-85 HU, −85, 10-20", "-85 10 20"),
        ("2,5 and 1,234,567.5 and 0,125", "2.5 1234567.5 0.125"),
        ("T2, L5, 3D, 2-d, H2O", ""),
    ],
)
def test_one_number_in_several_spellings(caption, numbers):
    assert _numbers(caption) == set(map(Decimal, numbers.split()))


@pytest.mark.parametrize(
    ("caption", "region"),
    [
        ("Chest X-ray with pleural effusion", "chest"),
        ("CT of the head of the pancreas and the liver", "abdomen"),
        ("MRI of the lumbar spine at L4-L5", "spine"),
        ("Panoramic radiograph of the mandible", "teeth and jaws"),
        ("Brain MRI", "head"),
        ("Fracture of the distal radius", "arm"),
        ("Left hip", "leg"),
        ("Fracture of the odontoid and of T12", "spine"),
        (["CT of a man", "The liver", "A renal cyst"], "abdomen"),
        ("CT scan showing the lesion", ""),
    ],
)
def test_region(caption, region):
    assert region_of(caption) == region


def share(reference, hypothesis, slip):
    rates = slips([reference, "The brain"], [hypothesis, ""])  # the second makes them English
    assert set(rates.index) == {"modality", "side", "negation", "number"}
    return 2 * rates.fillna(0)[slip]  # NaN: the reference names none


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("Opacidade no lobo superior direito.", "Opacidade no lobo superior direito."),
        ("Kein Pleuraerguss.", "Pleuraerguss."),
    ],
)
def test_negations_are_not_assessed_in_other_languages(reference, hypothesis):
    assert math.isnan(slips([reference], [hypothesis])["negation"])


@pytest.mark.parametrize(
    ("slip", "reference", "hypothesis", "is_one"),
    [
        ("modality", "Chest CT", "chest x-ray", True),
        ("modality", "Chest CT", "computed tomography", False),
        ("modality", "A mass", "chest x-ray", False),
        ("side", "The left lung", "right-sided effusion", True),
        ("side", "Left and right lung", "right lung", False),
        ("side", "Bilateral effusions", "left effusion", False),
        ("side", "The left lung", "", False),
        ("negation", "No evidence of fracture.", "showing a fracture", True),
        ("negation", "No evidence of fracture.", "no fracture", False),
        ("negation", "Fluid without mass. A mass elsewhere", "a mass", False),
        ("negation", "No mass in the liver", "the liver", False),
        ("negation", "Absence of the right kidney", "right kidney", True),
        ("negation", "Case no. 4: a fracture", "a fracture", False),
        ("number", "A 5 mm nodule", "a 7 mm nodule", True),
        ("number", "A 5 mm nodule", "a 5 mm nodule", False),
        ("number", "A 2.5 cm mass", "2,5 cm mass", False),
        ("number", "Spine MRI", "t2-weighted mri at l5 in 3d", False),
        ("number", "A man", "a 45-year-old man", True),
        ("number", "A 5 mm nodule", "a nodule", False),
    ],
)
def test_slips(slip, reference, hypothesis, is_one):
    assert share(reference, hypothesis, slip) == is_one


@pytest.mark.parametrize(
    ("slip", "references", "hypothesis", "is_one"),
    [
        ("modality", ["Chest CT", "A mass"], "chest x-ray", True),
        ("modality", ["Chest CT", "Chest x-ray"], "chest x-ray", False),
        ("side", ["Left lung", "Right lung"], "right lung", False),
        ("side", ["Left lung", "A lung"], "right lung", True),
        ("negation", ["No fracture", "A fracture"], "a fracture", False),
        ("negation", ["No fracture", "Hand"], "a fracture", True),
        ("number", ["5 mm", "7 mm"], "7mm", False),
        ("number", ["5 mm", "7 mm"], "6 mm", True),
        ("number", ("5 mm",), "5 mm", False),
        ("number", "Fat of -85 HU", "fat of 85 HU", True),
        ("number", "A dose of 1,000", "a dose of 1000.0", False),
        ("side", "A bright spot on the left", "left", False),
    ],
)
def test_a_slip_is_supported_by_no_reference(slip, references, hypothesis, is_one):
    assert share(references, hypothesis, slip) == is_one


def test_what_no_reference_names_is_not_assessed():
    rates = slips(["Läsion links", "Thorax"], ["Läsion rechts", "Right CT"])
    assert rates.isna()[["modality", "side"]].all() and rates["number"] == 0
    assert slips([["CT left"], ["MRI"]], ["CT right", "CT"]).tolist()[:2] == [0.5, 0.5]


def test_slips_are_shares_of_all_captions():
    rates = slips(["Chest CT", "Chest CT", "", "Left knee"], ["x-ray", "CT", "", "right knee"])
    assert (rates["modality"], rates["side"], rates["number"]) == (0.25, 0.25, 0)


@pytest.mark.skipif(not ROCO.exists(), reason="needs ROCO's captions")
def test_most_of_rocos_captions_state_modality_and_region():
    lines = (ROCO / "test/radiology/captions.txt").read_text("utf-8").splitlines()
    captions = [line.split("\t", 1)[1] for line in lines[::4] if "\t" in line]
    assert sum(modality_of(caption) != "" for caption in captions) / len(captions) > 0.75
    assert sum(region_of(caption) != "" for caption in captions) / len(captions) > 0.75


def test_slips_in_another_language_are_not_zero_but_unknown():
    references = [
        "CT des Thorax ohne Erguss",
        "Röntgen des Thorax",
        "MRT des Kopfes",
        "Sonographie",
    ]
    rates = slips(references, ["CT des Abdomens", "CT", "MRT", "MRT"])
    assert rates[["modality", "side", "negation"]].isna().all()
