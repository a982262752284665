"""Recognises image files that were exchanged under their names."""

import os
import zlib
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from roco_caption.core.progress import BAR_SECONDS, progress_bar

FileMark = Sequence[int]  # size in bytes, time of change or renaming in ns, CRC-32
UNKNOWN: FileMark = (-1, -1, -1)


def file_mark(path: str | os.PathLike) -> FileMark:
    """Return a file's mark, UNKNOWN if it cannot be read."""
    return _present_mark(UNKNOWN, path) or UNKNOWN


def present_marks(
    marks: Sequence[FileMark], paths: Sequence[str | os.PathLike]
) -> list[FileMark | None]:
    """Return each file's present mark, None if it has another content; if it is gone, the old one.

    Only files of the same size and another time, or without a mark, are read.
    """
    pairs = list(zip(marks, paths, strict=True))
    with ThreadPool(8) as pool:  # network drives answer slowly
        present = pool.imap(lambda pair: _present_mark(*pair), pairs, chunksize=64)
        options = {"desc": "looking for changed images", "leave": False, "delay": BAR_SECONDS}
        return list(progress_bar(present, total=len(pairs), **options))


def _present_mark(mark: FileMark, path: str | os.PathLike) -> FileMark | None:
    try:
        status = os.stat(path)
        size, time = status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)
        if (mark[0], mark[1]) == (size, time):
            return mark
        if mark[0] not in (size, UNKNOWN[0]):
            return None
        crc = zlib.crc32(Path(path).read_bytes())
    except OSError:
        return mark
    return (size, time, crc) if mark[2] in (crc, UNKNOWN[2]) else None
