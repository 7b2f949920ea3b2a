"""From the series of one patient to its record: regions of interest cut, rows filled, everything left out named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datamodules.cohort.study_times import before_treatment
from datamodules.importers.companions import INDEX_SIDE, patient_row, report_rows
from datamodules.importers.cut_study import Reasons, StudyInput, cut_study, region_center
from datamodules.importers.locate import draws_lesions
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import crop_roi
from datamodules.volumes.roi import Mask

NO_INDEX = "No lesion is known, so no kidney serves a downstream task; state `index_side` to change that."


def assemble(
    patient_id: str,
    center: str,
    studies: Sequence[StudyInput],
    clinical: Mapping[str, Any],
    contract: PreprocessingContract,
    reasons: Reasons,
) -> PatientRecord:
    """Cut the regions of interest of one patient and fill the rows of the tables.

    Args:
        patient_id: Identifier in the cohort.
        center: Centre of the patient.
        studies: What can be read.
        clinical: Known values of the table `patients`, and `index_side`.
        contract: Preprocessing contract.
        reasons: What was already left out; notes are added.

    Raises:
        SkipPatient: if nothing could be used, with all reasons.
        DataError: if nothing could be used because of a damaged file, with all reasons.
    """
    cuts = {study.study_id: cut_study(study, contract, reasons) for study in studies}
    used = {study_id: cut for study_id, cut in cuts.items() if cut.volumes}
    if not used:
        reasons.stop(patient_id)
    found: dict[str, Any] = {}
    masks = []
    for study_id, cut in used.items():
        seen = [kidney for kidney in cut.kidneys if any(volume.side == kidney.side for volume in cut.volumes)]
        found[study_id] = {
            "series": cut.rows,
            "kidneys": [
                {"side": kidney.side, "drawn": kidney.labels is not None, "measures": dict(kidney.measures)}
                for kidney in seen
            ],
            "draws_lesions": draws_lesions(cut.kidneys),
        }
        masks += [
            Mask(study_id, kidney.side, crop_roi(kidney.labels, region_center(kidney, cut.kidneys, contract), contract))
            for kidney in seen
            if kidney.labels is not None
        ]
    rows, notes = table_rows(patient_id, center, found, studies, clinical)
    volumes = [volume for cut in used.values() for volume in cut.volumes]
    every = (*reasons.texts, *notes)
    located = {study_id: tuple(cut.kidneys) for study_id, cut in used.items()}
    return PatientRecord(patient_id, rows, volumes, masks, every, found, tuple(reasons.texts), located)


def table_rows(
    patient_id: str,
    center: str,
    cut: Mapping[str, Any],
    studies: Sequence[StudyInput],
    clinical: Mapping[str, Any],
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Rows of the tables of one patient, from what was found in the scans and what the tables of today say.

    Args:
        patient_id: Identifier in the cohort.
        center: Centre of the patient.
        cut: By study: `series` (rows), `kidneys` (side, whether a mask draws it, measures) and `draws_lesions`.
        studies: Times and reports of the studies; their series are no matter.
        clinical: Known values of the table `patients`, and `index_side`.

    Returns:
        Rows by table, and notes.
    """
    notes = []
    days = {study.study_id: study.days_from_origin for study in studies if study.study_id in cut}
    before = before_treatment(days, clinical.get("treatment_days"))
    if len(before) < len(cut):
        notes.append(f"{len(cut) - len(before)} of {len(cut)} studies are not before treatment and enter no task.")
    index = clinical.get(INDEX_SIDE) or _index_side(one for study_id, one in cut.items() if study_id in before)
    if index is None:
        notes.append(NO_INDEX)
    rows: dict[str, list[dict[str, Any]]] = {
        "patients": [patient_row(patient_id, center, clinical)],
        "series": [{"patient_id": patient_id, **row} for one in cut.values() for row in one["series"]],
        "kidneys": [
            _kidney_row(patient_id, study_id, kidney, index if study_id in before else None, one["draws_lesions"])
            for study_id, one in cut.items()
            for kidney in one["kidneys"]
        ],
    }
    timed = [(study_id, day) for study_id, day in days.items() if day is not None]
    if timed:
        rows["studies"] = [{"patient_id": patient_id, "study_id": name, "days_from_origin": day} for name, day in timed]
    reports = [
        row
        for study in studies
        if study.study_id in cut
        for row in report_rows(patient_id, study.study_id, study.reports)
    ]
    if reports:
        rows["reports"] = reports
    return rows, notes


def _index_side(cuts: Iterable[Mapping[str, Any]]) -> str | None:
    """Side of the largest lesion over some studies."""
    sizes: dict[str, float] = {}
    for cut in cuts:
        for kidney in cut["kidneys"]:
            # A tumour comes before any cyst, however large.
            size = float(kidney["measures"].get("lesion_diameter_mm") or 0.0)
            size += 1e4 * (float(kidney["measures"].get("tumor_volume_ml") or 0.0) > 0.0)
            sizes[kidney["side"]] = max(size, sizes.get(kidney["side"], 0.0))
    if not sizes or max(sizes.values()) == 0.0:
        return None
    return max(sizes, key=lambda side: sizes[side])


def _kidney_row(
    patient_id: str, study_id: str, kidney: Mapping[str, Any], index: str | None, drawn: bool
) -> dict[str, Any]:
    row = {"patient_id": patient_id, "study_id": study_id, "side": kidney["side"], **kidney["measures"]}
    if drawn and kidney["drawn"] and "has_lesion" not in row:
        row |= {"has_lesion": False, "lesion_count": 0, "tumor_volume_ml": 0.0, "cyst_volume_ml": 0.0}
    if index == kidney["side"] and not drawn:
        row["has_lesion"] = True
    return {**row, "is_index": kidney["side"] == index}
