"""Import of NIfTI scans that a CSV manifest lists, one row per series."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torchio as tio

from datamodules.cohort.cohort import CohortInfo
from datamodules.cohort.columns import PHASES, ROLES, Column, Table
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.importers.assemble import assemble, table_rows
from datamodules.importers.companions import read_patients, read_reports
from datamodules.importers.cut_study import Located, Reasons, SeriesInput, StudyInput
from datamodules.importers.delimited import read_table, records
from datamodules.importers.fingerprints import fingerprint
from datamodules.importers.locate import locate_box, locate_kidneys, parse_box
from datamodules.importers.mask_grids import fit
from datamodules.importers.masks import (
    KidneyMask,
    check_folder,
    files_of,
    find_segmentation,
    mapping,
    read_binary_masks,
    read_mask,
    read_segmentation,
)
from datamodules.importers.nifti.scan import read_nifti
from datamodules.importers.phases import guess_phase
from datamodules.importers.plan import CohortPlan
from datamodules.importers.pseudonyms import Naming, Pseudonyms, PublicNames
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.importers.study_days import ORIGIN_DATE, STUDY_DATE, check_dates, days_between
from datamodules.importers.unmatched import UNASSIGNED, CompanionTable
from datamodules.volumes.contract import PreprocessingContract

_PARTS = ("kidney", "kidney_left", "kidney_right", "tumor", "cyst")
_BOXES = tuple(f"{side}_box_{unit}" for side in ("left", "right") for unit in ("ras_mm", "voxel"))

_FILES = ("image", "mask", *(f"{part}_mask" for part in _PARTS))
MANIFEST = Table(
    "manifest",
    ("patient_id", "study_id", "series_id"),
    (
        Column("patient_id", "string", "Patient.", nullable=False),
        Column("study_id", "string", "Examination.", nullable=False),
        Column("series_id", "string", "Series.", nullable=False),
        Column("center", "string", "Centre of the patient.", nullable=False),
        Column("role", "string", "What the centre serves; the plan decides where it is left out.", choices=ROLES),
        Column("phase", "string", "Contrast phase; guessed from `description` where it is left out.", choices=PHASES),
        Column("description", "string", "What the scanner called the series."),
        Column("image", "string", "NIfTI file in HU, relative to the manifest.", nullable=False),
        Column("mask", "string", "Label map, relative to the manifest."),
        *(Column(f"{part}_mask", "string", f"Binary mask of {part}, relative to the manifest.") for part in _PARTS),
        *(Column(box, "string", "Box x y z x y z of one kidney.") for box in _BOXES),
        Column("slice_thickness_mm", "number", "Nominal slice thickness.", low=0.05, high=30),
        TABLES["studies"].column("days_from_origin"),
        Column(STUDY_DATE, "string", "Date of the examination, instead of its days; it is not kept."),
    ),
)
"""Columns of a manifest."""


@dataclass
class ManifestSource:
    """NIfTI scans listed in a CSV file, with masks or boxes that show the kidneys.

    Beside the manifest, `patients.csv` (clinical columns) and `reports.csv` are read where they exist.

    Args:
        manifest: CSV with the columns of `MANIFEST`; one row per series, paths relative to it.
        plan: Name, roles and splits of the cohort.
        labels: Meaning of the codes of `mask`: `kits` (1 kidney, 2 tumor, 3 cyst), `totalsegmentator`, or code: name.
        masks: Folder with one segmentation per series, named by series_id, study_id, or patient_id of a patient with
            one study: a label map `<name>.nii.gz` (nnU-Net) or a folder `<name>/` of binary masks (TotalSegmentator).
            Used for rows without a mask of their own.
        private: Folder outside the cohort with the key of the pseudonyms. Left out, the identifiers of the manifest
            are kept: they must then be pseudonyms already.
        out: Folder of the cohort, so that the key is never put inside; needed with `private`.

    Raises:
        DataError: if the manifest is refused, naming file, row, column, value found and value expected; or the key is.
    """

    manifest: Path
    plan: CohortPlan
    labels: str | dict[int, str] = "kits"
    masks: Path | None = None
    private: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        self.manifest = Path(self.manifest)
        mapping(self.labels)
        check_folder(self.masks)
        if self.private is not None and self.out is None:
            raise DataError("A private folder was given without the folder of the cohort; name it with `out`.")

    @functools.cached_property
    def _naming(self) -> Naming:
        if self.private is None or self.out is None:
            return PublicNames()
        return Pseudonyms.load(self.private, self.out)

    @functools.cached_property
    def _table(self) -> pd.DataFrame:
        frame = read_table(self.manifest, MANIFEST)
        _check_one(frame, "patient_id", "center", self.manifest.name)
        _check_one(frame, "study_id", "patient_id", self.manifest.name)
        check_dates(frame, STUDY_DATE, self.manifest.name)
        for column in ("days_from_origin", STUDY_DATE):
            if column in frame:
                _check_one(frame, "study_id", column, self.manifest.name)
        if "role" in frame:
            _check_one(frame, "center", "role", self.manifest.name)
        return frame

    @functools.cached_property
    def _raw_ids(self) -> dict[str, str]:
        """Identifier in the cohort to identifier in the manifest."""
        return {self._naming.patient(raw): raw for raw in sorted(self._table["patient_id"].unique())}

    def __getstate__(self) -> dict[str, Any]:
        """Workers read the tables for themselves: a source that carries them is slow to send for every patient."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""
        details = {"importer": "manifest", "labels": self.labels, "pseudonyms": self.private is not None}
        return self.plan.info("NIfTI scans of a CSV manifest", details)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and of the names, sizes and times of all files that the manifest names."""
        frame, base = self._table, self.manifest.parent
        columns = [name for name in _FILES if name in frame]
        named = [base / value for name in columns for value in frame[name].dropna()]
        folder = [] if self.masks is None else sorted(Path(self.masks).rglob("*.nii*"))
        tables = [self.manifest, base / "patients.csv", base / "reports.csv"]
        settings = {"plan": self.plan.settings, "labels": self.labels, "pseudonyms": self.private is not None}
        return fingerprint(settings, [*tables, *named, *folder])

    def patient_ids(self) -> list[str]:
        """All patients of the manifest, and an entry for each table with rows that match no scan."""
        _ = self._clinical, self._reports  # refused before the first scan is read
        return [*self._raw_ids, *self._unmatched]

    @functools.cached_property
    def _unmatched(self) -> dict[str, str]:
        """Entry of the import report to its reason, of every table with rows that match no scan."""
        tables = (("patients", "patient_id"), ("reports", "study_id"))
        beside = {kind: self.manifest.with_name(f"{kind}.csv") for kind, _ in tables}
        found = {
            table.entry: table.unmatched()
            for kind, column in tables
            if beside[kind].is_file()
            for table in [CompanionTable(kind, beside[kind], column, set(self._table[column]).__contains__)]
        }
        return {entry: reason for entry, reason in found.items() if reason is not None}

    @functools.cached_property
    def _clinical(self) -> dict[str, dict[str, Any]]:
        path = self.manifest.with_name("patients.csv")
        return read_patients(path) if path.is_file() else {}

    @functools.cached_property
    def _reports(self) -> dict[str, list[dict[str, Any]]]:
        path = self.manifest.with_name("reports.csv")
        return read_reports(path) if path.is_file() else {}

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Read one patient's series and cut its kidneys.

        Raises:
            SkipPatient: if no series can be used, with all reasons.
            DataError: if that is because of a damaged file.
        """
        if patient_id.startswith(UNASSIGNED):
            raise SkipPatient(self._unmatched[patient_id])
        raw = self._raw_ids[patient_id]
        frame = self._table[self._table["patient_id"] == raw]
        reasons = Reasons()
        studies: dict[str, list[SeriesInput]] = {}
        for line, row in zip(frame.index, records(frame), strict=True):
            series = self._series(row, f"{self.manifest.name}, row {line}", reasons)
            studies.setdefault(str(row["study_id"]), []).extend([] if series is None else [series])
        inputs = self._studies(raw, studies)
        center = str(frame["center"].iloc[0])
        return assemble(patient_id, center, inputs, self._clinical.get(raw, {}), contract, reasons)

    def _studies(self, raw: str, series: Mapping[str, Sequence[SeriesInput]]) -> list[StudyInput]:
        """Times and reports of a patient's studies, with their series where the scans are read."""
        frame = self._table[self._table["patient_id"] == raw]
        days = _study_days(frame, self._clinical.get(raw, {}).get(ORIGIN_DATE))
        return [
            StudyInput(self._naming.study(study), series.get(study, ()), self._reports.get(study, ()), days.get(study))
            for study in frame["study_id"].unique()
        ]

    @property
    def settings_print(self) -> str:
        """Hash of what makes another cohort of the same scans."""
        settings = {"name": self.plan.name, "labels": self.labels, "pseudonyms": self.private is not None}
        return fingerprint({"source": "manifest", **settings}, [])

    def patient_print(self, patient_id: str) -> str:
        """Hash of the rows and files that the volumes of a patient are from."""
        if patient_id.startswith(UNASSIGNED):
            return fingerprint({"reason": self._unmatched[patient_id]}, [])
        base = self.manifest.parent
        frame = self._table[self._table["patient_id"] == self._raw_ids[patient_id]]
        light = ("center", "role", "days_from_origin", STUDY_DATE)
        rows = records(frame.drop(columns=[name for name in light if name in frame]))
        files = [base / str(row[name]) for row in rows for name in _FILES if name in row]
        found = [self._segmentation(row) for row in rows]
        files += [file for path in found if path is not None for file in files_of(path)]
        return fingerprint({"labels": self.labels, "rows": rows}, files)

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows of a patient as the tables give them today, and notes."""
        raw = self._raw_ids[patient_id]
        center = str(self._table.loc[self._table["patient_id"] == raw, "center"].iloc[0])
        return table_rows(patient_id, center, cut, self._studies(raw, {}), self._clinical.get(raw, {}))

    def _series(self, row: Mapping[str, Any], where: str, reasons: Reasons) -> SeriesInput | None:
        phase, evidence = row.get("phase"), "manifest"
        if phase is None:
            guess = guess_phase(str(row.get("description", "")))
            phase, evidence = guess.phase, guess.evidence
        if phase is None:
            reasons.add(f"{where}: the contrast phase is unknown ({evidence}); state it in the column phase.")
            return None
        return SeriesInput(
            series_id=self._naming.series(str(row["series_id"])),
            where=where,
            phase=phase,
            phase_evidence=evidence,
            read=functools.partial(_read, self.manifest.parent / str(row["image"]), where),
            locate=functools.partial(self._locate, row, where) if self._has_place(row) else None,
            slice_thickness_mm=row.get("slice_thickness_mm"),
        )

    def _segmentation(self, row: Mapping[str, Any]) -> Path | None:
        if self.masks is None:
            return None
        studies = self._table.loc[self._table["patient_id"] == row["patient_id"], "study_id"].nunique()
        # A mask that is named by the patient says nothing of which study it was drawn on.
        keys = ("series_id", "study_id", "patient_id") if studies == 1 else ("series_id", "study_id")
        return find_segmentation(Path(self.masks), [str(row[key]) for key in keys])

    def _has_place(self, row: Mapping[str, Any]) -> bool:
        columns = ("mask", *(f"{part}_mask" for part in _PARTS), *_BOXES)
        return any(name in row for name in columns) or self._segmentation(row) is not None

    def _locate(self, row: Mapping[str, Any], where: str, image: tio.ScalarImage) -> Located:
        """The kidneys of one row: its mask first, then a segmentation program's, then its boxes."""
        mask = self._mask(row, where)
        if mask is not None:
            mask = fit(mask, image, where)
            kidneys, notes = locate_kidneys(mask, image, where)
            return kidneys, [*mask.notes, *notes]
        boxes = []
        for column in _BOXES:
            if column in row:
                box = parse_box(str(row[column]), f"{where}, column {column}")
                boxes.append(locate_box(column.split("_")[0], box, image, voxels=column.endswith("voxel")))
        return boxes, []

    def _mask(self, row: Mapping[str, Any], where: str) -> KidneyMask | None:
        base = self.manifest.parent
        if "mask" in row:
            return read_mask(base / str(row["mask"]), f"{where}, column mask", self.labels)
        parts = [(part, base / str(row[f"{part}_mask"])) for part in _PARTS if f"{part}_mask" in row]
        if parts:
            return read_binary_masks(parts, where)
        found = self._segmentation(row)
        return None if found is None else read_segmentation(found, f"{where}, segmentation", self.labels)

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers`, with the roles of the manifest, and `splits`."""
        roles = {}
        if "role" in self._table:
            stated = self._table.dropna(subset=["role"])
            roles = dict(stated[["center", "role"]].itertuples(index=False, name=None))
        return self.plan.finish(tables, roles)


def _study_days(frame: pd.DataFrame, origin_date: object) -> dict[str, int]:
    """Days from day 0 of every study that states them, or its date where day 0 has one."""
    days = {}
    for row in records(frame):
        found = row.get("days_from_origin", days_between(row.get(STUDY_DATE), origin_date))
        if found is not None:
            days[str(row["study_id"])] = int(found)
    return days


def _read(path: Path, where: str) -> tuple[tio.ScalarImage, list[str]]:
    return read_nifti(path, f"{where}, column image")


def _check_one(frame: pd.DataFrame, key: str, column: str, source: str) -> None:
    """Refuse a manifest that says two things of one patient, study or centre."""
    counts = frame.dropna(subset=[column]).groupby(key)[column].nunique()
    for name in counts.index[counts > 1][:1]:
        rows = frame[(frame[key] == name) & frame[column].notna()].drop_duplicates(column)
        raise DataError(
            f"{source}, rows {', '.join(map(str, rows.index))}, column {column}: different values were found for one "
            f"{key}; expected one."
        )
