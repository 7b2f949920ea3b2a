"""Stage 3 with a text encoder that is trained along: low-rank adapters move with the image encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from lightning_modules.core.distributed import average_over_ranks, sum_over_ranks
from lightning_modules.core.errors import ModelError
from lightning_modules.core.suite_module import CHECKPOINT_KEY
from lightning_modules.export.text import check_base, read_text_encoder, refuse_differences
from lightning_modules.losses.gradcache import cached_features, micro_batches
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.text.encoding import length_batches
from lightning_modules.pretrain.alignment import ClipAlignment

_TEXT = "text_encoder."
_TOKENS_PER_BATCH = 2048


class TextTowerAlignment(ClipAlignment):
    """Aligns an image encoder with a text encoder whose adapters are trained too (LoRA, Hu et al., ICLR 2022).

    Batches hold tokens. Both towers are encoded in the same micro-batches, and the gradient of either is that of the
    full batch. The base stays frozen, and checkpoints leave it out. The mean that is taken off the text embeddings is
    that of the text encoder before its first step.

    Args:
        text: Which base, and how it is adapted; that of the encoder that training starts from.
        text_pretrained: Folder of the exported text encoder to start from; fresh adapters when left out.
        text_sha256: Hash that its weights must have, where it is known.
        text_lr: Peak learning rate of the adapters.
        options: As `ClipAlignment`.

    Raises:
        ModelError: if the text encoder has no adapters, or a rate is not positive.
    """

    text_encoder: TextEncoder

    def __init__(
        self,
        text: TextEncoderConfig,
        text_pretrained: Path | None = None,
        text_sha256: str = "",
        text_lr: float = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.text = TextEncoderConfig.of(text)
        if not self.text.adapter:
            raise ModelError("text.adapter is off, which leaves nothing of the text encoder to train; set it to true.")
        if text_lr <= 0:
            raise ModelError(f"text_lr={text_lr:g} was found; expected more than 0.")
        self.text_pretrained, self.text_sha256, self.text_lr = text_pretrained, text_sha256, text_lr
        self.strict_loading = False  # checkpoints leave the frozen base out; on_load_checkpoint checks the rest
        self.save_hyperparameters({"text": self.text.recorded(), "text_sha256": text_sha256, "text_lr": text_lr})

    def configure_model(self) -> None:
        """Load the base on this rank's device; under FSDP2 each block of it is sharded by itself."""
        if not hasattr(self, "text_encoder"):
            self.build(self.trainer.strategy.root_device)
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ModelError(
                "trainer.strategy=fsdp was found, which is FSDP1; expected fsdp2, which shards the text encoder alone."
            )
        if self.sharded:
            self._check_sharding()
            super().on_fit_start()  # the encoder is asked while it is whole
            assert self.device_mesh is not None
            _shard_blocks(self.text_encoder, self.device_mesh["data_parallel"])
            if self.device.type == "cuda":  # the strategy leaves trainer.sync_batchnorm aside
                self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)

    def build(self, device: torch.device | str) -> None:
        """Load base and adapters.

        Raises:
            ModelError: if the adapters to start from have another hash or belong to another base.
        """
        encoder = TextEncoder(self.text, device)
        if self.text_pretrained is not None:
            found = read_text_encoder(Path(self.text_pretrained))
            if self.text_sha256 and found.sha256 != self.text_sha256:
                raise ModelError(
                    f"The text encoder to start from has SHA-256 {found.sha256[:12]}; this run began with "
                    f"{self.text_sha256[:12]}. It was trained anew since; give the run a name of its own with TAG=."
                )
            check_base(found, encoder, Path(self.text_pretrained).name)
            encoder.load_adapter_state(found.state)
        self.text_encoder = encoder.train()  # the Trainer keeps the mode that it finds

    def on_after_backward(self) -> None:
        """Average over ranks what is not sharded, as DDP does; FSDP2 averages the shards."""
        if self.sharded and self.trainer.world_size > 1:
            whole = [value.grad for value in self.parameters() if value.grad is not None]
            average_over_ranks([grad for grad in whole if not isinstance(grad, DTensor)])

    def _check_sharding(self) -> None:
        if self.micro_batch is not None:
            raise ModelError(
                f"model.micro_batch={self.micro_batch} was found with trainer.strategy=fsdp2: gradient caching asks "
                "for the gradient by whole weights, which FSDP shards. Leave micro_batch out, or take ddp."
            )
        if self.text.quantization != "none":
            raise ModelError(
                f"text.quantization={self.text.quantization} was found with trainer.strategy=fsdp2, which shards no "
                "4-bit weights; set it to none, or take ddp."
            )

    def rates(self) -> list[tuple[float, Iterable[nn.Parameter]]]:
        """The adapters move at a rate of their own."""
        return [(self.text_lr, self.text_encoder.parameters())]

    def embed_text(self, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Unit vectors [B, d] of tokens: `input_ids` and `attention_mask`, int64 [B, T]."""
        ids, mask = text["input_ids"], text["attention_mask"]

        def encode(part: slice) -> torch.Tensor:
            return self.model.embed_text(self.text_encoder(ids[part], mask[part]))

        if self.micro_batch is None:
            return encode(slice(0, len(ids)))
        parts = micro_batches(len(ids), self.micro_batch, self.device)
        return cached_features(encode, parts, nn.ModuleList([self.text_encoder, self.model.text_head]))

    def on_fit_start(self) -> None:
        """Take the mean of the training texts; a run that is resumed has it from its checkpoint."""
        if not bool(self.model.text_mean.any()):
            super().on_fit_start()

    @torch.no_grad()
    def text_mean(self) -> torch.Tensor:
        """Mean embedding [T] of the texts that training draws from, by the encoder as it is, in shares of the ranks."""
        module = self.trainer.datamodule  # type: ignore[attr-defined]
        texts: list[str] = module.texts("train")[self.global_rank :: self.trainer.world_size]
        counted = Counter(texts)  # in the order of their first place
        total = torch.zeros(1 + self.model.config.text_dim, device=self.text_encoder.device)
        self.text_encoder.eval()
        for ids, mask, copies in self._batches(counted):
            weight = torch.tensor(copies, device=total.device, dtype=torch.float32)
            total[1:] += weight @ self.text_encoder(ids, mask).float()
            total[0] += weight.sum()
        self.text_encoder.train()
        summed = sum_over_ranks(total)
        return summed[1:] / summed[0]

    def _batches(self, counted: Mapping[str, int]) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
        texts = list(counted)
        tokens = self.text_encoder.tokenize(texts) if texts else {}
        lengths = tokens["attention_mask"].sum(dim=1).numpy() if texts else torch.zeros(0).numpy()
        for rows in length_batches(lengths, _TOKENS_PER_BATCH):
            width = int(lengths[rows].max())
            ids, mask = (
                tokens[name][rows, :width].to(self.text_encoder.device) for name in ("input_ids", "attention_mask")
            )
            yield ids, mask, [counted[texts[row]] for row in rows]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all weights, of which those that are sharded have a norm over ranks."""
        if not self.sharded:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        found = [value for value in self.parameters() if value.grad is not None]
        parts = [[value for value in found if isinstance(value, DTensor) == shard] for shard in (True, False)]
        norms = [nn.utils.get_total_norm([value.grad for value in part if value.grad is not None]) for part in parts]
        whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        self.gradient_norm = torch.stack([norm.float() for norm in whole]).norm()
        if gradient_clip_val:
            for part in parts:
                nn.utils.clip_grads_with_norm_(part, gradient_clip_val, self.gradient_norm)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything but the frozen base of the text encoder."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        return state if self.sharded else _without_base(state)  # the strategy gathers all or nothing

    def unsharded(self, state: Mapping[str, torch.Tensor]) -> TextTowerAlignment:
        """The module on the CPU with the weights of a checkpoint, for what is written after they were sharded."""
        options = {**self.hparams, "text": self.text, "text_pretrained": None}
        whole = type(self)(**options)
        whole.build("cpu")
        whole.load_state_dict(state, strict=False)
        return whole.eval()

    @property
    def sharded(self) -> bool:
        """Whether no rank holds all weights."""
        return self._trainer is not None and isinstance(self.trainer.strategy, ModelParallelStrategy)

    def _origin(self) -> dict[str, Any]:
        return {"base": self.text_encoder.base_fingerprint, "quantization": self.text.quantization}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamp the checkpoint with the base that its adapters belong to."""
        super().on_save_checkpoint(checkpoint)
        _without_base(checkpoint["state_dict"])
        if self.sharded:
            # torch sends a checkpoint to the other ranks as it lies in memory: one of channels last would be mixed up.
            for name in {"state_dict", "optimizer_states"} & set(checkpoint):
                checkpoint[name] = tree_map_only(torch.Tensor, torch.Tensor.contiguous, checkpoint[name])
        checkpoint[CHECKPOINT_KEY] |= {"origin": self._origin()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, base or depth."""
        super().on_load_checkpoint(checkpoint)
        base = checkpoint["hyper_parameters"]["text"]["base_name"]
        refuse_differences(
            checkpoint[CHECKPOINT_KEY]["origin"],
            self._origin(),
            f"The text encoder of the checkpoint belongs to {base}",
        )
        if not self.sharded and set(self.state_dict()) != set(checkpoint["state_dict"]):
            raise ModelError("The checkpoint's adapters are of another depth or rank; train this run anew.")


def _without_base(state: dict[str, Any]) -> dict[str, Any]:
    """The state itself, after the frozen weights of the text encoder were taken out."""
    for name in [name for name in state if name.startswith(_TEXT)]:
        if not any(part in name for part in ("lora_", "projection.")):
            del state[name]
    return state


def _shard_blocks(encoder: TextEncoder, mesh: DeviceMesh) -> None:
    """Shard every block of the language model by itself, and the rest of it as one (FSDP2).

    A block is gathered when its turn comes, and given up after it; the base in half precision and its adapters in
    float32 may share one.
    """
    for module in list(encoder.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
