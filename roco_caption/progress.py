"""Progress bars: widgets in a live notebook, one line of text where it is run unattended."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tqdm.auto warns where ipywidgets is missing; text will do
    from tqdm.auto import tqdm as _live
    from tqdm.std import tqdm as _text


def progress_bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar with rate and time left.

    Args:
        iterable: what is gone through, or None for a bar that is moved by `update`.
        options: of tqdm, such as `total`, `desc`, `unit`.

    Returns:
        A widget in a live notebook. Text on standard output when the environment variable
        `ROCO_PROGRESS` is `text`, as `make notebook` sets it: widgets do not survive in files.
    """
    if os.environ.get("ROCO_PROGRESS") == "text":
        options = {"file": sys.stdout, "ncols": 90, "mininterval": 2.0, "ascii": " ━"} | options
        return _text(iterable, **options)
    return _live(iterable, **options)
