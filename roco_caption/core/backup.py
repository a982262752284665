"""Keeps a copy of a folder on Google Drive, or elsewhere, with few and complete writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import gigabytes

SECONDS = 600  # what a disconnect can cost: Drive keeps each replaced file in its trash
SKIPPED = ".lock", ".tmp", ".previous."  # a copy needs neither locks nor an older state


@contextlib.contextmanager
def backed_up(
    folder: str | os.PathLike, copy: str | os.PathLike | None, *, seconds: float = SECONDS
) -> Iterator[None]:
    """Bring back a folder from its copy; copy what changes every `seconds` and after the block.

    Of a file in both, the newer one counts. A copy that fails is reported and stops nothing: the
    folder itself is complete. None as `copy` does nothing.
    """
    if copy is None:
        yield
        return
    backup, stop = _Backup(Path(folder), Path(copy)), threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            backup.update()

    thread = threading.Thread(target=run, daemon=True)
    bring_back(copy, folder)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        backup.update()


def bring_back(copy: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copy to a folder what is missing there, or older; UserError if that fails."""
    source, target = Path(copy), Path(folder)
    try:
        paths = [path for path in _files(source) if _newer(source, target, path)]
        for path in paths:
            _replace(source / path, target / path)
    except OSError as error:
        raise UserError(
            f"{copy} could not be copied to {folder} ({first_line(error)}). Check both, and run "
            "this cell again; on Colab, set DRIVE_DIR to '' to go without the copy."
        ) from error
    if paths:
        print(f"{len(paths)} files brought back from {copy}")


class _Backup:
    """A folder and its copy."""

    def __init__(self, folder: Path, copy: Path) -> None:
        self.folder, self.copy = folder, copy
        self._copied: set[Path] = set()  # relative paths

    def update(self) -> None:
        """Copy what has changed in the folder, and remove copies of what is no longer there."""
        try:
            paths = _files(self.folder)
            for path in paths:
                if _newer(self.folder, self.copy, path):
                    _replace(self.folder / path, self.copy / path)
                self._copied.add(path)
            for path in self._copied - set(paths):
                _discard(self.copy / path)
            self._copied &= set(paths)
        except OSError as error:
            with contextlib.suppress(OSError):
                free = gigabytes(shutil.disk_usage(self.copy).free)
                print(f"{free} are free in {self.copy}.")
            print(f"WARNING: {self.folder} could not be copied to {self.copy} "
                  f"({first_line(error)}). It is tried again later.")  # fmt: skip


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder that are copied, relative to it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [p.relative_to(folder) for p in paths if not any(s in p.name for s in SKIPPED)]


def _newer(source: Path, target: Path, path: Path) -> bool:
    """Return whether a file differs in size or time, and is not older, in `source`."""
    try:
        ours = (source / path).stat()
    except FileNotFoundError:  # replaced meanwhile
        return False
    if not (target / path).exists():
        return True
    theirs = (target / path).stat()
    whole_seconds = int(ours.st_mtime) - int(theirs.st_mtime)  # all that some drives keep
    return whole_seconds > 0 or (whole_seconds == 0 and ours.st_size != theirs.st_size)


def _replace(source: Path, target: Path) -> None:
    """Copy a file so that its target is complete or unchanged, and leave nothing in a trash."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copy2(source, aside)
        _discard(target)
        os.replace(aside, target)
    except FileNotFoundError:  # removed meanwhile
        with contextlib.suppress(OSError):
            aside.unlink()


def _discard(path: Path) -> None:
    """Remove a file; it is emptied first, because Drive's trash counts."""
    if path.exists():
        os.truncate(path, 0)
        path.unlink()
