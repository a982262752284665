"""User-facing errors, and one clear message for out-of-memory errors."""

import contextlib
import math
import numbers
import os
from collections.abc import Iterable, Iterator
from typing import Any


class UserError(Exception):
    """An error that the user can fix; notebooks show its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class DamagedFile(UserError):
    """A file whose bytes are not those that were written; `why` says how that is known."""

    def __init__(self, path: str | os.PathLike, why: object, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({why}). {remedy}")
        self.why = why


class Diverged(UserError):
    """A training whose loss is no longer finite."""


def at_least(least: float, **values: Any) -> None:
    """Raise a UserError unless these settings, named in small letters, are at least `least`.

    If `least` is an int, they must be whole numbers.
    """
    whole = isinstance(least, int)
    kinds = numbers.Integral if whole else numbers.Real
    for name, value in values.items():
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not least <= float(value) < math.inf:
            kind = "a whole number" if whole else "a number"
            raise UserError(f"{name.upper()} must be {kind} of at least {least}, got {value!r}.")


def shown(names: Iterable[object], most: int = 20) -> str:
    """Return the first of some names as a list, for a message."""
    listed = [f"{str(name)!r:.80}" for name in names]
    more = ", …" if len(listed) > most else ""
    return f"[{', '.join(listed[:most])}{more}]"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters, or else its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class OutOfMemory(UserError):
    """No memory left while `doing` something, such as "training (batch size 32)"."""

    def __init__(self, doing: str, error: Exception, remedy: str) -> None:
        super().__init__(
            f"Out of memory while {doing} ({type(error).__name__}). Close other programs and "
            f"notebooks that use memory, then restart the kernel. {remedy}"
        )


@contextlib.contextmanager
def memory_for(doing: str, remedy: str) -> Iterator[None]:
    """Raise `OutOfMemory` if memory runs out in this block; `remedy` says what to lower."""
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(doing, error, remedy) from error


def _is_out_of_memory(error: Exception) -> bool:
    types = ("ResourceExhaustedError", "OutOfMemoryError")  # TensorFlow, PyTorch
    typed = isinstance(error, MemoryError) or type(error).__name__ in types
    signs = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory")  # JAX, CUDA
    return typed or (not isinstance(error, UserError) and any(s in str(error) for s in signs))
