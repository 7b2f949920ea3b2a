"""Duplicate-aware retrieval against a loop over all pairs, and its chance level against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.retrieval import (
    Ranks,
    chance_median_rank,
    chance_recall,
    equivalence,
    first_relevant,
    median_statistic,
    nearest,
    recall_statistic,
)


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries [50, 6], candidates [70, 6], and the group of each; some groups are large, some have one member."""
    rng = np.random.default_rng(3)
    candidate_group = np.concatenate([np.zeros(30, dtype=int), rng.integers(1, 20, size=40)])
    query_group = rng.choice(candidate_group, size=50)
    return rng.normal(size=(50, 6)), rng.normal(size=(70, 6)), query_group, candidate_group


def brute_force(queries, candidates, query_group, candidate_group) -> list[int]:
    ranks = []
    for query, group in zip(queries, query_group, strict=True):
        similarity = [float(query @ candidate) for candidate in candidates]
        best = max(s for s, g in zip(similarity, candidate_group, strict=True) if g == group)
        ranks.append(1 + sum(s >= best and g != group for s, g in zip(similarity, candidate_group, strict=True)))
    return ranks


def test_ranks_are_those_of_a_loop_over_all_pairs(case) -> None:
    found = first_relevant(*case)
    np.testing.assert_array_equal(found.rank, brute_force(*case))
    np.testing.assert_array_equal(found.relevant, [(case[3] == group).sum() for group in case[2]])


@pytest.mark.parametrize("at_once", [1, 7, 50, 1000])
def test_any_chunk_gives_the_same_ranks(case, at_once: int) -> None:
    np.testing.assert_array_equal(first_relevant(*case, at_once=at_once).rank, first_relevant(*case).rank)


def test_the_order_of_candidates_and_queries_does_not_matter(case) -> None:
    queries, candidates, query_group, candidate_group = case
    rng = np.random.default_rng(0)
    first, second = rng.permutation(len(queries)), rng.permutation(len(candidates))
    found = first_relevant(queries[first], candidates[second], query_group[first], candidate_group[second])
    np.testing.assert_array_equal(found.rank, first_relevant(*case).rank[first])


def test_a_constant_embedding_gets_the_worst_rank_and_a_perfect_one_the_best() -> None:
    group = np.array([0, 0, 1, 2])
    assert first_relevant(np.ones((4, 2)), np.ones((4, 2)), group, group).rank.tolist() == [3, 3, 4, 4]
    exact = np.eye(3)[group]
    assert first_relevant(exact, exact, group, group).rank.tolist() == [1, 1, 1, 1]


def test_identical_texts_and_equal_attributes_are_joined_transitively() -> None:
    report_id = np.array([5, 5, 6, 7, 8, 9, 9])
    attributes = np.array([[0, 1], [0, 0], [0, 0], [0, -100], [-100, -100], [-100, -100], [-100, -100]])
    group = equivalence(report_id, attributes)
    assert group[0] == group[1] == group[2]  # 0 and 1 share a text, 1 and 2 their attributes
    assert len({group[0], group[3], group[4], group[5]}) == 4  # what states nothing equals identical texts only
    assert group[5] == group[6]


def test_chance_recall_and_median_are_those_of_random_orders(case) -> None:
    _, _, query_group, candidate_group = case
    rng = np.random.default_rng(1)
    same = query_group[:, None] == candidate_group
    draws = np.array([np.argsort(rng.random(same.shape), axis=1)[np.arange(len(same)), :].copy() for _ in range(400)])
    ranks = np.array([np.take_along_axis(same, order, axis=1).argmax(axis=1) + 1 for order in draws])
    found = first_relevant(*case)
    for k in (1, 5, 10):
        assert chance_recall(found, k) == pytest.approx((ranks <= k).mean(), abs=0.01)
    assert abs(chance_median_rank(found) - np.median(ranks)) <= 1
    assert chance_recall(found, len(candidate_group)) == 1.0


def test_chance_of_a_single_relevant_candidate() -> None:
    ranks = Ranks(np.array([1]), np.array([1]), np.array([100]))
    assert chance_recall(ranks, 5) == pytest.approx(0.05)
    assert chance_median_rank(ranks) == 50


def test_statistics_of_weighted_patients_are_those_of_repeated_queries() -> None:
    rng = np.random.default_rng(0)
    rank, patient = rng.integers(1, 30, size=60), rng.integers(0, 20, size=60)
    weights = rng.multinomial(20, np.full(20, 1 / 20), size=5).astype(np.float32)
    for row, recall, median in zip(
        weights, recall_statistic(rank, patient, 5)(weights), median_statistic(rank, patient, 30)(weights), strict=True
    ):
        repeated = np.repeat(rank, row[patient].astype(int))
        assert recall == pytest.approx((repeated <= 5).mean())
        assert median == np.sort(repeated)[(len(repeated) - 1) // 2]


def test_queries_that_are_all_found_first_have_intervals() -> None:
    rank, patient = np.ones(16, dtype=int), np.arange(16) // 2
    recall = bootstrap(recall_statistic(rank, patient, 1), 8, 100)[0]
    assert (recall.low, recall.high) == pytest.approx((0.025 ** (1 / 8), 1.0))
    few = bootstrap(median_statistic(rank[:8], patient[:8], 30), 4, 100)[0]
    assert few[:3] == (1.0, 1.0, 30.0)
    assert (recall.interval, few.interval) == ("Clopper-Pearson", "order statistics")


def test_nearest_come_in_order_with_ties_in_place() -> None:
    places, similarity = nearest(np.array([[1.0]]), np.array([[0.2], [0.9], [0.9], [0.1]]), 3)
    assert places.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(similarity, [[0.9, 0.9, 0.2]])
    assert nearest(np.ones((1, 1)), np.ones((2, 1)), 5)[0].shape == (1, 2)


def test_twenty_thousand_against_twenty_thousand_need_no_full_matrix() -> None:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(20_000, 2)).astype(np.float32)
    group = np.arange(20_000)
    whole = first_relevant(embedding[:300], embedding, group[:300], group)
    parts = [first_relevant(embedding[i : i + 100], embedding, group[i : i + 100], group, 32) for i in (0, 100, 200)]
    np.testing.assert_array_equal(whole.rank, np.concatenate([part.rank for part in parts]))


def test_bad_input_is_refused(case) -> None:
    queries, candidates, query_group, candidate_group = case
    with pytest.raises(DataError, match="1 of 50 queries have no relevant candidate"):
        first_relevant(queries, candidates, np.append(query_group[1:], 99), candidate_group)
    with pytest.raises(DataError, match="one group for each"):
        first_relevant(queries, candidates, query_group[:3], candidate_group)
    with pytest.raises(DataError, match="must match"):
        equivalence(np.zeros(3), np.zeros((2, 4)))
