"""Heat-map peaks are compared with where the phantoms' findings were drawn."""

import numpy as np
import pandas as pd
import pytest

from roco_caption.scores.phantoms import peaks_on_findings


def one_cell(cell):
    """Return the map of a word that only one of 49 cells supports."""
    weights = np.full(49, 0.1 / 48, np.float32)
    weights[cell] = 0.9
    return weights


def test_peaks_are_judged_at_the_word_that_names_the_finding():
    # cell 24 is the middle one: pixels 110 to 146
    boxes = {"x0": 110, "y0": 110, "x1": 146, "y1": 146}
    truth = pd.DataFrame(
        [
            {"finding": "renal mass"} | boxes,
            {"finding": "renal mass"} | boxes,
            {"finding": "renal cyst"} | boxes | {"x0": 140, "x1": 160},
            {"finding": "glioma"} | boxes,
            {"finding": "psoas abscess"} | boxes,
            {"finding": "infarct", "x0": 147, "x1": 182, "y0": 74, "y1": 109},  # row 2, column 4
        ],
        index=list("abcdef"),
    )
    elsewhere = one_cell(0)
    words = ["renal", "mass"]
    maps = [
        (words, np.stack([elsewhere, one_cell(24)])),
        (words, np.stack([one_cell(24), elsewhere])),
        (["cyst", "of", "water"], np.stack([one_cell(24), elsewhere, elsewhere])),
        (words, np.stack([one_cell(24)] * 2)),  # names another finding
        (["abscess", "an", "abscess"], np.stack([elsewhere, elsewhere, one_cell(24)])),
        (["infarction"], one_cell(2 * 7 + 4)[None]),
    ]
    peaks = peaks_on_findings(maps, truth)
    assert peaks.peak.to_dict() == {"a": True, "b": False, "c": False, "e": True, "f": True}
    assert peaks.cell.to_dict() == {"a": True, "b": False, "c": True, "e": True, "f": True}
    assert peaks.chance["a"] == pytest.approx(36 * 36 / 256**2)
    assert peaks.chance["c"] == pytest.approx(20 * 36 / 256**2)
    assert peaks.cell_chance["a"] == pytest.approx(1 / 49)
    assert peaks.cell_chance["c"] == pytest.approx(2 / 49)
    none = peaks_on_findings([([], np.zeros((0, 49)))] * 6, truth)
    assert list(none.columns) == ["peak", "cell", "chance", "cell_chance"] and none.empty
