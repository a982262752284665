"""Atomic writes, checksums, and a pickle loader that accepts plain data and NumPy arrays only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


class UserError(Exception):
    """Something a person can put right: the message says what happened, to which file, what to do.

    Notebooks show the message alone, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


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
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a new file for writing bytes; it takes the name `path` only once it is whole.

    Args:
        path: the file to make or replace; its folder is made when missing.

    Yields:
        A binary file beside `path`. When the block ends without an error the file is flushed to
        disk and renamed; otherwise it is removed, and whatever stood at `path` stays.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}). Free some room on that disk "
            "or choose a folder that you may write to, then run this cell again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_open(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Return the value of a JSON file.

    Raises:
        UserError: there is no such file, or it holds no JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and make it again.") from error


def checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_pickle(path: str | os.PathLike, value: Any) -> None:
    """Pickle `value` to `path`, whole or not at all; a plain `pickle.load` opens it."""
    with atomic_open(path) as file:
        pickle.dump(value, file, protocol=5)


# What NumPy's own pickles name: the array, its type, and the functions that rebuild the two.
# NumPy 1 keeps them in numpy.core, NumPy 2 in numpy._core.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: str | os.PathLike) -> Any:
    """Return a pickle's value without running anything that the pickle names.

    Args:
        path: a pickle of plain data (dict, list, tuple, str, bytes, numbers) and NumPy arrays.

    Raises:
        UserError: the file is missing or damaged, or names anything beyond plain data and arrays.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"{path} was not loaded: {error}. It is damaged or was not written by this project; "
            "delete it and run the cell that makes it again."
        ) from error
