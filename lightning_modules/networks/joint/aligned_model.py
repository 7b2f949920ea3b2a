"""Image encoder and text embeddings in one space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.precision import full_precision
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class AlignedConfig:
    """Heads of the shared space.

    Args:
        text_dim: Dimensions of a text embedding.
        embed_dim: Dimensions of the shared space, with a linear head on either side; without it the space is that of
            the text embeddings, which stay as they are, and the image alone is projected (RenalCLIP).
        initial_scale: Inverse temperature to begin with.
        initial_bias: Bias of a pair's logit to begin with; without one there is none (InfoNCE needs none).
    """

    text_dim: int
    embed_dim: int | None = None
    initial_scale: float = 1 / 0.07
    initial_bias: float | None = None

    def __post_init__(self) -> None:
        if (
            self.text_dim < 1
            or (self.embed_dim is not None and self.embed_dim < 1)
            or not 0 < self.initial_scale <= 100
        ):
            raise ModelError(f"Alignment: {self} was found; expected dimensions of at least 1 and a scale in (0, 100].")


class AlignedModel(nn.Module):
    """Maps images and text embeddings to unit vectors whose similarity means that they belong together.

    `text_mean`, the mean of the training texts or 0, is taken off every text embedding first: pooled states of a
    language model share a large common part, beside which what tells texts apart is small.
    `contract` is the preprocessing that an image must have gone through, `crop` the centre of its grid [D, H, W] that
    the network was trained on, and `text_encoder` says which encoder the text embeddings must come from
    (`fingerprint`, and its configuration without a path).

    Args:
        encoder: Which image encoder, and how large.
        config: Heads of the shared space.
        contract: Preprocessing contract of the images.
        text_encoder: What is recorded of the text encoder, as plain data.
        crop: Voxels D x H x W of a training image, where they are known.
    """

    text_mean: torch.Tensor

    def __init__(
        self,
        encoder: EncoderConfig,
        config: AlignedConfig,
        contract: Mapping[str, Any] | None = None,
        text_encoder: Mapping[str, Any] | None = None,
        crop: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.crop = crop
        self.encoder_config, self.config = encoder, config
        self.contract, self.text_encoder = dict(contract or {}), dict(text_encoder or {})
        self.image_encoder = build_encoder(encoder)
        self.embed_dim = config.embed_dim or config.text_dim
        self.image_head = nn.Linear(int(self.image_encoder.feature_dim), self.embed_dim, bias=False)  # type: ignore[arg-type]
        self.text_head: nn.Module = (
            nn.Identity() if config.embed_dim is None else nn.Linear(config.text_dim, config.embed_dim, bias=False)
        )
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.initial_scale)))
        self.logit_bias = None if config.initial_bias is None else nn.Parameter(torch.tensor(config.initial_bias))

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of images [B, 1, D, H, W] in [0, 1]."""
        return self.embed_features(self.image_encoder(image))

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of features [B, F] of the image encoder."""
        with full_precision(features.device):
            head = self.image_head
            return functional.normalize(head(features.to(head.weight.dtype)).float(), dim=1)

    def embed_text(self, embedding: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of text embeddings float [B, T] by the recorded text encoder.

        Raises:
            ModelError: if they have other dimensions.
        """
        if embedding.shape[1:] != (self.config.text_dim,):
            raise ModelError(
                f"Text embeddings of shape {tuple(embedding.shape)} were given; expected [B, {self.config.text_dim}] "
                f"by text encoder {self.text_encoder.get('base_name', 'of this model')}."
            )
        with full_precision(embedding.device):
            centred = embedding.float() - self.text_mean
            if isinstance(self.text_head, nn.Linear):
                centred = centred.to(self.text_head.weight.dtype)
            return functional.normalize(self.text_head(centred).float(), dim=1)

    def scale(self) -> torch.Tensor:
        """Inverse temperature, at most 100."""
        return self.logit_scale.exp().reshape(())

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Keep the inverse temperature in [1, 100]; called after every step, as clamping in the forward pass would stop
        its gradient."""
        self.logit_scale.clamp_(0.0, MAX_LOG_SCALE)
