"""The encoders: the same features as the plain Keras loop, from each source of weights."""

import hashlib
import http.server
import importlib
import inspect
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
    "name", ["vgg16", *(pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED if n != "vgg16")]
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
    if name == "vgg16":  # 14 x 14 cells, averaged two by two
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


def test_weights_without_the_top_are_refused_where_it_is_used(added, mobilenet, tmp_path):
    network = mobilenet[0]
    convolutions = keras.Model(network.input, network.get_layer("conv_pw_13_relu").output)
    convolutions.save_weights(path := tmp_path / "no_top.weights.h5")
    with pytest.raises(UserError, match=r"no_top\.weights\.h5 could not.*with the top layers if"):
        build_encoder("mobilenet", str(path))


def test_wrong_names_and_files_are_named(added, tmp_path):
    with pytest.raises(UserError, match=r"vgg16, .*got 'vgg61'"):
        describe("vgg61", "random")
    with pytest.raises(UserError, match=r"there is no file .*none\.h5"):
        describe("vgg16", str(tmp_path / "none.h5"))
    (tmp_path / "bad.weights.h5").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.weights\.h5 could not be loaded into mobilenet"):
        build_encoder("mobilenet", str(tmp_path / "bad.weights.h5"))
