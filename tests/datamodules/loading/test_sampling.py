"""Order and batches: complete, disjoint over ranks, equal steps, seeded, weighted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.loading.sampling import Draw, EvenBatchSampler, SequentialDraws, VisitSampler


def _sampler(visits: int, seed: int = 0, weights: dict[str, float] | None = None) -> VisitSampler:
    volumes = [[3 * visit, 3 * visit + 1, 3 * visit + 2] for visit in range(visits)]
    return VisitSampler(volumes, ["a" if visit % 4 else "b" for visit in range(visits)], seed, weights)


@settings(max_examples=60, deadline=None)
@given(visits=st.integers(1, 70), batch=st.integers(1, 9), ranks=st.integers(1, 5), epoch=st.integers(0, 3))
def test_ranks_see_every_visit_once_in_equal_steps(visits: int, batch: int, ranks: int, epoch: int) -> None:
    sampler = _sampler(visits)
    sampler.set_epoch(epoch)
    step = batch * ranks
    batches = [list(EvenBatchSampler(sampler, step, rank, ranks)) for rank in range(ranks)]
    assert len({len(steps) for steps in batches}) == 1
    assert all(1 <= len(step) <= batch for steps in batches for step in steps)
    assert [len(EvenBatchSampler(sampler, step, rank, ranks)) for rank in range(ranks)] == [len(batches[0])] * ranks
    seen = Counter(draw.visit for steps in batches for step in steps for draw in step)
    assert set(seen) == set(range(visits))
    if visits >= ranks * len(batches[0]):  # else a rank would have no batch, and the first visits are repeated
        assert set(seen.values()) == {1}
        sizes = [len(step) for steps in batches for step in steps]
        assert max(sizes) - min(sizes) <= 1


def test_rank_count_does_not_change_what_is_drawn() -> None:
    one = [draw for step in EvenBatchSampler(_sampler(23), 4) for draw in step]
    two = [draw for rank in range(2) for step in EvenBatchSampler(_sampler(23), 4, rank, 2) for draw in step]
    assert sorted(one) == sorted(two)


@settings(max_examples=60, deadline=None)
@given(visits=st.integers(1, 90), rows=st.integers(1, 24), ranks=st.integers(1, 4), parts=st.integers(1, 4))
def test_a_step_holds_the_same_for_any_number_of_ranks_and_parts(
    visits: int, rows: int, ranks: int, parts: int
) -> None:
    alone = list(EvenBatchSampler(_sampler(visits), rows))
    if min(map(len, alone)) < ranks * parts:  # too few to give every batch one; the first are repeated
        return
    shares = [list(EvenBatchSampler(_sampler(visits), rows, rank, ranks, parts)) for rank in range(ranks)]
    assert {len(batches) for batches in shares} == {len(alone) * parts}
    for number, step in enumerate(alone):
        own = [draw for batches in shares for part in batches[number * parts : (number + 1) * parts] for draw in part]
        assert sorted(own) == sorted(step)


def test_epochs_differ_and_repeat() -> None:
    first, second = _sampler(30), _sampler(30)
    second.set_epoch(1)
    assert list(first) != list(second)
    second.set_epoch(0)
    assert list(first) == list(second)
    assert list(_sampler(30, seed=1)) != list(first)


def test_phases_are_drawn_evenly_over_epochs() -> None:
    sampler = _sampler(20)
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        sampler.set_epoch(epoch)
        drawn.update(draw.position % 3 for draw in sampler)
        assert all(draw.position // 3 == draw.visit for draw in sampler)
    assert all(abs(count - 2000) < 150 for count in drawn.values())


def test_weights_mix_centres_and_cover_each_evenly() -> None:
    sampler = _sampler(40, weights={"a": 1.0, "b": 1.0})
    seen: Counter[int] = Counter()
    for epoch in range(6):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert len(draws) == 40
        assert sum(draw.visit % 4 == 0 for draw in draws) == 20
        seen.update(draw.visit for draw in draws)
    for members in ([v for v in range(40) if v % 4], [v for v in range(40) if v % 4 == 0]):
        counts = [seen[visit] for visit in members]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("weights", [{"a": 1.0, "zz": 1.0}, {"a": -1.0}, {"a": 0.0}])
def test_bad_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(DataError, match="Centre weights"):
        _sampler(8, weights=weights)


def test_nobody_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="No visit"):
        VisitSampler([], [], 0)
    with pytest.raises(DataError, match="batch_size=0"):
        EvenBatchSampler(_sampler(3), 0)


def test_evaluation_sees_every_volume_once() -> None:
    draws = list(SequentialDraws([[4, 5], [9]]))
    assert draws == [Draw(0, 4, 0), Draw(0, 5, 0), Draw(1, 9, 0)]
