"""`make fuzz`: a coverage-guided fuzzer (atheris) over the readers of what others may have made.

    python tests/campaigns/fuzz.py [READER …]  each for `ROCO_FUZZ_SECONDS` (1,800); a table
    python tests/campaigns/fuzz.py --one READER FOLDER [libFuzzer's options]

Only a `UserError` that names the file may come out of a reader. What brings anything else out is
kept in `seeds/<reader>/`, where `test_fuzz.py` reads it ever after.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Python code whose branches guide the fuzzer, by reader; C code is run, but not looked into.
GUIDES = {
    "cache": ["pickle"], "csv": ["pandas"], "captions": ["json"], "tokenizer": ["json"],
    "image": ["PIL"], "dicom": ["pydicom"], "npz": ["numpy", "zipfile"], "json": ["json"],
    "archive": ["zipfile"], "own": ["json", "csv"],
}  # fmt: skip
ONE = "--one"
if ONE in sys.argv:
    import atheris

    looked_into = atheris.instrument_imports(include=["roco_caption", *GUIDES[sys.argv[2]]])
    for name in GUIDES[sys.argv[2]]:  # what is imported already would stay as it is
        for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[loaded]
else:
    looked_into = contextlib.nullcontext()
with looked_into:
    import json
    import pickle
    import zipfile
    from json import scanner

    import numpy as np
    import pandas as pd
    from PIL import Image

    from roco_caption.core import pickles as sealed
    from roco_caption.core.errors import UserError
    from roco_caption.core.files import read_json
    from roco_caption.data import archive, images
    from roco_caption.data import roco as dataset
    from roco_caption.data.dicom import is_dicom
    from roco_caption.features import cache as feature_cache
    from roco_caption.features import given as named_arrays
    from roco_caption.text import tokenizer as text

HEADER = {"name": "vgg16"}
MOST_SECONDS = 10  # of the processor, for some kilobytes; libFuzzer looks at the clock on the wall


class Reader(NamedTuple):
    """What is fuzzed: a reader, called with a file's bytes, and whole files to begin with."""

    read: Callable[[bytes], None]
    begin: Callable[[], list[bytes]]
    longest: int = 4096  # bytes


def _written(name: str, content: bytes) -> Path:
    path = Path(_folder()) / name
    path.write_bytes(content)
    return path


_folders: list[tempfile.TemporaryDirectory] = []


def _folder() -> str:
    if not _folders:  # in memory, where the system has such a place
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        _folders.append(tempfile.TemporaryDirectory(dir=place))
    return _folders[0].name


def _refused(path: Path, error: UserError) -> None:
    assert str(path) in str(error), f"the message does not name the file: {error}"


def read_cache(content: bytes) -> None:
    """A feature cache, whatever its pickle holds."""
    path = _written("cache.pkl", content)
    try:
        sealed.read_pickle(path)
    except UserError as error:
        _refused(path, error)
    try:
        features = feature_cache.FeatureCache(path, HEADER).load()
    except UserError as error:
        return _refused(path, error)
    assert features.matrix.dtype == np.float16 and len(features.ids) == len(features.matrix)
    assert features.select(features.ids).shape == features.matrix.shape


def caches() -> list[bytes]:
    """A cache in each protocol that NumPy's arrays differ in, and one with a seal."""
    matrix = np.arange(8, dtype=np.float16).reshape(2, 4)
    value = {"encoder": HEADER, "ids": ["a", "b"], "features": matrix, "skipped": {"c": "no"}}
    path = Path(_folder()) / "whole.pkl"
    sealed.write_pickle(path, value)
    return [path.read_bytes(), *(pickle.dumps(value, protocol) for protocol in (0, 2, 4, 5))]


def read_csv(content: bytes) -> None:
    """The table of a split."""
    folder = Path(_folder()) / "all_data" / "train" / "radiology"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / "images" / name).touch()
    (folder / "traindata.csv").write_bytes(content)
    try:
        rows = dataset._rows(Path(_folder()), "train")
    except UserError as error:
        return _refused(folder, error)
    used = rows[rows.reason == ""]
    assert set(used.image.map(lambda path: Path(path).name)) <= {"a.jpg", "b.jpg"}
    assert not used.duplicated().any() and (used.caption.str.strip() != "").all()


def tables() -> list[bytes]:
    """ROCO's own form, and others that occur."""
    return [
        b"id,name,caption\n1,a.jpg,left lung\n2,b.jpg,right lung\n",
        'id,name,caption\r\n1,a.jpg,"a ""mass"", 5\u00b5m,\nbelow"\r\n'.encode("utf-8-sig"),
        "name;caption\na.jpg;résumé\n".encode("latin-1"),
        "id,name,caption\n1,a.jpg,x\n".encode("utf-16"),
    ]


def read_own_table(content: bytes) -> None:
    """A table of one's own: its first byte chooses the format, the others are the file."""
    suffix = OWN[content[0] % len(OWN)] if content else ".csv"
    folder = Path(_folder()) / "own"
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).touch()
    path = folder / f"table{suffix}"
    path.write_bytes(content[1:])
    try:
        frames, counts = dataset.read_dataset(folder)
    except UserError as error:
        assert str(folder) in str(error) or "are too few" in str(error)
        return
    finally:
        path.unlink()
    assert set(frames) == set(dataset.TABLES) and counts.used.sum() <= 3
    for frame in frames.values():
        assert set(frame.id) <= {"a", "b", "c"} and (frame.caption.str.strip() != "").all()
        frame.to_csv().encode()


OWN = ".csv", ".jsonl", ".xlsx"


def own_tables() -> list[bytes]:
    """CSV, JSON lines and, where openpyxl is installed, Excel."""
    lines = [{"image": name, "text": "Ö", "split": "train"} for name in ("a", "B.png", "./c.png")]
    frame = pd.DataFrame(lines)
    made = [
        b"\0" + frame.to_csv(index=False, sep=";").encode("cp1252"),
        b"\0image,caption,patient\na,x,1\nb,y,2\nc,z,3\n",
        b"\0sep=|\nimage|caption\nA.PNG|x|y\n" + "b|30°\nc|z\n".encode("utf-16"),
        b"\1" + frame.to_json(orient="records", lines=True).encode(),
        b"\1" + json.dumps([{"id": "a", "captions": ["x", "y"]}, {"id": 1.0}]).encode(),
    ]
    with contextlib.suppress(ImportError):
        file = io.BytesIO()
        frame.to_excel(file, index=False)
        made.append(b"\2" + file.getvalue())
    return made


def read_captions(content: bytes) -> None:
    """A captions.txt, a line an image: its id, a tab, its caption; through cleaning to numbers."""
    lines = content.decode("utf-8", "replace").splitlines()
    captions = [line.partition("\t")[2] for line in lines]
    try:
        tokenizer = text.CaptionTokenizer.fit(captions, min_frequency=1, max_words=20)
    except UserError as error:
        assert "MIN_FREQUENCY" in str(error)
        return
    path = Path(_folder()) / "tokenizer.json"
    tokenizer.save(path)
    loaded = text.CaptionTokenizer.load(path)
    assert loaded.words == tokenizer.words
    rows = loaded.encode(captions)
    assert rows.shape == (len(captions), 22)
    for row, caption in zip(rows, captions, strict=True):
        assert text.spelling.clean(loaded.decode(row[1:])) == text.spelling.clean(caption)[:20]


def captions() -> list[bytes]:
    """Lines of ROCO's kind."""
    return [
        "ROCO_1\tT2-weighted MRI, 5mm lesion (arrow).\nROCO_2\tLeft lung: 1.6 × 2,5 cm\n".encode(),
        "ROCO_3\tµ ² Ⅷ ﬁ ＡＢ ° ± < 3 % l3-l4 İ ß ǅ\n".encode(),
    ]


def _guide(content: bytes) -> None:
    """Read JSON in Python, whose branches the fuzzer sees; C code reads it after that."""
    decoder = json.JSONDecoder()
    decoder.parse_string = json.decoder.py_scanstring
    decoder.scan_once = scanner.py_make_scanner(decoder)
    with contextlib.suppress(ValueError, RecursionError):
        decoder.decode(content.decode())


def read_tokenizer(content: bytes) -> None:
    """The vocabulary of a run's folder."""
    _guide(content)
    path = _written("tokenizer.json", content)
    try:
        tokenizer = text.CaptionTokenizer.load(path)
    except UserError as error:
        return _refused(path, error)
    assert tokenizer.encode(["left lung"]).shape == (1, tokenizer.max_words + 2)
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)


def vocabularies() -> list[bytes]:
    """Sealed and plain."""
    path = Path(_folder()) / "tokenizer.json"
    text.CaptionTokenizer.fit(["left lung µ"], min_frequency=1, max_words=7).save(path)
    plain = {"max_words": 7, "words": ["<pad>", "<start>", "<end>", "<unk>", "lung", "left"]}
    return [path.read_bytes(), json.dumps(plain).encode(), b'{"max_words": 1e9, "words": {}}']


def read_sealed_json(content: bytes) -> None:
    """The JSON of a bundle, sealed or not."""
    _guide(content)
    path = _written("captioner.json", content)
    try:
        read_json(path)
    except UserError as error:
        _refused(path, error)


def bundles() -> list[bytes]:
    """JSON of every kind of value."""
    return [b'{"sizes": {"units": 12, "dropout": 0.5}, "n": [1, null, true, "\\u00e9"]}', b"[NaN]"]


def read_image(content: bytes) -> None:
    """An image, whatever its format."""
    path = _written("image.jpg", content)
    try:
        array = images.read_image(path, 32)
    except images.ImageError as error:
        return _refused(path, error)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8


def pictures() -> list[bytes]:
    """A small image of each format and of the odder modes."""
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    kinds = [
        ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "L"), ("PNG", "P"), ("PNG", "LA"),
        ("PNG", "1"), ("PNG", "I;16"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "F"), ("TIFF", "I"),
        ("BMP", "RGB"), ("WEBP", "RGB"), ("PPM", "RGB"), ("PPM", "L"),
    ]  # fmt: skip
    made = []
    for kind, mode in kinds:
        file = io.BytesIO()
        exif = {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}
        picture.convert(mode).save(file, kind, **(exif if kind in ("JPEG", "WEBP") else {}))
        made.append(file.getvalue())
    return made


def read_dicom(content: bytes) -> None:
    """A DICOM file; only what `is_dicom` knows as one."""
    path = _written("image", content)
    if is_dicom(path):
        read_image(content)


def scans() -> list[bytes]:
    """Plain, of several frames, with a window, with a table of grey values, in colour."""
    from helpers.dicom_files import item, write_dicom

    path, pixels = Path(_folder()) / "scan", np.arange(12, dtype=np.uint16).reshape(3, 4)
    table = item(LUTDescriptor=[4, 0, 16], LUTData=pixels.tobytes()[:8])
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    return [
        write_dicom(path, pixels).read_bytes(),
        write_dicom(path, np.stack([pixels] * 3)).read_bytes(),
        write_dicom(path, pixels, WindowCenter="6", WindowWidth="4", RescaleSlope="2").read_bytes(),
        write_dicom(path, pixels, VOILUTSequence=[table], BurnedInAnnotation="YES").read_bytes(),
        write_dicom(path, pixels, PhotometricInterpretation="MONOCHROME1").read_bytes(),
        write_dicom(path, np.repeat(pixels, 3, axis=0), Rows=3, **colour).read_bytes(),
    ]


def read_npz(content: bytes) -> None:
    """A features file."""
    path = _written("given.npz", content)
    try:
        names, arrays = named_arrays.read_named(path, "FEATURES_FILE", "features")
    except UserError as error:
        return _refused(path, error)
    assert arrays["features"].shape[0] == len(names)
    feature_cache.to_float16(arrays["features"])


def feature_files() -> list[bytes]:
    """Stored and packed."""
    made = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, names=np.array(["a", "b"]), features=np.eye(2, 3, dtype=np.float32))
        made.append(file.getvalue())
    return made


def read_archive(content: bytes) -> None:
    """ROCO's archive: nothing is written outside its folder."""
    path, top = _written("roco.zip", content), Path(_folder())
    target = top / "below" / "unpacked"
    before = {*top.iterdir(), target.parent}
    with contextlib.suppress(UserError):
        archive.unpack_radiology(path, target)
    assert {*top.iterdir(), target.parent} == before and {*target.parent.glob("*")} <= {target}
    shutil.rmtree(target.parent, ignore_errors=True)


def archives() -> list[bytes]:
    """A small one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for split, table in dataset.TABLES.items():
            folder = f"all_data/{split}/radiology"
            zipped.writestr(f"{folder}/{table}", "id,name,caption\n1,a.jpg,x\n")
            zipped.writestr(f"{folder}/images/a.jpg", b"\xff\xd8\xff")
    return [file.getvalue()]


READERS = {
    "cache": Reader(read_cache, caches, 1024),
    "csv": Reader(read_csv, tables, 1024),
    "own": Reader(read_own_table, own_tables, 8192),
    "captions": Reader(read_captions, captions, 1024),
    "tokenizer": Reader(read_tokenizer, vocabularies, 1024),
    "image": Reader(read_image, pictures),
    "dicom": Reader(read_dicom, scans),
    "npz": Reader(read_npz, feature_files),
    "json": Reader(read_sealed_json, bundles, 1024),
    "archive": Reader(read_archive, archives),
}


def fuzz_one(name: str, options: list[str]) -> None:
    """Fuzz one reader in this process, as libFuzzer's options say; never returns."""
    quiet = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process

    def run(content: bytes) -> None:
        with contextlib.redirect_stdout(quiet):
            started = time.process_time()
            READERS[name].read(content)
            assert time.process_time() - started < MOST_SECONDS, "it took too long"

    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


def fuzz(name: str, seconds: int) -> tuple[str, bool]:
    """Fuzz one reader in a process of its own.

    Returns:
        Its line of the table, and whether nothing but a `UserError` came out.
    """
    reader, seeds = READERS[name], SEEDS / name
    seeds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for i, content in enumerate(reader.begin()):
            (Path(corpus) / f"begin{i}").write_bytes(content)
        command = [
            sys.executable, __file__, ONE, name, corpus, str(seeds),
            f"-max_total_time={seconds}", f"-max_len={reader.longest}", "-report_slow_units=9999",
            "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={seeds}/",
        ]  # fmt: skip
        before = _children_seconds()
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    with contextlib.suppress(OSError):
        seeds.rmdir()  # where nothing was found
    if result.returncode:
        print(result.stderr[-4000:])
    runs = re.findall(r"Done (\d+) runs in (\d+) second", result.stderr) or [("0", "0")]
    edges = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", result.stderr) or [("0", "0", "0")]
    done, took = (int(number) for number in runs[-1])
    busy = _children_seconds() - before
    first, last = int(edges[0][0]), int(edges[-1][0])
    good = not result.returncode
    line = f"| {name} | {took:,} s | {busy:,.0f} s | {done:,} | {last:,} (from {first:,}) | "
    return line + ("none |" if good else f"see {seeds.relative_to(HERE.parents[1])} |"), good


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(names: list[str]) -> int:
    """Fuzz these readers in turn, or all."""
    seconds = int(os.environ.get("ROCO_FUZZ_SECONDS", "1800"))
    print("| reader | time | processor | executions | edges reached | failures |")
    print("| --- " * 6 + "|")
    good = []
    for name in names or READERS:
        line, fine = fuzz(name, seconds)
        print(line, flush=True)
        good.append(fine)
    return 0 if all(good) else 1


if __name__ == "__main__":
    if ONE in sys.argv:
        fuzz_one(sys.argv[2], sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
