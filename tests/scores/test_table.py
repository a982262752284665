import numpy as np
import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.scores.table import (
    bootstrap_weights,
    breakdown,
    caption_scores,
    gain_in_words,
    length_quartiles,
    randomisation_p,
    score_table,
)

REFERENCES = [
    "Chest X-ray showing a right pleural effusion.",
    "Axial CT of the abdomen shows a 5 mm liver lesion (arrow).",
    "Sagittal T2-weighted MRI of the lumbar spine.",
    "Ultrasound of the left kidney without hydronephrosis.",
]
OTHERS = ["chest x-ray", "ct of the abdomen shows a mass", "", "the the the the"]


def table(systems, references=REFERENCES, **settings):
    return score_table(references, systems, **{"resamples": 200} | settings)


def test_the_references_themselves_score_best_and_nothing_scores_zero():
    scores = table({"perfect": REFERENCES, "other": OTHERS, "nothing": [""] * 4})
    perfect, nothing = scores.loc["perfect"], scores.loc["nothing"]
    assert perfect[["BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-L"]].tolist() == pytest.approx([1.0] * 4)
    assert perfect["CIDEr"] == pytest.approx(10)
    assert (nothing[["BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-L", "CIDEr", "words"]] == 0).all()
    assert scores.index.name == "system"
    assert scores.loc["perfect", "words"] == 8.25


def test_every_interval_holds_its_value_and_narrows_with_more_images():
    few = table({"other": OTHERS})
    many = table({"other": OTHERS * 25}, REFERENCES * 25)
    for name in ("BLEU-1", "ROUGE-L", "words"):
        low, value, high = few.loc["other", [f"{name}_low", name, f"{name}_high"]]
        assert low <= value <= high
        narrow = many.loc["other", [f"{name}_low", f"{name}_high"]]
        assert narrow.iloc[1] - narrow.iloc[0] < (high - low) / 2


def test_images_of_one_case_count_as_one_draw():
    # Four copies of each image tell nothing new: resampled by case, the interval stays as wide.
    cases = [0, 1, 2, 3] * 4
    by_image = table({"other": OTHERS * 4}, REFERENCES * 4)
    by_case = table({"other": OTHERS * 4}, REFERENCES * 4, groups=cases)
    alone = table({"other": OTHERS})
    width = [t.loc["other", "words_high"] - t.loc["other", "words_low"] for t in (by_case, alone)]
    assert width[0] == pytest.approx(width[1])
    assert by_image.loc["other", "words_high"] < by_case.loc["other", "words_high"]
    assert "16 images of 4 cases" in by_case.attrs["caption"]


def test_runs_of_one_system_are_averaged():
    runs = [REFERENCES, OTHERS]
    scores = table({"first": REFERENCES, "second": OTHERS, "mean": runs})
    for name in ("BLEU-2", "CIDEr", "distinct", "repeated"):
        mean = (scores.loc["first", name] + scores.loc["second", name]) / 2
        assert scores.loc["mean", name] == pytest.approx(mean)


def test_p_is_small_for_systems_far_apart_and_one_for_equals():
    references = [f"finding {i} of the organ {i * 7} on slice {i * 3}" for i in range(40)]
    wrong = references[1:] + references[:1]
    scores = table({"main": references, "same": references, "wrong": wrong}, references)
    assert np.isnan(scores.loc["main", "p_vs_first"])
    assert scores.loc["same", "p_vs_first"] == 1
    assert scores.loc["wrong", "p_vs_first"] == pytest.approx(1 / 201)


def test_copies_of_training_captions_count_whatever_their_punctuation():
    train = ["chest x-ray.", "Some other caption", ""]
    scores = table({"other": OTHERS}, train_captions=train)
    assert scores.loc["other", "copied"] == 0.25  # the empty caption is no copy
    assert np.isnan(table({"other": OTHERS}).loc["other", "copied"])
    assert scores.loc["other", "repeated"] == 0.25  # "the the the the", one of four
    assert scores.loc["other", "distinct"] == 1


def test_one_image_is_enough():
    scores = table({"a": ["chest ct"], "b": [""]}, ["Chest CT of a man"])
    assert scores.loc["a", "BLEU-1_low"] == scores.loc["a", "BLEU-1"] > 0
    assert scores.loc["b", "p_vs_first"] == 1


def test_each_score_runs_with_one_and_two_images():
    for references in (REFERENCES[:1], REFERENCES[:2]):
        n = len(references)
        scores = table({"a": references, "b": OTHERS[:n]}, references, groups=["case"] * n)
        assert scores.loc["a", "ROUGE-L"] == pytest.approx(1)
        assert len(caption_scores(references, references)) == n
        assert breakdown(references, OTHERS[:n], ["x"] * n).loc["x", "images"] == n
        assert len(length_quartiles(references)) == n


@pytest.mark.parametrize(
    ("references", "alike"),
    [
        (["Chest CT."], True),
        (["Chest CT", "chest CT."], True),
        ([["Chest CT", "A CT"]] * 3, True),
        (["Chest CT", "Chest"], False),
    ],
)
def test_a_cider_of_zero_for_perfect_captions_is_explained(references, alike, capsys):
    perfect = [texts if isinstance(texts, str) else texts[0] for texts in references]
    scores = table({"perfect": perfect}, references)
    assert (scores.CIDEr.iloc[0] == 0) == alike
    assert ("NOTE: All images have the same references" in capsys.readouterr().out) == alike


def test_tables_take_several_references_per_image():
    several = [[text, "something else"] for text in REFERENCES]
    one, more = table({"a": REFERENCES}), table({"a": REFERENCES}, several)
    assert more.loc["a", "BLEU-4"] == one.loc["a", "BLEU-4"] == pytest.approx(1)
    assert more.loc["a", "ROUGE-1"] == pytest.approx(1)
    assert more.loc["a", "CIDEr"] < one.loc["a", "CIDEr"]
    pd.testing.assert_frame_equal(
        table({"a": OTHERS}), table({"a": OTHERS}, [[r] for r in REFERENCES])
    )
    assert caption_scores(several, REFERENCES).tolist() == pytest.approx([5] * 4)
    assert breakdown(several, REFERENCES, list("aabb"))["BLEU-1"].tolist() == pytest.approx([1, 1])
    assert list(length_quartiles([["a b", "a b c d"]])) == ["3–3 words"]


@pytest.mark.parametrize("last", [[], ["text", None], [3]])
def test_an_image_without_a_reference_is_refused(last):
    with pytest.raises(UserError, match="'references' has 3 captions for 4"):
        table({"a": OTHERS}, [*REFERENCES[:3], last])


@pytest.mark.parametrize(
    ("cider", "p", "says"),
    [
        ([1.0, 0.25], 0.001, "CIDEr is 4.0 times what it is with the images shuffled."),
        ([1.0, 0.9], 0.4, "WARNING: that may be chance"),
        ([0.0, 0.0], 1.0, "CIDEr is 0.000, and 0 with the images shuffled"),
        ([0.5, 0.0], 0.01, "CIDEr is 0.500, and 0 with the images shuffled"),
    ],
)
def test_the_gain_over_shuffled_images_is_said_without_nan(cider, p, says):
    scores = pd.DataFrame({"CIDEr": cider, "p_vs_first": [np.nan, p]}, index=["model", "shuffled"])
    assert says in gain_in_words(scores, "shuffled")
    assert "nan" not in gain_in_words(scores, "shuffled")
    assert "cannot be shuffled" in gain_in_words(scores[:1], "shuffled")


@pytest.mark.parametrize(
    ("references", "systems", "settings", "says"),
    [
        (REFERENCES, {"short": OTHERS[:3]}, {}, "'short' has 3 captions for 4"),
        (REFERENCES, {"runs": [OTHERS, OTHERS[:2]]}, {}, "'runs' has 2 captions for 4"),
        (REFERENCES, {"gap": ["a", None, "b", "c"]}, {}, "'gap' has 3 captions for 4"),
        (REFERENCES, {"nan": [float("nan")] * 4}, {}, "'nan' has 0 captions for 4"),
        ([*REFERENCES[:3], None], {"a": OTHERS}, {}, "'references' has 3"),
        (REFERENCES, {"a": OTHERS}, {"groups": [1]}, "1 groups for 4"),
        (REFERENCES, {}, {}, "no system"),
        ([], {"a": []}, {}, "empty"),
        (["...", ""], {"a": ["", ""]}, {}, "not a word"),
    ],
)
def test_invalid_input_is_refused(references, systems, settings, says):
    with pytest.raises(UserError, match=says):
        table(systems, references, **settings)


@pytest.mark.parametrize("missing", ["", None, float("nan")])
def test_breakdown_scores_each_group_apart(missing):
    hypotheses = [REFERENCES[0], REFERENCES[1], "nothing alike", ""]
    parts = breakdown(REFERENCES, hypotheses, ["a", missing, "b", "b"])
    assert parts.index.tolist() == ["b", "a", "not stated"]
    assert parts["images"].tolist() == [2, 1, 1]
    assert parts["CIDEr"].tolist() == pytest.approx([0, 10, 10])
    assert parts.loc["a", "BLEU-1"] == pytest.approx(1)


def test_length_quartiles_name_their_bounds_and_keep_their_order():
    captions = ["word " * n for n in (1, 2, 3, 4, 10, 11, 12, 300)]
    labels = length_quartiles(captions)
    assert list(labels.categories) == ["1–2 words", "3–4 words", "10–11 words", "12–300 words"]
    parts = breakdown(captions, captions, labels)
    assert parts.index.tolist() == list(labels.categories)
    assert list(length_quartiles(["a b", "c d"])) == ["2–2 words"] * 2


def test_every_resample_draws_as_many_as_there_are():
    weights = bootstrap_weights(50, 300, seed=1)
    assert weights.shape == (300, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == bootstrap_weights(50, 300, seed=1)).all()
    assert (weights != bootstrap_weights(50, 300, seed=2)).any()


def test_intervals_of_a_mean_are_those_of_the_normal_law():
    lengths = np.random.default_rng(0).integers(1, 30, size=400)
    scores = score_table(["a b c"] * 400, {"a": ["word " * n for n in lengths]})
    error = 1.96 * lengths.std() / np.sqrt(400)
    low, value, high = scores.loc["a", ["words_low", "words", "words_high"]]
    assert value == pytest.approx(lengths.mean())
    assert (high - value) / error == pytest.approx(1, abs=0.1)
    assert (value - low) / error == pytest.approx(1, abs=0.1)


def test_p_by_counting_all_tosses():
    # Of the 8 ways to sign three ones, 2 sum to 3 or more in size: p is near 1/4.
    assert randomisation_p(np.ones(3), 20_000, seed=0) == pytest.approx(0.25, abs=0.01)
    assert randomisation_p(np.zeros(3), 100, seed=0) == 1


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    p = [randomisation_p(rng.normal(size=30), 200, seed=i) for i in range(300)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
