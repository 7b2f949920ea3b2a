"""The batch: the contract between what is seen and what is learned."""

from typing import NotRequired, TypedDict

import torch

MISSING = -100
"""What a target, an attribute or a token label holds where it is not known; losses leave it out."""


class RoiBatch(TypedDict):
    """One batch of kidney ROIs.

    On the way to the device `image` is int16 HU on the contract's grid; after it, windowed float32 in [0, 1] on the
    network's grid.
    """

    image: torch.Tensor  # [B, 1, D, H, W]; phases joined [B, P, D, H, W]; phases fused [B, P, 1, D, H, W]
    phase: torch.Tensor  # int64 [B], index into datamodules.cohort.columns.PHASES, -1 where joined; fused [B, P]
    patient: torch.Tensor  # int64 [B], row of the DataModule's patient table; survives a gather over ranks
    kidney: torch.Tensor  # int64 [B], row of the DataModule's kidney table
    sample: torch.Tensor  # int64 [B], position of the volume; repeats are dropped by it
    seed: torch.Tensor  # int64 [B], seed of the sample's augmentation
    patient_id: list[str]
    side: list[str]
    center: list[str]
    there: NotRequired[torch.Tensor]  # int64 [K], row * P + phase of the channels that are not absent; phases joined
    available: NotRequired[torch.Tensor]  # bool [B, P], phases that the study has; the others hold zeros
    target: NotRequired[torch.Tensor]  # int64 [B], -100 where missing; downstream classification
    time_months: NotRequired[torch.Tensor]  # float32 [B, 3] (rfs, dss, os), to event or censoring; 0 where unknown
    event: NotRequired[torch.Tensor]  # bool [B, 3], whether it was observed
    known: NotRequired[torch.Tensor]  # bool [B, 3], whether the patient has that endpoint
    attributes: NotRequired[torch.Tensor]  # int64 [B, A], -100 where not stated; attribute pretraining, alignment
    anatomy: NotRequired[torch.Tensor]  # uint8 [B, 1, D, H, W] codes; on the device float32 [B, 5, D, H, W], shares
    mask_known: NotRequired[torch.Tensor]  # bool [B], whether the kidney has a mask; attribute pretraining
    sinus_known: NotRequired[torch.Tensor]  # bool [B], whether it draws the sinus, else part of the first class
    text: NotRequired[torch.Tensor]  # float32 [B, T], embedding of the kidney's report; alignment
    positions: NotRequired[list[int]]  # `sample` on the host, where images are read later; alignment
    report_id: NotRequired[torch.Tensor]  # int64 [B], equal for identical reports; alignment
    report: NotRequired[list[str]]  # words of the kidney's report; report generation
    prompt: NotRequired[list[str]]  # words before it; report generation
