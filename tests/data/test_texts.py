"""Captions without images are read from files as people have them, and nothing leaks from tests."""

import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.data import texts
from roco_caption.data.texts import read_texts

FRAMES = {
    "train": pd.DataFrame({"id": ["MPX1"], "caption": ["A known caption."]}),
    "validation": pd.DataFrame({"caption": ["Chest X-ray."]}),
    "test": pd.DataFrame({"caption": ["CT of the abdomen, axial."]}),
}


def test_a_text_file_has_a_caption_per_line(tmp_path, capsys):
    path = tmp_path / "texts.txt"
    path.write_text("MR of the knee.\n\nROCO_1\t A fracture.\n  MR of the knee.\nmr of the knee\n")
    found = read_texts(path, tmp_path, FRAMES)
    assert sorted(map(str.casefold, found)) == ["a fracture.", "mr of the knee."]
    assert "Captions without images: 2 from" in capsys.readouterr().out


@pytest.mark.parametrize("known", ["Chest X-ray.", "chest x ray", "CT OF THE ABDOMEN AXIAL"])
def test_captions_to_validate_or_test_on_are_not_learnt(tmp_path, capsys, known):
    path = tmp_path / "texts.txt"
    path.write_text(f"{known}\nA known caption.\nAnother one.\n")
    assert read_texts(path, tmp_path, FRAMES) == ["A known caption.", "Another one."]
    assert "1 that validation or test images have are left out" in capsys.readouterr().out


def test_a_table_needs_no_images(tmp_path):
    path = tmp_path / "reports.csv"
    path.write_bytes("id;Befund\n1;Thorax: kein Erguss.\n2;Schädel, nativ.\n".encode("cp1252"))
    assert read_texts(path, tmp_path, FRAMES) == ["Thorax: kein Erguss.", "Schädel, nativ."]


def test_a_table_without_captions_names_its_columns_and_no_setting_that_does_not_apply(tmp_path):
    path = tmp_path / "reports.csv"
    path.write_text("id,age\n1,40\n2,50\n")
    with pytest.raises(UserError, match=r"reports\.csv has the columns.*`caption`\.$") as error:
        read_texts(path, tmp_path, FRAMES)
    assert "COLUMNS" not in str(error.value)


@pytest.mark.parametrize(
    "files",
    [
        {
            "validation/radiology/captions.txt": "R1\t one\n",
            "test/radiology/captions.txt": "R2\t two\n",
        },
        {
            "all/test/radiology/captions.txt": "R1\t one\nR2\ttwo\n",
            "all/test/non-radiology/captions.txt": "P\t cells\n",
        },
        {"a.csv": "image,caption\n1.png,one\n", "b/c.csv": "caption\ntwo\n"},
        {"a.txt": "one\n", "b.txt": "two\n"},
        {"captions.txt": "one\n", "reports.csv": "id;caption\n1;two\n"},
        {"README.txt": "Licence: MIT\n", "LICENSE.txt": "MIT\n", "a.csv": "caption\none\ntwo\n"},
        {"meta.csv": "id,age\n1,40\n", "a.csv": "caption\none\ntwo\n"},
        {"a.txt": "id;caption\n1;one\n2;two\n"},  # a table
    ],
)
def test_a_folder_holds_several(tmp_path, files):
    for name, content in files.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert sorted(read_texts(tmp_path / "texts", tmp_path, FRAMES)) == ["one", "two"]


def test_rocos_are_downloaded_once_and_not_for_rocos_images(tmp_path, monkeypatch):
    asked = []

    def download(name, path):
        asked.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"ROCO_1\t A caption of {name}.\n")
        return path

    monkeypatch.setattr(texts, "download_texts", download)
    assert len(read_texts("roco", tmp_path, FRAMES)) == len(asked) == 3
    for ids in (["ROCO_00002", "ROCO_00003"], ["ROCOv2_2023_train_000001"] * 2,
                ["PMC4240561_MA-68-291-g002", "PMC10_x-g1"]):  # fmt: skip
        roco = FRAMES | {"train": pd.DataFrame({"id": ids, "caption": "CT"})}
        with pytest.raises(UserError, match="other images"):
            read_texts("roco", tmp_path, roco)
    assert read_texts("", tmp_path, roco) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "must be a file"),
        (b"", "no caption"),
        (b"a\0b", "readable text"),
        (b"...\n", "no cap"),
    ],
)
def test_what_is_no_file_of_captions_is_named(tmp_path, content, problem):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        read_texts(path, tmp_path, FRAMES)
    assert "texts.txt" in str(error.value)


def test_a_figure_number_does_not_hide_a_caption_to_test_on(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("Fig. 2. Chest X-ray.\nFigure 3: CT of the knee.\n")
    assert read_texts(path, tmp_path, FRAMES) == ["CT of the knee."]


@pytest.mark.parametrize("text", ["CT of the chest.", "Figure 3. CT of the chest."])
def test_a_caption_to_test_on_is_found_without_its_figure_number(tmp_path, capsys, text):
    path = tmp_path / "texts.txt"
    path.write_text(f"{text}\nMRI of the brain.\n")
    frames = FRAMES | {"test": pd.DataFrame({"caption": ["Fig. 1. CT of the chest."]})}
    assert read_texts(path, tmp_path, frames) == ["MRI of the brain."]
    assert "1 that validation or test images have" in capsys.readouterr().out


def test_what_a_folder_has_besides_is_named(tmp_path, capsys):
    (tmp_path / "meta.csv").write_text("id,age\n1,40\n")
    (tmp_path / "a.txt").write_text("one\n")
    read_texts(tmp_path, tmp_path / "cache", FRAMES)
    assert "Left out:" in (out := capsys.readouterr().out) and "meta.csv" in out
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"meta\.csv"):
        read_texts(tmp_path, tmp_path / "cache", FRAMES)


def test_rows_that_do_not_fit_the_header_are_no_captions(tmp_path, capsys):
    path = tmp_path / "reports.csv"
    path.write_text("caption,source\nCT of the chest, axial,x\nA hand,x\n")
    assert read_texts(path, tmp_path, FRAMES) == ["A hand"]
    assert "1 rows that do not fit the header" in capsys.readouterr().out


def test_no_reference_of_an_image_to_test_on_is_learnt(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("Second reading.\nMRI of the brain.\n")
    test = pd.DataFrame({"caption": ["First."], "references": [["First.", "Second reading."]]})
    assert read_texts(path, tmp_path, FRAMES | {"test": test}) == ["MRI of the brain."]


@pytest.mark.parametrize("header", ["image.id,caption", "Report no.;Report",
                                    "Name of the image;Caption"])  # fmt: skip
def test_names_of_columns_may_have_dots_and_words(tmp_path, header):
    path = tmp_path / "reports.txt"
    separator = "," if "," in header else ";"
    path.write_text(f"{header}\n1{separator}Chest normal\n2{separator}Brain normal\n")
    assert read_texts(path, tmp_path, FRAMES) == ["Chest normal", "Brain normal"]


@pytest.mark.parametrize("first", ["Impression, no acute disease.", "Findings; none. Stable,"])
def test_a_caption_that_begins_like_a_header_is_a_caption(tmp_path, first):
    path = tmp_path / "reports.txt"
    path.write_text(f"{first}\nHeart normal, lungs clear.\nNo fracture, no dislocation.\n")
    texts_read = [first, "Heart normal, lungs clear.", "No fracture, no dislocation."]
    assert sorted(read_texts(path, tmp_path, FRAMES)) == sorted(texts_read)


def test_of_reports_the_same_sections_are_learned_as_of_images(tmp_path):
    reports = [f"INDICATION: Pain. FINDINGS: Film {k}. IMPRESSION: No." for k in range(4)]
    (tmp_path / "a.txt").write_text("\n".join([*reports, "FINDINGS: Chest X-ray.\n"]), "utf-8")
    assert read_texts(tmp_path, tmp_path, FRAMES) == [f"Film {k}." for k in range(4)]


def test_headings_in_a_few_captions_change_nothing(tmp_path):
    lines = [f"Film {k}." for k in range(40)] + [
        "Technique: CT. Findings: a mass.",
        "Findings: no.",
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    assert read_texts(tmp_path, tmp_path, FRAMES) == lines


@pytest.mark.parametrize("others", [0, 60])
@pytest.mark.parametrize("sign", [" ", "\\n", "<br>"])
def test_no_report_of_an_image_to_test_on_is_learned(tmp_path, others, sign):
    reports = [sign.join(("INDICATION: Pain.", f"FINDINGS: Film {k}.")) for k in range(40)]
    lines = reports + [f"Other film {k}" for k in range(others)]
    (tmp_path / "a.txt").write_text("\n".join([*lines, "One more"]), "utf-8")
    plain = [report.replace(sign, " ") for report in reports]
    for held in (plain, [f"Film {k}." for k in range(40)]):
        frame = pd.DataFrame({"id": [*map(str, range(40))], "caption": held})
        texts = read_texts(tmp_path / "a.txt", tmp_path, FRAMES | {"test": frame})
        assert not [text for text in texts if text not in (*lines[40:], "One more")]


def test_a_folder_of_many_text_files_has_a_report_in_each(tmp_path, capsys):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"FINDINGS:\nMass {i} is seen.\nNo effusion {i}.\n")
    held = pd.DataFrame({"caption": ["Mass 3 is seen. No effusion 3."]})
    found = read_texts(tmp_path, tmp_path, FRAMES | {"test": held})
    assert len(found) == 19 and "Mass 4 is seen.\nNo effusion 4." in found
    assert "1 that validation or test images have are left out" in capsys.readouterr().out
