"""An order of samples that comes back to a shard within a buffer: each machine fetches it once an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from datamodules.errors import DataError
from datamodules.loading.sampling import Draw, VisitSampler


class ShardSampler(Sampler[Draw]):
    """The draws of a sampler, shard by shard in a seeded order, shuffled within a buffer.

    What an epoch draws is what the sampler draws; the order alone is another. It follows from seed and epoch, so that
    an epoch goes on in its midst as one in any order does. Of several machines each has shards of its own, but for
    one that both ends of a cut need.

    Args:
        sampler: Draws of an epoch.
        shards: Shard of every position, as numbers.
        buffer: Draws that are shuffled at once; a sample meets others of its step that are so far away at most.

    Raises:
        DataError: if the buffer is not positive.
    """

    def __init__(self, sampler: VisitSampler, shards: np.ndarray, buffer: int) -> None:
        if buffer < 1:
            raise DataError(f"data.init_args.shuffle_buffer={buffer} was found; expected at least 1, or nothing.")
        self.sampler, self.shards, self.buffer = sampler, shards, buffer

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next; Lightning calls it."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.stretches([len(self)])[0])

    def stretches(self, counts: Sequence[int]) -> list[list[Draw]]:
        """The order of every machine.

        Args:
            counts: Draws of each, which add up to those of the epoch.
        """
        draws = list(self.sampler)
        rng = np.random.default_rng([self.sampler.seed, 1 << 21, self.sampler.epoch])
        shard = self.shards[np.fromiter((draw.position for draw in draws), dtype=np.int64, count=len(draws))]
        _, place = np.unique(shard, return_inverse=True)
        order = np.argsort(rng.permutation(place.max() + 1)[place], kind="stable")
        cut = np.split(order, np.cumsum(counts)[:-1])
        return [[draws[row] for row in self._shuffled(part, rng)] for part in cut]

    def _shuffled(self, rows: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Buffer after buffer, so that nothing lies longer in one than until it is empty."""
        parts = [rng.permutation(rows[start : start + self.buffer]) for start in range(0, len(rows), self.buffer)]
        return np.concatenate(parts).tolist() if parts else []
