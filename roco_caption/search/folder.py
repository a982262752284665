"""Captions files and folders batch by batch; a file that cannot be decoded stops nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from roco_caption.core.errors import UserError, at_least
from roco_caption.core.files import cannot_read, files_below
from roco_caption.core.progress import progress_bar
from roco_caption.data.images import FORMATS, is_image_file
from roco_caption.data.names import SYSTEM

if TYPE_CHECKING:
    from roco_caption.search.beam import Search
    from roco_caption.search.captioner import Captioner

BATCH = 32  # images encoded at once, as in `extract_features`
FIELDS = ["file", "caption", "log_probability", "error"]


def image_files(*places: str | os.PathLike) -> list[Path]:
    """Return the image files among files and in folders with their sub-folders, sorted.

    A file in a folder is an image by its extension, or by its content: DICOM files often have no
    extension. Links to folders are followed, but each folder is read once. A note is printed of
    other files, except for hidden ones and DICOM directories, and of folders without permission.
    UserError if a place is missing or cannot be read, or none has an image.
    """
    images, others, closed = set(), [], list[str]()
    for place in (Path(place).expanduser() for place in places):
        try:
            os.stat(place)
        except OSError as error:
            remedy = "Give an image file, or a folder with images."
            raise UserError(f"{cannot_read(place, error)} {remedy}") from error
        if place.is_file():
            images.add(place)
        inside = files_below(place, closed) if place.is_dir() else []
        for path in inside:
            if path.name.lower() in SYSTEM:
                continue
            if is_image_file(path):
                images.add(path)
            else:
                others.append(path)
    denied = f"{', '.join(closed[:3])}: no permission to read {len(closed):,} folders. Allow it "
    denied += "(chmod u+rx) and run this again to caption their images."
    if closed and images:
        print(f"NOTE: {denied}")
    if others:
        more = f" and {len(others) - 1:,} more" if others[1:] else ""
        print(f"NOTE: not an image, so left out: {others[0]}{more}")
    if not images:
        where = ", ".join(map(str, places))
        hint = denied if closed else f"Formats: DICOM, {', '.join(FORMATS)}."
        raise UserError(f"There is no image in {where}. {hint}")
    return sorted(images)


def caption_files(
    captioner: Captioner,
    files: Sequence[Path],
    *,
    batch_size: int = BATCH,
    search: Search | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the table of `Captioner.caption_folder` batch by batch, with a progress bar."""
    at_least(1, batch_size=batch_size)
    captioner.encoder_model  # noqa: B018  what it lacks is an error of no single image
    with progress_bar(total=len(files), desc="captioning", unit="image") as bar:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            rows = pd.DataFrame(_rows(captioner, batch, search), columns=FIELDS, dtype=object)
            yield rows.astype({"log_probability": float})
            bar.update(len(batch))


def _rows(captioner: Captioner, files: Sequence[Path], search: Search | None) -> list[tuple]:
    try:
        features, reasons = captioner.encode_readable(files)
    except UserError as error:  # such as an image that is too large for the memory
        if len(files) > 1:
            return [row for file in files for row in _rows(captioner, [file], search)]
        return [(str(files[0]), None, math.nan, str(error))]
    rows: list[tuple[Any, ...]] = [
        (str(file), None, math.nan, reasons.get(i)) for i, file in enumerate(files)
    ]
    readable = [i for i in range(len(files)) if i not in reasons]
    captions = captioner.caption_features(features, search) if readable else []
    for i, caption in zip(readable, captions, strict=True):
        rows[i] = (str(files[i]), *caption, None)
    return rows
