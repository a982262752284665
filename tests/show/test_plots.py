"""Every figure of the notebook says what it shows, where nbconvert and JupyterLab look for it."""

import base64
import io
import logging
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbconvert import HTMLExporter
from PIL import Image

from roco_caption import diagram
from roco_caption.decoder.model import build_decoder
from roco_caption.show import plots
from roco_caption.show import plots as heatmaps
from roco_caption.show.figures import brief, new_figure

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "roco_captioning.ipynb"


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    """One of each kind, by the function that draws it."""
    folder = tmp_path_factory.mktemp("images")
    texts = ['axial ct of a "left" <mass>', "chest film", "no image " + "at all " * 40]
    for i in range(2):
        Image.new("RGB", (30, 30), (90 * i, 0, 0)).save(folder / f"{i}.png")
    frame = pd.DataFrame({"id": list("abc"), "caption": texts})
    frame["image"] = [str(folder / f"{i}.png") for i in range(3)]
    history = pd.DataFrame({"loss": [4.0, 2.0], "val_loss": [3.0, 3.5]}, index=[1, 2])
    captions = frame.assign(reference=texts, caption="said of it")
    weights = np.zeros((3, 9))
    weights[[0, 1, 2], [0, 4, 5]] = 1
    sizes = {"vocab_size": 9, "max_len": 5, "feature_size": 6, "components": 2, "units": 4}
    return {
        "sample_images": plots.sample_images(frame),
        "gallery": plots.gallery(frame, captions, [3.0, 2.0, 1.0], each=1),
        "image_beside": plots.image_beside(frame.image[0], "a mass", "", "", frame[1:]),
        "caption_lengths": plots.caption_lengths({"train": frame, "test": frame[:2]}, 20),
        "training_curves": plots.training_curves(history),
        "model_diagram": diagram.model_diagram(build_decoder(**sizes).next_word),
        "evidence_maps": heatmaps.evidence_maps(frame.image[0], ["left", "of", "mass"], weights),
    }


def test_each_says_what_it_shows(figures):
    told = {name: figure.alt for name, figure in figures.items()}
    for word in ("3 training images", '"left" <mass>', "“chest film”"):
        assert word in told["sample_images"]
    assert "best: CIDEr 3.00, “said of it”, reference “axial ct" in told["gallery"]
    assert "worst: CIDEr 1.00" in told["gallery"]
    assert "caption “a mass”, beside the nearest training images: “chest" in told["image_beside"]
    assert "test: 2 captions, median 4 words, 0% longer than 20" in told["caption_lengths"]
    assert "train: 3 captions, median 6 words, 33% longer than 20" in told["caption_lengths"]
    assert "Validation: from 3.000 to 3.500" in told["training_curves"]
    assert "epoch 1 were kept, validation loss 3.000" in told["training_curves"]
    assert "merge takes drop_lstm and image" in told["model_diagram"]
    assert "input_img is an input" in told["model_diagram"]
    assert "“left” most at the top left; “mass” most half-way down right" in told["evidence_maps"]
    assert all(len(text) < 1500 for text in told.values())


def test_every_figure_of_the_notebook_is_among_them(figures):
    drawn = set()
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        drawn |= set(re.findall(r"(?:plots|heatmaps)\.(\w+)\(", cell.source))
    drawn -= {"peaks_on_findings"}
    assert drawn and drawn <= set(figures)


def test_the_html_holds_the_picture_its_text_and_room_to_scroll(figures):
    figure = figures["gallery"]
    shown = figure._repr_html_()
    source = re.search(r'src="data:image/webp;base64,([^"]+)"', shown)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(source)))
    width = figure.get_figwidth() * figure.dpi
    assert picture.format == "WEBP" and picture.width > 1.3 * width
    assert picture.getpixel((0, 0))[:3] == (255, 255, 255)  # on a dark page too
    assert f"--width: {round(width)}px" in shown and "overflow-x: auto" in shown
    assert 'alt="3 test images' in shown and "&lt;mass&gt;" in shown and "<mass>" not in shown


def test_text_below_an_image_does_not_run_into_the_next(figures, tmp_path):
    long = "a word and another " * 6
    path = str(tmp_path / "grey.png")
    Image.new("RGB", (30, 30), (9, 9, 9)).save(path)
    frame = pd.DataFrame({"id": range(9), "image": path, "caption": long})
    figure = plots.gallery(frame, frame.assign(caption=long), [1.0] * 9)
    figure._repr_html_()
    upper, lower = figure.axes[0], figure.axes[3]
    lowest = min(text.get_window_extent().y0 for text in upper.texts)
    assert lowest >= lower.get_window_extent().y1 - 1  # fonts differ by parts of a pixel


def test_nbconvert_misses_no_alternative_text(figures, caplog):
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": f._repr_html_(), "image/png": "AAAA"})
        for f in figures.values()
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    with caplog.at_level(logging.WARNING):
        html, _ = HTMLExporter().from_notebook_node(notebook)
    assert "Alternative text" not in caplog.text
    assert html.count("<img alt=") == len(figures) and "No description" not in html
    for output in outputs:  # what it says of plain images, so that this test can fail
        del output.data["text/html"]
    with caplog.at_level(logging.WARNING):
        HTMLExporter().from_notebook_node(notebook)
    assert f"missing on {len(figures)} image" in caplog.text


def test_a_figure_shows_itself_where_notebooks_ask_first():
    from IPython.core.formatters import HTMLFormatter

    figure, _ = new_figure(1, 1, 2, 2)
    figure.alt = "nothing"
    assert 'alt="nothing"' in HTMLFormatter()(figure)


def test_brief():
    assert brief("a few words") == "a few words"
    assert len(brief("word " * 90)) <= 120 and brief("word " * 90).endswith(" …")
