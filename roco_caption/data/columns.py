"""What the columns of a table are for, by their names and by what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from roco_caption.data.names import BESIDE, EXTENSION

# Usual names of columns, the best first, without case, spaces, `_` and `-`
USUAL = {role: names.split() for role, names in {
    "image": "name image images img imagefile imgfile imagepath imgpath imagename imgname"
    " imagefilename filename file filepath path fname picture scan bild bildname bilddatei bildpfad"
    " datei dateiname dateipfad"
    " imageid imgid dicomid dicom id",
    "caption": "caption captions imagecaption captiontext report reports reporttext"
    " radiologyreport text findings finding impression impressions sectionfindings"
    " sectionimpression conclusion interpretation narrative transcription legend description"
    " comment sentence befund befundtext befundbericht beurteilung bericht beschreibung"
    " bildunterschrift",
    "split": "split set subset fold partition aufteilung teilmenge datensatz",
    "patient": "patientid patientenid patientnummer patientennummer patientnr patientennr patnr"
    " patientnumber patientno patientuid patientkey patid mrn deidpatientid anonpatientid"
    " patient subjectid subject person pid fallnummer fallnr fallid caseid case studyid study",
}.items()}  # fmt: skip
SENTENCE = 6  # words in a caption, on average; kinds of studies have fewer
STUDIES = {"fallnummer", "fallnr", "fallid", "caseid", "case", "studyid", "study"}  # of patients
# words in names of columns of the images themselves
FILES = re.compile(r"im[aá]?ge|img|immag|bild|file|fich|datei|path|pfad|[pf]h?oto|scan", re.I)


def remedy_for(rows: pd.DataFrame, required: Sequence[str]) -> str:
    """Return how to name the columns of a table that lacks a `required` one."""
    if "image" not in required:
        return "Name the column of captions `caption`"
    header = list(rows.columns)
    roles = f"COLUMNS takes pairs of {', '.join(USUAL)} and a column"
    if len(header) < 2 or any(EXTENSION.search(name) or len(name) > 30 for name in header):
        return roles  # these are no names of columns
    usual = find_columns(header, {})
    files = rows.map(lambda text: EXTENSION.search(text) is not None).mean()
    named = [column for column in files.index[files > 0.5] if not BESIDE.search(column)]
    image = (*usual["image"], *named, header[0])[0]
    others = rows.drop(columns=[image, *usual["split"], *usual["patient"]])
    words = others.map(lambda text: len(text.split())).mean()
    if not usual["caption"] and (words.empty or rows.empty):
        return roles
    caption = usual["caption"][0] if usual["caption"] else words.idxmax()  # the longest texts
    return f"{roles}, such as COLUMNS = 'image={image}, caption={caption}'"


def unused(header: Sequence[str], used: str, chosen: bool) -> str:
    """Return a note on columns that may have captions as well, for `Table.how`."""
    names = {plain(used)} if chosen else {*USUAL["caption"]}
    others = [*header]
    others.remove(used)
    columns = [name for name in others if plain(re.sub(r"\.\d+$", "", name)) in names]
    return f". NOTE: {used!r} has the captions; not used: {columns}" if columns else ""


def longer_texts(rows: pd.DataFrame, used: str, known: Iterable[str]) -> str:
    """Return a note on a column with sentences where the captions used have few words, else ""."""
    words = rows.drop(columns=[*known], errors="ignore").map(lambda text: len(str(text).split()))
    mean = len(" ".join(map(str, rows[used])).split()) / max(1, len(rows))
    if mean >= SENTENCE or words.empty or words.mean().max() < max(SENTENCE, 2 * mean):
        return ""
    longest = words.mean().idxmax()
    return (
        f". NOTE: {longest!r} has longer texts. If these are meant: COLUMNS = 'caption={longest}'"
    )


def find_columns(header: Sequence[str], named: dict[str, str]) -> dict[str, list[str]]:
    """Return for each role the columns that may have it, the best first."""
    columns = {plain(column): column for column in reversed(header)}
    taken = set(map(plain, named.values()))
    roles = {}
    for role, usual in USUAL.items():
        free = [name for name in usual if name not in taken]
        names = [plain(named[role])] if role in named else free
        roles[role] = [columns[name] for name in names if name in columns]
    return roles


def plain(column: str) -> str:
    """Return a column's name without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", column).casefold()


def recognised(header: Sequence[str], named: dict[str, str]) -> int:
    """Return how many roles have a column."""
    return sum(map(bool, find_columns(header, named).values()))


def header_at(rows: Sequence[Sequence[str]], named: dict[str, str]) -> int:
    """Return which of the first five rows names columns of images and captions, else 0."""
    found = [find_columns(row, named) for row in rows[:5]]
    return next((i for i, roles in enumerate(found) if roles["image"] and roles["caption"]), 0)


def file_columns(rows: pd.DataFrame, known: Iterable[str]) -> list[str]:
    """Return columns not in `known` whose cells mostly are names of image files, but no masks."""
    cells = rows.drop(columns=[*known], errors="ignore").map(str)
    if cells.empty:
        return []
    named = cells.map(lambda name: EXTENSION.search(name.strip()) is not None).mean()
    return [column for column in named.index[named > 0.5] if not BESIDE.search(column)]
