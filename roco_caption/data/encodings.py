"""Decodes text files in UTF-8, UTF-16 or the encodings of older programs."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SIGNS = set("´°±µ²³¹·×÷¼½¾§©®™«»‘’‚“”„†•…–—€")  # what English texts in Windows-1252 have
TURKISH = set("ðþýÐÞÝ")  # Windows-1252 has these where Windows-1254 has ğ, ş, ı, Ğ, Ş, İ
LIKE_TURKISH = TURKISH | set("çöüâîûÇÖÜÂÎÛ")  # while Icelandic has á, é, í, ó, ú and æ
WINDOWS = {  # supersets, with more signs of the same language
    "iso-8859-1": "cp1252", "iso-8859-9": "cp1254", "shift_jis": "cp932", "gb2312": "gb18030",
}  # fmt: skip
EASTERN = {"big5", "cp932", "euc-jp", "euc-kr", "gb18030"}
# signs within words; capitals and boxes there are accents that were read in another encoding
TORN = re.compile("(?<=[a-z])[¡-±³µ¶¸-Þ‚„†‡‰‹›\u2500-\u25ff](?=[a-z])|\ufffd")
SHORT = 200  # bytes, too few to detect an encoding reliably
MARKS = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
OLD = re.compile("mac|cp[48]|ibm")


def decode(path: Path) -> tuple[str, str]:
    """Return a text file's text, and how it is encoded.

    Raises a ValueError if the file is not text.
    """
    return _decoded(path.read_bytes())


def decode_together(paths: Iterable[Path]) -> tuple[dict[Path, str], str]:
    """Return the texts of those files that are text, and their encoding unless it is UTF-8.

    The encoding of short files is detected in all files together.
    """
    contents = {}
    for path in paths:
        with suppress(OSError):
            contents[path] = path.read_bytes()
    odd = [c for c in contents.values() if not (_is_utf8(c) or c.startswith(MARKS) or b"\0" in c)]
    encoding = ""
    if odd:
        with suppress(ValueError):  # then each by itself
            encoding = _detected(b"\n".join(odd))
    texts = {}
    for path, content in contents.items():
        with suppress(ValueError):
            texts[path] = _decoded(content, encoding if len(content) < SHORT else "")[0]
    return texts, encoding


def _is_utf8(content: bytes) -> bool:
    return content.decode("utf-8", "ignore").encode() == content


def _decoded(content: bytes, encoding: str = "") -> tuple[str, str]:
    if content.startswith(MARKS):
        return content.decode("utf-16"), "utf-16"
    if b"\0" in content:
        raise ValueError("it is not a text file")
    lines = content.splitlines(keepends=True)
    valid = [_is_utf8(line) for line in lines]
    odd = [line for line, is_utf8 in zip(lines, valid, strict=True) if not is_utf8]
    if not odd:
        return content.decode("utf-8-sig"), "UTF-8"
    encoding = encoding or _detected(b"".join(odd))
    if len(odd) >= sum(not line.isascii() for line in lines) / 2:
        return content.decode(encoding), encoding
    encodings = ["utf-8" if is_utf8 else encoding for is_utf8 in valid]
    text = "".join(map(bytes.decode, lines, encodings))
    return text.removeprefix("\ufeff"), f"UTF-8, but {len(odd)} lines {encoding}"


def _detected(content: bytes) -> str:
    signs = {sign for sign in content.decode("cp1252", "replace") if not sign.isascii()}
    if signs <= SIGNS:
        return "cp1252"  # a few signs tell a detector nothing
    import chardet

    guess = (chardet.detect(content)["encoding"] or "cp1252").lower().replace("windows-", "cp")
    guess = WINDOWS.get(guess, guess)
    foreign = sum(byte > 127 for byte in content) > 0.3 * len(content)  # no Latin letters
    if foreign and not _decodes(content, guess):
        raise ValueError(f"its detected encoding, {guess}, does not fit all of it")
    if foreign or (guess in EASTERN and _decodes(content, guess)):
        return guess
    return _latin(content, guess, signs)


def _latin(content: bytes, guess: str, signs: set[str]) -> str:
    """Return the encoding of a text in Latin letters; `signs` are those that Windows-1252 has."""
    if torn := _torn(content, "cp1252"):  # as Polish and the texts of DOS are, read as this
        best = min(("cp1250", "cp850"), key=lambda encoding: _torn(content, encoding))
        if _torn(content, best) < torn / 4:
            return best
    czech = signs & set("èìùò") and signs & set("ýžš") and not signs & set("àâêçæå")
    hungarian = (
        "á" in signs and signs & set("õû") and signs & set("öüÖÜ") and not signs & set("ãäçÄàâèêîô")
    )
    if czech or hungarian:
        return "cp1250"
    if OLD.match(guess) and all(sign in SIGNS or "À" <= sign <= "ÿ" for sign in signs):
        return "cp1252"  # Mac OS and DOS have other letters at the places of these
    turkish = guess == "cp1252" and signs & TURKISH and signs <= LIKE_TURKISH | SIGNS
    encoding = "cp1254" if turkish else guess
    return encoding if _decodes(content, encoding) else "cp850"  # which has every byte


def _decodes(content: bytes, encoding: str) -> bool:
    return "\ufffd" not in content.decode(encoding, "replace")


def _torn(content: bytes, encoding: str) -> int:
    """Return how many characters within words are no letters, plus those that do not decode."""
    return len(TORN.findall(content.decode(encoding, "replace")))
