"""A folder of images: which files are captioned, and what becomes of those that cannot be."""

import itertools
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import write_dicom
from helpers.toy_captioner import make, save_trained, tiny_encoder
from PIL import Image

from roco_caption import __main__ as command_line
from roco_caption.core.errors import OutOfMemory, UserError
from roco_caption.search import captioner as module
from roco_caption.search import captions_table
from roco_caption.search.captioner import Caption, Captioner, Search
from roco_caption.search.folder import image_files


def draw(path, grey=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), (grey, 255 - grey, 90)).save(path, format="PNG")
    return path


@pytest.fixture
def captioner(monkeypatch):
    monkeypatch.setattr(module, "build_encoder", tiny_encoder)
    monkeypatch.setattr(module, "ROWS", 8)
    return make()


@pytest.fixture
def folder(tmp_path):
    """Six images, one file of which is truncated, and much beside them."""
    folder = tmp_path / "images"
    for i, name in enumerate(["b.png", "a.PNG", "sub/deep/c.jpeg", "no_extension"]):
        draw(folder / name, 30 + 60 * i)
    scan = write_dicom(tmp_path / "scan.dcm", np.arange(1600).reshape(40, 40))
    scan.replace(folder / "1.2.840.113619.2")
    (folder / "bad.png").write_bytes((folder / "b.png").read_bytes()[:50])
    hidden = ("._b.png", ".DS_Store", "Thumbs.db", "DICOMDIR", ".ipynb_checkpoints/b.png")
    for name in (*hidden, "__MACOSX/b.png", "~$b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / "b.png").read_bytes())
    (folder / "notes.txt").write_text("not an image")
    return folder


NAMES = ["1.2.840.113619.2", "a.PNG", "b.png", "bad.png", "no_extension", "sub/deep/c.jpeg"]


def test_images_are_found_by_extension_and_content_without_hidden_files(folder, capsys):
    assert image_files(folder) == [folder / name for name in NAMES]
    assert capsys.readouterr().out.endswith(f"left out: {folder / 'notes.txt'}\n")
    (folder / "sub" / "other.csv").touch()
    image_files(folder)
    assert capsys.readouterr().out.endswith("notes.txt and 1 more\n")
    # named twice, as a file and by its folder, it is one
    assert len(image_files(folder, folder / "b.png")) == len(NAMES)


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert image_files("~/images/sub") == [folder / "sub/deep/c.jpeg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on Windows")
def test_pipes_and_dead_links_are_not_opened(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    assert image_files(folder) == [folder / name for name in NAMES]


def test_linked_folders_are_read_once_and_without_end(tmp_path):
    draw(tmp_path / "place" / "z" / "a.png")
    draw(tmp_path / "far" / "b.png")
    draw(tmp_path / "far" / "deep" / "c.png")
    links = {"place/link": "far", "place/twin": "far", "place/a": "place/z", "far/back": "place",
             "place/up": ".", "place/z/self": "place/z", "far/deep/loop": "far"}  # fmt: skip
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [path.relative_to(tmp_path / "place").as_posix()
             for path in image_files(tmp_path / "place")]  # fmt: skip
    assert found == ["link/b.png", "link/deep/c.png", "z/a.png"]
    assert image_files(tmp_path / "place" / "twin")[0] == tmp_path / "place" / "twin" / "b.png"


AS_ANOTHER = """
import os, sys
from pathlib import Path
from roco_caption.core.errors import UserError
from roco_caption.search.folder import image_files
if os.getuid() == 0:
    os.setuid(65534)
for place in sys.argv[1:]:
    try:
        print(len(image_files(place)))
    except UserError as error:
        print("UserError", error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such permissions on Windows")
@pytest.mark.parametrize("mode", [0o444, 0o000, 0o111])
def test_a_folder_without_permission_is_named(mode):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        closed = [draw(Path(place, name, "b.png")).parent for name in ("some/sub", "none/sub")]
        draw(Path(place, "some", "a.png"))
        for folder in closed:
            folder.chmod(mode)
        places = [f"{place}/some", f"{place}/none", closed[0], closed[0] / "deeper"]
        command = [sys.executable, "-c", AS_ANOTHER, *map(str, places)]
        done = subprocess.run(command, capture_output=True, text=True)
        for folder in closed:
            folder.chmod(0o755)
    assert not done.stderr
    note, count, none, itself, deeper = done.stdout.splitlines()
    assert note.startswith("NOTE") and str(closed[0]) in note and count == "1"
    assert none.startswith("UserError") and str(closed[1]) in none
    assert itself.startswith("UserError") and "no permission" in itself
    assert deeper.startswith("UserError") and "deeper" in deeper


@pytest.mark.parametrize("content", [[], ["notes.txt"], [".DS_Store", "._a.png"], ["a/b/c.csv"]])
def test_a_folder_without_an_image_is_named(tmp_path, captioner, content):
    for name in content:
        (tmp_path / "empty" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "empty" / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"no image in .*empty"):
        captioner.caption_folder(tmp_path / "empty")
    with pytest.raises(UserError, match="elsewhere is missing"):
        captioner.caption_folder(tmp_path / "elsewhere")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_folder_is_captioned_and_bad_files_are_kept_with_their_error(
    captioner, folder, batch_size
):
    table = captioner.caption_folder(folder, batch_size=batch_size)
    assert list(table) == ["file", "caption", "log_probability", "error"]
    assert list(table.file) == [str(folder / name) for name in NAMES]
    bad = table[table.error.notna()]
    assert list(bad.file) == [str(folder / "bad.png")]
    assert "bad.png" in bad.error.iloc[0] and bad.caption.isna().all()
    good = table.dropna(subset="caption")
    assert len(good) == 5 and good.log_probability.lt(0).all()
    for row in good.itertuples():
        assert row.caption == captioner.caption(row.file).text


def test_a_folder_of_bad_files_alone_is_a_table_of_errors(captioner, tmp_path):
    for name in ("a.jpg", "b.dcm"):
        (tmp_path / name).write_bytes(b"rubbish")
    table = captioner.caption_folder(tmp_path)
    assert table.error.notna().all() and table.caption.isna().all()


def test_an_image_for_which_memory_is_short_does_not_stop_the_rest(captioner, folder, monkeypatch):
    read = module.encode_files

    def short(models, images, batch_size, **options):
        if any("b.png" in str(image) for image in images.values()):
            raise OutOfMemory("decoding b.png", MemoryError(), "Remove it.")
        return read(models, images, batch_size, **options)

    monkeypatch.setattr(module, "encode_files", short)
    table = captioner.caption_folder(folder).set_index("file")
    assert "Out of memory" in table.error[str(folder / "b.png")]
    assert table.caption.notna().sum() == 4


def test_what_concerns_all_images_is_raised(folder, captioner):
    with pytest.raises(UserError, match="caption_features"):
        make({"name": "given.npz"}).caption_folder(folder)
    with pytest.raises(UserError, match="Reranking needs"):
        captioner.caption_folder(folder, search=Search(neighbours=3))
    for size in (0, -1, 2.5):
        with pytest.raises(UserError, match=f"BATCH_SIZE must be .* at least 1, got {size}"):
            captioner.caption_folder(folder, batch_size=size)


@pytest.fixture
def run(captioner, tmp_path):
    folder = tmp_path / "checkpoints" / "toy-1"
    save_trained(captioner, folder)
    return folder


def command(*arguments) -> int:
    return command_line.main(["caption", *map(str, arguments)])


def test_a_command_writes_a_table(run, folder, tmp_path, capsys, captioner):
    out = tmp_path / "new" / "captions.csv"
    draw(folder / "Röntgen.png", 77)
    assert command(folder, "--run", run.parent, "--out", out) == 0
    printed = capsys.readouterr().out
    assert f"{out} has 7 of 7 images" in printed and "toy-1" in printed
    assert out.read_bytes().startswith(b"\xef\xbb\xbf")  # Excel shows umlauts
    table, expected = pd.read_csv(out), captioner.caption_folder(folder)
    missing = (expected.caption.fillna("") == "").sum()  # the toy's captions may be empty
    assert f"{missing} of them without" in printed and missing >= expected.error.count() == 1
    pd.testing.assert_frame_equal(
        table.fillna(""), expected.fillna(""), check_dtype=False, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("data", "warned"),
    [("phantoms-9-9-9-seed1", True), ("roco", False), ("phantoms-study-1a2b3c", False)],
)
def test_a_run_on_phantoms_says_that_its_captions_mean_nothing(
    run, folder, tmp_path, capsys, data, warned
):
    (run / "settings.json").write_text(f'{{"data": "{data}"}}')
    command(folder, "--run", run, "--out", tmp_path / "captions.csv")
    assert ("captions of real images are meaningless" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("name", ["captions.tsv", "Befunde.XLSX", "a.xlsx"])
def test_a_table_that_excel_opens_in_columns(run, folder, tmp_path, capsys, captioner, name):
    draw(folder / "Röntgen.png", 77)
    out = tmp_path / name
    if out.suffix != ".tsv":
        pytest.importorskip("openpyxl")
    assert command(folder, "--run", run, "--out", out) == 0
    assert f"{out} has 7 of 7 images" in capsys.readouterr().out
    table = pd.read_csv(out, sep="\t") if out.suffix == ".tsv" else pd.read_excel(out)
    assert table.file.tolist() == captioner.caption_folder(folder).file.tolist()
    assert [path.name for path in tmp_path.glob("*.*sv")] == [name] * (out.suffix == ".tsv")


def test_a_table_for_excel_is_a_text_file_until_it_is_complete(run, folder, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    out = tmp_path / "a.xlsx"
    monkeypatch.setattr(captions_table, "find_spec", lambda name: None)
    assert command(folder, "--run", run, "--out", out) == 1
    monkeypatch.setattr(captions_table, "find_spec", lambda name: True)
    monkeypatch.setattr(pd.DataFrame, "to_excel", stop)
    assert command(folder, "--run", run, "--out", out) == 130
    assert len(pd.read_csv(tmp_path / "a.xlsx.csv")) == 6


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLSX"])
def test_a_file_beside_a_table_for_excel_is_kept_as_well(run, folder, tmp_path, capsys, name):
    pytest.importorskip("openpyxl")
    beside = tmp_path / "a.xlsx.csv"
    beside.write_text("precious")
    options = [folder, "--run", run, "--out", tmp_path / name]
    assert command(*options) == 1
    assert f"{beside} exists" in capsys.readouterr().err and beside.read_text() == "precious"
    assert not (tmp_path / name).exists()
    assert command(*options, "--overwrite") == 0 and not beside.exists()


LIKE_SOMETHING = ["001", "1e5", "nan", "None", "NULL", "=1+1", "=SUM(A1)", "#N/A", "+1", "true",
                  "2024-01-02", "a\x07b", "a\x1bb", "a\nb", "\ufffe", "http:x"]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed")
def test_texts_stay_texts_in_a_table_for_excel(run, tmp_path, monkeypatch, capsys):
    openpyxl = pytest.importorskip("openpyxl")
    (tmp_path / "odd").mkdir()
    monkeypatch.chdir(tmp_path / "odd")
    names = sorted([*LIKE_SOMETHING, os.fsdecode(b"\xff")])
    for name in names:
        draw(tmp_path / "odd" / name)

    def captions(self, features, search=None):
        return [Caption(name, -1.5) for name in names]

    monkeypatch.setattr(Captioner, "caption_features", captions)
    assert command(*names, "--run", run, "--out", "../odd.xlsx") == 0
    sheet = openpyxl.load_workbook(tmp_path / "odd.xlsx").active
    rows = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2)]
    changed = {"a\x07b": "a\ufffdb", "a\x1bb": "a\ufffdb", "\ufffe": "\ufffd",
               os.fsdecode(b"\xff"): "\\udcff"}  # fmt: skip
    expected = [changed.get(name, name) for name in names]
    assert rows == [[name, name, -1.5, None] for name in expected]
    assert {cell.data_type for row in sheet.iter_rows(max_col=2) for cell in row} == {"s"}
    assert {path.name for path in tmp_path.iterdir()} == {"odd", "odd.xlsx", "checkpoints"}


def test_an_existing_table_is_kept_unless_told_otherwise(run, folder, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("precious")
    places = [folder / "a.PNG", folder / "sub", "--run", run, "--out", out]
    assert command(*places) == 1
    assert "--overwrite" in capsys.readouterr().err and out.read_text() == "precious"
    assert command(*places, "--overwrite", "--beams", 1) == 0
    assert len(pd.read_csv(out)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is missing"),
        (["images", "--out", "images"], "images exists"),
        (["images", "--out", "images/b.png/x.csv"], "could not be written"),
        (["images", "--run", "images"], "captioner.json is missing"),
        (["images", "--beams", "0"], "BEAMS must be"),
        (["images", "--weights", "moved.h5"], "moved.h5 are missing"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_captioned(
    run, folder, monkeypatch, capsys, arguments, message
):
    def captions(*_):
        raise AssertionError("captioned in vain")

    monkeypatch.setattr(Captioner, "caption_features", captions)
    monkeypatch.chdir(folder.parent)
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.fixture
def stopped(monkeypatch):
    """Stop captioning after so many batches of two images."""
    tables = command_line.caption_files

    def after(count: int) -> None:
        def some(*arguments, **options):
            batches = tables(*arguments, batch_size=2, **options)
            yield from itertools.islice(batches, count)
            raise KeyboardInterrupt

        monkeypatch.setattr(command_line, "caption_files", some)

    return after


def test_what_was_captioned_before_a_stop_is_kept(run, folder, tmp_path, stopped, capsys):
    stopped(2)
    assert command(folder, "--run", run, "--out", tmp_path / "part.csv") == 130
    table = pd.read_csv(tmp_path / "part.csv")
    assert list(table.file) == [str(folder / name) for name in NAMES[:4]]
    assert (tmp_path / "part.csv").read_bytes().count(b"\xef\xbb\xbf") == 1
    assert "4 of 6 images" in capsys.readouterr().out


def worded(self, features, search=None):
    """Captions that are not empty, unlike some of the toy's."""
    return [Caption("CT, “left”.", -1.5)] * len(features)


@pytest.mark.parametrize("name", ["part.csv", "part.tsv", "part.xlsx"])
@pytest.mark.parametrize("cut", [0, 1, 9, 40])
def test_a_stopped_table_is_continued(
    run, folder, tmp_path, monkeypatch, stopped, capsys, name, cut
):
    out, made = tmp_path / name, []
    text = tmp_path / "part.xlsx.csv" if out.suffix == ".xlsx" else out
    read = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".xlsx": pd.read_excel}
    if out.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
    monkeypatch.setattr(Captioner, "caption_features", worded)
    tables = command_line.caption_files
    stopped(2)
    assert command(folder, "--run", run, "--out", out) == 130
    rows = b"".join(text.read_bytes().splitlines(keepends=True)[: 4 if cut else None])
    text.write_bytes(rows[: len(rows) - cut])  # as a kill leaves it
    monkeypatch.setattr(
        command_line, "caption_files",
        lambda captioner, files: made.append(files) or tables(captioner, files),
    )  # fmt: skip
    assert (
        command(folder, "--run", run, "--out", out) == 1 and "--resume" in capsys.readouterr().err
    )
    assert command(folder, "--run", run, "--out", out, "--resume") == 0
    table = read[out.suffix](out)
    assert sorted(table.file) == [str(folder / name) for name in NAMES]
    assert set(table.log_probability.dropna()) == {-1.5}
    assert f"{out} has 6 of 6 images" in capsys.readouterr().out
    assert len(made[-1]) == (4 if cut else 3)  # an image with an error is tried again


def test_a_complete_table_is_kept_without_loading_anything(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    monkeypatch.setattr(Captioner, "caption_features", worded)
    (folder / "bad.png").unlink()
    assert command(folder, "--run", run, "--out", out) == 0
    whole = out.read_bytes()
    monkeypatch.delattr(Captioner, "load")
    assert command(folder, "--run", run, "--out", out, "--resume") == 0
    assert out.read_bytes() == whole


def test_images_that_came_later_are_added(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    monkeypatch.setattr(Captioner, "caption_features", worded)
    assert command(folder / "sub", "--run", run, "--out", out, "--resume") == 0
    assert command(folder / "a.PNG", "--run", run, "--out", out, "--resume") == 0
    assert pd.read_csv(out).file.tolist() == [str(folder / NAMES[-1]), str(folder / "a.PNG")]


def test_captions_of_two_captioners_are_not_mixed(run, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.csv"
    monkeypatch.setattr(Captioner, "caption_features", worded)
    assert command(folder / "sub", folder / "b.png", "--run", run, "--out", out) == 0
    before = out.read_bytes()
    other = [Caption("of another one", -2.5)]
    monkeypatch.setattr(Captioner, "caption_features", lambda self, f, search: other * len(f))
    assert command(folder, "--run", run, "--out", out, "--resume") == 1
    assert "of another captioner or search" in capsys.readouterr().err
    assert out.read_bytes() == before
    unread = [Caption(None, float("nan"))]
    monkeypatch.setattr(Captioner, "caption_features", lambda self, f, search: unread * len(f))
    assert command(folder, "--run", run, "--out", out, "--resume") == 0
    edited = before.replace("CT, “left”".replace('"', '""').encode(), b"MR, by hand")
    out.write_bytes(edited)
    monkeypatch.setattr(Captioner, "caption_features", worded)
    assert command(folder, "--run", run, "--out", out, "--resume") == 0
    assert edited in out.read_bytes()


HEADER = "file,caption,log_probability,error\n"


@pytest.mark.parametrize(
    "content",
    ["precious", "file,caption\na,b\n", HEADER.replace(",", ";"), HEADER + "Röntgen.png,CT,-1,\n",
     HEADER + '"' + "x" * 200_000 + "\n", "\0\xff"],
)  # fmt: skip
def test_only_a_table_of_captions_is_continued(run, folder, tmp_path, capsys, content):
    out = tmp_path / "out.csv"
    out.write_bytes(content.encode("latin-1"))
    assert command(folder, "--run", run, "--out", out, "--resume") == 1
    assert f"{out} is not a table of captions" in capsys.readouterr().err
    assert out.read_bytes() == content.encode("latin-1")


def test_what_else_is_in_a_table_is_kept(run, folder, tmp_path, monkeypatch, capsys):
    """Rows of other images, what a person wrote, and an empty caption that the decoder found."""
    text, out = tmp_path / "text.csv", tmp_path / "out.csv"
    own = [f"{folder / 'bad.png'},CT by hand,,truncated", f'{folder / "a.PNG"},,"-1,50",']
    text.write_text(HEADER + "\n".join(["elsewhere.png,,,missing", *own, own[0], "cut off"]))
    out.symlink_to(text)
    monkeypatch.setattr(Captioner, "caption_features", worded)
    assert command(folder, "--run", folder, "--out", out, "--resume") == 1
    assert "cut off" in text.read_text()  # nothing was captioned, so nothing is changed
    assert command(folder, "--run", run, "--out", out, "--resume") == 0
    assert "6 of 6 images, 1 of them without" in capsys.readouterr().out
    rows = text.read_text("utf-8-sig").splitlines()
    assert rows[:4] == [HEADER.strip(), "elsewhere.png,,,missing", own[1], own[0]] or rows[:4] == [
        HEADER.strip(), "elsewhere.png,,,missing", *own]  # fmt: skip
    assert out.is_symlink() and len(rows) == 1 + 1 + 6


def test_a_command_that_captions_nothing_writes_no_table(run, folder, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("out of order")

    monkeypatch.setattr(Captioner, "caption_features", fails)
    assert command(folder, "--run", run, "--out", tmp_path / "none.csv") == 1
    assert not (tmp_path / "none.csv").exists()
    (tmp_path / "old.csv").write_text("precious")
    assert command(folder, "--run", run, "--out", tmp_path / "old.csv", "--overwrite") == 1
    assert (tmp_path / "old.csv").read_text() == "precious"


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are text")
def test_a_name_that_is_no_unicode_stops_nothing(run, tmp_path):
    draw(tmp_path / "odd" / os.fsdecode(b"\xff.png"))
    assert command(tmp_path / "odd", "--run", run, "--out", tmp_path / "odd.csv") == 0
    assert pd.read_csv(tmp_path / "odd.csv").file[0].endswith("\\udcff.png")


def test_help_needs_no_keras(capsys):
    with pytest.raises(SystemExit) as stopped:
        command("--help")
    assert stopped.value.code == 0 and "--overwrite" in capsys.readouterr().out
