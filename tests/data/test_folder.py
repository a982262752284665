"""A folder of one's own images with a table gives the frames that its owner expects."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import write_dicom

from roco_caption.core.errors import UserError
from roco_caption.data.cases import cases_of
from roco_caption.data.names import image_ids
from roco_caption.data.roco import locate_dataset, read_dataset


def make_folder(root, names, rows, table="captions.csv", header="image,caption"):
    """Write files of these names, and a table of these lines."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_text("\n".join([header, *rows, ""]), "utf-8")
    return root


def of_patients(root, patients, each=3):
    names = [f"p{p}/{i}.png" for p in patients for i in range(each)]
    rows = [f"{name},caption {name},{name.split('/')[0]}" for name in names]
    return make_folder(root, names, rows, header="image,caption,Patient ID")


def of_splits(root, form="{}/captions.csv"):
    """Write four images and a table for each split."""
    for split in ("train", "val", "test"):
        names = [f"{split}/{i}.png" for i in range(4)]
        make_folder(root, names, [f"{name},text" for name in names], form.format(split))
    return root


def workbook(path, sheets):
    """Write an Excel workbook of {sheet: rows}."""
    book = pytest.importorskip("openpyxl").Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)


def together(frames):
    return pd.concat(frames, names=["split"]).reset_index("split")


def test_whole_patients_are_held_out_and_it_is_said(tmp_path, capsys):
    frames, counts = read_dataset(of_patients(tmp_path, range(20)))
    rows = together(frames)
    assert rows.groupby("case").split.nunique().eq(1).all() and rows.id.is_unique
    assert counts.used.to_dict() == {"train": 48, "validation": 6, "test": 6}
    said = capsys.readouterr().out
    assert "Split by patient, SEED = 1: 48 train, 6 validation, 6 test images." in said
    assert "patient = 'Patient ID'" in said and "NOTE" not in said


@pytest.mark.parametrize(
    ("names", "case"),
    [
        ([f"p{p}/IM{i:04d}.png" for p in range(20) for i in range(3)], "p7"),
        ([f"scans/p{p}/s{s}/{i}.png" for p in range(22) for s in "12" for i in "123"], "scans/p7"),
        ([f"sub-{p:02d}/ses-{s}/{i}.png" for p in range(12) for s in "12" for i in "12"], "sub-07"),
        ([f"p1{d}/p1{d}00{p}/s1/{i}.png" for d in range(10) for p in "12345678" for i in "12"],
         "p17/p17004"),  # as MIMIC-CXR has them
        ([f"{year}/pat{p}/{i}.png" for year in range(2015, 2025) for p in range(8) for i in "12"],
         "2017/pat3"),
        ([f"patient{p:05d}/study1/view{i}_frontal.png" for p in range(30) for i in "12"],
         "patient00007"),  # as CheXpert has them
        ([f"p{p:02d}/s{s}/{i}.png" for p in range(9) for s in range(6) for i in "12"], "p07"),
        ([f"{a}{b}^JOHN/2023010{d}/SE1/IM{i}.png" for a in "ABCDE" for b in "ABCDEF" for d in "12"
          for i in "12"], "BC^JOHN"),
        ([f"DICOM/202301{d}/PAT{p:05d}/{i}.png" for d in range(10, 22) for p in range(30)
          for i in "12"], "PAT00007"),
        ([f"{kind}/p{p:03d}/{i}.png" for kind in ("CT", "MR") for p in range(40) for i in "12"],
         "p007"),
        ([f"{split}/study{k}/{i}.png" for split in ("train", "val") for k in range(30)
          for i in "12"], "val/study7"),
        ([f"p{p:03d}/202301{10 + i}_ab.png" for p in range(40) for i in (1, 2)], "p007"),
        ([f"p{p:03d}/CT{i}_0.png" for p in range(30) for i in "12"], "p007"),
        ([f"p{p}/{i}.png" for p in range(20) for i in "123"] + ["loose.png"], "p7"),
        ([f"{k}/p{p}/{i}.png" for k in "abcde" for p in range(4) for i in "12"], "b/p3"),  # kinds
        ([f"{k}/S{p:03d}/{i}.png" for k in "abc" for p in range(8) for i in "12"], "b/S003"),
    ],
)  # fmt: skip
def test_folders_of_patients_keep_their_images_together(tmp_path, capsys, names, case):
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    rows = together(read_dataset(tmp_path)[0])
    said = capsys.readouterr().out
    assert "Split by folder" in said and "count as one patient's" in said
    assert case in set(rows.case) and rows.groupby("case").split.nunique().eq(1).all()
    assert rows.split.nunique() == 3


@pytest.mark.parametrize(
    "names",
    [
        [f"T{t}/{i}.png" for t in range(1, 10) for i in range(5)],  # too few for patients
        [f"images_{t:03d}/{t}-{i}.png" for t in range(12) for i in range(5)],
        [f"{kind}/{i}.png" for kind in "abcdefghijklmnopqrstuvw" for i in range(5)],  # no numbers
        [f"p{p}/a{p}.png" for p in range(40)],  # one image each
        ["p0/" + f"{i}.png" for i in range(90)] + [f"p{p}/0.png" for p in range(1, 30)],
        [f"{i}.png" for i in range(40)],
    ],
)
def test_folders_of_something_else_do_not(tmp_path, capsys, names):
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    assert "case" not in read_dataset(tmp_path)[0]["train"]
    assert "Split by image" in capsys.readouterr().out


def test_folders_that_given_splits_share_are_no_patients(tmp_path, capsys):
    names = [f"{shard:02d}/{i}.png" for shard in range(30) for i in range(3)]
    rows = [f"{name},text,{('train', 'val', 'test')[i % 3]}" for i, name in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,split")
    assert "case" not in read_dataset(tmp_path)[0]["train"]
    assert "patient" not in capsys.readouterr().out


def test_a_folder_without_a_usable_row_is_an_error(tmp_path):
    rows = ["missing.png,text,train", "p1/0.png,text,elsewhere"]
    make_folder(tmp_path, ["p1/0.png"], rows, header="image,caption,split")
    with pytest.raises(UserError, match="too few"):
        read_dataset(tmp_path)


def test_patients_in_file_names_count_more_than_folders(tmp_path):
    names = [f"part{p % 30}/P{p}_{i}.png" for p in range(90) for i in range(3)]
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    frame = read_dataset(tmp_path)[0]["train"]
    assert "case" not in frame and "P7" in set(cases_of(frame.id))


def test_captions_of_a_captioner_are_not_learnt_from(tmp_path, capsys):
    names = [f"{i}.png" for i in range(40)]
    make_folder(tmp_path, names, [f"{name},a text" for name in names[:30]], table="reports.csv")
    made = [f"{name},made,-3.2," for name in names]
    make_folder(tmp_path, names, made, "made.csv", "file,caption,log_probability,error")
    rows = together(read_dataset(tmp_path)[0])
    assert set(rows.caption) == {"a text"} and len(rows) == 30
    assert "made.csv has captions that a captioner made" in capsys.readouterr().out
    (tmp_path / "reports.csv").unlink()
    with pytest.raises(UserError, match=r"no table.*made.csv has captions that a captioner made"):
        read_dataset(tmp_path)
    corrected = [f"{row},corrected" for row in made]
    header = "file,caption,log_probability,error,checked"
    make_folder(tmp_path, [], corrected, "made.csv", header)
    frames, _ = read_dataset(tmp_path, columns="image=file, caption=checked")
    assert set(together(frames).caption) == {"corrected"}


def test_names_without_their_folders_are_explained(tmp_path):
    names = [f"p{p}/IM{i}.png" for p in range(3) for i in range(3)]
    make_folder(tmp_path, names, [f"IM{i}.png,text" for i in range(3)])
    with pytest.raises(UserError, match=r"Put the folder before each name .*p1/IM0001.png"):
        read_dataset(tmp_path)
    make_folder(tmp_path, names, [f"p{p},text" for p in range(3)])
    with pytest.raises(UserError, match="are folders: give each image a row"):
        read_dataset(tmp_path)
    make_folder(tmp_path / "flat", ["0.png", "0.jpg"], ["0,text"])
    with pytest.raises(UserError, match="Write names with their extension"):
        read_dataset(tmp_path / "flat")


@pytest.mark.parametrize(
    ("names", "unit"),
    [
        ([f"PMC{i // 2}_{i}.png" for i in range(40)], "patient"),
        ([f"scan{i}.png" for i in range(40)], "image"),
        ([f"ROCO_{i:05d}.png" for i in range(40)], "image"),
        ([f"{'CT' if i < 30 else 'MR'}_{i}.png" for i in range(40)], "image"),
        ([f"{i}_x.png" for i in range(40)], "image"),
        ([f"T{1 + i // 20}_{i}.png" for i in range(40)], "image"),
        ([f"{i // 4:03d}_{i % 4}.png" for i in range(39)] + ["IMG_1.png"], "patient"),
    ],
)
def test_without_a_column_ids_show_the_patient_or_a_note_says_no(tmp_path, capsys, names, unit):
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    frames, _ = read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert f"Split by {unit}" in said and ("no known column names the patients" in said) == (
        unit == "image"
    )
    rows = together(frames)
    assert len(rows) == 40 and rows.groupby(cases_of(rows.id)).split.nunique().eq(1).all()


def test_patients_of_many_slices_are_kept_together(tmp_path, capsys):
    names = [f"P{i // 15:03d}_{i % 15:02d}.png" for i in range(450)]
    make_folder(tmp_path, names, [f"{name},text of {name}" for name in names])
    rows = together(read_dataset(tmp_path)[0])
    assert rows.groupby(rows.id.str[:4]).split.nunique().eq(1).all()
    assert "Split by patient" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "there"),
    [("train", "test"), ("batch1", "batch2"), ("p{}x", "q/p1{}x"), ("2019\\ct", "2020\\ct")],
)
def test_an_image_of_the_same_name_in_another_folder_of_this_kind_is_another(
    tmp_path, written, there
):
    files = [f"{there.format(i)}/{i}.png".replace("\\", "/") for i in range(40)]
    rows = [f"{written.format(i)}\\{i}.png,text of {i}" for i in range(40)]
    make_folder(tmp_path, files, rows)
    with pytest.raises(UserError, match="Check that its images are unpacked"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("C:\\scans", "."),
        ("/home/a/images", "png"),
        ("p{}", "."),
        ("/x/training", "train"),
        ("/x/batch_01", "batch_1"),
    ],
)
def test_folders_of_another_computer_do_not_matter(tmp_path, written, there):
    files = [f"{there}/{i}.png" for i in range(40)]
    make_folder(tmp_path, files, [f"{written.format(i)}/{i}.png,text of {i}" for i in range(40)])
    rows = together(read_dataset(tmp_path)[0])
    assert len(rows) == 40 and (rows.caption == "text of " + rows.id).all()


@pytest.mark.parametrize(("folder", "used"), [(".", 40), ("png", 40), ("masks", 0)])
def test_images_may_have_been_converted(tmp_path, folder, used):
    make_folder(tmp_path, [f"{folder}/{i}.png" for i in range(40)],
                [f"raw/{i}.jpg,text of {i}" for i in range(40)])  # fmt: skip
    if not used:
        with pytest.raises(UserError, match="unpacked"):
            read_dataset(tmp_path)
        return
    rows = together(read_dataset(tmp_path)[0])
    assert len(rows) == used and (rows.caption == "text of " + rows.id).all()


def test_a_counter_of_rows_is_no_name_if_another_column_has_names(tmp_path):
    files = [f"{i}.png" for i in range(20)]
    rows = [f"{i},scan{99 - i}.png,text" for i in range(20)]
    make_folder(tmp_path, files, rows, header="id,filename,report")
    with pytest.raises(UserError, match=r"no file such as scan99.png.*COLUMNS = 'image=id"):
        read_dataset(tmp_path)
    frames, _ = read_dataset(tmp_path, columns="image=id")
    assert len(together(frames)) == 20


@pytest.mark.parametrize("column", ["subject_id", "split"])
def test_patients_and_splits_in_a_table_of_their_own_are_pointed_out(tmp_path, capsys, column):
    make_folder(tmp_path, [f"{i}.png" for i in range(40)], [f"{i}.png,text" for i in range(40)])
    rows = [f"{i},{i % 8}" for i in range(40)]
    make_folder(tmp_path, [], rows, table="metadata.csv", header=f"name,{column}")
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'metadata.csv'} may have the" in said and repr(column) in said
    assert f"add that column to {tmp_path / 'captions.csv'}" in said


def test_a_column_that_may_name_patients_is_suggested(tmp_path, capsys):
    rows = [f"{i}.png,text,C{i // 4},{40 + i % 5}" for i in range(40)]
    header = "image,caption,patient_code,patient_age"
    make_folder(tmp_path, [f"{i}.png" for i in range(40)], rows, header=header)
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert "COLUMNS = 'patient=patient_code'" in said and "patient_age" not in said


@pytest.mark.parametrize("count", [3, 4, 5, 7, 10, 30])
def test_every_split_has_an_image_at_least_and_about_a_tenth_is_held_out(tmp_path, count):
    make_folder(tmp_path, [f"{i}.png" for i in range(count)], [f"{i}.png,x" for i in range(count)])
    sizes = read_dataset(tmp_path)[1].used
    assert sizes.sum() == count
    assert all(abs(sizes[split] - max(1, count / 10)) <= 1 for split in ("validation", "test"))


def test_a_patient_of_most_images_is_trained_on(tmp_path):
    of_patients(tmp_path, range(9), each=1)
    names = [f"big/{i}.png" for i in range(40)]
    with open(tmp_path / "captions.csv", "a") as file:
        file.writelines(f"{name},text,big\n" for name in names)
    make_folder(tmp_path / "more", names, [], table="notes.txt")
    for seed in range(5):
        frames, _ = read_dataset(tmp_path, seed=seed)
        assert (frames["train"]["case"] == "big").sum() == 40


def test_a_split_is_stable_and_new_patients_move_few(tmp_path):
    def split_of(patients, seed=1):
        rows = together(read_dataset(of_patients(tmp_path, patients), seed=seed)[0])
        return rows.set_index("id").split

    before = split_of(range(100))
    assert split_of(range(100)).equals(before)
    assert (split_of(range(100), seed=2)[before.index] != before).any()
    after = split_of([*range(100), *range(500, 510)])
    assert (after[before.index] != before).mean() <= 0.03


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_patients_are_an_error(tmp_path, count):
    with pytest.raises(UserError, match=f"{count} patients are too few to train on and to hold"):
        read_dataset(of_patients(tmp_path, range(count)))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("image,caption,Split", ["train", "val", "test"]),
        ("image,caption,set", ["Training", " Valid ", "TESTING"]),
        ("image,caption,fold", ["train", "dev", "test"]),
    ],
)
def test_a_column_of_splits_is_followed(tmp_path, capsys, header, words):
    rows = [f"{i}.png,text,{words[i % 3]}" for i in range(9)]
    make_folder(tmp_path, [f"{i}.png" for i in range(9)], rows, header=header)
    frames, _ = read_dataset(tmp_path)
    assert frames["validation"].id.tolist() == ["1", "4", "7"]
    assert "Split by" not in capsys.readouterr().out


def test_a_split_that_the_column_lacks_is_held_out_from_training(tmp_path, capsys):
    rows = [f"{i}.png,text,{'test' if i < 10 else 'train'}" for i in range(50)]
    rows += ["50.png,text,unknown", "51.png,text,"]
    make_folder(tmp_path, [f"{i}.png" for i in range(52)], rows, header="image,caption,split")
    frames, counts = read_dataset(tmp_path)
    assert frames["test"].id.tolist() == [str(i) for i in range(10)]
    assert counts.used.to_dict() == {"train": 36, "validation": 4, "test": 10}
    assert counts["no known split"].sum() == 2
    assert "Split by image, SEED = 1: 36 train, 4 validation images." in capsys.readouterr().out


def test_few_images_of_two_prefixes_are_no_two_patients(tmp_path):
    names = [f"T{1 + i % 2}_{i}.png" for i in range(8)]
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    assert read_dataset(tmp_path)[1].used.tolist() == [6, 1, 1]


def test_an_image_in_two_splits_is_an_error(tmp_path):
    rows = ["a.png,one,train", "b.png,two,val", "c.png,x,test", "a.png,three,test"]
    make_folder(tmp_path, ["a.png", "b.png", "c.png"], rows, header="image,caption,split")
    with pytest.raises(UserError, match=r"captions\.csv lists a\.png in several splits"):
        read_dataset(tmp_path)


def test_a_column_that_names_no_split_is_ignored_and_that_is_said(tmp_path, capsys):
    rows = [f"{i}.png,text,{i % 5}" for i in range(20)]
    make_folder(tmp_path, [f"{i}.png" for i in range(20)], rows, header="image,caption,fold")
    assert read_dataset(tmp_path)[1].used.sum() == 20
    assert "'fold'" in capsys.readouterr().out


FOLDERS = [
    ("train", "val", "test"), ("Training", "valid", "Testing"), ("train", "dev", "test"),
    ("images/train", "images/validation", "images/test"), ("train_images", "val_images", "test_x"),
]  # fmt: skip


@pytest.mark.parametrize("folders", FOLDERS)
def test_folders_of_splits_are_followed(tmp_path, capsys, folders):
    names = [f"{folder}/{i}.png" for folder in folders for i in range(4)]
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    frames, counts = read_dataset(tmp_path)
    assert counts.used.tolist() == [4, 4, 4]
    for folder, frame in zip(folders, frames.values(), strict=True):
        assert all(f"/{folder}/" in image for image in frame.image)
    assert "Split by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "form", ["{0}/captions.csv", "{0}/labels/a.csv", "{0}.csv", "tables/captions_{0}.csv"]
)
@pytest.mark.parametrize("images", ["{0}", "{0}/images"])
def test_one_table_per_split_is_read(tmp_path, form, images):
    """Images of the same names in each, and names without the folder."""
    for split in ("train", "val", "test"):
        names = [f"{images.format(split)}/{i}.png" for i in range(3)]
        make_folder(tmp_path, names, [f"{i}.png,{split} {i}" for i in range(3)], form.format(split))
    frames, counts = read_dataset(tmp_path)
    assert counts.used.tolist() == [3, 3, 3]
    for split, frame in zip(("train", "val", "test"), frames.values(), strict=True):
        assert frame.caption.tolist() == [f"{split} {i}" for i in range(3)]
        assert all(f"/{split}/" in image for image in frame.image)


def test_one_table_per_split_and_one_folder_of_images(tmp_path):
    for k, split in enumerate(("train", "val", "test")):
        names = [f"images/{i}.png" for i in range(4 * k, 4 * k + 4)]
        make_folder(tmp_path, names, [f"{name},text" for name in names], f"{split}.csv")
    assert read_dataset(tmp_path)[1].used.tolist() == [4, 4, 4]
    with open(tmp_path / "test.csv", "a") as file:
        file.write("images/0.png,text\n")
    with pytest.raises(UserError, match=r"images/0\.png in several splits"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "rows", "sizes"),
    [
        # a split that no folder has is held out; a column goes before folders
        ([f"train/{i}.png" for i in range(8)] + ["test/8.png"], "{0},text", [7, 1, 1]),
        ([f"test/{i}.png" for i in range(9)], "{0},text", [7, 1, 1]),
        ([f"train/{i}.png" for i in range(8)] + ["other/8.png"], "{0},text", [6, 1, 1]),
    ],
)
def test_folders_that_name_not_all_splits(tmp_path, names, rows, sizes):
    make_folder(tmp_path, names, [rows.format(name) for name in names])
    assert read_dataset(tmp_path)[1].used.tolist() == sizes


def test_a_column_of_splits_goes_before_folders(tmp_path):
    names = [f"{folder}/{i}.png" for i, folder in enumerate(["train", "test", "val"] * 3)]
    rows = [f"{name},text,{('test', 'val', 'train')[i % 3]}" for i, name in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,split")
    assert read_dataset(tmp_path)[0]["train"].id.tolist() == ["2", "5", "8"]


def test_rows_that_cannot_be_used_are_named_with_the_reason(tmp_path, capsys):
    rows = [f"{i}.png,text" for i in range(9)] + ["gone.png,text", "3.png,  ", "4.png,text"]
    make_folder(tmp_path, [f"{i}.png" for i in range(9)], rows)
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    for part in ("3 rows", "'gone.png' (image file missing)", "'3.png' (no caption)",
                 "'4.png' (listed twice)."):  # fmt: skip
        assert part in said
    make_folder(tmp_path, [], [*rows, *(f"no{i},x" for i in range(5))])
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert "8 rows" in said and "'no1'" in said and "'no2'" not in said and "…" in said
    rows = [f"text,{i}.png" for i in range(4)] + ["one, two,4.png"]
    make_folder(tmp_path, [], rows, header="caption,image")
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert "'line 6' (does not fit the header)" in said and "in quotes" in said
    make_folder(tmp_path, [], [f"{i}.png,text" for i in range(4)])
    read_dataset(tmp_path)
    assert "left out" not in capsys.readouterr().out


def test_several_captions_of_an_image(tmp_path):
    rows = [f"{i}.png,caption {k} of {i}" for i in range(10) for k in range(5)]
    make_folder(tmp_path, [f"{i}.png" for i in range(10)], [*rows, rows[0]])
    frames, counts = read_dataset(tmp_path)
    assert {split: len(frame) for split, frame in frames.items()} == {
        "train": 40, "validation": 5, "test": 1,
    }  # fmt: skip
    for frame in frames.values():
        assert frame.references.str.len().eq(5).all()
        assert all(row.caption in row.references for row in frame.itertuples())
    assert frames["test"].caption[0] == frames["test"].references[0][0]
    assert counts["captions"].sum() == 50 and counts.used.sum() == 10
    assert counts["listed twice"].sum() == 1
    limited, _ = read_dataset(tmp_path, limit=2)
    assert limited["train"].id.nunique() == 2 and len(limited["train"]) == 10


def test_one_caption_per_image_gives_the_usual_frames(tmp_path):
    frames, counts = read_dataset(of_patients(tmp_path, range(5)))
    assert list(frames["train"]) == ["id", "image", "caption", "case"]
    assert "captions" not in counts


def test_sub_folders_and_dicom_files_are_found_and_hidden_files_are_not(tmp_path):
    make_folder(tmp_path, ["x/._a.png", "__MACOSX/a.png", ".git/a.png", "x/a.txt"], [])
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    names = [f"dicom/1.2.840.113619.2.55.1.{i}" for i in range(1, 4)]
    (tmp_path / "dicom").mkdir()
    for name in names:
        write_dicom(tmp_path / name, pixels)
    make_folder(tmp_path, ["x/a.png"], [*(f"{name},scan" for name in names), "a,text"])
    rows = together(read_dataset(tmp_path)[0])
    assert sorted(rows.id) == [*(name.split("/")[1] for name in names), "a"]


def test_the_table_that_names_the_images_is_taken(tmp_path, capsys):
    names = [f"{i}.png" for i in range(6)]
    make_folder(tmp_path, [], ["read me first"], table="README.txt", header="About")
    with pytest.raises(UserError, match=r"has no table of images and captions\. .*README\.txt"):
        read_dataset(tmp_path)
    make_folder(tmp_path, names, [f"{name},right" for name in names])
    make_folder(tmp_path, [], ["0.png,hidden", "1.png,x"], table=".trash/old.csv")
    make_folder(tmp_path, [], ["other.png,wrong"], table="old/others.csv")
    make_folder(tmp_path, [], ["0.png,part"], table="part.csv")
    assert set(together(read_dataset(tmp_path)[0]).caption) == {"right"}
    make_folder(tmp_path, ["6.png"], ["6.png,more"], table="more.csv")
    with pytest.raises(UserError, match=r"captions\.csv and .*more\.csv each have captions"):
        read_dataset(tmp_path)


def test_the_column_that_names_files_is_taken(tmp_path):
    rows = [f"{i + 100},file{i}.png,text" for i in range(6)]
    make_folder(tmp_path, [f"file{i}.png" for i in range(6)], rows, header="image,path,caption")
    assert len(together(read_dataset(tmp_path)[0])) == 6


def test_where_nothing_matches_the_error_shows_what_was_read(tmp_path):
    make_folder(tmp_path, ["x/b.png"], ["a.png;one"], header="image;caption")
    with pytest.raises(UserError) as error:
        read_dataset(tmp_path)
    for part in ("separator ';'", "UTF-8", "['image', 'caption']", "'a.png'", "'x/b.png'"):
        assert part in str(error.value)


def test_images_that_no_row_names_are_counted(tmp_path, capsys):
    make_folder(tmp_path, [f"{i}.png" for i in range(9)], [f"{i}.png,x" for i in range(5)])
    read_dataset(tmp_path)
    assert "4 of the 9 images have no row in the table." in capsys.readouterr().out


def test_data_dir_may_be_such_a_folder(tmp_path, capsys):
    source = locate_dataset("unused", data_dir=str(of_patients(tmp_path / "mine", range(3))))
    assert source.root == tmp_path / "mine" and source.name.startswith("mine-")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"nor a table of images and captions \(\.csv"):
        locate_dataset("unused", data_dir=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["a.png", "x/b.jpg"], ["a", "b"]),
        (["train/001.png", "test/001.png"], ["train/001", "test/001"]),
        (["train/img1.png", "train/img1.jpg"], ["img1.png", "img1.jpg"]),
        (["p1/1.png", "p1/1.jpg", "p2/1.png"], ["p1/1.png", "1.jpg", "p2/1"]),
        (["1.2.840.1.1", "1.2.840.1.2"], ["1.2.840.1.1", "1.2.840.1.2"]),
        (["x/a.png", "x/a.jpg", "x/a.png.png"], None),
        (["a/b.png", "x/b.png", "a/b.png.png", "y/a/b.png"], None),
    ],
)
def test_ids_are_names_and_no_two_files_share_one(files, ids):
    made = image_ids(files)
    assert len(set(made.values())) == len(files)
    assert ids is None or list(made.values()) == ids


def test_a_folder_before_an_id_does_not_hide_its_case():
    ids = pd.Series(["train/MPX1_a", "train/MPX1_b", "MPX2_a"])
    assert cases_of(ids).tolist() == ["MPX1", "MPX1", "MPX2"]
    assert cases_of(pd.Series(["train/001", "test/001"])).tolist() == ["train/001", "test/001"]
    assert cases_of(pd.Series([f"P{i // 15}_{i // 5}" for i in range(30)])).tolist()[0] == "P0"


@pytest.mark.parametrize("form", ["{}/captions.csv", "captions_{}.csv"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'image,caption\ntest/0.png,"open\n', "a quote is never closed"),
        (b"a,b\n0.png,text\n", r"columns \['a', 'b'\]"),
        (b"\0\1\2", "not a text file"),
        (b"", ""),
        (b"image,caption\n", "0 of the images"),
        (b"image,caption\nelsewhere.png,text\n", "0 of the images"),
    ],
)
def test_no_split_is_drawn_while_its_table_cannot_be_used(tmp_path, form, split, content, why):
    path = of_splits(tmp_path, form) / form.format(split)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{form.format(split)}.*{why}.*move it"):
        read_dataset(tmp_path)
    path.unlink()
    if split != "train":
        assert read_dataset(tmp_path)[1].used.sum() == 8


def test_a_table_of_all_images_is_not_split_while_one_of_the_test_images_is_broken(tmp_path):
    rows = [f"{i}.png,text" for i in range(9)]
    make_folder(tmp_path, [f"{i}.png" for i in range(9)], rows)
    for broken in ('image,caption\n8.png,"open\n', "image,caption\n8.png,text\n"):
        (tmp_path / "test.csv").write_text(broken)
        with pytest.raises(UserError, match=r"test\.csv"):
            read_dataset(tmp_path)
    words = [f"{row},{'test' if i > 6 else 'val' if i > 4 else 'train'}"
             for i, row in enumerate(rows)]  # fmt: skip
    make_folder(tmp_path, [], words, header="image,caption,split")
    assert read_dataset(tmp_path)[1].used.tolist() == [5, 2, 2]


@pytest.mark.parametrize("others", ["all.csv", "a.csv", "zz.jsonl"])
@pytest.mark.parametrize("splits", [["train", "val", "test"], ["train", "test"], ["train", "val"]])
def test_tables_of_splits_win_over_one_of_all_images(tmp_path, capsys, others, splits):
    names = [f"{i}.png" for i in range(12)]
    make_folder(tmp_path, names, [f"{name},all" for name in names], others)
    if others.endswith("jsonl"):
        lines = [f'{{"image": "{name}", "caption": "all"}}' for name in names]
        (tmp_path / others).write_text("\n".join(lines))
    size = 12 // len(splits)
    for k, split in enumerate(splits):
        rows = [f"{name},own" for name in names[k * size : (k + 1) * size]]
        make_folder(tmp_path, [], rows, f"{split}.csv")
    rows = together(read_dataset(tmp_path)[0])
    assert set(rows.caption) == {"own"}
    last = "test" if splits[-1] == "test" else "validation"
    assert set(rows.id[rows.split == last]) == {str(i) for i in range(12 - size, 12)}
    said = capsys.readouterr().out
    assert f"{others}: 12 rows" in said and "is not read" in said and "DATA_DIR" in said


@pytest.mark.parametrize("unread", ["captions_corrected.csv", "b/new.csv", "open.csv"])
def test_a_table_that_is_not_read_is_named(tmp_path, capsys, unread):
    names = [f"{i}.png" for i in range(12)]
    make_folder(tmp_path, names, [f"{name},old" for name in names])
    rows = [f"{name},new" for name in names[:11]]
    make_folder(tmp_path, [], [*rows, '"open'] if unread == "open.csv" else rows, unread)
    assert set(together(read_dataset(tmp_path)[0]).caption) == {"old"}
    said = capsys.readouterr().out.split("NOTE: ")[1]
    assert str(tmp_path / unread) in said and "DATA_DIR" in said


@pytest.mark.parametrize("sheets", [("train", "val", "test"), ("Training set", "Dev", "TEST")])
@pytest.mark.parametrize("folder", ["", "{}/"])
def test_sheets_of_splits_are_the_splits(tmp_path, sheets, folder):
    rows = {"Legend": [["explanation"], ["text"]]}
    for k, (split, sheet) in enumerate(zip(("train", "val", "test"), sheets, strict=True)):
        names = [f"{i}.png" for i in (range(3) if folder else range(3 * k, 3 * k + 3))]
        make_folder(tmp_path, [folder.format(split) + name for name in names], [], "notes.txt")
        rows[sheet] = [["image", "caption"], *([name, f"{split} {name}"] for name in names)]
    workbook(tmp_path / "captions.xlsx", rows)
    frames, counts = read_dataset(tmp_path)
    assert counts.used.tolist() == [3, 3, 3]
    for split, frame in zip(("train", "val", "test"), frames.values(), strict=True):
        assert frame.caption.str.startswith(split).all()
    rows[sheets[2]] = [["a", "b"], ["0.png", "text"]]
    workbook(tmp_path / "captions.xlsx", rows)
    with pytest.raises(UserError, match=sheets[2]):
        read_dataset(tmp_path)


@pytest.mark.parametrize("sheets", [("2019", "2020"), ("Sheet1", "later"), ("a", "train")])
def test_sheets_of_other_images_are_read_and_all_others_named(tmp_path, capsys, sheets):
    names = [f"{i}.png" for i in range(12)]
    make_folder(tmp_path, names, [], "notes.txt")
    parts = {sheet: [["image", "caption"], *([n, sheet] for n in names[k * 7 : k * 7 + 7])]
             for k, sheet in enumerate(sheets)}  # fmt: skip
    workbook(tmp_path / "captions.xlsx", parts)
    if sheets[1] == "train":  # a sheet of one split cannot be left out silently
        with pytest.raises(UserError, match="sheet 'train'"):
            read_dataset(tmp_path)
    else:
        assert set(together(read_dataset(tmp_path)[0]).caption) == {*sheets}
        assert f"read as one with it: {sheets[1]} (" in capsys.readouterr().out
        parts[sheets[1]][1] = ["0.png", "again"]  # then the larger one is read
        workbook(tmp_path / "captions.xlsx", parts)
        assert set(together(read_dataset(tmp_path)[0]).caption) == {sheets[0]}
        assert f"sheet {sheets[1]!r}" in capsys.readouterr().out.split("NOTE: ")[1]


def with_patients(root, patients, header="image,caption,patient"):
    rows = [f"{i}.png,text,{patient}" for i, patient in enumerate(patients)]
    return make_folder(root, [f"{i}.png" for i in range(len(patients))], rows, header=header)


def test_merged_cells_of_patients_are_filled(tmp_path, capsys):
    names = [f"{i}.png" for i in range(12)]
    make_folder(tmp_path, names, [], "notes.txt")
    rows = [[f"P{i // 3}" if i % 3 == 0 else None, name, "text"] for i, name in enumerate(names)]
    workbook(tmp_path / "captions.xlsx", {"Sheet": [["patient", "image", "caption"], *rows]})
    rows = together(read_dataset(tmp_path)[0])
    assert dict(zip(rows.id, rows.case, strict=True)) == {str(i): f"p{i // 3}" for i in range(12)}
    assert rows.groupby("case").split.nunique().eq(1).all()
    assert "8 rows" in capsys.readouterr().out


def test_rows_without_a_patient_are_counted(tmp_path, capsys):
    patients = ["P0", "", "", "P1", "", " ", "P2", "P2", "P2"]
    frames, _ = read_dataset(with_patients(tmp_path, patients))
    assert together(frames)["case"].nunique() == 7
    assert "NOTE: 4 rows have no patient" in capsys.readouterr().out
    with open(tmp_path / "captions.csv", "a") as file:
        file.write("1.png,another caption,P0\n")  # says whose image that is
    frames, _ = read_dataset(tmp_path)
    assert set(together(frames).set_index("id")["case"]["1"]) == {"p0"}
    read_dataset(with_patients(tmp_path, [""] * 9))  # such a column names no patients
    assert "no known column names the patients" in capsys.readouterr().out


@pytest.mark.parametrize(
    "same",
    [["17", "017", "17.0"], [" P17", "p17", "P17 "], ["Doe  Jane", "DOE JANE"], ["0", "00", "0.0"]],
)
def test_spellings_of_one_patient_are_one(tmp_path, same):
    others = ["P1", "1", "P01", "1.5", "A17", "170"]
    patients = [*same, *others] * 2
    frames, _ = read_dataset(with_patients(tmp_path, patients))
    rows = together(frames)
    assert rows["case"].nunique() == 1 + len(others)
    assert rows[rows.id.astype(int) % len(set(patients)) < len(same)]["case"].nunique() == 1
    assert rows.groupby("case").split.nunique().eq(1).all()


def test_patients_in_several_splits_are_counted(tmp_path, capsys):
    words = ["train", "train", "val", "test"] * 3
    patients = [f"p{i // 4},{word}" for i, word in enumerate(words)]
    with_patients(tmp_path, patients, "image,caption,patient,split")
    read_dataset(tmp_path)
    assert "NOTE: 3 of 3 patients" in capsys.readouterr().out
    patients = [f"{word[:2]}{i % 2},{word}" for i, word in enumerate(words)]
    patients[0] = "TE1,train"  # in another spelling
    read_dataset(with_patients(tmp_path, patients, "image,caption,patient,split"))
    assert "NOTE: 1 of " in capsys.readouterr().out
    patients[0] = "tr0,train"
    read_dataset(with_patients(tmp_path, patients, "image,caption,patient,split"))
    assert "several splits" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("pat1/1.png", "pat2/1.png"),
        (r"C:\data\pat1\1.png", r"C:\data\pat2\1.png"),
        ("pat1/1", "pat2/001"),
        ("/home/x/a/1.png", "b/1.png"),
    ],
)
def test_a_flattened_folder_does_not_merge_patients(tmp_path, capsys, one, two):
    rows = [f"{one},A", f"{two},B", *(f"x/{i}.png,text" for i in range(2, 9))]
    make_folder(tmp_path, [f"{i}.png" for i in range(1, 9)], rows)
    frames, counts = read_dataset(tmp_path)
    assert not set(together(frames).caption) & {"A", "B"}
    assert counts.used.sum() == 7
    assert "2 rows are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", [("1.png", "./1.png", "1"), ("data/x/1.png", "x/1.png", "1.PNG"), (r"X\1", "x/1.png")]
)
def test_names_that_agree_are_one_image(tmp_path, names):
    rows = [f"{name},{k}" for k, name in enumerate(names)]
    rows += [f"{i}.png,text" for i in range(2, 9)]
    make_folder(tmp_path, [f"{i}.png" for i in range(1, 9)], rows)
    frames, _ = read_dataset(tmp_path)
    used = {k for refs in together(frames).references for k in refs}
    assert used == {"text", *map(str, range(len(names)))}


@pytest.mark.parametrize(
    ("header", "row", "advice"),
    [
        ("image,caption,age", "{},Chest, no effusion,17", "in quotes"),
        ("caption;image", "Left; right; both;{}", "in quotes"),
        ("image,caption", "x{},Chest", "unpacked"),
    ],
)
def test_why_no_row_can_be_used_is_said(tmp_path, header, row, advice):
    names = [f"{i}.png" for i in range(4)]
    make_folder(tmp_path, names, [row.format(name) for name in names], header=header)
    with pytest.raises(UserError, match=advice) as error:
        read_dataset(tmp_path)
    assert ("in quotes" in str(error.value)) == (advice == "in quotes")


@pytest.mark.parametrize(("train", "test"), [("trn", "tst"), ("fit", "hold-out")])
def test_unknown_words_for_splits_are_listed(tmp_path, capsys, train, test):
    names = [f"{i}.png" for i in range(12)]
    rows = [f"{n},film {n},{['train', train, 'val', test][i % 4]}" for i, n in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,split")
    read_dataset(tmp_path)
    said = capsys.readouterr().out
    assert repr([train, test]) in said and "Known are train, training, " in said


def test_rows_without_a_name_are_known_by_their_line(tmp_path, capsys):
    rows = [f"{i}.png,film {i}" for i in range(6)]
    make_folder(tmp_path, [f"{i}.png" for i in range(6)], [*rows[:3], ",no name", *rows[3:]])
    read_dataset(tmp_path)
    assert "'line 5' (image file missing)" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["xls", "ods"])
def test_a_table_in_a_format_that_is_not_read_is_named(tmp_path, suffix):
    make_folder(tmp_path, ["1.png"], ["1.png,x"], table=f"captions.{suffix}")
    with pytest.raises(UserError, match=rf"captions\.{suffix} .*\.xlsx"):
        read_dataset(locate_dataset(tmp_path, data_dir=str(tmp_path)).root)


def test_a_folder_per_patient_is_no_patient_per_slice():
    ids = pd.Series([f"P{p}/{k:02}_T1" for p in range(9) for k in range(20)])
    assert cases_of(ids).nunique() == len(ids)  # nothing is certain


def test_a_name_without_a_number_does_not_hide_the_patients():
    ids = pd.Series([f"P{p:03}_{k}" for p in range(20) for k in range(3)] + ["normal"])
    assert cases_of(ids).nunique() == 21


@pytest.mark.parametrize("extension", ["png", "dcm"])
def test_running_numbers_never_win_over_names_of_files(tmp_path, capsys, extension):
    names = [f"{i:04d}.png" for i in range(1, 41)]
    order = [names[(7 * i + 3) % 40] for i in range(40)]
    rows = [f"{i + 1},{name},Film of {name}" for i, name in enumerate(order)]
    rows[-1] = rows[-1].replace(".png,", ".pngg,")  # one slip of the pen
    rows = [row.replace(".png,", f".{extension},") for row in rows]
    make_folder(tmp_path, names, rows, header="id,filename,caption")
    rows = together(read_dataset(tmp_path)[0])
    assert len(rows) == 39  # converted from DICOM or not
    assert (rows.caption == "Film of " + rows.id + ".png").all()
    assert "image = 'filename'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "row"),
    [("path,dicom_id,findings", "files/p10/p101/s1/{0}.dcm,x{0},Chest {0}"),
     ("image,id,caption", "https://example.org/{0}a.png,x{0},Chest {0}"),
     ("name,image,caption", "Chest PA/LAT,x{0},Chest {0}")],
)  # fmt: skip
def test_paths_of_other_places_do_not_hide_the_names(tmp_path, header, row):
    names = [f"x{i}.jpg" for i in range(20)]
    make_folder(tmp_path, names, [row.format(i) for i in range(20)], header=header)
    rows = together(read_dataset(tmp_path)[0])
    assert (rows.caption == "Chest " + rows.id.str[1:]).all() and len(rows) == 20


def of_column(root, **columns):
    """Write 60 images and a table with further columns."""
    names = [f"scan{i}.png" for i in range(60)]
    rows = [",".join([name, f"Film {i}", *(column[i] for column in columns.values())])
            for i, name in enumerate(names)]  # fmt: skip
    return make_folder(root, names, rows, header=",".join(["image", "caption", *columns]))


def test_kinds_of_studies_are_no_patients(tmp_path, capsys):
    kinds = ["XR CHEST 2 VIEWS", "CT ABDOMEN", "MRI BRAIN", "US LIVER"]
    read_dataset(of_column(tmp_path, study=[kinds[i % 4] for i in range(60)]))
    said = capsys.readouterr().out
    assert "column 'study'" in said and "names no patients and is ignored" in said
    assert "Split by image" in said


def test_a_few_patients_without_a_number_do_not_discard_the_column(tmp_path):
    patients = ["unknown", "Phantom", *(f"P{i % 4}" for i in range(58))]
    rows = together(read_dataset(of_column(tmp_path, patient=patients))[0])
    assert rows.case.nunique() == 6 and rows.groupby("case").split.nunique().eq(1).all()


@pytest.mark.parametrize("other", ["", "M", "45 M"])
def test_the_column_that_names_the_patients_is_taken(tmp_path, capsys, other):
    patients = [f"P{i // 3}" for i in range(60)]
    columns = {"patient": [other] * 60, "patient_id": patients}
    rows = together(read_dataset(of_column(tmp_path, **columns))[0])
    assert rows.case.nunique() == 20 and rows.groupby("case").split.nunique().eq(1).all()
    assert "patient = 'patient_id'" in capsys.readouterr().out


def test_a_column_that_is_no_split_does_not_hide_the_one_that_is(tmp_path, capsys):
    words = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    folds = [str(i % 5) for i in range(60)]
    _, counts = read_dataset(of_column(tmp_path, split=folds, set=words))
    assert counts.used.to_dict() == {"train": 40, "validation": 10, "test": 10}


def test_a_folder_that_only_mentions_a_split_does_not_hide_one_that_is(tmp_path):
    names = [f"train/{i}.png" for i in range(8)] + [f"train/stress test/{i}.png" for i in range(3)]
    names += [f"test/{i}.png" for i in range(4)] + [f"val/{i}.png" for i in range(4)]
    make_folder(tmp_path, names, [f"{name},text {name}" for name in names])
    assert read_dataset(tmp_path)[1].used.to_dict() == {"train": 11, "validation": 4, "test": 4}


@pytest.mark.parametrize(
    ("form", "sizes"),
    [("test/{}.csv", "6 6 6"), ("training/{}.csv", "6 6 6"), ("dev/{}_captions.csv", "6 6 6")],
)
def test_a_folder_named_like_a_split_does_not_hide_the_tables_splits(tmp_path, form, sizes):
    for split in ("train", "val", "test"):
        top = form.split("/")[0]
        names = [f"{top}/{split}/images/{split}{i}.png" for i in range(6)]
        make_folder(tmp_path, names, [f"{name},text" for name in names], form.format(split))
    assert [*map(str, read_dataset(tmp_path)[1].used)] == sizes.split()


def test_folders_below_one_named_like_a_split_are_splits(tmp_path):
    names = [f"training/{s}_images/{s}{i}.png" for s in ("train", "val", "test") for i in range(4)]
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    assert read_dataset(tmp_path)[1].used.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [("kaggle.json", '{"username": "me", "key": "0123"}'), ("reports.csv", "id,report\n1,Chest.\n"),
     ("captions.csv", "id,reference,caption\nROCO_00001,Chest,Chest\n")],
)  # fmt: skip
def test_a_table_without_images_does_not_hide_a_data_set_below(tmp_path, name, content):
    images = tmp_path / "roco" / "all_data" / "train" / "radiology" / "images"
    images.mkdir(parents=True)
    (images / "ROCO_00001.jpg").write_bytes(b"pixels")
    (tmp_path / name).write_text(content)
    assert locate_dataset("", data_dir=str(tmp_path)).root == tmp_path / "roco"


def test_labels_beside_a_table_are_no_rival(tmp_path, capsys):
    make_folder(tmp_path, [f"{i}.png" for i in range(9)], [f"{i}.png,text" for i in range(8)])
    (tmp_path / "labels.json").write_text('{"7": "effusion", "8": "fracture"}')
    assert read_dataset(tmp_path)[1].used.sum() == 8


def test_a_table_in_data_dir_wins_over_a_data_set_below(tmp_path):
    names = [f"scan{i}.png" for i in range(10)]
    make_folder(tmp_path, names, [f"{name},text" for name in names])
    below = tmp_path / "data" / "phantoms-4-2-2-seed1" / "all_data" / "train" / "radiology"
    below.mkdir(parents=True)
    assert locate_dataset("", data_dir=str(tmp_path)).root == tmp_path
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "requirements.txt").write_text("numpy\n")
    assert locate_dataset("", data_dir=str(tmp_path)).root == below.parents[2]


def test_captions_have_no_nul(tmp_path):
    """CSV, and a run's `captions.csv` is one, would be read back without what follows it."""
    names = [f"{i:02}.png" for i in range(20)]
    make_folder(tmp_path, names, ["x,y"], "notes.txt")
    rows = [{"image": name, "caption": "Left\0lung.\r\n No\0 mass."} for name in names]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    frames, _ = read_dataset(tmp_path)
    assert set(together(frames).caption) == {"Left lung. No mass."}


@pytest.mark.parametrize("column", ["folder", "site", "id", "exam"])
def test_rows_of_a_folder_that_is_not_there_do_not_go_to_another_ones_images(tmp_path, column):
    """Only one of 20 folders was uploaded; its files have the names of the others."""
    names = [f"case00/IMG_{i:03d}.png" for i in range(10)]
    rows = [f"case{p:02d},IMG_{i:03d}.png,report {p} {i}" for p in range(20) for i in range(10)]
    make_folder(tmp_path, names, rows, header=f"{column},image,caption")
    frames, counts = read_dataset(tmp_path)
    assert set(together(frames).caption) == {f"report 0 {i}" for i in range(10)}
    assert counts["image file missing"].sum() == 190


def test_one_file_is_not_the_image_of_two_patients(tmp_path):
    names = [f"a/{i}.png" for i in range(6)]
    rows = [f"{i}.png,report {p} {i},{p}" for p in ("P1", "P2") for i in range(4)]
    rows += [f"{i}.png,report {i},P{i}" for i in (4, 5)] + ["5.png,second report,P5"]
    rows += [f"x{i}.png,report,P{i}" for i in range(6, 9)]
    make_folder(tmp_path, [*names, *(f"a/x{i}.png" for i in range(6, 9))], rows,
                header="image,caption,patient")  # fmt: skip
    frames, counts = read_dataset(tmp_path)
    assert counts["several patients for this file"].sum() == 8
    assert {"report 4", "report 5", "second report"} <= set(together(frames).caption) | set(
        together(frames).get("references", pd.Series()).explode()
    )


@pytest.mark.parametrize(
    ("written", "there"), [(".jpg", ".jpeg"), (".jpeg", ".JPG"), (".tif", ".tiff")]
)
def test_endings_that_mean_the_same_fit(tmp_path, written, there):
    names = [f"a{i}{there if i % 3 else written}" for i in range(12)]
    make_folder(tmp_path, names, [f"a{i}{written},text {i}" for i in range(12)])
    rows = together(read_dataset(tmp_path)[0])
    assert {f"a{text.split()[1]}" for text in rows.caption} == set(rows.id) and len(rows) == 12


def test_both_of_two_such_files_keep_their_own_captions(tmp_path):
    names = [f"{i}{ending}" for i in range(6) for ending in (".jpg", ".jpeg")]
    make_folder(tmp_path, names, [f"{name},text of {name}" for name in names])
    rows = together(read_dataset(tmp_path)[0])
    assert [f"text of {name.rpartition('/')[2]}" for name in rows.image] == rows.caption.tolist()


def test_names_that_lost_a_zero_in_a_spreadsheet_are_left_out(tmp_path):
    names = [f"{p}.{i}.png" for p in (1, 2, 3) for i in range(1, 13)]
    rows = [f"{float(name[:-4])},text of {name}" for name in names]
    _, counts = read_dataset(make_folder(tmp_path, names, rows))
    assert counts.used.sum() == 30 and counts["several files of this name"].sum() == 6


def test_a_format_that_is_not_read_is_called_so(tmp_path):
    names = [f"{i}.{'png' if i % 2 else 'jp2'}" for i in range(12)]
    rows = [f"{name},text" for name in [*names, "other.png"]]
    _, counts = read_dataset(make_folder(tmp_path, names, rows))
    assert counts["format not supported"].sum() == 6 and counts["image file missing"].sum() == 1


@pytest.mark.parametrize(
    ("name", "row", "patient"),
    [
        ("im{n}.png", "im{n}.png,text,{word}", "patient_id"),  # pseudonyms without a digit
        ("P{p:03d}-{i}.png", "P{p:03d}-{i}.png,text,", "none"),
        ("T{p:03d}-{i}.png", "T{p:03d}-{i}.png,text,", "none"),
        ("patient{p}/{i}.png", "patient{p}/{i}.png,text,", "none"),
        ("im{n}.png", "im{n}.png,text,{first}", "patient"),  # merged cells, saved as CSV
    ],
)
def test_patients_that_a_person_sees_stay_together(tmp_path, name, row, patient):
    words, each = (
        ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"],
        12 if "word" in row else 8,
    )
    spots = [(p, i, p * each + i) for p in range(8) for i in range(each)]
    if patient == "patient_id" or "first" in row:
        spots = [(n % 8, n // 8, n) for n in range(8 * each)] if "word" in row else spots
    lines = [row.format(p=p, i=i, n=n, word=words[p], first="" if i else f"P{p}")
             for p, i, n in spots]  # fmt: skip
    make_folder(tmp_path, [name.format(p=p, i=i, n=n) for p, i, n in spots], lines,
                header=f"image,caption,{patient}")  # fmt: skip
    rows = together(read_dataset(tmp_path)[0])
    owner = {tmp_path / name.format(p=p, i=i, n=n): p for p, i, n in spots}
    owners = rows.image.map(lambda path: owner[tmp_path / path])
    assert len(rows) == 8 * each and rows.groupby(owners).split.nunique().eq(1).all()


def test_a_file_that_names_its_patient_in_two_given_splits_is_reported(tmp_path, capsys):
    names = [f"{'train' if i % 4 else 'test'}/P{i // 4:02d}_{i}.png" for i in range(120)]
    read_dataset(make_folder(tmp_path, names, [f"{name},text" for name in names]))
    assert "30 of 30 patients, by the beginnings of file names, have" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "cells"),
    [("is_test", ("True", "False")), ("cohort", ("train", "test", "external"))],
)
def test_a_split_that_is_not_used_is_named(tmp_path, capsys, header, cells):
    names = [f"{i}.png" for i in range(30)]
    rows = [f"{name},text {i},{cells[i % len(cells)]}" for i, name in enumerate(names)]
    read_dataset(make_folder(tmp_path, names, rows, header=f"image,caption,{header}"))
    assert f"column {header!r} of {tmp_path / 'captions.csv'} may give a split" in (
        capsys.readouterr().out
    )


def test_folders_with_such_words_are_no_splits_beside_other_folders(tmp_path, capsys):
    names = [f"{place}/{place[:4]}{i}.png" for i in range(13)
             for place in ("2021_train_run", "2022_test_run", "2023")]  # fmt: skip
    frames, counts = read_dataset(make_folder(tmp_path, names, [f"{n},text" for n in names]))
    assert counts.used.sum() == 39 and "2023 name no split" in capsys.readouterr().out
    assert len({path.split("/")[-2] for path in frames["train"].image}) == 3


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        ("INDICATION: Toux.\nTECHNIQUE: Sans.\nRÉSULTATS: Opacité {i}.\nCONCLUSION: Contrôle.",
         "Opacité {i}."),
        ("HISTORY: cough. RESULT: Opacity {i}. IMPRESSION: Follow up.", "Opacity {i}."),
        ("INDICACIÓN: Tos.\nTÉCNICA: TC.\nHALLAZGOS: Nódulo {i}.\nIMPRESIÓN: Control.",
         "Nódulo {i}."),
        ("FINDINGS: PA view. Comparison: CT of 2019. New nodule {i}.\nIMPRESSION: Nodule.",
         "PA view. Comparison: CT of 2019. New nodule {i}."),
        ("FINDINGS: See below.\nFINDINGS: New nodule {i}.\nIMPRESSION: Nodule.",
         "See below. New nodule {i}."),
        ("Findings: Nodule {i}. Comparison: CT of 2019.\nImpression: Nodule.", "Nodule {i}."),
        ("IMPRESSION: Nodule {i}.\nRESULTS COMMUNICATED: by phone to the ward.", "Nodule {i}."),
        ("TECHNIQUE: PA.\nRESULTS: Radiographically normal {i}.\nIMPRESSION: No change.",
         "Radiographically normal {i}."),
        ("FINDINGS: Air {i}.\nIMPRESSION: Air. Findings: discussed with Dr. A by phone.",
         "Air {i}."),
        ("IMPRESSION: Nodule {i}.\nResults: called to the ward at noon.", "Nodule {i}."),
        ("EXAM: Chest PA. Findings: Lungs clear {i}. Impression: Normal.", "Lungs clear {i}."),
        ("FINDINGS: Lungs clear {i}. Impression: Normal.", "Lungs clear {i}."),
        ("FRAGESTELLUNG: Husten. BEFUND: Herd {i}. Beurteilung: Normal.", "Herd {i}."),
        ("FINDINGS: Nodule {i}.\nFINDINGS: Nodule {i}.", "Nodule {i}."),
    ],
)  # fmt: skip
def test_the_findings_of_a_report_are_kept_whole(tmp_path, report, shown):
    names = [f"{i}.png" for i in range(12)]
    rows = [f'{name},"{report.format(i=i)}"' for i, name in enumerate(names)]
    rows = together(read_dataset(make_folder(tmp_path, names, rows))[0])
    ages = {f"{i}.png": shown.format(i=i) for i in range(12)}
    assert {row.image.split("/")[-1]: row.caption for row in rows.itertuples()} == ages


def test_longer_texts_beside_the_captions_are_named(tmp_path, capsys):
    names = [f"{i}.png" for i in range(12)]
    rows = [f"{name},XR CHEST,A nodule of {i} mm is seen in the right upper lobe"
            for i, name in enumerate(names)]  # fmt: skip
    read_dataset(make_folder(tmp_path, names, rows, header="image,description,report_en"))
    assert "COLUMNS = 'caption=report_en'" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["p{:03d}", "P{}", "P{:03d} ", ""])
@pytest.mark.parametrize("place", ["", "images/"])
def test_several_captions_of_one_patients_image_are_kept(tmp_path, other, place):
    rows = [f"a{i}.png,first {i},P{i:03d}" for i in range(20)]
    rows += [f"a{i}.png,second {i},{other.format(i)}" for i in range(20) if other != "P{}"]
    rows += [f"a{i}.png,second {i},{i}" for i in range(20) if other == "P{}"]
    rows = [row.replace(f"P{i:03d}", f"{i:03d}") if other == "P{}" else row
            for i, row in zip([*range(20)] * 2, rows, strict=True)]  # fmt: skip
    names = [f"{place}a{i}.png" for i in range(20)]
    _, counts = read_dataset(make_folder(tmp_path, names, rows, header="image,caption,patient_id"))
    assert counts.used.sum() == 20 and counts.captions.sum() >= 36


@pytest.mark.parametrize(
    ("header", "name", "cell"),
    [
        ("caption_number", "0/{}.jpg", "{k}"), ("language", "en/{}.jpg", "{word}"),
        ("patient", "P{i}/{}.jpg", "{patient}"),
    ],
)  # fmt: skip
def test_a_cell_that_a_folder_is_called_like_costs_no_caption(tmp_path, header, name, cell):
    lines = [(i, k) for i in range(25) for k in range(3)]
    words = "en", "fr", "de"
    cells = [cell.format(k=k, word=words[k], patient="" if k else f"P{i}") for i, k in lines]
    rows = [f"{1000 + i}.jpg,text {i} {k},{c}" for (i, k), c in zip(lines, cells, strict=True)]
    names = [name.format(1000 + i, i=i) for i in range(25)]
    _, counts = read_dataset(make_folder(tmp_path, names, rows, header=f"image,caption,{header}"))
    assert counts.used.sum() == 25 and "image file missing" not in counts


@pytest.mark.parametrize("stray", ["chest_extra/b1.png", "logo.png"])
def test_one_stray_image_does_not_cost_the_split(tmp_path, stray):
    sizes = {"train": 30, "val": 8, "test": 8}
    names = [f"chest_{s}/{s}{i}.png" for s in sizes for i in range(sizes[s])] + [stray]
    _, counts = read_dataset(make_folder(tmp_path, names, [f"{n},text {n}" for n in names]))
    assert counts.used.tolist() == [30, 8, 8]


def test_a_name_and_the_same_with_a_zero_are_two_if_both_have_rows(tmp_path):
    names = [f"{p}.{i}.png" for p in (1, 2, 3) for i in range(1, 12)]
    rows = [f"{name[:-4]},text {k} of {name}" for k in (1, 2) for name in names]
    _, counts = read_dataset(make_folder(tmp_path, names, rows))
    assert counts.used.sum() == 33


def test_pseudonyms_of_few_patients_count_too(tmp_path):
    names = [f"im{i}.png" for i in range(16)]
    rows = [f"{n},text,{('anna', 'bert', 'cleo', 'dora')[i % 4]}" for i, n in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,patient_id")
    rows = together(read_dataset(tmp_path)[0])
    assert rows.groupby("case").split.nunique().eq(1).all()


def test_images_without_a_patient_are_not_all_the_last_ones(tmp_path):
    names = [f"im{i}.png" for i in range(60)]
    rows = [f"{n},text,{f'P{i}' if i < 30 else ''}" for i, n in enumerate(names)]
    make_folder(tmp_path, names, rows, header="image,caption,patient")
    assert together(read_dataset(tmp_path)[0]).case.nunique() == 60


def test_a_table_with_a_header_alone_is_a_clear_error(tmp_path):
    make_folder(tmp_path, ["a.png"], [], header="image,caption,patient")
    with pytest.raises(UserError):
        read_dataset(tmp_path)


def test_a_missing_file_of_another_ending_is_missing(tmp_path):
    rows = [f"a{i}{ending},text of a{i}{ending}" for i in range(12) for ending in (".jpg", ".jpeg")]
    _, counts = read_dataset(make_folder(tmp_path, [f"a{i}.jpg" for i in range(12)], rows))
    assert counts.used.sum() == 12 == counts["image file missing"].sum()
