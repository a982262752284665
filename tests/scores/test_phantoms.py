"""Which claims of a caption are right, and shares of them per system."""

import pandas as pd
import pytest

from roco_caption.scores import phantoms
from roco_caption.scores.phantoms import CLAIMS, claims_right, score_phantoms, shares_right

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
