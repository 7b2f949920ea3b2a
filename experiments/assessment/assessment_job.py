"""The assessment of one patient as a folder: written, known again where nothing changed, or refused with its reason."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json
from datamodules.importers.fingerprints import fingerprint
from experiments.assessment.assessment_page import write_page
from experiments.assessment.assessor import SCHEMA, Assessed, Assessor
from experiments.assessment.dicom_objects import scan_headers
from experiments.assessment.dicom_regions import write_regions
from experiments.assessment.dicom_report import write_report
from experiments.assessment.kidney_maps import map_file
from experiments.assessment.located import found_by_totalsegmentator
from experiments.assessment.own_outlines import paints
from experiments.assessment.patient_files import PatientFiles
from experiments.assessment.task_models import Models
from experiments.attribution.shown_maps import write_map
from experiments.runs.console import say

RESULT, PAGE = "assessment.json", "assessment.html"
_OBJECTS = ("map_*.nii.gz", "regions_*.dcm", "lesions_*.dcm", "measurements.dcm")
_INPUT, _REFUSED = "input.json", "refused.json"


@dataclass(frozen=True)
class AssessmentJob:
    """What is done with every patient.

    Args:
        assessor: The models.
        chosen: How the models were chosen and a hash of them, by which results of others are told apart.
        masks: Masks of one patient; empty where each has its own.
        box: Where the kidneys are without a mask.
        labels: Codes of a label map.
        phase: Contrast phase that was stated.
        locate: Who shows where the kidneys are without mask and box.
        identified: Whether results name the patient's folder, and objects the patient.
        dicom: Whether DICOM objects are written.
    """

    assessor: Assessor
    chosen: Mapping[str, Any]
    masks: tuple[Path, ...]
    box: dict[str, str] | None
    labels: str | dict[int, str]
    phase: str | None
    locate: str
    identified: bool
    dicom: bool

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result follows from beside the files."""
        own = {"labels": self.labels, "phase": self.phase, "locate": self.locate, "box": self.box}
        return {"schema": SCHEMA, **own, "identified": self.identified, "dicom": self.dicom, **self.chosen}

    def run(self, patient: PatientFiles, folder: Path, *, again: bool) -> None:
        """Assess one patient into a folder, unless that is done.

        Args:
            patient: The files.
            folder: Folder of its results; `assessment.json` is written last.
            again: Whether a result of other files or models gives way to a new one.

        Raises:
            DataError: if the patient cannot be assessed, or the folder holds something else.
        """
        patient = PatientFiles(patient.folder, patient.image, self.masks or patient.masks)
        state = {"fingerprint": fingerprint(self.settings, patient.files)}
        if (folder / RESULT).is_file():
            known = _known(folder / _INPUT, *state) or {}
            same = known.get("fingerprint") == state["fingerprint"]
            if same and known.get("result") == _digest(_known(folder / RESULT)):
                return
            if not again and not same:
                raise DataError(
                    f"Folder {folder.name} holds the assessment of another scan, or by other models or settings; name "
                    "another one with OUT=, or delete it."
                )
            (folder / RESULT).unlink()
        if self.dicom and patient.dicom_folder is None:
            raise DataError("DICOM objects were asked for and the scan is NIfTI; leave DICOM= out.")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="located-") as scratch:
            by_package = self.locate == "totalsegmentator" and not patient.masks and not self.box
            shown = found_by_totalsegmentator(patient, Path(scratch)) if by_package else patient
            found = self.assessor(shown.image, shown.masks, self.box, self.labels, self.phase)
        if by_package:
            found.content["located_by"] = "TotalSegmentator"
        if self.identified:
            found.content["identified"] = {"folder": patient.folder.name}
        write_json(folder / _INPUT, {**state, "result": _digest(found.content)})
        source = patient.dicom_folder if self.dicom else None
        write_results(folder, found, self.assessor.models, source, identified=self.identified)
        say(f"Assessed in {time.monotonic() - started:.1f} s.")

    def refused(self, patient: PatientFiles, folder: Path) -> str | None:
        """Why a patient was refused before, where nothing has changed since."""
        known = _known(folder / _REFUSED, "reason")
        if known is None or known != self._refusal(patient, str(known["reason"])):
            return None
        return str(known["reason"])

    def refuse(self, patient: PatientFiles, folder: Path, reason: str) -> None:
        """Keep why a patient was refused."""
        write_json(folder / _REFUSED, self._refusal(patient, reason))

    def _refusal(self, patient: PatientFiles, reason: str) -> dict[str, str]:
        return {"reason": reason, "fingerprint": fingerprint({**self.settings, "refused": reason}, patient.files)}


def write_results(
    folder: Path, found: Assessed, models: Models, source: Path | None = None, *, identified: bool = False
) -> None:
    """Write an assessment: its DICOM objects, its page, and `assessment.json` last.

    The objects are what the encoder paints, the lesions, and their measurements.

    Args:
        folder: Folder to write.
        found: The assessment.
        models: Its models.
        source: Folder of the scan's DICOM files; None where no objects are asked for.
        identified: Whether the objects name the patient.

    Raises:
        DataError: if the source holds no CT with a frame of reference.
        ModelError: if objects are asked for and highdicom is not installed.
    """
    for pattern in _OBJECTS:  # those of an earlier result, which this one may not have
        for path in folder.glob(pattern):
            path.unlink()
    if source is not None:
        headers = scan_headers(source, identified=identified)
        if paints(models):
            write_regions(folder, headers, found.kidneys, models)
        write_report(folder, headers, found.content, found.outlines, models.sha256)
    for kidney in found.kidneys:
        for shown in found.maps.get(kidney.side, ()):
            if kidney.located is not None:
                write_map(folder / map_file(kidney.side, shown), shown, kidney, models.contract)
    write_page(folder / PAGE, found, models.contract)
    write_json(folder / RESULT, found.content)


def _digest(content: Any) -> str:
    """Hash of what a JSON file holds, by which a damaged result is known."""
    plain = json.loads(json.dumps(content, default=lambda value: value.item()))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _known(path: Path, *names: str) -> dict[str, Any] | None:
    """What an earlier call left; None where there is nothing, or it is damaged, so that it is made again."""
    try:
        return read_json_mapping(path, *names) if path.is_file() else None
    except DataError:
        return None
