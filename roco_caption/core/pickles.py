"""Checksums at the end of files, and a pickle reader that accepts plain data and arrays only."""

import hashlib
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import atomic_path, cannot_read

SEAL = b"\nsha256:"  # ends a file, before its SHA-256; pickle and HDF5 do not read that far
REMEDY = "Delete it and run the cell that makes it again."


def checksum(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """Return the SHA-256 of a file's bytes, or another checksum of them, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def seal(path: str | os.PathLike) -> str:
    """Append a file's checksum to it, flush it to disk, and return the checksum."""
    digest = checksum(path)
    with open(path, "ab") as file:
        file.write(SEAL + digest.encode())
        file.flush()
        os.fsync(file.fileno())
    return digest


def verify(path: str | os.PathLike) -> str:
    """Return the checksum at a file's end, "" if it has none; raise DamagedFile if it differs."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = max(0, file.seek(0, os.SEEK_END) - len(SEAL) - 64)
            file.seek(size)
            ending = file.read()
            if not ending.startswith(SEAL):
                return ""
            file.seek(0)
            while block := file.read(min(size - file.tell(), 1 << 20)):
                digest.update(block)
    except OSError as error:
        raise cannot_read(path, error) from error
    if ending[len(SEAL) :] != digest.hexdigest().encode():
        raise DamagedFile(path, "its bytes do not match the checksum at its end", REMEDY)
    return digest.hexdigest()


def write_pickle(path: str | os.PathLike, value: Any, *, size: int = 0) -> None:
    """Pickle plain data and contiguous arrays atomically, and seal the file."""
    with atomic_path(path, size=size) as aside:
        with open(aside, "wb") as file:
            pickle.dump(value, file, protocol=5)
        seal(aside)


def read_pickle(path: str | os.PathLike) -> Any:
    """Return a pickle's plain data and arrays; raise a UserError for anything else, not run."""
    sealed = bool(verify(path))
    try:
        with open(path, "rb") as file:
            value = _PlainUnpickler(file).load()
            if bool(file.read(1)) != sealed:
                raise pickle.UnpicklingError("the data do not end at the end of the file")
            return value
    except OSError as error:
        raise cannot_read(path, error) from error
    except _Refused as error:
        raise UserError(f"{path} was not loaded: it {error}. {REMEDY}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DamagedFile(path, error, REMEDY) from error


class _Refused(pickle.UnpicklingError):
    """The pickle asks for more than plain data and arrays."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        """Return what is called in place of a name: a new function, which a pickle may change."""
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2
        if full_name == "numpy.dtype":
            return lambda code, *_: _Dtype(code)
        if full_name == "numpy.core.numeric._frombuffer":  # in protocol 5 makes contiguous arrays
            return lambda content, kind, shape, order: np.frombuffer(content, kind.dtype).reshape(
                shape, order=order
            )
        raise _Refused(f"calls {full_name}")


class _Dtype:
    """Stands in for NumPy's, whose state might make it take bytes for pointers."""

    def __init__(self, code: Any) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else object)
        if self.dtype.kind not in "biufcSU":
            raise _Refused("contains an array of something other than numbers or text")

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])
