"""Unpacks ROCO's radiology part from its archive: safe, checked, resumable."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from roco_caption.core.errors import UserError
from roco_caption.core.files import gigabytes
from roco_caption.core.progress import progress_bar

TREE = "all_data"
SPLITS = ("train", "validation", "test")
# What zipfile raises for bytes that are no archive, or no longer one.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member; NotImplementedError, a compression unknown here
)


class DamagedArchive(UserError):
    """An archive whose bytes are not what they were: cut off, changed, or not a zip at all."""


def unpack_radiology(archive: str | os.PathLike, folder: str | os.PathLike) -> int:
    """Unpack `all_data/<split>/radiology/` and the tables beside it; continue where it stopped.

    Files are written into `all_data.unpacking`, which takes the name `all_data` once all are
    there, so a tree that is called `all_data` is whole. Every file is checked against its CRC-32
    before it takes its name; one that stands there with the right size is therefore not redone.

    Args:
        archive: ROCO's zip file.
        folder: where `all_data/` is made, or completed where it is there already.

    Returns:
        The number of files of the radiology part.

    Raises:
        DamagedArchive: the zip is cut off or damaged, or an entry is not as large as it says.
        UserError: an entry would be written elsewhere or is a link, the archive is not ROCO's,
            the disk is too small or full, or the folder cannot be written to.
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
            f"{archive} is damaged ({error}). Delete it and run this cell again: it is downloaded "
            "anew, and files that were unpacked already are kept."
        ) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    return len(members)


def is_whole(archive: str | os.PathLike) -> bool:
    """Tell whether a file is a zip with its table of contents, which stands at the very end."""
    try:
        with zipfile.ZipFile(archive):
            return True
    except (*_DAMAGE, OSError):
        return False


def check_room(folder: Path, needed: int) -> None:
    """Raise a UserError unless `needed` more bytes fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"Not enough room on the disk of {folder}: {gigabytes(needed)} are needed, "
            f"{gigabytes(free)} are free. Free some room there or choose a folder on another disk, "
            "then run this cell again; what is there already is kept."
        )


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the UserError for a file that could not be written or read, a full disk included."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Free some room on it" if full else "Choose a folder that you may write to"
    return UserError(
        f"{'The disk is full' if full else 'Reading or writing failed'} at "
        f"{error.filename or path} ({error.strerror or error}). {remedy}, then run this cell "
        "again: it continues with what is there already."
    )


def _radiology_members(zipped: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the files to unpack, after a look at every name in the archive."""
    for info in zipped.infolist():
        _refuse_unsafe_name(info, archive)
    wanted = re.compile(rf"{TREE}/({'|'.join(SPLITS)})/(radiology/.*[^/]|radiology\w*data\.csv)")
    members, found = {}, set()
    for info in zipped.infolist():
        if match := wanted.fullmatch(info.filename):
            members[info.filename] = info  # by name, so that an entry listed twice counts once
            found.add(match[1])
    if absent := [split for split in SPLITS if split not in found]:
        raise UserError(
            f"{archive} holds no {TREE}/{absent[0]}/radiology, so it is not ROCO. Move it "
            "elsewhere and run this cell again to download ROCO."
        )
    for info in members.values():
        _refuse_link(info, archive)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # bz2 and lzma each fail in ways of their own, and ROCO's archive has neither
            raise zipfile.BadZipFile(
                f"its entry {info.filename!r} is compressed by method {info.compress_type}"
            )
    return list(members.values())


def _refuse_unsafe_name(info: zipfile.ZipInfo, archive: Path) -> None:
    name = info.orig_filename  # as stored: zipfile alters some names on some systems
    parts = name.split("/")
    if (
        name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or any(re.match(r"[A-Za-z]:", part) for part in parts)
    ):
        raise UserError(
            f"{archive} was not unpacked: its entry {name!r} would be written outside the folder. "
            "Delete the archive; it is not the one that Kaggle hands out."
        )


def _refuse_link(info: zipfile.ZipInfo, archive: Path) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
    if kind not in (0, stat.S_IFREG):
        raise UserError(
            f"{archive} was not unpacked: its entry {info.filename!r} is a link or a device, no "
            "file. Delete the archive; it is not the one that Kaggle hands out."
        )


def _unpack_missing(zipped: zipfile.ZipFile, members: list[zipfile.ZipInfo], tree: Path) -> None:
    targets = {info: tree / info.filename.removeprefix(f"{TREE}/") for info in members}
    missing = [info for info, target in targets.items() if _size(target) != info.file_size]
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
    """Write one member. No fsync: 80,000 of them would take an hour, and a lost file is redone."""
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with zipped.open(info) as source, open(aside, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)  # never more than file_size; checks the CRC
            written = file.tell()
        if written != info.file_size:
            raise zipfile.BadZipFile(
                f"its entry {info.filename!r} holds {written} bytes and says {info.file_size}"
            )
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _size(path: Path) -> int:
    """Return a file's size in bytes, -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
