"""Token numbers come back as the captions that they were."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.text.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, CaptionTokenizer
from roco_caption.text.words import clean

ROCO_TEXT = Path(__file__).parents[3] / "shared" / "roco_text"


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
    assert (loaded.written, loaded.joints) == (tokenizer.written, tokenizer.joints)
    assert loaded.as_sentences
    decoded = [loaded.decode(row[1:]) for row in loaded.encode(captions)]
    assert decoded == ["Axial CT shows a mass (arrow).", "Axial MR shows no mass."] * 3


@pytest.mark.parametrize(
    ("caption", "back"),
    [
        ("CT of the neck. No mass.", None),
        ("Both eyes! (Left.) Note 1.6 cm", "Both eyes. Left. Note 1.6 cm."),
        ("L. kidney vs. Right, e.g. CT, see Fig. 2", "L kidney vs Right, e g CT, see Fig 2."),
        ("Scan. of 5. cm 2. 3. ...", "Scan of 5 cm 2 3."),  # no capital begins a sentence
        ("A mass (white arrow). It grows (arrow).", None),
    ],
)
def test_sentences_end_where_a_capital_begins_the_next(caption, back):
    tokenizer = CaptionTokenizer.fit([caption] * 3, min_frequency=1, max_words=20)
    (row,) = tokenizer.encode([caption])
    assert tokenizer.decode(row[1:]) == (back or caption)


SIGNS = [
    "Crohn's disease.", "Crohn’s disease of the ileum.",
    "The patients' lungs and a child's o'clock.",
    "Radiographie de l'abdomen.", "Image de l’abdomen d’une femme qu'il a vue.",
    "Mass of 3.5 × 4.2 cm.", "Mass of 3.5×4.2 cm.", "Mass of 3.5 x 4.2 x 5 mm.", "Mass of 3x4.2cm.",
    "Chest X-ray of 3 x 4 cm on an X-ray.",
    "Fat of -85 HU.", "Fat of −85 HU.", "Fat of –85 to -100 HU.",
    "Nodules of 10-20 mm.", "Nodules of 10–20 mm.", "Nodules of 10 - 20 mm.",
    "Discs at L4/5, L4-5, L4–5, and L5/S1.", "Seen at 10:30, ratio 1:2.",
    "A count of 10³ cells, and 10^3 of 1.5×10⁻³ mm²/s.", "A volume of 12 cm³, CO₂, ½ of ⁶⁸Ga.",
    "About 50% of it, 50 % of it, 5 ± 0.3 mm, 5±0.3 mm.", "At 37 °C, 37°C and 45° of flexion.",
    "Nodules <5 mm, > 3 mm, ≤ 4 mm, ≥6 mm, ~7 mm.", "P = 0.05 and p<0.05.",
    "T2* map of the heart, T2*-weighted.", "A mass (*), a cyst (→), a node (+), a scar (-).",
    "A dose of 1,000 mGy or 1,000.5 mGy.", "A cyst of .5 cm and 5mm and 5 mm.",
    "A mass – the arrow - shows it.", "Sections in H&E, $5, #3, TE/TR = 30/500 ms.",
    "A layer of 12 µm.", "E\u0301tude d'un de\u0301me.",
    "छाती का एक्स-रे दिखाता है।", "ภาพเอกซเรย์ทรวงอก", "صُورَة بِالأَشِعَّة لِلصَّدْر.", "צִלּוּם חָזֶה",
    'גוש בגודל 5 ס"מ.', "אק״ג תקין", "Nodes of 3,5×4,2×2 cm, SUV ≥2.5 at T12/L1, −1000 HU.",
]  # fmt: skip


def round_trip(tokenizer, caption):
    (row,) = tokenizer.encode([caption])
    return tokenizer.decode(row[1:])


@pytest.mark.parametrize("caption", SIGNS)
def test_signs_and_letters_come_back_as_they_were_written(caption):
    alone = CaptionTokenizer.fit([caption] * 3, min_frequency=1)
    assert round_trip(alone, caption) == caption


def test_one_writing_does_not_spoil_another():
    tokenizer = CaptionTokenizer.fit(SIGNS * 3, min_frequency=1)
    back = [round_trip(tokenizer, caption) for caption in SIGNS]
    assert [text.rstrip(".") for text in back] == [caption.rstrip(".") for caption in SIGNS]


def test_a_truncated_caption_keeps_its_words():
    for caption in SIGNS:
        for max_words in range(1, 9):
            tokenizer = CaptionTokenizer.fit([caption] * 3, min_frequency=1, max_words=max_words)
            assert clean(round_trip(tokenizer, caption)) == clean(caption)[:max_words]


def test_no_sentence_begins_after_a_dash():
    captions = ["A mass. There is edema.", "A scan - there is a mass."] * 3
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1)
    assert round_trip(tokenizer, captions[1]) == captions[1]


def test_a_word_that_mostly_begins_sentences_begins_one_after_any_word():
    captions = ["A mass. There is edema.", "A cyst. There is none", "A mass and there is a cyst"]
    tokenizer = CaptionTokenizer.fit(captions * 3, min_frequency=1, max_words=20)
    rows = tokenizer.encode(["edema there is a mass there is a mass and there"])
    assert tokenizer.decode(rows[0][1:]) == "Edema. There is a mass. There is a mass and there."


def test_captions_come_back_as_sentences_with_the_capitals_that_words_have():
    captions = ["Axial CT of the neck. A mass on T2 MRI.", "MRI of the Neck. No mass on ct or CT"]
    captions *= 3
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=20)
    assert tokenizer.written == {"ct": "CT", "mri": "MRI", "t2": "T2"}  # neck: both, as often
    rows = tokenizer.encode(captions)
    assert tokenizer.decode(rows[1][1:]) == "MRI of the neck. No mass on CT or CT."
    assert tokenizer.decode(rows[0][1:6]) == "Axial CT of the neck"  # cut off
    assert tokenizer.decode([END]) == ""
    again = tokenizer.encode([tokenizer.decode(row[1:]) for row in rows])
    assert (again == rows).all()


def test_punctuation_comes_back_where_most_captions_have_it():
    captions = ["T2-weighted image: a mass (arrow), one-sided.", "A mass (white arrow) on CT/MR"]
    captions = captions * 3 + ["T2 weighted CT, MR"] * 2 + ["one sided"] * 3 + ["MR (CT) 4-10 4-10"]
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=20)
    assert tokenizer.joints == {
        "t2 weighted": "-", "image a": ": ", "mass arrow": " (", "arrow one": "), ",
        "mass white": " (", "arrow on": ") ", "ct mr": "/",
    }  # fmt: skip
    rows = tokenizer.encode([*captions, "A mass arrow, image: a mass white", "arrow on arrow on"])
    texts = [tokenizer.decode(row[1:]) for row in rows]
    assert texts[0] == "T2-weighted image: a mass (arrow), one sided."
    assert texts[1] == "A mass (white arrow) on CT/MR."
    assert texts[-2] == "A mass arrow image: a mass (white)."  # closed where the sentence ends
    assert texts[-1] == "Arrow on arrow on."  # nothing is closed that was not opened
    assert (tokenizer.encode(texts) == rows).all()


def test_a_bracket_that_would_never_close_is_not_opened():
    tokenizer = CaptionTokenizer([*SPECIAL, *"abcdef"], 9, joints={"a b": ", (", "e f": ") "})
    assert tokenizer.decode([4, 5, 6, 7, 8, 9, 9, 9]) == "a, (b c d e) f f f"
    assert tokenizer.decode([4, 5, 6, 7, 9, 9, 9, 9]) == "a, b c d f f f f"
    assert tokenizer.decode([4, 5]) == "a, (b)"


def test_captions_without_capitals_stay_without():
    tokenizer = CaptionTokenizer.fit(["a ct. of it", "the t2 CT"], min_frequency=1, max_words=20)
    (row,) = tokenizer.encode(["the ct"])
    assert not tokenizer.as_sentences and tokenizer.decode(row[1:]) == "the ct"


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
def test_a_file_that_is_not_a_vocabulary_is_refused_by_name(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        CaptionTokenizer.load(path)


@pytest.mark.skipif(not ROCO_TEXT.exists(), reason="needs ROCO's captions")
def test_real_captions_survive_the_round_trip():
    lines = (ROCO_TEXT / "test" / "radiology" / "captions.txt").read_text("utf-8").splitlines()
    captions = [line.split("\t", 1)[1] for line in lines[::4] if "\t" in line]
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=400)
    rows = tokenizer.encode(captions)
    decoded = pd.Series([tokenizer.decode(row[1:]) for row in rows])
    assert not (rows == UNKNOWN).any()
    assert (decoded.map(clean) == pd.Series(captions).map(clean)).all()
    assert decoded.str.contains(r"[.] [A-Z].*[.]$").mean() > 0.05  # of several sentences
    assert (
        decoded.str.contains(r"\bCT\b").mean() > 0.1 and not decoded.str.contains(r"\bct\b").any()
    )


@pytest.mark.parametrize(("long", "said"), [(4, True), (1, False)])
def test_many_truncated_captions_are_pointed_out(capsys, long, said):
    captions = ["one two three four five six"] * long + ["one two three"] * (10 - long)
    CaptionTokenizer.fit(captions, min_frequency=1, max_words=5)
    assert ("40% of the training captions" in capsys.readouterr().out) == said
