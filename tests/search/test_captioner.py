"""`Captioner`: captions of files and features, and its bundle in a run's folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_files import write_dicom
from helpers.toy_captioner import CAPTIONS, ENCODER, make, tiny_encoder
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_json
from roco_caption.data.dicom import read_dicom
from roco_caption.search import captioner as module
from roco_caption.search.captioner import Captioner, Search
from roco_caption.search.rerank import Consensus
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.checkpoint import WEIGHTS, Progress, save_best


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build_encoder", tiny_encoder)
    monkeypatch.setattr(module, "ROWS", 4)
    captioner = make()
    save_best(captioner.decoder.every_word, tmp_path, Progress({}))
    captioner.save(tmp_path)
    return captioner, tmp_path


@pytest.fixture
def images(tmp_path):
    paths = []
    for i, grey in enumerate((10, 240)):
        paths.append(tmp_path / f"{i}.jpg")
        Image.new("RGB", (50, 40), (grey, 255 - grey, 90)).save(paths[-1])
    return paths


def test_a_loaded_captioner_gives_the_same_captions(saved, images):
    captioner, folder = saved
    loaded = Captioner.load(folder)
    assert loaded.search == Search(beams=2)
    for image in images:
        text, log_p = loaded.caption(image)
        assert (text, log_p) == captioner.caption(str(image)) and log_p < 0
        assert set(text.split()) <= set(" ".join(CAPTIONS).split())
    together, alone = loaded.caption_images(images), [loaded.caption(image) for image in images]
    for one, same in zip(together, alone, strict=True):
        assert one.text == same.text  # other matrix sizes round differently
        assert one.log_probability == pytest.approx(same.log_probability, abs=1e-5)


def test_with_attention_a_loaded_captioner_gives_the_same_captions(saved, images, tmp_path):
    encoder = ENCODER | {"grid": "block5_conv3"}
    sizes = {"attention": True, "grid_size": [4, 3], "grid_components": 3}
    captioner = make(encoder, **sizes)
    captioner.decoder.every_word.save_weights(tmp_path / WEIGHTS)
    captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path)
    assert loaded.caption_images(images) == captioner.caption_images(images)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(11, 3)), rng.normal(size=(11, 4, 3))  # more than ROWS
    assert loaded.caption_features(features) == captioner.caption_features(features)


def test_batches_do_not_change_captions(saved):
    captioner = saved[0]
    features = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float16)
    together = captioner.caption_features(features)
    for row, caption in zip(features, together, strict=True):
        (alone,) = captioner.caption_features(row[None])
        assert alone.text == caption.text
        assert alone.log_probability == pytest.approx(caption.log_probability, abs=1e-4)
    assert captioner.caption_features(features[:0]) == []


def test_best_captions_are_ranked_and_start_with_the_one_caption(saved):
    captioner = saved[0]
    features = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float16)
    search = Search(beams=3)
    ranked = captioner.best_captions(features, 3, search)
    assert [captions[0] for captions in ranked] == captioner.caption_features(features, search)
    for captions in ranked:
        assert len({caption.text for caption in captions}) == len(captions) == 3
        rates = [c.log_probability / (len(c.text.split()) + 1) for c in captions]
        assert rates == sorted(rates, reverse=True)
        assert all(c.probability == pytest.approx(np.exp(c.log_probability)) for c in captions)
    # fewer beams than captions are made as many
    assert captioner.best_captions(features, 3, Search(beams=1)) == ranked
    assert [len(c) for c in captioner.best_captions(features, 1)] == [1] * 6


def test_the_features_of_images_are_the_encoders(saved, images):
    rows = saved[0].encode(images)
    assert rows.shape == (2, 3)
    np.testing.assert_allclose(rows[0] / 5, [10 / 255, 245 / 255, 90 / 255], atol=0.02)


def test_a_dicom_file_is_captioned(saved, tmp_path):
    values = np.linspace(0, 4000, 1600).reshape(40, 40)
    path = write_dicom(tmp_path / "scan", values, WindowCenter=1000, WindowWidth=500)
    Image.fromarray(read_dicom(path, 10**6)[0]).save(tmp_path / "same.png")
    assert saved[0].caption(path) == saved[0].caption(tmp_path / "same.png")


def test_the_readable_file_alone_rebuilds_the_decoder(saved):
    captioner, folder = saved
    bundle = json.loads((folder / "captioner.json").read_text())
    sizes = captioner.decoder.sizes
    assert bundle["sizes"] == sizes | {"grid_size": list(sizes["grid_size"])}
    assert bundle["encoder"] == ENCODER
    search = {"beams": 2, "length_power": 1.0, "no_repeat": 2, "end_penalty": 0.0, "contrast": 0.0}
    assert bundle["search"] == search | {"neighbours": 0, "word_bonus": 0.0}


def test_the_consensus_is_saved_and_loaded(saved):
    captioner, folder = saved
    features = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    captioner.consensus = Consensus.fit(
        captioner.decoder, features, captioner.tokenizer.encode(CAPTIONS)
    )
    captioner.search = Search(beams=6, neighbours=2, word_bonus=0.1)
    captioner.save(folder)
    loaded = Captioner.load(folder)
    assert loaded.search == captioner.search
    captions = captioner.caption_features(features)
    assert [c.text for c in loaded.caption_features(features)] == [c.text for c in captions]
    assert len(set(captions)) > 1
    (folder / "consensus.npz").unlink()
    with pytest.raises(UserError, match=r"consensus\.npz"):
        Captioner.load(folder)


def test_an_image_that_cannot_be_decoded_is_named(saved, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.jpg cannot be decoded"):
        saved[0].caption(tmp_path / "bad.jpg")


def test_precomputed_features_have_no_encoder(saved):
    captioner = make({"name": "given.npz", "layer": "given", "weights": "sha256 1"})
    assert captioner.caption_features(np.ones((1, 3)))
    with pytest.raises(UserError, match=r"given\.npz.*caption_features"):
        captioner.caption("any.jpg")
    with pytest.raises(UserError, match=r"vgg16.*caption_features"):
        make(ENCODER | {"grid_file": "sha256 1"}).caption("any.jpg")


def test_other_encoder_weights_than_in_training_are_refused(saved, images):
    loaded = Captioner.load(saved[1])
    loaded.encoder = loaded.encoder | {"weights": "random seed 9"}
    with pytest.raises(UserError, match="random seed 9"):
        loaded.caption(images[0])


@pytest.mark.parametrize("name", ["captioner.json", "tokenizer.json", WEIGHTS])
def test_a_missing_or_damaged_file_is_named(saved, name):
    path = saved[1] / name
    whole = path.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    for damaged in (None, whole[:half], b"", flipped):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            Captioner.load(saved[1])


def test_a_vocabulary_of_another_training_is_refused(saved):
    CaptionTokenizer.fit(["other words"], min_frequency=1).save(saved[1] / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json has 6 words"):
        Captioner.load(saved[1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("units", 13), ("vocab_size", 15), ("feature_size", 4), ("beams", 2), ("units", "x")],
)
def test_sizes_that_do_not_fit_are_refused(saved, key, value):
    bundle = read_json(saved[1] / "captioner.json")
    bundle["sizes"][key] = value
    write_json(saved[1] / "captioner.json", bundle)
    with pytest.raises(UserError, match=str(saved[1])):
        Captioner.load(saved[1])


def test_another_process_loads_the_bundle(saved):
    code = (
        "from roco_caption.search.captioner import Captioner; import numpy as np; "
        f"print(Captioner.load({str(saved[1])!r}).caption_features(np.ones((1, 3)))[0].text)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == saved[0].caption_features(np.ones((1, 3)))[0].text
