"""Downstream classification: an encoder, a head, and one score per patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from lightning_modules.core.distributed import number_of_ranks, sum_over_ranks
from lightning_modules.core.missing import MISSING
from lightning_modules.downstream.task import Downstream
from lightning_modules.losses.balance import Balance, class_weights
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable


class Classification(Downstream):
    """Fine-tunes an encoder with a small head on one classification task.

    Args:
        class_counts: Training patients of each class, linked from the DataModule; their number is the number of
            classes.
        balance: Weighting of classes in the loss.
        downstream: What `Downstream` takes besides.
    """

    monitor: ClassVar[str] = "val/auroc"
    mode: ClassVar[str] = "max"

    def __init__(self, *, class_counts: list[int], balance: Balance = "root", **downstream: Any) -> None:
        described = {"class_counts": list(class_counts), "balance": balance}
        classes = len(class_counts)
        super().__init__(outputs=classes, described=described, **downstream)
        self.register_buffer("weight", class_weights(class_counts, balance), persistent=False)
        self.val_scores, self.test_scores = PatientScores(classes), PatientScores(classes)

    def _loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Class-weighted cross-entropy over the global batch: this rank's share times the number of ranks."""
        weight: torch.Tensor = self.weight  # type: ignore[assignment]
        logits = logits.float()
        if number_of_ranks() == 1:
            return functional.cross_entropy(logits, target, weight, ignore_index=MISSING)
        own = functional.cross_entropy(logits, target, weight, ignore_index=MISSING, reduction="sum")
        total = (weight[target.clamp_min(0)] * (target != MISSING)).sum()
        return own * number_of_ranks() / sum_over_ranks(total)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy of one batch."""
        loss = self._loss(self.outputs(batch), batch["target"])
        # The mean over ranks is the loss of the global batch, and a rank's share means nothing alone.
        self.log("train/loss", loss, batch_size=1, prog_bar=True, sync_dist=True)
        return loss

    def _collect(self, batch: Mapping[str, Any], scores: PatientScores) -> torch.Tensor:
        logits = self.outputs(batch)
        # Logits are averaged over a patient's phases, as the reference fuses them.
        scores.update(batch["patient"], batch["sample"], logits, batch["target"])
        return logits

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores and log the loss."""
        logits = self._collect(batch, self.val_scores)
        loss = self._loss(logits, batch["target"])
        self.log("val/loss", loss, batch_size=len(batch["target"]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the patient-level AUC."""
        self.val_table = table = self.val_scores.compute()
        self.val_scores.reset()
        self.log("val/auroc", auroc(table), prog_bar=True, rank_zero_only=False)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.test_scores)

    def on_test_epoch_end(self) -> None:
        """Log the patient-level AUC over everyone tested; the tables by centre are made from the predictions."""
        self.test_table = table = self.test_scores.compute()
        self.test_scores.reset()
        self.log("test/auroc", auroc(table), rank_zero_only=False)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Class probabilities [B, C] of one batch."""
        return self.outputs(batch).softmax(dim=1)

    def prediction_columns(self, score: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        """The probability of each class: the softmax of a patient's mean logits."""
        probability = score.double().softmax(dim=1)
        return {f"score_{name}": probability[:, number] for number, name in enumerate(names)}


def auroc(table: PatientTable) -> torch.Tensor:
    """Area under the ROC curve of a table, macro one-vs-rest for more than two classes; NaN when one is absent."""
    classes = table.score.shape[1]
    if len(torch.unique(table.target)) < classes:
        return torch.tensor(float("nan"), device=table.score.device)
    # Double precision: torchmetrics squashes logits, and large ones would tie in single.
    score = table.score.double()
    if classes == 2:
        return binary_auroc(score[:, 1] - score[:, 0], table.target, validate_args=False)
    return multiclass_auroc(score.softmax(dim=1), table.target, classes, validate_args=False)
