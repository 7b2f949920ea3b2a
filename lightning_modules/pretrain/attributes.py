"""Stage 1: a 3D encoder supervised by the attributes that radiology reports state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from lightning_modules.core.distributed import gather_rows
from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.precision import full_precision
from lightning_modules.core.suite_module import SuiteModule
from lightning_modules.losses.anatomy import anatomy_loss, lesion_dice
from lightning_modules.losses.attribute_loss import (
    AttributeTerms,
    PaddedHeads,
    TaskWeighting,
    Weighting,
    masked_cross_entropy,
)
from lightning_modules.losses.balance import Balance, class_weights
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder, joins_phases
from lightning_modules.networks.image.regions import RegionEncoder, Seen
from lightning_modules.pretrain.refit import refit

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
            cannot be read without it, and the encoder need not spend features on telling phases apart. An encoder
            that joins phases knows them.
        dropout: Dropout before the heads.
        anatomy_weight: Weight of the anatomy's loss beside that of the attributes; 0 for an encoder that paints none,
            as `resnet`, or data without masks (`data.anatomy`).
        refit_steps: Steps at the end of the last epoch in which trunk and heads are fitted once more, as of
            `pretrain.refit`, on what a region encoder read in it; 0 for none, as for another encoder.

    Raises:
        ModelError: if anatomy or a refit is asked of an encoder that has no regions.
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
        anatomy_weight: float = 0.0,
        refit_steps: int = 0,
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
                "anatomy_weight": anatomy_weight,
                "refit_steps": refit_steps,
            }
        )
        self.classes = {name: list(counts) for name, counts in class_counts.items()}
        self.encoder = build_encoder(config)
        self.anatomy_weight = anatomy_weight
        if anatomy_weight < 0 or (anatomy_weight > 0 and not isinstance(self.encoder, RegionEncoder)):
            raise ModelError(
                f"anatomy_weight={anatomy_weight:g} was found with encoder.network={config.network}; only `regions` "
                "paints anatomy, at a weight of 0 or more."
            )
        if refit_steps < 0 or (refit_steps > 0 and not isinstance(self.encoder, RegionEncoder)):
            raise ModelError(
                f"refit_steps={refit_steps} was found with encoder.network={config.network}; only `regions` has "
                "readings to fit on, in 0 or more steps."
            )
        self.refit_steps = refit_steps
        self._read: list[tuple[torch.Tensor, torch.Tensor]] = []
        features = int(self.encoder.feature_dim)  # type: ignore[arg-type]
        sizes = [len(names) for names in self.classes.values()]
        self.padded = PaddedHeads(sizes)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(features, sum(sizes))
        self.phase = nn.Embedding(PHASES, features) if phase_input and not joins_phases(self.encoder) else None
        if self.phase is not None:
            nn.init.zeros_(self.phase.weight)
        weight = torch.zeros(len(sizes), max(sizes))
        for row, counts in enumerate(class_counts.values()):
            weight[row, : len(counts)] = class_weights(list(counts.values()), balance)
        self.register_buffer("weight", weight, persistent=False)
        self.weighting = TaskWeighting(len(sizes), weighting)
        self.val_scores = PatientScores(sum(sizes), len(sizes))
        self.test_scores = PatientScores(sum(sizes), len(sizes))
        self.val_dice, self.test_dice = PatientScores(1), PatientScores(1)

    def forward(self, image: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Logits of all attributes, one after the other.

        Args:
            image: [B, 1, D, H, W] in [0, 1], or [B, 4, D, H, W] of an encoder that joins phases.
            phase: int64 [B].

        Returns:
            float [B, number of classes of all attributes].
        """
        return self.read(image, phase)[0]

    def read(self, image: torch.Tensor, phase: torch.Tensor) -> tuple[torch.Tensor, Seen | None]:
        """Logits of all attributes as `forward` gives them, and what a region encoder sees."""
        if image.dim() != 5:
            raise ModelError(
                "Attribute pretraining takes one image a sample; set data.phases to random, single or joined."
            )
        seen = self.encoder.see(image) if isinstance(self.encoder, RegionEncoder) else None
        feature = self.encoder(image) if seen is None else seen.feature
        with full_precision(feature.device):
            feature = feature.to(self.heads.weight.dtype)
            if self.phase is not None:
                feature = feature + self.phase(phase)
            logits: torch.Tensor = self.heads(self.dropout(feature))
        return logits, seen

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
        logits, seen = self.read(batch["image"], batch["phase"])
        loss, terms = self.loss(logits, batch["attributes"])
        if self.refit_steps and seen is not None and self._last_epoch:
            self._read.append((seen.readings.detach(), batch["attributes"]))
        if self.anatomy_weight and seen is not None:
            painted = anatomy_loss(seen.anatomy, batch["anatomy"], batch["mask_known"], batch["sinus_known"])
            self.log("train/anatomy_loss", painted, batch_size=len(batch["attributes"]))
            loss = loss + self.anatomy_weight * painted
        mean = terms.mean.sum() / terms.present.sum().clamp_min(1)
        self.log("train/loss", mean, batch_size=len(batch["attributes"]), prog_bar=True)
        return loss

    @property
    def _last_epoch(self) -> bool:
        return self.trainer.max_epochs == self.trainer.current_epoch + 1

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Fit trunk and heads once more behind the last step, before anything is validated."""
        if not (self._read and self.trainer.is_last_batch):
            return
        readings, target = (gather_rows(torch.cat(parts)) for parts in zip(*self._read, strict=True))
        self._read = []
        encoder: RegionEncoder = self.encoder  # type: ignore[assignment]

        def loss(some: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return self.loss(self.heads(self.dropout(encoder.described(some))), wanted)[0]

        refit([encoder.trunk, self.heads], loss, readings, target, self.refit_steps)

    def _collect(self, batch: Mapping[str, Any], scores: PatientScores, dice: PatientScores) -> None:
        logits, seen = self.read(batch["image"], batch["phase"])
        scores.update(batch["kidney"], batch["sample"], logits, batch["attributes"])
        if seen is not None and "anatomy" in batch:
            value, lesion = lesion_dice(seen.anatomy, batch["anatomy"])
            drawn = lesion & batch["mask_known"]
            kidney = batch["kidney"][drawn]
            dice.update(kidney, batch["sample"][drawn], value[drawn, None], torch.zeros_like(kidney))

    def _log_dice(self, name: str, dice: PatientScores) -> PatientTable:
        """Log the mean Dice coefficient of kidneys with a lesion in their mask; without any there is none."""
        table = dice.compute()
        dice.reset()
        if len(table.patient):
            self.log(name, table.score.mean(), rank_zero_only=False)
        return table

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.val_scores, self.val_dice)

    def on_validation_epoch_end(self) -> None:
        """Log the AUC of every attribute and their mean."""
        self.val_table = table = self.val_scores.compute()
        self.val_scores.reset()
        values = attribute_auroc(table, self.padded.sizes)
        for name, value in zip(self.classes, values, strict=True):
            if not torch.isnan(value):
                self.log(f"val/auroc/{name}", value, rank_zero_only=False)
        self.log("val/mean_auroc", values.nanmean(), prog_bar=True, rank_zero_only=False)
        self._log_dice("val/lesion_dice", self.val_dice)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.test_scores, self.test_dice)

    def on_test_epoch_end(self) -> None:
        """Log the mean AUC over everyone tested."""
        self.test_table = table = self.test_scores.compute()
        self.test_scores.reset()
        self.log("test/mean_auroc", attribute_auroc(table, self.padded.sizes).nanmean(), rank_zero_only=False)
        self.test_dice_table = self._log_dice("test/lesion_dice", self.test_dice)

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
