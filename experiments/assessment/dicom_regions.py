"""What the encoder's decoder paints of a kidney, as DICOM Segmentation objects beside the scan that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid

from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.importers.dicom.index import files_below
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import roi_affine
from experiments.assessment.own_outlines import painted
from experiments.assessment.task_models import Models
from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.regions import ANATOMY, RegionEncoder

_MAKER, _MODEL = "Renal VLM suite", "Region encoder"
_MAY_BE_EMPTY = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
"""Attributes of patient and study that an object must have and that may be empty (type 2)."""
SEGMENTS = {
    "parenchyma": ("Kidney", "123037004", "Anatomical Structure", "64033007", "Kidney"),
    "tumour": ("Renal tumor", "49755003", "Morphologically Abnormal Structure", "4147007", "Mass"),
    "cyst": ("Renal cyst", "49755003", "Morphologically Abnormal Structure", "367643001", "Cyst"),
}
"""Class of the decoder to label, and to category and type in SNOMED CT (DICOM PS3.16, CID 7150 and 7151)."""


def write_regions(folder: Path, source: Path, kidneys: Sequence[ScanKidney], models: Models) -> list[Path]:
    """Write one object a kidney, in the coordinate system of the source.

    The objects hold what the source says of the patient, as every DICOM object of a patient does.

    Args:
        folder: Folder to write.
        source: Folder of the scan's DICOM files.
        kidneys: The kidneys of the scan.
        models: The encoder.

    Returns:
        The files; none of a kidney in which nothing is painted.

    Raises:
        ModelError: if highdicom is not installed, or the encoder paints no regions.
        DataError: if the source holds no CT with a frame of reference.
    """
    if not isinstance(models.encoder, RegionEncoder):
        raise ModelError(f"ENCODER={models.name} paints no regions; leave DICOM= out, or choose stage1 or aligned.")
    headers = _series(source)
    written = []
    for kidney in kidneys:
        labels = painted(kidney, models)
        codes = [number for number, name in enumerate(ANATOMY) if name in SEGMENTS and (labels == number).any()]
        if not codes:
            continue
        path = folder / f"regions_{kidney.side}.dcm"
        found = _segmentation(labels, codes, kidney, headers, models)
        with replacing(path) as temporary:
            found.save_as(temporary)
        written.append(path)
    return written


def grid_affine(kidney: ScanKidney, contract: PreprocessingContract) -> np.ndarray:
    """From indices D, H, W of a kidney's region to RAS millimetres, float64 [4, 4]."""
    assert kidney.located is not None
    affine = roi_affine(kidney.located.center(contract.region), contract)
    return np.ascontiguousarray(affine[:, [2, 1, 0, 3]])  # arrays run D, H, W: z, y, x


def _segmentation(
    labels: np.ndarray, codes: Sequence[int], kidney: ScanKidney, headers: Sequence[pydicom.Dataset], models: Models
) -> pydicom.Dataset:
    hd = _highdicom()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid_affine(kidney, models.contract)
    array = np.stack([labels == code for code in codes], axis=-1).astype(np.uint8)
    volume = hd.Volume(
        array=array,
        affine=lps,
        coordinate_system="PATIENT",
        frame_of_reference_uid=headers[0].FrameOfReferenceUID,
        channels={"SegmentNumber": list(range(1, len(codes) + 1))},
    )
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_MODEL,
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=models.sha256[:12],
        source=_MAKER,
    )
    described = []
    for number, code in enumerate(codes, start=1):
        title, *words = SEGMENTS[ANATOMY[code]]
        described.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=f"{title} {kidney.side}",
                segmented_property_category=hd.sr.CodedConcept(words[0], "SCT", words[1]),
                segmented_property_type=hd.sr.CodedConcept(words[2], "SCT", words[3]),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    return hd.seg.Segmentation(
        source_images=list(headers),
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=900 + (kidney.side == "right"),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MODEL,
        software_versions=models.sha256[:12],
        device_serial_number="0",
        series_description="Regions by a model, research use only",
    )


def _series(source: Path) -> list[pydicom.Dataset]:
    """Headers of the CT series with most slices, in the order of its slices."""
    found: dict[str, list[pydicom.Dataset]] = {}
    for path in files_below(source):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue  # a mask, or what the import has accounted for
        if header.get("Modality") == "CT" and "FrameOfReferenceUID" in header:
            for name in _MAY_BE_EMPTY:
                if name not in header:
                    setattr(header, name, "")
            found.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if not found:
        raise DataError(
            "DICOM SEG was asked for and the source holds no CT with a frame of reference to place it in; leave DICOM= "
            "out."
        )
    series = max(found.values(), key=len)
    return sorted(series, key=lambda header: float(header.get("ImagePositionPatient", [0, 0, 0])[2]))


def _highdicom() -> Any:
    try:
        import highdicom as hd
    except ImportError as error:
        raise ModelError(
            "DICOM SEG is written by highdicom, which is not here; run `pip install highdicom`."
        ) from error
    import highdicom.seg
    import highdicom.sr

    return hd
