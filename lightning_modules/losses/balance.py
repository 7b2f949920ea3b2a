"""Weights of unevenly common classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

Balance = Literal["none", "inverse", "root"]


def class_weights(counts: Sequence[int], balance: Balance) -> torch.Tensor:
    """Weight of each class in the loss, averaging 1 over the training samples.

    Args:
        counts: Training samples of each class; one that does not occur gets the largest weight of those that do.
        balance: `none`; `inverse` to the class's frequency; `root`, inverse to its square root.

    Returns:
        float32 [C]; ones where nothing was counted.
    """
    frequency = torch.tensor(counts, dtype=torch.float64)
    present = frequency > 0
    if not present.any():
        return torch.ones(len(counts))
    frequency = frequency / frequency.sum()
    power = {"none": 0.0, "root": 0.5, "inverse": 1.0}[balance]
    weight = torch.where(present, frequency, 1.0) ** -power
    weight = torch.where(present, weight, weight[present].max())
    return (weight / (weight * frequency).sum()).float()
