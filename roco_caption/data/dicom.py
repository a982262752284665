"""Renders a DICOM file as it asks to be displayed, and reads no patient data."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError

# All that is ever read: how pixels are stored and displayed. Names, numbers, dates and descriptions
# are skipped as bytes, so that no message and no file can contain them.
COLOURS = ("Red", "Green", "Blue")
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
    """Return whether a file is DICOM by content, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: str | os.PathLike, max_pixels: int) -> tuple[np.ndarray, str]:
    """Decode the image of a DICOM file; of several frames the middle one.

    Stored values go through the modality LUT (or rescale slope and intercept), then through the
    first VOI LUT or window, or else are scaled to their full range (DICOM PS3.3, C.11.1 and
    C.11.2; PS3.4, N.2.1); MONOCHROME1 is inverted, so that white is always bright.

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
    stored = _decode(dataset, frame if frames > 1 else None)
    with _damage_explained("Its window or colours are damaged", "Export the image as PNG."):
        if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            values, rendering = _colour(stored, dataset), "in colour"
        else:
            values, rendering = _windowed(stored, dataset, frame)
    notes = [f"DICOM {dataset.get('Modality', '')}".strip()]
    notes += [f"frame {frame + 1} of {frames}"] if frames > 1 else []
    notes += ["text is burned into it"] if dataset.get("BurnedInAnnotation") == "YES" else []
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8), ", ".join([*notes, rendering])


def _read(path: str | os.PathLike) -> tuple[Any, int, int]:
    """Return the elements of `TAGS`, the number of frames, and of pixels per frame."""
    try:
        import pydicom
    except ImportError:
        raise DicomError("DICOM needs pydicom. Run `pip install pydicom` and try again.") from None
    with _damage_explained("It is a damaged DICOM file", "Export it again."):
        dataset = pydicom.dcmread(path, specific_tags=list(TAGS))
        kind = dataset.file_meta.get("MediaStorageSOPClassUID")
        name = kind.name if kind else "unknown type"
        sizes = [int(dataset.get(tag) or 0) for tag in ("NumberOfFrames", "Rows", "Columns")]
    frames, rows, columns = sizes
    if not rows * columns or not any(tag in dataset for tag in PIXELS):
        raise DicomError(f"It is a DICOM file without an image ({name}). Choose an image file.")
    return dataset, frames or 1, rows * columns


@contextlib.contextmanager
def _damage_explained(problem: str, remedy: str) -> Iterator[None]:
    """Turn errors, which a damaged file can raise of any type, into a DicomError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # its text might quote the file, so only its type is shown
        raise DicomError(f"{problem} ({type(error).__name__}). {remedy}") from None


def _decode(dataset: Any, frame: int | None) -> np.ndarray:
    from pydicom.pixels import pixel_array

    problem, remedy = "Its pixels are damaged or cut short", "Export it again."
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        problem = f"Its pixels are compressed as {syntax.name}, which could not be decoded"
        install = 'pip install "pylibjpeg[all]"'
        remedy = f"Run `{install}` and restart the kernel, or export the image as PNG."
    with _damage_explained(problem, remedy):
        return pixel_array(dataset, index=frame)


def _colour(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return RGB from 0 to 1."""
    from pydicom.pixels import apply_color_lut

    if stored.ndim == 3:
        return stored / (2.0**dataset.BitsStored - 1)
    rgb = apply_color_lut(stored, dataset)
    return rgb[..., :3] / np.iinfo(rgb.dtype).max


def _windowed(stored: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, str]:
    """Return grey values, of which 0 to 1 is displayed, and the window in words."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    rescale = _of_frame(dataset, frame, "PixelValueTransformationSequence")
    voi = _of_frame(dataset, frame, "FrameVOILUTSequence")
    values = apply_modality_lut(stored, rescale)
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    if voi.get("VOILUTSequence"):
        bits = voi.VOILUTSequence[0].LUTDescriptor[2]
        grey = apply_voi(values.astype(np.int64), voi) / (2.0**bits - 1)
        rendering = "its own VOI LUT"
    elif center is None or width is None:
        grey, rendering = _full_range(values, stored, dataset), "its full range of values"
    else:
        grey = _window(values, center, width, voi.get("VOILUTFunction", "LINEAR"))
        rendering = f"window {center:g} ± {width / 2:g}"
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return (1 - np.clip(grey, 0, 1) if inverted else grey), rendering


def _of_frame(dataset: Any, frame: int, name: str) -> Any:
    """Return the item with a frame's settings: its own, the shared one, or the file's."""
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        items = dataset.get(f"{groups}Sequence") or []
        if index < len(items) and items[index].get(name):
            return items[index][name].value[0]
    return dataset


def _first(value: Any) -> float | None:
    """Return the value of the first window in a file."""
    values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    return None if not len(values) or values[0] is None else float(values[0])


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Map a window to 0 (lower end) to 1 (upper end); DICOM PS3.3, C.11.2.1.2 and .3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _full_range(values: np.ndarray, stored: np.ndarray, dataset: Any) -> np.ndarray:
    padding = dataset.get("PixelPaddingValue")  # around a round image, far below its values
    inside = values[stored != padding] if padding is not None else values
    inside = inside if inside.size else values
    low, high = float(inside.min()), float(inside.max())
    return (values - low) / max(high - low, 1e-6)
