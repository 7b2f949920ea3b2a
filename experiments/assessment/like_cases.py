"""The patients of the pretraining centres whose index kidney looks most alike to the encoder, with their facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler, normalize

from datamodules.augmentation import AugmentationConfig
from datamodules.base import VolumeDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.study_times import index_kidneys
from datamodules.errors import DataError
from datamodules.loading.samples import Plan
from datamodules.volumes.shards import VolumeSet
from experiments.assessment.task_models import Models
from experiments.encoders.features import patient_features
from experiments.runs.folders import FEATURES, cache_folder
from experiments.statistics.retrieval import nearest

FACTS = (
    "histology", "malignancy", "aggressiveness", "isup_grade", "stage_pt", "tumor_size_mm", "rfs_months", "rfs_event",
    "os_months", "os_event",
)  # fmt: skip
"""Columns of `patients` that are told of a case; no identifier, age or sex."""


@dataclass(frozen=True)
class Cases:
    """Patients to compare with.

    Args:
        scaler: What standardised their features.
        vectors: Unit vectors of their standardised features, float64 [N, F].
        facts: What is told of each, in the same order.
    """

    scaler: StandardScaler
    vectors: np.ndarray
    facts: pd.DataFrame

    def nearest(self, feature: torch.Tensor, count: int) -> list[dict[str, Any]]:
        """The nearest cases of one kidney, the nearest first.

        Args:
            feature: float [1, F].
            count: Number of cases.

        Returns:
            `cosine` of the standardised features and the facts that are known, without any identifier.
        """
        places, cosines = nearest(normalize(self.scaler.transform(feature.numpy())), self.vectors, count)
        rows = self.facts.iloc[places[0]].to_dict("records")
        return [
            {"cosine": float(cosine), **{str(name): _plain(value) for name, value in row.items() if pd.notna(value)}}
            for row, cosine in zip(rows, cosines[0], strict=True)
        ]


class IndexKidneyDataModule(VolumeDataModule):
    """The index kidneys of everybody that models may have learned from, whatever is known of them.

    With roles those are the patients of pretraining centres, with folds those of the other folds.
    """

    def described(self) -> dict[str, Any]:
        """What it holds."""
        return {"kidneys": "index"}

    def stated(self) -> dict[str, list[bytes]]:
        """Nothing beside the volumes."""
        return {}

    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """The patients, all in one part.

        Raises:
            DataError: if nobody is left, or the fold is refused.
        """
        patients = cohort.patients()
        parts = self.fold_parts(cohort, patients)
        kept = patients["role"] == "pretrain" if parts is None else parts != "test"
        patients = patients[kept].reset_index(drop=True).assign(part="train")
        index = index_kidneys(cohort)
        rows = patients[["patient_id", "part"]].assign(row=range(len(patients)))
        kidneys = index.merge(rows, on="patient_id").sort_values(["patient_id", "study_id", "side"])
        if kidneys.empty:
            raise DataError(
                f"Cohort {cohort.info.name} has nobody to compare a patient with: no index kidney of a pretraining "
                "centre or another fold; leave cases out with CASES=false."
            )
        return Plan(cohort, volumes, patients, kidneys.reset_index(drop=True), {})


def cases_of(cohort: Cohort, models: Models, runs: Path, fold: int | None) -> Cases:
    """The cases of a cohort: of its pretraining centres, or of the training part of a fold.

    Args:
        cohort: The cohort.
        models: The encoder that reads them.
        runs: Folder of all runs, where features are kept.
        fold: Fold of a cohort with folds.

    Raises:
        DataError: if nobody is in them, or a volume is damaged.
    """
    module = IndexKidneyDataModule(
        cohort.root,
        contract=models.contract,
        augmentation=AugmentationConfig(crop=models.crop),
        fold=fold,
    )
    ((rows, feature),) = patient_features(models.encoder, module, ("train",), cache_folder(runs, cohort, FEATURES))
    scaler = StandardScaler().fit(feature)
    names = module.plan.patients["patient_id"].to_numpy()[rows]
    patients = cohort.patients().set_index("patient_id").loc[names]
    known = patients[[name for name in FACTS if name in patients]].reset_index(drop=True)
    index = module.plan.kidneys.drop_duplicates("patient_id").set_index("patient_id").loc[names]
    points = [f"renal_{letter}" for letter in "renl"]
    if set(points) <= set(index):
        known["renal_total"] = index[points].sum(axis=1, min_count=len(points)).to_numpy()
    return Cases(scaler, normalize(scaler.transform(feature)), known)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
