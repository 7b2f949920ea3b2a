"""Optimiser and learning-rate schedule shared by all stages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lightning_modules.errors import ModelError

OptimizerKind = Literal["adamw", "paged_adamw8bit", "auto"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with linear warm-up and cosine decay, by step.

    Args:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay; biases and normalisation layers are spared.
        betas: Decay of the moment estimates.
        warmup: Share of all steps over which the rate rises from 0.
        final: Rate at the last step, as a share of `lr`.
        kind: `adamw`; `paged_adamw8bit`, whose moments take a quarter of the memory and may leave the GPU (Dettmers et
            al., ICLR 2022 and NeurIPS 2023); or `auto`, the latter on a GPU and the former elsewhere.
        backbone_lr: Peak learning rate of the pretrained backbone; `lr` when left out.
    """

    lr: float = 1e-3
    weight_decay: float = 0.005
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    final: float = 0.0
    kind: OptimizerKind = "adamw"
    backbone_lr: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "paged_adamw8bit", "auto"):
            raise ModelError(f"Optimiser kind {self.kind!r} was found; choose one of adamw, paged_adamw8bit, auto.")
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.warmup < 1 or not 0 <= self.final <= 1:
            raise ModelError(
                f"Optimiser: {self} was found; expected lr > 0, weight_decay >= 0, "
                "warmup in [0, 1) and final in [0, 1]."
            )
        if self.backbone_lr is not None and self.backbone_lr <= 0:
            raise ModelError(f"Optimiser: backbone_lr={self.backbone_lr} was found; expected more than 0, or nothing.")


def warmup_cosine(step: int, total: int, warmup: float, final: float = 0.0) -> float:
    """Share of the peak learning rate at a step.

    Args:
        step: Step, from 0.
        total: Number of steps; the rate stays at `final` beyond.
        warmup: Share of steps that rise linearly.
        final: Share of the peak at the end.

    Returns:
        A factor in [0, 1].
    """
    rising = max(1, round(warmup * total)) if warmup > 0 else 0
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step - rising) / max(1, total - rising))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and kernels decay, vectors (bias, normalisation) do not."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    on_gpu = any(parameter.is_cuda for group in groups for parameter in group["params"])
    if config.kind == "paged_adamw8bit" or (config.kind == "auto" and on_gpu):
        from bitsandbytes.optim import PagedAdamW8bit

        eight_bit: torch.optim.Optimizer = PagedAdamW8bit(groups, lr=config.lr, betas=config.betas)
        return eight_bit
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _at_own_rate(groups: list[dict[str, Any]], backbone: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The same parameters, with those of the backbone in groups of their own."""
    members = {id(parameter) for parameter in backbone.parameters()}
    parts = [
        {**group, "params": [value for value in group["params"] if (id(value) in members) == inside]}
        | ({"lr": lr} if inside else {})
        for group in groups
        for inside in (False, True)
    ]
    return [part for part in parts if part["params"]]


def make_optimizer(
    module: nn.Module, config: OptimizerConfig, total_steps: int, backbone: nn.Module | None = None
) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns: AdamW and its schedule, stepped every step.

    Args:
        module: What is trained.
        config: Optimiser and schedule.
        total_steps: Steps of the run.
        backbone: The part of it that learns at `config.backbone_lr`.

    Raises:
        ModelError: if a rate is set for a backbone and there is none.
    """
    groups = decay_groups([module], config.weight_decay)
    if config.backbone_lr is not None:
        if backbone is None:
            raise ModelError(
                f"optimizer.backbone_lr is set, and {type(module).__name__} has no backbone; leave it out."
            )
        groups = _at_own_rate(groups, backbone, config.backbone_lr)
    optimizer = _adamw(groups, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps, config.warmup, config.final)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
