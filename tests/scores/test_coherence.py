import csv
from pathlib import Path

import pytest

from roco_caption.scores.coherence import Coherence

MEDPIX = Path(__file__).parents[3] / "shared" / "medpix"
KNOWN = [  # with "the", as captions are
    f"{modality} of the {organ} {k}"
    for modality, organs in {
        "CT": ["brain", "liver", "lung with the liver", "femur"],
        "T2 weighted image": ["brain", "knee"],
        "Radiograph": ["lung", "knee", "shoulder"],
    }.items()
    for organ in organs
    for k in range(40)
]


def of(caption, known=KNOWN):
    return Coherence.fit(known).judge([caption]).iloc[0].to_dict()


@pytest.mark.parametrize(
    ("caption", "contradicts"),
    [
        ("Axial CT image of the abdomen demonstrates a mass in the right lower lobe with a cystic "
         "mass at the left lateral ventricle.", True),
        ("CT of the liver with a mass in the brain", True),
        ("A mass of the kidney in the knee", True),
        ("The pituitary in the femur", True),
        ("CT of the brain on T2 weighted images", True),
        ("Radiograph with high T2 signal", True),
        ("CT of the lung and the liver", False),  # seen together
        ("CT of the femur and the hip", False),
        ("CT of the brain", False),
        ("", False),
        # words of several regions
        ("CT of the liver with a mass in the ventricle and the lobe", False),
        ("Liver in the orbit, cord and canal", False),
        ("CT of the pancreatic head and the neck of the gallbladder", False),
        ("MRI of the femoral head and neck", False),
        ("Brain, right lobe", False),
        ("CT at the level of T1", False),
        ("T2 weighted image of the brain after CT", False),  # another examination
    ],
)  # fmt: skip
def test_contradictions(caption, contradicts):
    assert of(caption)["contradiction"] == contradicts


def test_what_is_too_rare_to_tell_is_no_contradiction():
    known = [*KNOWN, "The uterus"] * 2
    assert of("The uterus and the brain", known)["contradiction"] == 0
    assert of("The uterus and the brain", known + [f"The prostate {k}" for k in range(40)]) == {
        "contradiction": 1, "fragment": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "is_one"),
    [
        ("A wound with entrance wound with.", True),
        ("A mass in the left kidney with a", True),
        ("CT of the.", True),
        ("There is an. No mass", True),
        ("A mass of the with fat", True),
        ("The right lobe of the right lobe of the right lobe", True),
        ("A mass in the liver, and the liver, and the liver", True),
        ("A mass mass", True),
        ("High signal on T2 T2 images.", True),
        ("T2 weighted image T2 weighted image", True),
        ("Mass in a of the liver.", True),
        ("CT OF THE.", True),
        ("The the mass.", True),
        ("CT of the liver shows a.", True),
        ("CT of the liver in hepatitis a.", False),
        ("Arrow in panel a.", False),
        ("Arrow in a. Labels b.", False),
        ("The in situ stent, an in vivo image.", False),
        ("An abscess measuring 3 in.", False),
        ("An in the left lung", True),
        ("An abscess of 3 cm in.", True),
        ("Axial view of.", True),
        ("Coronal view with", True),
        ("CT with arrows in the.", True),
        ("High signal on T2 in.", True),
        ("T1 and T2 weighted images", False),
        ("", True),
        (" .", True),
        ("CT.", False),
        ("A nodule of 5 x 5 x 5 mm", False),
        ("Dissection of type A.", False),
        ("Two arteries (a). Gas, gas bubbles", False),
        ("The left lung, the left kidney", False),
        ("A mass is seen. Mass effect", False),
        ("Contrast within.", False),
    ],
)
def test_fragments(caption, is_one):
    assert of(caption)["fragment"] == is_one


def test_other_languages_are_not_assessed():
    german = ["CT Thorax mit Läsion der Leber", "Schädel MRT, Fraktur an der Hand"] * 30
    assert Coherence.fit(german).judge(["Leber an der", "Thorax und Knie"]).isna().all(axis=None)
    assert Coherence.fit([]).judge(["CT"]).isna().all(axis=None)


def test_means_are_shares_of_captions():
    texts = ["The liver and the brain", "The liver of the", "A", "The liver"]
    table = Coherence.fit(KNOWN).judge(texts)
    assert table.mean().to_dict() == {"contradiction": 0.25, "fragment": 0.25}


@pytest.mark.skipif(not MEDPIX.exists(), reason="needs MedPix's captions")
def test_references_are_hardly_ever_incoherent():
    captions = {}
    for split, name in {"train": "traindata.csv", "test": "testdata.csv"}.items():
        path = MEDPIX / "all_data" / split / "radiology" / name
        with path.open(encoding="utf-8", newline="") as file:
            captions[split] = [row["caption"] for row in csv.DictReader(file)]
    fitted = Coherence.fit(captions["train"])
    rates = fitted.judge(captions["test"]).mean()
    assert rates.max() < 0.03
    halves = [c[: len(c) // 2] for c in captions["test"]]
    joined = [f"{a} {b}" for a, b in zip(halves, reversed(halves), strict=True)]
    assert fitted.judge(joined).contradiction.mean() > 5 * rates.contradiction
