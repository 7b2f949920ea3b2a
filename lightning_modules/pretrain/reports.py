"""Report generation: a projector, then adapters, teach a language model to write what an image shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import nn

from lightning_modules.core.distributed import gather_rows, sum_over_ranks
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import CHECKPOINT_KEY, SuiteModule
from lightning_modules.export.image import load_pretrained
from lightning_modules.export.text import refuse_differences
from lightning_modules.export.writer import read_report_writer
from lightning_modules.losses.text_loss import LossTerms, masked_token_loss
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig

MEASURED_BATCHES = 32
"""Batches of a rank from which mean and deviation of the image features are taken."""

Trains = Literal["projector", "adapters"]


class ReportGeneration(SuiteModule):
    """Trains a `ReportWriter` on reports; image encoder and base stay frozen (LLaVA, Liu et al., NeurIPS 2023).

    First the projector, then projector and low-rank adapters of the language model. The loss is the cross-entropy of
    the report's tokens, its end included, over the global batch. Checkpoints hold the trained weights only. `val_rows`
    float64 [reports, 2] holds the loss and the number of tokens of every validation report of all ranks.

    Args:
        encoder: Which image encoder, and how large.
        text: Which language model, and how it is adapted.
        contract: Preprocessing contract, linked from the DataModule.
        optimizer: Optimiser and schedule.
        trains: `projector`, or `adapters` for both.
        writer: How the image enters.
        pretrained: Folder with the exported image encoder; random weights when left out.
        pretrained_sha256: Hash that its weights must have, where it is known.
        start: Folder of an exported report writer to start from.
        start_sha256: Hash that its weights must have, where it is known.

    Raises:
        ModelError: if `trains` is unknown.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[str] = "min"
    writer: ReportWriter

    def __init__(
        self,
        encoder: EncoderConfig,
        text: TextEncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        trains: Trains = "projector",
        writer: WriterConfig | None = None,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
        start: Path | None = None,
        start_sha256: str = "",
    ) -> None:
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        if trains not in ("projector", "adapters"):
            raise ModelError(f"trains={trains!r} was found; choose projector or adapters.")
        self.encoder_config = EncoderConfig.of(encoder)
        self.text = replace(TextEncoderConfig.of(text), adapter=trains == "adapters", bidirectional=False)
        self.writer_config = WriterConfig.of(writer or WriterConfig())
        self.trains, self.pretrained, self.pretrained_sha256 = trains, pretrained, pretrained_sha256
        self.start, self.start_sha256 = start, start_sha256
        self.strict_loading = False  # checkpoints leave what is frozen out; on_load_checkpoint checks the rest
        # Plain data only and no path, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "encoder": asdict(self.encoder_config),
                "text": self.text.recorded(),
                "writer": asdict(self.writer_config),
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "trains": trains,
                "pretrained_sha256": pretrained_sha256,
                "start_sha256": start_sha256,
            }
        )

    def configure_model(self) -> None:
        """Load the base on this rank's device, where 4-bit weights are packed, and the weights to start from."""
        if not hasattr(self, "writer"):
            self.build(self.trainer.strategy.root_device)

    def build(self, device: torch.device | str) -> None:
        """Load image encoder, base and the weights to start from.

        Raises:
            ModelError: if they do not fit or have another hash.
        """
        writer = ReportWriter(self.encoder_config, self.text, self.writer_config, device)
        if self.pretrained is not None:
            load_pretrained(
                writer.image_encoder, self.encoder_config, self.contract, Path(self.pretrained), self.pretrained_sha256
            )
        if self.start is not None:
            found = read_report_writer(Path(self.start))
            if self.start_sha256 and found.sha256 != self.start_sha256:
                raise ModelError(
                    f"The report writer to start from has SHA-256 {found.sha256[:12]}; this run began with "
                    f"{self.start_sha256[:12]}. It was trained anew since; delete this run's folder."
                )
            refuse_differences(
                found.origin,
                self._origin_of(writer),
                f"The report writer in {Path(self.start).name} was trained before",
            )
            writer.load_trained_state(found.state)
        self.writer = writer.train()  # the Trainer keeps the mode that it finds

    def on_fit_start(self) -> None:
        """Let the projector begin with features of mean 0 and deviation 1, measured on training images."""
        if self.start is None and self.trainer.ckpt_path is None:
            self.standardize(islice(self.trainer.datamodule.train_dataloader(), MEASURED_BATCHES))  # type: ignore[attr-defined]

    def standardize(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Give the projector the mean and deviation of the image features of some batches, over all ranks."""
        total = None
        for batch in batches:
            moved = move_data_to_device(batch, self.device)
            image = self.trainer.datamodule.on_after_batch_transfer(moved, 0)["image"]  # type: ignore[attr-defined]
            # Places of a feature map count like images.
            rows = self.writer.image_features(image).transpose(0, 1).flatten(1).double()
            seen = torch.cat([rows.sum(dim=1), rows.square().sum(dim=1), rows.new_tensor([rows.shape[1]])])
            total = seen if total is None else total + seen
        assert total is not None
        total = sum_over_ranks(total)
        mean, square = (total[:-1] / total[-1]).chunk(2)
        self.writer.projector.standardize.start_from(mean.float(), (square - mean.square()).clamp_min(0).sqrt().float())  # type: ignore[union-attr, operator]

    def _origin_of(self, writer: ReportWriter) -> dict[str, Any]:
        return {
            "base": writer.base_fingerprint,
            "quantization": self.text.quantization,
            "layers": self.text.layers,
            "image_features": self.writer_config.image_features,
            "image_tokens": self.writer_config.image_tokens,
        }

    def origin(self) -> dict[str, Any]:
        """What the trained weights belong to, as plain data."""
        return self._origin_of(self.writer)

    def backbone(self) -> nn.Module | None:
        """The adapted language model, which may have a learning rate of its own."""
        return self.writer.language if self.trains == "adapters" else None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image tokens float [B, K, hidden] of images [B, 1, D, H, W]."""
        return self.writer.image_tokens(image)

    def _terms(self, batch: Mapping[str, Any]) -> tuple[LossTerms, torch.Tensor]:
        logits, target, report = self.writer.report_logits(self(batch["image"]), batch["prompt"], batch["report"])
        return masked_token_loss(logits, target), report

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy of the report tokens of the global batch, in nats a token."""
        terms, _ = self._terms(batch)
        total = sum_over_ranks(torch.stack([terms.rows.sum(), terms.rows.new_full((), float(len(terms.rows)))]))
        self.log("train/loss", total[0] / total[1].clamp_min(1), batch_size=len(batch["report"]), prog_bar=True)
        return terms.loss

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._seen: list[torch.Tensor] = []

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect loss and tokens by report."""
        terms, report = self._terms(batch)
        rows = terms.rows.new_zeros(len(batch["report"]), 2)
        self._seen.append(rows.index_add(0, report, torch.stack([terms.rows, torch.ones_like(terms.rows)], dim=1)))

    def on_validation_epoch_end(self) -> None:
        """Log the loss over the validation reports of all ranks."""
        self.val_rows = gather_rows(torch.cat(self._seen).double()).cpu()
        self._seen = []
        loss = self.val_rows[:, 0].sum() / self.val_rows[:, 1].sum().clamp_min(1)
        self.log("val/loss", loss.float(), prog_bar=True, rank_zero_only=False)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained weights only: projector and adapters."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamp the checkpoint with its class, contract and what its weights belong to."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] |= {"origin": self.origin()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, base or form."""
        super().on_load_checkpoint(checkpoint)
        refuse_differences(checkpoint[CHECKPOINT_KEY]["origin"], self.origin(), "The checkpoint was trained before")
        ours, theirs = set(self.state_dict()), set(checkpoint["state_dict"])
        if ours != theirs:
            raise ModelError(
                f"The checkpoint has {len(theirs)} trained weights and this run {len(ours)}, first difference "
                f"{min(ours ^ theirs)}; rank or image tokens differ."
            )
