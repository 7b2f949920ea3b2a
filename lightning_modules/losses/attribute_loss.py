"""Masked cross-entropy over many attributes at once, and the ways to weigh them against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from lightning_modules.core.distributed import number_of_ranks, sum_over_ranks
from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING

Weighting = Literal["sum", "uncertainty", "gradient"]
Reduce = Callable[[torch.Tensor], torch.Tensor]


class AttributeTerms(NamedTuple):
    """The losses of a batch by attribute.

    `loss` is this rank's share times the number of ranks, so that the mean over ranks that DistributedDataParallel
    takes of gradients is the gradient of the loss over the global batch.
    """

    loss: torch.Tensor  # float [A], with gradient; 0 where nothing is stated
    mean: torch.Tensor  # float [A], of the global batch, without gradient
    present: torch.Tensor  # bool [A], whether the global batch states it
    residual: torch.Tensor  # float [B, A, C], gradient of `loss` by the padded logits, without gradient


class PaddedHeads(nn.Module):
    """The logits of all attributes as one rectangular tensor.

    Args:
        sizes: Number of classes of every attribute.
    """

    index: torch.Tensor
    padding: torch.Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        if not sizes or min(sizes) < 2:
            raise ModelError(f"Attributes with {list(sizes)} classes were found; expected two or more classes each.")
        self.sizes = list(sizes)
        starts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        offset = torch.arange(max(sizes))
        padding = offset[None] >= torch.tensor(self.sizes)[:, None]
        self.register_buffer("index", (starts[:, None] + offset).masked_fill(padding, 0), persistent=False)
        self.register_buffer("padding", padding, persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, sum of sizes] as [B, A, largest size], with minus infinity where an attribute has no such class."""
        return logits[:, self.index].masked_fill(self.padding, float("-inf"))


def masked_cross_entropy(
    padded: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, reduce: Reduce = sum_over_ranks
) -> AttributeTerms:
    """Class-weighted cross-entropy of every attribute over the samples that state it, on the global batch.

    A missing attribute contributes nothing: neither to the loss nor to a gradient nor to a mean.

    Args:
        padded: float [B, A, C] logits, minus infinity where an attribute has no such class.
        target: int64 [B, A], -100 where not stated.
        weight: float [A, C], class weights.
        reduce: Sums a tensor over ranks.

    Returns:
        The terms; with equal weights `mean` is torch's `cross_entropy(..., ignore_index=-100)` of each attribute.
    """
    stated = target != MISSING
    label = target.clamp_min(0)[..., None]
    log_probability = padded.float().log_softmax(dim=2)
    nll = -log_probability.gather(2, label)[..., 0]
    share = weight.expand(len(target), -1, -1).gather(2, label)[..., 0] * stated
    total = reduce(share.sum(dim=0))
    scale = share * (number_of_ranks() / total.clamp_min(torch.finfo(total.dtype).tiny))
    loss = (nll.where(stated, 0.0) * scale).sum(dim=0)
    with torch.no_grad():
        one_hot = torch.zeros_like(log_probability).scatter_(2, label, 1.0)
        residual = (log_probability.exp() - one_hot) * scale[..., None]
        mean = reduce(loss) / number_of_ranks()
    return AttributeTerms(loss, mean, total > 0, residual)


class TaskWeighting(nn.Module):
    """Combines the losses of the attributes into one.

    Args:
        tasks: Number of attributes.
        kind: `sum`, the mean over attributes that the batch states; `uncertainty`, by learned log-variances (Kendall
            et al., CVPR 2018); `gradient`, inversely to the running norm of each attribute's gradient at the shared
            feature, so that none drowns the others (the goal of GradNorm, Chen et al., ICML 2018, here in closed form
            at the feature instead of by a second optimiser).
        momentum: Of the running norm.

    Raises:
        ModelError: if the kind is unknown.
    """

    norm: torch.Tensor
    seen: torch.Tensor

    def __init__(self, tasks: int, kind: Weighting = "sum", momentum: float = 0.9) -> None:
        super().__init__()
        if kind not in ("sum", "uncertainty", "gradient"):
            raise ModelError(f"Task weighting {kind!r} was asked for; choose one of sum, uncertainty, gradient.")
        self.kind, self.momentum = kind, momentum
        if kind == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(tasks))
        if kind == "gradient":
            self.register_buffer("norm", torch.zeros(tasks))
            self.register_buffer("seen", torch.zeros(tasks, dtype=torch.bool))

    def forward(self, terms: AttributeTerms, head: torch.Tensor, reduce: Reduce = sum_over_ranks) -> torch.Tensor:
        """The loss of a batch.

        Args:
            terms: Losses by attribute.
            head: float [A, C, F], rows of the linear heads, zero where padded.
            reduce: Sums a tensor over ranks.

        Returns:
            A scalar; 0 with a gradient of 0 where the batch states nothing.
        """
        count = terms.present.sum().clamp_min(1)
        if self.kind == "sum":
            return terms.loss.sum() / count
        if self.kind == "uncertainty":
            term = terms.loss * torch.exp(-self.log_variance) + 0.5 * self.log_variance * terms.present
            return term.sum() / count
        if self.training:
            self._update(terms, head, reduce)
        typical = (self.norm * self.seen).sum() / self.seen.sum().clamp_min(1)
        factor = torch.where(self.seen, typical / self.norm.clamp_min(1e-12), 1.0)
        return (terms.loss * factor).sum() / count

    @torch.no_grad()
    def _update(self, terms: AttributeTerms, head: torch.Tensor, reduce: Reduce) -> None:
        """Running norm of d loss / d feature: the feature's gradient is residual x head rows, sample by sample."""
        gram = torch.einsum("acf,adf->acd", head.float(), head.float())
        outer = torch.einsum("bac,bad->acd", terms.residual, terms.residual)
        # Each rank's terms carry the factor `ranks`, which the mean over ranks takes away again.
        squared = reduce((outer * gram).sum(dim=(1, 2))) / number_of_ranks() ** 2
        norm = squared.clamp_min(0).sqrt()
        updated = torch.where(self.seen, self.momentum * self.norm + (1 - self.momentum) * norm, norm)
        self.norm.copy_(torch.where(terms.present, updated, self.norm))
        self.seen |= terms.present
