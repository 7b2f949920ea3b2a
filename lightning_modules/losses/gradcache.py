"""Contrastive gradient caching: a global batch of any size at the memory of a micro-batch.

A contrastive loss needs the features of the whole batch at once, and ordinary accumulation of gradients is of no help.
Gradient caching (Gao et al., RepL4NLP 2021) computes the features without keeping activations, then the loss and its
gradient by the features, and encodes each micro-batch a second time to carry its part of that gradient on to the
weights. Here this is one node of autograd's graph, from the weights to the features of the batch. Loss scaling,
clipping and any optimiser see the gradient of the full batch, and DistributedDataParallel sees it once, as a weight's
sum over all micro-batches is handed on when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from lightning_modules.core.distributed import row_counts
from lightning_modules.core.errors import ModelError

Encode = Callable[[slice], torch.Tensor]


def micro_batches(rows: int, size: int, device: torch.device) -> list[slice]:
    """Parts of a batch, of `size` rows at most and of nearly equal length.

    Ranks whose batches differ in length get the same number of parts, since layers that synchronise over ranks
    (SyncBatchNorm) must be called equally often on each: one that waits for a rank that is done waits for ever. Where
    a rank has fewer rows than the others have parts, there are as many parts as it has rows, and the others' are longer
    than `size`.

    Args:
        rows: Rows of this rank.
        size: Largest number of rows of a part.
        device: Where ranks exchange their number of rows.

    Raises:
        ModelError: if the size is not positive, or a rank has no row.
    """
    if size < 1:
        raise ModelError(f"micro_batch={size} was found; expected at least 1, or nothing for the whole batch at once.")
    counts = row_counts(rows, device)
    if not min(counts):
        raise ModelError(f"A step with {counts} rows on the ranks was found; expected at least one on each.")
    parts = min(min(counts), -(-max(counts) // size))
    bounds = [part * rows // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def cached_features(encode: Encode, parts: Sequence[slice], module: nn.Module) -> torch.Tensor:
    """Features of a batch, of which at most one part has activations at any time.

    `encode` is called for every part now and once more in the backward pass, in the same order. It may read and augment
    the images of a part anew each time, so that not even the images of the batch are ever there together. It must give
    the same both times: torch's random generators are put back for the second pass (dropout draws the same),
    augmentation has to follow a seed of the sample, and running statistics move in the first pass only.

    The gradient is that of the full batch, exactly, where `encode` treats every sample by itself: with group or
    instance normalisation, or batch normalisation in evaluation mode. Batch normalisation in training mode takes its
    statistics from the part, in both passes alike; the gradient is then exact for that function, as in any training
    with small batches, and its running statistics move once a part.

    Args:
        encode: Gives the features [rows, d] of a part of the batch.
        parts: Parts that follow each other and cover the batch, from row 0.
        module: What `encode` calls. Its parameters are all that gets a gradient, and its buffers are put back after the
            second pass.

    Returns:
        [rows of the batch, d].

    Raises:
        ModelError: if the parts leave rows out or come in another order, or `encode` gives other rows than asked for.
    """
    bounds = [(part.start, part.stop) for part in parts]
    if not bounds or [start for start, _ in bounds] != [0, *(stop for _, stop in bounds[:-1])]:
        raise ModelError(f"Parts {bounds} were found; expected at least one, each from the end of the last, from 0.")
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not torch.is_grad_enabled() or not weights:
        return _encoded(encode, parts)
    features: torch.Tensor = _CachedFeatures.apply(encode, parts, module, *weights)
    return features


def _encoded(encode: Encode, parts: Sequence[slice]) -> torch.Tensor:
    """Features of the batch, without a graph where there is none of gradients.

    They are written to their place at once: a small result that is kept among large ones that are freed would keep
    the allocator from using that memory again, and some megabytes were lost with each part.
    """
    features: torch.Tensor | None = None
    for part in parts:
        found = encode(part)
        if len(found) != part.stop - part.start:
            raise ModelError(f"{len(found)} rows of features were found for rows {part.start} to {part.stop}.")
        if features is None:
            features = found.new_empty(parts[-1].stop, *found.shape[1:])
        features[part] = found
    assert features is not None
    return features


class _CachedFeatures(torch.autograd.Function):
    """Features without activations; backwards every part is encoded again for the gradient by the weights."""

    @staticmethod
    def forward(
        ctx: Any, encode: Encode, parts: Sequence[slice], module: nn.Module, *weights: torch.Tensor
    ) -> torch.Tensor:
        # The generators that are put back are those of the devices on which the weights lie.
        ctx.encode, ctx.parts, ctx.module, ctx.device_type = encode, parts, module, weights[0].device.type
        devices = {weight.device: weight for weight in weights}
        ctx.generator, ctx.generators = torch.get_rng_state(), get_device_states(*devices.values())
        ctx.precision = {
            "dtype": torch.get_autocast_dtype(ctx.device_type),
            "enabled": torch.is_autocast_enabled(ctx.device_type),
        }
        ctx.save_for_backward(*weights)
        with _autocast(ctx):
            return _encoded(encode, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weights, (devices, states) = ctx.saved_tensors, ctx.generators
        sums: list[torch.Tensor | None] = [None] * len(weights)
        with (
            torch.random.fork_rng(devices, device_type=ctx.device_type),
            _unchanged_buffers(ctx.module),
            torch.enable_grad(),
        ):
            torch.set_rng_state(ctx.generator)
            set_device_states(devices, states, device_type=ctx.device_type)
            for part in ctx.parts:
                for place, gradient in enumerate(_part_gradient(ctx, part, weights, outer[part])):
                    sums[place] = _added(sums[place], gradient)
        return (None, None, None, *sums)


def _part_gradient(
    ctx: Any, part: slice, weights: Sequence[torch.Tensor], outer: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """The gradient by the weights of one part, which is encoded for it with its activations."""
    with _autocast(ctx):
        features = ctx.encode(part)
    found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(features, weights, outer, allow_unused=True)
    return found


def _autocast(ctx: Any) -> torch.autocast:
    """The precision of the first pass. Casts are not kept: those of the first pass have no gradient."""
    return torch.autocast(ctx.device_type, **ctx.precision, cache_enabled=False)


def _added(total: torch.Tensor | None, gradient: torch.Tensor | None) -> torch.Tensor | None:
    """The sum, in place from the second on: the first is copied, as autograd may give one tensor to two weights."""
    if gradient is None:
        return total
    return gradient.clone() if total is None else total.add_(gradient)


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
