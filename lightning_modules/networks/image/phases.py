"""One prediction out of the contrast phases that a study has."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lightning_modules.core.errors import ModelError

Fusion = Literal["mean", "attention"]


class PhaseFusion(nn.Module):
    """Averages the outputs of the available phases, evenly or with learned weights.

    With `mean` it is what the reference does (Tao et al., Nature Communications 2026). With `attention` the weights are
    a softmax over the available phases of a gated score of each phase's feature (Ilse et al., ICML 2018) and of which
    phase it is. They add up to one, so a single phase is given back as it is; absent phases never enter.

    Args:
        kind: `mean` or `attention`.
        features: Dimension of a phase's feature.
        phases: Number of phases.
        hidden: Width of the gated score.

    Raises:
        ModelError: if the kind is unknown.
    """

    def __init__(self, kind: Fusion, features: int, phases: int = 4, hidden: int = 64) -> None:
        super().__init__()
        if kind not in ("mean", "attention"):
            raise ModelError(f"Fusion {kind!r} was asked for; choose one of mean, attention.")
        self.kind = kind
        if kind == "attention":
            self.value, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
            self.score = nn.Linear(hidden, 1, bias=False)
            self.phase = nn.Embedding(phases, 1)
            # Even weights at first: training starts from the mean.
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.phase.weight)

    def forward(
        self, feature: torch.Tensor, output: torch.Tensor, available: torch.Tensor, phase: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fuse the phases of every visit.

        Args:
            feature: float [M, F] of the available phases alone, visit by visit.
            output: float [M, C], what the head gives for each of them.
            available: bool [B, P] with M entries true.
            phase: int64 [B, P], which phase each entry is; its position when left out.

        Returns:
            float [B, C]; zeros for a visit without a phase.
        """
        visit, position = available.nonzero().unbind(dim=1)
        if self.kind == "mean":
            share = 1.0 / available.sum(dim=1)[visit].to(output.dtype)
        else:
            which = position if phase is None else phase[available]
            gated = torch.tanh(self.value(feature)) * torch.sigmoid(self.gate(feature))
            score = (self.score(gated) + self.phase(which))[:, 0].float()
            filled = score.new_full(available.shape, float("-inf")).masked_scatter(available, score)
            share = filled[available.any(dim=1)].softmax(dim=1)[available[available.any(dim=1)]].to(output.dtype)
        summed = output.new_zeros(len(available), output.shape[1])
        return summed.index_add(0, visit, output * share[:, None])


def drop_phases(available: torch.Tensor, probability: float) -> torch.Tensor:
    """Take available phases away at random, as if the study lacked them, but never all of a visit.

    Args:
        available: bool [B, P].
        probability: With which each phase is taken away, in [0, 1); of those of a visit one is always kept.

    Returns:
        bool [B, P], a part of `available`.
    """
    if probability <= 0:
        return available
    draw = torch.rand(available.shape, device=available.device).masked_fill(~available, -1.0)
    luckiest = torch.zeros_like(available).scatter(1, draw.argmax(dim=1, keepdim=True), True)
    return available & ((draw >= probability) | luckiest)
