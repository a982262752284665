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
    """Pickle plain data and arrays atomically, and seal the file; `pickle.load` can open it."""
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


# The unpickler in Python: its opcodes can be overridden, and no memo index takes memory.
_PythonUnpickler: Any = pickle._Unpickler


class _PlainUnpickler(_PythonUnpickler):
    def find_class(self, module: str, name: str) -> Callable:
        """Return what is called in place of a name; NumPy's own pickles contain only these."""
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2
        functions: dict[str, Callable] = {
            "numpy.dtype": _dtype,
            "numpy.ndarray": _ndarray,
            "numpy.core.numeric._frombuffer": _frombuffer,
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),  # `load_build` fills it
        }
        if full_name not in functions:
            raise _Refused(f"calls {full_name}")
        return functions[full_name]

    def load_build(self) -> None:
        """Fill an array, or set a dtype's byte order; refuse to change anything else."""
        state, target = self.stack.pop(), self.stack[-1]
        allowed = isinstance(target, np.ndarray)
        if isinstance(target, np.dtype):  # other states would take bytes for pointers to objects
            allowed = state == target.newbyteorder(state[1]).__reduce__()[2]
        if not allowed:
            raise _Refused(f"changes a {type(target).__name__}")
        target.__setstate__(state)

    def load_bytearray8(self) -> None:
        """Read in blocks: pickle fills memory at once up to the length that the file claims."""
        size, content = int.from_bytes(self.read(8), "little"), bytearray()
        while len(content) < size and (block := self.read(min(size - len(content), 1 << 20))):
            content += block
        self.append(content)

    dispatch = _PythonUnpickler.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _ndarray(*_: Any) -> None:
    raise _Refused("calls numpy.ndarray")  # NumPy's own pickles only pass it to `_reconstruct`


def _dtype(code: Any, *_: Any) -> np.dtype:
    if isinstance(code, str):
        dtype = np.dtype(code, False, True)  # a copy, so that `load_build` may set its byte order
        if dtype.kind in "biufcSU":
            return dtype
    raise _Refused("contains an array of something other than numbers or text")


def _frombuffer(content: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    # bytes only: the memory of an array may be freed while another one still uses it
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise _Refused("contains an array on something other than bytes")
    array = np.frombuffer(content, dtype)
    if order == "K":  # since NumPy 2.3, for transposed arrays
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order="F" if order == "F" else "C")
