"""Renders a DICOM file as it asks to be displayed, and reads no patient data."""

import logging
import math
import os
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError
from roco_caption.data.levels import limits

# All that is read: how pixels are stored and displayed. Names, numbers, dates and descriptions are
# skipped as bytes, so that no message and no file can contain them.
GROUPS = 0x0028, 0x7FE0
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class ImageError(UserError):
    """A file without an image, or with one that cannot be decoded."""


def is_dicom(path: str | os.PathLike) -> bool:
    """Return whether a file is DICOM by content; without the preamble, by its first element."""
    with open(path, "rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0")


def read_dicom(path: str | os.PathLike, max_pixels: int) -> tuple[np.ndarray, str]:
    """Decode the image of a DICOM file; of several frames the middle one.

    Stored values are rescaled, then go through the first VOI LUT or window if it shows anything, or
    else are scaled to their full range (PS3.3, C.11.1 and C.11.2). White is always bright.

    Returns uint8 (height, width), or (height, width, 3) for colour; and how it was rendered, such
    as "DICOM CT, frame 8 of 15, window 40 ± 200", without patient data. Raises an ImageError if
    pydicom is missing, nothing can be decoded, or a frame exceeds `max_pixels`.
    """
    try:
        import pydicom
    except ImportError:
        raise ImageError("DICOM needs pydicom. Run `pip install pydicom` and try again.") from None
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings quote values
    tags: list = [tag for tag in pydicom.datadict.DicomDictionary if tag >> 16 in GROUPS]
    tags += ["SOPClassUID", "Modality", *FRAMES]
    try:
        dataset = pydicom.dcmread(path, specific_tags=tags, force=True)
        return _rendered(dataset, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # of any type; its text might quote the file
        raise ImageError(
            f"It is a damaged DICOM file ({type(error).__name__}). Export it again, or as PNG."
        ) from None


def _rendered(dataset: Any, max_pixels: int) -> tuple[np.ndarray, str]:
    sizes = [int(dataset.get(tag) or 0) for tag in ("NumberOfFrames", "Rows", "Columns")]
    frames, pixels = sizes[0], sizes[1] * sizes[2]
    if not pixels or not any(tag in dataset for tag in PIXELS):
        kind = dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
        problem = f"It is a DICOM file without an image ({_name(kind)})."
        raise ImageError(f"{problem} Choose an image file.")
    if pixels > max_pixels:
        raise ImageError(f"{pixels:,} pixels are too many to decode safely.")
    frame = frames // 2
    _complete(dataset, frame)
    stored = _stored(dataset, frame if frames > 1 else None)
    if stored.ndim == 3 and (dataset.get("SamplesPerPixel") or 1) == 1:
        stored = stored[len(stored) // 2]  # more frames than the file says
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        values, rendering = _colour(stored, dataset), "in colour"
    else:
        values, rendering = _windowed(stored, dataset)
    modality = str(dataset.get("Modality") or "")
    notes = [f"DICOM {modality}" if 0 < len(modality) <= 16 else "DICOM"]
    notes += [f"frame {frame + 1} of {frames}"] if frames > 1 else []
    notes += ["text is burned into it"] if dataset.get("BurnedInAnnotation") == "YES" else []
    shown = np.nan_to_num(np.round(255 * np.clip(values, 0, 1))).astype(np.uint8)
    return shown, ", ".join([*notes, rendering])


def _name(uid: Any) -> str:
    """Return what a UID means; one that is damaged may hold all of the file, so it is not shown."""
    return uid.name if uid and uid.name != uid else "unknown type"


def _complete(dataset: Any, frame: int) -> None:
    """Add what a file left out, as viewers do, and a frame's settings from its groups."""
    from pydicom import uid

    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit = dataset.original_encoding[0]
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    for groups, index in zip(FRAMES, (0, frame), strict=True):
        for group in list(dataset.get(groups) or [])[index : index + 1]:
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in list(group.get(name) or [])[:1]:
                    dataset.update({e.tag: e for e in item if not e.is_empty})
    samples, allocated = dataset.get("SamplesPerPixel") or 1, dataset.BitsAllocated
    meaning = dataset.get("PhotometricInterpretation")
    if samples == 1 and meaning not in ("MONOCHROME1", "PALETTE COLOR"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored = min(dataset.get("BitsStored") or allocated, allocated)
    for name, value in {
        "SamplesPerPixel": samples, "PhotometricInterpretation": "RGB", "PixelRepresentation": 0,
        "PlanarConfiguration": 0, "HighBit": dataset.BitsStored - 1,
    }.items():  # fmt: skip
        if dataset.get(name) in (None, ""):
            setattr(dataset, name, value)


def _stored(dataset: Any, frame: int | None) -> np.ndarray:
    """Decode the stored values; pydicom ignores HighBit, so bits left of BitsStored are moved."""
    bits, shift = dataset.BitsStored, dataset.HighBit + 1 - dataset.BitsStored
    if not 0 < shift <= dataset.BitsAllocated - bits:
        return _decode(dataset, frame)
    dataset.BitsStored = bits + shift
    values = _decode(dataset, frame)
    dataset.BitsStored = bits
    if (values & ((1 << shift) - 1)).any() and values.max() < 1 << bits:  # HighBit is wrong
        return _decode(dataset, frame)
    return values >> shift


def _decode(dataset: Any, frame: int | None) -> np.ndarray:
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset, index=frame)
    except Exception as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        if isinstance(error, MemoryError) or not syntax.is_compressed:
            raise
        install = 'pip install "pylibjpeg[all]"'
        raise ImageError(
            f"Its pixels are compressed as {_name(syntax)}, which could not be decoded "
            f"({type(error).__name__}). Run `{install}` and restart the kernel, or export the "
            "image as PNG."
        ) from None


def _colour(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return RGB from 0 to 1."""
    from pydicom.pixels import apply_color_lut

    if stored.ndim == 3:
        return stored / _full(stored.max(), dataset.BitsStored)
    every = np.arange(2**dataset.BitsStored).astype(stored.dtype)
    palette = apply_color_lut(every, dataset)[:, :3]
    return palette[stored] / _full(palette.max(), palette.itemsize * 8)


def _full(highest: float, bits: int) -> float:
    """Return what is white: 2^bits - 1, or less where many devices declare more bits than used."""
    used = int(highest).bit_length()
    return 2.0 ** (bits if used <= bits and (bits <= 8 or bits - used < 2) else used or 1) - 1


def _look_up(values: np.ndarray, table: Any) -> tuple[np.ndarray, float]:
    """Return what a look-up table makes of values, and what is white."""
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):  # one or two bytes per entry
        packed = len(entries) <= (count or 65536) + 1
        entries = np.frombuffer(entries[: len(entries) // 2 * 2], "u1" if packed else "<u2")
    entries = np.asarray(entries)[: count or 65536]
    if first > 32767 and values.max() < first:  # a negative number, written as unsigned
        first -= 65536
    found = entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)]
    return found, _full(entries.max(), bits)


def _windowed(stored: np.ndarray, dataset: Any) -> tuple[np.ndarray, str]:
    """Return grey values, of which 0 to 1 is displayed, and the window in words."""
    values = _rescaled(stored, dataset)
    pairs = zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False)
    windows = [(c, w) for c, w in pairs if math.isfinite(c) and 0 < w < math.inf]
    grey, rendering = values, ""
    if table := _table(dataset, "VOILUTSequence"):
        found, full = _look_up(values, table)
        grey, rendering = found / full, "its own VOI LUT"
    elif windows:
        center, width = windows[0]
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        grey, rendering = (
            _window(values, center, width, function),
            f"window {center:g} ± {width / 2:g}",
        )
    blank = np.ptp(np.clip(grey, 0, 1)) == 0 and values.min() < values.max()
    if not rendering or blank:
        inside = values[stored != dataset.get("PixelPaddingValue")]  # it is far below the image's
        low, high = limits(inside if inside.size else values)
        grey, rendering = (values - low) / (high - low or 1), "its full range of values"
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return (1 - np.clip(grey, 0, 1) if inverted else grey), rendering


def _table(dataset: Any, name: str) -> Any:
    """Return the first look-up table of a sequence that is not empty, or None."""
    items = dataset.get(name) or []
    return next((i for i in items if i.get("LUTDescriptor") and i.get("LUTData")), None)


def _rescaled(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Apply the modality LUT, or else slope and intercept, 1 and 0 where they are empty."""
    if table := _table(dataset, "ModalityLUTSequence"):
        return _look_up(stored, table)[0]
    slope, intercept = (_numbers(dataset, f"Rescale{end}")[0] for end in ("Slope", "Intercept"))
    slope = slope if math.isfinite(slope) and slope else 1.0
    intercept = intercept if math.isfinite(intercept) else 0.0
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def _numbers(dataset: Any, name: str) -> list[float]:
    """Return the numbers of an element, at least one, NaN for an empty or invalid one."""
    try:
        values = np.ravel(dataset.get(name))
        return [math.nan if v in (None, "") else float(v) for v in values] or [math.nan]
    except (TypeError, ValueError):
        return [math.nan]


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Map a window to 0 to 1; PS3.3, C.11.2.1.2 and .3. LINEAR is meant for whole values."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT" or width < 1 or (width < 2 and (values % 1).any()):
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
