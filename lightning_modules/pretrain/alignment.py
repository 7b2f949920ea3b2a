"""Stage 3: images and reports in one space, by contrast over the global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import SuiteModule
from lightning_modules.export.image import load_pretrained
from lightning_modules.losses.contrastive import info_nce, knowledge_info_nce
from lightning_modules.losses.gradcache import cached_features, micro_batches
from lightning_modules.losses.sigmoid import sigmoid_loss
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable
from lightning_modules.metrics.retrieval import recall_at, retrieval_ranks
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.aligned_model import AlignedConfig, AlignedModel

Contrast = Literal["infonce", "siglip", "knowledge"]
_SIGLIP_SCALE, _SIGLIP_BIAS = 10.0, -10.0
RECALL_AT = (1, 5)


class ClipAlignment(SuiteModule):
    """Aligns an image encoder with cached embeddings of a text encoder (CLIP; Tao et al., Nature Communications 2026).

    The checkpoint with the least validation loss is kept: with some hundred kidneys recall moves in steps of a percent
    and more and rests on the few kidneys near the first places, where the loss counts every pair.

    Args:
        encoder: Which image encoder, and how large.
        text_dim: Dimensions of a text embedding, linked from the DataModule.
        text_fingerprint: Fingerprint of the text encoder, linked from the DataModule.
        class_counts: Training kidneys by attribute and class, linked from the DataModule; says which attributes are
            compared.
        contract: Preprocessing contract, linked from the DataModule.
        optimizer: Optimiser and schedule; `backbone_lr` is the rate of the image encoder.
        loss: `infonce` (CLIP), `siglip` (pairwise sigmoid), or `knowledge`, an InfoNCE in which reports that say the
            same are not each other's negatives.
        embed_dim: Dimensions of the shared space, with a linear head on either side; without it that of the text
            embeddings, which stay as they are (RenalCLIP).
        center_text: Whether the mean of the training texts is taken off every text embedding.
        positive_from: Share of what either report states from which two say the same; `knowledge` only.
        ignore_from: Share of what the shorter one states from which they are not compared; `knowledge` only.
        locked: Whether the image encoder stays as it is and its features come with the batch, so that the heads alone
            are trained (LiT, Zhai et al., CVPR 2022). The text side of `TextTowerAlignment` still moves.
        micro_batch: Images of a rank encoded at a time, by gradient caching; all at once when left out. Batch
            normalisation then takes its statistics from so many.
        pretrained: Folder with an exported image encoder to start from; random weights when left out. No path goes
            into checkpoints, which hold the weights themselves.
        pretrained_sha256: Hash of its weights, so that a run that is resumed notices another encoder.

    Raises:
        ModelError: if the encoder does not fit, or an argument is out of range.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[str] = "min"
    whole_step: ClassVar[bool] = True

    def __init__(
        self,
        encoder: EncoderConfig,
        text_dim: int,
        text_fingerprint: str,
        class_counts: dict[str, dict[str, int]],
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        loss: Contrast = "knowledge",
        embed_dim: int | None = None,
        center_text: bool = True,
        positive_from: float = 1.0,
        ignore_from: float = 0.5,
        locked: bool = False,
        micro_batch: int | None = None,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
    ) -> None:
        config = EncoderConfig.of(encoder)
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        if loss not in ("infonce", "siglip", "knowledge"):
            raise ModelError(f"loss={loss!r} was found; choose one of infonce, siglip, knowledge.")
        if micro_batch is not None and micro_batch < 1:
            raise ModelError(f"micro_batch={micro_batch} was found; expected at least 1, or nothing.")
        # Plain data only, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "encoder": asdict(config),
                "text_dim": text_dim,
                "text_fingerprint": text_fingerprint,
                "class_counts": {name: dict(counts) for name, counts in class_counts.items()},
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "loss": loss,
                "embed_dim": embed_dim,
                "center_text": center_text,
                "positive_from": positive_from,
                "ignore_from": ignore_from,
                "locked": locked,
                "micro_batch": micro_batch,
                "pretrained_sha256": pretrained_sha256,
            }
        )
        self.kind, self.micro_batch, self.center_text = loss, micro_batch, center_text
        self.positive_from, self.ignore_from, self.locked = positive_from, ignore_from, locked
        pairwise = {"initial_scale": _SIGLIP_SCALE, "initial_bias": _SIGLIP_BIAS} if loss == "siglip" else {}
        self.model = AlignedModel(
            config, AlignedConfig(text_dim, embed_dim, **pairwise), contract, {"fingerprint": text_fingerprint}
        )
        if pretrained is not None:
            load_pretrained(self.model.image_encoder, config, contract, pretrained, pretrained_sha256)
        if locked:
            self.model.image_encoder.requires_grad_(False)
        self.classes = max(map(len, class_counts.values()), default=1)
        targets = 1 + len(class_counts)
        self.val_pairs, self.test_pairs = (PatientScores(2 * self.model.embed_dim, targets) for _ in range(2))

    def backbone(self) -> nn.Module:
        """The image encoder, which moves slower than its new heads."""
        return self.model.image_encoder

    def on_fit_start(self) -> None:
        """Take the mean of the training texts, the same on every rank."""
        if self.center_text:
            self.model.text_mean.copy_(self.text_mean())

    def text_mean(self) -> torch.Tensor:
        """Mean embedding [T] of the texts that training draws from."""
        mean: torch.Tensor = self.trainer.datamodule.text_mean()  # type: ignore[attr-defined]
        return mean

    def embed_text(self, text: Any) -> torch.Tensor:
        """Unit vectors [B, d] of what a batch holds of its texts: their embeddings [B, T]."""
        return self.model.embed_text(text)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Unit vectors of images; `image` is a tensor [B, 1, D, H, W], or anything that gives one for a slice."""
        if self.micro_batch is None:
            return self.model.embed_image(image[:])
        parts = micro_batches(len(image), self.micro_batch, self.device)
        return cached_features(lambda part: self.model.embed_image(image[part]), parts, self.model)

    def embed_images(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Unit vectors [B, d] of a batch's images, or of their features where the image encoder is locked."""
        vectors: torch.Tensor = self.model.embed_features(batch["features"]) if self.locked else self(batch["image"])
        return vectors

    def loss(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        report_id: torch.Tensor,
        attributes: torch.Tensor,
        *,
        across_ranks: bool = True,
    ) -> torch.Tensor:
        """The loss of unit vectors; see `losses.contrastive` and `losses.sigmoid`.

        Args:
            image: float [B, d].
            text: float [B, d].
            report_id: int64 [B].
            attributes: int64 [B, A], -100 where not stated.
            across_ranks: Whether the batch is that of all ranks.
        """
        scale = self.model.scale()
        if self.kind == "infonce":
            return info_nce(image, text, scale, across_ranks=across_ranks)
        if self.kind == "siglip":
            assert self.model.logit_bias is not None
            bias = self.model.logit_bias.reshape(())
            return sigmoid_loss(image, text, scale, bias, across_ranks=across_ranks)
        return knowledge_info_nce(
            image,
            text,
            scale,
            report_id,
            attributes,
            positive_from=self.positive_from,
            ignore_from=self.ignore_from,
            classes=self.classes,
            across_ranks=across_ranks,
        )

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Contrast of one global batch."""
        text = self.embed_text(batch["text"])
        loss = self.loss(self.embed_images(batch), text, batch["report_id"], batch["attributes"])
        # The mean over ranks is the loss of the global batch, and a rank's share means nothing alone.
        self.log("train/loss", loss, batch_size=1, prog_bar=True, sync_dist=True)
        self.log("train/scale", self.model.scale(), batch_size=1)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Keep the inverse temperature at 100 at most."""
        self.model.bound_scale()

    def _collect(self, batch: Mapping[str, Any], pairs: PatientScores) -> torch.Tensor:
        image = self.embed_images(batch)
        both = torch.cat([image, self.embed_text(batch["text"])], dim=1)
        target = torch.cat([batch["report_id"][:, None], batch["attributes"]], dim=1)
        pairs.update(batch["kidney"], batch["sample"], both, target)
        return image

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect the embeddings of kidneys and their reports."""
        self._collect(batch, self.val_pairs)

    def on_validation_epoch_end(self) -> None:
        """Log loss and recall over all validation kidneys as one batch, whose embeddings are means over phases."""
        self.val_table = table = self.val_pairs.compute()
        self.val_pairs.reset()
        for name, value in self.scores(table).items():
            self.log(f"val/{name}", value, prog_bar=name == "loss", rank_zero_only=False)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect the embeddings of kidneys and their reports."""
        self._collect(batch, self.test_pairs)

    def on_test_epoch_end(self) -> None:
        """Log recall over all kidneys tested; figures by centre are made from the table."""
        self.test_table = table = self.test_pairs.compute()
        self.test_pairs.reset()
        for name, value in self.scores(table).items():
            self.log(f"test/{name}", value, rank_zero_only=False)

    def scores(self, table: PatientTable) -> dict[str, torch.Tensor]:
        """Loss, recall at 1 and 5 in both directions, and their mean.

        Args:
            table: Image and text embeddings [N, 2 d] and report number with attributes [N, 1 + A], by kidney.
        """
        image, text, report_id = paired(table)
        with torch.no_grad():
            loss = self.loss(image, text, report_id, table.target[:, 1:], across_ranks=False)
        ranks = retrieval_ranks(image, text, report_id)
        recall = {
            f"{name}_recall_at_{k}": recall_at(part, k) for name, part in ranks._asdict().items() for k in RECALL_AT
        }
        return {"loss": loss, **recall, "mean_recall": torch.stack(list(recall.values())).mean()}

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Unit vectors [B, d] of the images."""
        return self.embed_images(batch)


def paired(table: PatientTable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit vectors of kidneys and of their reports [N, d], and the reports' numbers [N], from collected pairs."""
    image, text = (functional.normalize(part, dim=1) for part in table.score.chunk(2, dim=1))
    return image, text, table.target[:, 0]
