"""Exported models give the captioner's captions without this project's code."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers.toy_captioner import ENCODER, make
from keras import ops

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import combine
from roco_caption.search import bundle
from roco_caption.search.bundle import WORDS, export_keras, export_onnx, plain_model
from roco_caption.search.captioner import Captioner, Search
from roco_caption.text.tokenizer import START

GREEDY = Search(beams=1, no_repeat=0)
GRID = {"attention": True, "grid_size": [4, 3], "grid_components": 2, "concepts": 5}
KINDS = {"merge": {}, "attention": GRID, "ensemble": {"members": 2}, "both": GRID | {"members": 2}}

# Run where this project cannot be imported: greedy captions for the features in a file.
ELSEWHERE = """
import json, sys, zipfile
import numpy as np
sys.modules["roco_caption"] = None
kind, path, features, most = sys.argv[1:]
features, tokens = [np.load(features)[name] for name in np.load(features)], []
if kind == "keras":
    import keras
    model = keras.saving.load_model(path)
    words = json.loads(zipfile.ZipFile(path).read("words.json"))
    rate = lambda tokens: model([*features, tokens])
else:
    import onnxruntime
    sys.modules["tensorflow"] = sys.modules["keras"] = None
    session = onnxruntime.InferenceSession(path)
    words = json.loads(session.get_modelmeta().custom_metadata_map["words.json"])
    names = ["input_img", "input_grid"][: len(features)] + ["input_txt"]
    assert {entry.name for entry in session.get_inputs()} == set(names)
    rate = lambda tokens: session.run(None, dict(zip(names, [*features, tokens])))[0][:, -1]
tokens = np.ones((len(features[0]), 1), np.int32)  # the start
for _ in range(int(most)):
    rated = np.array(rate(tokens))
    rated[:, [0, 1, 3]] = -np.inf  # padding, start, unknown word
    tokens = np.c_[tokens, rated.argmax(axis=1).astype(np.int32)]
ends = [list(row).index(2) if 2 in row else len(row) for row in tokens]
print(json.dumps([" ".join(words[t] for t in row[1:end]) for row, end in zip(tokens, ends)]))
"""


def trained(kind: str) -> Captioner:
    """A captioner whose weights are all random, constants and biases included, so that its captions
    differ."""
    sizes = KINDS[kind] | {}
    captioners = [make(ENCODER, **sizes) for _ in range(sizes.pop("members", 1))]
    rng, captioner = np.random.default_rng(3), captioners[0]
    captioner = replace(captioner, decoder=combine([each.decoder for each in captioners]))
    for weight in [w for member in captioner.decoder.members for w in member.every_word.weights]:
        if weight.dtype == "float32":
            scale = 2.8 if "embedding" in weight.path else 0.28 if "image" in weight.path else 0.7
            weight.assign(rng.normal(size=weight.shape, scale=scale))
        if "longest" in weight.path:
            weight.assign(1.0)  # some images are shortened
    return captioner


def some_features(kind: str, count: int = 7):
    rng = np.random.default_rng(2)
    pooled = rng.normal(size=(count, 3)).astype(np.float32)
    grid = rng.normal(size=(count, 4, 3)).astype(np.float32)
    return (pooled, grid) if "attention" in KINDS[kind] else (pooled,)


def captions_elsewhere(kind, path, features, captioner, tmp_path) -> list[str]:
    np.savez(tmp_path / "features.npz", *features)
    most = str(captioner.tokenizer.max_words)
    command = [sys.executable, "-c", ELSEWHERE, kind, str(path), str(tmp_path / "features.npz")]
    result = subprocess.run([*command, most], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["ensemble", pytest.param("both", marks=pytest.mark.slow)])
def test_the_keras_file_captions_without_this_project(tmp_path, kind):
    captioner, features = trained(kind), some_features(kind)
    path = export_keras(captioner, tmp_path / "decoder.keras")
    assert [p.name for p in tmp_path.iterdir()] == ["decoder.keras"]
    with zipfile.ZipFile(path) as archive:
        assert "roco_caption" not in archive.read("config.json").decode()
    captions = captions_elsewhere("keras", path, features, captioner, tmp_path)
    expected = captioner.caption_features(features, GREEDY)
    assert captions == [caption.text for caption in expected]
    assert len({*captions}) > 1  # they depend on the image


@pytest.mark.tensorflow("tf2onnx")
@pytest.mark.parametrize("kind", ["ensemble", pytest.param("both", marks=pytest.mark.slow)])
def test_the_onnx_file_captions_with_onnx_runtime_alone(tmp_path, kind):
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    captioner, features = trained(kind), some_features(kind)
    path = export_onnx(captioner, tmp_path / "decoder.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["decoder.onnx"]
    captions = captions_elsewhere("onnx", path, features, captioner, tmp_path)
    expected = captioner.caption_features(features, GREEDY)
    assert captions == [caption.text for caption in expected]
    assert len({*captions}) > 1  # they depend on the image


@pytest.mark.parametrize("kind", KINDS)
def test_both_plain_views_compute_the_mean_of_the_trained_members(kind):
    captioner, features = trained(kind), some_features(kind)
    tokens = np.array([[START, *range(4, 4 + n), *[0] * (8 - n)] for n in range(7)], np.int32)
    inputs = [*features, tokens]
    members = captioner.decoder.members
    expected = np.mean([member.next_word(inputs) for member in members], axis=0)
    np.testing.assert_allclose(plain_model(captioner.decoder)(inputs), expected, atol=1e-4)
    logits = [np.asarray(member.every_word(inputs)) for member in members]
    result = plain_model(captioner.decoder, "every_word")(inputs)
    if len(members) == 1:
        np.testing.assert_allclose(result, logits[0], atol=1e-4)
    expected = np.mean([ops.softmax(array) for array in logits], axis=0)
    np.testing.assert_allclose(ops.softmax(result), expected, atol=1e-4)
    assert len(members) == 1 or np.abs(ops.softmax(logits[0]) - expected).max() > 0.1


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0, 1e6])
def test_features_of_any_scale_are_exported_alike(scale):
    captioner = trained("merge")
    features = np.random.default_rng(1).gamma(0.3, size=(4, 3)).astype(np.float32)
    tokens = np.full((4, 9), START, np.int32)
    expected = np.asarray(captioner.decoder.every_word([features, tokens]))
    for model in (captioner.decoder.every_word, plain_model(captioner.decoder, "every_word")):
        result = np.asarray(model([features * np.float32(scale), tokens]))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [0, 1])
def test_one_member_of_an_ensemble_is_not_written_as_all(tmp_path, monkeypatch, k):
    captioner = trained("ensemble")
    monkeypatch.setattr(bundle, "plain_model", lambda decoder: plain_model(decoder.members[k]))
    with pytest.raises(UserError, match=r"decoder\.keras was not written"):
        export_keras(captioner, tmp_path / "decoder.keras")


def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    captioner = trained("merge")

    def spoiled(*arguments, **options):
        model = plain_model(*arguments, **options)
        layer = model.get_layer("dense")
        layer.set_weights([weight * 1.01 for weight in layer.get_weights()])
        return model

    monkeypatch.setattr(bundle, "plain_model", spoiled)
    with pytest.raises(
        UserError, match=r"decoder\.keras was not written: its outputs would differ"
    ):
        export_keras(captioner, tmp_path / "decoder.keras")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_than_keras_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.keras"):
        export_keras(trained("merge"), tmp_path / "decoder.h5")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install .*\[onnx\]"):
        export_onnx(trained("merge"), tmp_path / "decoder.onnx")


def test_the_words_are_the_tokenizers(tmp_path):
    captioner = trained("merge")
    with zipfile.ZipFile(export_keras(captioner, tmp_path / "a.keras")) as archive:
        words = json.loads(archive.read(WORDS))
    assert words == captioner.tokenizer.words
    assert keras.saving.load_model(tmp_path / "a.keras").output_shape == (None, len(words))
