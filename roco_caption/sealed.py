"""Checksums at the end of files, and a pickle loader that accepts plain data and arrays only."""

from __future__ import annotations

import hashlib
import os
import pickle
from typing import Any

from roco_caption.files import DamagedFile, UserError, atomic_path, cannot_read

# Ends a file whose own format has no checksum: this, then the SHA-256 of all before it in
# hexadecimal. Neither pickle nor HDF5 looks beyond the end of its own data.
SEAL = b"\nsha256:"
SEAL_BYTES = len(SEAL) + 64

REMEDY = "Delete it and run the cell that makes it again."


def checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: str | os.PathLike) -> str:
    """Add a file's checksum at its end, flush it to disk, and return the checksum."""
    digest = checksum(path)
    with open(path, "ab") as file:
        file.write(SEAL + digest.encode())
        file.flush()
        os.fsync(file.fileno())
    return digest


def verify(path: str | os.PathLike) -> str:
    """Return the checksum at a file's end, empty where it has none.

    Raises:
        DamagedFile: the file's bytes do not have that checksum.
        UserError: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            left = max(0, file.seek(0, os.SEEK_END) - SEAL_BYTES)
            file.seek(left)
            ending = file.read()
            if not ending.startswith(SEAL):
                return ""
            file.seek(0)
            digest = hashlib.sha256()
            while left:
                block = file.read(min(left, 1 << 20))
                digest.update(block)
                left -= len(block)
    except OSError as error:
        raise cannot_read(path, error) from error
    if ending[len(SEAL) :] != digest.hexdigest().encode():
        raise DamagedFile(path, "its bytes differ from the checksum at its end", REMEDY)
    return digest.hexdigest()


def write_pickle(path: str | os.PathLike, value: Any, *, size: int = 0) -> None:
    """Pickle `value` to `path`, whole or not at all, and seal it; a plain `pickle.load` opens it.

    Args:
        path: the file.
        value: plain data and NumPy arrays.
        size: bytes that it will take about, for the message where they do not fit.
    """
    with atomic_path(path, size=size) as aside:
        with open(aside, "wb") as file:
            pickle.dump(value, file, protocol=5)
        seal(aside)


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


class _Refused(pickle.UnpicklingError):
    """A pickle that names what it may not."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: str | os.PathLike) -> Any:
    """Return a pickle's value without running anything that the pickle names.

    Args:
        path: a pickle of plain data (dict, list, tuple, str, bytes, numbers) and NumPy arrays,
            sealed or not.

    Raises:
        DamagedFile: its bytes are not those that were written.
        UserError: the file is missing, or names anything beyond plain data and arrays.
    """
    sealed = bool(verify(path))
    try:
        with open(path, "rb") as file:
            value = _PlainUnpickler(file).load()
            if bool(file.read(1)) != sealed:
                raise pickle.UnpicklingError("it does not end where its data end")
            return value
    except OSError as error:
        raise cannot_read(path, error) from error
    except _Refused as error:
        raise UserError(
            f"{path} was not loaded: {error}, so this project did not write it. Delete it and run "
            "the cell that makes it again."
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DamagedFile(path, error, REMEDY) from error
