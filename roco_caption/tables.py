"""Tables as the notebook shows them: aligned, explained, without colours, so that dark pages do."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd

# A caption is as wide as its table, and on a phone that is wider than the page.
CAPTION = "caption-side: bottom; text-align: left; max-width: 88vw; position: sticky; left: 0"


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
