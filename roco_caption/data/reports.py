"""Captions in text files: one per image, or one per folder of images, as of an examination."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from roco_caption.data.cases import IMAGES_PER_CASE
from roco_caption.data.cells import text_of
from roco_caption.data.encodings import decode
from roco_caption.data.names import without_extension
from roco_caption.data.tables import Table

HEADING = re.compile(  # of a report's section, at the start of a line or sentence
    r"(?:^|(?<=[.\n]))[ \t]*((?:exam|indication|clinical|history|technique|comparison|findings?"
    r"|impression|conclusion|recommend|notification|befund|beurteilung|empfehlung|klinik|technik"
    r"|fragestellung)[^\n:.]{0,30}):", re.I
)  # fmt: skip
SHOWN = "findings", "finding", "befund", "impression", "conclusion", "beurteilung"  # best first


def texts_of_images(
    files: Sequence[str], texts: Sequence[str], *, by_folder: bool = False
) -> dict[str, str]:
    """Return {image: text file} for relative paths; empty unless most images have a text.

    It has the image's name, and is beside it or the only one of this name. Or, `by_folder`, it is
    of the image's folder, as one report of an examination: `s5/1.png` and `s5/report.txt`, if that
    is the only text there, or `s5.txt`.
    """
    paths = {os.path.splitext(text)[0]: text for text in texts}
    named, inside = (Counter(map(part, paths)) for part in (os.path.basename, os.path.dirname))
    single = {os.path.basename(path): path for path in paths if named[os.path.basename(path)] == 1}
    alone = {os.path.dirname(path): path for path in paths if inside[os.path.dirname(path)] == 1}
    found = {}
    for file in files:
        place = os.path.dirname(file) if by_folder else without_extension(file)
        ways = [place, single.get(os.path.basename(place))] if place else []
        ways = [alone.get(place), *ways] if by_folder and place else ways
        path = next((way for way in ways if way in paths), None)
        if path is not None:
            found[file] = paths[path]
    few = not by_folder or 1 < len({*found.values()}) >= len(found) / IMAGES_PER_CASE
    return found if few and len(found) > max(1, len(files) / 2) else {}


def table_of_texts(of_images: dict[str, str], folder: Path) -> list[Table]:
    """Return captions in text files, as `texts_of_images` finds them, as a table.

    Empty if they are labels, such as boxes: "0 0.5 0.5 0.1 0.1".
    """
    captions = {}
    for text in {*of_images.values()}:
        with suppress(ValueError):  # it is no text
            captions[text] = text_of(decode(folder / text)[0])
    images = [image for image, text in of_images.items() if text in captions]
    words = " ".join(captions.values()).split()
    if 2 * sum(any(map(str.isalpha, word)) for word in words) <= len(words):
        return []
    texts = pd.Series([of_images[image] for image in images], dtype=str)
    rows = pd.DataFrame({"image": images, "caption": texts.map(captions)})
    roles = {"image": ["image"], "caption": ["caption"], "split": [], "patient": []}
    misfits = pd.Series(0, rows.index)
    how, places = "text files", "file " + texts
    return [Table(folder, how, rows, roles, misfits, places, files=images, images={*images})]


def shown_sections(captions: pd.Series) -> pd.Series:
    """Return captions (str), or of reports, if most have headings, only `shown_section`."""
    have_headings = captions.map(lambda text: HEADING.search(text) is not None)
    if 2 * have_headings.sum() <= len(captions):
        return captions
    print("NOTE: captions are reports with headings. The findings of each are used, or else the "
          "impression.")  # fmt: skip
    return captions.map(shown_section)


def is_report(text: str) -> bool:
    """Return whether a text is one report: it has several headings, each once."""
    names = [heading[1].lower() for heading in HEADING.finditer(text)]
    return len(names) == len(set(names)) > 1


def shown_section(report: str) -> str:
    """Return the section of a report that says what the image shows, else all of the report.

    It is the first with a heading of `SHOWN`, without that heading.
    """
    headings = [*HEADING.finditer(report)]
    sections: dict[str, str] = {}
    for heading, after in zip(headings, [*headings[1:], None], strict=False):
        section = report[heading.end() : after.start() if after else None]
        if section.strip():
            sections.setdefault(heading[1].lower(), section)
    found = (sections[name] for kind in SHOWN for name in sections if name.startswith(kind))
    return next(found, report)
