"""Atomic writes, checked JSON, locks between processes."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from roco_caption.core.errors import DamagedFile, UserError

HIDDEN = re.compile(r"(^|/)(\.|~\$|__MACOSX/)")  # of systems and programs, not of the user
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder and its parents, and return its path; raise a UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Path(path)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, size: int = 0, ending: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it if the block succeeds, else removed.

    If the disk is full, the UserError names the `size` in bytes; some writers require an `ending`.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{ending}")
    make_folder(path.parent)
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if not _is_about(error, aside):
            raise  # of something else that the block does, such as reading from an object store
        raise cannot_write(path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _is_about(error: OSError, aside: Path) -> bool:
    """Return whether an error is of a temporary file, or of a disk that a write may have filled."""
    names = f"{error.filename} {error.filename2} {error}"  # HDF5 gives the name in its message
    return aside.name in names or (error.filename is None and error.errno in FULL)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, *, size: int = 0) -> Iterator[BinaryIO]:
    """Open a file for writing bytes, as `atomic_path` names it; it is flushed to disk."""
    with atomic_path(path, size=size) as aside, open(aside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` from killed processes; hold the folder's lock meanwhile."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def aside_of(path: Path) -> Path:
    """Return the name that a damaged file gets: `<name>.damaged`."""
    return path.with_name(f"{path.name}.damaged")


def set_aside(path: Path, reason: object, remedy: str) -> None:
    """Rename a damaged file to `aside_of(path)`, and print why and what happens now."""
    try:
        os.replace(path, aside_of(path))
    except OSError as error:
        remedy = (
            f"It could not be set aside ({error.strerror}): delete it, then run this cell again."
        )
        raise DamagedFile(path, reason, remedy) from error
    print(f"{path} is damaged ({reason}). It was set aside as {aside_of(path).name}. {remedy}")


def gigabytes(count: int) -> str:
    """Format a number of bytes in decimal units, as disks are sold: 1 GB is 10⁹ bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.3f} MB"


def cannot_write(path: str | os.PathLike, error: OSError, size: int = 0) -> UserError:
    """Return the UserError for a file of `size` bytes (0: unknown) that could not be written."""
    message = f"{path} could not be written ({error.strerror or error})."
    if error.errno not in FULL:
        return UserError(f"{message} Choose a writable folder, then run this cell again.")
    if size:
        message += f" It needs {gigabytes(size)}."
    with contextlib.suppress(OSError):
        message += f" {gigabytes(shutil.disk_usage(Path(path).parent).free)} are free."
    return UserError(f"{message} Free some space, then run this cell again: it reuses what exists.")


def printable(name: str) -> str:
    """Return a file's name with what is no character in UTF-8 escaped, as old archives have it."""
    return name.encode("utf-8", "backslashreplace").decode()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    content = text.encode()
    with atomic_open(path, size=len(content)) as file:
        file.write(content)


def write_json(path: str | os.PathLike, value: Any, *, sealed: bool = False) -> None:
    """Write indented JSON atomically; `sealed` adds the key `sha256`, which `read_json` checks."""
    if sealed:
        value = value | {"sha256": _json_checksum(value)}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Return the value of a JSON file without its seal; raise a UserError, perhaps DamagedFile."""
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, error, "Delete it and make it again.") from error
    sealed = isinstance(value, dict) and "sha256" in value
    if sealed and value.pop("sha256") != _json_checksum(value):
        remedy = "Restore the file; if you edited it on purpose, delete its line sha256."
        raise DamagedFile(path, "its sha256 differs", remedy)
    return value


def _json_checksum(value: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # as it is read back: no tuples, and keys are text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def cannot_read(path: str | os.PathLike, error: OSError) -> UserError:
    """Return the UserError for a file that is missing or could not be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing.")
    return UserError(f"{path} could not be read ({error.strerror or error}).")


try:
    import fcntl
except ImportError:  # no locking on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def lock(path: str | os.PathLike, purpose: str) -> Iterator[None]:
    """Hold a lock (flock) during a block; if another process has it, print its purpose, and wait.

    A killed process frees it. Do not nest it. Nothing is locked where its file cannot be written.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a full disk only loses the holder's name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+b", buffering=0))
            if fcntl is not None:
                _acquire(file, path)
                file.truncate(0)
                holder = f"process {os.getpid()} on {platform.node()}"
                file.write(f"{holder} ({purpose}, since {time.strftime('%F %T')})".encode())
        yield


def _acquire(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode("utf-8", "replace") or "another notebook"
        print(f"{path.parent} is in use by {holder}. Waiting for it to finish; stop this cell to "
              "give up.", flush=True)  # fmt: skip
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network drives support no locks
        print(f"NOTE: {path.parent} cannot be locked ({error.strerror}): do not run another "
              "notebook on it at the same time.")  # fmt: skip


def files_below(place: Path, closed: list[str]) -> Iterator[Path]:
    """Yield the files in a folder and below, also by links, that are not hidden.

    Folders that cannot be read are appended to `closed`.
    """
    read, tops, errors = set(), [str(place)], list[OSError]()
    while tops:
        for top, folders, files in os.walk(tops.pop(0), onerror=errors.append):
            folders[:] = sorted(name for name in folders if not HIDDEN.search(f"{name}/"))
            if (real := Path(top).resolve()) in read:
                folders.clear()
                continue
            read.add(real)
            if not os.access(top, os.X_OK):  # names can be listed, but nothing opened
                closed.append(top)
                folders.clear()
                continue
            links = [path for name in folders if (path := Path(top, name)).is_symlink()]
            tops += [str(path) for path in links  # not back to where this is
                     if not place.resolve().is_relative_to(path.resolve())]  # fmt: skip
            yield from (Path(top, name) for name in sorted(files) if not HIDDEN.search(name))
    closed += [error.filename for error in errors]
