"""Optimiser and learning-rate schedule shared by all stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from lightning_modules.core.errors import ModelError

OptimizerKind = Literal["adamw", "paged_adamw8bit", "auto"]


@runtime_checkable
class HasLayerGroups(Protocol):
    """A backbone that names its parts, from the stem on; together they hold every parameter once."""

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The parameters of each part."""


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
        layer_decay: Factor of the learning rate from each part of the backbone to the one before it: its last part
            learns at this share of its rate, its stem slowest of all (Bao et al., BEiT, ICLR 2022); 1 for one rate.
    """

    lr: float = 1e-3
    weight_decay: float = 0.005
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    final: float = 0.0
    kind: OptimizerKind = "adamw"
    backbone_lr: float | None = None
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "paged_adamw8bit", "auto"):
            raise ModelError(f"Optimiser kind {self.kind!r} was found; choose one of adamw, paged_adamw8bit, auto.")
        numbers = (self.lr, self.weight_decay, *self.betas, self.backbone_lr or self.lr)
        shares = 0 <= self.warmup < 1 and 0 <= self.final <= 1
        if not all(map(math.isfinite, numbers)) or self.lr <= 0 or self.weight_decay < 0 or not shares:
            raise ModelError(
                f"Optimiser: {self} was found; expected lr > 0, weight_decay >= 0, "
                "warmup in [0, 1) and final in [0, 1], all finite."
            )
        if self.backbone_lr is not None and self.backbone_lr <= 0:
            raise ModelError(f"Optimiser: backbone_lr={self.backbone_lr} was found; expected more than 0, or nothing.")
        if not 0 < self.layer_decay <= 1:
            raise ModelError(f"Optimiser: layer_decay={self.layer_decay} was found; expected a factor in (0, 1].")


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


def _at_own_rates(
    groups: list[dict[str, Any]], rates: Sequence[tuple[float, Iterable[nn.Parameter]]]
) -> list[dict[str, Any]]:
    """The same parameters, those of each rate in groups of their own; the others keep the optimiser's."""
    rate_of = {id(parameter): lr for lr, parameters in rates for parameter in parameters}
    parts = []
    for group in groups:
        by_rate: dict[float | None, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rate_of.get(id(parameter)), []).append(parameter)
        parts += [
            {**group, "params": members} | ({} if lr is None else {"lr": lr})
            for lr, members in sorted(by_rate.items(), key=lambda item: (item[0] is not None, item[0] or 0.0))
        ]
    return parts


def _backbone_rates(config: OptimizerConfig, backbone: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """The parts of the backbone from the stem on, each with its peak learning rate.

    Raises:
        ModelError: if rates are to decay by parts and the backbone has none, or they miss a parameter.
    """
    lr = config.lr if config.backbone_lr is None else config.backbone_lr
    if config.layer_decay == 1:
        return [(lr, list(backbone.parameters()))]
    if not isinstance(backbone, HasLayerGroups):
        raise ModelError(f"optimizer.layer_decay is set, and {type(backbone).__name__} names no parts; leave it at 1.")
    parts = backbone.layer_groups()
    named = [id(parameter) for part in parts for parameter in part]
    if sorted(named) != sorted(id(parameter) for parameter in backbone.parameters()):
        raise ModelError(f"The parts of {type(backbone).__name__} do not hold each of its parameters once.")
    return [(lr * config.layer_decay ** (len(parts) - number), part) for number, part in enumerate(parts)]


def make_optimizer(
    module: nn.Module,
    config: OptimizerConfig,
    total_steps: int,
    backbone: nn.Module | None = None,
    rates: Sequence[tuple[float, Iterable[nn.Parameter]]] = (),
) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns: AdamW and its schedule, stepped every step.

    Args:
        module: What is trained.
        config: Optimiser and schedule.
        total_steps: Steps of the run.
        backbone: The part of it that learns at `config.backbone_lr`, decayed towards its stem by `config.layer_decay`.
        rates: Peak learning rates of further parts, each with its parameters.

    Raises:
        ModelError: if a rate is set for a backbone and there is none, or none with parts for `config.layer_decay`.
    """
    groups = decay_groups([module], config.weight_decay)
    if config.backbone_lr is not None or config.layer_decay != 1:
        if backbone is None:
            name = "backbone_lr" if config.backbone_lr is not None else "layer_decay"
            raise ModelError(f"optimizer.{name} is set, and {type(module).__name__} has no backbone; leave it out.")
        groups = _at_own_rates(groups, _backbone_rates(config, backbone))
    optimizer = _adamw(_at_own_rates(groups, rates), config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps, config.warmup, config.final)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
