"""Asks Kaggle for a data set's archive through its own client, with an account or without."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from roco_caption.files import UserError

TIMEOUT = (20, 60)  # seconds to connect, and between two pieces of an answer


@dataclass(frozen=True)
class Credentials:
    """What the client calls `config_values`, and where it was found. Never shows the secret."""

    source: str
    values: dict[str, str] = field(repr=False)


def find_credentials() -> Credentials | None:
    """Return the first credentials in the places that Kaggle documents, then Colab's secrets."""
    for source, token, username, key in _places():
        if token and token.strip():
            return Credentials(source, {"token": token.strip()})
        if username and key:
            return Credentials(source, {"username": username.strip(), "key": key.strip()})
    return None


def open_archive(dataset: str, credentials: Credentials | None) -> requests.Response:
    """Return Kaggle's answer that holds a data set's zip, its body not yet read.

    The client is taken for what is Kaggle's own: its protocol, accounts and redirects. Its way of
    writing the file is left out, since the versions differ where a download is interrupted: 2.0
    appends whatever answer it gets, an error page too; 2.2 overwrites what it has with one.

    Args:
        dataset: `owner/name`.
        credentials: the account; None asks without one, whatever the environment holds.

    Raises:
        UserError: the `kaggle` package cannot be imported.
        requests.RequestException: Kaggle refused, or could not be reached.
    """
    client = _client_class()()
    client.config_values = dict(credentials.values) if credentials else {}
    client.anonymous = credentials is None
    with _hushed():  # it prints the data set's page and advice on its own version
        client.dataset_download_files(dataset, path=os.curdir, quiet=True, unzip=False)
    return client.answer


def _client_class() -> type:
    class Client(_import_client().KaggleApi):
        def build_kaggle_client(self) -> Any:
            built = super().build_kaggle_client()
            http = built.http_client()
            http.__enter__()  # opens the session, which looks for credentials by itself
            session = http._session
            if self.anonymous:
                session.auth = None
            for scheme in ("http://", "https://"):
                session.mount(scheme, _TimedAdapter())
            return built

        def download_needed(self, *_: Any) -> bool:
            return True

        def download_file(self, response: requests.Response, *_: Any, **__: Any) -> None:
            self.answer = response

    return Client


class _TimedAdapter(HTTPAdapter):
    """The client sets no timeout on its requests: a silent server would stop the notebook."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or TIMEOUT
        return super().send(request, *args, **kwargs)


def _import_client() -> Any:
    """Import the client, which authenticates on import: without an account it exits (2.0)."""
    name = "kaggle.api.kaggle_api_extended"
    reason = None
    if name not in sys.modules:
        try:
            with _hushed():
                importlib.import_module(name)
        except (Exception, SystemExit) as error:
            reason = error  # the module itself stands in sys.modules unless it failed
    if name not in sys.modules:
        raise UserError(
            f"The kaggle package could not be imported ({type(reason).__name__}: {reason}). Run "
            "`pip install 'kaggle>=2.0' six`, restart the kernel and run the cells again."
        ) from reason
    return sys.modules[name]


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Swallow what is printed, and hide standard input, which `exit()` closes."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = stdin


def _places() -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Yield (source, token, user name, key) of every place, in the client's order."""
    _import_client()
    from kagglesdk import get_access_token_from_env

    token, source = get_access_token_from_env()  # KAGGLE_API_TOKEN, ~/.kaggle/access_token
    yield str(source), token, None, None
    environment = os.environ.get
    yield "KAGGLE_USERNAME", None, environment("KAGGLE_USERNAME"), environment("KAGGLE_KEY")
    for path in _key_files():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(path.read_text("utf-8"))
            yield str(path), None, str(saved["username"]), str(saved["key"])
    names = ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY")
    yield "Colab's secrets", *map(_colab_secret, names)


def _key_files() -> Iterator[Path]:
    home = Path.home()
    if folder := os.environ.get("KAGGLE_CONFIG_DIR"):
        yield Path(folder) / "kaggle.json"
    yield home / ".kaggle" / "kaggle.json"
    config = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
    yield Path(config) / "kaggle" / "kaggle.json"


def _colab_secret(name: str) -> str | None:
    try:
        from google.colab import userdata

        return userdata.get(name)
    except Exception:  # not in Colab, no such secret, or this notebook may not read it
        return None
