"""Finds the rows of a text file, although a quote in it is never closed."""

from __future__ import annotations

import re
from collections.abc import Callable

END = "\0 end"  # a row of its own, unless a quote before it was never closed
HINT = "sep="  # Excel's first line


def records_of(lines: list[str], parse: Callable) -> list[tuple[int, int, list[str]]]:
    """Return the rows of a text file, each after its first line and the one after its last."""
    reader = parse(lines)
    ends = [(reader.line_num, row) for row in reader]
    starts = [0, *(end for end, _ in ends)]
    records = [(start, *end) for start, end in zip(starts, ends, strict=False)]
    return [record for record in records if record[2] and not record[2][0].startswith(HINT)]


def double_quotes(lines: list[str], parse: Callable, width: int) -> None:
    """Double, in place, quotes after a backslash, as Spark, MySQL and R write those within quotes.

    Only in lines that have as many cells as the header, `width`, by that alone, or would else have
    a cell that ends in a quote.
    """
    for n, line in enumerate(lines):
        if '\\"' in line and '\\""' not in line and '"""' not in line:
            doubled = line.replace('\\"', '""')
            plain, cells = next(parse([line])), next(parse([doubled]))
            torn = len(plain) != width or any(cell.rstrip("\n").endswith('"') for cell in plain)
            if torn and len(cells) == width and not cells[-1].endswith("\n"):
                lines[n] = doubled


def close_quotes(
    lines: list[str], parse: Callable, header: list[str], images: list[str]
) -> list[int]:
    """Close, in place, quotes that would swallow the rows below, and return their lines' numbers.

    Lines of a quoted text are such rows if they have as many cells as the header, and a name like
    those of other images. Raises a ValueError if only some are, or their first line does not fit.
    """
    if not images:
        return []
    at, closed = header.index(images[0]), []
    while found := _swallowing(lines, parse, len(header), at):
        for start, line in found.items():
            lines[start] = line
            closed.append(start + 1)
    return sorted(closed)


def _swallowing(lines: list[str], parse: Callable, width: int, at: int) -> dict[int, str]:
    """Return {place: line} of lines whose open quote swallows rows below, with that quote closed.

    `at` is the place of names in a row.
    """

    def fitting(line: str) -> str:
        options = [line, line.rstrip("\n") + '"\n', line.replace('"', "")]
        return next((one for one in options if len(next(parse([one]))) == width), line)

    records, closed = records_of(lines, parse), {}
    names = {row[at] for _, _, row in records if len(row) > at}
    kinds = _kinds(names)
    for start, end, row in records:
        broken = [place for place, cell in enumerate(row) if "\n" in cell]
        if not broken:
            continue
        below = [line for line in lines[start + 1 : end] if line.strip() and line != END]
        first = fitting(lines[start].rstrip("\n") + '"\n')
        if at > broken[0]:  # the last line has the name of a text with real line breaks
            below = [*below[:-1], first]
        cells = [next(parse([fitting(line)])) for line in below]
        rows = [c for c in cells if len(c) >= width and _kind(c[at]) in kinds]
        rows = [c for c in rows if not _kind(c[at]).isdecimal() or c[at] not in names]  # a list
        if rows and (len(rows) < len(cells) or len(next(parse([first]))) != width):
            raise ValueError(f"a quote in line {start + 1} is not closed before the next row")
        if rows:
            closed[start] = first
    return closed


def _kinds(names: set[str]) -> set[str]:
    """Return the kinds of names, and those of longer numbers."""
    kinds = set(map(_kind, names))
    digits = [len(kind) for kind in kinds if kind.isdecimal()]
    return kinds | {"0" * k for k in range(min(digits, default=20), 20)}


def _kind(name: str) -> str:
    """Return what names of images have in common: their extension, or else all but numbers; of
    mere numbers how many digits."""
    if name.strip().isdecimal():
        return "0" * len(name.strip())
    extension = re.search(r"\.[a-z]{3,5}$", name.strip().lower())
    number = r"\b[0-9a-f]{4,}\b|\d+"  # hexadecimal as well
    return extension[0] if extension else re.sub(number, "0", name.strip().lower())
