"""Figures carry their alt text into HTML; tables escape text and set no colours."""

import base64
import io
import logging
import re

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.formatters import HTMLFormatter
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from nbconvert import HTMLExporter
from PIL import Image

from roco_caption.show.figures import brief, new_figure, style_scores, styled

NAN = float("nan")


def test_the_html_has_a_sharp_image_alt_text_and_scrolls_on_phones():
    figure, _ = new_figure(2, 2, 2, 3)
    figure.alt = 'axial ct of a "left" <mass>'
    page = HTMLFormatter()(figure)  # what a notebook asks first
    source = re.search(r'src="data:image/webp;base64,([^"]+)"', page)[1]
    image = Image.open(io.BytesIO(base64.b64decode(source)))
    width = figure.get_figwidth() * figure.dpi
    assert image.format == "WEBP" and image.width > 1.3 * width
    assert image.getpixel((0, 0))[:3] == (255, 255, 255)  # on a dark page too
    assert f"--width: {round(width)}px" in page and "overflow-x: auto" in page
    assert 'alt="axial ct of a &quot;left&quot; &lt;mass&gt;"' in page


def test_a_notebook_keeps_one_picture_of_a_figure(monkeypatch):
    shell = InteractiveShell.instance()
    select_figure_formats(shell, {"png"})  # as in every notebook
    monkeypatch.setattr(shell, "display_pub", CapturingDisplayPublisher())
    figure, _ = new_figure(1, 1, 2, 2)
    figure.alt = "a mass"
    plain, _ = plt.subplots()
    plt.close(plain)
    assert "image/png" in shell.display_formatter.format(plain)[0]  # so this test can fail
    assert shell.display_formatter.format(figure) == ({}, {})  # it has shown itself
    (output,) = shell.display_pub.outputs
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert output["data"]["text/plain"] == "a mass"
    assert '<img alt="a mass"' in output["data"]["text/html"]


def test_nbconvert_finds_the_alt_text(caplog):
    figure, _ = new_figure(1, 1, 2, 2)
    figure.alt = "nothing"
    data = {"text/html": figure._repr_html_(), "image/png": "AAAA"}
    output = nbformat.v4.new_output("display_data", data)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    with caplog.at_level(logging.WARNING):
        page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "Alternative text" not in caplog.text and '<img alt="nothing"' in page
    del output.data["text/html"]  # a plain image is reported, so this test can fail
    with caplog.at_level(logging.WARNING):
        HTMLExporter().from_notebook_node(notebook)
    assert "missing on 1 image" in caplog.text


def test_brief_keeps_whole_words():
    assert brief("a few words") == "a few words"
    assert len(brief("word " * 90)) <= 120 and brief("word " * 90).endswith(" …")


def test_brief_cuts_a_word_that_does_not_fit():
    assert brief("x" * 300) == "x" * 118 + " …"
    assert brief("…") == "…" and brief("a\x00\nb") == "a b"


def test_tables_show_texts_as_they_are():
    texts = ["$$T_2^*$$", "<b>x</b><script>y</script>", "a\x00\x07b\nc", "x" * 500]
    page = styled(pd.DataFrame({"caption": texts}), caption="<i>$x$").to_html()
    assert "<b>" not in page and "<script>" not in page and "<i>" not in page
    assert "a b c" in page and "\x00" not in page and "overflow-wrap: anywhere" in page
    assert "tex2jax_ignore" in page and "$$T_2^*$$" in page


def test_a_table_formats_numbers_and_escapes_labels_and_caption():
    table = pd.DataFrame({"images": [82000, 3], "a <b>": [0.12345, None]}, index=["<i>", "test"])
    page = styled(table, caption="left & right").to_html()
    assert "82,000" in page and "0.123" in page and "nan" not in page
    assert "&lt;i&gt;" in page and "a &lt;b&gt;" in page and "<i>" not in page
    assert "left &amp; right" in page and "color" not in page and "text-align: right" in page
    assert "12.3%" in styled(table[["a <b>"]], "{:.1%}").to_html()


def test_scores_have_intervals_and_a_caption():
    values = {"CIDEr": [1.0, NAN], "CIDEr_low": [0.5, NAN], "CIDEr_high": [1.25, NAN]}
    scores = pd.DataFrame(values | {"words": [8.25, 3.0]}, index=["this model", "<b>"])
    scores.attrs["caption"] = "4 images"
    page = style_scores(scores).to_html()
    assert "1.000<br><small>[0.500, 1.250]</small>" in page and ">8.2<" in page
    assert "4 images" in page and "&lt;b&gt;" in page
    assert "color" not in page and "nan" not in page and "_low" not in page


@pytest.mark.parametrize(
    ("name", "best"),
    [("CIDEr", "row1"), ("distinct", "row1"), ("repeated", "row0")]
    + [(name, None) for name in ("words", "copied", "p_vs_first")],
)
def test_the_best_score_is_bold(name, best):
    page = style_scores(pd.DataFrame({name: [0.1, 0.3]})).to_html()
    bold = re.search(r"([^{}]*)\{[^}]*bold", page)
    assert (re.findall(r"row\d", bold[1]) if bold else []) == ([best] if best else [])
