"""A published image encoder and its text side as one model, with what `AlignedModel` offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_modules.networks.text.published import PublishedText


class PublishedPair(nn.Module):
    """Maps images and text embeddings to unit vectors whose similarity means that they belong together.

    Args:
        image_encoder: The image encoder of the release.
        text: Its text side, with the heads of both.
        contract: Preprocessing contract of the images.
    """

    crop: tuple[int, int, int] | None = None

    def __init__(self, image_encoder: nn.Module, text: PublishedText, contract: Mapping[str, Any]) -> None:
        super().__init__()
        self.image_encoder, self.text, self.contract = image_encoder, text, dict(contract)
        self.embed_dim = text.text_projection.out_features
        self.text_encoder: dict[str, Any] = {"base_name": text.config.base, "fingerprint": text.fingerprint()}

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of images [B, 1, D, H, W] on the contract's scale."""
        return self.embed_features(self.image_encoder(image))

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of features [B, feature_dim] of the image encoder."""
        return self.text.embed_features(features)

    def embed_text(self, embedding: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [N, d], of embeddings [N, hidden_size] by the text side."""
        return self.text.embed_text(embedding)

    def scale(self) -> torch.Tensor:
        """Inverse temperature."""
        return self.text.scale()
