"""Finds credentials for Kaggle, where its own client and Colab keep them."""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def find_account() -> tuple[str, dict[str, str]]:
    """Return where Kaggle credentials were found, and the header for them; empty without any."""
    for source, *values in _credentials():
        values = [str(value or "").strip() for value in values]
        text = ":".join(values)
        if not all(values):
            continue
        if text.isascii() and text.isprintable():
            basic = base64.b64encode(text.encode()).decode()
            header = f"Bearer {text}" if len(values) == 1 else f"Basic {basic}"
            return f"with the account from {source}", {"Authorization": header}
        print(f"The credentials from {source} contain invalid characters and are ignored.")
    return "", {}


def _credentials() -> Iterator[tuple[Any, ...]]:
    """Yield (source, token) and (source, user name, key); values may be empty or None."""
    env = os.environ.get
    token = env("KAGGLE_API_TOKEN", "")
    yield "KAGGLE_API_TOKEN", _read(token) or token  # a token or a file that contains one
    yield "~/.kaggle/access_token", _read("~/.kaggle/access_token")
    yield "KAGGLE_KEY", env("KAGGLE_USERNAME"), env("KAGGLE_KEY")
    config = env("XDG_CONFIG_HOME", "~/.config")
    for folder in (env("KAGGLE_CONFIG_DIR", "~/.kaggle"), f"{config}/kaggle"):
        path = f"{folder}/kaggle.json"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            saved = json.loads(_read(path))
            yield path, saved["username"], saved["key"]
    yield "Colab's secrets", _colab_secret("KAGGLE_API_TOKEN")
    yield "Colab's secrets", _colab_secret("KAGGLE_USERNAME"), _colab_secret("KAGGLE_KEY")


def _read(path: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        return Path(path).expanduser().read_text("utf-8")
    return ""


def _colab_secret(name: str) -> str | None:
    try:
        from google.colab import userdata

        return userdata.get(name)
    except Exception:  # not in Colab, no such secret, or no access to it
        return None
