"""Scores by patient: what every metric of a downstream task is computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PatientTable(NamedTuple):
    """One row per patient (or kidney), sorted by its number."""

    patient: torch.Tensor  # int64 [N]
    score: torch.Tensor  # float32 [N, C], mean over the patient's samples
    target: torch.Tensor  # int64 [N], or [N, A] for several targets


class PatientScores(Metric):
    """Collects (patient, sample, score, target) over batches and ranks, and averages to one row per patient.

    Phases and studies of a patient are averaged, since the patient is the unit of statistics; samples that a
    distributed loader repeats are dropped by their number. Any torchmetrics function can be applied to the result.
    Where the kidney is the unit, its number stands for the patient's.

    Args:
        classes: Number of scores per sample.
        targets: Number of targets per sample; 0 for a single one.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    def __init__(self, classes: int, targets: int = 0) -> None:
        super().__init__()
        self.classes, self.targets = classes, targets
        for name in ("patient", "sample", "score", "target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Undo what torchmetrics does to the table of a single patient: it squeezes tensors of one element."""
        wrapped = super()._wrap_compute(compute)

        def whole(*args: Any, **kwargs: Any) -> PatientTable:
            table: PatientTable = wrapped(*args, **kwargs)
            shape = (-1, self.targets) if self.targets else (-1,)
            return PatientTable(
                table.patient.reshape(-1), table.score.reshape(-1, self.classes), table.target.reshape(shape)
            )

        return whole

    def update(self, patient: torch.Tensor, sample: torch.Tensor, score: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch.

        Args:
            patient: int64 [B], number of the patient.
            sample: int64 [B], number of the sample; the same number is counted once.
            score: float [B, C].
            target: int64 [B] or [B, A], equal for all samples of a patient.
        """
        self.patient.append(patient)  # type: ignore[operator, union-attr]
        self.sample.append(sample)  # type: ignore[operator, union-attr]
        self.score.append(score.float())  # type: ignore[operator, union-attr]
        self.target.append(target)  # type: ignore[operator, union-attr]

    def compute(self) -> PatientTable:
        """Average the samples of every patient.

        Returns:
            The table; empty when nothing was added.
        """
        if not len(self.patient):  # type: ignore[arg-type]
            empty = torch.zeros(0, dtype=torch.int64, device=self.device)
            none = torch.zeros((0, self.targets) if self.targets else 0, dtype=torch.int64, device=self.device)
            return PatientTable(empty, torch.zeros(0, self.classes, device=self.device), none)
        patient, sample = dim_zero_cat(self.patient), dim_zero_cat(self.sample)  # type: ignore[arg-type]
        score, target = dim_zero_cat(self.score), dim_zero_cat(self.target)  # type: ignore[arg-type]
        # Sorting by sample first makes the sums independent of the order in which ranks and batches arrived.
        sample, first = _first_of_each(sample)
        patient, score, target = patient[first], score[first], target[first]
        unique, row = torch.unique(patient, return_inverse=True)
        sums = torch.zeros(len(unique), self.classes, dtype=torch.float64, device=score.device)
        sums.index_add_(0, row, score.double())
        counts = torch.bincount(row, minlength=len(unique)).unsqueeze(1)
        targets = target.new_empty(len(unique), *target.shape[1:])
        targets[row] = target
        return PatientTable(unique, (sums / counts).float(), targets)


def _first_of_each(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted distinct values and where each stands first."""
    ordered, order = torch.sort(values, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep], order[keep]
