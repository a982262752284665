"""Files are written whole or not at all; damaged JSON is noticed; messages name the file."""

import errno
import json
import os

import pytest
from helpers.damage import refused_damages

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import (
    atomic_open,
    atomic_path,
    gigabytes,
    make_folder,
    read_json,
    remove_leftovers,
    set_aside,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a" / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert os.listdir(path.parent) == ["file.json"]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    for name in (".a.npz.12-34.tmp", ".a.npz.12-34.tmp.h5", ".b.npz.12-34.tmp", "a.npz"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.npz")
    assert sorted(os.listdir(tmp_path)) == [".b.npz.12-34.tmp", "a.npz"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for write in (lambda path: write_json(path, 1), make_folder):
        with pytest.raises(UserError, match=r"file(/below)? could not .*Choose a writable"):
            write(tmp_path / "file" / "below")


def test_a_full_disk_is_named_with_the_space_that_is_needed(tmp_path):
    with (
        pytest.raises(UserError, match=r"It needs 2\.50 GB\. [\d.]+ [GM]B are free\. Free some"),
        atomic_path(tmp_path / "file", size=2_500_000_000),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_bytes_are_written_in_decimal_units():
    assert gigabytes(13_190_000_000) == "13.19 GB" and gigabytes(1500) == "0.002 MB"


def test_a_damaged_or_missing_or_unreadable_json_file_is_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(DamagedFile, match=r"bad\.json is damaged"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(UserError, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="could not be read") as caught:
        read_json(tmp_path)
    assert not isinstance(caught.value, DamagedFile)


def test_every_flipped_byte_and_cut_of_sealed_json_is_noticed_or_harmless(tmp_path):
    path, value = tmp_path / "captioner.json", {"sizes": {"units": 12, "dropout": 0.5}, "n": [1, 2]}
    write_json(path, value, sealed=True)

    def read(path):
        loaded = read_json(path)
        return {name: loaded.get(name) for name in value}  # a flip in "sha256" makes another key

    assert refused_damages(path, read, value) > path.stat().st_size


def test_edited_json_is_refused_until_its_seal_is_removed(tmp_path):
    path = tmp_path / "captioner.json"
    write_json(path, {"beams": 3, 1: (2, 3)}, sealed=True)
    assert read_json(path) == {"beams": 3, "1": [2, 3]}
    edited = json.loads(path.read_text()) | {"beams": 5}
    path.write_text(json.dumps(edited))
    with pytest.raises(DamagedFile, match="delete its line sha256"):
        read_json(path)
    del edited["sha256"]
    path.write_text(json.dumps(edited))
    assert read_json(path)["beams"] == 5


def test_set_aside_keeps_the_file_and_says_why(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    set_aside(tmp_path / "file", "odd", "It is made again.")
    assert (tmp_path / "file.damaged").read_text() == "x" and not (tmp_path / "file").exists()
    assert capsys.readouterr().out == (
        f"{tmp_path}/file is damaged (odd). It was set aside as file.damaged. It is made again.\n"
    )
    with pytest.raises(UserError, match="could not be set aside"):
        set_aside(tmp_path / "file", "odd", "")


@pytest.mark.parametrize(
    "error",
    [PermissionError("Access Denied"), PermissionError(13, "Access Denied", "s3://bucket/key"),
     FileNotFoundError(2, "No such file", "/elsewhere"), ConnectionResetError(104, "reset")],
)  # fmt: skip
def test_other_errors_while_a_file_is_written_are_not_called_its_own(tmp_path, error):
    with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "file"):
        raise error
    assert caught.value is error and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "reason",
    [(28, "No space left"), (5, "Input/output error", "{}"), (None, "Unable to create {}"),
     (30, "Read-only file system", "{}")],
)  # fmt: skip
def test_errors_of_the_file_itself_name_it(tmp_path, reason):
    with (
        pytest.raises(UserError, match=r"/file could not be written"),
        atomic_path(tmp_path / "file", size=5) as aside,
    ):
        raise OSError(*(str(aside).join(part.split("{}")) if isinstance(part, str) else part
                        for part in reason))  # fmt: skip
