"""Losses of the text stages: masked next-token prediction, unsupervised SimCSE, contrast by attributes.

Every loss is this rank's share times the number of ranks, so that the mean of gradients that DistributedDataParallel
takes is the gradient of the loss on the global batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from lightning_modules.core.distributed import gather_rows, number_of_ranks, row_counts, row_offset, sum_over_ranks
from lightning_modules.core.missing import MISSING


class LossTerms(NamedTuple):
    """A loss over the global batch.

    Args:
        loss: This rank's share times the number of ranks, with gradient.
        rows: float [N], the loss of each of this rank's texts or masked tokens, without gradient.
    """

    loss: torch.Tensor
    rows: torch.Tensor


def masked_token_loss(logits: torch.Tensor, target: torch.Tensor) -> LossTerms:
    """Cross-entropy over the masked tokens of the global batch (MNTP; BehnamGhader et al., COLM 2024).

    Args:
        logits: float [M, V] of this rank.
        target: int64 [M].

    Returns:
        The terms; without any masked token a loss of 0 with a gradient of 0.
    """
    rows = functional.cross_entropy(logits.float(), target, reduction="none")
    count = sum_over_ranks(rows.new_full((), float(len(target)))).clamp_min(1.0)
    return LossTerms(rows.sum() * (number_of_ranks() / count), rows.detach())


def simcse_loss(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.05) -> LossTerms:
    """Unsupervised SimCSE (Gao, Yao and Chen, EMNLP 2021): find each text's second view among all of the global batch.

    Args:
        first: float [B, D], first views of this rank; need not be of unit length.
        second: float [B, D], their second views.
        temperature: Of the cosine similarities.

    Returns:
        -log softmax of the own view over the second views of all ranks, by text.
    """
    counts = row_counts(len(first), first.device)
    others = gather_rows(functional.normalize(second.float(), dim=1), counts)
    similarity = functional.normalize(first.float(), dim=1) @ others.T / temperature
    own = torch.arange(len(first), device=first.device) + row_offset(counts)
    rows = functional.cross_entropy(similarity, own, reduction="none")
    return LossTerms(rows.sum() * (number_of_ranks() / sum(counts)), rows.detach())


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the stated attributes of kidneys agree.

    Args:
        ours: int64 [B, A], -100 where not stated.
        theirs: int64 [N, A].

    Returns:
        `share` float [B, N], the attributes that both state alike, as a share of those that either states, and
        `conflict` bool [B, N], whether they differ in any that both state.
    """
    shape = len(ours), len(theirs)
    alike, both, either = (torch.zeros(shape, dtype=torch.int16, device=ours.device) for _ in range(3))
    for a, b in zip(ours.T, theirs.T, strict=True):  # one attribute at a time: B x N x A would not fit for a cohort
        stated, known = (a != MISSING)[:, None], (b != MISSING)[None]
        both += stated & known
        either += stated | known
        alike += stated & known & (a[:, None] == b[None])
    return alike / either.clamp_min(1), both > alike


def attribute_contrast_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    attributes: torch.Tensor,
    temperature: float = 0.1,
    negatives: torch.Tensor | None = None,
    negative_of: torch.Tensor | None = None,
) -> LossTerms:
    """Supervised contrast (SupCon, Khosla et al., NeurIPS 2020, L_out) of reports by what they state.

    For an anchor i with positives P and negatives N, and a weight w of every positive,

        L_i = - sum_{p in P} w_ip log( exp(z_i z_p / t) / sum_{a in P or N} exp(z_i z_a / t) ) / sum_{p in P} w_ip

    averaged over the anchors, which are both views of every report. The other view of the same report is a positive
    of weight 1. Another report that conflicts in any attribute is a negative. One that does not conflict is a positive
    whose weight is the share of attributes that both state alike among those that either states: reports that agree in
    part pull in part. Reports with nothing in common are neither and are left out. Texts that differ from a second view
    in one fact are hard negatives of its first view, of which they are worded independently, and of nothing else.

    Args:
        first: float [B, D], first views of this rank; need not be of unit length.
        second: float [B, D], second views.
        attributes: int64 [B, A], -100 where not stated.
        temperature: Of the cosine similarities.
        negatives: float [N, D], hard negatives of this rank's texts, if any.
        negative_of: int64 [N], the text that each belongs to.

    Returns:
        The loss, by text the mean over its two views.
    """
    counts = row_counts(len(first), first.device)
    z = functional.normalize(torch.stack([first, second], dim=1).float(), dim=2)
    everyone, facts = gather_rows(z, counts), gather_rows(attributes, counts)
    weight, conflict = agreement(attributes, facts)
    rows = torch.arange(len(first), device=first.device)
    own = torch.zeros_like(conflict)
    own[rows, rows + row_offset(counts)] = True
    weight = torch.where(conflict, 0.0, weight).masked_fill(own, 1.0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    used = (conflict | own).repeat_interleave(2, 0).repeat_interleave(2, 1) | (weight > 0)
    place = torch.arange(2 * len(first), device=first.device)
    oneself = torch.zeros_like(used)
    oneself[place, place + 2 * row_offset(counts)] = True
    used, weight = used & ~oneself, weight.masked_fill(oneself, 0.0)
    similarity = z.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature
    against = similarity.masked_fill(~used, float("-inf"))
    if negatives is not None and negative_of is not None and len(negatives):
        hard = z.flatten(0, 1) @ functional.normalize(negatives.float(), dim=1).T / temperature
        foreign = place[:, None] != 2 * negative_of[None]
        against = torch.cat([against, hard.masked_fill(foreign, float("-inf"))], dim=1)
    log_share = similarity - against.logsumexp(dim=1, keepdim=True)
    # The other view is always there, so the weights of an anchor never sum to 0.
    rows = (
        (-(log_share.masked_fill(weight == 0, 0.0) * weight).sum(dim=1) / weight.sum(dim=1))
        .unflatten(0, (-1, 2))
        .mean(dim=1)
    )
    return LossTerms(rows.sum() * (number_of_ranks() / sum(counts)), rows.detach())


@torch.no_grad()
def nearer_than_negatives(
    first: torch.Tensor, second: torch.Tensor, negatives: torch.Tensor, negative_of: torch.Tensor
) -> torch.Tensor:
    """Whether each first view's second view is more similar to it than all of its hard negatives, bool [B].

    Args:
        first: float [B, D].
        second: float [B, D].
        negatives: float [N, D].
        negative_of: int64 [N], the text that each belongs to; a text without any counts as won.
    """
    own = functional.cosine_similarity(first.float(), second.float())
    hard = functional.cosine_similarity(first.float()[negative_of], negatives.float())
    lost = torch.zeros_like(own).index_add(0, negative_of, (hard >= own[negative_of]).to(own))
    return lost == 0
