"""One split of ROCO's layout, read alone."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from roco_caption.data import roco
from roco_caption.data.names import image_ids


def read_split(root: str | os.PathLike, split: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return DataFrame[id, image, caption], and for each row of the table why it is left out."""
    rows = roco._rows(Path(root), split)
    used = rows[rows.reason == ""]
    frame = used.assign(id=used.file.map(image_ids(used.file)))[["id", "image", "caption"]]
    return frame.reset_index(drop=True), rows.reason
