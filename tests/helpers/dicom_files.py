"""Small DICOM files with a patient's identifiers in every text that might leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SECRET = "Zyxwvut"  # in all identifiers
NAMES = (
    "PatientName", "PatientID", "PatientAddress", "OtherPatientNames", "AccessionNumber",
    "InstitutionName", "ReferringPhysicianName", "StudyDescription", "SeriesDescription",
    "ImageComments", "StudyID", "PatientComments", "OperatorsName", "StationName",
)  # fmt: skip


def write_dicom(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Write a file of unsigned 16-bit pixels (height, width) or (frames, height, width)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in NAMES:
        setattr(dataset, name, SECRET)
    dataset.PatientBirthDate = "19010203"
    dataset.Modality, dataset.PhotometricInterpretation = "CT", "MONOCHROME2"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**elements: Any) -> Dataset:
    """Return an item of a sequence."""
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset
