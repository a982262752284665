"""Figures with alt text, and tables safe in dark mode."""

from __future__ import annotations

import html
import io
import textwrap
import warnings
from base64 import b64encode
from typing import Any
from unicodedata import category

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, GREY, BLUE, ORANGE, RED = "#1b1b1b", "#666666", "#1f77b4", "#d95f02", "#b2182b"
LETTERS = 120  # of a text in alt text
SHARPNESS = 1.5  # image pixels per CSS pixel: most screens have two or three device pixels
# Figures shrink with the page, but on a phone their text would be tiny: they scroll there instead.
FIGURE_CSS = """<style>
.described-figure { overflow-x: auto; }
.described-figure img { width: var(--width); max-width: 100%; }
@media (max-width: 600px) {
    .described-figure img { min-width: calc(0.8 * var(--width)); }
}
</style>"""
# A caption would be as wide as its table, which on a phone is wider than the page.
CAPTION_CSS = "caption-side: bottom; text-align: left; max-width: 88vw; position: sticky; left: 0"
UNRANKED = {"words", "copied", "p_vs_first"}  # columns of scores without a best value


class DescribedFigure(Figure):
    """A matplotlib figure with alt text: an HTML form, as notebooks drop the alt text of a PNG."""

    alt = ""

    def draw(self, renderer: Any) -> None:
        with warnings.catch_warnings():  # one per letter that no font has, though drawn as a box
            warnings.filterwarnings("ignore", "Glyph .* missing from|Matplotlib currently does not")
            super().draw(renderer)

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        # a tenth of the PNG's size; all browsers since 2020 support it
        self.savefig(
            buffer, format="webp", dpi=self.dpi * SHARPNESS, bbox_inches="tight",
            pil_kwargs={"quality": 85},
        )  # fmt: skip
        source = f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
        width = f"--width: {round(self.get_figwidth() * self.dpi)}px"
        image = f'<img alt="{html.escape(self.alt)}" src="{source}">'
        return f'{FIGURE_CSS}<div class="described-figure" style="{width}">{image}</div>'

    def _ipython_display_(self) -> None:
        """Show the HTML form alone: a notebook would also draw and keep a PNG, unseen beside it."""
        from IPython.display import display

        display({"text/html": self._repr_html_(), "text/plain": self.alt}, raw=True)


def new_figure(
    count: int, columns: int, width: float, height: float, note: str = ""
) -> tuple[DescribedFigure, np.ndarray]:
    """Return a figure of `count` panels, each of so many inches, `note` above, and its axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure: Any
    # white even on a notebook's dark page, so that the labels stay readable
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07), FigureClass=DescribedFigure,
    )  # fmt: skip
    plt.close(figure)  # otherwise the cell shows it twice
    for axis in axes.flat[count:]:
        axis.remove()
    if note:
        figure.suptitle(note, color=ORANGE, fontsize=11, parse_math=False)
    return figure, axes.ravel()[:count]


def plain(text: str) -> str:
    """Return a text on one line, without control characters."""
    return " ".join("".join(" " if category(c) in ("Cc", "Cs") else c for c in text).split())


def brief(text: str) -> str:
    """Return as many of a text's first words as fit, or letters if its first word does not."""
    text = plain(text)
    short = textwrap.shorten(text, LETTERS, placeholder=" …")
    return f"{text[: LETTERS - 2]} …" if short == "…" and text != short else short


def styled(table: pd.DataFrame, form: str | None = None, *, caption: str = "") -> Any:
    """Return a table as a pandas Styler, numbers in a `form` such as "{:.1%}", caption below.

    Texts are shown as they are: HTML and formulas ("$x$") in them are not interpreted.
    """
    table = table.map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
    styler = table.style.format(form, precision=3, thousands=",", na_rep="", escape="html")
    styler = styler.format_index(escape="html").format_index(escape="html", axis="columns")
    cells = {"selector": "td, th.col_heading", "props": "text-align: right"}
    long = {"selector": "td", "props": "overflow-wrap: anywhere"}  # words
    below = {"selector": "caption", "props": CAPTION_CSS}
    styler = styler.set_table_attributes('class="tex2jax_ignore mathjax_ignore"')
    return styler.set_caption(html.escape(plain(caption))).set_table_styles([cells, long, below])


def style_scores(table: pd.DataFrame) -> Any:
    """Return the result of `score_table` as a pandas Styler, intervals below, the best in bold."""
    names = [name for name in table if not name.endswith(("_low", "_high"))]
    cells = pd.DataFrame({name: _cells(table, name) for name in names}, index=table.index)
    bold = pd.DataFrame("", index=table.index, columns=names)
    for name in set(names) - UNRANKED:
        best = table[name].min() if name == "repeated" else table[name].max()
        bold.loc[table[name] == best, name] = "font-weight: bold"
    styler = styled(cells, caption=table.attrs.get("caption", ""))
    return styler.format(None).apply(lambda _: bold, axis=None)  # the cells are HTML: no escaping


def _cells(table: pd.DataFrame, name: str) -> list[str]:
    """Return a column as HTML: each value above its interval, "" for NaN."""
    number = "{:.1f}" if name == "words" else "{:.3f}"
    columns = [column for column in (name, f"{name}_low", f"{name}_high") if column in table]
    interval = f"<br><small>[{number}, {number}]</small>" if columns[1:] else ""
    rows = table[columns].to_numpy()
    return ["" if np.isnan(row[0]) else (number + interval).format(*row) for row in rows]
