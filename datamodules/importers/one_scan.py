"""One patient's scan without a cohort: read, located and cut by the very functions that import a cohort."""

from __future__ import annotations

import csv
import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio

from datamodules.cohort.columns import PHASES, SIDES
from datamodules.errors import DataError
from datamodules.importers.assemble import NO_INDEX, assemble
from datamodules.importers.cut_study import Located, Reasons, SeriesInput, StudyInput
from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.dicom.index import build_index
from datamodules.importers.dicom.slice_refusals import refusal
from datamodules.importers.locate import LocatedKidney, locate_box, locate_kidneys, parse_box
from datamodules.importers.mask_grids import fit
from datamodules.importers.masks import KidneyMask, read_binary_masks, read_mask, read_segmentation
from datamodules.importers.nifti.scan import read_nifti
from datamodules.importers.plan import CohortPlan
from datamodules.importers.pseudonyms import PublicNames
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.importers.unmatched import UNASSIGNED
from datamodules.volumes.contract import PreprocessingContract

_SCAN = "scan"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class ScanView:
    """The region of one kidney in one series.

    Args:
        phase: Contrast phase; None where it is not known.
        image: int16 [D, H, W] in HU on the contract's grid.
        slice_mm: Thickness of the scan's slices, or the distance between them where that is larger; None where neither
            is known.
    """

    phase: str | None
    image: np.ndarray
    slice_mm: float | None = None


@dataclass(frozen=True)
class ScanKidney:
    """One kidney of a scan.

    Args:
        side: left or right.
        views: One entry per series.
        labels: uint8 [D, H, W] of `Tissue` codes on the contract's grid; None where only a box is known.
        measures: Columns of the table `kidneys` that the mask answers.
        located: Where it is in the scan, with its map at the scan's own resolution.
    """

    side: str
    views: tuple[ScanView, ...]
    labels: np.ndarray | None
    measures: Mapping[str, Any]
    located: LocatedKidney | None = None

    def with_phase(self, number: int, phase: str) -> ScanKidney:
        """The same with the contrast phase of one view, by its number."""
        views = (*self.views[:number], replace(self.views[number], phase=phase), *self.views[number + 1 :])
        return replace(self, views=views)


@dataclass(frozen=True)
class Place:
    """Where the kidneys of a scan are: masks, or else boxes.

    Args:
        masks: A label map, a folder of binary masks, or several binary masks whose file names say what they show
            (`kidney_left.nii.gz`, `tumor.nii.gz`).
        labels: Meaning of the codes of a label map: `kits`, `totalsegmentator`, or code: name.
        boxes: `x y z x y z` in RAS millimetres by side, for kidneys without a mask.
    """

    masks: tuple[Path, ...] = ()
    labels: str | Mapping[int, str] = "kits"
    boxes: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for side, text in (self.boxes or {}).items():
            if side not in SIDES:
                raise DataError(f"A box of side {side!r} was given; expected {' or '.join(SIDES)}.")
            parse_box(text, f"box of the {side} kidney")
        absent = [path.name for path in self.masks if not path.exists()]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(self.masks)} masks were not found; name a NIfTI label map, a folder of binary "
                "masks, or several."
            )


def read_scan(
    image: Path | Mapping[str, Path], contract: PreprocessingContract, place: Place, phase: str | None = None
) -> tuple[list[ScanKidney], list[str]]:
    """Read one scan and cut its kidneys.

    Args:
        image: NIfTI file in HU, several of them by their contrast phase, or a folder with the DICOM files of one
            patient; every usable series of it becomes a view of each kidney, and DICOM SEG objects show where they are.
        contract: Preprocessing contract.
        place: Where the kidneys are.
        phase: Contrast phase; of DICOM files it is read from the headers where left out, of NIfTI it stays unknown.

    Returns:
        The kidneys, left first, and notes on what was done or left out.

    Raises:
        DataError: if scan or mask is damaged or refused, no kidney is found, or a folder holds several patients or
            examinations.
    """
    files = image if isinstance(image, Mapping) else {phase or _UNKNOWN: image}
    if phase is not None and phase not in PHASES:
        raise DataError(f"Phase {phase!r} was given; expected one of {', '.join(PHASES)}.")
    if not all(path.exists() for path in files.values()):
        raise DataError("The scan was not found; name a NIfTI file or a folder of DICOM files.")
    try:
        if isinstance(image, Path) and image.is_dir():
            record = _of_folder(image, contract, place, phase)
        else:
            record = _of_nifti(files, contract, place)
    except SkipPatient as reason:
        raise DataError(f"The scan cannot be used. {reason}") from reason
    studies = {volume.study_id for volume in record.volumes}
    if len(studies) > 1:  # their series do not lie alike, and one is not the other's contrast phase
        raise DataError(
            f"The folder holds {len(studies)} examinations of the patient; expected the series of one. Put each into a "
            "folder of its own."
        )
    return _kidneys(record), [note for note in record.notes if note != NO_INDEX]


def _kidneys(record: PatientRecord) -> list[ScanKidney]:
    labels = {(mask.study_id, mask.side): mask.labels for mask in record.masks}
    found: dict[str, ScanKidney] = {}
    located = {(study, kidney.side): kidney for study, own in record.located.items() for kidney in own}
    measures = {(row["study_id"], row["side"]): row for row in record.rows["kidneys"]}
    slices = {(row["study_id"], row["series_id"]): slice_mm(row) for row in record.rows["series"]}
    for volume in sorted(record.volumes, key=lambda entry: entry.side):
        phase = None if volume.phase == _UNKNOWN else volume.phase
        view = ScanView(phase, volume.image, slices.get((volume.study_id, volume.series_id)))
        if volume.side in found:
            found[volume.side] = replace(found[volume.side], views=(*found[volume.side].views, view))
            continue
        key = (volume.study_id, volume.side)
        keys = ("patient_id", "study_id", "side", "is_index")
        row = {name: value for name, value in measures.get(key, {}).items() if name not in keys}
        found[volume.side] = ScanKidney(volume.side, (view,), labels.get(key), row, located.get(key))
    return list(found.values())


def slice_mm(series: Mapping[str, Any]) -> float | None:
    """Thickness of the slices of a row of the table `series`, or their distance where that is larger."""
    known = [float(series[name]) for name in ("slice_thickness_mm", "spacing_d_mm") if pd.notna(series.get(name))]
    return max(known, default=None)


def _of_nifti(files: Mapping[str, Path], contract: PreprocessingContract, place: Place) -> PatientRecord:
    """The series of one examination by phase, in one mask or box."""
    if not place.masks and not place.boxes:
        raise DataError("The scan came without a mask and without a box; show where the kidneys are.")
    several = len(files) > 1
    series = [
        SeriesInput(
            series_id=f"{_SCAN}-{phase}" if several else _SCAN,
            where=f"{phase} {_SCAN}" if several else _SCAN,
            phase=phase,
            phase_evidence="stated",
            read=functools.partial(_read, path),
            locate=functools.partial(_locate, place, _SCAN),
        )
        for phase, path in files.items()
    ]
    return assemble(_SCAN, _SCAN, [StudyInput(_SCAN, series)], {}, contract, Reasons())


def _read(path: Path) -> tuple[tio.ScalarImage, list[str]]:
    return read_nifti(path, _SCAN)


def _locate(place: Place, where: str, image: tio.ScalarImage) -> Located:
    if place.masks:
        mask = fit(_mask(place), image, where)
        kidneys, notes = locate_kidneys(mask, image, where)
        return kidneys, [*mask.notes, *notes]
    boxes = {side: parse_box(text, f"box of the {side} kidney") for side, text in sorted((place.boxes or {}).items())}
    return [locate_box(side, box, image, voxels=False) for side, box in boxes.items()], []


def _mask(place: Place) -> KidneyMask:
    if len(place.masks) > 1:
        return read_binary_masks([(_stem(path), path) for path in place.masks], "masks")
    only = place.masks[0]
    where = "mask"
    return read_segmentation(only, where, place.labels) if only.is_dir() else read_mask(only, where, place.labels)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _of_folder(folder: Path, contract: PreprocessingContract, place: Place, phase: str | None) -> PatientRecord:
    """One patient's DICOM files, through the importer; its key and index live as long as this call."""
    with tempfile.TemporaryDirectory(prefix="scan-") as name:
        scratch = Path(name)
        options: dict[str, Any] = {}
        if phase is not None:
            options["phases"] = _table(scratch / "phases.csv", ("description", "phase"), [("*", phase)])
        if place.boxes and not place.masks:
            options["boxes"] = _boxes(folder, scratch, place.boxes)
        if place.masks:
            (scratch / "masks").mkdir()
            options["masks"] = scratch / "masks"
        labels = place.labels if isinstance(place.labels, str) else dict(place.labels)
        source = DicomSource(
            folder, CohortPlan(_SCAN), scratch / "cohort", private=scratch / "private", labels=labels, **options
        )
        patients = [entry for entry in source.patient_ids() if not entry.startswith(UNASSIGNED)]
        if len(patients) != 1:
            raise DataError(
                f"The folder of DICOM files holds the files of {len(patients)} patients; expected those of one. "
                "Import several with `make import`."
            )
        if place.masks:
            _link_masks(place.masks, scratch / "masks", patients[0])
        return source.load(patients[0], contract)


def _link_masks(masks: Sequence[Path], folder: Path, patient: str) -> None:
    """Put masks where the importer looks for those of a patient."""
    if len(masks) == 1:
        only = masks[0].resolve()
        (folder / (patient if only.is_dir() else f"{patient}{only.name[len(_stem(only)) :]}")).symlink_to(only)
        return
    (folder / patient).mkdir()
    for path in masks:
        (folder / patient / path.name).symlink_to(path.resolve())


def _boxes(folder: Path, scratch: Path, boxes: Mapping[str, str]) -> Path:
    """The table of boxes that the importer reads, with a row for every CT series."""
    index = build_index(folder, scratch / "index", PublicNames())
    headers = [header for patient in index.summary["patients"] for header in index.headers(patient)]
    series = {entry.series_uid for entry in headers if refusal(entry) is None}
    rows = [(uid, side, box) for uid in sorted(series) for side, box in sorted(boxes.items())]
    return _table(scratch / "boxes.csv", ("series_uid", "side", "box_ras_mm"), rows)


def _table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path
