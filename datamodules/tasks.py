"""The DataModule of the downstream tasks: the kidney of the index lesion of every patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from datamodules.base import VolumeDataModule
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ENDPOINTS
from datamodules.cohort.identity import LABELS, array_rows
from datamodules.cohort.label_fractions import MINIMUM_PER_CLASS, label_fraction, label_order
from datamodules.cohort.labels import Label, survival_arrays, targets, time_grid
from datamodules.cohort.study_times import index_kidneys
from datamodules.errors import DataError
from datamodules.loading.samples import Plan
from datamodules.volumes.shards import VolumeSet

Role = Literal["internal", "pretrain"]


class RoiDataModule(VolumeDataModule):
    """Streams the kidney of the index lesion of every patient, for one task, role and label fraction.

    Args:
        root: Folder of the cohort.
        label: What is predicted and for whom.
        fraction: Share of the training patients whose labels are used, in (0, 1]; 0 for a model that needs none.
        role: `internal` trains and selects on internal centres and tests on internal and external ones; `pretrain`
            trains and selects on pretraining centres and tests nobody.
        options: As `VolumeDataModule`; the seed also is that of the label fraction.
    """

    def __init__(
        self, root: Path, label: Label, fraction: float = 1.0, role: Role = "internal", **options: Any
    ) -> None:
        self.label, self.fraction, self.role = label, fraction, role
        super().__init__(root, **options)

    def described(self) -> dict[str, Any]:
        """Task, fraction and role."""
        return {"task": self.label.name, "fraction": self.fraction, "role": self.role}

    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """Eligible patients with a known label, and their index kidneys with the `target`, or the endpoints.

        Survival tasks train and select on patients whose own endpoint is known, and test those of whom any is.

        Raises:
            DataError: if the fold or the fraction is refused, or a patient has no volume of the index kidney.
        """
        patients = self._parts(cohort, targets(cohort, self.label)).reset_index(drop=True)
        patients.loc[(patients["target"] == MISSING) & (patients["part"] != "test"), "part"] = "unused"
        train = patients["part"] == "train"
        patients.loc[train & ~patients["patient_id"].isin(self._labelled(patients[train])), "part"] = "unused"
        kidneys = index_kidneys(cohort)[["patient_id", "study_id", "side"]]
        numbered = patients[["patient_id", "part"]].assign(row=range(len(patients)))
        kidneys = kidneys.merge(numbered, on="patient_id").sort_values(["patient_id", "study_id", "side"])
        kidneys = kidneys.reset_index(drop=True)
        self._check_volumes(cohort, volumes, patients, kidneys)
        rows = kidneys["row"].to_numpy(dtype="int64")
        survival = self.label.kind == "survival"
        values = survival_arrays(patients) if survival else {"target": patients["target"].to_numpy(dtype="int64")}
        return Plan(cohort, volumes, patients, kidneys, {name: array[rows] for name, array in values.items()})

    def stated(self) -> Mapping[str, Sequence[bytes]]:
        """The label, or the endpoints."""
        return {LABELS: array_rows(*(self.plan.fields[name] for name in sorted(self.plan.fields)))}

    @property
    def class_counts(self) -> list[int]:
        """Number of training patients of each class; of a survival task those censored and those with an event."""
        train = self.plan.patients[self.plan.patients["part"] == "train"]
        return [int((train["target"] == number).sum()) for number in range(len(self.label.classes) or 2)]

    @property
    def outcome(self) -> dict[str, Any]:
        """What a survival model must know of its task, as plain data without any patient; empty for other tasks.

        `endpoint` is what it is trained on, `cuts` the time grid in months, cut on training patients.
        """
        if self.label.kind != "survival":
            return {}
        name = self.label.endpoint
        train = self.plan.patients[self.plan.patients["part"] == "train"]
        values, column = survival_arrays(train), ENDPOINTS.index(name)
        cuts = time_grid(values["time_months"][:, column], values["event"][:, column], self.label.intervals)
        return {"endpoint": name, "cuts": cuts}

    @property
    def endpoints(self) -> dict[str, np.ndarray]:
        """`survival_arrays` of every row of the patient table, for a model that keeps risk sets over batches."""
        return survival_arrays(self.plan.patients)

    def _parts(self, cohort: Cohort, known: pd.DataFrame) -> pd.DataFrame:
        known = known.copy()
        parts = self.fold_parts(cohort, known)
        if parts is not None:
            return known.assign(part=parts)
        roles = ("pretrain",) if self.role == "pretrain" else ("internal", "external")
        known = known[known["role"].isin(roles)]
        return known.assign(part=known["split"])

    def _labelled(self, train: pd.DataFrame) -> list[str]:
        """The training patients within the label fraction."""
        outcomes = train["target"].astype(str).tolist()
        absent = [str(value) for number, value in enumerate(self.label.classes) if str(number) not in outcomes]
        if absent:
            raise DataError(
                f"Task {self.label.name}: nobody in the training split has {self.label.column} = {', '.join(absent)}; "
                f"expected at least {MINIMUM_PER_CLASS} patients of each class."
            )
        return labelled(train, self.label, self.fraction, self.seed)

    def _check_volumes(self, cohort: Cohort, volumes: VolumeSet, patients: pd.DataFrame, kidneys: pd.DataFrame) -> None:
        keys = ["patient_id", "study_id", "side"]
        seen = kidneys[keys].merge(volumes.index[keys], on=keys)
        without = sorted(set(patients["patient_id"]) - set(seen["patient_id"]))
        if without:
            raise DataError(
                f"{len(without)} patients of cohort {cohort.info.name} have no volume of their index kidney in "
                f"{volumes.folder.name}, the first is {without[0]}; run `make data-check` and import them again."
            )


def labelled(train: pd.DataFrame, label: Label, fraction: float, seed: int) -> list[str]:
    """The training patients within a label fraction, of one seeded order stratified by outcome and centre.

    Args:
        train: All training patients: patient_id, center, target.
        label: What is predicted.
        fraction: Share of them, in (0, 1], or 0 for nobody.
        seed: Seed of the order.

    Raises:
        DataError: if they are too few, naming the smallest fraction that works.
    """
    if fraction == 0:
        return []
    patient_ids, outcomes = train["patient_id"].tolist(), train["target"].astype(str).tolist()
    order = label_order(patient_ids, outcomes, train["center"].tolist(), seed, label.name)
    known = dict(zip(patient_ids, outcomes, strict=True))
    return label_fraction(order, known, fraction, survival=label.kind == "survival")
