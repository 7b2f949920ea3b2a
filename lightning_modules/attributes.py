"""Stage 1: a 3D encoder supervised by the attributes that radiology reports state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from lightning_modules.base import SuiteModule
from lightning_modules.errors import ModelError
from lightning_modules.losses.attributes import (
    AttributeTerms,
    PaddedHeads,
    TaskWeighting,
    Weighting,
    masked_cross_entropy,
)
from lightning_modules.losses.balance import MISSING, Balance, class_weights
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable
from lightning_modules.networks.encoders import EncoderConfig, build_encoder
from lightning_modules.optimization import OptimizerConfig

PHASES = 4
SCORED_FROM = 5
"""Kidneys of a class below which its AUC is not part of the mean: it would be noise."""


class AttributePretraining(SuiteModule):
    """Trains an encoder with one linear head per attribute (Tao et al., Nature Communications 2026).

    Args:
        encoder: Which encoder, and how large.
        class_counts: Training kidneys by attribute and class, linked from the DataModule; it also says which
            attributes and classes there are.
        contract: Preprocessing contract, linked from the DataModule.
        optimizer: Optimiser and schedule.
        balance: Weighting of classes in the loss.
        weighting: Weighting of attributes in the loss.
        phase_input: Whether the heads are told the contrast phase, by a learned shift of the feature; enhancement
            cannot be read without it, and the encoder need not spend features on telling phases apart.
        dropout: Dropout before the heads.
    """

    monitor: ClassVar[str] = "val/mean_auroc"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        encoder: EncoderConfig,
        class_counts: dict[str, dict[str, int]],
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        balance: Balance = "root",
        weighting: Weighting = "sum",
        phase_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        config = EncoderConfig.of(encoder)
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        # Plain data only, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "encoder": asdict(config),
                "class_counts": {name: dict(counts) for name, counts in class_counts.items()},
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "balance": balance,
                "weighting": weighting,
                "phase_input": phase_input,
                "dropout": dropout,
            }
        )
        self.classes = {name: list(counts) for name, counts in class_counts.items()}
        self.encoder = build_encoder(config)
        features = int(self.encoder.feature_dim)  # type: ignore[arg-type]
        sizes = [len(names) for names in self.classes.values()]
        self.padded = PaddedHeads(sizes)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(features, sum(sizes))
        self.phase = nn.Embedding(PHASES, features) if phase_input else None
        if self.phase is not None:
            nn.init.zeros_(self.phase.weight)
        weight = torch.zeros(len(sizes), max(sizes))
        for row, counts in enumerate(class_counts.values()):
            weight[row, : len(counts)] = class_weights(list(counts.values()), balance)
        self.register_buffer("weight", weight, persistent=False)
        self.weighting = TaskWeighting(len(sizes), weighting)
        self.val_scores = PatientScores(sum(sizes), len(sizes))
        self.test_scores = PatientScores(sum(sizes), len(sizes))

    def forward(self, image: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Logits of all attributes, one after the other.

        Args:
            image: [B, 1, D, H, W] in [0, 1].
            phase: int64 [B].

        Returns:
            float [B, number of classes of all attributes].
        """
        if image.dim() != 5:
            raise ModelError("Attribute pretraining takes one phase a sample; set data.phases to random or single.")
        feature = self.encoder(image)
        if self.phase is not None:
            feature = feature + self.phase(phase)
        logits: torch.Tensor = self.heads(self.dropout(feature))
        return logits

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> AttributeTerms:
        """Losses by attribute on the global batch."""
        weight: torch.Tensor = self.weight  # type: ignore[assignment]
        return masked_cross_entropy(self.padded(logits), target, weight)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, AttributeTerms]:
        """The loss to minimise, and its terms."""
        terms = self.terms(logits, target)
        rows = self.heads.weight[self.padded.index].masked_fill(self.padded.padding[..., None], 0.0)
        return self.weighting(terms, rows.detach()), terms

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Weighted masked cross-entropy of one batch."""
        loss, terms = self.loss(self(batch["image"], batch["phase"]), batch["attributes"])
        mean = terms.mean.sum() / terms.present.sum().clamp_min(1)
        self.log("train/loss", mean, batch_size=len(batch["attributes"]), prog_bar=True)
        return loss

    def _collect(self, batch: Mapping[str, Any], scores: PatientScores) -> torch.Tensor:
        logits: torch.Tensor = self(batch["image"], batch["phase"])
        scores.update(batch["kidney"], batch["sample"], logits, batch["attributes"])
        return logits

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.val_scores)

    def on_validation_epoch_end(self) -> None:
        """Log the AUC of every attribute and their mean."""
        self.val_table = table = self.val_scores.compute()
        self.val_scores.reset()
        values = attribute_auroc(table, self.padded.sizes)
        for name, value in zip(self.classes, values, strict=True):
            if not torch.isnan(value):
                self.log(f"val/auroc/{name}", value, rank_zero_only=False)
        self.log("val/mean_auroc", values.nanmean(), prog_bar=True, rank_zero_only=False)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.test_scores)

    def on_test_epoch_end(self) -> None:
        """Log the mean AUC over everyone tested."""
        self.test_table = table = self.test_scores.compute()
        self.test_scores.reset()
        self.log("test/mean_auroc", attribute_auroc(table, self.padded.sizes).nanmean(), rank_zero_only=False)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Class probabilities of all attributes, one after the other."""
        parts = self(batch["image"], batch["phase"]).split(self.padded.sizes, dim=1)
        return torch.cat([part.softmax(dim=1) for part in parts], dim=1)


def attribute_auroc(table: PatientTable, sizes: list[int]) -> torch.Tensor:
    """Area under the ROC curve of every attribute, macro one-vs-rest over its classes.

    Args:
        table: Logits [N, sum of sizes] and targets [N, A] by kidney.
        sizes: Number of classes of every attribute.

    Returns:
        float [A]; NaN where fewer than two classes are stated of at least `SCORED_FROM` kidneys each. Classes of
        fewer kidneys are left out, with their kidneys.
    """
    values = []
    for column, score in enumerate(table.score.double().split(sizes, dim=1)):
        target = table.target[:, column]
        counts = torch.bincount(target[target != MISSING], minlength=sizes[column])
        classes = torch.nonzero(counts >= SCORED_FROM)[:, 0]
        if len(classes) < 2:
            values.append(torch.tensor(float("nan"), device=score.device))
            continue
        kept = torch.isin(target, classes)
        code = torch.searchsorted(classes, target[kept])
        part = score[kept][:, classes]
        if len(classes) == 2:
            value = binary_auroc(part[:, 1] - part[:, 0], code, validate_args=False)
        else:
            value = multiclass_auroc(part.softmax(dim=1), code, len(classes), validate_args=False)
        values.append(value)
    return torch.stack([value.float() for value in values])
