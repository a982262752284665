"""Which parts of the image a word rests on: as by hand, and right where the truth is known."""

import keras
import numpy as np
import pytest

from roco_caption.ensemble import Ensemble
from roco_caption.evidence import evidence
from roco_caption.files import UserError
from roco_caption.model import build_captioning, fit_scalers
from roco_caption.searching import FeatureCaptioner
from roco_caption.text import CaptionTokenizer
from roco_caption.training import Captions, train

SIDE = 4
LETTERS = "bcdefghijklmnopq"
SIZES = {
    "max_len": 6, "feature_size": 4, "components": 4, "embedding_size": 8, "units": 48,
    "dropout": 0.0, "attention": True, "grid_size": (16, 5), "grid_components": 5, "concepts": 16,
    "pooled_dropout": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A decoder of images of which one cell is lit: the caption says which; and more of them."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    lit = np.arange(770) % SIDE**2
    grids = rng.normal(size=(770, SIDE**2, 5)).astype(np.float32) / 4
    grids[np.arange(770), lit, 2] += 3
    features = rng.normal(size=(770, 4)).astype(np.float32)
    # the last word is of no image: captions that are all the same tell no concepts
    texts = [f"lit {LETTERS[k]} shines on{i % 13}x" for i, k in enumerate(lit)]
    tokenizer = CaptionTokenizer.fit(texts, min_frequency=1, max_words=5)
    tokens = tokenizer.encode(texts)
    built = build_captioning(vocab_size=tokenizer.vocab_size, **SIZES)
    first = (features[:720], grids[:720])
    fit_scalers([built], first, tokens[:720])
    rest = (features[720:], grids[720:])
    train(
        built, Captions(first, tokens[:720]), Captions(rest, tokens[720:]),
        tmp_path_factory.mktemp("run"), epochs=25, batch_size=16, learning_rate=0.01,
        weight_decay=0.0, patience=25,
    )  # fmt: skip
    return FeatureCaptioner(built, tokenizer), rest, texts[720:], lit[720:]


def test_words_rest_on_the_cell_that_they_name(taught):
    captioner, features, texts, lit = taught
    found = evidence(captioner, features, texts)
    assert all(words == text.split() for (words, _), text in zip(found, texts, strict=True))
    falls = np.array([falls for _, falls in found])
    assert falls.shape == (50, 4, SIDE**2)
    cells = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1)
    # hiding a neighbour hides the lit cell as well
    near = np.abs(cells[lit][:, None] - cells).max(axis=-1) <= 1
    assert falls[:, 1][near].mean() > 2 > 0.7 > np.abs(falls[:, 1][~near]).mean()
    assert near[np.arange(50), falls[:, 1].argmax(axis=1)].mean() > 0.9
    assert np.abs(falls[:, [0, 2, 3]]).mean() < 0.3  # those words come whatever is seen


def test_it_is_the_fall_of_the_log_probability_when_cells_show_what_is_usual(taught):
    captioner, (features, grids), _, _ = taught
    texts = ["lit c", "", "strange b shines lit c", "shines"]
    found = evidence(captioner, (features[:4], grids[:4]), texts)
    assert [words for words, _ in found] == [
        ["lit", "c"], [], ["<unk>", "b", "shines", "lit", "c"], ["shines"]
    ]  # fmt: skip
    tokens = captioner.tokenizer.encode(texts[2:3])
    kept = np.ones((1, SIDE**2), np.float32)
    kept[0, [0, 1, SIDE, SIDE + 1]] = 0  # the corner and its neighbours
    log_ps = []
    for mask in (np.ones((1, SIDE**2), np.float32), kept):
        step, state, image = captioner.captioning.start((features[2:3], grids[2:3]), mask)
        state, said = [array[:, None] for array in state], []
        for i in range(5):
            logits, state = step(tokens[:, i : i + 1], state, image)
            said.append(np.asarray(keras.ops.log_softmax(logits))[0, 0, tokens[0, i + 1]])
        log_ps.append(said)
    np.testing.assert_allclose(found[2][1][:, 0], np.subtract(*log_ps), atol=1e-4)
    together = FeatureCaptioner(Ensemble([captioner.captioning] * 2), captioner.tokenizer)
    alone = evidence(together, (features[3:4], grids[3:4]), texts[3:])
    np.testing.assert_allclose(alone[0][1], found[3][1], atol=1e-4)


def test_a_decoder_without_attention_sees_no_parts(taught):
    captioner, features, texts, _ = taught
    sizes = SIZES | {"attention": False, "vocab_size": captioner.tokenizer.vocab_size}
    plain = FeatureCaptioner(build_captioning(**sizes), captioner.tokenizer)
    with pytest.raises(UserError, match="without attention"):
        evidence(plain, features, texts)
