"""The encoders: the same features as the plain Keras loop, from each source of weights."""

import hashlib
import http.server
import importlib
import inspect
import sys
import threading
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from roco_caption.core import machine
from roco_caption.core.errors import UserError
from roco_caption.data.images import read_image
from roco_caption.features.encoder import (
    ENCODERS,
    Architecture,
    WeightsUnavailable,
    build_encoder,
    describe,
    imagenet_weights,
    randomise,
)

PUBLISHED = [name for name in ENCODERS if ENCODERS[name].digest]
SHARED = Path(__file__).parents[3] / "shared"
REAL = SHARED / "weights" / "vgg16_imagenet_notop.weights.h5"
MEDPIX = SHARED / "medpix"
BILINEAR: dict[str, str] = {"interpolation": "bilinear"}
needs_real = pytest.mark.skipif(not REAL.exists(), reason="VGG16's real weights are not here")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    x, y = np.meshgrid(np.arange(300), np.arange(260))
    for i in range(3):
        picture = 127 + 120 * np.sin(x / (5 + 9 * i)) * np.cos(y / (30 - 8 * i))
        Image.fromarray(picture.astype(np.uint8)).convert("RGB").save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def pixels(paths):
    return np.stack([read_image(path) for path in paths])


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """A small network of `keras.applications` that is not in the table, and its weights file."""
    network = keras.applications.MobileNet(weights=None)
    randomise(network, 3)
    path = tmp_path_factory.mktemp("weights") / "served.weights.h5"
    network.save_weights(path)
    return network, path


@pytest.fixture
def added(mobilenet, monkeypatch):
    """Adds MobileNet to the table; returns the function that does it."""

    def add(digest=""):
        digest = digest or hashlib.md5(mobilenet[1].read_bytes()).hexdigest()
        line = Architecture(
            "mobilenet", "MobileNet", "predictions", "conv_pw_13_relu", mobilenet[1].name, digest
        )
        monkeypatch.setitem(ENCODERS, "mobilenet", line)

    add()
    return add


def preprocessed(name: str, pixels: np.ndarray) -> np.ndarray:
    module = importlib.import_module(f"keras.applications.{ENCODERS[name].module}")
    return module.preprocess_input(pixels.astype(np.float32))


def assert_parallel(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    assert ((a * b).sum(axis=1) / norms >= 0.9999).all()


@pytest.mark.parametrize(
    "name",
    [n if "vgg16" in n else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED],
)
def test_features_and_grids_equal_the_plain_keras_loop(name, paths, pixels):
    encoder = build_encoder(name, "random", seed=3, with_grid=True)
    rows, grids = map(np.asarray, encoder(pixels))
    line, network = ENCODERS[name], encoder.layers[-1]
    if name == "vgg16":  # the default is compared with a network that Keras alone builds
        network = keras.applications.VGG16(weights=None)
        for layer in encoder.layers[-1].layers:
            if layer.weights:
                network.get_layer(layer.name).set_weights(layer.get_weights())
    last = network.get_layer(line.grid)
    last = last.input if "gap" in line.grid else last.output
    plain = keras.Model(network.input, [network.get_layer(line.layer).output, last])
    pictures = [
        keras.utils.load_img(path, target_size=(224, 224), interpolation="bilinear")
        for path in paths
    ]
    batch = np.stack([keras.utils.img_to_array(picture) for picture in pictures])
    expected, cells = map(np.asarray, plain(preprocessed(name, batch), training=False))
    if name == "vgg16_pool":  # the mean of 7 x 7 cells
        expected = expected.reshape(3, 49, 512).mean(axis=1)
    if "vgg16" in name:  # 14 x 14 cells, averaged two by two
        cells = cells.reshape(3, 7, 2, 7, 2, 512).mean(axis=(2, 4))
    assert_parallel(rows, expected)
    assert_parallel(grids, cells.reshape(3, 49, -1))
    # random weights tell images apart, in the range of the cache: float16 ends at 65,504
    assert np.corrcoef(rows)[np.triu_indices(3, 1)].max() < 0.9999
    for array in (rows, grids):
        assert 0.1 < np.abs(array).max() < 10_000


def test_random_weights_depend_on_the_seed_alone(added, pixels):
    encoder = build_encoder("mobilenet", "random", seed=3)
    kernel = np.asarray(encoder.layers[-1].get_layer("conv1").kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / 27), rel=0.1)
    drawn = np.random.default_rng(3).standard_normal(kernel.shape, dtype=np.float32)
    np.testing.assert_array_equal(kernel, drawn * np.float32(np.sqrt(2 / 27)))


def test_without_a_grid_the_features_alone_are_returned(added, mobilenet, pixels):
    path = str(mobilenet[1])
    alone = build_encoder("mobilenet", path)(pixels)
    rows, _ = build_encoder("mobilenet", path, with_grid=True)(pixels)
    np.testing.assert_allclose(alone, rows, rtol=1e-4, atol=1e-6)
    assert "grid" not in describe("mobilenet", path)
    assert describe("mobilenet", path, with_grid=True)["grid"] == "conv_pw_13_relu"


def test_a_weights_file_is_loaded_and_identified(added, mobilenet, pixels):
    network, path = mobilenet
    expected = network(preprocessed("mobilenet", pixels), training=False)
    loaded = build_encoder("mobilenet", str(path))
    np.testing.assert_allclose(loaded.predict_on_batch(pixels), expected, rtol=1e-3, atol=1e-5)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert describe("mobilenet", str(path))["weights"] == f"served.weights.h5 sha256 {digest}"


def test_imagenet_weights_come_over_the_network_once(added, mobilenet, tmp_path, monkeypatch):
    """Keras' own download, from a local server, with its checksum verified."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.path = f"/{mobilenet[1].name}"
            super().do_GET()

        def log_message(self, *arguments):
            pass

    handler = partial(Handler, directory=str(mobilenet[1].parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ROCO_WEIGHTS_SERVER", f"http://127.0.0.1:{server.server_port}")
    cache = tmp_path / "keras"
    cache.mkdir()  # Keras falls back to a shared folder when it is missing
    get_file = keras.utils.get_file
    monkeypatch.setattr(keras.utils, "get_file", partial(get_file, cache_dir=str(cache)))
    for _ in range(2):
        path = Path(imagenet_weights("mobilenet"))
        assert path.read_bytes() == mobilenet[1].read_bytes()
    assert requests == ["/mobilenet/served.weights.h5"]
    assert build_encoder("mobilenet", "imagenet").output_shape == (None, 1000)
    server.shutdown()
    server.server_close()  # so that the next request is refused, not left waiting

    added(digest="0" * 32)
    with pytest.raises(WeightsUnavailable, match=r"models.*ENCODER_WEIGHTS"):
        imagenet_weights("mobilenet")  # a file with another checksum, and no server


def test_on_kaggle_attached_weights_need_no_internet(
    added, mobilenet, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path)
    monkeypatch.setenv("ROCO_WEIGHTS_SERVER", "http://127.0.0.1:1")  # no internet
    monkeypatch.setattr(
        keras.utils, "get_file", partial(keras.utils.get_file, cache_dir=str(tmp_path / "keras"))
    )
    attached = tmp_path / "datasets" / "someone" / "mobilenet" / "served.weights.h5"
    attached.parent.mkdir(parents=True)
    attached.symlink_to(mobilenet[1])
    assert imagenet_weights("mobilenet") == str(attached)
    added(digest="0" * 32)
    with pytest.raises(WeightsUnavailable, match="ENCODER_WEIGHTS"):
        imagenet_weights("mobilenet")
    assert f"{attached} is ignored: its checksum differs" in capsys.readouterr().out


def test_the_table_holds_the_checksums_that_keras_publishes():
    for name in PUBLISHED:
        line = ENCODERS[name]
        source = Path(inspect.getfile(getattr(keras.applications, line.network))).read_text()
        assert line.digest in source
        assert f"/keras-applications/{line.module}/" in source.replace('"\n    "', "")


def test_weights_without_the_top_will_do_where_it_is_not_used(pixels, tmp_path):
    """As RadImageNet's are published: a whole Keras file of the network without its top."""
    trunk = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    randomise(trunk, 3)
    trunk.save(path := tmp_path / "RadImageNet-ResNet50_notop.h5")
    # ImageNet's means from blue, green, red, then by 255, as its authors' scripts do
    blue_first = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])
    expected = np.asarray(trunk((blue_first / 255).astype(np.float32), training=False))
    rows = build_encoder("radimagenet_resnet50", str(path))(pixels)
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert "times 0.00392" in describe("radimagenet_resnet50", str(path))["preprocessing"]
    with pytest.raises(UserError, match=r"ENCODER_WEIGHTS.*RadImageNet-ResNet50_notop\.h5"):
        describe("radimagenet_resnet50", "imagenet")


FORMATS = ["a.weights.h5", "a.h5", "a.keras"]  # Keras 3's, the published files', whole models


@pytest.fixture
def pooled(added, mobilenet, monkeypatch):
    """Adds MobileNet without its top, too; returns its convolutions."""
    last = "conv_pw_13_relu"
    line = Architecture("mobilenet", "MobileNet", last, last, "a.h5", "0" * 32, top=False)
    monkeypatch.setitem(ENCODERS, "mobilenet_pool", line)
    return keras.Model(mobilenet[0].input, mobilenet[0].get_layer(last).output)


def save(network, path):
    (network.save_weights if path.name.endswith(".weights.h5") else network.save)(path)


@pytest.mark.parametrize("file", FORMATS)
def test_weights_without_the_top_are_refused_where_it_is_used(pooled, file, tmp_path):
    save(pooled, tmp_path / file)
    with pytest.raises(UserError, match=rf"{file} could not .*predictions.*'mobilenet_pool'"):
        build_encoder("mobilenet", str(tmp_path / file))


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("top", [False, True])
def test_an_encoder_without_the_top_loads_files_with_and_without_it(
    pooled, mobilenet, file, top, pixels, tmp_path
):
    save(mobilenet[0] if top else pooled, tmp_path / file)
    cells = np.asarray(pooled(preprocessed("mobilenet", pixels), training=False))
    encoder = build_encoder("mobilenet_pool", str(tmp_path / file), with_grid=True)
    assert sum(np.prod(w.shape) for w in encoder.weights) == pooled.count_params()
    rows, grids = encoder(pixels)
    np.testing.assert_allclose(rows, cells.mean(axis=(1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(grids, cells.reshape(3, 49, -1), rtol=1e-3, atol=1e-4)


def test_a_file_of_another_network_is_refused_with_and_without_the_top(pooled, tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    save(other, tmp_path / "other.weights.h5")
    for name in ("mobilenet", "mobilenet_pool"):
        with pytest.raises(
            UserError, match=rf"other\.weights\.h5 could not .* into {name}: .*Choose"
        ):
            build_encoder(name, str(tmp_path / "other.weights.h5"))


@needs_real
def test_vgg16_without_dense_layers_has_the_features_of_the_real_network(tmp_path):
    """Against files that another program computed with these weights, in float16."""
    images = sorted(MEDPIX.rglob("*.jpg"))[::140]  # a dozen, of all splits
    # decoded at their full size, as there; `read_image` lets JPEG files decode smaller
    pixels = np.stack([keras.utils.load_img(i, target_size=(224, 224), **BILINEAR) for i in images])
    expected = {}
    for file, key in (("vgg16_block5.npz", "features"), ("vgg16_block5_grid.npz", "grid")):
        with np.load(MEDPIX / file) as content:
            names = content["names"].tolist()
            rows = content[key][[names.index(image.stem) for image in images]]
        expected[key] = rows.astype(np.float32)
    assert len(images) >= 12
    encoder = build_encoder("vgg16_pool", str(REAL), with_grid=True)
    features, grid = map(np.asarray, encoder(pixels))
    np.testing.assert_allclose(features, expected["features"], rtol=2e-3, atol=4e-3)
    tower = encoder.layers[-1]
    maxima = keras.Model(tower.input, tower.get_layer("block5_pool").output)
    maxima = np.reshape(maxima(preprocessed("vgg16", pixels)), grid.shape)
    np.testing.assert_allclose(maxima, expected["grid"], rtol=4e-3, atol=0.05)
    # that file has the maximum of four cells, of which attention gets the average
    assert ((maxima / 4 - 1e-3 <= grid) & (grid <= maxima + 1e-3)).all()
    read = np.asarray(encoder(np.stack([read_image(image) for image in images]))[0])
    norms = np.linalg.norm(read, axis=1) * np.linalg.norm(expected["features"], axis=1)
    assert ((read * expected["features"]).sum(axis=1) / norms > 0.99).all()
    network = keras.applications.VGG16(weights=None, include_top=False)
    network.load_weights(REAL)
    network.save(path := tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")
    loaded = build_encoder("vgg16_pool", str(path)).get_weights()  # a file as it is published
    for a, b in zip(loaded, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_real
def test_the_file_of_vgg16_without_dense_layers_does_not_do_for_fc2():
    with pytest.raises(UserError, match=r"notop\.weights\.h5 .*fc2.*ENCODER = 'vgg16_pool'"):
        build_encoder("vgg16", str(REAL))


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)


@pytest.mark.parametrize("weights", ["random", str(Path(__file__))])
def test_without_keras_hub_the_error_says_how_to_install_it(no_hub, weights):
    with pytest.raises(UserError, match=r"'vit_base'.*keras_hub.*pip install keras-hub"):
        build_encoder("vit_base", weights)


def test_what_identifies_a_transformer_needs_no_keras_hub(no_hub):
    """So that features from the cache and captioners of them can be read."""
    header = describe("vit_base", "imagenet", with_grid=True)
    assert header["weights"] == "imagenet keras/vit/keras/vit_base_patch16_224_imagenet/3"
    assert header["layer"] == "class_token" and header["grid"] == "patch_tokens"
    assert describe("vit_base", "random", 7)["weights"] == "random seed 7"


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_transformer_returns_its_class_token_and_its_patches(precision, pixels):
    pytest.importorskip("keras_hub")
    encoder = build_encoder("vit_base", "random", seed=3, precision=precision, with_grid=True)
    assert encoder.output_shape == [(None, 768), (None, 49, 768)]
    rows, grids = (np.asarray(array, np.float32) for array in encoder.predict_on_batch(pixels))
    network = hub_network(encoder)
    scaled = pixels * np.float32(1 / 127.5) - 1  # as the preset's image converter does
    tokens = np.asarray(network.predict_on_batch(scaled), np.float32)
    tolerance = 1e-4 if precision == "float32" else 0.05
    np.testing.assert_allclose(rows, tokens[:, 0], atol=tolerance)
    cells = tokens[:, 1:].reshape(3, 7, 2, 7, 2, 768).mean(axis=(2, 4)).reshape(3, 49, 768)
    np.testing.assert_allclose(grids, cells, atol=tolerance)
    assert np.corrcoef(rows)[np.triu_indices(3, 1)].max() < 0.9999
    assert network.compute_dtype == precision.removeprefix("mixed_")


def hub_network(encoder):
    """Return KerasHub's own model with the weights of an encoder."""
    hub, policy = importlib.import_module("keras_hub"), encoder.layers[-1].get_layer("vit_encoder")
    network = hub.models.ViTBackbone(
        image_shape=(224, 224, 3), patch_size=16, num_layers=12, num_heads=12, hidden_dim=768,
        mlp_dim=3072, dtype=policy.dtype_policy,
    )  # fmt: skip
    network.set_weights(encoder.get_weights())
    return network


def test_a_transformers_weights_come_from_its_preset(pixels, tmp_path, monkeypatch):
    """A preset that KerasHub writes, and a stand-in for Kaggle's server."""
    pytest.importorskip("keras_hub")
    kagglehub = pytest.importorskip("kagglehub")
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path)  # every preset's file has this name
    encoder = build_encoder("vit_base", "random", seed=3)
    again = build_encoder("vit_base", "random", seed=3)
    for a, b in zip(encoder.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    hub_network(encoder).save_to_preset(str(tmp_path / "preset"))
    asked = []

    def download(handle, path=None):
        asked.append(handle)
        return str(tmp_path / "preset" / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    file = str(tmp_path / "preset" / "model.weights.h5")
    expected = encoder.predict_on_batch(pixels)
    for weights in ("imagenet", file):
        loaded = build_encoder("vit_base", weights)
        np.testing.assert_allclose(loaded.predict_on_batch(pixels), expected, atol=1e-5)
    assert asked == ["keras/vit/keras/vit_base_patch16_224_imagenet/3"]

    def offline(handle, path=None):
        raise ConnectionError("no internet")

    monkeypatch.setattr(kagglehub, "model_download", offline)
    with pytest.raises(WeightsUnavailable, match=r"no internet.*Set ENCODER_WEIGHTS.*'random'"):
        build_encoder("vit_base", "imagenet")


def test_wrong_names_and_files_are_named(added, tmp_path):
    with pytest.raises(UserError, match=r"vgg16, .*got 'vgg61'"):
        describe("vgg61", "random")
    with pytest.raises(UserError, match=r"there is no file .*none\.h5"):
        describe("vgg16", str(tmp_path / "none.h5"))
    (tmp_path / "bad.weights.h5").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.weights\.h5 could not be loaded into mobilenet"):
        build_encoder("mobilenet", str(tmp_path / "bad.weights.h5"))
