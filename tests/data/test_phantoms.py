"""Phantoms are reproducible, in ROCO's layout, and show what their captions state."""

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json
from roco_caption.data.phantoms import dataset as phantoms
from roco_caption.data.phantoms.canvas import SIZE, Lesion
from roco_caption.data.phantoms.dataset import make_phantoms, patient
from roco_caption.data.phantoms.patient import _FRAMES, _WORDINGS, FINDINGS, draw, write_caption
from roco_caption.scores.phantoms import AMBIGUOUS, attributes_of, shares_right

SMALL = {"train": 5, "validation": 2, "test": 3, "progress": False}


def captions(number, split="train"):
    """Return (patient, caption) of the first patients of a split."""
    rng = np.random.default_rng(0)
    people = [patient(split, index) for index in range(number)]
    return [(p, write_caption(p.modality, p.lesion, rng, arrow=p.arrow)) for p in people]


def contents(folder):
    """Return the bytes of every file below a folder, by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", **SMALL)


# ------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(("split", "table"), phantoms.TABLES.items())
def test_the_folder_has_rocos_layout(drawn, split, table):
    folder = drawn / "all_data" / split / "radiology"
    listed = rows(folder / table)
    assert len(listed) == SMALL[split]
    assert list(listed[0]) == ["id", "name", "caption"]
    lines = (folder / "captions.txt").read_text("utf-8").splitlines()
    assert lines == [f"{row['id']}\t {row['caption']}" for row in listed]
    assert {path.name for path in (folder / "images").iterdir()} == {row["name"] for row in listed}
    for row in listed:
        with Image.open(folder / "images" / row["name"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "L", (SIZE, SIZE))


def test_attributes_agree_with_the_captions(drawn):
    truth = {row.pop("id"): row for row in rows(drawn / "attributes.csv")}
    assert len(truth) == 10
    for split, table in phantoms.TABLES.items():
        for row in rows(drawn / "all_data" / split / "radiology" / table):
            stated = {"split": split, **attributes_of(row["caption"])}
            assert stated.items() <= truth[row["id"]].items()


def test_the_table_holds_each_findings_box(drawn):
    for row in rows(drawn / "attributes.csv"):
        x0, y0, x1, y1 = (int(row[name]) for name in phantoms.BOX)
        assert 0 <= x0 < x1 <= SIZE and 0 <= y0 < y1 <= SIZE
        assert (x0 + x1 < SIZE) == (row["side"] == "right")


def test_images_depend_only_on_seed_split_and_index(drawn, tmp_path):
    first = contents(drawn)
    assert contents(make_phantoms(tmp_path / "same", **SMALL)) == first
    other = contents(make_phantoms(tmp_path / "more", **{**SMALL, "train": 3, "test": 5}))
    shared = {name for name in first.keys() & other.keys() if name.endswith(".jpg")}
    assert len(shared) == 3 + 2 + 3
    assert all(first[name] == other[name] for name in shared)
    assert len({first[name] for name in first if name.endswith(".jpg")}) == 10
    seeded = contents(make_phantoms(tmp_path / "seeded", **SMALL, seed=1))
    assert not any(first[name] == seeded[name] for name in shared)


def test_a_complete_set_is_reused(drawn, monkeypatch):
    monkeypatch.setattr(phantoms, "draw", None)  # would fail if called
    times = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert make_phantoms(drawn, **SMALL) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == times


def test_an_interrupted_drawing_is_completed(drawn, tmp_path, monkeypatch):
    calls = []

    def interrupted(*args, **settings):
        calls.append(args)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return draw(*args, **settings)

    limit = 4
    monkeypatch.setattr(phantoms, "draw", interrupted)
    monkeypatch.setattr(phantoms, "usable_cpus", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        make_phantoms(tmp_path, **SMALL)
    assert len(list(tmp_path.rglob("*.jpg"))) == 4
    assert read_json(tmp_path / "phantoms.json")["complete"] is False
    leftover = next(tmp_path.rglob("*.jpg")).with_name(".PHANTOM_train_00002.jpg.12-ab.tmp")
    leftover.write_bytes(b"half")  # as a kill leaves it
    calls.clear()
    limit = 99
    make_phantoms(tmp_path, **SMALL)
    assert len(calls) == 6
    assert contents(tmp_path) == contents(drawn)


MANY = {"train": 40, "validation": 1, "test": 7, "progress": False}


@pytest.fixture
def helpers(monkeypatch):
    """Three processes draw; returns those that were started."""
    started, start = [], phantoms.subprocess.Popen
    monkeypatch.setattr(phantoms, "usable_cpus", lambda: 3)
    monkeypatch.setattr(phantoms, "MIN_IMAGES", 16)
    monkeypatch.setattr(
        phantoms.subprocess, "Popen", lambda *a, **o: started.append(start(*a, **o)) or started[-1]
    )
    return started


@pytest.mark.parametrize(
    ("python", "started", "here"),
    [(sys.executable, 2, 16), (shutil.which("false"), 2, 48), ("/missing/python", 0, 48)],
)
def test_several_processes_draw_the_same_images_and_one_where_others_fail(
    tmp_path, monkeypatch, helpers, python, started, here
):
    mine = []
    monkeypatch.setattr(phantoms, "draw", lambda *a, **o: mine.append(a) or draw(*a, **o))
    monkeypatch.setattr(phantoms.sys, "executable", python)
    make_phantoms(tmp_path / "several", **MANY)
    assert (len(helpers), len(mine)) == (started, here)
    monkeypatch.setattr(phantoms, "usable_cpus", lambda: 1)
    make_phantoms(tmp_path / "one", **MANY)
    assert contents(tmp_path / "one") == contents(tmp_path / "several")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="not on Windows")
def test_the_other_processes_end_when_this_one_is_killed(tmp_path):
    code = """
        import os, signal, sys
        from roco_caption.data.phantoms import dataset
        dataset.usable_cpus = lambda: 2
        def draw(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        dataset.draw = draw
        dataset.make_phantoms(sys.argv[1], train=300, validation=1, test=1, progress=False)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "p")], check=False)
    deadline, before = time.monotonic() + 20, -1
    while (now := len(list(tmp_path.rglob("*.jpg")))) != before and time.monotonic() < deadline:
        before = now
        time.sleep(1)
    assert before < 100  # of the 151 that are the other's


def test_an_interrupt_ends_the_other_processes(tmp_path, monkeypatch, helpers):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantoms, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_phantoms(tmp_path, **MANY)
    assert len(helpers) == 2 and all(helper.returncode for helper in helpers)


def test_missing_files_are_made_again(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    for name in ("PHANTOM_train_00003.jpg", "PHANTOM_test_00000.jpg", "valdata.csv"):
        next(tmp_path.rglob(name)).unlink()
    make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(drawn)
    next(tmp_path.rglob("captions.txt")).unlink()
    make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(drawn)


def test_a_damaged_record_is_set_aside_and_the_set_drawn_again(drawn, tmp_path, capsys):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "phantoms.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 8'))
    make_phantoms(tmp_path, **SMALL)
    assert "set aside as phantoms.json.damaged" in capsys.readouterr().out
    (tmp_path / "phantoms.json.damaged").unlink()
    assert contents(tmp_path) == contents(drawn)


def test_other_settings_replace_the_set(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    make_phantoms(tmp_path, train=1, validation=0, test=1, seed=3, progress=False)
    names = {path.name for path in tmp_path.rglob("*.jpg")}
    assert names == {"PHANTOM_train_00000.jpg", "PHANTOM_test_00000.jpg"}


def test_another_data_set_is_not_changed(tmp_path):
    other = tmp_path / "all_data" / "train" / "radiology" / "traindata.csv"
    other.parent.mkdir(parents=True)
    other.write_text("id,name,caption\n")
    with pytest.raises(UserError, match="another data set"):
        make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == {"all_data/train/radiology/traindata.csv": b"id,name,caption\n"}


@pytest.mark.parametrize("negative", [{"train": -1}, {"test": -5}, {"seed": -1}])
def test_negative_numbers_are_refused(tmp_path, negative):
    with pytest.raises(UserError, match="at least 0"):
        make_phantoms(tmp_path / "set", **{**SMALL, **negative})
    assert not (tmp_path / "set").exists()


def test_every_case_is_equally_frequent():
    number = len(phantoms.CASES)
    assert number == 4 * 3 * 2 * 2
    for start in (0, number):
        people = [patient("test", index) for index in range(start, start + number)]
        assert {(person.modality, person.lesion) for person in people} == set(phantoms.CASES)
    arrows = [patient("train", index).arrow for index in range(1000)]
    assert 0.3 < np.mean(arrows) < 0.5


def test_drawing_needs_no_deep_learning_library():
    code = "import sys, roco_caption.data.phantoms.dataset; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"keras", "tensorflow", "torch", "jax", "pandas"} & set(loaded.stdout.split())


# ------------------------------------------------------------------------------------- the images


@pytest.mark.parametrize(
    ("modality", "finding", "brighter"),
    [
        ("chest radiograph", "pleural effusion", True),
        ("chest radiograph", "pneumothorax", False),
        ("chest radiograph", "lung mass", True),
        ("abdominal CT", "renal mass", True),
        ("brain MRI", "infarct", True),
        ("brain MRI", "subdural hematoma", True),
        ("pelvic ultrasound", "solid adnexal mass", True),
        ("pelvic ultrasound", "dermoid", False),
    ],
)
def test_the_patients_right_is_on_the_images_left(modality, finding, brighter):
    for side, sign in (("right", 1), ("left", -1)):
        difference = 0.0
        for seed in range(4):
            lesion = Lesion(finding, side, "large")
            image = np.asarray(draw(modality, lesion, np.random.default_rng(seed)), float)
            difference += image[:, : SIZE // 2].mean() - image[:, SIZE // 2 :].mean()
        assert (difference * sign > 0) == brighter


@pytest.mark.parametrize("modality", FINDINGS)
def test_boxes_contain_the_finding(modality):
    """Inside the box an image differs more from its mirror image than elsewhere."""
    for finding, size in itertools.product(FINDINGS[modality], ("small", "large")):
        asymmetry = []
        for seed, side in itertools.product(range(3), ("right", "left")):
            lesion = Lesion(finding, side, size)
            picture = draw(modality, lesion, np.random.default_rng(seed))
            x0, y0, x1, y1 = picture.info["box"]
            assert 0.004 < (x1 - x0) * (y1 - y0) / SIZE**2 < 0.35
            pixels = np.asarray(picture, float)
            distance = np.abs(pixels - pixels[:, ::-1])
            asymmetry.append(distance[y0:y1, x0:x1].mean() / distance.mean())
        assert np.mean(asymmetry) > 1.15, (finding, size)


@pytest.mark.parametrize("modality", FINDINGS)
def test_the_arrow_changes_only_a_few_pixels(modality):
    for finding in FINDINGS[modality]:
        lesion = Lesion(finding, "left", "small")
        plain, pointed = (
            np.asarray(draw(modality, lesion, np.random.default_rng(5), arrow=arrow), int)
            for arrow in (False, True)
        )
        changed = (plain != pointed)[40:]  # the inscription above moves
        assert 60 < changed.sum() < 400
        assert pointed[40:][changed].max() == 250


def test_patients_differ():
    lesion = Lesion("lung mass", "right", "large")
    images = [
        np.asarray(draw("chest radiograph", lesion, np.random.default_rng(seed)), float)
        for seed in range(6)
    ]
    pairs = itertools.combinations(images, 2)
    assert min(np.abs(first - second).mean() for first, second in pairs) > 4


# ----------------------------------------------------------------------------------- the captions


def test_captions_state_exactly_what_was_drawn():
    for person, caption in captions(1200):
        bare = " ".join(re.findall(r"[a-z0-9]+", caption.lower()))
        assert attributes_of(caption) == attributes_of(bare) == person.attributes(), caption


def test_every_phrasing_can_be_read_back():
    for finding, wording in _WORDINGS.items():
        for sentence in _FRAMES + wording.sentences:
            for size in f"{wording.small} {wording.large}".split():
                caption = sentence.format(
                    view="",
                    shows="shows",
                    n=size,
                    size=size,
                    side="left",
                    name=wording.name,
                    arrow="",
                )
                read = attributes_of(caption)
                assert (read["finding"], read["side"]) == (finding, "left"), caption
                assert read["size"] == ("small" if size in wording.small else "large"), caption


def test_captions_are_varied():
    texts = [caption for _, caption in captions(900)]
    lengths = [len(caption.split()) for caption in texts]
    assert len(set(texts)) > 0.9 * len(texts)
    assert min(lengths) >= 5 and max(lengths) <= 30 and 10 < np.median(lengths) < 18
    assert all(len(_FRAMES + wording.sentences) >= 5 for wording in _WORDINGS.values())
    assert set(_WORDINGS) == {finding for findings in FINDINGS.values() for finding in findings}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", ("", "", "", "")),
        ("axial ct shows", ("abdominal CT", "", "", "")),
        ("Large mass in the right kidney", ("", "renal mass", "right", "large")),
        (
            "chest xray small left effusion",
            ("chest radiograph", "pleural effusion", "left", "small"),
        ),
        ("mri with left glioma and mass effect", ("brain MRI", "glioma", "left", "")),
        (
            "ultrasound right dermoid cyst of the ovary",
            ("pelvic ultrasound", "dermoid", "right", ""),
        ),
        ("left and right pleural effusion", ("", "pleural effusion", AMBIGUOUS, "")),
        ("bilateral small pneumothorax", ("", "pneumothorax", AMBIGUOUS, "small")),
        ("left pneumothorax with left pleural effusion", ("", AMBIGUOUS, "left", "")),
        ("renal cyst and mass on the left", ("", AMBIGUOUS, "left", "")),
        ("mass in the lung and the ovary", ("", AMBIGUOUS, "", "")),
        ("ct and mri", (AMBIGUOUS, "", "", "")),
        ("ct of the chest", (AMBIGUOUS, "", "", "")),
        ("t2 weighted mri of the pelvis", (AMBIGUOUS, "", "", "")),
        ("small to large infarct", ("", "infarct", "", AMBIGUOUS)),
        ("no pleural effusion", ("", "", "", "")),
        ("right pneumothorax without left effusion", ("", "pneumothorax", "right", "")),
        ("brightness of upright massively enlarged", ("", "", "", "")),
        ("a mass", ("", "", "", "")),
    ],
)
def test_captions_of_others_are_read_with_care(caption, expected):
    read = attributes_of(caption)
    assert tuple(read[key] for key in ("modality", "finding", "side", "size")) == expected
    assert read["arrow"] == "no"


def test_arrows_are_read():
    assert attributes_of("left glioma (arrows)")["arrow"] == "yes"
    assert attributes_of("narrowed")["arrow"] == "no"


def test_shares_right_counts_each_attribute_and_all_together():
    truth = ["Chest radiograph shows a small left pleural effusion."] * 4
    said = [
        "chest radiograph shows a small left pleural effusion",
        "chest radiograph shows a large left pleural effusion",
        "chest radiograph shows a small right pleural effusion",
        "",
    ]
    shares = shares_right(truth, said)
    assert shares["modality"] == shares["finding"] == 0.75 and shares["side"] == 0.5
    assert shares["modality, finding and side"] == 0.5 and shares["all four"] == 0.25
