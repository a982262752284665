"""An image of one's own: its best captions, what speaks for them, images near it, an upload."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.data.images import read_with_note
from roco_caption.decoder.word_maps import word_maps
from roco_caption.features.table import arrays_of
from roco_caption.scores.baselines import neighbours
from roco_caption.search.captioner import Caption, Captioner
from roco_caption.show import plots
from roco_caption.show.figures import DescribedFigure, styled
from roco_caption.show.plots import evidence_maps
from roco_caption.text.tokenizer import END

REMINDER = "For research and teaching. Not for clinical use."
SYNTHETIC = "Learned from synthetic images alone: what it says of real ones means nothing."


def explain(
    captioner: Captioner,
    train: pd.DataFrame,
    train_features: np.ndarray,
    image: str | os.PathLike,
    *,
    features: Any = None,
    reference: str = "",
    synthetic: bool = False,
) -> tuple[Any, ...]:
    """Caption an image, and find the training images that its features are nearest to.

    Args:
        captioner: the captioner.
        train: DataFrame[id, image, caption] of the training split.
        train_features: float (len(train), d).
        image: an image file; of a DICOM file only how its values are shown is told.
        features: of the one image, as `caption_features` takes them; computed where not given.
        reference: the true caption, if known.
        synthetic: whether the captioner learned from phantoms.

    Returns:
        The image among the three nearest training images with their captions; with attention the
        heat maps of its best caption's words; and a styled table of its three best captions with
        their probabilities and the reminder on use.

    Raises:
        ImageError: the file holds no image that can be decoded.
        UserError: the captioner was trained on features computed elsewhere.
    """
    note = read_with_note(image)[1]
    features = captioner.encode([image]) if features is None else features
    (captions,) = captioner.best_captions(features, 3)
    nearest = train.iloc[neighbours(train_features, arrays_of(features)[0], 3)[0]]
    what = "images" if reference else "training images"  # what has one is of the data set
    title = f"Synthetic {what}, drawn by this notebook" if synthetic else ""
    figure = plots.image_beside(str(image), captions[0].text, reference, note, nearest, title)
    maps: list[DescribedFigure] = []
    if captioner.decoder.rates_cells:
        ((words, weights),) = word_maps(
            captioner.decoder, captioner.tokenizer, features, [captions[0].text]
        )
        maps = [evidence_maps(str(image), words, weights, "What speaks for the caption's words")]
    return figure, *maps, _table(captioner, captions, synthetic)


def _table(captioner: Captioner, captions: list[Caption], synthetic: bool) -> Any:
    tokens = captioner.tokenizer.encode([c.text for c in captions])
    words = (tokens > END).sum(axis=1) + 1  # the end counts as one
    caption = f"{SYNTHETIC} {REMINDER}" if synthetic else REMINDER
    table = pd.DataFrame(
        {
            "caption": [c.text for c in captions],
            "probability": [c.probability for c in captions],
            "a word": [np.exp(c.log_probability / n) for c, n in zip(captions, words, strict=True)],
        }
    )
    left = [{"selector": "td.col0, th.col0", "props": "text-align: left; white-space: normal"}]
    left += [{"selector": "caption", "props": "font-weight: bold"}]
    formats = {"probability": _percent, "a word": _percent}
    shown = styled(table, caption=caption).format(formats, escape="html").hide(axis="index")
    return shown.set_table_styles(left, overwrite=False)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else f"{share:.0e}"


def upload_button(show: Callable[[Path], Iterable[Any]]) -> Any:
    """Return a button that takes an image file from the reader and displays what is made of it.

    Whatever its name says of a patient, an upload lies in a file named "image", and only while it
    is read. The button is renewed after each: a notebook that is saved keeps what its widgets hold.

    Args:
        show: takes the file's path and returns what is to be displayed.

    Returns:
        An ipywidgets box; None where ipywidgets is missing, or nobody is there to press a button
        (`ROCO_PROGRESS` is `text`, as `make notebook` sets it).
    """
    try:
        import ipywidgets
    except ImportError:
        return None
    if os.environ.get("ROCO_PROGRESS") == "text":
        return None
    output = ipywidgets.Output()
    box = ipywidgets.VBox([output])

    def renew() -> None:
        used = box.children[:-1]
        button = ipywidgets.FileUpload(multiple=False, description="Image to caption")
        button.layout.width = "auto"
        button.observe(take, names="value")
        box.children = (button, output)
        for old in used:
            old.close()

    def take(change: dict[str, Any]) -> None:
        content = _content(change["new"])
        if content is None:
            return
        renew()
        output.clear_output(wait=True)
        with output:
            _display(show, content)

    renew()
    return box


def _content(value: Any) -> bytes | None:
    """Return the bytes of the file that a FileUpload holds: ipywidgets 7 by name, 8 in a row."""
    files = list(value.values()) if isinstance(value, dict) else list(value)
    return bytes(files[0]["content"]) if files else None


def _display(show: Callable[[Path], Iterable[Any]], content: bytes) -> None:
    from IPython.display import display

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        try:
            display(*show(path))
        except UserError as error:
            print(str(error).replace(str(path), "The uploaded image"))
