"""Several decoders in one: what they say together, and that they come back from the disk."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_captioner
from keras.utils import set_random_seed

from roco_caption.core.errors import UserError
from roco_caption.core.pickles import seal
from roco_caption.decoder.model import Ensemble, build_decoder
from roco_caption.search.beam import beam_search
from roco_caption.search.captioner import Captioner
from roco_caption.text.tokenizer import PAD, START
from roco_caption.training.checkpoint import WEIGHTS, member_folders

VOCAB, MAX_LEN = 23, 9
SIZES = {"vocab_size": VOCAB, "max_len": MAX_LEN, "feature_size": 6, "components": 4, "units": 8}


@pytest.fixture(scope="module", params=[False, True], ids=["pooled", "attention"])
def members(request):
    sizes = SIZES | {"attention": request.param, "grid_size": (4, 3), "grid_components": 3}
    built = []
    for seed in (1, 2, 3):
        set_random_seed(seed)
        built.append(build_decoder(**sizes))
        for weight in built[-1].every_word.trainable_variables:
            weight.assign(weight + np.random.default_rng(seed).normal(size=weight.shape) * 0.3)
    return built


@pytest.fixture
def features(members):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 6)).astype(np.float32)
    if "attention" not in members[0].parts:
        return vectors
    return vectors, rng.normal(size=(5, 4, 3)).astype(np.float32)


def probabilities(member, features, tokens):
    inputs = [*features] if isinstance(features, tuple) else [features]
    logits = np.asarray(member.every_word([*inputs, tokens]))
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def test_a_captions_probability_is_the_product_of_the_members_mean(members, features):
    words, log_p = beam_search(*Ensemble(members).start(features), n=5, max_words=MAX_LEN)
    words = np.asarray(words)
    tokens = np.pad(words, ((0, 0), (1, 0)), constant_values=START)[:, :-1]
    mean = np.mean([probabilities(member, features, tokens) for member in members], axis=0)
    picked = np.take_along_axis(np.log(mean), words[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose((picked * (words != PAD)).sum(axis=1), log_p, atol=1e-4)


def test_one_member_says_what_it_says_alone(members, features):
    alone = beam_search(*members[0].start(features), n=5, max_words=MAX_LEN)
    together = beam_search(*Ensemble(members[:1]).start(features), n=5, max_words=MAX_LEN)
    np.testing.assert_array_equal(alone[0], together[0])
    np.testing.assert_allclose(alone[1], together[1], atol=1e-5)


def test_a_saved_ensemble_says_the_same_and_misses_a_lost_member(tmp_path):
    one, other = toy_captioner.make(), toy_captioner.make()
    for weight in other.decoder.every_word.trainable_variables:
        weight.assign(weight * -0.5)
    both = Captioner(
        Ensemble([one.decoder, other.decoder]),
        one.tokenizer, encoder=one.encoder,
    )  # fmt: skip
    for member, folder in zip(both.decoder.members, member_folders(tmp_path, 2), strict=True):
        folder.mkdir(exist_ok=True)
        member.every_word.save_weights(folder / WEIGHTS)
        member.weights_file = seal(folder / WEIGHTS)
    both, one = (replace(captioner) for captioner in (both, one))  # made after the training
    both.save(tmp_path)
    size = both.decoder.members[0].next_word.inputs[0].shape[1]
    vectors = np.random.default_rng(0).normal(size=(7, size)).astype(np.float32)
    expected = both.caption_features(vectors)
    assert Captioner.load(tmp_path).caption_features(vectors) == expected
    assert expected != one.caption_features(vectors)
    (tmp_path / "member2" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="member2"):
        Captioner.load(tmp_path)
