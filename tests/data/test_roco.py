"""ROCO's folders are found wherever they are; rows that cannot be used are counted by reason."""

import csv
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.splits import read_split
from PIL import Image

from roco_caption.core import machine
from roco_caption.core.errors import UserError
from roco_caption.data import roco
from roco_caption.data.cases import cases_of
from roco_caption.data.phantoms.dataset import make_phantoms
from roco_caption.data.roco import locate_dataset, read_dataset

MEDPIX = Path(__file__).parents[3] / "shared" / "medpix"
TABLES = {"train": "traindata.csv", "validation": "valdata.csv", "test": "testdata.csv"}


def make_split(
    root: Path, split: str, rows, *, present=None, beside=False, header=("id", "name", "caption")
):
    """Write one split of rows (name, caption); all images exist unless `present` is given."""
    folder = root / "all_data" / split / "radiology"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [name.strip() for name, _ in rows] if present is None else present
    for name in filter(None, names):
        (folder / "images" / name).write_bytes(b"pixels")
    path = folder.parent / f"radiology{TABLES[split]}" if beside else folder / TABLES[split]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((f"ROCO_{i:05d}", *row) for i, row in enumerate(rows))
    return path


def make_roco(root: Path) -> Path:
    for split in TABLES:
        make_split(
            root, split, [(f"PMC{split}{i}.jpg", f" Caption {i} of {split}.") for i in range(4)]
        )
    return root


@pytest.fixture(autouse=True)
def nothing_is_fetched_or_drawn(monkeypatch):
    """A wrong choice fails at once instead of downloading 6.2 GB."""

    def unexpected(*args, **options):
        pytest.fail("neither a download nor phantoms are expected here")

    monkeypatch.setattr(roco, "download_roco", unexpected)
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: None)
    monkeypatch.setattr(machine, "KAGGLE_INPUT", Path("/nowhere"))
    monkeypatch.setattr(roco, "make_phantoms", unexpected)


@pytest.mark.parametrize("beside", [False, True])
def test_both_places_of_the_table_are_read(tmp_path, beside):
    make_split(tmp_path, "train", [("a.jpg", "one"), ("b.jpg", "two")], beside=beside)
    frame, reasons = read_split(tmp_path, "train")
    assert frame.id.tolist() == ["a", "b"] and frame.caption.tolist() == ["one", "two"]
    assert all(Path(image).is_file() for image in frame.image) and (reasons == "").all()


def test_stray_white_space_is_removed_and_quotes_stay(tmp_path):
    make_split(
        tmp_path, "train", [(" a.jpg \n", ' Axial\n"T2"  image,\tleft. '), ("b.c.jpg", "None seen")]
    )
    frame, _ = read_split(tmp_path, "train")
    assert frame.id.tolist() == ["a", "b.c"]
    captions = [" ".join(caption.split()) for caption in frame.caption]
    assert captions == ['Axial "T2" image, left.', "None seen"]


def test_rows_left_out_are_counted_by_reason(tmp_path):
    make_roco(tmp_path)
    rows = [
        ("a.jpg", "one"),
        ("a.jpg", "one"),
        ("gone.jpg", "x"),
        ("b.jpg", "  "),
        ("", "y"),
        ("c.jpg", "z"),
    ]
    make_split(tmp_path, "train", rows, present=["a.jpg", "b.jpg", "c.jpg"])
    frames, counts = read_dataset(tmp_path)
    assert frames["train"].id.tolist() == ["a", "c"]
    row = counts.loc["train"].to_dict()
    assert row == {
        "listed": 6, "used": 2, "listed twice": 1, "image file missing": 2, "no caption": 1,
    }  # fmt: skip
    assert counts.loc["test", "used"] == 4 and counts.loc["test", "no caption"] == 0


def test_a_limit_takes_the_first_and_says_how_many_are_over_it(tmp_path):
    frames, counts = read_dataset(make_roco(tmp_path), limit=3)
    for split, frame in frames.items():
        assert frame.id.tolist() == [f"PMC{split}{i}" for i in range(3)]
    assert (counts["over the limit"] == 1).all() and (counts.used == 3).all()


def test_a_table_that_is_not_utf8_is_read_and_its_encoding_is_printed(tmp_path, capsys):
    path = make_split(tmp_path, "train", [("a.jpg", "30 degrees")])
    path.write_bytes(path.read_bytes().replace(b"degrees", b"\xb0 left"))
    assert read_split(tmp_path, "train")[0].caption.tolist() == ["30 ° left"]
    assert "encoding cp1252" in capsys.readouterr().out


def test_an_image_of_another_folder_cannot_be_named(tmp_path):
    make_split(
        tmp_path, "train", [("a.jpg", "one"), ("../../secret.jpg", "two")], present=["a.jpg"]
    )
    (tmp_path / "all_data" / "train" / "secret.jpg").write_bytes(b"x")
    assert read_split(tmp_path, "train")[0].id.tolist() == ["a"]


def test_missing_and_odd_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"radiology/traindata\.csv or .*radiologytraindata\.csv"):
        read_split(tmp_path, "train")
    path = make_split(tmp_path, "train", [("a.jpg", "one")], header=("a", "b", "c"))
    with pytest.raises(UserError, match=r"traindata\.csv has the columns .'a', 'b', 'c'.*COLUMNS"):
        read_split(tmp_path, "train")
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"traindata\.csv has the columns \[\]"):
        read_split(tmp_path, "train")


def test_a_split_without_usable_rows_says_why(tmp_path):
    make_split(tmp_path, "train", [("a.jpg", "one"), ("b.jpg", "")], present=["b.jpg"])
    with pytest.raises(UserError, match=r"No image of .*train.*image file missing.*unpacked"):
        read_split(tmp_path, "train")
    make_split(tmp_path, "test", [])
    with pytest.raises(UserError, match=r"No image of .*test"):
        read_split(tmp_path, "test")


def test_data_dir_comes_first_and_a_wrong_one_is_an_error(tmp_path):
    make_roco(tmp_path / "mine")
    for platform, wish in (("colab", "auto"), ("local", "kaggle"), ("kaggle", "phantoms")):
        source = locate_dataset(
            tmp_path, data_dir=str(tmp_path / "mine"), source=wish, platform=platform
        )
        assert source.root == tmp_path / "mine" and not source.synthetic
        assert str(source) == (
            f"Data: {tmp_path / 'mine'}\nChosen by DATA_DIR; if that is empty, DATA_SOURCE decides."
        )
    with pytest.raises(UserError, match="which does not contain all_data/train/radiology"):
        locate_dataset(tmp_path, data_dir=str(tmp_path / "none"))


def test_folders_of_the_same_name_do_not_share_caches(tmp_path):
    names = []
    for place in ("one", "other"):
        make_roco(tmp_path / place / "roco")
        names.append(locate_dataset(tmp_path, data_dir=str(tmp_path / place / "roco")).name)
    again = locate_dataset(tmp_path, data_dir=f"{tmp_path}/one/../one/roco").name
    assert names[0] == again != names[1] and again.startswith("roco-")


@pytest.mark.parametrize("place", ["roco-dataset", "datasets/virajbagal/roco-dataset"])
def test_on_kaggle_the_attached_data_set_is_found_however_nested(tmp_path, monkeypatch, place):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    make_roco(tmp_path / "input" / place)
    (tmp_path / "input" / "another").mkdir()
    source = locate_dataset(tmp_path / "working", platform="kaggle")
    assert source.root == tmp_path / "input" / place and source.name == "roco"
    assert str(source.root) in str(source) and "attached" in str(source)
    assert "DATA_SOURCE = 'phantoms'" in str(source) and not (tmp_path / "working").exists()


def test_on_kaggle_without_it_the_remedies_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    with pytest.raises(UserError, match=r"Add Input.*'phantoms'"):
        locate_dataset(tmp_path, platform="kaggle")


@pytest.mark.parametrize("place", ["roco-dataset", "datasets/virajbagal/roco-dataset"])
@pytest.mark.parametrize(
    ("platform", "wish"), [("colab", "auto"), ("colab", "kaggle"), ("kaggle", "kaggle")]
)
def test_what_is_mounted_is_not_downloaded(tmp_path, monkeypatch, place, platform, wish):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: pytest.fail("not needed"))
    make_roco(tmp_path / "input" / place)
    source = locate_dataset(tmp_path / "working", source=wish, platform=platform)
    assert (source.root, source.name) == (tmp_path / "input" / place, "roco")
    assert "not downloaded" in source.why


def test_colab_has_a_copy_of_its_own_and_a_download_comes_before_it(tmp_path, monkeypatch):
    make_roco(tmp_path / "cache" / "versions" / "2")
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: tmp_path / "cache")
    source = locate_dataset(tmp_path / "data", platform="colab")
    assert source.root == tmp_path / "cache" / "versions" / "2" and source.name == "roco"
    monkeypatch.setattr(roco, "download_roco", lambda folder: folder)
    assert locate_dataset(tmp_path, source="kaggle").root == tmp_path / "roco"  # not in Colab
    (tmp_path / "data" / "roco").mkdir(parents=True)
    (tmp_path / "data" / "roco" / roco.RECORD).touch()
    source = locate_dataset(tmp_path / "data", platform="colab")
    assert source.root == tmp_path / "data" / "roco"  # of an earlier run in this session


def test_all_of_roco_waits_for_a_gpu_in_colab(tmp_path, monkeypatch):
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: None)
    monkeypatch.setattr(roco, "download_roco", lambda folder: folder)
    options = {"platform": "colab", "slow": True}
    with pytest.raises(UserError, match=r"T4.*LIMIT = 500.*'phantoms'.*'kaggle'"):
        locate_dataset(tmp_path, **options)
    make_roco(tmp_path / "mine")
    for chosen in ({"limit": 500}, {"source": "kaggle"}, {"data_dir": str(tmp_path / "mine")}):
        assert locate_dataset(tmp_path, **options, **chosen).why


@pytest.mark.parametrize("mounted", ["missing", "empty"])
def test_a_mount_without_roco_is_no_obstacle(tmp_path, monkeypatch, mounted):
    if mounted == "empty":
        (tmp_path / "cache" / "all_data").mkdir(parents=True)
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: tmp_path / "cache")
    monkeypatch.setattr(roco, "download_roco", lambda folder: folder)
    assert locate_dataset(tmp_path, platform="colab").root == tmp_path / "roco"


@pytest.mark.parametrize(
    ("platform", "source", "chosen", "why"),
    [
        ("colab", "auto", "download", "the default in Colab"),
        ("colab", "kaggle", "download", "ROCO from Kaggle"),
        ("local", "kaggle", "download", "ROCO from Kaggle"),
        ("kaggle", "kaggle", "download", "ROCO from Kaggle"),
        ("local", "auto", "phantoms", "the default outside Colab and Kaggle"),
        ("local", "phantoms", "phantoms", "as DATA_SOURCE asks"),
        ("colab", "phantoms", "phantoms", "as DATA_SOURCE asks"),
        ("kaggle", "phantoms", "phantoms", "as DATA_SOURCE asks"),
    ],
)
def test_the_choice_and_its_alternative_are_explained(
    tmp_path, monkeypatch, platform, source, chosen, why
):
    calls = []

    def download(folder):
        calls.append("download")
        return folder

    def phantoms(folder, **options):
        calls.append("phantoms")
        assert options == {"train": 5, "validation": 6, "test": 7, "seed": 3}
        return folder

    monkeypatch.setattr(roco, "download_roco", download)
    monkeypatch.setattr(roco, "make_phantoms", phantoms)
    located = locate_dataset(
        tmp_path, source=source, platform=platform, phantom_counts=(5, 6, 7), seed=3
    )
    assert calls == [chosen] and located.synthetic == (chosen == "phantoms")
    name, otherwise = {
        "download": ("roco", "DATA_SOURCE = 'phantoms'"),
        "phantoms": ("phantoms-5-6-7-seed3", "DATA_SOURCE = 'kaggle'"),
    }[chosen]
    assert located.name == name and located.root == tmp_path / name
    first, second = str(located).splitlines()
    assert first == f"Data: {located.root}" and why in second and otherwise in second
    assert ("default" in second) == (source == "auto")
    assert ("DATA_DIR" in second) == located.synthetic


@pytest.mark.skipif(not MEDPIX.exists(), reason="the real images are not available")
def test_real_images_in_rocos_layout():
    frames, counts = read_dataset(MEDPIX)
    assert {split: len(frame) for split, frame in frames.items()} == {
        "train": 1462, "validation": 197, "test": 172,
    }  # fmt: skip
    assert counts.placeholder.tolist() == [19, 0, 0]
    assert (counts.listed == counts.used + counts.placeholder).all()


def test_a_listing_that_cannot_be_used_does_not_hide_the_next(tmp_path):
    make_split(tmp_path, "train", [("a.jpg", ""), ("a.jpg", "one")])
    frame, reasons = read_split(tmp_path, "train")
    assert frame.caption.tolist() == ["one"] and reasons.tolist() == ["no caption", ""]


def test_a_row_that_ends_early_has_no_caption(tmp_path):
    path = make_split(tmp_path, "train", [("a.jpg", "one"), ("b.jpg", "two")])
    path.write_text("id,name,caption\n0,a.jpg,one\n1,b.jpg\n2\n")
    frame, reasons = read_split(tmp_path, "train")
    assert frame.id.tolist() == ["a"] and reasons.tolist() == ["", "no caption", "no caption"]


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path):
    path = make_split(tmp_path, "train", [("a.jpg", "one")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_split(tmp_path, "train")[0].id.tolist() == ["a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'id,name,caption\n0,a.jpg,"never closed\n', "is not a readable table"),
        (b"PK\x03\x04\x00\x00", "is not a readable table"),
    ],
)
def test_files_that_are_not_tables_are_named(tmp_path, content, says):
    make_split(tmp_path, "train", [("a.jpg", "one")]).write_bytes(content)
    with pytest.raises(UserError, match=rf"traindata\.csv {says}"):
        read_split(tmp_path, "train")


def test_images_that_were_not_unpacked_are_named_by_their_folder(tmp_path):
    images = make_split(tmp_path, "train", [("a.jpg", "one")]).parent / "images"
    images.rename(images.with_name("pictures"))
    with pytest.raises(UserError, match=r"radiology/images is missing\. Unpack"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(("limit", "used", "over"), [(1, 1, 1), (2, 2, 0), (9, 2, 0)])
def test_every_row_is_counted_once_with_a_limit(tmp_path, limit, used, over):
    make_roco(tmp_path)
    rows = [("a.jpg", "one"), ("gone.jpg", "two"), ("a.jpg", "one"), ("b.jpg", "four")]
    make_split(tmp_path, "train", rows, present=["a.jpg", "b.jpg"])
    _, counts = read_dataset(tmp_path, limit)
    assert counts.loc["train", ["used", "over the limit"]].tolist() == [used, over]
    assert (counts.drop(columns="listed").sum(axis=1) == counts.listed).all()


def test_a_read_only_mount_is_read_and_not_changed(tmp_path, monkeypatch):
    mount = make_roco(tmp_path / "input" / "roco-dataset").parent
    monkeypatch.setattr(machine, "KAGGLE_INPUT", mount)
    paths = [mount, *mount.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & 0o555)
    changed = [path.stat().st_mtime_ns for path in paths]
    try:
        frames, _ = read_dataset(locate_dataset(tmp_path / "working", platform="kaggle").root)
        assert all(len(frame) == 4 for frame in frames.values())
        # root may write to what is read-only, so that is looked at
        assert [path.stat().st_mtime_ns for path in [mount, *mount.rglob("*")]] == changed
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_data_dir_may_start_with_a_tilde_and_contain_the_data_deeper(tmp_path, monkeypatch):
    make_roco(tmp_path / "archive" / "x-rays")
    monkeypatch.setenv("HOME", str(tmp_path))
    source = locate_dataset("unused", data_dir="~/archive")
    assert source.root == tmp_path / "archive" / "x-rays" and source.name.startswith("x-rays-")


@pytest.mark.parametrize(
    ("ids", "cases"),
    [
        (["PMC1_a_001", "PMC1_b_002", "PMC22_a_001"], ["PMC1", "PMC1", "PMC22"]),
        (["MPX1_synpic4", "MPX2_synpic5"], ["MPX1", "MPX2"]),
        (["scan 1", "scan 2"], ["scan 1", "scan 2"]),
        (["ROCO_00001", "ROCO_00002"], None),
        ([f"ct_{i}" for i in range(30)] + [f"mr_{i}" for i in range(30)], None),
    ],
)
def test_id_prefixes_are_cases_unless_they_are_too_few(ids, cases):
    ids = pd.Series(ids)
    assert cases_of(ids).tolist() == (list(ids) if cases is None else cases)


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"DATA_SOURCE must be one of .* got 'kagle'"):
        locate_dataset(tmp_path, source="kagle")


def test_images_named_alike_in_all_splits_stay_different(tmp_path):
    for split in TABLES:
        make_split(tmp_path, split, [(f"{i:03d}.png", f"{split} {i}") for i in range(4)])
    frames, _ = read_dataset(tmp_path)
    ids = pd.concat(frames).id
    assert ids.is_unique and ids.tolist()[:2] == ["train/000", "train/001"]
    assert read_dataset(tmp_path, limit=1)[0]["test"].id.tolist() == ["test/000"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([f"1.2.840.113619.2.55.1.{i}" for i in range(1, 6)], None),
        (["img1.png", "img1.jpg"], None),
        (["scan.v1", "scan.v2"], None),
        (["a.PNG", "b.Jpeg", "c.dcm"], ["a", "b", "c"]),
    ],
)
def test_names_with_dots_are_all_kept(tmp_path, names, ids):
    make_split(tmp_path, "train", [(name, "text") for name in names])
    assert read_split(tmp_path, "train")[0].id.tolist() == (ids or names)


@pytest.mark.parametrize("absent", [["validation"], ["test"], ["validation", "test"]])
def test_a_split_that_the_layout_lacks_is_held_out_from_training(tmp_path, capsys, absent):
    make_roco(tmp_path)
    make_split(tmp_path, "train", [(f"PMC{i // 2}_{i}.jpg", f"text {i}") for i in range(40)])
    for split in absent:
        shutil.rmtree(tmp_path / "all_data" / split)
    frames, _ = read_dataset(tmp_path)
    assert len(frames["train"]) == 40 - 4 * len(absent)
    assert all(frames[split].id.str.startswith("PMC").all() for split in frames)
    assert "Split by patient, SEED = 1" in capsys.readouterr().out


def test_a_column_of_patients_is_used_in_this_layout_as_well(tmp_path):
    make_roco(tmp_path)
    path = make_split(tmp_path, "test", [("a.jpg", "x"), ("b.jpg", "y")])
    path.write_text("name,patient,caption\na.jpg,7,x\nb.jpg,7,y\n")
    frames, _ = read_dataset(tmp_path)
    assert frames["test"]["case"].tolist() == ["7", "7"] and frames["train"]["case"].is_unique


def test_unquoted_commas_do_not_cut_a_caption(tmp_path):
    path = make_split(tmp_path, "train", [("a.png", "x"), ("b.png", "x")])
    path.write_text("id,name,caption\n1,a.png,Chest X-ray, PA view, no effusion\n2,b.png,x\n")
    frame, _ = read_split(tmp_path, "train")
    assert frame.caption.tolist() == ["Chest X-ray, PA view, no effusion", "x"]
    path.write_text("id,caption,name\n1,Chest X-ray, PA view,a.png\n2,x,b.png\n")
    frame, reasons = read_split(tmp_path, "train")
    assert frame.id.tolist() == ["b"] and reasons.tolist() == ["does not fit the header", ""]


def test_lines_that_do_not_fit_are_named(tmp_path, capsys):
    make_roco(tmp_path)
    path = make_split(tmp_path, "train", [("a.png", "x"), ("b.png", "x")])
    path.write_text("id,caption,name\n1,Chest X-ray, PA view,a.png\n2,x,b.png\n")
    read_dataset(tmp_path)
    assert "left out: 'line 2' (does not fit the header)." in capsys.readouterr().out


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
def test_all_of_roco_without_an_accelerator_stops_before_hours_of_features(
    tmp_path, monkeypatch, platform
):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setattr(roco, "MANY", 2)
    monkeypatch.setattr(roco, "mounted_by_colab", lambda: None)
    monkeypatch.setattr(roco, "download_roco", lambda folder: folder)
    images = make_roco(tmp_path / "input") / "all_data" / "train" / "radiology" / "images"
    for i in range(3):
        (images / f"more{i}.jpg").touch()
    if platform == "colab":
        (tmp_path / "input").rename(tmp_path / "elsewhere")
    options = {"platform": platform, "slow": True}
    with pytest.raises(UserError, match=r"no GPU.*(Runtime|Accelerator).*LIMIT"):
        locate_dataset(tmp_path, **options)
    for other in ({"limit": 5}, {"source": "kaggle"}, {"slow": False}):
        assert locate_dataset(tmp_path, **options | other).name == "roco"
    drive = tmp_path / "drive"
    with pytest.raises(UserError, match="no GPU"):  # DRIVE_DIR, but nothing in it yet
        locate_dataset(tmp_path, **options, copy=drive)
    (drive / "features" / "roco").mkdir(parents=True)
    features = drive / "features" / "roco" / "vgg16.pkl"
    features.write_bytes(bytes(1000))
    with pytest.raises(UserError, match="no GPU"):  # features of some images, as of LIMIT = 500
        locate_dataset(tmp_path, **options, copy=drive)
    os.truncate(features, 671_000_000)
    assert locate_dataset(tmp_path, **options, copy=drive).name == "roco"


def test_a_small_attached_data_set_needs_no_accelerator(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    make_roco(tmp_path / "input")
    assert locate_dataset(tmp_path, platform="kaggle", slow=True).name == "roco"


def test_phantoms_are_known_as_such_and_never_taken_for_roco(tmp_path, monkeypatch):
    drawn = make_phantoms(tmp_path / "input" / "v1" / "phantoms-4-1-1-seed0", train=4,
                          validation=1, test=1, progress=False)  # fmt: skip
    moved = drawn.rename(tmp_path / "input" / "v1" / "mine")
    found = locate_dataset(tmp_path, data_dir=str(moved))
    assert found.synthetic and found.name.startswith("phantoms-4-1-1-seed0-")
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    with pytest.raises(UserError, match=r"No ROCO under .*Attach it"):
        locate_dataset(tmp_path, platform="kaggle")
    make_roco(tmp_path / "input" / "x" / "y")
    found = locate_dataset(tmp_path, platform="kaggle")
    assert (found.name, found.synthetic) == ("roco", False) and "x" in found.root.parts


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8")
def test_names_that_are_not_utf8_are_read(tmp_path):
    """As in zips of old Windows programs, unpacked on Linux."""
    table, beside = tmp_path / "table", tmp_path / "beside"
    lines = ["file,caption", *(f"{i:04}.png,scan {i}" for i in range(12))]
    for folder in (table / "Sch\udce4del", beside):
        folder.mkdir(parents=True)
    (table / "captions.csv").write_text("\n".join(lines))
    for i in range(12):
        Image.new("L", (8, 8), 9 * i).save(table / "Sch\udce4del" / f"{i:04}.png")
        Image.new("L", (8, 8), 9 * i).save(beside / f"R\udcf6ntgen{i}.png")
        (beside / f"R\udcf6ntgen{i}.txt").write_text(f"A scan {i} of the head.")
    for root in (table, beside):
        frames, counts = read_dataset(root)
        ids = [name for frame in frames.values() for name in frame.id]
        assert counts.used.sum() == len(set(ids)) == 12 and "".join(ids).isascii()
        assert all(Path(path).exists() for frame in frames.values() for path in frame.image)
