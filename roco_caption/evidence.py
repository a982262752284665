"""Evidence: how much each part of the image speaks for each word of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from roco_caption.batches import arrays_of
from roco_caption.ensemble import members_of
from roco_caption.files import UserError
from roco_caption.model import BLOCK
from roco_caption.searching import FeatureCaptioner
from roco_caption.text import END, PAD

WINDOW = 1.8  # cells: the standard deviation of the window that evidence is gathered by


def evidence(
    captioner: FeatureCaptioner, features: Any, captions: Sequence[str]
) -> list[tuple[list[str], np.ndarray]]:
    """Return which parts of its image speak for each word of a caption.

    With attention the decoder is told by its concepts which words the grid speaks for, each rated
    by a sum over all cells. The terms of that sum are a word's map: nothing is estimated, and no
    image is seen again (class activation maps: Zhou et al. 2016, "Learning Deep Features for
    Discriminative Localization", with slopes of each cell's own). As cells next to each other
    see much the same, and share a word's slopes at random, the terms are gathered by a Gaussian
    window. Where attention looks says less: it can look at one place while the word comes from
    another.

    Args:
        captioner: with attention and concepts; its encoder is not used.
        features: a pair of float (n, d) and the grids, an array or a `Grid` (n, cells, channels)
            whose cells are those of a square, row by row.
        captions: n texts in the same order, its own or others'.

    Returns:
        For each caption its words as the decoder knows them, and by how many standard deviations
        each cell raises the rating of each, float32 (words, cells); zeros for words that no
        concept rates, such as most function words.

    Raises:
        UserError: this captioner has no attention, or no concepts.
    """
    captioning = members_of(captioner.captioning)[0]  # all have the same concepts
    if not captioning.rates_cells:
        raise UserError(
            "This captioner was trained without attention or without concepts, and does not tell "
            "its image's parts apart. Train it with ATTENTION, and CONCEPTS above 0."
        )
    layer = captioning.next_word.get_layer
    offset, projection, rated = layer("concepts_grid").get_weights()
    column = {int(word): k for k, word in enumerate(rated) if word != PAD}
    grids, found = arrays_of(features)[1], []
    cells = grids.shape[1]
    offset = offset.reshape(cells, -1)
    slopes = projection.reshape(*offset.shape, -1)
    window = _window(cells)
    tokens = captioner.tokenizer.encode(captions)
    for start in range(0, len(tokens), BLOCK):
        seen = np.asarray(grids[start : start + BLOCK], np.float32)
        centred = np.asarray(layer("scaler_grid")(seen)) - offset
        for grid, row in zip(centred, tokens[start : start + BLOCK], strict=True):
            row = row[row > END]
            weights = np.zeros((len(row), cells), np.float32)
            for k, word in enumerate(row.tolist()):
                if word in column:
                    weights[k] = window @ (grid * slopes[:, :, column[word]]).sum(axis=1)
            found.append(([captioner.tokenizer.words[token] for token in row], weights))
    return found


def _window(cells: int) -> np.ndarray:
    """Return how much of each cell's evidence each cell of a square gathers, (cells, cells)."""
    side = round(cells**0.5)
    place = np.stack(np.divmod(np.arange(cells), side), axis=1)
    apart = ((place[:, None] - place) ** 2).sum(axis=-1)
    return np.exp(-apart / (2 * WINDOW**2)).astype(np.float32)
