"""Keeps a copy of a folder on Google Drive, or elsewhere, with few and complete writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import FULL, atomic_path
from roco_caption.core.machine import refuse_unmounted

SECONDS = 600  # what a disconnect can cost: Drive keeps each replaced file in its trash
SKIPPED = ".lock", ".tmp", ".previous."  # a copy needs neither locks nor an older state
REPLACED = ".replaced.tmp"  # ending of an older file until the newer one has its name
_one_at_a_time = threading.Lock()  # a cell that was stopped twice may still be copying


@contextlib.contextmanager
def backed_up(
    folder: str | os.PathLike,
    copy: str | os.PathLike | None,
    *,
    seconds: float = SECONDS,
    unless: Callable[[Path, Path], bool] | None = None,
) -> Iterator[None]:
    """Bring back a folder from its copy; copy what changes every `seconds` and after the block.

    Of a file in both, the newer one counts. A copy that fails is reported and stops nothing: the
    folder itself is complete. So does `unless`, if it is true of the folder and its copy: another
    session has done more there. None as `copy` does nothing.
    """
    if copy is None:
        yield
        return
    source, target, known = Path(folder), Path(copy), set[Path]()
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            _update(source, target, known, unless=unless)

    thread = threading.Thread(target=run, daemon=True)
    bring_back(copy, folder)
    known |= set(_files(source))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _update(source, target, known, "Run this cell again.", unless)


def bring_back(copy: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copy to a folder what is missing there, or older; UserError if that fails."""
    refuse_unmounted(copy)
    try:
        put_back_all(Path(copy))
        with _one_at_a_time:
            count = _copy_newer(Path(copy), Path(folder))
    except OSError as error:
        raise UserError(
            f"{copy} could not be copied to {folder} ({first_line(error)}). Check both, and run "
            "this cell again; on Colab, set DRIVE_DIR to '' to go without the copy."
        ) from error
    if count:
        print(f"{count} {'file' if count == 1 else 'files'} brought back from {copy}")


def put_back_all(copy: Path) -> None:
    """Give older files their names back where a session was cut off while it replaced them."""
    with _one_at_a_time:
        for path in copy.rglob(f".*{REPLACED}"):
            with contextlib.suppress(OSError):  # an attached folder cannot be written
                _discard(_put_back(path.with_name(path.name[1:].removesuffix(REPLACED))))


def is_copied(folder: str | os.PathLike, copy: str | os.PathLike) -> bool:
    """Return whether all that is copied of a folder is in its copy, and as new."""
    ours, theirs = _files(Path(folder)), _files(Path(copy))
    return bool(theirs) and not _outdated(ours, theirs)


def _update(
    folder: Path,
    copy: Path,
    known: set[Path],
    remedy: str = "It is tried again later.",
    unless: Callable[[Path, Path], bool] | None = None,
) -> None:
    """Bring the copy up to date; `known` files, those of the last update, may have gone since."""
    try:
        refuse_unmounted(copy)
        if unless:
            put_back_all(copy)
            if unless(folder, copy):
                raise UserError("another session has done more there, which stays")
        with _one_at_a_time:
            present = set(_files(folder))
            if known and not present:
                raise UserError(f"{folder} is empty or gone, so its copy stays as it is")
            gone = {path for path in known - present if not (folder / path).exists()}
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
        why = (str(error) if isinstance(error, UserError) else first_line(error)).removesuffix(".")
        print(f"WARNING: {folder} could not be copied to {copy} ({why}). {remedy}")


def _copy_newer(source: Path, target: Path) -> int:
    """Copy the files that are missing in `target`, or older, and return their number."""
    paths = _outdated(_files(source), _files(target))
    for path in paths:
        _replace(source / path, target / path)
    return len(paths)


def _outdated(ours: dict[Path, os.stat_result], theirs: dict[Path, os.stat_result]) -> list[Path]:
    return [path for path in ours if path not in theirs or _newer(ours[path], theirs[path])]


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
    replaced = _put_back(target)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):  # of a session that was cut off
        _discard(leftover)
    try:
        # FileNotFoundError: it was removed meanwhile
        with (
            contextlib.suppress(FileNotFoundError),
            atomic_path(target, size=source.stat().st_size) as aside,
        ):
            try:
                status = source.stat()
                shutil.copy2(source, aside)
                # the time of what was copied, even if the file was replaced meanwhile
                os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
                if target.exists():
                    target.rename(replaced)
            except BaseException:
                _discard(aside)
                raise
    finally:
        _discard(_put_back(target))


def _put_back(target: Path) -> Path:
    """Give an older file its name back if no newer one got it; return where it is otherwise."""
    replaced = target.with_name(f".{target.name}{REPLACED}")
    if replaced.exists() and not target.exists() and replaced.stat().st_size:  # else emptied
        replaced.rename(target)
    return replaced


def _discard(path: Path) -> None:
    """Remove a file; it is emptied first, because Drive's trash counts."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()


def _discard_all(folder: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        _discard(folder / path)
