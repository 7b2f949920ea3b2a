"""The last step to the network: the axes in its order and direction, the window's ends at its values."""

from __future__ import annotations

import torch

from datamodules.volumes.contract import PreprocessingContract


def turned(batch: torch.Tensor, contract: PreprocessingContract) -> torch.Tensor:
    """Turn stored arrays [B, C, D, H, W] so that their axes run along `contract.axes`; contiguous."""
    order, reversed_axes = contract.turn
    if order == (0, 1, 2) and not reversed_axes:
        return batch
    return batch.permute(0, 1, *(axis + 2 for axis in order)).flip([axis + 2 for axis in reversed_axes]).contiguous()


def presented(batch: torch.Tensor, contract: PreprocessingContract) -> torch.Tensor:
    """Turn and scale windowed images as the contract says of the network's input.

    Args:
        batch: float [B, 1, D, H, W] in [0, 1], axes as stored.
        contract: The contract; by default nothing is changed, and the batch itself comes back.

    Returns:
        float [B, 1, ...], contiguous, axes along `contract.axes`, in `contract.scaled`.
    """
    batch = turned(batch, contract)
    low, high = contract.scaled
    return batch if (low, high) == (0.0, 1.0) else batch * (high - low) + low
