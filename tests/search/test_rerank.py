"""Candidates are reranked by the captions of the nearest training images."""

import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import Ensemble, build_decoder
from roco_caption.search.captioner import Captioner, Search
from roco_caption.search.rerank import AGREEMENT, Candidates, Consensus, fingerprint, image_vectors
from roco_caption.text.tokenizer import END, START, CaptionTokenizer

CAPTIONS = ["ct shows a mass", "mr shows no mass", "radiograph of a hand", "ultrasound of a cyst"]
TOKENIZER = CaptionTokenizer.fit(CAPTIONS, min_frequency=1, max_words=6)
TOKENS = TOKENIZER.encode(CAPTIONS)


def tokens_of(*captions):
    """Return captions as a search returns them: words, end, padding."""
    return TOKENIZER.encode(list(captions))[:, 1:]


def build(seed=0, **more):
    keras.utils.set_random_seed(seed)
    sizes = {"vocab_size": TOKENIZER.vocab_size, "max_len": 7, "feature_size": 4, "components": 4}
    return build_decoder(**sizes, embedding_size=8, units=12, **more)


def apart(shift=0.0):
    """Return a consensus whose image i is the unit vector i plus the mean `shift`."""
    vectors = np.eye(4, dtype=np.float16)
    return Consensus(vectors, np.full(4, shift, np.float32), TOKENS)


def test_the_nearest_images_captions_agree_with_themselves():
    consensus = apart(shift=5.0)
    found = np.repeat(tokens_of(*CAPTIONS)[None], 4, axis=0)
    agreement = consensus.agreement(np.eye(4, dtype=np.float32) + 5.0, found, 1)
    assert agreement.shape == (4, 4) and agreement.dtype == np.float32
    assert np.diag(agreement) == pytest.approx(np.ones(4))  # four words each: all n-grams
    assert (agreement.argmax(axis=1) == range(4)).all()
    assert agreement[2, 3] > 0  # "of a" is shared
    assert agreement.max() <= 1 + 1e-6


def test_a_caption_of_several_images_counts_once():
    tokens = np.concatenate([TOKENS[:1]] * 5 + [TOKENS[2:3]])
    vectors = np.array([[1, 0]] * 5 + [[0.5, 1]], np.float16)
    consensus = Consensus(vectors, np.zeros(2, np.float32), tokens)
    found = tokens_of(CAPTIONS[0], CAPTIONS[2])[None]
    both = consensus.agreement(np.array([[1.0, 0.1]], np.float32), found, 2)
    assert both == pytest.approx(both[:, ::-1], abs=1e-6)  # half each
    (one,) = consensus.agreement(np.array([[1.0, 0.1]], np.float32), found, 1)
    assert one[0] > 0.9 and one[1] < 0.2


def test_ranked_weighs_agreement_probability_and_length():
    tokens = np.zeros((1, 3, 6), np.int32)
    for place, words in enumerate((2, 4, 4)):
        tokens[0, place, :words], tokens[0, place, words] = 9, END
    log_p = np.array([[-3.0, -10.0, -5.5]], np.float32)  # a word: -1.0, -2.0, -1.1
    none = Candidates(tokens, log_p, np.zeros((1, 3), np.float32))
    assert none.words.tolist() == [[2, 4, 4]]
    assert none.ranked().tolist() == [[0, 2, 1]]
    assert none.ranked(0.1).tolist() == [[2, 0, 1]]
    agreed = Candidates(tokens, log_p, np.array([[0, 1.1 / AGREEMENT, 0]], np.float32))
    assert agreed.ranked().tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("members", [1, 2])
def test_a_captioner_chooses_the_caption_that_neighbours_agree_with(members):
    decoders = [build(seed) for seed in range(members)]
    decoder = decoders[0] if members == 1 else Ensemble(decoders)
    features = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    consensus = Consensus.fit(decoder, features, TOKENS)
    assert consensus.vectors.shape == (4, 12 * members)
    assert abs(consensus.vectors.astype(float).mean(axis=0)).max() < 1e-3
    captioner = Captioner(decoder, TOKENIZER, Search(beams=8), consensus)
    search = Search(beams=8, neighbours=1)
    found = captioner.candidates(features, search)
    best = found.ranked()[:, 0]
    texts = [TOKENIZER.decode(rows[k]) for rows, k in zip(found.tokens, best, strict=True)]
    captions = captioner.caption_features(features, search)
    assert [caption.text for caption in captions] == texts
    assert captions == [c[0] for c in captioner.best_captions(features, 8, search)]
    rows = np.arange(4)
    assert (found.agreement[rows, best] >= found.agreement[:, 0]).all()
    assert (best > 0).any()  # or the search would have the same order


@dataclass(frozen=True)
class Refused:
    """A `Coherence` that finds a flaw in these texts."""

    texts: frozenset

    def flaws(self, caption):
        return caption in self.texts, False


def test_captions_with_flaws_come_behind_all_others():
    features = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    decoder = build()
    captioner = Captioner(decoder, TOKENIZER, consensus=Consensus.fit(decoder, features, TOKENS))
    search = Search(beams=6, neighbours=1)
    before = captioner.best_captions(features, 3, search)
    captioner.coherence = Refused(frozenset(captions[0].text for captions in before))
    after = captioner.best_captions(features, 3, search)
    for old, new in zip(before, after, strict=True):
        refused = [caption.text in captioner.coherence.texts for caption in new]
        assert refused == sorted(refused) and new[0] != old[0]
    captioner.coherence = SimpleNamespace(flaws=lambda caption: (True, False))
    assert captioner.best_captions(features, 3, search) == before  # all are flawed alike
    plain = Search(beams=6)
    captioner.coherence, usual = None, captioner.best_captions(features, 3, plain)
    captioner.coherence = Refused(frozenset(captions[0].text for captions in usual))
    assert captioner.best_captions(features, 3, plain) == usual  # by probability alone


def test_where_all_candidates_have_a_flaw_more_beams_are_tried(monkeypatch):
    captioner = Captioner(build(), TOKENIZER, Search(2, neighbours=2), consensus=apart())
    captioner.consensus = Consensus.fit(captioner.decoder, np.eye(4, dtype=np.float32), TOKENS)
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    plain, wide = captioner.search, Search(8, neighbours=2)
    few = captioner.ranked(captioner.candidates(features, plain), 2, plain)
    many = captioner.ranked(captioner.candidates(features, wide), 8, wide)
    texts = [[caption.text for caption in captions] for captions in few]
    flawed = frozenset(texts[1] + texts[4])
    captioner.coherence = Refused(flawed)
    found = captioner.caption_features(features)
    for i, caption in enumerate(found):
        sound = [c for c in (many if flawed >= {*texts[i]} else few)[i] if c.text not in flawed]
        assert caption.text == (sound or few[i])[0].text
    assert {found[1].text, found[4].text} - flawed  # more beams found another one
    monkeypatch.setattr("roco_caption.search.captioner.BATCH", 1)  # more than a quarter is not
    unchanged = captioner.caption_features(features)
    assert [unchanged[i].text for i in (1, 4)] == [few[i][0].text for i in (1, 4)]


def test_with_attention_images_are_compared_by_the_pooled_vector():
    decoder = build(attention=True, grid_size=(4, 3), grid_components=3, concepts=2)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 4)), rng.normal(size=(5, 4, 3)).astype(np.float16)
    vectors = image_vectors(decoder, features)
    assert vectors.shape == (5, 12)
    assert vectors[[3, 1]] == pytest.approx(
        image_vectors(decoder, features, np.array([3, 1])), abs=1e-5
    )


def test_neighbours_without_training_images_are_refused():
    captioner = Captioner(build(), TOKENIZER, Search(neighbours=3))
    with pytest.raises(UserError, match=r"Consensus\.fit.*neighbours=0"):
        captioner.caption_features(np.ones((1, 4)))


def test_a_saved_consensus_is_loaded_with_its_decoder_only(tmp_path):
    path, decoder = tmp_path / "consensus.npz", Ensemble([build(), build(1)])
    consensus = Consensus.fit(decoder, np.random.default_rng(0).normal(size=(4, 4)), TOKENS)
    consensus.save(path)
    loaded = Consensus.load(path, decoder)
    for name in ("vectors", "mean", "tokens"):
        assert (getattr(loaded, name) == getattr(consensus, name)).all()
    for other in (build(), Ensemble([build(), build(2)])):
        with pytest.raises(UserError, match=r"consensus\.npz.*another decoder.*cell again"):
            Consensus.load(path, other)


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path, decoder = tmp_path / "consensus.npz", build()
    Consensus.fit(decoder, np.random.default_rng(0).normal(size=(4, 4)), TOKENS).save(path)
    whole = path.read_bytes()
    flipped = whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]
    for damaged in (whole[: len(whole) // 2], b"", flipped, pickle.dumps({"vectors": [1]})):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"consensus\.npz could not be read"):
            Consensus.load(path, decoder)
    for rows in ([TOKENS[:2], TOKENS], [np.array([{}] * 4, object), TOKENS]):
        mean, name = np.zeros(3), fingerprint(decoder)
        np.savez(path, vectors=rows[0], mean=mean, tokens=rows[1], decoder=name)
        with pytest.raises(UserError, match=r"consensus\.npz could not be read"):
            Consensus.load(path, decoder)


def test_tokens_begin_with_the_start_that_is_no_word():
    assert TOKENS[0, 0] == START and apart()._captions.starts[1] == 4 + 3 + 2 + 1


def test_the_captions_of_one_image_are_not_its_nearest_images():
    features = np.repeat(np.random.default_rng(0).normal(size=(2, 4)), 2, axis=0)
    consensus = Consensus.fit(build(), features, TOKENS, np.array([0, 2]))
    assert len(consensus.vectors) == 2
    np.testing.assert_array_equal(consensus.tokens, TOKENS[[0, 2]])
