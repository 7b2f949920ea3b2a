"""The last layers of stage 1, fitted once more on what the encoder read in its last epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

_BATCH, _LR, _WEIGHT_DECAY, _WARMUP = 64, 2e-3, 1e-2, 0.07


def refit(
    modules: Sequence[nn.Module],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    readings: torch.Tensor,
    target: torch.Tensor,
    steps: int,
) -> None:
    """Train modules on readings that no longer change (decoupled training, Kang et al., ICLR 2020).

    A step of stage 1 has few kidneys, for its maps are what costs, and the last layers see each kidney a few times. On
    readings at hand a thousand larger steps take seconds. They are of augmented images with phases taken away, as
    training saw them. Every rank of a run does the same steps, and comes to the same weights.

    Args:
        modules: What is trained, in place.
        loss: Loss of readings [b, K] and targets [b, A].
        readings: float [N, K], the same on every rank.
        target: int64 [N, A].
        steps: Number of steps.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_LR, weight_decay=_WEIGHT_DECAY)
    readings = readings.float()
    devices = [readings.device] if readings.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for step in range(steps):
            done = step / steps
            rate = min(1.0, (done + 1 / steps) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = _LR * rate
            chosen = torch.randint(len(readings), (min(_BATCH, len(readings)),)).to(readings.device, non_blocking=True)
            optimizer.zero_grad()
            loss(readings[chosen], target[chosen]).backward()
            optimizer.step()
    optimizer.zero_grad()
