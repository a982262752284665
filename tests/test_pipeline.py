"""The stages of the notebook, and that other ways through them make the same decoder."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import toy_features

from roco_caption import pipeline
from roco_caption.core.errors import UserError
from roco_caption.data.archive import TABLES
from roco_caption.decoder.model import build_decoder, fit_scalers
from roco_caption.features.inputs import mean_image, select_inputs
from roco_caption.features.table import Features, LazyRows
from roco_caption.scale import train as scale
from roco_caption.scores.baselines import neighbours
from roco_caption.search import compare
from roco_caption.search.bundle import export_keras, export_onnx
from roco_caption.search.captioner import Captioner
from roco_caption.show import plots

SIZES = {"components": 4, "embedding_size": 6, "units": 8}
WORDS = ["left", "right", "large", "small", "mass", "lung", "brain", "liver"]


def toy_data(count: int = 60) -> tuple[dict[str, pd.DataFrame], Features]:
    """Images of 20 cases, three each, whose captions depend on their features and their case."""
    rng = np.random.default_rng(0)
    ids = [f"PMC{i // 3}_{i}" for i in range(count)]
    matrix = rng.normal(size=(count, 6)).astype(np.float16)
    grid = rng.normal(size=(count, 4, 5)).astype(np.float16)
    captions = [
        f"a {WORDS[row.argmax()]} {WORDS[(i // 3) % 8]} is seen"
        for i, row in enumerate(matrix.astype(float))
    ]
    frame = pd.DataFrame({"id": ids, "image": ids, "caption": captions})
    frames = {"train": frame[:36], "validation": frame[36:48], "test": frame[48:]}
    frames = {split: part.reset_index(drop=True) for split, part in frames.items()}
    encoder = {"name": "vgg16", "layer": "fc2", "weights": "random seed 0"}
    rows = LazyRows(grid, np.arange(count), identity="grid")
    return frames, Features(ids, matrix, encoder, {}, rows)


def run(folder, attention=False, **options):
    frames, features = toy_data()
    inputs = select_inputs(frames, features, attention=attention)
    words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
    decoder = pipeline.make_decoder(inputs, words, **SIZES, **options)
    (history, *_) = pipeline.train_decoder(decoder, inputs, words, folder, epochs=2)
    return inputs, words, decoder, history


@pytest.mark.parametrize("attention", [pytest.param(False, marks=pytest.mark.slow), True])
def test_scale_trains_the_same_decoder_as_the_notebook(tmp_path, monkeypatch, attention):
    initial = []
    train_decoder = pipeline.train_decoder

    def recording(decoder, *arguments, **options):
        initial.append([np.asarray(w) for w in decoder.every_word.weights])
        return train_decoder(decoder, *arguments, **options)

    monkeypatch.setattr(pipeline, "train_decoder", recording)
    make_decoder = pipeline.make_decoder
    _, _, _, ours = run(tmp_path / "notebook", attention)

    frames, features = toy_data()
    features.matrix = LazyRows(features.matrix, np.arange(60), identity="shards")
    monkeypatch.setattr(scale, "local_copy", lambda shards, copies: shards)
    monkeypatch.setattr(scale, "read_shards", lambda folder: features)
    monkeypatch.setattr(scale, "read_captions", lambda data: {
        split: frames[split].drop(columns="image") for split in scale.SPLITS
    })  # fmt: skip
    monkeypatch.setattr(pipeline, "make_decoder", lambda *a, **o: make_decoder(*a, **o, **SIZES))
    folder = tmp_path / "scale"
    captioner = scale.train_captioner(
        "data", "shards", folder, attention=attention, min_frequency=1, max_words=8, epochs=2,
        batch_size=32, beams=2,
    )  # fmt: skip
    theirs = pd.read_csv(folder / "history.csv")
    for one, other in zip(*initial, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(ours.to_numpy(), theirs.set_index("epoch").to_numpy(), atol=1e-5)
    assert Captioner.load(folder).search == captioner.search


def test_concepts_are_fitted_with_whole_cases_left_out():
    frames, features = toy_data()
    inputs = select_inputs(frames, features, attention=True)
    words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
    decoder = pipeline.make_decoder(inputs, words, **SIZES)
    alone = build_decoder(**decoder.sizes)
    fit_scalers(alone, inputs.features["train"], words.tokens["train"], cases=None)
    one, other = (d.parts["scaler"].get_weights()[1] for d in (decoder, alone))
    assert not np.array_equal(one, other)


@pytest.fixture
def made():
    frames, features = toy_data()
    inputs = select_inputs(frames, features)
    words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
    return inputs, words, pipeline.make_decoder(inputs, words, **SIZES)


def interrupt_after(epochs):
    def callback(row):
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return callback


def saved_captioner(made, folder):
    inputs, words, decoder = made
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=2, neighbours=2, match=False)
    captioner.save(folder)
    return [caption.text for caption in captioner.caption_features(inputs.features["test"])]


def loaded_captions(made, folder):
    captioner = Captioner.load(folder)
    return [caption.text for caption in captioner.caption_features(made[0].features["test"])]


def test_after_an_interrupt_the_best_so_far_captions_and_training_goes_on(made, tmp_path, capsys):
    inputs, words, decoder = made
    options = {"folder": tmp_path, "epochs": 4, "learning_rate": 0.02}
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_decoder(decoder, inputs, words, callbacks=[interrupt_after(2)], **options)
    assert "best weights so far" in capsys.readouterr().out
    captions = saved_captioner(made, tmp_path)
    assert loaded_captions(made, tmp_path) == captions
    (history,) = pipeline.train_decoder(decoder, inputs, words, **options)
    assert len(history) == 4
    fresh = pipeline.make_decoder(inputs, words, **SIZES)
    options["folder"] = tmp_path / "undisturbed"
    pipeline.train_decoder(fresh, inputs, words, **options)
    for one, other in zip(decoder.every_word.weights, fresh.every_word.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", ["retraining is stopped", "the decoder is made again"])
def test_a_decoder_that_is_not_the_runs_never_replaces_its_captioner(made, tmp_path, how):
    inputs, words, decoder = made
    pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=3)
    captions = saved_captioner(made, tmp_path)
    if how == "retraining is stopped":
        stop = {"retrain": True, "callbacks": [interrupt_after(1)]}
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=3, **stop)
    else:
        made = inputs, words, pipeline.make_decoder(inputs, words, **SIZES)
    with pytest.raises(UserError, match=r"does not have this captioner's weights.*training cell"):
        saved_captioner(made, tmp_path)
    assert loaded_captions(made, tmp_path) == captions


def test_retraining_an_ensemble_goes_on_with_the_member_that_was_stopped(tmp_path):
    inputs, words, decoder, _ = run(tmp_path, members=2)
    names = [tmp_path / "captioner.weights.h5", tmp_path / "member2" / "captioner.weights.h5"]
    calls = []

    def stop_in_the_second(row):
        calls.append(row["epoch"])
        if len(calls) == 3:
            raise KeyboardInterrupt

    options = {"epochs": 2, "retrain": True}
    arguments = decoder, inputs, words, tmp_path
    captions = saved_captioner((inputs, words, decoder), tmp_path)
    earlier = [path.read_bytes() for path in names]
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_decoder(*arguments, callbacks=[stop_in_the_second], **options)
    assert [path.read_bytes() for path in names] == earlier  # the members belong together
    assert loaded_captions((inputs,), tmp_path) == captions
    finished = (tmp_path / "retraining" / names[0].name).stat().st_mtime_ns
    pipeline.train_decoder(*arguments, callbacks=[lambda row: calls.append(row)], **options)
    assert names[0].stat().st_mtime_ns == finished
    assert not any(path.exists() for path in tmp_path.rglob("retraining"))
    epochs = [row["epoch"] for row in calls[3:]]
    assert calls[:3] == [1, 2, 1] and epochs == [1, 2]  # of the second member; the first is told


def test_what_an_earlier_training_made_does_not_stay_beside_a_new_one(made, tmp_path):
    inputs, words, decoder = made
    pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=1)
    captions = saved_captioner(made, tmp_path)
    names = "scores.csv", "model_card.md", "decoder.keras", "captions.csv"
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=1)  # reused
    assert all((tmp_path / name).exists() for name in names)
    assert loaded_captions(made, tmp_path) == captions
    pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=1, retrain=True)
    assert not any((tmp_path / name).exists() for name in names)
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(UserError, match=r"captioner\.json is missing.*part 8"):
        Captioner.load(tmp_path)
    assert saved_captioner(made, tmp_path) == loaded_captions(made, tmp_path)


def test_scores_of_other_captions_are_removed(made, tmp_path):
    inputs, words, decoder = made
    pipeline.train_decoder(decoder, inputs, words, tmp_path, epochs=1)
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=2, neighbours=0, match=False)
    pipeline.caption_test_images(captioner, inputs, tmp_path)
    for name in ("scores.csv", "model_card.md"):
        (tmp_path / name).touch()
    pipeline.caption_test_images(captioner, inputs, tmp_path)  # the same ones
    assert (tmp_path / "scores.csv").exists() and (tmp_path / "model_card.md").exists()
    captioner.search = replace(captioner.search, beams=1, no_repeat=0)
    captions = pipeline.caption_test_images(captioner, inputs, tmp_path)
    assert len(captions) and not (tmp_path / "scores.csv").exists()
    assert not (tmp_path / "model_card.md").exists()


def test_a_run_is_not_named_for_data_that_it_did_not_see(made, tmp_path):
    inputs, words, decoder = made
    inputs = replace(inputs, name="phantoms")
    with pytest.raises(UserError, match=r"features are of phantoms, not of roco.*prepare_features"):
        pipeline.run_folder(tmp_path, "roco", decoder, inputs, words, epochs=1)
    assert not list(tmp_path.iterdir())
    pipeline.run_folder(tmp_path, "phantoms", decoder, inputs, words, epochs=1)


def assert_refused(decoder, inputs, words, folder, changed):
    """Check that every stage that takes a decoder says what has changed, and writes nothing."""
    for stage in (
        lambda: pipeline.run_folder(folder, "x", decoder, inputs, words, epochs=1),
        lambda: pipeline.train_decoder(decoder, inputs, words, folder, epochs=1),
        lambda: pipeline.make_captioner(decoder, inputs, words),
    ):
        with pytest.raises(UserError, match=f"{changed} have changed.*make_decoder"):
            stage()
    assert not list(folder.iterdir())


def test_words_of_other_captions_and_decoders_of_other_features_are_refused(made, tmp_path):
    _, words, decoder = made
    frames, features = toy_data()
    frames["train"].loc[3, "caption"] = "another caption is seen"
    changed = select_inputs(frames, features)
    for stage in (
        lambda: pipeline.make_decoder(changed, words, **SIZES),
        lambda: pipeline.train_decoder(decoder, changed, words, tmp_path, epochs=1),
        lambda: pipeline.make_captioner(decoder, changed, words),
    ):
        with pytest.raises(UserError, match=r"captions have changed.*index_words"):
            stage()
    captioner = pipeline.make_captioner(decoder, made[0], words, match=False)
    features.matrix = features.matrix[::-1].copy()  # as of another encoder
    changed = select_inputs(toy_data()[0], features)
    assert_refused(decoder, changed, words, tmp_path, "features")
    for stage in (
        lambda: pipeline.caption_test_images(captioner, changed, tmp_path),
        lambda: pipeline.caption_by_baselines(captioner, changed, ["a mass is seen"] * 12),
    ):
        with pytest.raises(UserError, match=r"features have changed.*make_decoder"):
            stage()


@pytest.mark.parametrize("changed", ["min_frequency", "longer", "shorter", "attention", "grids"])
def test_decoders_of_other_settings_are_refused_wherever_they_are_used(tmp_path, changed):
    frames, features = toy_data()
    inputs = select_inputs(frames, features, attention=changed == "grids")
    options = {"min_frequency": 1, "max_words": 8}
    words = pipeline.index_words(inputs.frames, **options)
    decoder = pipeline.make_decoder(inputs, words, **SIZES)
    options |= {"min_frequency": {"min_frequency": 6}, "longer": {"max_words": 9},
                "shorter": {"max_words": 3}}.get(changed, {})  # fmt: skip
    if changed == "grids":
        grid = LazyRows(features.grid.values[::-1].copy(), features.grid.rows, identity="other")
        inputs = select_inputs(frames, replace(features, grid=grid), attention=True)
    elif changed == "attention":
        inputs = select_inputs(frames, features, attention=True)
    words = pipeline.index_words(inputs.frames, **options)
    what = "features" if changed in ("attention", "grids") else "words"
    assert_refused(decoder, inputs, words, tmp_path, what)


def test_a_training_is_not_that_of_other_patients(tmp_path):
    frames, features = toy_data()
    frames = {split: frame.assign(id=frame.id.str[4:]) for split, frame in frames.items()}
    features = replace(features, ids=[name[4:] for name in features.ids])
    folders = []
    for patients in (None, [f"P{i // 3}" for i in range(36)], [f"Q{i // 3}" for i in range(36)]):
        if patients:
            frames["train"]["case"] = patients
        inputs = select_inputs(frames, features)
        words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
        decoder = pipeline.make_decoder(inputs, words, **SIZES)
        folders += [pipeline.run_folder(tmp_path, "x", decoder, inputs, words, epochs=1)]
    assert folders[0] != folders[1] == folders[2]  # their names do not matter


def test_a_seed_changed_after_the_decoder_was_made_is_another_training(made, tmp_path):
    inputs, words, _ = made
    folders = set()
    for made_with, trained_with in ((1, 1), (1, 2), (2, 2)):
        decoder = pipeline.make_decoder(inputs, words, seed=made_with, **SIZES)
        options = {"epochs": 1, "seed": trained_with}
        folders.add(pipeline.run_folder(tmp_path, "x", decoder, inputs, words, **options))
    assert len(folders) == 3


@pytest.mark.parametrize("missing", ["captioner.weights.h5", "member2/captioner.weights.h5"])
def test_a_captioner_is_not_saved_without_its_weights(tmp_path, missing):
    inputs, words, decoder, _ = run(tmp_path, members=2)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=r"does not have this captioner.s weights.*training cell"):
        saved_captioner((inputs, words, decoder), tmp_path)
    assert not (tmp_path / "captioner.json").exists()


def test_a_run_gets_no_scores_and_no_export_of_another_model(made, tmp_path):
    inputs, words, decoder = made
    pipeline.train_decoder(decoder, inputs, words, tmp_path / "a", epochs=1)
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=2, neighbours=0, match=False)
    captions = pipeline.caption_test_images(captioner, inputs, tmp_path / "a")
    others = {"this model": ["another caption", *captions.caption[1:]]}
    with pytest.raises(UserError, match=r"captions\.csv does not have the captions.*part 8"):
        pipeline.score(others, inputs, tmp_path / "a")
    reversed_test = inputs.frames["test"][::-1].reset_index(drop=True)
    moved = select_inputs(inputs.frames | {"test": reversed_test}, toy_data()[1])
    with pytest.raises(UserError, match=r"captions\.csv does not have the captions.*part 8"):
        pipeline.score({"this model": list(captions.caption)}, moved, tmp_path / "a")
    others = inputs.frames["test"].assign(caption="another reference")
    moved = select_inputs(inputs.frames | {"test": others}, toy_data()[1])
    with pytest.raises(UserError, match=r"captions\.csv does not have the captions.*part 8"):
        pipeline.score({"this model": list(captions.caption)}, moved, tmp_path / "a")
    assert not (tmp_path / "a" / "scores.csv").exists()
    pipeline.score({"this model": list(captions.caption)}, inputs, tmp_path / "a")
    pipeline.train_decoder(decoder, inputs, words, tmp_path / "b", epochs=2)
    with pytest.raises(UserError, match="trained again after this captioner was made"):
        pipeline.caption_by_baselines(captioner, inputs, captions.caption)
    with pytest.raises(UserError, match=r"b/captions\.csv does not have the captions.*part 8"):
        pipeline.score({"this model": list(captions.caption)}, inputs, tmp_path / "b")
    for export, path in ((export_keras, tmp_path / "a" / "decoder.keras"),
                         (export_keras, tmp_path / "decoder.keras"),
                         (export_onnx, tmp_path / "decoder.onnx")):  # fmt: skip
        pytest.importorskip("tf2onnx") if export is export_onnx else None
        with pytest.raises(UserError, match="trained again after this captioner was made"):
            export(captioner, path)
        assert not path.exists()


def test_an_ensemble_is_trained_captions_and_is_scored_as_one(tmp_path):
    inputs, words, decoder, _ = run(tmp_path, members=2)
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=2, neighbours=2)
    captioner.save(tmp_path)
    captions = pipeline.caption_test_images(captioner, inputs, tmp_path)
    assert list(captions)[:4] == ["id", "reference", "caption", "log_probability"]
    assert list(captions)[4:] == ["contradiction", "fragment"]
    assert (tmp_path / "member2" / "captioner.weights.h5").exists()
    again = Captioner.load(tmp_path).caption_features(inputs.features["test"])
    assert [c.text for c in again] == list(captions.caption)
    systems = pipeline.caption_by_baselines(captioner, inputs, captions.caption)
    known = list(inputs.frames["train"].caption)
    most = Counter(known).most_common(1)[0][0]
    assert systems["most frequent caption"] == [most] * len(captions)
    nearest = np.asarray(neighbours(inputs.vectors["train"], inputs.vectors["test"], 1))[:, 0]
    assert systems["nearest image's caption"] == [known[i] for i in nearest]
    table = pipeline.score(systems, inputs, tmp_path)
    written = pd.read_csv(tmp_path / "scores.csv", index_col="system")
    assert list(written.index) == list(systems) and written.index[0] == "this model"
    assert written.index[2].startswith("images shuffled")
    np.testing.assert_allclose(written.CIDEr, table.CIDEr)
    assert set(written) - set(table) == {"contradiction", "fragment"}
    assert written.contradiction.eq(0).all()  # too few captions to tell what is apart


def test_callbacks_get_every_epoch_and_a_failing_one_stops_nothing(tmp_path, capsys):
    frames, features = toy_data()
    inputs = select_inputs(frames, features)
    words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
    decoder = pipeline.make_decoder(inputs, words, **SIZES)
    rows = []

    def fail(row):
        raise ConnectionError("no server")

    pipeline.train_decoder(
        decoder, inputs, words, tmp_path, epochs=3, callbacks=[fail, rows.append]
    )
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all({"loss", "val_loss", "learning_rate"} <= row.keys() for row in rows)
    assert capsys.readouterr().out.count("failed (no server) and is not called again") == 1


def test_a_folder_of_images_goes_from_pixels_to_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", toy_features.tiny_encoder)
    data = pipeline.prepare_data(tmp_path, phantoms="4,2,2")
    inputs = pipeline.prepare_features(data, tmp_path, weights="random", attention=True)
    assert {split: a.shape for split, (a, _) in inputs.features.items()} == {
        "train": (4, 6), "validation": (2, 6), "test": (2, 6),
    }  # fmt: skip
    assert inputs.features["train"][1].shape == (4, 4, 3)
    assert json.dumps(inputs.encoder["layer"]) == '"fc2"' and not inputs.missing


@pytest.mark.parametrize("text", ["48 8 8", "1,2", "a,b,c"])
def test_phantoms_that_are_not_three_numbers_are_refused(tmp_path, text):
    with pytest.raises(UserError, match=f"PHANTOMS must be three whole numbers .* got '{text}'"):
        pipeline.prepare_data(tmp_path, phantoms=text)


def own_images(folder, captions_each=1):
    """Write 12 images of six patients, and their table as a spreadsheet program in Germany does."""
    rows = ["Datei;Befund;Patient"]
    for i, path in enumerate(toy_features.make_images(folder / "scans", 12).values()):
        texts = [f"Röntgen {i}; Größe {k} µm" for k in range(captions_each)]
        rows += [f'scans\\{path.name.upper()};"{text}";{i // 2}' for text in texts]
    (folder / "Export.csv").write_bytes("\r\n".join(rows).encode("cp1252"))


@pytest.mark.parametrize("captions_each", [1, 3])
def test_own_images_and_captions_go_from_a_folder_to_scores(tmp_path, monkeypatch, captions_each):
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", toy_features.tiny_encoder)
    monkeypatch.setattr("roco_caption.data.encodings._detected", lambda content: "cp1252")
    own_images(tmp_path / "mine", captions_each)
    data = pipeline.prepare_data(tmp_path, data_dir=str(tmp_path / "mine"))
    assert data.counts.used.to_dict() == {"train": 8, "validation": 2, "test": 2}
    inputs = pipeline.prepare_features(data, tmp_path, weights="random")
    assert len(inputs.features["train"]) == len(inputs.frames["train"]) == 8 * captions_each
    assert inputs.cases["test"].nunique() == 1 and not inputs.missing
    assert {len(r) if isinstance(r, list) else 1 for r in inputs.references} == {captions_each}
    assert inputs.frames["test"].caption.str.fullmatch(r"Röntgen \d+; Größe 0 µm").all()
    assert mean_image(inputs.features["train"])[0].shape == (1, 6)
    words = pipeline.index_words(inputs.frames, min_frequency=1, max_words=8)
    assert words.tokens["train"].shape[0] == 8 * captions_each
    assert "größe" in words.tokenizer.words
    plots.sample_images(data.frames["train"])


def test_scores_get_all_references(tmp_path, monkeypatch):
    frames, features = toy_data()
    for frame in frames.values():
        frame["references"] = [[caption, "another"] for caption in frame.caption]
    inputs = select_inputs(frames, features)
    given = []
    table = pd.DataFrame({"CIDEr": [1.0]})
    monkeypatch.setattr(compare, "score_table", lambda r, *a, **o: given.append(r) or table)
    written = frames["test"][["id", "caption"]].assign(reference=frames["test"].caption)
    written.to_csv(tmp_path / "captions.csv", index=False)
    pipeline.score({"x": list(frames["test"].caption)}, inputs, tmp_path)
    assert given[0][0] == [frames["test"].caption[0], "another"] and len(given[0]) == 12
    one = {split: frame.drop(columns="references") for split, frame in frames.items()}
    assert select_inputs(one, features).references == list(one["test"].caption)


def test_images_named_alike_in_three_splits_have_a_row_of_features_each(tmp_path, monkeypatch):
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", toy_features.tiny_encoder)
    images = toy_features.make_images(tmp_path / "images", 12)
    for i, path in enumerate(images.values()):
        split, table = list(TABLES.items())[i % 3]
        folder = tmp_path / "mine" / "all_data" / split / "radiology"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        path.rename(folder / "images" / f"{i // 3:03d}.png")
        names = [f"{k:03d}.png,caption {k}" for k in range(4)]
        (folder / table).write_text("\n".join(["name,caption", *names]))
    data = pipeline.prepare_data(tmp_path, data_dir=str(tmp_path / "mine"))
    inputs = pipeline.prepare_features(data, tmp_path, weights="random")
    rows = np.concatenate(list(inputs.vectors.values()))
    assert len(np.unique(rows, axis=0)) == len(rows) == 12
