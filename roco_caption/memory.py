"""One message where memory runs short: while doing what, and what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from roco_caption.files import UserError

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
