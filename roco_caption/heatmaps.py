"""Heat maps of what in the image speaks for each word, and how often they are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from roco_caption.figures import GREY, INK, ORANGE, DescribedFigure, new_figure
from roco_caption.phantom_drawing import SIZE
from roco_caption.phantom_reading import finding_word
from roco_caption.phantoms import BOX
from roco_caption.plots import draw_image

PIXELS = 320  # side of a heat map, as of the images that plots shows
FAINTLY = 0.25  # of the strongest word's evidence: less would hardly be seen, and gets no map

# What is said of no place in the image; a map for each would hide the others.
FUNCTION_WORDS = {
    "a", "an", "the", "of", "on", "in", "with", "by", "to", "from", "at", "for", "and", "or",
    "is", "are", "that", "which", "this", "as", "over", "into", "along", "through", "beside",
    "near", "keeping", "shows", "showing", "demonstrates", "demonstrating", "reveals", "seen",
    "visible", "consistent", "suggesting", "sided", "<unk>",
}  # fmt: skip


def upsampled(weights: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Return one word's evidence as a smooth map; what speaks against it is left out.

    Args:
        weights: float (cells,), the cells of a square grid row by row.
        size: side of the map in pixels.

    Returns:
        float32 (size, size), at least 0.
    """
    side = round(len(weights) ** 0.5)
    grid = Image.fromarray(np.asarray(weights, np.float32).reshape(side, side))
    return np.maximum(np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)), 0)


def evidence_maps(
    image: str, words: Sequence[str], weights: np.ndarray, note: str = "", panels: int = 12
) -> DescribedFigure:
    """Show which parts of the image speak for each word of a caption.

    Args:
        image: the image's file.
        words: the caption's; function words, and words that nothing in the image speaks for, get
            no map, and one that comes again no second one, which would be the same.
        weights: float (words, cells), as `evidence` returns them.
        note: written above, such as that the images are synthetic.
        panels: the image and the first words shown.
    """
    telling = [i for i, w in enumerate(words) if w not in FUNCTION_WORDS and w not in words[:i]]
    # one scale for all words, so that one that the image says little of stays pale
    top = max((float(weights[i].max()) for i in telling), default=0.0)
    shown = [i for i in telling if weights[i].max() > FAINTLY * top][: panels - 1]
    columns = min(6, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    figure, axes = new_figure(rows, columns, 2.1 * columns, 2.4 * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    draw_image(axes.flat[0], image, PIXELS)
    axes.flat[0].set_title("the image", fontsize=10, color=GREY)
    for axis, i in zip(axes.flat[1:], shown, strict=False):
        draw_image(axis, image, PIXELS)
        heat = np.minimum(upsampled(weights[i]) / top, 1)
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * heat)
        axis.set_title(words[i], fontsize=11, color=INK)
    if note:
        figure.suptitle(note, color=ORANGE, fontsize=11)
    told = "; ".join(f"“{words[i]}” most {_place(weights[i])}" for i in shown)
    figure.alt = f"Heat maps of what in an image speaks for each word: {told or 'for none'}."
    return figure


def _place(weights: np.ndarray) -> str:
    """Say in which ninth of the image the largest weight is."""
    side = round(len(weights) ** 0.5)
    row, column = (int(3 * (k + 0.5) / side) for k in divmod(int(weights.argmax()), side))
    height = ("at the top", "half-way down", "at the bottom")[row]
    return f"{height}{(' left', '', ' right')[column]}"


def peaks_on_findings(
    found: Sequence[tuple[Sequence[str], np.ndarray]], truth: pd.DataFrame
) -> pd.DataFrame:
    """Say for each phantom whether the map of the word that names its finding peaks on it.

    Args:
        found: of `evidence`, one a phantom.
        truth: rows of the phantoms' `attributes.csv` in the same order.

    Returns:
        One row a phantom whose caption names its finding, with truth's index: `peak`, whether
        the smooth map's maximum lies in the finding's box; `cell`, whether the cell of the
        largest value touches it; `chance`, the box's share of the image; `cell_chance`, the share
        of the cells that touch it.
    """
    rows = {}
    for (words, weights), (index, row) in zip(found, truth.iterrows(), strict=True):
        place = finding_word(words, row.finding)
        if place is None:
            continue
        box = tuple(int(row[name]) for name in BOX)
        y, x = divmod(int(upsampled(weights[place], SIZE).argmax()), SIZE)
        side = round(len(weights[place]) ** 0.5)
        starts = SIZE / side * np.arange(side)
        down = (starts < box[3]) & (starts + SIZE / side > box[1])
        across = (starts < box[2]) & (starts + SIZE / side > box[0])
        touches = np.outer(down, across).ravel()
        rows[index] = {
            "peak": box[0] <= x < box[2] and box[1] <= y < box[3],
            "cell": touches[weights[place].argmax()],
            "chance": (box[2] - box[0]) * (box[3] - box[1]) / SIZE**2,
            "cell_chance": touches.mean(),
        }
    columns = ["peak", "cell", "chance", "cell_chance"]
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=columns)
