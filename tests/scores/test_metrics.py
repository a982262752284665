import unicodedata

import numpy as np
import pandas as pd
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from roco_caption.scores.metrics import (
    bleu,
    image_counts,
    scores,
    tokenized,
    wording,
)

ROUGE_CIDER = ["ROUGE-1", "ROUGE-L", "CIDEr"]


def bleu_of(reference, hypothesis):
    counts = image_counts([reference], [hypothesis])
    return counts.iloc[0], bleu(counts).iloc[0]


def test_bleu_clips_repeated_words_as_in_papineni_2002():
    # Example 2 there: "the" occurs 7 times, and twice in the reference: 2/7.
    counts, scores = bleu_of("the cat is on the mat", "the the the the the the the")
    assert (counts["correct_1"], counts["guess_1"]) == (2, 7)
    assert scores["BLEU-1"] == pytest.approx(2 / 7)
    assert scores["BLEU-2"] == 0


def test_bleu_punishes_brevity_as_in_papineni_2002():
    # "of the" against a long reference is precise; exp(1 - 18/2) makes it worth next to nothing.
    reference = "it is the practical guide for the army always to heed the directions of the party"
    _, scores = bleu_of(reference, "of the")
    assert scores["BLEU-1"] == pytest.approx(np.exp(1 - len(reference.split()) / 2))


def test_bleu_of_a_corpus_is_pycocoevalcaps():
    references = ["chest ct showing a mass", "x-ray of the left hand", "an mri", "axial ct scan"]
    hypotheses = ["ct showing a mass in the chest", "x-ray of the hand", "", "axial ct"]
    by_image = [{i: [t] for i, t in enumerate(x)} for x in (references, hypotheses)]
    theirs = Bleu(4).compute_score(*by_image, verbose=0)[0]
    ours = bleu(image_counts(references, hypotheses).sum().to_frame().T)
    assert ours.iloc[0].tolist() == pytest.approx(theirs, abs=1e-6)


def test_rouge_l_of_the_police_killed_the_gunman():
    # Lin 2004, section 3: LCS is 3 of 4 words, then 2 of 4; lengths are equal, so P = R = F.
    scores = image_counts(
        ["police killed the gunman"] * 3,
        ["police kill the gunman", "the gunman kill police", "the gunman police killed"],
    )
    assert scores["ROUGE-L"].tolist() == pytest.approx([3 / 4, 2 / 4, 2 / 4])
    assert scores["ROUGE-1"].tolist() == pytest.approx([3 / 4, 3 / 4, 1])


def test_rouge_l_weighs_recall_by_beta_1_2():
    # LCS 2, precision 2/2, recall 2/4: (1 + β²) P R / (R + β² P).
    score = image_counts(["a b c d"], ["a b"])["ROUGE-L"][0]
    assert score == pytest.approx((1 + 1.44) * 1 * 0.5 / (0.5 + 1.44))


def test_cider_of_a_reference_itself_is_ten_and_of_another_zero():
    references = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
    assert image_counts(references, references)["CIDEr"].tolist() == pytest.approx([10] * 3)
    assert image_counts(references, references[::-1])["CIDEr"].tolist() == pytest.approx([0, 10, 0])


def test_cider_gives_no_credit_for_words_of_every_reference():
    references = ["showing lung", "showing liver"]
    assert image_counts(references, ["showing", "showing"])["CIDEr"].tolist() == [0, 0]


def test_cider_by_hand():
    # Unigrams: idf is log 2 for each; cosine of (a, x) with (a, b) is 1/2. No bigram is shared, and
    # the lengths are equal. Mean over four orders, times 10: 10 * (1/2) / 4.
    assert image_counts(["a b", "c d"], ["a x", "c d"])["CIDEr"][0] == pytest.approx(1.25)


def test_an_empty_hypothesis_scores_zero_even_where_the_reference_is_empty():
    assert (image_counts(["", "a b"], ["", ""])[ROUGE_CIDER] == 0).all(axis=None)


REFERENCES = [
    "Chest X-ray showing a right pleural effusion.",
    "Axial CT of the abdomen shows a 5 mm liver lesion (arrow).",
    "Sagittal T2-weighted MRI of the lumbar spine.",
    "Ultrasound of the left kidney without hydronephrosis.",
]
HYPOTHESES = [
    "chest x-ray shows a left pleural effusion", "CT of the abdomen shows a liver mass", "",
    "the kidney the kidney",
]  # fmt: skip


@pytest.mark.parametrize("form", [lambda text: [text], lambda text: (text, text)])
def test_a_list_of_one_reference_scores_as_the_reference(form):
    references, hypotheses = tokenized(REFERENCES), tokenized(HYPOTHESES)
    listed = image_counts([form(text) for text in references], hypotheses)
    pd.testing.assert_frame_equal(listed, image_counts(references, hypotheses))


def test_bleu_clips_by_the_most_frequent_and_takes_the_closest_length():
    counts = image_counts([["a a b", "a c c c c", "d"]], ["a a a c"]).iloc[0]
    assert counts["correct_1"] == 3  # two "a" of the first, one "c" of the second
    assert counts["correct_2"] == 2  # "a a" of the first, "a c" of the second
    assert counts["reflen"] == 3  # as near as 5, and shorter


def test_of_several_references_rouge_takes_the_best_and_cider_the_mean():
    first, second, other = "a b c d", "e f g h", "i j k l"
    both = image_counts([[first, second], other], [first, other])
    assert both["ROUGE-1"][0] == both["ROUGE-L"][0] == 1
    assert both["CIDEr"].tolist() == pytest.approx([5, 10])
    theirs = Cider().compute_score({0: [first, second], 1: [other]}, {0: ["a b e"], 1: ["i j"]})[1]
    ours = image_counts([[first, second], [other]], ["a b e", "i j"])["CIDEr"]
    assert ours.tolist() == pytest.approx(list(theirs))


@pytest.mark.parametrize(
    "caption",
    [
        "छाती का एक्स-रे", "ภาพเอกซเรย์ ทรวงอก ปกติ", "صُورَة بِالأَشِعَّة لِلصَّدْر", "צִלּוּם חָזֶה תקין",
        "cafe\u0301 de l'abdomen", "Crohn’s disease of the ileum", "Fat of -85 HU, T2* and 10³",
        "A mass of 3.5×4.2 cm ± 5 %",
    ],
)  # fmt: skip
def test_a_perfect_caption_scores_as_one_in_every_script(caption):
    texts = tokenized([caption, "another text"])
    composed = tokenized([unicodedata.normalize("NFC", caption), "no"])
    scores = image_counts(texts, composed).iloc[0]
    assert scores[["ROUGE-1", "ROUGE-L"]].tolist() == pytest.approx([1, 1])
    assert bleu(image_counts(texts[:1], composed[:1]))["BLEU-1"][0] == pytest.approx(1)


def test_marks_stay_with_their_letters():
    assert tokenized(["छाती का एक्स-रे"]) == ["छाती का एक्स-रे"]


@pytest.mark.parametrize(
    ("caption", "share"),
    [("wall wall wall", 1), ("axial axial ct", 1 / 2), ("a b a b a", 2 / 4), ("a", 0), ("", 0)],
)
def test_repeated_bigrams(caption, share):
    assert wording([caption])["repeated"][0] == pytest.approx(share)


def test_a_resample_scores_as_its_images_do():
    # The sums' promise: weighing images 2, 0, 1 is scoring the first twice and the last once.
    references = ["ct of the chest", "mri of the knee", "x-ray of a hand"]
    hypotheses = ["ct of a chest", "mri", "x-ray of the left hand"]
    counts = image_counts(references, hypotheses)
    resampled = scores((counts.T @ [2, 0, 1]).to_frame().T).iloc[0]
    picked = [0, 0, 2]
    again = bleu(
        image_counts([references[i] for i in picked], [hypotheses[i] for i in picked])
        .sum()
        .to_frame()
        .T
    ).iloc[0]
    assert resampled[again.index].tolist() == pytest.approx(again.tolist())
    assert resampled["ROUGE-1"] == pytest.approx(counts["ROUGE-1"][picked].mean())
    assert resampled["CIDEr"] == pytest.approx(counts["CIDEr"][picked].mean())


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        (
            "Chest X-ray: T2-weighted, 1.5 mm (arrow).",
            "chest x-ray t2-weighted 1.5 mm arrow",
        ),
        ("The patient’s “mass”; 5% – no\nfat!", "the patient 's mass 5 % no fat"),
        ("PET/CT at L5-S1, 10×12 µm", "pet/ct at l5-s1 10 × 12 µm"),
        ("…", ""),
    ],
)
def test_words_are_those_of_coco_caption(caption, tokens):
    assert tokenized([caption]) == [tokens]
