"""Which tables of a folder are read, by which columns, and how several become one."""

import json
import shutil

import numpy as np
import pytest
from data.test_folder import make_folder, together, workbook
from helpers.dicom_files import write_dicom

from roco_caption.core.errors import UserError
from roco_caption.data.reports import shown_section
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
    with pytest.raises(UserError, match=r"several columns, \[.*'lat'.*COLUMNS = 'image="):
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
    said = capsys.readouterr().out
    assert "read as one with it: " in said and "Split by image" in said


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
    assert "joined by column 'uid'" in said and "not read" not in said


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
        ("patient", "{kind}", True),  # names
        ("person", "{kind}", True),
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
    assert "If one patient may have several" in capsys.readouterr().out


def test_images_are_counted_where_they_have_several_captions(tmp_path):
    rows = [f"{name},film {name} {k}" for name in FILES for k in range(3)]
    make_folder(tmp_path, FILES, rows)
    _, counts = read_dataset(tmp_path, limit=1)
    assert counts.used.tolist() == [1, 1, 1] and counts["over the limit"].sum() == 9
    assert counts["rows"].sum() == 36 and "listed" not in counts


def test_patients_numbers_that_a_spreadsheet_shortened_are_pointed_out(tmp_path, capsys):
    names = [f"{i}.png" for i in range(12)]
    rows = [f"{name};film;1,23E+{i // 4 + 10}" for i, name in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image;caption;patient_id")
    assert read(tmp_path)["case"].nunique() == 3  # rather too few patients than one in two splits
    assert "shortened numbers such as 1,23E+10" in capsys.readouterr().out


def test_a_column_that_a_person_named_is_always_the_patients(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    rows = [f"{name},film,{'ABC'[i % 3]}" for i, name in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,study")
    assert read(tmp_path, columns="patient=study")["case"].nunique() == 3


@pytest.mark.parametrize("absent", [{"age": None}, {}])
def test_gaps_in_other_columns_of_json_do_no_harm(tmp_path, absent):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    rows = [{"image": name, "caption": "film"} | (absent if i % 2 else {"age": 5})
            for i, name in enumerate(FILES)]  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps(rows), "utf-8")
    assert len(read(tmp_path)) == 12


def test_a_label_or_a_nearly_empty_column_is_no_caption(tmp_path):
    rows = [f"{f},J18.9,Film {f[:-4]},{'x' if i == 3 else ''}" for i, f in enumerate(FILES)]
    make_folder(tmp_path, FILES, rows, header="image,diagnosis,description,report")
    assert right(read(tmp_path)) == 12
    make_folder(tmp_path, [], [f"{f},Pneumonia" for f in FILES], "labels.csv", "image,diagnosis")
    assert right(read(tmp_path)) == 12


@pytest.mark.parametrize("other", ["{}/1.png", "masks/m{}.png", "{}.png"])
def test_ids_that_name_the_images_stay_before_columns_of_other_files(tmp_path, other):
    names = [f"{i}.png" for i in range(1, 13)] + [f"masks/m{i}.png" for i in range(1, 13)]
    rows = [f"{i},{other.format(i - 1)},Film {i}" for i in range(1, 13)]  # such as an earlier film
    make_folder(tmp_path, names, rows, header="id,earlier,caption")
    assert right(read(tmp_path)) == 12


def test_images_that_are_not_unpacked_are_not_replaced_by_others(tmp_path):
    names = [f"rois/r{i}.png" for i in range(12)]
    rows = [f"scan{i}.png,rois/r{i}.png,Film" for i in range(12)]
    make_folder(tmp_path, names, rows, header="image,region,caption")
    with pytest.raises(UserError, match="image file missing"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("table", ["labels/captions.csv", "images/captions.csv", "captions.csv"])
def test_a_table_in_a_folder_may_name_files_elsewhere(tmp_path, table):
    names = [f"{folder}/{i}.png" for folder in ("images", "labels") for i in range(1, 13)]
    make_folder(tmp_path, names, [f"images/{i}.png,Film {i}" for i in range(1, 13)], table)
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 12 and rows.image.str.contains("/images/").all()


def test_parts_beside_a_complete_table_are_not_read_as_well(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},Film {f[:-4]}" for f in FILES], "all.csv")
    for k in range(3):
        make_folder(tmp_path, [], [f"{f},fold" for f in FILES[k::3]], f"fold_{k}.csv")
    assert right(read(tmp_path)) == 12


@pytest.mark.parametrize(
    "sheet", ["excluded", "TODO", "Template", "old", "Ausgeschlossen", "Vorlage", "Do not use"]
)
def test_sheets_of_rows_that_are_not_meant_stay_out(tmp_path, sheet):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    rows = [["image", "caption"], *([f, f"film {f[:-4]}"] for f in FILES)]
    workbook(tmp_path / "captions.xlsx", {"a": rows[:9], sheet: [rows[0], *rows[9:]]})
    assert len(read(tmp_path)) == 8


def test_in_a_joined_folder_a_missing_image_is_not_another_patients(tmp_path, capsys):
    for p in range(6):
        names = [f"p{p}/{i}.png" for i in range(3 if p == 0 else 2)]
        rows = [f"{i}.png,patient {p} film {i}" for i in range(3)]
        make_folder(tmp_path, names, rows, f"p{p}/captions.csv")
    rows = read(tmp_path)
    folders = rows.image.str.extract(r"/p(\d)/")[0]
    assert len(rows) == 13 and [c.split()[1] for c in rows.caption] == [*folders]
    assert "p3/2.png" in capsys.readouterr().out


def test_two_keys_or_a_plain_index_join_nothing(tmp_path):
    names = [f"im{i}.png" for i in range(12)]
    views = [f"{i},{i},{11 - i},{name}" for i, name in enumerate(names)]
    make_folder(tmp_path, names, views, "views.csv", ",uid,study_id,filename")
    reports = [f"{i},{i},{i},CR,Film." for i in range(12)]
    make_folder(tmp_path, [], reports, "reports.csv", ",uid,study_id,image,findings")
    with pytest.raises(UserError, match=r"reports\.csv"):
        read_dataset(tmp_path)


def test_joined_tables_keep_the_patients_and_the_splits_of_both(tmp_path):
    names = [f"im{i}.png" for i in range(12)]
    make_folder(
        tmp_path, names, [f"{i},{n}" for i, n in enumerate(names)], "views.csv", "uid,filename"
    )
    words = ["train", "train", "val", "test"]
    reports = [f"{i},{i // 2},{words[i // 3]},CR,Film im{i}" for i in range(12)]
    make_folder(tmp_path, [], reports, "reports.csv", "uid,patient_id,split,image,findings")
    frames, counts = read_dataset(tmp_path)
    rows = together(frames)
    assert counts.used.tolist() == [6, 3, 3] and rows["case"].nunique() == 6 and right(rows) == 12


@pytest.mark.parametrize("many", [2, 20])
def test_only_a_few_images_of_a_row_are_views_of_one(tmp_path, capsys, many):
    make_folder(tmp_path, [f"{i}.png" for i in range(60)], [], "notes.txt", "About")
    rows = [{"images": [f"{k}.png" for k in range(i, i + many)], "report": f"Class {i}"}
            for i in range(0, 60, many)]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(rows), "utf-8")
    first = read(tmp_path)
    assert ("Split by row" in capsys.readouterr().out) == (many == 2)
    (tmp_path / "r.json").write_text(
        json.dumps(rows[1:]), "utf-8"
    )  # the others stay where they are
    later = read(tmp_path)
    places = dict(zip(first.id, first.split, strict=True))
    moved = sum(places[id] != split for id, split in later[["id", "split"]].values)
    assert moved <= 4


def test_rows_that_differ_only_in_a_fold_are_listed_twice(tmp_path):
    rows = [f"{f},film,train,{k}" for f in FILES for k in range(5)]
    rows = [row.replace("train", "val") if row.startswith("12.") else row for row in rows]
    make_folder(tmp_path, FILES, rows, header="image,caption,split,fold")
    _, counts = read_dataset(tmp_path)
    assert counts["listed twice"].sum() == 48


def test_an_image_in_two_lists_is_refused(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},film" for f in FILES])
    for split, names in (("train", FILES[:8]), ("val", FILES[8:]), ("test", FILES[8:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(names), "utf-8")
    with pytest.raises(UserError, match=r"test\.txt and .*val\.txt"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("label", ["0 0.5 0.5 0.1 0.1", "pneumonia 0.5 0.5 0.1 0.1"])
def test_boxes_beside_images_are_no_captions(tmp_path, label):
    make_folder(tmp_path, FILES, [], "README.md")
    for name in FILES:
        (tmp_path / name).with_suffix(".txt").write_text(label, "utf-8")
    with pytest.raises(UserError, match="no captions"):
        read_dataset(tmp_path)


def test_columns_of_json_with_a_list_of_objects_are_columns(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    value = {"image": FILES, "caption": ["film"] * 12, "meta": [{"age": i} for i in range(12)]}
    (tmp_path / "r.json").write_text(json.dumps(value), "utf-8")
    assert len(read(tmp_path)) == 12


def test_numbered_parts_are_read_as_one_and_other_names_are_not(tmp_path):
    for k, name in enumerate(("part-0.csv", "part-1.csv", "part-2.csv")):
        make_folder(tmp_path, FILES[k::3], [f"{f},Film {f[:-4]}" for f in FILES[k::3]], name)
    assert len(read(tmp_path)) == right(read(tmp_path)) == 12
    make_folder(tmp_path, ["13.png"], ["13.png,Film 13"], "draft.csv")
    with pytest.raises(UserError, match="draft"):
        read_dataset(tmp_path)


def test_merged_tables_take_the_column_that_a_person_names(tmp_path, capsys):
    names = [f"{i}_IM.png" for i in range(1, 13)]
    make_folder(tmp_path, names, [f"{n[:-7]},{n}" for n in names], "views.csv", "uid,filename")
    reports = [f"{i},CR,Findings {i}.,Film {i}_IM" for i in range(1, 13)]
    make_folder(tmp_path, [], reports, "reports.csv", "uid,image,findings,impression")
    assert right(read(tmp_path, columns="caption=impression")) == 12
    assert "is not read" not in capsys.readouterr().out


@pytest.mark.parametrize("key", ["Sl No", "lfd. Nr.", "row_id", "Serial Number"])
def test_a_counter_of_rows_is_no_key(tmp_path, key):
    names = [f"im{i}.png" for i in range(12)]
    make_folder(tmp_path, names, [f"{i},{n}" for i, n in enumerate(names)], "a.csv", f"{key},file")
    make_folder(
        tmp_path, [], [f"{11 - i},CR,Film." for i in range(12)], "b.csv", f"{key},image,text"
    )
    with pytest.raises(UserError, match=r"b\.csv"):
        read_dataset(tmp_path)


def test_captions_that_are_written_for_some_images_only_are_taken(tmp_path):
    rows = [f"{f},{f'Film {f[:-4]}' if i < 5 else ''},CHEST PA" for i, f in enumerate(FILES)]
    make_folder(tmp_path, FILES, rows, header="image,caption,description")
    assert right(read(tmp_path)) == len(read(tmp_path)) == 5


@pytest.mark.parametrize("text", ["", 'image,caption\na.png,"open\n', "image,label\na.png,x\n"])
@pytest.mark.parametrize("form", ["csv", "xls"])
def test_a_table_of_a_split_that_cannot_be_read_stops_whatever_else_is_in_its_name(
    tmp_path, text, form
):
    for k, split in enumerate(("train", "val")):
        rows = [f"{f},film" for f in FILES[k::3]]
        make_folder(tmp_path, FILES[k::3], rows, f"chest_{split}.csv")
    (tmp_path / f"chest_test.{form}").write_text(text, "utf-8")
    with pytest.raises(UserError, match="named like the table of test images"):
        read_dataset(tmp_path)


def test_merged_cells_are_filled_within_a_sheet(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    rows = [[f, "film", f"P{i // 2}" if i % 2 == 0 else ""] for i, f in enumerate(FILES)]
    header = ["image", "caption", "patient"]
    second = [header, [FILES[6], "film", ""], *rows[7:]]  # its first patient is not known
    workbook(tmp_path / "c.xlsx", {"a": [header, *rows[:6]], "b": second})
    rows = read(tmp_path).set_index("id")["case"]
    assert rows["6"] == "p2" and rows["7"] not in set(rows.drop("7"))


def test_a_test_image_stays_one_when_others_are_added_in_a_folder(tmp_path):
    names = [f"batch1/IM{i:04}.png" for i in range(60)]
    make_folder(tmp_path, names, [f"{n},film" for n in names])
    before = read(tmp_path)
    more = [f"batch2/IM{i:04}.png" for i in range(6)]
    make_folder(tmp_path, more, [f"{n},film" for n in [*names, *more]])
    after = read(tmp_path)
    kept = {image for image, split in after[["image", "split"]].values if split == "test"}
    tested = {image for image, split in before[["image", "split"]].values if split == "test"}
    assert len(tested - kept) <= 2


def test_a_patient_is_the_same_however_the_number_is_written(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    splits = []
    for form in ("{:03}", "{}", "{}.0"):
        rows = [f"{n},film,{form.format(i // 3)}" for i, n in enumerate(names)]
        make_folder(tmp_path, names, rows, header="image,caption,patient")
        splits.append(dict(read(tmp_path)[["id", "split"]].values))
    assert splits[0] == splits[1] == splits[2]


def test_rocos_other_images_are_not_joined_with_the_radiology_ones(tmp_path):
    for split in ("train", "test"):
        for kind in ("radiology", "non-radiology"):
            names = [f"{split}/{kind}/images/{split}_{kind}{i}.jpg" for i in range(4)]
            rows = [f"{n.split('/')[-1]},{kind}" for n in names]
            make_folder(tmp_path, names, rows, f"{split}/{kind}/{split}data.csv", "name,caption")
    with pytest.raises(UserError, match="each have captions for images"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("column", ["voraufnahme", "précédente", "baseline", "other_view"])
def test_earlier_images_are_not_taken_for_the_images(tmp_path, column):
    rows = [f"{i},Film {i},{i - 1}.png" for i in range(2, 13)]
    make_folder(tmp_path, FILES, rows, header=f"id,caption,{column}")
    if column == "other_view":  # nothing tells what it is
        with pytest.raises(UserError, match=r"\['id', 'other_view'\].*COLUMNS = 'image=id'"):
            read_dataset(tmp_path)
    rows = read(tmp_path, columns="image=id")
    assert len(rows) == right(rows) == 11


@pytest.mark.parametrize("column", ["masque", "máscara", "maschera", "Maske"])
def test_masks_in_other_languages_are_no_images(tmp_path, column):
    names = [f"{i:03}.png" for i in range(12)] + [f"{i:03}_m.png" for i in range(12)]
    rows = [f"{i:03},Film {i:03},{i:03}_m.png" for i in range(12)]
    make_folder(tmp_path, names, rows, header=f"imagen,caption,{column}")
    with pytest.raises(UserError, match="no image column") as error:
        read_dataset(tmp_path)
    assert f"image={column}" not in str(error.value)


def test_cases_with_letters_are_cases(tmp_path):
    rows = [f"{i}.png,film,Case {'ABCDEFGHIJ'[i // 4]}" for i in range(40)]
    make_folder(tmp_path, [f"{i}.png" for i in range(40)], rows, header="image,caption,case")
    assert read(tmp_path)["case"].nunique() == 10


@pytest.mark.parametrize(
    "words",
    [("entrenamiento", "validación", "prueba"), ("treino", "validação", "teste"),
     ("entraînement", "validation", "test"), ("addestramento", "validazione", "test")],
)  # fmt: skip
def test_splits_in_other_languages_are_known(tmp_path, words):
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    rows = [[f, f"film {f[:-4]}"] for f in FILES]
    parts = dict(zip(words, (rows[:6], rows[6:9], rows[9:]), strict=True))
    workbook(tmp_path / "r.xlsx", {word: [["image", "caption"], *parts[word]] for word in words})
    assert read_dataset(tmp_path)[1].used.tolist() == [6, 3, 3]


def test_a_number_and_a_file_that_agree_need_no_choice(tmp_path):
    rows = [f"{i},{i}.png,Film {i}" for i in range(1, 13)]
    make_folder(tmp_path, FILES, rows, header="id,frontal,caption")
    assert right(read(tmp_path)) == 12


def test_parts_may_write_their_columns_otherwise_and_have_two_alike(tmp_path):
    header = ["Image", "Caption", "Age", "age_"]
    parts = [(FILES[:6], header), (FILES[6:], ["CAPTION", "image", "age", "AGE"])]
    make_folder(tmp_path, FILES, [], "notes.txt", "About")
    sheets = {}
    for k, (files, columns) in enumerate(parts):
        cells = [[f, f"film {f[:-4]}", k, k] for f in files]
        rows = cells if k == 0 else [[text, f, *ages] for f, text, *ages in cells]
        sheets[f"part {k}"] = [columns, *rows]
    workbook(tmp_path / "c.xlsx", sheets)
    assert len(read(tmp_path)) == right(read(tmp_path)) == 12


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: fever.  // pneumonia?

 FINDINGS:

 Film {}. There is no focal consolidation:
 the lungs are clear.

 IMPRESSION:

 No acute process.
"""


def make_reports(root, names, files):
    make_folder(root, names, [], "notes.md")
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


@pytest.mark.parametrize("where", ["{0}.txt", "{0}/report.txt", "../texts/{1}.txt"])
def test_a_report_per_folder_is_the_caption_of_its_images(tmp_path, capsys, where):
    patients = [f"p{k // 4}/p{k}/s{k}" for k in range(24)]
    names = [f"files/{place}/{view}.png" for place in patients for view in "ab"]
    texts = {
        "files/" + where.format(place, place.split("/")[-1]): REPORT.format(k)
        for k, place in enumerate(patients)
    }
    make_reports(tmp_path, names, texts)
    if ".." in where:  # neither named like the folder nor in it
        with pytest.raises(UserError, match="no table"):
            read_dataset(tmp_path)
        return
    rows = read(tmp_path)
    assert len(rows) == 48
    for row in rows.itertuples():
        number = row.image.split("/s")[-1].split("/")[0]
        assert (
            row.caption == f"Film {number}. There is no focal consolidation: the lungs are clear."
        )
    assert rows.groupby("caption").split.nunique().eq(1).all()


@pytest.mark.parametrize("folders", [1, 8])
def test_few_folders_with_one_text_each_are_kept_together(tmp_path, folders):
    names = [f"case{k}/{i}.jpg" for k in range(folders) for i in range(4)]
    make_reports(
        tmp_path, names, {f"case{k}/text.txt": f"Film of case {k}." for k in range(folders)}
    )
    if folders == 1:  # one text is no report of an examination
        with pytest.raises(UserError):
            read_dataset(tmp_path)
        return
    rows = read(tmp_path)
    assert rows.groupby("caption").split.nunique().eq(1).all() and len(rows) == 32


def test_reports_in_a_folder_of_their_own_have_the_images_names(tmp_path):
    make_reports(
        tmp_path,
        [f"images/{i}.jpg" for i in range(12)],
        {f"reports/{i}.txt": f"Normal film {i}" for i in range(12)},
    )
    rows = read(tmp_path)
    assert len(rows) == 12
    for row in rows.itertuples():
        assert row.image.endswith(f"/{row.caption.split()[-1]}.jpg")


def test_a_text_in_each_class_folder_is_no_report(tmp_path):
    names = [f"{kind}/{i}.jpg" for kind in ("chest", "abdomen") for i in range(30)]
    make_reports(tmp_path, names, {f"{k}/readme.txt": "About them" for k in ("chest", "abdomen")})
    with pytest.raises(UserError, match="no table"):
        read_dataset(tmp_path)


def test_a_table_goes_before_texts_in_folders(tmp_path):
    names = [f"s{k}/a.jpg" for k in range(12)]
    make_reports(tmp_path, names, {f"s{k}/info.txt": "Siemens" for k in range(12)})
    (tmp_path / "t.csv").write_text(
        "image,caption\n" + "".join(f"{n},Film {n[1:-6]}\n" for n in names), "utf-8"
    )
    assert read(tmp_path).caption.str.startswith("Film").all()


@pytest.mark.parametrize(
    "report, section",
    [
        ("Normal film.", "Normal film."),
        (
            "FINDINGS:\nAt 10:45, since the examination at 05:30: clear.",
            "At 10:45, since the examination at 05:30: clear.",
        ),
        ("FINDINGS: ___\nIMPRESSION: Clear.", "Clear."),
        ("FINDINGS CHEST: Clear.\nFINDINGS ABDOMEN: Cyst.", "Clear.\nCyst."),
        ("Befundbericht: Sehr geehrte\nBefund: Frei.", "Frei."),
        ("Clinical photograph: jaw. Findings of CT: cyst.",) * 2,
        ("FINDINGS: Clear. Recommend CT: aorta is wide.", "Clear. Recommend CT: aorta is wide."),
        ("IMPRESSION: Clear.", "Clear."),
        ("Findings and Impression: Clear.", "Clear."),
        ("FINDINGS:\nIMPRESSION: Clear.\nDr. X", "Clear.\nDr. X"),
        ("INDICATION: Pain\nBeurteilung: Frei.\nBefund: Klar.\n", "Klar."),
        ("There are findings: a mass.", "There are findings: a mass."),
        ("Heart: normal\nLungs: clear", "Heart: normal\nLungs: clear"),
        ("FINDINGS:\nHeart: normal.\nLungs: clear.", "Heart: normal.\nLungs: clear."),
    ],
)
def test_what_a_report_shows_is_its_findings_or_else_its_impression(report, section):
    assert shown_section(report) == section


@pytest.mark.parametrize("names", ["{}. {}", "{}.{}", "v{}.{}"])
def test_numbered_splits_are_splits(tmp_path, names):
    words = [names.format(k, split) for k, split in enumerate(("Training", "Validation", "Test"))]
    sheets = {
        word: [["image", "caption"], *([name, f"film {name[:-4]}"] for name in FILES[k::3])]
        for k, word in enumerate(words)
    }
    make_folder(tmp_path / "a", FILES, [], "notes.txt")
    workbook(tmp_path / "a" / "captions.xlsx", sheets)
    rows = [f"{name},film,{words[i % 3]}" for i, name in enumerate(FILES)]
    make_folder(tmp_path / "b", FILES, rows, header="image,caption,split")
    for folder in "ab":
        frames, _ = read_dataset(tmp_path / folder)
        for k, frame in enumerate(frames.values()):
            assert set(frame.id) == {name[:-4] for name in FILES[k::3]}


def test_a_table_in_a_folder_names_files_from_there(tmp_path):
    for k, place in enumerate("ab"):
        names = [f"images/{i}.png" for i in range(6)]
        make_folder(tmp_path / place, names, [f"{n},film {k * 6 + i}" for i, n in enumerate(names)])
    rows = read(tmp_path)
    assert len(rows) == 12
    for row in rows.itertuples():
        number = int(row.caption.split()[1])
        assert row.image.endswith(f"/{'ab'[number // 6]}/images/{number % 6}.png")


def test_a_table_beside_images_means_these_and_no_masks(tmp_path):
    rows = [f"{i}.png,Film {i}" for i in range(12)]
    names = [f"{place}/{i}.png" for place in ("images", "masks") for i in range(12)]
    make_folder(tmp_path, names, rows, "images/captions.csv")
    rows = read(tmp_path)
    assert len(rows) == 12 and rows.image.str.contains("/images/").all()


def test_a_split_in_json_is_not_lost(tmp_path, capsys):
    names = [f"{i}.png" for i in range(18)]
    for k, split in enumerate(("train", "val")):
        make_folder(tmp_path, names[k::3], [f"{n},film" for n in names[k::3]], f"{split}.csv")
    make_folder(tmp_path, names[2::3], [], "notes.md")
    (tmp_path / "test.json").write_text(json.dumps(dict.fromkeys(names[2::3], "film")), "utf-8")
    frames, _ = read_dataset(tmp_path)
    assert set(frames["test"].id) == {name[:-4] for name in names[2::3]}
    (tmp_path / "train_labels.json").write_text(json.dumps(dict.fromkeys(names[::3], "CT")))
    capsys.readouterr()
    frames, _ = read_dataset(tmp_path)
    assert set(frames["train"].caption) == {"film"}
    assert "train_labels.json" in capsys.readouterr().out


def test_two_tables_of_captions_for_one_of_names_are_rivals(tmp_path):
    make_folder(
        tmp_path, FILES, [f"U{i},{f}" for i, f in enumerate(FILES)], "v.csv", "uid,filename"
    )
    make_folder(tmp_path, [], [f"U{i},film" for i in range(12)], "reports.csv", "uid,findings")
    make_folder(tmp_path, [], [f"U{i},seen" for i in range(12)], "comments.csv", "uid,comment")
    with pytest.raises(UserError, match=r"comments\.csv and .*reports\.csv each"):
        read_dataset(tmp_path)


def test_lists_of_splits_in_a_folder_are_read(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},film" for f in FILES])
    (tmp_path / "ImageSets").mkdir()
    parts = {"train": FILES[:8], "val": FILES[8:10], "test": FILES[10:]}
    for split, names in parts.items():
        (tmp_path / "ImageSets" / f"{split}.txt").write_text("\n".join(names), "utf-8")
    frames, _ = read_dataset(tmp_path)
    assert [len(frame) for frame in frames.values()] == [8, 2, 2]


def test_a_caption_beside_an_image_called_train_is_no_list(tmp_path):
    names = [f"{split}_{i:02}.png" for split in ("train", "test") for i in range(12)]
    make_folder(tmp_path, names, [], "notes.md")
    for name in names:
        (tmp_path / name).with_suffix(".txt").write_text(f"Film {name[:-4]}", "utf-8")
    assert len(read(tmp_path)) == right(read(tmp_path)) == 24


def test_a_column_with_a_number_can_be_named(tmp_path):
    rows = [f"{name},seen,Film {name[:-4]}" for name in FILES]
    make_folder(tmp_path, FILES, rows, header="image,caption,caption.1")
    rows = read(tmp_path, columns="caption=caption.1")
    assert right(rows) == 12


def test_sheets_of_one_workbook_are_joined_by_a_column(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.txt")
    views = [["uid", "filename"], *([f"U{i}", name] for i, name in enumerate(FILES))]
    reports = [["uid", "findings"], *([f"U{i}", f"Film {n[:-4]}"] for i, n in enumerate(FILES))]
    workbook(tmp_path / "c.xlsx", {"views": views, "reports": reports})
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 12


def test_only_columns_that_count_are_printed(tmp_path, capsys):
    rows = [f"{f},film,{i % 3},{['train', 'val', 'test'][i % 3]},CT" for i, f in enumerate(FILES)]
    make_folder(tmp_path, FILES, rows, header="image,caption,split,set,study")
    read(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "12 rows" in line]
    assert "split = 'set'" in line and "patient" not in line


@pytest.mark.parametrize("sign", [". ", "\\n", "<br>", " <p>"])
@pytest.mark.parametrize("share", [12, 5])
def test_of_reports_in_a_table_only_the_findings_are_captions(tmp_path, capsys, share, sign):
    report = (
        f"EXAMINATION: Chest{sign}INDICATION: Pain{sign}FINDINGS: Film {{}}{sign}IMPRESSION: No"
    )
    captions = [report.format(i) if i < share else f"Film {i}." for i in range(12)]
    make_folder(tmp_path, FILES, [f'{n},"{c}"' for n, c in zip(FILES, captions, strict=True)])
    rows = read(tmp_path)
    assert rows.caption.str.startswith("Film").sum() == (12 if share == 12 else 7)
    assert ("reports with headings" in capsys.readouterr().out) == (share == 12)


def test_a_table_in_a_folder_of_masks_does_not_mean_these(tmp_path):
    rows = [f"{i}.png,Film {i}" for i in range(12)]
    names = [f"{place}/{i}.png" for place in ("images", "labels") for i in range(12)]
    make_folder(tmp_path, names, rows, "labels/captions.csv")
    with pytest.raises(UserError, match="several files of this name"):
        read_dataset(tmp_path)


def test_of_two_tables_of_names_for_the_captions_the_one_with_splits_counts(tmp_path):
    names = [f"{i}.jpg" for i in range(12)]
    splits = ["train"] * 8 + ["validate"] * 2 + ["test"] * 2
    for table, header, last in (
        ("metadata.csv", "dicom_id,study_id,ViewPosition", ["AP"] * 12),
        ("split.csv", "dicom_id,study_id,split", splits),
    ):
        rows = [f"{i},s{i},{value}" for i, value in enumerate(last)]
        make_folder(tmp_path, names, rows, table, header)
    make_folder(tmp_path, [], [f"s{i},Film {i}" for i in range(12)], "r.csv", "study_id,findings")
    frames, _ = read_dataset(tmp_path)
    assert [len(frame) for frame in frames.values()] == [8, 2, 2]


@pytest.mark.parametrize("labels", ["labels_train.json", "labels_test.json", "labels/val.json"])
def test_labels_in_json_are_never_captions(tmp_path, labels):
    make_folder(tmp_path, FILES, [f"{n},Film {n[:-4]}" for n in FILES])
    (tmp_path / labels).parent.mkdir(exist_ok=True)
    names = FILES if "train" in labels else FILES[:4]
    (tmp_path / labels).write_text(json.dumps(dict.fromkeys(names, "pneumonia")), "utf-8")
    assert right(read(tmp_path)) == 12


def test_masks_and_previews_do_not_get_the_texts_beside_images(tmp_path):
    images = [f"images/{i}.png" for i in range(12)]
    others = [f"{place}/{i}.png" for place in ("masks", "preview") for i in range(5)]
    make_reports(
        tmp_path, images + others, {f"images/{i}.txt": f"Normal film {i}" for i in range(12)}
    )
    rows = read(tmp_path)
    assert len(rows) == right(rows) == 12 and rows.image.str.contains("/images/").all()


@pytest.mark.parametrize("more", [{"masks/{}.png"}, {"labels/{}.txt"}])
def test_names_that_are_not_unique_are_not_matched_across_folders(tmp_path, more):
    images = [f"images/{i}.png" for i in range(12)]
    texts = {f"reports/{i}.txt": f"Normal film {i}" for i in range(12)}
    for name in more:
        for i in range(4):
            if name.endswith("png"):
                images.append(name.format(i))
            else:
                texts[name.format(i)] = "Nodule on film"
    make_reports(tmp_path, images, texts)
    with pytest.raises(UserError, match="no table"):
        read_dataset(tmp_path)


def test_another_patients_report_is_not_taken(tmp_path):
    names = [f"p{p}/{i}.png" for p in range(6) for i in range(4)]
    make_reports(
        tmp_path, names, {f"p{p}/{i}.txt": f"Film {i}" for p in range(6) for i in range(3)}
    )
    (tmp_path / "p0" / "3.txt").write_text("A tumour", "utf-8")
    rows = read(tmp_path)
    assert len(rows) == 19 and (rows.caption == "A tumour").sum() == 1


@pytest.mark.parametrize(
    "text",
    ["This disc was made by the PACS of a hospital", "1.png\n2.png\n3.png", "d41d8cd  1.png"],
)
def test_what_every_folder_has_is_no_report(tmp_path, text):
    names = [f"p{p}/{i}.png" for p in range(12) for i in range(3)]
    make_reports(tmp_path, names, {f"p{p}/info.txt": text for p in range(12)})
    with pytest.raises(UserError, match="no table"):
        read_dataset(tmp_path)


def test_two_tables_with_one_key_go_before_texts_of_folders(tmp_path):
    names = [f"s{k}/a.jpg" for k in range(12)]
    make_reports(tmp_path, names, {f"s{k}/info.txt": f"Siemens {k}" for k in range(12)})
    lines = [f"U{k},{name}" for k, name in enumerate(names)]
    make_folder(tmp_path, [], lines, "views.csv", "uid,filename")
    make_folder(tmp_path, [], [f"U{k},Film {k}" for k in range(12)], "r.csv", "uid,findings")
    assert read(tmp_path).caption.str.startswith("Film").all()


@pytest.mark.parametrize("shared", [False, True])
def test_lists_of_a_part_of_the_images_in_a_folder_change_nothing(tmp_path, shared):
    names = [f"{split}/{i}.png" for split in ("train", "val", "test") for i in range(8)]
    make_folder(tmp_path, names, [f"{name},film" for name in names])
    (tmp_path / "yolo").mkdir()
    for split, listed in (("train", 5), ("val", 5 if shared else 3)):
        (tmp_path / "yolo" / f"{split}.txt").write_text(f"train/{listed}.png", "utf-8")
    frames, _ = read_dataset(tmp_path)
    assert [len(frame) for frame in frames.values()] == [8, 8, 8]


def test_frontal_and_lateral_tables_share_one_of_reports(tmp_path):
    make_folder(tmp_path, [], [f"U{k},Film {k}" for k in range(12)], "r.csv", "uid,findings")
    for view in ("frontal", "lateral"):
        names = [f"{k}_{view}.png" for k in range(12)]
        rows = [f"U{k},{name}" for k, name in enumerate(names)]
        make_folder(tmp_path, names, rows, f"{view}.csv", "uid,filename")
    rows = read(tmp_path)
    assert len(rows) == 24 and rows.groupby("case").split.nunique().eq(1).all()
    assert all(f"/{row.caption[5:]}_" in row.image for row in rows.itertuples())


def test_examinations_stay_together_where_only_the_test_split_is_given(tmp_path):
    names = [f"{split}/p{p}/{i}.png" for split in ("train", "test") for p in range(9) for i in "ab"]
    texts = {f"{name.rpartition('/')[0]}/report.txt": f"Film of {name[:8]}" for name in names}
    make_reports(tmp_path, names, texts)
    rows = read(tmp_path)
    assert len(rows) == 36 and rows.groupby("caption").split.nunique().eq(1).all()


@pytest.mark.parametrize("text", ["gone", "binary"])
def test_a_text_that_cannot_be_read_is_no_caption(tmp_path, text):
    make_reports(tmp_path, FILES, {f"{i}.txt": f"Normal film {i}" for i in range(1, 12)})
    if text == "gone":
        (tmp_path / "12.txt").symlink_to(tmp_path / "nowhere.txt")
    else:
        (tmp_path / "12.txt").write_bytes(b"\0\1")
    assert len(read(tmp_path)) == 11


def test_a_table_elsewhere_with_paths_from_the_top_means_these(tmp_path):
    names = [f"{place}images/{i}.png" for place in ("", "meta/") for i in range(12)]
    rows = [f"images/{i}.png,film" for i in range(12)]
    make_folder(tmp_path, names, rows, "meta/captions.csv")
    assert not read(tmp_path).image.str.contains("meta").any()


def test_dicom_files_of_another_extension_have_texts_beside_them(tmp_path):
    path = write_dicom(tmp_path / "a", np.arange(64).reshape(8, 8))
    for i in range(12):
        shutil.copy(path, tmp_path / f"IM{i}.IMA")
        (tmp_path / f"IM{i}.txt").write_text(f"Normal film {i}", "utf-8")
    path.unlink()
    rows = read(tmp_path)
    assert len(rows) == 12


def test_the_encoding_of_short_texts_is_detected_in_all_of_them(tmp_path, capsys):
    make_folder(tmp_path, FILES, [], "notes.md")
    texts = ["双肺纹理增多，未见明显异常。", "心影增大，主动脉迂曲。", "右肺上叶见结节影。"]
    for k, name in enumerate(FILES):
        (tmp_path / name).with_suffix(".txt").write_bytes(texts[k % 3].encode("gb18030"))
    assert set(read(tmp_path).caption) == {*texts}
    assert "encoding gb18030" in capsys.readouterr().out


def test_texts_of_two_encodings_are_each_read_in_their_own(tmp_path):
    make_folder(tmp_path, FILES, [], "notes.md")
    texts = ["Röntgen Thorax unauffällig, keine Ergüsse. " * 8, "双肺纹理增多，未见明显异常。" * 10]
    for k, name in enumerate(FILES):
        encoded = texts[k % 2].encode("gb18030" if k % 2 else "cp1252")
        (tmp_path / name).with_suffix(".txt").write_bytes(encoded)
    assert set(read(tmp_path).caption) == {text.strip() for text in texts}


def test_rows_of_two_tables_are_not_one(tmp_path):
    for split, count in (("train", 60), ("test", 20)):
        names = [f"{split}/{i}.png" for i in range(2 * count)]
        make_folder(tmp_path, names, [], "notes.md")
        rows = [{"image": names[2 * i : 2 * i + 2], "caption": f"Film {i}"} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    rows = read(tmp_path)
    known = rows[rows.split != "test"]
    assert known.groupby("caption").split.nunique().eq(1).all() and len(rows) == 160


def test_a_table_beside_images_may_name_further_ones(tmp_path):
    names = [f"images/{i}.png" for i in range(8)] + [f"more/{i}.png" for i in range(8, 12)]
    rows = [f"{i}.png,Film {i}" for i in range(12)]
    make_folder(tmp_path, names, rows, "images/captions.csv")
    assert len(read(tmp_path)) == right(read(tmp_path)) == 12


def test_lists_of_folds_and_folders_called_like_lists_change_nothing(tmp_path):
    splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    rows = [f"{n},film,{split}" for n, split in zip(FILES, splits, strict=True)]
    make_folder(tmp_path, FILES, rows, header="image,caption,split")
    (tmp_path / "logs" / "train.txt").mkdir(parents=True)
    (tmp_path / "cv").mkdir()
    for fold in range(3):
        test = FILES[fold::3]
        (tmp_path / "cv" / f"test_{fold}.txt").write_text("\n".join(test), "utf-8")
        train = [name for name in FILES if name not in test]
        (tmp_path / "cv" / f"train_{fold}.txt").write_text("\n".join(train), "utf-8")
    frames, _ = read_dataset(tmp_path)
    assert [len(frame) for frame in frames.values()] == [8, 2, 2]


def test_sections_are_decided_for_all_splits_together(tmp_path):
    for split, share in (("train", 0.8), ("val", 0.4), ("test", 0.4)):
        names = [f"{split}{i}.png" for i in range(10)]
        captions = [f"FINDINGS: Film {i}." if i < 10 * share else f"Film {i}." for i in range(10)]
        rows = [f"{n},{c}" for n, c in zip(names, captions, strict=True)]
        make_folder(tmp_path, names, rows, f"{split}.csv")
    assert read(tmp_path).caption.str.startswith("Film").all()


@pytest.mark.parametrize("kind", ["xls", "unknown column", "COLUMNS"])
def test_notes_in_folders_do_not_replace_a_table_that_is_not_understood(tmp_path, kind):
    names = [f"p{k}/a.png" for k in range(12)]
    notes = {f"p{k}/info.txt": f"Exported by technician {k} in January" for k in range(12)}
    make_reports(tmp_path, names, notes)
    rows = [f"{name},The lungs are clear and the heart is of normal size" for name in names]
    if kind == "xls":
        (tmp_path / "captions.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    elif kind == "COLUMNS":
        make_folder(tmp_path, [], rows)
    else:
        make_folder(tmp_path, [], rows, header="film,diagnostic text")
    with pytest.raises(UserError):
        read_dataset(tmp_path, columns="caption=captoin" if kind == "COLUMNS" else "")


def test_captions_that_are_no_reports_stay_whole_beside_reports(tmp_path):
    reports = [f"INDICATION: Pain? FINDINGS: Film {i}. IMPRESSION: No." for i in range(8)]
    captions = [*reports, *(f"Film of mass {i}. Conclusion: cancer." for i in range(4))]
    rows = [f"{n},{c}" for n, c in zip(FILES, captions, strict=True)]
    make_folder(tmp_path, [*FILES, *(f"x{i}.png" for i in range(9))], rows)
    with open(tmp_path / "captions.csv", "a", encoding="utf-8") as file:
        file.writelines(f"x{i}.png,\n" for i in range(9))  # without captions
    rows = read(tmp_path)
    assert rows.caption.str.startswith("Film").all() and len(rows) == 12
    assert (rows.caption.str.contains("Conclusion")).sum() == 4


@pytest.mark.parametrize("other", ["captions_old.csv", "labels.csv", "old/captions.csv"])
def test_a_larger_table_that_is_not_meant_does_not_win(tmp_path, capsys, other):
    make_folder(tmp_path, FILES, [f"{f},pneumonia" for f in FILES], other)
    texts = [f"{f},There is a consolidation in lobe number {f[:-4]}" for f in FILES[:9]]
    make_folder(tmp_path, [], texts, "captions.csv")
    rows = read(tmp_path)
    assert len(rows) == 9 and rows.caption.str.startswith("There is").all()
    assert "(12 of the images) is not read" in capsys.readouterr().out


def test_a_small_table_does_not_win_by_its_name(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},Film {f[:-4]}" for f in FILES], "old.csv")
    make_folder(
        tmp_path, [], [f"{FILES[0]},There are some sentences about this first film"], "x.csv"
    )
    assert right(read(tmp_path)) == 12


@pytest.mark.parametrize("sheets", [("Contrast", "Non-contrast"), ("New fracture", "Old fracture")])
@pytest.mark.parametrize("shared", [0, 1])
def test_sheets_of_two_kinds_of_images_are_both_read(tmp_path, sheets, shared):
    names = [f"{i}.png" for i in range(30)]
    make_folder(tmp_path, names, [], "unused.txt")
    parts = names[:15], names[15 - shared :]
    workbook(tmp_path / "t.xlsx", {
        sheet: [("image", "caption"), *((name, f"Film {name[:-4]}") for name in part)]
        for sheet, part in zip(sheets, parts, strict=True)
    })  # fmt: skip
    assert len(read(tmp_path)) == 30


@pytest.mark.parametrize(
    "sheet", ["Bad quality", "Not checked", "Not ok", "Old cases", "alt (2019)"]
)
def test_sheets_that_are_called_so_are_not_read(tmp_path, sheet):
    names = [f"{i}.png" for i in range(30)]
    make_folder(tmp_path, names, [], "unused.txt")
    workbook(tmp_path / "t.xlsx", {
        title: [("image", "caption"), *((name, f"Film {name[:-4]}") for name in part)]
        for title, part in {"Main": names[:20], sheet: names[20:]}.items()
    })  # fmt: skip
    assert len(read(tmp_path)) == 20


@pytest.mark.parametrize("caption", ["Effusion left side {}", "右肺上叶结节{}毫米"])
def test_short_captions_do_not_lose_to_longer_comments_on_fewer_images(tmp_path, caption):
    files = [f"{i}.png" for i in range(60)]
    make_folder(tmp_path, files, [f"{f},{caption.format(f[:-4])}" for f in files])
    comments = [f"{f},Image {f} was exported again from the archive" for f in files[:31]]
    make_folder(tmp_path, [], comments, "comments.csv")
    rows = read(tmp_path)
    assert len(rows) == 60 and not rows.caption.str.contains("exported").any()


def test_the_captions_of_an_old_folder_do_not_win(tmp_path):
    make_folder(tmp_path, FILES, [f"{f},The old text of film number {f}" for f in FILES],
                "old/captions.csv")  # fmt: skip
    make_folder(tmp_path, [], [f"{f},The new text of film number {f}" for f in FILES[:11]])
    rows = read(tmp_path)
    assert len(rows) == 11 and rows.caption.str.contains("new").all()


def test_sheets_of_places_called_bad_are_read(tmp_path):
    make_folder(tmp_path, FILES, [], "unused.txt")
    parts = {"Bad Homburg": FILES[:6], "Kassel": FILES[6:]}
    workbook(tmp_path / "t.xlsx", {
        title: [("image", "caption"), *((name, f"Film {name[:-4]}") for name in part)]
        for title, part in parts.items()
    })  # fmt: skip
    assert len(read(tmp_path)) == 12
