"""A pickle is data, never a program; damage is noticed; `pickle.load` opens what is written."""

import base64
import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import refused_damages

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.pickles import checksum, read_pickle, seal, verify, write_pickle

ROOT = Path(__file__).parents[2]
VALUE = {"ids": ["a", "b"], "features": np.arange(6, dtype=np.float16).reshape(2, 3)}
ARRAYS = {
    "features": np.arange(8, dtype=np.float16).reshape(2, 4),
    "checksums": np.arange(3, dtype=np.uint32),
    "fortran": np.asfortranarray(np.ones((3, 2), np.float32)),
    "strided": np.arange(10)[::2],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "swapped": np.arange(6, dtype=">i4").reshape(2, 3),
    "swapped too": np.arange(4, dtype=">i4"),
    "text": np.array(["x", "yy"]),
    "empty": np.empty((0, 3), np.float16),
}


def lists(value: dict) -> dict:
    """Return a value that `==` compares, arrays included."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in value.items()}


def test_arrays_and_plain_data_round_trip_and_open_with_plain_pickle(tmp_path):
    path, value = tmp_path / "cache.pkl", ARRAYS | {"ids": ["a", "b"], "scalar": 1.5, "none": None}
    write_pickle(path, value)
    with open(path, "rb") as file:
        plain = pickle.load(file)
    loaded = read_pickle(path)
    assert lists(loaded) == lists(plain) == lists(value)
    assert all(loaded[k].dtype == plain[k].dtype == ARRAYS[k].dtype for k in ARRAYS)
    assert loaded["features"].flags.writeable


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_every_protocol_are_read_as_pickle_reads_them(tmp_path, protocol):
    content = pickle.dumps(ARRAYS, protocol)
    (tmp_path / "cache.pkl").write_bytes(content)
    loaded, plain = read_pickle(tmp_path / "cache.pkl"), pickle.loads(content)
    assert lists(loaded) == lists(plain)
    assert all(loaded[k].dtype == plain[k].dtype for k in ARRAYS)


# {"features": float16 (2, 3), "strided": np.arange(6)[::2], "text": ["x", "yy"]}, by NumPy 1.26.4
OF_NUMPY_1 = base64.b64decode(
    "gAWVcwEAAAAAAAB9lCiMCGZlYXR1cmVzlIwSbnVtcHkuY29yZS5udW1lcmljlIwLX2Zyb21idWZmZXKUk5QolgwAAAAA"
    "AAAAAAAAPABAAEIARABFlIwFbnVtcHmUjAVkdHlwZZSTlIwCZjKUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSU"
    "YksCSwOGlIwBQ5R0lFKUjAdzdHJpZGVklIwVbnVtcHkuY29yZS5tdWx0aWFycmF5lIwMX3JlY29uc3RydWN0lJOUaAaM"
    "B25kYXJyYXmUk5RLAIWUQwFilIeUUpQoSwFLA4WUaAiMAmk4lImIh5RSlChLA2gMTk5OSv////9K/////0sAdJRiiUMY"
    "AAAAAAAAAAACAAAAAAAAAAQAAAAAAAAAlHSUYowEdGV4dJRoBCiWEAAAAAAAAAB4AAAAAAAAAHkAAAB5AAAAlGgIjAJV"
    "MpSJiIeUUpQoSwNoDE5OTksISwRLCHSUYksChZRoD3SUUpR1Lg=="
)


def test_a_pickle_of_numpy_1_is_read(tmp_path):
    (tmp_path / "cache.pkl").write_bytes(OF_NUMPY_1)
    loaded = read_pickle(tmp_path / "cache.pkl")
    assert loaded["features"].dtype == np.float16 and loaded["features"].shape == (2, 3)
    assert loaded["strided"].tolist() == [0, 2, 4] and loaded["text"].tolist() == ["x", "yy"]


def test_every_flipped_byte_and_cut_of_a_pickle_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "cache.pkl"
    write_pickle(path, VALUE)
    size = path.stat().st_size
    # harmless: cut at the end of the data, where the seal would begin
    assert refused_damages(path, lambda p: lists(read_pickle(p)), lists(VALUE)) == 2 * size - 1


def test_a_flip_that_pickle_itself_would_not_notice_is_noticed(tmp_path):
    path = tmp_path / "cache.pkl"
    write_pickle(path, VALUE)
    path.write_bytes(path.read_bytes().replace(VALUE["features"].tobytes(), bytes(12)))
    with pytest.raises(DamagedFile, match=r"cache\.pkl is damaged"):
        read_pickle(path)


def test_a_missing_or_unreadable_file_is_not_called_damaged(tmp_path):
    for read in (read_pickle, verify):
        with pytest.raises(UserError, match="could not be read") as caught:
            read(tmp_path)
        assert not isinstance(caught.value, DamagedFile)
        with pytest.raises(UserError, match="none is missing"):
            read(tmp_path / "none")


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_files_without_a_seal_have_no_checksum(tmp_path):
    for content in (b"", b"short", bytes(200)):
        (tmp_path / "file").write_bytes(content)
        assert verify(tmp_path / "file") == ""
    digest = seal(tmp_path / "file")
    assert verify(tmp_path / "file") == digest and len(digest) == 64


class Call:
    """Pickles as a call, and a state that is set on its result."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ["touch {path}"]),
        (eval, ["open('{path}', 'w')"]),
        (exec, ["open('{path}', 'w')"]),
        (open, ["{path}", "w"]),
        (getattr, ["numpy", "load"]),
        (np.save, ["{path}", 1]),
        (np.memmap, ["{path}", "uint8", "w+", 0, 8]),
        (io.open, ["{path}", "w"]),
        (sys.exit, [3]),
    ],
)
def test_a_hostile_pickle_does_not_run(tmp_path, function, arguments):
    path, target = tmp_path / "cache.pkl", tmp_path / "ran.npy"
    arguments = [a.format(path=target) if isinstance(a, str) else a for a in arguments]
    call = Call(function, tuple(arguments))
    for value in (call, {"features": np.array([call], dtype=object)}):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match=r"cache\.pkl was not loaded"):
            read_pickle(path)
        assert not target.exists()


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
OBJECTS = None, ("a",), {"a": (np.dtype("O"), 0)}
FLOATS = np.dtype("f8")
BOMB: list = []
for _ in range(40):
    BOMB = [BOMB, BOMB]  # its text has 2 ** 40 characters


def dtype(code, *state):
    return Call(np.dtype, (code, False, True), state)


def array(kind, content, shape=(2,)):
    return Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, content))


OWNER = array(FLOATS, bytes(16_000), (2000,))
HOSTILE = {
    "bytes taken for objects": Call(np.ndarray, ((2,), "O", b"A" * 16)),
    "a dtype that denies its objects": array(dtype("V8", 3, "|", *OBJECTS, 8, 1, 0), b"A" * 16),
    "a text dtype with objects": array(dtype("U2", 3, "<", *OBJECTS, 8, 4, 8), b"A" * 16),
    "a dtype of negative size": dtype("U2", 3, "<", None, None, None, -8, 4, 8),
    "an array of objects": array(np.dtype("O"), ["x", "y"]),
    "a dtype from a huge text": Call(np.dtype, (BOMB, False, True)),
    "an array on memory that is freed": [OWNER, Call(FROMBUFFER, (OWNER, FLOATS, (2000,), "C"))],
    "a buffer of objects": Call(FROMBUFFER, (b"A" * 16, "O,O", (1,), "C")),
    "gigabytes of objects": Call(np.ndarray, ((1 << 28,), "O")),
}
FUNCTION = b"cnumpy._core.numeric\n_frombuffer\n"
GIGABYTES = struct.pack("<Q", 2 << 30)
RAW = {
    "a function's defaults": FUNCTION + b"(N(S'__defaults__'\n)dtb.",
    "a function's attributes": FUNCTION + b"}S'a'\nI1\nsb.",
    "a bytearray that is not there": b"\x80\x05\x96" + GIGABYTES + b"abc.",
    "a text that is not there": b"\x80\x05\x8d" + GIGABYTES + b"abc.",
    "a frame that is not there": b"\x80\x05\x95" + GIGABYTES + b"(.",
}
READ = """
import resource, sys
from roco_caption.core.pickles import UserError, read_pickle
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sys.argv[1:]:
    try:
        print("read", read_pickle(path))
    except UserError as error:
        print("refused", error, flush=True)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_a_pickle_of_numpys_own_names_can_neither_crash_nor_fill_memory(tmp_path):
    pickles = {name: pickle.dumps(value) for name, value in HOSTILE.items()} | RAW
    pickles["a memo of 8 GB"] = b"\x80\x04]r\xff\xff\xff\x1f."  # takes none: an empty list
    for name, content in pickles.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in pickles)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout, result.stderr)
    *lines, memo, peak, _ = result.stdout.split("\n")[:-1]
    for name, line in zip(HOSTILE | RAW, lines, strict=True):
        start = f"refused {tmp_path / name} was not loaded: it " if name in HOSTILE else "refused "
        assert line.startswith(start)
    assert memo == "read []"
    assert int(peak.split()[1]) < 500_000  # KB
