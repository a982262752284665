"""Damaged and hostile image files, and a judge: pixels or a reason, in four seconds and 500 MB.

`python tests/campaigns/bad_images.py FOLDER COUNT` makes and judges them, and prints a table.
"""

from __future__ import annotations

import io
import itertools
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from roco_caption.data.images import ImageError, read_image

SECONDS, MEGABYTES = 4.0, 500  # three for 16 million pixels of four times 16 bits
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp"}
TEXTS = {
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    # Pillow hands PostScript to Ghostscript, which runs it
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n",
    "zip": b"PK\x03\x04" + bytes(40),
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
}


def corpus(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Yield kind, file name and content of `count` files: each kind in turn, bombs a few times."""
    rng = random.Random(seed)
    bombs = itertools.islice(_bombs(), max(4, count // 100))  # they take a second each to make
    for i in range(count):
        kind, suffix, content = next(bombs, None) or KINDS[i % len(KINDS)](rng)
        yield kind, f"{i:05d}{suffix}", content


def _picture(rng: random.Random, mode: str = "", size: tuple[int, int] | None = None) -> Image:
    width, height = size or (rng.randint(20, 400), rng.randint(20, 400))
    values = np.add.outer(np.arange(height), np.arange(width) * rng.random() * 3)
    noise = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 40, values.shape)
    image = Image.fromarray(((values + noise) % 256).astype(np.uint8))
    return image.convert(mode or rng.choice(["L", "RGB"]))


def _encoded(image: Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _any(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(list(FORMATS))
    options = {"progressive": rng.random() < 0.5} if kind == "JPEG" else {}
    return FORMATS[kind], _encoded(_picture(rng), kind, **options)


def _flipped(rng: random.Random) -> tuple[str, str, bytes]:
    suffix, content = _any(rng)
    content = bytearray(content)
    # half of them in the header, where sizes, offsets and types stand
    end = 64 if rng.random() < 0.5 else len(content)
    for _ in range(rng.choice([1, 2, 8, 40])):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return "bits flipped", suffix, bytes(content)


def _cut(rng: random.Random) -> tuple[str, str, bytes]:
    suffix, content = _any(rng)
    return "cut short", suffix, content[: rng.randrange(len(content))]


def _holed(rng: random.Random) -> tuple[str, str, bytes]:
    suffix, content = _any(rng)
    start = rng.randrange(len(content))
    return "zeros inside", suffix, content[:start] + bytes(300) + content[start + 300 :]


def _mislabelled(rng: random.Random) -> tuple[str, str, bytes]:
    return "wrong extension", rng.choice([*FORMATS.values(), ".webp", ""]), _any(rng)[1]


def _text(rng: random.Random) -> tuple[str, str, bytes]:
    return "no image", rng.choice(list(FORMATS.values())), rng.choice([*TEXTS.values(), b"\0" * 9])


def _empty(rng: random.Random) -> tuple[str, str, bytes]:
    return "empty", rng.choice(list(FORMATS.values())), b""


def _random_bytes(rng: random.Random) -> tuple[str, str, bytes]:
    start = rng.choice([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM", b"RIFF"])
    return "a header and noise", ".jpg", start + rng.randbytes(rng.randrange(500))


def _odd_mode(rng: random.Random) -> tuple[str, str, bytes]:
    kind, mode = rng.choice(
        [("JPEG", "CMYK"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "1"), ("PNG", "LA"),
         ("TIFF", "F"), ("TIFF", "I"), ("TIFF", "CMYK"), ("PNG", "RGBA")]
    )  # fmt: skip
    image = _picture(rng, "L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200)
    elif mode == "F":
        values = np.asarray(image, np.float32).copy()
        values.flat[: rng.randrange(5)] = rng.choice([np.nan, np.inf, 1e38])
        image = Image.fromarray(values)
    else:
        image = image.convert(mode)
    return f"{mode} {kind}", FORMATS[kind], _encoded(image, kind)


def _animated(rng: random.Random) -> tuple[str, str, bytes]:
    size = rng.randint(5, 90), rng.randint(5, 90)
    frames = [_picture(rng, "L", size) for _ in range(rng.randint(2, 9))]
    options = {"save_all": True, "append_images": frames[1:], "loop": 0}
    return "animated GIF", rng.choice([".gif", ".jpg"]), _encoded(frames[0], "GIF", **options)


def _odd_shape(rng: random.Random) -> tuple[str, str, bytes]:
    size = rng.choice([(1, 1), (1, 20000), (20000, 1), (2, 9000)])
    kind = rng.choice(["JPEG", "PNG", "TIFF"])
    return f"{size[0]} × {size[1]}", FORMATS[kind], _encoded(_picture(rng, "L", size), kind)


def _turned(rng: random.Random) -> tuple[str, str, bytes]:
    image = _picture(rng)
    exif = image.getexif()
    exif[0x0112] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
    return "EXIF rotation", ".jpg", _encoded(image, "JPEG", exif=exif)


KINDS = (
    _flipped, _cut, _holed, _flipped, _mislabelled, _text, _empty, _random_bytes, _odd_mode,
    _animated, _odd_shape, _turned,
)  # fmt: skip


def _bombs() -> Iterator[tuple[str, str, bytes]]:
    """Small files of many pixels: above every limit, below it, and of a header that lies."""
    for side, depth, colour in [
        (6300, 16, 0), (20000, 1, 0), (7000, 8, 0), (4000, 16, 6), (6300, 8, 2), (4000, 8, 6),
        (4000, 1, 0), (4000, 16, 2), (6300, 8, 6), (30000, 8, 0),
    ]:  # fmt: skip
        yield "bomb", ".png", _png(side, depth, colour)
    for side, mode in [(12000, "L"), (4000, "RGB"), (4000, "CMYK")]:
        content = _encoded(Image.new(mode, (side, side)), "JPEG", progressive=side < 6000)
        yield "bomb", ".jpg", content
    for mode in ("RGB", "F", "I;16"):
        image = Image.new(mode, (4000, 4000))
        yield "bomb", ".tif", _encoded(image, "TIFF", compression="tiff_adobe_deflate")
    yield "bomb", ".gif", _encoded(Image.new("P", (4000, 4000)), "GIF")
    lying = bytearray(_png(8, 8, 2))
    lying[16:24] = struct.pack(">II", 4000, 4000)
    yield "bomb", ".png", bytes(lying)


def _png(side: int, depth: int, colour: int) -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (side * depth * channels + 7) // 8)
    return png(side, side, depth, colour, itertools.repeat(row, side))


def png(width: int, height: int, depth: int, colour: int, rows: Iterable[bytes]) -> bytes:
    """Return a PNG file of rows, each with its filter type before it."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for row in rows) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def judge(folder: Path, count: int) -> tuple[dict[str, list], list[str]]:
    """Read every file of the corpus.

    Returns:
        {kind: [decoded, skipped, most seconds]}, and a line for each file that failed: neither
        pixels nor a reason, too slow (of this thread's processor), or the memory's new peak too
        far above what was in use before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, list] = {}
    failures = []
    for kind, name, content in corpus(count):
        path = folder / name
        path.write_bytes(content)
        del content
        before, started = _megabytes(), time.thread_time()
        row = table.setdefault(kind, [0, 0, 0.0])
        try:
            array = read_image(path)
            good, reason = array.shape == (224, 224, 3) and array.dtype == np.uint8, ""
            row[0] += 1
        except ImageError as error:
            good, reason = str(path) in str(error), str(error)
            row[1] += 1
        except BaseException as error:
            good, reason = False, repr(error)
        seconds, memory = time.thread_time() - started, _peak_megabytes() - before
        row[2] = max(row[2], seconds)
        if not good or seconds > SECONDS or memory > MEGABYTES:
            failures.append(f"{kind} {name}: {seconds:.2f} s, {memory:.0f} MB, {reason}")
        path.unlink()
    return table, failures


def _megabytes() -> float:
    """Return the memory in use, after its highest mark was taken back to it (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    table, failures = judge(Path(sys.argv[1]), int(sys.argv[2]))
    print("| image files | decoded | skipped with a reason | slowest |\n| --- | --- | --- | --- |")
    for kind, (decoded, skipped, seconds) in sorted(table.items()):
        print(f"| {kind} | {decoded} | {skipped} | {seconds:.2f} s |")
    sums = [sum(row[i] for row in table.values()) for i in (0, 1)]
    print(f"| together | {sums[0]} | {sums[1]} | {max(r[2] for r in table.values()):.2f} s |")
    print(*failures, sep="\n")
    sys.exit(bool(failures))
