"""Files that are whole or not there, errors that a person can put right, and checked JSON."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class UserError(Exception):
    """Something a person can put right: the message says what happened, to which file, what to do.

    Notebooks show the message alone, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class DamagedFile(UserError):
    """A file whose bytes are not those that were written; `why` says how that is known."""

    def __init__(self, path: str | os.PathLike, why: object, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({why}). {remedy}")
        self.why = why


def first_line(error: Exception) -> str:
    """Return what an error says, or its kind where it says nothing, short enough for a message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# TensorFlow's and PyTorch's own errors; JAX's has no name of its own, and CUDA only says so.
_KINDS = ("ResourceExhaustedError", "OutOfMemoryError")
_SIGNS = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory")


class OutOfMemory(UserError):
    """Memory that ran short, on the accelerator or beside it.

    Args:
        doing: what was being done, as "training".
        error: what was raised.
        remedy: what to lower, and what is kept.
    """

    def __init__(self, doing: str, error: Exception, remedy: str) -> None:
        super().__init__(
            f"Memory ran short while {doing} ({type(error).__name__}). Close what else uses "
            f"memory and start the kernel anew. {remedy}"
        )


@contextlib.contextmanager
def memory_for(doing: str, remedy: str) -> Iterator[None]:
    """Say in one message where memory ran short in this block, and what helps.

    Where the system ends the process instead, nothing can be said; what was saved is there.

    Args:
        doing: what the block does, as "training".
        remedy: what to lower, and what is kept.

    Raises:
        OutOfMemory: memory ran short, in NumPy, Pillow, TensorFlow, JAX or PyTorch.
    """
    try:
        yield
    except Exception as error:
        if not _is_shortage(error):
            raise
        raise OutOfMemory(doing, error, remedy) from error


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in _KINDS:
        return True
    return not isinstance(error, UserError) and any(sign in str(error) for sign in _SIGNS)
