"""The order of texts: seeded, of like length in a batch, the same for any number of ranks, equal steps on each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from datamodules.errors import DataError

POOL_BATCHES = 16
"""Batches that are drawn together and sorted by length: padding shrinks, and the order stays random."""
_EVALUATION_EPOCH = 1 << 31


class TextDraw(NamedTuple):
    """One text to load, and the seed of its masks and of its order of sentences."""

    number: int
    seed: int


class BucketSampler(Sampler[list[TextDraw]]):
    """Batches over all ranks: every text once an epoch, in batches of like length.

    What is drawn depends on seed, epoch and text only; with the same number of texts a step over all ranks, any number
    of ranks sees the same batches. Their sizes differ by one at most, nothing is dropped and nothing repeated.

    Args:
        lengths: Tokens of every text.
        global_batch: Texts a step over all ranks.
        ranks: Number of ranks; every batch holds at least one text for each.
        seed: Seed of the run.
        shuffled: Whether the order is drawn anew every epoch; else the texts are sorted by length, as for validation.

    Raises:
        DataError: if there are fewer texts than ranks, or the batch is not positive.
    """

    def __init__(self, lengths: Sequence[int], global_batch: int, ranks: int, seed: int, *, shuffled: bool) -> None:
        if global_batch < 1:
            raise DataError(f"batch_size={global_batch} was found; expected at least 1.")
        if len(lengths) < ranks:
            raise DataError(f"{len(lengths)} texts were found for {ranks} ranks; expected at least one each.")
        self.lengths = np.asarray(lengths)
        self.global_batch, self.ranks, self.seed, self.shuffled, self.epoch = global_batch, ranks, seed, shuffled, 0

    def __len__(self) -> int:
        texts = len(self.lengths)
        return max(1, min(-(-texts // self.global_batch), texts // self.ranks))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next; Lightning calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[TextDraw]]:
        texts, batches = len(self.lengths), len(self)
        bounds = np.arange(batches + 1) * texts // batches
        epoch = self.epoch if self.shuffled else _EVALUATION_EPOCH
        if self.shuffled:
            rng = np.random.default_rng([self.seed, epoch, 0])
            order, turns = rng.permutation(texts), rng.permutation(batches)
        else:
            order, turns = np.arange(texts), np.arange(batches)
        step = POOL_BATCHES if self.shuffled else batches
        for first in range(0, batches, step):
            start, stop = bounds[first], bounds[min(first + step, batches)]
            pool = order[start:stop]
            order[start:stop] = pool[np.argsort(self.lengths[pool], kind="stable")]
        for turn in turns:
            members = order[bounds[turn] : bounds[turn + 1]]
            yield [TextDraw(int(number), text_seed(self.seed, epoch, int(number))) for number in members]


class RankBatches(Sampler[list[TextDraw]]):
    """This rank's share of every batch, of the same lengths as the others'.

    Args:
        sampler: Batches over all ranks.
        rank: This rank.
        ranks: Number of ranks.
    """

    def __init__(self, sampler: BucketSampler, rank: int = 0, ranks: int = 1) -> None:
        self.sampler, self.rank, self.ranks = sampler, rank, ranks

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[TextDraw]]:
        for batch in self.sampler:
            yield batch[self.rank :: self.ranks]


def text_seed(seed: int, epoch: int, number: int) -> int:
    """A seed that depends on seed, epoch and text only."""
    return int(np.random.SeedSequence([seed, epoch, number, 1]).generate_state(1, np.uint64)[0] >> 1)
