import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.data.remarks import clean_training
from roco_caption.data.roco import read_dataset


def cleaned(*captions, split="train"):
    rows = pd.DataFrame({"split": split, "reason": "", "caption": list(captions)})
    return clean_training(rows)


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("Figure 1: CT of the chest", "CT of the chest"),
        ("Fig. 2A. MR T1 coronal image", "MR T1 coronal image"),
        ("Case 4 – axial CT", "Axial CT"),
        ("Case 1. Figure 1a – radiograph", "Radiograph"),
        ("Patient no. 15. Stump lengthening", "Stump lengthening"),
        ("Figs. 2-4, CT of the liver", "CT of the liver"),
        ("Video 1(a–d): Mitral stenosis", "Mitral stenosis"),
        ("A mass of the liver (Figure 3).", "A mass of the liver."),
        ("A mass [See Figures 8 and 9] from both sides", "A mass from both sides"),
        ("Pneumonia (case 2)", "Pneumonia"),
        ("A 45-year-old man with a mass", "A man with a mass"),
        ("An 83-year-old woman", "A woman"),
        ("MRI of a 48 year old obese woman", "MRI of an obese woman"),
        ("The 11-month-old male child", "The male child"),
        ("35-year-old female with pain", "Female with pain"),
        ("case 2: a 7-year-old boy", "A boy"),
        # the number ends before what follows
        ("Case 4, 5-mm nodule in the left lobe.", "5-mm nodule in the left lobe."),
        ("Patient 5, 45-year-old man with pneumonia.", "Man with pneumonia."),
        ("Figure 2, 64-slice CT of the chest.", "64-slice CT of the chest."),
        ("Figure 1, a CT of the chest", "A CT of the chest"),
        # lists of panels
        ("Fig. 1A–C. CT", "CT"),
        ("Figures 1a, b. CT", "CT"),
        ("Fig. 2a,b: axial CT.", "Axial CT."),
        ("Fig. 1A and B. CT", "CT"),
        ("Fig. 2 (a) CT", "CT"),
        ("Figure 3 [a-c] MR", "MR"),
        ("Figure 1. and Figure 2. CT", "CT"),
        ("A mass (Fig. 1A, B).", "A mass."),
        ("A 45-year-old unrestrained man", "An unrestrained man"),
        ("An 8-year-old unilateral amputee boy", "A unilateral amputee boy"),
    ],
)
def test_what_no_image_shows_is_removed(caption, rest):
    assert cleaned(caption, "CT").caption[0] == rest


@pytest.mark.parametrize(
    "caption",
    [
        "Figure of eight", "L4 and T2", "Stage 3", "Radiograph at day 3", "A nodule of 1.5 cm",
        "Figure 3 is a T2 sagittal of the right knee", "Image 1.5 T", "Infarcts of 1-2 weeks",
        "MRI of patient 2 shows a mass", "Same patient as in Figure 1", "A 3-week-old fracture",
        "10-day-old thrombus in a patient", "A case of pneumonia", "Replacement of the hip",
        "In 2012 the mass was smaller", "See arrow", "Fig", "  two  spaces ", "Fraktur, 45 Jahre",
        "Case 12-month follow-up CT.", "Image C-arm fluoroscopy.", "Figure 3-D reconstruction.",
        "A 3-week-old fracture of the patient's hip.", "Case 5mm nodule",
    ],
)  # fmt: skip
def test_what_an_image_shows_stays(caption):
    assert cleaned(caption).caption[0] == caption


@pytest.mark.parametrize(
    "caption",
    [
        "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS.", "IN PROGRESS", "Figure 1",
        "XXX.", 'see attached jpeg file named "XRay 2".', "Please see factoid", "No caption",
        "Case 2.", "Insert a caption", "Figure 1. and Figure 2.", "Figs. 1a, b",
    ],
)  # fmt: skip
def test_placeholders_are_left_out(caption):
    rows = cleaned(caption, "CT")
    assert rows.reason.tolist() == ["placeholder", ""]


def test_only_training_captions_change_and_counts_are_shown(capsys):
    written = "Case 1: A 45-year-old man", "Replace this description"
    assert cleaned(*written, split="test").caption.tolist() == list(written)
    assert capsys.readouterr().out == ""
    cleaned(*written, "Case 2: CT")
    assert capsys.readouterr().out == (
        "Removed from training captions: figure and case numbers (2), ages (1), placeholders (1)\n"
    )


def test_nothing_but_placeholders():
    with pytest.raises(UserError, match="placeholders"):
        cleaned("Figure 1", "Replace this description")
    assert cleaned().empty


def test_a_folder_is_read_so(tmp_path, capsys):
    lines = ["image,caption,split"]
    for name, caption, split in [
        ("a", "Case 1: CT", "train"), ("b", "Replace this description", "train"),
        ("b", "A brain", "train"), ("c", "In progress", "train"),
        ("d", "Case 1: CT", "validation"), ("e", "In progress", "test"),
    ]:  # fmt: skip
        lines.append(f"{name}.png,{caption},{split}")
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    frames, counts = read_dataset(tmp_path)
    assert frames["train"].caption.tolist() == ["CT", "A brain"]
    assert [*frames["validation"].caption, *frames["test"].caption] == ["Case 1: CT", "In progress"]
    assert counts.loc["train", ["listed", "used", "placeholder"]].tolist() == [4, 2, 2]
    assert "placeholders (2)" in capsys.readouterr().out
