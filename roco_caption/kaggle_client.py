"""Asks Kaggle for a data set's archive through its own client, with an account or without."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
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
    """A `token`, or a `username` and a `key`, and where they were found. Never shows them."""

    source: str
    values: dict[str, str] = field(repr=False)


def find_credentials() -> Credentials | None:
    """Return the first credentials in the places that Kaggle documents, then Colab's secrets."""
    for found in _places():
        source = str(found.pop("source"))
        values = {name: value.strip() for name, value in found.items() if value and value.strip()}
        if "token" not in values and not {"username", "key"} <= set(values):
            continue
        if all(value.isascii() and value.isprintable() for value in values.values()):
            return Credentials(source, values)
        # A request could not hold it, and the error would show it.
        print(f"The account from {source} holds stray characters and is left out.")
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
    client.account = credentials.values if credentials else {}
    with _hushed():  # it prints the data set's page and advice on its own version
        client.dataset_download_files(dataset, path=os.curdir, quiet=True, unzip=False)
    return client.answer


def _answer(error: Exception) -> Any:
    """Return the server's answer that an error stands for, None where there was none."""
    return getattr(error, "response", None)


def _status(error: Exception) -> int:
    """Return the HTTP status of an error's answer, 0 where there was no answer."""
    answer = _answer(error)
    return 0 if answer is None else answer.status_code


def account_refused(error: Exception) -> bool:
    """Tell whether it was the account that Kaggle refused, so that none may do better."""
    refused = _status(error) in (401, 403)  # the storage's own refusals come without an account
    return refused and "Authorization" in _answer(error).request.headers


def may_pass(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    if isinstance(error, requests.exceptions.SSLError):
        return False
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, passing) or _status(error) in (408, 429) or _status(error) >= 500


def retry_after(error: Exception) -> int:
    """Return the seconds that the server asks to wait, 0 where it doesn't say."""
    answer = getattr(error, "response", None)
    asked = "" if answer is None else answer.headers.get("Retry-After", "")
    return int(asked) if asked.isdigit() else 0


def reason(error: Exception) -> str:
    """Say in a few words what went wrong; the error's own text holds signed addresses."""
    text = str(error)
    if status := _status(error):
        return f"Kaggle answered {status}"
    if re.search("NameResolution|getaddrinfo|Name or service", text):
        return "The name of Kaggle's server was not found"
    if isinstance(error, requests.Timeout) or "timed out" in text.lower():
        return "Kaggle's server did not answer in time"
    if "refused" in text.lower():
        return "The connection was refused"
    return f"The connection failed or broke off ({type(error).__name__})"


def explained(error: Exception, dataset: str, archive: Path) -> UserError:
    """Return what a person needs to know and do about an error of `open_archive`."""
    by_hand = (
        f"or download it in a browser from https://www.kaggle.com/datasets/{dataset} and put it "
        f"there as {archive}"
    )
    token = "set KAGGLE_API_TOKEN to a token from https://www.kaggle.com/settings"
    pause = f"{retry_after(error)} s" if retry_after(error) else "some minutes"
    remedies = {
        0: "Check the network (on Kaggle: Settings, Internet on)",
        401: f"It wants an account for {dataset}: {token}, {by_hand}",
        403: f"It does not hand out {dataset} here: {token}, {by_hand}",
        404: f"It has no data set {dataset}: check the name (owner/name)",
        429: f"Too many requests: wait {pause}",
    }
    remedy = remedies.get(_status(error), f"Try again later, {by_hand}")
    kept = " What was downloaded is kept." if archive.exists() else ""
    return UserError(f"{reason(error)}. {remedy}; then run this cell again.{kept}")


def _client_class() -> type:
    api: Any = _import_client().KaggleApi

    class Client(api):
        def build_kaggle_client(self) -> Any:
            built = super().build_kaggle_client()
            http = built.http_client()
            http._signed_in = False  # "known": it must not look for an account by itself
            http.__enter__()  # makes the session
            if token := self.account.get("token"):
                http._session.auth = http.BearerAuth(token)
            elif self.account:
                http._session.auth = self.account["username"], self.account["key"]
            for scheme in ("http://", "https://"):
                http._session.mount(scheme, _TimedAdapter())
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


def _places() -> Iterator[dict[str, Any]]:
    """Yield every place, with what it holds, in the client's order."""
    _import_client()
    from kagglesdk import get_access_token_from_env

    token, source = get_access_token_from_env()  # KAGGLE_API_TOKEN, ~/.kaggle/access_token
    yield {"source": str(source), "token": token}
    pair = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    yield {"source": "KAGGLE_KEY"} | {name: os.environ.get(pair[name]) for name in pair}
    for path in _key_files():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(path.read_text("utf-8"))
            yield {"source": str(path)} | {name: str(saved[name]) for name in pair}
    yield {"source": "Colab's secrets", "token": _colab_secret("KAGGLE_API_TOKEN")}
    yield {"source": "Colab's secrets"} | {name: _colab_secret(pair[name]) for name in pair}


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
