"""An image as a few vectors among the word embeddings of a language model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lightning_modules.core.errors import ModelError

ImageFeatures = Literal["pooled", "spatial"]
_HEADS = 4


class Standardize(nn.Module):
    """Shifts and scales each feature; both are learned, from the mean and spread of training images on.

    Features of one encoder share most of their value from image to image, and a normalisation of each image by itself
    leaves that; what tells images apart would reach the language model too faintly to be looked at. Data-dependent
    starting values: Kingma and Dhariwal, NeurIPS 2018.

    Args:
        features: Number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features))
        self.scale = nn.Parameter(torch.ones(features))

    @torch.no_grad()
    def start_from(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Make features of this mean and standard deviation, float [F], have mean 0 and deviation 1."""
        self.shift.copy_(mean)
        # A feature that hardly varies is noise; a tenth of the typical spread keeps it from being blown up.
        self.scale.copy_(1 / spread.clamp_min(max(0.1 * float(spread.median()), 1e-6)))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Features [..., F] of features [..., F]."""
        return (feature - self.shift) * self.scale


class PooledTokens(nn.Module):
    """Tokens from the pooled feature, by a perceptron of two layers (LLaVA-1.5, Liu et al., CVPR 2024).

    Args:
        features: Width of the encoder's feature.
        hidden: Width of the language model.
        tokens: Number of tokens.
    """

    def __init__(self, features: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.standardize = Standardize(features)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden * tokens))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Tokens float [B, tokens, hidden] of pooled features [B, F]."""
        tokens: torch.Tensor = self.layers(self.standardize(feature)).unflatten(1, (-1, self.hidden))
        return tokens


class ResampledTokens(nn.Module):
    """Tokens from the spatial feature map, by learned queries that attend to its places.

    One block of a Perceiver resampler (Alayrac et al., NeurIPS 2022).

    The place of a feature enters as its coordinates in [-1, 1], so that a map of any size is read.

    Args:
        features: Channels of the map.
        hidden: Width of the language model.
        tokens: Number of tokens.
    """

    def __init__(self, features: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, features) * features**-0.5)
        self.place = nn.Linear(3, features)
        self.standardize = Standardize(features)
        self.attention = nn.MultiheadAttention(features, _HEADS, batch_first=True)
        self.out = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Tokens float [B, tokens, hidden] of feature maps [B, F, D, H, W]."""
        axes = [torch.linspace(-1, 1, size, device=feature.device, dtype=feature.dtype) for size in feature.shape[2:]]
        places = self.place(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)).flatten(0, 2)
        keys = self.standardize(feature.flatten(2).transpose(1, 2)) + places
        queries = self.queries.expand(len(feature), -1, -1)
        seen, _ = self.attention(queries, keys, keys, need_weights=False)
        tokens: torch.Tensor = self.out(queries + seen)
        return tokens


def build_image_tokens(kind: ImageFeatures, features: int, hidden: int, tokens: int) -> nn.Module:
    """The projector from image features to a language model's embeddings.

    Args:
        kind: `pooled` takes [B, F]; `spatial` takes [B, F, D, H, W].
        features: Width of the encoder's feature.
        hidden: Width of the language model.
        tokens: Number of tokens, at least 1.

    Raises:
        ModelError: if the kind is unknown, there would be no token, or the width cannot be shared among heads.
    """
    if kind not in ("pooled", "spatial"):
        raise ModelError(f"image_features={kind!r} was found; choose pooled or spatial.")
    if tokens < 1:
        raise ModelError(f"image_tokens={tokens} was found; expected at least 1.")
    if kind == "spatial" and features % _HEADS:
        raise ModelError(f"A feature map of {features} channels cannot be split over {_HEADS} heads; choose pooled.")
    return (PooledTokens if kind == "pooled" else ResampledTokens)(features, hidden, tokens)
