"""Harrell's C-index on tensors."""

from __future__ import annotations

import torch

_TIED = 1e-8


def concordance_index(log_risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Share of comparable pairs in which the one with the higher risk has the event first (Harrell et al., 1982).

    A pair is comparable when the earlier of its times is an event, or both times are the same and one of them is.
    Equal risks count half. The value is that of scikit-survival's `concordance_index_censored`.

    Args:
        log_risk: float [N], higher means sooner.
        time: [N].
        event: bool [N].

    Returns:
        A scalar in [0, 1]; NaN where no pair is comparable.
    """
    score = log_risk.double()
    comparable = event[:, None] & ((time[:, None] < time[None]) | ((time[:, None] == time[None]) & ~event[None]))
    difference = score[:, None] - score[None]
    tied = comparable & (difference.abs() <= _TIED)
    concordant = comparable & (difference > _TIED)
    pairs = comparable.sum()
    if pairs == 0:
        return torch.tensor(float("nan"), dtype=torch.float64, device=score.device)
    return (concordant.sum().double() + 0.5 * tied.sum()) / pairs
