"""Tables as the notebook shows them: aligned, explained, without colours, so that dark pages do."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd

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
