"""Contrastive gradient caching: a global batch of any size at the memory of a micro-batch.

A contrastive loss needs the features of the whole batch at once, and ordinary accumulation of gradients is of no help.
Gradient caching (Gao et al., RepL4NLP 2021) computes the features without keeping activations, then the loss and its
gradient by the features, and encodes each micro-batch a second time to carry its part of that gradient on to the
weights. This is recomputation with one checkpoint a micro-batch, and is written as that: the result is an ordinary
node of autograd's graph. Loss scaling, clipping and any optimiser see the gradient of the full batch, and
DistributedDataParallel sees it once, after the last micro-batch, as every weight's sum is complete only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.errors import ModelError
from lightning_modules.losses.gather import row_counts

Part = TypeVar("Part")


def micro_batches(rows: int, size: int, device: torch.device) -> list[slice]:
    """Parts of a batch, of `size` rows at most and of nearly equal length.

    Ranks whose batches differ in length get the same number of parts, since layers that synchronise over ranks
    (SyncBatchNorm) must be called equally often on each.

    Args:
        rows: Rows of this rank.
        size: Largest number of rows of a part.
        device: Where ranks exchange their number of rows.

    Raises:
        ModelError: if the size is not positive.
    """
    if size < 1:
        raise ModelError(f"micro_batch={size} was found; expected at least 1, or nothing for the whole batch at once.")
    parts = min(rows, -(-max(row_counts(rows, device)) // size))
    bounds = [part * rows // parts for part in range(parts + 1)] if parts else [0]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def cached_features(encode: Callable[[Part], torch.Tensor], parts: Sequence[Part], module: nn.Module) -> torch.Tensor:
    """Features of a batch, of which at most one part has activations at any time.

    `encode` is called for every part now and once more in the backward pass. What a part is, is its own affair: given
    positions instead of images it can read and augment them anew each time, so that not even the images of the batch
    are ever there together. It must give the same both times: torch's random generators are put back for the second
    pass (dropout draws the same), augmentation has to follow a seed of the sample, and running statistics move in the
    first pass only.

    The gradient is that of the full batch, exactly, where `encode` treats every sample by itself: with group or
    instance normalisation, or batch normalisation in evaluation mode. Batch normalisation in training mode takes its
    statistics from the part, in both passes alike; the gradient is then exact for that function, as in any training
    with small batches, and its running statistics move once a part.

    Args:
        encode: Gives the features [rows, d] of a part.
        parts: The parts in the order of rows.
        module: What `encode` calls: its buffers are put back after the second pass.

    Returns:
        [sum of rows, d].
    """
    if not torch.is_grad_enabled():
        return torch.cat([encode(part) for part in parts])
    # The generators that are put back are those of the devices on which the arguments lie.
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    anchor = torch.empty(0, device=device)
    features = [
        checkpoint(
            lambda _, part: encode(part),
            anchor,
            part,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _unchanged_buffers(module)),
        )
        for part in parts
    ]
    return torch.cat(features)


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back at the end of the block."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
