"""Files with a flipped byte or cut short, at every place."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from roco_caption.core.errors import UserError


def damaged(content: bytes) -> Iterator[bytes]:
    """Yield the bytes with one of them changed, for each, and cut at every length."""
    for i in range(len(content)):
        yield content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :]
        yield content[:i]


def refused_damages(path: Path, read: Callable[[Path], Any], expected: Any) -> int:
    """Count the damages that `read` refuses by name; check that the others change nothing."""
    content = path.read_bytes()
    refused = 0
    for damage in damaged(content):
        path.write_bytes(damage)
        try:
            assert read(path) == expected
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    path.write_bytes(content)
    return refused
