"""`Captioner`: captions of files and features, and its bundle in a run's folder."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.dicom_files import write_dicom
from helpers.toy_captioner import CAPTIONS, ENCODER, make, save_trained, tiny_encoder
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_json
from roco_caption.data.dicom import read_dicom
from roco_caption.decoder.model import build_decoder
from roco_caption.features import extract
from roco_caption.features.encoder import describe
from roco_caption.scores.coherence import Coherence
from roco_caption.search import captioner as module
from roco_caption.search.captioner import Captioner, Search
from roco_caption.search.rerank import Consensus
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.captions import CaptionData
from roco_caption.training.checkpoint import WEIGHTS
from roco_caption.training.loop import train


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build_encoder", tiny_encoder)
    monkeypatch.setattr(module, "ROWS", 4)
    captioner = make()
    save_trained(captioner, tmp_path)
    return captioner, tmp_path


@pytest.fixture
def images(tmp_path):
    paths = []
    for i, grey in enumerate((10, 240)):
        paths.append(tmp_path / f"{i}.jpg")
        Image.new("RGB", (50, 40), (grey, 255 - grey, 90)).save(paths[-1])
    return paths


@pytest.mark.parametrize("apart", [None, (), (("head", "abdomen"), ("CT", "MR"))])
def test_a_captioner_keeps_what_its_captions_name_apart(saved, apart):
    captioner, folder = saved
    captioner.coherence = Coherence(apart)
    captioner.save(folder)
    assert (Captioner.load(folder).coherence or Coherence(None)) == captioner.coherence


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
    save_trained(captioner, tmp_path)
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


@pytest.mark.parametrize(
    ("logits", "search"), [(1, Search(beams=1, no_repeat=0)), (200, Search(beams=4))]
)
def test_fewer_images_at_once_give_the_same_captions(saved, monkeypatch, logits, search):
    captioner = saved[0]
    features = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float16)
    together = captioner.caption_features(features, search)
    monkeypatch.setattr(module, "LOGITS", logits)
    apart = captioner.caption_features(features, search)
    assert [caption.text for caption in apart] == [caption.text for caption in together]


@pytest.mark.parametrize(
    ("beams", "vocab_size", "on_cpu", "images"),
    [
        (20, 12_109, True, 17),
        (3, 12_109, True, 114),
        (1, 150, True, 1024),
        (20, 150, True, 256),
        (50, 10**7, True, 1),
        (20, 12_109, False, 256),
    ],
)
def test_on_a_cpu_the_logits_of_a_word_stay_small(monkeypatch, beams, vocab_size, on_cpu, images):
    monkeypatch.setattr(module, "ROWS", 1024)
    monkeypatch.setattr(module, "on_tensorflow_cpu", lambda: on_cpu)
    assert module._images_at_once(beams, vocab_size) == images


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
    with pytest.raises(UserError, match="no images"):
        saved[0].encode([])


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
    search = {"beams": 2, "no_repeat": 2, "end_penalty": 0.0}
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


def test_captions_and_scores_of_another_search_do_not_stay(saved):
    captioner, folder = saved
    captioner.coherence = Coherence((("head", "abdomen"),))
    captioner.save(folder)
    made = [folder / name for name in ("captions.csv", "scores.csv", "model_card.md")]
    for path in made:
        path.write_text("made")
    captioner.save(folder)
    assert all(path.exists() for path in made)
    (folder / "captioner.json").unlink()  # captions may be written before the captioner is saved
    captioner.save(folder)
    assert all(path.exists() for path in made)
    older = read_json(folder / "captioner.json")
    older["search"] = {"length_power": 0.7, "beams": older["search"]["beams"]}
    for content in (json.dumps(older), "null", "{"):  # of an earlier version; damaged
        (folder / "captioner.json").write_text(content)
        captioner.save(folder)
        assert all(path.exists() for path in made)
    captioner.search = Search(beams=captioner.search.beams + 1)
    captioner.save(folder)
    assert not any(path.exists() for path in made)
    for content in ({"search": None}, {"search": [1]}, []):
        (folder / "captioner.json").write_text(json.dumps(content))
        captioner.save(folder)


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


def test_a_caption_prints_its_text(saved, images):
    caption = saved[0].caption(images[0])
    assert str(caption) == f"{caption}" == caption.text


def test_a_home_folder_is_expanded(saved, images, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    captioner = Captioner.load("~")
    assert captioner.caption("~/1.jpg") == captioner.caption(images[1])
    (tmp_path / "captioner.json").unlink()
    captioner.save("~")
    assert (tmp_path / "captioner.json").exists()
    with pytest.raises(UserError, match="does not have this captioner's weights"):
        captioner.save("~/copy")  # it could not be loaded


def test_a_captioner_of_a_decoder_that_was_trained_again_is_refused(saved, images):
    captioner = Captioner.load(saved[1])
    captioner.caption(images[0])
    captioner.decoder.members[0].weights_file = "another"
    for search in (None, Search(beams=1, no_repeat=0)):
        with pytest.raises(UserError, match=r"trained again after this captioner.*part 8"):
            captioner.caption(images[0], search)


def test_an_image_may_be_in_memory(saved, images):
    picture = Image.open(images[0])
    for image in (picture, np.asarray(picture)):
        captions = saved[0].caption_images([image, images[1]])
        assert captions == saved[0].caption_images(images)


def test_no_images_have_no_captions(saved):
    assert saved[0].caption_images([]) == []
    for search in (None, Search(beams=1), Search(neighbours=3)):
        assert saved[0].caption_features(np.empty((0, 3)), search) == []
    assert saved[0].best_captions(np.empty((0, 3))) == []


def noisy_images(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(5)
    for i in range(count):
        pixels = rng.integers(0, 255, 3) + rng.normal(0, 25, (16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_loaded_captioner_gives_the_captions_of_its_run(tmp_path, monkeypatch, precision):
    """100 of 100: encoded in the same precision, and rounded as in the cache."""

    def rounded(name, weights, *, seed=0, precision="float32", with_grid=False):
        model = tiny_encoder(name, weights, seed=seed, with_grid=with_grid)
        exact = keras.ops.cast(model.output * 37.7, keras.DTypePolicy(precision).compute_dtype)
        return keras.Model(model.input, exact, name=name)

    monkeypatch.setattr(module, "build_encoder", rounded)
    monkeypatch.setattr(module, "has_accelerator", lambda: True)  # else never in float16
    monkeypatch.setattr(extract, "build_encoder", rounded)
    paths = noisy_images(tmp_path / "images", 100)
    options = {"weights": "random", "seed": 4, "precision": precision}
    features = extract.extract_features(paths, tmp_path / "cache", **options)
    captioner = make(features.encoder | {"precision": precision})
    rng = np.random.default_rng(0)
    for weight in captioner.decoder.every_word.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))  # so that captions differ
    save_trained(captioner, tmp_path)
    in_run = captioner.caption_features(features.select(list(paths)))
    assert len(set(in_run)) > 90
    loaded = Captioner.load(tmp_path)
    np.testing.assert_array_equal(loaded.encode(list(paths.values())), features.select(list(paths)))
    assert loaded.caption_images(list(paths.values())) == in_run
    table = loaded.caption_folder(tmp_path / "images", batch_size=7)
    assert list(table.caption) == [caption.text for caption in in_run]
    assert loaded.caption(paths["003"]).text == in_run[3].text
    if precision == "mixed_bfloat16":
        loaded = Captioner.load(tmp_path)
        loaded.encoder = loaded.encoder | {"precision": "float32"}
        assert loaded.caption_images(list(paths.values())) != in_run


@pytest.mark.parametrize("card", [True, False])
def test_only_with_a_card_images_are_encoded_in_float16(monkeypatch, card):
    built = []

    def build(name, weights, *, precision, **options):
        built.append(precision)
        return tiny_encoder(name, weights)

    monkeypatch.setattr(module, "build_encoder", build)
    monkeypatch.setattr(module, "has_accelerator", lambda: card)
    for precision in ("mixed_float16", "mixed_bfloat16", "float32"):
        make(ENCODER | {"precision": precision}).encode([np.zeros((8, 8), np.uint8)])
    assert built == ["mixed_float16" if card else "float32", "mixed_bfloat16", "float32"]


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_image_that_overflows_in_half_precision_is_encoded_in_float32(
    tmp_path, monkeypatch, precision, value
):
    """As `extract_features` does: what is trained on can be captioned."""

    def build(name, weights, *, seed=0, precision="float32", with_grid=False):
        model = tiny_encoder(name, weights, seed=seed, with_grid=with_grid)
        if precision == "float32":
            return model
        bright = keras.ops.where(model.output > 4, value, model.output)
        return keras.Model(model.input, bright, name=name)

    monkeypatch.setattr(module, "build_encoder", build)
    monkeypatch.setattr(module, "has_accelerator", lambda: True)
    pictures = [np.full((8, 8), shade, np.uint8) for shade in (40, 250)]
    captioner = make(ENCODER | {"precision": precision})
    features, reasons = captioner.encode_readable(pictures)
    expected = make(ENCODER | {"precision": "float32"}).encode(pictures)
    np.testing.assert_array_equal(features, expected)
    assert not reasons and np.isfinite(features).all()
    assert captioner.caption(pictures[1]).text


@pytest.fixture
def own_weights(tmp_path, monkeypatch):
    """A run whose encoder's weights are a file, named by a path relative to the working folder."""

    def build(name, weights, seed, **more):
        return tiny_encoder(name, "", seed=len(Path(weights).read_text()))

    monkeypatch.setattr(module, "build_encoder", build)
    monkeypatch.chdir(tmp_path)
    Path("w").mkdir()
    Path("w/own.weights.h5").write_text("weights")
    requested = {"weights": "w/own.weights.h5", "seed": 1}
    identity = describe("vgg16", **requested)["weights"]
    encoder = ENCODER | {"weights": identity, "requested": requested}
    captioner = make(encoder)
    save_trained(captioner, Path("run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_a_run_with_own_weights_is_loaded_from_another_working_folder(own_weights, images):
    encoder = read_json(own_weights / "run" / "captioner.json")["encoder"]
    assert encoder["requested"]["weights"] == str(own_weights / "w" / "own.weights.h5")
    assert Captioner.load("../run").encode(images).shape == (2, 3)


@pytest.mark.parametrize("name", ["own.weights.h5", "renamed.h5"])
def test_moved_weights_are_named_again(own_weights, images, name, monkeypatch):
    expected = Captioner.load("../run").encode(images)
    (own_weights / "w" / "own.weights.h5").rename(own_weights / "elsewhere" / name)
    with pytest.raises(UserError, match=r"own\.weights\.h5 are missing.*weights=") as error:
        Captioner.load("../run").encode(images)
    assert str(own_weights / "w") in str(error.value)
    for path in (name, own_weights / "elsewhere" / name):
        assert (Captioner.load("../run", weights=path).encode(images) == expected).all()
    monkeypatch.setenv("HOME", str(own_weights))
    captioner = Captioner.load("../run", weights=f"~/elsewhere/{name}")
    captioner.save("../run")  # keeps the new place
    assert (Captioner.load("../run").encode(images) == expected).all()


def test_other_weights_and_weights_without_use_are_refused(own_weights, saved):
    Path("other.h5").write_text("other")
    with pytest.raises(UserError, match=r"own\.weights\.h5 sha256 .*other\.h5"):
        Captioner.load("../run", weights="other.h5")
    with pytest.raises(UserError, match=r"nowhere\.h5 are missing"):
        Captioner.load("../run", weights="nowhere.h5")
    with pytest.raises(UserError, match=r"random seed 4.*other\.h5"):
        Captioner.load(saved[1], weights="other.h5")
    captioner = make({"name": "given.npz", "layer": "given", "weights": "sha256 1"})
    save_trained(captioner, saved[1])
    with pytest.raises(UserError, match="has no encoder"):
        Captioner.load(saved[1], weights="other.h5")


def test_published_weights_may_be_a_file_where_there_is_no_internet(own_weights):
    content = b"as published"
    Path("vgg16.h5").write_bytes(content)
    bundle = read_json("../run/captioner.json")
    bundle["encoder"] |= {
        "weights": f"imagenet md5 {hashlib.md5(content).hexdigest()}",
        "requested": {"weights": "imagenet", "seed": 1},
    }
    write_json("../run/captioner.json", bundle)
    captioner = Captioner.load("../run", weights="vgg16.h5")
    assert captioner.encoder["requested"]["weights"] == str(Path("vgg16.h5").absolute())


def test_the_newest_run_below_a_folder_is_taken_and_named(saved, tmp_path, capsys):
    captioner = saved[0]
    root = tmp_path / "checkpoints"
    for age, name in enumerate(["new", "group/middle", "old"]):
        captioner.search = Search(beams=4 + age)
        save_trained(captioner, root / name)
        os.utime(root / name / "captioner.json", (9e8 - age, 9e8 - age))
    write_json(root / "new" / "settings.json", {"captions": {"train": 1234}}, sealed=True)
    (root / "unfinished").mkdir()
    (root / "a" / "b" / "too deep").mkdir(parents=True)
    (root / "a" / "b" / "too deep" / "captioner.json").touch()
    assert Captioner.load(root).search.beams == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert f"The newest of 3 runs in {root}: {root / 'new'}, trained on 1,234 captions." in line
    assert "another run, give its captioner.json" in line
    for content in ({}, {"captions": {"train": "many"}}, [1]):  # of another program
        write_json(root / "new" / "settings.json", content)
        assert Captioner.load(root).search.beams == 4
        assert "trained on" not in capsys.readouterr().out
    assert Captioner.load(root / "group").search.beams == 5
    assert "another" not in capsys.readouterr().out
    capsys.readouterr()
    for path in (root / "old", root / "old" / "captioner.json", str(root / "old" / WEIGHTS)):
        assert Captioner.load(path).search.beams == 6
    assert capsys.readouterr().out == ""
    os.utime(root / "old" / "captioner.json")
    assert Captioner.load(root).search.beams == 6


@pytest.mark.parametrize("below", ["toy-40captions", "group/toy", None])
@pytest.mark.parametrize("newest", ["outer", "inner"])
def test_of_a_run_and_those_below_it_the_newest_is_taken(saved, tmp_path, capsys, below, newest):
    captioner, outer = saved[0], tmp_path / "chosen"
    beams = {outer: 4} | ({outer / below: 5} if below else {})
    for age, folder in enumerate(beams):
        captioner.search = Search(beams=beams[folder])
        save_trained(captioner, folder)
        age = -age if newest == "inner" else age
        os.utime(folder / "captioner.json", (9e8 - age, 9e8 - age))
    expected = outer / below if below and newest == "inner" else outer
    assert Captioner.load(outer).search.beams == beams[expected]
    said = capsys.readouterr().out
    assert (f"The newest of 2 runs in {outer}: {expected}." in said) == bool(below)
    assert Captioner.load(outer / "captioner.json").search.beams == 4
    assert not capsys.readouterr().out


def test_a_folder_without_a_run_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere" / "captioner.json"):
        with pytest.raises(UserError, match=r"captioner\.json is missing.*part 8"):
            Captioner.load(path)


@pytest.mark.parametrize(
    "options", [{"beams": 0}, {"beams": -3}, {"beams": 2.5}, {"beams": True}, {"no_repeat": -1},
                {"neighbours": -1}, {"neighbours": "3"}]
)  # fmt: skip
def test_a_search_that_cannot_be_made_is_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name.upper()} must be a whole number .*{options[name]}"):
        Search(**options)


def test_more_beams_and_captions_than_the_vocabulary_has_words(saved):
    captioner, features = saved[0], np.ones((1, 3), np.float32)
    (best,) = captioner.best_captions(features, 40, Search(beams=np.int64(20)))
    assert (
        len({caption.text for caption in best}) == len(best) == 40 > captioner.tokenizer.vocab_size
    )
    for count in (0, -1):
        with pytest.raises(UserError, match=f"COUNT must be .* at least 1, got {count}"):
            captioner.best_captions(features, count)


def test_all_captions_are_returned_where_fewer_exist_than_asked_for():
    tokenizer = CaptionTokenizer.fit(["mass", "film"], min_frequency=1, max_words=1)
    keras.utils.set_random_seed(0)
    decoder = build_decoder(
        vocab_size=6, max_len=2, feature_size=3, components=3, embedding_size=4, units=4
    )
    captioner = Captioner(decoder, tokenizer)
    for weight in decoder.every_word.trainable_variables:
        if weight.path.startswith("dense/bias"):
            weight.assign([0, 0, 1, 0, 5, 3])  # "film" is the most probable word
    (best,) = captioner.best_captions(np.ones((1, 3)), 100)
    texts = [caption.text for caption in best]
    assert texts[0] == "film" and set(texts) >= {"", "film", "mass"} and len(texts) < 20


@pytest.mark.parametrize("search", [Search(beams=1, no_repeat=0), Search(beams=3, no_repeat=0)])
def test_a_caption_may_have_as_many_words_as_training_captions(tmp_path, search):
    """Trained on captions of `max_words` words, it is sure of their last word, and of the end."""
    captions = ["large mass in left lung", "small cyst in right kidney"] * 8
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=5)
    features = np.eye(2, 3, dtype=np.float16)[np.arange(16) % 2]
    data = CaptionData(features, tokenizer.encode(captions))
    keras.utils.set_random_seed(0)
    decoder = build_decoder(
        vocab_size=tokenizer.vocab_size, max_len=6, feature_size=3, components=3,
        embedding_size=8, units=16, dropout=0.0,
    )  # fmt: skip
    train(decoder, data, data, tmp_path, epochs=60, batch_size=2, learning_rate=0.02)
    found = Captioner(decoder, tokenizer).caption_features(features[:2], search)
    assert [caption.text.lower() for caption in found] == captions[:2]
