"""A cohort small enough for every test: a source that draws noise with one planted, learnable sign."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.cohort.splits import assign_folds, assign_splits
from datamodules.errors import DataError
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Mask, Volume

CONTRACT = PreprocessingContract(grid=(8, 12, 12))
TINY = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": None}},
}
"""Settings of a downstream run of seconds on the tiny cohort."""
CENTERS = {"P1": "pretrain", "I1": "internal", "I2": "internal", "E1": "external", "E2": "external"}
PHASES = ("arterial", "venous")
MALIGNANT, BENIGN = ("clear_cell_rcc", "Papillary RCC", "chromophobe"), ("oncocytoma", "angiomyolipoma")


def _nephrometry(number: int | None) -> dict[str, object]:
    """Points of a lesion, spread over the classes; none for a kidney without one."""
    if number is None:
        return {}
    points = {f"renal_{name}": 1 + (number + shift) % 3 for shift, name in enumerate("renl")}
    return {**points, "renal_a": ("anterior", "posterior", "x")[number % 3]}


@dataclass(frozen=True)
class TinySource:
    """Patients of five centres; malignant ones hold a bright block, so that a network can learn the task.

    Args:
        per_center: Patients per centre.
        seed: Seed; with the default one the small parts hold both classes, and half of the training labels suffices for
            malignancy but not for recurrence.
        evaluation: roles or folds.
        fail: Patients whose file is damaged.
        skip: Patients that cannot be used.
    """

    per_center: int = 12
    seed: int = 200
    evaluation: str = "roles"
    fail: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def info(self) -> CohortInfo:
        return CohortInfo("tiny", self.evaluation, "rendered", "Drawn by a test.", phantom=True, seed=self.seed)  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.per_center, self.seed, self.evaluation)).encode()).hexdigest()

    def patient_ids(self) -> list[str]:
        return [f"{center}-{number:03d}" for center in CENTERS for number in range(self.per_center)]

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        if patient_id in self.fail:
            raise DataError(f"{patient_id}: segmentation.nii.gz is truncated.")
        if patient_id in self.skip:
            raise SkipPatient("no kidney in the mask")
        center, number = patient_id.split("-")
        rng = np.random.default_rng([self.seed, *patient_id.encode()])
        malignant = int(number) % 3 != 0
        study = f"{patient_id}-s1"
        volumes, masks, kidneys = [], [], []
        for side in ("left", "right"):
            index = side == "left"
            for phase in PHASES:
                image = rng.normal(0, 20, contract.grid)
                if index and malignant:
                    image[2:6, 4:9, 4:9] += 120
                volumes.append(Volume(study, f"{study}-{phase}", side, phase, image.round().astype(np.int16)))
            labels = np.zeros(contract.grid, np.uint8)
            labels[2:6, 3:9, 3:9] = 1
            masks.append(Mask(study, side, labels))
            kidneys.append(
                {
                    "patient_id": patient_id,
                    "study_id": study,
                    "side": side,
                    "has_lesion": index,
                    "is_index": index,
                    **_nephrometry(int(number) if index else None),
                }
            )
        months, unclear = float(rng.exponential(30)), int(number) % 6 == 1
        of_cancer = bool(malignant) and int(number) % 5 != 2 and not unclear
        patient = {
            "patient_id": patient_id,
            "center": center,
            "age_years": 60.0,
            "sex": "female",
            "malignancy": int(malignant),
            "aggressiveness": int(number) % 2,
            "histology": (MALIGNANT if malignant else BENIGN)[int(number) // 3 % (3 if malignant else 2)],
            "isup_grade": 1 + int(number) // 2 % 4 if malignant else None,
            "os_months": months,
            "os_event": bool(rng.random() < 0.8) or of_cancer,
            # Of eight malignant patients one had metastases before, one recurs on day 0, two have no cause of death.
            "stage_pm": "1" if int(number) % 12 == 1 else "0",
            "rfs_months": min(months, float(number) % 7),
            "rfs_event": bool(malignant and int(number) % 4 != 1),
            "dss_months": None if unclear else months,
            "dss_event": None if unclear else of_cancer,
            "time_origin": "surgery",
        }
        series = [
            {
                "patient_id": patient_id,
                "study_id": study,
                "series_id": f"{study}-{phase}",
                "phase": phase,
                "intensity": "rendered",
            }
            for phase in PHASES
        ]
        return PatientRecord(patient_id, {"patients": [patient], "series": series, "kidneys": kidneys}, volumes, masks)

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        patients = tables["patients"]
        roles = dict(CENTERS) if self.evaluation == "roles" else dict.fromkeys(CENTERS, "internal")
        centers = pd.DataFrame([{"center": center, "role": role} for center, role in roles.items()])
        if self.evaluation == "folds":
            splits = assign_folds(patients, patients["center"], "malignancy", self.seed, stored=tables.get("splits"))
        else:
            splits = assign_splits(patients, centers, self.seed, tables.get("splits"))
        return {**tables, "centers": centers, "splits": splits}
