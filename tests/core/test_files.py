"""Files are whole or not there; a pickle is data, never a program."""

import io
import os
import pickle
import sys

import numpy as np
import pytest

from roco_caption.core.errors import UserError
from roco_caption.core.files import atomic_open, read_json, write_json
from roco_caption.core.pickles import checksum, read_pickle, write_pickle


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a" / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert os.listdir(path.parent) == ["file.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="file/below"):
        write_json(tmp_path / "file" / "below", 1)


def test_damaged_and_missing_json_are_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"bad\.json is damaged"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(UserError, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json")


def test_arrays_and_plain_data_round_trip_and_open_with_plain_pickle(tmp_path):
    value = {
        "ids": ["a", "b"],
        "features": np.arange(8, dtype=np.float16).reshape(2, 4),
        "fortran": np.asfortranarray(np.ones((3, 2), np.float32)),
        "strided": np.arange(10)[::2],
        "text": np.array(["x", "yy"]),
        "scalar": 1.5,
        "none": None,
    }
    write_pickle(tmp_path / "cache.pkl", value)
    with open(tmp_path / "cache.pkl", "rb") as file:
        plain = pickle.load(file)
    for loaded in (read_pickle(tmp_path / "cache.pkl"), plain):
        assert loaded.keys() == value.keys() and loaded["ids"] == value["ids"]
        for key in ("features", "fortran", "strided", "text"):
            np.testing.assert_array_equal(loaded[key], value[key])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_every_protocol_load(tmp_path, protocol):
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    (tmp_path / "cache.pkl").write_bytes(pickle.dumps({"features": array}, protocol))
    np.testing.assert_array_equal(read_pickle(tmp_path / "cache.pkl")["features"], array)


class _Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "hostile",
    [
        _Runs(os.system, "touch {path}"),
        _Runs(eval, "open('{path}', 'w')"),
        _Runs(exec, "open('{path}', 'w')"),
        _Runs(open, "{path}", "w"),
        _Runs(getattr, np, "load"),
        _Runs(np.save, "{path}", 1),
        _Runs(np.memmap, "{path}", "uint8", "w+", 0, 8),
        _Runs(io.open, "{path}", "w"),
        _Runs(sys.exit, 3),
    ],
)
def test_a_hostile_pickle_does_not_run(tmp_path, hostile):
    target = tmp_path / "ran.npy"
    function, arguments = hostile.call
    arguments = [a.format(path=target) if isinstance(a, str) else a for a in arguments]
    arguments = [a.__name__ if a is np else a for a in arguments]
    path = tmp_path / "cache.pkl"
    array = np.array([_Runs(function, *arguments)], dtype=object)
    for value in (_Runs(function, *arguments), {"features": array}):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match=r"cache\.pkl was not loaded"):
            read_pickle(path)
        assert not target.exists()


def test_a_cut_or_flipped_pickle_is_refused_by_name(tmp_path):
    path = tmp_path / "cache.pkl"
    write_pickle(path, {"features": np.zeros((50, 50))})
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-3], b"\xff" + whole[1:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cache\.pkl"):
            read_pickle(path)


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_notebook_shows_the_message_without_a_traceback():
    assert UserError("Do this.")._render_traceback_() == ["UserError: Do this."]
