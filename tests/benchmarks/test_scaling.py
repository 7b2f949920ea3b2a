"""Several ranks and several precisions are timed on the same work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lightning_modules.networks.image.encoders import EncoderConfig
from tests.benchmarks.contrastive import CHUNKED, loss_on
from tests.benchmarks.scaling import RANKS, seconds_by_precision, seconds_by_ranks
from tests.benchmarks.train import step_on
from tests.ranks import spawn

SMALL = (EncoderConfig(depth=10, width=4, stem_norm="instance"), (8, 8, 8), 2)


@pytest.mark.slow
def test_a_training_step_is_timed_on_one_rank_and_on_two() -> None:
    figures = seconds_by_ranks(step_on, *SMALL, rounds=2)
    assert set(figures) == {str(ranks) for ranks in RANKS}
    assert min(figures.values()) > 0


@pytest.mark.parametrize("name", CHUNKED)
def test_both_precisions_are_timed_where_there_is_the_device(name: str) -> None:
    assert set(seconds_by_precision(loss_on, name, 8, 4, rounds=1, kind="cpu")) == {"float32", "bfloat16"}
    assert bool(seconds_by_precision(loss_on, name, 8, 4, rounds=1)) == torch.cuda.is_available()


def test_mixed_precision_is_what_the_network_computes_in() -> None:
    seen: list[torch.dtype] = []

    def make(device: str) -> Callable[[], None]:
        layer = torch.nn.Linear(4, 4).to(device)
        return lambda: seen.append(layer(torch.ones(1, 4, device=device)).dtype)

    seconds_by_precision(make, rounds=1, kind="cpu")
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def _gradients(rank: int, folder: Path) -> None:
    """The mean over ranks of each loss and of the gradient of its scale is that of one process."""
    for name in ("InfoNCE, in chunks", "SigLIP, in chunks"):
        loss, _, _, scale = loss_on(name, 8, 4, "cpu")()  # type: ignore[misc]
        both = torch.stack([loss, scale])
        dist.all_reduce(both)
        if rank == 0:
            torch.save(both / dist.get_world_size(), folder / f"{name}.pt")


@pytest.mark.slow
def test_two_ranks_share_the_pairs_of_one(tmp_path: Path) -> None:
    spawn(_gradients, tmp_path)
    for path in tmp_path.glob("*.pt"):
        loss, _, _, scale = loss_on(path.stem, 8, 4, "cpu")()  # type: ignore[misc]
        torch.testing.assert_close(torch.load(path, weights_only=True), torch.stack([loss, scale]))
    assert len(list(tmp_path.glob("*.pt"))) == 2
