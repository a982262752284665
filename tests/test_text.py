"""Words keep what radiology needs; numbers come back as the words that they were."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roco_caption.files import UserError
from roco_caption.text import END, PAD, START, UNKNOWN, CaptionTokenizer, clean

ROCO_TEXT = Path(__file__).parents[2] / "shared" / "roco_text"


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("T2-weighted MRI, L3–L4.", "t2 weighted mri l3 l4"),
        ("A 5mm nodule, 1.6 x 1.8cm", "a 5 mm nodule 1.6 x 1.8 cm"),
        ("No effusion in the LEFT lung!", "no effusion in the left lung"),
        (' "Quoted"\n second line ', "quoted second line"),
        ("12 µm, 30°, 50% (PF-Targon-PF®)", "12 μm 30 ° 50 % pf targon pf"),
        ("ｆｕｌｌ ｗｉｄｔｈ cm²", "full width cm2"),
        ("café fig_2", "café fig 2"),
        ("--- ... !", ""),
    ],
)
def test_cleaning_keeps_sides_numbers_levels_and_negations(caption, words):
    assert " ".join(clean(caption)) == words


def test_cleaning_its_own_result_changes_nothing():
    for caption in ("T2-weighted, 5mm", "10 %, 37°C", "3D CT 1.5T"):
        assert clean(" ".join(clean(caption))) == clean(caption)


def test_encoded_rows_start_end_and_pad_on_the_right():
    tokenizer = CaptionTokenizer.fit(["left lung", "right lung"], min_frequency=1, max_words=3)
    tokens = tokenizer.encode(["left lung", "left spleen", "", "left lung right lung"])
    lung, left, right = (tokenizer.words.index(w) for w in ("lung", "left", "right"))
    assert tokens.dtype == np.int32 and tokens.tolist() == [
        [START, left, lung, END, PAD],
        [START, left, UNKNOWN, END, PAD],
        [START, END, PAD, PAD, PAD],
        [START, left, lung, right, PAD],  # cut off: no end where the caption did not end
    ]


def test_round_trip_through_numbers_and_through_the_file(tmp_path):
    captions = ["Axial CT shows a mass (arrow).", "Axial MR shows no mass."] * 3
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=2, max_words=20)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.words == tokenizer.words and loaded.max_words == 20
    for caption, row in zip(captions, loaded.encode(captions), strict=True):
        assert loaded.decode(row[1:]) == " ".join(clean(caption))


def test_numbers_depend_on_frequency_not_on_order():
    captions = ["b b a", "c a b"]
    one = CaptionTokenizer.fit(captions, min_frequency=1)
    other = CaptionTokenizer.fit(captions[::-1], min_frequency=1)
    assert one.words == other.words == ["<pad>", "<start>", "<end>", "<unk>", "b", "a", "c"]


def test_rare_words_are_unknown_and_too_rare_is_an_error():
    tokenizer = CaptionTokenizer.fit(["a b", "a c"], min_frequency=2)
    assert tokenizer.words[4:] == ["a"]
    with pytest.raises(UserError, match="MIN_FREQUENCY"):
        CaptionTokenizer.fit(["a b"], min_frequency=2)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"words": 3, "max_words": 3}',
        '{"words": ["a"], "max_words": 3}',
        json.dumps({"words": ["<pad>", "<start>", "<end>", "<unk>", "a", "a"], "max_words": 3}),
        json.dumps({"words": ["<pad>", "<start>", "<end>", "<unk>", 5], "max_words": 3}),
        json.dumps({"words": ["<pad>", "<start>", "<end>", "<unk>", "a"], "max_words": "3"}),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_by_name(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        CaptionTokenizer.load(path)


@pytest.mark.skipif(not ROCO_TEXT.exists(), reason="ROCO's captions are not at hand")
def test_real_captions_survive_the_round_trip():
    lines = (ROCO_TEXT / "test" / "radiology" / "captions.txt").read_text("utf-8").splitlines()
    captions = [line.split("\t", 1)[1] for line in lines if "\t" in line]
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=400)
    rows = tokenizer.encode(captions)
    decoded = pd.Series([tokenizer.decode(row[1:]) for row in rows])
    assert (decoded == [" ".join(clean(c)) for c in captions]).all() and not (rows == UNKNOWN).any()
