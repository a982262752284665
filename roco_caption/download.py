"""Brings ROCO from Kaggle: resumable, verified, only the radiology part unpacked."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path
from typing import Any

import requests

from roco_caption import kaggle_client
from roco_caption.archive import (
    TREE,
    DamagedArchive,
    cannot_write,
    check_room,
    is_whole,
    unpack_radiology,
)
from roco_caption.files import UserError, gigabytes, read_json, write_json
from roco_caption.locks import lock
from roco_caption.progress import progress_bar

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
    account = kaggle_client.find_credentials()
    how = f"with the account from {account.source}" if account else "without an account"
    print(f"Downloading {dataset} from Kaggle, {how}")
    failures = 0
    while True:
        before = _size(archive)
        try:
            return _receive(kaggle_client.open_archive(dataset, account), archive)
        except requests.RequestException as error:
            if account and kaggle_client.account_refused(error):
                print(f"Kaggle refused the account from {account.source}: going on without one.")
                account = None
                continue
            failures = 1 if _size(archive) > before else failures + 1
            wait = _wait(error, failures, WAITS if _size(archive) else FIRST_WAITS)
            if wait is None:
                raise kaggle_client.explained(error, dataset, archive) from error
            print(f"{kaggle_client.reason(error)}: trying again in {wait} s.")
            time.sleep(wait)


def _wait(error: Exception, failures: int, waits: tuple[int, ...]) -> int | None:
    """Return the seconds until the next attempt, None where the error is to be shown instead."""
    if failures > len(waits) or not kaggle_client.may_pass(error):
        return None
    wait = max(waits[failures - 1], kaggle_client.retry_after(error))
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
        answer = session.send(request, timeout=kaggle_client.TIMEOUT, **settings)
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
