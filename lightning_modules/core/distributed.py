"""What ranks share: who they are, sums over them, and their rows as one tensor with the gradient of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from lightning_modules.core.errors import ModelError


def number_of_ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _together() else 1


def own_rank() -> int:
    """The number of this process among those that train together; 0 where it trains alone."""
    return dist.get_rank() if _together() else 0


def is_main_rank() -> bool:
    """Whether this process is rank 0, which alone writes and prints; known from the launcher before ranks meet."""
    from lightning.pytorch.utilities import rank_zero_only  # losses import this file, and never Lightning

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def wait_for_all_ranks() -> None:
    """Wait until every rank is here; does nothing in one process."""
    if _together():
        dist.barrier()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, without gradient; a copy of the tensor where there is one rank."""
    return _reduced(value, dist.ReduceOp.SUM)


def average_over_ranks(values: Sequence[torch.Tensor]) -> None:
    """Put the mean over ranks into every tensor, as DistributedDataParallel does with gradients."""
    if number_of_ranks() == 1:
        return
    under_way = [dist.all_reduce(value, async_op=True) for value in values]
    for value, work in zip(values, under_way, strict=True):
        work.wait()
        value /= number_of_ranks()


def shared_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, whose gradient is that of this rank's own share of it.

    A loss of such sums is the same on every rank. Its gradient by the weights is the sum over ranks of what each has
    for its share, and DistributedDataParallel takes the mean: multiply by the number of ranks with `times_ranks`.
    """
    return value if number_of_ranks() == 1 else value + (sum_over_ranks(value) - value.detach())


def times_ranks(loss: torch.Tensor) -> torch.Tensor:
    """A loss that every rank has in full, with its gradient times the number of ranks; its value stays."""
    ranks = number_of_ranks()
    return loss if ranks == 1 else loss.detach() + ranks * (loss - loss.detach())


def largest_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The largest of each element over all ranks, without gradient; a copy of the tensor where there is one rank."""
    return _reduced(value, dist.ReduceOp.MAX)


def of_main_rank(value: torch.Tensor) -> torch.Tensor:
    """The tensor as rank 0 holds it, written into that of every other rank."""
    if _together():
        dist.broadcast(value, 0)
    return value


def row_counts(n: int, device: torch.device) -> list[int]:
    """The number of rows that every rank holds, in rank order.

    They are exchanged between hosts, which know them: numbers from a GPU would have to be waited for, with all that is
    queued on it.

    Args:
        n: Rows of this rank; 0 is allowed.
        device: The rows' own device.
    """
    ranks = number_of_ranks()
    if ranks == 1:
        return [n]
    counts = torch.empty(ranks, dtype=torch.int64)
    dist.all_gather_into_tensor(counts, torch.tensor([n], dtype=torch.int64), group=_host_group(device))
    return [int(count) for count in counts.tolist()]


def row_offset(counts: Sequence[int]) -> int:
    """Where this rank's rows begin among the rows of all ranks."""
    return sum(counts[: own_rank()])


def gather_rows(x: torch.Tensor, counts: Sequence[int] | None = None) -> torch.Tensor:
    """Rows of all ranks, in rank order.

    The backward pass sums over ranks what each of them computed for a row and gives it to the row's owner, so that a
    loss of which every rank computes a share has the gradient of the sum of the shares. Every rank must therefore take
    part in the backward pass, or none.

    Args:
        x: [N, ...], N may differ between ranks; all else must not.
        counts: Rows of every rank, as `row_counts` gives them; asked for where left out.

    Returns:
        [sum of N, ...]; the tensor itself where there is one rank.

    Raises:
        ModelError: if `counts` does not hold this rank's number of rows.
    """
    if number_of_ranks() == 1:
        return x
    counts = row_counts(len(x), x.device) if counts is None else list(counts)
    if len(counts) != number_of_ranks() or counts[own_rank()] != len(x):
        raise ModelError(
            f"gather_rows: {len(x)} rows were found on rank {own_rank()} and counts {counts} of "
            f"{number_of_ranks()} ranks; expected one count for each rank, as row_counts gives them."
        )
    gathered: torch.Tensor = _GatherRows.apply(x, tuple(counts))
    return gathered


class _GatherRows(torch.autograd.Function):
    """All-gather forwards, all-reduce and cut backwards."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
        ctx.counts = counts
        longest = max(counts)
        # Collectives move equal shares: shorter ranks are filled up, and the filling is cut out again.
        padded = x if len(x) == longest else torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
        gathered = x.new_empty(len(counts) * longest, *x.shape[1:])
        dist.all_gather_into_tensor(gathered, padded.contiguous())
        parts = gathered.split(longest)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = sum_over_ranks(gradient.contiguous())
        first = row_offset(ctx.counts)
        return summed[first : first + ctx.counts[own_rank()]], None


_host_groups: dict[Any, Any] = {}


def _host_group(device: torch.device) -> Any:
    """The group in which hosts exchange numbers: the ranks' own where it serves CPUs, else one beside it.

    All ranks ask for it at the same place of a step, so that they make it together.
    """
    if device.type == "cpu":
        return None
    world = dist.group.WORLD
    if world not in _host_groups:
        _host_groups.clear()  # those of a world that was taken down
        _host_groups[world] = dist.new_group(backend="gloo")
    return _host_groups[world]


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _reduced(value: torch.Tensor, operation: Any) -> torch.Tensor:
    value = value.detach().clone()
    if number_of_ranks() > 1:
        dist.all_reduce(value, op=operation)
    return value
