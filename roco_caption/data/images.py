"""Decodes an image file of any format to an RGB array, and files in batches, ahead of use."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from roco_caption.core.errors import OutOfMemory, UserError
from roco_caption.data.dicom import DicomError, is_dicom, read_dicom

MAX_PIXELS = 16_000_000  # with 16 bits per channel 0.6 s and 250 MB; more may be a bomb
MAX_JPEG_PIXELS = 100_000_000  # decoded at reduced size
MAX_DICOM_PIXELS = 40_000_000  # mammograms have 28 million
# Not all that Pillow supports: PostScript, for example, is a program that it runs in Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")


class ImageError(UserError):
    """A file that does not contain an image, or one that cannot be decoded."""


def read_image(path: str | os.PathLike, size: int = 224) -> np.ndarray:
    """Decode a DICOM file or one of `FORMATS` to RGB, stretched to uint8 (size, size, 3).

    EXIF rotation is undone; more than 8 bits per channel are scaled to the image's own range; of
    several frames the first one is taken. For DICOM see `read_dicom`.

    Raises:
        ImageError: the file is missing, not an image, truncated, or implausibly large.
    """
    return read_with_note(path, size)[0]


def read_with_note(path: str | os.PathLike, size: int = 224) -> tuple[np.ndarray, str]:
    """Also return how a DICOM file was rendered, as "DICOM CT, window 40 ± 200", else ""."""
    try:
        with warnings.catch_warnings():
            # Pillow and pydicom warn of odd metadata, which is harmless and may name a patient
            warnings.simplefilter("ignore")
            if is_dicom(path):
                array, note = read_dicom(path, MAX_DICOM_PIXELS)
                return _to_array(Image.fromarray(array), size), note
            with Image.open(path, formats=FORMATS) as image:
                return _to_array(image, size), ""
    except MemoryError as error:  # the image itself may be fine, so it must not be skipped
        remedy = "If it is only this image, remove it."
        raise OutOfMemory(f"decoding {path}", error, remedy) from error
    except (ImageError, DicomError) as error:
        raise ImageError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can raise nearly anything inside its decoder
        reason = str(error).replace(f" '{path}'", "") or type(error).__name__
        raise ImageError(f"{path} cannot be decoded ({reason}). Replace or remove it.") from error


def _to_array(image: Image.Image, size: int) -> np.ndarray:
    pixels = image.width * image.height
    image.draft("RGB", (size, size))  # JPEG is decoded at the smallest size that covers this
    if pixels > MAX_JPEG_PIXELS or image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{pixels:,} pixels are too many to decode safely.")
    image.load()
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
    elif image.mode != "L":
        image = image.convert("RGB")
    image = ImageOps.exif_transpose(image).resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


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
