"""An image of your own: its best captions, their heat maps, similar images, an upload button."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.machine import find_platform
from roco_caption.core.progress import is_unattended
from roco_caption.data.images import ImageError, read_with_note
from roco_caption.decoder.word_maps import PIXELS, word_maps
from roco_caption.search.captioner import Caption, Captioner
from roco_caption.search.rerank import image_vectors
from roco_caption.show.figures import styled
from roco_caption.show.plots import image_beside, word_map_figure
from roco_caption.text.tokenizer import END


def explain(
    captioner: Captioner,
    train: pd.DataFrame | None,
    image: str | os.PathLike,
    *,
    features: Any = None,
    reference: str | Sequence[str] = "",
    synthetic: bool = False,
) -> tuple[Any, ...]:
    """Caption an image and find the nearest training images of those that rerank its captions.

    `train`, a DataFrame[id, image, caption], is what the captioner was made with; `features` are
    those of this image, computed by default. Returns a figure of the image beside the three nearest
    training images; with attention, heat maps for the best caption's words; and a styled table of
    the three best captions. Without `train`, or for a captioner that was loaded, a table of
    captions replaces the nearest images; one that does not rerank has neither. Raises as
    `Captioner.encode` does.
    """
    image = os.path.expanduser(image)
    pixels: Any
    try:
        pixels, rendering = read_with_note(image, PIXELS)
    except ImageError:
        if features is None:
            raise
        pixels, rendering = image, ""  # drawn as one that cannot be decoded
    features = captioner.encode([image]) if features is None else features
    (captions,) = captioner.best_captions(features, 3)
    best = captions[0].text
    nearest, note, known = pd.DataFrame(), "", captioner.consensus
    near = known.nearest(image_vectors(captioner.decoder, features), 3)[0] if known else []
    if train is not None and known and known.rows is not None:
        nearest = train.iloc[known.rows[near]]
        images = "images" if reference else "training images"  # a reference: from the same data set
        note = f"Synthetic {images}, drawn by this notebook" if synthetic else ""
    shown = [image_beside(pixels, best, reference, rendering, nearest, note)]
    if captioner.decoder.rates_cells:
        ((words, weights),) = word_maps(captioner.decoder, captioner.tokenizer, features, [best])
        note = "The parts of the image that support each word"
        shown.append(word_map_figure(pixels, words, weights, note))
    shown.append(_caption_table(captioner, captions, synthetic))
    if known and not len(nearest):
        texts = [captioner.tokenizer.decode(row) for row in known.tokens[near]]
        shown.append(_texts(pd.DataFrame({"captions of the nearest training images": texts}), ""))
    return tuple(shown)


def _caption_table(captioner: Captioner, captions: list[Caption], synthetic: bool) -> Any:
    tokens = captioner.tokenizer.encode([caption.text for caption in captions])
    table = pd.DataFrame(captions, columns=["caption", "log_p"])
    table["probability"] = np.exp(table.log_p)
    table["per word"] = np.exp(table.log_p / ((tokens > END).sum(axis=1) + 1))  # + 1: the end token
    note = "For research and teaching. Not for clinical use."
    if synthetic:
        note = f"Trained only on synthetic images: captions of real images are meaningless. {note}"
    return _texts(table.drop(columns="log_p"), note)


def _texts(table: pd.DataFrame, note: str) -> Any:
    """Return a styled table without its index: texts, then shares."""
    styler = styled(table, caption=note).hide(axis="index")
    left = {"selector": "td.col0, th.col0", "props": "text-align: left; white-space: normal"}
    bold = {"selector": "caption", "props": "font-weight: bold"}
    styler = styler.format(dict.fromkeys(table.columns[1:], _percent), escape="html")
    return styler.set_table_styles([left, bold], overwrite=False)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else f"{share:.0e}"


def upload_button(show: Callable[[Path], Iterable[Any]]) -> Any:
    """Return a button that uploads an image file and displays what `show` returns for its path.

    For privacy, an upload is a file only while `show` runs, and the button is replaced after it, as
    notebooks save widgets' state. None if the notebook is unattended.
    """
    if is_unattended():
        return None
    import ipywidgets
    from IPython.display import display

    output = ipywidgets.Output()
    box = ipywidgets.VBox([output])
    in_colab = find_platform() == "colab"

    def renew() -> None:
        old = box.children[:-1]
        if in_colab:  # only a click starts the upload, which blocks the kernel
            button = ipywidgets.Button(description="Image to caption")
            button.on_click(lambda button: take(_upload_in_colab(button)))
        else:
            button = ipywidgets.FileUpload(description="Image to caption", multiple=False)
            button.observe(lambda change: take(_content(change["new"])), names="value")
        button.layout.width = "auto"
        box.children = (button, output)
        for widget in old:
            widget.close()

    def take(content: bytes | None) -> None:
        if content is None:
            return
        renew()
        output.clear_output(wait=True)
        with output, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(content)
            try:
                display(*show(path))
            except UserError as error:
                print(str(error).replace(str(path), "The uploaded image"))

    renew()
    return box


def _upload_in_colab(button: Any) -> bytes | None:
    """Return the bytes of a chosen file: the widget's own upload fails in Colab from 1 MB on.

    Colab's form, which shows the file's name, and the copy that Colab writes are removed. The form
    is not displayed in an `Output`, where its script would not be found.
    """
    from google.colab import files, output

    button.disabled = True  # or further clicks would wait in a queue
    try:
        with (
            tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()), output.use_tags("upload"),
        ):  # fmt: skip
            return next(iter(files.upload().values()), None)
    except Exception as error:  # such as the frontend's MessageError
        print(f"Colab could not upload the file ({first_line(error)}). Upload it in the "
              "sidebar (Files), set IMAGE to its path, and run its cells again.")  # fmt: skip
        return None
    finally:
        output.clear(output_tags="upload")
        button.disabled = False


def _content(value: Any) -> bytes | None:
    """Return the bytes of a FileUpload's file: a dict in ipywidgets 7, a tuple in 8."""
    files = list(value.values()) if isinstance(value, dict) else value
    return bytes(files[0]["content"]) if files else None
