"""What the downstream tasks have in common: an encoder, a head, the fusion of phases, and scores by patient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.precision import full_precision
from lightning_modules.core.suite_module import SuiteModule
from lightning_modules.export.image import load_pretrained
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.phases import Fusion, PhaseFusion, drop_phases
from lightning_modules.networks.image.published.releases import RELEASES


class Downstream(SuiteModule):
    """Fine-tunes an encoder with a small head; subclasses say what its outputs mean.

    The last weights are tested, as in the article: an epoch chosen by its AUC on some sixty validation patients, a
    quarter of them benign, is chosen by luck, and its luck is lost in the test.

    Args:
        encoder: Which encoder, and how large.
        contract: Preprocessing contract, linked from the DataModule.
        optimizer: Optimiser and schedule.
        outputs: Number of outputs of the head.
        described: The subclass's own hyper-parameters, as plain data.
        hidden: Width of the head's hidden layer; 0 for a linear head.
        dropout: Dropout before the last layer.
        fusion: How the phases of a visit become one prediction where the data holds all of them (`phases: all`):
            `mean` of the outputs, or learned `attention`.
        phase_dropout: Probability with which a phase is taken away in training then; one is always kept.
        pretrained: Folder with an exported encoder to start from, or file of published weights; random weights when
            left out, which a published encoder refuses. Neither it nor any path goes into checkpoints, which hold the
            weights themselves.
        pretrained_sha256: Hash that its weights must have, so that a run that is resumed notices another encoder.

    Raises:
        ModelError: if the encoder does not fit, or an argument is out of range.
    """

    tested: ClassVar[Literal["best", "last"]] = "last"

    def __init__(
        self,
        encoder: EncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        outputs: int,
        described: Mapping[str, Any],
        hidden: int = 128,
        dropout: float = 0.1,
        fusion: Fusion = "mean",
        phase_dropout: float = 0.3,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
    ) -> None:
        config = EncoderConfig.of(encoder)
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        if not 0 <= phase_dropout < 1:
            raise ModelError(f"phase_dropout={phase_dropout:g} was found; expected a probability in [0, 1).")
        # Plain data only, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "encoder": asdict(config),
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "hidden": hidden,
                "dropout": dropout,
                "fusion": fusion,
                "phase_dropout": phase_dropout,
                "pretrained_sha256": pretrained_sha256,
                **described,
            }
        )
        if config.network in RELEASES and pretrained is None:
            raise ModelError(
                f"Encoder {config.network} was asked for without weights and would be random; name their file with "
                "model.pretrained, or start it with `make finetune`."
            )
        self.encoder = build_encoder(config)
        if pretrained is not None:
            load_pretrained(self.encoder, config, contract, pretrained, pretrained_sha256)
        features = int(self.encoder.feature_dim)  # type: ignore[arg-type]
        self.head = _head(features, hidden, outputs, dropout)
        self.fusion = PhaseFusion(fusion, features)
        self.phase_dropout = phase_dropout

    def forward(
        self, image: torch.Tensor, available: torch.Tensor | None = None, phase: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Outputs of the head.

        Args:
            image: [B, 1, D, H, W] in [0, 1], or all phases of every visit as [B, P, 1, D, H, W].
            available: bool [B, P], the phases that a visit has; only with the latter.
            phase: int64 [B, P], which phases they are; their position when left out.

        Returns:
            float [B, C]; with phases fused over those available.

        Raises:
            ModelError: if phases are to be weighted and the data holds one phase a sample.
        """
        if available is None:
            if self.fusion.kind == "attention":
                raise ModelError("Attention over phases needs all phases of a visit; set data.init_args.phases=all.")
            feature = self.encoder(image)
            with full_precision(feature.device):
                outputs: torch.Tensor = self.head(self._for_head(feature))
            return outputs
        if self.training:
            available = drop_phases(available, self.phase_dropout)
        # Phases that are not there are not computed: they would also enter the statistics of batch normalisation.
        feature = self.encoder(image[available])
        with full_precision(feature.device):
            feature = self._for_head(feature)
            fused: torch.Tensor = self.fusion(feature, self.head(feature), available, phase)
        return fused

    def _for_head(self, feature: torch.Tensor) -> torch.Tensor:
        """Features in the type of the head's weights: float32 under mixed precision, whose own would tie risks."""
        return feature.to(next(self.head.parameters()).dtype)

    def outputs(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Outputs of the head for a batch, float [B, C]."""
        available = batch.get("available")
        result: torch.Tensor = self(batch["image"], available, None if available is None else batch["phase"])
        return result

    @abstractmethod
    def prediction_columns(self, score: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        """What a table of predictions says of each patient.

        Args:
            score: Outputs averaged by patient [N, C].
            names: Names of the classes, where the task has some.

        Returns:
            One float64 tensor [N] per column.
        """


def _head(features: int, hidden: int, outputs: int, dropout: float) -> nn.Module:
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, outputs))
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
