"""Reads captions without images, which teach the decoder the language of reports."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError, first_line
from roco_caption.data.folder import tables_in
from roco_caption.data.kaggle import download_texts
from roco_caption.data.remarks import without_remarks
from roco_caption.data.tables import READERS, decode, read_table

ROCO = "roco"  # TEXT_FILE: ROCO's captions, from Kaggle
ROCO_TEXTS = [f"all_data/{s}/radiology/captions.txt" for s in ("train", "validation", "test")]


def read_texts(
    place: str | os.PathLike,
    cache_dir: str | os.PathLike,
    frames: dict[str, pd.DataFrame],
    data_name: str = "",
) -> list[str]:
    """Return captions without images, each once and without remarks; print how many.

    Args:
        place: a text file with a caption per line (its last field, if tabs separate some); a table
            as `read_table` takes it, or one without images; a folder of either; or "roco", for
            ROCO's captions from Kaggle (10 MB, no images). None are returned if it is empty.
        cache_dir: where ROCO's are kept.
        frames: {split: DataFrame[caption]} of the images. Captions to validate and test on are left
            out, whatever their case and punctuation.
        data_name: of the images, "roco" for ROCO's own.

    Raises:
        UserError: there is no such file, it cannot be read, Kaggle does not deliver, or ROCO's
            captions are asked for although its images are there.
    """
    if not place:
        return []
    if ROCO == place == data_name:
        raise UserError(f"TEXT_FILE = {ROCO!r} is for other images than ROCO's. Leave it empty.")
    if place == ROCO:
        paths = [download_texts(name, Path(cache_dir) / "roco-text" / name) for name in ROCO_TEXTS]
    else:
        paths = _files(Path(place).expanduser())
    plain = {text: _plain(text) for path in paths for text in _read(path)}
    held_out = {_plain(text) for split in ("validation", "test") for text in frames[split].caption}
    held_out.add("")
    kept = pd.Series([text for text, words in plain.items() if words not in held_out], dtype=object)
    kept = without_remarks(kept, "captions without images")
    unique = {words: text for text in kept if (words := _plain(text)) not in held_out}
    known = sum(words in held_out for words in plain.values() if words)
    note = f"; {known:,} that validation or test images have are left out" if known else ""
    print(f"Captions without images: {len(unique):,} from {place}{note}")
    if not unique:
        raise UserError(f"TEXT_FILE {place} has no caption to learn from. Leave it empty.")
    return list(unique.values())


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        names = "radiology/captions.txt", "captions.txt"  # ROCO has other images as well
        found = next(filter(None, (sorted(path.rglob(name)) for name in names)), tables_in(path))
        if found:
            return found
    elif path.is_file():
        return [path]
    raise UserError(
        f"TEXT_FILE must be a file of captions, or a folder with some, or {ROCO!r}; {path} is not. "
        "Name a text file with one caption per line, or a table with a column `caption`."
    )


def _read(path: Path) -> list[str]:
    if path.suffix.lower() in {*READERS} - {".txt"}:
        table = read_table(path, required=("caption",))
        print(table)
        texts = list(table.rows[table.roles["caption"][0]])
    else:
        try:
            lines, _ = decode(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a readable text file ({first_line(error)}). TEXT_FILE takes one "
                "caption per line, in UTF-8."
            ) from error
        texts = [line.rpartition("\t")[2] for line in lines.splitlines()]
    return [text.strip() for text in texts if text.strip()]
