"""Captions to lower-case words: cleaning that keeps what radiology needs."""

from __future__ import annotations

import re
import unicodedata

# A number with its decimals and letters ("1.6", "3d"), a word with its digits ("t2", "l3"), or a
# sign that changes the meaning of a number.
WORD = re.compile(r"\d+(?:[.,]\d+)*[^\W_]*|[^\W\d_][^\W_]*|[%°±<>]")
UNIT = re.compile(r"(?<=\d)(mm|cm|ml|cc|mg|kg|hu)\b", re.IGNORECASE)


def clean(caption: str) -> list[str]:
    """Split a caption into lower-case words, keeping numbers, levels, sides and negations.

    Unicode is normalised (NFKC: `µ`, full-width letters and superscripts become plain ones),
    units come off their number (`5mm` → `5 mm`), hyphens and other punctuation separate words.

    Args:
        caption: any text, newlines and quotes included.

    Returns:
        The words in order: `"T2-weighted, 5mm"` → `["t2", "weighted", "5", "mm"]`.
    """
    text = unicodedata.normalize("NFKC", caption).lower()
    return WORD.findall(UNIT.sub(r" \1", text))
