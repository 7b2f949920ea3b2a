"""Measurements in units of their spread, by what training has seen so far."""

from __future__ import annotations

import torch
from torch import nn

_FLOOR = 1e-3


class Standardized(nn.Module):
    """Takes a running mean off and divides by a running spread, in training as in evaluation.

    The statistics of a batch never enter, as they do in batch normalisation: a step may have four kidneys. Far values
    are cut at ten spreads.

    Args:
        features: Number of features.
        memory: Samples over which the statistics run; until then they are those of all that was seen.
    """

    mean: torch.Tensor
    square: torch.Tensor
    seen: torch.Tensor

    def __init__(self, features: int, memory: int = 4000) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("square", torch.ones(features))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """float32 [B, F], without a gradient."""
        value = value.float()
        if self.training:
            self.seen += len(value)
            rate = len(value) / self.seen.clamp(max=self.memory)
            self.mean += (value.mean(dim=0) - self.mean) * rate
            self.square += (value.square().mean(dim=0) - self.square) * rate
        spread = (self.square - self.mean.square()).clamp_min(0).sqrt()
        return ((value - self.mean) / spread.clamp_min(_FLOOR)).clamp(-10, 10)
