"""A body in space, asymmetric in every direction, and the DICOM files that a scanner would write of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
FEET_FIRST_PRONE = (-1, 0, 0, 0, -1, 0)

MARKER_RAS_MM = (64.0, 48.0, 30.0)
"""A bright block to the right, in front and above."""
KIDNEYS_RAS_MM = {"left": (-56.0, -32.0, 0.0), "right": (56.0, -32.0, -10.0)}
TUMOR_RAS_MM = (-72.0, -32.0, 0.0)

NAME, RAW_ID, BIRTH, SCANNED, PLACE = "Doe^Jane", "MRN-0042", "19521103", "20190417", "St. Elsewhere"
"""What must never leave the hospital; each is planted in every file."""


def phantom_hu(points_ras_mm: np.ndarray) -> np.ndarray:
    """HU of a body at points [..., 3]."""
    x, y = points_ras_mm[..., 0], points_ras_mm[..., 1]
    hu = np.full(x.shape, -1000.0)
    hu[(np.abs(x) < 112) & (np.abs(y) < 80)] = -100.0
    for center in KIDNEYS_RAS_MM.values():
        hu[block(points_ras_mm, center, (16, 16, 30))] = 120.0
    hu[block(points_ras_mm, TUMOR_RAS_MM, (8, 8, 10))] = 60.0
    hu[block(points_ras_mm, MARKER_RAS_MM, (9, 9, 6))] = 900.0
    return hu


def block(points: np.ndarray, center: Sequence[float], half: Sequence[float]) -> np.ndarray:
    """Whether points lie in a box."""
    return (np.abs(points - np.asarray(center)) <= np.asarray(half)).all(axis=-1)


@dataclass
class Scan:
    """Settings of one series; `write` makes its files."""

    patient: str = RAW_ID
    study: str = "1.2.826.0.1.3680043.8.498.1"
    series: str = "1.2.826.0.1.3680043.8.498.1.1"
    description: str = f"ABD VENOUS {NAME}"
    modality: str = "CT"
    sop_class: str = CTImageStorage
    orientation: Sequence[float] = AXIAL
    count: int = 12
    spacing_mm: float = 16.0
    step_mm: float = 10.0
    tilt_mm: float = 0.0
    slope: float = 1.0
    intercept: float = -1024.0
    syntax: str = "native"
    center_z_mm: float = 0.0
    first_instance: int = 1
    seed: int = 0
    tags: dict[str, Any] = field(default_factory=dict)

    def plane(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Position (LPS) of a slice and its pixels in HU, 16 x 16."""
        row, column = np.asarray(self.orientation, dtype=float).reshape(2, 3)
        normal = np.cross(row, column)
        lps_center = np.array([0.0, 0.0, self.center_z_mm])
        offset = (index - (self.count - 1) / 2) * self.step_mm
        position = lps_center + normal * offset - 7.5 * self.spacing_mm * (row + column) + column * self.tilt_mm * index
        steps = np.arange(16) * self.spacing_mm
        points = position + steps[None, :, None] * row + steps[:, None, None] * column
        hu = phantom_hu(points * (-1, -1, 1))
        noise = np.random.default_rng([self.seed, index]).integers(-4, 5, hu.shape)
        return position, hu + noise

    def write(self, folder: Path, order: Sequence[int] | None = None, ending: str = "") -> list[Path]:
        """Write the slices; `order` gives the names, so that names and positions disagree."""
        folder.mkdir(parents=True, exist_ok=True)
        names = range(self.count) if order is None else order
        paths = []
        for index, name in zip(range(self.count), names, strict=True):
            path = folder / f"I{name:04d}{ending}"
            self.slice(index).save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def slice(self, index: int) -> FileDataset:
        """One slice as a data set."""
        position, hu = self.plane(index)
        dataset = base(self)
        dataset.InstanceNumber = self.first_instance + index
        dataset.ImagePositionPatient = [round(float(value), 4) for value in position]
        dataset.ImageOrientationPatient = list(self.orientation)
        dataset.PixelSpacing = [self.spacing_mm, self.spacing_mm]
        dataset.SliceThickness = self.step_mm
        dataset.RescaleSlope, dataset.RescaleIntercept = self.slope, self.intercept
        stored = np.round((hu - self.intercept) / self.slope).astype(np.int16)
        set_pixels(dataset, stored, self.syntax)
        for name, value in self.tags.items():
            setattr(dataset, name, value)
        return dataset


def base(scan: Scan) -> FileDataset:
    """A data set with identity, planted secrets included, and no pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = scan.sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = scan.sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, scan.patient, BIRTH
    dataset.PatientAge, dataset.PatientSex = "066Y", "F"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = SCANNED
    dataset.InstitutionName, dataset.ReferringPhysicianName = PLACE, NAME
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = scan.study, scan.series
    dataset.FrameOfReferenceUID = scan.study + ".9"
    dataset.Modality, dataset.SeriesDescription = scan.modality, scan.description
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return dataset


def set_pixels(dataset: Dataset, stored: np.ndarray, syntax: str) -> None:
    """Store int16 pixels natively or compressed: RLE by pydicom, JPEG lossless and JPEG 2000 by GDCM."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = stored.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax == "rle":
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax != "native":
        _compress(dataset, stored, {"jpeg": "JPEG", "jpeg2000": "JPEG2000"}[syntax])


def _compress(dataset: Dataset, stored: np.ndarray, compressor: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/slice.dcm")
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(stored))
        encoded = pydicom.dcmread(f"{folder}/slice.dcm")
    dataset.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
    dataset.PixelData = encoded.PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def enhanced(scan: Scan) -> FileDataset:
    """The same scan as one Enhanced CT file with a frame per slice."""
    scan.sop_class = pydicom.uid.EnhancedCTImageStorage
    dataset = base(scan)
    planes = [scan.plane(index) for index in range(scan.count)]
    measures, rescale, orientation, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [scan.spacing_mm, scan.spacing_mm], scan.step_mm
    rescale.RescaleSlope, rescale.RescaleIntercept = scan.slope, scan.intercept
    orientation.ImageOrientationPatient = list(scan.orientation)
    shared.PixelMeasuresSequence, shared.PixelValueTransformationSequence = [measures], [rescale]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for position, _ in planes:
        place, own = Dataset(), Dataset()
        place.ImagePositionPatient = [float(value) for value in position]
        own.PlanePositionSequence = [place]
        dataset.PerFrameFunctionalGroupsSequence.append(own)
    set_pixels(dataset, np.stack([np.round((hu - scan.intercept) / scan.slope) for _, hu in planes]), "native")
    dataset.NumberOfFrames = scan.count
    return dataset


def segmentation(scan: Scan, *, reference: bool = True) -> FileDataset:
    """A binary SEG of both kidneys and the tumour; planes where a segment is absent have no frame."""
    own = Scan(patient=scan.patient, study=scan.study, series=scan.series + ".7", modality="SEG")
    own.sop_class = pydicom.uid.SegmentationStorage
    dataset = base(own)
    dataset.SegmentationType = "BINARY"
    dataset.SegmentSequence = [_segment(1, "Kidney"), _segment(2, "Mass")]
    if reference:
        series = Dataset()
        series.SeriesInstanceUID = scan.series
        dataset.ReferencedSeriesSequence = [series]
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices = [scan.spacing_mm, scan.spacing_mm], scan.step_mm
    orientation.ImageOrientationPatient = list(scan.orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    frames = []
    for number in (1, 2):
        for index in reversed(range(scan.count)):
            position, hu = scan.plane(index)
            mask = (hu > 40) & (hu < 200) if number == 1 else (hu > 40) & (hu < 80)
            if mask.any():
                frames.append(mask)
                dataset.PerFrameFunctionalGroupsSequence.append(_seg_frame(number, position))
    dataset.Rows = dataset.Columns = 16
    dataset.NumberOfFrames, dataset.SamplesPerPixel = len(frames), 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    dataset.PixelData = pydicom.pixels.pack_bits(np.stack(frames).astype(np.uint8))
    return dataset


def _segment(number: int, label: str) -> Dataset:
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = number, label
    return item


def _seg_frame(number: int, position: np.ndarray) -> Dataset:
    own, place, segment = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = [float(value) for value in position]
    segment.ReferencedSegmentNumber = number
    own.PlanePositionSequence, own.SegmentIdentificationSequence = [place], [segment]
    return own
