"""Stage 2: a causal language model becomes a text encoder, by one objective after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_modules.core.distributed import gather_rows, sum_over_ranks
from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import CHECKPOINT_KEY, SuiteModule
from lightning_modules.export.text import check_base, load_translator, read_text_encoder, refuse_differences
from lightning_modules.losses.text_loss import LossTerms, masked_token_loss, simcse_loss
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.text.tokens import shifted
from lightning_modules.networks.text.translator import Translation


class TextAdaptation(SuiteModule):
    """Base of the text objectives: adapters on a frozen base, of which checkpoints hold the trained weights only.

    `val_rows` float64 [texts, 2 or 3] on the CPU holds, of every validation text of all ranks, its loss, the number of
    terms that it sums and the hits among them; `start_rows` held the same before the first step.

    Args:
        text: Which base, and how it is adapted.
        contract: How texts become tokens, linked from the DataModule.
        optimizer: Optimiser and schedule.
        pretrained: Folder of an exported text encoder to start from; adapters that change nothing when left out.
        pretrained_sha256: Hash that its weights must have, where it is known.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[str] = "min"
    share: ClassVar[str] = "token_accuracy"
    with_head: ClassVar[bool] = False
    encoder: TextEncoder
    start_rows: torch.Tensor
    val_rows: torch.Tensor

    def __init__(
        self,
        text: TextEncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
    ) -> None:
        optimizer = OptimizerConfig(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        super().__init__(contract, optimizer)
        self.text = TextEncoderConfig.of(text)
        if not self.text.adapter:
            raise ModelError("text.adapter is off, which leaves nothing to train; set it to true.")
        self.pretrained, self.pretrained_sha256 = pretrained, pretrained_sha256
        self.strict_loading = False  # checkpoints leave the frozen base out; on_load_checkpoint checks the rest
        # Plain data only and no path, so that checkpoints load with weights_only.
        self.save_hyperparameters(
            {
                "text": self.text.recorded(),
                "contract": dict(contract),
                "optimizer": {**asdict(optimizer), "betas": list(optimizer.betas)},
                "pretrained_sha256": pretrained_sha256,
                **self.described(),
            }
        )

    def described(self) -> dict[str, Any]:
        """The subclass's own hyper-parameters, as plain data."""
        return {}

    def configure_model(self) -> None:
        """Load the base on this rank's device, where 4-bit weights are packed, and the adapters to start from."""
        if not hasattr(self, "encoder"):
            self.build(self.trainer.strategy.root_device)

    def build(self, device: torch.device | str) -> None:
        """Load base and adapters.

        Raises:
            ModelError: if the adapters to start from have another hash or belong to another base.
        """
        # Masked prediction reads hidden states only, and its projection would never be trained.
        config = replace(self.text, projection=None) if self.with_head else self.text
        encoder = TextEncoder(config, device, head=self.with_head)
        if self.pretrained is not None:
            found = read_text_encoder(Path(self.pretrained))
            if self.pretrained_sha256 and found.sha256 != self.pretrained_sha256:
                raise ModelError(
                    f"The adapters to start from have SHA-256 {found.sha256[:12]}; this run began with "
                    f"{self.pretrained_sha256[:12]}. They were trained anew since; delete this run's folder."
                )
            check_base(found, encoder, Path(self.pretrained).name)
            fresh = {name: value for name, value in encoder.adapter_state().items() if name == "projection.weight"}
            # A projection belongs to the pooling that it was learned on.
            kept = bool(fresh) and found.config.pooling == config.pooling
            state = {name: value for name, value in found.state.items() if name != "projection.weight" or kept}
            encoder.load_adapter_state({**fresh, **state})
            load_translator(Path(self.pretrained), encoder)  # handed on to the export of this objective
        self.encoder = encoder.train()  # the Trainer keeps the mode that it finds

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 [B, feature_dim] of tokens int64 [B, T]."""
        embedding: torch.Tensor = self.encoder(input_ids, attention_mask)
        return embedding

    def _log_training(self, terms: LossTerms, batch: Mapping[str, Any]) -> None:
        total = sum_over_ranks(torch.stack([terms.rows.sum(), terms.rows.new_full((), float(len(terms.rows)))]))
        self.log("train/loss", total[0] / total[1].clamp_min(1), batch_size=len(batch["sample"]), prog_bar=True)

    @abstractmethod
    def validation_rows(self) -> torch.Tensor:
        """What the validation steps collected, by text of this rank: its loss, what it was summed over, and hits."""

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._seen: list[Any] = []

    def _close_validation(self) -> dict[str, float]:
        """Gather what was collected over ranks as `val_rows`, and the metrics."""
        self.val_rows = gather_rows(self.validation_rows().double().to(self.device)).cpu()
        self._seen = []
        sums = self.val_rows.sum(dim=0).tolist()
        metrics = {"loss": sums[0] / max(sums[1], 1.0)}
        return metrics if len(sums) < 3 else metrics | {self.share: sums[2] / max(sums[1], 1.0)}

    def on_validation_epoch_end(self) -> None:
        """Log loss and the share of hits over the validation texts of all ranks."""
        for name, value in self._close_validation().items():
            self.log(f"val/{name}", torch.tensor(value), rank_zero_only=False)

    def on_train_start(self) -> None:
        """Measure where the objective starts, before its first step."""
        if self.trainer.current_epoch > 0:
            return
        self.eval()
        self.on_validation_epoch_start()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(self.trainer.datamodule.val_dataloader()):  # type: ignore[attr-defined]
                self.validation_step(self.trainer.strategy.batch_to_device(batch), number)
        metrics = self._close_validation()
        self.train()
        self.start_rows = self.val_rows
        for name, value in metrics.items():
            self.log(f"start/{name}", torch.tensor(value), rank_zero_only=False)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that were found here: adapters, projection and translator."""
        return {
            name: value.detach()
            for name, value in self.named_parameters()
            if value.requires_grad or name.startswith("encoder.translator.")
        }

    def _origin(self) -> dict[str, Any]:
        return {"base": self.encoder.base_fingerprint, "quantization": self.text.quantization}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamp the checkpoint with its class, its tokens and the base that its weights belong to."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] |= {"origin": self._origin(), "start_rows": self.start_rows}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, base or depth."""
        super().on_load_checkpoint(checkpoint)
        refuse_differences(
            checkpoint[CHECKPOINT_KEY]["origin"],
            self._origin(),
            f"The checkpoint was trained on {checkpoint['hyper_parameters']['text']['base_name']}",
        )
        ours, theirs = set(self.state_dict()), set(checkpoint["state_dict"])
        if ours != theirs:
            raise ModelError(
                f"The checkpoint has {len(theirs)} trained weights and this run {len(ours)}, first difference "
                f"{min(ours ^ theirs)}; layers, rank or projection differ."
            )
        self.start_rows = checkpoint[CHECKPOINT_KEY]["start_rows"]


class MaskedNextToken(TextAdaptation):
    """Masked next-token prediction (MNTP; LLM2Vec, BehnamGhader et al., COLM 2024).

    A bidirectional model learns to use the tokens behind: masked token t is predicted from the state at t - 1. Of a
    base cut after its first layers, the states are translated into those of the whole, causal base on the unmasked
    texts before the output layer reads them; see `Translation`.

    Args:
        text: Which base, and how it is adapted.
        contract: How texts become tokens, linked from the DataModule.
        optimizer: Optimiser and schedule.
        pretrained: Folder of an exported text encoder to start from.
        pretrained_sha256: Hash that its weights must have, where it is known.
        translator_batches: Training batches of each rank that the translation of a cut base is found from, before the
            first step.

    Raises:
        ModelError: if there is no batch for the translation.
    """

    with_head: ClassVar[bool] = True

    def __init__(
        self,
        text: TextEncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
        translator_batches: int = 4,
    ) -> None:
        if translator_batches < 1:
            raise ModelError(f"translator_batches={translator_batches} was found; expected at least 1.")
        self.translator_batches = translator_batches
        super().__init__(text, contract, optimizer, pretrained, pretrained_sha256)

    def described(self) -> dict[str, Any]:
        """What the translation of a cut base is found from."""
        return {"translator_batches": self.translator_batches}

    def on_train_start(self) -> None:
        """Find the translation of a cut base, then measure the start; a resumed run has both."""
        if self.trainer.current_epoch == 0 and self.encoder.translator is not None:
            self._find_translation(self.encoder.translator)
        super().on_train_start()

    @torch.no_grad()
    def _find_translation(self, translator: nn.Linear) -> None:
        whole = TextEncoder(
            replace(self.text, projection=None, layers=None, bidirectional=False, adapter=False), self.device
        )
        self.eval()
        found = Translation(self.encoder.hidden_dim, self.device)
        batches = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        with self.trainer.precision_plugin.val_step_context():
            for batch in islice(batches, self.translator_batches):
                moved = self.trainer.strategy.batch_to_device(batch)
                ids, labels, mask = moved["input_ids"], moved["labels"], moved["attention_mask"]
                unmasked = torch.where(labels == MISSING, ids, labels)
                tokens = mask.bool()
                found.add(self.encoder.hidden(ids, mask)[tokens], whole.hidden(unmasked, mask)[tokens])
        found.write(translator)
        self.train()

    def _terms(self, batch: Mapping[str, Any]) -> tuple[LossTerms, torch.Tensor, torch.Tensor]:
        """Loss by masked token, whether the most likely token is the right one, and the text of each."""
        states = self.encoder.hidden(batch["input_ids"], batch["attention_mask"])
        chosen, target, text = shifted(states, batch["labels"], batch.get("places"))
        logits = self.encoder.logits(chosen)
        return masked_token_loss(logits, target), logits.detach().argmax(dim=1) == target, text

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy over the masked tokens of the global batch."""
        terms = self._terms(batch)[0]
        self._log_training(terms, batch)
        return terms.loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect losses, masked tokens and hits by text."""
        terms, hits, text = self._terms(batch)
        rows = terms.rows.new_zeros(len(batch["labels"]), 3)
        columns = [terms.rows, torch.ones_like(terms.rows), hits.to(terms.rows)]
        self._seen.append(rows.index_add(0, text, torch.stack(columns, dim=1)))

    def validation_rows(self) -> torch.Tensor:
        """Loss, masked tokens and hits of every text."""
        return torch.cat(self._seen)


class TextContrast(TextAdaptation):
    """Base of the objectives that compare two views of every text.

    Args:
        text: Which base, and how it is adapted.
        contract: How texts become tokens, linked from the DataModule.
        optimizer: Optimiser and schedule.
        pretrained: Folder of the exported text encoder to start from.
        pretrained_sha256: Hash that its weights must have, where it is known.
        temperature: Of the cosine similarities.

    Raises:
        ModelError: if the temperature is not positive.
    """

    def __init__(
        self,
        text: TextEncoderConfig,
        contract: dict[str, Any],
        optimizer: OptimizerConfig,
        pretrained: Path | None = None,
        pretrained_sha256: str = "",
        temperature: float = 0.05,
    ) -> None:
        if temperature <= 0:
            raise ModelError(f"temperature={temperature:g} was found; expected more than 0.")
        self.temperature = temperature
        super().__init__(text, contract, optimizer, pretrained, pretrained_sha256)

    def described(self) -> dict[str, Any]:
        """The temperature."""
        return {"temperature": self.temperature}


class UnsupervisedSimcse(TextContrast):
    """Unsupervised SimCSE (Gao, Yao and Chen, EMNLP 2021): two views of a text, told from all others.

    The views differ by dropout and by the order of their sentences. Arguments as `TextContrast`.
    """

    def _views(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self(batch["input_ids"], batch["attention_mask"]).chunk(2)
        return first, second

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy of finding the second view among those of all ranks."""
        terms = simcse_loss(*self._views(batch), self.temperature)
        self._log_training(terms, batch)
        return terms.loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect embeddings."""
        self._seen.append(self._views(batch))

    def validation_rows(self) -> torch.Tensor:
        """Loss of every text among all validation texts, which does not depend on batch size and ranks."""
        first, second = (torch.cat([entry[view] for entry in self._seen]) for view in (0, 1))
        rows = simcse_loss(first, second, self.temperature).rows
        return torch.stack([rows, torch.ones_like(rows)], dim=1)
