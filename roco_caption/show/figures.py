"""Figures with a text for who cannot see them, readable on a phone and on a dark page."""

from __future__ import annotations

import html
import io
import textwrap
from base64 import b64encode
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

INK, GREY, BLUE, ORANGE = "#1b1b1b", "#666666", "#1f77b4", "#d95f02"
SHARPNESS = 1.5  # image pixels for one of the page: phones' and newer screens have two or three
# A figure shrinks with its page, but on a phone its letters would be tiny: there it is scrolled.
STYLE = """<style>
.described-figure { overflow-x: auto; }
.described-figure img { width: var(--width); max-width: 100%; }
@media (max-width: 600px) {
    .described-figure img { min-width: calc(0.8 * var(--width)); }
}
</style>"""


class DescribedFigure(Figure):
    """A matplotlib figure that says in a notebook what it shows.

    JupyterLab and nbconvert ignore the alternative text of a plain image, so the figure shows
    itself as HTML too; the PNG of every figure stays beside it for other formats.

    Attributes:
        alt: the text for who cannot see the figure.
    """

    alt = ""

    def _repr_html_(self) -> str:
        self.draw_without_rendering()  # the layout of texts below images settles at the second pass
        picture = io.BytesIO()
        # a tenth of the PNG's size, and every browser since 2020 shows it
        self.savefig(
            picture, format="webp", dpi=self.dpi * SHARPNESS, bbox_inches="tight",
            pil_kwargs={"quality": 85},
        )  # fmt: skip
        source = f"data:image/webp;base64,{b64encode(picture.getvalue()).decode()}"
        width = f"--width: {round(self.get_figwidth() * self.dpi)}px"
        image = f'<img alt="{html.escape(self.alt)}" src="{source}">'
        return f'{STYLE}<div class="described-figure" style="{width}">{image}</div>'


def new_figure(
    rows: int, columns: int, width: float, height: float
) -> tuple[DescribedFigure, np.ndarray]:
    """Return a figure of rows by columns, its size in inches, and its axes."""
    figure: Any
    # white on purpose: the labels stay readable on a notebook's dark page
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, facecolor="white",
        layout="constrained", FigureClass=DescribedFigure,
    )  # fmt: skip
    plt.close(figure)  # the cell shows it once, as its result
    return figure, axes


def brief(text: str, letters: int = 120) -> str:
    """Return a text's first words, as many as fit."""
    return textwrap.shorten(text, letters, placeholder=" …")


# A caption is as wide as its table, and on a phone that is wider than the page.
CAPTION = "caption-side: bottom; text-align: left; max-width: 88vw; position: sticky; left: 0"
# Which end of a column of scores is the better one; "words" and "copied" have none.
_METRICS = [*(f"BLEU-{n}" for n in range(1, 5)), "METEOR", "ROUGE-1", "ROUGE-L", "CIDEr"]
_BEST = {**dict.fromkeys([*_METRICS, "distinct"], "max"), "repeated": "min"}


def styled(table: pd.DataFrame, form: str | None = None, *, caption: str = "") -> Any:
    """Return a table as a notebook should show it.

    Args:
        table: of numbers; its labels may be any text.
        form: of all numbers, such as "{:.1%}"; three decimals for those that are not whole, when
            None.
        caption: written below.

    Returns:
        A pandas Styler; without jinja2, which pandas needs for it, the table itself.
    """
    try:
        styler = table.style
    except (ImportError, AttributeError):  # pandas versions differ in which one
        return table
    styler = styler.format(form, precision=3, thousands=",", na_rep="", escape="html")
    styler = styler.format_index(escape="html").format_index(escape="html", axis="columns")
    right = {"selector": "td, th.col_heading", "props": "text-align: right"}
    below = {"selector": "caption", "props": CAPTION}
    return styler.set_caption(html.escape(caption)).set_table_styles([right, below])


def style_scores(table: pd.DataFrame) -> Any:
    """Return a score table as a notebook should show it.

    Args:
        table: what `evaluation.score_table` returned; its `attrs["caption"]` is shown if it
            is there.

    Returns:
        A pandas Styler: values over their intervals, the best of a column in bold, no colours (so
        it reads in dark mode too); without jinja2, which pandas needs for it, the table itself.
    """
    names = [name for name in table if not name.endswith(("_low", "_high"))]
    shown = pd.DataFrame({name: _cells(table, name) for name in names}, index=table.index)
    bold = pd.DataFrame("", index=table.index, columns=names)
    for name in set(names) & set(_BEST):
        bold.loc[table[name] == table[name].agg(_BEST[name]), name] = "font-weight: bold"
    styler = styled(shown, caption=table.attrs.get("caption", ""))
    if styler is shown:
        return table
    # the cells hold tags of their own
    return styler.format(None).apply(lambda _: bold, axis=None)


def _cells(table: pd.DataFrame, name: str) -> list[str]:
    """Return a column as HTML: each value over its interval, nothing where there is no value."""
    form = ".1f" if name == "words" else ".3f"
    cells = [f"{value:{form}}" if value == value else "" for value in table[name]]
    if f"{name}_low" in table:
        ends = zip(cells, table[f"{name}_low"], table[f"{name}_high"], strict=True)
        cells = [
            f"{cell}<br><small>[{low:{form}}, {high:{form}}]</small>" if cell else ""
            for cell, low, high in ends
        ]
    return cells
