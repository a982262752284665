"""Asks Kaggle for a data set's archive through its own client, with an account or without."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from roco_caption.core.errors import UserError
from roco_caption.core.files import gigabytes, lock, read_json, write_json
from roco_caption.core.progress import progress_bar
from roco_caption.data.archive import (
    TREE,
    DamagedArchive,
    cannot_write,
    check_room,
    is_whole,
    unpack_radiology,
)

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


ROCO = "virajbagal/roco-dataset"
ARCHIVE_BYTES = 6_190_000_000  # where Kaggle's answer doesn't say
UNPACKED_SHARE = 7.0 / 6.19  # the radiology part unpacked, of the archive's size
WAITS = (2, 4, 8, 16, 32)  # seconds before each new attempt, as the client's own
FIRST_WAITS = WAITS[:2]  # while nothing has arrived: most likely there is no network at all
CHUNK = 1 << 20


def download_roco(
    folder: str | os.PathLike, *, dataset: str = ROCO, keep_archive: bool = False
) -> Path:
    """Download ROCO from Kaggle, without an account if need be, and unpack its radiology part.

    Whatever interrupts it, the next call continues: the download where the file on disk ends, the
    unpacking at the first file that is missing.

    Args:
        folder: takes `all_data/{train,validation,test}/radiology/` and, meanwhile, the archive.
            An archive put there by hand under the data set's name (`roco-dataset.zip`) is used.
        dataset: Kaggle's `owner/name`.
        keep_archive: keep the zip (6.19 GB) after unpacking.

    Returns:
        `folder`.

    Raises:
        UserError: Kaggle refused or could not be reached, the disk is too small or full, or the
            archive is damaged or unsafe; the message says what to do.
    """
    folder = Path(folder)
    owner, _, name = dataset.partition("/")
    if not all(re.fullmatch(r"[\w-]+", part) for part in (owner, name)):
        raise UserError(f"{dataset!r} names no Kaggle data set: write it as owner/name.")
    with lock(folder.with_name(f".{folder.name}.lock"), "downloading"):
        return folder if _is_complete(folder, dataset) else _make(folder, dataset, keep_archive)


def _make(folder: Path, dataset: str, keep_archive: bool) -> Path:
    started = time.monotonic()
    archive = folder / f"{dataset.partition('/')[2]}.zip"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        count = _bring(dataset, archive, folder)
        write_json(folder / ".complete.json", {"dataset": dataset, "files": count})
        _resume_marker(archive).unlink(missing_ok=True)
        if not keep_archive:
            archive.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"made {folder}: {dataset}, {count:,} radiology files, in {minutes}:{seconds:02}")
    return folder


def _is_complete(folder: Path, dataset: str) -> bool:
    marker = folder / ".complete.json"
    if not marker.exists() or not (folder / TREE).is_dir():
        return False
    found = read_json(marker)
    if not isinstance(found, dict) or {"dataset", "files"} - found.keys():
        raise UserError(f"{marker} is no record of a download. Delete it to download {dataset}.")
    if found["dataset"] != dataset:
        raise UserError(f"{folder} holds {found['dataset']}, not {dataset}. Choose another folder.")
    print(f"reused {folder}: {dataset}, {found['files']:,} radiology files")
    return True


def _bring(dataset: str, archive: Path, folder: Path) -> int:
    """Download unless the archive is there, unpack, and start over once if it is damaged."""
    if is_whole(archive):
        print(f"reused {archive}: {gigabytes(_size(archive))}")
    else:
        _fetch(dataset, archive)
    try:
        return unpack_radiology(archive, folder)
    except DamagedArchive as error:
        print(f"{archive} is damaged ({error.__cause__}) and is downloaded anew, once.")
    _fetch(dataset, archive)
    return unpack_radiology(archive, folder)


def _fetch(dataset: str, archive: Path) -> None:
    """Download, with new attempts after what may pass; each continues the one before."""
    account = find_credentials()
    how = f"with the account from {account.source}" if account else "without an account"
    print(f"Downloading {dataset} from Kaggle, {how}")
    failures = 0
    while True:
        before = _size(archive)
        try:
            return _receive(open_archive(dataset, account), archive)
        except requests.RequestException as error:
            if account and account_refused(error):
                print(f"Kaggle refused the account from {account.source}: going on without one.")
                account = None
                continue
            failures = 1 if _size(archive) > before else failures + 1
            wait = _wait(error, failures, WAITS if _size(archive) else FIRST_WAITS)
            if wait is None:
                raise explained(error, dataset, archive) from error
            print(f"{reason(error)}: trying again in {wait} s.")
            time.sleep(wait)


def _wait(error: Exception, failures: int, waits: tuple[int, ...]) -> int | None:
    """Return the seconds until the next attempt, None where the error is to be shown instead."""
    if failures > len(waits) or not may_pass(error):
        return None
    wait = max(waits[failures - 1], retry_after(error))
    return wait if wait <= max(WAITS) else None  # a longer one is the reader's to decide


def _receive(answer: requests.Response, archive: Path) -> None:
    """Write the answer's body to the archive, or only what is missing there.

    The marker beside it is the one that the client (2.2) writes, so each continues the other's
    download: it says whose bytes the file holds.
    """
    marker = _resume_marker(archive)
    length = None if "Content-Encoding" in answer.headers else answer.headers.get("Content-Length")
    size = int(length) if length else None
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    identity = {"validator": validator, "size": size}
    offset = _proven_bytes(archive, marker, identity)
    needed = round((size or ARCHIVE_BYTES) * (1 + UNPACKED_SHARE)) - _size(archive)
    check_room(archive.parent, needed)
    if offset:
        answer.close()
        answer = _ask_for_rest(answer.request, offset, validator)
        offset = offset if answer.status_code == 206 else 0  # 200: it changed meanwhile
    pieces = answer.iter_content(CHUNK)
    first = next(pieces, b"")
    if not offset and not first.startswith(b"PK"):
        raise _no_archive(answer, first, archive)
    with open(archive, "ab" if offset else "wb") as file:
        if not offset:  # once the old bytes are gone, before new ones come
            write_json(marker, identity)
        with progress_bar(
            total=size, initial=offset, unit="B", unit_scale=True, desc=archive.name
        ) as bar:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                bar.update(len(piece))
    if size not in (None, archive.stat().st_size):
        raise requests.ConnectionError("the answer ended early")


def _resume_marker(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.kaggle-partial")


def _proven_bytes(archive: Path, marker: Path, identity: dict[str, Any]) -> int:
    """Return how many bytes on disk surely belong to the archive that Kaggle offers now."""
    present = _size(archive)
    if not marker.exists() or None in identity.values() or present >= identity["size"]:
        return 0
    try:
        return present if read_json(marker) == identity else 0
    except UserError:  # damaged: the client doesn't write it atomically
        return 0


def _ask_for_rest(
    request: requests.PreparedRequest, offset: int, validator: str | None
) -> requests.Response:
    """Repeat the request that led to the archive, for the bytes from `offset` on."""
    request = request.copy()
    request.headers["Range"] = f"bytes={offset}-"
    if validator and not validator.startswith("W/"):  # weak: not here (RFC 9110, 13.1.5)
        request.headers["If-Range"] = validator
    with requests.Session() as session:
        settings = session.merge_environment_settings(str(request.url), {}, True, None, None)
        answer = session.send(request, timeout=TIMEOUT, **settings)
    answer.raise_for_status()  # before anything is written: an error page is no archive
    begins = answer.headers.get("Content-Range", "")
    if answer.status_code == 206 and not begins.startswith(f"bytes {offset}-"):
        raise requests.ConnectionError("the answer holds another part")
    return answer


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _no_archive(answer: requests.Response, first: bytes, archive: Path) -> UserError:
    kind = answer.headers.get("Content-Type", "no type given")
    return UserError(
        f"{archive} was not downloaded: what came is no zip archive ({kind}, beginning "
        f"{first[:40]!r}). A login page of the network or a proxy may answer instead of Kaggle: "
        "open a web page in a browser to see, then run this cell again."
    )
