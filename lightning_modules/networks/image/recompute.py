"""Stages of a network whose activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(stage: nn.Module, *inputs: Any) -> torch.Tensor:
    """The output of a stage, whose activations are not kept.

    Outputs, gradients and running statistics are those of the plain call.

    Args:
        stage: Part of a network.
        inputs: What it is called with.
    """
    if torch.compiler.is_compiling():  # which traces each update of a statistic once, and no contexts
        hidden: torch.Tensor = checkpoint(stage, *inputs, use_reentrant=False)
    else:
        contexts = partial(_forward_and_recompute, stage)
        hidden = checkpoint(stage, *inputs, use_reentrant=False, context_fn=contexts)
    return hidden


def _forward_and_recompute(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(stage)


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Leave the running statistics alone, which the first pass over this batch has updated already."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
