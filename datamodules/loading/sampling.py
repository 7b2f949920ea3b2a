"""The order of samples: seeded, the same for any number of ranks and workers, with equal steps on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import Sampler

from datamodules.errors import DataError


class Draw(NamedTuple):
    """One sample to load: a visit, one volume of it, and the seed of its augmentation."""

    visit: int
    position: int
    seed: int


class VisitSampler(Sampler[Draw]):
    """One pass over all visits in a seeded order, each with one volume drawn at random.

    A visit is a kidney in one study; its volumes are the contrast phases at hand. What is drawn depends on the seed,
    the epoch and the visit only, so any number of ranks and workers sees the same samples.

    Args:
        volumes: Positions of the volumes of every visit.
        centers: Centre of every visit.
        seed: Seed of the run.
        weights: Share of an epoch by centre; None draws from all alike. With weights every centre is a stream of its
            own that goes on where the last epoch left it, so that within a centre no visit is drawn twice before all
            are drawn once.
        length: Samples of an epoch; the number of visits by default. A stream goes on over epochs here too, so that
            runs on different fractions of the labels can have equal steps.

    Raises:
        DataError: if there is no visit, the length is not positive, a weight is negative, or a weighted centre has
            no visit.
    """

    def __init__(
        self,
        volumes: Sequence[Sequence[int]],
        centers: Sequence[str],
        seed: int,
        weights: Mapping[str, float] | None = None,
        length: int | None = None,
    ) -> None:
        if not volumes:
            raise DataError("No visit is left to train on; expected at least one patient with a volume and a label.")
        if length is not None and length < 1:
            raise DataError(f"samples_per_epoch={length} was found; expected at least 1, or nothing for every visit.")
        self.volumes, self.seed, self.epoch = volumes, seed, 0
        self.length = len(volumes) if length is None else length
        self._streams = self._make_streams(centers, weights)

    def _make_streams(
        self, centers: Sequence[str], weights: Mapping[str, float] | None
    ) -> list[tuple[np.ndarray, int]]:
        visits = np.arange(len(self.volumes))
        if weights is None:
            return [(visits, self.length)]
        present = set(centers)
        unknown = sorted(name for name, weight in weights.items() if weight > 0 and name not in present)
        if unknown or min(weights.values(), default=0) < 0 or sum(weights.values()) <= 0:
            raise DataError(
                f"Centre weights {dict(weights)} were found (without visits: {unknown}); expected weights of at "
                f"least 0, not all 0, for some of {sorted(present)}."
            )
        names = sorted(name for name, weight in weights.items() if weight > 0)
        share = np.array([weights[name] for name in names]) / sum(weights[name] for name in names)
        bounds = np.round(np.cumsum(share) * self.length).astype(int)
        counts = np.diff([0, *bounds])
        labels = np.array(centers)
        return [(visits[labels == name], int(count)) for name, count in zip(names, counts, strict=True)]

    def __len__(self) -> int:
        return sum(count for _, count in self._streams)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next; Lightning calls it."""
        self.epoch = epoch

    def _take(self, number: int, members: np.ndarray, count: int) -> np.ndarray:
        """Members start..start+count of a stream of seeded permutations, one after the other."""
        start = self.epoch * count
        taken = []
        while count > 0:
            lap, offset = divmod(start, len(members))
            part = np.random.default_rng([self.seed, number, lap]).permutation(members)[offset : offset + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(taken) if taken else members[:0]

    def __iter__(self) -> Iterator[Draw]:
        visits = np.concatenate([self._take(number, *stream) for number, stream in enumerate(self._streams)])
        for place, visit in enumerate(np.random.default_rng([self.seed, 1 << 20, self.epoch]).permutation(visits)):
            rng = np.random.default_rng([self.seed, self.epoch, int(visit), place])
            positions = self.volumes[int(visit)]
            yield Draw(int(visit), int(positions[int(rng.integers(len(positions)))]), int(rng.integers(1 << 62)))


class SequentialDraws(Sampler[Draw]):
    """Every volume of every visit once, in order, for validation and test."""

    def __init__(self, volumes: Sequence[Sequence[int]]) -> None:
        self.draws = [
            Draw(visit, int(position), 0) for visit, positions in enumerate(volumes) for position in positions
        ]

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.draws)


@runtime_checkable
class ByMachine(Protocol):
    """A sampler that has an order for each of several machines."""

    def stretches(self, counts: Sequence[int]) -> list[list[Draw]]:
        """So many draws for each of them."""


class EvenBatchSampler(Sampler[list[Draw]]):
    """Batches for one rank: every sample once over all ranks, the same number of steps on each.

    The samples of an epoch are dealt over `steps x parts x ranks` batches whose sizes differ by one at most, so nothing
    is dropped, nothing is padded with a repeat, and no rank waits for another at the end of an epoch. Only where there
    are fewer samples than batches (a batch size of 1, or fewer samples than ranks) are the first ones repeated, since
    a rank without a batch would stop all others; metrics drop repeats by key. A step holds the same samples whatever
    the number of ranks and parts.

    Args:
        sampler: The order of the epoch, equal on all ranks.
        batch_size: Largest number of samples in a step over all ranks.
        rank: This rank.
        ranks: Number of ranks.
        parts: Batches that a rank computes of a step, one after the other.
        nodes: Machines that the ranks are divided among, each with shards of its own where the sampler has an order of
            shards.

    Raises:
        DataError: if the batch size is not positive.
    """

    def __init__(
        self, sampler: Sampler[Draw], batch_size: int, rank: int = 0, ranks: int = 1, parts: int = 1, nodes: int = 1
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} was found; expected at least 1.")
        self.sampler, self.batch_size, self.rank, self.ranks, self.parts = sampler, batch_size, rank, ranks, parts
        self.nodes = nodes
        self.start = 0  # first batch of the next pass, for an epoch that was interrupted

    def __len__(self) -> int:
        return self.parts * max(1, -(-len(self.sampler) // self.batch_size))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Draw]]:
        batches, samples = len(self) * self.ranks, len(self.sampler)  # type: ignore[arg-type]
        bounds = np.arange(batches + 1) * max(batches, samples) // batches
        if self.nodes > 1 and samples >= batches and isinstance(self.sampler, ByMachine):
            order = self._of_machines(bounds, self.sampler)
        else:
            order = list(self.sampler)
        while len(order) < batches:
            order += order[: batches - len(order)]
        for number in range(self.start, len(self)):
            batch = number * self.ranks + self.rank
            yield order[bounds[batch] : bounds[batch + 1]]

    def _of_machines(self, bounds: np.ndarray, sampler: ByMachine) -> list[Draw]:
        """The order in which every batch holds draws of the machine that its rank is on."""
        machine = np.arange(len(bounds) - 1) % self.ranks * self.nodes // self.ranks
        sizes = np.diff(bounds)
        rest = [iter(own) for own in sampler.stretches([int(sizes[machine == one].sum()) for one in range(self.nodes)])]
        return [next(rest[own]) for own, size in zip(machine, sizes, strict=True) for _ in range(size)]
