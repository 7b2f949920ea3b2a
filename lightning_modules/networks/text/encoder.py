"""A decoder-only language model as a text encoder (LLM2Vec, BehnamGhader et al., COLM 2024), by QLoRA."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.plain import read_config
from lightning_modules.core.precision import full_precision
from lightning_modules.networks.text.adapters import low_rank_adapted, misfits
from lightning_modules.networks.text.language_model import (
    ComputeDtype,
    Quantization,
    base_fingerprint,
    base_folder,
    base_layers,
    load_base,
    resolve_dtype,
)
from lightning_modules.networks.text.tokens import begin_ids, load_tokenizer, prompt_ids, tokenize
from lightning_modules.networks.text.translator import identity

Pooling = Literal["mean", "weighted_mean", "last", "first_last"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
_NOT_HASHED = (
    "base",  # its weights are hashed instead
    "base_name",
    "compute_dtype",
    "lora_dropout",
    "attention_dropout",
    "checkpointing",
)
"""What changes neither an embedding nor, beyond rounding, its numbers."""


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which text encoder, and how it is adapted.

    Args:
        base: Folder or hub id of a causal language model in safetensors.
        base_name: What is recorded of it; never a path.
        layers: First layers of the base to keep; all when left out.
        quantization: `nf4` keeps the frozen base in 4 bits with double quantisation (QLoRA, Dettmers et al., NeurIPS
            2023); `none` keeps it in the compute precision.
        compute_dtype: Precision of the computation; `auto` looks at the device.
        bidirectional: Whether every token sees every other one; false is the base's own causal attention.
        pooling: `mean` over the tokens; `weighted_mean` by position, for causal attention (SGPT, Muennighoff, 2022);
            the `last` token; or `first_last`, the means of token embeddings and of last hidden states side by side,
            which keep words and context (after first-last averages, Su et al., arXiv 2103.15316).
        projection: Dimensions of a learned linear projection of the pooled state; none when left out.
        lora_rank: Rank of the adapters on all linear layers (Hu et al., ICLR 2022).
        lora_alpha: Scale of the adapters, divided by the rank.
        lora_dropout: Dropout before the adapters while training.
        attention_dropout: Dropout of attention weights while training; what tells the two views of SimCSE apart.
        checkpointing: Recompute each block's activations in the backward pass instead of keeping them.
        max_length: Most tokens of a text, prompt and special tokens included; the rest is cut off.
        prompt: Words before every text. They steer attention but are left out of the pooling: they are equal in all
            texts and would only pull all embeddings together.
        adapter: Whether there are adapters; without, it is the base alone.
    """

    base: str = ""
    base_name: str = ""
    layers: int | None = None
    quantization: Quantization = "nf4"
    compute_dtype: ComputeDtype = "auto"
    bidirectional: bool = True
    pooling: Pooling = "mean"
    projection: int | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    attention_dropout: float = 0.0
    checkpointing: bool = False
    max_length: int = 224
    prompt: str = ""
    adapter: bool = True

    def __post_init__(self) -> None:
        if self.base_name.startswith(("/", "~", ".")):
            raise ModelError(
                f"text.base_name={self.base_name.rsplit('/', 1)[-1]} is a path, which would be recorded; name the "
                "folder with text.base."
            )
        if self.pooling not in POOLINGS:
            raise ModelError(f"text.pooling={self.pooling!r} was found; choose one of {', '.join(POOLINGS)}.")
        if self.quantization not in ("nf4", "none"):
            raise ModelError(f"text.quantization={self.quantization!r} was found; choose one of nf4, none.")
        if self.lora_rank < 1 or self.max_length < 2 or (self.projection is not None and self.projection < 1):
            raise ModelError(
                f"text: lora_rank {self.lora_rank}, max_length {self.max_length}, projection {self.projection} were "
                "found; expected at least 1, 2 and 1."
            )
        if not (0 <= self.lora_dropout < 1 and 0 <= self.attention_dropout < 1):
            raise ModelError(
                f"text: dropouts {self.lora_dropout} and {self.attention_dropout} were found; expected 0 to below 1."
            )

    @classmethod
    def of(cls, content: TextEncoderConfig | Mapping[str, Any]) -> TextEncoderConfig:
        """The configuration itself, or read from plain data.

        Raises:
            ModelError: if a field is unknown.
        """
        return read_config(cls, content, "Text encoder configuration")

    def recorded(self) -> dict[str, Any]:
        """The configuration as plain data without the path of the base."""
        return {name: value for name, value in asdict(self).items() if name != "base"}


class TextEncoder(nn.Module):
    """Texts as vectors: a frozen causal language model, low-rank adapters, pooling, an optional projection.

    Args:
        config: Which base, and how it is adapted.
        device: Where the base is loaded and, in 4 bits, packed; the GPU where there is one by default.
        head: Whether to keep the language model's output layer, which masked next-token prediction needs. That of a
            cut base reads through a `translator`, which changes nothing until `Translation` has found it.

    Raises:
        ModelError: if the base cannot be loaded or does not become bidirectional.
    """

    def __init__(
        self, config: TextEncoderConfig, device: torch.device | str | None = None, *, head: bool = False
    ) -> None:
        super().__init__()
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.config = config
        folder = base_folder(config.base)
        self.base_fingerprint = base_fingerprint(folder)
        self.tokenizer = load_tokenizer(folder)
        begin = begin_ids(self.tokenizer)
        prompt = prompt_ids(self.tokenizer, [config.prompt])[0] if config.prompt.strip() else []
        self._prefix, self._bos = begin + prompt, len(begin)
        if len(self._prefix) >= config.max_length:
            raise ModelError(
                f"The prompt takes {len(self._prefix)} of {config.max_length} tokens; shorten it or raise max_length."
            )
        causal = load_base(
            folder,
            layers=config.layers,
            quantization=config.quantization,
            dtype=resolve_dtype(config.compute_dtype, place),
            bidirectional=config.bidirectional,
            attention_dropout=config.attention_dropout,
            device=place,
        )
        self.soft_cap = getattr(causal.config, "final_logit_softcapping", None)
        self.backbone: Any = causal.base_model
        self.head: nn.Module | None = causal.get_output_embeddings() if head else None
        self.hidden_dim = int(causal.config.hidden_size)
        self.translator = identity(self.hidden_dim, place) if self._is_cut(folder) else None
        if config.checkpointing:
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})
        if config.adapter:
            self.backbone = self._adapted(self.backbone)
        self.projection = (
            nn.Linear(self.pooled_dim, config.projection, bias=False, device=place) if config.projection else None
        )
        self.eval()

    def _is_cut(self, folder: Path) -> bool:
        return self.config.layers is not None and self.config.layers < base_layers(folder)

    def _adapted(self, backbone: nn.Module) -> nn.Module:
        config = self.config
        return low_rank_adapted(
            backbone,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            task="FEATURE_EXTRACTION",
            base_name=config.base_name,
        )

    @property
    def pooled_dim(self) -> int:
        """Dimensions of a pooled state, before the projection."""
        return self.hidden_dim * (2 if self.config.pooling == "first_last" else 1)

    @property
    def feature_dim(self) -> int:
        """Dimensions of an embedding."""
        return self.config.projection or self.pooled_dim

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, hidden_dim] of tokens int64 [B, T], in the compute precision."""
        states: torch.Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary of states [..., hidden_dim], float32 [..., V].

        The states of a cut base go through `translator` first.

        Raises:
            ModelError: if the encoder was built without its output layer.
        """
        if self.head is None:
            raise ModelError("This text encoder was built without its output layer; build it with head=True.")
        if self.translator is not None:
            states = self.translator(states.float()).to(states.dtype)
        scores = self.head(states).float()
        return scores if self.soft_cap is None else torch.tanh(scores / self.soft_cap) * self.soft_cap

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, not normalised.

        Args:
            input_ids: int64 [B, T], as `tokenize` gives them.
            attention_mask: int64 [B, T], 1 for tokens and 0 for padding.

        Returns:
            float32 [B, feature_dim].
        """
        states = self.hidden(input_ids, attention_mask)
        if self.config.pooling == "first_last":
            # Token embeddings are far smaller than hidden states; each token of both has the same length here.
            both = (self.backbone.get_input_embeddings()(input_ids), states)
            states = torch.cat([functional.rms_norm(part.float(), part.shape[-1:]) for part in both], dim=-1)
        with full_precision(states.device):
            pooled = pool(states, self._pooled(attention_mask), self.config.pooling)
            return pooled if self.projection is None else self.projection(pooled)

    def _pooled(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """The tokens that are pooled: all but padding and the prompt."""
        place = attention_mask.cumsum(dim=1) - 1
        prompt = (place >= self._bos) & (place < len(self._prefix))
        return attention_mask.bool() & ~prompt

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64 [B, T] on the CPU: padded on the right, truncated to max_length."""
        return tokenize(self.tokenizer, self._prefix, texts, self.config.max_length)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Adapter weights by the names of peft's files, and `projection.weight` where there is one; on the CPU."""
        state: dict[str, torch.Tensor] = {}
        if self.config.adapter:
            from peft import get_peft_model_state_dict

            # Only adapters are trained; peft would ask the hub whether the vocabulary was.
            state = get_peft_model_state_dict(self.backbone, save_embedding_layers=False)
        if self.projection is not None:
            state = {**state, "projection.weight": self.projection.weight}
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def load_adapter_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put in what `adapter_state` gave.

        Raises:
            ModelError: if a weight is absent, unknown or of another shape, naming it.
        """
        ours = self.adapter_state()
        wrong = misfits(ours, state)
        if wrong:
            raise ModelError(
                f"The adapter does not fit this base: {len(wrong)} weights are absent, unknown or of another shape, "
                f"first {wrong[0]}; expected those of {self.config.base_name} with {self.config.layers or 'all'} "
                f"layers and rank {self.config.lora_rank}."
            )
        if self.config.adapter:
            from peft import set_peft_model_state_dict

            adapters = {name: value for name, value in state.items() if name != "projection.weight"}
            set_peft_model_state_dict(self.backbone, adapters)
        if self.projection is not None:
            with torch.no_grad():
                self.projection.weight.copy_(state["projection.weight"])

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of everything that an embedding depends on, rounding aside.

        The base by a sample of its weights, adapters and projection exactly, and pooling, maximal length, prompt,
        layers, direction and quantisation.
        """
        digest = hashlib.sha256(self.base_fingerprint.encode())
        settings = {name: value for name, value in asdict(self.config).items() if name not in _NOT_HASHED}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(self.adapter_state().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode() + value.float().numpy().tobytes())
        return digest.hexdigest()[:16]


def pool(states: torch.Tensor, mask: torch.Tensor, kind: Pooling) -> torch.Tensor:
    """One vector a text.

    Args:
        states: [B, T, H].
        mask: bool [B, T], the tokens that count.
        kind: `mean`, also of states side by side for `first_last`; `weighted_mean`, by position among them from 1
            (SGPT); `last`.

    Returns:
        float32 [B, H]; 0 where no token counts.
    """
    place = mask.cumsum(dim=1)
    if kind == "last":
        weight = (mask & (place == place[:, -1:])).float()
    else:
        weight = (place * mask).float() if kind == "weighted_mean" else mask.float()
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
    return torch.einsum("bt,bth->bh", weight, states.float())
