"""`CaptionsTable`: the file of the command `caption`, written batch by batch and continued."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import atomic_path, cannot_read, printable
from roco_caption.search.folder import FIELDS

EXAMPLES = 8  # images that are captioned again before a table is continued
CLOSE = 0.01  # nats by which other rounding changes a log probability
LONGEST = 100_000  # characters of a cell
OTHER_TABLE = "is not a table of captions"
NOT_IN_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"  # nor in an Excel file


class CaptionsTable:
    """A table of captions in a file: CSV, with tabs if it ends in .tsv, Excel's if in .xlsx.

    For Excel, the rows are in a CSV file beside it until the table is complete.

    Args:
        out: the file.
        overwrite, resume: what may be done if it exists: replace it, or keep its rows.

    Raises:
        UserError: it exists and may not be changed; or it is for Excel, and openpyxl is missing.
    """

    def __init__(self, out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.out, ending = out, out.suffix.lower()
        self.excel = ending == ".xlsx"
        self.path = out.with_suffix(".xlsx.csv") if self.excel else out  # where its rows are now
        self.separator = "\t" if ending == ".tsv" else ","
        self.rows: list[pd.DataFrame] = []
        self.names: set[str] = set()  # of the files to be captioned
        self.resumed = resume and os.path.exists(self.path)  # False without permission
        self.begun = False  # whether the file has these rows and nothing else
        for path in (self.out, self.path):
            if os.path.exists(path) and not overwrite and not self.resumed:
                remedy = " or continue it with --resume," if path == self.path else ""
                raise UserError(
                    f"{path} exists. Choose another --out,{remedy} or replace it with --overwrite."
                )
        if self.excel and not find_spec("openpyxl"):
            raise UserError(
                f"{out} needs openpyxl. Run `pip install openpyxl`, or name a .csv file."
            )

    def remaining(self, files: Sequence[Path]) -> list[Path]:
        """Return those of `files` that are still to be captioned.

        A table to resume keeps its rows, except those of `files` with an error, which are tried
        again, and a last row that was cut off.
        UserError if the file cannot be read, or is no such table.
        """
        self.names = {printable(str(file)) for file in files}
        if not self.resumed:
            return list(files)
        rows, whole = self._read()
        table = pd.DataFrame(rows, columns=FIELDS).drop_duplicates("file", keep="last")
        again = (table.caption == "") & (table.error != "") & table.file.isin(self.names)
        kept = table[~again]
        self.begun = whole and len(kept) == len(rows)  # else it is written again
        self.rows = [kept] if len(kept) else []
        known = set(kept.file)
        new = [file for file in files if printable(str(file)) not in known]
        print(f"{self.path} has {len(files) - len(new):,} of these images already.")
        return new

    def refuse_another(self, captions: Callable[[list[Path]], pd.DataFrame]) -> None:
        """Raise a UserError if the rows to keep have captions of another captioner or search.

        The first images among them are captioned again, by `captions`. Most must have their caption
        or, where a person changed that, their log probability.
        """
        kept = pd.concat([pd.DataFrame(columns=FIELDS), *self.rows])
        numbers = pd.to_numeric(kept.log_probability, errors="coerce")
        kept, numbers = kept[numbers.notna()], numbers.dropna().to_numpy()
        there = (i for i, file in enumerate(kept.file) if os.path.isfile(file))
        first = [*itertools.islice(there, EXAMPLES)]
        kept, numbers = kept.iloc[first], numbers[first]
        if kept.empty:
            return
        again = captions([*map(Path, kept.file)])
        same = kept.caption.to_numpy() == again.caption.to_numpy()
        same |= abs(numbers - again.log_probability.to_numpy(float)) < CLOSE
        same |= again.caption.isna().to_numpy()  # one that cannot be read now says nothing
        if 2 * same.sum() < len(kept):
            raise UserError(
                f"{self.path} has captions of another captioner or search, such as "
                f"{kept.caption.iloc[0]!r} of {kept.file.iloc[0]}. Name that captioner (--run), or "
                "choose another --out, or --overwrite."
            )

    def _read(self) -> tuple[list[list[str]], bool]:
        """Return the file's whole rows, and whether it has nothing else, such as a part of one."""
        try:
            content = self.path.read_bytes()
            text = content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.separator))
            if max((len(cell) for row in rows for cell in row), default=0) > LONGEST:
                raise ValueError("a cell is too long, perhaps after a stray quote")
        except OSError as error:
            raise cannot_read(self.path, error) from error
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.path} {OTHER_TABLE} ({first_line(error)}).") from error
        if content and rows[:1] != [FIELDS]:
            raise UserError(
                f"{self.path} {OTHER_TABLE}: its columns are not {', '.join(FIELDS)}, separated "
                f"by {'tabs' if self.separator != ',' else 'commas'}. Choose another --out."
            )
        whole = [row for row in rows[1:] if len(row) == len(FIELDS)]
        return whole, len(whole) == len(rows) - 1 and content.endswith(b"\n")

    def add(self, rows: pd.DataFrame) -> None:
        """Write the rows of further images; raises OSError."""
        if not self.begun:
            with atomic_path(self.path.resolve()) as aside:
                for k, part in enumerate([*self.rows, rows]):
                    self._write(part, aside, "a" if k else "w")
            self.begun = True
        else:
            self._write(rows, self.path, "a")
        self.rows.append(rows)

    def _write(self, rows: pd.DataFrame, path: Path, mode: str) -> None:
        rows.to_csv(
            path, mode=mode, header=mode == "w", index=False, sep=self.separator,
            float_format="%.5f", encoding="utf-8-sig" if mode == "w" else "utf-8",
            errors="backslashreplace",
        )  # fmt: skip

    def counts(self) -> tuple[int, int]:
        """Return how many of the files have a row, and how many of these no caption."""
        if not self.rows:
            return 0, 0
        table = pd.concat(self.rows)
        here = table[table.file.map(printable).isin(self.names)]
        return len(here), int((here.caption.fillna("") == "").sum())

    def complete(self) -> None:
        """Write the file for Excel, if it is one; raises OSError."""
        if self.excel and self.rows:
            _write_excel(self.out, pd.concat(self.rows))
            self.path.unlink()
            self.path = self.out


def _write_excel(path: Path, table: pd.DataFrame) -> None:
    """Write an Excel file in which texts stay texts, whatever they look like."""
    texts = table[["file", "caption", "error"]].fillna("")
    texts = texts.map(lambda text: printable(str(text)))
    numbers = pd.to_numeric(table.log_probability, errors="coerce").round(5)
    texts = texts.replace(NOT_IN_XML, "\ufffd", regex=True)
    table = table.assign(**texts, log_probability=numbers)
    with atomic_path(path, ending=".xlsx") as aside:
        writer = pd.ExcelWriter(aside, "openpyxl")
        table.to_excel(writer, sheet_name="captions", index=False)
        for row in writer.sheets["captions"].iter_rows():
            for cell in row:
                if isinstance(cell.value, str):
                    cell.data_type = "s"  # neither a formula nor an error
        writer.close()
