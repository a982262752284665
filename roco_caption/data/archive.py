"""Unpacks ROCO's radiology part from its archive: safe, checked, resumable."""

import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from roco_caption.core.errors import UserError
from roco_caption.core.files import cannot_write, gigabytes
from roco_caption.core.progress import progress_bar

TABLES = {"train": "traindata.csv", "validation": "valdata.csv", "test": "testdata.csv"}
TREE = "all_data"
RADIOLOGY = rf"{TREE}/({'|'.join(TABLES)})/(radiology/.*[^/]|radiology\w*data\.csv)"
UNSAFE = r"^/|(^|/)\.\.(/|$)|[\\\0]|(^|/)[A-Za-z]:"  # absolute, upwards, or so on Windows
# What zipfile raises for damaged bytes, encrypted entries and unknown compressions
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)


class DamagedArchive(UserError):
    """An archive that is truncated or damaged, or not a zip file."""


def unpack_radiology(archive: str | os.PathLike, folder: str | os.PathLike) -> int:
    """Unpack `all_data/<split>/radiology/` and its tables, or continue; return the number of files.

    They are written to `all_data.unpacking`, which is renamed to `all_data` once it is complete. A
    file gets its name after its CRC-32 is checked; one of the right size is not unpacked again.
    Raises DamagedArchive, or UserError if an entry is a link or leads outside, or it is not ROCO.
    """
    archive, folder = Path(archive), Path(folder)
    final = folder / TREE
    tree = final if final.exists() else folder / f"{TREE}.unpacking"
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _radiology_members(zipped, archive)
            _unpack_missing(zipped, members, tree)
        if tree != final:
            tree.rename(final)
    except _DAMAGE as error:
        raise DamagedArchive(
            f"{archive} is damaged ({error}). Delete it and run this cell again to download it "
            "again; files that are already unpacked are kept."
        ) from error
    except OSError as error:
        raise cannot_write(error.filename or folder, error) from error
    return len(members)


def check_room(folder: Path, needed: int) -> None:
    """Raise a UserError unless `needed` more bytes fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"Not enough disk space for {folder}: {gigabytes(needed)} needed, {gigabytes(free)} "
            "free. Free some space or choose a folder on another disk, then run this cell again."
        )


def _radiology_members(zipped: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the files to unpack, after a check of every name in the archive."""
    members, splits = {}, set()
    for info in zipped.infolist():
        name = info.orig_filename  # as stored: zipfile alters some names on some systems
        if re.search(UNSAFE, name):
            raise _unsafe(archive, name, "would be written outside the folder")
        if match := re.fullmatch(RADIOLOGY, info.filename):
            members[info.filename] = info  # by name, so that an entry listed twice counts once
            splits.add(match[1])
    if missing := [split for split in TABLES if split not in splits]:
        raise UserError(
            f"{archive} has no {TREE}/{missing[0]}/radiology, so it is not ROCO. Move it elsewhere "
            "and run this cell again to download ROCO."
        )
    for info in members.values():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was not made on Unix
        if kind not in (0, stat.S_IFREG):
            raise _unsafe(archive, info.filename, "is a link or a device, not a file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # bz2 and lzma fail each in ways of their own, and ROCO's archive has neither
            method = f"compressed by method {info.compress_type}"
            raise zipfile.BadZipFile(f"its entry {info.filename!r} is {method}")
    return list(members.values())


def _unsafe(archive: Path, name: str, problem: str) -> UserError:
    return UserError(
        f"{archive} was not unpacked: its entry {name!r} {problem}. Delete the archive; it is not "
        "the one on Kaggle."
    )


def _unpack_missing(zipped: zipfile.ZipFile, members: list[zipfile.ZipInfo], tree: Path) -> None:
    targets = {info: tree / info.filename.removeprefix(f"{TREE}/") for info in members}
    missing = [
        info for info, target in targets.items()
        if not target.exists() or target.stat().st_size != info.file_size
    ]  # fmt: skip
    for parent in {target.parent for target in targets.values()}:
        parent.mkdir(parents=True, exist_ok=True)
    left = sum(info.file_size for info in missing)
    check_room(tree, left)
    total = sum(info.file_size for info in members)
    with progress_bar(
        total=total, initial=total - left, unit="B", unit_scale=True, desc="unpacking radiology"
    ) as bar:
        for info in missing:
            _unpack(zipped, info, targets[info])
            bar.update(info.file_size)


def _unpack(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write one file. No fsync: 80,000 would take an hour, and a lost file is unpacked again."""
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with zipped.open(info) as source, open(aside, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)  # never more than file_size; checks the CRC
            written = file.tell()
        if written != info.file_size:
            sizes = f"{written} bytes, not {info.file_size}"
            raise zipfile.BadZipFile(f"its entry {info.filename!r} has {sizes}")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
