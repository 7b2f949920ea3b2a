"""Low-rank adapters on every linear layer of a language model (LoRA, Hu et al., ICLR 2022), by peft."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def low_rank_adapted(model: nn.Module, *, rank: int, alpha: int, dropout: float, task: str, base_name: str) -> Any:
    """The model with adapters that change nothing yet; all other weights are frozen.

    Args:
        model: A transformers model.
        rank: Rank of the adapters.
        alpha: Their scale, divided by the rank.
        dropout: Dropout before them while training.
        task: peft's name of the task, which decides what stays reachable of the model.
        base_name: What is recorded of the base: peft records its folder, which is a path of this machine.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none", task_type=task
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # peft's own
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def misfits(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the weights that are absent, unknown or of another shape, sorted.

    Args:
        ours: What the model takes.
        theirs: What is to be put in.
    """
    wrong = {name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape}
    return sorted(wrong | (set(theirs) - set(ours)))
