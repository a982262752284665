"""A DICOM file to the picture that it is meant to show, and nothing of its patient."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError

# All that is ever read: how pixels are stored and shown. Names, numbers, dates and descriptions
# are passed over as bytes, so that no message and no file can come to hold them.
TAGS = [
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "BurnedInAnnotation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "PixelData", "FloatPixelData", "DoubleFloatPixelData",
]  # fmt: skip
DECODERS = 'pip install "pylibjpeg[all]"'


class DicomError(UserError):
    """A DICOM file that holds no image, or none that can be decoded here."""


def is_dicom(path: str | os.PathLike) -> bool:
    """Tell by its first bytes whether a file is DICOM, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: str | os.PathLike, max_pixels: int) -> tuple[np.ndarray, str]:
    """Decode the image of a DICOM file; of several frames the middle one.

    Stored values go through the modality LUT (or rescale slope and intercept), then through the
    first VOI LUT or window, or from least to greatest where there is none (DICOM PS3.3, C.11.1
    and C.11.2; PS3.4, N.2.1); MONOCHROME1 is inverted, so that white is always bright.

    Args:
        path: a DICOM file with a preamble.
        max_pixels: the most that a frame may have.

    Returns:
        uint8 (height, width), or (height, width, 3) where the file is in colour; and what was
        done, such as "DICOM CT, frame 8 of 15, window 40 ± 200", never who the patient is.

    Raises:
        DicomError: pydicom is missing, or the file has no image or none that can be decoded.
    """
    dataset, frames, pixels = _read(path)
    if pixels > max_pixels:
        raise DicomError(f"{pixels:,} pixels are too many to decode safely.")
    frame = frames // 2
    stored = _decode(dataset, frame if frames > 1 else None)
    try:
        if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            grey, shown = _colour(stored, dataset), "in colour"
        else:
            grey, shown = _windowed(stored, dataset, frame)
    except MemoryError:
        raise
    except Exception as error:  # its text might quote the file, so only its kind is told
        raise DicomError(
            f"Its window or colours are damaged ({type(error).__name__}). Export the image as PNG."
        ) from None
    notes = [f"DICOM {dataset.get('Modality', '')}".strip()]
    notes += [f"frame {frame + 1} of {frames}"] if frames > 1 else []
    notes += ["text is burned into it"] if dataset.get("BurnedInAnnotation") == "YES" else []
    return np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8), ", ".join([*notes, shown])


def _read(path: str | os.PathLike) -> tuple[Any, int, int]:
    """Return the elements of `TAGS`, how many frames there are, and how many pixels in each."""
    try:
        import pydicom
    except ImportError:
        raise DicomError("DICOM needs pydicom. Run `pip install pydicom` and try again.") from None
    try:
        dataset = pydicom.dcmread(path, specific_tags=list(TAGS))
        kind = dataset.file_meta.get("MediaStorageSOPClassUID")
        name = kind.name if kind else "of an unknown kind"
        frames, rows, columns = (
            int(dataset.get(tag) or 0) for tag in ("NumberOfFrames", "Rows", "Columns")
        )
    except Exception as error:  # a damaged file can raise nearly anything, and quote itself
        raise DicomError(
            f"It is a damaged DICOM file ({type(error).__name__}). Export it again."
        ) from None
    if not rows * columns or not any(tag in dataset for tag in TAGS[-3:]):
        raise DicomError(f"It is a DICOM file without an image ({name}). Give the image's own.")
    return dataset, frames or 1, rows * columns


def _decode(dataset: Any, frame: int | None) -> np.ndarray:
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset, index=frame)
    except MemoryError:
        raise
    except Exception as error:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None or not syntax.is_compressed:
            raise DicomError(
                f"Its pixels are damaged or cut short ({type(error).__name__}). Export it again."
            ) from None
        raise DicomError(
            f"Its pixels are compressed as {syntax.name}, which could not be decoded. Run "
            f"`{DECODERS}`, start this notebook's kernel anew and try again; or export the file "
            "without compression, or as PNG."
        ) from None


def _colour(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return RGB from 0 to 1."""
    from pydicom.pixels import apply_color_lut

    if stored.ndim == 3:
        return stored / (2.0**dataset.BitsStored - 1)
    rgb = apply_color_lut(stored, dataset)
    return rgb[..., :3] / np.iinfo(rgb.dtype).max


def _windowed(stored: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, str]:
    """Return grey values, those to be shown from 0 to 1, and the window in words."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    rescale = _of_frame(dataset, frame, "PixelValueTransformationSequence")
    voi = _of_frame(dataset, frame, "FrameVOILUTSequence")
    values = apply_modality_lut(stored, rescale)
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    if voi.get("VOILUTSequence"):
        bits = voi.VOILUTSequence[0].LUTDescriptor[2]
        grey, shown = apply_voi(values.astype(np.int64), voi) / (2.0**bits - 1), "its own VOI LUT"
    elif center is None or width is None:
        grey, shown = _full_range(values, stored, dataset), "its full range of values"
    else:
        grey = _window(values, center, width, voi.get("VOILUTFunction", "LINEAR"))
        shown = f"window {center:g} ± {width / 2:g}"
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return (1 - np.clip(grey, 0, 1) if inverted else grey), shown


def _of_frame(dataset: Any, frame: int, name: str) -> Any:
    """Return the item that holds a frame's settings: its own, the shared one, or the file's."""
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        items = dataset.get(f"{groups}Sequence") or []
        if index < len(items) and items[index].get(name):
            return items[index][name].value[0]
    return dataset


def _first(value: Any) -> float | None:
    """Return the first of the windows that a file offers."""
    values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    return None if not len(values) or values[0] is None else float(values[0])


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Return 0 at a window's lower end and 1 at its upper one (DICOM PS3.3, C.11.2.1.2, .3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _full_range(values: np.ndarray, stored: np.ndarray, dataset: Any) -> np.ndarray:
    padding = dataset.get("PixelPaddingValue")  # what surrounds a round picture, far below it
    inside = values[stored != padding] if padding is not None else values
    inside = inside if inside.size else values
    low, high = float(inside.min()), float(inside.max())
    return (values - low) / max(high - low, 1e-6)
