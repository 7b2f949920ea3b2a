"""Import of DICOM folders: any nesting and file names, one series or many in a folder, several stacks in a series."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.engine import default_workers
from datamodules.errors import DataError
from datamodules.importers.assemble import assemble, table_rows
from datamodules.importers.boxes import Boxes, read_boxes
from datamodules.importers.builder import Progress
from datamodules.importers.companions import read_patients, read_reports
from datamodules.importers.cut_study import Reasons, SeriesInput, StudyInput
from datamodules.importers.dicom.index import DicomIndex, build_index, files_below
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.study_series import StudyReader
from datamodules.importers.dicom.study_time import dicom_study_days
from datamodules.importers.fingerprints import fingerprint
from datamodules.importers.masks import check_folder, files_of, find_segmentation, mapping
from datamodules.importers.phases import PhaseRule, read_phase_rules
from datamodules.importers.plan import CohortPlan
from datamodules.importers.pseudonyms import Naming, Pseudonyms, check_outside, private_folder
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.importers.study_days import ORIGIN_DATE
from datamodules.importers.unmatched import UNASSIGNED, CompanionTable
from datamodules.volumes.contract import PreprocessingContract

_HEADERS = 4
"""Version of the headers in an index; one of another version is read anew."""
_MOST_STACKS = 10
EMPTY_FOLDERS, DAMAGED_FILES, OTHER_FILES = (f"{UNASSIGNED}{kind}" for kind in ("folders", "files", "other-files"))
"""Entries of the import report for what belongs to no patient."""


@dataclass
class DicomSource:
    """CT series of a folder of DICOM files.

    Identifiers become pseudonyms; names, dates, institutions and paths are never read into a table or a message.

    Args:
        folder: Folder of DICOM files.
        plan: Name, roles and splits of the cohort.
        out: Folder of the cohort.
        center: Centre of patients whose centre the clinical table does not state.
        private: Folder outside the cohort for the key of the pseudonyms and the index of files; by default beside the
            cohort, under its name and `.private`.
        patients: Clinical table (CSV or TSV) with PatientID as `patient_id`. Its `origin_date` (YYYY-MM-DD) is
            subtracted from the date of each study; neither date is kept.
        reports: Reports (CSV or TSV) with StudyInstanceUID as `study_id`.
        phases: CSV with `phase` and `series_uid` (and `stack`) or `description` (a pattern with * and ?), which
            overrules what the headers say.
        masks: Folder with one segmentation per series: `<name>.nii.gz` (nnU-Net) or `<name>/` (TotalSegmentator),
            named by SeriesInstanceUID (with `#<stack>` for one of several stacks), or by the series' or study's
            identifier in the cohort, or the patient's where it has one study.
        labels: Meaning of the codes of a label map in `masks`: `kits`, `totalsegmentator`, or code: name.
        boxes: CSV with `series_uid`, `side` and `box_ras_mm`, for kidneys without a mask.
        minimum_slices: Least number of slices of a volume.
        burned_in: Take images whose headers say that text is burned into their pixels; the text may name the patient.
        withdrawn: Patients, by their identifier in the cohort, who are left out though their files are there; the index
            of files forgets them, too.

    The first use reads the header of every file; set `progress` before it to be called with (files done, files in
    all). It stays in this process: workers are handed the finished index.

    Raises:
        DataError: if the private folder lies inside the cohort, or an option is refused.
    """

    folder: Path
    plan: CohortPlan
    out: Path
    center: str = "center"
    private: Path | None = None
    patients: Path | None = None
    reports: Path | None = None
    phases: Path | None = None
    masks: Path | None = None
    labels: str | dict[int, str] = "kits"
    boxes: Path | None = None
    minimum_slices: int = 10
    burned_in: bool = False
    withdrawn: tuple[str, ...] = ()
    progress: Progress | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.folder, self.out = Path(self.folder), Path(self.out)
        self.withdrawn = tuple(map(str, self.withdrawn))
        self.private = private_folder(self.out) if self.private is None else Path(self.private)
        check_outside(self.private, self.out)
        mapping(self.labels)
        check_folder(self.masks)
        if self.minimum_slices < 3:
            raise DataError(f"minimum_slices={self.minimum_slices} was asked for; expected at least 3.")

    def __getstate__(self) -> dict[str, Any]:
        """Settings and the place of the index; workers read tables for themselves."""
        state = {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.init}
        return state | ({"_index": self._index} if "_index" in self.__dict__ else {})

    @property
    def _private(self) -> Path:
        return self.private if self.private is not None else private_folder(self.out)

    @functools.cached_property
    def _naming(self) -> Naming:
        return Pseudonyms.load(self._private, self.out)

    @functools.cached_property
    def _index(self) -> DicomIndex:
        settings = {"folder": str(self.folder), "names": type(self._naming).__name__}
        files = fingerprint(settings, files_below(self.folder))
        store = self._private / f"index-{files}-{_HEADERS}"
        return build_index(
            self.folder,
            store,
            self._naming,
            default_workers(),
            self.progress,
            fingerprint(settings, []),
            self.withdrawn,
        )

    @functools.cached_property
    def _rules(self) -> list[PhaseRule]:
        return [] if self.phases is None else read_phase_rules(Path(self.phases))

    @functools.cached_property
    def _boxes(self) -> Boxes:
        return {} if self.boxes is None else read_boxes(Path(self.boxes))

    @functools.cached_property
    def _reader(self) -> StudyReader:
        masks = None if self.masks is None else Path(self.masks)
        folder, naming, rules, boxes = self.folder, self._naming, self._rules, self._boxes
        return StudyReader(folder, naming, rules, boxes, masks, self.labels, self.minimum_slices, self.burned_in)

    @functools.cached_property
    def _clinical(self) -> Mapping[str, Mapping[str, Any]]:
        """Clinical values by the patient's identifier in the cohort."""
        rows = {} if self.patients is None else read_patients(Path(self.patients))
        return {self._naming.patient(raw): row for raw, row in rows.items()}

    @functools.cached_property
    def _reports(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {} if self.reports is None else read_reports(Path(self.reports))

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""
        return self.plan.info("DICOM folder", {"importer": "dicom", "pseudonyms": "HMAC-SHA256"})

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and of the names, sizes and times of all files."""
        tables = [Path(path) for path in (self.patients, self.reports, self.phases, self.boxes) if path is not None]
        folder = [] if self.masks is None else sorted(Path(self.masks).rglob("*.nii*"))
        settings = {
            "plan": self.plan.settings,
            "center": self.center,
            "labels": self.labels,
            "minimum_slices": self.minimum_slices,
            "files": self._index.folder.name.removesuffix(f"-{_HEADERS}"),
            **({"burned_in": True} if self.burned_in else {}),  # hashes of older imports stay
            **({"withdrawn": sorted(self.withdrawn)} if self.withdrawn else {}),
        }
        return fingerprint(settings, [*tables, *folder])

    def patient_ids(self) -> list[str]:
        """All patients, and an entry each for empty folders and for damaged files that name no patient.

        Raises:
            DataError: if a table is refused, or the folder holds no DICOM file.
        """
        _ = self._rules, self._boxes, self._clinical, self._reports
        summary = self._index.summary
        if not summary["patients"]:
            raise DataError(
                f"No DICOM file was found ({summary['other_files']} other files, {summary['empty_folders']} empty "
                f"folders, {summary['damaged_files']} damaged files); check the name of the source."
            )
        counts = {EMPTY_FOLDERS: "empty_folders", DAMAGED_FILES: "damaged_files", OTHER_FILES: "other_files"}
        extra = [entry for entry, count in counts.items() if summary[count]]
        return [*sorted(summary["patients"]), *extra, *self._unmatched]

    @functools.cached_property
    def _unmatched(self) -> dict[str, str]:
        """Entry of the import report to its reason, of every table with rows that match no scan."""
        summary, naming = self._index.summary, self._naming
        joined = (
            ("patients", self.patients, "patient_id", naming.patient, set(summary["patients"])),
            ("reports", self.reports, "study_id", naming.study, set(summary["studies"])),
            ("phases", self.phases, "series_uid", naming.series, set(summary["series"])),
            ("boxes", self.boxes, "series_uid", naming.series, set(summary["series"])),
        )
        found = {
            table.entry: table.unmatched()
            for kind, path, column, name, scans in joined
            if path is not None
            for table in [CompanionTable(kind, Path(path), column, functools.partial(_is_one_of, name, scans))]
        }
        return {entry: reason for entry, reason in found.items() if reason is not None}

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Read one patient's series and cut its kidneys.

        Raises:
            SkipPatient: if no series can be used, with all reasons.
            DataError: if that is because of a damaged file.
        """
        summary = self._index.summary
        if patient_id == EMPTY_FOLDERS:
            raise SkipPatient(f"{summary['empty_folders']} empty folders.")
        if patient_id == DAMAGED_FILES:
            why = "; ".join(f"{count} are {reason}" for reason, count in sorted(summary["reasons"].items()))
            raise DataError(f"{summary['damaged_files']} damaged DICOM files do not name their patient: {why}.")
        if patient_id == OTHER_FILES:
            raise SkipPatient(f"{summary['other_files']} of {summary['files']} files are no DICOM files.")
        if patient_id.startswith(UNASSIGNED):
            raise SkipPatient(self._unmatched[patient_id])
        headers = self._index.headers(patient_id)
        clinical = self._header_facts(headers) | dict(self._clinical.get(patient_id, {}))
        reasons = Reasons()
        if len(_sexes(headers)) > 1 and "sex" not in clinical:
            reasons.add(f"{patient_id}: its headers state two sexes; none was taken. Two patients may share a number.")
        inputs: list[StudyInput] = []
        used: dict[str, set[str]] = {}
        studies = sorted({header.study_uid for header in headers})
        for study_uid in studies:
            own = [header for header in headers if header.study_uid == study_uid]
            # A mask that is named by the patient says nothing of which study it was drawn on.
            names = [self._naming.study(study_uid), *([patient_id] if len(studies) == 1 else [])]
            series = self._reader.series(own, names, reasons, used)
            inputs.append(self._timed(study_uid, series, own[0], clinical))
        center = self._center(patient_id, clinical)
        record = assemble(patient_id, center, inputs, clinical, contract, reasons)
        return _with_account(record, {header.path for header in headers}, used)

    @property
    def settings_print(self) -> str:
        """Hash of what makes another cohort of the same files."""
        settings = {"labels": self.labels, "minimum_slices": self.minimum_slices, "burned_in": self.burned_in}
        return fingerprint({"source": type(self).__name__, "name": self.plan.name, **settings}, [])

    def patient_print(self, patient_id: str) -> str:
        """Hash of the settings and files that the volumes of a patient are from."""
        if patient_id not in self._index.summary["patients"]:
            return self.fingerprint  # an entry of what belongs to nobody
        headers = self._index.headers(patient_id)
        files = sorted({self.folder / header.path for header in headers})
        if self.masks is not None:
            names = {patient_id}
            for header in headers:
                uid, own = header.series_uid, self._naming.series(header.series_uid)
                names |= {uid, own, self._naming.study(header.study_uid)}
                names |= {f"{uid}#{number}" for number in range(1, _MOST_STACKS)}
                names |= {f"{own}-{number}" for number in range(1, _MOST_STACKS)}
            found = [find_segmentation(Path(self.masks), [name]) for name in sorted(names)]
            files += [file for path in found if path is not None for file in files_of(path)]
        files += [Path(table) for table in (self.phases, self.boxes) if table is not None]
        return fingerprint({"settings": self.settings_print, "headers": _HEADERS}, files)

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows of a patient as the tables give them today, and notes."""
        headers = self._index.headers(patient_id)
        clinical = self._header_facts(headers) | dict(self._clinical.get(patient_id, {}))
        first = {header.study_uid: header for header in reversed(headers)}
        inputs = [self._timed(uid, [], header, clinical) for uid, header in sorted(first.items())]
        return table_rows(patient_id, self._center(patient_id, clinical), cut, inputs, clinical)

    def _timed(
        self, uid: str, series: Sequence[SeriesInput], header: SliceHeader, clinical: Mapping[str, Any]
    ) -> StudyInput:
        """A study with its time and its reports."""
        path = self.folder / header.path
        days = dicom_study_days(path, clinical.get(ORIGIN_DATE), clinical.get("time_origin"))
        return StudyInput(self._naming.study(uid), series, self._reports.get(uid, ()), days)

    def _center(self, patient_id: str, clinical: Mapping[str, Any]) -> str:
        return str(clinical.get("center", self._center_of(patient_id)))

    def _center_of(self, patient_id: str) -> str:
        """Centre of a patient whose centre the clinical table does not state."""
        return self.center

    def _header_facts(self, headers: Sequence[SliceHeader]) -> dict[str, Any]:
        """Age and sex of the headers, where the clinical table does not state them: the age at the first study, and the
        sex where all of them state one."""
        ages = [header.age_years for header in headers if header.age_years is not None]
        sexes = _sexes(headers)
        facts: dict[str, Any] = {"age_years": min(ages)} if ages else {}
        return facts | ({"sex": next(iter(sexes))} if len(sexes) == 1 else {})

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers` and `splits`."""
        return self.plan.finish(tables)


def _sexes(headers: Sequence[SliceHeader]) -> set[str]:
    return {header.sex for header in headers if header.sex is not None}


def _is_one_of(name: Callable[[str], str], scans: set[str], raw: str) -> bool:
    return name(raw.partition("#")[0]) in scans


def _with_account(record: PatientRecord, files: set[str], used: Mapping[str, set[str]]) -> PatientRecord:
    """The record with a note of how many files of the patient are in no volume and show no mask."""
    names = {str(row["series_id"]) for row in record.rows["series"]} | {""}
    left = files - set().union(*(used.get(name, set()) for name in names))
    if not left:
        return record
    note = f"{len(left)} of {len(files)} files were not used."
    return replace(record, notes=(note, *record.notes), scan_notes=(note, *record.scan_notes))
