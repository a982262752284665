"""One image file to one RGB array, whatever format it has; and batches of them, read ahead."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from roco_caption.core.errors import OutOfMemory, UserError
from roco_caption.data.dicom import DicomError, is_dicom, read_dicom

# Above this an image is taken for a decompression bomb; ROCO's largest are far below. One of this
# size, 16 bits a channel, takes 0.6 s and 250 MB.
MAX_PIXELS = 16_000_000
MAX_JPEG_PIXELS = 100_000_000  # decoded at reduced size
MAX_DICOM_PIXELS = 40_000_000  # mammograms have 28 million
# Not all that Pillow can: PostScript, for one, is a program that it hands to Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")


class ImageError(UserError):
    """A file that holds no image which can be decoded."""


def read_image(path: str | os.PathLike, size: int = 224) -> np.ndarray:
    """Decode an image file to a square RGB array.

    JPEG is decoded at reduced size where that still covers `size`; rotation noted in EXIF is
    undone; more than 8 bits a channel are scaled to the image's own range; the first frame counts.
    DICOM, known by its content, is shown as it says itself; see `read_dicom`.

    Args:
        path: DICOM, or a file of one of `FORMATS`, whatever its name.
        size: side of the result in pixels; the image is stretched to it, as VGG16 expects.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: the file is missing, is no image, is cut short, or is implausibly large.
        OutOfMemory: memory ran short, which says nothing of the file.
    """
    return read_with_note(path, size)[0]


def read_with_note(path: str | os.PathLike, size: int = 224) -> tuple[np.ndarray, str]:
    """Decode an image file as `read_image` does, and say how a DICOM file's values were shown.

    Returns:
        uint8 (size, size, 3); and such as "DICOM CT, frame 8 of 15, window 40 ± 200", empty where
        the file is not DICOM.

    Raises:
        ImageError: as `read_image`.
        OutOfMemory: memory ran short.
    """
    try:
        with warnings.catch_warnings():
            # Pillow and pydicom warn of odd metadata, which harms nothing and may name a patient
            warnings.simplefilter("ignore")
            if is_dicom(path):
                array, note = read_dicom(path, MAX_DICOM_PIXELS)
                return _to_array(Image.fromarray(array), size), note
            with Image.open(path, formats=FORMATS) as image:
                return _to_array(image, size), ""
    except MemoryError as error:  # says nothing of the image, which must not be skipped for it
        remedy = "If it is this image alone, remove it."
        raise OutOfMemory(f"decoding {path}", error, remedy) from error
    except (ImageError, DicomError) as error:
        raise ImageError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can raise nearly anything inside its decoder
        reason = str(error).replace(f" '{path}'", "") or type(error).__name__
        raise ImageError(f"{path} cannot be decoded ({reason}). Replace or remove it.") from error


def _to_array(image: Image.Image, size: int) -> np.ndarray:
    pixels = image.width * image.height
    image.draft("RGB", (size, size))
    if pixels > MAX_JPEG_PIXELS or image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{pixels:,} pixels are too many to decode safely.")
    image.load()
    if image.mode[0] in "IF":
        image = _to_8_bits(image)
    elif image.mode != "L":
        image = image.convert("RGB")
    image = ImageOps.exif_transpose(image).resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))


def image_batches(
    paths: Sequence[str | os.PathLike],
    *,
    size: int = 224,
    batch_size: int = 32,
    workers: int | None = None,
    ahead: int = 4,
    read: Callable[..., np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
    """Decode images in threads, ahead of whoever takes the batches.

    Args:
        paths: image files, in the order wanted.
        size: side of the square images in pixels.
        batch_size: images taken from `paths` for a batch.
        workers: decoding threads; as many as there are cores when None (Pillow decodes without
            holding Python's lock).
        ahead: batches that may lie decoded or in decoding, which bounds the memory.
        read: called with a path and `size` in place of `read_image`, for files that lie elsewhere.

    Yields:
        Positions in `paths`, int64 (n,); their pixels, uint8 (n, size, size, 3); and, for the
        files of this batch that could not be decoded, {position: reason}. `n` may be less than
        `batch_size`, even 0.
    """
    workers = workers or os.cpu_count() or 1
    read = read or read_image
    starts = range(0, len(paths), batch_size)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, list[Future]]] = deque()
        for start in starts:
            chunk = paths[start : start + batch_size]
            futures = [pool.submit(_read_or_reason, read, path, size) for path in chunk]
            waiting.append((start, futures))
            if len(waiting) >= ahead:
                yield _gather(*waiting.popleft(), size)
        while waiting:
            yield _gather(*waiting.popleft(), size)


def _read_or_reason(
    read: Callable[..., np.ndarray], path: str | os.PathLike, size: int
) -> np.ndarray | str:
    try:
        return read(path, size)
    except ImageError as error:
        return str(error)


def _gather(
    start: int, futures: list[Future], size: int
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    results = {start + i: future.result() for i, future in enumerate(futures)}
    skipped = {i: result for i, result in results.items() if isinstance(result, str)}
    kept = {i: result for i, result in results.items() if i not in skipped}
    pixels = np.stack(list(kept.values())) if kept else np.empty((0, size, size, 3), np.uint8)
    return np.array(list(kept), dtype=np.int64), pixels, skipped
