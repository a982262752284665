"""Checksums at the end of files, and a pickle loader that accepts plain data and arrays only."""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import atomic_path, cannot_read

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


class _Refused(pickle.UnpicklingError):
    """A pickle that names what it may not."""


class _Kind:
    """Stands for NumPy's dtype: a pickle can make that one claim that any bytes are objects."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufcSU":
            raise _Refused(f"it would make an array of {self.dtype}")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])  # the rest says what the code has said


class _Array(np.ndarray):
    """An array whose type is a `_Kind`, as pickles below protocol 5 fill it."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, kind, by_column, content = state
        super().__setstate__((version, shape, kind.dtype, by_column, content))


def _from_buffer(content: Any, kind: _Kind, shape: Any, order: str, *_: Any) -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _refuse_call(*_: Any) -> None:
    raise _Refused("it would call numpy.ndarray")


# What NumPy's own pickles name, and what is called in its place. NumPy 1 keeps it in numpy.core,
# NumPy 2 in numpy._core.
_ALLOWED: dict[str, Callable] = {
    "numpy.dtype": _Kind,
    "numpy.ndarray": _refuse_call,  # NumPy's own name it only
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(0),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(0),
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}


class _Function:
    """What a pickle may call, and not change."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it would change a function")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (function := _ALLOWED.get(f"{module}.{name}")) is None:
            raise _Refused(f"it would call {module}.{name}")
        return _Function(function)


def _refuse_bombs(file: BinaryIO) -> None:
    """Refuse a memo index beyond what the pickle fills: memory up to the largest is taken."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name.endswith("PUT") and int(argument or 0) > count:
            raise _Refused("it would take memory for nothing")
    file.seek(0)


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
            _refuse_bombs(file)
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
