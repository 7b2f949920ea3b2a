"""One cohort of many sources: hospitals, archives and challenges, each with its centre and its role."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.errors import DataError
from datamodules.importers.fingerprints import fingerprint
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import GrowingSource, PatientRecord, Source
from datamodules.importers.unmatched import UNASSIGNED
from datamodules.volumes.contract import PreprocessingContract


@dataclass(frozen=True)
class CohortSource:
    """One source of a cohort.

    Args:
        source: Where its patients come from.
        center: Centre of all its patients; where it is left out, the source says it.
        role: Role of its centres; where it is left out, the plan says it.
    """

    source: Source
    center: str | None = None
    role: str | None = None


@dataclass
class SeveralSources:
    """Several sources as one, which may grow: a source, a patient or a study is added, and the others stay as they are.

    Args:
        parts: Sources by name.
        plan: Name, roles and splits of the cohort.
        withdrawn: Patients, by their identifier in the cohort, who are left out whatever the sources hold.

    Raises:
        DataError: if two sources give one patient, or a source cannot be part of a cohort that grows.
    """

    parts: Mapping[str, CohortSource]
    plan: CohortPlan
    withdrawn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fixed = [name for name, part in self.parts.items() if not isinstance(part.source, GrowingSource)]
        if fixed:
            raise DataError(
                f"Source {fixed[0]} is generated; expected sources of scans. Draw it as a cohort of its own."
            )

    @functools.cached_property
    def _owners(self) -> dict[str, str]:
        """Patient, or entry of the import report, to the name of its source."""
        owners: dict[str, str] = {}
        for name, part in self.parts.items():
            for patient in part.source.patient_ids():
                known = f"{patient}-{name}" if patient.startswith(UNASSIGNED) else patient
                if known in owners:
                    raise DataError(
                        f"Patient {known} is in the sources {owners[known]} and {name}; expected each in one. Give one "
                        "of them a `private` folder of its own: the same number in two hospitals is two patients."
                    )
                owners[known] = name
        return owners

    def _of(self, patient_id: str) -> tuple[CohortSource, str]:
        name = self._owners[patient_id]
        return self.parts[name], patient_id.removesuffix(f"-{name}") if patient_id.startswith(
            UNASSIGNED
        ) else patient_id

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""
        infos = {name: part.source.info for name, part in self.parts.items()}
        rendered = any(info.intensity == "rendered" for info in infos.values())
        details = {"importer": "several", "sources": {name: info.details for name, info in infos.items()}}
        return self.plan.info(f"{len(infos)} sources", details, "rendered" if rendered else "acquired")

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and of the inputs of all sources."""
        parts = {name: [part.source.fingerprint, part.center, part.role] for name, part in self.parts.items()}
        return fingerprint({"plan": self.plan.settings, "parts": parts, "withdrawn": sorted(self.withdrawn)}, [])

    @property
    def settings_print(self) -> str:
        """Hash of what makes another cohort: its name and how it is evaluated."""
        kept = {"name": self.plan.name, "evaluation": self.plan.evaluation, "seed": self.plan.seed}
        return fingerprint({"source": "several", **kept}, [])

    def patient_ids(self) -> list[str]:
        """All patients of all sources, source by source, and the entries of what belongs to nobody."""
        return [patient for patient in self._owners if patient not in self.withdrawn]

    def patient_print(self, patient_id: str) -> str:
        """Hash of what the volumes of a patient are from."""
        part, own = self._of(patient_id)
        assert isinstance(part.source, GrowingSource)
        return fingerprint({"settings": part.source.settings_print, "own": part.source.patient_print(own)}, [])

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Read one patient.

        Raises:
            SkipPatient, DataError: as its source does.
        """
        part, own = self._of(patient_id)
        record = part.source.load(own, contract)
        _at_center(record.rows, part)
        return record

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows of a patient as the tables of its source give them today."""
        part, own = self._of(patient_id)
        assert isinstance(part.source, GrowingSource)
        rows, notes = part.source.refreshed(own, cut)
        _at_center(rows, part)
        return rows, notes

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers`, with the roles of their sources, and `splits`.

        Raises:
            DataError: if two sources give one centre two roles.
        """
        owners = tables["patients"]["patient_id"].map(self._owners)
        roles: dict[str, str] = {}
        for center, name in sorted(set(zip(tables["patients"]["center"], owners, strict=True))):
            role = self.parts[name].role
            if role is None:
                continue
            if roles.setdefault(center, role) != role:
                raise DataError(
                    f"Centre {center} has the roles {roles[center]} and {role} by two sources; expected one."
                )
        return self.plan.finish(tables, roles)


def _at_center(rows: Mapping[str, Any], part: CohortSource) -> None:
    if part.center is not None:
        for row in rows["patients"]:
            row["center"] = part.center
