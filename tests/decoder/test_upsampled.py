"""A word's map, upsampled to a picture, keeps its peak and is smooth."""

import numpy as np
import pytest

from roco_caption.decoder.word_maps import upsampled


@pytest.mark.parametrize(("cell", "row", "column"), [(0, 0, 0), (6, 0, 6), (30, 4, 2), (48, 6, 6)])
def test_a_map_peaks_in_its_cell_and_is_smooth(cell, row, column):
    weights = np.full(49, 0.1 / 48, np.float32)
    weights[cell] = 0.9
    heat = upsampled(weights, 256)
    y, x = divmod(int(heat.argmax()), 256)
    assert (y * 7 // 256, x * 7 // 256) == (row, column)
    assert heat.shape == (256, 256) and heat.min() >= 0
    assert np.abs(np.diff(heat, axis=0)).max() < 0.1 > np.abs(np.diff(heat, axis=1)).max()
