"""Evidence: how much less probable each word of a caption is with a part of the image hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from roco_caption.backend import compiled
from roco_caption.batches import arrays_of
from roco_caption.files import UserError
from roco_caption.searching import FeatureCaptioner
from roco_caption.text import END, PAD


def evidence(
    captioner: FeatureCaptioner, features: Any, captions: Sequence[str]
) -> list[tuple[list[str], np.ndarray]]:
    """Return on which parts of its image each word of a caption rests.

    Each cell of the grid is hidden with its neighbours, which then show what is usual there, and
    the caption is read again (occlusion: Zeiler and Fergus 2014, "Visualizing and Understanding
    Convolutional Networks"). The encoder is not needed again. Where attention looks says less: it
    can look at one place while the word comes from another.

    Args:
        captioner: with attention; its encoder is not used.
        features: a pair of float (n, d) and the grids, an array or a `Grid` (n, cells, channels)
            whose cells are those of a square, row by row.
        captions: n texts in the same order, its own or others'.

    Returns:
        For each caption its words as the decoder knows them, and by how many nats the
        log-probability of each falls with each cell hidden, float32 (words, cells).

    Raises:
        UserError: this captioner has no attention.
    """
    captioning = captioner.captioning
    if not captioning.attends:
        raise UserError("This captioner was trained without attention, and sees no parts.")
    tokens = captioner.tokenizer.encode(captions)
    tokens = tokens[:, : (tokens != PAD).sum(axis=1).max(initial=2)]  # one shape for all
    arrays = arrays_of(features)
    kept = 1 - np.pad(_neighbourhoods(arrays[1].shape[1]), ((1, 0), (0, 0)))  # first: all of them

    def read(parts: Any, row: Any) -> Any:
        """Return the log-probability of each word and the end, float32 (len(kept), t)."""
        parts = tuple(ops.repeat(part, len(kept), axis=0) for part in parts)
        step, state, image = captioning.start(parts, kept)

        def advance(k: Any, state: Any, log_ps: Any) -> tuple[Any, ...]:
            column = ops.zeros((len(kept), 1), "int32")
            logits, state = step(column + ops.take(row, k), state, image)
            said = ops.take(ops.log_softmax(logits[:, 0], axis=-1), ops.take(row, k + 1), axis=-1)
            zero = ops.zeros_like(k)
            return k + 1, state, ops.slice_update(log_ps, (zero, k), said[:, None])

        length = row.shape[0] - 1
        state = keras.tree.map_structure(lambda array: array[:, None], state)
        begin = ops.convert_to_tensor(0, "int32"), state, ops.zeros((len(kept), length))
        return ops.while_loop(lambda k, *_: k < length, advance, begin)[2]

    read, found = compiled(read), []
    for i, row in enumerate(tokens):
        parts = tuple(np.asarray(array[i : i + 1], np.float32) for array in arrays)
        log_ps = np.asarray(read(parts, row))
        words = [captioner.tokenizer.words[token] for token in row[row > END]]
        found.append((words, (log_ps[0] - log_ps[1:])[:, : len(words)].T))
    return found


def _neighbourhoods(cells: int) -> np.ndarray:
    """Return for each cell of a square which cells are it or next to it, float32 (0 or 1)."""
    side = round(cells**0.5)
    row, column = np.divmod(np.arange(cells), side)
    near = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    return near.astype(np.float32)
