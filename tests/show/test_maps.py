"""Heat maps lie where the evidence is, and the findings' truth judges their peaks."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from roco_caption.decoder.word_maps import upsampled
from roco_caption.scores.phantoms import peaks_on_findings
from roco_caption.show.plots import evidence_maps


def one_cell(place, cells=49, weight=0.9):
    weights = np.full(cells, (1 - weight) / (cells - 1), np.float32)
    weights[place] = weight
    return weights


@pytest.mark.parametrize(("place", "y", "x"), [(0, 0, 0), (6, 0, 6), (30, 4, 2), (48, 6, 6)])
def test_a_map_peaks_in_its_cell_and_is_smooth(place, y, x):
    heat = upsampled(one_cell(place), 256)
    row, column = divmod(int(heat.argmax()), 256)
    assert (row * 7 // 256, column * 7 // 256) == (y, x)
    assert heat.shape == (256, 256) and heat.min() >= 0
    assert np.abs(np.diff(heat, axis=0)).max() < 0.1 > np.abs(np.diff(heat, axis=1)).max()


def test_each_telling_word_has_its_map_on_one_scale(tmp_path):
    path = tmp_path / "image.png"
    Image.new("L", (60, 40), 90).save(path)
    words = ["a", "small", "left", "effusion", "on", "chest", "radiograph"]
    weights = np.stack(
        [one_cell(i, weight=w) for i, w in enumerate((0.9, 0.3, 0.8, 0.4, 0.9, 0.1, 0.25))]
    )
    figure = evidence_maps(str(path), words, weights, note="synthetic")
    drawn = [axis for axis in figure.axes if axis.images]
    titles = [axis.get_title() for axis in drawn]
    assert titles == ["the image", "small", "left", "effusion", "radiograph"]  # no "chest": faint
    tops = [float(axis.images[1].get_array().max()) for axis in drawn[1:]]
    assert tops == pytest.approx([0.375, 1, 0.5, 0.3125], abs=0.08)
    assert len(drawn[0].images) == 1 and figure.get_suptitle() == "synthetic"
    assert "“left” most at the top" in figure.alt and "chest" not in figure.alt
    against = evidence_maps(str(path), ["mass", "of"], -np.eye(2, 49))
    assert sum(bool(axis.images) for axis in against.axes) == 1
    assert "for none" in against.alt
    long = evidence_maps(str(path), list("bcdefghi") * 5, np.stack([one_cell(3)] * 40), panels=8)
    assert sum(bool(axis.images) for axis in long.axes) == 8
    again = evidence_maps(str(path), ["mass", "no", "mass"], np.stack([one_cell(3)] * 3))
    assert [axis.get_title() for axis in again.axes if axis.images] == ["the image", "mass", "no"]
    assert evidence_maps(str(path), [], np.zeros((0, 49))).axes[0].images


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
    looks = [
        (words, np.stack([elsewhere, one_cell(24)])),
        (words, np.stack([one_cell(24), elsewhere])),
        (["cyst", "of", "water"], np.stack([one_cell(24), elsewhere, elsewhere])),
        (words, np.stack([one_cell(24)] * 2)),  # names another finding
        (["abscess", "an", "abscess"], np.stack([elsewhere, elsewhere, one_cell(24)])),
        (["infarction"], one_cell(2 * 7 + 4)[None]),
    ]
    judged = peaks_on_findings(looks, truth)
    assert judged.peak.to_dict() == {"a": True, "b": False, "c": False, "e": True, "f": True}
    assert judged.cell.to_dict() == {"a": True, "b": False, "c": True, "e": True, "f": True}
    assert judged.chance["a"] == pytest.approx(36 * 36 / 256**2)
    assert judged.chance["c"] == pytest.approx(20 * 36 / 256**2)
    assert judged.cell_chance["a"] == pytest.approx(1 / 49)
    assert judged.cell_chance["c"] == pytest.approx(2 / 49)
    none = peaks_on_findings([([], np.zeros((0, 49)))] * 6, truth)
    assert list(none.columns) == ["peak", "cell", "chance", "cell_chance"] and none.empty
