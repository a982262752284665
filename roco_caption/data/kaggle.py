"""Downloads ROCO from Kaggle: with or without an account, resumable, verified."""

import contextlib
import importlib.util
import io
import itertools
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import requests

from roco_caption.core.errors import UserError
from roco_caption.core.files import (
    cannot_write,
    gigabytes,
    lock,
    make_folder,
    read_json,
    write_json,
    write_text,
)
from roco_caption.core.progress import progress_bar
from roco_caption.data.account import find_account
from roco_caption.data.archive import DamagedArchive, check_room, unpack_radiology

DATASET = "virajbagal/roco-dataset"
RECORD = ".complete.json"  # in the folder of a complete download
SERVER = "https://www.kaggle.com"
TIMEOUT = (20, 60)  # seconds to connect, and between two pieces of a response
ARCHIVE_BYTES = 6_190_000_000  # where the response does not state its size
UNPACKED_SHARE = 7.0 / 6.19  # size of the unpacked radiology part, relative to the archive
MAX_WAIT = 32  # seconds before a new attempt; longer ones are left to the user
TEMPORARY = {0, 408, 429, *range(500, 600)}  # HTTP statuses; 0 where there is no response
CHUNK = 1 << 20  # bytes per write
CACHE_SECONDS = 90  # that Colab gets to mount its copy
# `kagglehub.dataset_download` would download what Colab has not, and wait for a mount without end.
# In a process of its own it can be stopped, and cannot ask for Colab's secrets.
FROM_CACHE = """
import sys
from kagglehub.colab_cache_resolver import DatasetColabCacheResolver
from kagglehub.handle import parse_dataset_handle
handle, cache = parse_dataset_handle(sys.argv[1]), DatasetColabCacheResolver()
found = cache.is_supported(handle) and cache(handle, None)
print(found if isinstance(found, str) else found[0])  # since kagglehub 0.4 with a version
"""


def download_roco(folder: str | os.PathLike) -> Path:
    """Download ROCO (6.19 GB), unpack its radiology part, or continue either; return `folder`.

    An archive that was saved there by hand as `roco-dataset.zip` is used. Raises a UserError if
    Kaggle does not deliver, the disk is too small, or the archive is damaged.
    """
    folder = Path(folder)
    record = folder / RECORD
    archive = folder / f"{DATASET.rpartition('/')[2]}.zip"
    with lock(folder.with_name(f".{folder.name}.lock"), "downloading"):
        if record.exists() and (folder / "all_data").is_dir():
            print(f"reused {folder}: {DATASET}, {read_json(record)['files']:,} radiology files")
            return folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            count = _download_and_unpack(archive)
            write_json(record, {"dataset": DATASET, "files": count})
            if _recorded(archive)[1] == int(archive.stat().st_mtime):
                archive.unlink(missing_ok=True)
            else:
                print(f"{archive} is not needed any more, and stays: it was saved by hand.")
            _marker(archive).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(error.filename or folder, error) from error
    print(f"made {folder}: {DATASET}, {count:,} radiology files")
    return folder


def mounted_by_colab() -> Path | None:
    """Return where Colab mounts its copy of the data set, None if it has none or takes too long."""
    command = [sys.executable, "-c", FROM_CACHE, DATASET]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        if importlib.util.find_spec("kagglehub"):
            print(f"Asking Colab for its own copy of ROCO (at most {CACHE_SECONDS} seconds)")
            options: dict[str, Any] = {"check": True, "capture_output": True, "text": True}
            done = subprocess.run(command, timeout=CACHE_SECONDS, **options)
            return Path(done.stdout.splitlines()[-1])
    return None


def download_texts(name: str, path: Path) -> Path:
    """Download one of ROCO's files of texts, a few MB, to `path` unless it is there.

    Raises a UserError if Kaggle does not deliver.
    """
    if path.exists():
        return path
    print(f"Downloading {name} of {DATASET} from Kaggle")
    url = f"{SERVER}/api/v1/datasets/download/{DATASET}?file_name={name}"
    try:
        try:
            content = _get(url, {}).content
        except requests.RequestException as error:
            headers = find_account()[1] if _status(error) in (401, 403) else {}
            if not headers:
                raise
            content = _get(url, headers).content
    except requests.RequestException as error:
        raise _explained(error, path, f" (there: Data Explorer, {name})") from error
    if content.startswith(b"PK"):  # Kaggle zips larger files
        with (
            contextlib.suppress(zipfile.BadZipFile),
            zipfile.ZipFile(io.BytesIO(content)) as zipped,
        ):
            content = zipped.read(zipped.namelist()[0])
    if not content.startswith(b"ROCO_"):
        raise _unexpected(path, content, "a list of ROCO's texts")
    write_text(make_folder(path.parent) / path.name, content.decode("utf-8", "replace"))
    return path


def _download_and_unpack(archive: Path) -> int:
    """Return the number of files. A damaged archive is downloaded again, once."""
    if zipfile.is_zipfile(archive):
        print(f"reused {archive}: {gigabytes(_size(archive))}")
    else:
        _download(archive)
    try:
        return unpack_radiology(archive, archive.parent)
    except DamagedArchive as error:
        print(f"{archive} is damaged ({error.__cause__}). Downloading it again, once.")
    _download(archive)
    return unpack_radiology(archive, archive.parent)


def _download(archive: Path) -> None:
    """Download with retries after temporary failures; each attempt continues the one before."""
    headers: dict[str, str] = {}
    print(f"Downloading {DATASET} from Kaggle, without an account")
    failures = 0
    while True:
        size = _size(archive)
        try:
            return _receive(_get(f"{SERVER}/api/v1/datasets/download/{DATASET}", headers), archive)
        except requests.RequestException as error:
            refused = _status(error) in (401, 403) and str(
                getattr(error.request, "url", "")
            ).startswith(SERVER)
            if refused and not headers and (found := find_account())[1]:  # Colab may ask its user
                source, headers = found
                print(f"Kaggle refused the download without an account. Trying again {source}.")
                continue
            failures = 1 if _size(archive) > size else failures + 1
            attempts = 5 if _size(archive) else 2  # probably there is no network at all
            wait = max(2**failures, _retry_after(error))
            if failures > attempts or wait > MAX_WAIT or _status(error) not in TEMPORARY:
                raise _explained(error, archive) from error
            print(f"{_reason(error)}. Trying again in {wait} s.")
            time.sleep(wait)


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    """Return a successful response; its body is not read yet."""
    response = requests.get(
        url, headers=headers | {"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT,
        auth=lambda request: request,  # or ~/.netrc would replace the header
    )  # fmt: skip
    response.raise_for_status()  # before anything is written: an error page is no archive
    return response


def _receive(response: requests.Response, archive: Path) -> None:
    """Write the body to the archive, or only the bytes missing there; record its version."""
    size = int(response.headers.get("Content-Length", 0)) or None
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    version = {"validator": validator, "size": size}
    offset = _valid_bytes(archive, version)
    needed = round((size or ARCHIVE_BYTES) * (1 + UNPACKED_SHARE)) - _size(archive)
    check_room(archive.parent, needed)
    if offset:
        response.close()
        response = _get_rest(response.request, offset, str(validator))
        offset = offset if response.status_code == 206 else 0  # 200: it has changed since
    pieces = response.iter_content(CHUNK)
    first = next(pieces, b"")
    if not offset and not first.startswith(b"PK"):
        raise _unexpected(archive, first, "a zip archive")
    with open(archive, "ab" if offset else "wb") as file:
        # after the old bytes are gone and before new ones are written
        write_json(_marker(archive), version)
        bar = progress_bar(total=size, initial=offset, unit="B", unit_scale=True, desc=archive.name)
        with bar:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                bar.update(len(piece))
    if size not in (None, _size(archive)):
        raise requests.ConnectionError("the response ended early")
    write_json(_marker(archive), version | {"completed": int(archive.stat().st_mtime)})


def _unexpected(path: Path, content: bytes, expected: str) -> UserError:
    return UserError(
        f"{path} was not downloaded: the response starts with {content[:40]!r}, so it is not "
        f"{expected}. It may be a login page of the network: open any web page to check, then run "
        "this cell again."
    )


def _get_rest(request: Any, offset: int, validator: str) -> requests.Response:
    """Repeat the request that led to the archive, for the bytes from `offset` on."""
    headers = dict(request.headers) | {"Range": f"bytes={offset}-"}
    if not validator.startswith("W/"):  # weak validators are not allowed (RFC 9110, 13.1.5)
        headers["If-Range"] = validator
    response = _get(request.url, headers)
    content_range = response.headers.get("Content-Range", "")
    if response.status_code == 206 and not content_range.startswith(f"bytes {offset}-"):
        raise requests.ConnectionError("the response holds another range")
    return response


def _marker(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.kaggle-partial")  # as Kaggle's client writes it


def _recorded(archive: Path) -> tuple[dict[str, Any], int | None]:
    """Return the version of which the archive has bytes, and its time when it was complete."""
    with contextlib.suppress(UserError, OSError):  # no marker, or a damaged one
        record = read_json(_marker(archive))
        if isinstance(record, dict):
            return record, record.pop("completed", None)
    return {}, None


def _valid_bytes(archive: Path, version: dict[str, Any]) -> int:
    """Return how many bytes on disk belong to the version that Kaggle offers now."""
    size = _size(archive)
    known = None not in version.values() and size < version["size"]
    return size if known and _recorded(archive)[0] == version else 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _status(error: requests.RequestException) -> int:
    return getattr(error.response, "status_code", 0)


def _retry_after(error: requests.RequestException) -> int:
    """Return the seconds that the server asks to wait, 0 if it does not."""
    value = getattr(error.response, "headers", {}).get("Retry-After", "")
    return int(value) if value.isdigit() else 0


def _reason(error: requests.RequestException) -> str:
    """Describe an error without its own text, which contains signed addresses."""
    if status := _status(error):
        return f"Kaggle answered {status}"
    if "timed out" in str(error):
        return "Kaggle did not answer in time"
    return f"The connection to Kaggle failed ({type(error).__name__})"


def _explained(error: requests.RequestException, path: Path, part: str = "") -> UserError:
    if error.response is None:
        remedy = "Check the network (on Kaggle: Settings, Internet on)"
    elif _status(error) in TEMPORARY:
        remedy = f"Wait {_retry_after(error) or 300} s"
    else:
        remedy = (
            f"Set KAGGLE_API_TOKEN to a token from {SERVER}/settings, or download "
            f"{SERVER}/datasets/{DATASET} in a browser{part} and save it as {path}"
        )
    kept = " What was downloaded is kept." if path.exists() else ""
    return UserError(f"{_reason(error)}. {remedy}, then run this cell again.{kept}")
