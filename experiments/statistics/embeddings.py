"""How the embeddings of texts lie to each other: alignment, uniformity, and whether paraphrases beat changed facts."""

from __future__ import annotations

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.bootstrap import Statistic, mean_of, ratio
from experiments.statistics.support import Support

TIE = 1e-6
"""Cosines that differ by less are equal: rounding of float32 embeddings."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; a row of zeros stays one."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def alignment(first: np.ndarray, second: np.ndarray, owner: np.ndarray) -> Statistic:
    """Mean squared distance of positive pairs on the unit sphere; lower is better (Wang and Isola, ICML 2020).

    Args:
        first: float [N, D].
        second: float [N, D], the partner of each.
        owner: int [N], number of each pair's patient.
    """
    if first.shape != second.shape:
        raise DataError(f"Embeddings {first.shape} and {second.shape} must match; expected pairs.")
    return mean_of(np.square(unit(first) - unit(second)).sum(axis=1), 0.0, 4.0, owner)


def uniformity(vectors: np.ndarray, owner: np.ndarray) -> Statistic:
    """Logarithm of the mean of exp(-2 squared distance) over pairs; lower is better (Wang and Isola, ICML 2020).

    Only pairs of two patients count, so that a bootstrap does not pair a patient with its own copy.

    Args:
        vectors: float [N, D].
        owner: int [N], number of each row's patient.
    """
    rows = unit(vectors)
    kernel = np.exp(-2.0 * np.clip(2.0 - 2.0 * rows @ rows.T, 0.0, None))
    apart = owner[:, None] != owner[None, :]
    kernel = np.where(apart, kernel, 0.0)

    def value(weights: np.ndarray) -> np.ndarray:
        own = weights[:, owner].astype(np.float64)
        pairs = ((own @ apart.astype(np.float64)) * own).sum(axis=1)
        return np.log(ratio(((own @ kernel) * own).sum(axis=1), pairs))

    # Half as many pairs share no patient as there are patients; a squared distance on the sphere is 4 at most.
    return Statistic(value, Support(-8.0, 0.0, len(np.unique(owner)) // 2))


def wins(query: np.ndarray, paraphrase: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the paraphrase is nearer to the query than another text, by the cosine; 1, 0, or 1/2 for a tie.

    Args:
        query: float [N, D].
        paraphrase: float [N, D].
        other: float [N, D].

    Returns:
        float64 [N].
    """
    gain = (unit(query) * (unit(paraphrase) - unit(other))).sum(axis=1)
    return np.where(gain > TIE, 1.0, np.where(gain < -TIE, 0.0, 0.5))


def wins_over_all(each: np.ndarray, query: np.ndarray, queries: int) -> np.ndarray:
    """Whether a query's paraphrase beats every other candidate, ties broken at random in expectation.

    Args:
        each: float [C], wins over single candidates.
        query: int [C], number of each candidate's query.
        queries: Number of queries, each with at least one candidate.

    Returns:
        float64 [queries]: 0 where it loses against one, else 1 / (1 + number of ties).
    """
    lost = np.bincount(query[each == 0.0], minlength=queries) > 0
    ties = np.bincount(query[each == 0.5], minlength=queries)
    return np.where(lost, 0.0, 1.0 / (1 + ties))
