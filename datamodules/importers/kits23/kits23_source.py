"""The KiTS23 challenge data as a cohort. What is measured, approximated and assumed stands in KITS23.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio

from datamodules.anatomy.appearance import patient_tissues
from datamodules.anatomy.nephrometry import score
from datamodules.anatomy.nephrometry.measures import measures
from datamodules.anatomy.rendering import CenterProtocol, render
from datamodules.cohort.cohort import CohortInfo
from datamodules.cohort.splits import assign_folds, check_folds
from datamodules.errors import DataError
from datamodules.importers.fingerprints import fingerprint
from datamodules.importers.kits23.clinical_records import RECORDS, patient_row, read_records, read_sites
from datamodules.importers.kits23.kidney_positions import KidneyCrop, check_grid, locate, own_labels
from datamodules.importers.masks import read_mask
from datamodules.importers.nifti.scan import read_nifti
from datamodules.importers.plausibility import check_tissue
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import crop_roi
from datamodules.volumes.roi import Mask, Volume

PHASE = "arterial"
FIRST_OF_2023 = 400
"""Cases from this number on were added in 2023."""
EVIDENCE = "KiTS19 data description: late arterial (corticomedullary)"
EVIDENCE_2023 = "assumed: KiTS23 added nephrographic cases without naming them"

PROTOCOL = CenterProtocol()
"""One protocol for all: sites differ by their patients only, never by how their images were rendered."""


@dataclass(frozen=True)
class Kits23Source:
    """The official download of KiTS23 (Heller et al., arXiv 2307.01984).

    Expected are `kits23.json` and one folder `case_00000` for each case, with `segmentation.nii.gz` and, where
    downloaded, `imaging.nii.gz`. A case without its image is rendered from the mask, and the cohort says so.

    Args:
        folder: The `dataset` folder of the download.
        sites: CSV file with columns case and site_id. Sites become centres and are kept whole in the folds; without
            it there is one centre, and patients are divided.
        seed: Seed of the folds and of rendered images.
        folds: Number of folds.

    Raises:
        DataError: if folds are fewer than three.
    """

    folder: Path
    sites: Path | None = None
    seed: int = 42
    folds: int = 5

    def __post_init__(self) -> None:
        check_folds(self.folds)

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say: rendered as soon as one image is."""
        cases = self.patient_ids()
        acquired = sum(self._image(case).is_file() for case in cases)
        return CohortInfo(
            name="kits23",
            evaluation="folds",
            intensity="acquired" if acquired == len(cases) else "rendered",
            source="KiTS23 challenge: contrast CT, expert masks, pathology and survival (CC BY-NC-SA 4.0).",
            seed=self.seed,
            details={"images_acquired": acquired, "cases": len(cases), "folds": self.folds},
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and of the names, sizes and times of all files that are read."""
        files = [self._folder / RECORDS, *([Path(self.sites)] if self.sites is not None else [])]
        for case in self.patient_ids():
            files += [self._mask(case), self._image(case)]
        return fingerprint({"source": "kits23", "seed": self.seed, "folds": self.folds}, files)

    def patient_ids(self) -> list[str]:
        """Every case that has a record or a folder.

        Raises:
            DataError: if the folder or its kits23.json is missing or damaged.
        """
        folders = {path.name for path in self._folder.glob("case_*") if path.is_dir()}
        return sorted(set(read_records(self._folder)) | folders)

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Read one case: both kidneys, their lesions and scores, and the clinical record.

        Raises:
            SkipPatient: if the record, the mask, the site or the lesion is missing.
            DataError: if a file is damaged or a value impossible.
        """
        record = read_records(self._folder).get(patient_id)
        if record is None:
            raise SkipPatient(f"{patient_id}: a folder without an entry in {RECORDS}.")
        row = patient_row(record, self._center(patient_id))
        if not self._mask(patient_id).is_file():
            raise SkipPatient(f"{patient_id}: an entry in {RECORDS} without segmentation.nii.gz.")
        mask = read_mask(self._mask(patient_id), f"{patient_id}/segmentation.nii.gz")
        image, seen = None, list(mask.notes)
        if self._image(patient_id).is_file():
            image, more = read_nifti(self._image(patient_id), f"{patient_id}/imaging.nii.gz")
            check_grid(mask.labels, image, patient_id)
            seen += [*more, *check_tissue({"kidneys": mask.labels}, image, patient_id)]
        kidneys = locate(mask.labels)
        index = max((found for found in kidneys if found.kidney.lesions), key=_importance, default=None)
        if index is None:
            raise SkipPatient(f"{patient_id}: the mask holds {len(kidneys)} kidneys and no lesion.")
        notes = seen + _remarks(patient_id, record, kidneys)
        rows, reasons = _kidney_rows(patient_id, kidneys, index)
        volumes, masks = self._cut(patient_id, mask.labels, image, kidneys, contract)
        series = _series_row(patient_id, mask.labels if image is None else image, acquired=image is not None)
        tables = {"patients": [row], "series": [series], "kidneys": rows}
        found = (*notes, *reasons)
        return PatientRecord(patient_id, tables, volumes, masks, found, {"series": [series], "kidneys": rows}, found)

    @property
    def settings_print(self) -> str:
        """Hash of what makes another cohort of the same cases."""
        return fingerprint({"source": "kits23", "seed": self.seed, "folds": self.folds}, [])

    def patient_print(self, patient_id: str) -> str:
        """Hash of the settings and files that the volumes of a case are from."""
        return fingerprint({"seed": self.seed}, [self._mask(patient_id), self._image(patient_id)])

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows of a case as the records and sites give them today."""
        record = read_records(self._folder)[patient_id]
        rows = {name: list(cut[name]) for name in ("series", "kidneys")}
        return {"patients": [patient_row(record, self._center(patient_id))], **rows}, []

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers`, all internal, and the folds of `splits`, balanced by malignancy."""
        patients = tables["patients"]
        names = sorted(patients["center"].unique())
        # With one centre nothing ties two patients together.
        groups = patients["center"] if len(names) > 1 else patients["patient_id"]
        return {
            **tables,
            "centers": pd.DataFrame({"center": names, "role": "internal"}),
            "splits": assign_folds(patients, groups, "malignancy", self.seed, self.folds, tables.get("splits")),
        }

    @property
    def _folder(self) -> Path:
        return Path(self.folder)

    def _mask(self, case: str) -> Path:
        return self._folder / case / "segmentation.nii.gz"

    def _image(self, case: str) -> Path:
        return self._folder / case / "imaging.nii.gz"

    def _center(self, case: str) -> str:
        if self.sites is None:
            return "kits23"
        site = read_sites(Path(self.sites)).get(case)
        if site is None:
            raise SkipPatient(f"{case}: {Path(self.sites).name} names no site; import without sites to keep it.")
        return f"site-{site}"

    def _cut(
        self,
        case: str,
        labels: tio.LabelMap,
        image: tio.ScalarImage | None,
        kidneys: Sequence[KidneyCrop],
        contract: PreprocessingContract,
    ) -> tuple[list[Volume], list[Mask]]:
        volumes, masks = [], []
        for found in kidneys:
            center = found.center(contract.region, kidneys)
            anatomy = crop_roi(labels, center, contract)
            if image is not None:
                array = crop_roi(image, center, contract)
            else:
                array = self._rendered(case, anatomy, found.kidney.side, contract)
            volumes.append(Volume(_study(case), _series(case), found.kidney.side, PHASE, array))
            masks.append(Mask(_study(case), found.kidney.side, own_labels(anatomy, found, kidneys, center, contract)))
        return volumes, masks

    def _rendered(self, case: str, anatomy: np.ndarray, side: str, contract: PreprocessingContract) -> np.ndarray:
        """HU from the label map alone: neither the record nor the site enters.

        Where the mask file ended, the map says UNLABELED, and the renderer draws surroundings there, so no border
        shows how the file was cropped.
        """
        looks = patient_tissues(_seed(self.seed, case))
        return render(anatomy, contract.spacing_mm, PHASE, PROTOCOL, _seed(self.seed, f"{case} {side}"), tissues=looks)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"kits23 {seed} {name}".encode()).digest()[:4], "big")


def _study(case: str) -> str:
    return f"{case}-ct"


def _series(case: str) -> str:
    return f"{case}-{PHASE}"


def _importance(found: KidneyCrop) -> tuple[bool, float]:
    """A tumour comes before any cyst, however large."""
    lesion = found.kidney.lesions[0]
    return lesion.kind == "tumor", lesion.volume_ml


def _remarks(case: str, record: dict[str, Any], kidneys: Sequence[KidneyCrop]) -> list[str]:
    """What a reader of the import report should know of a case that was imported."""
    remarks = []
    if record.get("gender") not in ("female", "male"):
        remarks.append(f"{case}: the recorded gender is neither female nor male, so sex is left missing.")
    if len(kidneys) == 1:
        source = kidneys[0].kidney.side_source
        remarks.append(f"{case}: one kidney; its side ({kidneys[0].kidney.side}) was read from its {source}.")
    if any(found.kidney.fused for found in kidneys):
        remarks.append(f"{case}: the kidneys are fused or touch; they were cut at the thinnest section.")
    return remarks


def _kidney_rows(case: str, kidneys: Sequence[KidneyCrop], index: KidneyCrop) -> tuple[list[dict[str, Any]], list[str]]:
    rows, reasons = [], []
    for found in kidneys:
        kidney = found.kidney
        row = {"patient_id": case, "study_id": _study(case), "side": kidney.side, "is_index": found is index}
        row |= measures(kidney)
        if kidney.lesions:
            try:
                row |= score(kidney.labels, kidney.spacing_mm, kidney.side, kidney.lesions[0].mask).row()
            except DataError as error:
                reasons.append(f"{case}: no R.E.N.A.L. score. {error}")
        rows.append(row)
    return rows, reasons


def _series_row(case: str, scan: tio.Image, *, acquired: bool) -> dict[str, Any]:
    width, height, depth = (float(value) for value in tio.ToCanonical()(scan).spacing)
    added = int(case.rpartition("_")[2]) >= FIRST_OF_2023
    return {
        "patient_id": case,
        "study_id": _study(case),
        "series_id": _series(case),
        "phase": PHASE,
        "phase_evidence": EVIDENCE_2023 if added else EVIDENCE,
        "intensity": "acquired" if acquired else "rendered",
        "spacing_d_mm": depth,
        "spacing_h_mm": height,
        "spacing_w_mm": width,
        # KiTS states no thickness; a rendered series has that of its protocol.
        "slice_thickness_mm": None if acquired else PROTOCOL.slice_thickness_mm,
    }
