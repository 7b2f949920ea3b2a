"""Retrieval between reports and scans with duplicates: pure functions on unit embeddings and groups of equals.

A candidate is relevant when its report says the same as the query's. The rank of a query is that of its first relevant
candidate; ties with others count against it, so that a constant embedding does not look good.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import hypergeom

from datamodules.batch import MISSING
from datamodules.errors import DataError
from experiments.statistics.bootstrap import Statistic, mean_of, ratio, ratio_of
from experiments.statistics.support import MedianSupport
from lightning_modules.metrics.retrieval import CHUNK, first_hit_ranks

_REPLICATES = 1 << 22  # weights of a block of replicates


@dataclass(frozen=True)
class Ranks:
    """What a retrieval gave.

    Args:
        rank: int64 [Q], from 1, of the first relevant candidate of every query.
        relevant: int64 [Q], number of relevant candidates.
        candidates: int64 [Q], number of all candidates.
    """

    rank: np.ndarray
    relevant: np.ndarray
    candidates: np.ndarray

    def of(self, rows: np.ndarray) -> Ranks:
        """The queries of a mask or of positions."""
        return Ranks(self.rank[rows], self.relevant[rows], self.candidates[rows])


@dataclass(frozen=True)
class RetrievedFacts:
    """What the first candidate of every query says of the query, counted in stated attributes.

    Args:
        alike: float [Q], attributes that both state with the same value.
        stated: float [Q], attributes that the query states and those that the candidate states, added.
        alike_by_chance: float [Q], the mean of `alike` over all candidates.
        stated_by_chance: float [Q], the mean of `stated` over all candidates.
    """

    alike: np.ndarray
    stated: np.ndarray
    alike_by_chance: np.ndarray
    stated_by_chance: np.ndarray

    def of(self, rows: np.ndarray) -> RetrievedFacts:
        """The queries of a mask or of positions."""
        return RetrievedFacts(*(part[rows] for part in vars(self).values()))

    def chance(self) -> float:
        """F1 of a random candidate."""
        return float(ratio(2 * self.alike_by_chance.sum(), self.stated_by_chance.sum()))


def equivalence(report_id: np.ndarray, attributes: np.ndarray, missing: int = MISSING) -> np.ndarray:
    """Groups of reports that say the same: identical texts, or the same stated attributes.

    Both relations are joined to their transitive closure, so the groups part the reports. Reports that state nothing
    are equal to identical texts only.

    Args:
        report_id: int [N], equal for identical texts.
        attributes: int [N, A], `missing` where not stated.
        missing: Code of what is not stated.

    Returns:
        int64 [N], number of the group.
    """
    if attributes.ndim != 2 or len(attributes) != len(report_id):
        raise DataError(f"Reports {report_id.shape} and attributes {attributes.shape} must match [N] and [N, A].")
    text = np.unique(report_id, return_inverse=True)[1].reshape(-1)
    stated = (attributes != missing).any(axis=1)
    content = np.full(len(text), -1, dtype=np.int64)
    if stated.any():
        content[stated] = np.unique(attributes[stated], axis=0, return_inverse=True)[1].reshape(-1)
    texts, contents = int(text.max(initial=-1)) + 1, int(content.max(initial=-1)) + 1
    edges = coo_matrix(
        (np.ones(int(stated.sum())), (text[stated], texts + content[stated])), shape=(texts + contents,) * 2
    )
    return connected_components(edges, directed=False)[1][text].astype(np.int64)


def first_relevant(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_group: np.ndarray,
    candidate_group: np.ndarray,
    at_once: int = CHUNK,
) -> Ranks:
    """Rank of the first relevant candidate of every query, without the whole matrix of similarities.

    Args:
        queries: float [Q, d].
        candidates: float [N, d].
        query_group: int [Q], what the query says.
        candidate_group: int [N], what the candidate says; relevant where equal.
        at_once: Queries whose similarities are held at a time.

    Raises:
        DataError: if shapes differ, or a query has no relevant candidate.
    """
    if queries.shape[:1] != query_group.shape or candidates.shape[:1] != candidate_group.shape or at_once < 1:
        raise DataError(
            f"Queries {queries.shape}, candidates {candidates.shape} and groups {query_group.shape}, "
            f"{candidate_group.shape} do not match; expected one group for each."
        )
    lost = int((~np.isin(query_group, candidate_group)).sum())
    if lost:
        raise DataError(f"{lost} of {len(query_group)} queries have no relevant candidate; leave them out.")
    groups, counts = np.unique(candidate_group, return_counts=True)
    query, candidate, own, same = map(torch.as_tensor, (queries, candidates, query_group, candidate_group))
    rank = first_hit_ranks(query, candidate, same, own, at_once).numpy()
    return Ranks(rank, counts[np.searchsorted(groups, query_group)], np.full(len(queries), len(candidates)))


def first_facts(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_attributes: np.ndarray,
    candidate_attributes: np.ndarray,
    missing: int = MISSING,
    at_once: int = CHUNK,
) -> RetrievedFacts:
    """How far the first candidate of every query states what the query's own report states.

    Recall asks for the very report; a first candidate that says nearly the same is worth nearly as much to a reader.

    Args:
        queries: float [Q, d].
        candidates: float [N, d].
        query_attributes: int [Q, A], `missing` where not stated.
        candidate_attributes: int [N, A].
        missing: Code of what is not stated.
        at_once: Queries whose similarities are held at a time.

    Raises:
        DataError: if shapes differ.
    """
    if len(queries) != len(query_attributes) or len(candidates) != len(candidate_attributes):
        raise DataError(
            f"Queries {queries.shape}, candidates {candidates.shape} and attributes {query_attributes.shape}, "
            f"{candidate_attributes.shape} do not match; expected one row for each."
        )
    starts = range(0, len(queries), at_once)
    first = np.concatenate([(queries[start : start + at_once] @ candidates.T).argmax(axis=1) for start in starts])
    known = query_attributes != missing
    alike = ((query_attributes == candidate_attributes[first]) & known).sum(axis=1)
    counts, own = (candidate_attributes != missing).sum(axis=1), known.sum(axis=1)
    same = [_times(*columns) for columns in zip(query_attributes.T, candidate_attributes.T, strict=True)]
    by_chance = np.where(known, np.stack(same, axis=1), 0).sum(axis=1) / len(candidates)
    parts = (alike, own + counts[first], by_chance, own + counts.mean())
    return RetrievedFacts(*(part.astype(np.float64) for part in parts))


def _times(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """How many candidates have the value of each query, int64 [Q]."""
    values, counts = np.unique(candidates, return_counts=True)
    place = np.searchsorted(values, queries).clip(max=len(values) - 1)
    return np.where(values[place] == queries, counts[place], 0)


def facts_statistic(facts: RetrievedFacts, patient: np.ndarray) -> Statistic:
    """Micro F1 of the first candidates' attributes, 2 `alike` / `stated`, as a statistic of weighted patients.

    Args:
        facts: Of every query.
        patient: int [Q], patient of every query.
    """
    return ratio_of(2 * facts.alike, facts.stated, owner=patient)


def nearest(queries: np.ndarray, candidates: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest candidates of every query, the nearest first, ties in the order of the candidates.

    Returns:
        int64 [Q, count] positions and their similarities [Q, count]; fewer columns where there are fewer candidates.
    """
    similarity = queries @ candidates.T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(similarity, order, axis=1)


def chance_recall(ranks: Ranks, k: int) -> float:
    """Recall at k of a random order, exactly: the mean over queries of 1 - C(n - r, k) / C(n, k)."""
    kinds, times = np.unique(np.stack([ranks.relevant, ranks.candidates]), axis=1, return_counts=True)
    hit = hypergeom.sf(0, kinds[1], kinds[0], np.minimum(k, kinds[1]))
    return float((hit * times).sum() / times.sum())


def chance_median_rank(ranks: Ranks) -> int:
    """Median rank of a random order: the least k at which half of the queries are expected to have a hit."""
    low, high = 1, int(ranks.candidates.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chance_recall(ranks, middle) >= 0.5 else (middle + 1, high)
    return low


def recall_statistic(rank: np.ndarray, patient: np.ndarray, k: int) -> Statistic:
    """Share of queries with a hit among the first k, as a statistic of weighted patients.

    Args:
        rank: int [Q].
        patient: int [Q], patient of every query.
        k: Candidates that are looked at.
    """
    return mean_of((rank <= k).astype(np.float64), owner=patient)


def median_statistic(rank: np.ndarray, patient: np.ndarray, candidates: int) -> Statistic:
    """Median rank, the least at which half of the weight has its hit, as a statistic of weighted patients.

    Args:
        rank: int [Q].
        patient: int [Q], patient of every query.
        candidates: The greatest possible rank.
    """
    worst = pd.Series(rank).groupby(patient).max().sort_values()
    support = MedianSupport(1.0, float(candidates), len(worst), tuple(worst.astype(float)))
    return Statistic(partial(_weighted_median, rank, patient), support)


def _weighted_median(rank: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(rank, kind="stable")
    ordered, owner = rank[order], patient[order]
    result = np.empty(len(weights))
    step = max(1, _REPLICATES // max(1, len(rank)))
    for start in range(0, len(weights), step):
        total = np.cumsum(weights[start : start + step][:, owner].astype(np.float64), axis=1)
        result[start : start + step] = ordered[(total >= total[:, -1:] / 2).argmax(axis=1)]
    return result
