"""The copy of a folder on Google Drive is complete, comes back, and costs little."""

import contextlib
import os
import shutil
import threading

import pytest

from roco_caption.core import backup
from roco_caption.core.backup import backed_up, is_copied
from roco_caption.core.errors import UserError


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def places(tmp_path):
    folder, drive = tmp_path / "here", tmp_path / "drive" / "run"
    folder.mkdir()
    return folder, drive


def test_what_a_block_writes_is_copied_and_comes_back_elsewhere(places, tmp_path, capsys):
    folder, drive = places
    with backed_up(folder, drive):
        (folder / "a.txt").write_text("one")
        (folder / "member2").mkdir()
        (folder / "member2" / "b.txt").write_text("two")
        for name in (".lock", ".x.tmp", "state.previous.npz"):
            (folder / name).write_text("no need")
        assert not drive.exists()
    assert names(drive) == ["a.txt", "member2/b.txt"]
    with backed_up(tmp_path / "new", drive):
        assert (tmp_path / "new" / "member2" / "b.txt").read_text() == "two"
    assert "2 files brought back" in capsys.readouterr().out


def test_nothing_is_copied_twice_and_the_newer_file_counts(places, monkeypatch):
    folder, drive = places
    (folder / "a").write_text("old")
    os.utime(folder / "a", (1000, 1000))
    copied = []
    replace = backup._replace
    monkeypatch.setattr(backup, "_replace", lambda *a: copied.append(a[1]) or replace(*a))
    for _ in range(3):
        with backed_up(folder, drive):
            pass
    assert copied == [drive / "a"]
    (drive / "a").write_text("newer, of another session")
    with backed_up(folder, drive):
        assert (folder / "a").read_text() == "newer, of another session"
    with backed_up(folder, drive):
        (folder / "a").write_text("newest")
        os.utime(folder / "a", (4e9, 4e9))
    assert (drive / "a").read_text() == "newest"


def test_it_copies_meanwhile_and_removes_what_is_gone(places, monkeypatch):
    folder, drive = places
    updated = threading.Event()
    update = backup._update
    monkeypatch.setattr(backup, "_update", lambda *a, **b: (update(*a, **b), updated.set()))
    with backed_up(folder, drive, seconds=0.01):
        (folder / "kept").write_text("x")
        (folder / "part").write_text("x")
        updated.clear()
        assert updated.wait(10) and updated.clear() is None and updated.wait(10)
        assert (drive / "part").read_text() == "x"
        (folder / "part").unlink()
        (drive / "of another program").write_text("x")
    assert names(drive) == ["kept", "of another program"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_is_gone_leaves_its_copy(places, empty, capsys):
    folder, drive = places
    (folder / "weights").write_text("x")
    with backed_up(folder, drive):
        pass
    with backed_up(folder, drive):
        shutil.rmtree(folder)
        if empty:
            folder.mkdir()
    assert (drive / "weights").read_text() == "x"
    assert f"{folder} is empty or gone" in capsys.readouterr().out


@pytest.mark.parametrize("full", [False, True])
def test_what_was_joined_is_copied_before_its_parts_go_from_the_copy(places, monkeypatch, full):
    folder, drive = places
    copy, kept = backup.shutil.copy2, []

    def cut_off(source, target):
        if source.name == "joined":
            kept.append(names(drive))
            if full and len(kept) == 1:
                raise OSError(28, "No space left", str(target))
        return copy(source, target)

    monkeypatch.setattr(backup.shutil, "copy2", cut_off)
    (folder / "part").write_text("x")
    with backed_up(folder, drive):
        backup._update(folder, drive, set())
        (folder / "part").rename(folder / "joined")
    assert kept == [["part"], []] if full else kept == [["part"]]
    assert names(drive) == ["joined"]


def test_replaced_files_leave_nothing_in_a_trash(places, monkeypatch):
    folder, drive = places
    trash = []
    unlink = backup.Path.unlink
    monkeypatch.setattr(
        backup.Path, "unlink", lambda p: trash.append(p.stat().st_size) or unlink(p)
    )
    for k in range(3):
        with backed_up(folder, drive):
            (folder / "state").write_text("x" * (k + 1))
    assert trash == [0, 0]


@pytest.mark.parametrize("half", ["left by a killed session", "of a full drive", "stopped"])
def test_half_copies_leave_nothing_in_a_trash_either(places, monkeypatch, half):
    folder, drive = places
    trash, copy, unlink = [], backup.shutil.copy2, backup.Path.unlink
    monkeypatch.setattr(
        backup.Path, "unlink", lambda p: p.exists() and (trash.append(p.stat().st_size), unlink(p))
    )

    def cut(source, target):
        if half == "left by a killed session" or trash:
            return copy(source, target)
        target.write_text("ha")
        raise OSError(28, "No space left") if "full" in half else KeyboardInterrupt

    (folder / "state").write_text("whole")
    if half == "left by a killed session":
        drive.mkdir(parents=True)
        (drive / ".state.123-abcdef.tmp").write_text("ha")
    monkeypatch.setattr(backup.shutil, "copy2", cut)
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), backed_up(folder, drive):
            pass
    assert trash == [0] and names(drive) == ["state"]
    assert (drive / "state").read_text() == "whole"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), PermissionError(13, "denied")])
def test_a_copy_that_fails_stops_nothing(places, monkeypatch, capsys, error):
    folder, drive = places

    def fail(*arguments):
        raise error

    monkeypatch.setattr(backup.shutil, "copy2", fail)
    with backed_up(folder, drive):
        (folder / "a").write_text("x")
    out = capsys.readouterr().out
    assert "WARNING" in out and str(drive) in out and error.strerror in out
    monkeypatch.undo()
    with backed_up(folder, drive):
        pass
    assert names(drive) == ["a"]


def test_a_copy_that_cannot_be_read_is_named(places, monkeypatch):
    folder, drive = places
    with backed_up(folder, drive):
        (folder / "a").write_text("x")
    (folder / "a").unlink()
    monkeypatch.setattr(backup.shutil, "copy2", lambda *a: os.listdir(drive / "a"))
    said = pytest.raises(UserError, match=r"could not be copied.*DRIVE_DIR")
    with said, backed_up(folder, drive):
        pass


def test_an_error_in_the_block_goes_on_after_the_copy(places):
    folder, drive = places
    with pytest.raises(KeyboardInterrupt), backed_up(folder, drive):
        (folder / "a").write_text("x")
        raise KeyboardInterrupt
    assert names(drive) == ["a"]


def test_without_a_copy_nothing_happens(places):
    with backed_up(places[0], None):
        (places[0] / "a").write_text("x")
    assert names(places[0].parent) == ["here/a"]


def test_a_file_that_is_being_replaced_stays_in_the_copy(places, monkeypatch):
    folder, copy = places
    (folder / "state").write_text("old")
    known: set = set()
    backup._update(folder, copy, known)
    files = backup._files
    # it is missing while files are listed, and there again at once
    monkeypatch.setattr(backup, "_files", lambda place: files(place) if place == copy else {})
    backup._update(folder, copy, known)
    assert (copy / "state").read_text() == "old"


def test_a_file_that_is_replaced_while_it_is_copied_is_copied_again(places, monkeypatch):
    folder, copy = places
    (folder / "weights").write_text("old")
    os.utime(folder / "weights", (1000, 1000))
    copy2 = shutil.copy2

    def copy_slowly(source, target):
        copy2(source, target)  # the bytes are the older file's, as big as the newer one's,
        (folder / "new").write_text("new")
        os.replace(folder / "new", source)
        shutil.copystat(source, target)  # and its time would be the newer one's

    monkeypatch.setattr(backup.shutil, "copy2", copy_slowly)
    backup._update(folder, copy, known := set())
    monkeypatch.setattr(backup.shutil, "copy2", copy2)
    assert (copy / "weights").read_text() == "old" and not is_copied(folder, copy)
    backup._update(folder, copy, known)
    assert (copy / "weights").read_text() == "new" and is_copied(folder, copy)


def test_what_is_gone_at_a_blocks_end_is_gone_from_the_copy(places):
    """Else unfinished parts come back in each later session."""
    folder, drive = places
    with backed_up(folder, drive):
        (folder / "parts").mkdir()
        (folder / "parts" / "1.pkl").write_text("half")
    with backed_up(folder, drive):
        (folder / "parts" / "1.pkl").unlink()
        (folder / "whole.pkl").write_text("all")
    assert names(drive) == ["whole.pkl"]


@pytest.fixture
def copied(places):
    """A file that was copied, and has a newer content since."""
    folder, drive = places
    (folder / "state").write_text("old")
    os.utime(folder / "state", (1e9, 1e9))
    with backed_up(folder, drive):
        pass
    (folder / "state").write_text("newer")
    return folder, drive


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("before", "old"), ("between", "old"), ("after", "newer"), ("emptied", "newer")],
)
def test_a_kill_while_a_file_is_replaced_leaves_one_of_the_two(
    copied, tmp_path, monkeypatch, moment, expected
):
    folder, drive = copied
    replaced = drive / ".state.replaced.tmp"

    def killed(*arguments, **options):
        raise SystemExit

    def kill_when_discarding(path):
        if path == replaced and moment in ("after", "emptied") and path.exists():
            if moment == "emptied":
                os.truncate(path, 0)
            killed()

    put_back, calls = backup._put_back, []

    def put_back_once(path):
        calls.append(path)
        return put_back(path) if len(calls) == 1 else killed()

    monkeypatch.setattr(backup, "_discard", kill_when_discarding)  # a kill tidies nothing up
    if moment in ("before", "between"):
        monkeypatch.setattr(backup, "_put_back", put_back_once)
    if moment == "before":
        monkeypatch.setattr(backup.Path, "rename", killed)
    if moment == "between":
        monkeypatch.setattr(backup.os, "replace", killed)
    with pytest.raises(SystemExit):
        backup._replace(folder / "state", drive / "state")
    assert replaced.exists() == (moment != "before")
    monkeypatch.undo()
    with backed_up(tmp_path / "elsewhere", drive):
        assert (tmp_path / "elsewhere" / "state").read_text() == expected
    with backed_up(folder, drive):
        pass
    assert names(drive) == ["state"] and (drive / "state").read_text() == "newer"


def test_an_error_or_a_stop_while_a_file_is_replaced_leaves_the_older_one(copied, monkeypatch):
    folder, drive = copied
    for error in (OSError(5, "Input/output error"), KeyboardInterrupt()):

        def fail(*arguments, error=error):
            raise error

        monkeypatch.setattr(backup.os, "replace", fail)
        with pytest.raises((OSError, UserError, KeyboardInterrupt)):
            backup._replace(folder / "state", drive / "state")
        monkeypatch.undo()
        assert names(drive) == ["state"] and (drive / "state").read_text() == "old"


def test_a_leftover_in_a_copy_that_cannot_be_written_stops_nothing(copied, tmp_path, monkeypatch):
    _, drive = copied
    (drive / ".other.replaced.tmp").write_text("x")

    def refuse(path, *arguments):
        if drive in path.parents:
            raise OSError(30, "Read-only file system")

    monkeypatch.setattr(backup.Path, "rename", refuse)
    monkeypatch.setattr(backup.os, "truncate", refuse)
    backup.bring_back(drive, tmp_path / "elsewhere")
    assert names(tmp_path / "elsewhere") == ["state"]


def test_an_emptied_leftover_does_not_come_back(copied, tmp_path):
    _, drive = copied
    (drive / ".other.replaced.tmp").touch()
    backup.bring_back(drive, tmp_path / "elsewhere")
    assert names(tmp_path / "elsewhere") == names(drive) == ["state"]


def test_a_copy_counts_only_if_all_is_in_it(places, monkeypatch, capsys):
    folder, drive = places
    (folder / "a").write_text("x")
    assert not is_copied(folder, drive)
    monkeypatch.setattr(backup.shutil, "copy2", lambda *a: os.listdir(folder / "a"))
    with backed_up(folder, drive):
        pass
    assert drive.is_dir() and not is_copied(folder, drive)
    assert "Run this cell again." in capsys.readouterr().out  # nothing tries it later
    monkeypatch.undo()
    with backed_up(folder, drive):
        pass
    assert is_copied(folder, drive)
    (folder / "b").write_text("y")
    assert not is_copied(folder, drive)
