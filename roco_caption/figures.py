"""Figures with a text for who cannot see them, readable on a phone and on a dark page."""

from __future__ import annotations

import html
import io
import textwrap
from base64 import b64encode
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
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
