"""Heat maps: how much each part of the image supports each word of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import IMAGE_BLOCK, Decoder, Ensemble
from roco_caption.features.table import arrays_of
from roco_caption.text.tokenizer import END, PAD, CaptionTokenizer

WINDOW = 1.8  # cells: standard deviation of the window that smooths a map
PIXELS = 320  # side of a heat map


def word_maps(
    decoder: Decoder | Ensemble,
    tokenizer: CaptionTokenizer,
    features: Any,
    captions: Sequence[str],
) -> list[tuple[list[str], np.ndarray]]:
    """Return how much each grid cell supports each word of its image's caption.

    With attention, concepts rate words from the grid, each by a sum over all cells. The terms of
    that sum are a word's map (class activation maps: Zhou et al. 2016, "Learning Deep Features for
    Discriminative Localization", with weights per cell), smoothed by a Gaussian window, as
    neighbouring cells see much the same. Attention weights say less: attention can look at one
    place while the word comes from another.

    Features are a pair of float (n, d) and the grids (n, cells, channels), whose cells are those of
    a square, row by row; captions are n texts, generated or not.

    Returns for each caption its words as the decoder knows them, and by how many standard
    deviations each cell raises each word's rating, float32 (words, cells); zeros for words that no
    concept rates. UserError if the decoder has no attention or no concepts.
    """
    if not decoder.rates_cells:
        raise UserError(
            "This captioner was trained without attention, so it has no heat maps. Train one with "
            "ATTENTION = True."
        )
    parts = decoder.members[0].parts  # all members have the same concepts
    offset, projection, rated = parts["concepts_grid"].get_weights()
    column = {int(word): k for k, word in enumerate(rated) if word != PAD}
    grids, maps = arrays_of(features)[1], []
    cells = grids.shape[1]
    offset = offset.reshape(cells, -1)
    slopes = projection.T.copy().reshape(-1, *offset.shape)  # contiguous for each word
    window = _window(cells)
    tokens = tokenizer.encode(captions)
    for start in range(0, len(tokens), IMAGE_BLOCK):
        block = np.asarray(grids[start : start + IMAGE_BLOCK], np.float32)
        centred = np.asarray(parts["scaler_grid"](block)) - offset
        for grid, row in zip(centred, tokens[start : start + IMAGE_BLOCK], strict=True):
            row = row[row > END]
            weights = np.zeros((len(row), cells), np.float32)
            for k, word in enumerate(row.tolist()):
                if word in column:
                    weights[k] = window @ (grid * slopes[column[word]]).sum(axis=1)
            maps.append(([tokenizer.words[token] for token in row], weights))
    return maps


def _window(cells: int) -> np.ndarray:
    """Return the Gaussian weight between cells of a square, float32 (cells, cells)."""
    side = round(cells**0.5)
    place = np.stack(np.divmod(np.arange(cells), side), axis=1)
    distance = ((place[:, None] - place) ** 2).sum(axis=-1)
    return np.exp(-distance / (2 * WINDOW**2)).astype(np.float32)


def upsampled(weights: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Return a word's map (cells,) as a smooth picture, float32 (size, size), at least 0."""
    side = round(len(weights) ** 0.5)
    grid = Image.fromarray(np.asarray(weights, np.float32).reshape(side, side))
    return np.maximum(np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)), 0)
