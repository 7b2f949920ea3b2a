"""Rows of all ranks: their order, and the gradient that one process would compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lightning_modules.errors import ModelError
from lightning_modules.losses.gather import gather_rows, row_counts, row_offset
from tests.ranks import spawn

COUNTS = (3, 0, 5)


def _rows() -> torch.Tensor:
    return torch.randn(sum(COUNTS), 4, generator=torch.Generator().manual_seed(0))


def _share(rows: torch.Tensor, rank: int) -> torch.Tensor:
    """A different function of all rows on every rank, so that a wrong sum over ranks cannot go unseen."""
    return ((rank + 1) * rows.cumsum(0).sin()).sum() + rows.square().sum() * rank


def _rank(rank: int, folder: Path) -> None:
    first = sum(COUNTS[:rank])
    own = _rows()[first : first + COUNTS[rank]].requires_grad_(True)
    counts = row_counts(len(own), own.device)
    rows = gather_rows(own)
    _share(rows, rank).backward()
    numbers = gather_rows(torch.full((len(own),), rank), counts)
    with pytest.raises(ModelError, match="expected one count for each rank"):
        gather_rows(own, [1, 1, 1] if len(own) != 1 else [2, 2, 2])
    torch.save(
        {"rows": rows.detach(), "gradient": own.grad, "counts": counts, "offset": row_offset(counts), "of": numbers},
        folder / f"{rank}.pt",
    )
    dist.barrier()


@pytest.mark.slow
def test_uneven_ranks_gather_and_differentiate_as_one_process(tmp_path: Path) -> None:
    spawn(_rank, tmp_path, ranks=len(COUNTS))
    whole = _rows().requires_grad_(True)
    sum(_share(whole, rank) for rank in range(len(COUNTS))).backward()  # type: ignore[union-attr]
    assert whole.grad is not None
    for rank, count in enumerate(COUNTS):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        first = sum(COUNTS[:rank])
        assert torch.equal(found["rows"], whole.detach())
        assert found["counts"] == list(COUNTS)
        assert found["offset"] == first
        assert found["of"].tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
        torch.testing.assert_close(found["gradient"], whole.grad[first : first + count])


def test_one_rank_keeps_its_tensor() -> None:
    rows = _rows()
    assert gather_rows(rows) is rows
    assert row_counts(7, rows.device) == [7]
    assert row_offset([7]) == 0
