"""An order of shards: what is drawn stays, each shard is read once on each machine, and steps stay equal."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.loading.sampling import EvenBatchSampler, VisitSampler
from datamodules.loading.shard_order import ShardSampler

PATIENTS = 400
SHARDS = np.arange(4 * PATIENTS) // 4
"""Two kidneys of a patient with two phases each lie in one shard."""


def _visits(seed: int = 0, weights: dict[str, float] | None = None) -> VisitSampler:
    volumes = [[2 * visit, 2 * visit + 1] for visit in range(2 * PATIENTS)]
    return VisitSampler(volumes, ["a" if visit % 4 else "b" for visit in range(2 * PATIENTS)], seed, weights)


def _fetches(shards: list[int], held: int) -> int:
    """Shards fetched by a cache that keeps so many, the last used ones."""
    kept: dict[int, None] = {}
    count = 0
    for shard in shards:
        count += shard not in kept
        kept.pop(shard, None)
        kept[shard] = None
        if len(kept) > held:
            del kept[next(iter(kept))]
    return count


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "b": 3.0}])
def test_the_draws_of_an_epoch_are_those_of_any_order(weights: dict[str, float] | None) -> None:
    plain, ordered = _visits(weights=weights), ShardSampler(_visits(weights=weights), SHARDS, 50)
    for epoch in range(3):
        plain.set_epoch(epoch)
        ordered.set_epoch(epoch)
        assert sorted(ordered) == sorted(plain)
        assert list(ordered) == list(ordered)
        assert list(ordered) != list(plain)


def test_a_shard_is_fetched_once_an_epoch_by_a_small_cache() -> None:
    drawn = {"any": list(_visits()), "shards": list(ShardSampler(_visits(), SHARDS, 64))}
    fetched = {name: _fetches([int(SHARDS[draw.position]) for draw in order], 80) for name, order in drawn.items()}
    assert fetched["any"] > 1.7 * PATIENTS
    assert fetched["shards"] <= 1.02 * PATIENTS


def test_a_buffer_mixes_patients() -> None:
    order = list(ShardSampler(_visits(), SHARDS, 128))
    first = [len({int(SHARDS[draw.position]) for draw in order[start : start + 32]}) for start in range(0, 320, 32)]
    assert min(first) > 22  # of 32 draws, which would be of 16 patients one after the other
    second = ShardSampler(_visits(), SHARDS, 128)
    second.set_epoch(1)
    place = {draw.visit: number for number, draw in enumerate(second)}
    correlation = np.corrcoef(range(len(order)), [place[draw.visit] for draw in order])[0, 1]
    assert abs(correlation) < 0.15


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(8, 120),
    local=st.integers(1, 3),
    nodes=st.integers(1, 4),
    parts=st.integers(1, 2),
    epoch=st.integers(0, 2),
)
def test_machines_have_shards_of_their_own_and_equal_steps(
    rows: int, local: int, nodes: int, parts: int, epoch: int
) -> None:
    ranks = local * nodes
    sampler = ShardSampler(_visits(), SHARDS, 40)
    sampler.set_epoch(epoch)
    batches = [list(EvenBatchSampler(sampler, rows, rank, ranks, parts, nodes)) for rank in range(ranks)]
    assert len({len(own) for own in batches}) == 1
    sizes = [len(batch) for own in batches for batch in own]
    if len(sizes) > 2 * PATIENTS:  # fewer samples than batches: the first are repeated
        return
    assert max(sizes) - min(sizes) <= 1
    seen = Counter(draw.visit for own in batches for batch in own for draw in batch)
    assert seen == Counter(range(2 * PATIENTS))
    of = []
    for node in range(nodes):
        own = [draw for rank in batches[node * local : (node + 1) * local] for batch in rank for draw in batch]
        of.append({int(SHARDS[draw.position]) for draw in own})
    assert sum(map(len, of)) - len(set().union(*of)) <= nodes - 1  # a patient at a cut is read on both sides


def test_an_epoch_goes_on_in_its_midst() -> None:
    whole = list(EvenBatchSampler(ShardSampler(_visits(), SHARDS, 40), 32, 1, 4, 1, 2))
    rest = EvenBatchSampler(ShardSampler(_visits(), SHARDS, 40), 32, 1, 4, 1, 2)
    rest.start = 11
    assert list(rest) == whole[11:]


def test_an_empty_buffer_is_refused() -> None:
    with pytest.raises(DataError, match="shuffle_buffer=0"):
        ShardSampler(_visits(), SHARDS, 0)
