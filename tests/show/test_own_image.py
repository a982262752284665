"""Your own image is captioned beside similar images, and no upload is stored."""

import contextlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from helpers.colab import frontend
from helpers.dicom_files import SECRET, write_dicom
from PIL import Image
from pydicom.data import get_testdata_file

from roco_caption.core.errors import UserError
from roco_caption.data.images import ImageError, read_image
from roco_caption.features.table import arrays_of
from roco_caption.search.captioner import Caption
from roco_caption.search.rerank import Consensus
from roco_caption.show import own_image
from roco_caption.show.own_image import explain, upload_button
from roco_caption.text.tokenizer import CaptionTokenizer


class FakeCaptioner:
    """Uses an image's corner pixel as its features, and always gives the same captions."""

    consensus = None
    decoder = SimpleNamespace(rates_cells=False)
    tokenizer = CaptionTokenizer.fit(["axial ct no mass chest film of a b"], min_frequency=1)

    def encode(self, images):
        return np.stack([read_image(image, 8)[0, 0].astype(np.float32) for image in images])

    def best_captions(self, features, count):
        self.seen = features
        texts = ("axial ct", "no mass", "chest film of a <b>")
        return [
            [Caption(text, np.log(p)) for text, p in zip(texts, (0.25, 0.064, 1e-9), strict=True)]
        ][:count]


COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (240, 20, 0), (200, 90, 0)]


@pytest.fixture
def train(tmp_path):
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    frame = pd.DataFrame({"id": list("abcde"), "image": paths})
    frame["caption"] = [f"caption {i}" for i in range(5)]
    return frame


@pytest.fixture
def captioner(monkeypatch):
    """Return a captioner that reranks by `train`: an image's features are its vector."""
    monkeypatch.setattr(
        own_image, "image_vectors", lambda decoder, features: arrays_of(features)[0]
    )
    captioner = FakeCaptioner()
    tokens = captioner.tokenizer.encode(["film"] * 5)
    vectors, mean = np.array(COLOURS, np.float16), np.zeros(3, np.float32)
    captioner.consensus = Consensus(vectors, mean, tokens, rows=np.arange(5))
    return captioner


def texts(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_image_is_shown_with_captions_and_nearest_images(captioner, train, tmp_path):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "mine.png")
    figure, table = explain(captioner, train, tmp_path / "mine.png", reference="the truth")
    assert texts(figure)[:3] == ["this image", "axial ct", "reference: the truth"]
    nearest = [text for text in texts(figure) if text.startswith("caption ")]
    assert nearest == ["caption 0", "caption 3", "caption 4"]
    corners = [axis.images[0].get_array()[0, 0].tolist() for axis in figure.axes if axis.images]
    assert corners == [[255, 0, 0], [250, 0, 0], [240, 20, 0], [200, 90, 0]]
    html = table.to_html()
    assert "25.0%" in html and "6.4%" in html and "1e-09" in html
    assert "63.0%" in html and "40.0%" in html  # 0.25 ** (1 / 3), 0.064 ** (1 / 3)
    assert "Not for clinical use" in html and "synthetic" not in html and "<b>" not in html


def test_with_attention_the_words_have_heat_maps(captioner, train, tmp_path, monkeypatch):
    calls = []

    def fake_word_maps(*args):
        calls.append(args)
        return [(["axial", "ct"], np.eye(2, 9))]

    monkeypatch.setattr(own_image, "word_maps", fake_word_maps)
    known = np.array([[0, 0, 9]], np.float16), np.zeros((1, 9, 2), np.float16)
    captioner.decoder = SimpleNamespace(rates_cells=True)
    _, maps, table = explain(captioner, train, tmp_path / "0.png", features=known)
    assert calls == [(captioner.decoder, captioner.tokenizer, known, ["axial ct"])]
    assert "no mass" in table.to_html()
    assert [axis.get_title() for axis in maps.axes if axis.images] == ["the image", "axial", "ct"]
    assert "“ct” top centre" in maps.alt


@pytest.mark.parametrize(("rows", "expected"), [(5, ["ct", "mass", "no"]), (2, ["ct", "axial"])])
def test_without_training_images_the_nearest_captions_are_those_of_the_consensus(
    tmp_path, monkeypatch, rows, expected
):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red.png")
    captioner = FakeCaptioner()
    words = ("axial", "ct", "no", "mass", "chest")
    captioner.consensus = Consensus(
        np.array([[0, 9], [1, 0], [2, 1], [9, 1], [-1, 0]], np.float16)[:rows],
        np.array([250, 1], np.float32),
        captioner.tokenizer.encode(words)[:rows],
    )
    monkeypatch.setattr(own_image, "image_vectors", lambda decoder, features: features[:, :2] + 1)
    figure, captions, nearest = explain(captioner, None, tmp_path / "red.png", synthetic=True)
    assert texts(figure) == ["this image", "axial ct"] and not figure.get_suptitle()
    assert "training images" not in figure.alt and "synthetic" in captions.to_html()
    # (256, 1) - (250, 1) = (6, 0) is nearest to (1, 0), (9, 1) and (2, 1)
    assert [*nearest.data.iloc[:, 0]] == expected


def test_given_features_are_used_and_synthetic_training_is_stated(captioner, train, tmp_path):
    known = np.array([[0, 0, 9]], np.float16)
    figure, table = explain(captioner, train, tmp_path / "0.png", features=known, synthetic=True)
    assert captioner.seen is known and "caption 2" in texts(figure)
    assert figure.get_suptitle() == "Synthetic training images, drawn by this notebook"
    assert "synthetic" in table.to_html() and "Not for clinical use" in table.to_html()


def test_a_dicom_files_patient_is_not_shown(captioner, train, tmp_path, capfd):
    path = write_dicom(tmp_path / "scan", np.arange(256).reshape(2, 8, 16) * 9)
    figure, table = explain(captioner, train, path)
    assert "DICOM CT, frame 2 of 2, its full range of" in " ".join(texts(figure))
    everything = " ".join([*texts(figure), table.to_html(), *capfd.readouterr()])
    assert SECRET not in everything


def upload(box, content: bytes, name: str = f"{SECRET}.dcm") -> None:
    """Imitate a browser in which a file is chosen."""
    button = box.children[0]
    if hasattr(button, "_counter"):  # ipywidgets 7
        button.metadata, button.data = [{"name": name, "size": len(content)}], [content]
        button._counter = 1
    else:
        file = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
        button.value = ({**file, "last_modified": pd.Timestamp(0, tz="UTC").to_pydatetime()},)


@pytest.fixture
def shown(monkeypatch):
    """Collect what is displayed: without a kernel, no output appears below the button."""
    displayed = []
    monkeypatch.delenv("ROCO_PROGRESS", raising=False)
    monkeypatch.setattr("IPython.display.display", lambda *things: displayed.extend(things))
    monkeypatch.setattr(ipywidgets.Output, "clear_output", lambda self, wait: None)
    monkeypatch.setattr(ipywidgets.Output, "__enter__", contextlib.nullcontext().__enter__)
    monkeypatch.setattr(ipywidgets.Output, "__exit__", lambda self, *error: None)
    return displayed


def test_an_upload_is_shown_and_leaves_no_trace(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    paths = []

    def show(path):
        paths.append(path)
        return [path.read_bytes(), "table"]

    box = upload_button(show)
    first = box.children[0]
    for content in (b"first", b"second"):
        upload(box, content)
    assert shown == [b"first", "table", b"second", "table"]
    assert SECRET not in str(paths) and list(tmp_path.iterdir()) == []
    assert len(box.children) == 2 and box.children[0] is not first
    # what a saved notebook would keep
    state = str(ipywidgets.Widget.get_manager_state())
    assert SECRET not in state and "FileUpload" in state


def test_an_invalid_image_is_reported_without_the_temporary_path(shown, capsys):
    def show(path):
        raise ImageError(f"{path}: it is broken.")

    box = upload_button(show)
    upload(box, b"rubbish")
    assert capsys.readouterr().out == "The uploaded image: it is broken.\n" and shown == []
    upload(box, b"again")  # the button still works
    assert "broken" in capsys.readouterr().out


def test_a_real_dicom_file_can_be_uploaded(captioner, shown, train):
    box = upload_button(lambda path: explain(captioner, train, path))
    upload(box, Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    figure, table = shown
    assert "DICOM CT, its full range of values" in texts(figure) and "axial ct" in table.to_html()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("ROCO_PROGRESS", "text", False),
        ("KAGGLE_KERNEL_RUN_TYPE", "Batch", False),
        ("KAGGLE_KERNEL_RUN_TYPE", "Interactive", True),
        ("ROCO_PROGRESS", "", True),
        ("COLAB_GPU", "", True),
    ],
)
def test_no_button_in_unattended_runs(monkeypatch, name, value, shown):
    for each in ("ROCO_PROGRESS", "KAGGLE_KERNEL_RUN_TYPE", "COLAB_GPU", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    assert (upload_button(print) is not None) == shown


@pytest.fixture
def colab(monkeypatch, shown):
    """What Colab's form returns, and the events of its frontend."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260819")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    state = SimpleNamespace(answer={}, events=[], box=None)

    def choose():
        state.events.append(("form", state.box.children[0].disabled))
        if isinstance(state.answer, BaseException):
            raise state.answer
        for name, content in state.answer.items():  # as Colab does
            print(f"Saving {name} to {name}")
            Path(name).write_bytes(content)
        return state.answer

    monkeypatch.setattr(own_image, "find_platform", lambda: "colab")
    for name, module in frontend(None, upload=choose, events=state.events).items():
        monkeypatch.setitem(sys.modules, name, module)
    return state


def test_in_colab_a_click_opens_colabs_own_form(colab, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    colab.box = upload_button(lambda path: [path.read_bytes()])
    assert colab.events == []  # "Run all" goes on
    large = b"x" * 3_000_000
    for content in (large, b"second"):
        colab.answer = {f"{SECRET}.dcm": content}
        colab.box.children[0].click()
    assert shown == [large, b"second"]
    assert colab.events == [("form", True), ("clear", "upload")] * 2
    assert list(tmp_path.iterdir()) == [] and Path.cwd() == tmp_path
    assert SECRET not in str(ipywidgets.Widget.get_manager_state()) + capsys.readouterr().out
    assert not colab.box.children[0].disabled


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [({}, ""), (OSError("no frontend"), "no frontend"), (RuntimeError("undefined"), "sidebar")],
)
def test_in_colab_an_upload_that_is_cancelled_or_fails_leaves_the_button(
    colab, shown, capsys, answer, phrase
):
    colab.box = upload_button(lambda path: [path.read_bytes()])
    colab.answer = answer
    colab.box.children[0].click()
    out = capsys.readouterr().out
    assert phrase in out and ("IMAGE" in out) == bool(phrase) and shown == []
    colab.answer = {"a.png": b"then"}
    colab.box.children[0].click()
    assert shown == [b"then"]


def test_the_stop_button_ends_an_upload(colab, shown):
    colab.box = upload_button(lambda path: [path.read_bytes()])
    colab.answer = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        own_image._upload_in_colab(colab.box.children[0])
    assert not colab.box.children[0].disabled and colab.events[-1] == ("clear", "upload")


def test_uploads_of_ipywidgets_7_and_8_are_read():
    assert own_image._content({}) is None and own_image._content(()) is None
    assert own_image._content({"a": {"metadata": {}, "content": b"7"}}) == b"7"
    assert own_image._content(({"name": "a", "content": memoryview(b"8")},)) == b"8"


def test_a_captioner_without_an_encoder_raises_its_error(train, tmp_path):
    class Without(FakeCaptioner):
        def encode(self, images):
            raise UserError("its encoder is not known")

    with pytest.raises(UserError, match="not known"):
        explain(Without(), train, tmp_path / "0.png")


def test_a_home_folder_is_expanded(captioner, train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "axial ct" in texts(explain(captioner, train, "~/0.png")[0])


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..", "a\0b.png", ""])
def test_the_name_of_an_upload_is_never_a_path(shown, tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    paths = []
    upload(upload_button(lambda path: paths.append(path) or [path.name]), b"content", name)
    assert shown == ["image"] and paths[0].parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x89PNG\r\n\x1a\n truncated"])
def test_an_image_that_cannot_be_decoded_is_named(captioner, train, tmp_path, content):
    (tmp_path / "mine.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"mine\.png"):
        explain(captioner, train, tmp_path / "mine.png")


def test_with_features_it_is_captioned_all_the_same(captioner, train, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"rubbish")
    features = np.array([[255, 0, 0]], np.float32)
    figure, _ = explain(captioner, train, tmp_path / "mine.png", features=features)
    assert "cannot be decoded" in texts(figure) and "axial ct" in texts(figure)


def test_the_nearest_images_of_several_captions_each_are_three_images(captioner, train, tmp_path):
    frame = train.iloc[np.repeat(np.arange(5), 4)]
    captioner.consensus.rows = np.arange(5) * 4  # the first row of each image
    figure, _ = explain(captioner, frame, tmp_path / "0.png")
    nearest = [text for text in texts(figure) if text.startswith("caption ")]
    assert nearest == ["caption 0", "caption 3", "caption 4"]
