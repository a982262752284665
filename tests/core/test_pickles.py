"""A flipped byte or a cut is noticed wherever it lies, or harms nothing."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import read_json, set_aside, write_json
from roco_caption.core.pickles import read_pickle, seal, verify, write_pickle
from roco_caption.search.captioner import Captioner
from roco_caption.text.tokenizer import CaptionTokenizer

VALUE = {"ids": ["a", "b"], "features": np.arange(6, dtype=np.float16).reshape(2, 3)}


def plain(value):
    """Return a value that `==` compares, arrays included."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in value.items()}


def damaged(whole: bytes):
    """Yield the bytes with one changed, for every one of them, and cut at every length."""
    for i in range(len(whole)):
        yield whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :]
        yield whole[:i]


def noticed(path, read, expected) -> int:
    """Count the damages that `read` refuses; the others must change nothing."""
    refused = 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            assert read(path) == expected
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    return refused


def test_every_flipped_byte_and_cut_of_a_pickle_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "cache.pkl"
    write_pickle(path, VALUE)
    size = path.stat().st_size
    # harmless: cut to the very end of the data, where the seal would begin
    assert noticed(path, lambda p: plain(read_pickle(p)), plain(VALUE)) == 2 * size - 1


def test_a_flip_that_pickle_itself_would_swallow_is_noticed(tmp_path):
    path = tmp_path / "cache.pkl"
    write_pickle(path, VALUE)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(VALUE["features"].tobytes(), bytes(12)))
    with pytest.raises(DamagedFile, match=r"cache\.pkl is damaged"):
        read_pickle(path)


def test_every_flipped_byte_and_cut_of_a_tokenizer_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = CaptionTokenizer.fit(["left lung", "right µ"], min_frequency=1, max_words=7)
    tokenizer.save(path)

    def read(path):
        loaded = CaptionTokenizer.load(path)
        return loaded.words, loaded.max_words

    noticed(path, read, (tokenizer.words, 7))
    tokenizer.save(path)
    path.write_text(path.read_text("utf-8").replace("right", "rigid"), "utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        CaptionTokenizer.load(path)


def test_every_flipped_byte_of_sealed_json_is_noticed_or_harmless(tmp_path):
    path, value = tmp_path / "captioner.json", {"sizes": {"units": 12, "dropout": 0.5}, "n": [1, 2]}
    write_json(path, value, sealed=True)

    def read(path):
        found = read_json(path)
        return {name: found.get(name) for name in value}  # a flip in "sha256" makes another key

    assert noticed(path, read, value) > path.stat().st_size
    write_json(path, value, sealed=True)
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(DamagedFile, match="delete its line sha256"):
        read_json(path)


def test_a_bundle_that_was_edited_is_refused_until_the_seal_is_taken_out(tmp_path):
    path = tmp_path / "captioner.json"
    write_json(path, {"beams": 3}, sealed=True)
    edited = json.loads(path.read_text()) | {"beams": 5}
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match=r"captioner\.json is damaged"):
        Captioner.load(tmp_path)
    del edited["sha256"]
    path.write_text(json.dumps(edited))
    assert read_json(path) == {"beams": 5}


def test_files_without_a_seal_have_no_checksum(tmp_path):
    for content in (b"", b"short", bytes(200)):
        (tmp_path / "file").write_bytes(content)
        assert verify(tmp_path / "file") == ""
    digest = seal(tmp_path / "file")
    assert verify(tmp_path / "file") == digest and len(digest) == 64


class _Calls:
    """Pickles as a call, and what is set on its result."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


EMPTY = np.zeros(1).__reduce__()[0]  # what NumPy's pickles rebuild arrays by
# a type whose flags deny that what it holds are objects
LYING = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
HOSTILE = {
    "bytes taken for objects": _Calls(np.ndarray, ((2,), "O", b"A" * 16)),
    "a type that lies": _Calls(
        EMPTY, (np.ndarray, (0,), b"b"),
        (1, (2,), _Calls(np.dtype, ("V8", False, True), LYING), False, b"A" * 16),
    ),
    "gigabytes of nothing": _Calls(np.ndarray, ((1 << 29,), "O")),
}  # fmt: skip


def hostile_pickles():
    """Return pickles that name nothing but NumPy, and do harm all the same."""
    made = {name: pickle.dumps({"ids": value}) for name, value in HOSTILE.items()}
    made["a memo of 8 GB"] = b"\x80\x04]r\xff\xff\xff\x1f."
    rebuild = b"cnumpy._core.numeric\n_frombuffer\n"
    made["a function changed"] = rebuild + b"(N(S'__defaults__'\n)dtb."
    return made


@pytest.mark.parametrize(
    ("name", "content"), hostile_pickles().items(), ids=list(hostile_pickles())
)
def test_a_pickle_of_numpys_own_names_can_neither_crash_nor_fill_the_memory(
    tmp_path, name, content
):
    path = tmp_path / "cache.pkl"
    path.write_bytes(content)
    code = (
        "import resource, sys\n"
        "from roco_caption.sealed import UserError, read_pickle\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try:\n    print(set(read_pickle(sys.argv[1])['ids']))\n"
        "except UserError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, name
    assert result.stdout.startswith(f"{path} was not loaded: it would")


def test_what_cannot_be_read_is_no_damage(tmp_path):
    for read in (read_json, read_pickle, verify):
        with pytest.raises(UserError, match="could not be read") as caught:
            read(tmp_path)
        assert not isinstance(caught.value, DamagedFile)
        with pytest.raises(UserError, match="none is missing"):
            read(tmp_path / "none")


def test_set_aside_keeps_the_file_and_says_why(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    set_aside(tmp_path / "file", "odd", "It is made again.")
    assert (tmp_path / "file.damaged").read_text() == "x" and not (tmp_path / "file").exists()
    assert capsys.readouterr().out == (
        f"{tmp_path}/file is damaged (odd). It was set aside as file.damaged. It is made again.\n"
    )
    with pytest.raises(UserError, match="could not be set aside"):
        set_aside(tmp_path / "file", "odd", "")
