"""Captions in text files: one per image, or one per folder of images, as of an examination."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path

import pandas as pd

from roco_caption.data.cases import IMAGES_PER_CASE
from roco_caption.data.cells import text_of
from roco_caption.data.encodings import decode_together
from roco_caption.data.names import without_extension
from roco_caption.data.tables import Table

HEADING = re.compile(  # of a report's section, at the start of a line or sentence; no time
    r"(?:^|(?<=[.?!)\n\r])|(?<=[a-z\d] )(?=[A-Z]{4}))[ \t]*((?i:exam(?:ination)?|indications?"
    r"|clinical(?: history| information)?|history|technique|comparison"
    r"|findings?(?: and impressions?)?|impressions?|conclusi[óo]n(?:s|es?|i)?|results?"
    r"|r[ée]sultats?|hallazgos?|impresi[óo]n(?:es)?|reperti?|referto|achados"
    r"|recommendations?|notification|befunde?|beurteilung|empfehlung|klinik|technik|fragestellung)"
    r"[ \tA-Z\d/&()#-]{0,30}):(?!\d)"
)
TOLD = re.compile(  # to whom results were reported, not what they are
    r"(?i)(?:results?|findings?|impressions?)\b.*\b(?:called|communicated|notified|discussed"
    r"|conveyed|relayed|phoned|paged|(?:reported|given) (?:to|by))\b"
)
SHOWN = (  # best first
    "findings", "finding", "befund", "result", "résultat", "resultat", "hallazgo", "repert",
    "achado", "referto", "impresi", "impression", "conclusi", "beurteilung",
)  # fmt: skip

OTHERS = re.compile(r"(?:read.?me|licen[cs]e|licen[cs]es)\b", re.I)  # texts that are no captions
LISTED = re.compile(r"\S\.(?:bmp|dcm|gif|jpe?g|png|tiff?)\b", re.I)  # files in a list of them


def texts_of_images(files: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """Return {image: text file} for relative paths; empty unless most images have a text.

    It is the one of the image's name beside it. If most images have none, it is in another folder,
    and no other image or text has this name.
    """
    paths = {os.path.splitext(text)[0]: text for text in texts}
    beside = {}
    for file in files:
        for place in (os.path.splitext(file)[0], without_extension(file)):  # "1.IMA", "1.2.840"
            if place in paths:
                beside[file] = paths[place]
    if _are_most(beside, files):
        return beside
    names, stems = (
        Counter(map(os.path.basename, places)) for places in (paths, map(without_extension, files))
    )
    if any(names[stem] * stems[stem] > 1 for stem in stems):
        return {}
    of_names = {os.path.basename(path): text for path, text in paths.items()}
    stem_of = {file: os.path.basename(without_extension(file)) for file in files}
    elsewhere = {file: of_names[stem] for file, stem in stem_of.items() if stem in of_names}
    return elsewhere if _are_most(elsewhere, files) else {}


def texts_of_folders(files: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """Return {image: text file} for relative paths; empty unless most images have a text.

    It is the report of an examination: the only text in the image's folder, `s5/report.txt`, or
    beside that folder, `s5.txt`. Several texts have few images each.
    """
    reports = [text for text in texts if not OTHERS.match(os.path.basename(text))]
    inside = Counter(map(os.path.dirname, reports))
    images = {without_extension(file) for file in files}
    of_folder = {os.path.splitext(text)[0]: text for text in reports}
    of_folder |= {
        os.path.dirname(text): text for text in reports
        if inside[os.path.dirname(text)] == 1 and os.path.splitext(text)[0] not in images
    }  # fmt: skip
    folders = {file: os.path.dirname(file) for file in files}
    found = {file: of_folder[folder] for file, folder in folders.items() if folder in of_folder}
    few = 1 < len({*found.values()}) >= len(found) / IMAGES_PER_CASE
    return found if few and _are_most(found, files) else {}


def _are_most(found: Sized, files: Sized) -> bool:
    return len(found) > max(1, len(files) / 2)


def table_of_texts(
    of_images: dict[str, str], folder: Path, *, of_folders: bool = False
) -> list[Table]:
    """Return the captions in {image: text file}, as a table.

    Empty if they are labels, such as boxes, "0 0.5 0.5 0.1 0.1"; or, `of_folders`, lists of images
    or nearly always the same, as of a scanner.
    """
    decoded, encoding = decode_together(folder / text for text in {*of_images.values()})
    captions = {path.relative_to(folder).as_posix(): text_of(decoded[path]) for path in decoded}
    words = " ".join(captions.values()).split()
    labels = 2 * sum(any(map(str.isalpha, word)) for word in words) <= len(words)
    lists = 2 * sum(LISTED.search(text) is not None for text in captions.values()) > len(captions)
    same = 4 * len({*captions.values()}) < len(captions)
    if labels or (of_folders and (lists or same)):
        return []
    images = [image for image, text in of_images.items() if text in captions]
    texts = pd.Series([of_images[image] for image in images], dtype=str)
    rows = pd.DataFrame({"image": images, "caption": texts.map(captions)})
    roles = {"image": ["image"], "caption": ["caption"], "split": [], "patient": []}
    misfits = pd.Series(0, rows.index)
    how = f"text files{f', encoding {encoding}' if encoding else ''}"
    table = Table(folder, how, rows, roles, misfits, "file " + texts)
    return [replace(table, files=images, images={*images}, texts=frozenset(decoded))]


def shown_sections(captions: pd.Series) -> pd.Series:
    """Return captions (str); if most are reports with headings, `shown_section` of each."""
    are_reports = captions.map(is_report).astype(bool)
    if 2 * are_reports.sum() <= captions.str.contains(r"\w").sum():
        return captions
    print("NOTE: captions are reports with headings. The findings of each are used, or else the "
          "impression.")  # fmt: skip
    return captions.where(~are_reports, captions.map(shown_section))


def is_report(text: str) -> bool:
    """Return whether a text begins with a heading or has several."""
    headings = [*HEADING.finditer(text)]
    return len(headings) > 1 or (bool(headings) and not text[: headings[0].start()].strip())


def _of_sections(report: str) -> list[re.Match[str]]:
    """Return the headings, not words such as "Comparison:" in the middle of the findings.

    Those are of other kinds than `SHOWN`, and not in capitals while other headings are.
    """
    headings = [*HEADING.finditer(report)]
    capitals = sum(match[1].isupper() for match in headings) > 1
    first = [not report[: match.start(1)].rpartition("\n")[2].strip() for match in headings]
    return [
        match for match, begins in zip(headings, first, strict=True)
        if begins or not capitals or match[1].isupper() or match[1].lower().startswith(SHOWN)
    ]  # fmt: skip


def shown_section(report: str) -> str:
    """Return the sections of a report that say what the image shows, else all of the report.

    These are those with the first heading of `SHOWN`, or whose heading begins with it.
    """
    headings = _of_sections(report)
    sections: dict[str, str] = {}
    for heading, after in zip(headings, [*headings[1:], None], strict=False):
        section = report[heading.end() : after.start() if after else None].strip()
        name = heading[1].lower().strip()
        before = sections.get(name, "")
        if not re.search(r"[^\W_]", section) or TOLD.match(f"{name} {section[:40]}"):
            continue
        if section not in before:
            sections[name] = f"{before}\n{section}".strip()
    for kind in SHOWN:
        if kind in sections:
            return sections[kind]
        if found := [sections[name] for name in sections if name.startswith(kind)]:
            return "\n".join(found)
    return report
