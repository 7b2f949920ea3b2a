"""What became of a hostile input: read right, refused or noted in words, silent, or a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import PatientRecord, SkipPatient, Source
from datamodules.importers.unmatched import UNASSIGNED
from datamodules.volumes.contract import PreprocessingContract

CONTRACT = PreprocessingContract(grid=(10, 14, 14))

Outcome = tuple[str, str]
Reader = Callable[[Path], dict[str, Any]]


def judge_source(name: str, source: Source, truth: dict[Any, Any]) -> Outcome:
    """What became of a case that a source reads."""
    said: list[str] = []
    volumes: dict[Any, Any] = {}
    try:
        for patient in source.patient_ids():
            try:
                record = source.load(patient, CONTRACT)
            except (DataError, SkipPatient) as reason:
                said.append(str(reason))
            else:
                said += [] if patient.startswith(UNASSIGNED) else list(record.notes)
                volumes |= contents(record)
    except DataError as reason:
        said.append(str(reason))
    except Exception as error:
        return "trace", f"{name}: {type(error).__name__}: {error}"
    if same(volumes, truth):
        return "right", name
    if any(len(text) > 10 for text in said):
        return "refused or noted", name
    return "silent", f"{name}: volumes {sorted(map(str, volumes))}"


def contents(record: PatientRecord) -> dict[Any, Any]:
    """Volumes and masks by side, whatever their identifiers."""
    found: dict[Any, Any] = {("volume", one.side): one.image for one in record.volumes}
    return found | {("mask", one.side): one.labels for one in record.masks}


def same(found: dict[Any, Any], truth: dict[Any, Any]) -> bool:
    """Whether volumes are equal up to the rounding of HU."""
    if found.keys() != truth.keys():
        return False
    return all(np.abs(found[key].astype(int) - truth[key].astype(int)).max() <= 1 for key in truth)


def judge_table(name: str, path: Path, read: Reader, truth: dict[str, Any]) -> Outcome:
    """What became of a table beside two scans; rows that match neither are named by the import."""
    head = "patient_id,study_id,series_id,center,phase,image,mask\n"
    rows = "".join(f"p{number},e{number},s{number},c,venous,ct.nii.gz,mask.nii.gz\n" for number in (1, 2))
    path.with_name("manifest.csv").write_text(head + rows)
    source = ManifestSource(path.with_name("manifest.csv"), CohortPlan("hostile"))
    try:
        said = [entry for entry in source.patient_ids() if entry.startswith(UNASSIGNED)]
        found = read(path)
    except DataError as reason:
        return "refused or noted", f"{name}: {reason}"
    except Exception as error:
        return "trace", f"{name}: {type(error).__name__}: {error}"
    if found == truth or (said and {key: found[key] for key in truth if key in found} == truth):
        return "right", name
    return ("refused or noted", f"{name}: {said}") if said else ("silent", f"{name}: {found}")
