"""`CaptionsTable`: the file of the command `caption`, written batch by batch and continued."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import atomic_path, cannot_read
from roco_caption.search.folder import COLUMNS

NOT_IN_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"  # nor in an Excel file


class CaptionsTable:
    """A table of captions in a file: CSV, with tabs if it ends in .tsv, Excel's if in .xlsx.

    For Excel, the rows are in a CSV file beside it until the table is complete.

    Args:
        out: the file.

    Raises:
        UserError: it is for Excel, and openpyxl is missing.
    """

    def __init__(self, out: Path) -> None:
        self.out, ending = out, out.suffix.lower()
        self.excel = ending == ".xlsx"
        self.path = out.with_suffix(".xlsx.csv") if self.excel else out  # of what there is now
        self.separator = "\t" if ending == ".tsv" else ","
        self.rows: list[pd.DataFrame] = []

    def refuse_existing(self, *, overwrite: bool, resume: bool) -> None:
        """Raise a UserError if there is a file that neither option allows to be changed."""
        for path in (self.out, self.path):
            if not path.exists() or overwrite or (resume and path == self.path):
                continue
            remedy = "Choose another --out, or replace it with --overwrite."
            if path == self.path:
                remedy = f"{remedy[:-1]}, or go on with it with --resume."
            raise UserError(f"{path} exists. {remedy}")
        if self.excel and not find_spec("openpyxl"):
            raise UserError(
                f"{self.out} needs openpyxl. Run `pip install openpyxl`, or name a .csv file."
            )

    def resume(self, files: Sequence[Path]) -> list[Path]:
        """Keep the captions of an existing file; return those of `files` that it lacks.

        Rows without a caption are dropped, as is a last row that was cut off.
        UserError if the file cannot be read, or is no such table.
        """
        kept = self._read()
        if len(kept):
            with atomic_path(self.path) as aside:
                self._write(kept, aside, begin=True)
            self.rows = [kept]
        known = set(kept.file)
        new = [file for file in files if _written(str(file)) not in known]
        print(f"{self.path} has {len(files) - len(new):,} of these images already.")
        return new

    def _read(self) -> pd.DataFrame:
        try:
            text = self.path.read_bytes().decode("utf-8-sig", "replace")
        except FileNotFoundError:
            return pd.DataFrame(columns=COLUMNS)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.separator))
        if rows and rows[0] != COLUMNS:
            raise UserError(
                f"{self.path} is not a table of captions: its columns are not "
                f"{', '.join(COLUMNS)}. Choose another --out."
            )
        whole = rows[1:] if text.endswith("\n") else rows[1:-1]
        whole = [row for row in whole if len(row) == len(COLUMNS) and row[1] and row[2]]
        table = pd.DataFrame(whole, columns=COLUMNS)
        return table.assign(log_probability=table.log_probability.astype(float))

    def add(self, rows: pd.DataFrame) -> None:
        """Write the rows of further images; raises OSError."""
        self._write(rows, self.path, begin=not self.rows)
        self.rows.append(rows)

    def _write(self, rows: pd.DataFrame, path: Path, *, begin: bool) -> None:
        rows.to_csv(
            path, mode="w" if begin else "a", header=begin, index=False, sep=self.separator,
            float_format="%.5f", encoding="utf-8-sig" if begin else "utf-8",
            errors="backslashreplace",
        )  # fmt: skip

    def complete(self) -> None:
        """Write the file for Excel, if it is one; raises OSError."""
        if self.excel and self.rows:
            _write_excel(self.out, pd.concat(self.rows))
            self.path.unlink()
            self.path = self.out


def _written(text: str) -> str:
    """Return a text as it is in the file, where what is no character in UTF-8 is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_excel(path: Path, table: pd.DataFrame) -> None:
    """Write an Excel file in which texts stay texts, whatever they look like."""
    texts = table[["file", "caption", "error"]].fillna("").astype(str)
    texts = texts.map(_written)
    table = table.assign(**texts.replace(NOT_IN_XML, "\ufffd", regex=True)).round(5)
    with atomic_path(path, ending=".xlsx") as aside:
        writer = pd.ExcelWriter(aside, "openpyxl")
        table.to_excel(writer, sheet_name="captions", index=False)
        for row in writer.sheets["captions"].iter_rows():
            for cell in row:
                if isinstance(cell.value, str):
                    cell.data_type = "s"  # neither a formula nor an error
        writer.close()
