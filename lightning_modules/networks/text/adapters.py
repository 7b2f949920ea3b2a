"""Low-rank adapters on every linear layer of a language model (LoRA, Hu et al., ICLR 2022), by peft."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def merged(model: object) -> Iterator[None]:
    """Adapters added into the weights that they adapt, for a block that needs no gradient.

    The same numbers up to rounding with a third of the matrix products; on a CPU a small model takes .85 of the time.
    Weights in 4 bits or in half precision, which would lose the adapters to rounding, stay as they are. Afterwards the
    weights are what they were, to the bit.

    Args:
        model: A model with or without adapters.
    """
    from peft.tuners.lora import Linear

    found = [layer for layer in model.modules() if isinstance(layer, Linear)] if isinstance(model, nn.Module) else []
    # A subclass of Parameter is quantised, or a share of a weight that lies on several devices.
    layers = [
        layer
        for layer in found
        if type(layer.weight) is nn.Parameter and layer.weight.dtype == torch.float32 and not layer.merged
    ]
    kept = [layer.weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.unmerge()
                layer.weight.copy_(weight)
