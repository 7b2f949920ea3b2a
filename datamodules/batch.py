"""The batch: the contract between what is seen and what is learned."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import torch


class RoiBatch(TypedDict):
    """One batch of kidney ROIs.

    On the way to the device `image` is int16 HU on the contract's grid; after it, windowed float32 in [0, 1] on the
    network's grid.
    """

    image: torch.Tensor  # [B, 1, D, H, W]
    phase: torch.Tensor  # int64 [B], index into datamodules.schema.PHASES
    patient: torch.Tensor  # int64 [B], row of the DataModule's patient table; survives a gather over ranks
    sample: torch.Tensor  # int64 [B], position of the volume; repeats are dropped by it
    seed: torch.Tensor  # int64 [B], seed of the sample's augmentation
    patient_id: list[str]
    side: list[str]
    center: list[str]
    target: NotRequired[torch.Tensor]  # int64 [B], -100 where missing
