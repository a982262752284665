"""The page captions uploads, says what is wrong with them, and keeps nothing of them."""

import os
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.dicom_files import SECRET, write_dicom
from helpers.toy_captioner import make, save_trained, tiny_encoder
from PIL import Image

from roco_caption import __main__ as command_line
from roco_caption.core.errors import UserError
from roco_caption.search import captioner as module
from roco_caption.search.rerank import Consensus
from roco_caption.show import demo as demo_module
from roco_caption.show.demo import GRADIO, demo, load_gradio

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("found", [None, SimpleNamespace(__version__="5.50.0")])
def test_without_gradio_a_command_says_what_to_install(monkeypatch, capsys, tmp_path, found):
    monkeypatch.setitem(sys.modules, "gradio", found)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # restored after the test, as the next one
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert command_line.main(["demo", "--run", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f'pip install "gradio{GRADIO}"' in error and error.count("\n") == 1
    with pytest.raises(UserError, match="pip install"):
        demo(None)
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="6.31.0"))
    assert load_gradio().__version__ == "6.31.0"


def test_the_extra_is_what_the_page_accepts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["optional-dependencies"]["demo"] == [f"gradio{GRADIO}"]
    assert "gradio" not in (ROOT / "requirements.txt").read_text("utf-8")


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Return the folder that Gradio keeps uploads in."""
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    monkeypatch.setattr(module, "build_encoder", tiny_encoder)
    monkeypatch.setattr(module, "ROWS", 8)
    return folder


@pytest.fixture
def captioner(uploads):
    captioner = make()
    known = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    tokens = captioner.tokenizer.encode(["chest radiograph shows no mass"] * 4)
    captioner.consensus = Consensus.fit(captioner.decoder, known, tokens)
    return captioner


@pytest.fixture
def send(uploads, tmp_path):
    """Return a function that starts a page, uploads a file, and returns what the page shows."""
    from gradio_client import Client, handle_file

    pages = []

    def upload(file, *arguments, **options):
        pages.append(demo(*arguments, **options))
        client = Client(pages[-1].local_url, verbose=False, analytics_enabled=False)
        return client.predict(handle_file(file), api_name="/show")[0]

    yield upload
    for page in pages:
        page.close(verbose=False)


def draw(path, grey=100):
    Image.new("RGB", (30, 20), (grey, 255 - grey, 90)).save(path)
    return path


def test_an_image_is_captioned_and_nothing_of_it_is_kept(send, captioner, uploads, tmp_path):
    shown = send(draw(tmp_path / f"{SECRET}.png"), captioner, synthetic=True)
    best = captioner.best_captions(captioner.encode([tmp_path / f"{SECRET}.png"]), 1)[0][0]
    assert str(best) in shown and "probability" in shown
    assert "An image with its generated caption." in shown  # the picture's alt text
    assert "Not for clinical use" in shown and "only on synthetic images" in shown
    assert "nearest training images" in shown and shown.count("chest radiograph shows no mass") >= 3
    assert SECRET not in shown
    assert [path for path in uploads.rglob("*") if path.is_file()] == []
    assert SECRET not in str(list(uploads.rglob("*")))


def test_a_dicom_file_is_captioned_and_its_patient_is_not_shown(send, captioner, uploads, tmp_path):
    scan = write_dicom(tmp_path / "scan", np.arange(1600).reshape(40, 40))
    shown = send(scan, captioner)
    assert "DICOM CT, its full range of values" in shown and SECRET not in shown
    assert "synthetic" not in shown
    assert [path for path in uploads.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [b"rubbish <b>", b"\x89PNG\r\n\x1a\n truncated", b"\0" * 200])
def test_a_file_that_is_no_image_is_an_error_on_the_page(
    send, captioner, uploads, tmp_path, content, capfd
):
    (tmp_path / f"{SECRET}.png").write_bytes(content)
    with pytest.raises(Exception, match="The uploaded file cannot be decoded") as raised:
        send(tmp_path / f"{SECRET}.png", captioner)
    assert str(uploads) not in str(raised.value)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and SECRET not in printed
    assert [path for path in uploads.rglob("*") if path.is_file()] == []


def test_given_training_images_are_shown(send, captioner, tmp_path):
    paths = [str(draw(tmp_path / f"{i}.png", 60 * i)) for i in range(4)]
    frame = pd.DataFrame({"id": paths, "image": paths, "caption": [f"truth {i}" for i in range(4)]})
    tokens = captioner.tokenizer.encode(["chest radiograph shows no mass"] * 4)
    captioner.consensus = Consensus.fit(captioner.decoder, captioner.encode(paths), tokens)
    shown = send(paths[1], captioner, frame)
    assert "training image, nearest 1" in shown and "“truth 1”" in shown
    assert "captions of the nearest" not in shown


@pytest.mark.parametrize("name", ["0.png", "1.png"])
def test_with_attention_each_word_has_a_heat_map(send, captioner, tmp_path, monkeypatch, name):
    monkeypatch.setattr(
        "roco_caption.show.own_image.word_maps", lambda *_: [(["left", "mass"], np.eye(2, 9))]
    )
    captioner.decoder = SimpleNamespace(rates_cells=True)
    captioner.best_captions = lambda *_: [[module.Caption("left mass", -1.0)]]
    captioner.consensus = None
    shown = send(draw(tmp_path / name), captioner)
    assert "“left” top left" in shown and "left mass" in shown
    assert shown.index("probability") < shown.index("“left” top left")


def test_the_page_is_private_and_needs_no_internet(uploads, captioner, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")  # Gradio would share the page
    page = demo(captioner)
    try:
        assert page.share_url is None and page.local_url.startswith("http://127.0.0.1:")
        assert not page.analytics_enabled and not page.run_history and page.delete_cache
        assert page.stylesheets == [] and "Not for clinical use" in str(page.config)
        with pytest.raises(UserError, match=f"Port {page.server_port} cannot be used"):
            demo(captioner, port=page.server_port)
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_does_not_exist_is_named(uploads, captioner, port):
    with pytest.raises(UserError, match=f"Port {port} cannot be used"):
        demo(captioner, port=port)


@pytest.mark.parametrize(("data", "synthetic"), [("phantoms-9-9-9-seed1", True), ("roco", False)])
def test_the_command_serves_the_newest_run_and_removes_its_folder(
    uploads, captioner, tmp_path, monkeypatch, data, synthetic
):
    folder = tmp_path / "checkpoints" / "toy-1"
    save_trained(captioner, folder)
    (folder / "settings.json").write_text(f'{{"data": "{data}"}}')
    served = []

    def fake(captioner, **options):
        places.append(Path(os.environ["GRADIO_TEMP_DIR"]))
        (places[-1] / "left.png").touch()  # an upload that was interrupted
        served.append((captioner.tokenizer.words, options))
        return SimpleNamespace(block_thread=lambda: None)

    places = []
    monkeypatch.setattr(demo_module, "demo", fake)
    monkeypatch.setenv("MPLBACKEND", "agg")
    arguments = ["demo", "--run", str(folder.parent), "--port", "7999"]
    assert command_line.main(arguments) == 0
    assert served == [
        (captioner.tokenizer.words, {"synthetic": synthetic, "port": 7999, "share": False})
    ]
    assert places[0] != uploads and not places[0].exists()


def test_a_run_that_is_missing_is_named(uploads, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert command_line.main(["demo", "--run", str(tmp_path)]) == 1
    assert "captioner.json is missing" in capsys.readouterr().err
