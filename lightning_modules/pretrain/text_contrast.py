"""Stage 2, last part: contrast of reports by what they state, with hard negatives and attribute heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.precision import full_precision
from lightning_modules.losses.attribute_loss import PaddedHeads, masked_cross_entropy
from lightning_modules.losses.text_loss import LossTerms, attribute_contrast_loss, nearer_than_negatives
from lightning_modules.networks.text.adapters import merged
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.networks.text.projection import Scatter
from lightning_modules.pretrain.text_adaptation import TextContrast

_PARTS = 4
_SMALLEST_PART = 4
"""Texts; a smaller part would cost more than the padding that it saves."""


class AttributeContrast(TextContrast):
    """Supervised contrast by what reports state (SupCon, Khosla et al., NeurIPS 2020), with hard negatives.

    Kidneys whose stated attributes agree attract each other, as far as they agree, and those that conflict in any
    attribute, the side included, repel. The two views of a kidney state the same in different words; texts that differ
    in one fact are its hard negatives. See `lightning_modules.losses.text_loss`. Linear heads on the embedding of both
    views, which are not exported, read the stated attributes, so that contrast does not give up what it need not tell.

    Args:
        text: Which base, and how it is adapted.
        contract: How texts become tokens, linked from the DataModule.
        optimizer: Optimiser and schedule.
        class_counts: Training kidneys by attribute and class, linked from the DataModule.
        pretrained: Folder of the exported text encoder to start from.
        pretrained_sha256: Hash that its weights must have, where it is known.
        temperature: Of the cosine similarities.
        attribute_weight: Weight of the heads' mean cross-entropy beside the contrastive loss; 0 leaves it out.
        projection_batches: Training batches from which the projection, where `text.projection` asks for one, is found
            before the first step, over as many epochs as that takes; those of one when left out. See
            `lightning_modules.networks.text.projection`.

    Raises:
        ModelError: if the weight is negative or no attribute is known.
    """

    # The loss also pulls reports that agree in part, so it may rise while paraphrases come nearer.
    monitor: ClassVar[str] = "val/paraphrase_nearest"
    mode: ClassVar[str] = "max"
    share: ClassVar[str] = "paraphrase_nearest"

    def __init__(
        self,
        text: TextEncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        class_counts: dict[str, dict[str, int]],
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
        temperature: float = 0.05,
        attribute_weight: float = 0.5,
        projection_batches: int | None = None,
    ) -> None:
        if attribute_weight < 0 or (projection_batches is not None and projection_batches < 1):
            raise ModelError(
                f"attribute_weight={attribute_weight:g} and projection_batches={projection_batches} were found; "
                "expected at least 0, and at least 1 or nothing."
            )
        if not class_counts:
            raise ModelError("AttributeContrast needs stated attributes; set data.objective to attributes.")
        self.attribute_weight, self.projection_batches = attribute_weight, projection_batches
        self.class_counts = {name: dict(counts) for name, counts in class_counts.items()}
        super().__init__(text, contract, optimizer, pretrained, pretrained_sha256, temperature)

    def described(self) -> dict[str, Any]:
        """Temperature, weight of the heads and their classes, and what the projection is found from."""
        own = {
            "attribute_weight": self.attribute_weight,
            "projection_batches": self.projection_batches,
            "class_counts": self.class_counts,
        }
        return {**super().described(), **own}

    def build(self, device: torch.device | str) -> None:
        """Load base and adapters, and make the heads."""
        super().build(device)
        sizes = [len(counts) for counts in self.class_counts.values()]
        self.padded = PaddedHeads(sizes).to(device)
        self.heads = nn.Linear(self.encoder.feature_dim, sum(sizes), device=device)

    def on_train_start(self) -> None:
        """Measure the start without a projection, and find that before the first step; a resumed run has both."""
        projection = self.encoder.projection
        if self.trainer.current_epoch > 0 or projection is None:
            super().on_train_start()
            return
        self.encoder.projection = None
        super().on_train_start()
        scatter = Scatter(self.encoder.pooled_dim, self.device)
        self.eval()
        with torch.no_grad(), merged(self.encoder), self.trainer.precision_plugin.val_step_context():
            for batch in self._projection_batches():
                moved = self.trainer.strategy.batch_to_device(batch)
                scatter.add(*self._embedded(moved), moved["negative_of"])
            projection.weight.copy_(scatter.projection(projection.out_features))
        self.encoder.projection = projection
        self.train()

    def _projection_batches(self) -> Iterator[Mapping[str, Any]]:
        """Training batches, written anew in every epoch."""
        loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        count = self.projection_batches or len(loader)
        for epoch in range(-(-count // len(loader))):
            loader.batch_sampler.sampler.set_epoch(epoch)
            yield from islice(loader, min(len(loader), count - epoch * len(loader)))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, lengths: list[int] | None = None
    ) -> torch.Tensor:
        """Embeddings of texts, computed in parts of like length.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T].
            lengths: Tokens of every text; asked of the device, which has to be waited for, where left out.

        Returns:
            float32 [B, feature_dim].
        """
        counts = attention_mask.sum(dim=1)
        order = counts.argsort(stable=True)
        rising = sorted(counts.tolist() if lengths is None else lengths)
        found, done = [], 0
        for part in order.chunk(max(1, min(_PARTS, len(order) // _SMALLEST_PART))):
            done += len(part)
            longest = rising[done - 1]
            found.append(self.encoder(input_ids[part, :longest], attention_mask[part, :longest]))
        return torch.cat(found)[order.argsort()]

    def _embedded(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kidneys = len(batch["sample"])
        every = self(batch["input_ids"], batch["attention_mask"], batch.get("lengths"))
        return every[:kidneys], every[kidneys : 2 * kidneys], every[2 * kidneys :]

    def _read(self, first: torch.Tensor, second: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Mean over the attributes of the heads' cross-entropy."""
        with full_precision(first.device):
            logits = self.padded(self.heads(torch.cat([first, second]).to(self.heads.weight.dtype)))
        weight = torch.ones_like(logits[0])
        terms = masked_cross_entropy(logits, attributes[:, 1:].repeat(2, 1), weight)
        return terms.loss.sum() / terms.present.sum().clamp_min(1)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Contrast over the texts of all ranks, and what the heads read."""
        first, second, negatives = self._embedded(batch)
        facts = batch["attributes"]
        terms = attribute_contrast_loss(first, second, facts, self.temperature, negatives, batch["negative_of"])
        self._log_training(terms, batch)
        if self.attribute_weight == 0:
            return terms.loss + 0.0 * self.heads.weight.sum() + 0.0 * self.heads.bias.sum()
        return terms.loss + self.attribute_weight * self._read(first, second, facts)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect embeddings, with the hard negatives of each text."""
        self._seen.append((*self._embedded(batch), batch["attributes"], batch["negative_of"]))

    def validation_rows(self) -> torch.Tensor:
        """Contrastive loss of every text among all validation texts, and whether its paraphrase is nearest.

        Does not depend on batch size and ranks.
        """
        first, second, negatives, facts = (torch.cat([entry[place] for entry in self._seen]) for place in range(4))
        starts = torch.tensor([0, *(len(entry[0]) for entry in self._seen)]).cumsum(0).tolist()
        owners = torch.cat([entry[4] + start for entry, start in zip(self._seen, starts[:-1], strict=True)])
        terms: LossTerms = attribute_contrast_loss(first, second, facts, self.temperature, negatives, owners)
        hits = nearer_than_negatives(first, second, negatives, owners)
        return torch.stack([terms.rows, torch.ones_like(terms.rows), hits.to(terms.rows)], dim=1)
