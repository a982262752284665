"""Keeps a copy of a folder on Google Drive, or elsewhere, with few and complete writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import FULL, atomic_path

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
    source, target, known = Path(folder), Path(copy), set[Path]()
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            _update(source, target, known)

    thread = threading.Thread(target=run, daemon=True)
    bring_back(copy, folder)
    known |= set(_files(source))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _update(source, target, known)


def bring_back(copy: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copy to a folder what is missing there, or older; UserError if that fails."""
    try:
        count = _copy_newer(Path(copy), Path(folder))
    except OSError as error:
        raise UserError(
            f"{copy} could not be copied to {folder} ({first_line(error)}). Check both, and run "
            "this cell again; on Colab, set DRIVE_DIR to '' to go without the copy."
        ) from error
    if count:
        print(f"{count} {'file' if count == 1 else 'files'} brought back from {copy}")


def _update(folder: Path, copy: Path, known: set[Path]) -> None:
    """Bring the copy up to date; `known` files, those of the last update, may have gone since."""
    try:
        present = set(_files(folder))
        gone = {path for path in known - present if not (folder / path).exists()}  # not replaced
        try:
            _copy_newer(folder, copy)  # first, as what has gone may be joined into a new file
        except UserError as error:
            if getattr(error.__cause__, "errno", None) not in FULL:
                raise
            _discard_all(copy, gone)  # to make room
            _copy_newer(folder, copy)
        _discard_all(copy, gone)
        known.clear()
        known |= present
    except (OSError, UserError) as error:
        print(f"WARNING: {folder} could not be copied to {copy} ({first_line(error)}). It is tried "
              "again later.")  # fmt: skip


def _copy_newer(source: Path, target: Path) -> int:
    """Copy the files that are missing in `target`, or older, and return their number."""
    ours, theirs = _files(source), _files(target)
    paths = [path for path in ours if path not in theirs or _newer(ours[path], theirs[path])]
    for path in paths:
        _replace(source / path, target / path)
    return len(paths)


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """Return the files below a folder that are copied, relative to it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file() and not any(part in path.name for part in SKIPPED):
                files[path.relative_to(folder)] = path.stat()
    return files


def _newer(ours: os.stat_result, theirs: os.stat_result) -> bool:
    whole_seconds = int(ours.st_mtime) - int(theirs.st_mtime)  # all that some drives keep
    return whole_seconds > 0 or (whole_seconds == 0 and ours.st_size != theirs.st_size)


def _replace(source: Path, target: Path) -> None:
    """Copy a file so that its target is complete or unchanged, and leave nothing in a trash."""
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):  # of a session that was cut off
        _discard(leftover)
    with contextlib.suppress(FileNotFoundError), atomic_path(target) as aside:  # removed meanwhile
        try:
            shutil.copy2(source, aside)
            _discard(target)
        except BaseException:
            _discard(aside)
            raise


def _discard(path: Path) -> None:
    """Remove a file; it is emptied first, because Drive's trash counts."""
    if path.exists():
        os.truncate(path, 0)
        path.unlink()


def _discard_all(folder: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        _discard(folder / path)
