"""A small archive like ROCO's, and disks that are too small for it."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

TABLES = {"train": "traindata.csv", "validation": "valdata.csv", "test": "testdata.csv"}
RADIOLOGY = {
    f"all_data/{split}/{path}"
    for split, table in TABLES.items()
    for path in (
        f"radiology/images/PMC1_{split}.jpg",
        "radiology/captions.txt",
        f"radiology/{table}",
        f"radiology{table}",
    )
}
OTHERS = {
    f"all_data/{split}/{path}"
    for split in TABLES
    for path in ("non-radiology/images/PMC2.jpg", "non-radiologytraindata.csv")
} | {"all_data/readme.txt", "other/train/radiology/x.jpg"}


def make_zip(*extra: tuple[zipfile.ZipInfo | str, bytes], size: int = 30_000) -> bytes:
    """Return a zip of random files of `size` bytes each, followed by `extra` ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for path in sorted(RADIOLOGY | OTHERS):
            zipped.writestr(path, os.urandom(size))
        zipped.mkdir("all_data/train/radiology/empty")
        for member, content in extra:
            with warnings.catch_warnings(action="ignore"):  # "Duplicate name"
                zipped.writestr(member, content)
    return buffer.getvalue()


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Make every disk look as if it had so many bytes left."""
    usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def fill_disk(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Let the files that a module writes grow to 50,000 bytes only."""

    class FullDisk(io.FileIO):
        def write(self, data) -> int:
            if self.tell() + len(data) > 50_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(data)

    def limited(path, mode="r", *arguments, **keywords):
        if "b" in mode and "r" not in mode:
            return FullDisk(path, mode.replace("b", ""))
        return builtins.open(path, mode, *arguments, **keywords)

    monkeypatch.setattr(module, "open", limited, raising=False)
