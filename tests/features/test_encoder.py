"""The encoders: the same features as the plain Keras loop, from each source of weights."""

import hashlib
import http.server
import importlib
import inspect
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from roco_caption.core import machine as places
from roco_caption.core.errors import UserError
from roco_caption.data.images import read_image
from roco_caption.features.encoder import (
    ENCODERS,
    WeightsUnavailable,
    build_encoder,
    describe,
    imagenet_weights,
    randomise,
)

OTHERS = ["resnet50", "densenet121", "efficientnetv2b0", "convnext_tiny"]


@pytest.fixture(scope="module")
def vgg16():
    return build_encoder("vgg16", "random", seed=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    x, y = np.meshgrid(np.arange(300), np.arange(260))
    for i in range(3):
        picture = 127 + 120 * np.sin(x / (5 + 9 * i)) * np.cos(y / (30 - 8 * i))
        Image.fromarray(picture.astype(np.uint8)).convert("RGB").save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def weights_file(vgg16, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.weights.h5"
    whole = keras.applications.VGG16(weights=None)
    randomise(whole, 3)
    whole.save_weights(path)
    return path


def test_features_equal_the_plain_keras_loop(vgg16, images):
    whole = keras.applications.VGG16(weights=None)
    randomise(whole, 3)
    plain = keras.Model(whole.input, whole.get_layer("fc2").output)
    ours = np.asarray(vgg16.predict_on_batch(np.stack([read_image(path) for path in images])))
    assert ours.shape == (3, 4096)
    for row, path in zip(ours, images, strict=True):
        picture = keras.utils.load_img(path, target_size=(224, 224), interpolation="bilinear")
        batch = keras.utils.img_to_array(picture)[None]
        theirs = plain.predict(keras.applications.vgg16.preprocess_input(batch), verbose=0)[0]
        assert (row @ theirs) / np.linalg.norm(row) / np.linalg.norm(theirs) >= 0.9999


def test_the_grid_comes_of_the_same_pass_row_by_row(vgg16, images):
    pixels = np.stack([read_image(path) for path in images])
    encoder = build_encoder("vgg16", "random", seed=3, with_grid=True)
    pooled, grid = map(np.asarray, encoder.predict_on_batch(pixels))
    np.testing.assert_allclose(pooled, vgg16.predict_on_batch(pixels), rtol=1e-4, atol=1e-3)
    assert grid.shape == (3, 49, 512)
    network = vgg16.layers[-1]
    plain = keras.Model(network.input, network.get_layer("block5_conv3").output)
    scaled = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    cells = np.asarray(plain.predict_on_batch(scaled))[:, 4:6, 10:12].mean(axis=(1, 2))
    np.testing.assert_allclose(grid[:, 7 * 2 + 5], cells, rtol=1e-4, atol=1e-3)
    assert describe("vgg16", "random", with_grid=True)["grid"] == "block5_conv3"


def test_random_weights_tell_images_apart_and_depend_on_the_seed(vgg16, images):
    pixels = np.stack([read_image(path) for path in images])
    rows = np.asarray(vgg16.predict_on_batch(pixels))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (rows > 0).any(axis=0).mean() > 0.3 and (rows @ rows.T)[
        np.triu_indices(3, 1)
    ].max() < 0.999
    first = vgg16.layers[-1]
    kernel = np.asarray(first.layers[1].kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / 27), rel=0.1)
    again = np.random.default_rng(3).standard_normal(kernel.shape, dtype=np.float32)
    np.testing.assert_array_equal(kernel, again * np.float32(np.sqrt(2 / 27)))


def test_a_weights_file_is_loaded_and_identified(vgg16, weights_file, images):
    pixels = np.stack([read_image(path) for path in images])
    loaded = build_encoder("vgg16", str(weights_file))
    np.testing.assert_allclose(
        loaded.predict_on_batch(pixels), vgg16.predict_on_batch(pixels), rtol=1e-4, atol=1e-3
    )
    header = describe("vgg16", str(weights_file))
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert header["weights"] == f"mine.weights.h5 sha256 {digest}"


def test_imagenet_weights_come_over_the_network_once(
    vgg16, weights_file, images, tmp_path, monkeypatch
):
    """Keras' own download, from a local server, with its checksum verified."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.path = f"/{weights_file.name}"
            super().do_GET()

        def log_message(self, *arguments):
            pass

    handler = partial(Handler, directory=str(weights_file.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ROCO_WEIGHTS_SERVER", f"http://127.0.0.1:{server.server_port}")
    md5 = hashlib.md5(weights_file.read_bytes()).hexdigest()
    kind = replace(ENCODERS["vgg16"], file="served.weights.h5", digest=md5)
    monkeypatch.setitem(ENCODERS, "vgg16", kind)
    cache = tmp_path / "keras"
    cache.mkdir()  # Keras falls back to a shared folder when it is missing
    get_file = keras.utils.get_file
    monkeypatch.setattr(keras.utils, "get_file", partial(get_file, cache_dir=str(cache)))
    pixels = read_image(images[0])[None]
    expected = vgg16.predict_on_batch(pixels)
    for _ in range(2):
        loaded = build_encoder("vgg16", "imagenet")
        np.testing.assert_allclose(loaded.predict_on_batch(pixels), expected, rtol=1e-4, atol=1e-3)
    assert asked == ["/vgg16/served.weights.h5"]
    server.shutdown()
    server.server_close()  # so that the next request is refused, not left waiting

    monkeypatch.setitem(ENCODERS, "vgg16", replace(kind, digest="0" * 32))
    with pytest.raises(WeightsUnavailable, match=r"models.*ENCODER_WEIGHTS"):
        build_encoder("vgg16", "imagenet")  # a file with another checksum, and no server


def test_on_kaggle_attached_weights_need_no_internet(
    vgg16, weights_file, images, tmp_path, monkeypatch, capsys
):
    """By the setting's path, or found by themselves; a file with another checksum is left out."""
    monkeypatch.setattr(places, "KAGGLE_INPUT", tmp_path)
    monkeypatch.setenv("ROCO_WEIGHTS_SERVER", "http://127.0.0.1:1")  # no internet
    monkeypatch.setattr(
        keras.utils, "get_file", partial(keras.utils.get_file, cache_dir=str(tmp_path / "keras"))
    )
    folder = tmp_path / "datasets" / "someone" / "vgg16"
    folder.mkdir(parents=True)
    (folder / "served.weights.h5").symlink_to(weights_file)
    md5 = hashlib.md5(weights_file.read_bytes()).hexdigest()
    kind = replace(ENCODERS["vgg16"], file="served.weights.h5", digest=md5)
    monkeypatch.setitem(ENCODERS, "vgg16", kind)
    assert imagenet_weights("vgg16") == str(folder / "served.weights.h5")
    pixels = read_image(images[0])[None]
    loaded = build_encoder("vgg16", "imagenet")
    np.testing.assert_allclose(
        loaded.predict_on_batch(pixels), vgg16.predict_on_batch(pixels), rtol=1e-4, atol=1e-3
    )
    monkeypatch.setitem(ENCODERS, "vgg16", replace(kind, digest="0" * 32))
    with pytest.raises(WeightsUnavailable, match="ENCODER_WEIGHTS"):
        imagenet_weights("vgg16")
    assert f"{folder / 'served.weights.h5'} has another checksum" in capsys.readouterr().out


def test_the_real_weights_are_those_keras_publishes():
    kind = ENCODERS["vgg16"]
    assert kind.file == "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    assert kind.digest == "64373286793e3c8b2b4e3219cbf3544b" and kind.size == 224
    for name in OTHERS:
        kind = ENCODERS[name]
        source = Path(inspect.getfile(getattr(keras.applications, kind.network))).read_text()
        assert kind.digest in source and f"/keras-applications/{kind.module}/" in source


@pytest.mark.parametrize("name", OTHERS)
def test_each_encoder_of_the_table_equals_the_plain_keras_loop(name, images, tmp_path):
    kind = ENCODERS[name]
    whole = getattr(keras.applications, kind.network)(weights=None)
    randomise(whole, 3)
    whole.save_weights(path := tmp_path / "mine.weights.h5")
    pixels = np.stack([read_image(image) for image in images])
    encoder = build_encoder(name, str(path), with_grid=True)
    rows, grids = map(np.asarray, encoder.predict_on_batch(pixels))
    assert grids.shape == (3, 49, encoder.outputs[1].shape[-1])
    plain = keras.Model(whole.input, whole.get_layer(kind.layer).output)
    module = importlib.import_module(f"keras.applications.{kind.module}")
    for row, grid, image in zip(rows, grids, images, strict=True):
        picture = keras.utils.load_img(image, target_size=(224, 224), interpolation="bilinear")
        batch = keras.utils.img_to_array(picture)[None]
        theirs = plain.predict(module.preprocess_input(batch), verbose=0)[0]
        assert (row @ theirs) / np.linalg.norm(row) / np.linalg.norm(theirs) >= 0.9999
        if kind.layer == "avg_pool":
            np.testing.assert_allclose(grid.mean(axis=0), row, rtol=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_random_weights_of_each_encoder_fit_the_cache(name, images):
    pixels = np.stack([read_image(path) for path in images])
    encoder = build_encoder(name, "random", seed=3, with_grid=True)
    rows, grids = map(np.asarray, encoder.predict_on_batch(pixels))
    for array in (rows, grids):
        assert 0.1 < np.abs(array).max() < 10_000  # float16 ends at 65,504
    assert np.corrcoef(rows)[np.triu_indices(3, 1)].max() < 0.9999


def test_weights_without_the_top_will_do_where_it_is_not_used(vgg16, images, tmp_path):
    """As RadImageNet's are published: a whole Keras file of the network without its top."""
    trunk = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    randomise(trunk, 3)
    trunk.save(path := tmp_path / "RadImageNet-ResNet50_notop.h5")
    pixels = np.stack([read_image(image) for image in images])
    # ImageNet's means from blue, green, red, then by 255, as its authors' scripts do
    blue_first = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])
    theirs = trunk.predict_on_batch((blue_first / 255).astype(np.float32))
    ours = build_encoder("radimagenet_resnet50", str(path)).predict_on_batch(pixels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    assert "times 0.00392" in describe("radimagenet_resnet50", str(path))["preprocessing"]
    with pytest.raises(UserError, match=r"ENCODER_WEIGHTS.*RadImageNet-ResNet50_notop\.h5"):
        describe("radimagenet_resnet50", "imagenet")
    convolutions = keras.Model(vgg16.layers[-1].input, vgg16.layers[-1].layers[-4].output)
    convolutions.save(path := tmp_path / "no_fc2.h5")
    with pytest.raises(UserError, match=r"no_fc2\.h5 could not be loaded.*top layers included"):
        build_encoder("vgg16", str(path))


def test_wrong_names_and_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"'vgg61'.*vgg16"):
        describe("vgg61", "random")
    with pytest.raises(UserError, match="no such file"):
        describe("vgg16", str(tmp_path / "none.h5"))
    (tmp_path / "bad.weights.h5").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.weights\.h5 could not be loaded into vgg16"):
        build_encoder("vgg16", str(tmp_path / "bad.weights.h5"))
