"""Import of the kidney collections of The Cancer Imaging Archive: DICOM as downloaded, with their clinical tables."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.errors import DataError
from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.fingerprints import fingerprint
from datamodules.importers.pseudonyms import Naming, PublicNames
from datamodules.importers.tcia.clinical_join import Recurrence, read_tcia_clinical

COLLECTIONS = {
    "C4KC-KiTS": "10.7937/TCIA.2019.IX49E8NX",
    "TCGA-KIRC": "10.7937/K9/TCIA.2016.V6PBVTDR",
    "TCGA-KIRP": "10.7937/K9/TCIA.2016.ACWOGBEF",
    "TCGA-KICH": "10.7937/K9/TCIA.2016.YU3RBCZN",
    "CPTAC-CCRCC": "10.7937/K9/TCIA.2018.OBLAMN27",
}
"""Collections and their DOI."""


@dataclass
class TciaSource(DicomSource):
    """One TCIA collection as an external centre.

    The archive's identifiers are public and are kept, so that a cohort can be compared with other work; the files
    were de-identified by the archive. DICOM SEG objects (C4KC-KiTS) show the kidneys; for the other collections run
    a segmentation program and name its folder with `masks`.

    Args:
        collection: C4KC-KiTS, TCGA-KIRC, TCGA-KIRP, TCGA-KICH or CPTAC-CCRCC.
        clinical: Clinical tables as CSV or TSV, known by their columns; see `read_tcia_clinical`.
        recurrence: What RFS is in TCGA: `pfi` (progression-free interval) or `dfi` (disease-free interval).
        centers: `collection`, or `site` for one centre per tissue source site of TCGA (the second part of a barcode).

    Raises:
        DataError: if the collection is unknown, or an option is refused.
    """

    collection: str = ""
    clinical: tuple[Path, ...] = ()
    recurrence: Recurrence = "pfi"
    centers: Literal["collection", "site"] = "collection"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.clinical = tuple(Path(path) for path in self.clinical)
        if self.collection not in COLLECTIONS:
            raise DataError(f"Collection {self.collection!r} is unknown; expected one of {', '.join(COLLECTIONS)}.")

    @functools.cached_property
    def _naming(self) -> Naming:
        return PublicNames()

    @functools.cached_property
    def _clinical(self) -> Mapping[str, Mapping[str, Any]]:
        stated = super()._clinical
        published = read_tcia_clinical(self.clinical, self.recurrence)
        return {patient: {**published.get(patient, {}), **stated.get(patient, {})} for patient in {*published, *stated}}

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""
        details = {
            "importer": "tcia",
            "collection": self.collection,
            "doi": COLLECTIONS[self.collection],
            "rfs": f"TCGA-CDR {self.recurrence.upper()} without metastatic patients",
            "grade": "Fuhrman grades of TCGA stand in isup_grade" if "TCGA" in self.collection else "as published",
        }
        return self.plan.info(f"TCIA collection {self.collection}", details)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and of the names, sizes and times of all files."""
        settings = {
            "dicom": super().fingerprint,
            "collection": self.collection,
            "recurrence": self.recurrence,
            "centers": self.centers,
            "plan": self.plan.settings,
        }
        return fingerprint(settings, self.clinical)

    def _center_of(self, patient_id: str) -> str:
        parts = patient_id.split("-")
        if self.centers == "site" and parts[0] == "TCGA" and len(parts) > 2:
            return f"{self.collection}-{parts[1]}"
        return self.collection

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers`, external unless the plan gives them another role, and `splits`."""
        return self.plan.finish(tables, dict.fromkeys(tables["patients"]["center"], "external"))
