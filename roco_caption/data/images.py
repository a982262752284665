"""Decodes an image file of any format to an RGB array, and files in batches, ahead of use."""

import os
import re
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from roco_caption.core.errors import OutOfMemory
from roco_caption.core.machine import find_platform, usable_cpus
from roco_caption.data.dicom import ImageError, is_dicom, read_dicom
from roco_caption.data.levels import colour_to_uint8, limits, to_uint8
from roco_caption.data.names import EXTENSION
from roco_caption.data.tables import READERS

# Decoding them takes at most 500 MB and 3 s; more pixels may be a bomb.
MAX_PIXELS = 40_000_000  # of any format: mammograms have 28 million
MAX_DEEP_PIXELS = 16_000_000  # with 16 bits in each of several channels
MAX_JPEG_PIXELS = 100_000_000  # decoded at reduced size
# Not all that Pillow supports: PostScript, for example, is a program that it runs in Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
DEEP = ("RGB;16", "RGBA;16", "RGBX;16")  # Pillow reads only the upper 8 bits of these
ORIENTATION = 274  # a tag of EXIF, and how an image is turned upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
WHITE_IS = 262  # a tag of TIFF: 0 if the lowest value is white, as film digitisers write it
AHEAD = 4  # batches that are decoded while one is used
HOSTED_THREADS = 16  # in Colab and on Kaggle images may be on a network drive, which answers slowly
# Pillow and pydicom warn of odd metadata, which is harmless and may name a patient
SILENT = [(Warning, r"(pydicom|roco_caption\.data)\b"), (UserWarning, r"PIL\b")]
_silencing = threading.Lock()
ImageLike = str | os.PathLike | Image.Image | np.ndarray


def read_image(image: ImageLike, size: int = 224) -> np.ndarray:
    """Decode a DICOM file or one of `FORMATS` to RGB, stretched to uint8 (size, size, 3).

    `image` may also be a PIL image or an array (height, width), with 1, 3 or 4 channels last, of
    uint8, uint16, floats or bool. EXIF rotation is undone; of several frames the first is taken.
    More than 8 bits are scaled to the range in use (see `levels`), DICOM as in `read_dicom`. The
    ground of transparent parts is black, or white if the picture is too dark to be seen on black.
    Raises an ImageError for files that are missing, damaged or too large, and other arrays.
    """
    return read_with_note(image, size)[0]


def read_with_note(image: ImageLike, size: int = 224) -> tuple[np.ndarray, str]:
    """Also return how a DICOM file was rendered, as "DICOM CT, window 40 ± 200", else ""."""
    if isinstance(image, ImageFile.ImageFile) and image.format in FORMATS and not image.tell():
        # not decoded by Pillow yet
        image = os.fsdecode(image.filename) if image.tile and image.filename else image
    _silence()
    name = "The given image" if isinstance(image, Image.Image | np.ndarray) else str(image)
    note = ""
    try:
        if isinstance(image, Image.Image):
            picture = _loaded(image)
        elif isinstance(image, np.ndarray):
            picture = _from_array(image)
        elif is_dicom(image):
            array, note = read_dicom(image, MAX_PIXELS)
            picture = Image.fromarray(array)
        else:
            with open(image, "rb") as file:  # by its path, Pillow scrambles turned TIFF files
                picture = _decoded(file, size)
        return _to_array(picture, size), note
    except MemoryError as error:  # the image itself may be fine, so it must not be skipped
        remedy = "If it is only this image, remove it."
        raise OutOfMemory(f"decoding {name}", error, remedy) from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file can raise nearly anything inside its decoder
        reason = str(error).replace(f" '{image}'", "").split(" <_io")[0] or type(error).__name__
        raise ImageError(f"{name} cannot be decoded ({reason}). Replace or remove it.") from error


def _silence() -> None:
    """Ignore what Pillow and pydicom warn of, whatever filters others have set since.

    `warnings.catch_warnings` would be one for all threads.
    """
    filters = [("ignore", None, kind, re.compile(module), 0) for kind, module in SILENT]
    with _silencing:
        if warnings.filters[: len(filters)] != filters[::-1]:
            for kind, module in SILENT:
                warnings.filterwarnings("ignore", category=kind, module=module)


def is_image_file(path: Path) -> bool:
    """Return whether a file is an image by its extension, or else by its content."""
    if not path.is_file():  # a folder, a pipe, or a link to nowhere
        return False
    if EXTENSION.search(path.name):
        return True
    if path.suffix.lower() in READERS:
        return False
    try:
        if not is_dicom(path):
            Image.open(path, formats=FORMATS).close()
        return True
    except Exception:  # Pillow raises many kinds for what is no image
        return False


def _decoded(file: IO[bytes], size: int) -> Image.Image:
    """Decode a file; of `DEEP` ones the upper bytes, then the lower ones as if in other order."""
    upper, raw = _opened(file, size)
    if raw.rstrip("BLN") not in DEEP:
        return upper
    values = np.asarray(upper) * np.uint16(256)
    del upper
    little = raw.endswith("L") or (raw.endswith("N") and sys.byteorder == "little")
    values += np.asarray(_opened(file, size, raw[:-1] + ("B" if little else "L"))[0])
    return Image.fromarray(colour_to_uint8(values))


def _opened(file: IO[bytes], size: int, raw: str = "") -> tuple[Image.Image, str]:
    """Return an image, and Pillow's name of how its file arranges pixels; `raw` replaces that."""
    with Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        image.draft("RGB", (size, size))  # JPEG is decoded at the smallest size that covers this
        codecs = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
        if raw:
            make: Any = getattr(type(image.tile[0]), "_make", tuple)  # named since Pillow 11
            tiles = zip(image.tile, codecs, strict=True)
            image.tile = [make((*tile[:3], (raw, *codec[1:]))) for tile, codec in tiles]
        raw = str(codecs[0][0]) if codecs and codecs[0] else ""
        if pixels > (MAX_DEEP_PIXELS if raw.rstrip("BLN") in DEEP else MAX_JPEG_PIXELS):
            raise ImageError(f"{pixels:,} pixels are too many to decode safely.")
        tags = getattr(image, "tag_v2", {})  # of TIFF
        picture = _loaded(image)
        if tags.get(WHITE_IS) == 0 and picture.mode[0] in "IF":  # Pillow inverts only 8 bits
            picture = Image.fromarray(-np.asarray(picture, np.float32))
        return picture, raw


def _loaded(image: Image.Image) -> Image.Image:
    """Return an image upright, if decoding it is safe."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width * image.height:,} pixels are too many to decode safely.")
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata of an intact image, of which Pillow raises many kinds
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _from_array(array: np.ndarray) -> Image.Image:
    plain = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    shaped = plain.ndim == 2 or (plain.ndim == 3 and plain.shape[2] in (3, 4))
    known = plain.dtype.kind in "fb" or plain.dtype.kind + str(plain.itemsize) in ("u1", "u2")
    if not (known and shaped and plain.size):
        raise ImageError(
            f"an array of {array.dtype} {array.shape} is not an image. It must be uint8, uint16, "
            "float or bool, of the shape (height, width), or with 1, 3 or 4 channels last."
        )
    if plain.dtype == bool:
        plain = plain * np.uint8(255)
    if plain.dtype != np.uint8:
        values = plain.astype(np.uint16 if plain.dtype.kind == "u" else np.float32)
        plain = to_uint8(values, *limits(values)) if plain.ndim == 2 else colour_to_uint8(values)
    return Image.fromarray(plain)


def _to_array(image: Image.Image, size: int) -> np.ndarray:
    if image.mode[0] in "IF":
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(to_uint8(values, *limits(values)))
    elif image.has_transparency_data:
        image = _on_ground(image, size)
    elif image.mode != "L":
        image = image.convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB"))


def _on_ground(image: Image.Image, size: int) -> Image.Image:
    """Return an image without transparency: on black, or on white if black would hide it."""
    layers = image.convert("RGBA")
    lowest, highest = layers.getchannel("A").getextrema()
    if lowest == 255 or highest == 0:  # wholly transparent: alpha was not meant
        return image.convert("RGB")
    layers = layers.resize((size, size), Image.Resampling.BILINEAR)
    grey = np.asarray(layers.convert("RGB").convert("L"))
    alpha = np.asarray(layers.getchannel("A")) / 255
    dark = alpha[grey < 96].sum() > alpha.sum() / 2  # a scan with a transparent margin is, too,
    bright = alpha[grey >= 128].sum() > alpha.sum() / 20  # but shows bright parts
    hidden = dark and not (bright and alpha.mean() > 0.5)
    ground = Image.new("RGBA", layers.size, (255, 255, 255) if hidden else (0, 0, 0))
    return Image.alpha_composite(ground, layers).convert("RGB")


def image_batches(
    paths: Sequence[str | os.PathLike],
    *,
    size: int = 224,
    batch_size: int = 32,
    workers: int | None = None,
    read: Callable[..., np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
    """Decode images in `workers` threads, `AHEAD` batches ahead of use.

    By default there is one per core, or `HOSTED_THREADS` in Colab and on Kaggle. `read` replaces
    `read_image(path, size)`, for files stored elsewhere.

    Yields:
        Positions in `paths`, int64 (n,); their pixels, uint8 (n, size, size, 3); and, for the
        files of this batch that could not be decoded, {position: reason}. `n` may even be 0.
    """
    read = read or read_image

    def decode(i: int) -> np.ndarray | str:
        try:
            return read(paths[i], size)
        except ImageError as error:
            return str(error)

    if workers is None and find_platform() != "local":
        workers = max(HOSTED_THREADS, usable_cpus())
    with ThreadPoolExecutor(workers or usable_cpus(), thread_name_prefix="decode") as pool:
        waiting: deque[Iterator] = deque()
        end = len(paths) + (AHEAD - 1) * batch_size  # empty batches, until the last one is used
        for start in range(0, end, batch_size):
            chunk = range(len(paths))[start : start + batch_size]
            waiting.append(zip(chunk, pool.map(decode, chunk), strict=True))
            if len(waiting) == AHEAD and (results := dict(waiting.popleft())):
                skipped = {i: found for i, found in results.items() if isinstance(found, str)}
                kept = [i for i in results if i not in skipped]
                pixels = np.array([results[i] for i in kept], np.uint8)
                yield np.array(kept, np.int64), pixels.reshape(-1, size, size, 3), skipped
