"""SigLIP's pairwise sigmoid loss, in blocks that travel round a ring of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lightning_modules.core.distributed import own_rank, row_counts
from lightning_modules.losses.symmetric import CHUNK, check_pairs, working_type


def sigmoid_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    chunk: int = CHUNK,
    across_ranks: bool = True,
) -> torch.Tensor:
    """Sigmoid loss of SigLIP (Zhai et al., ICCV 2023) over the global batch.

    L = -1 / N * sum over i and j of log sigmoid(z_ij (scale V_i T_j + bias)), z_ij = 1 where i = j, else -1.

    Every pair stands for itself, so that a rank needs the texts of one other rank at a time: blocks of texts go round
    the ring of ranks, each with the gradient that it has gathered so far, and come home complete.

    Args:
        image: float [n, d], unit length; n may differ between ranks.
        text: float [n, d], unit length.
        scale: Scalar, the inverse temperature; 10 to begin with in the article.
        bias: Scalar; -10 to begin with, as nearly all pairs are negative.
        chunk: Rows computed together.
        across_ranks: Whether the batch is that of all ranks, or this rank's alone.

    Returns:
        This rank's share times the number of ranks, float32, as `info_nce`.

    Raises:
        ModelError: if the shapes do not go together.
    """
    check_pairs(image, text, chunk)
    counts = row_counts(len(image), image.device) if across_ranks else [len(image)]
    rank = own_rank() if across_ranks else 0
    dtype = working_type(image)
    loss: torch.Tensor = _SigmoidRing.apply(
        image.to(dtype), text.to(dtype), scale.to(dtype), bias.to(dtype), counts, rank, chunk
    )
    return loss


class _SigmoidRing(torch.autograd.Function):
    """Loss and gradient in one round of the ring; backwards only scales the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        text: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        counts: list[int],
        rank: int,
        chunk: int,
    ) -> torch.Tensor:
        with torch.autocast(image.device.type, enabled=False):
            ranks, factor = len(counts), len(counts) / sum(counts)
            loss, by_image = torch.zeros_like(bias), torch.zeros_like(image)
            by_scale, by_bias = torch.zeros_like(scale), torch.zeros_like(bias)
            # A block holds texts and their gradient; all are equally long, as neighbours exchange equal shares.
            block = text.new_zeros(2, max(counts), text.shape[1])
            block[0, : len(text)] = text
            for step in range(ranks):
                owner = (rank - step) % ranks
                texts, by_text = block[:, : counts[owner]]
                for start in range(0, len(image), chunk):
                    part = slice(start, min(start + chunk, len(image)))
                    similarity = image[part] @ texts.T
                    logits = similarity * scale + bias
                    slope = logits.sigmoid()
                    loss += functional.softplus(logits).sum()
                    if owner == rank:
                        # log sigmoid(x) = x - softplus(x): a positive differs from a negative by its logit.
                        loss -= logits.diagonal(start).sum()
                        slope.diagonal(start).sub_(1)
                    slope *= factor
                    by_scale += (slope * similarity).sum()
                    by_bias += slope.sum()
                    slope *= scale
                    by_image[part] += slope @ texts
                    by_text += slope.T @ image[part]
                if ranks > 1:
                    block = _pass_on(block, rank, ranks)
            ctx.save_for_backward(by_image, block[1, : len(text)], by_scale, by_bias)
            return loss * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # The texts' gradient came home as the sum over ranks, each of which was scaled by the same number.
        return (*(outer * gradient for gradient in ctx.saved_tensors), None, None, None)


def _pass_on(block: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """Give a block to the next rank and take the previous rank's."""
    received = torch.empty_like(block)
    exchange = [
        dist.P2POp(dist.isend, block.contiguous(), (rank + 1) % ranks),
        dist.P2POp(dist.irecv, received, (rank - 1) % ranks),
    ]
    for request in dist.batch_isend_irecv(exchange):
        request.wait()
    return received
