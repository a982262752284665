"""Decodes an image file of any format to an RGB array, and files in batches, ahead of use."""

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from roco_caption.core.errors import OutOfMemory, UserError
from roco_caption.data.dicom import DicomError, is_dicom, read_dicom
from roco_caption.data.levels import colour_to_uint8, limits, to_uint8

# Decoding them takes at most 500 MB and 3 s; more pixels may be a bomb.
MAX_PIXELS = 40_000_000  # of any format: mammograms have 28 million
MAX_DEEP_PIXELS = 16_000_000  # with 16 bits in each of several channels
MAX_JPEG_PIXELS = 100_000_000  # decoded at reduced size
# Not all that Pillow supports: PostScript, for example, is a program that it runs in Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
DEEP = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")  # Pillow reads only the upper 8 bits of these
ImageLike = str | os.PathLike | Image.Image | np.ndarray


class ImageError(UserError):
    """A file that does not contain an image, or one that cannot be decoded."""


def read_image(image: ImageLike, size: int = 224) -> np.ndarray:
    """Decode a DICOM file or one of `FORMATS` to RGB, stretched to uint8 (size, size, 3).

    `image` may also be a PIL image or an array (height, width), with 1, 3 or 4 channels last, of
    uint8, uint16, floats or bool. EXIF rotation is undone; of several frames the first one is
    taken. More than 8 bits per channel are scaled to the range in use, without outliers, NaN and
    infinity (see `levels`). Transparent parts become black, or white if the picture is too dark to
    be seen on black. For DICOM see `read_dicom`.

    Raises:
        ImageError: the file is missing, not an image, truncated, or implausibly large; an array
            of another shape or dtype.
    """
    return read_with_note(image, size)[0]


def read_with_note(image: ImageLike, size: int = 224) -> tuple[np.ndarray, str]:
    """Also return how a DICOM file was rendered, as "DICOM CT, window 40 ± 200", else ""."""
    if isinstance(image, ImageFile.ImageFile) and image.format in FORMATS and not image.tell():
        # not decoded by Pillow yet
        image = os.fsdecode(image.filename) if image.tile and image.filename else image
    name = "The given image" if isinstance(image, Image.Image | np.ndarray) else str(image)
    try:
        with warnings.catch_warnings():
            # Pillow and pydicom warn of odd metadata, which is harmless and may name a patient
            warnings.simplefilter("ignore")
            if isinstance(image, Image.Image):
                return _to_array(_loaded(image), size), ""
            if isinstance(image, np.ndarray):
                return _to_array(_from_array(image), size), ""
            if is_dicom(image):
                array, note = read_dicom(image, MAX_PIXELS)
                return _to_array(Image.fromarray(array), size), note
            with open(image, "rb") as file:  # by its path, Pillow scrambles turned TIFF files
                return _to_array(_decoded(file, size), size), ""
    except MemoryError as error:  # the image itself may be fine, so it must not be skipped
        remedy = "If it is only this image, remove it."
        raise OutOfMemory(f"decoding {name}", error, remedy) from error
    except (ImageError, DicomError) as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file can raise nearly anything inside its decoder
        reason = str(error).replace(f" '{image}'", "").split(" <_io")[0] or type(error).__name__
        raise ImageError(f"{name} cannot be decoded ({reason}). Replace or remove it.") from error


def _decoded(file: IO[bytes], size: int) -> Image.Image:
    image, raw = _opened(file, size)
    if raw.rstrip("BLN") not in DEEP:
        return image
    values = np.asarray(image) * np.uint16(256)
    del image
    return Image.fromarray(colour_to_uint8(_with_lower_bytes(values, file, raw)))


def _opened(file: IO[bytes], size: int) -> tuple[Image.Image, str]:
    """Return an image, and Pillow's name of how its file arranges pixels, such as "RGB;16B"."""
    with Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        image.draft("RGB", (size, size))  # JPEG is decoded at the smallest size that covers this
        raw: Any = image.tile[0][3] if image.tile else ""
        raw = str(raw[0] if isinstance(raw, tuple) and raw else raw)
        if pixels > (MAX_DEEP_PIXELS if raw.rstrip("BLN") in DEEP else MAX_JPEG_PIXELS):
            raise ImageError(f"{pixels:,} pixels are too many to decode safely.")
        return _loaded(image), raw


def _with_lower_bytes(values: np.ndarray, file: IO[bytes], raw: str) -> np.ndarray:
    """Add the lower bytes to the upper ones, uint16 (height, width, 3 or 4).

    Told the other byte order, Pillow reads the lower bytes. It has no such order for grey with
    alpha, but reads its four bytes as RGBA.
    """
    little = raw.endswith("L") or (raw.endswith("N") and sys.byteorder == "little")
    other = "RGBA" if raw == "LA;16B" else raw[:-1] + ("B" if little else "L")
    with Image.open(file, formats=FORMATS) as image:
        codec, extents, offset, arguments = image.tile[0]
        arguments = (other, *arguments[1:]) if isinstance(arguments, tuple) else other
        image.tile = [(codec, extents, offset, arguments), *image.tile[1:]]  # type: ignore[list-item]
        low = np.asarray(_loaded(image))
    if raw == "LA;16B":
        values[..., :3] += low[..., 1:2]
    else:
        values += low
    return values


def _loaded(image: Image.Image) -> Image.Image:
    """Return an image upright, if decoding it is safe."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width * image.height:,} pixels are too many to decode safely.")
    image.load()
    return ImageOps.exif_transpose(image)


def _from_array(array: np.ndarray) -> Image.Image:
    plain = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    coloured = plain.ndim == 3 and plain.shape[2] in (3, 4)
    known = plain.dtype.kind in "fb" or (plain.dtype.kind == "u" and plain.dtype.itemsize <= 2)
    if not known or not plain.size or not (plain.ndim == 2 or coloured):
        raise ImageError(
            f"an array of {array.dtype} {array.shape} is not an image. It must be uint8, uint16, "
            "float or bool, of the shape (height, width), or with 1, 3 or 4 channels last."
        )
    if plain.shape[0] * plain.shape[1] > MAX_PIXELS:
        raise ImageError(f"{plain.shape[0] * plain.shape[1]:,} pixels are too many.")
    if plain.dtype == bool:
        plain = plain * np.uint8(255)
    if plain.dtype == np.uint8:
        return Image.fromarray(plain)
    values = plain.astype(np.uint16 if plain.dtype.kind == "u" else np.float32)
    return Image.fromarray(
        colour_to_uint8(values) if coloured else to_uint8(values, *limits(values))
    )


def _to_array(image: Image.Image, size: int) -> np.ndarray:
    if image.mode[0] in "IF":
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(to_uint8(values, *limits(values)))
    elif image.has_transparency_data:
        image = _on_ground(image, size)
    elif image.mode != "L":
        image = image.convert("RGB")
    array = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


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
    ahead: int = 4,
    read: Callable[..., np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
    """Decode images in `workers` threads (by default one per core), `ahead` batches ahead of use.

    `read` replaces `read_image(path, size)`, for files stored elsewhere.

    Yields:
        Positions in `paths`, int64 (n,); their pixels, uint8 (n, size, size, 3); and, for the
        files of this batch that could not be decoded, {position: reason}. `n` may even be 0.
    """
    read = read or read_image
    with ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode") as pool:
        batches: deque[tuple[int, list[Future]]] = deque()
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            batches.append((start, [pool.submit(_read_or_reason, read, p, size) for p in chunk]))
            if len(batches) >= ahead:
                yield _gather(*batches.popleft(), size)
        while batches:
            yield _gather(*batches.popleft(), size)


def _read_or_reason(read: Callable, path: str | os.PathLike, size: int) -> np.ndarray | str:
    try:
        return read(path, size)
    except ImageError as error:
        return str(error)


def _gather(start: int, futures: list[Future], size: int) -> tuple[np.ndarray, np.ndarray, dict]:
    results = {start + i: future.result() for i, future in enumerate(futures)}
    skipped = {i: result for i, result in results.items() if isinstance(result, str)}
    images = {i: result for i, result in results.items() if i not in skipped}
    pixels = np.stack(list(images.values())) if images else np.empty((0, size, size, 3), np.uint8)
    return np.array(list(images), dtype=np.int64), pixels, skipped
