"""`match_length`: captions as long as the references."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from roco_caption.search.captioner import Caption, Captioner, Search
from roco_caption.search.rerank import LENGTH_IMAGES, SEARCH_SHARE, Candidates, match_length
from roco_caption.text.tokenizer import END, SPECIAL, START, CaptionTokenizer


def captioner_of(words_at):
    """Return a captioner whose captions have `words_at(penalty)` words."""
    asked = []

    def caption_features(features, search):
        asked.append((search.end_penalty, len(features[0])))
        text = " ".join(["word"] * round(words_at(search.end_penalty)))
        return [Caption(text, 0.0)] * len(features[0])

    search, tokenizer = Search(beams=5), CaptionTokenizer([*SPECIAL, "word"], 60)
    made = {"search": search, "tokenizer": tokenizer, "caption_features": caption_features}
    return SimpleNamespace(**made), asked


def references(n, words):
    tokens = np.zeros((n, 60), np.int32)
    tokens[:, 0], tokens[:, 1 : words + 1], tokens[:, words + 1] = START, 7, END
    return np.zeros((n, 3)), tokens


@pytest.mark.parametrize(("wanted", "penalty"), [(30, 2.0), (20, 1.0), (45, 3.5)])
def test_the_penalty_that_gives_the_references_length_is_found(wanted, penalty):
    captioner, _ = captioner_of(lambda p: 10 + 10 * p)
    found = match_length(captioner, *references(4, wanted))
    assert found == replace(captioner.search, end_penalty=penalty)


def test_captions_that_are_long_enough_are_left_alone():
    captioner, asked = captioner_of(lambda p: 10 + 10 * p)
    assert match_length(captioner, *references(4, 8)) == captioner.search
    assert len(asked) == 1


def test_out_of_reach_the_nearest_is_taken():
    captioner, _ = captioner_of(lambda p: 5)
    assert match_length(captioner, *references(4, 40)).end_penalty <= 4.0


def test_many_images_are_sampled():
    captioner, asked = captioner_of(lambda p: 50)
    match_length(captioner, *references(3 * LENGTH_IMAGES + 1, 20))
    assert LENGTH_IMAGES / 2 < asked[0][1] <= LENGTH_IMAGES


@pytest.mark.parametrize(("wanted", "words"), [(20, 20), (30, 28), (2, 8), (5, 8)])
def test_with_neighbours_the_choice_makes_up_for_the_rest(wanted, words):
    captioner, _ = captioner_of(lambda p: 10 + 10 * p)
    captioner.search = Search(beams=9, neighbours=4)
    penalties = []

    def candidates(features, search):
        penalties.append(search.end_penalty)
        tokens = np.zeros((4, 3, 60), np.int32)
        for k, length in enumerate((8, 20, 28)):
            tokens[:, k, :length] = 4
        # the longer ones are less probable, a word
        log_p = -np.array([[9, 31.5, 72.5]] * 4, np.float32)
        return Candidates(tokens, log_p, np.zeros((4, 3), np.float32))

    captioner.candidates = candidates
    captioner.ranked = Captioner(SimpleNamespace(members=[]), captioner.tokenizer).ranked
    found = match_length(captioner, *references(4, wanted))
    assert penalties == [found.end_penalty]
    assert found.end_penalty == pytest.approx(SEARCH_SHARE * min(max((wanted - 10) / 10, 0), 4))
    (chosen,) = {int(k) for k in candidates(None, found).ranked(found.word_bonus)[:, 0]}
    assert (8, 20, 28)[chosen] == words
    assert found.neighbours == 4 and found.beams == 9
    assert (found.word_bonus > 0) == (wanted > 8)  # captions are never made shorter


def test_flawed_captions_do_not_count():
    """The short captions are refused, so those that are chosen are long enough without a bonus."""
    captioner, _ = captioner_of(lambda p: 10 + 10 * p)
    captioner.search = Search(beams=9, neighbours=4)
    tokens = np.zeros((4, 2, 60), np.int32)
    tokens[:, 0, :8], tokens[:, 1, :28] = 4, 4
    log_p = -np.array([[9, 72.5]] * 4, np.float32)
    found = Candidates(tokens, log_p, np.zeros((4, 2), np.float32))
    captioner.candidates = lambda features, search: found
    real = Captioner(SimpleNamespace(members=[]), captioner.tokenizer)
    captioner.ranked = real.ranked
    assert match_length(captioner, *references(4, 27)).word_bonus > 0
    real.coherence = SimpleNamespace(flaws=lambda text: (len(text.split()) < 20, False))
    assert match_length(captioner, *references(4, 27)).word_bonus == 0
