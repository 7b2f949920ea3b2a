"""Downstream classification: an encoder, a head, and one score per patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from lightning_modules.base import SuiteModule
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable
from lightning_modules.networks.encoders import EncoderConfig, build_encoder
from lightning_modules.optimization import OptimizerConfig

MISSING = -100
Balance = Literal["none", "inverse", "root"]


def class_weights(counts: Sequence[int], balance: Balance) -> torch.Tensor:
    """Weight of each class in the loss, averaging 1 over the training patients.

    Args:
        counts: Training patients of each class.
        balance: `none`; `inverse` to the class's frequency; `root`, inverse to its square root.

    Returns:
        float32 [C].
    """
    frequency = torch.tensor(counts, dtype=torch.float32) / sum(counts)
    power = {"none": 0.0, "root": 0.5, "inverse": 1.0}[balance]
    weight = frequency.clamp_min(1e-6) ** -power
    normalised: torch.Tensor = weight / (weight * frequency).sum()
    return normalised


class Classification(SuiteModule):
    """Fine-tunes an encoder with a small head on one classification task.

    Args:
        encoder: Which encoder, and how large.
        class_counts: Training patients of each class, linked from the DataModule; their number is the number of
            classes.
        contract: Preprocessing contract, linked from the DataModule.
        optimizer: Optimiser and schedule.
        hidden: Width of the head's hidden layer; 0 for a linear head.
        dropout: Dropout before the last layer.
        balance: Weighting of classes in the loss.
    """

    monitor: ClassVar[str] = "val/auroc"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        encoder: EncoderConfig,
        class_counts: list[int],
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        hidden: int = 128,
        dropout: float = 0.1,
        balance: Balance = "root",
    ) -> None:
        config = EncoderConfig.of(encoder)
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        # Plain data only, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "encoder": asdict(config),
                "class_counts": list(class_counts),
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "hidden": hidden,
                "dropout": dropout,
                "balance": balance,
            }
        )
        classes = len(class_counts)
        self.encoder = build_encoder(config)
        self.head = _head(int(self.encoder.feature_dim), hidden, classes, dropout)  # type: ignore[arg-type]
        self.register_buffer("weight", class_weights(class_counts, balance), persistent=False)
        self.val_scores, self.test_scores = PatientScores(classes), PatientScores(classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images [B, 1, D, H, W] in [0, 1]."""
        logits: torch.Tensor = self.head(self.encoder(image))
        return logits

    def _loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight  # type: ignore[assignment]
        return functional.cross_entropy(logits.float(), target, weight, ignore_index=MISSING)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy of one batch."""
        loss = self._loss(self(batch["image"]), batch["target"])
        self.log("train/loss", loss, batch_size=len(batch["target"]), prog_bar=True)
        return loss

    def _collect(self, batch: Mapping[str, Any], scores: PatientScores) -> torch.Tensor:
        logits: torch.Tensor = self(batch["image"])
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
        return self(batch["image"]).softmax(dim=1)


def _head(features: int, hidden: int, classes: int, dropout: float) -> nn.Module:
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


def auroc(table: PatientTable) -> torch.Tensor:
    """Area under the ROC curve of a table, macro one-vs-rest for more than two classes; NaN when one is absent."""
    classes = table.score.shape[1]
    if len(torch.unique(table.target)) < classes:
        return torch.tensor(float("nan"), device=table.score.device)
    # Double precision: torchmetrics squashes logits, and large ones would tie in single.
    score = table.score.double()
    if classes == 2:
        return binary_auroc(score[:, 1] - score[:, 0], table.target, validate_args=False)
    return multiclass_auroc(score, table.target, classes, validate_args=False)
