"""Renders a DICOM file as it asks to be displayed, and reads no patient data."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError
from roco_caption.data.levels import limits

# All that is ever read: how pixels are stored and displayed. Names, numbers, dates and descriptions
# are skipped as bytes, so that no message and no file can contain them.
COLOURS = ("Red", "Green", "Blue")
MODALITY, VOI = "ModalityLUTSequence", "VOILUTSequence"
PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
TAGS = [
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "BurnedInAnnotation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    *(f"{name}PaletteColorLookupTable{end}" for name in COLOURS for end in ("Descriptor", "Data")),
    *(f"Segmented{name}PaletteColorLookupTableData" for name in COLOURS),
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *PIXELS,
]  # fmt: skip


class DicomError(UserError):
    """A DICOM file without an image, or with one that cannot be decoded here."""


def is_dicom(path: str | os.PathLike) -> bool:
    """Return whether a file is DICOM by content, whatever its name.

    Without the preamble, its first element belongs to group 2 or 8, in either byte order.
    """
    with open(path, "rb") as file:
        head = file.read(132)
    first = head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0"
    return head[128:] == b"DICM" or first or head[:3] in (b"\0\2\0", b"\0\x08\0")


def read_dicom(path: str | os.PathLike, max_pixels: int) -> tuple[np.ndarray, str]:
    """Decode the image of a DICOM file; of several frames the middle one.

    Stored values go through the modality LUT (or rescale slope and intercept), then through the
    first valid VOI LUT or window that shows anything, or else are scaled to their full range
    (DICOM PS3.3, C.11.1 and C.11.2; PS3.4, N.2.1); MONOCHROME1 is inverted, so that white is
    always bright.

    Returns:
        uint8 (height, width), or (height, width, 3) for colour; and how it was rendered, such as
        "DICOM CT, frame 8 of 15, window 40 ± 200", without patient data.

    Raises:
        DicomError: pydicom is missing, nothing can be decoded, or a frame exceeds `max_pixels`.
    """
    dataset, frames, pixels = _read(path)
    if pixels > max_pixels:
        raise DicomError(f"{pixels:,} pixels are too many to decode safely.")
    frame = frames // 2
    stored = _stored(dataset, frame if frames > 1 else None)
    with _damage_explained("Its window or colours are damaged", "Export the image as PNG."):
        if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            values, rendering = _colour(stored, dataset), "in colour"
        else:
            values, rendering = _windowed(stored, dataset, frame)
    modality = str(dataset.get("Modality") or "")
    notes = [f"DICOM {modality}" if 0 < len(modality) <= 16 else "DICOM"]
    notes += [f"frame {frame + 1} of {frames}"] if frames > 1 else []
    notes += ["text is burned into it"] if dataset.get("BurnedInAnnotation") == "YES" else []
    grey = np.nan_to_num(np.round(255 * np.clip(values, 0, 1))).astype(np.uint8)
    return grey, ", ".join([*notes, rendering])


def _read(path: str | os.PathLike) -> tuple[Any, int, int]:
    """Return the elements of `TAGS`, the number of frames, and of pixels per frame."""
    try:
        import pydicom
    except ImportError:
        raise DicomError("DICOM needs pydicom. Run `pip install pydicom` and try again.") from None
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings quote values
    with _damage_explained("It is a damaged DICOM file", "Export it again."):
        dataset = pydicom.dcmread(path, specific_tags=list(TAGS), force=True)
        kind = dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
        name = _name(kind)
        sizes = [int(dataset.get(tag) or 0) for tag in ("NumberOfFrames", "Rows", "Columns")]
        frames, rows, columns = sizes
        _complete(dataset, (frames or 1) * rows * columns)
    if not rows * columns or not any(tag in dataset for tag in PIXELS):
        raise DicomError(f"It is a DICOM file without an image ({name}). Choose an image file.")
    return dataset, frames or 1, rows * columns


def _name(uid: Any) -> str:
    """Return what a UID means; one that is damaged may hold all of the file, so it is not shown."""
    return uid.name if uid and uid.name != uid else "unknown type"


def _complete(dataset: Any, pixels: int) -> None:
    """Add what a file left out, as viewers do."""
    from pydicom import uid

    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax if little else uid.ExplicitVRBigEndian
    meaning = dataset.get("PhotometricInterpretation") or ""
    samples = dataset.get("SamplesPerPixel") or (3 if meaning[:3] in ("RGB", "YBR") else 1)
    if samples == 1 and meaning not in ("MONOCHROME1", "PALETTE COLOR"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    one_byte = len(dataset.get("PixelData") or b"") < 2 * pixels * samples
    allocated = dataset.get("BitsAllocated") or (8 if one_byte else 16)
    dataset.BitsStored = min(dataset.get("BitsStored") or allocated, allocated)
    for name, value in {
        "SamplesPerPixel": samples, "PhotometricInterpretation": "RGB", "PixelRepresentation": 0,
        "PlanarConfiguration": 0, "BitsAllocated": allocated, "HighBit": dataset.BitsStored - 1,
    }.items():  # fmt: skip
        if dataset.get(name) in (None, ""):
            setattr(dataset, name, value)


@contextlib.contextmanager
def _damage_explained(problem: str, remedy: str) -> Iterator[None]:
    """Turn errors, which a damaged file can raise of any type, into a DicomError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # its text might quote the file, so only its type is shown
        raise DicomError(f"{problem} ({type(error).__name__}). {remedy}") from None


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

    problem, remedy = "Its pixels are damaged or cut short", "Export it again."
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        problem = f"Its pixels are compressed as {_name(syntax)}, which could not be decoded"
        install = 'pip install "pylibjpeg[all]"'
        remedy = f"Run `{install}` and restart the kernel, or export the image as PNG."
    with _damage_explained(problem, remedy):
        return pixel_array(dataset, index=frame)


def _colour(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return RGB from 0 to 1."""
    from pydicom.pixels import apply_color_lut

    if stored.ndim == 3:
        return stored / _full(stored.max(), dataset.BitsStored)
    tables = [f"{name}PaletteColorLookupTable" for name in COLOURS]
    if f"{tables[0]}Data" not in dataset:  # segmented
        rgb = apply_color_lut(stored, dataset)
        return rgb[..., :3] / np.iinfo(rgb.dtype).max
    parts = [[dataset[f"{table}{end}"].value for end in ("Descriptor", "Data")] for table in tables]
    found = [_look_up(stored, descriptor, data, dataset) for descriptor, data in parts]
    return np.stack([values for values, _ in found], axis=-1) / max(full for _, full in found)


def _full(highest: float, bits: int) -> float:
    """Return what is white: 2^bits - 1, or less where many devices declare more bits than used."""
    used = int(highest).bit_length()
    return 2.0 ** (bits if used <= bits and (bits <= 8 or bits - used < 2) else used or 1) - 1


def _look_up(
    values: np.ndarray, descriptor: Any, data: Any, dataset: Any
) -> tuple[np.ndarray, float]:
    """Return what a look-up table makes of values, and what is white."""
    count, first, bits = (int(number) for number in descriptor)
    if isinstance(data, bytes):  # one or two bytes per entry
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        packed = len(data) <= (count or 65536) + 1
        data = np.frombuffer(data[: len(data) // 2 * 2], "u1" if packed else f"{order}u2")
    table = np.asarray(data)[: count or 65536]
    if first > 32767 and values.max() < first:  # a negative number, written as unsigned
        first -= 65536
    found = table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]
    return found, _full(table.max(), bits)


def _windowed(stored: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, str]:
    """Return grey values, of which 0 to 1 is displayed, and the window in words."""
    values = _rescaled(stored, dataset, frame)
    voi = _of_frame(dataset, frame, "FrameVOILUTSequence", lambda i: _table(i, VOI) or _valid(i))
    if table := _table(voi, VOI):
        found, full = _look_up(values, table.LUTDescriptor, table.LUTData, dataset)
        grey, rendering = found / full, "its own VOI LUT"
    elif window := _valid(voi):
        grey = _window(values, *window, str(voi.get("VOILUTFunction") or "LINEAR").upper())
        rendering = f"window {window[0]:g} ± {window[1] / 2:g}"
    else:
        grey, rendering = values, ""
    blank = np.ptp(np.clip(grey, 0, 1)) == 0 and values.min() < values.max()
    if not rendering or blank:
        grey, rendering = _full_range(values, stored, dataset), "its full range of values"
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return (1 - np.clip(grey, 0, 1) if inverted else grey), rendering


def _of_frame(dataset: Any, frame: int, name: str, usable: Callable[[Any], Any]) -> Any:
    """Return the first usable item with a frame's settings: its own, the shared one, the file's."""
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        items = dataset.get(f"{groups}Sequence") or []
        found = items[index].get(name) if index < len(items) else None
        if found and usable(found[0]):
            return found[0]
    return dataset


def _table(settings: Any, name: str) -> Any:
    """Return the first look-up table of a sequence that is not empty, or None."""
    items = settings.get(name) or []
    return next((i for i in items if i.get("LUTDescriptor") and i.get("LUTData")), None)


def _rescaled(stored: np.ndarray, dataset: Any, frame: int) -> np.ndarray:
    """Apply the modality LUT, or else slope and intercept, 1 and 0 where they are empty."""

    def numbers(item: Any) -> list[float]:
        return [_numbers(item, f"Rescale{end}")[0] for end in ("Slope", "Intercept")]

    rescale = _of_frame(
        dataset, frame, "PixelValueTransformationSequence",
        lambda item: _table(item, MODALITY) or any(map(math.isfinite, numbers(item))),
    )  # fmt: skip
    if table := _table(rescale, MODALITY):
        return _look_up(stored, table.LUTDescriptor, table.LUTData, dataset)[0]
    slope, intercept = numbers(rescale)
    slope = slope if math.isfinite(slope) and slope else 1.0
    intercept = intercept if math.isfinite(intercept) else 0.0
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def _numbers(settings: Any, name: str) -> list[float]:
    """Return the numbers of an element, at least one, NaN for an empty or invalid one."""
    try:
        value = settings.get(name)
        values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
        return [math.nan if v in (None, "") else float(v) for v in values] or [math.nan]
    except (TypeError, ValueError):
        return [math.nan]


def _valid(voi: Any) -> tuple[float, float] | None:
    """Return center and width of the first valid window."""
    pairs = zip(_numbers(voi, "WindowCenter"), _numbers(voi, "WindowWidth"), strict=False)
    return next(((c, w) for c, w in pairs if math.isfinite(c) and 0 < w < math.inf), None)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Map a window to 0 (lower end) to 1 (upper end); DICOM PS3.3, C.11.2.1.2 and .3.

    LINEAR is meant for whole values: it would take half of a narrow window of fractions or more.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT" or width < 1 or (width < 2 and (values % 1).any()):
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _full_range(values: np.ndarray, stored: np.ndarray, dataset: Any) -> np.ndarray:
    padding = dataset.get("PixelPaddingValue")  # around a round image, far below its values
    inside = values[stored != padding] if padding is not None else values
    low, high = limits(inside if inside.size else values)
    return (values - low) / (high - low or 1)
