"""Retrieval between images and texts, where an identical report is as good as one's own."""

from __future__ import annotations

from typing import NamedTuple

import torch

CHUNK = 512


class FirstHits(NamedTuple):
    """Place of the first hit among all candidates, from 1, by query."""

    image_to_text: torch.Tensor  # int64 [N]
    text_to_image: torch.Tensor  # int64 [N]


def first_hit_ranks(
    query: torch.Tensor, candidate: torch.Tensor, same: torch.Tensor, own: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Place of the best candidate that counts as a hit.

    Args:
        query: float [N, d], unit length.
        candidate: float [M, d], unit length.
        same: int64 [M], group of every candidate; one of the query's own group is a hit.
        own: int64 [N], group of every query.
        chunk: Queries whose similarities are held at a time.

    Returns:
        int64 [N], from 1: one more than the number of candidates of other groups that are as near as the nearest hit
        or nearer, so that a constant embedding does not look good. Where no candidate is a hit it is M + 1.
    """
    ranks = torch.empty(len(query), dtype=torch.int64, device=query.device)
    for start in range(0, len(query), chunk):
        part = slice(start, start + chunk)
        similarity = query[part] @ candidate.T
        hit = own[part, None] == same
        best = similarity.masked_fill(~hit, float("-inf")).amax(dim=1, keepdim=True)
        before = (~hit & (similarity >= best)).sum(dim=1)
        ranks[part] = torch.where(hit.any(dim=1), 1 + before, len(candidate) + 1)
    return ranks


def retrieval_ranks(image: torch.Tensor, text: torch.Tensor, report_id: torch.Tensor) -> FirstHits:
    """Ranks of both directions among distinct reports and among all images.

    Identical reports are one candidate: else one that many normal kidneys share would fill the first places.

    Args:
        image: float [N, d], unit length.
        text: float [N, d], unit length; row i is the report of image i.
        report_id: int64 [N], equal for identical reports.

    Returns:
        For every image the place of its report among the distinct reports, and for every distinct report, in the
        order of ids, the place of the first image that has it.
    """
    distinct, row = torch.unique(report_id, return_inverse=True)
    first = torch.full((len(distinct),), len(report_id), device=row.device)
    first = first.scatter_reduce(0, row, torch.arange(len(row), device=row.device), reduce="amin")
    texts = text[first]
    return FirstHits(
        first_hit_ranks(image, texts, distinct, report_id), first_hit_ranks(texts, image, report_id, distinct)
    )


def recall_at(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Share of queries whose first hit is among the first k; NaN without a query."""
    return (ranks <= k).float().mean()
