"""Which tables of a folder are read, by which columns, and how several become one."""

import json

import pandas as pd
import pytest
from data.test_folder import make_folder, together, workbook

from roco_caption.core.errors import UserError
from roco_caption.data.roco import read_dataset

ORDER = [5, 3, 8, 1, 7, 2, 6, 4, 12, 11, 9, 10]
FILES = [f"{i}.png" for i in range(1, 13)]


def read(root, **options):
    return together(read_dataset(root, **options)[0])


def right(rows):
    """Return how many captions are those of their images."""
    return sum(
        caption.split()[-1] == id.split("/")[-1] for id, caption in rows[["id", "caption"]].values
    )


@pytest.mark.parametrize("column", ["Image Index", "path_to_image", "Röntgenbild", "photo"])
def test_running_numbers_give_way_to_a_column_of_files_of_any_name(tmp_path, column):
    rows = [f"{i + 1},images/{order}.png,Film {order}" for i, order in enumerate(ORDER)]
    make_folder(tmp_path, [f"images/{f}" for f in FILES], rows, header=f"ID,{column},Befund")
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 12


@pytest.mark.parametrize("column", ["mask_path", "Heatmap", "thumbnail", "segmentation", "label"])
def test_masks_and_the_like_are_no_images(tmp_path, column):
    names = [f"images/{i}.png" for i in range(12)] + [f"masks/m{i}.png" for i in range(12)]
    rows = [f"{i},masks/m{i}.png,Film {i}" for i in range(12)]
    make_folder(tmp_path, names, rows, header=f"id,{column},caption")
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 12 and rows.image.str.contains("images/").all()


def test_a_usual_column_comes_before_one_of_another_name(tmp_path):
    names = [f"images/img{i}.png" for i in range(8)] + [f"prior/p{i}.png" for i in range(8)]
    rows = [f"img{i},prior/p{i}.png,Film img{i}" for i in range(8)]
    make_folder(tmp_path, names, rows, header="image,before,caption")
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 8


def test_several_columns_of_files_are_named_for_a_choice(tmp_path):
    names = [f"{view}{i}.png" for i in range(8) for view in "lf"]
    make_folder(
        tmp_path, names, [f"l{i}.png,f{i}.png,Film {i}" for i in range(8)], header="lat,fro,caption"
    )
    with pytest.raises(UserError, match=r"\['lat', 'fro', 'caption'\].*COLUMNS"):
        read_dataset(tmp_path)
    rows = [f"{i},l{i}.png,f{i}.png,Film l{i}" for i in range(8)]
    make_folder(tmp_path, [], rows, header="id,lat,fro,caption")
    with pytest.raises(
        UserError, match=r"several columns, \['lat', 'fro'\].*COLUMNS = 'image=lat'"
    ):
        read_dataset(tmp_path)
    rows = read(tmp_path, columns="image=lat")
    assert len(rows) == right(rows) == 8


def test_a_table_without_rows_says_so(tmp_path):
    make_folder(tmp_path, FILES, [], header="image,caption,x")
    with pytest.raises(UserError, match=r"No image of .* can be used"):
        read_dataset(tmp_path)


def test_tables_with_the_same_columns_and_other_images_are_read_as_one(tmp_path, capsys):
    for p in range(4):  # one in each patient's folder, with names of this folder
        names = [f"p{p}/{i}.png" for i in range(4)]
        rows = [f"{i}.png,patient {p} film {i}" for i in range(4)]
        make_folder(tmp_path, names, rows, f"p{p}/captions.csv")
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 16
    assert [c.split()[1] for c in rows.caption] == [id[1] for id in rows.id]
    assert "its parts" in capsys.readouterr().out


def test_sheets_with_other_columns_or_splits_stay_apart(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    sheet = [["image", "caption"], *([name, f"film {name[:-4]}"] for name in FILES[:8])]
    legend = [["image", "caption", "who"], *([name, "wrong", "x"] for name in FILES[8:])]
    workbook(tmp_path / "captions.xlsx", {"2024": sheet, "other": legend})
    assert len(read(tmp_path)) == 8


IU = "uid,MeSH,image,findings,impression"


def test_captions_and_names_of_two_tables_are_joined_by_their_common_column(tmp_path, capsys):
    names = [f"images/{uid}_IM-{k}.dcm.png" for uid in range(1, 9) for k in (1, 2)]
    views = [f"{name.split('/')[1].split('_')[0]},{name.split('/')[1]},Frontal" for name in names]
    make_folder(tmp_path, names, views, "indiana_projections.csv", "uid,filename,projection")
    reports = [f"{uid},normal,Xray Chest PA and Lateral,Film {uid}.,None." for uid in range(1, 9)]
    make_folder(tmp_path, [], reports[::-1], "indiana_reports.csv", IU)
    rows = read(tmp_path)
    assert len(rows) == 16 and rows.groupby("case").split.nunique().eq(1).all()
    assert all(f"/{row.caption.split()[1][:-1]}_" in row.image for row in rows.itertuples())
    said = capsys.readouterr().out
    assert "by the column 'uid' of both" in said and "not read" not in said


def test_without_a_common_column_tables_are_not_joined(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},PA" for f in FILES], "views.csv", "filename,projection")
    make_folder(
        tmp_path, [], [f"{i},CR,Film." for i in range(12)], "reports.csv", IU[:9] + "image,findings"
    )
    with pytest.raises(UserError, match=r"reports\.csv"):
        read_dataset(tmp_path)


def test_a_text_file_beside_each_image_is_its_caption(tmp_path):
    make_folder(tmp_path, FILES, [], "README.txt", "About these images")
    for name in FILES[:-1]:
        (tmp_path / name).with_suffix(".txt").write_text(f"Normal\nfilm {name[:-4]}", "utf-8")
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 11 and rows.caption.str.startswith("Normal film").all()


def test_images_of_one_row_stay_together(tmp_path, capsys):
    names = [f"{i}.png" for i in range(60)]
    rows = [f"\"['{2 * i}.png', '{2 * i + 1}.png']\",Report {i}." for i in range(30)]
    make_folder(tmp_path, names, rows, header="images,report")
    rows = read(tmp_path)
    assert (
        rows.groupby("caption").split.nunique().eq(1).all()
        and rows.groupby("caption").size().eq(2).all()
    )
    said = capsys.readouterr().out
    assert "Split by row" in said and "images of one row count as one patient's" in said


@pytest.mark.parametrize(
    "value",
    [
        {"train": slice(0, 8), "val": slice(8, 10), "test": slice(10, 12)},
        {"data": slice(0, 12)},
        {"images": slice(0, 12)},
        {"annotations": slice(0, 12), "info": {"year": 2020}},
    ],
)
def test_lists_of_rows_in_json_are_read(tmp_path, value):
    rows = [{"image_path": [name], "report": f"Film {name[:-4]}"} for name in FILES]
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    value = {key: rows[part] if isinstance(part, slice) else part for key, part in value.items()}
    (tmp_path / "annotation.json").write_text(json.dumps(value), "utf-8")
    frames, counts = read_dataset(tmp_path)
    assert right(together(frames)) == 12
    if "train" in value:
        assert counts.used.tolist() == [8, 2, 2]


def test_rows_by_image_in_json_are_read(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    value = {name: {"caption": f"Film {name[:-4]}", "age": 4} for name in FILES}
    (tmp_path / "captions.json").write_text(json.dumps(value), "utf-8")
    assert right(read(tmp_path)) == 12


def test_long_numbers_in_json_keep_their_digits(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    rows = [{"image": name, "caption": "film"} for name in FILES]
    rows = [
        row | {"patient_id": 900719925474099300 + i // 2} for i, row in enumerate(rows[:-2])
    ] + rows[-2:]
    (tmp_path / "captions.json").write_text(json.dumps(rows), "utf-8")
    cases = read(tmp_path)["case"]
    assert {"900719925474099300", "900719925474099301"} <= {*cases} and cases.nunique() == 7


def test_a_broken_line_of_json_is_named(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    lines = [json.dumps({"image": name, "caption": "film"}) for name in FILES]
    (tmp_path / "captions.jsonl").write_text(
        "\n".join([*lines[:3], lines[3][:-1], *lines[4:]]), "utf-8"
    )
    with pytest.raises(UserError, match=r"captions\.jsonl is not a readable table \(line 4: "):
        read_dataset(tmp_path)


@pytest.mark.parametrize("column", ["dataset", "phase", "Train/Test", "cohort"])
def test_a_column_of_splits_of_any_name_is_used(tmp_path, capsys, column):
    words = ["train", "train", "val", "test"]
    rows = [f"{name},film,{words[i % 4]}" for i, name in enumerate(FILES)]
    make_folder(tmp_path, FILES, rows, header=f"image,caption,{column}")
    assert read_dataset(tmp_path)[1].used.tolist() == [6, 3, 3]
    assert f"column {column!r}" in capsys.readouterr().out


@pytest.mark.parametrize("cells", [["train", "train", "stress"], ["train"], ["test", "val"]])
def test_a_column_of_other_words_is_no_split(tmp_path, capsys, cells):
    rows = [f"{name},film,{cells[i % len(cells)]}" for i, name in enumerate(FILES)]
    make_folder(tmp_path, FILES, rows, header="image,caption,kind")
    read_dataset(tmp_path)
    assert "Split by image" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["{}.txt", "{}_images.txt"])
def test_text_files_that_list_names_are_the_splits(tmp_path, form):
    make_folder(tmp_path, FILES, [f"{name},film" for name in FILES])
    for split, names in (("train", FILES[:6]), ("val", FILES[6:9]), ("test", FILES[9:])):
        (tmp_path / form.format(split)).write_text("\n".join(names), "utf-8")
    frames, counts = read_dataset(tmp_path)
    assert counts.used.tolist() == [6, 3, 3] and [*frames["test"].id] == ["10", "11", "12"]


@pytest.mark.parametrize("other", ["notes/test_protocol.txt", "train_log.csv", "test results.csv"])
def test_files_with_other_words_beside_a_split_stop_nothing(tmp_path, other):
    make_folder(tmp_path, FILES, [f"{name},film" for name in FILES])
    make_folder(tmp_path, [], ["1,0.5"], other, "epoch,loss")
    assert len(read(tmp_path)) == 12


def test_a_german_workbook_is_read_as_it_was_meant(tmp_path, capsys):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    header = ["ID", "Pat.-Nr.", "Bildpfad", "Befund", "Aufteilung"]
    words = ["Training", "Training", "Validierung", "Test"]
    body = [
        [i + 1, 1000 + k, f"D:\\Export\\{k}.png", f"Bild {k}", words[k % 4]]
        for i, k in enumerate(ORDER)
    ]
    workbook(tmp_path / "Befunde.xlsx", {"Tabelle1": [header, *body]})
    frames, counts = read_dataset(tmp_path)
    assert counts.used.tolist() == [6, 3, 3] and right(together(frames)) == 12
    assert "patient = 'Pat.-Nr.'" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["Training", "Validierung", "Testdaten", "Trainingsdaten/Bilder"])
def test_german_names_of_splits_are_known(tmp_path, text):
    from roco_caption.data.splits import split_word

    assert split_word(text)


def test_merged_captions_are_hinted_at(tmp_path, capsys):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    body = [[name, "" if i % 2 else f"film {i}"] for i, name in enumerate(FILES)]
    workbook(tmp_path / "captions.xlsx", {"a": [["image", "caption"], *body]})
    assert len(read(tmp_path)) == 6
    assert "merged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "cell", "taken"),
    [
        ("study", "{kind}", False),  # kinds of examination
        ("subject", "{kind}", False),
        ("patient", "{kind}", True),  # names
        ("patient_id", "1,23E+11", False),  # shortened by a spreadsheet
        ("mrn", "{i}", True),
        ("PID", "{i}", True),
    ],
)
def test_a_column_of_patients_has_numbers_or_is_called_so(tmp_path, capsys, column, cell, taken):
    kinds = ["CT ABDOMEN", "MR BRAIN", "CR CHEST", "US NECK", "CT CHEST", "MR KNEE"]
    names = [f"{i}.png" for i in range(48)]
    rows = [f"{n};film;{cell.format(kind=kinds[i % 6], i=i // 2)}" for i, n in enumerate(names)]
    make_folder(tmp_path, names, rows, header=f"image;caption;{column}")
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert ("Split by patient" in said) == taken
    assert ("is ignored" in said) != taken


def test_a_study_may_be_one_of_several_of_a_patient(tmp_path, capsys):
    make_folder(
        tmp_path,
        FILES,
        [f"{f},film,{i // 2}" for i, f in enumerate(FILES)],
        header="image,caption,study_id",
    )
    read_dataset(tmp_path)
    assert "If a patient has several" in capsys.readouterr().out


def test_images_are_counted_where_they_have_several_captions(tmp_path):
    rows = [f"{name},film {name} {k}" for name in FILES for k in range(3)]
    make_folder(tmp_path, FILES, rows)
    _, counts = read_dataset(tmp_path, limit=1)
    assert counts.used.tolist() == [1, 1, 1] and counts["over the limit"].sum() == 9
    assert isinstance(counts, pd.DataFrame)
