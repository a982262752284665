"""Which claims of a caption are right, and shares of them per system."""

import numpy as np
import pandas as pd
import pytest

from roco_caption.scores import phantoms
from roco_caption.scores.phantoms import (
    CLAIMS,
    claims_right,
    peaks_on_findings,
    score_phantoms,
    shares_right,
)

TRUTH = "A small right lung mass on chest X-ray."


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("A bulky right lung mass on chest X-ray.", ["size"]),
        ("Chest radiograph: small right-sided pulmonary mass.", []),
        ("A small left renal cyst on abdominal CT.", ["modality", "finding", "side"]),
        ("A small lung mass on chest X-ray.", ["side"]),  # nothing claimed
        ("A small right and left lung mass on chest X-ray.", ["side"]),  # both claimed
        ("No small right lung mass on chest X-ray.", ["finding", "side", "size"]),
        ("", CLAIMS),
    ],
)
def test_each_claim_of_a_caption_is_judged(caption, wrong):
    right = claims_right([TRUTH, TRUTH], [TRUTH, caption])
    assert list(right) == CLAIMS == ["modality", "finding", "side", "size"]
    assert right.iloc[0].all()
    assert [name for name in CLAIMS if not right[name][1]] == wrong


def test_captions_keep_their_order_whatever_their_index():
    truth = pd.Series([TRUTH, "large left infarct on brain MRI"], index=[7, 3])
    right = claims_right(truth, pd.Series(list(truth), index=[3, 7]))
    assert right.all(axis=None) and list(right.index) == [0, 1]


def test_a_caption_is_read_once_however_often_it_is_scored(monkeypatch):
    read, attributes_of = [], phantoms.attributes_of
    phantoms._claims.cache_clear()
    monkeypatch.setattr(phantoms, "attributes_of", lambda c: read.append(c) or attributes_of(c))
    captions = [TRUTH, "large left infarct on brain MRI"]
    shuffled = [captions[::-1]] * 5
    table = score_phantoms({"this model": captions, "shuffled": shuffled}, captions)
    assert sorted(read) == sorted(captions)
    assert table.loc["this model", "all four"] == 1 and table.loc["shuffled", "all four"] == 0
    assert table.loc["shuffled"].to_dict() == shares_right(captions, captions[::-1])


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
