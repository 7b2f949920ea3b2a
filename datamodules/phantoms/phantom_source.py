"""The demo cohort as a source of patients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.cohort.columns import SIDES
from datamodules.cohort.splits import assign_splits
from datamodules.importers.records import PatientRecord
from datamodules.phantoms.centers import CENTERS, center_sizes
from datamodules.phantoms.facts import Patient
from datamodules.phantoms.imaging import image_kidney
from datamodules.phantoms.patients import draw_patient
from datamodules.phantoms.reporting import write_report
from datamodules.phantoms.rows import Rows, patient_rows
from datamodules.phantoms.streams import stream
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Mask, Volume


@dataclass(frozen=True)
class DemoSource:
    """A seeded generator of multi-centre renal-mass patients; every one is a phantom.

    A patient depends on the seed and its pseudonym alone, so any number of processes in any order make the same
    cohort, and a larger cohort holds the patients of a smaller one.

    Args:
        patients: Number of patients, over 12 centres.
        seed: Seed of patients and splits.
        pretraining: Further patients of the pretraining centres.
        external: Further patients of the external centres.

    Raises:
        DataError: if the number is too small to serve every centre.
    """

    patients: int = 1000
    seed: int = 42
    pretraining: int = 0
    external: int = 0

    def __post_init__(self) -> None:
        _ = self.sizes

    @property
    def sizes(self) -> dict[str, int]:
        """Number of patients of every centre."""
        return center_sizes(self.patients, self.pretraining, self.external)

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""
        total = self.patients + self.pretraining + self.external
        further = {"pretraining": self.pretraining, "external": self.external}
        return CohortInfo(
            name="demo",
            evaluation="roles",
            intensity="rendered",
            source=f"{total} phantoms made by the suite's generator with seed {self.seed}; no real patient.",
            phantom=True,
            seed=self.seed,
            details={"patients": self.patients, **further, "centers": self.sizes},
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the settings, the generator's code and its phrases."""
        digest = hashlib.sha256(f"{self.patients}+{self.pretraining}+{self.external}/{self.seed}".encode())
        here = Path(__file__).parent
        files = [
            *here.rglob("*.py"),
            *here.rglob("*.yaml"),
            here.parent / "anatomy" / "rendering.py",
            here.parent / "anatomy" / "appearance.py",
        ]
        for path in sorted(files):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def patient_ids(self) -> list[str]:
        """All patients, centre by centre."""
        sizes = self.sizes
        return [f"{center.name}-{number:04d}" for center in CENTERS for number in range(1, sizes[center.name] + 1)]

    def patient(self, patient_id: str) -> Patient:
        """The facts of one patient."""
        return draw_patient(self.seed, patient_id)

    def rows(self, patient: Patient) -> Rows:
        """The rows of one patient, without rendering an image."""
        return patient_rows(patient, write_report(patient, stream(self.seed, patient.patient_id, "report")))

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Generate one patient: rows, and every series of both kidneys on the grid of the contract.

        Raises:
            DataError: if the pseudonym names no centre of the cohort.
        """
        patient = self.patient(patient_id)
        volumes, masks = [], []
        for side in SIDES:
            images, labels = image_kidney(patient.anatomy, side, patient.series, contract)
            volumes += [
                Volume(patient.study_id, series.series_id, side, series.phase, image)
                for series, image in zip(patient.series, images, strict=True)
            ]
            masks.append(Mask(patient.study_id, side, labels))
        return PatientRecord(patient_id, self.rows(patient), tuple(volumes), tuple(masks))

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables of the cohort without any image, for checks of the generator."""
        parts = [self.rows(self.patient(patient_id)) for patient_id in self.patient_ids()]
        return self.finish({name: pd.DataFrame([row for part in parts for row in part[name]]) for name in parts[0]})

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add `centers` and `splits`."""
        present = set(tables["patients"]["center"])
        rows = [{"center": center.name, "role": center.role} for center in CENTERS if center.name in present]
        centers = pd.DataFrame(rows)
        splits = assign_splits(tables["patients"], centers, self.seed, tables.get("splits"))
        return {**tables, "centers": centers, "splits": splits}
