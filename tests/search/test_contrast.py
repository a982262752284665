"""Contrastive decoding: words that the image makes more probable count more."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from roco_caption.decoder.model import build_decoder, combine, fit_scalers
from roco_caption.search import captioner as module
from roco_caption.search.beam import contrasted
from roco_caption.search.captioner import Captioner, Search
from roco_caption.text.tokenizer import CaptionTokenizer

TEXTS = ["small left mass on ct", "large right cyst on mr", "no mass", "a fracture"] * 4


@pytest.fixture(scope="module", params=["merge", "attention", "ensemble"])
def made(request):
    tokenizer = CaptionTokenizer.fit(TEXTS, min_frequency=1, max_words=7)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(16, 6)).astype(np.float32)
    features = vectors, rng.normal(size=(16, 4, 5)).astype(np.float32)
    attends = request.param == "attention"
    members = []
    for seed in range(1 + (request.param == "ensemble")):
        keras.utils.set_random_seed(seed)
        members.append(
            build_decoder(
                vocab_size=tokenizer.vocab_size, max_len=8, feature_size=6, components=5, units=12,
                embedding_size=8, attention=attends, grid_size=(4, 5), grid_components=4,
            )
        )  # fmt: skip
        for name in ("image", "dense"):  # untrained, it rates all words nearly alike
            kernel = members[-1].next_word.get_layer(name).kernel
            kernel.assign(kernel * 6)
    features = features if attends else vectors
    decoder = combine(members)
    fit_scalers(decoder, features, tokenizer.encode(TEXTS))
    return decoder, tokenizer, features


def first_words(start, n):
    step, state, image = start
    state = keras.tree.map_structure(lambda array: array[:, None], state)
    return np.asarray(keras.ops.log_softmax(step(np.ones((n, 1), "i4"), state, image)[0]))[:, 0]


def test_a_word_is_weighed_by_what_the_image_adds(made):
    decoder, _, features = made
    seen = first_words(decoder.start(features), 16)
    unseen = first_words(decoder.start(features, blank=True), 16)
    np.testing.assert_allclose(unseen - unseen[:1], 0, atol=1e-5)  # the same for all images
    assert np.abs(seen - seen[:1]).max() > 0.1
    step, state, image = contrasted(decoder, features, 0.7)
    state = keras.tree.map_structure(lambda array: array[:, None], state)
    weighed = np.asarray(step(np.ones((16, 1), "i4"), state, image)[0])[:, 0]
    likely = seen >= seen.max(axis=-1, keepdims=True) + np.log(0.1)
    assert 0 < likely.mean() < 1
    np.testing.assert_allclose(weighed[likely], (seen + 0.7 * (seen - unseen))[likely], atol=1e-4)
    np.testing.assert_allclose(weighed[~likely], seen[~likely] - 20, atol=1e-4)


@pytest.mark.parametrize("made", ["merge"], indirect=True)
@pytest.mark.parametrize("search", [Search(), Search(beams=1, no_repeat=0)], ids=["beam", "greedy"])
def test_contrast_changes_captions(made, search, monkeypatch):
    decoder, tokenizer, features = made
    monkeypatch.setattr(module, "ROWS", len(features))
    captioner = Captioner(decoder, tokenizer)
    plain = captioner.caption_features(features, search)
    weighed = captioner.caption_features(features, replace(search, contrast=2.0))
    pairs = list(zip(plain, weighed, strict=True))
    assert any(abs(a.log_probability - b.log_probability) > 0.01 for a, b in pairs)
    assert any(a.text != b.text for a, b in pairs)
    assert all(caption.log_probability <= 1e-4 for caption in weighed)
