"""What the encoder's decoder paints of a kidney, as DICOM Segmentation objects beside the scan that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom

from datamodules.files import replacing
from datamodules.importers.one_scan import ScanKidney
from experiments.assessment.dicom_objects import MAKER, highdicom, segmentation
from experiments.assessment.lesion_outlines import grid_affine
from experiments.assessment.own_outlines import painted
from experiments.assessment.task_models import Models
from lightning_modules.networks.image.regions import ANATOMY

SEGMENTS = {
    "parenchyma": ("Kidney", "123037004", "Anatomical Structure", "64033007", "Kidney"),
    "tumour": ("Renal tumor", "49755003", "Morphologically Abnormal Structure", "4147007", "Mass"),
    "cyst": ("Renal cyst", "49755003", "Morphologically Abnormal Structure", "367643001", "Cyst"),
}
"""Class of the decoder to label, and to category and type in SNOMED CT (DICOM PS3.16, CID 7150 and 7151)."""


def write_regions(
    folder: Path, headers: Sequence[pydicom.Dataset], kidneys: Sequence[ScanKidney], models: Models
) -> None:
    """Write one object for each kidney in which something is painted, in the coordinate system of the source.

    Args:
        folder: Folder to write.
        headers: Headers of the scan.
        kidneys: The kidneys of the scan.
        models: An encoder that paints regions.

    Raises:
        ModelError: if highdicom is not installed.
    """
    for kidney in kidneys:
        labels = painted(kidney, models)
        codes = [number for number, name in enumerate(ANATOMY) if name in SEGMENTS and (labels == number).any()]
        if not codes:
            continue
        path = folder / f"regions_{kidney.side}.dcm"
        found = segmentation(
            [labels == code for code in codes],
            grid_affine(kidney, models.contract),
            [
                described(number, f"{SEGMENTS[ANATOMY[code]][0]} {kidney.side}", ANATOMY[code], models.sha256)
                for number, code in enumerate(codes, start=1)
            ],
            headers,
            900 + (kidney.side == "right"),
            "Regions by a model, research use only",
            models.sha256,
        )
        with replacing(path) as temporary:
            found.save_as(temporary)


def described(number: int, label: str, kind: str, version: str, tracking: Any = None, *, by_model: bool = True) -> Any:
    """highdicom's description of a segment.

    Args:
        number: Number of the segment.
        label: What it is called.
        kind: A key of `SEGMENTS`.
        version: Hash of the model.
        tracking: Identifier and UID by which other objects know it.
        by_model: Whether a model drew it; otherwise somebody's mask.
    """
    hd = highdicom()
    types = hd.seg.SegmentAlgorithmTypeValues
    _, *words = SEGMENTS[kind]
    algorithm = hd.AlgorithmIdentificationSequence(
        name="Region encoder",
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=version[:12],
        source=MAKER,
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=hd.sr.CodedConcept(words[0], "SCT", words[1]),
        segmented_property_type=hd.sr.CodedConcept(words[2], "SCT", words[3]),
        algorithm_type=types.AUTOMATIC if by_model else types.MANUAL,
        algorithm_identification=algorithm if by_model else None,
        tracking_id=None if tracking is None else tracking[0],
        tracking_uid=None if tracking is None else tracking[1],
    )
