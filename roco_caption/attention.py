"""Attention: which cells of the encoder's grid the decoder looks at before each word."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("roco_caption")
class GridCells(layers.Layer):
    """Gives each cell of a grid a vector that says what is there and where it is.

    Convolutions do not know where in the image they look, and sides are what captions are about:
    so a vector is learned for each place and added.

    Args:
        units: length of a cell's vector.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.what = layers.Dense(units, name="what")

    def build(self, input_shape: Shape) -> None:
        self.what.build(input_shape)
        self.where = self.add_weight(
            shape=(input_shape[-2], self.units),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
            name="where",
        )

    def call(self, grid: Any) -> Any:
        """Map float (n, cells, channels) to float (n, cells, units)."""
        # not bent by a tanh: then a side can only be told by looking at it
        return self.what(grid) + self.where

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable("roco_caption")
class WordAttention(layers.Layer):
    """Looks at the cells that fit the words so far and the image as a whole, and says what it saw.

    Luong's "general" attention (Luong, Pham, Manning 2015, "Effective Approaches to
    Attention-based Neural Machine Translation"), scaled (Vaswani et al. 2017, "Attention Is All
    You Need"). Its query is the LSTM's output, as in Xu et al. 2015, "Show, Attend and Tell", and
    what the encoder says of the whole image. Unlike there, what was seen does not enter the LSTM:
    so a caption's words can still be trained in one pass.

    Args:
        units: length of the result.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.result = layers.Dense(units, name="result")

    def build(self, words_shape: Shape, cells_shape: Shape) -> None:
        size = cells_shape[-1]
        self.query = layers.Dense(size, name="query")
        self.query.build(words_shape)
        self.result.build((None, size))

    def call(self, words: Any, cells: Any) -> Any:
        """Look at the cells before each of some words.

        Args:
            words: the LSTM's outputs with the image's vector added, float (n, units) or
                (n, t, units).
            cells: of `GridCells`, float (n, cells, size).

        Returns:
            float (n, units) or (n, t, units).
        """
        query = self.query(words) / cells.shape[-1] ** 0.5
        one = len(words.shape) == 2
        scores = ops.einsum("ntu,ncu->ntc", query[:, None] if one else query, cells)
        found = ops.matmul(ops.softmax(scores, axis=-1), cells)
        return self.result(found[:, 0] if one else found)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}
