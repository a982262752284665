"""Finds the image files that the names in a table mean, and names images."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from unicodedata import normalize

import pandas as pd

from roco_caption.core.files import printable

EXTENSION = re.compile(
    r"(?<=[^/])\.(bmp|dcm|dicom|gif|jfif|jpe|jpeg|jpg|pbm|pgm|png|pnm|ppm|tif|tiff|webp)$", re.I
)  # of images
SPLIT = re.compile(r"(?<![a-z])(?:train(?:ing)?|val(?:id)?(?:ation)?|dev|test(?:ing)?)(?![a-z])")
KIND = re.compile(r"(\d+)|(?<![a-z])(?:train|val|test)(?![a-z])")  # what tells such folders apart
SYSTEM = "thumbs.db", "desktop.ini", "dicomdir"  # files of a system, beside images
UNIQUE = re.compile(
    r"(?=.*\d)(?=.*[a-f])[\da-f-]{12,}|[\d.]{20,}"
)  # a name that no other image has
BESIDE = re.compile(  # names of columns and folders of files that belong to images
    r"mas[kq]|m[aá]sc|thumb|heat|seg|label|annot|overlay|ground|truth|saliency|contour|crop|prior"
    r"|prev|before|contra|compar|baseline|url|anterior|pr[eé]c[eé]d|vorauf|vorbild|vorher|vorunt"
    r"|(?<![a-z])(?:roi|gt|cam|gradcam|bbox|box)(?![a-z])", re.I
)  # fmt: skip
SAME = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif", "dicom": "dcm"}  # endings
MANY = 10  # names of which hardly any fits until other endings are allowed
NUMBER = re.compile(r"(^|/)0*(\d+)(\.0)?$")  # `007`, or `7.0` as spreadsheets show it


def without_extension(name: str) -> str:
    """Return a file's name or path without its extension, if that is one of images'."""
    return EXTENSION.sub("", name)


def match_files(names: pd.Series, files: Sequence[str]) -> pd.Series:
    """Return for each name of a table a list of the `files` that it may mean: none, one or several.

    `files` are relative paths with `/`. Names may lack the extension or folders, have more folders
    in front, `\\` for `/`, another case, or be numbers without leading zeros.
    """
    known, index = set(files), defaultdict(set)
    if names.isin(known).all():
        return names.map(lambda name: [name])
    for file in files:  # seconds for ROCO
        whole, *ends = _ends(file)
        for tail in (f"/{whole}", *ends):
            stem = without_extension(tail)
            for key in (tail, f"{stem}.*", NUMBER.sub(r"\1\2", stem) + "#", _alike(tail)):
                index[key].add(file)

    def find(name: str) -> list[str]:
        whole, *ends = _ends(name)
        for tail in (f"/{whole}", whole, *(f"/{end}" for end in ends)):
            number = NUMBER.sub(r"\1\2", tail) + "#"
            for key in (tail, f"{tail}.*", without_extension(tail), number, _alike(tail)):
                if key in index:
                    return sorted(index[key])
        return []

    found = {name: [name] if name in known else find(name) for name in names.unique()}
    for name in found:
        if not found[name] and name.lower().endswith((".dcm", ".dicom")):  # was converted
            found[name] = find(without_extension(name) + ".*")
    bare = {name: re.split(r"[\\/]", name)[-1] for name in found}
    few = 10 * sum(map(bool, found.values())) <= len(found)
    unique, converted = len({*bare.values()}) == len(bare), len(bare) >= MANY
    if few and unique:  # folders or endings are another computer's
        for name in found:
            meant = find(bare[name])
            if not meant and converted and EXTENSION.search(name):
                meant = find(without_extension(bare[name]) + ".*")
                meant = [file for file in meant if not BESIDE.search(os.path.dirname(file))]
            here = [file for file in meant if not _is_other(name, file)]
            found[name] = found[name] or here
    own = {meant[0] for name, meant in found.items() if meant and _ends_as(name, meant[0])}
    for name, meant in found.items():  # a.jpeg is not a.jpg where that has a row of its own
        if len(meant) == 1 and meant[0] in own and not _ends_as(name, meant[0]):
            found[name] = []
    return names.map(found)


def _ends_as(name: str, file: str) -> bool:
    """Return whether a name has no ending of images, or the file's."""
    endings = [EXTENSION.search(path.strip()) for path in (name, file)]
    return not all(endings) or len({ending[0].lower() for ending in endings if ending}) == 1


def _alike(path: str) -> str:
    """Return a key that paths share whose endings mean the same, as .jpg and .jpeg."""
    stem, _, ending = path.rpartition(".")
    return f"{stem}.{SAME.get(ending, ending)}~"


def _is_other(name: str, file: str) -> bool:
    """Return whether a folder in a name is one like the file's, but another: p1/ and p2/."""
    *folders, stem = re.split(r"[\\/]", without_extension(file).casefold())
    here = [_plain(folder) for folder in folders]
    named = [_plain(folder) for folder in re.split(r"[\\/]", name.casefold())[:-1]]
    if UNIQUE.fullmatch(stem) or _within(here, named) or _within(named, here):
        return False
    pairs = zip(named[::-1], here[::-1], strict=False)
    return any(a != b and _kind(a) == _kind(b) for a, b in pairs)


def _within(some: list[str], folders: list[str]) -> bool:
    """Return whether some folders are among others, in their order."""
    rest = iter(folders)
    return bool(some) and all(folder in rest for folder in some)


def _kind(folder: str) -> str:
    return KIND.sub(lambda found: "#" if found[1] else "@", folder)


def _plain(folder: str) -> str:
    """Return a folder's name with one word per split, and numbers without leading zeros."""
    words = SPLIT.sub(lambda word: {"tr": "train", "te": "test"}.get(word[0][:2], "val"), folder)
    return re.sub(r"0*(\d+)", r"\1", words)


def _ends(path: str) -> list[str]:
    """Return a path, then without its first folder, and so on to the name; in small letters."""
    parts = normalize("NFC", path).casefold().strip().replace("\\", "/").split("/")
    parts = [part for part in parts if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts) or 1)]


def image_ids(files: Iterable[str]) -> dict[str, str]:
    """Return {file: id} for relative paths: the shortest form that no other file has.

    It is the name without extension, else with its folder before it, `train/001`, else with its
    extension, `a.png`, else the whole path.
    """
    forms = {}
    for file in dict.fromkeys(files):
        folder, name = os.path.split(file)
        stem = without_extension(name)
        found = stem, f"{folder}/{stem}".lstrip("/"), name, file
        forms[file] = dict.fromkeys(map(printable, found))
    owners = Counter(itertools.chain.from_iterable(forms.values()))
    return {file: next((f for f in forms[file] if owners[f] == 1), file) for file in forms}
