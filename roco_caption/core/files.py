"""Files that are whole or not there, errors that a person can put right, and checked JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from roco_caption.core.errors import DamagedFile, UserError


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder, those above it included, and return its path.

    Raises:
        UserError: it cannot be made there.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {path} could not be made ({error.strerror or error}). Choose one that "
            "you may write to, then run this cell again."
        ) from error
    return Path(path)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, size: int = 0, ending: str = "") -> Iterator[Path]:
    """Give the path of a new file; it takes the name `path` only once it is whole.

    Args:
        path: the file to make or replace; its folder is made when missing.
        size: bytes that it will take, for the message where they do not fit; 0 when unknown.
        ending: of the new file's own name, for writers that insist on one.

    Yields:
        A path beside `path`. When the block ends without an error the file there is renamed;
        otherwise it is removed, and whatever stood at `path` stays.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    aside = path.with_name(f".{path.name}.{token}.tmp{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise _cannot_write(path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, *, size: int = 0) -> Iterator[BinaryIO]:
    """Open a new file for writing bytes, as `atomic_path` names it; it is flushed to disk."""
    with atomic_path(path, size=size) as aside, open(aside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove what killed processes left of `path`; only for who holds the lock on its folder."""
    path = Path(path)
    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        with contextlib.suppress(OSError):
            left.unlink()


def aside_of(path: Path) -> Path:
    """Return the name that a damaged file gets: `<name>.damaged`."""
    return path.with_name(f"{path.name}.damaged")


def set_aside(path: Path, reason: object, remedy: str) -> None:
    """Rename a damaged file to `aside_of(path)`, and print why and what happens now.

    Raises:
        UserError: it cannot be renamed.
    """
    aside = aside_of(path)
    try:
        os.replace(path, aside)
    except OSError as error:
        raise UserError(
            f"{path} is damaged ({reason}) and could not be set aside "
            f"({error.strerror or error}). Delete it, then run this cell again."
        ) from error
    print(f"{path} is damaged ({reason}). It was set aside as {aside.name}. {remedy}")


def gigabytes(count: int) -> str:
    """Write a number of bytes as people who choose a disk read it (1 GB is 10⁹ bytes)."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.3f} MB"


def _cannot_write(path: Path, error: OSError, size: int) -> UserError:
    what = f"{path} could not be written ({error.strerror or error})."
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"{what} Choose a place that you may write to, then run this cell again.")
    with contextlib.suppress(OSError):
        free = gigabytes(shutil.disk_usage(path.parent).free)
        what += f" It takes {gigabytes(size)}; {free} are free." if size else f" {free} are free."
    return UserError(
        f"{what} Free some room on that disk, then run this cell again: what was there before is "
        "kept, and used."
    )


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    content = text.encode("utf-8")
    with atomic_open(path, size=len(content)) as file:
        file.write(content)


def write_json(path: str | os.PathLike, value: Any, *, sealed: bool = False) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all.

    Args:
        path: the file.
        value: what JSON can hold; a dict where it is to be sealed.
        sealed: add the key `sha256`, a checksum of the others that `read_json` checks and removes.
    """
    if sealed:
        value = value | {"sha256": _json_checksum(value)}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Return the value of a JSON file, without its seal.

    Raises:
        DamagedFile: it holds no JSON, or not what was sealed.
        UserError: there is no such file, or it cannot be read.
    """
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, error, "Delete it and make it again.") from error
    if isinstance(value, dict) and "sha256" in value:
        seal = value.pop("sha256")
        if seal != _json_checksum(value):
            raise DamagedFile(
                path,
                "its sha256 differs",
                "Bring the whole file back; if you edited it on purpose, delete its line sha256.",
            )
    return value


def _json_checksum(value: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # as it is read back: lists, keys that are text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def cannot_read(path: str | os.PathLike, error: OSError) -> UserError:
    """Return the UserError for a file that is missing or could not be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing.")
    return UserError(f"{path} could not be read ({error.strerror or error}).")


try:
    import fcntl
except ImportError:  # Windows: two notebooks at once are the reader's to avoid there
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 0.5


@contextlib.contextmanager
def lock(path: str | os.PathLike, purpose: str) -> Iterator[None]:
    """Hold a lock for the length of a block; wait for whoever holds it, and say who that is.

    Waiting rather than stopping: the other process makes what this one wants, and then it is
    reused. The lock is the system's (flock), so it ends with its process, however that ends: there
    are no stale ones. The file stays; it only names the holder. Not to be nested on one path.

    Args:
        path: the lock's file; its folder is made when missing. Where it cannot be written, as in a
            read-only folder, there is nothing to protect, and nothing is locked.
        purpose: what the holder does, as "training", for those who wait.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError:
        file = None
    if file is None or fcntl is None:
        yield
        return
    with file:
        _acquire(file, path)
        _sign(file, purpose)
        yield


def _acquire(file: TextIO, path: Path) -> None:
    waiting = False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                print(f"{path.parent} is in use by {_holder(file)}. Waiting until that ends; stop "
                      "this cell to give up.", flush=True)  # fmt: skip
            waiting = True
            time.sleep(WAIT_SECONDS)
        except OSError as error:  # some network drives know no locks
            print(f"NOTE: {path.parent} cannot be locked ({error.strerror}): run no other notebook "
                  "on it meanwhile.")  # fmt: skip
            return


def _sign(file: TextIO, purpose: str) -> None:
    signature = {"pid": os.getpid(), "host": platform.node(), "purpose": purpose}
    signature["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its name
        file.truncate(0)
        file.write(json.dumps(signature))
        file.flush()


def _holder(file: TextIO) -> str:
    for _ in range(20):  # it may be about to sign, unless its disk is full
        file.seek(0)
        try:
            who = json.loads(file.read())
            return f"process {who['pid']} on {who['host']} ({who['purpose']}, since {who['since']})"
        except (ValueError, KeyError, TypeError, OSError):
            time.sleep(0.05)
    return "another notebook"
