"""Reads captions without images, which teach the decoder the language of reports."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError, first_line
from roco_caption.data.cells import plain_text, text_of
from roco_caption.data.choice import tables_in
from roco_caption.data.encodings import decode, decode_together
from roco_caption.data.kaggle import download_texts
from roco_caption.data.remarks import without_remarks
from roco_caption.data.reports import OTHERS, is_report, shown_section, shown_sections
from roco_caption.data.tables import READERS, find_columns, read_table

MANY_FILES, LINES = 10, 50  # so many text files of few lines each are reports, one in each
ROCO = "roco"  # TEXT_FILE: ROCO's captions, from Kaggle
ROCO_TEXTS = [f"all_data/{s}/radiology/captions.txt" for s in ("train", "validation", "test")]


def read_texts(
    place: str | os.PathLike, cache_dir: str | os.PathLike, frames: dict[str, pd.DataFrame]
) -> list[str]:
    """Return captions without images, each once and without remarks; print how many.

    Args:
        place: a text file with a caption per line (its last field, if tabs separate some); a table
            as `read_table` takes it, or one without images; a folder of either; or "roco", for
            ROCO's captions from Kaggle (10 MB, no images). None are returned if it is empty.
        cache_dir: where ROCO's are kept.
        frames: {split: DataFrame[id, caption]} of the images. Captions to validate and test on are
            left out, whatever their case and punctuation, and with or without remarks.

    Raises:
        UserError: there is no such file, it cannot be read, Kaggle does not deliver, or ROCO's
            captions are asked for although its images are there.
    """
    if not place:
        return []
    if place == ROCO:
        if frames["train"].id.str.match(r"ROCO(v2)?_\d|PMC\d+_").mean() > 0.5:
            raise UserError(
                "TEXT_FILE = 'roco' is for other images than ROCO's, and the ids of these look "
                "like ROCO's. Leave it empty."
            )
        folder = Path(cache_dir) / "roco-text"  # without splits' names: it is no table of images
        paths = [
            download_texts(name, folder / f"captions-{i}.txt") for i, name in enumerate(ROCO_TEXTS)
        ]
        written = [text for path in paths for text in _read(path)]
    else:
        written = _read_all(Path(place).expanduser())
    whole = pd.Series([*dict.fromkeys(written)], dtype=object).map(plain_text)
    texts = pd.DataFrame({"written": shown_sections(whole), "whole": whole}, dtype=object)
    texts["text"] = without_remarks(texts.written, "captions without images")
    texts["section"] = whole.map(shown_section)
    words = texts.map(_plain)
    held = pd.concat([frames[split].caption for split in ("validation", "test")])
    if "references" in frames["test"]:  # of images with several captions
        held = pd.concat([held, frames["test"].references.explode()])
    held_out = {*held.map(_plain), *without_remarks(held).map(_plain)}
    known = words.isin(held_out - {""}).any(axis=1)
    kept = texts.text[~known & (words.text != "")].groupby(words.text, sort=False).first()
    print(f"Captions without images: {len(kept):,} from {place}")
    if known.any():
        print(f"{known.sum():,} that validation or test images have are left out.")
    if not len(kept):
        raise UserError(f"TEXT_FILE {place} has no caption to learn from. Leave it empty.")
    return list(kept)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _read_all(path: Path) -> list[str]:
    if path.is_file():
        return _read(path)
    # ROCO has other images as well
    files = []
    if path.is_dir():
        files = sorted(path.rglob("radiology/captions.txt")) or tables_in(path)
    if not files:
        raise UserError(
            f"TEXT_FILE must be a file of captions, or a folder with some, or {ROCO!r}; {path} is "
            "not. Name a text file with one caption per line, or a table with a column `caption`."
        )
    files = [file for file in files if not OTHERS.match(file.name)]
    reports = _reports([file for file in files if file.suffix.lower() == ".txt"])
    texts, others = [], []
    for file in files:
        try:
            texts += [reports[file]] if file in reports else _read(file)
        except UserError as error:
            others.append(str(error))
    if others and not texts:
        raise UserError("\n".join(others))
    for reason in others:
        print(f"Left out: {reason}")
    return texts


def _reports(files: list[Path]) -> dict[Path, str]:
    """Return {file: text} of those with one report with headings, if they are many and most."""
    if len(files) < MANY_FILES:
        return {}
    texts = {path: text_of(text).strip() for path, text in decode_together(files)[0].items()}
    reports = {
        path: text for path, text in texts.items()
        if is_report(text) and text.count("\n") < LINES and "\t" not in text
    }  # fmt: skip
    return reports if 2 * len(reports) > len(files) else {}


def _read(path: Path) -> list[str]:
    if path.suffix.lower() in {*READERS} - {".txt"}:
        return _of_table(path)
    try:
        lines, _ = decode(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a readable text file ({first_line(error)}). TEXT_FILE takes one "
            "caption per line, in UTF-8."
        ) from error
    header = re.split(r"[,;\t|]", lines.lstrip().partition("\n")[0])
    names = all(len(name.split()) <= 5 and ". " not in name for name in header)
    names = names and not header[-1].strip().endswith(".")
    if len(header) > 1 and names and find_columns(header, {})["caption"]:
        return _of_table(path)
    texts = [line.rpartition("\t")[2].strip() for line in io.StringIO(lines, newline=None)]
    return [text for text in texts if text]


def _of_table(path: Path) -> list[str]:
    table = read_table(path, required=("caption",))
    fits = table.misfits == 0
    note = "" if fits.all() else f"; {(~fits).sum():,} rows that do not fit the header are left out"
    print(f"{table}{note}")
    return [text for text in table.rows[table.roles["caption"][0]][fits].str.strip() if text]
