"""A step is that of all devices: what each computes of it, and what cannot be divided."""

from __future__ import annotations

import pytest
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.loading.global_batch import Share, share_of_step
from datamodules.loading.loaders import ResumableLoader
from datamodules.loading.sampling import EvenBatchSampler, VisitSampler


def test_a_share_and_its_parts() -> None:
    assert share_of_step(300, 4) == Share(75, 1)
    assert share_of_step(300, 1, 64) == Share(300, 5)
    assert share_of_step(300, 4, 64) == Share(75, 2)
    assert share_of_step(64, 4, 64) == Share(16, 1)


@pytest.mark.parametrize(("batch", "ranks", "bound"), [(0, 1, None), (8, 1, 0)])
def test_no_samples_are_refused(batch: int, ranks: int, bound: int | None) -> None:
    with pytest.raises(DataError, match="expected at least 1"):
        share_of_step(batch, ranks, bound)


def test_what_does_not_divide_is_refused_with_what_does() -> None:
    with pytest.raises(DataError, match=r"=300.*among 7 devices\. Take 1, 2, 3, 4, 5, 6, 10, 12 of them.*example 301"):
        share_of_step(300, 7)
    with pytest.raises(DataError, match=r"=4.*among 8 devices\. Take 1, 2, 4 of them"):
        share_of_step(4, 8)


class _Visits(Dataset[int]):
    def __getitem__(self, draw: object) -> int:
        return int(draw.visit)  # type: ignore[attr-defined]


def _loader(parts: int) -> ResumableLoader:
    sampler = VisitSampler([[0]] * 12, ["a"] * 12, seed=3)
    return ResumableLoader(_Visits(), batch_sampler=EvenBatchSampler(sampler, 4, parts=parts))


def test_an_epoch_that_was_left_in_its_midst_goes_on_in_steps_of_as_many_parts_only() -> None:
    loader = _loader(2)
    batches = iter(loader)
    seen = [next(batches).tolist() for _ in range(3)]
    state = loader.state_dict()
    again = _loader(2)
    again.load_state_dict(state)
    rest = [batch.tolist() for batch in again]
    assert sorted(visit for batch in [*seen, *rest] for visit in batch) == list(range(12))
    with pytest.raises(DataError, match="with 2 batches a step on each device, and this run has 1"):
        _loader(1).load_state_dict(state)
    _loader(1).load_state_dict({"batches": 0, "parts": 2})
    _loader(1).load_state_dict({"batches": 1})  # as it was written before there were parts
