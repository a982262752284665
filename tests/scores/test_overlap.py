"""What is counted once for all systems has the values that the libraries compute pair by pair."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer

from roco_caption.scores.metrics import image_counts
from roco_caption.scores.overlap import CORRECT, GUESS, counted
from roco_caption.scores.table import breakdown, caption_scores, score_table

WORDS = ["the", "of", "a", "ct", "chest", "left", "t2-weighted", "5", "×", "fluid's", "no", "œdème"]


def texts(count, seed, longest=30):
    """Return captions of frequent and rare words, an empty one and a long one among them."""
    rng = np.random.default_rng(seed)
    words = np.array([*WORDS, *(f"rare{i}" for i in range(200))])
    odds = 1 / np.arange(1, len(words) + 1)
    lengths = rng.integers(1, longest, count)
    captions = [" ".join(rng.choice(words, n, p=odds / odds.sum())) for n in lengths]
    return [" ".join(rng.choice(words, 300)), "", *captions[2:]]


def by_the_libraries(references, hypotheses):
    """Return the columns of `compare`, by pycocoevalcap and rouge-score."""
    bleu, rouge = BleuScorer(n=4), RougeScorer(["rouge1"])
    rows = {"ROUGE-1": []}
    for parts, hypothesis in zip(references, hypotheses, strict=True):
        bleu += (hypothesis, parts)
        rows["ROUGE-1"].append(rouge.score_multi(parts, hypothesis)["rouge1"].fmeasure)
    for k in range(4):
        rows[GUESS[k]] = [each["guess"][k] for each in bleu.ctest]
        rows[CORRECT[k]] = [each["correct"][k] for each in bleu.ctest]
    both = dict(enumerate(references)), {i: [text] for i, text in enumerate(hypotheses)}
    rows["ROUGE-L"] = np.where([h != "" for h in hypotheses], Rouge().compute_score(*both)[1], 0)
    rows["CIDEr"] = Cider().compute_score(*both)[1]
    rows["reflen"] = [
        min(each["reflen"], key=lambda n, m=each["testlen"]: (abs(n - m), n)) for each in bleu.ctest
    ]
    return rows


@pytest.mark.parametrize("most", [1, 2, 4])
def test_all_counts_are_those_of_the_libraries(most):
    rng, pool = np.random.default_rng(most), texts(900, 7)
    references = [list(rng.choice(pool[2:], rng.integers(1, most + 1))) for _ in range(300)]
    references[5] = ["", "a ct"][:most]
    references[6] *= most
    hypotheses = texts(300, 9)
    hypotheses[9], hypotheses[10] = references[9][-1], references[10][0] + " mass"
    ours = image_counts(references, hypotheses)
    for name, values in by_the_libraries(references, hypotheses).items():
        assert ours[name].to_numpy() == pytest.approx(np.array(values, float), abs=1e-9), name


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("a b c a b", "b a c b a b a"), ("a " * 70 + "b", "b " + "a " * 65), ("a", "a"),
        ("x y z", "z y x"), ("a b", "c d"), ("a a a", "a"),
    ],
)  # fmt: skip
def test_the_longest_common_subsequence_of_odd_captions(reference, hypothesis):
    reference, hypothesis = reference.strip(), hypothesis.strip()
    score = image_counts([reference], [hypothesis])["ROUGE-L"][0]
    theirs = Rouge().calc_score([hypothesis], [reference])
    assert score == pytest.approx(theirs, abs=1e-12)


def test_references_are_counted_once_for_table_gallery_and_kinds_of_image():
    references, hypotheses = texts(20, 1), texts(20, 2)
    counted.cache_clear()
    systems = {"a": hypotheses, "runs": [hypotheses[k:] + hypotheses[:k] for k in (1, 2)]}
    table = score_table(references, systems, resamples=50)
    scores = caption_scores(references, hypotheses)
    parts = breakdown(references, hypotheses, ["all"] * 20)
    assert counted.cache_info().misses == 1
    assert scores.mean() == pytest.approx(table.CIDEr["a"]) == pytest.approx(parts.CIDEr["all"])
    caption_scores(hypotheses, references)
    assert counted.cache_info().misses == 2  # others are not taken for these
